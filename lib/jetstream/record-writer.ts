/**
 * An import. Users are written where they will be, and rooms under ids that nothing refers to until their record names
 * them. None of it counts while the records of store-state.ts say that the store is imported into. The argument:
 * docs/protocol.md, V3 to V9.
 */
import type { Call } from "../call.js";
import type {
  RecordNames,
  RecordReader,
  RecordWriter,
  StoredKey,
  StoredMember,
  StoredRecord,
  StoredRoom,
  StoredUser,
} from "../driver.js";
import { StoreError } from "../errors.js";
import { OPEN, beginWrite, completed, givenBack } from "../moves.js";
import type { MoveRun, MoveReport, MoveState } from "../moves.js";
import type { AdminGuard, ReplacedGuard } from "./admin-guard.js";
import type { Bucket } from "./bucket.js";
import type { Entry } from "./entry.js";
import { CERTAIN, asRead } from "./freshness.js";
import { ImportLanes, takenOver } from "./import-lanes.js";
import {
  floorOf,
  openBoth,
  openState,
  readState,
  readStates,
  stateRecord,
  writeState,
  type FoundState,
} from "./importing.js";
import { joinAll, joinBoth } from "./join.js";
import { writeKey } from "./key-record.js";
import { isImported, keys, newId, newImportedId, parseRoomIndexEntry, parseUser } from "./keys.js";
import type { ProvedBucket } from "./proved-bucket.js";
import { base64, toJson } from "./record-fields.js";
import type { Readable } from "./record-reader.js";
import type { RoomIndex } from "./room-index.js";
import type { RoomLifecycle } from "./room-lifecycle.js";
import { writeRoom, type MemberRow } from "./room-record.js";
import { latest, type Seq } from "./seq.js";
import type { SettingsFence } from "./settings-fence.js";
import { STATE, type CommittingBucket } from "./store-state.js";
import type { UserState } from "./user-cache.js";
import type { PageOfUsers } from "./user-pages.js";
import { readUser, toFollow, type UserRow } from "./user-record.js";
import { writeAnew } from "./write-history.js";

const IMPORTING = "importing";
/**
 * Stands in the state until it was looked whether something was written before both logs were closed. Nothing was
 * imported by then: whoever finds it looks too.
 */
const UNCHECKED = { checked: false } as const;
const isUnchecked = ({ value }: FoundState<"users">): boolean => value["checked"] === false;
/** How many users, and how many rooms, are removed in one step. */
const USERS = 500;
const ROOMS = 64;
const EPOCHS = 256;

/** Whether the record has a user, or a staged one. */
function isThere(entry: Entry<"users">): boolean {
  if (parseUser(entry.key) === undefined) return false;
  const { user, stage } = readUser(entry).record;
  return user !== undefined || stage !== undefined;
}

/** What whole records are written to. */
export interface Writable extends Readable {
  readonly users: ProvedBucket<"users", UserState>;
  readonly index: RoomIndex;
  readonly guard: AdminGuard;
  readonly lifecycle: RoomLifecycle;
  readonly settings: SettingsFence;
}

/** A room whose members and keys are on their way. */
interface OpenRoom {
  readonly row: StoredRoom;
  readonly incarnation: string;
  /** The attempt of every epoch of the room. Nobody else stages keys under it. */
  readonly attempt: string;
  members: number;
  member: { readonly endpoint: string; readonly id: string } | undefined;
  /** What has to be in place before the room's record is written: rows and keys. Each answers where it stands. */
  rows: Promise<Seq<"members">>[];
  keys: Promise<Seq<"room_keys">>[];
  membersSeq: Seq<"members">;
  keysSeq: Seq<"room_keys">;
}

export type ReadNames = (names: RecordNames | undefined, call: Call) => Promise<RecordReader>;

/** The records that closed the store for an import. */
interface States {
  readonly users: FoundState<"users">;
  readonly rooms: FoundState<"rooms">;
}

