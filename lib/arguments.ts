/**
 * Argument checks, once for every backend. What passes is copied and normalized. What does not is `INVALID_ARGUMENT`
 * with the argument's path, before a backend has seen any of it.
 */
import { Buffer } from "node:buffer";
import { types } from "node:util";
import { StoreError } from "./errors.js";
import { isSignal } from "./signal.js";
import type {
  CallOptions,
  CheckOptions,
  CommonOptions,
  NewMember,
  NewRoom,
  NewUser,
  PageRequest,
  RekeyOptions,
  RoomChange,
  SessionOptions,
  UserChange,
  WatchOptions,
} from "./store.js";

const MAX_ID_BYTES = 256;
const MAX_NAME_BYTES = 256;
const MAX_PUBLIC_KEY_BYTES = 1024;
const MAX_SEALED_BYTES = 64 * 1024;
const MAX_EPOCH = 2 ** 31 - 1;
const MAX_OP_TIMEOUT_MS = 60_000;
const MAX_CALL_TIMEOUT_MS = 600_000;
export const DEFAULT_OP_TIMEOUT_MS = 2000;
const DEFAULT_PAGE_LIMIT = 100;
const MAX_PAGE_LIMIT = 1000;
const MAX_REVISION_CHARS = 256;
const MAX_CURSOR_CHARS = 2048;
/** What all typed arrays inherit from. It has the getter of their true length. */
const TYPED_ARRAY = Object.getPrototypeOf(Uint8Array.prototype) as object;

export function invalid(argument: string, expected: string): StoreError {
  return new StoreError("INVALID_ARGUMENT", `${argument}: expected ${expected}`, { argument });
}

/**
 * A plain record of named fields. Unknown names are refused: a misspelt option must not be a silent default. An object
 * that throws, as a getter or a proxy may, is malformed.
 */
export function fields(value: unknown, path: string, names: readonly string[]): Readonly<Record<string, unknown>> {
  checkNames(value, path, names);
  // Only fields that are there are put in. Nearly every field is left out, and this is a good part of what a check
  // costs.
  const found = Object.create(NOTHING) as Record<string, unknown>;
  for (const name of names) {
    const read = field(value, name, path);
    if (read !== undefined) found[name] = read;
  }
  return found;
}

function checkNames(value: unknown, path: string, names: readonly string[]): asserts value is object {
  const unknown = unknownName(value, path, names);
  if (unknown !== undefined) throw invalid(`${path}.${unknown}`, `one of ${names.join(", ")}`);
}

/** What a record of fields inherits from, so that nothing counts that somebody put on `Object.prototype`. */
const NOTHING = Object.freeze(Object.create(null) as object);

/**
 * A name that is not among `names`. Own names alone are meant, but all are looked at: to list the own ones costs three
 * times as much.
 */
function unknownName(value: unknown, path: string, names: readonly string[]): string | undefined {
  try {
    if (typeof value === "object" && value !== null && !Array.isArray(value) && !ArrayBuffer.isView(value)) {
      for (const name in value) if (!names.includes(name) && Object.hasOwn(value, name)) return name;
      return undefined;
    }
  } catch {
    // It is a proxy that was revoked, or whose traps throw.
  }
  throw invalid(path, "an object");
}

/**
 * A field may be inherited, as from a class. One that somebody put on `Object.prototype` does not count. Each field is
 * read once: a getter could give two answers.
 */
function field(value: object, name: string, path: string): unknown {
  try {
    const read = (value as Readonly<Record<string, unknown>>)[name];
    return read === undefined || Object.hasOwn(value, name) || !(name in Object.prototype) ? read : undefined;
  } catch {
    throw invalid(`${path}.${name}`, "a field that can be read");
  }
}

/** C0, DEL and C1. */
function hasControl(text: string): boolean {
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    if (unit < 0x20 || (unit >= 0x7f && unit < 0xa0)) return true;
  }
  return false;
}

/**
 * Whether all of the text is printable ASCII, as nearly every id and name is. Then its length is that in bytes, and
 * nothing is left to check.
 */
function isPlain(text: string): boolean {
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    if (unit < 0x20 || unit > 0x7e) return false;
  }
  return true;
}

