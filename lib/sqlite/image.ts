/**
 * The image: the state at a checkpoint as a SQLite database that any tool opens. sql.js reads it when a store is opened
 * and makes the next one of it and the log; between those there is no database in memory.
 */
import { Buffer } from "node:buffer";
import { crc32 } from "node:zlib";
import type { SqlValue, Statement } from "sql.js";
import type { OpenDatabase, SqlJs } from "sql.js/dist/sql-wasm-browser.js";
import type { ImageFile } from "./image-file.js";
import { closedSince, moveText, stateOf } from "./changes.js";
import type { Change } from "./changes.js";
import type { MoveState } from "../moves.js";
import { loadTables } from "./image-loader.js";
import { RowReader } from "./row-reader.js";
import type { TimeSlice } from "./time-slice.js";
import { toSequence } from "./rows.js";
import type { KeyRow, MemberRow, RoomRow, UserRow } from "./rows.js";
import { SUPERBLOCK_BYTES } from "./superblock.js";
import type { Tables } from "./tables.js";

/** "unib": tells the file from every other SQLite database. */
export const APPLICATION_ID = 0x756e6962;
/**
 * Since 2 the image has a superblock. An image of version 1 is read, and written anew before anything is added to it.
 */
export const SCHEMA_VERSION = 2;
/**
 * Of an image that is imported into, and of no other: a version of the library that knows no imports would let
 * everybody in who is there already.
 */
const IMPORTING_VERSION = 3;
/** The same of one that is moved, or comes from a migration. */
const MOVING_VERSION = 4;

export interface Meta {
  /** 32 hex digits, made with the database: its logs carry it too. */
  readonly database: string;
  /** One more with each image. */
  readonly generation: number;
  /** The last transaction that is in the image. */
  readonly sequence: number;
  readonly adminEver: boolean;
  /** Whether the store may be used. */
  readonly state: MoveState;
}

/** The one column of the one row is not touched by SQL any more: it is written in place, in the file. */
const ADD_SUPERBLOCK = `
  PRAGMA user_version = ${String(SCHEMA_VERSION)};
  CREATE TABLE superblock (sector BLOB NOT NULL);
  INSERT INTO superblock VALUES (zeroblob(${String(SUPERBLOCK_BYTES)}));
`;

const SCHEMA = `
  PRAGMA application_id = ${String(APPLICATION_ID)};
  ${ADD_SUPERBLOCK}
  CREATE TABLE meta (name TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL) WITHOUT ROWID;
  CREATE TABLE users (
    ordinal INTEGER PRIMARY KEY, key TEXT NOT NULL, role TEXT NOT NULL, status TEXT NOT NULL, name TEXT NOT NULL,
    created_at INTEGER NOT NULL, revoked_at INTEGER, expires_at INTEGER, revision INTEGER NOT NULL);
  CREATE TABLE rooms (
    ordinal INTEGER PRIMARY KEY, id TEXT NOT NULL, name TEXT NOT NULL, encrypted INTEGER NOT NULL, owner TEXT NOT NULL,
    epoch INTEGER NOT NULL, rekey_required INTEGER NOT NULL, created_at INTEGER NOT NULL, revision INTEGER NOT NULL);
  CREATE TABLE members (
    room_id TEXT NOT NULL, endpoint TEXT NOT NULL, role TEXT NOT NULL, state TEXT NOT NULL, invited_by TEXT,
    public_key BLOB, since INTEGER NOT NULL, revision INTEGER NOT NULL, PRIMARY KEY (room_id, endpoint)) WITHOUT ROWID;
  CREATE TABLE room_keys (
    room_id TEXT NOT NULL, endpoint TEXT NOT NULL, epoch INTEGER NOT NULL, sealed BLOB NOT NULL,
    created_at INTEGER NOT NULL, PRIMARY KEY (room_id, endpoint, epoch)) WITHOUT ROWID;
`;

/** Nothing of the database is on a disk before `export`, and none of it needs a way back. */
const PRIVATE = "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA trusted_schema = OFF";

/** What a file says of itself in its first bytes, before anything in it is believed. */
export function kindOf(bytes: Buffer): "current" | "version 1" | "foreign" | "newer" {
  if (bytes.length < 100 || bytes.toString("latin1", 0, 16) !== "SQLite format 3\0") return "foreign";
  if (bytes.readUInt32BE(68) !== APPLICATION_ID) return "foreign";
  const version = bytes.readUInt32BE(60);
  if (version === 0) return "foreign";
  if (version > MOVING_VERSION) return "newer";
  return version >= SCHEMA_VERSION ? "current" : "version 1";
}

