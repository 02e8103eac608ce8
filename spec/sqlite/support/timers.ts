import { syncBuiltinESMExports } from "node:module";
import timers from "node:timers";

/** The longest time after which the store sets a timer of its own anew. */
const LONGEST_TIMER_MS = 150;

/**
 * From here on what a timer of the store would begin comes too late, and what one has begun is over. The store takes
 * Node's own timers: replaced globally, they would go on. Answers how to have them back.
 */
export async function withoutTimers(): Promise<() => void> {
  const { setTimeout } = timers;
  const replace = (replaced: typeof setTimeout): void => {
    timers.setTimeout = replaced;
    syncBuiltinESMExports();
  };
  replace(((run: () => void, ms: number) => setTimeout(run, ms + 60_000)) as typeof setTimeout);
  await new Promise((resolve) => setTimeout(resolve, LONGEST_TIMER_MS));
  return () => replace(setTimeout);
}
