/**
 * The users by key. What most checks need of a user stands beside its key in one block of bytes, and the index is so
 * small that a processor's cache holds it for a million users: a check then waits for the memory once or twice. A `Map`
 * of rows makes it wait some nine times: for its bucket, its entries, the keys that share the bucket, and the row.
 */
import { randomInt } from "node:crypto";
import type { UserFacts } from "../rules.js";
import { Misfit } from "./rows.js";
import type { UserRow } from "./rows.js";

/** Entries begin at multiples of this many bytes, which an address counts. */
const UNIT_BYTES = 16;
const CHUNK_BITS = 17;
const CHUNK_UNITS = 1 << CHUNK_BITS;
/** A slot has the address of an entry and, above it, bits of its key's hash, so that few entries are looked at in vain. */
const ADDRESS_BITS = 27;
const ADDRESS = 2 ** ADDRESS_BITS - 1;
/** Of a slot that is empty: no entry stands there. */
const NONE = 0;

/** An entry: what kind of user it is, the length of the key less 1, its hash and the row's index (4 bytes each), the key. */
const LENGTH_AT = 1;
const HASH_AT = 2;
const INDEX_AT = 6;
const KEY_AT = 10;
const MAX_KEY = 256;

/** What stands for the rest of a user: its row has to be asked. */
const OTHER = 0;
const ACTIVE_MEMBER = 1;
const ACTIVE_ADMIN = 2;

const activeMember: UserFacts = Object.freeze({ role: "member", status: "active" });
const activeAdmin: UserFacts = Object.freeze({ role: "admin", status: "active" });

function kindOf({ status, expiresAt, role }: UserRow): number {
  if (status !== "active" || expiresAt !== undefined) return OTHER;
  return role === "admin" ? ACTIVE_ADMIN : ACTIVE_MEMBER;
}

/** Keys are 1 to 256 characters of ASCII, as the argument checks leave them. No user ever goes. */
export class UserTable {
  /** Which keys meet in one slot differs from store to store. */
  readonly #seed = randomInt(2 ** 31);
  /** By hash, with open addressing. At most half of the slots are in use. */
  #slots = new Uint32Array(64);
  /** The first is never used, so that {@link NONE} is no entry's address. */
  readonly #chunks: Uint8Array[] = [new Uint8Array(0)];
  #end = CHUNK_UNITS;
  readonly #rows: UserRow[] = [];

  get(key: string): UserRow | undefined {
    const address = this.#find(key, this.#hash(key));
    return address === NONE ? undefined : this.#row(address);
  }

  /** What the rules need to know of the user. Anything may be asked for: who is not a key is nobody. */
  facts(key: string): UserFacts | undefined {
    if (typeof key !== "string" || key.length > MAX_KEY) return undefined;
    const address = this.#find(key, this.#hash(key));
    if (address === NONE) return undefined;
    switch (this.#chunk(address)[offsetOf(address)] ?? OTHER) {
      case ACTIVE_MEMBER:
        return activeMember;
      case ACTIVE_ADMIN:
        return activeAdmin;
      default:
        return this.#row(address);
    }
  }

  /** Puts a user in, and answers the row that was there. */
  set(row: UserRow): UserRow | undefined {
    const hash = this.#hash(row.key);
    const address = this.#find(row.key, hash);
    if (address === NONE) {
      this.#add(row, hash);
      return undefined;
    }
    const before = this.#row(address);
    const chunk = this.#chunk(address);
    const at = offsetOf(address);
    this.#rows[read32(chunk, at + INDEX_AT)] = row;
    chunk[at] = kindOf(row);
    return before;
  }

  #add(row: UserRow, hash: number): void {
    const { key } = row;
    if (key.length < 1 || key.length > MAX_KEY) throw new Misfit("a key of this length is no user's");
    const units = Math.ceil((KEY_AT + key.length) / UNIT_BYTES);
    const room = this.#chunks.length * CHUNK_UNITS - this.#end;
    const address = room < units ? this.#chunks.length * CHUNK_UNITS : this.#end;
    if (address + units > ADDRESS) throw new RangeError("The keys of all users are too long together");
    if (room < units) this.#chunks.push(new Uint8Array(CHUNK_UNITS * UNIT_BYTES));
    this.#end = address + units;

