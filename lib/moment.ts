/** A moment by two clocks: one stands still while the machine sleeps, the other may be set. */
export interface Moment {
  readonly monotonic: number;
  readonly wall: number;
}

export const moment = (): Moment => ({ monotonic: performance.now(), wall: Date.now() });

/** The larger of what the clocks say: one that was set back adds nothing. Who has read them already says so. */
export const msSince = (earlier: Moment, monotonic = performance.now(), wall = Date.now()): number =>
  Math.max(monotonic - earlier.monotonic, wall - earlier.wall);
