/**
 * The state, and the one way to change it. JavaScript runs an operation from its first line to its last with nothing in
 * between, so operations have one order, and nobody sees half of one.
 */
import { randomBytes } from "node:crypto";
import { cursor, toCursor } from "../arguments.js";
import type { PageInput } from "../arguments.js";
import type { Call } from "../call.js";
import type { ChangeNotes } from "../changed-names.js";
import type { StoreError } from "../errors.js";
import { OPEN, beginWrite, refusalOf } from "../moves.js";
import type { MoveRun, MoveState } from "../moves.js";
import { endsGrant, importTakenOver, isActiveAdmin, memberNotFound, roomNotFound } from "../rules.js";
import type { Page } from "../store.js";
import { factsOf } from "./rows.js";
import type { KeyRow, MemberRow, RoomRow, UserRow } from "./rows.js";

/** `place` is where it stands in pages. A record keeps its place, and a new one comes last. */
export interface UserEntry {
  readonly place: number;
  readonly user: UserRow;
}

/** A room has its members, and a member its keys: who goes takes along what belongs to it. */
export interface RoomEntry {
  readonly place: number;
  room: RoomRow;
  readonly members: Map<string, MemberEntry>;
}

export interface MemberEntry {
  member: MemberRow;
  /** By epoch. */
  readonly keys: Map<number, KeyRow>;
}

/** What is new in what an operation writes. A revision is the number of its operation, and so never repeats. */
export interface Transaction {
  readonly place: number;
  readonly revision: string;
  readonly now: Date;
}

/** One import. Another one that begins takes over. */
export interface Importer {
  readonly id: symbol;
}

export class Memory {
  readonly users = new Map<string, UserEntry>();
  readonly rooms = new Map<string, RoomEntry>();
  /** The keys of admins of any status, so that to look for one costs the same however many users there are. */
  readonly #admins = new Set<string>();
  /** Whether any user is, or was, an admin. */
  adminEver = false;
  readonly id = randomBytes(16).toString("hex");
  #operations = 0;
  /** Whether it may be used: every check is denied unless it is open. */
  state: MoveState = OPEN;
  #importer: Importer | undefined;
  /** What has changed, for each who follows. */
  readonly followers = new Set<ChangeNotes>();

  /** How many there were. No revision is above it. */
  get operations(): number {
    return this.#operations;
  }

  /** Why the store may not be used. */
  get refusal(): StoreError | undefined {
    return refusalOf(this.state);
  }

  /** An operation decides, and throws, before it changes anything. */
  write<T>(call: Call, operation: (transaction: Transaction) => T): Promise<T> {
    return answer(() => {
      if (this.refusal !== undefined) throw this.refusal;
      // From here on the answer may be late, and the write done all the same.
      call.outcome = "unknown";
      return operation(this.next());
    });
  }

  /** Of what is changed in this turn. */
  changed(note: (names: ChangeNotes) => void): void {
    for (const names of this.followers) note(names);
  }

  next(): Transaction {
    const place = ++this.#operations;
    return { place, revision: place.toString(36), now: new Date() };
  }

  /** An import that still goes on ends with `CONFLICT`. */
  beginImport(revisionFloor: number, run: MoveRun | undefined): Importer {
    const isEmpty = this.users.size === 0 && this.rooms.size === 0 && !this.adminEver;
    this.state = beginWrite(this.state, run, isEmpty, Date.now());
    this.#importer = { id: Symbol("import") };
    this.changed((names) => names.lose());
    this.#operations = Math.max(this.#operations, revisionFloor);
    return this.#importer;
  }

  checkImporter(importer: Importer): void {
    if (this.#importer !== importer) throw importTakenOver();
  }

  clear(): void {
    this.users.clear();
    this.rooms.clear();
    this.#admins.clear();
    this.adminEver = false;
  }

  endImport(adminEver: boolean, state: MoveState): void {
    this.adminEver ||= adminEver;
    this.state = state;
    this.#importer = undefined;
  }

  setUser(place: number, user: UserRow): void {
    const before = this.users.get(user.key)?.user;
    this.changed((names) => {
      names.user(user.key, before !== undefined && endsGrant(factsOf(before), factsOf(user), Date.now()));
    });
    this.users.set(user.key, { place, user });
    if (user.role === "admin") {
      this.#admins.add(user.key);
      this.adminEver = true;
    } else {
      this.#admins.delete(user.key);
    }
  }

  /** Whether an admin other than `except` is active at `now`, in milliseconds since 1970. */
  hasAdmin(now: number, except?: string): boolean {
    for (const key of this.#admins) {
      const entry = this.users.get(key);
      if (key !== except && entry !== undefined && isActiveAdmin(factsOf(entry.user), now)) return true;
    }
    return false;
  }
}

/** Answers at once. What `read` throws is what the promise rejects with. */
export function answer<T>(read: () => T): Promise<T> {
  return new Promise((resolve) => resolve(read()));
}

export function roomOf(memory: Memory, roomId: string): RoomEntry {
  const room = memory.rooms.get(roomId);
  if (room === undefined) throw roomNotFound(roomId);
  return room;
}

export function memberOf(memory: Memory, roomId: string, endpoint: string): MemberEntry {
  const member = roomOf(memory, roomId).members.get(endpoint);
  if (member === undefined) throw memberNotFound(roomId, endpoint);
  return member;
}

/** A membership that begins, with the first key that it may come with. */
export function membership(
  { now, revision }: Transaction,
  member: Omit<MemberRow, "since" | "revision">,
  key: { readonly epoch: number; readonly sealed: Uint8Array } | undefined,
): MemberEntry {
  const { roomId, endpoint } = member;
  const keys = new Map<number, KeyRow>();
  if (key !== undefined) keys.set(key.epoch, { roomId, endpoint, ...key, createdAt: now });
  return { member: { ...member, since: now, revision }, keys };
}

/** A page of entries in the order of their places, which is the order in which a `Map` has them. */
export function pageOf<Entry extends { readonly place: number }, T>(
  entries: Iterable<Entry>,
  { after, limit }: PageInput,
  record: (entry: Entry) => T,
): Page<T> {
  const last = cursor(after);
  const rest = [...entries].filter(({ place }) => place > last);
  const items = rest.slice(0, limit);
  const end = rest.length > limit ? items.at(-1) : undefined;
  return { items: items.map(record), ...(end === undefined ? {} : { next: toCursor(end.place) }) };
}
