/**
 * A room as its bytes: what the image said of it, and how to read it. All numbers are little-endian, and texts UTF-8
 * with their length before them.
 *
 * ```text
 * room     members 4 | flags 1 | length of the id 2, of the name 2, of the owner 2 | ordinal 8 | epoch 8 | created at 8
 *          sequence 8 | id | name | owner
 * members  length 4 | member ...
 * member   length with its keys 2 | flags 1 | length of the endpoint 2 | since 8 | sequence 8 | endpoint
 *          (length 2 | who invited) (length 2 | public key) | key ...
 * key      epoch 8 | created at 8 | length 2 | sealed key
 * ```
 */
import type { Buffer } from "node:buffer";
import { toRevision } from "./rows.js";
import type { KeyRow, MemberRow, RoomRow } from "./rows.js";

/** Of ids and names. What is longer is not packed. */
export const MAX_TEXT_BYTES = 256;

export const ROOM = {
  members: 0,
  flags: 4,
  id: 5,
  name: 7,
  owner: 9,
  ordinal: 11,
  epoch: 19,
  createdAt: 27,
  sequence: 35,
  texts: 43,
} as const;
export const MEMBERS_HEAD = 4;
export const MEMBER = { length: 0, flags: 2, endpoint: 3, since: 5, sequence: 13, texts: 21 } as const;
export const KEY = { epoch: 0, createdAt: 8, length: 16, sealed: 18 } as const;

/** Of the flags of a room. */
export const ENCRYPTED = 1;
export const REKEY_REQUIRED = 2;
/** The room is kept as objects by now, or deleted. */
export const GONE = 4;
/** Of those of a member. */
export const OWNER = 1;
export const JOINED = 2;
export const INVITED_BY = 4;
export const PUBLIC_KEY = 8;

/** Bytes, and the numbers in them. */
export interface Bytes {
  readonly bytes: Buffer;
  readonly view: DataView;
}

export function isEqual(a: DataView, atA: number, b: DataView, atB: number, length: number): boolean {
  let i = 0;
  for (; i + 4 <= length; i += 4) if (a.getInt32(atA + i) !== b.getInt32(atB + i)) return false;
  for (; i < length; i++) if (a.getUint8(atA + i) !== b.getUint8(atB + i)) return false;
  return true;
}

/** So much is copied number by number: a call that copies costs more. */
const SHORT_BYTES = 128;

export function copyBytes(from: Bytes, at: number, to: Bytes, toAt: number, length: number): void {
  if (length > SHORT_BYTES) {
    from.bytes.copy(to.bytes, toAt, at, at + length);
    return;
  }
  const [source, target] = [from.view, to.view];
  let i = 0;
  for (; i + 4 <= length; i += 4) target.setInt32(toAt + i, source.getInt32(at + i));
  for (; i < length; i++) target.setUint8(toAt + i, source.getUint8(at + i));
}

function textIn({ bytes }: Bytes, at: number, length: number): string {
  return bytes.toString("utf8", at, at + length);
}

/** A copy, which is a plain array and not a `Buffer`. */
function bytesIn({ bytes }: Bytes, at: number, length: number): Uint8Array {
  return new Uint8Array(bytes.buffer, bytes.byteOffset + at, length).slice();
}

export function readRoom(from: Bytes, at: number): RoomRow {
  const { view } = from;
  const flags = view.getUint8(at + ROOM.flags);
  const idAt = at + ROOM.texts;
  const nameAt = idAt + view.getUint16(at + ROOM.id, true);
  const ownerAt = nameAt + view.getUint16(at + ROOM.name, true);
  return {
    ordinal: view.getFloat64(at + ROOM.ordinal, true),
    id: textIn(from, idAt, nameAt - idAt),
    name: textIn(from, nameAt, ownerAt - nameAt),
    encrypted: (flags & ENCRYPTED) !== 0,
    owner: textIn(from, ownerAt, view.getUint16(at + ROOM.owner, true)),
    epoch: view.getFloat64(at + ROOM.epoch, true),
    rekeyRequired: (flags & REKEY_REQUIRED) !== 0,
    createdAt: view.getFloat64(at + ROOM.createdAt, true),
    revision: toRevision(view.getFloat64(at + ROOM.sequence, true)),
  };
}

/** The places of the members that begin at `at`. */
export function* membersAt({ view }: Bytes, at: number): Generator<number, void, undefined> {
  const end = at + view.getUint32(at, true);
  for (let next = at + MEMBERS_HEAD; next < end; next += view.getUint16(next, true)) yield next;
}

/** The place of a member among those that begin at `at`, by its endpoint. */
export function memberAt(
  { view }: Bytes,
  at: number,
  endpoint: { readonly view: DataView; readonly length: number },
): number | undefined {
  const { length } = endpoint;
  const end = at + view.getUint32(at, true);
  for (let next = at + MEMBERS_HEAD; next < end; next += view.getUint16(next, true)) {
    if (view.getUint16(next + MEMBER.endpoint, true) !== length) continue;
    if (isEqual(view, next + MEMBER.texts, endpoint.view, 0, length)) return next;
  }
  return undefined;
}

export function hasJoined({ view }: Bytes, at: number): boolean {
  return (view.getUint8(at + MEMBER.flags) & JOINED) !== 0;
}

export interface PackedMember {
  readonly row: MemberRow;
  /** Where its keys begin. */
  readonly keysAt: number;
}

export function readMember(from: Bytes, at: number, roomId: string): PackedMember {
  const { view } = from;
  const flags = view.getUint8(at + MEMBER.flags);
  let next = at + MEMBER.texts;
  const length = view.getUint16(at + MEMBER.endpoint, true);
  const endpoint = textIn(from, next, length);
  next += length;
  let invitedBy: string | undefined;
  if ((flags & INVITED_BY) !== 0) {
    const bytes = view.getUint16(next, true);
    invitedBy = textIn(from, next + 2, bytes);
    next += 2 + bytes;
  }
  let publicKey: Uint8Array | undefined;
  if ((flags & PUBLIC_KEY) !== 0) {
    const bytes = view.getUint16(next, true);
    publicKey = bytesIn(from, next + 2, bytes);
    next += 2 + bytes;
  }
  const row: MemberRow = {
    roomId,
    endpoint,
    role: (flags & OWNER) === 0 ? "member" : "owner",
    state: (flags & JOINED) === 0 ? "invited" : "joined",
    invitedBy,
    publicKey,
    since: view.getFloat64(at + MEMBER.since, true),
    revision: toRevision(view.getFloat64(at + MEMBER.sequence, true)),
  };
  return { row, keysAt: next };
}

/** The keys of the member at `at`, whose keys begin at `keysAt`. */
export function* readKeys(
  from: Bytes,
  at: number,
  { row: { roomId, endpoint }, keysAt }: PackedMember,
): Generator<KeyRow, void, undefined> {
  const { view } = from;
  const end = at + view.getUint16(at + MEMBER.length, true);
  for (let next = keysAt; next < end;) {
    const length = view.getUint16(next + KEY.length, true);
    yield {
      roomId,
      endpoint,
      epoch: view.getFloat64(next + KEY.epoch, true),
      sealed: bytesIn(from, next + KEY.sealed, length),
      createdAt: view.getFloat64(next + KEY.createdAt, true),
    };
    next += KEY.sealed + length;
  }
}
