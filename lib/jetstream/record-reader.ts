/**
 * Everything that the buckets hold. Each user, and each room with its members and keys, is read as it stood at one
 * moment, at or after the barriers with which the reading began. Users come in the order of their log, rooms in that of
 * the index of all rooms.
 */
import { Buffer } from "node:buffer";
import type { Call } from "../call.js";
import { isNotFound } from "../errors.js";
import type {
  RecordCounts,
  RecordNames,
  RecordReader,
  StoredKey,
  StoredMember,
  StoredRecord,
  StoredUser,
} from "../driver.js";
import { sortedBy } from "../rules.js";
import { Spool } from "../spool.js";
import type { Entry } from "./entry.js";
import { joinAll, joinBoth } from "./join.js";
import { readEpoch, readKey } from "./key-record.js";
import { keys, parseKey, parseUser, type MembershipRef } from "./keys.js";
import { NameSet } from "./name-set.js";
import { RetryLoop } from "./retry-loop.js";
import type { RoomIndex } from "./room-index.js";
import type { Seq } from "./seq.js";
import { CERTAIN } from "./freshness.js";
import type { RoomLog } from "./room-log.js";
import { holderOf } from "./room-members.js";
import type { RoomMembers, Roster } from "./room-members.js";
import type { MemberRow, RoomRecord } from "./room-record.js";
import type { UserPages } from "./user-pages.js";
import { readUser, type UserRow } from "./user-record.js";
import type { UserViews } from "./user-views.js";

/** How many users, and how many rooms, are read at once. */
const USERS = 500;
const ROOMS = 64;
/** So many members and keys are read at once. Those of a larger room do not stay in memory. */
const AT_ONCE = 512;

/** What whole records are read from. */
export interface Readable {
  readonly userPages: Pick<UserPages, "page">;
  readonly userViews: UserViews;
  readonly log: RoomLog;
  readonly members: RoomMembers;
  readonly index: Pick<RoomIndex, "pageBesideCache">;
}

export interface ReaderFacts {
  readonly expected: RecordCounts;
  readonly adminEver: boolean;
  readonly revisionFloor: number;
}

export class BucketsReader implements RecordReader {
  readonly expected: RecordCounts;
  readonly adminEver: boolean;
  readonly revisionFloor: number;
  readonly #from: Readable;
  readonly #userKeys = new NameSet();
  readonly #roomIds = new NameSet();
  /** A room that is too large for memory. */
  readonly #spool = new Spool<StoredRecord>();
  /** Where the next page begins. `undefined`: there is none. */
  #users: Seq<"users"> | undefined = 0;
  #rooms: Seq<"rooms_by_member"> | undefined = 0;
  /** Rooms of a page that were not read yet. */
  #waiting: { readonly roomId: string; readonly record: RoomRecord }[] = [];

  constructor(from: Readable, { expected, adminEver, revisionFloor }: ReaderFacts) {
    this.#from = from;
    this.expected = expected;
    this.adminEver = adminEver;
    this.revisionFloor = revisionFloor;
  }

  /** Of these rooms alone. */
  static of(from: Readable, rooms: readonly { readonly roomId: string; readonly record: RoomRecord }[]): BucketsReader {
    const expected = { users: 0, rooms: rooms.length, members: 0, roomKeys: 0 };
    const reader = new BucketsReader(from, { expected, adminEver: false, revisionFloor: 0 });
    reader.#users = reader.#rooms = undefined;
    reader.#waiting = [...rooms];
    return reader;
  }

  async next(call: Call): Promise<readonly StoredRecord[] | undefined> {
    for (;;) {
      call.throwIfEnded();
      const spooled = await this.#spool.take();
      if (spooled !== undefined) return spooled;
      const found =
        this.#users !== undefined
          ? await this.#nextUsers(this.#users, call)
          : this.#waiting.length > 0
            ? await this.#nextRooms(call)
            : await this.#nextPage(call);
      if (found === undefined || found.length > 0) return found;
    }
  }

