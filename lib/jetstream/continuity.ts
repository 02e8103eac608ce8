/**
 * Whether a log is still the one that is known. A stream can be removed and made anew, or restored from a backup, and
 * what the new one says looks like what the old one said. It takes time, though: what was heard at two moments that lie
 * closer together than {@link MOST_MS} was heard of one log. An acknowledgement tells of some moment between the
 * sending and the hearing, so that the time counts from the sending of the earlier one to the hearing of the later one.
 * The argument: docs/protocol.md, L1 to L4.
 */
const MOST_MS = 1500;
/** What is sent after so much of it may be answered in time. */
const SENDABLE_MS = 1000;

/** By the clock that stands still while the machine sleeps, and by the one that may be set. */
export interface Moment {
  readonly monotonic: number;
  readonly wall: number;
}

export const moment = (): Moment => ({ monotonic: performance.now(), wall: Date.now() });

/** The larger of what the clocks say: one that was set back adds nothing. */
export const msSince = (earlier: Moment): number =>
  Math.max(performance.now() - earlier.monotonic, Date.now() - earlier.wall);

export class Continuity {
  /** The latest at which something was sent that the log has answered. */
  #sent = moment();

  /** Whether there is time to send something and to hear of the same log. */
  get isFresh(): boolean {
    return msSince(this.#sent) <= SENDABLE_MS;
  }

  /** Whether what is heard now is surely of the log that answered last. */
  get isUnbroken(): boolean {
    return msSince(this.#sent) <= MOST_MS;
  }

  /** What was sent then was answered just now: surely by the log that answered before? */
  heard(sent: Moment): boolean {
    const isSame = this.isUnbroken && msSince(sent) <= MOST_MS;
    if (sent.monotonic > this.#sent.monotonic) this.#sent = sent;
    return isSame;
  }

  /** The log is known, by something that was asked then. */
  begin(asked: Moment): void {
    this.#sent = asked;
  }
}
