/**
 * What was seen of each record: a read of it by another replica may not go back behind that. A number for each, in bounded
 * memory; of what was forgotten only the highest is known.
 */
const MAX_SEEN = 65_536;

export class Seen {
  readonly #floors = new Map<string, number>();
  #forgotten = 0;

  note(key: string, seen: number): void {
    const before = this.#floors.get(key);
    if (before !== undefined && before >= seen) return;
    // What is noted anew is forgotten last.
    if (before !== undefined) this.#floors.delete(key);
    this.#floors.set(key, seen);
    if (this.#floors.size <= MAX_SEEN) return;
    for (const [oldest, floor] of this.#floors) {
      this.#floors.delete(oldest);
      this.forgot(floor);
      break;
    }
  }

  /** What was seen elsewhere, up to so much, is not known any more. */
  forgot(seen: number): void {
    this.#forgotten = Math.max(this.#forgotten, seen);
  }

  /** Whether a read that found `found` (0: nothing) does not go back. `unknown`: what was seen of it may be forgotten. */
  allow(key: string, found: number): "yes" | "no" | "unknown" {
    const floor = this.#floors.get(key);
    if (floor !== undefined) return found >= floor ? "yes" : "no";
    return found > this.#forgotten || this.#forgotten === 0 ? "yes" : "unknown";
  }
}
