import { Call } from "../call.js";
import type { StoreError } from "../errors.js";

/**
 * The call of a head that several callers share. It has time while any of them has. When all were aborted or their
 * store closes, it ends with them.
 *
 * A caller that gives up while others go on is committed all the same. So none of them may be told that nothing was
 * done: not from before the first request is sent, until it is known that nothing was stored.
 */
export class SharedCall extends Call {
  /** Who still waits for what is being done. */
  #waiting: readonly Call[];

  constructor(calls: readonly Call[]) {
    super({ timeoutMs: undefined, signal: undefined }, Math.max(1, ...calls.map((call) => call.remaining())), "write");
    this.#waiting = calls;
  }

  /** Runs what commits the changes of these, and of no others. */
  async committing<T>(calls: readonly Call[], commit: () => Promise<T>): Promise<T> {
    this.#waiting = calls;
    if (calls.length > 1) this.#tell("unknown");
    try {
      return await commit();
    } finally {
      if (this.outcome === "none") this.#tell("none");
    }
  }

  /** From now on it goes on for these, of whose changes nothing was stored. */
  for(calls: readonly Call[]): void {
    this.#waiting = calls;
    super.outcome = "none";
  }

  #tell(outcome: "none" | "unknown" | undefined): void {
    for (const call of this.#waiting) call.outcome = outcome;
  }

  override get ended(): StoreError | undefined {
    return this.#waiting.every((call) => call.ended !== undefined) ? this.#waiting[0]?.ended : undefined;
  }

  override throwIfEnded(): void {
    const { ended } = this;
    if (ended !== undefined) throw ended;
    super.throwIfEnded();
  }

  override remaining(now = performance.now()): number {
    return this.ended === undefined ? super.remaining(now) : 0;
  }

  override get outcome(): "none" | "unknown" | undefined {
    return super.outcome;
  }

  override set outcome(outcome: "none" | "unknown" | undefined) {
    super.outcome = outcome;
    // One alone ends what it waits for: nothing is sent after it has given up.
    if (this.#waiting.length === 1) this.#tell(outcome);
  }
}
