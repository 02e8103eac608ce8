/**
 * What was submitted and is not yet durable, laid over the durable tables. Writes are decided on the view of both, in
 * the order in which they were submitted. A check believes a grant of the tables only if nothing here takes it away.
 */
import type { Change } from "./changes.js";
import type { MemberEntry, RoomEntry } from "./entries.js";
import type { Tables } from "./tables.js";
import type { KeyRow, MemberRow, RoomRow, UserRow } from "./rows.js";
import { isActiveAdmin } from "../rules.js";

interface PendingUser {
  readonly sequence: number;
  readonly row: UserRow;
  /** The row before it, if that waits too. */
  before: PendingUser | undefined;
}

interface PendingRoom {
  sequence: number;
  row: RoomRow | undefined;
  /** The transaction that deletes the durable room, or 0: nothing of it is seen. */
  hides: number;
  readonly members: Map<string, PendingMember>;
}

interface PendingMember {
  sequence: number;
  row: MemberRow | undefined;
  /** The transaction that ends the durable membership, or 0: none of its keys is seen. */
  hides: number;
  /** The last transaction after which the endpoint has not joined, or 0. */
  denies: number;
  keys: Map<number, KeyRow> | undefined;
}

export class PendingView {
  readonly #tables: Tables;
  readonly #users = new Map<string, PendingUser>();
  readonly #rooms = new Map<string, PendingRoom>();
  #adminEver = 0;

  constructor(tables: Tables) {
    this.#tables = tables;
  }

  // What a write sees.

  user(key: string): UserRow | undefined {
    return this.#users.get(key)?.row ?? this.#tables.users.get(key);
  }

  get adminEver(): boolean {
    return this.#tables.adminEver || this.#adminEver > 0;
  }

