/**
 * The barriers and fences of one store in one bucket. Each has a key. Once one is acknowledged, the next one takes its
 * key and supersedes it, which leaves a gap in the log. So each barrier lists where the earlier ones were. A reader of
 * the log finds every barrier, or a later one that lists it.
 */
import { randomBytes } from "node:crypto";
import type { Json } from "./json.js";
import type { BucketName, Seq } from "./seq.js";
import { SequenceWindow } from "./sequence-window.js";
import type { Range } from "./sequence-window.js";

/** How many groups of keys a bucket has. Two stores with the same keys still work, but make gaps for each other. */
const GROUPS = 64;
/** How many keys a group has: more than one store has under way. They have two tokens, as no record's key has. */
const KEYS = 512;
/** Where in its group a store may begin: stores that share a group seldom share keys. */
const PLACES = 16;
/**
 * How many sequences of the log a barrier lists, one bit for each. Where several stores prove thousands of records a
 * second, that is a tenth of a second: several times what a read of the log takes.
 */
const WINDOW = 2048;
/**
 * Once in this many sequences a barrier has a long list, for stores that did not read for a while. It keeps its key
 * until the next long one.
 */
const LONG_EVERY = 1024;
const LONG_WINDOW = 65_536;
/** Stores of format 1 have others: so a stream can take the barriers of those alone that know of fences. */
export const BARRIERS = "proof.";
const OLD_BARRIERS = "barrier.";

export const isBarrier = (key: string): boolean => key.startsWith(BARRIERS) || key.startsWith(OLD_BARRIERS);

export class OwnBarriers<B extends BucketName> {
  /** Tells this store's barriers from those of another with the same key. */
  readonly #id = randomBytes(6).toString("base64url");
  #stood = new SequenceWindow();
  /** While frozen: barriers that were acknowledged before. */
  #before: SequenceWindow | undefined;
  #group = newGroup("");
  /** The number of its first key. */
  #first = newPlace();
  /** Free keys of the group, the last used one at the end. */
  #free: string[] = [];
  #made = 0;
  #last: { readonly key: string; readonly seq: Seq<B> } | undefined;
  #isFrozen = false;
  #spared: string | undefined;
  #list: Json | undefined;
  /** The newest acknowledged barrier with a long list, which goes up to `top`. */
  #long: { readonly key: string; readonly top: number } | undefined;
  #nextLong: { readonly key: string; readonly top: number } | undefined;

  /** The next barrier. Its key is free again once {@link add} or {@link unsent} tells what became of it. */
  take(): { readonly key: string; readonly value: string } {
    const key = this.#freeKey();
    const { top } = this.#stood;
    let list = (this.#list ??= this.#stood.list(WINDOW));
    // If nothing is heard of the last long one, another follows.
    if (top - Math.max(this.#long?.top ?? 0, this.#nextLong?.top ?? 0) >= LONG_EVERY) {
      this.#nextLong = { key, top };
      list = this.#stood.list(LONG_WINDOW);
    }
    return { key, value: JSON.stringify({ k: key, s: this.#id, ...list }) };
  }

  #freeKey(): string {
    // While frozen, the last barrier's key stays free: readers still look for that barrier.
    const looked = this.#isFrozen ? this.#last?.key : undefined;
    for (let i = this.#free.length - 1; i >= 0; i--) {
      if (this.#free[i] !== looked && this.#free[i] !== this.#spared)
        return this.#free.splice(i, 1)[0] ?? this.#freeKey();
    }
    // All keys are under way, or were never answered, as while a cluster is cut.
    if (this.#made === KEYS) this.part();
    const key = `${this.#group}-${String((this.#first + this.#made++) % KEYS)}`;
    return key === this.#spared ? this.#freeKey() : key;
  }

  /** The log is known by the message at this key. Nothing of this store supersedes it, nor seems to in another log. */
  spare(key: string): void {
    this.#spared = key;
  }

  /** The newest acknowledged barrier. Its key stays in the log, even if another store writes to it. */
  get last(): { readonly key: string; readonly seq: Seq<B> } | undefined {
    return this.#last;
  }

  /** Whether a message is a barrier of this store. */
  isOwn(value: Json): boolean {
    return value["s"] === this.#id;
  }

  /**
   * Notes an acknowledged barrier. Never note one without an answer: it may be elsewhere, and then a record at its
   * assumed place would be skipped.
   */
  add(seq: Seq<B>, key: string): void {
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

  /**
   * The barrier at this key was surely not stored. One without an answer keeps its key: it may be stored late, and no
   * other would list it.
   */
  unsent(key: string): void {
    if (key === this.#nextLong?.key) this.#nextLong = undefined;
    if (this.#isMade(key)) this.#free.push(key);
  }

  hasAll(from: number, to: number): boolean {
    return this.#stood.hasAll(from, to);
  }

  /** Ranges at or above a sequence. */
  since(seq: number): Iterable<Range> {
    return this.#stood.since(seq);
  }

  /** There may be another log now, so nothing of the old one is listed any more. */
  clear(): void {
    this.#stood.clear();
    this.#listAnew();
  }

  /**
   * Until {@link thaw}, there may be another log, and what is acknowledged meanwhile may be in that one. Only the last
   * barrier from before tells whether the log is the same. Until then none from before is listed.
   */
  freeze(): void {
    this.#before ??= this.#stood;
    this.#isFrozen = true;
    this.#stood = new SequenceWindow();
    this.#list = undefined;
  }

  /**
   * The log is the same, up to `seq`. If it was `isUnbroken`, it also holds what was acknowledged since. Otherwise that
   * may be in a log that existed meanwhile, and this one has something else in its place.
   */
  thaw(seq: Seq<B>, isUnbroken: boolean): void {
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

  /** There is another log now. */
  forget(): void {
    this.clear();
    this.#before = undefined;
    this.#isFrozen = false;
    this.#last = undefined;
    this.part();
  }

  /** A barrier was read from the log. If another store uses a key of this store, this store changes to others. */
  met(key: string, value: Json): void {
    if (this.#isMade(key) && !this.isOwn(value)) this.part();
  }

  /** Takes other keys: another store at these would supersede barriers before anybody has read them. */
  part(): void {
    this.#group = newGroup(this.#group);
    this.#first = newPlace();
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

  /** Whether it is one of the keys that this store has taken of its group. */
  #isMade(key: string): boolean {
    const number = Number(key.slice(this.#group.length + 1));
    return key.startsWith(`${this.#group}-`) && (number - this.#first + KEYS) % KEYS < this.#made;
  }
}

const newPlace = (): number => (randomBytes(1).readUInt8() % PLACES) * (KEYS / PLACES);

function newGroup(before: string): string {
  const group = BARRIERS + String(randomBytes(1).readUInt8() % GROUPS);
  return group === before ? newGroup(before) : group;
}
