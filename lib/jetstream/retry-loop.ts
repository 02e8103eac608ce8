import type { Call } from "../call.js";
import { tell } from "../diagnostics.js";
import { isFinal, unavailable, type Failure } from "./failures.js";

/** A call that has tried so often is told of. */
const MANY = 10;

/** The errors of a call that goes on trying until its time is over. */
export class RetryLoop {
  readonly #call: Call;
  #begun = false;
  #attempt = 0;
  #last: { failure: Failure; error: unknown } | undefined;

  constructor(call: Call) {
    this.#call = call;
  }

  failed(failure: Failure, error: unknown): void {
    this.#last = { failure, error };
    if (isFinal(failure)) throw unavailable(failure, error);
  }

  /** What every attempt begins with: nothing at first, a pause from then on. Throws once the call's time is over. */
  next(): Promise<void> | undefined {
    this.#call.throwIfEnded();
    if (this.#begun) return this.pause();
    this.#begun = true;
    return undefined;
  }

  /** Waits a little longer each time, with jitter so that contenders part. Throws once the call's time is over. */
  async pause(): Promise<void> {
    if (this.#attempt === MANY)
      tell({
        type: "retries",
        backend: "jetstream",
        attempts: MANY,
        ...(this.#last === undefined ? {} : { error: this.#last.error }),
      });
    const limit = Math.min(200, 2 ** Math.min(this.#attempt++, 8));
    const ms = limit * (0.5 + Math.random());
    // An instant "no" is better said as it is than as the timeout that it would become.
    if (this.#call.remaining() <= ms && this.#last?.failure === "no-responders") {
      throw unavailable(this.#last.failure, this.#last.error);
    }
    await new Promise<void>((resolve) => {
      setTimeout(resolve, Math.min(ms, this.#call.remaining()));
    });
    this.#call.throwIfEnded();
  }
}
