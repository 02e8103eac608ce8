// The SQLite databases that are set side by side.

import { createHash } from "node:crypto";
import { copyFile, mkdir, open, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { setImmediate as turn } from "node:timers/promises";
import BetterSqlite from "better-sqlite3";
import initSqlJs from "sql.js";
import { openSqlite, type Store } from "../dist/index.js";
import { median, opTimeoutMs, seconds } from "./support.js";

const SCHEMA = `CREATE TABLE users (
  ordinal INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, role TEXT NOT NULL, status TEXT NOT NULL, name TEXT NOT NULL,
  created_at INTEGER NOT NULL, revoked_at INTEGER, expires_at INTEGER, revision INTEGER NOT NULL)`;
const INSERT = `INSERT INTO users (key, role, status, name, created_at, revoked_at, expires_at, revision)
  VALUES (?, 'member', 'active', ?, ?, NULL, NULL, ?)`;
const GET = "SELECT * FROM users WHERE key = ?";
const PRAGMAS = ["journal_mode = WAL", "synchronous = FULL"];

/** Like a public key in hex: 64 digits, in no order. */
export function keyOf(n: number): string {
  return createHash("sha256").update(String(n)).digest("hex");
}

export interface SyncDatabase {
  add(key: string, n: number): void;
  get(key: string): unknown;
  all(): unknown[];
  bulk(from: number, to: number): void;
  /** Brings all that is in the WAL into the file. */
  checkpoint(): void;
  close(): void;
}

/** What better-sqlite3 and node:sqlite have in common. */
interface Synchronous {
  exec(sql: string): unknown;
  prepare(sql: string): { run(...values: unknown[]): unknown; get(...values: unknown[]): unknown; all(): unknown[] };
  close(): unknown;
}

type Open = (path: string, pragmas?: readonly string[]) => SyncDatabase;

function opened(database: Synchronous, pragmas: readonly string[]): SyncDatabase {
  for (const pragma of [...PRAGMAS, ...pragmas]) database.exec(`PRAGMA ${pragma}`);
  database.exec(SCHEMA.replace("TABLE", "TABLE IF NOT EXISTS"));
  const insert = database.prepare(INSERT);
  const get = database.prepare(GET);
  const add = (key: string, n: number): void => void insert.run(key, `user ${n}`, Date.now(), n);
  return {
    add,
    get: (key) => get.get(key),
    all: () => database.prepare("SELECT * FROM users").all(),
    bulk: (from, to) => {
      database.exec("BEGIN");
      for (let n = from; n < to; n++) add(keyOf(n), n);
      database.exec("COMMIT");
    },
    checkpoint: () => void database.exec("PRAGMA wal_checkpoint(TRUNCATE)"),
    close: () => void database.close(),
  };
}

export const betterSqlite: Open = (path, pragmas = []) => opened(new BetterSqlite(path), pragmas);

/** Why better-sqlite3 cannot be tried: older ones do not refuse its binary, they crash. */
export const wantsNewerNode = (): string | undefined =>
  Number(process.versions.node.split(".")[0]) < 22 ? `it wants Node 22, this is ${process.version}` : undefined;

/** Node has it from version 22.5 on. */
export async function nodeSqlite(): Promise<Open | undefined> {
  const module = await import("node:sqlite").catch(() => undefined);
  if (module === undefined) return undefined;
  return (path, pragmas = []) => opened(new module.DatabaseSync(path), pragmas);
}

export async function addInFlight(store: Store, from: number, count: number, inFlight: number): Promise<void> {
  let next = from;
  const end = from + count;
  const caller = async (): Promise<void> => {
    while (next < end) {
      const n = next++;
      await store.users.add({ key: keyOf(n), name: `user ${n}` });
    }
  };
  await Promise.all(Array.from({ length: inFlight }, caller));
}

/** A copy that is on the disk: what is left to write of it would be paid for by the first who syncs. */
export async function copied(from: string, to: string): Promise<string> {
  await copyFile(from, to);
  const file = await open(to, "r+");
  await file.sync();
  await file.close();
  return to;
}

/**
 * How long the event loop stands still in a checkpoint, and how long sql.js alone takes to export the same database.
 */
export async function standstill(
  folder: string,
  users: number,
  rounds: number,
  logged = 1,
): Promise<{ own: number; exporting: number }> {
  const own: number[] = [];
  const exporting: number[] = [];
  const sqlJs = await initSqlJs();
  const place = join(folder, "stalls");
  for (let i = 0; i < rounds; i++) {
    await mkdir(place);
    const path = await copied(join(folder, `own-${users}`), join(place, "own"));
    const store = await openSqlite(path, { opTimeoutMs });
    await addInFlight(store, users, logged, 64);
    const delays = monitorEventLoopDelay({ resolution: 1 });
    await turn();
    delays.enable();
    // Closing brings the file up to date, as the checkpoint of a running store does.
    await store.close();
    delays.disable();
    own.push(delays.max / 1e9);

    const database = new sqlJs.Database(await readFile(path));
    exporting.push(await seconds(() => database.export()));
    database.close();
    await rm(place, { recursive: true });
  }
  return { own: median(own), exporting: median(exporting) };
}
