/**
 * One call's time. Every wait of an operation goes through its `Call`, so that whatever a backend does, hang, die or
 * answer late, the call settles in time and a late answer has nobody left to reach.
 */
import { StoreError, isStoreError } from "./errors.js";
import type { Bounds } from "./arguments.js";

export class Call {
  readonly #expiresAt: number;
  readonly #timeoutMs: number;
  readonly #signal: AbortSignal | undefined;
  #outcome: "none" | "unknown" | undefined;
  #ended: StoreError | undefined;
  #end: ((error: StoreError) => void) | undefined;

  constructor(bounds: Bounds, defaultTimeoutMs: number, kind: "read" | "write") {
    this.#timeoutMs = bounds.timeoutMs ?? defaultTimeoutMs;
    this.#expiresAt = performance.now() + this.#timeoutMs;
    this.#signal = bounds.signal;
    this.#outcome = kind === "write" ? "none" : undefined;
  }

  /** What a write would have to admit if it ended now. A backend sets it to `unknown` before it sends what may commit. */
  get outcome(): "none" | "unknown" | undefined {
    return this.#outcome;
  }

  set outcome(outcome: "none" | "unknown" | undefined) {
    this.#outcome = outcome;
  }

  /** Milliseconds left, never below 0. */
  remaining(): number {
    return this.#ended === undefined ? Math.max(0, this.#expiresAt - performance.now()) : 0;
  }

  get aborted(): boolean {
    return this.#signal?.aborted === true;
  }

  /** What ended the call, once something did. A backend that lets go of an ended call's work rejects it with this. */
  get ended(): StoreError | undefined {
    return this.#ended;
  }

  /** Throws once the call has ended: a backend calls it before each step, so that an abandoned operation stops working. */
  check(): void {
    if (this.#ended !== undefined) throw this.#ended;
    if (this.aborted) throw this.#stop(this.#abortError());
    if (this.remaining() <= 0) throw this.#stop(this.#timeoutError());
  }

  /** Ends the call early, as a closing store does. */
  end(error: StoreError): void {
    this.#stop(error);
  }

  #stop(error: StoreError): StoreError {
    if (this.#ended === undefined) {
      this.#ended = error;
      this.#end?.(error);
    }
    return this.#ended;
  }

  #timeoutError(): StoreError {
    return new StoreError("TIMEOUT", `No answer within ${String(this.#timeoutMs)} ms`, this.#admit({}));
  }

  #abortError(): StoreError {
    return new StoreError("TIMEOUT", "The call was aborted by its signal", this.#admit({ cause: this.#signal?.reason as unknown }));
  }

  #admit(options: { cause?: unknown }): { cause?: unknown; outcome?: "none" | "unknown" } {
    return this.outcome === undefined ? options : { ...options, outcome: this.outcome };
  }

  /** Runs `operation` until it settles, the time is over, the signal aborts or the call is ended, whichever comes first. */
  run<T>(operation: (call: this) => Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.#ended !== undefined || this.aborted) {
        reject(this.#stop(this.#abortError()));
        return;
      }
      const onAbort = (): void => {
        this.#stop(this.#abortError());
      };
      const timer = setTimeout(() => {
        this.#stop(this.#timeoutError());
      }, this.remaining());
      this.#signal?.addEventListener("abort", onAbort, { once: true });
      const settle = (): void => {
        clearTimeout(timer);
        this.#signal?.removeEventListener("abort", onAbort);
        this.#end = undefined;
      };
      this.#end = (error) => {
        settle();
        reject(error);
      };
      // An async function, so that what throws at once rejects like what throws later.
      const running = (async () => operation(this))();
      running.then(
        (value) => {
          if (this.#ended !== undefined) return;
          // The timer may be late where the event loop was busy: an answer after the deadline is late all the same.
          if (this.remaining() <= 0) {
            this.#stop(this.#timeoutError());
            return;
          }
          settle();
          resolve(value);
        },
        (error: unknown) => {
          if (this.#ended !== undefined) return;
          settle();
          // What else was begun for it, side by side with what failed, is to stop too.
          this.#ended = isStoreError(error) ? error : new StoreError("UNAVAILABLE", "The backend failed", { cause: error });
          reject(error instanceof Error ? error : this.#ended);
        },
      );
    });
  }
}
