/**
 * A caller's `AbortSignal`, read by what signals themselves have: a property of the object's own may say anything, and
 * another thing each time.
 */
import { types } from "node:util";

/** Looks at what is there now: a test runner may have put signals of its own in place of the platform's. */
function read(signal: AbortSignal, name: "aborted" | "reason"): unknown {
  return Reflect.get(AbortSignal.prototype, name, signal);
}

/** Never throws, and what it lets through does not throw later: what only inherits from a signal, or stands for one, may. */
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

/** Answers how to listen no longer. */
export function onAbort(signal: AbortSignal, listener: () => void): () => void {
  EventTarget.prototype.addEventListener.call(signal, "abort", listener, { once: true });
  return () => {
    EventTarget.prototype.removeEventListener.call(signal, "abort", listener);
  };
}