function text(value: unknown, path: string, min: number, max: number): string {
  if (typeof value !== "string") throw invalid(path, "a string");
  // The cheap bound comes first, so that a huge string is refused without being measured.
  if (value.length > max) throw tooLong(path, max);
  if (value.length < min) throw invalid(path, "a string that is not empty");
  if (isPlain(value)) return value;
  if (Buffer.byteLength(value, "utf8") > max) throw tooLong(path, max);
  if (!value.isWellFormed()) throw invalid(path, "well-formed Unicode (no lone surrogates)");
  if (hasControl(value)) throw invalid(path, "no control characters");
  return value;
}

function tooLong(path: string, max: number): StoreError {
  return invalid(path, `at most ${String(max)} bytes of UTF-8`);
}

/** A room or endpoint id: case-sensitive, never normalized. */
export function id(value: unknown, path: string): string {
  return text(value, path, 1, MAX_ID_BYTES);
}

export function name(value: unknown, path: string): string {
  return text(value, path, 0, MAX_NAME_BYTES);
}

const ASCII_WHITE_SPACE = "\t\n\v\f\r ";
const PRINTABLE_ASCII = /^[\x21-\x7e]{1,256}$/;
export const MAX_KEY_CHARS = 256;

/** By code unit: 0 for what a folded key may have. To look up is a third of what comparing takes. */
const UNFOLDED = new Uint8Array(2 ** 16).map((_, unit) =>
  /[\x21-\x40\x5b-\x7e]/.test(String.fromCharCode(unit)) ? 0 : 1,
);

/** Whether a key is folded already. Nearly every one is. */
function isFolded(key: string): boolean {
  if (key.length < 1 || key.length > MAX_KEY_CHARS) return false;
  let unfolded = 0;
  for (let i = 0; i < key.length; i++) unfolded |= UNFOLDED[key.charCodeAt(i)] ?? 1;
  return unfolded === 0;
}

/** A sign key, folded. ASCII rules only: `toLowerCase` on anything else could make two keys one. */
export function signKey(value: unknown, path: string): string {
  if (typeof value !== "string") throw invalid(path, "a string");
  if (isFolded(value)) return value;
  let start = 0;
  let end = value.length;
  while (start < end && ASCII_WHITE_SPACE.includes(value.charAt(start))) start++;
  while (end > start && ASCII_WHITE_SPACE.includes(value.charAt(end - 1))) end--;
  const trimmed = value.slice(start, end);
  if (!PRINTABLE_ASCII.test(trimmed)) throw invalid(path, "1 to 256 printable ASCII characters without white space");
  return trimmed.toLowerCase();
}

/**
 * A copy of a `Uint8Array` of any realm. The engine is asked for its length: the object's own properties may say
 * anything.
 */
function bytes(value: unknown, path: string, max: number): Uint8Array {
  if (!types.isUint8Array(value)) throw invalid(path, "a Uint8Array");
  const length: unknown = Reflect.get(TYPED_ARRAY, "length", value);
  if (typeof length !== "number" || length < 1 || length > max) throw invalid(path, `1 to ${String(max)} bytes`);
  const copy = new Uint8Array(value);
  // Shared memory may have grown since.
  if (copy.length > max) throw invalid(path, `1 to ${String(max)} bytes`);
  return copy;
}

export function publicKey(value: unknown, path: string): Uint8Array {
  return bytes(value, path, MAX_PUBLIC_KEY_BYTES);
}

export function sealedKey(value: unknown, path: string): Uint8Array {
  return bytes(value, path, MAX_SEALED_BYTES);
}

export function integer(value: unknown, path: string, min: number, max: number): number {
  if (typeof value !== "number" || !Number.isInteger(value) || value < min || value > max) {
    throw invalid(path, `an integer from ${String(min)} to ${String(max)}`);
  }
  return value;
}

export function epoch(value: unknown, path: string): number {
  return integer(value, path, 1, MAX_EPOCH);
}

export function flag(value: unknown, path: string): boolean {
  if (typeof value !== "boolean") throw invalid(path, "a boolean");
  return value;
}

