/**
 * An export as lines of JSON: a header, one line for each record, a trailer. What is read is checked as the arguments
 * of a caller are, field by field, and then how the records belong together.
 */
import { Buffer } from "node:buffer";
import * as args from "../arguments.js";
import type { RecordCounts, StoredKey, StoredMember, StoredRecord, StoredRoom, StoredUser } from "../driver.js";
import { StoreError, isInvalidArgument } from "../errors.js";
import { MAX_REVISION_FLOOR, byCodePoint } from "../rules.js";

const FORMAT = "unibus-membership export";
/** Of what stands in the lines. A newer one is refused. */
const VERSION = 1;
const MAX_EPOCH = 2 ** 31 - 1;

export interface Header {
  /** About as many as follow: the trailer has the numbers. */
  readonly counts: RecordCounts;
  readonly adminEver: boolean;
  readonly revisionFloor: number;
}

export interface Trailer {
  readonly counts: RecordCounts;
  readonly digest: string;
  /** Of every line before, each with its end. */
  readonly sha256: string;
}

const countsOf = ({ users, rooms, members, roomKeys }: RecordCounts): RecordCounts => ({
  users,
  rooms,
  members,
  roomKeys,
});

/** Some readers of lines take these for ends of lines, and JSON leaves them as they are. */
const text = (value: object): string => JSON.stringify(value).replace(/[\u2028\u2029]/g, escaped);
const escaped = (character: string): string => `\\u${character.charCodeAt(0).toString(16)}`;

export function headerLine({ counts, adminEver, revisionFloor }: Header): string {
  return JSON.stringify({ format: FORMAT, version: VERSION, counts: countsOf(counts), adminEver, revisionFloor });
}

export function trailerLine({ counts, digest, sha256 }: Trailer): string {
  return JSON.stringify({ end: { counts: countsOf(counts), digest, sha256 } });
}

const time = (ms: number): string => new Date(ms).toISOString();
const maybeTime = (ms: number | undefined): string | undefined => (ms === undefined ? undefined : time(ms));
const base64 = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("base64");

function userFields({ key, role, status, name, createdAt, revokedAt, expiresAt }: StoredUser): object {
  return {
    key,
    role,
    status,
    name,
    createdAt: time(createdAt),
    revokedAt: maybeTime(revokedAt),
    expiresAt: maybeTime(expiresAt),
  };
}

export function recordLine(record: StoredRecord): string {
  if (record.kind === "user" && record.row.grant !== undefined)
    return text({ user: { ...userFields(record.row), grant: record.row.grant } });
  return contentOf(record);
}

/** The record with every field that a caller can read, except for its revision: what is counted into the digest. */
export function contentOf(record: StoredRecord): string {
  switch (record.kind) {
    case "user":
      return text({ user: userFields(record.row) });
    case "room": {
      const { id, name, encrypted, owner, epoch, rekeyRequired, createdAt } = record.row;
      return text({
        room: { id, name, encrypted, owner, epoch, rekeyRequired, createdAt: time(createdAt) },
      });
    }
    case "member": {
      const { roomId, endpoint, role, state, invitedBy, publicKey, since } = record.row;
      const key = publicKey === undefined ? undefined : base64(publicKey);
      return text({
        member: { roomId, endpoint, role, state, invitedBy, publicKey: key, since: time(since) },
      });
    }
    case "key": {
      const { roomId, endpoint, epoch, sealed, createdAt } = record.row;
      return text({ key: { roomId, endpoint, epoch, sealed: base64(sealed), createdAt: time(createdAt) } });
    }
  }
}

export function corruptLine(line: number, what: string, cause?: unknown): StoreError {
  return new StoreError("CORRUPT", `Line ${String(line)} of the export is damaged: ${what}`, {
    details: { line },
    ...(cause === undefined ? {} : { cause }),
  });
}

type Json = Readonly<Record<string, unknown>>;

/** The checks are those of arguments. Here the file is wrong, and not an argument. */
function checked<T>(line: number, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (!isInvalidArgument(error)) throw error;
    throw corruptLine(line, error.message, error);
  }
}

function parsed(text: string, line: number): Json {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw corruptLine(line, "it is no JSON", error);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw corruptLine(line, "it is no object");
  return value as Json;
}

