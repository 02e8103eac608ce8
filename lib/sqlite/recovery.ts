/**
 * Opening: finds out what the files are, refuses what is foreign or damaged without touching it, and brings the state up
 * to the last transaction that the log holds.
 */
import { randomBytes } from "node:crypto";
import type { Buffer } from "node:buffer";
import type { SqlJsStatic } from "sql.js";
import { StoreError } from "../errors.js";
import { renameImage, sealOf, temporaryImagePath, writeImage } from "./checkpoint.js";
import { readIfThere, removeIfThere, syncFolderOf } from "./files.js";
import { Image, kindOf } from "./image.js";
import type { Meta } from "./image.js";
import { HEADER_BYTES, LogDamage, decodeHeader, isZero, readRecords } from "./log-format.js";
import type { Header, LogRecord } from "./log-format.js";
import type { Pace } from "./pace.js";
import { Misfit } from "./rows.js";
import { Segment, segmentPath } from "./segment.js";
import { Tables } from "./tables.js";

export interface Recovered {
  readonly tables: Tables;
  /** The last transaction. */
  readonly sequence: number;
  readonly database: string;
  readonly segment: Segment;
  readonly imageBytes: number;
}

interface FoundLog {
  readonly path: string;
  readonly bytes: Buffer;
  readonly header: Header;
}

function corrupt(file: string, offset: number | undefined, what: string, cause?: unknown): StoreError {
  const where = offset === undefined ? "" : ` at offset ${String(offset)}`;
  return new StoreError("CORRUPT", `${file} is damaged${where}: ${what}. It was left as it is`, {
    details: { file, ...(offset === undefined ? {} : { offset }) },
    ...(cause === undefined ? {} : { cause }),
  });
}

function incompatible(file: string, what: string): StoreError {
  return new StoreError("INCOMPATIBLE", `${file}: ${what}. It was left as it is`, { details: { file } });
}

export async function recover(sqlJs: SqlJsStatic, path: string, pace: Pace): Promise<Recovered> {
  const [image, ...segments] = await Promise.all([readIfThere(path), readIfThere(segmentPath(path, 0)), readIfThere(segmentPath(path, 1))]);
  const logs = segments.flatMap((bytes, parity) => (bytes === undefined ? [] : [{ path: segmentPath(path, parity), bytes }]));
  if (image === undefined || image.length === 0) {
    const left = logs.find(({ bytes }) => bytes.length > HEADER_BYTES);
    if (left !== undefined) throw corrupt(left.path, undefined, "it is the log of a file that is missing");
    return create(sqlJs, path);
  }
  switch (kindOf(image)) {
    case "foreign":
      throw incompatible(path, "not a file of this library");
    case "newer":
      throw incompatible(path, "written by a newer version of this library");
    case "ours":
      return load(sqlJs, path, image, logs.map(readHeader).sort((a, b) => a.header.generation - b.header.generation), pace);
  }
}

function readHeader({ path, bytes }: { path: string; bytes: Buffer }): FoundLog {
  try {
    return { path, bytes, header: decodeHeader(bytes) };
  } catch (error) {
    throw damageOf(path, error);
  }
}

function damageOf(path: string, error: unknown): unknown {
  if (!(error instanceof LogDamage)) return error;
  if (error.reason === "newer") return incompatible(path, error.message);
  return corrupt(path, error.offset, error.message, error);
}

/** A new database: the image comes first, because a log without one is taken for a loss. */
async function create(sqlJs: SqlJsStatic, path: string): Promise<Recovered> {
  const database = randomBytes(16).toString("hex");
  const image = Image.empty(sqlJs);
  let bytes: Uint8Array;
  try {
    bytes = image.export({ database, generation: 1, sequence: 0, adminEver: false });
  } finally {
    image.close();
  }
  await Promise.all([0, 1].map((parity) => removeIfThere(segmentPath(path, parity))));
  const segment = await publish(path, bytes, database, 1);
  return { tables: new Tables(), sequence: 0, database, segment, imageBytes: bytes.length };
}

/** An image that holds everything, and an empty log for it. */
async function publish(path: string, bytes: Uint8Array, database: string, generation: number): Promise<Segment> {
  await writeImage(path, bytes);
  await renameImage(path);
  await syncFolderOf(path);
  // Older than the image, and so of no use: but only now that it has its name for good.
  await Promise.all([0, 1].map((parity) => removeIfThere(segmentPath(path, parity))));
  return Segment.create(path, { database, generation, seal: sealOf(bytes) });
}