  close(): Promise<void> {
    return this.#spool.close();
  }

  async #nextUsers(after: Seq<"users">, call: Call): Promise<StoredRecord[]> {
    const isUser = ({ key }: Entry<"users">): boolean => parseUser(key) !== undefined;
    const { entries, next } = await this.#from.userPages.page(after, USERS, isUser, call);
    const found: StoredRecord[] = [];
    for (const entry of entries) {
      const { record } = readUser(entry);
      const row =
        record.stage === undefined
          ? record.user
          : (await this.#from.userViews.read(parseUser(entry.key) ?? "", true, "certain", call)).user;
      // A user that was changed meanwhile is met again at its new place.
      if (row !== undefined && this.#userKeys.add(row.key)) found.push({ kind: "user", row: toStored(row) });
    }
    this.#users = next;
    return found;
  }

  /** The next rooms of the index. `undefined`: there are none. */
  async #nextPage(call: Call): Promise<StoredRecord[] | undefined> {
    if (this.#rooms === undefined) return undefined;
    const { rooms, next } = await this.#from.index.pageBesideCache(this.#rooms, ROOMS, call);
    // A room that was deleted and made again meanwhile has another place.
    this.#waiting = rooms.filter(({ roomId }) => this.#roomIds.add(roomId));
    this.#rooms = next;
    return [];
  }

  /** As many rooms as memory may hold, or a large one, which waits in a file. */
  async #nextRooms(call: Call): Promise<readonly StoredRecord[]> {
    let weight = 0;
    const end = this.#waiting.findIndex(({ record }) => (weight += weightOf(record)) > AT_ONCE);
    const rooms = this.#waiting.slice(0, end < 0 ? undefined : Math.max(1, end));
    const [first] = rooms;
    if (rooms.length === 1 && first !== undefined && weightOf(first.record) > AT_ONCE) {
      await this.#spoolRoom(first.roomId, call);
      this.#waiting = this.#waiting.slice(1);
      return [];
    }
    const min = await this.#from.log.buckets.roomKeys.readIndex(call);
    const found = await joinAll(rooms.map(({ roomId }) => this.room(roomId, min, call)));
    this.#waiting = this.#waiting.slice(rooms.length);
    return found.flat();
  }

  /** A room with its members and keys, as of one version. Nothing if the room is deleted by now. */
  async room(roomId: string, min: Seq<"room_keys">, call: Call): Promise<StoredRecord[]> {
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      const roster = await this.#roster(roomId, call);
      if (roster === undefined) return [];
      const { record } = roster.room;
      if (record.epoch === 0) return [...recordsOf(roster, new Map())];
      const filter = keys.roomKeysOfRoom(roomId, record.incarnation);
      const mark = keys.roomKeysOfRoomMark(roomId, record.incarnation);
      const [attempts, stored] = await joinBoth(
        this.#attempts(roomId, record, min, call),
        this.#from.log.buckets.roomKeys.scans.all(filter, mark, min, call, record.members * record.epoch),
      );
      const found = attempts === undefined ? undefined : keysOf(roster, attempts, stored.values());
      if (found !== undefined && (await this.#isWhole(roster, call))) return [...recordsOf(roster, found)];
    }
  }

  /** The same for a large room: a part of its members at a time, into the file. */
  async #spoolRoom(roomId: string, call: Call): Promise<void> {
    const { roomKeys } = this.#from.log.buckets;
    for (const retries = new RetryLoop(call); ;) {
      this.#spool.clear();
      await retries.next();
      const roster = await this.#roster(roomId, call);
      if (roster === undefined) return;
      const { room } = roster;
      const { record } = room;
      const min = await roomKeys.readIndex(call);
      const attempts = await this.#attempts(roomId, record, min, call);
      if (attempts === undefined) continue;
      await this.#spool.put([roomOf(roster)], 0);
      const members = membersOf(roster);
      const most = Math.max(1, Math.floor(AT_ONCE / Math.max(1, record.epoch)));
      for (let i = 0; i < members.length; i += most) {
        call.throwIfEnded();
        const began = performance.now();
        const read = await joinAll(
          members.slice(i, i + most).map(async ([endpoint, row]) => {
            const at = holderOf(room, endpoint, row);
            const stored = record.epoch === 0 ? [] : await this.#keysOfMember(at, min, call);
            const kept = keysOf(roster, attempts, stored).get(endpoint) ?? [];
            return [memberOf(roomId, endpoint, row), ...kept.map(keyRecord)];
          }),
        );
        const records = read.flat();
        await this.#spool.put(records, bytesOf(records));
        // A large room takes long. It is stuck only if nothing goes forward.
        call.extend(performance.now() - began);
      }
      if (await this.#isWhole(roster, call)) return;
    }
  }

  async #keysOfMember(at: MembershipRef, min: Seq<"room_keys">, call: Call): Promise<Iterable<Entry<"room_keys">>> {
    const { roomKeys } = this.#from.log.buckets;
    return (await roomKeys.scans.all(keys.roomKeys(at), keys.roomKeysMark(at), min, call)).values();
  }

