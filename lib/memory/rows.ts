/** What is kept of each record, and the copies that callers get. Rows are replaced, never changed. */
import { types } from "node:util";
import type { UserFacts } from "../rules.js";
import type { Member, Room, RoomKey, User } from "../store.js";

/** The fields of a record, each of them there: what the record leaves out is `undefined`. */
type Row<T> = { readonly [Name in keyof Required<T>]: T[Name] };

export type RoomRow = Row<Room>;
export type MemberRow = Row<Member>;
export type KeyRow = Row<RoomKey>;
export type UserRow = Row<User>;

export const roomRecord = (row: RoomRow): Room => copyOf<Room>(row);
export const memberRecord = (row: MemberRow): Member => copyOf<Member>(row);
export const keyRecord = (row: KeyRow): RoomKey => copyOf<RoomKey>(row);
export const userRecord = (row: UserRow): User => copyOf<User>(row);

/** Fresh in depth: the fields are text, numbers, flags, dates and bytes. What is `undefined` is left out. */
function copyOf<T>(row: Row<T>): T {
  const fields = Object.entries<unknown>(row).filter(([, value]) => value !== undefined);
  return Object.fromEntries(fields.map(([name, value]) => [name, copyOfValue(value)])) as T;
}

/** By what the engine knows: a test may have put another `Date` in place of the one that made the value. */
function copyOfValue(value: unknown): unknown {
  if (types.isDate(value)) return new Date(value.getTime());
  if (types.isUint8Array(value)) return new Uint8Array(value);
  return value;
}

/** What the rules need to know of a user. */
export function factsOf({ role, status, expiresAt }: UserRow): UserFacts {
  return { role, status, expiresAt: expiresAt?.getTime() };
}