function timeOf(value: unknown, path: string): number {
  const ms = typeof value === "string" ? Date.parse(value) : NaN;
  // Only in its one form: else two lines that differ could say the same.
  if (Number.isNaN(ms) || time(ms) !== value) throw args.invalid(path, "a time in ISO 8601, in UTC, with milliseconds");
  return ms;
}

function bytesOf(value: unknown, path: string): Uint8Array {
  if (typeof value !== "string") throw args.invalid(path, "a string");
  const bytes = new Uint8Array(Buffer.from(value, "base64"));
  if (base64(bytes) !== value) throw args.invalid(path, "bytes in base64");
  return bytes;
}

function flagOf(value: unknown, path: string): boolean {
  if (typeof value !== "boolean") throw args.invalid(path, "a boolean");
  return value;
}

function hashText(value: unknown, path: string): string {
  if (typeof value !== "string" || !/^[0-9a-f]{64}$/.test(value)) throw args.invalid(path, "64 hex digits");
  return value;
}

function countsIn(value: unknown, path: string): RecordCounts {
  const names = ["users", "rooms", "members", "roomKeys"] as const;
  const found = args.fields(value, path, names);
  const [users, rooms, members, roomKeys] = names.map((name) =>
    args.integer(found[name], `${path}.${name}`, 0, Number.MAX_SAFE_INTEGER),
  );
  return { users: users ?? 0, rooms: rooms ?? 0, members: members ?? 0, roomKeys: roomKeys ?? 0 };
}

export function readHeader(text: string): Header {
  const json = parsed(text, 1);
  if (json["format"] !== FORMAT) throw corruptLine(1, "it is not the header of an export");
  const { version } = json;
  if (typeof version === "number" && version > VERSION)
    throw new StoreError(
      "INCOMPATIBLE",
      `The export is of version ${String(version)}; this version of the library knows ${String(VERSION)}`,
    );
  return checked(1, () => {
    const found = args.fields(json, "header", ["format", "version", "counts", "adminEver", "revisionFloor"]);
    args.integer(found["version"], "header.version", VERSION, VERSION);
    return {
      counts: countsIn(found["counts"], "header.counts"),
      adminEver: flagOf(found["adminEver"], "header.adminEver"),
      revisionFloor: args.integer(found["revisionFloor"], "header.revisionFloor", 0, MAX_REVISION_FLOOR),
    };
  });
}

/** A line after the header. */
export function readLine(text: string, line: number): StoredRecord | Trailer {
  const json = parsed(text, line);
  const [kind, ...more] = Object.keys(json);
  if (kind === undefined || more.length > 0) throw corruptLine(line, "it is not one record");
  const value = json[kind];
  return checked(line, () => {
    switch (kind) {
      case "user":
        return { kind, row: userOf(value) };
      case "room":
        return { kind, row: roomOf(value) };
      case "member":
        return { kind, row: memberOf(value) };
      case "key":
        return { kind, row: keyOf(value) };
      case "end": {
        const found = args.fields(value, kind, ["counts", "digest", "sha256"]);
        return {
          counts: countsIn(found["counts"], "end.counts"),
          digest: hashText(found["digest"], "end.digest"),
          sha256: hashText(found["sha256"], "end.sha256"),
        };
      }
      default:
        throw args.invalid(kind, "a record of a known kind");
    }
  });
}

function userOf(value: unknown): StoredUser {
  const names = ["key", "role", "status", "name", "createdAt", "revokedAt", "expiresAt", "grant"];
  const found = args.fields(value, "user", names);
  const key = args.signKey(found["key"], "user.key");
  if (key !== found["key"]) throw args.invalid("user.key", "a key in its one form");
  const status = args.oneOf(found["status"], "user.status", ["active", "revoked"]);
  const { revokedAt, expiresAt, grant } = found;
  if ((revokedAt !== undefined) !== (status === "revoked"))
    throw args.invalid("user.revokedAt", "a time if the user is revoked, and none if not");
  return {
    key,
    role: args.oneOf(found["role"], "user.role", ["admin", "member"]),
    status,
    name: args.name(found["name"], "user.name"),
    createdAt: timeOf(found["createdAt"], "user.createdAt"),
    ...(revokedAt === undefined ? {} : { revokedAt: timeOf(revokedAt, "user.revokedAt") }),
    ...(expiresAt === undefined ? {} : { expiresAt: timeOf(expiresAt, "user.expiresAt") }),
    ...(grant === undefined ? {} : { grant: args.integer(grant, "user.grant", 0, MAX_REVISION_FLOOR) }),
  };
}

