export async function pause(ms: number): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, ms));
}

/** Asks again and again until the answer is true. */
export async function eventually(
  what: string,
  isSo: () => boolean | Promise<boolean>,
  withinMs = 30_000,
): Promise<void> {
  const deadline = performance.now() + withinMs;
  while (!(await isSo())) {
    if (performance.now() > deadline) throw new Error(`not within ${withinMs} ms: ${what}`);
    await pause(20);
  }
}

/** Something that happens once, and who waits for it. */
export interface Signal {
  readonly happened: Promise<void>;
  readonly now: () => void;
}

export function signal(): Signal {
  let now: () => void = () => undefined;
  const happened = new Promise<void>((resolve) => {
    now = resolve;
  });
  return { happened, now };
}
