/**
 * The barriers and fences of one store in one bucket. Each has a key. Once one is acknowledged, the next takes its key
 * and so supersedes it. That leaves a gap in the log. So each lists where those before it stood: a reader of the log
 * finds every one of them, or a later one that lists it.
 */
import { randomBytes } from "node:crypto";
import type { Json } from "./json.js";
import type { BucketName, Seq } from "./seq.js";
import { SequenceWindow } from "./sequence-window.js";
import type { Range } from "./sequence-window.js";

/** How many groups of keys a bucket has. Two stores of one group are right too, but make gaps for each other. */
const GROUPS = 64;
/** How many keys a group has: more than one store has under way. They have two tokens, which no record's key has. */
const KEYS = 512;
/**
 * How many sequences of the log a barrier lists, one bit for each. Where several stores prove thousands of records a
 * second, that is a tenth of a second: several times what a read of the log takes.
 */
const WINDOW = 2048;
/**
 * Once in so many sequences one lists many more, for stores that did not read for a while. It keeps its key until the
 * next such one.
 */
const LONG_EVERY = 1024;
const LONG_WINDOW = 65_536;
const PREFIX = "barrier.";

export const isBarrier = (key: string): boolean => key.startsWith(PREFIX);

export class OwnBarriers<B extends BucketName> {
  /** Tells this store's barriers from those of another with the same key. */
  readonly #id = randomBytes(6).toString("base64url");
  #stood = new SequenceWindow();
  /** While frozen: those that were acknowledged before. */
  #before: SequenceWindow | undefined;
  #group = newGroup("");
  /** Keys of the group with nothing under way, the last used at the end. */
  #free: string[] = [];
  #made = 0;
  #last: { readonly key: string; readonly seq: Seq<B> } | undefined;
  #isFrozen = false;
  #spared: string | undefined;
  #list: Json | undefined;
  /** The newest acknowledged barrier with a long list, which goes up to `top`. */
  #long: { readonly key: string; readonly top: number } | undefined;
  #nextLong: { readonly key: string; readonly top: number } | undefined;

  /** The next barrier. Nobody gets its key again until {@link add} or {@link unsent} tells what became of it. */
  take(): { readonly key: string; readonly value: string } {
    const key = this.#freeKey();
    const { top } = this.#stood;
    let list = (this.#list ??= this.#stood.list(WINDOW));
    // If the last long one is never heard of, another follows.
    if (top - Math.max(this.#long?.top ?? 0, this.#nextLong?.top ?? 0) >= LONG_EVERY) {
      this.#nextLong = { key, top };
      list = this.#stood.list(LONG_WINDOW);
    }
    return { key, value: JSON.stringify({ k: key, s: this.#id, ...list }) };
  }

  #freeKey(): string {
    // While frozen, the last barrier is still looked for by its key.
    const looked = this.#isFrozen ? this.#last?.key : undefined;
    for (let i = this.#free.length - 1; i >= 0; i--) {
      if (this.#free[i] !== looked && this.#free[i] !== this.#spared)
        return this.#free.splice(i, 1)[0] ?? this.#freeKey();
    }
    // All keys are under way, or were never heard of again: so it is while a cluster is cut.
    if (this.#made === KEYS) this.part();
    return `${this.#group}-${String(this.#made++)}`;
  }

  /** The message of this key is looked for: nothing may supersede it. */
  spare(key: string | undefined): void {
    this.#spared = key;
  }

  /** The newest acknowledged one. Its key stays in the log, even if another store writes it. */
  get last(): { readonly key: string; readonly seq: Seq<B> } | undefined {
    return this.#last;
  }

  /** Whether a message is one of this store's. */
  isOwn(value: Json): boolean {
    return value["s"] === this.#id;
  }

  /**
   * Notes one that was acknowledged, and no other: one that was not heard of may stand elsewhere, and a record that
   * stands in its place would be passed over.
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
   * The one of this key was surely not stored. One that was never heard of keeps its key: it may be stored late, and
   * none would list it.
   */
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

  /** Another log may be there: nothing of the old one is listed any more. */
  clear(): void {
    this.#stood.clear();
    this.#listAnew();
  }

  /**
   * Until {@link thaw}, another log may be there: what is acknowledged meanwhile may stand in that one. Only the last
   * one of before tells whether the log is the same, and until then none of those before is listed.
   */
  freeze(): void {
    this.#before ??= this.#stood;
    this.#isFrozen = true;
    this.#stood = new SequenceWindow();
    this.#list = undefined;
  }

  /**
   * The log is the same, up to `seq`. If it was `isUnbroken`, what was acknowledged since stands in it too. Else that
   * may stand in a log that was there meanwhile, and something else stands at its place in this one.
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

  /** Another log is there. */
  forget(): void {
    this.clear();
    this.#before = undefined;
    this.#isFrozen = false;
    this.#last = undefined;
    this.part();
  }

  /** A barrier was read from the log. If another store has the same key, this one takes other keys. */
  met(key: string, value: Json): void {
    if (this.#isOfGroup(key) && !this.isOwn(value)) this.part();
  }

  /** Takes another group of keys: another store in this group would supersede barriers before anybody reads them. */
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
