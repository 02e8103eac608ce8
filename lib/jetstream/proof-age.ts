/**
 * How long ago what is kept was proved. A barrier that was sent at some moment, and acknowledged at sequence `S`, stands behind
 * everything that was acknowledged before that moment. So what is exact as of `S` or later misses nothing older than that.
 */
import { msSince } from "./continuity.js";
import type { Moment } from "./continuity.js";

interface Proof {
  readonly seq: number;
  readonly sent: Moment;
}

/** More than wait for a cache that is being brought up to date. Those beyond are proved by the next ones. */
const MAX_WAITING = 16;

const later = (a: Moment, b: Moment): Moment => (a.monotonic > b.monotonic ? a : b);

/**
 * Invariants, each with the spec that goes red without it:
 *
 * 1. The time counts from when a barrier was sent, by the clock that says more: `leases.spec.ts`.
 * 2. A barrier proves nothing to a cache that has not come to it: the same.
 */
export class ProofAge {
  /** Acknowledged, and beyond what the cache has come to, in ascending order. */
  readonly #waiting: Proof[] = [];
  #reached: Proof | undefined;

  /** A barrier was acknowledged. */
  note(seq: number, sent: Moment): void {
    const last = this.#waiting.at(-1) ?? this.#reached;
    if (last !== undefined && seq <= last.seq) return;
    if (this.#waiting.length < MAX_WAITING)
      this.#waiting.push({ seq, sent: last === undefined ? sent : later(last.sent, sent) });
  }

  /** Milliseconds since the moment of which a cache that is exact as of `asOf` surely misses nothing. */
  of(asOf: number): number {
    while (this.#waiting[0] !== undefined && this.#waiting[0].seq <= asOf) this.#reached = this.#waiting.shift();
    return this.#reached === undefined || this.#reached.seq > asOf ? Infinity : msSince(this.#reached.sent);
  }

  /** Another log may be there. */
  clear(): void {
    this.#waiting.length = 0;
    this.#reached = undefined;
  }
}