function roomOf(value: unknown): StoredRoom {
  const names = ["id", "name", "encrypted", "owner", "epoch", "rekeyRequired", "createdAt"];
  const found = args.fields(value, "room", names);
  const encrypted = flagOf(found["encrypted"], "room.encrypted");
  const rekeyRequired = flagOf(found["rekeyRequired"], "room.rekeyRequired");
  if (rekeyRequired && !encrypted) throw args.invalid("room.rekeyRequired", "false of a room that is not encrypted");
  return {
    id: args.id(found["id"], "room.id"),
    name: args.name(found["name"], "room.name"),
    encrypted,
    owner: args.id(found["owner"], "room.owner"),
    epoch: args.integer(found["epoch"], "room.epoch", 0, encrypted ? MAX_EPOCH : 0),
    rekeyRequired,
    createdAt: timeOf(found["createdAt"], "room.createdAt"),
  };
}

function memberOf(value: unknown): StoredMember {
  const names = ["roomId", "endpoint", "role", "state", "invitedBy", "publicKey", "since"];
  const found = args.fields(value, "member", names);
  const { invitedBy, publicKey } = found;
  return {
    roomId: args.id(found["roomId"], "member.roomId"),
    endpoint: args.id(found["endpoint"], "member.endpoint"),
    role: args.oneOf(found["role"], "member.role", ["owner", "member"]),
    state: args.oneOf(found["state"], "member.state", ["invited", "joined"]),
    invitedBy: invitedBy === undefined ? undefined : args.id(invitedBy, "member.invitedBy"),
    publicKey:
      publicKey === undefined ? undefined : args.publicKey(bytesOf(publicKey, "member.publicKey"), "member.publicKey"),
    since: timeOf(found["since"], "member.since"),
  };
}

function keyOf(value: unknown): StoredKey {
  const found = args.fields(value, "key", ["roomId", "endpoint", "epoch", "sealed", "createdAt"]);
  return {
    roomId: args.id(found["roomId"], "key.roomId"),
    endpoint: args.id(found["endpoint"], "key.endpoint"),
    epoch: args.epoch(found["epoch"], "key.epoch"),
    sealed: args.sealedKey(bytesOf(found["sealed"], "key.sealed"), "key.sealed"),
    createdAt: timeOf(found["createdAt"], "key.createdAt"),
  };
}

/** How the records belong together: users, then each room with its owner and members, each of these with its keys. */
export class Order {
  #room: StoredRoom | undefined;
  #hasOwner = false;
  #member: StoredMember | undefined;
  #epoch = 0;

  /** Throws unless the record may follow those before it. */
  next(record: StoredRecord, line: number): void {
    switch (record.kind) {
      case "user":
        if (this.#room !== undefined) throw corruptLine(line, "a user comes after a room");
        return;
      case "room":
        this.end(line);
        this.#room = record.row;
        this.#hasOwner = false;
        this.#member = undefined;
        return;
      case "member":
        this.#nextMember(record.row, line);
        return;
      case "key":
        this.#nextKey(record.row, line);
    }
  }

  /** The last room is over. */
  end(line: number): void {
    if (this.#room !== undefined && !this.#hasOwner) throw corruptLine(line, "the room before has no owner");
  }

  #nextMember(member: StoredMember, line: number): void {
    const { role, state, endpoint } = member;
    if (this.#room?.id !== member.roomId) throw corruptLine(line, "a member is not of the room before it");
    if (this.#member !== undefined && byCodePoint(this.#member.endpoint, endpoint) >= 0)
      throw corruptLine(line, "a member is not in its place");
    const isOwner = endpoint === this.#room.owner;
    if (isOwner !== (role === "owner") || (isOwner && state !== "joined"))
      throw corruptLine(line, "a member has another role than the room says");
    this.#hasOwner ||= isOwner;
    this.#member = member;
    this.#epoch = 0;
  }

  #nextKey({ roomId, endpoint, epoch }: StoredKey, line: number): void {
    if (this.#room?.id !== roomId || this.#member?.endpoint !== endpoint)
      throw corruptLine(line, "a key is not of the member before it");
    if (epoch <= this.#epoch || epoch > this.#room.epoch)
      throw corruptLine(line, "a key is of an epoch that cannot be there");
    this.#epoch = epoch;
  }
}
