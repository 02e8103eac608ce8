import { Call } from "../call.js";
import { StoreError } from "../errors.js";

/** Work behind the operations' backs: clearing away, a rollout. Each piece has a time; closing ends what still runs. */
export class Background {
  readonly #running = new Map<Promise<void>, Call>();
  #closed = false;

  run(timeoutMs: number, work: (call: Call) => Promise<unknown>): void {
    if (this.#closed) return;
    const call = new Call({ timeoutMs, signal: undefined }, timeoutMs, "read");
    const running = call
      .run(work)
      .then(ignore, ignore)
      .finally(() => {
        this.#running.delete(running);
      });
    this.#running.set(running, call);
  }

  /** Lets clearing away go on for `graceMs`, then ends it: what it leaves is invisible, and swept up at the next opening. */
  async close(graceMs: number): Promise<void> {
    this.#closed = true;
    const timer = setTimeout(() => {
      for (const call of this.#running.values()) call.end(new StoreError("CLOSED", "The store was closed"));
    }, graceMs);
    await Promise.all(this.#running.keys());
    clearTimeout(timer);
  }
}

const ignore = (): void => undefined;