export class BucketsWriter implements RecordWriter {
  readonly #parts: Writable;
  readonly #read: ReadNames;
  readonly #id = newId();
  /** Of the migration that it is the target of. */
  readonly #run: MoveRun | undefined;
  #state: MoveState = OPEN;
  readonly #userLanes: ImportLanes<"users">;
  readonly #roomLanes: ImportLanes<"rooms">;
  /** The least version of every user. The store that was exported may have given any revision below it. */
  readonly #floor: number;
  #states: States | undefined;
  #room: OpenRoom | undefined;
  /** The entry of that room in the index of all rooms. */
  #indexed: Promise<unknown> = Promise.resolve();
  /** Where {@link clear} goes on. `undefined`: nothing is left. */
  #usersFrom: Seq<"users"> | undefined;
  #roomsFrom: Seq<"rooms_by_member"> | undefined;
  readonly #admins = new Map<string, number | undefined>();
  #guard: ReplacedGuard | undefined;
  /** Up to when the writing call was given more time. */
  #wentForward = 0;

  private constructor(parts: Writable, read: ReadNames, floor: number, run: MoveRun | undefined) {
    this.#parts = parts;
    this.#run = run;
    this.#read = read;
    this.#floor = floor;
    this.#userLanes = new ImportLanes(parts.users);
    this.#roomLanes = new ImportLanes(parts.log.buckets.rooms);
  }

  static async begin(
    parts: Writable,
    read: ReadNames,
    floor: number,
    run: MoveRun | undefined,
    call: Call,
  ): Promise<BucketsWriter> {
    const writer = new BucketsWriter(parts, read, floor, run);
    await writer.#begin(call);
    return writer;
  }

