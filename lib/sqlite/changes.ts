/**
 * What a transaction changes, and its form in the redo log: a JSON text of positional fields, then the bytes that it
 * speaks of. Each change is a row as it is afterwards, or a row that goes with everything below it.
 */
import type { Buffer } from "node:buffer";
import { StoreError } from "../errors.js";
import { OPEN, readMoveState } from "../moves.js";
import type { MoveState } from "../moves.js";
import { hasPlainNumbers, userBound, writePlainUser } from "./plain-user.js";
import { toRevision } from "./rows.js";
import type { KeyRow, MemberRow, RoomRow, UserRow } from "./rows.js";

export type Change =
  | { readonly kind: "room"; readonly row: RoomRow }
  | { readonly kind: "roomGone"; readonly id: string; readonly ordinal: number }
  | { readonly kind: "member"; readonly row: MemberRow }
  | { readonly kind: "memberGone"; readonly roomId: string; readonly endpoint: string }
  | { readonly kind: "key"; readonly row: KeyRow }
  | { readonly kind: "user"; readonly row: UserRow }
  | ImportChange;

/** Closes the store or opens it, for an import or a migration. Nothing else is in its transaction. */
export interface ImportChange {
  readonly kind: "import";
  /** Whether the store may be used from here on. */
  readonly state: MoveState;
  /** Whether everything that was there goes. */
  readonly clears: boolean;
  /** Whether there was an admin, whoever is one now. */
  readonly adminEver: boolean;
}

export interface EncodedChanges {
  /** What the text takes at most. */
  readonly textBound: number;
  readonly bytes: readonly Uint8Array[];
  /** Writes the text at `at`, and answers where it ends. */
  writeText(target: Buffer, at: number): number;
}

const NO_BYTES: readonly Uint8Array[] = [];
const MAX_BYTES_PER_UNIT = 3;

class OneUser implements EncodedChanges {
  readonly textBound: number;
  readonly bytes = NO_BYTES;
  readonly #row: UserRow;

  constructor(row: UserRow) {
    this.textBound = userBound(row);
    this.#row = row;
  }

