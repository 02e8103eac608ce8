/** Waits for all, also where one has failed. */
export async function all<T>(work: readonly Promise<T>[]): Promise<T[]> {
  await Promise.allSettled(work);
  return Promise.all(work);
}

/** Waits for both, also where one has failed: nothing of an attempt goes on behind its back. */
export async function both<A, B>(a: A, b: B): Promise<[Awaited<A>, Awaited<B>]> {
  await Promise.allSettled([a, b]);
  return [await a, await b];
}
