/**
 * The barriers and fences of one store in one bucket. Each supersedes the one before it, which leaves a gap in the log. So
 * each tells where those before it stood, and whoever reads the log knows that the gap held no record.
 */
import { randomBytes } from "node:crypto";
import type { Json } from "./connection.js";
import { SequenceSet } from "./sequence-set.js";
import type { Range } from "./sequence-set.js";

/** So many records of barriers a bucket can have. Two stores on one key are right, too, but make gaps for each other. */
const SLOTS = 64;
/** Ranges that a barrier tells of: those of the last moments, also where other stores' barriers stand between them. */
const MAX_LISTED = 64;
const PREFIX = "barrier.";

export const isBarrier = (key: string): boolean => key.startsWith(PREFIX);

export class OwnBarriers {
  /** Tells this store's barriers from those of another with the same key. */
  readonly #id = randomBytes(6).toString("base64url");
  readonly #stood = new SequenceSet();
  #key = newKey();
  #last: { readonly key: string; readonly seq: number } | undefined;
  #value: string | undefined;

  /** The next barrier. */
  get next(): { readonly key: string; readonly value: string } {
    this.#value ??= JSON.stringify({ k: this.#key, s: this.#id, b: listed(this.#stood.newest(MAX_LISTED)) });
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
    if (seq > (this.#last?.seq ?? 0)) this.#last = { key, seq };
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

  /** The log is another one. */
  forget(): void {
    this.clear();
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

/** Newest first: the highest sequence, then how many there are, how many are not, and so on. */
function listed(ranges: readonly Readonly<Range>[]): number[] {
  const list: number[] = [];
  let below: number | undefined;
  for (const { from, to } of ranges) {
    list.push(below === undefined ? to : below - to - 1, to - from + 1);
    below = from;
  }
  return list;
}

/** Where a barrier says that others of its store stood, newest first, from a sequence on. What is no such list tells nothing. */
export function* rangesOf(value: Json, since: number): Generator<Readonly<Range>, void, undefined> {
  const list = value["b"];
  if (!Array.isArray(list)) return;
  let below: number | undefined;
  for (let i = 0; i + 1 < list.length; i += 2) {
    const [skip, count] = [Number(list[i]), Number(list[i + 1])];
    const to: number = below === undefined ? skip : below - skip - 1;
    const from = to - count + 1;
    if (!(Number.isSafeInteger(from) && from >= 1 && count >= 1 && to < (below ?? Infinity))) return;
    if (to < since) return;
    yield { from, to };
    below = from;
  }
}