export function oneOf<const T extends string>(value: unknown, path: string, choices: readonly T[]): T {
  const found = choices.find((choice) => choice === value);
  if (found === undefined) throw invalid(path, `one of ${choices.map((choice) => `"${choice}"`).join(", ")}`);
  return found;
}

function date(value: unknown, path: string): Date {
  if (!types.isDate(value)) throw invalid(path, "a Date");
  const time = Date.prototype.getTime.call(value);
  if (Number.isNaN(time)) throw invalid(path, "a valid Date");
  return new Date(time);
}

function revision(value: unknown, path: string): string {
  if (typeof value !== "string" || value.length < 1 || value.length > MAX_REVISION_CHARS)
    throw invalid(path, "a revision");
  return value;
}

export function opTimeout(value: unknown, path: string): number {
  return value === undefined ? DEFAULT_OP_TIMEOUT_MS : integer(value, path, 1, MAX_OP_TIMEOUT_MS);
}

/** A function that is told of events. */
export function listener(value: unknown, path: string): ((event: never) => void) | undefined {
  if (value !== undefined && typeof value !== "function") throw invalid(path, "a function");
  return value as ((event: never) => void) | undefined;
}

/** What bounds a call: its time, and a signal. */
export interface Bounds {
  readonly timeoutMs: number | undefined;
  readonly signal: AbortSignal | undefined;
}

const UNBOUNDED: Bounds = { timeoutMs: undefined, signal: undefined };

export function abortSignal(value: unknown, path: string): AbortSignal | undefined {
  if (value !== undefined && !isSignal(value)) throw invalid(path, "an AbortSignal");
  return value;
}

function timeout(value: unknown, path: string): number | undefined {
  return value === undefined ? undefined : integer(value, `${path}.timeoutMs`, 1, MAX_CALL_TIMEOUT_MS);
}

function bounds({ timeoutMs, signal }: Readonly<Record<string, unknown>>, path: string): Bounds {
  return { timeoutMs: timeout(timeoutMs, path), signal: abortSignal(signal, `${path}.signal`) };
}

export const COMMON_OPTIONS = ["opTimeoutMs", "signal", "onOpening", "reopenMoved"] as const;

/** `CommonOptions`, checked. */
export interface CommonInput {
  readonly opTimeoutMs: number;
  readonly signal: AbortSignal | undefined;
  readonly onOpening: CommonOptions["onOpening"];
  readonly reopenMoved: boolean;
}

export function commonInput(found: Readonly<Record<string, unknown>>, path: string): CommonInput {
  return {
    opTimeoutMs: opTimeout(found["opTimeoutMs"], `${path}.opTimeoutMs`),
    signal: abortSignal(found["signal"], `${path}.signal`),
    onOpening: listener(found["onOpening"], `${path}.onOpening`) as CommonInput["onOpening"],
    reopenMoved: flag(found["reopenMoved"] ?? false, `${path}.reopenMoved`),
  };
}

export function callOptions(options: CallOptions | undefined): Bounds {
  if (options === undefined) return UNBOUNDED;
  return bounds(fields(options, "options", ["timeoutMs", "signal"]), "options");
}

export interface CheckBounds extends Bounds {
  readonly maxStalenessMs: number | undefined;
}

const MAX_STALENESS_MS = 60_000;
const CHECK_OPTIONS = ["timeoutMs", "signal", "maxStalenessMs"] as const;
const UNBOUNDED_CHECK: CheckBounds = { ...UNBOUNDED, maxStalenessMs: undefined };

export function maxStaleness(value: unknown, path: string): number | undefined {
  return value === undefined ? undefined : integer(value, path, 0, MAX_STALENESS_MS);
}

export function checkOptions(options: CheckOptions | undefined): CheckBounds {
  if (options === undefined) return UNBOUNDED_CHECK;
  checkNames(options, "options", CHECK_OPTIONS);
  // No record of fields is made of them: that costs as much as the rest of a check from memory.
  const timeoutMs = field(options, "timeoutMs", "options");
  const signal = field(options, "signal", "options");
  const maxStalenessMs = field(options, "maxStalenessMs", "options");
  return {
    timeoutMs: timeout(timeoutMs, "options"),
    signal: abortSignal(signal, "options.signal"),
    maxStalenessMs: maxStaleness(maxStalenessMs, "options.maxStalenessMs"),
  };
}

