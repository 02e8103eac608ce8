/**
 * How a file is opened. It is found out what the files are. What is foreign or damaged is refused, and left untouched.
 * Then the log is applied, up to the last transaction that it holds.
 */
import { randomBytes } from "node:crypto";
import { basename } from "node:path";
import type { SqlJs } from "sql.js/dist/sql-wasm-browser.js";
import { StoreError } from "../errors.js";
import type { OldLog } from "./checkpoint.js";
import { isFull, removeIfThere, syncFolderOf } from "./files.js";
import { DiskFile } from "./image-file.js";
import { renameImage, temporaryImagePath } from "./image-maker.js";
import type { ImageMaker } from "./image-maker.js";
import { Image, kindOf } from "./image.js";
import type { Meta } from "./image.js";
import { HEADER_BYTES, LogDamage, decodeHeader } from "./log-format.js";
import type { Header, ImageDigest } from "./log-format.js";
import { LogReader, isZeroFrom } from "./log-reader.js";
import { OpenFile } from "./open-file.js";
import { OPEN } from "../moves.js";
import type { Progress } from "../progress.js";
import type { TimeSlice } from "./time-slice.js";
import { InconsistentState } from "./rows.js";
import { Segment, filesOf, segmentPath } from "./segment.js";
import { SUPERBLOCK_BYTES, contentOf, decodeSuperblock, isSame } from "./superblock.js";
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
  /** The log before the segment, if a checkpoint was under way. */
  readonly unfinished: OldLog | undefined;
  /** Why nothing can be written: there is no room for a log. */
  readonly full?: unknown;
}

interface FoundLog {
  readonly file: OpenFile;
  readonly header: Header;
}

