/**
 * The keys of the buckets. Ids of callers are single tokens, as unpadded base64url; ids of ours (incarnations,
 * memberships, attempts) are random and stand in the keys, so that nothing that belongs to one is ever taken for
 * another's. An id is not a key: the types tell them apart.
 */
import { Buffer } from "node:buffer";
import { randomBytes } from "node:crypto";
import type { DirectMessage } from "./client.js";
import type { BucketName } from "./seq.js";

export const token = (id: string): string => Buffer.from(id, "utf8").toString("base64url");

export const untoken = (text: string): string => Buffer.from(text, "base64url").toString("utf8");

/** An id of ours is 96 random bits, in base64url. */
const ID_BYTES = 12;
const ID_LENGTH = (ID_BYTES * 8) / 6;

export const newId = (): string => randomBytes(ID_BYTES).toString("base64url");

const IMPORTED = "i-";

/**
 * The incarnation of a room that is imported. Such a room has rows before it has a record, and what a dead import left
 * is found by it.
 */
export const newImportedId = (): string => `${IMPORTED}${newId()}`;

/** One of 4,096 other ids begins in the same way, and is shorter. */
export const isImported = (incarnation: string): boolean =>
  incarnation.startsWith(IMPORTED) && incarnation.length > ID_LENGTH;

/** Not a character of base64url, and so never the token of an id. */
const RESERVED_TOKEN = "=";

/** What the keys of users begin with, and those of rooms. */
const USER = "user.";
const ROOM = "room.";

declare const filterOf: unique symbol;
declare const isExact: unique symbol;

/** What matches keys of a bucket, as subjects of NATS match. */
export type Filter<B extends BucketName> = string & { readonly [filterOf]: (bucket: B) => void };

/**
 * The key of a record in a bucket, which no other bucket takes. Only this file makes them. `Key<"rooms" | "users">` is
 * one that both have, `Key<never>` one of whatever bucket.
 */
export type Key<B extends BucketName> = Filter<B> & { readonly [isExact]: true };

/** The key of a message that stands in a bucket. */
export const storedKey = <B extends BucketName>(_of: Pick<DirectMessage<B>, "seq">, text: string): Key<B> =>
  text as Key<B>;

/** What matches every record of a bucket, and its barriers. */
export const EVERYTHING = ">" as Filter<BucketName>;

export const keys = {
  /** Whether the store may be used. */
  state: "store" as Key<"rooms" | "users">,

  room: (roomId: string) => `${ROOM}${token(roomId)}` as Key<"rooms">,
  rooms: `${ROOM}*` as Filter<"rooms">,
  /** What is of rooms, in the other buckets: every record, whatever the format, but no barrier. */
  ofRooms: "*.*.>" as Filter<"members" | "rooms_by_member" | "room_keys">,
  /** How many replicas each bucket was raised to. */
  replicas: "replicas" as Key<"rooms">,
  /** How far the index of all rooms is made. */
  indexProgress: "index" as Key<"rooms">,

  member: (roomId: string, endpoint: string, roster: string) =>
    `${token(roomId)}.${token(endpoint)}.${roster}` as Key<"members">,
  memberOfAny: (roomId: string, endpoint: string) => `${token(roomId)}.${token(endpoint)}.>` as Filter<"members">,
  members: (roomId: string, roster: string) => `${token(roomId)}.*.${roster}` as Filter<"members">,
  membersMark: (roomId: string, roster: string) => `${token(roomId)}.${RESERVED_TOKEN}.${roster}` as Key<"members">,

  indexEntry: (endpoint: string, roomId: string, incarnation: string, membership: string) =>
    `${token(endpoint)}.${token(roomId)}.${incarnation}.${membership}` as Key<"rooms_by_member">,
  indexEntries: (endpoint: string) => `${token(endpoint)}.>` as Filter<"rooms_by_member">,
  indexMark: (endpoint: string) => `${token(endpoint)}.${RESERVED_TOKEN}` as Key<"rooms_by_member">,
  indexEntriesOfRoom: (roomId: string, incarnation: string) =>
    `*.${token(roomId)}.${incarnation}.*` as Filter<"rooms_by_member">,

  roomIndexEntry: (roomId: string, incarnation: string) =>
    `${RESERVED_TOKEN}.${token(roomId)}.${incarnation}` as Key<"rooms_by_member">,
  roomIndexEntries: `${RESERVED_TOKEN}.>` as Filter<"rooms_by_member">,
  roomIndexMark: `${RESERVED_TOKEN}.${RESERVED_TOKEN}` as Key<"rooms_by_member">,

  roomKey: (at: MembershipRef, epoch: number, attempt: string) =>
    `${holder(at)}.${String(epoch)}.${attempt}` as Key<"room_keys">,
  roomKeys: (at: MembershipRef) => `${holder(at)}.>` as Filter<"room_keys">,
  roomKeysMark: (at: MembershipRef) => `${holder(at)}.${RESERVED_TOKEN}` as Key<"room_keys">,
  /** Of any incarnation and membership, and of any epoch if none is named. */
  roomKeysOfEndpoint: (roomId: string, endpoint: string, epoch: number | undefined) =>
    `key.${token(roomId)}.${token(endpoint)}.${epoch === undefined ? ">" : `*.*.${String(epoch)}.*`}` as Filter<"room_keys">,
  roomKeysOfAttempt: (roomId: string, incarnation: string, epoch: number, attempt: string) =>
    `key.${token(roomId)}.*.${incarnation}.*.${String(epoch)}.${attempt}` as Filter<"room_keys">,
  roomKeysOfRoom: (roomId: string, incarnation: string) =>
    `key.${token(roomId)}.*.${incarnation}.>` as Filter<"room_keys">,
  roomKeysOfRoomMark: (roomId: string, incarnation: string) =>
    `key.${token(roomId)}.${RESERVED_TOKEN}.${incarnation}.${RESERVED_TOKEN}` as Key<"room_keys">,
  /** What writes of an import are conditioned on. */
  importLane: (lane: number) => `import.${String(lane)}` as Key<"rooms" | "users">,
  epoch: (roomId: string, incarnation: string, epoch: number) =>
    `epoch.${token(roomId)}.${incarnation}.${String(epoch)}` as Key<"room_keys">,
  epochs: (roomId: string, incarnation: string) => `epoch.${token(roomId)}.${incarnation}.>` as Filter<"room_keys">,
  epochsMark: (roomId: string, incarnation: string) =>
    `epoch.${token(roomId)}.${incarnation}.${RESERVED_TOKEN}` as Key<"room_keys">,

  user: (key: string) => `${USER}${token(key)}` as Key<"users">,
  admins: "admins" as Key<"users">,
} as const;

