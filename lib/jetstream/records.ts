/**
 * What stands in the buckets: the keys, the values, and how they are read. Ids of callers are single tokens, as unpadded
 * base64url; ids of ours (incarnations, memberships, attempts) are random and stand in the keys, so that nothing
 * that belongs to one is ever taken for another's.
 */
import { Buffer } from "node:buffer";
import { randomBytes } from "node:crypto";
import { StoreError } from "../errors.js";
import type { Member, Room, User } from "../store.js";
import type { Json } from "./json.js";
import type { Entry } from "./entry.js";
import type { UserFacts } from "../rules.js";

export const token = (id: string): string => Buffer.from(id, "utf8").toString("base64url");
export const untoken = (text: string): string => Buffer.from(text, "base64url").toString("utf8");

/** An id of ours: 96 random bits. */
export const newId = (): string => randomBytes(12).toString("base64url");

/** Not a character of base64url, and so never the token of an id. */
const RESERVED_TOKEN = "=";

export const keys = {
  room: (roomId: string): string => `room.${token(roomId)}`,

  member: (roomId: string, endpoint: string, roster: string): string => `${token(roomId)}.${token(endpoint)}.${roster}`,
  memberOfAny: (roomId: string, endpoint: string): string => `${token(roomId)}.${token(endpoint)}.>`,
  members: (roomId: string, roster: string): string => `${token(roomId)}.*.${roster}`,
  membersMark: (roomId: string, roster: string): string => `${token(roomId)}.${RESERVED_TOKEN}.${roster}`,

  hint: (endpoint: string, roomId: string, incarnation: string, membership: string): string =>
    `${token(endpoint)}.${token(roomId)}.${incarnation}.${membership}`,
  hints: (endpoint: string): string => `${token(endpoint)}.>`,
  hintsMark: (endpoint: string): string => `${token(endpoint)}.${RESERVED_TOKEN}`,
  hintsOfRoom: (roomId: string, incarnation: string): string => `*.${token(roomId)}.${incarnation}.*`,

  roomHint: (roomId: string, incarnation: string): string => `${RESERVED_TOKEN}.${token(roomId)}.${incarnation}`,
  roomHints: `${RESERVED_TOKEN}.>`,
  roomHintsMark: `${RESERVED_TOKEN}.${RESERVED_TOKEN}`,

  roomKey: (at: MembershipRef, epoch: number, attempt: string): string => `${holder(at)}.${String(epoch)}.${attempt}`,
  roomKeys: (at: MembershipRef): string => `${holder(at)}.>`,
  roomKeysMark: (at: MembershipRef): string => `${holder(at)}.${RESERVED_TOKEN}`,
  /** Of whatever incarnation and membership, and of whatever epoch where none is named. */
  roomKeysOfEndpoint: (roomId: string, endpoint: string, epoch: number | undefined): string =>
    `key.${token(roomId)}.${token(endpoint)}.${epoch === undefined ? ">" : `*.*.${String(epoch)}.*`}`,
  roomKeysOfAttempt: (roomId: string, incarnation: string, epoch: number, attempt: string): string =>
    `key.${token(roomId)}.*.${incarnation}.*.${String(epoch)}.${attempt}`,
  roomKeysOfRoom: (roomId: string, incarnation: string): string => `key.${token(roomId)}.*.${incarnation}.>`,
  epoch: (roomId: string, incarnation: string, epoch: number): string =>
    `epoch.${token(roomId)}.${incarnation}.${String(epoch)}`,
  epochs: (roomId: string, incarnation: string): string => `epoch.${token(roomId)}.${incarnation}.>`,
  epochsMark: (roomId: string, incarnation: string): string =>
    `epoch.${token(roomId)}.${incarnation}.${RESERVED_TOKEN}`,

  user: (key: string): string => `user.${token(key)}`,
  admins: "admins",
} as const;

/** Whose keys: a membership, of an incarnation of a room. */
export interface MembershipRef {
  readonly roomId: string;
  readonly endpoint: string;
  readonly incarnation: string;
  readonly membership: string;
}

const holder = (at: MembershipRef): string =>
  `key.${token(at.roomId)}.${token(at.endpoint)}.${at.incarnation}.${at.membership}`;

/** What an index entry is for. `undefined`: not one, as the mark of a long list is not. */
export function parseHint(key: string): MembershipRef | undefined {
  const [endpoint, room, incarnation, membership, ...more] = key.split(".");
  if (
    endpoint === undefined ||
    room === undefined ||
    incarnation === undefined ||
    membership === undefined ||
    more.length > 0
  ) {
    return undefined;
  }
  return { endpoint: untoken(endpoint), roomId: untoken(room), incarnation, membership };
}

