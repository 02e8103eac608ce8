/** Records as they were read, in bounded memory. Those that were put in first go first. */
import type { Cache, Known } from "./exact-cache.js";
import type { Entry } from "./entry.js";
import type { Key } from "./keys.js";
import { unlessCorrupt } from "./record-fields.js";
import type { BucketName, Seq } from "./seq.js";

/** About what a record takes in memory beyond its text. */
const OVERHEAD_BYTES = 600;

export class RecordCache<B extends BucketName, V> implements Cache<B, V> {
  readonly #maxBytes: number;
  readonly #valueOf: (entry: Entry<B>) => V;
  readonly #known = new Map<Key<B>, Known<B, V> & { readonly bytes: number }>();
  #bytes = 0;
  onForget: ((seq: Seq<B>) => void) | undefined;

  constructor(maxBytes: number, valueOf: (entry: Entry<B>) => V) {
    this.#maxBytes = maxBytes;
    this.#valueOf = valueOf;
  }

  get(key: Key<B>): Known<B, V> | undefined {
    return this.#known.get(key);
  }

  put(entry: Entry<B>, generation: number): void {
    const wasKnown = this.#delete(entry.key);
    const bytes = OVERHEAD_BYTES + 2 * JSON.stringify(entry.value).length;
    const value = unlessCorrupt(() => this.#valueOf(entry));
    // It would push out all others, or it is damaged: whoever asks for it is told, and nobody else.
    if (value === undefined || bytes > this.#maxBytes) {
      if (wasKnown) this.onForget?.(entry.seq);
      return;
    }
    this.#known.set(entry.key, { value, seq: entry.seq, generation: generation, bytes });
    this.#bytes += bytes;
    for (const [key, { seq }] of this.#known) {
      if (this.#bytes <= this.#maxBytes) return;
      this.#delete(key);
      this.onForget?.(seq);
    }
  }

  renew(key: Key<B>, generation: number): void {
    const known = this.#known.get(key);
    if (known !== undefined) this.#known.set(key, { ...known, generation: generation });
  }

  clear(): void {
    this.#known.clear();
    this.#bytes = 0;
  }

  #delete(key: Key<B>): boolean {
    const known = this.#known.get(key);
    if (known === undefined) return false;
    this.#known.delete(key);
    this.#bytes -= known.bytes;
    return true;
  }
}