  /**
   * The members as of the version of the record that is read with them. `undefined`: there is no such room any more.
   */
  async #roster(roomId: string, call: Call): Promise<Roster<"certain"> | undefined> {
    try {
      for (const retries = new RetryLoop(call); ;) {
        await retries.next();
        const roster = await this.#from.members.roster(roomId, CERTAIN, call);
        if (roster.v === roster.room.record.v) return roster;
      }
    } catch (error) {
      if (isNotFound(error)) return undefined;
      throw error;
    }
  }

  /** The attempt that made each epoch. `undefined`: one is missing, as can be while the room is cleared away. */
  async #attempts(
    roomId: string,
    { incarnation, epoch, attempt }: RoomRecord,
    min: Seq<"room_keys">,
    call: Call,
  ): Promise<ReadonlyMap<number, string> | undefined> {
    const found = new Map<number, string>([[epoch, attempt]]);
    if (epoch <= 1) return found;
    const { roomKeys } = this.#from.log.buckets;
    const [filter, mark] = [keys.epochs(roomId, incarnation), keys.epochsMark(roomId, incarnation)];
    const entries = await roomKeys.scans.all(filter, mark, min, call, epoch);
    for (const entry of entries.values()) {
      const before = Number(entry.key.split(".").at(-1));
      if (before < epoch) found.set(before, readEpoch(entry));
    }
    return found.size === epoch ? found : undefined;
  }

  /** Whether each membership was still there after its keys were read. They are removed with it. */
  async #isWhole({ room, members }: Roster<"certain">, call: Call): Promise<boolean> {
    const { record } = await this.#from.log.records.slot(room.id, "certain", call);
    if (record === undefined || record.incarnation !== room.record.incarnation) return false;
    if (record.v === room.record.v) return true;
    const now = await this.#roster(room.id, call);
    if (now === undefined || now.room.record.incarnation !== room.record.incarnation) return false;
    return [...members].every(([endpoint, { id }]) => now.members.get(endpoint)?.id === id);
  }
}

/** Reads what is named, and no more. A room that is not there is left out, and so is a user. */
export class NamesReader implements RecordReader {
  readonly expected: RecordCounts;
  readonly adminEver = false;
  readonly revisionFloor = 0;
  readonly #from: Readable;
  readonly #users: string[];
  readonly #rooms: BucketsReader;
  /** The first rooms, until they are given. */
  #first: ReturnType<RecordReader["next"]> | undefined;

  private constructor(from: Readable, users: string[], rooms: BucketsReader) {
    this.#from = from;
    this.#users = users;
    this.#rooms = rooms;
    this.expected = { ...rooms.expected, users: users.length };
  }

  static async begin(from: Readable, { users, rooms }: RecordNames, call: Call): Promise<NamesReader> {
    const found = await joinAll(
      rooms.map(async (roomId) => {
        const { record } = await from.log.records.slot(roomId, "certain", call);
        return record === undefined ? [] : [{ roomId, record }];
      }),
    );
    return new NamesReader(from, [...users], BucketsReader.of(from, found.flat()));
  }