const SESSION_OPTIONS = ["timeoutMs", "signal", "maxStalenessMs", "role", "memberOf"] as const;
const DEFAULT_SESSION_STALENESS_MS = 5000;
const MIN_SESSION_STALENESS_MS = 100;
const MAX_MEMBERSHIPS = 1000;

export interface SessionInput extends Bounds {
  readonly maxStalenessMs: number;
  readonly role: "admin" | undefined;
  readonly memberOf: readonly { readonly roomId: string; readonly endpoint: string }[];
}

export function sessionOptions(options: SessionOptions | undefined): SessionInput {
  const found = fields(options === undefined ? {} : options, "options", SESSION_OPTIONS);
  const { maxStalenessMs, role, memberOf } = found;
  return {
    ...bounds(found, "options"),
    maxStalenessMs:
      maxStalenessMs === undefined
        ? DEFAULT_SESSION_STALENESS_MS
        : integer(maxStalenessMs, "options.maxStalenessMs", MIN_SESSION_STALENESS_MS, MAX_STALENESS_MS),
    role: role === undefined ? undefined : oneOf(role, "options.role", ["admin"]),
    memberOf: memberOf === undefined ? [] : memberships(memberOf, "options.memberOf"),
  };
}

function memberships(value: unknown, path: string): SessionInput["memberOf"] {
  const list = listOf(value);
  if (list === undefined || list.length > MAX_MEMBERSHIPS)
    throw invalid(path, `an array of at most ${String(MAX_MEMBERSHIPS)} memberships`);
  return list.map((each, i) => {
    const at = `${path}[${String(i)}]`;
    const { roomId, endpoint } = fields(each, at, ["roomId", "endpoint"]);
    return { roomId: id(roomId, `${at}.roomId`), endpoint: id(endpoint, `${at}.endpoint`) };
  });
}

const KINDS = ["users", "rooms", "members", "roomKeys"] as const;
const WATCH_OPTIONS = ["signal", "snapshot", "proveEveryMs", "kinds", "roomId", "key"] as const;
const DEFAULT_PROVE_EVERY_MS = 1000;

export interface WatchInput {
  readonly signal: AbortSignal | undefined;
  readonly snapshot: boolean;
  readonly proveEveryMs: number;
  readonly kinds: ReadonlySet<(typeof KINDS)[number]>;
  readonly roomId: string | undefined;
  readonly key: string | undefined;
}

export function watchOptions(options: WatchOptions | undefined): WatchInput {
  const found = fields(options === undefined ? {} : options, "options", WATCH_OPTIONS);
  const { signal, snapshot, proveEveryMs, kinds, roomId, key } = found;
  return {
    signal: abortSignal(signal, "options.signal"),
    snapshot: snapshot === undefined || flag(snapshot, "options.snapshot"),
    proveEveryMs:
      proveEveryMs === undefined ? DEFAULT_PROVE_EVERY_MS : integer(proveEveryMs, "options.proveEveryMs", 10, 60_000),
    kinds: kinds === undefined ? kindsOf(roomId, key) : kindList(kinds),
    roomId: roomId === undefined ? undefined : id(roomId, "options.roomId"),
    key: key === undefined ? undefined : signKey(key, "options.key"),
  };
}

/** Which kinds are meant where none are given. `roomId` and `key` name the kinds that have them. */
function kindsOf(roomId: unknown, key: unknown): WatchInput["kinds"] {
  if (roomId === undefined && key === undefined) return new Set(KINDS);
  return new Set(KINDS.filter((kind) => (kind === "users" ? key : roomId) !== undefined));
}

function kindList(kinds: unknown): WatchInput["kinds"] {
  const list = listOf(kinds);
  if (list === undefined || list.length === 0) throw invalid("options.kinds", "an array of kinds");
  return new Set(list.map((kind, i) => oneOf(kind, `options.kinds[${String(i)}]`, KINDS)));
}

/** A copy of an array. `undefined`: it is no array, or it throws when it is read. */
function listOf(value: unknown): unknown[] | undefined {
  try {
    return Array.isArray(value) ? [...(value as unknown[])] : undefined;
  } catch {
    return undefined;
  }
}

