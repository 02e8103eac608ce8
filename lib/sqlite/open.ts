import { randomBytes } from "node:crypto";
import { promises as fs } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { COMMON_OPTIONS, commonInput, fields, invalid, listener } from "../arguments.js";
import type { CommonInput } from "../arguments.js";
import type { SqlJs } from "sql.js/dist/sql-wasm-browser.js";
import { Call } from "../call.js";
import { tell } from "../diagnostics.js";
import type { Driver } from "../driver.js";
import { StoreError, isStoreError } from "../errors.js";
import { MembershipStore } from "../membership-store.js";
import { wasMoved } from "../moves.js";
import type { StoreIdentity } from "../moves.js";
import { notify } from "../notify.js";
import { Progress } from "../progress.js";
import { abortReason, isAborted } from "../signal.js";
import type { CommonOptions, Store } from "../store.js";
import { FILE_BUDGET, NO_BUDGET } from "./budget.js";
import { Checkpoints } from "./checkpoint.js";
import type { CheckpointResult } from "./checkpoint.js";
import { Database } from "./database.js";
import { codeOf, isAbsent, statIfThere } from "./files.js";
import { ImageMaker } from "./image-maker.js";
import { inspection } from "./inspection.js";
import type { StoreFiles } from "./inspection.js";
import { changes } from "./changes-feed.js";
import { grants } from "./grants-feed.js";
import { ALONE, Lease } from "./lease.js";
import type { Holding } from "./lease.js";
import { loadSqlJs } from "./load-sql-js.js";
import { Lock } from "./lock.js";
import { maskOf } from "./log-format.js";
import { members } from "./members.js";
import { moving } from "./moving.js";
import { TimeSlice } from "./time-slice.js";
import { checkReads } from "./checks.js";
import { records } from "./records.js";
import { recover } from "./recovery.js";
import type { Recovered } from "./recovery.js";
import { roomKeys } from "./room-keys.js";
import { rooms } from "./rooms.js";
import { filesOf } from "./segment.js";
import { Tables } from "./tables.js";
import { users } from "./users.js";

export interface SqliteOptions extends CommonOptions {
  /**
   * Told of each checkpoint: the file was written anew, or could not be, as on a full disk. `bytes` is the size of the
   * file. If the checkpoint failed, it is the size of the log that stays beside the file.
   *
   * Nothing is lost by a failure: the log has everything, and grows. The checkpoint is tried again after a second, then
   * after twice as long each time, up to five minutes, and on close. What the function throws is ignored.
   *
   * @example
   * await openSqlite("membership.db", { onCheckpoint: ({ ok, error }) => { if (!ok) log.warn(error); } });
   */
  onCheckpoint?: (result: CheckpointResult) => void;
}

export const SQLITE_OPTIONS = [...COMMON_OPTIONS, "onCheckpoint"] as const;

export interface SqliteInput extends CommonInput {
  readonly onCheckpoint: SqliteOptions["onCheckpoint"];
}

export function sqliteInput(found: Readonly<Record<string, unknown>>, path: string): SqliteInput {
  return {
    ...commonInput(found, path),
    onCheckpoint: listener(found["onCheckpoint"], `${path}.onCheckpoint`) as SqliteInput["onCheckpoint"],
  };
}

/** Opening reads everything there is, and closing may write all of it. */
const OPENING = 10;
/** So many bytes get a millisecond more. Even a slow disk, and a slow machine, reads and writes more than that. */
const BYTES_PER_MS = 4096;
const MAX_LINKS = 40;

/**
 * Opens a store in a SQLite file, and creates the file if there is none. `":memory:"` keeps nothing.
 *
 * One store owns a file at a time: a second opening, in this process or another, is `LOCKED`. A file that is not of
 * this library is `INCOMPATIBLE`, and a damaged one is `CORRUPT`. Both are left byte for byte as they were.
 *
 * @example
 * const store = await openSqlite("membership.db");
 */
export async function openSqlite(path: string, options?: SqliteOptions): Promise<Store> {
  const file = checkedPath(path, "path");
  return openFile(file, sqliteInput(fields(options ?? {}, "options", SQLITE_OPTIONS), "options"));
}

