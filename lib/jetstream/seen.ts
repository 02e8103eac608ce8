/**
 * What was seen of each record: a read of it by another replica may not go back behind that. A number for each, in
 * bounded memory; of what was forgotten only the highest is known.
 */

/** What a map takes for a short string and a number, without the characters. */
const ENTRY_BYTES = 80;

export class Seen {
  readonly #floors = new Map<string, number>();
  readonly #maxBytes: number;
  #bytes = 0;
  #forgotten = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  note(key: string, seen: number): void {
    const before = this.#floors.get(key);
    if (before !== undefined && before >= seen) return;
    // What is noted anew is forgotten last.
    if (before !== undefined) this.#floors.delete(key);
    else this.#bytes += ENTRY_BYTES + key.length;
    this.#floors.set(key, seen);
    for (const [oldest, floor] of this.#floors) {
      if (this.#bytes <= this.#maxBytes) break;
      this.#floors.delete(oldest);
      this.#bytes -= ENTRY_BYTES + oldest.length;
      this.forgot(floor);
    }
  }

  /** What was seen elsewhere, up to so much, is not known any more. */
  forgot(seen: number): void {
    this.#forgotten = Math.max(this.#forgotten, seen);
  }

  /**
   * Whether a read that found `found` (0: nothing) does not go back. `unknown`: what was seen of it may be forgotten.
   */
  allow(key: string, found: number): "yes" | "no" | "unknown" {
    const floor = this.#floors.get(key);
    if (floor !== undefined) return found >= floor ? "yes" : "no";
    return found > this.#forgotten || this.#forgotten === 0 ? "yes" : "unknown";
  }
}
