/**
 * The users by key. An entry holds the key and what most checks need of its user, so that a check waits for the memory
 * once, however many users there are. A `Map` of rows makes it wait some nine times: for its bucket, its entries, the
 * keys that share the bucket, and the row.
 *
 * The entries are in blocks, by the first bits of their keys' hashes (extendible hashing): no addition moves more than
 * one block, where one large table would hold up every check while it grows.
 */
import { randomInt } from "node:crypto";
import type { UserFacts } from "../rules.js";
import { finished, mixed } from "./murmur.js";
import { InconsistentState } from "./rows.js";
import type { UserRow } from "./rows.js";

/** An entry, in words of 32 bits: what kind of user it is and how long the key, its hash, the row's index, the key. */
const HASH = 1;
const INDEX = 2;
const KEY = 3;
/** As many characters as the usual keys have; what a longer one has beyond them is compared in its row. */
const KEY_CHARS = 64;
const ENTRY_WORDS = KEY + KEY_CHARS / 4;
const MAX_KEY = 256;

/** In the first word, beside the kind: 0, so that no entry is where none begins. */
const LENGTH_SHIFT = 8;
const KIND_MASK = 0xff;
/** What stands for the rest of a user: its row has to be asked. */
const OTHER = 0;
const ACTIVE_MEMBER = 1;
const ACTIVE_ADMIN = 2;

/** Of entries. A block that would have to be larger is split. */
const MIN_BLOCK = 16;
const MAX_BLOCK = 16_384;
/** A block grows, or is split, when it is as full as this; */
const FULL = 0.75;
/** what it becomes is as full as this, */
const GROWN = 0.5;
/** and a block of a table that was made for its users as this. */
const RESERVED = 0.65;
/** A hash has so many bits to tell blocks by. */
const MAX_DEPTH = 20;

const activeMember: UserFacts = Object.freeze({ role: "member", status: "active" });
const activeAdmin: UserFacts = Object.freeze({ role: "admin", status: "active" });

function kindOf({ status, expiresAt, role }: UserRow): number {
  if (status !== "active" || expiresAt !== undefined) return OTHER;
  return role === "admin" ? ACTIVE_ADMIN : ACTIVE_MEMBER;
}

/** Entries whose hashes begin with the same `depth` bits: by the bits at their other end, with open addressing. */
class Block {
  readonly depth: number;
  readonly capacity: number;
  readonly words: Int32Array;
  count = 0;

  constructor(depth: number, capacity: number) {
    this.depth = depth;
    this.capacity = capacity;
    this.words = new Int32Array(capacity * ENTRY_WORDS);
  }

  /** Where a search for the hash begins. */
  first(hash: number): number {
    return (((hash & 0xffff) * this.capacity) >>> 16) * ENTRY_WORDS;
  }

  next(at: number): number {
    const next = at + ENTRY_WORDS;
    return next === this.words.length ? 0 : next;
  }

  /** A place for an entry, whose first word is then to be set. */
  place(hash: number): number {
    let at = this.first(hash);
    while (this.words[at] !== 0) at = this.next(at);
    this.count++;
    return at;
  }

  /** A copy of the other block's entry. */
  copy(other: Block, from: number): void {
    const to = this.place(other.words[from + HASH] ?? 0);
    for (let i = 0; i < ENTRY_WORDS; i++) this.words[to + i] = other.words[from + i] ?? 0;
  }
}

/** Keys are 1 to 256 characters of ASCII, as the argument checks leave them. No user ever goes. */
export class UserTable {
  /** Which keys meet in one place differs from store to store. */
  readonly #seed = randomInt(2 ** 31);
  /** By the first bits of a hash; a block whose entries share fewer bits is there more than once. */
  #blocks: Block[] = [new Block(1, MIN_BLOCK), new Block(1, MIN_BLOCK)];
  #depth = 1;
  readonly #rows: UserRow[] = [];
  /** The beginning of the key that was hashed last, as an entry has it. */
  readonly #asked = new Int32Array(KEY_CHARS / 4);

  /** Makes an empty table one for so many users, so that nothing is moved while they are put in. */
  reserve(users: number): void {
    const entries = Math.max(2 * MIN_BLOCK, users / RESERVED);
    const depth = Math.max(1, Math.min(MAX_DEPTH, Math.ceil(Math.log2(entries / MAX_BLOCK))));
    this.#depth = depth;
    this.#blocks = Array.from({ length: 2 ** depth }, () => new Block(depth, Math.ceil(entries / 2 ** depth)));
  }

  get(key: string): UserRow | undefined {
    const hash = this.#hash(key);
    if (hash === undefined) return undefined;
    const block = this.#block(hash);
    const at = this.#find(block, key, hash);
    return at === undefined ? undefined : this.#row(block, at);
  }

  /** What the rules need to know of the user. Anything may be asked for: who is not a key is nobody. */
  facts(key: string): UserFacts | undefined {
    if (typeof key !== "string" || key.length > MAX_KEY) return undefined;
    const hash = this.#hash(key);
    if (hash === undefined) return undefined;
    const block = this.#block(hash);
    const at = this.#find(block, key, hash);
    if (at === undefined) return undefined;
    switch ((block.words[at] ?? OTHER) & KIND_MASK) {
      case ACTIVE_MEMBER:
        return activeMember;
      case ACTIVE_ADMIN:
        return activeAdmin;
      default:
        return this.#row(block, at);
    }
  }

