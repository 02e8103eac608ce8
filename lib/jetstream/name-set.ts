/** Names that were met, by 64 bits of a hash each: some 12 bytes a name, however long it is. */
import { createHash, randomBytes } from "node:crypto";

/** There are many tables: one at a time grows, and what is there twice meanwhile is little. */
const TABLE_BITS = 8;
const FIRST_CAPACITY = 8;
const FULL = 0.8;
const GROWTH = 1.4;

class Table {
  #words = new Uint32Array(FIRST_CAPACITY * 2);
  #count = 0;

  add(low: number, high: number): boolean {
    const isNew = this.#put(low, high);
    if (isNew && ++this.#count > (this.#words.length / 2) * FULL) this.#grow();
    return isNew;
  }

  #put(low: number, high: number): boolean {
    const words = this.#words;
    const places = words.length / 2;
    for (let place = high % places; ; place = (place + 1) % places) {
      const at = place * 2;
      if (words[at] === 0) {
        words[at] = low;
        words[at + 1] = high;
        return true;
      }
      if (words[at] === low && words[at + 1] === high) return false;
    }
  }

  #grow(): void {
    const before = this.#words;
    this.#words = new Uint32Array(Math.ceil((before.length / 2) * GROWTH) * 2);
    for (let at = 0; at < before.length; at += 2) {
      const low = before[at] ?? 0;
      if (low !== 0) this.#put(low, before[at + 1] ?? 0);
    }
  }
}

export class NameSet {
  /** Nobody can choose names that are taken for each other. */
  readonly #seed = randomBytes(16);
  readonly #tables = new Map<number, Table>();

  /**
   * Whether the name is new. Of a million names some two are taken for one with a probability of one in ten million.
   */
  add(name: string): boolean {
    const digest = createHash("sha256").update(this.#seed).update(name, "utf8").digest();
    const high = digest.readUInt32LE(4);
    const number = high >>> (32 - TABLE_BITS);
    let table = this.#tables.get(number);
    if (table === undefined) this.#tables.set(number, (table = new Table()));
    // 0 is a free place.
    return table.add((digest.readUInt32LE(0) | 1) >>> 0, high);
  }
}