  /** Whether an active admin other than `key` exists. */
  otherAdmin(key: string, now: number): boolean {
    const durable = this.#tables.admins.some(now, (row) => {
      if (row.key === key) return false;
      const waiting = this.#users.get(row.key);
      return waiting === undefined || isActiveAdmin(waiting.row, now);
    });
    if (durable) return true;
    for (const { row } of this.#users.values()) {
      if (row.key !== key && isActiveAdmin(row, now)) return true;
    }
    return false;
  }

  room(id: string): RoomRow | undefined {
    const waiting = this.#rooms.get(id);
    return waiting === undefined ? this.#tables.rooms.row(id) : waiting.row;
  }

  member(roomId: string, endpoint: string): MemberRow | undefined {
    const room = this.#rooms.get(roomId);
    const waiting = room?.members.get(endpoint);
    return waiting === undefined ? this.#durableMember(room, roomId, endpoint)?.row : waiting.row;
  }

  endpoints(roomId: string): Set<string> {
    const room = this.#rooms.get(roomId);
    const endpoints = new Set<string>();
    for (const { endpoint } of this.#durableRoom(room, roomId)?.members.all() ?? []) endpoints.add(endpoint);
    for (const [endpoint, { row }] of room?.members ?? []) {
      if (row === undefined) endpoints.delete(endpoint);
      else endpoints.add(endpoint);
    }
    return endpoints;
  }

  hasKey(roomId: string, endpoint: string, epoch: number): boolean {
    const room = this.#rooms.get(roomId);
    const waiting = room?.members.get(endpoint);
    if (waiting?.keys?.has(epoch) === true) return true;
    if (waiting !== undefined && waiting.hides > 0) return false;
    return this.#durableMember(room, roomId, endpoint)?.hasKey(epoch) === true;
  }

  // What a check may believe.

  /** Whether something waits that is of the user. */
  touchesUser(key: string): boolean {
    return this.#users.size > 0 && this.#users.has(key);
  }

  /** A durable user as far as nothing that waits takes it away. */
  admitted(row: UserRow): UserRow {
    const waiting = this.#users.get(row.key);
    if (waiting === undefined) return row;
    let { role, status, revokedAt } = row;
    let expiresAt = row.expiresAt ?? Infinity;
    for (let step: PendingUser | undefined = waiting; step !== undefined; step = step.before) {
      if (step.row.role !== "admin") role = "member";
      if (step.row.status === "revoked") status = "revoked";
      revokedAt ??= step.row.revokedAt;
      expiresAt = Math.min(expiresAt, step.row.expiresAt ?? Infinity);
    }
    return { ...row, role, status, revokedAt, expiresAt: expiresAt === Infinity ? undefined : expiresAt };
  }

  /** Whether a durable, joined membership is taken away by something that waits. */
  deniesMember(roomId: string, endpoint: string): boolean {
    const room = this.#rooms.get(roomId);
    if (room === undefined) return false;
    return room.hides > 0 || (room.members.get(endpoint)?.denies ?? 0) > 0;
  }

  get isEmpty(): boolean {
    return this.#users.size === 0 && this.#rooms.size === 0;
  }

  // How it changes.

  add(changes: readonly Change[], sequence: number): void {
    for (const change of changes) {
      switch (change.kind) {
        case "user":
          this.#addUser(change.row, sequence);
          break;
        case "room": {
          const room = this.#touchRoom(change.row.id, sequence);
          room.row = change.row;
          break;
        }
        case "roomGone": {
          const room = this.#touchRoom(change.id, sequence);
          room.row = undefined;
          room.hides = sequence;
          room.members.clear();
          break;
        }
        case "member": {
          const member = this.#touchMember(change.row.roomId, change.row.endpoint, sequence);
          member.row = change.row;
          if (change.row.state !== "joined") member.denies = sequence;
          break;
        }
        case "memberGone": {
          const member = this.#touchMember(change.roomId, change.endpoint, sequence);
          member.row = undefined;
          member.hides = sequence;
          member.denies = sequence;
          member.keys = undefined;
          break;
        }
        case "key": {
          const member = this.#touchMember(change.row.roomId, change.row.endpoint, sequence);
          (member.keys ??= new Map<number, KeyRow>()).set(change.row.epoch, change.row);
          break;
        }
        // Nothing of a caller waits beside it.
        case "import":
          break;
      }
    }
  }

  /** The changes are in the tables now: nothing of them needs to wait here any longer. */
  release(changes: readonly Change[], sequence: number): void {
    for (const change of changes) {
      switch (change.kind) {
        case "user":
          this.#releaseUser(change.row.key, sequence);
          if (this.#adminEver === sequence) this.#adminEver = 0;
          break;
        case "room":
          this.#releaseRoom(change.row.id, sequence);
          break;
        case "roomGone":
          this.#releaseRoom(change.id, sequence);
          break;
        case "member":
          this.#releaseMember(change.row.roomId, change.row.endpoint, sequence);
          break;
        case "memberGone":
          this.#releaseMember(change.roomId, change.endpoint, sequence);
          break;
        case "key":
          this.#releaseMember(change.row.roomId, change.row.endpoint, sequence);
          break;
        case "import":
          break;
      }
    }
  }

  /** What waited will never be durable. */
  drop(): void {
    this.#users.clear();
    this.#rooms.clear();
    this.#adminEver = 0;
  }

  #addUser(row: UserRow, sequence: number): void {
    this.#users.set(row.key, { sequence, row, before: this.#users.get(row.key) });
    if (row.role === "admin" && !this.adminEver) this.#adminEver = sequence;
  }

  #releaseUser(key: string, sequence: number): void {
    let last = this.#users.get(key);
    if (last === undefined) return;
    if (last.sequence <= sequence) {
      this.#users.delete(key);
      return;
    }
    while (last.before !== undefined && last.before.sequence > sequence) last = last.before;
    last.before = undefined;
  }

  #touchRoom(id: string, sequence: number): PendingRoom {
    let room = this.#rooms.get(id);
    if (room === undefined) {
      room = { sequence, row: this.#tables.rooms.row(id), hides: 0, members: new Map() };
      this.#rooms.set(id, room);
    }
    room.sequence = sequence;
    return room;
  }

  #touchMember(roomId: string, endpoint: string, sequence: number): PendingMember {
    const room = this.#touchRoom(roomId, sequence);
    let member = room.members.get(endpoint);
    if (member === undefined) {
      const row = this.#durableMember(room, roomId, endpoint)?.row;
      member = { sequence, row, hides: 0, denies: 0, keys: undefined };
      room.members.set(endpoint, member);
    }
    member.sequence = sequence;
    return member;
  }

  #releaseRoom(id: string, sequence: number): PendingRoom | undefined {
    const room = this.#rooms.get(id);
    if (room === undefined) return undefined;
    if (room.hides <= sequence) room.hides = 0;
    if (room.sequence <= sequence) this.#rooms.delete(id);
    return room;
  }

  #releaseMember(roomId: string, endpoint: string, sequence: number): void {
    const room = this.#releaseRoom(roomId, sequence);
    const member = room?.members.get(endpoint);
    if (room === undefined || member === undefined) return;
    if (member.hides <= sequence) member.hides = 0;
    if (member.denies <= sequence) member.denies = 0;
    if (member.sequence <= sequence) room.members.delete(endpoint);
  }

  #durableRoom(room: PendingRoom | undefined, roomId: string): RoomEntry | undefined {
    return room !== undefined && room.hides > 0 ? undefined : this.#tables.rooms.get(roomId);
  }

  #durableMember(room: PendingRoom | undefined, roomId: string, endpoint: string): MemberEntry | undefined {
    return this.#durableRoom(room, roomId)?.members.get(endpoint);
  }
}
