/**
 * What changes in the buckets. `users` and `rooms` are the logs that commit: all that changed in them since a place is
 * read, exactly (log-range.ts). What a record was at that place its newer state tells (`states` of write-history.ts),
 * and so whether a grant ended in between. Members are those of the room's head, or of its whole roster where the room
 * changed more than once. Keys have a log of their own. The argument: docs/protocol.md, M5 to M9.
 */
import type { Call } from "../call.js";
import type { ChangeFeed, ChangedMember, ChangedRoom, ChangedUser, Changes, ChangesDriver, Wanted } from "../driver.js";
import { MAX_CHANGES } from "../driver.js";
import { isNotFound } from "../errors.js";
import { CERTAIN } from "./freshness.js";
import { inParallel, joinAll, joinBoth } from "./join.js";
import { EVERYTHING, keys, parseKey, parseRoom, parseUser } from "./keys.js";
import { changedSince, type ChangedRange } from "./log-range.js";
import type { ProvedBucket } from "./proved-bucket.js";
import { unlessCorrupt } from "./record-fields.js";
import { BucketsReader, type Readable } from "./record-reader.js";
import { readRoom, toMember, toRoom, type MemberRow, type RoomRecord, type RoomSlot } from "./room-record.js";
import type { Roster } from "./room-members.js";
import type { Seq } from "./seq.js";
import { STATE, StoreState, type CommittingBucket } from "./store-state.js";
import type { UserState } from "./user-cache.js";
import { readGuard, readUser, toUser, type Guard, type UserRow, type UserSlot } from "./user-record.js";
import { counts } from "./user-views.js";
import type { WriteHistory } from "./write-history.js";

/** What is followed. */
export interface Followed extends Readable {
  readonly users: ProvedBucket<"users", UserState>;
}

/** So many records are known as they were told last, of each kind. */
const MAX_TOLD = 16_384;
/** So many members are known as they were told last, of rooms whose rows of who left are not all there. */
const MAX_KNOWN = 16_384;
/** Rooms whose members are read at once. */
const ROOMS_AT_ONCE = 16;

const ONLY_NAMES: Wanted = { members: false, keys: false };

export function changes(parts: Followed): ChangesDriver {
  return {
    follow: (call, wanted = ONLY_NAMES) => BucketsFeed.begin(parts, wanted, call),
    room: async (roomId, call) => {
      const roster = await rosterOf(parts, roomId, call);
      if (roster === undefined) return undefined;
      const { record } = roster.room;
      return {
        room: toRoom(roomId, record),
        members: Array.from(roster.members, ([endpoint, row]) => toMember(roomId, endpoint, record.incarnation, row)),
        keys: record.encrypted ? await keysOf(parts, roomId, call) : new Map(),
      };
    },
  };
}

/** Up to where the logs were read. */
interface Marks {
  readonly users: Seq<"users">;
  readonly rooms: Seq<"rooms">;
  readonly keys: Seq<"room_keys">;
  /** The guard as it stood there, or a moment later. */
  readonly guard: Guard;
  /** Which logs these are. */
  readonly logs: string;
}

/** What was told last of a room. */
interface ToldRoom {
  readonly incarnation: string;
  readonly v: number;
  /** As of which version its members were told: rows can be newer than the record that was read before them. */
  readonly rowsV: number;
  readonly epoch: number;
  /** Its members as of `rowsV`, where rows of who left are not all there. */
  readonly known?: Known | undefined;
}

const toldOf = (roster: Roster<"certain">): ToldRoom => {
  const { incarnation, v, epoch } = roster.room.record;
  return { incarnation, v, rowsV: Math.max(roster.v, v), epoch, known: knownOf(roster) };
};

/** Nobody can tell what has changed, or not who has left a room. */
class Lost extends Error {
  constructor(readonly roomId?: string) {
    super();
  }
}

/** Members by endpoint: the ids of their memberships. */
type Known = ReadonlyMap<string, string>;

class BucketsFeed implements ChangeFeed {
  readonly #parts: Followed;
  readonly #wanted: Wanted;
  #marks: Marks;
  readonly #toldUsers = new Map<string, UserRow>();
  readonly #toldRooms = new Map<string, ToldRoom>();
  readonly #known = new Map<string, Known>();
  #knownCount = 0;