/** What the image says of itself. An image of version 1 has no superblock, so it says nothing of its log. */
interface FoundImage {
  readonly meta: Meta;
  readonly content: ImageDigest;
  readonly found: SealedImage | undefined;
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

/** What an opening works with. */
export interface Recovery {
  readonly sqlJs: SqlJs;
  readonly path: string;
  /** Whether the store is to go on in new files, because another process may still have the old ones open. */
  readonly anew: boolean;
  readonly maker: ImageMaker;
  readonly pace: TimeSlice;
  readonly progress: Progress;
}

export async function recover(recovery: Recovery): Promise<Recovered> {
  const { path, maker } = recovery;
  const files = await openAll(filesOf(path));
  try {
    const [image, ...segments] = files;
    const logs = segments.filter((log) => log !== undefined);
    if (image === undefined || image.length === 0) {
      // Who deletes a file to begin anew may leave its empty log. But nobody makes an empty file beside it.
      const left = logs.find(({ length }) => image !== undefined || length > HEADER_BYTES);
      if (left !== undefined) throw corrupt(left.path, undefined, "it is the log of a file that is missing, or empty");
      return await create(path, maker);
    }
    const kind = kindOf(await image.read(0, Math.min(image.length, FIRST_BYTES)));
    switch (kind) {
      case "foreign":
        throw incompatible(path, "not a file of this library");
      case "newer":
        throw incompatible(path, "written by a newer version of this library");
      case "version 1":
      case "current": {
        const found = await Promise.all(logs.map(readHeader));
        return await load(
          recovery,
          kind,
          image,
          found.sort((a, b) => a.header.generation - b.header.generation),
        );
      }
    }
  } finally {
    await closeAll(files);
  }
}

/** So many bytes of a file say what kind of file it is. */
const FIRST_BYTES = 100;

/** Opens all that are there, or none. */
async function openAll(paths: readonly string[]): Promise<(OpenFile | undefined)[]> {
  const opened = await Promise.allSettled(paths.map((path) => OpenFile.openIfThere(path)));
  const failed = opened.find((each) => each.status === "rejected");
  if (failed === undefined) return opened.map((each) => (each.status === "fulfilled" ? each.value : undefined));
  await closeAll(opened.map((each) => (each.status === "fulfilled" ? each.value : undefined)));
  throw failed.reason;
}

async function closeAll(files: readonly (OpenFile | undefined)[]): Promise<void> {
  await Promise.all(files.filter((file) => file !== undefined).map((file) => file.close()));
}

async function readHeader(file: OpenFile): Promise<FoundLog> {
  try {
    return { file, header: decodeHeader(await file.read(0, Math.min(file.length, HEADER_BYTES))) };
  } catch (error) {
    throw damageOf(file.path, error);
  }
}

function damageOf(path: string, error: unknown): unknown {
  if (!(error instanceof LogDamage)) return error;
  if (error.reason === "newer") return incompatible(path, error.message);
  return corrupt(path, error.offset, error.message, error);
}

/** Makes a new database. The image comes first, because a log without an image is taken for a loss. */
async function create(path: string, maker: ImageMaker): Promise<Recovered> {
  const database = randomBytes(16).toString("hex");
  await Promise.all([0, 1].map((parity) => removeIfThere(segmentPath(path, parity))));
  const image = await maker.makeEmpty({
    database,
    generation: 1,
    sequence: 0,
    adminEver: false,
    state: OPEN,
  });
  const files = await publish(path, image, database, 1);
  return {
    tables: new Tables(),
    sequence: 0,
    database,
    ...files,
    imageBytes: image.superblock.content.length,
    unfinished: undefined,
  };
}

/** What a store goes on with: its newest segment, and what keeps the image's superblock. */
type Files = Pick<Recovered, "segment" | "watermark">;

/** Puts an image that holds everything in its place, with an empty log for it. */
async function publish(path: string, image: SealedImage, database: string, generation: number): Promise<Files> {
  await renameImage(path).catch(async (error: unknown) => {
    await removeIfThere(temporaryImagePath(path)).catch(() => undefined);
    throw error;
  });
  await syncFolderOf(path);
  // Only now that the image has its name for good, the logs before it are of no use.
  await Promise.all([0, 1].map((parity) => removeIfThere(segmentPath(path, parity))));
  return withWatermark(path, image, () =>
    Segment.create(path, { database, generation, seal: image.superblock.content }),
  );
}

async function withWatermark(path: string, image: SealedImage, open: () => Promise<Segment>): Promise<Files> {
  const watermark = await Watermark.open(path, image);
  try {
    return { watermark, segment: await open() };
  } catch (error) {
    await watermark.close();
    throw error;
  }
}

async function load(
  recovery: Recovery,
  kind: "version 1" | "current",
  file: OpenFile,
  logs: readonly FoundLog[],
): Promise<Recovered> {
  const { path, anew, maker, pace } = recovery;
  const tables = new Tables();
  const { meta, content, found } = await readImage(recovery, kind, file, logs, tables);
  const { database } = meta;
  const live = liveLogs(path, meta, logs, content, found?.superblock);
  const replayed = await replay(recovery, tables, live, meta);
  if (found !== undefined) checkReached(path, found.superblock, live, replayed);
  // Nothing was refused, and somebody still waits for it. From here on files are changed.
  await pace.rest();
  await removeIfThere(temporaryImagePath(path));
  await Promise.all([0, 1].map((parity) => removeIfThere(`${segmentPath(path, parity)}-new`)));

  const result = { tables, sequence: replayed.sequence, database };
  // A new image holds every log, before any log is deleted.
  const generation = (live.at(-1)?.header.generation ?? meta.generation) + 1;
  const makeNext = (): Promise<SealedImage> => {
    const made = maker.make({
      database,
      image: { path, generation: meta.generation, at: found?.at, content },
      logs: live.map((log) => log.file.path),
      last: replayed.sequence,
      next: { generation, clean: true },
    });
    maker.hurry();
    return made;
  };
  const goOnIn = async (next: SealedImage): Promise<Recovered> => ({
    ...result,
    ...(await publish(path, next, database, generation)),
    imageBytes: next.superblock.content.length,
    unfinished: undefined,
  });
  // An image of this version takes the place of one of version 1.
  if (found === undefined) return goOnIn(await makeNext());
  if (anew) {
    const next = await makeNext().catch(unlessFull);
    if (next !== undefined) return goOnIn(next);
  }
  const [first, second] = live;
  const checkpointed = second !== undefined && second.file.length > HEADER_BYTES;
  const kept = checkpointed ? second : first;
  for (const { file: log, header } of logs)
    if (header !== first?.header && header !== kept?.header) await removeIfThere(log.path);
  let full: unknown;
  const files = await withWatermark(path, found, async () => {
    const end = checkpointed ? replayed.lastEnd : replayed.firstEnd;
    if (kept !== undefined) return Segment.open(path, kept.header, end, replayed.sequence);
    const header = { database, generation: meta.generation, seal: content };
    return Segment.create(path, header).catch((error: unknown) => {
      if (!isFull(error)) throw error;
      full = error;
      return Segment.absent(path, header);
    });
  });
  // A checkpoint was under way. It is begun anew once the store is open, so that opening needs neither its time nor its
  // room on the disk.
  const unfinished = checkpointed && first !== undefined ? oldLog(first, replayed) : undefined;
  return { ...result, ...files, imageBytes: content.length, unfinished, full };
}

/**
 * Where there is no room for another image, the store goes on in the old files. Only a write of the process before that
 * hung all the while could still come to them.
 */
function unlessFull(error: unknown): undefined {
  if (!isFull(error) && !(error instanceof Error && isFull(error.cause))) throw error;
}

function oldLog({ file: { path }, header: { generation } }: FoundLog, { firstSequence, firstEnd }: Replayed): OldLog {
  return { path, generation, sequence: firstSequence, length: firstEnd - HEADER_BYTES, close: () => Promise.resolve() };
}

async function readImage(
  { sqlJs, path, pace, progress }: Recovery,
  kind: "version 1" | "current",
  file: OpenFile,
  logs: readonly FoundLog[],
  tables: Tables,
): Promise<FoundImage> {
  let image: Image | undefined;
  try {
    image = Image.of(sqlJs, new DiskFile(file.fd));
    const at = image.superblockAt();
    if (at === undefined && kind === "current") throw new Error("its superblock is missing");
    progress.begin("check", file.length);
    const content = await contentOf(file, at, pace, (piece) => {
      progress.advance(piece.length);
    });
    progress.end();
    let found: FoundImage["found"];
    if (at !== undefined) {
      found = { at, superblock: decodeSuperblock(await file.read(at, Math.min(file.length, at + SUPERBLOCK_BYTES))) };
      if (!isSame(found.superblock.content, content)) throw new Error("its checksum is not that of its content");
    } else if (!logs.some(({ header }) => header.seal !== undefined && isSame(header.seal, content))) {
      // Nothing else tells whether the image is whole. A checksum in a log would be as good, and is a hundred times
      // faster.
      image.check();
    }
    const meta = image.meta();
    progress.begin("load", file.length);
    await image.load(tables, pace);
    progress.end();
    return { meta, content, found };
  } catch (error) {
    if (error instanceof StoreError) throw error;
    throw corrupt(path, undefined, error instanceof Error ? error.message : "it cannot be read", error);
  } finally {
    image?.close();
  }
}

/** The segments that lead from the image to the last state: none, the image's own, or its own and the next. */
function liveLogs(
  path: string,
  meta: Meta,
  logs: readonly FoundLog[],
  content: ImageDigest,
  superblock: Superblock | undefined,
): FoundLog[] {
  for (const { file: log, header } of logs) {
    if (header.database !== meta.database) throw corrupt(log.path, 20, "it is the log of another database");
    if (header.generation > meta.generation + 1)
      throw corrupt(log.path, 36, "it is the log of a later state of the file");
  }
  const own = logs.find(({ header }) => header.generation === meta.generation);
  const next = logs.find(({ header }) => header.generation === meta.generation + 1);
  if (own === undefined) {
    if (next !== undefined) throw corrupt(next.file.path, 36, "the log before it is missing");
    if (superblock?.clean === false) throw withoutLog(path, segmentPath(path, meta.generation));
    return [];
  }
  if (own.header.seal === undefined || !isSame(own.header.seal, content))
    throw corrupt(path, undefined, "it is not the file that its log was begun with");
  return next === undefined ? [own] : [own, next];
}

function withoutLog(path: string, log: string): StoreError {
  const what = `it was not closed cleanly, and without its log ${basename(log)} it is an older state. Put that log back beside it, or restore a copy that is complete`;
  return new StoreError("CORRUPT", `${path}: ${what}. It was left as it is`, { details: { file: path, missing: log } });
}

/** A log that has lost its end looks like one that was never longer. The watermark tells them apart. */
function checkReached(
  path: string,
  { acknowledged }: Superblock,
  live: readonly FoundLog[],
  { sequence, lastEnd }: Replayed,
): void {
  if (sequence >= acknowledged) return;
  const what = `transaction ${String(acknowledged)} was acknowledged, and nothing after ${String(sequence)} is there. Restore a copy that is complete`;
  const last = live.at(-1);
  throw last === undefined ? corrupt(path, undefined, what) : corrupt(last.file.path, lastEnd, what);
}

interface Replayed {
  readonly sequence: number;
  /** The last transaction of the first log. */
  readonly firstSequence: number;
  /** Where the records of the first log end. `lastEnd` is the same of the last log. */
  readonly firstEnd: number;
  readonly lastEnd: number;
}

/** Applies the logs. A crash may have torn only the newest log that holds anything. */
async function replay(
  { pace, progress }: Recovery,
  tables: Tables,
  logs: readonly FoundLog[],
  meta: Meta,
): Promise<Replayed> {
  let sequence = meta.sequence;
  let firstSequence = sequence;
  let firstEnd = HEADER_BYTES;
  let end = HEADER_BYTES;
  progress.begin(
    "replay",
    logs.reduce((sum, { file }) => sum + file.length, 0),
  );
  for (const [i, { file }] of logs.entries()) {
    end = HEADER_BYTES;
    try {
      const reader = new LogReader(file, meta.database, sequence + 1);
      for (let records = await reader.next(); records !== undefined; records = await reader.next()) {
        for (const record of records) {
          for (const change of record.changes) tables.apply(change);
          progress.advance(record.end - end);
          ({ sequence, end } = record);
          if (pace.due()) await pace.rest();
        }
      }
    } catch (error) {
      if (error instanceof InconsistentState) throw corrupt(file.path, end, error.message, error);
      throw damageOf(file.path, error);
    }
    if (i === 0) [firstEnd, firstSequence] = [end, sequence];
    const after = logs[i + 1];
    if (after !== undefined && after.file.length > HEADER_BYTES && !(await isZeroFrom(file, end))) {
      throw corrupt(file.path, end, "it is torn, and yet another log follows it");
    }
  }
  progress.end();
  return { sequence, firstSequence, firstEnd, lastEnd: end };
}