  writeText(target: Buffer, at: number): number {
    const end = writePlainUser(target, at, this.#row);
    return end < 0 ? at + target.write(JSON.stringify([userFields(this.#row)]), at, "utf8") : end;
  }
}

/** JSON has no other numbers: it writes `null` for them, which is read as none. */
function whole(value: number): number {
  if (Number.isSafeInteger(value)) return value;
  throw new StoreError("UNAVAILABLE", "A number that could not be read again is not written", { outcome: "none" });
}

function optionalWhole(value: number | undefined): number | undefined {
  return value === undefined ? undefined : whole(value);
}

/**
 * The revision is not in it: it is that of the record which carries the change. Neither are bytes, only their length.
 * Throws on what `decodeChanges` would not read.
 */
export function encodeChanges(changes: readonly Change[]): EncodedChanges {
  const change = changes[0];
  if (change?.kind === "user" && changes.length === 1 && hasPlainNumbers(change.row)) return new OneUser(change.row);
  return encodeAll(changes);
}

function userFields(row: UserRow): unknown[] {
  return [
    "u",
    whole(row.ordinal),
    row.key,
    row.role,
    row.status,
    row.name,
    whole(row.createdAt),
    optionalWhole(row.revokedAt),
    optionalWhole(row.expiresAt),
  ];
}

function encodeAll(changes: readonly Change[]): EncodedChanges {
  let bytes: Uint8Array[] | undefined;
  const fields: unknown[] = [];
  for (const change of changes) {
    switch (change.kind) {
      case "user":
        fields.push(userFields(change.row));
        break;
      case "room": {
        const { row } = change;
        fields.push([
          "r",
          whole(row.ordinal),
          row.id,
          row.name,
          row.encrypted,
          row.owner,
          whole(row.epoch),
          row.rekeyRequired,
          whole(row.createdAt),
        ]);
        break;
      }
      case "roomGone":
        fields.push(["-r", change.id, whole(change.ordinal)]);
        break;
      case "member": {
        const { row } = change;
        if (row.publicKey !== undefined) (bytes ??= []).push(row.publicKey);
        fields.push([
          "m",
          row.roomId,
          row.endpoint,
          row.role,
          row.state,
          row.invitedBy,
          row.publicKey?.length,
          whole(row.since),
        ]);
        break;
      }
      case "memberGone":
        fields.push(["-m", change.roomId, change.endpoint]);
        break;
      case "key": {
        const { row } = change;
        (bytes ??= []).push(row.sealed);
        fields.push(["k", row.roomId, row.endpoint, whole(row.epoch), row.sealed.length, whole(row.createdAt)]);
        break;
      }
      case "import":
        fields.push(["i", closedSince(change.state), change.clears, change.adminEver, moveText(change.state)]);
        break;
    }
  }
  const text = JSON.stringify(fields);
  return {
    textBound: text.length * MAX_BYTES_PER_UNIT,
    bytes: bytes ?? NO_BYTES,
    writeText: (target, at) => at + target.write(text, at, "utf8"),
  };
}

/** Of a store that is closed. A version that knows no migrations takes it for imported into, and denies everybody. */
export function closedSince(state: MoveState): number | undefined {
  if (state.kind === "open") return undefined;
  return whole(state.kind === "importing" ? state.since : state.run.since);
}

/** What the time alone does not say. */
export function moveText(state: MoveState): string | undefined {
  return state.run === undefined ? undefined : JSON.stringify(state);
}

/** Throws on what {@link closedSince} and {@link moveText} do not tell. */
export function stateOf(since: number | undefined, text: string | undefined): MoveState {
  if (text === undefined) return since === undefined ? OPEN : { kind: "importing", since };
  const state = readMoveState(JSON.parse(text));
  if (state === undefined || closedSince(state) !== since) throw new Error("a state of the store of no known kind");
  return state;
}

/**
 * Whether it begins an import. Its transaction may have a later number than the one that follows upon those before it.
 */
export function beginsImport([change, ...more]: readonly Change[]): boolean {
  return change?.kind === "import" && change.clears && change.state.kind === "importing" && more.length === 0;
}

/** Throws on anything that `encodeChanges` does not write. */
export function decodeChanges(text: string, bytes: Uint8Array, sequence: number): Change[] {
  const revision = toRevision(sequence);
  let used = 0;
  const take = (length: number): Uint8Array => {
    if (length > bytes.length - used) throw new Error("bytes are missing");
    // A copy: a slice would keep the whole log in memory.
    const part = Uint8Array.prototype.slice.call(bytes, used, used + length);
    used += length;
    return part;
  };
  const list: unknown = JSON.parse(text);
  if (!Array.isArray(list)) throw new Error("not a list of changes");
  const changes = list.map((fields: unknown) => decodeChange(fields, take, revision));
  if (used !== bytes.length) throw new Error("bytes are left over");
  return changes;
}

function decodeChange(fields: unknown, take: (length: number) => Uint8Array, revision: string): Change {
  if (!Array.isArray(fields)) throw new Error("not a change");
  const read = new Fields(fields);
  const kind = read.string();
  switch (kind) {
    case "u":
      return {
        kind: "user",
        row: {
          ordinal: read.number(),
          key: read.string(),
          role: read.oneOf("admin", "member"),
          status: read.oneOf("active", "revoked"),
          name: read.string(),
          createdAt: read.number(),
          revokedAt: read.optionalNumber(),
          expiresAt: read.optionalNumber(),
          revision,
        },
      };
    case "r":
      return {
        kind: "room",
        row: {
          ordinal: read.number(),
          id: read.string(),
          name: read.string(),
          encrypted: read.flag(),
          owner: read.string(),
          epoch: read.number(),
          rekeyRequired: read.flag(),
          createdAt: read.number(),
          revision,
        },
      };
    case "-r":
      return { kind: "roomGone", id: read.string(), ordinal: read.number() };
    case "m": {
      const roomId = read.string();
      const endpoint = read.string();
      const role = read.oneOf("owner", "member");
      const state = read.oneOf("invited", "joined");
      const invitedBy = read.optionalString();
      const length = read.optionalNumber();
      const publicKey = length === undefined ? undefined : take(length);
      return {
        kind: "member",
        row: { roomId, endpoint, role, state, invitedBy, publicKey, since: read.number(), revision },
      };
    }
    case "-m":
      return { kind: "memberGone", roomId: read.string(), endpoint: read.string() };
    case "k": {
      const roomId = read.string();
      const endpoint = read.string();
      const epoch = read.number();
      const sealed = take(read.number());
      return { kind: "key", row: { roomId, endpoint, epoch, sealed, createdAt: read.number() } };
    }
    case "i":
      return decodeState(read);
    default:
      throw new Error("a change of no known kind");
  }
}

function decodeState(read: Fields): ImportChange {
  const since = read.optionalNumber();
  const [clears, adminEver] = [read.flag(), read.flag()];
  // A version that knew no migrations wrote no more.
  const text = read.isOver ? undefined : read.optionalString();
  return { kind: "import", state: stateOf(since, text), clears, adminEver };
}

/** The positional fields of one change, checked one by one. */
class Fields {
  readonly #fields: readonly unknown[];
  #next = 0;

  constructor(fields: readonly unknown[]) {
    this.#fields = fields;
  }

  get isOver(): boolean {
    return this.#next >= this.#fields.length;
  }

  #take(): unknown {
    return this.#fields[this.#next++];
  }

  string(): string {
    const value = this.#take();
    if (typeof value !== "string") throw new Error("a string is missing");
    return value;
  }

  number(): number {
    const value = this.#take();
    if (!Number.isFinite(value)) throw new Error("a number is missing");
    return value as number;
  }

  flag(): boolean {
    const value = this.#take();
    if (typeof value !== "boolean") throw new Error("a flag is missing");
    return value;
  }

  // JSON has null for what is absent.
  optionalString(): string | undefined {
    const value = this.#take();
    if (value === null) return undefined;
    if (typeof value !== "string") throw new Error("a string is missing");
    return value;
  }

  optionalNumber(): number | undefined {
    const value = this.#take();
    if (value === null) return undefined;
    if (!Number.isFinite(value)) throw new Error("a number is missing");
    return value as number;
  }

  oneOf<const T extends string>(...choices: readonly T[]): T {
    const value = this.#take();
    const found = choices.find((choice) => choice === value);
    if (found === undefined) throw new Error("a value of no known kind");
    return found;
  }
}
