/**
 * The durable state, in memory: what the disk has. Reads are answered from it. Rows of users are replaced, never
 * changed.
 */
import type { RecordCounts } from "../driver.js";
import { OPEN } from "../moves.js";
import type { MoveState } from "../moves.js";
import { isActiveAdmin } from "../rules.js";
import { keyBytes, memberBytes, roomBytes, userBytes } from "./budget.js";
import type { Change, ImportChange } from "./changes.js";
import { RoomEntry } from "./entries.js";
import type { MemberEntry } from "./entries.js";
import { InOrder } from "./in-order.js";
import { RoomTable } from "./room-table.js";
import { InconsistentState } from "./rows.js";
import type { KeyRow, MemberRow, RoomRow, UserRow } from "./rows.js";
import { UserTable } from "./user-table.js";

/** Told of each change before it is made. */
export interface ChangeListener {
  before(change: Change): void;
}

export class Tables {
  #users = new UserTable();
  #usersInOrder = new InOrder<UserRow>();
  #admins = new ActiveAdmins();
  #rooms = new RoomTable();
  #lastRoom: RoomEntry | undefined;
  readonly #counts = { users: 0, rooms: 0, members: 0, roomKeys: 0 };
  readonly #listeners = new Set<ChangeListener>();
  /** Whether any user is or was an admin. */
  adminEver = false;
  /** Whether it may be used: everybody is denied unless it is open. */
  state: MoveState = OPEN;
  /** What all of it takes in an image, at most. */
  bytes = 0;

  get users(): UserTable {
    return this.#users;
  }

  get usersInOrder(): InOrder<UserRow> {
    return this.#usersInOrder;
  }

  get admins(): ActiveAdmins {
    return this.#admins;
  }

  get rooms(): RoomTable {
    return this.#rooms;
  }

  get counts(): RecordCounts {
    return { ...this.#counts };
  }

  /** For records that come, or go, without a change. */
  count(kind: keyof RecordCounts, by: number): void {
    this.#counts[kind] += by;
  }

  /** Answers how to listen no longer. */
  listen(listener: ChangeListener): () => void {
    this.#listeners.add(listener);
    return () => {
      this.#listeners.delete(listener);
    };
  }

  apply(change: Change): void {
    if (this.#listeners.size > 0) for (const listener of this.#listeners) listener.before(change);
    switch (change.kind) {
      case "user":
        this.#user(change.row);
        break;
      case "room":
        this.#room(change.row);
        break;
      case "roomGone":
        this.#roomGone(change.id);
        break;
      case "member":
        this.#member(change.row);
        break;
      case "memberGone":
        this.#memberGone(change.roomId, change.endpoint);
        break;
      case "key":
        this.#key(change.row);
        break;
      case "import":
        this.#beginOrEnd(change);
        break;
    }
  }

  #beginOrEnd({ state, clears, adminEver }: ImportChange): void {
    if (clears) {
      this.#users = new UserTable();
      this.#usersInOrder = new InOrder();
      this.#admins = new ActiveAdmins();
      this.#rooms = new RoomTable();
      this.#lastRoom = undefined;
      Object.assign(this.#counts, { users: 0, rooms: 0, members: 0, roomKeys: 0 });
      this.adminEver = false;
      this.bytes = 0;
    }
    this.adminEver ||= adminEver;
    this.state = state;
  }

  #user(row: UserRow): void {
    const before = this.users.set(row);
    this.bytes += userBytes(row);
    if (before === undefined) {
      this.#counts.users++;
    } else {
      this.bytes -= userBytes(before);
      if (before.ordinal !== row.ordinal) throw new InconsistentState("a user changed its place");
      this.admins.delete(before);
    }
    this.usersInOrder.set(row.ordinal, row);
    this.admins.add(row);
    if (row.role === "admin") this.adminEver = true;
  }

  #room(row: RoomRow): void {
    const entry = this.rooms.toChange(row.id);
    this.bytes += roomBytes(row);
    if (entry === undefined) {
      this.rooms.add(new RoomEntry(row));
      this.#counts.rooms++;
      return;
    }
    if (entry.ordinal !== row.ordinal) throw new InconsistentState("a room changed its place");
    this.bytes -= roomBytes(entry.row);
    entry.update(row);
  }

