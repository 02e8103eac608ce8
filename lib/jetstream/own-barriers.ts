/**
 * The barriers and fences of one store in one bucket. Each supersedes the one before it, which leaves a gap in the log. So
 * each tells where those before it stood, and whoever reads the log knows that the gap held no record.
 */
import { Buffer } from "node:buffer";
import { randomBytes } from "node:crypto";
import type { Json } from "./connection.js";
import { SequenceSet } from "./sequence-set.js";
import type { Range } from "./sequence-set.js";

/** So many records of barriers a bucket can have. Two stores on one key are right, too, but make gaps for each other. */
const SLOTS = 64;
/**
 * How far back a barrier tells, in sequences of the log: one bit for each. Where several stores prove thousands of records a second, each
 * on its own, that is a tenth of a second, and several times what a look at the log takes.
 */
const WINDOW = 2048;
const PREFIX = "barrier.";

export const isBarrier = (key: string): boolean => key.startsWith(PREFIX);

export class OwnBarriers {
  /** Tells this store's barriers from those of another with the same key. */
  readonly #id = randomBytes(6).toString("base64url");
  readonly #stood = new SequenceSet();
  #key = newKey();
  #last: { readonly key: string; readonly seq: number } | undefined;
  #isFrozen = false;
  #value: string | undefined;

  /** The next barrier. */
  get next(): { readonly key: string; readonly value: string } {
    // The last one is still looked for.
    if (this.#isFrozen && this.#key === this.#last?.key) this.part();
    this.#value ??= JSON.stringify({ k: this.#key, s: this.#id, ...listed(this.#stood.newest(WINDOW)) });
    return { key: this.#key, value: this.#value };
  }

  /** The newest that was acknowledged. Its key stays in the log, whoever writes it anew. */
  get last(): { readonly key: string; readonly seq: number } | undefined {
    return this.#last;
  }

  /** Whether a message is one of this store's. */
  isOwn(value: Json): boolean {
    return value["s"] === this.#id;
  }

  /**
   * Only one that was acknowledged: what was sent and not heard of may stand elsewhere, or nowhere, and what stands there
   * instead would be passed over.
   */
  add(seq: number, key: string): void {
    if (!this.#isFrozen && seq > (this.#last?.seq ?? 0)) this.#last = { key, seq };
    this.#stood.add(seq);
    this.#value = undefined;
  }

  hasAll(from: number, to: number): boolean {
    return this.#stood.hasAll(from, to);
  }

  /** Ranges that stand at or above a sequence. */
  since(seq: number): readonly Readonly<Range>[] {
    return this.#stood.newest(Infinity).filter((range) => range.to >= seq);
  }

  /** What was known of the log may not be of this one: nothing is told of it any more. */
  clear(): void {
    this.#stood.clear();
    this.#value = undefined;
  }

  /** What is acknowledged from here on may stand in another log: only the last one of before tells whether it does. */
  freeze(): void {
    this.#isFrozen = true;
  }

  /** The log is known again. */
  thaw(): void {
    this.#isFrozen = false;
  }

  /** The log is another one. */
  forget(): void {
    this.clear();
    this.thaw();
    this.#last = undefined;
  }

  /** A barrier was met in the log. Where it is another store's with the same key, the two part. */
  met(key: string, value: Json): void {
    if (key === this.#key && !this.isOwn(value)) this.part();
  }

  /** Takes another key: on this one may be another store too, whose barriers nobody sees before these supersede them. */
  part(): void {
    this.#key = newKey();
    this.#value = undefined;
  }
}

const newKey = (): string => PREFIX + String(randomBytes(1).readUInt8() % SLOTS);

/** The highest sequence, and a bit for each from there downwards, lowest bit of the first byte first. */
function listed(ranges: readonly Readonly<Range>[]): Json {
  const top = ranges[0]?.to;
  if (top === undefined) return {};
  const lowest = Math.max(1, top - WINDOW + 1);
  const first = ranges.findLast(({ to }) => to >= lowest)?.from ?? top;
  const bits = Buffer.alloc(((top - Math.max(first, lowest)) >>> 3) + 1);
  for (const { from, to } of ranges) {
    if (to < lowest) break;
    for (let bit = top - to; bit <= top - Math.max(from, lowest); bit++) bits[bit >>> 3] = (bits[bit >>> 3] ?? 0) | (1 << (bit & 7));
  }
  return { t: top, b: bits.toString("base64url") };
}

/** Where a barrier says that others of its store stood, newest first, from a sequence on. What is no such list tells nothing. */
export function* rangesOf(value: Json, since: number): Generator<Readonly<Range>, void, undefined> {
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
