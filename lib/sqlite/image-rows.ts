/** The rows of an image, column by column. Each throws on what the library does not write. */
import type { RowReader } from "./row-reader.js";
import { toRevision } from "./rows.js";
import type { KeyRow, MemberRow, RoomRow, UserRow } from "./rows.js";

const USER_ROLES = ["admin", "member"] as const;
const STATUSES = ["active", "revoked"] as const;
const MEMBER_ROLES = ["owner", "member"] as const;
const STATES = ["invited", "joined"] as const;

/**
 * An upper bound of the number of users: to count them is to read them. No user ever goes, and none takes less than 32
 * bytes.
 */
export const MAX_USERS = `
  SELECT min(ifnull((SELECT max(ordinal) FROM users), 0), page_count * page_size / 32) FROM pragma_page_count, pragma_page_size`;
export const USERS = `
  SELECT ordinal, key, ${which("role", USER_ROLES)}, ${which("status", STATUSES)}, name, created_at, revoked_at, expires_at, revision
    FROM users ORDER BY ordinal`;
export const ROOMS =
  "SELECT ordinal, id, name, encrypted, owner, epoch, rekey_required, created_at, revision FROM rooms ORDER BY ordinal";
export const MEMBERS = `
  SELECT room_id, endpoint, ${which("role", MEMBER_ROLES)}, ${which("state", STATES)}, invited_by, public_key, since, revision
    FROM members ORDER BY room_id, endpoint`;
export const KEYS =
  "SELECT room_id, endpoint, epoch, sealed, created_at FROM room_keys ORDER BY room_id, endpoint, epoch";

/** Which of two words a column has, as a number: each text costs more to bring over than all that is done with it. */
function which(column: string, [a, b]: readonly [string, string]): string {
  return `CASE ${column} WHEN '${a}' THEN 0 WHEN '${b}' THEN 1 END`;
}

/** Whether it is the first of the two. */
export function isFirst(rows: RowReader, column: number): boolean {
  if (rows.isNull(column)) throw new Error("a column has a value that is none of its own");
  return rows.number(column) === 0;
}

function oneOf<const T extends string>(rows: RowReader, column: number, [a, b]: readonly [T, T]): T {
  return isFirst(rows, column) ? a : b;
}

export function flag(rows: RowReader, column: number): boolean {
  const value = rows.number(column);
  if (value !== 0 && value !== 1) throw new Error("a column has a value that is none of its own");
  return value === 1;
}

export function userOf(rows: RowReader): UserRow {
  return {
    ordinal: rows.number(0),
    key: rows.text(1),
    role: oneOf(rows, 2, USER_ROLES),
    status: oneOf(rows, 3, STATUSES),
    name: rows.text(4),
    createdAt: rows.number(5),
    revokedAt: rows.isNull(6) ? undefined : rows.number(6),
    expiresAt: rows.isNull(7) ? undefined : rows.number(7),
    revision: toRevision(rows.number(8)),
  };
}

export function roomOf(rows: RowReader): RoomRow {
  return {
    ordinal: rows.number(0),
    id: rows.text(1),
    name: rows.text(2),
    encrypted: flag(rows, 3),
    owner: rows.text(4),
    epoch: rows.number(5),
    rekeyRequired: flag(rows, 6),
    createdAt: rows.number(7),
    revision: toRevision(rows.number(8)),
  };
}

export function memberOf(rows: RowReader): MemberRow {
  return {
    roomId: rows.text(0),
    endpoint: rows.text(1),
    role: oneOf(rows, 2, MEMBER_ROLES),
    state: oneOf(rows, 3, STATES),
    invitedBy: rows.isNull(4) ? undefined : rows.text(4),
    publicKey: rows.isNull(5) ? undefined : rows.blob(5),
    since: rows.number(6),
    revision: toRevision(rows.number(7)),
  };
}

export function keyOf(rows: RowReader): KeyRow {
  return {
    roomId: rows.text(0),
    endpoint: rows.text(1),
    epoch: rows.number(2),
    sealed: rows.blob(3),
    createdAt: rows.number(4),
  };
}
