/**
 * The rules of the contract that decide whether an operation may go ahead, once for every backend. Each takes the
 * records as the operation found them, throws what the contract says, and changes nothing.
 */
import { StoreError, isStoreError } from "./errors.js";
import type { MemberInput, RoomInput } from "./arguments.js";

/** What the rules need to know of a room, a member and a user. The backends' own rows have these fields. */
export interface RoomFacts {
  readonly encrypted: boolean;
  readonly owner: string;
  readonly epoch: number;
  readonly revision: string;
}

export interface MemberFacts {
  readonly state: "invited" | "joined";
}

export interface UserFacts {
  readonly role: "admin" | "member";
  readonly status: "active" | "revoked";
  /** Milliseconds since 1970. */
  readonly expiresAt?: number | undefined;
}

const MAX_EPOCH = 2 ** 31 - 1;
const NAMED_AT_MOST = 100;

/** An id in a message: quoted, so that a hostile one cannot forge a line of a log. */
const quoted = (id: string): string => JSON.stringify(id);

export function roomNotFound(id: string): StoreError {
  return new StoreError("NOT_FOUND", `No room ${quoted(id)}`);
}
export function memberNotFound(roomId: string, endpoint: string): StoreError {
  return new StoreError("NOT_FOUND", `No member ${quoted(endpoint)} of room ${quoted(roomId)}`);
}
export function keyNotFound(roomId: string, endpoint: string, epoch: number | undefined): StoreError {
  const which = epoch === undefined ? "any epoch" : `epoch ${String(epoch)}`;
  return new StoreError("NOT_FOUND", `No key of ${which} for member ${quoted(endpoint)} of room ${quoted(roomId)}`);
}
export function userNotFound(key: string): StoreError {
  return new StoreError("NOT_FOUND", `No user ${quoted(key)}`);
}
export function roomExists(id: string): StoreError {
  return new StoreError("ALREADY_EXISTS", `A room ${quoted(id)} exists`);
}
export function memberExists(roomId: string, endpoint: string): StoreError {
  return new StoreError("ALREADY_EXISTS", `${quoted(endpoint)} is a member of room ${quoted(roomId)}`);
}
export function keyExists(roomId: string, endpoint: string, epoch: number): StoreError {
  return new StoreError(
    "ALREADY_EXISTS",
    `Member ${quoted(endpoint)} of room ${quoted(roomId)} has a key of epoch ${String(epoch)}`,
  );
}
export function userExists(key: string): StoreError {
  return new StoreError("ALREADY_EXISTS", `A user ${quoted(key)} exists`);
}
function conflict(message: string, details?: Readonly<Record<string, unknown>>): StoreError {
  return new StoreError("CONFLICT", message, details === undefined ? {} : { details });
}
export function lastAdmin(): StoreError {
  return conflict("The last active admin can be neither revoked nor demoted");
}
export function notFirstAdmin(): StoreError {
  return conflict("A user is, or was, an admin: the first one cannot be added again");
}

/** A store is closed while somebody imports into it. */
export function isImporting(since: number): StoreError {
  const details = { movingTo: "", since: new Date(since).toISOString() };
  return new StoreError("UNAVAILABLE", "The store is closed to checks and writes: it is being imported", {
    outcome: "none",
    details,
  });
}
export function importTakenOver(): StoreError {
  return conflict("Another import into the store has begun, and goes on instead of this one");
}
export function importIntoNonEmpty(): StoreError {
  return conflict("Only an empty store can be imported into: this one holds something, or has had an admin");
}

export function checkRevision(revision: string, ifRevision: string | undefined): void {
  if (ifRevision !== undefined && ifRevision !== revision) {
    throw conflict("The record is no longer at that revision");
  }
}

export function checkCreate(room: RoomInput): void {
  if (room.sealedKey !== undefined && !room.encrypted) throw conflict("A room that is not encrypted has no keys");
}

/** A new member, in a room that has none of that name. */
export function checkAdd(room: RoomFacts, sealedKey: MemberInput["sealedKey"]): void {
  if (sealedKey === undefined) return;
  if (!room.encrypted) throw conflict("A room that is not encrypted has no keys");
  if (sealedKey.epoch !== room.epoch) {
    throw conflict(`The key is of epoch ${String(sealedKey.epoch)}, the room at epoch ${String(room.epoch)}`);
  }
}

export function checkRemove(room: RoomFacts, endpoint: string): void {
  if (room.owner === endpoint) throw conflict("The owner of a room cannot be removed");
}

/** Ownership moves to a joined member. */
export function checkOwner(roomId: string, endpoint: string, member: MemberFacts | undefined): void {
  if (member === undefined) throw memberNotFound(roomId, endpoint);
  if (member.state !== "joined") throw conflict("Ownership moves to a joined member only");
}

