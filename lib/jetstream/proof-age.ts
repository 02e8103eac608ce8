/**
 * How long ago the proof was sent that a cache rests on. A barrier that was acknowledged at sequence `S` stands behind
 * everything that was acknowledged before it was sent. So a cache that is exact as of `S` or later misses nothing that
 * is older than the sending. The argument: docs/protocol.md, T1 to T7.
 */
import { msSince } from "../moment.js";
import type { Moment } from "../moment.js";

interface Proof {
  readonly seq: number;
  readonly sent: Moment;
}

/** More than wait while a cache is brought up to date. Those beyond are left out: a later barrier proves as much. */
const MAX_WAITING = 16;

const later = (a: Moment, b: Moment): Moment => (a.monotonic > b.monotonic ? a : b);

/**
 * Invariants, each with the spec that goes red without it:
 *
 * 1. The time counts from when a barrier was sent, by the clock that says more: `proof-age.spec.ts`.
 * 2. A barrier proves nothing to a cache that has not come to it: the same.
 */
export class ProofAge {
  /** Acknowledged barriers beyond what the cache has come to, in ascending order. */
  readonly #waiting: Proof[] = [];
  /** The newest one that the cache has come to. */
  #reached: Proof | undefined;

  /** A barrier was acknowledged. */
  note(seq: number, sent: Moment): void {
    const last = this.#waiting.at(-1) ?? this.#reached;
    if (last !== undefined && seq <= last.seq) return;
    if (this.#waiting.length < MAX_WAITING)
      this.#waiting.push({ seq, sent: last === undefined ? sent : later(last.sent, sent) });
  }

  /**
   * When the proof was sent that a cache which is exact as of `asOf` rests on. It misses nothing that was acknowledged
   * before. `undefined`: nothing was proved.
   */
  sentFor(asOf: number): Moment | undefined {
    while (this.#waiting[0] !== undefined && this.#waiting[0].seq <= asOf) this.#reached = this.#waiting.shift();
    return this.#reached === undefined || this.#reached.seq > asOf ? undefined : this.#reached.sent;
  }

  /** How many milliseconds ago that was. */
  of(asOf: number): number {
    const sent = this.sentFor(asOf);
    return sent === undefined ? Infinity : msSince(sent);
  }

  /** Another log may be there. */
  clear(): void {
    this.#waiting.length = 0;
    this.#reached = undefined;
  }
}