/** The generation decides which logs count: a flipped bit in it must not pass for another one. */
function metaChecksum(values: readonly string[]): string {
  return String(crc32(Buffer.from(values.join("\n"), "utf8")));
}

/** A version that does not know the state refuses the file. */
function versionOf(state: MoveState): number {
  if (state.run !== undefined) return MOVING_VERSION;
  return state.kind === "open" ? SCHEMA_VERSION : IMPORTING_VERSION;
}

const RECORD_TABLES = ["users", "rooms", "members", "room_keys"] as const;
/** There only while it is so. */
const IMPORTING = "importing_since";
const MOVE = "move";
const META_NAMES = ["database", "generation", "sequence", "admin_ever"] as const;

export class Image {
  readonly #sqlJs: SqlJs;
  readonly #database: OpenDatabase;

  private constructor(sqlJs: SqlJs, database: OpenDatabase) {
    this.#sqlJs = sqlJs;
    this.#database = database;
    database.run(PRIVATE);
  }

  /** Makes an image in an empty file. */
  static empty(sqlJs: SqlJs, file: ImageFile): Image {
    const image = new Image(sqlJs, new sqlJs.Database(file));
    image.#database.run(SCHEMA);
    return image;
  }

  /** Throws what SQLite says of a file that is no database. */
  static of(sqlJs: SqlJs, file: ImageFile): Image {
    const database = new sqlJs.Database(file);
    try {
      return new Image(sqlJs, database);
    } catch (error) {
      database.close();
      throw error;
    }
  }

  /** Throws unless SQLite finds nothing wrong with it. */
  check(): void {
    const found = this.#database.exec("PRAGMA integrity_check")[0]?.values[0]?.[0];
    if (found !== "ok") throw new Error(`integrity_check: ${String(found)}`);
  }