  async next(call: Call): Promise<readonly StoredRecord[] | undefined> {
    // Users come first, and the first rooms are read beside.
    while (this.#users.length > 0) {
      const some = this.#users.splice(0, USERS);
      this.#first ??= this.#rooms.next(call);
      const [found] = await joinBoth(
        joinAll(some.map((key) => this.#from.userViews.read(key, false, "certain", call))),
        this.#first,
      );
      const page = found.flatMap(({ user }): StoredRecord[] =>
        user === undefined ? [] : [{ kind: "user", row: toStored(user) }],
      );
      if (page.length > 0) return page;
    }
    const first = this.#first;
    this.#first = undefined;
    return first ?? this.#rooms.next(call);
  }

  close(): Promise<void> {
    return this.#rooms.close();
  }
}

/** How many members and keys a room has, about. */
function weightOf({ members, epoch }: RoomRecord): number {
  return 1 + members * (1 + epoch);
}

function toStored({ key, admin, revokedAt, name, createdAt, expiresAt, grant }: UserRow): StoredUser {
  return {
    key,
    role: admin ? "admin" : "member",
    status: revokedAt === undefined ? "active" : "revoked",
    name,
    createdAt,
    revokedAt,
    expiresAt,
    grant,
  };
}

function membersOf({ members }: Roster<"certain">): [string, MemberRow][] {
  return sortedBy([...members], ([endpoint]) => endpoint);
}

function roomOf({ room: { id, record } }: Roster<"certain">): StoredRecord {
  const { name, encrypted, owner, epoch, rekeyRequired, createdAt } = record;
  return { kind: "room", row: { id, name, encrypted, owner, epoch, rekeyRequired, createdAt } };
}

function memberOf(roomId: string, endpoint: string, row: MemberRow): StoredRecord {
  const member: StoredMember = {
    roomId,
    endpoint,
    role: row.owner ? "owner" : "member",
    state: row.joined ? "joined" : "invited",
    invitedBy: row.invitedBy,
    publicKey: row.publicKey === undefined ? undefined : new Uint8Array(Buffer.from(row.publicKey, "base64")),
    since: row.since,
  };
  return { kind: "member", row: member };
}

const keyRecord = (row: StoredKey): StoredRecord => ({ kind: "key", row });

function* recordsOf(
  roster: Roster<"certain">,
  found: ReadonlyMap<string, readonly StoredKey[]>,
): Iterable<StoredRecord> {
  yield roomOf(roster);
  for (const [endpoint, row] of membersOf(roster)) {
    yield memberOf(roster.room.id, endpoint, row);
    for (const key of found.get(endpoint) ?? []) yield keyRecord(key);
  }
}

/** The keys of each endpoint's membership: for each epoch the one of the attempt that made it. */
function keysOf(
  { room, members }: Roster<"certain">,
  attempts: ReadonlyMap<number, string>,
  entries: Iterable<Entry<"room_keys">>,
): Map<string, StoredKey[]> {
  const found = new Map<string, StoredKey[]>();
  for (const entry of entries) {
    const { membership, made } = parseKey(entry.key) ?? {};
    if (membership === undefined || made === undefined) continue;
    const { endpoint, id } = membership;
    if (members.get(endpoint)?.id !== id || attempts.get(made.epoch) !== made.attempt) continue;
    const { sealed, createdAt } = readKey(entry);
    const key: StoredKey = { roomId: room.id, endpoint, epoch: made.epoch, sealed, createdAt };
    const others = found.get(endpoint);
    if (others === undefined) found.set(endpoint, [key]);
    else others.push(key);
  }
  for (const list of found.values()) list.sort((a, b) => a.epoch - b.epoch);
  return found;
}

function bytesOf(records: readonly StoredRecord[]): number {
  let bytes = 0;
  for (const record of records) bytes += 400 + (record.kind === "key" ? record.row.sealed.length : 0);
  return bytes;
}