  /** Puts a user in, and answers the row that was there. */
  set(row: UserRow): UserRow | undefined {
    const { key } = row;
    if (key.length < 1 || key.length > MAX_KEY) throw new InconsistentState("a key of this length is no user's");
    const hash = this.#hash(key);
    if (hash === undefined) throw new InconsistentState("a key that is not ASCII is no user's");
    const block = this.#block(hash);
    const at = this.#find(block, key, hash);
    if (at === undefined) {
      this.#add(block, hash, row);
      return undefined;
    }
    const before = this.#row(block, at);
    block.words[at] = firstWord(row);
    this.#rows[indexOf(block, at)] = row;
    return before;
  }

  #add(block: Block, hash: number, row: UserRow): void {
    const { words } = block;
    const at = block.place(hash);
    words[at] = firstWord(row);
    words[at + HASH] = hash;
    words[at + INDEX] = this.#rows.length;
    for (let i = wordsOf(row.key) - 1; i >= 0; i--) words[at + KEY + i] = this.#asked[i] ?? 0;
    this.#rows.push(row);
    if (block.count > block.capacity * FULL) this.#grow(block, hash);
  }

  /** `hash` is of any entry of the block. */
  #grow(block: Block, hash: number): void {
    const { words } = block;
    if (capacityFor(block.count) <= MAX_BLOCK || block.depth === MAX_DEPTH) {
      const grown = new Block(block.depth, capacityFor(block.count));
      for (let at = 0; at < words.length; at += ENTRY_WORDS) if (words[at] !== 0) grown.copy(block, at);
      this.#put(grown, hash);
      return;
    }
    const depth = block.depth + 1;
    const bit = 2 ** (32 - depth);
    const isOne = (at: number): boolean => ((words[at + HASH] ?? 0) & bit) !== 0;
    // Counted first: whatever falls to each of them, it has room for it.
    let ones = 0;
    for (let at = 0; at < words.length; at += ENTRY_WORDS) if (words[at] !== 0 && isOne(at)) ones++;
    const [zero, one] = [new Block(depth, capacityFor(block.count - ones)), new Block(depth, capacityFor(ones))];
    for (let at = 0; at < words.length; at += ENTRY_WORDS)
      if (words[at] !== 0) (isOne(at) ? one : zero).copy(block, at);
    if (depth > this.#depth) {
      this.#blocks = this.#blocks.flatMap((each) => [each, each]);
      this.#depth = depth;
    }
    this.#put(zero, hash & ~bit);
    this.#put(one, hash | bit);
  }

  /** Puts the block in every place that belongs to it. */
  #put(block: Block, hash: number): void {
    const places = 2 ** (this.#depth - block.depth);
    const first = Math.floor((hash >>> (32 - this.#depth)) / places) * places;
    this.#blocks.fill(block, first, first + places);
  }

  #block(hash: number): Block {
    const block = this.#blocks[hash >>> (32 - this.#depth)];
    if (block === undefined) throw new RangeError("A hash without a block");
    return block;
  }

  /** The user's entry, if the key that was hashed last is one's. */
  #find(block: Block, key: string, hash: number): number | undefined {
    const { words } = block;
    for (let at = block.first(hash); words[at] !== 0; at = block.next(at)) {
      if (words[at + HASH] === hash && this.#isOf(block, at, key)) return at;
    }
    return undefined;
  }

  /** Every character counts: keys of one hash are not one user. */
  #isOf(block: Block, at: number, key: string): boolean {
    const { words } = block;
    if ((words[at] ?? 0) >>> LENGTH_SHIFT !== key.length) return false;
    const used = wordsOf(key);
    for (let i = 0; i < used; i++) {
      if (words[at + KEY + i] !== this.#asked[i]) return false;
    }
    return key.length <= KEY_CHARS || this.#row(block, at)?.key === key;
  }

  #row(block: Block, at: number): UserRow | undefined {
    return this.#rows[indexOf(block, at)];
  }

  /**
   * `undefined` if a character is not ASCII: the words would hold a part of it, and be taken for another character's.
   */
  #hash(key: string): number | undefined {
    const { length } = key;
    let hash = this.#seed;
    let all = 0;
    for (let i = 0; i < length; i += 4) {
      let four = 0;
      if (i + 4 <= length) {
        const [a, b, c, d] = [key.charCodeAt(i), key.charCodeAt(i + 1), key.charCodeAt(i + 2), key.charCodeAt(i + 3)];
        all |= a | b | c | d;
        four = a | (b << 8) | (c << 16) | (d << 24);
      } else {
        for (let at = i; at < length; at++) {
          const unit = key.charCodeAt(at);
          all |= unit;
          four |= unit << (8 * (at - i));
        }
      }
      if (i < KEY_CHARS) this.#asked[i >>> 2] = four;
      hash = mixed(hash, four);
    }
    return all > 0x7f ? undefined : finished(hash, length);
  }
}

function capacityFor(entries: number): number {
  return Math.max(MIN_BLOCK, Math.ceil(entries / GROWN));
}

/** How many words of an entry the key takes. */
function wordsOf(key: string): number {
  return (Math.min(key.length, KEY_CHARS) + 3) >>> 2;
}

/** Of the entry's row. */
function indexOf({ words }: Block, at: number): number {
  const index = words[at + INDEX];
  if (index === undefined) throw new RangeError("A place without an entry");
  return index;
}

function firstWord(row: UserRow): number {
  return kindOf(row) | (row.key.length << LENGTH_SHIFT);
}
