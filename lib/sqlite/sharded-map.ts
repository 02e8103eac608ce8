/**
 * A map of many small maps. One map of a million entries stands still for a tenth of a second when it doubles. These
 * double one by one.
 */
const SHARDS = 256;

/**
 * By the end of the key: ids mostly begin alike. Keys that all end alike are in one map, as they would be without this.
 */
function shardOf(key: string): number {
  const { length } = key;
  const mixed = key.charCodeAt(length - 1) * 961 + key.charCodeAt(length - 2) * 31 + key.charCodeAt(length - 3);
  // A key of less than three characters has no number here, and so the first one.
  return mixed & (SHARDS - 1);
}

export class ShardedMap<V> {
  readonly #shards: (Map<string, V> | undefined)[] = new Array<Map<string, V> | undefined>(SHARDS).fill(undefined);

  get(key: string): V | undefined {
    return this.#shards[shardOf(key)]?.get(key);
  }

  has(key: string): boolean {
    return this.#shards[shardOf(key)]?.has(key) === true;
  }

  set(key: string, value: V): void {
    const shard = shardOf(key);
    (this.#shards[shard] ??= new Map<string, V>()).set(key, value);
  }

  delete(key: string): boolean {
    return this.#shards[shardOf(key)]?.delete(key) === true;
  }

  *values(): Iterable<V> {
    for (const shard of this.#shards) if (shard !== undefined) yield* shard.values();
  }
}