/**
 * Which room an entry of the index of all rooms is for. It has fewer tokens than a member's, and stands where no endpoint's
 * does, so that a version of the library which knows no such entries leaves it alone.
 */
export function parseRoomHint(key: string): { readonly roomId: string; readonly incarnation: string } | undefined {
  const [mark, room, incarnation, ...more] = key.split(".");
  if (mark !== RESERVED_TOKEN || room === undefined || incarnation === undefined || more.length > 0) return undefined;
  return { roomId: untoken(room), incarnation };
}

/** What a key or an epoch belongs to. `undefined`: neither. */
export function parseKey(key: string):
  | {
      readonly roomId: string;
      readonly incarnation: string;
      readonly membership?: { readonly endpoint: string; readonly id: string };
      readonly made?: { readonly epoch: number; readonly attempt: string };
    }
  | undefined {
  const tokens = key.split(".");
  const [first, second, third, fourth, fifth, sixth, seventh] = tokens;
  if (second === undefined || third === undefined || tokens.includes(RESERVED_TOKEN)) return undefined;
  if (first === "epoch" && tokens.length === 4) return { roomId: untoken(second), incarnation: third };
  if (first === "key" && fourth !== undefined && fifth !== undefined && seventh !== undefined) {
    return {
      roomId: untoken(second),
      incarnation: fourth,
      membership: { endpoint: untoken(third), id: fifth },
      made: { epoch: Number(sixth), attempt: seventh },
    };
  }
  return undefined;
}

/**
 * An id for the rows of a room's members, of the same incarnation. The first is the incarnation's own. A token more, so that a
 * version of the library which knows no other takes the rows for none: it would clear away those of a copy under way.
 */
export const newRoster = (incarnation: string): string => `${incarnation}.${newId()}`;

/** What a member's row belongs to. */
export function parseMember(
  key: string,
): { readonly roomId: string; readonly incarnation: string; readonly roster: string } | undefined {
  const [room, endpoint, incarnation, copy, ...more] = key.split(".");
  if (
    room === undefined ||
    endpoint === undefined ||
    incarnation === undefined ||
    more.length > 0 ||
    endpoint === RESERVED_TOKEN
  )
    return undefined;
  return { roomId: untoken(room), incarnation, roster: copy === undefined ? incarnation : `${incarnation}.${copy}` };
}

/** What every record that is written under a condition tells of its writes, for whoever lost an acknowledgement. */
export interface WriteHistory {
  /** Counts the writes. */
  readonly n: number;
  /** The id of the first write of all. */
  readonly first: string;
  /** The ids of the newest writes, newest first. */
  readonly log: readonly string[];
  /**
   * Where the record stood before, newest first: the newer state says of what is no longer in the log that it was this record.
   * A record that was written before there was this field has none.
   */
  readonly seqs: readonly number[];
}

const LOG = 16;
/** More changes of one record than these between two looks at the log are rare, and only cost a look at the record itself. */
const SEQS = 8;
/** Tells the writes of one record apart, among the last few. */
export const newWrite = (): string => randomBytes(6).toString("base64url");
export const NO_WRITES: WriteHistory = { n: 0, first: "", log: [], seqs: [] };

/** The write after `before`, which stands at `seq` (0: there is none). */
export function appendWrite(before: WriteHistory, seq: number, id: string): WriteHistory {
  return {
    n: before.n + 1,
    first: before.n === 0 ? id : before.first,
    log: [id, ...before.log].slice(0, LOG),
    seqs: seq === 0 ? [] : [seq, ...before.seqs].slice(0, SEQS),
  };
}

/** Whether the write `id`, which followed upon `before`, is the one that the record `now` tells of, or was before it. */
export function includesWrite(now: WriteHistory, before: WriteHistory, id: string): "yes" | "no" | "unknown" {
  if (now.log.includes(id) || now.first === id) return "yes";
  // A write on the condition that there is no record can only have been the first.
  if (before.n === 0) return "no";
  return now.n - before.n > LOG ? "unknown" : "no";
}

/** A membership as of room version `v`. Once a membership is over, its row stays, as `gone`. */
export interface MemberRow {
  readonly id: string;
  readonly v: number;
  /** The number of rows that version `v` has: they are put into the bucket one by one, and count as one. */
  readonly of: number;
  /** The number of members as of version `v`. Rows that were written before there was this field do not say it. */
  readonly members?: number | undefined;
  readonly gone: boolean;
  readonly owner: boolean;
  readonly joined: boolean;
  readonly since: number;
  readonly invitedBy: string | undefined;
  /** base64 */
  readonly publicKey: string | undefined;
}

