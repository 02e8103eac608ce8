/**
 * Whether a log is still the known one. A stream can be removed and made anew, or restored from a backup. What the new
 * one says looks like what the old one said. But a change of logs takes time: answers heard less than {@link MOST_MS}
 * apart are from one log. An acknowledgement tells of some moment between its sending and its hearing. So the time
 * counts from the sending of the earlier one to the hearing of the later one. The argument: docs/protocol.md, L1 to L4.
 */
import { moment, msSince, type Moment } from "../moment.js";

const MOST_MS = 1500;
/** How much of that time may be over before something is sent, so that its answer can still be in time. */
const SENDABLE_MS = 1000;

export class Continuity {
  /** When the newest answered message was sent. */
  #sent = moment();

  /** Whether there is time to send something and still hear from the same log. */
  get isFresh(): boolean {
    return msSince(this.#sent) <= SENDABLE_MS;
  }

  /** Whether an answer now is surely from the log that answered last. */
  get isUnbroken(): boolean {
    return msSince(this.#sent) <= MOST_MS;
  }

  /** Something sent then was answered just now. Answers whether that is surely the log that answered before. */
  heard(sent: Moment): boolean {
    const isSame = this.isUnbroken && msSince(sent) <= MOST_MS;
    if (sent.monotonic > this.#sent.monotonic) this.#sent = sent;
    return isSame;
  }

  /** The log is known, from an answer to something asked then. */
  begin(asked: Moment): void {
    this.#sent = asked;
  }
}