/** What matches the marks of lists of `room_keys`: of a room's keys, of a member's, and of epochs. */
export const MARKS = [
  `key.*.${RESERVED_TOKEN}.*.${RESERVED_TOKEN}`,
  `key.*.*.*.*.${RESERVED_TOKEN}`,
  `epoch.*.*.${RESERVED_TOKEN}`,
] as const;

/** The user that a record is of. `undefined`: of none. */
export const parseUser = (key: Key<"users">): string | undefined =>
  key.startsWith(USER) ? untoken(key.slice(USER.length)) : undefined;

/** The room that a record is of. `undefined`: of none. */
export const parseRoom = (key: Key<"rooms">): string | undefined =>
  key.startsWith(ROOM) ? untoken(key.slice(ROOM.length)) : undefined;

/** A membership, in an incarnation of a room: whose keys they are. */
export interface MembershipRef {
  readonly roomId: string;
  readonly endpoint: string;
  readonly incarnation: string;
  readonly membership: string;
}

const holder = (at: MembershipRef): string =>
  `key.${token(at.roomId)}.${token(at.endpoint)}.${at.incarnation}.${at.membership}`;

/** What an index entry is for. `undefined`: the key is not an entry's, but perhaps a mark's. */
export function parseIndexEntry(key: Key<"rooms_by_member">): MembershipRef | undefined {
  const [endpoint, room, incarnation, membership, ...more] = key.split(".");
  if (
    endpoint === undefined ||
    room === undefined ||
    incarnation === undefined ||
    membership === undefined ||
    more.length > 0
  ) {
    return undefined;
  }
  return { endpoint: untoken(endpoint), roomId: untoken(room), incarnation, membership };
}

/**
 * Which room an entry of the index of all rooms is for. It has fewer tokens than a member's, and stands where no
 * endpoint's does, so that a version of the library which knows no such entries leaves it alone.
 */
export function parseRoomIndexEntry(
  key: Key<"rooms_by_member">,
): { readonly roomId: string; readonly incarnation: string } | undefined {
  const [first, room, incarnation, ...more] = key.split(".");
  if (first !== RESERVED_TOKEN || room === undefined || incarnation === undefined || more.length > 0) return undefined;
  return { roomId: untoken(room), incarnation };
}

/** What a key or an epoch belongs to. `undefined`: neither. */
export function parseKey(key: Key<"room_keys">):
  | {
      readonly roomId: string;
      readonly incarnation: string;
      readonly membership?: { readonly endpoint: string; readonly id: string };
      readonly made?: { readonly epoch: number; readonly attempt: string };
    }
  | undefined {
  const tokens = key.split(".");
  const [first, second, third, fourth, fifth, sixth, seventh] = tokens;
  if (second === undefined || third === undefined || tokens.includes(RESERVED_TOKEN)) return undefined;
  if (first === "epoch" && tokens.length === 4) return { roomId: untoken(second), incarnation: third };
  if (first === "key" && fourth !== undefined && fifth !== undefined && seventh !== undefined) {
    return {
      roomId: untoken(second),
      incarnation: fourth,
      membership: { endpoint: untoken(third), id: fifth },
      made: { epoch: Number(sixth), attempt: seventh },
    };
  }
  return undefined;
}

/**
 * A new id for the rows of a room's members. The first roster has the id of the incarnation; this one has a token more.
 * A version of the library that knows only the first then takes the rows for none of a member. Else it would clear away
 * those of a copy under way.
 */
export const newRoster = (incarnation: string): string => `${incarnation}.${newId()}`;

/** Whose row it is. */
export const endpointOf = (key: Key<"members">): string => untoken(key.split(".")[1] ?? "");

/** What a member's row belongs to. */
export function parseMember(
  key: Key<"members">,
): { readonly roomId: string; readonly incarnation: string; readonly roster: string } | undefined {
  const [room, endpoint, incarnation, copy, ...more] = key.split(".");
  if (
    room === undefined ||
    endpoint === undefined ||
    incarnation === undefined ||
    more.length > 0 ||
    endpoint === RESERVED_TOKEN
  )
    return undefined;
  return { roomId: untoken(room), incarnation, roster: copy === undefined ? incarnation : `${incarnation}.${copy}` };
}
