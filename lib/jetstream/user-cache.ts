/**
 * What checks need of users that were read, in some 50 bytes each: a key of hex digits as a number, the sequence of its
 * record, and what it allows. A user with another kind of key, a time that runs out, or a change under way is kept as
 * an object beside the tables.
 */
import { randomBytes } from "node:crypto";
import { MAX_KEY_CHARS } from "../arguments.js";
import type { UserFacts } from "../rules.js";
import type { Cache, Known } from "./exact-cache.js";
import type { Entry } from "./entry.js";
import { keys, type Key } from "./keys.js";
import { unlessCorrupt } from "./record-fields.js";
import { later, type Seq } from "./seq.js";
import { factsOf, readGuard, readUser, type GuardSlot, type UserSlot } from "./user-record.js";

/** What a check needs of a record of the bucket `users`. */
export interface UserState {
  /** `undefined`: there is no user. */
  readonly facts: UserFacts | undefined;
  /** The record, while a change is staged in it. The guard says whether that counts. */
  readonly slot?: UserSlot;
  /** The guard's record, if this is its state. */
  readonly guard?: GuardSlot;
}

const PREFIX = keys.user("");

/** Digits of a key that is kept as a number: those of an Ed25519 key. */
const DIGITS = 64;
/** An entry, in words of 32 bits: the key, where the record stands (two words), the generation, what it allows. */
const KEY_WORDS = DIGITS / 8;
const SEQ = KEY_WORDS;
const GENERATION = SEQ + 2;
const KIND = GENERATION + 1;
const ENTRY_WORDS = KIND + 1;
const ENTRY_BYTES = ENTRY_WORDS * 4;

/** 0: no entry. */
const ACTIVE_MEMBER = 1;
const ACTIVE_ADMIN = 2;
const REVOKED_MEMBER = 3;
const REVOKED_ADMIN = 4;
const ABSENT = 5;

const STATES: readonly (UserState | undefined)[] = [
  undefined,
  Object.freeze({ facts: Object.freeze({ role: "member", status: "active" }) }),
  Object.freeze({ facts: Object.freeze({ role: "admin", status: "active" }) }),
  Object.freeze({ facts: Object.freeze({ role: "member", status: "revoked" }) }),
  Object.freeze({ facts: Object.freeze({ role: "admin", status: "revoked" }) }),
  Object.freeze({ facts: undefined }),
] satisfies readonly (UserState | undefined)[];

function kindOf({ facts, slot, guard }: UserState): number | undefined {
  if (slot !== undefined || guard !== undefined) return undefined;
  if (facts === undefined) return ABSENT;
  if (facts.expiresAt !== undefined) return undefined;
  const isAdmin = facts.role === "admin";
  if (facts.status === "active") return isAdmin ? ACTIVE_ADMIN : ACTIVE_MEMBER;
  return isAdmin ? REVOKED_ADMIN : REVOKED_MEMBER;
}

export function stateOf(entry: Entry<"users">): UserState {
  if (entry.key === keys.admins) return { facts: undefined, guard: readGuard(entry) };
  const slot = readUser(entry);
  const { stage, user } = slot.record;
  const facts: UserFacts | undefined = user === undefined ? undefined : factsOf(user);
  return stage === undefined ? { facts } : { facts, slot };
}

/**
 * How many tables there are, by the first bits of the hash. So an addition moves at most one of them, and one at a time
 * is given up.
 */
const SHARDS = 1024;
const SHARD_SHIFT = 22;
const MIN_CAPACITY = 8;
/** A table that is this full grows by this factor. */
const FULL = 0.8;
const GROWTH = 1.35;
/** With less than this nothing is kept: every addition would only push out the rest. */
const MIN_BYTES = 64 * 1024;
/** About what an object beside takes, with its key. */
const OBJECT_BYTES = 400;

class Shard {
  capacity = MIN_CAPACITY;
  words = new Int32Array(MIN_CAPACITY * ENTRY_WORDS);
  count = 0;

  /** The place of the entry, or the free place where it would be. */
  find(key: Int32Array, hash: number): number {
    let at = (((hash & 0xffff) * this.capacity) >>> 16) * ENTRY_WORDS;
    while (this.words[at + KIND] !== 0 && !this.#isOf(at, key)) {
      at += ENTRY_WORDS;
      if (at === this.words.length) at = 0;
    }
    return at;
  }

  #isOf(at: number, key: Int32Array): boolean {
    for (let i = 0; i < KEY_WORDS; i++) if (this.words[at + i] !== key[i]) return false;
    return true;
  }

  /** The highest sequence at which one of its records stands. */
  highest(): Seq<"users"> {
    let highest: Seq<"users"> = 0;
    for (let at = 0; at < this.words.length; at += ENTRY_WORDS) {
      if (this.words[at + KIND] !== 0) highest = later(highest, seqAt(this.words, at));
    }
    return highest;
  }

  /** Makes room for one more. Answers the bytes that it takes. */
  grow(hashOf: (key: Int32Array) => number): number {
    if (this.count < this.capacity * FULL) return 0;
    const { words } = this;
    const before = this.capacity;
    this.capacity = Math.ceil(before * GROWTH);
    this.words = new Int32Array(this.capacity * ENTRY_WORDS);
    for (let from = 0; from < words.length; from += ENTRY_WORDS) {
      if (words[from + KIND] === 0) continue;
      const entry = words.subarray(from, from + ENTRY_WORDS);
      this.words.set(entry, this.find(entry, hashOf(entry)));
    }
    return (this.capacity - before) * ENTRY_BYTES;
  }
}