/** The order is the same on every backend: first the room, then whether the member exists, then the epoch. */
export function checkPut(
  roomId: string,
  room: RoomFacts,
  endpoint: string,
  member: MemberFacts | undefined,
  epoch: number,
): void {
  if (!room.encrypted) throw conflict("A room that is not encrypted has no keys");
  if (member === undefined) throw memberNotFound(roomId, endpoint);
  if (epoch > room.epoch)
    throw conflict(`The key is of epoch ${String(epoch)}, the room at epoch ${String(room.epoch)}`);
}

export function checkRekey(room: RoomFacts, expectedEpoch: number, ifRevision: string | undefined): void {
  if (!room.encrypted) throw conflict("A room that is not encrypted has no keys");
  if (room.epoch !== expectedEpoch) {
    throw conflict(`The room is at epoch ${String(room.epoch)}, not ${String(expectedEpoch)}`, { epoch: room.epoch });
  }
  if (room.epoch >= MAX_EPOCH) throw conflict("The room has no epochs left");
  checkRevision(room.revision, ifRevision);
}

/** The keys of a rekey name exactly the current members. */
export function checkRekeyMembers(sealed: ReadonlyMap<string, unknown>, members: ReadonlySet<string>): void {
  const missing = [...members].filter((endpoint) => !sealed.has(endpoint)).sort(byCodePoint);
  const extra = [...sealed.keys()].filter((endpoint) => !members.has(endpoint)).sort(byCodePoint);
  if (missing.length === 0 && extra.length === 0) return;
  throw conflict(
    `The keys do not name exactly the members: ${String(missing.length)} missing, ${String(extra.length)} extra` +
      (missing.length + extra.length > NAMED_AT_MOST ? ` (all of them are in details)` : ""),
    { missing, extra },
  );
}

/** Whether a check may let the user in at `now`, in milliseconds since 1970. */
export function isActive(user: UserFacts, now: number): boolean {
  return user.status === "active" && (user.expiresAt === undefined || now < user.expiresAt);
}

/**
 * Whether a change of a user ended a grant. That is a revocation, a demotion, an end of its time, or a new grant to
 * somebody whose time was over.
 */
export function endsGrant(before: UserFacts, next: UserFacts, now: number): boolean {
  const isOver = ({ expiresAt }: UserFacts): boolean => expiresAt !== undefined && expiresAt <= now;
  const isTaken = next.status === "revoked" && before.status === "active";
  const isDemoted = before.role === "admin" && next.role === "member";
  return isTaken || isDemoted || isOver(before) !== isOver(next);
}

export function isActiveAdmin(user: UserFacts, now: number): boolean {
  return user.role === "admin" && isActive(user, now);
}

/** Order by code point. `<` on strings orders by UTF-16 unit, which puts emoji before some of the plane below them. */
export function byCodePoint(a: string, b: string): number {
  const end = Math.min(a.length, b.length);
  for (let i = 0; i < end; i++) {
    const x = a.charCodeAt(i);
    const y = b.charCodeAt(i);
    if (x !== y) {
      // Surrogates stand for code points above every other unit.
      const high = (unit: number): number => (unit >= 0xd800 && unit <= 0xdfff ? unit + 0x10000 : unit);
      return high(x) - high(y);
    }
  }
  return a.length - b.length;
}

/** Sorts in place, by the code points of a name. */
export function sortedBy<T>(items: T[], name: (item: T) => string): T[] {
  return items.sort((a, b) => byCodePoint(name(a), name(b)));
}

/**
 * The highest floor that a store accepts. Above it too few numbers would be left for revisions and for versions of
 * users. No store has given out so many, so a record that says more is damaged.
 */
export const MAX_REVISION_FLOOR = 2 ** 53 - 2 ** 40;
/** A clock may say anything. Above this too few would be left for the stores that come after. */
const MAX_OF_CLOCK = 2 ** 52;

/**
 * The floor for records of a store that gave no revision above `given`, as far as is known. A store gives hardly more
 * than one a millisecond, counted from 1970.
 */
export const revisionFloorFrom = (given: number): number =>
  Math.min(Math.max(given, Math.min(Date.now(), MAX_OF_CLOCK)), MAX_REVISION_FLOOR);

/** A refusal by the rules, in contrast to a failure. */
export function isRefusal(error: unknown): boolean {
  if (!isStoreError(error)) return false;
  switch (error.code) {
    case "NOT_FOUND":
    case "ALREADY_EXISTS":
    case "CONFLICT":
      return true;
    case "INVALID_ARGUMENT":
    case "TIMEOUT":
    case "UNAVAILABLE":
    case "CLOSED":
    case "LOCKED":
    case "CORRUPT":
    case "INCOMPATIBLE":
    default:
      return false;
  }
}
