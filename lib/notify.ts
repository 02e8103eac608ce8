/** Tells a caller's function of something. What it throws, at once or later, is its own affair: nothing here depends on it. */
export function notify<Event extends object>(listener: ((event: Event) => unknown) | undefined, event: Event): void {
  try {
    const later = listener?.(Object.freeze(event));
    if (later instanceof Promise) later.catch(() => undefined);
  } catch {
    // See above.
  }
}