/** Opens with arguments that were checked. */
export async function openFile(file: string, input: SqliteInput): Promise<Store> {
  const { opTimeoutMs } = input;
  if (file === ":memory:" && isAborted(input.signal))
    throw new StoreError("TIMEOUT", "The opening was aborted by its signal", { cause: abortReason(input.signal) });
  if (file === ":memory:") return new MembershipStore(inMemory(), opTimeoutMs);
  const opening = new Call({ timeoutMs: undefined, signal: input.signal }, opTimeoutMs * OPENING, "read");
  return opening.run(async (call) => {
    try {
      const driver = await onDisk(await realPath(file), input, call);
      // Nobody waits for the store any more. Left open, it would lock the file.
      if (call.ended) await driver.close();
      return new MembershipStore(driver, opTimeoutMs);
    } catch (error) {
      throw isStoreError(error) ? error : openingFailed(file, error);
    }
  });
}

export function checkedPath(path: unknown, argument: string): string {
  if (typeof path !== "string" || path === "" || path.includes("\0") || !path.isWellFormed())
    throw invalid(argument, 'the path of a file, or ":memory:"');
  return path;
}

function openingFailed(path: string, error: unknown): StoreError {
  const code = codeOf(error);
  const reason = reasonOf(error);
  if (code === "ENOENT" || code === "ENOTDIR" || code === "EISDIR" || code === "ENAMETOOLONG" || code === "ELOOP") {
    return new StoreError("INVALID_ARGUMENT", `path: expected a file in a folder that exists (${reason})`, {
      argument: "path",
      cause: error,
    });
  }
  const argument = code === "EACCES" || code === "EPERM" || code === "EROFS" ? { argument: "path" } : {};
  return new StoreError("UNAVAILABLE", `${path} cannot be opened (${reason})`, { ...argument, cause: error });
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : "unknown";
}

/** One name for each file, whatever links lead to it, even if the file is not there yet. */
async function realPath(path: string): Promise<string> {
  let file = resolve(path);
  for (let links = 0; links < MAX_LINKS; links++) {
    file = join(await fs.realpath(dirname(file)), basename(file));
    const stat = await fs.lstat(file).catch((error: unknown) => {
      if (isAbsent(error)) return undefined;
      throw error;
    });
    if (stat?.isSymbolicLink() !== true) {
      if (stat !== undefined && !stat.isFile()) throw invalid("path", "a file");
      return file;
    }
    file = resolve(dirname(file), await fs.readlink(file));
  }
  throw invalid("path", "a file (too many symbolic links)");
}

function driverOf(
  database: Database,
  holding: Holding,
  identity: StoreIdentity,
  files: StoreFiles | undefined,
  close: () => Promise<void>,
): Driver {
  return {
    backend: "sqlite",
    rooms: rooms(database),
    members: members(database),
    roomKeys: roomKeys(database),
    users: users(database),
    checks: checkReads(database, holding),
    records: records(database, holding),
    inspection: inspection(database, holding, files),
    changes: changes(database, holding),
    grants: grants(database, holding),
    moving: moving(database, holding, identity),
    close,
  };
}

function inMemory(): Driver {
  const nowhere = { mask: maskOf(""), length: 0, append: () => Promise.resolve() };
  const database = new Database(
    new Tables(),
    0,
    nowhere,
    NO_BUDGET,
    { batch: () => undefined, broken: () => undefined },
    ALONE,
  );
  const identity = { id: randomBytes(16).toString("hex"), name: "sqlite::memory:" };
  return driverOf(database, ALONE, identity, undefined, () => database.journal.idle());
}