/** A change of a membership that is committed with the room's record and may not stand in the members bucket yet. */
export interface UnappliedChange {
  readonly endpoint: string;
  /** The sequence of the row that this one follows; 0 if there is none. */
  readonly after: number;
  readonly row: MemberRow;
}

/** A room, and the commit point of everything that happens in it. Its size has a bound. */
export interface RoomRecord extends WriteHistory {
  /**
   * Whether whoever wrote the record knew that the room has an entry in the index of all rooms. A version of the library
   * that knows no such index drops the field, and writes rooms without entries.
   */
  readonly indexed: boolean;
  readonly incarnation: string;
  /** Under which id the members' rows stand. */
  readonly roster: string;
  /** Under which id they are being copied, to be named as the roster then. */
  readonly copying?: string | undefined;
  /** How many rows there were when that began. */
  readonly copyingSince?: number | undefined;
  /** How many rows there are, those of members who are gone included. Not known of a room that was made before they were counted. */
  readonly rows?: number | undefined;
  /** Counts the visible changes of the room and its membership. */
  readonly v: number;
  readonly name: string;
  readonly encrypted: boolean;
  readonly owner: string;
  readonly epoch: number;
  /** The rekey that made the current epoch: its keys, and nobody else's, are the epoch's. */
  readonly attempt: string;
  readonly rekeyRequired: boolean;
  readonly createdAt: number;
  readonly members: number;
  /** Rows of every change before the head are in the members bucket up to this sequence, keys of every epoch in room_keys. */
  readonly membersSeq: number;
  readonly keysSeq: number;
  readonly head: readonly UnappliedChange[];
}

/** The room's record where there is no room: never there (`seq` 0), or deleted. */
export interface RoomSlot {
  readonly seq: number;
  readonly written: WriteHistory;
  readonly record: RoomRecord | undefined;
}

function corrupt(entry: Entry, field: string): StoreError {
  return new StoreError("CORRUPT", `A record is damaged: ${field}`, { details: { key: entry.key, field } });
}

class Fields {
  readonly #json: Json;
  readonly #entry: Entry;

  constructor(json: unknown, entry: Entry) {
    if (typeof json !== "object" || json === null) throw corrupt(entry, "value");
    this.#json = json as Json;
    this.#entry = entry;
  }

