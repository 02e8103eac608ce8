/**
 * The image: the state at a checkpoint as a SQLite database that any tool opens. sql.js reads it when a store is opened
 * and makes the next one of it and the log; between those there is no database in memory.
 */
import { Buffer } from "node:buffer";
import { crc32 } from "node:zlib";
import type { Database, SqlValue, Statement } from "sql.js";
import type { SqlJs } from "sql.js/dist/sql-wasm-browser.js";
import type { ImageFile } from "./image-file.js";
import type { Change } from "./changes.js";
import type { TimeSlice } from "./time-slice.js";
import { toRevision, toSequence } from "./rows.js";
import type { KeyRow, MemberRow, RoomRow, UserRow } from "./rows.js";
import { SUPERBLOCK_BYTES } from "./superblock.js";
import type { Tables } from "./tables.js";

/** "unib": tells the file from every other SQLite database. */
export const APPLICATION_ID = 0x756e6962;
/** Since 2 the image has a superblock. An image of version 1 is read, and written anew before anything is added to it. */
export const SCHEMA_VERSION = 2;

export interface Meta {
  /** 32 hex digits, made with the database: its logs carry it too. */
  readonly database: string;
  /** One more with each image. */
  readonly generation: number;
  /** The last transaction that is in the image. */
  readonly sequence: number;
  readonly adminEver: boolean;
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
  if (version > SCHEMA_VERSION) return "newer";
  return version === SCHEMA_VERSION ? "current" : "version 1";
}

/** The generation decides which logs count: a flipped bit in it must not pass for another one. */
function metaChecksum(values: readonly string[]): string {
  return String(crc32(Buffer.from(values.join("\n"), "utf8")));
}

const USER_ROLES = ["admin", "member"] as const;
const STATUSES = ["active", "revoked"] as const;
const MEMBER_ROLES = ["owner", "member"] as const;
const STATES = ["invited", "joined"] as const;
const META_NAMES = ["database", "generation", "sequence", "admin_ever"] as const;

export class Image {
  readonly #database: Database;

  private constructor(database: Database) {
    this.#database = database;
    database.run(PRIVATE);
  }

  /** Makes an image in an empty file. */
  static empty(sqlJs: SqlJs, file: ImageFile): Image {
    const image = new Image(new sqlJs.Database(file));
    image.#database.run(SCHEMA);
    return image;
  }