  meta(): Meta {
    const values = new Map<SqlValue | undefined, SqlValue | undefined>();
    for (const row of this.#database.exec("SELECT name, value FROM meta")[0]?.values ?? []) values.set(row[0], row[1]);
    const [database, generation, sequence, adminEver] = META_NAMES.map((name) => text(values.get(name)));
    if (database === undefined || generation === undefined || sequence === undefined || adminEver === undefined) {
      throw new Error("meta is incomplete");
    }
    const closed = [IMPORTING, MOVE].flatMap((name) => {
      const value = values.get(name);
      return value === undefined ? [] : [text(value)];
    });
    if (values.get("checksum") !== metaChecksum([database, generation, sequence, adminEver, ...closed]))
      throw new Error("meta is damaged");
    const state = stateOf(closed[0] === undefined ? undefined : Number(closed[0]), closed[1]);
    const version = Number(this.#database.exec("PRAGMA user_version")[0]?.values[0]?.[0]);
    if (Math.max(version, SCHEMA_VERSION) !== versionOf(state))
      throw new Error("meta is of another version than the image");
    return {
      database,
      generation: Number(generation),
      sequence: Number(sequence),
      adminEver: adminEver === "1",
      state,
    };
  }

  /** Fills empty tables. Throws on rows that the library does not write. */
  async load(tables: Tables, pace: TimeSlice): Promise<void> {
    const { adminEver, state } = this.meta();
    tables.adminEver = adminEver;
    tables.state = state;
    await loadTables((sql) => new RowReader(this.#sqlJs, this.#database.db, sql), tables, pace);
  }

  /** Brings it up to date with what a log says, given in pieces. */
  async merge(log: AsyncIterable<readonly { readonly changes: readonly Change[] }[]>, pace: TimeSlice): Promise<void> {
    this.#database.run("BEGIN");
    const apply = this.#applier();
    for await (const records of log) {
      for (const { changes } of records) {
        for (const change of changes) {
          apply(change);
          if (pace.due()) await pace.rest();
        }
      }
    }
    this.#database.run("COMMIT");
  }

  /** The statements are freed with the database. */
  #applier(): (change: Change) => void {
    const prepared = new Map<string, Statement>();
    const run = (sql: string, values: SqlValue[]): void => {
      let statement = prepared.get(sql);
      if (statement === undefined) {
        statement = this.#database.prepare(sql);
        prepared.set(sql, statement);
      }
      statement.run(values);
    };
    return (change) => {
      switch (change.kind) {
        case "user":
          run("INSERT OR REPLACE INTO users VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", userValues(change.row));
          break;
        case "room":
          run("INSERT OR REPLACE INTO rooms VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", roomValues(change.row));
          break;
        case "roomGone":
          run("DELETE FROM rooms WHERE ordinal = ?", [change.ordinal]);
          run("DELETE FROM members WHERE room_id = ?", [change.id]);
          run("DELETE FROM room_keys WHERE room_id = ?", [change.id]);
          break;
        case "member":
          run("INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?, ?, ?, ?, ?)", memberValues(change.row));
          break;
        case "memberGone":
          run("DELETE FROM members WHERE room_id = ? AND endpoint = ?", [change.roomId, change.endpoint]);
          run("DELETE FROM room_keys WHERE room_id = ? AND endpoint = ?", [change.roomId, change.endpoint]);
          break;
        case "key":
          run("INSERT OR REPLACE INTO room_keys VALUES (?, ?, ?, ?, ?)", keyValues(change.row));
          break;
        case "import":
          if (change.clears) for (const table of RECORD_TABLES) run(`DELETE FROM ${table}`, []);
          break;
      }
    };
  }

  /** Makes an image of version 1 one that can be exported. */
  upgrade(): void {
    this.#database.run(ADD_SUPERBLOCK);
  }

  /**
   * Where the superblock is in the file, if the image has one: it ends with the page of its row, which is the last
   * column of a page's first cell.
   */
  superblockAt(): number | undefined {
    const page = this.#database.exec(
      "SELECT rootpage FROM sqlite_schema WHERE type = 'table' AND name = 'superblock'",
    )[0]?.values[0]?.[0];
    if (page === undefined) return undefined;
    const size = this.#database.exec("PRAGMA page_size")[0]?.values[0]?.[0];
    return integer(page) * integer(size) - SUPERBLOCK_BYTES;
  }

  putMeta({ database, generation, sequence, adminEver, state }: Meta): void {
    const values = [database, String(generation), String(sequence), adminEver ? "1" : "0"];
    const put = (name: string, value: string): void => {
      this.#database.run("INSERT OR REPLACE INTO meta VALUES (?, ?)", [name, value]);
    };
    META_NAMES.forEach((name, i) => {
      put(name, values[i] ?? "");
    });
    for (const [name, value] of [
      [IMPORTING, closedSince(state)],
      [MOVE, moveText(state)],
    ] as const) {
      if (value === undefined) {
        this.#database.run("DELETE FROM meta WHERE name = ?", [name]);
      } else {
        values.push(String(value));
        put(name, String(value));
      }
    }
    put("checksum", metaChecksum(values));
    this.#database.run(`PRAGMA user_version = ${String(versionOf(state))}`);
  }

  close(): void {
    this.#database.close();
  }
}

function text(value: SqlValue | undefined): string {
  if (value instanceof Uint8Array) return Buffer.from(value).toString("utf8");
  if (typeof value !== "string") throw new Error("a column has a value of another type");
  return value;
}

function integer(value: SqlValue | undefined): number {
  if (typeof value !== "number") throw new Error("a column has a value of another type");
  return value;
}

const userValues = (row: UserRow): SqlValue[] => [
  row.ordinal,
  row.key,
  row.role,
  row.status,
  row.name,
  row.createdAt,
  row.revokedAt ?? null,
  row.expiresAt ?? null,
  toSequence(row.revision),
];

const roomValues = (row: RoomRow): SqlValue[] => [
  row.ordinal,
  row.id,
  row.name,
  Number(row.encrypted),
  row.owner,
  row.epoch,
  Number(row.rekeyRequired),
  row.createdAt,
  toSequence(row.revision),
];

const memberValues = (row: MemberRow): SqlValue[] => [
  row.roomId,
  row.endpoint,
  row.role,
  row.state,
  row.invitedBy ?? null,
  row.publicKey ?? null,
  row.since,
  toSequence(row.revision),
];

const keyValues = (row: KeyRow): SqlValue[] => [row.roomId, row.endpoint, row.epoch, row.sealed, row.createdAt];