export interface Conditional extends Bounds {
  readonly ifRevision: string | undefined;
}

export function conditional(options: ({ ifRevision?: string } & CallOptions) | undefined): Conditional {
  const found = fields(options === undefined ? {} : options, "options", ["ifRevision", "timeoutMs", "signal"]);
  const ifRevision = found["ifRevision"];
  return {
    ...bounds(found, "options"),
    ifRevision: ifRevision === undefined ? undefined : revision(ifRevision, "options.ifRevision"),
  };
}

export interface RekeyArguments extends Conditional {
  readonly expectedEpoch: number;
}

export function rekeyOptions(options: RekeyOptions & CallOptions): RekeyArguments {
  const found = fields(options, "options", ["expectedEpoch", "ifRevision", "timeoutMs", "signal"]);
  const ifRevision = found["ifRevision"];
  return {
    ...bounds(found, "options"),
    // 0 is the epoch of a room that has no key yet.
    expectedEpoch: integer(found["expectedEpoch"], "options.expectedEpoch", 0, MAX_EPOCH),
    ifRevision: ifRevision === undefined ? undefined : revision(ifRevision, "options.ifRevision"),
  };
}

/**
 * The entries of a Map of any realm, such as a test runner's vm. The engine itself refuses whatever only looks like
 * one.
 */
function entriesOf(value: unknown): IterableIterator<[unknown, unknown]> {
  try {
    return Map.prototype.entries.call(value) as IterableIterator<[unknown, unknown]>;
  } catch {
    throw invalid("sealed", "a Map of endpoint to Uint8Array");
  }
}

export function sealedKeys(value: unknown): ReadonlyMap<string, Uint8Array> {
  const copy = new Map<string, Uint8Array>();
  for (const [endpoint, sealed] of entriesOf(value)) {
    const checked = id(endpoint, "sealed (an endpoint)");
    copy.set(checked, sealedKey(sealed, `sealed[${JSON.stringify(checked)}]`));
  }
  return copy;
}

export interface RoomInput {
  readonly id: string | undefined;
  readonly name: string;
  readonly encrypted: boolean;
  readonly owner: string;
  readonly ownerPublicKey: Uint8Array | undefined;
  readonly sealedKey: Uint8Array | undefined;
}

export function newRoom(room: NewRoom): RoomInput {
  const found = fields(room, "room", ["id", "name", "encrypted", "owner", "ownerPublicKey", "sealedKey"]);
  return {
    id: found["id"] === undefined ? undefined : id(found["id"], "room.id"),
    name: found["name"] === undefined ? "" : name(found["name"], "room.name"),
    encrypted: found["encrypted"] === undefined ? false : flag(found["encrypted"], "room.encrypted"),
    owner: id(found["owner"], "room.owner"),
    ownerPublicKey:
      found["ownerPublicKey"] === undefined ? undefined : publicKey(found["ownerPublicKey"], "room.ownerPublicKey"),
    sealedKey: found["sealedKey"] === undefined ? undefined : sealedKey(found["sealedKey"], "room.sealedKey"),
  };
}

export interface RoomChangeInput {
  readonly name: string | undefined;
  readonly owner: string | undefined;
}

export function roomChange(change: RoomChange): RoomChangeInput {
  const found = fields(change, "change", ["name", "owner"]);
  return {
    name: found["name"] === undefined ? undefined : name(found["name"], "change.name"),
    owner: found["owner"] === undefined ? undefined : id(found["owner"], "change.owner"),
  };
}

export interface MemberInput {
  readonly endpoint: string;
  readonly state: "invited" | "joined";
  readonly invitedBy: string | undefined;
  readonly publicKey: Uint8Array | undefined;
  readonly sealedKey: { readonly epoch: number; readonly sealed: Uint8Array } | undefined;
}