    const chunk = this.#chunk(address);
    const at = offsetOf(address);
    chunk[at] = kindOf(row);
    chunk[at + LENGTH_AT] = key.length - 1;
    write32(chunk, at + HASH_AT, hash);
    write32(chunk, at + INDEX_AT, this.#rows.length);
    for (let i = 0; i < key.length; i++) {
      const unit = key.charCodeAt(i);
      // A byte would hold a part of it, and be taken for another character.
      if (unit > 0x7f) throw new Misfit("a key that is not ASCII is no user's");
      chunk[at + KEY_AT + i] = unit;
    }
    this.#rows.push(row);
    if (this.#rows.length * 2 > this.#slots.length) this.#grow();
    fill(this.#slots, hash, address);
  }

  #grow(): void {
    const twice = new Uint32Array(this.#slots.length * 2);
    for (const slot of this.#slots) {
      const address = slot & ADDRESS;
      if (address !== NONE) fill(twice, read32(this.#chunk(address), offsetOf(address) + HASH_AT), address);
    }
    this.#slots = twice;
  }

  /** The address of the user's entry, or {@link NONE}. */
  #find(key: string, hash: number): number {
    const mark = hash >>> ADDRESS_BITS;
    const slots = this.#slots;
    const mask = slots.length - 1;
    for (let at = hash & mask; ; at = (at + 1) & mask) {
      const slot = slots[at] ?? NONE;
      if (slot === NONE) return NONE;
      if (slot >>> ADDRESS_BITS === mark && this.#isOf(slot & ADDRESS, key)) return slot & ADDRESS;
    }
  }

  /** Every character counts: keys of one hash are not one user. */
  #isOf(address: number, key: string): boolean {
    const chunk = this.#chunk(address);
    const at = offsetOf(address);
    if (chunk[at + LENGTH_AT] !== key.length - 1) return false;
    // The last first, so that the memory brings all of the entry at once.
    const last = key.length - 1;
    if (chunk[at + KEY_AT + last] !== key.charCodeAt(last)) return false;
    for (let i = 0; i < key.length; i++) {
      if (chunk[at + KEY_AT + i] !== key.charCodeAt(i)) return false;
    }
    return true;
  }

  #hash(key: string): number {
    let hash = this.#seed;
    let i = 0;
    for (const end = key.length - 3; i < end; i += 4) {
      const four = key.charCodeAt(i) | (key.charCodeAt(i + 1) << 8) | (key.charCodeAt(i + 2) << 16) | (key.charCodeAt(i + 3) << 24);
      hash = mixed(hash, four);
    }
    for (; i < key.length; i++) hash = mixed(hash, key.charCodeAt(i));
    hash ^= key.length;
    hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
    return (hash ^ (hash >>> 16)) >>> 0;
  }

  #chunk(address: number): Uint8Array {
    const chunk = this.#chunks[address >>> CHUNK_BITS];
    if (chunk === undefined) throw new RangeError("An address without a chunk");
    return chunk;
  }

  #row(address: number): UserRow | undefined {
    return this.#rows[read32(this.#chunk(address), offsetOf(address) + INDEX_AT)];
  }
}

/** In its chunk. */
function offsetOf(address: number): number {
  return (address & (CHUNK_UNITS - 1)) * UNIT_BYTES;
}

/** MurmurHash3, the one of 32 bits: weaker ones let keys meet that differ in a running number. */
function mixed(hash: number, four: number): number {
  const scaled = Math.imul(four, 0xcc9e2d51);
  const bits = hash ^ Math.imul((scaled << 15) | (scaled >>> 17), 0x1b873593);
  return (Math.imul((bits << 13) | (bits >>> 19), 5) + 0xe6546b64) | 0;
}

function fill(slots: Uint32Array, hash: number, address: number): void {
  const mask = slots.length - 1;
  let at = hash & mask;
  while (slots[at] !== NONE) at = (at + 1) & mask;
  slots[at] = ((hash >>> ADDRESS_BITS) << ADDRESS_BITS) | address;
}

function read32(bytes: Uint8Array, at: number): number {
  return ((bytes[at] ?? 0) | ((bytes[at + 1] ?? 0) << 8) | ((bytes[at + 2] ?? 0) << 16) | ((bytes[at + 3] ?? 0) << 24)) >>> 0;
}

function write32(bytes: Uint8Array, at: number, value: number): void {
  for (let i = 0; i < 4; i++) bytes[at + i] = value >>> (8 * i);
}