async function load(sqlJs: SqlJsStatic, path: string, bytes: Buffer, logs: readonly FoundLog[], pace: Pace): Promise<Recovered> {
  const seal = sealOf(bytes);
  const sealed = logs.find(({ header }) => header.seal?.length === seal.length && header.seal.checksum === seal.checksum);
  let image: Image;
  try {
    image = Image.of(sqlJs, bytes);
  } catch (error) {
    throw corrupt(path, undefined, "SQLite cannot open it", error);
  }
  try {
    const tables = new Tables();
    const meta = await readImage(path, image, sealed !== undefined, tables, pace);
    const live = liveLogs(path, meta, logs, sealed);
    const ends = await replay(tables, live, meta, pace);
    // From here on files are changed: nothing was refused.
    await removeIfThere(temporaryImagePath(path));
    await Promise.all([0, 1].map((parity) => removeIfThere(`${segmentPath(path, parity)}-new`)));

    const [first, second] = live;
    const result = { tables, sequence: ends.sequence, database: meta.database };
    if (first === undefined) {
      for (const log of logs) await removeIfThere(log.path);
      const segment = await Segment.create(path, { database: meta.database, generation: meta.generation, seal });
      return { ...result, segment, imageBytes: bytes.length };
    }
    if (second !== undefined && second.bytes.length > HEADER_BYTES) {
      // A checkpoint was under way: this one takes its place. Its image holds both logs before either is deleted.
      await image.merge(recordsOf(live, meta), pace);
      const generation = second.header.generation + 1;
      const next = image.export({ ...meta, generation, sequence: ends.sequence, adminEver: tables.adminEver });
      const segment = await publish(path, next, meta.database, generation);
      return { ...result, segment, imageBytes: next.length };
    }
    for (const log of logs) if (log !== first) await removeIfThere(log.path);
    const segment = await Segment.open(path, first.header, ends.end);
    return { ...result, segment, imageBytes: bytes.length };
  } finally {
    image.close();
  }
}

async function readImage(path: string, image: Image, intact: boolean, tables: Tables, pace: Pace): Promise<Meta> {
  try {
    // The checksum in the log is as good, and a hundred times faster.
    if (!intact) image.check();
    const meta = image.meta();
    await image.load(tables, pace);
    return meta;
  } catch (error) {
    if (error instanceof StoreError) throw error;
    throw corrupt(path, undefined, error instanceof Error ? error.message : "it cannot be read", error);
  }
}

/** The segments that lead from the image to now: none, its own, or its own and the next. */
function liveLogs(path: string, meta: Meta, logs: readonly FoundLog[], sealed: FoundLog | undefined): FoundLog[] {
  for (const { path: log, header } of logs) {
    if (header.database !== meta.database) throw corrupt(log, 20, "it is the log of another database");
    if (header.generation > meta.generation + 1) throw corrupt(log, 36, "it is the log of a later state of the file");
  }
  const own = logs.find(({ header }) => header.generation === meta.generation);
  const next = logs.find(({ header }) => header.generation === meta.generation + 1);
  if (own === undefined) {
    if (next !== undefined) throw corrupt(next.path, 36, "the log before it is missing");
    return [];
  }
  if (sealed !== own) throw corrupt(path, undefined, "it is not the file that its log was begun with");
  return next === undefined ? [own] : [own, next];
}

function* recordsOf(logs: readonly FoundLog[], meta: Meta): Generator<LogRecord, void, undefined> {
  let sequence = meta.sequence;
  for (const { bytes } of logs) {
    for (const record of readRecords(bytes, sequence + 1)) {
      sequence = record.sequence;
      yield record;
    }
  }
}

/** Applies the logs. Only the newest that holds anything may have been torn by a crash. */
async function replay(tables: Tables, logs: readonly FoundLog[], meta: Meta, pace: Pace): Promise<{ sequence: number; end: number }> {
  let sequence = meta.sequence;
  let firstEnd = HEADER_BYTES;
  for (const [i, { path, bytes }] of logs.entries()) {
    let end = HEADER_BYTES;
    try {
      for (const record of readRecords(bytes, sequence + 1)) {
        for (const change of record.changes) tables.apply(change);
        ({ sequence, end } = record);
        if (pace.due()) await pace.rest();
      }
    } catch (error) {
      if (error instanceof Misfit) throw corrupt(path, end, error.message, error);
      throw damageOf(path, error);
    }
    if (i === 0) firstEnd = end;
    const after = logs[i + 1];
    if (!isZero(bytes, end, bytes.length) && after !== undefined && after.bytes.length > HEADER_BYTES) {
      throw corrupt(path, end, "it is torn, and yet another log follows it");
    }
  }
  return { sequence, end: firstEnd };
}