export function newMember(member: NewMember): MemberInput {
  const found = fields(member, "member", ["endpoint", "state", "invitedBy", "publicKey", "sealedKey"]);
  let sealed: MemberInput["sealedKey"];
  if (found["sealedKey"] !== undefined) {
    const key = fields(found["sealedKey"], "member.sealedKey", ["epoch", "sealed"]);
    sealed = {
      epoch: epoch(key["epoch"], "member.sealedKey.epoch"),
      sealed: sealedKey(key["sealed"], "member.sealedKey.sealed"),
    };
  }
  return {
    endpoint: id(found["endpoint"], "member.endpoint"),
    state: found["state"] === undefined ? "invited" : oneOf(found["state"], "member.state", ["invited", "joined"]),
    invitedBy: found["invitedBy"] === undefined ? undefined : id(found["invitedBy"], "member.invitedBy"),
    publicKey: found["publicKey"] === undefined ? undefined : publicKey(found["publicKey"], "member.publicKey"),
    sealedKey: sealed,
  };
}

export interface UserInput {
  readonly key: string;
  readonly role: "admin" | "member";
  readonly name: string;
  readonly expiresAt: Date | undefined;
}

const USER_FIELDS = ["key", "role", "name", "expiresAt"] as const;
const ROLES = ["admin", "member"] as const;

export function newUser(user: NewUser): UserInput {
  // This makes no record of fields: one would be a good part of what it costs to add a user.
  const from: unknown = user;
  checkNames(from, "user", USER_FIELDS);
  const key = field(from, "key", "user");
  const role = field(from, "role", "user");
  const called = field(from, "name", "user");
  const expiresAt = field(from, "expiresAt", "user");
  return {
    key: signKey(key, "user.key"),
    role: role === undefined ? "member" : oneOf(role, "user.role", ROLES),
    name: called === undefined ? "" : name(called, "user.name"),
    expiresAt: expiresAt === undefined ? undefined : date(expiresAt, "user.expiresAt"),
  };
}

export function firstAdmin(user: { key: string; name?: string }): UserInput {
  const found = fields(user, "user", ["key", "name"]);
  return {
    key: signKey(found["key"], "user.key"),
    role: "admin",
    name: found["name"] === undefined ? "" : name(found["name"], "user.name"),
    expiresAt: undefined,
  };
}

export interface UserChangeInput {
  readonly role: "admin" | "member" | undefined;
  readonly name: string | undefined;
  /** `undefined` leaves the time as it is, `null` takes it away. */
  readonly expiresAt: Date | null | undefined;
}

export function userChange(change: UserChange): UserChangeInput {
  const found = fields(change, "change", ["role", "name", "expiresAt"]);
  const expiresAt = found["expiresAt"];
  return {
    role: found["role"] === undefined ? undefined : oneOf(found["role"], "change.role", ROLES),
    name: found["name"] === undefined ? undefined : name(found["name"], "change.name"),
    expiresAt: expiresAt === undefined || expiresAt === null ? expiresAt : date(expiresAt, "change.expiresAt"),
  };
}

export interface PageInput {
  readonly after: string | undefined;
  readonly limit: number;
}

export function pageRequest(page: PageRequest | undefined): PageInput {
  const found = fields(page === undefined ? {} : page, "page", ["after", "limit"]);
  const after = found["after"];
  if (after !== undefined && (typeof after !== "string" || after.length < 1 || after.length > MAX_CURSOR_CHARS)) {
    throw invalid("page.after", "the `next` of a page");
  }
  return {
    after,
    limit: found["limit"] === undefined ? DEFAULT_PAGE_LIMIT : integer(found["limit"], "page.limit", 1, MAX_PAGE_LIMIT),
  };
}

const CURSOR = "c";

/**
 * A cursor of this library: a letter for its kind, and the number of a place that only the backend understands. A
 * cursor of kind `c` begins the walk anew where another kind is wanted.
 */
export function cursor(after: string | undefined, kind = CURSOR): number {
  if (after === undefined) return 0;
  const [, found, digits] = /^([a-z])([0-9a-z]{1,11})$/.exec(after) ?? [];
  const position = digits === undefined ? Number.NaN : Number.parseInt(digits, 36);
  if (!Number.isSafeInteger(position) || (found !== kind && found !== CURSOR))
    throw invalid("page.after", "the `next` of a page");
  return found === kind ? position : 0;
}

export function toCursor(position: number, kind = CURSOR): string {
  return `${kind}${position.toString(36)}`;
}