  /** Throws what SQLite says of a file that is no database. */
  static of(sqlJs: SqlJs, file: ImageFile): Image {
    const database = new sqlJs.Database(file);
    try {
      return new Image(database);
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
    if (values.get("checksum") !== metaChecksum([database, generation, sequence, adminEver]))
      throw new Error("meta is damaged");
    return { database, generation: Number(generation), sequence: Number(sequence), adminEver: adminEver === "1" };
  }

  /** Fills empty tables. Throws on rows that the library does not write. */
  async load(tables: Tables, pace: TimeSlice): Promise<void> {
    tables.adminEver = this.meta().adminEver;
    tables.users.reserve(integer(this.#database.exec("SELECT count(*) FROM users")[0]?.values[0]?.[0]));
    await this.#loadUsers(tables, pace);
    await this.#loadRooms(tables, pace);
    await this.#loadMembers(tables, pace);
    await this.#loadKeys(tables, pace);
    for (const { owner, members } of tables.rooms.values()) {
      if (members.get(owner)?.isOwner !== true) throw new Error("a room has no owner");
      if (pace.due()) await pace.rest();
    }
  }

  #loadUsers(tables: Tables, pace: TimeSlice): Promise<void> {
    return this.#each(
      `SELECT ordinal, key, ${which("role", USER_ROLES)}, ${which("status", STATUSES)}, ${asIs("name")}, created_at, revoked_at, expires_at, revision
         FROM users ORDER BY ordinal`,
      pace,
      (row) => {
        const user: UserRow = {
          ordinal: integer(row[0]),
          key: text(row[1]),
          role: oneOf(row[2], USER_ROLES),
          status: oneOf(row[3], STATUSES),
          name: text(row[4]),
          createdAt: integer(row[5]),
          revokedAt: row[6] === null ? undefined : integer(row[6]),
          expiresAt: row[7] === null ? undefined : integer(row[7]),
          revision: toRevision(integer(row[8])),
        };
        // One that is there twice would have two places.
        tables.apply({ kind: "user", row: user });
      },
    );
  }

  #loadRooms(tables: Tables, pace: TimeSlice): Promise<void> {
    return this.#each(
      `SELECT ordinal, ${asIs("id")}, ${asIs("name")}, encrypted, ${asIs("owner")}, epoch, rekey_required, created_at, revision
         FROM rooms ORDER BY ordinal`,
      pace,
      (row) => {
        const room: RoomRow = {
          ordinal: integer(row[0]),
          id: text(row[1]),
          name: text(row[2]),
          encrypted: flag(row[3]),
          owner: text(row[4]),
          epoch: integer(row[5]),
          rekeyRequired: flag(row[6]),
          createdAt: integer(row[7]),
          revision: toRevision(integer(row[8])),
        };
        if (tables.rooms.has(room.id)) throw new Error("a room is there twice");
        tables.apply({ kind: "room", row: room });
      },
    );
  }

  #loadMembers(tables: Tables, pace: TimeSlice): Promise<void> {
    return this.#each(
      `SELECT ${asIs("room_id")}, ${asIs("endpoint")}, ${which("role", MEMBER_ROLES)}, ${which("state", STATES)},
         ${asIs("invited_by")}, public_key, since, revision FROM members`,
      pace,
      (row) => {
        const member: MemberRow = {
          roomId: text(row[0]),
          endpoint: text(row[1]),
          role: oneOf(row[2], MEMBER_ROLES),
          state: oneOf(row[3], STATES),
          invitedBy: row[4] === null ? undefined : text(row[4]),
          publicKey: row[5] === null ? undefined : blob(row[5]),
          since: integer(row[6]),
          revision: toRevision(integer(row[7])),
        };
        tables.apply({ kind: "member", row: member });
      },
    );
  }

  #loadKeys(tables: Tables, pace: TimeSlice): Promise<void> {
    return this.#each(
      `SELECT ${asIs("room_id")}, ${asIs("endpoint")}, epoch, sealed, created_at FROM room_keys`,
      pace,
      (row) => {
        tables.apply({
          kind: "key",
          row: {
            roomId: text(row[0]),
            endpoint: text(row[1]),
            epoch: integer(row[2]),
            sealed: blob(row[3]),
            createdAt: integer(row[4]),
          },
        });
      },
    );
  }

  async #each(sql: string, pace: TimeSlice, visit: (row: SqlValue[]) => void): Promise<void> {
    const statement = this.#database.prepare(sql);
    try {
      while (statement.step()) {
        visit(statement.get());
        if (pace.due()) await pace.rest();
      }
    } finally {
      statement.free();
    }
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
      }
    };
  }

  /** Makes an image of version 1 one that can be exported. */
  upgrade(): void {
    this.#database.run(ADD_SUPERBLOCK);
  }

  /** Where the superblock is in the file, if the image has one: it ends with the page of its row, which is the last column of a page's first cell. */
  superblockAt(): number | undefined {
    const page = this.#database.exec(
      "SELECT rootpage FROM sqlite_schema WHERE type = 'table' AND name = 'superblock'",
    )[0]?.values[0]?.[0];
    if (page === undefined) return undefined;
    const size = this.#database.exec("PRAGMA page_size")[0]?.values[0]?.[0];
    return integer(page) * integer(size) - SUPERBLOCK_BYTES;
  }

  putMeta(meta: Meta): void {
    const values = [meta.database, String(meta.generation), String(meta.sequence), meta.adminEver ? "1" : "0"];
    META_NAMES.forEach((name, i) =>
      this.#database.run("INSERT OR REPLACE INTO meta VALUES (?, ?)", [name, values[i] ?? ""]),
    );
    this.#database.run("INSERT OR REPLACE INTO meta VALUES ('checksum', ?)", [metaChecksum(values)]);
  }

  close(): void {
    this.#database.close();
  }
}

/** sql.js takes a byte order mark off the front of a text, where it is part of somebody's id: such a one is read as bytes. */
function asIs(column: string): string {
  return `iif(unicode(${column}) = 65279, CAST(${column} AS BLOB), ${column})`;
}

/** Which of two words a column has, as a number: each text costs more to bring over than all that is done with it. */
function which(column: string, [a, b]: readonly [string, string]): string {
  return `CASE ${column} WHEN '${a}' THEN 0 WHEN '${b}' THEN 1 END`;
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

function flag(value: SqlValue | undefined): boolean {
  if (value !== 0 && value !== 1) throw new Error("a column has a value of another type");
  return value === 1;
}

function blob(value: SqlValue | undefined): Uint8Array {
  if (!(value instanceof Uint8Array)) throw new Error("a column has a value of another type");
  return value;
}

function oneOf<const T extends string>(value: SqlValue | undefined, [a, b]: readonly [T, T]): T {
  if (value === 0) return a;
  if (value === 1) return b;
  throw new Error("a column has a value that is none of its own");
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