  private constructor(parts: Followed, wanted: Wanted, marks: Marks) {
    this.#parts = parts;
    this.#wanted = wanted;
    this.#marks = marks;
  }

  static async begin(parts: Followed, wanted: Wanted, call: Call): Promise<BucketsFeed> {
    return new BucketsFeed(parts, wanted, await marksNow(parts, wanted, call));
  }

  async take(call: Call): Promise<Changes> {
    const asOf = performance.now();
    try {
      return await this.#take(asOf, call);
    } catch (error) {
      if (!(error instanceof Lost)) throw error;
      const { roomId } = error;
      const wanted = roomId === undefined ? [] : [...this.#known.keys(), roomId].slice(-ROOMS_AT_ONCE);
      const marks = await marksNow(this.#parts, this.#wanted, call);
      // Whoever follows reads all anew after this. So from here on it can be told who leaves these rooms.
      const rosters = await joinAll(
        Array.from(new Set(wanted), async (id) => [id, await rosterOf(this.#parts, id, call)] as const),
      );
      this.close();
      this.#marks = marks;
      for (const [id, roster] of rosters) if (roster !== undefined) this.#rememberRoom(id, toldOf(roster));
      return { lost: true, asOf, users: new Map(), rooms: new Map() };
    }
  }

  close(): void {
    this.#toldUsers.clear();
    this.#toldRooms.clear();
    this.#known.clear();
    this.#knownCount = 0;
  }

  async #take(asOf: number, call: Call): Promise<Changes> {
    const { users, log } = this.#parts;
    const { rooms } = log.buckets;
    const marks = this.#marks;
    const [changedUsers, changedRooms, putKeys] = await joinAll3(
      readLog(users, marks.users, this.#wanted, call),
      readLog(rooms, marks.rooms, this.#wanted, call),
      this.#newKeys(marks.keys, call),
    );
    if ((await logsOf(this.#parts, call)) !== marks.logs) throw new Lost();
    const guardEntry = changedUsers.entries.get(keys.admins);
    const guard = guardEntry === undefined ? marks.guard : readGuard(guardEntry).guard;
    const foundUsers = this.#users(changedUsers, marks, guard);
    const told: Told = { users: new Map(), rooms: new Map(), epochs: new Map() };
    for (const [key, { row }] of foundUsers) told.users.set(key, row);
    const foundRooms = await this.#rooms(changedRooms, marks.rooms, putKeys.written, told, call);
    const found: Changes = {
      lost: false,
      asOf,
      users: new Map(
        Array.from(foundUsers, ([key, { row, ended }]): [string, ChangedUser] => [key, { user: toUser(row), ended }]),
      ),
      rooms: foundRooms,
    };
    if (sizeOf(found) > MAX_CHANGES) throw new Lost();
    this.#marks = { ...marks, users: changedUsers.upTo, rooms: changedRooms.upTo, keys: putKeys.upTo, guard };
    this.#remember(told);
    return found;
  }

  #remember(told: Told): void {
    for (const [key, row] of told.users) remember(this.#toldUsers, key, row);
    for (const [roomId, room] of told.rooms) this.#rememberRoom(roomId, room);
  }

  #rememberRoom(roomId: string, room: ToldRoom | undefined): void {
    this.#forget(roomId);
    if (room === undefined) {
      this.#toldRooms.delete(roomId);
      return;
    }
    const { known, ...others } = room;
    remember(this.#toldRooms, roomId, others);
    if (known === undefined) return;
    this.#known.set(roomId, known);
    this.#knownCount += known.size;
    for (const oldest of this.#known.keys()) {
      if (this.#knownCount <= MAX_KNOWN) return;
      this.#forget(oldest);
    }
  }

  #forget(roomId: string): void {
    this.#knownCount -= this.#known.get(roomId)?.size ?? 0;
    this.#known.delete(roomId);
  }

  /** Keys are written once, and a replica that has the barrier has all of before: docs/protocol.md, S5. */
  async #newKeys(
    after: Seq<"room_keys">,
    call: Call,
  ): Promise<{ readonly upTo: Seq<"room_keys">; readonly written: WrittenKeys }> {
    const { roomKeys } = this.#parts.log.buckets;
    const written = new Map<string, Set<string>>();
    let upTo: Seq<"room_keys"> = after;
    let count = 0;
    const end = async (): Promise<Seq<"room_keys">> => (upTo = await roomKeys.readIndex(call));
    await roomKeys.scans.scan(EVERYTHING, call, { from: after + 1, end }, ({ key }) => {
      const { roomId, membership, made } = parseKey(key) ?? {};
      if (roomId !== undefined && membership !== undefined && made !== undefined)
        written.set(roomId, (written.get(roomId) ?? new Set()).add(keyName(membership.endpoint, made.epoch)));
      return ++count > MAX_CHANGES ? "stop" : "go on";
    });
    if (count > MAX_CHANGES) throw new Lost();
    return { upTo, written };
  }

  #users(
    { entries }: ChangedRange<"users">,
    marks: Marks,
    guard: Guard,
  ): ReadonlyMap<string, { readonly row: UserRow; readonly ended: boolean }> {
    const found = new Map<string, { readonly row: UserRow; readonly ended: boolean }>();
    for (const entry of entries.values()) {
      const key = parseUser(entry.key);
      const slot = key === undefined ? undefined : unlessCorrupt(() => readUser(entry));
      if (key === undefined || slot === undefined) continue;
      const row = counts(slot, { seq: 0, guard });
      if (row === undefined) continue;
      const before = this.#grantAt(marks, key, slot);
      const ended = before === undefined ? row.grant > 0 : row.grant !== before;
      // A change is put in place that was told when the guard named it.
      if (ended || this.#toldUsers.get(key)?.v !== row.v) found.set(key, { row, ended });
    }
    const { head } = guard;
    // The guard committed a change of a user whose record was written before the mark, and stands as it did.
    if (head !== undefined && head.attempt !== marks.guard.head?.attempt && !entries.has(keys.user(head.user.key))) {
      const ended = head.ended ?? this.#grantChanged(head.user);
      found.set(head.user.key, { row: head.user, ended });
    }
    return found;
  }

  #grantChanged({ key, grant }: UserRow): boolean {
    const told = this.#toldUsers.get(key);
    if (told === undefined) throw new Lost();
    return told.grant !== grant;
  }

  /** The grant at the mark. `undefined`: there was no such user. */
  #grantAt(marks: Marks, key: string, { seq, record }: UserSlot): number | undefined {
    const at = stateAt(marks.users, seq, record);
    const { head } = marks.guard;
    // What counted then was what the guard named.
    if (head?.user.key === key && at.seq === head.seq) return head.user.grant;
    if (at.state !== undefined) return at.state < 0 ? undefined : at.state;
    const told = this.#toldUsers.get(key);
    if (told === undefined) throw new Lost();
    return told.grant;
  }

  async #rooms(
    { entries }: ChangedRange<"rooms">,
    mark: Seq<"rooms">,
    written: WrittenKeys,
    told: Told,
    call: Call,
  ): Promise<ReadonlyMap<string, ChangedRoom>> {
    const found = new Map<string, ChangedRoom>();
    const changed: { readonly roomId: string; readonly slot: RoomSlot }[] = [];
    for (const entry of entries.values()) {
      const roomId = parseRoom(entry.key);
      const slot = roomId === undefined ? undefined : unlessCorrupt(() => readRoom(entry));
      if (roomId !== undefined && slot !== undefined) changed.push({ roomId, slot });
    }
    await inParallel(changed, ROOMS_AT_ONCE, async ({ roomId, slot }) => {
      const room = await this.#room(roomId, slot, mark, told, call);
      if (room !== undefined) found.set(roomId, room);
    });
    for (const roomId of written.keys())
      if (!found.has(roomId))
        found.set(roomId, { deleted: false, room: undefined, members: new Map(), keys: new Map() });
    if (this.#wanted.keys)
      await inParallel([...found], ROOMS_AT_ONCE, async ([roomId, room]) => {
        if (room.room === undefined && room.deleted) return;
        if (room.room?.encrypted === false) return;
        // Other keys were told. All of a large room are more than may wait.
        const isNew: IsNewKey = (endpoint, epoch) =>
          epoch > (told.epochs.get(roomId) ?? epoch) ||
          room.members.has(endpoint) ||
          written.get(roomId)?.has(keyName(endpoint, epoch)) === true;
        found.set(roomId, { ...room, keys: await keysOf(this.#parts, roomId, call, isNew) });
      });
    return found;
  }

  /** `undefined`: nothing visible has changed. */
  async #room(
    roomId: string,
    slot: RoomSlot,
    mark: Seq<"rooms">,
    told: Told,
    call: Call,
  ): Promise<ChangedRoom | undefined> {
    const before = this.#before(roomId, slot, mark);
    const { record } = slot;
    if (record === undefined) {
      told.rooms.set(roomId, undefined);
      return before.isDeleted ? { deleted: true, room: undefined, members: new Map(), keys: new Map() } : undefined;
    }
    if (!before.isDeleted && record.v === before.v) return undefined;
    const withMembers = this.#wanted.members;
    const changed = withMembers
      ? await this.#members(roomId, record, before, call)
      : { record, v: record.v, rows: [], ended: NOBODY, known: undefined };
    if (changed === undefined) {
      told.rooms.set(roomId, undefined);
      return { deleted: true, room: undefined, members: new Map(), keys: new Map() };
    }
    const { record: now, known, ended } = changed;
    told.rooms.set(roomId, { incarnation: now.incarnation, v: now.v, rowsV: changed.v, epoch: now.epoch, known });
    const isAnother = now.incarnation !== record.incarnation;
    const isNew = before.isDeleted || isAnother || before.v === 0 || !withMembers;
    // Each rekey is a version of its own.
    told.epochs.set(roomId, isNew ? 0 : (before.epoch ?? now.epoch - (now.v - before.v)));
    const v = isAnother ? 0 : before.rowsV;
    return {
      deleted: before.isDeleted || isAnother,
      room: toRoom(roomId, now),
      members: new Map([
        ...Array.from(ended, (endpoint): [string, ChangedMember] => [endpoint, { ended: true, member: undefined }]),
        ...changed.rows.map(([endpoint, row]): [string, ChangedMember] => [
          endpoint,
          {
            ended: row.gone || (row.again ?? 0) > v || ended.has(endpoint),
            member: row.gone ? undefined : toMember(roomId, endpoint, now.incarnation, row),
          },
        ]),
      ]),
      keys: new Map(),
    };
  }

  /** The room as it was told last, or as it was at the mark. */
  #before(roomId: string, { seq, written, record }: RoomSlot, mark: Seq<"rooms">): RoomBefore {
    const told = this.#toldRooms.get(roomId);
    if (told !== undefined) {
      const isDeleted = told.incarnation !== record?.incarnation;
      return { isDeleted, v: told.v, rowsV: isDeleted ? 0 : told.rowsV, epoch: told.epoch, isKnown: true };
    }
    const { state, since } = stateAt(mark, seq, written);
    if (state !== undefined) {
      const isDeleted = hasEnded([state, ...since.toReversed(), record?.v ?? 0]);
      const v = isDeleted ? 0 : Math.max(0, state);
      return { isDeleted, v, rowsV: v, isKnown: true };
    }
    if (record === undefined) return { isDeleted: true, v: 0, rowsV: 0, isKnown: true };
    // It was made by the first write of all: so there was no other one.
    if (record.made === 1) return { isDeleted: false, v: 0, rowsV: 0, isKnown: false };
    throw new Lost();
  }

  /** The rows that changed since. `undefined`: the room is gone meanwhile. */
  async #members(roomId: string, record: RoomRecord, before: RoomBefore, call: Call): Promise<ChangedRows | undefined> {
    const { head } = record;
    const ofHead = head.map(({ endpoint, row }): [string, MemberRow] => [endpoint, row]);
    const members = before.isDeleted ? undefined : this.#known.get(roomId);
    const isNewer = ([, { v }]: [string, MemberRow]): boolean => v > before.rowsV;
    // The head is the last change of the members: that is all, or there was none.
    if (head.length > 0 && (record.v <= before.rowsV + 1 || !ofHead.some(isNewer)))
      return { record, v: record.v, rows: ofHead.filter(isNewer), ended: NOBODY, known: changedBy(ofHead, members) };
    const roster = await rosterOf(this.#parts, roomId, call);
    if (roster === undefined) return undefined;
    const { v, everyone } = roster;
    const { record: now } = roster.room;
    const isSame = now.incarnation === record.incarnation;
    const since = isSame ? before.rowsV : 0;
    const forgotten = now.forgotten ?? (now.roster === now.incarnation ? 0 : now.v);
    // Of those who left, and of those who left and came again, nobody may know any more.
    const isForgotten = isSame && (since > 0 || !before.isKnown) && forgotten > since;
    if (isForgotten && members === undefined) throw new Lost(roomId);
    const rows = [...everyone].filter(([, row]) => row.v > since);
    if (isSame && !before.isKnown && rows.some(([, { again }]) => again !== undefined)) throw new Lost();
    const known = knownOf(roster);
    const ended = [...(isForgotten ? (members ?? []) : [])].filter(([endpoint, id]) => known.get(endpoint) !== id);
    return {
      record: now,
      v: Math.max(v, now.v),
      rows,
      ended: new Set(ended.map(([endpoint]) => endpoint)),
      known: forgotten > 0 ? known : undefined,
    };
  }
}

export async function rosterOf(
  { members }: Pick<Followed, "members">,
  roomId: string,
  call: Call,
): Promise<Roster<"certain"> | undefined> {
  try {
    return await members.roster(roomId, CERTAIN, call);
  } catch (error) {
    if (isNotFound(error)) return undefined;
    throw error;
  }
}

async function keysOf(
  parts: Followed,
  roomId: string,
  call: Call,
  isWanted: IsNewKey = () => true,
): Promise<ReadonlyMap<string, ReadonlySet<number>>> {
  const expected = { users: 0, rooms: 0, members: 0, roomKeys: 0 };
  const reader = new BucketsReader(parts, { expected, adminEver: false, revisionFloor: 0 });
  const found = new Map<string, Set<number>>();
  const min = await parts.log.buckets.roomKeys.readIndex(call);
  for (const record of await reader.room(roomId, min, call)) {
    if (record.kind !== "key") continue;
    const { endpoint, epoch } = record.row;
    if (!isWanted(endpoint, epoch)) continue;
    const epochs = found.get(endpoint) ?? new Set();
    found.set(endpoint, epochs.add(epoch));
  }
  return found;
}

interface RoomBefore {
  readonly isDeleted: boolean;
  /** 0: there was no such room, or nobody knows which version it had. */
  readonly v: number;
  /** The same of its members. */
  readonly rowsV: number;
  /** Where it was told. */
  readonly epoch?: number;
  readonly isKnown: boolean;
}

interface ChangedRows {
  readonly record: RoomRecord;
  readonly v: number;
  readonly rows: readonly (readonly [endpoint: string, row: MemberRow])[];
  /** Whose membership of before has ended, and may have left no row. */
  readonly ended: ReadonlySet<string>;
  readonly known: Known | undefined;
}

const NOBODY: ReadonlySet<string> = new Set();

function changedBy(rows: ChangedRows["rows"], members: Known | undefined): Known | undefined {
  if (members === undefined) return undefined;
  const known = new Map(members);
  for (const [endpoint, { gone, id }] of rows) {
    if (gone) known.delete(endpoint);
    else known.set(endpoint, id);
  }
  return known;
}

const knownOf = ({ members }: Roster<"certain">): Known =>
  new Map(Array.from(members, ([endpoint, { id }]) => [endpoint, id]));

/** What is told, until all of it is. `undefined`: there is no such room. */
interface Told {
  readonly users: Map<string, UserRow>;
  readonly rooms: Map<string, ToldRoom | undefined>;
  /** Of rooms that changed: up to which epoch keys were told before. */
  readonly epochs: Map<string, number>;
}

/** By room, keys that were written since the mark. */
type WrittenKeys = ReadonlyMap<string, ReadonlySet<string>>;

type IsNewKey = (endpoint: string, epoch: number) => boolean;

const keyName = (endpoint: string, epoch: number): string => `${String(epoch)}:${endpoint}`;

/** The logs up to barriers that are sent after this call. */
async function marksNow(parts: Followed, wanted: Wanted, call: Call): Promise<Marks> {
  const { users, log } = parts;
  const { rooms, roomKeys } = log.buckets;
  const logs = await logsOf(parts, call);
  const [[usersSeq, roomsSeq], keysSeq] = await joinBoth(
    joinBoth(users.readIndex(call), rooms.readIndex(call)),
    roomKeys.readIndex(call),
  );
  await joinBoth(checkLog(users, usersSeq, wanted, call), checkLog(rooms, roomsSeq, wanted, call));
  const { guard } = readGuard((await users.readLinearizable(keys.admins, call)).entry);
  return { users: usersSeq, rooms: roomsSeq, keys: keysSeq, guard, logs };
}

async function logsOf({ users, log }: Followed, call: Call): Promise<string> {
  const { rooms, members, roomKeys } = log.buckets;
  const all = await joinAll([users, rooms, members, roomKeys].map((bucket) => bucket.identity(call)));
  return all.join(" ");
}

/**
 * The last changes of a store that is fenced are told to a migration, which wants names alone. A watch may not go on
 * there.
 */
async function checkLog<B extends CommittingBucket, V>(
  bucket: ProvedBucket<B, V>,
  seq: Seq<B>,
  wanted: Wanted,
  call: Call,
): Promise<void> {
  await (wanted === ONLY_NAMES ? bucket.checkTold(seq, call) : bucket.checkOpen(seq, call));
}

/** What changed in one of the logs that commit, while the store was open. */
async function readLog<B extends CommittingBucket, V>(
  bucket: ProvedBucket<B, V>,
  mark: Seq<B>,
  wanted: Wanted,
  call: Call,
): Promise<ChangedRange<B>> {
  const found = await changedSince(bucket, mark, call);
  await checkLog(bucket, found?.upTo ?? (await bucket.readIndex(call)), wanted, call);
  const state = found?.entries.get(STATE);
  // It was closed in between: what an import wrote tells nothing of what was before. A fence changes no record.
  if (found === undefined || (state !== undefined && !new StoreState(state).isSource)) throw new Lost();
  return found;
}

/** What the record was at the mark, by what its newer state tells, and what it was at each write since but the last. */
function stateAt<B extends CommittingBucket>(
  mark: Seq<B>,
  seq: Seq<B>,
  { n, seqs, states = [] }: WriteHistory<B>,
): { readonly seq: Seq<B> | undefined; readonly state: number | undefined; readonly since: readonly number[] } {
  const at = seqs.findIndex((earlier) => earlier <= mark);
  if (at >= 0) return { seq: seqs[at], state: states[at], since: states.slice(0, at) };
  const isFirst = n === seqs.length + 1 && states.length >= seqs.length && seq > mark;
  return { seq: undefined, state: isFirst ? NOTHING : undefined, since: states };
}

/** Whether a room was there, and then was not, by its versions in the order of the log. */
function hasEnded(versions: readonly number[]): boolean {
  const first = versions.findIndex((v) => v > 0);
  return first >= 0 && versions.indexOf(0, first) >= 0;
}

/** Before the first write there was no record. */
const NOTHING = -1;

/** What was told longest ago is forgotten first. */
function remember<T>(told: Map<string, T>, name: string, value: T): void {
  told.delete(name);
  told.set(name, value);
  for (const oldest of told.keys()) {
    if (told.size <= MAX_TOLD) return;
    told.delete(oldest);
  }
}

function sizeOf({ users, rooms }: Changes): number {
  let size = users.size;
  for (const { members, keys: epochs } of rooms.values()) {
    size += 1 + members.size;
    for (const each of epochs.values()) size += each.size;
  }
  return size;
}

async function joinAll3<A, B, C>(a: Promise<A>, b: Promise<B>, c: Promise<C>): Promise<[A, B, C]> {
  const [[first, second], third] = await joinBoth(joinBoth(a, b), c);
  return [first, second, third];
}