  #roomGone(id: string): void {
    const entry = this.rooms.toChange(id);
    if (entry === undefined) throw new InconsistentState("a room that is deleted is not there");
    for (const member of entry.members.all()) this.#forget(member);
    this.#counts.rooms--;
    this.bytes -= roomBytes(entry.row);
    this.#lastRoom = undefined;
    this.rooms.delete(entry);
  }

  #member(row: MemberRow): void {
    const room = this.#roomOf(row);
    if (room === undefined) throw new InconsistentState("a member is of a room that is not there");
    const entry = room.members.get(row.endpoint);
    this.bytes += memberBytes(row);
    if (entry !== undefined) {
      this.bytes -= memberBytes(entry.row);
      entry.update(row);
      return;
    }
    const added = this.rooms.memberships.add(room, row);
    room.members.add(added);
    this.#counts.members++;
    room.shareOwner(added.endpoint);
  }

  /** An image has the rows of one room together: mostly it is the one of the row before. */
  #roomOf({ roomId }: { readonly roomId: string }): RoomEntry | undefined {
    if (this.#lastRoom?.id !== roomId) this.#lastRoom = this.rooms.toChange(roomId);
    return this.#lastRoom;
  }

  #memberGone(roomId: string, endpoint: string): void {
    const room = this.rooms.toChange(roomId);
    const entry = room?.members.get(endpoint);
    if (room === undefined || entry === undefined) throw new InconsistentState("a member that is removed is not there");
    room.members.delete(endpoint);
    this.rooms.memberships.delete(entry);
    this.#forget(entry);
  }

  #forget(member: MemberEntry): void {
    this.#counts.members--;
    this.#counts.roomKeys -= member.keyCount;
    this.bytes -= bytesOf(member);
  }

  #key(row: KeyRow): void {
    const member = this.#roomOf(row)?.members.get(row.endpoint);
    if (member === undefined) throw new InconsistentState("a key is of a member that is not there");
    const before = member.key(row.epoch);
    if (before === undefined) this.#counts.roomKeys++;
    else this.bytes -= keyBytes(before);
    this.bytes += keyBytes(row);
    member.setKey(row);
  }
}

/** What a membership takes in an image, with its keys. */
function bytesOf({ row, keys }: MemberEntry): number {
  let bytes = memberBytes(row);
  for (const key of keys) bytes += keyBytes(key);
  return bytes;
}

/**
 * The admins that are not revoked, by the time they expire. Whether one is active at some instant is then seen at the
 * end of the list, whatever the number of users and of expired admins.
 */
export class ActiveAdmins {
  readonly #rows: UserRow[] = [];

  add(row: UserRow): void {
    if (row.role !== "admin" || row.status !== "active") return;
    this.#rows.splice(this.#place(row), 0, row);
  }

  delete(row: UserRow): void {
    if (row.role !== "admin" || row.status !== "active") return;
    const place = this.#place(row);
    if (this.#rows[place]?.key === row.key) this.#rows.splice(place, 1);
  }

  /** Whether some admin active at `now` passes `allowed`. */
  some(now: number, allowed: (row: UserRow) => boolean): boolean {
    for (let i = this.#rows.length - 1; i >= 0; i--) {
      const row = this.#rows[i];
      if (row === undefined || !isActiveAdmin(row, now)) return false;
      if (allowed(row)) return true;
    }
    return false;
  }

  #place(row: UserRow): number {
    let low = 0;
    let high = this.#rows.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const other = this.#rows[middle];
      if (other !== undefined && before(other, row)) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** By expiry, those that never expire last; one that was added later comes later. */
function before(a: UserRow, b: UserRow): boolean {
  const x = a.expiresAt ?? Infinity;
  const y = b.expiresAt ?? Infinity;
  return x < y || (x === y && a.ordinal < b.ordinal);
}
