/**
 * Which of the newest sequences of one log are in a set, in one bit for each. Those below are forgotten: they prove
 * nothing.
 */
import { Buffer } from "node:buffer";
import type { Json } from "./json.js";

export interface Range {
  readonly from: number;
  readonly to: number;
}

/** So many sequences it goes back from the highest, at most. Most stores need few. */
const MOST = 65_536;
const FEWEST = 2048;

export class SequenceWindow {
  /** By the sequence, modulo the size. What is above {@link top} is whatever was there before. */
  #bits = new Uint8Array(FEWEST / 8);
  #size = FEWEST;
  #top = 0;
  /** None was added below. */
  #bottom = Infinity;

  /** The highest. */
  get top(): number {
    return this.#top;
  }

  add(seq: number): void {
    if (seq <= this.#top - MOST) return;
    this.#bottom = Math.max(Math.min(this.#bottom, seq), Math.max(this.#top, seq) - MOST + 1);
    while (this.#size < MOST && Math.max(this.#top, seq) - this.#bottom >= this.#size) this.#grow();
    if (seq - this.#top >= this.#size) this.#bits.fill(0);
    else for (let skipped = this.#top + 1; skipped < seq; skipped++) this.#set(skipped, 0);
    this.#set(seq, 1);
    this.#top = Math.max(this.#top, seq);
  }

  /** Whether every sequence of `from` to `to` is in the set. True where there is none. */
  hasAll(from: number, to: number): boolean {
    if (from <= to && (from < this.#bottom || from <= this.#top - this.#size || to > this.#top)) return false;
    for (let seq = from; seq <= to; seq++) if (!this.#has(seq)) return false;
    return true;
  }

  /** Those at or above a sequence, in ascending order. */
  *since(seq: number): Generator<Range, void, undefined> {
    for (let from = Math.max(seq, this.#bottom, this.#top - this.#size + 1); from <= this.#top; from++) {
      if (!this.#has(from)) continue;
      let to = from;
      while (to < this.#top && this.#has(to + 1)) to++;
      yield { from, to };
      from = to;
    }
  }

  /**
   * As it is told to others: the highest, and a bit for each from there downwards, lowest bit of the first byte first.
   */
  list(most: number): Json {
    if (this.#top === 0) return {};
    const bits = Buffer.alloc(Math.ceil(most / 8));
    let bytes = 0;
    for (let bit = 0, end = Math.min(most, this.#size, this.#top - this.#bottom + 1); bit < end; bit++) {
      if (!this.#has(this.#top - bit)) continue;
      bytes = (bit >>> 3) + 1;
      bits[bytes - 1] = (bits[bytes - 1] ?? 0) | (1 << (bit & 7));
    }
    return { t: this.#top, b: bits.toString("base64url", 0, bytes) };
  }

  dropAbove(seq: number): void {
    if (seq < this.#bottom) this.clear();
    // Their bits would be those of others, lower by the size.
    for (; this.#top > seq; this.#top--) this.#set(this.#top, 0);
  }

  clear(): void {
    this.#top = 0;
    this.#bottom = Infinity;
    this.#bits.fill(0);
  }

  #grow(): void {
    const ranges = [...this.since(0)];
    this.#size *= 2;
    this.#bits = new Uint8Array(this.#size / 8);
    for (const { from, to } of ranges) for (let seq = from; seq <= to; seq++) this.#set(seq, 1);
  }

  #has(seq: number): boolean {
    const at = seq % this.#size;
    return ((this.#bits[at >>> 3] ?? 0) & (1 << (at & 7))) !== 0;
  }

  #set(seq: number, bit: 0 | 1): void {
    const at = seq % this.#size;
    const byte = this.#bits[at >>> 3] ?? 0;
    this.#bits[at >>> 3] = bit === 1 ? byte | (1 << (at & 7)) : byte & ~(1 << (at & 7));
  }
}

/** What another's list says of sequences from one on, newest first. What is no such list tells nothing. */
export function* listedIn(value: Json, since: number): Generator<Range, void, undefined> {
  const { t: top, b: list } = value;
  if (typeof top !== "number" || !Number.isSafeInteger(top) || typeof list !== "string") return;
  const bits = Buffer.from(list, "base64url");
  const end = Math.min(bits.length * 8, top - since + 1);
  for (let bit = 0; bit < end; bit++) {
    const from = bit;
    while (bit < end && ((bits[bit >>> 3] ?? 0) & (1 << (bit & 7))) !== 0) bit++;
    if (bit > from) yield { from: top - bit + 1, to: top - from };
  }
}
