/**
 * The rows that the store keeps, and the records that callers get of them. Rows are replaced, never changed, so that
 * one can be shared by the durable tables and by what still waits for the disk.
 */
import type { StoredKey, StoredMember, StoredRoom, StoredUser } from "../driver.js";
import type { Member, Room, RoomKey, User } from "../store.js";

/** `revision` is the sequence number of the transaction that wrote the row: it never repeats. */
interface Written {
  readonly revision: string;
}

/** `ordinal` is the place in pages. */
interface Listed extends Written {
  readonly ordinal: number;
}

export type RoomRow = StoredRoom & Listed;
export type MemberRow = StoredMember & Written;
export type KeyRow = StoredKey;
/** This backend counts no grants. */
export type UserRow = Required<Omit<StoredUser, "grant">> & Listed;

/** A transaction, or a row, that does not fit the state it is applied to. */
export class InconsistentState extends Error {}

export function toRevision(sequence: number): string {
  return sequence.toString(36);
}

export function toSequence(revision: string): number {
  return Number.parseInt(revision, 36);
}

export function roomRecord(row: RoomRow): Room {
  return {
    id: row.id,
    name: row.name,
    encrypted: row.encrypted,
    owner: row.owner,
    epoch: row.epoch,
    rekeyRequired: row.rekeyRequired,
    createdAt: new Date(row.createdAt),
    revision: row.revision,
  };
}

export function memberRecord(row: MemberRow): Member {
  return {
    roomId: row.roomId,
    endpoint: row.endpoint,
    role: row.role,
    state: row.state,
    ...(row.invitedBy === undefined ? {} : { invitedBy: row.invitedBy }),
    ...(row.publicKey === undefined ? {} : { publicKey: copyOf(row.publicKey) }),
    since: new Date(row.since),
    revision: row.revision,
  };
}

export function keyRecord(row: KeyRow): RoomKey {
  return {
    roomId: row.roomId,
    endpoint: row.endpoint,
    epoch: row.epoch,
    sealed: copyOf(row.sealed),
    createdAt: new Date(row.createdAt),
  };
}

type Mutable<T> = { -readonly [Name in keyof T]: T[Name] };

/** Every check makes one of these: plain assignments are many times cheaper than spreading what is there. */
export function userRecord(row: UserRow): User {
  const user: Mutable<User> = {
    key: row.key,
    role: row.role,
    status: row.status,
    name: row.name,
    createdAt: new Date(row.createdAt),
    revision: row.revision,
  };
  if (row.revokedAt !== undefined) user.revokedAt = new Date(row.revokedAt);
  if (row.expiresAt !== undefined) user.expiresAt = new Date(row.expiresAt);
  return user;
}

function copyOf(bytes: Uint8Array): Uint8Array {
  return Uint8Array.prototype.slice.call(bytes);
}
