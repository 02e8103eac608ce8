/** Tells a caller's function of an event. What the function throws, now or later, is ignored. */
export function notify<Event extends object>(listener: ((event: Event) => unknown) | undefined, event: Event): void {
  try {
    const later = listener?.(Object.freeze(event));
    if (later instanceof Promise) later.catch(() => undefined);
  } catch {
    // Ignored.
  }
}
