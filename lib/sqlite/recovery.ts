/**
 * Opening: finds out what the files are, refuses what is foreign or damaged without touching it, and brings the state up
 * to the last transaction that the log holds.
 */
import { randomBytes } from "node:crypto";
import { basename } from "node:path";
import type { Buffer } from "node:buffer";
import type { SqlJsStatic } from "sql.js";
import { StoreError } from "../errors.js";
import { renameImage, temporaryImagePath, writeImage } from "./checkpoint.js";
import { readIfThere, removeIfThere, syncFolderOf } from "./files.js";
import { Image, kindOf } from "./image.js";
import type { Meta } from "./image.js";
import { HEADER_BYTES, LogDamage, decodeHeader, isZero, readRecords } from "./log-format.js";
import type { Header, LogRecord, Seal } from "./log-format.js";
import type { Pace } from "./pace.js";
import { Misfit } from "./rows.js";
import { Segment, segmentPath } from "./segment.js";
import { contentOf, decodeSuperblock, isSame } from "./superblock.js";
import type { SealedImage, Superblock } from "./superblock.js";
import { Tables } from "./tables.js";
import { Watermark } from "./watermark.js";

export interface Recovered {
  readonly tables: Tables;
  /** The last transaction. */
  readonly sequence: number;
  readonly database: string;
  readonly segment: Segment;
  readonly watermark: Watermark;
  readonly imageBytes: number;
}

interface FoundLog {
  readonly path: string;
  readonly bytes: Buffer;
  readonly header: Header;
}

