import { Buffer } from "node:buffer";
import { hashOf } from "./murmur.js";
import { MAX_TEXT_BYTES } from "./packed-format.js";

/** A text that is looked for, as packed records have it. */
export class LookupText {
  readonly #seed: number;
  readonly #bytes = Buffer.alloc(4 * MAX_TEXT_BYTES);
  readonly view = new DataView(this.#bytes.buffer, this.#bytes.byteOffset);
  length = 0;

  constructor(seed: number) {
    this.#seed = seed;
  }

  /** Takes a text, and answers whether a record can have it. Callers may ask for anything. */
  set(text: unknown): text is string {
    if (typeof text !== "string" || text.length > MAX_TEXT_BYTES) return false;
    let all = 0;
    for (let i = 0; i < text.length; i++) {
      const unit = text.charCodeAt(i);
      all |= unit;
      this.#bytes[i] = unit;
    }
    this.length = text.length;
    if (all <= 0x7f) return true;
    // A lone surrogate would become another character's bytes.
    if (!text.isWellFormed()) return false;
    this.length = this.#bytes.write(text, "utf8");
    return this.length <= MAX_TEXT_BYTES;
  }

  get hash(): number {
    return hashOf(this.view, 0, this.length, this.#seed);
  }
}
