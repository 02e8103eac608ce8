/** Waits for all, also where one has failed. */
export async function joinAll<T>(work: readonly Promise<T>[]): Promise<T[]> {
  await Promise.allSettled(work);
  return Promise.all(work);
}

/** Waits for both, also where one has failed: nothing of an attempt goes on behind its back. */
export async function joinBoth<A, B>(a: A, b: B): Promise<[Awaited<A>, Awaited<B>]> {
  await Promise.allSettled([a, b]);
  return [await a, await b];
}

/** Works through the items, so many at a time. After one has failed no other is begun. */
export async function inParallel<T>(
  items: readonly T[],
  width: number,
  run: (item: T) => Promise<void>,
): Promise<void> {
  const iterator = items.values();
  let failed = false;
  const worker = async (): Promise<void> => {
    for (const item of iterator) {
      if (failed) return;
      try {
        await run(item);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  await joinAll(Array.from({ length: Math.min(width, items.length) }, worker));
}
