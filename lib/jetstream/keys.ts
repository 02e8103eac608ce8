/**
 * The keys of the buckets. Ids of callers are single tokens, as unpadded base64url; ids of ours (incarnations, memberships, attempts) are
 * random and stand in the keys, so that nothing that belongs to one is ever taken for another's.
 */
import { Buffer } from "node:buffer";
import { randomBytes } from "node:crypto";

export const token = (id: string): string => Buffer.from(id, "utf8").toString("base64url");

export const untoken = (text: string): string => Buffer.from(text, "base64url").toString("utf8");

/** An id of ours: 96 random bits. */
export const newId = (): string => randomBytes(12).toString("base64url");

/** Not a character of base64url, and so never the token of an id. */
const RESERVED_TOKEN = "=";

export const keys = {
  room: (roomId: string): string => `room.${token(roomId)}`,

  member: (roomId: string, endpoint: string, roster: string): string => `${token(roomId)}.${token(endpoint)}.${roster}`,
  memberOfAny: (roomId: string, endpoint: string): string => `${token(roomId)}.${token(endpoint)}.>`,
  members: (roomId: string, roster: string): string => `${token(roomId)}.*.${roster}`,
  membersMark: (roomId: string, roster: string): string => `${token(roomId)}.${RESERVED_TOKEN}.${roster}`,

  hint: (endpoint: string, roomId: string, incarnation: string, membership: string): string =>
    `${token(endpoint)}.${token(roomId)}.${incarnation}.${membership}`,
  hints: (endpoint: string): string => `${token(endpoint)}.>`,
  hintsMark: (endpoint: string): string => `${token(endpoint)}.${RESERVED_TOKEN}`,
  hintsOfRoom: (roomId: string, incarnation: string): string => `*.${token(roomId)}.${incarnation}.*`,

  roomHint: (roomId: string, incarnation: string): string => `${RESERVED_TOKEN}.${token(roomId)}.${incarnation}`,
  roomHints: `${RESERVED_TOKEN}.>`,
  roomHintsMark: `${RESERVED_TOKEN}.${RESERVED_TOKEN}`,

  roomKey: (at: MembershipRef, epoch: number, attempt: string): string => `${holder(at)}.${String(epoch)}.${attempt}`,
  roomKeys: (at: MembershipRef): string => `${holder(at)}.>`,
  roomKeysMark: (at: MembershipRef): string => `${holder(at)}.${RESERVED_TOKEN}`,
  /** Of whatever incarnation and membership, and of whatever epoch where none is named. */
  roomKeysOfEndpoint: (roomId: string, endpoint: string, epoch: number | undefined): string =>
    `key.${token(roomId)}.${token(endpoint)}.${epoch === undefined ? ">" : `*.*.${String(epoch)}.*`}`,
  roomKeysOfAttempt: (roomId: string, incarnation: string, epoch: number, attempt: string): string =>
    `key.${token(roomId)}.*.${incarnation}.*.${String(epoch)}.${attempt}`,
  roomKeysOfRoom: (roomId: string, incarnation: string): string => `key.${token(roomId)}.*.${incarnation}.>`,
  epoch: (roomId: string, incarnation: string, epoch: number): string =>
    `epoch.${token(roomId)}.${incarnation}.${String(epoch)}`,
  epochs: (roomId: string, incarnation: string): string => `epoch.${token(roomId)}.${incarnation}.>`,
  epochsMark: (roomId: string, incarnation: string): string =>
    `epoch.${token(roomId)}.${incarnation}.${RESERVED_TOKEN}`,

  user: (key: string): string => `user.${token(key)}`,
  admins: "admins",
} as const;

/** The user of a record. */
export const parseUser = (key: string): string => untoken(key.slice(keys.user("").length));

/** Whose keys: a membership, of an incarnation of a room. */
export interface MembershipRef {
  readonly roomId: string;
  readonly endpoint: string;
  readonly incarnation: string;
  readonly membership: string;
}

const holder = (at: MembershipRef): string =>
  `key.${token(at.roomId)}.${token(at.endpoint)}.${at.incarnation}.${at.membership}`;

/** What an index entry is for. `undefined`: not one, as the mark of a long list is not. */
export function parseHint(key: string): MembershipRef | undefined {
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
 * Which room an entry of the index of all rooms is for. It has fewer tokens than a member's, and stands where no endpoint's
 * does, so that a version of the library which knows no such entries leaves it alone.
 */
export function parseRoomHint(key: string): { readonly roomId: string; readonly incarnation: string } | undefined {
  const [mark, room, incarnation, ...more] = key.split(".");
  if (mark !== RESERVED_TOKEN || room === undefined || incarnation === undefined || more.length > 0) return undefined;
  return { roomId: untoken(room), incarnation };
}

/** What a key or an epoch belongs to. `undefined`: neither. */
export function parseKey(key: string):
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
 * An id for the rows of a room's members, of the same incarnation. The first is the incarnation's own. A token more, so that a
 * version of the library which knows no other takes the rows for none: it would clear away those of a copy under way.
 */
export const newRoster = (incarnation: string): string => `${incarnation}.${newId()}`;

/** What a member's row belongs to. */
export function parseMember(
  key: string,
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