export class UserCache implements Cache<"users", UserState> {
  readonly #maxBytes: number;
  readonly #seed = randomBytes(4).readInt32LE();
  readonly #shards: (Shard | undefined)[] = new Array<Shard | undefined>(SHARDS);
  /** By the records' keys. Includes whatever is in the bucket and is no user. */
  readonly #objects = new Map<Key<"users">, Known<"users", UserState>>();
  readonly #packed = new Int32Array(KEY_WORDS);
  #bytes = 0;
  onForget: ((seq: Seq<"users">) => void) | undefined;

  /** Beyond `maxBytes` what was kept is forgotten, one part at a time. */
  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  get(recordKey: Key<"users">): Known<"users", UserState> | undefined {
    // Nobody has both an entry and an object. Nearly everybody has an entry, so that is looked at first.
    return (this.#pack(recordKey) ? this.#entry() : undefined) ?? this.#objects.get(recordKey);
  }

  /**
   * The same by the user's key: making the record's key would take longer than the look itself. What is no key names
   * nobody.
   */
  user(key: string): Known<"users", UserState> | undefined {
    if (typeof (key as unknown) !== "string" || key.length > MAX_KEY_CHARS) return undefined;
    return (this.#packDigits(key) ? this.#entry() : undefined) ?? this.#objects.get(keys.user(key));
  }

  put(entry: Entry<"users">, generation: number): void {
    if (this.#maxBytes < MIN_BYTES) return;
    const { key, seq } = entry;
    const value = unlessCorrupt(() => stateOf(entry));
    if (value === undefined) {
      // Whoever asks for it is told that it is damaged, and nobody else.
      this.#forget(key);
      this.onForget?.(seq);
      return;
    }
    const kind = kindOf(value);
    if (kind === undefined || !this.#pack(key)) {
      this.#forget(key);
      this.#objects.set(key, { value, seq, generation: generation });
      this.#bytes += OBJECT_BYTES;
    } else {
      if (this.#objects.delete(key)) this.#bytes -= OBJECT_BYTES;
      this.#pack(key);
      this.#set(kind, seq, generation);
    }
    this.#shrink();
  }

  renew(recordKey: Key<"users">, generation: number): void {
    const object = this.#objects.get(recordKey);
    if (object !== undefined) {
      this.#objects.set(recordKey, { ...object, generation: generation });
      return;
    }
    const found = this.#find(recordKey);
    if (found !== undefined && found.shard.words[found.at + KIND] !== 0)
      found.shard.words[found.at + GENERATION] = generation;
  }

  clear(): void {
    this.#shards.fill(undefined);
    this.#objects.clear();
    this.#bytes = 0;
  }

  /** Its size in bytes, as near as can be told. */
  get bytes(): number {
    return this.#bytes;
  }

  #set(kind: number, seq: Seq<"users">, generation: number): void {
    const hash = hashOf(this.#packed, this.#seed);
    const number = hash >>> SHARD_SHIFT;
    let shard = this.#shards[number];
    if (shard === undefined) {
      shard = this.#shards[number] = new Shard();
      this.#bytes += MIN_CAPACITY * ENTRY_BYTES;
    }
    this.#bytes += shard.grow((key) => hashOf(key, this.#seed));
    const { words } = shard;
    const at = shard.find(this.#packed, hash);
    if (words[at + KIND] === 0) shard.count++;
    words.set(this.#packed, at);
    words[at + SEQ] = seq % 2 ** 32;
    words[at + SEQ + 1] = Math.floor(seq / 2 ** 32);
    words[at + GENERATION] = generation;
    words[at + KIND] = kind;
  }

  /** Forgets the entry: it says what was before. From now on this user has an object. */
  #forget(recordKey: Key<"users">): void {
    if (this.#objects.delete(recordKey)) this.#bytes -= OBJECT_BYTES;
    const found = this.#find(recordKey);
    if (found === undefined || found.shard.words[found.at + KIND] === 0) return;
    // The other entries of the table have to be found without it.
    const { words } = found.shard;
    words[found.at + KIND] = 0;
    const shard = new Shard();
    this.#bytes += (MIN_CAPACITY - found.shard.capacity) * ENTRY_BYTES;
    for (let from = 0; from < words.length; from += ENTRY_WORDS) {
      if (words[from + KIND] === 0) continue;
      this.#bytes += shard.grow((key) => hashOf(key, this.#seed));
      const entry = words.subarray(from, from + ENTRY_WORDS);
      shard.words.set(entry, shard.find(entry, hashOf(entry, this.#seed)));
      shard.count++;
    }
    this.#shards[hashOf(this.#packed, this.#seed) >>> SHARD_SHIFT] = shard;
  }

  #find(recordKey: Key<"users">): { readonly shard: Shard; readonly at: number } | undefined {
    return this.#pack(recordKey) ? this.#place() : undefined;
  }

  /** The place of the key that was packed last. */
  #place(): { readonly shard: Shard; readonly at: number } | undefined {
    const hash = hashOf(this.#packed, this.#seed);
    const shard = this.#shards[hash >>> SHARD_SHIFT];
    return shard === undefined ? undefined : { shard, at: shard.find(this.#packed, hash) };
  }

  #entry(): Known<"users", UserState> | undefined {
    const found = this.#place();
    if (found === undefined) return undefined;
    const { at } = found;
    const { words } = found.shard;
    const value = STATES[words[at + KIND] ?? 0];
    return value === undefined ? undefined : { value, seq: seqAt(words, at), generation: words[at + GENERATION] ?? 0 };
  }

  /** Not a loop of digits within one of words: that takes half as long again. */
  #packDigits(key: string): boolean {
    if (key.length !== DIGITS) return false;
    const packed = this.#packed;
    let all = 0;
    for (let word = 0, at = 0; word < KEY_WORDS; word++, at += 8) {
      const a = digitAt(key, at);
      const b = digitAt(key, at + 1);
      const c = digitAt(key, at + 2);
      const d = digitAt(key, at + 3);
      const e = digitAt(key, at + 4);
      const f = digitAt(key, at + 5);
      const g = digitAt(key, at + 6);
      const h = digitAt(key, at + 7);
      all |= a | b | c | d | e | f | g | h;
      packed[word] = (a << 28) | (b << 24) | (c << 20) | (d << 16) | (e << 12) | (f << 8) | (g << 4) | h;
    }
    return all < 16;
  }

  /**
   * Whether the key is one of 64 hex digits. If so, packs their number. The record's key has it in base64url, four
   * characters for three.
   */
  #pack(recordKey: Key<"users">): boolean {
    if (recordKey.length !== RECORD_KEY_LENGTH || !recordKey.startsWith(PREFIX)) return false;
    const packed = this.#packed;
    packed.fill(0);
    let bits = 0;
    let held = 0;
    let digits = 0;
    for (let i = PREFIX.length; i < RECORD_KEY_LENGTH; i++) {
      const value = VALUES[recordKey.charCodeAt(i)] ?? INVALID;
      if (value === INVALID) return false;
      held = ((held << 6) | value) & 0xfff;
      bits += 6;
      if (bits < 8) continue;
      bits -= 8;
      const digit = DIGIT[(held >>> bits) & 0xff] ?? INVALID;
      if (digit === INVALID) return false;
      const word = digits++ >>> 3;
      packed[word] = ((packed[word] ?? 0) << 4) | digit;
    }
    return digits === DIGITS;
  }

  /** What is given up is read again when somebody asks for it. */
  #shrink(): void {
    for (
      let at = randomBytes(2).readUInt16LE() % SHARDS, left = SHARDS;
      this.#bytes > this.#maxBytes && left > 0;
      at = (at + 1) % SHARDS, left--
    ) {
      const shard = this.#shards[at];
      if (shard !== undefined) {
        this.#shards[at] = undefined;
        this.#bytes -= shard.capacity * ENTRY_BYTES;
        this.onForget?.(shard.highest());
      }
      // The guard stays: every check of an admin needs it.
      for (const [key, { seq }] of this.#objects) {
        if (key === keys.admins) continue;
        this.#objects.delete(key);
        this.#bytes -= OBJECT_BYTES;
        this.onForget?.(seq);
        break;
      }
    }
  }
}

const INVALID = 0xff;
/** The values of characters: of base64url, and of hex digits. */
const VALUES = valuesOf("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_");
const DIGIT = valuesOf("0123456789abcdef");
const RECORD_KEY_LENGTH = keys.user("0".repeat(DIGITS)).length;

function seqAt(words: Int32Array, at: number): Seq<"users"> {
  return (((words[at + SEQ] ?? 0) >>> 0) + (words[at + SEQ + 1] ?? 0) * 2 ** 32) as Seq<"users">;
}

/** MurmurHash3's mixing of the key's words. Keys with the same hash are told apart by all of their digits. */
function hashOf(key: Int32Array, seed: number): number {
  let hash = seed;
  for (let i = 0; i < KEY_WORDS; i++) {
    const scaled = Math.imul(key[i] ?? 0, 0xcc9e2d51);
    hash ^= Math.imul((scaled << 15) | (scaled >>> 17), 0x1b873593);
    hash = (Math.imul((hash << 13) | (hash >>> 19), 5) + 0xe6546b64) | 0;
  }
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}

const digitAt = (key: string, at: number): number => DIGIT[key.charCodeAt(at)] ?? INVALID;

function valuesOf(characters: string): Uint8Array {
  const values = new Uint8Array(256).fill(INVALID);
  for (let i = 0; i < characters.length; i++) values[characters.charCodeAt(i)] = i;
  return values;
}
