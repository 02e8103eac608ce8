import { Call } from "../call.js";
import { StoreError } from "../errors.js";

interface Piece {
  readonly call: Call;
  readonly atClose: "finish" | "end";
}

const closed = (): StoreError => new StoreError("CLOSED", "The store was closed");

/** Work behind the operations' backs: clearing away, a rollout. Each piece has a time, and none outlives the store. */
export class Background {
  readonly #running = new Map<Promise<void>, Piece>();
  #closed = false;

  /** `atClose` says whether the piece is worth waiting for when the store closes. */
  run(timeoutMs: number, atClose: Piece["atClose"], work: (call: Call) => Promise<unknown>): void {
    if (this.#closed) return;
    const call = new Call({ timeoutMs, signal: undefined }, timeoutMs, "read");
    const running = call
      .run(work)
      .then(ignore, ignore)
      .finally(() => {
        this.#running.delete(running);
      });
    this.#running.set(running, { call, atClose });
  }

  /**
   * Ends what is not worth waiting for, and after `graceMs` the rest: what it leaves is invisible, and swept up later.
   */
  async close(graceMs: number): Promise<void> {
    this.#closed = true;
    for (const { call, atClose } of this.#running.values()) {
      if (atClose === "end") call.end(closed());
    }
    const timer = setTimeout(() => {
      for (const { call } of this.#running.values()) call.end(closed());
    }, graceMs);
    await Promise.all(this.#running.keys());
    clearTimeout(timer);
  }
}

const ignore = (): void => undefined;
