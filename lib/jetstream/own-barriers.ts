/**
 * The barriers and fences of one store in one bucket. Each has a key, which the next one takes once it was acknowledged, and
 * then supersedes it. That leaves a gap in the log, so that each tells where those before it stood. So whoever reads the log
 * up to any moment finds each of them, or one that tells where it stood.
 */
import { randomBytes } from "node:crypto";
import type { Json } from "./json.js";
import { SequenceWindow } from "./sequence-window.js";
import type { Range } from "./sequence-window.js";

/** So many groups of keys a bucket has. Two stores with one group are right, too, but make gaps for each other. */
const GROUPS = 64;
/** So many keys has a group, of two tokens, as no record has: more than barriers and fences of one store are under way at a time. */
const KEYS = 512;
/**
 * How far back a barrier tells, in sequences of the log: one bit for each. Where several stores prove thousands of records a second, each
 * on its own, that is a tenth of a second, and several times what a look at the log takes.
 */
const WINDOW = 2048;
/** Every so often one tells of many more, and keeps its key until the next of its kind: for stores that did not look for a while. */
const LONG_EVERY = 1024;
const LONG_WINDOW = 65_536;
const PREFIX = "barrier.";

export const isBarrier = (key: string): boolean => key.startsWith(PREFIX);

export class OwnBarriers {
  /** Tells this store's barriers from those of another with the same key. */
  readonly #id = randomBytes(6).toString("base64url");
  #stood = new SequenceWindow();
  /** Those of before the log became unsure. */
  #before: SequenceWindow | undefined;
  #group = newGroup("");
  /** Keys of the group that nothing is under way to, those that were used last at the end. */
  #free: string[] = [];
  #made = 0;
  #last: { readonly key: string; readonly seq: number } | undefined;
  #isFrozen = false;
  #spared: string | undefined;
  #list: Json | undefined;
  /** The newest that tells of many was acknowledged, and told of all up to there. */
  #long: { readonly key: string; readonly top: number } | undefined;
  #nextLong: { readonly key: string; readonly top: number } | undefined;

  /** The next barrier, whose key nobody gets until it is told by {@link add} or {@link unsent} what became of it. */
  take(): { readonly key: string; readonly value: string } {
    const key = this.#freeKey();
    const { top } = this.#stood;
    let list = (this.#list ??= this.#stood.list(WINDOW));
    // One that is never heard of is followed by another.
    if (top - Math.max(this.#long?.top ?? 0, this.#nextLong?.top ?? 0) >= LONG_EVERY) {
      this.#nextLong = { key, top };
      list = this.#stood.list(LONG_WINDOW);
    }
    return { key, value: JSON.stringify({ k: key, s: this.#id, ...list }) };
  }

  #freeKey(): string {
    // The last one is still looked for.
    const looked = this.#isFrozen ? this.#last?.key : undefined;
    for (let i = this.#free.length - 1; i >= 0; i--) {
      if (this.#free[i] !== looked && this.#free[i] !== this.#spared)
        return this.#free.splice(i, 1)[0] ?? this.#freeKey();
    }
    // All of them are under way, or were never heard of again, as happens while a cluster is cut.
    if (this.#made === KEYS) this.part();
    return `${this.#group}-${String(this.#made++)}`;
  }

  /** The message of that key is looked for: nothing may take its place. */
  spare(key: string | undefined): void {
    this.#spared = key;
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
    this.#list = undefined;
    if (key === this.#nextLong?.key) {
      const before = this.#long?.key;
      this.#long = this.#nextLong;
      this.#nextLong = undefined;
      if (before !== undefined) this.unsent(before);
    } else {
      this.unsent(key);
    }
  }

  /** It was surely not stored. What was never heard of keeps its key: it may be stored late, and nothing would tell of it. */
  unsent(key: string): void {
    if (key === this.#nextLong?.key) this.#nextLong = undefined;
    if (this.#isOfGroup(key)) this.#free.push(key);
  }

  hasAll(from: number, to: number): boolean {
    return this.#stood.hasAll(from, to);
  }

  /** Ranges that stand at or above a sequence. */
  since(seq: number): Iterable<Range> {
    return this.#stood.since(seq);
  }

  /** What was known of the log may not be of this one: nothing is told of it any more. */
  clear(): void {
    this.#stood.clear();
    this.#listAnew();
  }

  /**
   * Whether the log is the one that is known has to be looked at. What is acknowledged from here on may stand in another: only
   * the last one of before tells whether it does, and until then nothing is told of those before.
   */
  freeze(): void {
    this.#before ??= this.#stood;
    this.#isFrozen = true;
    this.#stood = new SequenceWindow();
    this.#list = undefined;
  }

  /**
   * The log is known again, up to a sequence. What was acknowledged since then is of it too if nothing can have come between: else it may
   * stand in one that was there meanwhile, and something else at its place in this one.
   */
  thaw(seq: number, isUnbroken: boolean): void {
    const before = this.#before;
    if (before === undefined) return;
    this.#isFrozen = false;
    this.#before = undefined;
    before.dropAbove(seq);
    if (isUnbroken)
      for (const { from, to } of this.#stood.since(0)) for (let own = from; own <= to; own++) before.add(own);
    this.#stood = before;
    this.#listAnew();
  }

  /** The log is another one. */
  forget(): void {
    this.clear();
    this.#before = undefined;
    this.#isFrozen = false;
    this.#last = undefined;
    this.part();
  }

  /** A barrier was met in the log. Where it is another store's with the same key, the two part. */
  met(key: string, value: Json): void {
    if (this.#isOfGroup(key) && !this.isOwn(value)) this.part();
  }

  /** Takes another group: of this one may be another store too, whose barriers nobody sees before these supersede them. */
  part(): void {
    this.#group = newGroup(this.#group);
    this.#free = [];
    this.#made = 0;
    this.#long = this.#nextLong = undefined;
  }

  #listAnew(): void {
    this.#list = undefined;
    const key = this.#long?.key;
    this.#long = this.#nextLong = undefined;
    if (key !== undefined) this.unsent(key);
  }

  #isOfGroup(key: string): boolean {
    return key.startsWith(this.#group) && key[this.#group.length] === "-";
  }
}

function newGroup(before: string): string {
  const group = PREFIX + String(randomBytes(1).readUInt8() % GROUPS);
  return group === before ? newGroup(before) : group;
}