async function onDisk(
  path: string,
  { opTimeoutMs, onOpening, onCheckpoint, reopenMoved }: SqliteInput,
  call: Call,
): Promise<Driver> {
  const check = (): void => {
    call.throwIfEnded();
  };
  const sizes = await Promise.all(filesOf(path).map(statIfThere));
  call.extend(sizes.reduce((sum, stat) => sum + (stat?.size ?? 0), 0) / BYTES_PER_MS);
  const lock = await Lock.acquire(path, check);
  let recovered: Recovered;
  let maker: ImageMaker;
  let lease: Lease;
  let sqlJs: SqlJs;
  try {
    const sql = await loadSqlJs();
    ({ sqlJs } = sql);
    maker = new ImageMaker(sql, path);
    const progress = new Progress(onOpening);
    recovered = await recover({
      sqlJs,
      path,
      anew: lock.tookOver,
      maker,
      pace: new TimeSlice(check),
      progress,
    });
    lease = await begin(path, recovered, lock.socket, (error) => database.stop(error));
  } catch (error) {
    await lock.abandon();
    throw error;
  }
  const { tables, sequence, segment, watermark } = recovered;
  const events = {
    batch: (last: number): void => {
      watermark.advance(last);
      checkpoints.consider();
    },
    broken: () => {
      // A write may have failed because the file is gone.
      lease.doubt();
      checkpoints.stop();
    },
  };
  const database: Database = new Database(tables, sequence, watermark.guard(segment), FILE_BUDGET, events, lease);
  const checkpoints: Checkpoints = new Checkpoints(path, recovered, database.journal, maker, lease, (result) => {
    notify(onCheckpoint, result);
    tell({ type: "checkpoint", backend: "sqlite", ...result });
  });
  if (recovered.full !== undefined) database.stop(recovered.full);
  // Where the image cannot be told, nothing is acknowledged, also what changes nothing.
  await watermark.reach(sequence).catch((error: unknown) => database.stop(error));
  checkpoints.consider();
  const identity = { id: recovered.database, name: `sqlite:${path}` };
  const driver = driverOf(database, lease, identity, { path, sqlJs, watermark }, () =>
    closeWithin(opTimeoutMs * OPENING + checkpoints.bytes / BYTES_PER_MS, path, () =>
      closeAll(path, database, checkpoints, lease, lock),
    ),
  );
  const { state } = tables;
  if (state.kind !== "moved" || reopenMoved) return driver;
  await driver.close();
  throw wasMoved(state.run.peer.name);
}

async function begin(
  image: string,
  { segment, watermark }: Recovered,
  socket: string | undefined,
  lost: (error: StoreError) => void,
): Promise<Lease> {
  try {
    return await Lease.begin({ image, socket }, lost);
  } catch (error) {
    await Promise.all([segment.close(), watermark.close()]);
    throw error;
  }
}

/**
 * A disk that hangs must not hang the caller. After its time, closing goes on without the caller. The lock is kept
 * until the disk has answered, because what is under way may still reach the file.
 */
async function closeWithin(timeoutMs: number, path: string, close: () => Promise<void>): Promise<void> {
  const closing = new Call({ timeoutMs: undefined, signal: undefined }, timeoutMs, "read");
  await closing.run(async () => {
    try {
      await close();
    } catch (error) {
      if (isStoreError(error)) throw error;
      throw new StoreError(
        "UNAVAILABLE",
        `${path} cannot be closed as it should (${reasonOf(error)}): what was acknowledged is in its files`,
        { cause: error },
      );
    }
  });
}

async function closeAll(
  path: string,
  database: Database,
  checkpoints: Checkpoints,
  lease: Lease,
  lock: Lock,
): Promise<void> {
  let gone = false;
  try {
    await database.journal.idle();
    // If another process holds the file, nothing may be put in its place. The lease keeps what it finds, for the end of
    // this.
    await lease.renew().catch(() => checkpoints.stop());
    if (database.acknowledged > 0 && !(await checkpoints.isThere())) {
      checkpoints.stop();
      // Where there is another image, another process has taken the file over.
      gone = lease.failure === undefined || (await statIfThere(path)) === undefined;
    }
    await checkpoints.close();
  } finally {
    lease.close();
    await lock.release();
  }
  if (gone) {
    throw new StoreError(
      "UNAVAILABLE",
      `The files of ${path} are gone: ${String(database.acknowledged)} acknowledged writes are lost`,
      {
        details: { lost: database.acknowledged },
        cause: database.failure?.cause,
      },
    );
  }
  if (lease.failure !== undefined) throw lease.failure;
}