/** What the file says of itself. An image of version 1 has no superblock: it says nothing of its log. */
interface FoundImage {
  readonly meta: Meta;
  readonly content: Seal;
  readonly found: { readonly at: number; readonly superblock: Superblock } | undefined;
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
    return create(sqlJs, path, pace);
  }
  const kind = kindOf(image);
  switch (kind) {
    case "foreign":
      throw incompatible(path, "not a file of this library");
    case "newer":
      throw incompatible(path, "written by a newer version of this library");
    case "version 1":
    case "current":
      return load(sqlJs, path, kind, image, logs.map(readHeader).sort((a, b) => a.header.generation - b.header.generation), pace);
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
async function create(sqlJs: SqlJsStatic, path: string, pace: Pace): Promise<Recovered> {
  const database = randomBytes(16).toString("hex");
  const image = Image.empty(sqlJs);
  let sealed: SealedImage;
  try {
    sealed = await image.export({ database, generation: 1, sequence: 0, adminEver: false }, true, pace);
  } finally {
    image.close();
  }
  await Promise.all([0, 1].map((parity) => removeIfThere(segmentPath(path, parity))));
  const files = await publish(path, sealed, database, 1);
  return { tables: new Tables(), sequence: 0, database, ...files, imageBytes: sealed.bytes.length };
}

/** What a store goes on with: its newest segment, and what keeps the image's superblock. */
type Files = Pick<Recovered, "segment" | "watermark">;

/** An image that holds everything, and an empty log for it. */
async function publish(path: string, image: SealedImage, database: string, generation: number): Promise<Files> {
  await writeImage(path, image.bytes);
  await renameImage(path);
  await syncFolderOf(path);
  // Older than the image, and so of no use: but only now that it has its name for good.
  await Promise.all([0, 1].map((parity) => removeIfThere(segmentPath(path, parity))));
  return withWatermark(path, image, () => Segment.create(path, { database, generation, seal: image.superblock.content }));
}

async function withWatermark(path: string, image: Pick<SealedImage, "at" | "superblock">, open: () => Promise<Segment>): Promise<Files> {
  const watermark = await Watermark.open(path, image);
  try {
    return { watermark, segment: await open() };
  } catch (error) {
    await watermark.close();
    throw error;
  }
}

async function load(
  sqlJs: SqlJsStatic, path: string, kind: "version 1" | "current", bytes: Buffer, logs: readonly FoundLog[], pace: Pace,
): Promise<Recovered> {
  let image: Image;
  try {
    image = Image.of(sqlJs, bytes);
  } catch (error) {
    throw corrupt(path, undefined, "SQLite cannot open it", error);
  }
  try {
    const tables = new Tables();
    const { meta, content, found } = await readImage(path, kind, image, bytes, logs, tables, pace);
    const live = liveLogs(path, meta, logs, content, found?.superblock);
    const ends = await replay(tables, live, meta, pace);
    if (found !== undefined) checkReached(path, found.superblock, live, ends);
    // From here on files are changed: nothing was refused.
    await removeIfThere(temporaryImagePath(path));
    await Promise.all([0, 1].map((parity) => removeIfThere(`${segmentPath(path, parity)}-new`)));

    const [first, second] = live;
    const result = { tables, sequence: ends.sequence, database: meta.database };
    if (found === undefined || (second !== undefined && second.bytes.length > HEADER_BYTES)) {
      // An image of version 1, or a checkpoint was under way: this one takes its place. Its image holds every log before any is deleted.
      if (found === undefined) image.upgrade();
      await image.merge(recordsOf(live, meta), pace);
      const generation = (live.at(-1)?.header.generation ?? meta.generation) + 1;
      const next = await image.export({ ...meta, generation, sequence: ends.sequence, adminEver: tables.adminEver }, true, pace);
      return { ...result, ...(await publish(path, next, meta.database, generation)), imageBytes: next.bytes.length };
    }
    for (const log of logs) if (log !== first) await removeIfThere(log.path);
    const files = await withWatermark(path, found, () =>
      first === undefined
        ? Segment.create(path, { database: meta.database, generation: meta.generation, seal: content })
        : Segment.open(path, first.header, ends.firstEnd),
    );
    return { ...result, ...files, imageBytes: bytes.length };
  } finally {
    image.close();
  }
}

async function readImage(
  path: string, kind: "version 1" | "current", image: Image, bytes: Buffer, logs: readonly FoundLog[], tables: Tables, pace: Pace,
): Promise<FoundImage> {
  try {
    const at = image.superblockAt();
    if (at === undefined && kind === "current") throw new Error("its superblock is missing");
    const content = await contentOf(bytes, at, pace);
    let found: FoundImage["found"];
    if (at !== undefined) {
      found = { at, superblock: decodeSuperblock(bytes, at) };
      if (!isSame(found.superblock.content, content)) throw new Error("its checksum is not that of its content");
    } else if (!logs.some(({ header }) => header.seal !== undefined && isSame(header.seal, content))) {
      // Nothing else tells: the checksum in the log is as good, and a hundred times faster.
      image.check();
    }
    const meta = image.meta();
    await image.load(tables, pace);
    return { meta, content, found };
  } catch (error) {
    if (error instanceof StoreError) throw error;
    throw corrupt(path, undefined, error instanceof Error ? error.message : "it cannot be read", error);
  }
}

/** The segments that lead from the image to now: none, its own, or its own and the next. */
function liveLogs(path: string, meta: Meta, logs: readonly FoundLog[], content: Seal, superblock: Superblock | undefined): FoundLog[] {
  for (const { path: log, header } of logs) {
    if (header.database !== meta.database) throw corrupt(log, 20, "it is the log of another database");
    if (header.generation > meta.generation + 1) throw corrupt(log, 36, "it is the log of a later state of the file");
  }
  const own = logs.find(({ header }) => header.generation === meta.generation);
  const next = logs.find(({ header }) => header.generation === meta.generation + 1);
  if (own === undefined) {
    if (next !== undefined) throw corrupt(next.path, 36, "the log before it is missing");
    if (superblock?.clean === false) throw withoutLog(path, segmentPath(path, meta.generation));
    return [];
  }
  if (own.header.seal === undefined || !isSame(own.header.seal, content)) throw corrupt(path, undefined, "it is not the file that its log was begun with");
  return next === undefined ? [own] : [own, next];
}

function withoutLog(path: string, log: string): StoreError {
  const what = `it was not closed cleanly, and without its log ${basename(log)} it is an older state. Put that log back beside it, or restore a copy that is complete`;
  return new StoreError("CORRUPT", `${path}: ${what}. It was left as it is`, { details: { file: path, missing: log } });
}

/** A log whose end is gone is not one that was never longer. */
function checkReached(path: string, { acknowledged }: Superblock, live: readonly FoundLog[], { sequence, lastEnd }: Replayed): void {
  if (sequence >= acknowledged) return;
  const what = `transaction ${String(acknowledged)} was acknowledged, and nothing after ${String(sequence)} is there. Restore a copy that is complete`;
  const last = live.at(-1);
  throw last === undefined ? corrupt(path, undefined, what) : corrupt(last.path, lastEnd, what);
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

interface Replayed {
  readonly sequence: number;
  /** Where the records of the first log, and of the last one, end. */
  readonly firstEnd: number;
  readonly lastEnd: number;
}

/** Applies the logs. Only the newest that holds anything may have been torn by a crash. */
async function replay(tables: Tables, logs: readonly FoundLog[], meta: Meta, pace: Pace): Promise<Replayed> {
  let sequence = meta.sequence;
  let firstEnd = HEADER_BYTES;
  let end = HEADER_BYTES;
  for (const [i, { path, bytes }] of logs.entries()) {
    end = HEADER_BYTES;
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
  return { sequence, firstEnd, lastEnd: end };
}
