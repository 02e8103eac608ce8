/**
 * A caller's `AbortSignal`. It is read by the getters of `AbortSignal.prototype`: an own property of the object may say
 * anything, and something else each time.
 */
import { types } from "node:util";

/** The prototype is looked up each time: a test runner may have replaced the global `AbortSignal`. */
function read(signal: AbortSignal, name: "aborted" | "reason"): unknown {
  return Reflect.get(AbortSignal.prototype, name, signal);
}

/** Never throws. It lets no subclass and no proxy through: those may throw later. */
export function isSignal(value: unknown): value is AbortSignal {
  try {
    if (typeof value !== "object" || value === null || types.isProxy(value)) return false;
    return (
      Object.getPrototypeOf(value) === AbortSignal.prototype &&
      typeof read(value as AbortSignal, "aborted") === "boolean"
    );
  } catch {
    return false;
  }
}

export function isAborted(signal: AbortSignal | undefined): boolean {
  return signal !== undefined && read(signal, "aborted") === true;
}

export function abortReason(signal: AbortSignal | undefined): unknown {
  return signal === undefined ? undefined : read(signal, "reason");
}

/** Answers a function that stops listening. */
export function onAbort(signal: AbortSignal, listener: () => void): () => void {
  EventTarget.prototype.addEventListener.call(signal, "abort", listener, { once: true });
  return () => {
    EventTarget.prototype.removeEventListener.call(signal, "abort", listener);
  };
}
