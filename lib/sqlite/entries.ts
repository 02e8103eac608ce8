/**
 * Rooms and members as the tables keep them: as little as possible, since there may be millions. Rows are made of them
 * when they are asked for.
 */
import { Buffer } from "node:buffer";
import { toRevision, toSequence } from "./rows.js";
import type { KeyRow, MemberRow, RoomRow } from "./rows.js";
import { ShardedMap } from "./sharded-map.js";

/** What is kept as text: an array costs some 300 bytes beside what it holds, and text a few. */
const SHORT_BYTES = 1024;

/** Bytes that nobody changes: short ones as text, each character a byte. */
type KeptBytes = string | Uint8Array;

/** Short bytes become text in this buffer: a buffer for each would cost more than the text. */
let scratch: Buffer | undefined;

function kept(bytes: Uint8Array): KeptBytes {
  if (bytes.length > SHORT_BYTES) return bytes;
  scratch ??= Buffer.alloc(SHORT_BYTES);
  scratch.set(bytes);
  return scratch.toString("latin1", 0, bytes.length);
}

function restored(bytes: KeptBytes): Uint8Array {
  if (typeof bytes !== "string") return bytes;
  const array = new Uint8Array(bytes.length);
  Buffer.from(array.buffer).write(bytes, "latin1");
  return array;
}

/** Of the flags of a member. */
const OWNER = 1;
const JOINED = 2;
/** Of those of a room. */
const ENCRYPTED = 1;
const REKEY_REQUIRED = 2;

export class RoomEntry {
  readonly ordinal: number;
  readonly id: string;
  readonly members = new MembersOfRoom();
  #name: string;
  #owner: string;
  #flags: number;
  #epoch: number;
  readonly #createdAt: number;
  #sequence: number;

  constructor(row: RoomRow) {
    this.ordinal = row.ordinal;
    this.id = row.id;
    this.#name = row.name;
    this.#owner = row.owner;
    this.#flags = flagsOf(row);
    this.#epoch = row.epoch;
    this.#createdAt = row.createdAt;
    this.#sequence = toSequence(row.revision);
  }

  /** Takes over what may change of a room. */
  update(row: RoomRow): void {
    this.#name = row.name;
    this.#owner = this.members.get(row.owner)?.endpoint ?? row.owner;
    this.#flags = flagsOf(row);
    this.#epoch = row.epoch;
    this.#sequence = toSequence(row.revision);
  }

  get owner(): string {
    return this.#owner;
  }

