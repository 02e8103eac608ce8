/** A moment by two clocks: one stands still while the machine sleeps, the other may be set. */
export interface Moment {
  readonly monotonic: number;
  readonly wall: number;
}

export const moment = (): Moment => ({ monotonic: performance.now(), wall: Date.now() });

/** The larger of what the clocks say: one that was set back adds nothing. */
export const msSince = (earlier: Moment): number =>
  Math.max(performance.now() - earlier.monotonic, Date.now() - earlier.wall);
