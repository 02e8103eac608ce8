/** Names that were met, by 64 bits of a hash each: some 16 bytes a name, however long it is. */
import { createHash, randomBytes } from "node:crypto";

const FIRST_CAPACITY = 1024;
const FULL = 0.6;

export class NameSet {
  /** Nobody can choose names that are taken for each other. */
  readonly #seed = randomBytes(16);
  #words = new Uint32Array(FIRST_CAPACITY * 2);
  #count = 0;

  /**
   * Whether the name is new. Of a million names some two are taken for one with a probability of one in ten million.
   */
  add(name: string): boolean {
    const digest = createHash("sha256").update(this.#seed).update(name, "utf8").digest();
    // 0 and 0 is a free place.
    const isNew = this.#put(digest.readUInt32LE(0) | 1, digest.readUInt32LE(4));
    if (isNew && ++this.#count > (this.#words.length / 2) * FULL) this.#grow();
    return isNew;
  }

  #put(low: number, high: number): boolean {
    const words = this.#words;
    const places = words.length / 2;
    const first = low >>> 0;
    for (let place = high % places; ; place = (place + 1) % places) {
      const at = place * 2;
      if (words[at] === 0) {
        words[at] = first;
        words[at + 1] = high;
        return true;
      }
      if (words[at] === first && words[at + 1] === high) return false;
    }
  }

  #grow(): void {
    const before = this.#words;
    this.#words = new Uint32Array(before.length * 2);
    for (let at = 0; at < before.length; at += 2) {
      const low = before[at] ?? 0;
      if (low !== 0) this.#put(low, before[at + 1] ?? 0);
    }
  }
}