  get row(): RoomRow {
    return {
      ordinal: this.ordinal,
      id: this.id,
      name: this.#name,
      encrypted: (this.#flags & ENCRYPTED) !== 0,
      owner: this.#owner,
      epoch: this.#epoch,
      rekeyRequired: (this.#flags & REKEY_REQUIRED) !== 0,
      createdAt: this.#createdAt,
      revision: toRevision(this.#sequence),
    };
  }

  /** As it is now, with its members and their keys, for whoever reads it later. */
  snapshot(): RoomEntry {
    const copy = new RoomEntry(this.row);
    for (const member of this.members.all()) copy.members.add(member.snapshot(copy));
    return copy;
  }

  /** The same text is kept once. */
  shareOwner(endpoint: string): void {
    if (endpoint === this.#owner) this.#owner = endpoint;
  }
}

function flagsOf({ encrypted, rekeyRequired }: RoomRow): number {
  return (encrypted ? ENCRYPTED : 0) | (rekeyRequired ? REKEY_REQUIRED : 0);
}

interface KeptKey {
  readonly epoch: number;
  readonly createdAt: number;
  readonly sealed: KeptBytes;
}

export class MemberEntry {
  readonly room: RoomEntry;
  readonly endpoint: string;
  #flags: number;
  #invitedBy: string | undefined;
  #publicKey: KeptBytes | undefined;
  #since: number;
  #sequence: number;
  /** One, or several by epoch. Most members hold few. */
  #keys: KeptKey | KeptKey[] | undefined;

  constructor(room: RoomEntry, endpoint: string, row: MemberRow) {
    this.room = room;
    this.endpoint = endpoint;
    this.#flags = memberFlags(row);
    this.#invitedBy = shared(room, row.invitedBy);
    this.#publicKey = row.publicKey === undefined ? undefined : kept(row.publicKey);
    this.#since = row.since;
    this.#sequence = toSequence(row.revision);
  }

  update(row: MemberRow): void {
    this.#flags = memberFlags(row);
    this.#invitedBy = shared(this.room, row.invitedBy);
    this.#publicKey = row.publicKey === undefined ? undefined : kept(row.publicKey);
    this.#since = row.since;
    this.#sequence = toSequence(row.revision);
  }

  get isOwner(): boolean {
    return (this.#flags & OWNER) !== 0;
  }

  get hasJoined(): boolean {
    return (this.#flags & JOINED) !== 0;
  }

  get row(): MemberRow {
    return {
      roomId: this.room.id,
      endpoint: this.endpoint,
      role: this.isOwner ? "owner" : "member",
      state: this.hasJoined ? "joined" : "invited",
      invitedBy: this.#invitedBy,
      publicKey: this.#publicKey === undefined ? undefined : restored(this.#publicKey),
      since: this.#since,
      revision: toRevision(this.#sequence),
    };
  }

  get keyCount(): number {
    return Array.isArray(this.#keys) ? this.#keys.length : this.#keys === undefined ? 0 : 1;
  }

  /** As it is now, for whoever reads it later. Nothing that it holds is copied. */
  snapshot(room: RoomEntry): MemberEntry {
    const copy = new MemberEntry(room, this.endpoint, NO_ROW);
    copy.#flags = this.#flags;
    copy.#invitedBy = this.#invitedBy;
    copy.#publicKey = this.#publicKey;
    copy.#since = this.#since;
    copy.#sequence = this.#sequence;
    copy.#keys = Array.isArray(this.#keys) ? [...this.#keys] : this.#keys;
    return copy;
  }

  /** By epoch, ascending. */
  get keys(): KeyRow[] {
    return this.#list().map((key) => this.#keyRow(key));
  }

  /** Without an epoch the highest. */
  key(epoch?: number): KeyRow | undefined {
    const keys = this.#list();
    const found = epoch === undefined ? keys.at(-1) : keys[placeOf(keys, epoch)];
    return found === undefined || (epoch !== undefined && found.epoch !== epoch) ? undefined : this.#keyRow(found);
  }

  hasKey(epoch: number): boolean {
    const keys = this.#list();
    return keys[placeOf(keys, epoch)]?.epoch === epoch;
  }

  setKey(row: KeyRow): void {
    const key: KeptKey = { epoch: row.epoch, createdAt: row.createdAt, sealed: kept(row.sealed) };
    if (this.#keys === undefined) {
      this.#keys = key;
      return;
    }
    const keys = this.#list();
    const place = placeOf(keys, row.epoch);
    keys.splice(place, keys[place]?.epoch === row.epoch ? 1 : 0, key);
    this.#keys = keys.length === 1 ? key : keys;
  }

  #list(): KeptKey[] {
    if (this.#keys === undefined) return [];
    return Array.isArray(this.#keys) ? this.#keys : [this.#keys];
  }

  #keyRow({ epoch, createdAt, sealed }: KeptKey): KeyRow {
    return { roomId: this.room.id, endpoint: this.endpoint, epoch, sealed: restored(sealed), createdAt };
  }
}

/** What a copy begins with, before it takes over the rest. */
const NO_ROW: MemberRow = {
  roomId: "",
  endpoint: "",
  role: "member",
  state: "invited",
  invitedBy: undefined,
  publicKey: undefined,
  since: 0,
  revision: "0",
};

function memberFlags({ role, state }: MemberRow): number {
  return (role === "owner" ? OWNER : 0) | (state === "joined" ? JOINED : 0);
}

/** Whoever invites is mostly a member too: then the text is kept once. */
function shared(room: RoomEntry, endpoint: string | undefined): string | undefined {
  return endpoint === undefined ? undefined : (room.members.get(endpoint)?.endpoint ?? endpoint);
}

/** The first place whose epoch is not below this one: mostly the last, or behind it. */
function placeOf(keys: readonly KeptKey[], epoch: number): number {
  let low = 0;
  let high = keys.length;
  const last = keys.at(-1);
  if (last === undefined || last.epoch < epoch) return high;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((keys[middle]?.epoch ?? Infinity) < epoch) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Up to so many are searched one by one: a map or a set costs some 150 bytes, and a list hardly more than it holds. */
const FEW = 8;

/** The members of a room by endpoint. Many rooms have one. */
export class MembersOfRoom {
  #held: MemberEntry | readonly MemberEntry[] | Map<string, MemberEntry> | undefined;

  get(endpoint: string): MemberEntry | undefined {
    const held = this.#held;
    if (held instanceof Map) return held.get(endpoint);
    if (held instanceof MemberEntry) return held.endpoint === endpoint ? held : undefined;
    return held?.find((member) => member.endpoint === endpoint);
  }

  add(member: MemberEntry): void {
    const held = this.#held;
    if (held instanceof Map) {
      held.set(member.endpoint, member);
      return;
    }
    const all = withMember(listOf(held), member);
    if (all.length === 1) this.#held = member;
    else this.#held = all.length <= FEW ? all : new Map(all.map((each) => [each.endpoint, each]));
  }

  delete(endpoint: string): void {
    const held = this.#held;
    if (held instanceof Map) held.delete(endpoint);
    else this.#held = listOf(held).filter((member) => member.endpoint !== endpoint);
  }

  get count(): number {
    return this.#held instanceof Map ? this.#held.size : listOf(this.#held).length;
  }

  all(): readonly MemberEntry[] {
    return this.#held instanceof Map ? [...this.#held.values()] : listOf(this.#held);
  }
}

function listOf(held: MemberEntry | readonly MemberEntry[] | undefined): readonly MemberEntry[] {
  if (held === undefined) return [];
  return held instanceof MemberEntry ? [held] : held;
}

/** Not by spreading, which leaves room for as many again as most lists ever hold. */
function withMember(members: readonly MemberEntry[], member: MemberEntry): readonly MemberEntry[] {
  return members.concat(member);
}

/** Each endpoint's memberships. Derived from the members, so that it cannot disagree with them. */
export class Memberships {
  readonly #of = new ShardedMap<MemberEntry | readonly MemberEntry[] | Set<MemberEntry>>();

  of(endpoint: string): readonly MemberEntry[] {
    const held = this.#of.get(endpoint);
    return held instanceof Set ? [...held] : listOf(held);
  }

  /** Makes a membership of the row. The endpoint's text is kept once. */
  add(room: RoomEntry, row: MemberRow): MemberEntry {
    const held = this.#of.get(row.endpoint);
    if (held === undefined) {
      const first = new MemberEntry(room, row.endpoint, row);
      this.#of.set(first.endpoint, first);
      return first;
    }
    const member = new MemberEntry(room, endpointOf(held) ?? row.endpoint, row);
    if (held instanceof Set) {
      held.add(member);
      return member;
    }
    const all = withMember(listOf(held), member);
    this.#of.set(member.endpoint, all.length <= FEW ? all : new Set(all));
    return member;
  }

  delete(member: MemberEntry): void {
    const { endpoint } = member;
    const held = this.#of.get(endpoint);
    if (held instanceof Set) {
      held.delete(member);
      if (held.size === 0) this.#of.delete(endpoint);
      return;
    }
    const rest = listOf(held).filter((each) => each !== member);
    if (rest.length === 0) this.#of.delete(endpoint);
    else this.#of.set(endpoint, rest);
  }
}

function endpointOf(held: MemberEntry | readonly MemberEntry[] | ReadonlySet<MemberEntry>): string | undefined {
  if (held instanceof MemberEntry) return held.endpoint;
  for (const { endpoint } of held) return endpoint;
  return undefined;
}