  text(name: string): string {
    const value = this.#json[name];
    if (typeof value !== "string") throw corrupt(this.#entry, name);
    return value;
  }

  maybeText(name: string): string | undefined {
    return this.#json[name] === undefined ? undefined : this.text(name);
  }

  number(name: string): number {
    const value = this.#json[name];
    if (typeof value !== "number" || !Number.isFinite(value)) throw corrupt(this.#entry, name);
    return value;
  }

  maybeNumber(name: string): number | undefined {
    return this.#json[name] === undefined ? undefined : this.number(name);
  }

  flag(name: string): boolean {
    const value = this.#json[name];
    if (typeof value !== "boolean") throw corrupt(this.#entry, name);
    return value;
  }

  maybeFlag(name: string): boolean | undefined {
    return this.#json[name] === undefined ? undefined : this.flag(name);
  }

  list(name: string): readonly unknown[] {
    const value = this.#json[name];
    if (!Array.isArray(value)) throw corrupt(this.#entry, name);
    return value;
  }

  maybe(name: string): Fields | undefined {
    return this.#json[name] === undefined ? undefined : new Fields(this.#json[name], this.#entry);
  }

  written(): WriteHistory {
    const seqs = this.#json["seqs"] === undefined ? [] : this.list("seqs").map(Number);
    return { n: this.number("n"), first: this.text("first"), log: this.list("log").map(String), seqs };
  }
}

function memberRow(fields: Fields): MemberRow {
  return {
    id: fields.text("id"),
    v: fields.number("v"),
    of: fields.number("of"),
    members: fields.maybeNumber("members"),
    gone: fields.flag("gone"),
    owner: fields.flag("owner"),
    joined: fields.flag("joined"),
    since: fields.number("since"),
    invitedBy: fields.maybeText("invitedBy"),
    publicKey: fields.maybeText("publicKey"),
  };
}

export interface StoredMember {
  readonly row: MemberRow;
  readonly seq: number;
}

export function readMember(entry: Entry): StoredMember {
  return { row: memberRow(new Fields(entry.value, entry)), seq: entry.seq };
}

export function readRoom(entry: Entry | undefined): RoomSlot {
  if (entry === undefined) return { seq: 0, written: NO_WRITES, record: undefined };
  const fields = new Fields(entry.value, entry);
  const written = fields.written();
  if (fields.flag("gone")) return { seq: entry.seq, written, record: undefined };
  const incarnation = fields.maybeText("life") ?? fields.text("incarnation");
  return {
    seq: entry.seq,
    written,
    record: {
      // One by one: a literal that begins with a spread is several times slower to make, and rooms are read all the time.
      n: written.n,
      first: written.first,
      log: written.log,
      seqs: written.seqs,
      indexed: fields.maybeFlag("indexed") ?? false,
      incarnation,
      roster: fields.maybeText("roster") ?? incarnation,
      copying: fields.maybeText("copying"),
      copyingSince: fields.maybeNumber("copyingSince"),
      rows: fields.maybeNumber("rows"),
      v: fields.number("v"),
      name: fields.text("name"),
      encrypted: fields.flag("encrypted"),
      owner: fields.text("owner"),
      epoch: fields.number("epoch"),
      attempt: fields.text("attempt"),
      rekeyRequired: fields.flag("rekeyRequired"),
      createdAt: fields.number("createdAt"),
      members: fields.number("members"),
      membersSeq: fields.number("membersSeq"),
      keysSeq: fields.number("keysSeq"),
      head: fields.list("head").map((item) => {
        const head = new Fields(item, entry);
        const row = head.maybe("row");
        if (row === undefined) throw corrupt(entry, "row");
        return { endpoint: head.text("endpoint"), after: head.number("after"), row: memberRow(row) };
      }),
    },
  };
}

/**
 * A version of the library that does not know rosters would drop the field, and with it the members. So where the roster is
 * not the first one, the record has no `incarnation`, without which that version takes it for damaged and leaves it alone.
 */
export function writeRoom(record: RoomRecord): Json {
  const { incarnation, ...others } = record;
  return record.roster === incarnation ? { gone: false, ...record } : { gone: false, life: incarnation, ...others };
}

/** What stays of a deleted room: its sequence keeps every attempt of before from being committed. */
export function writeTombstone(written: WriteHistory): Json {
  return { gone: true, ...written };
}

export interface KeyRow {
  readonly sealed: Uint8Array;
  readonly createdAt: number;
  readonly write: string;
}

export function readKey(entry: Entry): KeyRow {
  const fields = new Fields(entry.value, entry);
  return {
    sealed: new Uint8Array(Buffer.from(fields.text("sealed"), "base64")),
    createdAt: fields.number("createdAt"),
    write: fields.text("write"),
  };
}

export function writeKey(sealed: Uint8Array, createdAt: number, write: string): Json {
  return { sealed: base64(sealed), createdAt, write };
}

export function readEpoch(entry: Entry): string {
  return new Fields(entry.value, entry).text("attempt");
}

export const base64 = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("base64");

/** A user as callers see it. */
export interface UserRow {
  readonly key: string;
  readonly v: number;
  readonly admin: boolean;
  readonly revokedAt: number | undefined;
  readonly name: string;
  readonly createdAt: number;
  readonly expiresAt: number | undefined;
  /**
   * Counts what was taken away from the user, so that two states between which something was differ in it. Never more than `v`.
   * A version of the library that does not know it drops it: then `v` counts, which is more than any number before.
   */
  readonly grant: number;
}

/** A change that counts once the guard names its attempt. While the guard is still at `guard`, that can come. */
export interface StagedChange {
  readonly attempt: string;
  readonly guard: number;
}

/** What the rules need to know of a user. */
export const factsOf = (user: UserRow): UserFacts => ({
  role: user.admin ? "admin" : "member",
  status: user.revokedAt === undefined ? "active" : "revoked",
  expiresAt: user.expiresAt,
});

export interface UserRecord extends WriteHistory {
  readonly user: UserRow | undefined;
  readonly stage: StagedChange | undefined;
}

export interface UserSlot {
  readonly seq: number;
  readonly record: UserRecord;
}

/** An admin among those whose time lasts longest. `until` is `undefined` where it does not run out. */
export interface LongestAdmin {
  readonly key: string;
  readonly until: number | undefined;
}

/** The one record that every change of an active admin goes through. Its size has a bound. */
export interface Guard extends WriteHistory {
  /** Any user is, or was, an admin. */
  readonly ever: boolean;
  /** Active admins, also those whose time has run out. */
  readonly admins: number;
  /** Those whose time lasts longest, longest first: no other admin lasts longer than the last of them. */
  readonly witnesses: readonly LongestAdmin[];
  /** The change that this record committed. It may not stand in the user's record yet, which is at sequence `seq`. */
  readonly head: { readonly attempt: string; readonly seq: number; readonly user: UserRow } | undefined;
}

export interface GuardSlot {
  readonly seq: number;
  readonly guard: Guard;
}

function userRow(fields: Fields): UserRow {
  return {
    key: fields.text("key"),
    v: fields.number("v"),
    admin: fields.flag("admin"),
    revokedAt: fields.maybeNumber("revokedAt"),
    name: fields.text("name"),
    createdAt: fields.number("createdAt"),
    expiresAt: fields.maybeNumber("expiresAt"),
    grant: fields.maybeNumber("grant") ?? fields.number("v"),
  };
}

/** Reads each record once: one that is kept is looked at by check after check. */
function once<T>(read: (entry: Entry) => T): (entry: Entry) => T {
  const known = new WeakMap<Entry, T>();
  return (entry) => {
    let found = known.get(entry);
    if (found === undefined) {
      found = read(entry);
      known.set(entry, found);
    }
    return found;
  };
}

const NO_USER: UserSlot = { seq: 0, record: { ...NO_WRITES, user: undefined, stage: undefined } };

export const readUser = (entry: Entry | undefined): UserSlot => (entry === undefined ? NO_USER : userSlot(entry));

const userSlot = once((entry): UserSlot => {
  const fields = new Fields(entry.value, entry);
  const user = fields.maybe("user");
  const stage = fields.maybe("stage");
  const { n, first, log, seqs } = fields.written();
  const record: UserRecord = {
    n,
    first,
    log,
    seqs,
    user: user === undefined ? undefined : userRow(user),
    stage: stage === undefined ? undefined : { attempt: stage.text("attempt"), guard: stage.number("guard") },
  };
  return {
    get seq() {
      return entry.seq;
    },
    record,
  };
});

const NO_GUARD: GuardSlot = { seq: 0, guard: { ...NO_WRITES, ever: false, admins: 0, witnesses: [], head: undefined } };

export const readGuard = (entry: Entry | undefined): GuardSlot => (entry === undefined ? NO_GUARD : guardSlot(entry));

const guardSlot = once((entry): GuardSlot => {
  const fields = new Fields(entry.value, entry);
  const head = fields.maybe("head");
  const headUser = head?.maybe("user");
  const { n, first, log, seqs } = fields.written();
  return {
    get seq() {
      return entry.seq;
    },
    guard: {
      n,
      first,
      log,
      seqs,
      ever: fields.flag("ever"),
      admins: fields.number("admins"),
      witnesses: fields.list("witnesses").map((item) => {
        const witness = new Fields(item, entry);
        return { key: witness.text("key"), until: witness.maybeNumber("until") };
      }),
      head:
        head === undefined || headUser === undefined
          ? undefined
          : { attempt: head.text("attempt"), seq: head.number("seq"), user: userRow(headUser) },
    },
  };
});

/** A record as JSON: fields that are `undefined` are left out. */
export const toJson = (record: object): Json => record as Json;

export function toRoom(id: string, record: RoomRecord): Room {
  return {
    id,
    name: record.name,
    encrypted: record.encrypted,
    owner: record.owner,
    epoch: record.epoch,
    rekeyRequired: record.rekeyRequired,
    createdAt: new Date(record.createdAt),
    revision: `${record.incarnation}.${String(record.v)}`,
  };
}

export function toMember(roomId: string, endpoint: string, incarnation: string, row: Omit<MemberRow, "of">): Member {
  return {
    roomId,
    endpoint,
    role: row.owner ? "owner" : "member",
    state: row.joined ? "joined" : "invited",
    ...(row.invitedBy === undefined ? {} : { invitedBy: row.invitedBy }),
    ...(row.publicKey === undefined ? {} : { publicKey: new Uint8Array(Buffer.from(row.publicKey, "base64")) }),
    since: new Date(row.since),
    revision: `${incarnation}.${String(row.v)}`,
  };
}

export function toUser(row: UserRow): User {
  return {
    key: row.key,
    role: row.admin ? "admin" : "member",
    status: row.revokedAt === undefined ? "active" : "revoked",
    name: row.name,
    createdAt: new Date(row.createdAt),
    ...(row.revokedAt === undefined ? {} : { revokedAt: new Date(row.revokedAt) }),
    ...(row.expiresAt === undefined ? {} : { expiresAt: new Date(row.expiresAt) }),
    revision: String(row.v),
  };
}