  async #begin(call: Call): Promise<void> {
    const { users, log } = this.#parts;
    const { rooms } = log.buckets;
    const { state, ...before } = await readStates(users, rooms, call);
    // They are not of one moment: an import that goes on may have closed `rooms` since it was read.
    if (before.users.name === IMPORTING && before.rooms.name !== IMPORTING) before.rooms = await readState(rooms, call);
    const begun = beginWrite(state, this.#run, true, Date.now());
    this.#state = begun;
    // What is there of a store that was moved away from is left, and so is what an import wrote, which begins when both
    // say it, and when it was looked whether anything came between.
    const isLeft =
      begun.was !== undefined ||
      (before.users.name === IMPORTING && before.rooms.name === IMPORTING && !isUnchecked(before.users));
    const value = stateRecord(begun, this.#id, floorOf(before.users.value));
    const reopen = async <B extends CommittingBucket>(bucket: Bucket<B>, at: Seq<B>): Promise<void> => {
      await writeState(bucket, openState(floorOf(value), this.#id), at, call);
    };
    if (!isLeft && !(await this.#isEmpty(call))) {
      // An import that died before it wrote anything may have closed them. Others may have written meanwhile. `users`
      // comes first: if that import goes on, what is there may be what it writes. Then `users` has another record.
      if (before.users.name === IMPORTING) await reopen(users, before.users.seq);
      if (before.rooms.name === IMPORTING) await reopen(rooms, before.rooms.seq);
      throw CERTAIN.rules(asRead("certain", before)).importIntoNonEmpty();
    }
    const closed = isLeft ? value : { ...value, ...UNCHECKED };
    const usersAt = await writeState(users, closed, before.users.seq, call);
    const roomsAt = await writeState(rooms, value, before.rooms.seq, call);
    // A store that was moved away from takes no records.
    if (begun.was !== undefined) await this.#parts.settings.follow(call);
    if (!isLeft) {
      if (!(await this.#isEmpty(call))) {
        await reopen(users, usersAt);
        await reopen(rooms, roomsAt);
        throw CERTAIN.rules(asRead("certain", before)).importIntoNonEmpty();
      }
      await writeState(users, value, usersAt, call);
    }
    await joinAll([this.#userLanes.begin(call), this.#roomLanes.begin(call)]);
    // Another import may have begun before these lanes were put. Then nothing may be written on the condition of them.
    this.#states = { users: await readState(users, call), rooms: await readState(rooms, call) };
    for (const found of [this.#states.users, this.#states.rooms]) if (found.value["id"] !== this.#id) throw takenOver();
    if (isLeft) this.#usersFrom = this.#roomsFrom = 0;
  }

  #begun(): States {
    if (this.#states === undefined) throw takenOver();
    return this.#states;
  }

  /**
   * Rejects if another import has taken over, as one can while this process is stopped. What was read before this call
   * is of before that one began: it puts all of it anew, so that nothing is written any more on the condition that it
   * stands.
   */
  readonly #checkMine = async (call: Call): Promise<void> => {
    const { users } = this.#parts;
    const { seq } = this.#begun().users;
    if ((await users.stands(STATE, seq, call)) !== undefined) return;
    if ((await readState(users, call)).seq !== seq) throw takenOver();
  };

  async #isEmpty(call: Call): Promise<boolean> {
    const { userPages, userViews, guard, index } = this.#parts;
    if (await guard.adminEver(call)) return false;
    for (let after: Seq<"users"> | undefined = 0; after !== undefined;) {
      const page: PageOfUsers = await userPages.page(after, USERS, isThere, call);
      for (const { key } of page.entries)
        if ((await userViews.read(parseUser(key) ?? "", true, "certain", call)).user !== undefined) return false;
      after = page.next;
    }
    return (await index.page(0, 1, call)).rooms.length === 0;
  }

  async clear(call: Call): Promise<boolean> {
    this.#room = undefined;
    this.#admins.clear();
    if (this.#usersFrom !== undefined) this.#usersFrom = await this.#clearUsers(this.#usersFrom, call);
    else if (this.#roomsFrom !== undefined) this.#roomsFrom = await this.#clearRooms(this.#roomsFrom, call);
    return this.#usersFrom !== undefined || this.#roomsFrom !== undefined;
  }

  /** A record of `users` stays for ever. It says then that there is nobody. */
  async #clearUsers(after: Seq<"users">, call: Call): Promise<Seq<"users"> | undefined> {
    const { users, userPages } = this.#parts;
    const { entries, next } = await userPages.page(after, USERS, isThere, call);
    await this.#checkMine(call);
    await joinAll(
      entries.map(async (entry) => {
        await users.append(entry.key, toFollow(readUser(entry)), (written) => written, call, "step");
      }),
    );
    return next;
  }

  async #clearRooms(after: Seq<"rooms_by_member">, call: Call): Promise<Seq<"rooms_by_member"> | undefined> {
    const { log, lifecycle } = this.#parts;
    const { membersByEndpoint } = log.buckets;
    const mark = keys.roomIndexMark;
    const end = (): Promise<Seq<"rooms_by_member">> => membersByEndpoint.touch(mark, call);
    const { entries, isEnd } = await membersByEndpoint.scans.portion(
      keys.roomIndexEntries,
      after,
      ROOMS,
      end,
      call,
      mark,
    );
    const found = await joinAll(
      entries.map(async ({ key }) => {
        const at = parseRoomIndexEntry(key);
        return at === undefined ? [] : [{ at, slot: await log.records.slot(at.roomId, "certain", call) }];
      }),
    );
    await this.#checkMine(call);
    await joinAll(
      found.flat().map(async ({ at: { roomId, incarnation }, slot }) => {
        const { record } = slot;
        if (record?.incarnation === incarnation) {
          if (!(await log.records.writeTombstone(roomId, slot, call, "step"))) throw takenOver();
          await lifecycle.purge(roomId, record, call);
        } else if (isImported(incarnation)) {
          // Whoever staged this room can no longer commit it.
          const roster = incarnation;
          await lifecycle.purge(roomId, { incarnation, roster, copying: undefined, head: [], membersSeq: 0 }, call);
        }
      }),
    );
    return isEnd ? undefined : (entries.at(-1)?.seq ?? after);
  }

  async write(records: readonly StoredRecord[], call: Call): Promise<void> {
    this.#usersFrom = this.#roomsFrom = 0;
    this.#wentForward = performance.now();
    const under: Promise<unknown>[] = [];
    for (const record of records) {
      switch (record.kind) {
        case "user":
          under.push(this.#writeUser(record.row, call));
          break;
        case "room":
          under.push(this.#endRoom(call));
          under.push(this.#beginRoom(record.row, call));
          break;
        case "member":
          this.#writeMember(record.row, call);
          break;
        case "key":
          this.#writeKey(record.row, call);
          break;
      }
    }
    // What is staged for the room is awaited with the rest: if one of these fails it may fail too, and must be heard.
    await joinAll([...under, this.#awaitStaged(this.#room)]);
  }

  async #writeUser(found: StoredUser, call: Call): Promise<void> {
    const { key, role, revokedAt, expiresAt, name, createdAt, grant = 0 } = found;
    const admin = role === "admin";
    const v = Math.max(this.#floor, grant);
    const user: UserRow = { key, v, admin, revokedAt, name, createdAt, expiresAt, grant };
    if (admin && revokedAt === undefined) this.#admins.set(key, expiresAt);
    else this.#admins.delete(key);
    const record = { ...writeAnew(this.#begun().users.seq, this.#id), user };
    await this.#userLanes.put(keys.user(key), toJson(record), call);
  }

  /** The entry in the index of all rooms comes first. If this import dies, everything else is found by it. */
  #beginRoom(row: StoredRoom, call: Call): Promise<unknown> {
    const room: OpenRoom = {
      row,
      incarnation: newImportedId(),
      attempt: newId(),
      members: 0,
      member: undefined,
      rows: [],
      keys: [],
      membersSeq: 0,
      keysSeq: 0,
    };
    this.#room = room;
    const indexed = this.#parts.index.add(row.id, room.incarnation, call);
    this.#indexed = indexed;
    if (row.epoch > 1) room.keys.push(this.#writeEpochs(room, indexed, call));
    return indexed;
  }

  async #writeEpochs(
    { row, incarnation, attempt }: OpenRoom,
    indexed: Promise<unknown>,
    call: Call,
  ): Promise<Seq<"room_keys">> {
    await indexed;
    const { roomKeys } = this.#parts.log.buckets;
    let last: Seq<"room_keys"> = 0;
    for (let from = 1; from < row.epoch; from += EPOCHS) {
      const epochs = Array.from({ length: Math.min(EPOCHS, row.epoch - from) }, (_, i) => from + i);
      const seqs = await joinAll(
        epochs.map((epoch) => roomKeys.stage(keys.epoch(row.id, incarnation, epoch), { attempt }, call)),
      );
      last = latest(last, seqs);
      // Many epochs take long. The import is stuck only if nothing goes forward.
      const now = performance.now();
      call.extend(now - this.#wentForward);
      this.#wentForward = now;
    }
    return last;
  }

  #writeMember(found: StoredMember, call: Call): void {
    const room = this.#need(found.roomId);
    const { incarnation } = room;
    const { endpoint, role, state, invitedBy, publicKey, since } = found;
    const id = newId();
    const { members, membersByEndpoint } = this.#parts.log.buckets;
    const row: MemberRow = {
      id,
      v: 1,
      of: 1,
      gone: false,
      owner: role === "owner",
      joined: state === "joined",
      since,
      invitedBy,
      publicKey: publicKey === undefined ? undefined : base64(publicKey),
    };
    room.member = { endpoint, id };
    room.members++;
    const indexed = this.#indexed;
    const stage = async (): Promise<Seq<"members">> => {
      await indexed;
      const [seq] = await joinBoth(
        members.stage(keys.member(room.row.id, endpoint, incarnation), toJson(row), call),
        membersByEndpoint.stage(keys.indexEntry(endpoint, room.row.id, incarnation, id), {}, call),
      );
      return seq;
    };
    room.rows.push(stage());
  }

  #writeKey(found: StoredKey, call: Call): void {
    const room = this.#need(found.roomId);
    const { incarnation, attempt, member } = room;
    const { roomId, endpoint, epoch, sealed, createdAt } = found;
    if (member?.endpoint !== endpoint) throw new StoreError("CORRUPT", "A key is not of the member before it");
    const { roomKeys } = this.#parts.log.buckets;
    const key = keys.roomKey({ roomId, endpoint, incarnation, membership: member.id }, epoch, attempt);
    const indexed = this.#indexed;
    const stage = async (): Promise<Seq<"room_keys">> => {
      await indexed;
      return roomKeys.stage(key, writeKey(sealed, createdAt, attempt), call);
    };
    room.keys.push(stage());
  }

  #need(roomId: string): OpenRoom {
    if (this.#room?.row.id !== roomId) throw new StoreError("CORRUPT", "A record is not of the room before it");
    return this.#room;
  }

  /** Waits for what was staged for the room. */
  async #awaitStaged(room: OpenRoom | undefined): Promise<void> {
    if (room === undefined) return;
    const { rows, keys: staged } = room;
    room.rows = [];
    room.keys = [];
    const [rowSeqs, keySeqs] = await joinBoth(joinAll(rows), joinAll(staged));
    room.membersSeq = latest(room.membersSeq, rowSeqs);
    room.keysSeq = latest(room.keysSeq, keySeqs);
  }

  /** Writes the room's record, once everything that it names is there. */
  async #endRoom(call: Call): Promise<void> {
    const room = this.#room;
    this.#room = undefined;
    if (room === undefined) return;
    await this.#awaitStaged(room);
    const { row, incarnation, attempt, members, membersSeq, keysSeq } = room;
    const { id, name, encrypted, owner, epoch, rekeyRequired, createdAt } = row;
    const record = writeRoom({
      ...writeAnew(this.#begun().rooms.seq, this.#id),
      indexed: true,
      incarnation,
      roster: incarnation,
      rows: members,
      v: 1,
      name,
      encrypted,
      owner,
      epoch,
      attempt,
      rekeyRequired,
      createdAt,
      members,
      membersSeq,
      keysSeq,
      head: [],
    });
    await this.#roomLanes.put(keys.room(id), toJson(record), call);
  }

  async seal(call: Call): Promise<void> {
    // Lanes that are put anew break the ones of whoever has taken over.
    await joinBoth(this.#endRoom(call), this.#checkMine(call));
    // The guard that is written here is most often what the last step needs, which then only looks whether it stands.
    await joinAll([this.#userLanes.renew(call), this.#roomLanes.renew(call), this.#replaceGuard(false, call)]);
  }

  read(names: RecordNames | undefined, call: Call): Promise<RecordReader> {
    return this.#read(names, call);
  }

  async renew({ rooms }: RecordNames, call: Call): Promise<void> {
    await this.#endRoom(call);
    const { log, lifecycle } = this.#parts;
    const found = await joinAll(
      rooms.map(async (roomId) => ({ roomId, slot: await log.records.slot(roomId, "certain", call) })),
    );
    await this.#checkMine(call);
    await joinAll(
      found.map(async ({ roomId, slot }) => {
        const { record } = slot;
        if (record === undefined) return;
        if (!(await log.records.writeTombstone(roomId, slot, call, "step"))) throw takenOver();
        // Nothing refers to it. What is left if the process dies is swept up.
        log.records.cleanUp((own) => lifecycle.purge(roomId, record, own));
      }),
    );
  }

  async complete(report: MoveReport, adminEver: boolean, call: Call): Promise<void> {
    const { users } = this.#parts;
    const { seq, value } = this.#begun().users;
    await this.#replaceGuard(adminEver, call);
    const state = completed(this.#state, this.#run, report);
    await writeState(users, stateRecord(state, this.#id, Math.max(floorOf(value), this.#floor)), seq, call);
  }

  async open(adminEver: boolean, call: Call): Promise<void> {
    const { users, log } = this.#parts;
    const { users: before, rooms } = this.#begun();
    await this.#replaceGuard(adminEver, call);
    const value = { ...before.value, state: "opening", floor: Math.max(floorOf(before.value), this.#floor) };
    const seq = await writeState(users, value, before.seq, call);
    await openBoth(users, log.buckets.rooms, { users: { ...before, value, seq }, rooms }, call);
  }

  async #replaceGuard(adminEver: boolean, call: Call): Promise<void> {
    const admins = { adminEver, until: this.#admins, before: this.#guard };
    this.#guard = await this.#parts.guard.replace(admins, this.#checkMine, call);
  }

  async giveBack(call: Call): Promise<void> {
    const next = givenBack(this.#state);
    if (next.kind !== "moved") return this.open(false, call);
    const { users, log, settings } = this.#parts;
    const { users: before, rooms } = this.#begun();
    const record = stateRecord(next, next.run.id, Math.max(floorOf(before.value), this.#floor));
    await writeState(users, record, before.seq, call);
    await writeState(log.buckets.rooms, record, rooms.seq, call);
    await settings.follow(call);
  }

  release(): void {
    // There is nothing to let go of: nobody asks whether an import is alive. Whoever begins another one takes over.
  }
}
