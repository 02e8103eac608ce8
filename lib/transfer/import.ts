/** The records of an export, into an empty store. */
import { createHash } from "node:crypto";
import type { RecordWriter, StoredRecord } from "../driver.js";
import { StoreError } from "../errors.js";
import { revisionFloorFrom } from "../rules.js";
import type { Store } from "../store.js";
import * as args from "../arguments.js";
import { ContentDigest } from "./digest.js";
import { Order, corruptLine, readHeader, readLine, trailerLine } from "./lines.js";
import type { Header, Trailer } from "./lines.js";
import { BulkWork, isWorthUndoing, totalOf } from "./options.js";
import type { BulkOptions, Counts } from "./options.js";

/** What was imported. */
export interface ImportReport {
  counts: Counts;
  /** Of the content: that of every store that holds the same. */
  digest: string;
}

/** What is written at once. */
const BATCH = 1000;
const BATCH_BYTES = 1024 * 1024;
/** A line with the longest key, and with the longest ids, has less than half of it. */
const MAX_LINE = 256 * 1024;

/**
 * Puts the records of {@link exportStore} into an empty store: one that holds no user and no room, and never had an
 * admin; else `CONFLICT`, and nothing has changed. `lines` may be lines, with or without their end, or the text in
 * pieces of any size, as a stream of a file gives it.
 *
 * From before the first record until the trailer was checked, and what stands in the store was read back and compared,
 * the store denies every check, and every other write to it is `UNAVAILABLE`. Then all of it is there, as it was:
 * times, members' states, past epochs, debts of rekeys, revoked users. Revisions are new. A store may not see at once
 * what another one imported.
 *
 * Text that was cut, reordered or changed is `CORRUPT`, and of a newer version `INCOMPATIBLE`. What `lines` fails with
 * is told as it is. After each of these the store is empty again, and open. If the import ends otherwise (the process
 * dies, the signal aborts it, the backend fails) the store stays closed: import again, which begins anew. Only where it
 * ends in its very last step may the store be open, with everything in it: then importing again is `CONFLICT`. To have
 * it empty and open, import an export of an empty store.
 *
 * @example
 * await importStore(createReadStream("membership.jsonl.gz").pipe(createGunzip()).setEncoding("utf8"), store);
 */
export async function importStore(
  lines: AsyncIterable<string> | Iterable<string>,
  to: Store,
  options?: BulkOptions,
): Promise<ImportReport> {
  const work = new BulkWork(to, "to", options);
  const text = new Lines(lines, work);
  try {
    const header = readHeader(await text.need());
    return await importFrom(text, header, work);
  } finally {
    await text.close();
  }
}

async function importFrom(text: Lines, header: Header, work: BulkWork): Promise<ImportReport> {
  // The export does not know which revisions its store gave afterwards.
  const floor = revisionFloorFrom(header.revisionFloor);
  const writer = await work.step((call) => work.store.records.write(floor, undefined, call));
  try {
    return await filled(writer, text, header, work);
  } finally {
    writer.release();
  }
}

async function filled(writer: RecordWriter, text: Lines, header: Header, work: BulkWork): Promise<ImportReport> {
  let report: ImportReport;
  let adminEver: boolean;
  try {
    work.progress.begin("clear");
    while (await work.step((call) => writer.clear(call))) work.progress.advance(1);
    const read = await copy(writer, text, header, work);
    await work.step((call) => writer.seal(call));
    adminEver = read.adminEver;
    report = { counts: { ...read.counts }, digest: read.digest };
    await compare(writer, report, adminEver, work);
  } catch (error) {
    // If undoing fails too, the store stays closed. The first error says why.
    if (text.hasFailed || isWorthUndoing(error) || error instanceof Differs)
      await undo(writer, work).catch(() => undefined);
    throw error instanceof Differs ? error.told : error;
  }
  await work.step((call) => writer.open(adminEver, call));
  work.progress.end();
  return report;
}

/** Leaves the store as it was: empty, and open. */
async function undo(writer: RecordWriter, work: BulkWork): Promise<void> {
  await work.undo((call) => writer.seal(call));
  while (await work.undo((call) => writer.clear(call)));
  await work.undo((call) => writer.giveBack(call));
}

interface Copied {
  readonly counts: Counts;
  readonly digest: string;
  readonly adminEver: boolean;
}

async function copy(writer: RecordWriter, text: Lines, header: Header, work: BulkWork): Promise<Copied> {
  const digest = new ContentDigest();
  const order = new Order();
  let { adminEver } = header;
  let batch: StoredRecord[] = [];
  let bytes = 0;
  const flush = async (): Promise<void> => {
    const records = batch;
    batch = [];
    bytes = 0;
    if (records.length > 0) await work.step((call) => writer.write(records, call));
    work.progress.advance(records.length);
  };
  work.progress.begin("import", totalOf(header.counts));
  for (;;) {
    const sha256 = text.sha256;
    const line = await text.need();
    const read = readLine(line, text.number);
    if (!("kind" in read)) {
      order.end(text.number);
      await flush();
      await text.end();
      checkTrailer(line, read, { counts: digest.counts, digest: digest.hex(adminEver), sha256 }, text.number);
      work.progress.end(digest.total);
      return { counts: { ...digest.counts }, digest: read.digest, adminEver };
    }
    order.next(read, text.number);
    digest.add(read);
    adminEver ||= read.kind === "user" && read.row.role === "admin";
    batch.push(read);
    bytes += line.length;
    if (batch.length >= BATCH || bytes >= BATCH_BYTES) await flush();
  }
}

function checkTrailer(line: string, found: Trailer, expected: Trailer, number: number): void {
  if (line === trailerLine(expected)) return;
  const isSame = found.sha256 === expected.sha256;
  throw corruptLine(number, isSame ? "it is not what the records add up to" : "what comes before was changed");
}

/** What stands in the store is not what was written: somebody else's writes came between. */
class Differs extends Error {
  readonly told = new StoreError(
    "CONFLICT",
    "What stands in the store is not what was imported: another writer came between. Import again",
  );
}

async function compare(
  writer: RecordWriter,
  { counts, digest }: ImportReport,
  adminEver: boolean,
  work: BulkWork,
): Promise<void> {
  work.progress.begin("verify", totalOf(counts));
  const reader = await work.step((call) => work.store.begin(writer.read(undefined, call), call));
  try {
    const found = new ContentDigest();
    for (;;) {
      const page = await work.step((call) => reader.next(call));
      if (page === undefined) break;
      for (const record of page) found.add(record);
      work.progress.advance(page.length);
    }
    if (found.hex(adminEver) !== digest) throw new Differs();
  } finally {
    await work.store.close(reader);
  }
}

type AnyIterator = AsyncIterator<unknown, unknown> | Iterator<unknown, unknown>;

/**
 * The lines of what a caller gave. Where the first piece has an end of a line in it, all pieces together are the text;
 * else each is a line.
 */
class Lines {
  readonly #work: BulkWork;
  readonly #iterator: AnyIterator;
  readonly #sha256 = createHash("sha256");
  #inPieces: boolean | undefined;
  /** What was read and not given out: the beginning of a line, and whole ones, the next at the end. */
  #rest = "";
  #waiting: string[] = [];
  #isOver = false;
  /** Whether the iterator was asked for a piece, and has not answered. */
  #isAsked = false;
  /** Whether the iterator has failed. It may say so as a store does, whose export it is. */
  hasFailed = false;
  /** Of the line that was given out last. */
  number = 0;

  constructor(lines: AsyncIterable<string> | Iterable<string>, work: BulkWork) {
    this.#work = work;
    this.#iterator = iteratorOf(lines);
  }

  /** Of the lines that were given out. */
  get sha256(): string {
    return this.#sha256.copy().digest("hex");
  }

  /** The next line, without its end. */
  async need(): Promise<string> {
    const line = await this.#next();
    if (line === undefined) throw corruptLine(this.number + 1, "the export ends before its trailer");
    return line;
  }

  /** Throws unless there are no more. */
  async end(): Promise<void> {
    const last = this.number;
    if ((await this.#next()) !== undefined) throw corruptLine(last + 1, "something follows the trailer");
  }

  /** Nothing more is wanted of the caller's iterator. It is told so whatever has ended the import. */
  async close(): Promise<void> {
    if (this.#isOver) return;
    this.#isOver = true;
    const returned = this.#return().catch(() => undefined);
    // One that stands still ends when it goes on, and nobody waits for that. The caller is told why the import ended.
    if (!this.#isAsked) await this.#work.outside(() => returned).catch(() => undefined);
  }

  async #next(): Promise<string | undefined> {
    while (this.#waiting.length === 0 && !this.#isOver) this.#take(await this.#piece());
    const line = this.#waiting.pop();
    if (line === undefined) return undefined;
    this.number++;
    this.#sha256.update(`${line}\n`, "utf8");
    return line;
  }

  async #piece(): Promise<string | undefined> {
    const { done, value } = await this.#work.outside(() => this.#ask());
    if (done === true) return undefined;
    if (typeof value !== "string") throw args.invalid("lines", "an iterable of strings");
    return value;
  }

  async #ask(): Promise<IteratorResult<unknown, unknown>> {
    this.#isAsked = true;
    try {
      return await this.#iterator.next();
    } catch (error) {
      this.hasFailed = true;
      throw error;
    } finally {
      this.#isAsked = false;
    }
  }

  async #return(): Promise<void> {
    await this.#iterator.return?.();
  }

  #take(piece: string | undefined): void {
    if (piece === undefined) {
      this.#isOver = true;
      if (this.#rest !== "") throw corruptLine(this.number + 1, "it is cut");
      return;
    }
    this.#inPieces ??= piece.includes("\n");
    if (!this.#inPieces) {
      this.#waiting = [piece];
      this.#check(piece);
      return;
    }
    const lines = (this.#rest + piece).split("\n");
    this.#rest = lines.pop() ?? "";
    this.#waiting = lines.reverse();
    this.#check(this.#rest);
  }

  #check(line: string): void {
    if (line.length > MAX_LINE) throw corruptLine(this.number + 1, "it is longer than any record");
  }
}

function iteratorOf(lines: unknown): AnyIterator {
  if (typeof lines === "object" && lines !== null) {
    const { [Symbol.asyncIterator]: asynchronous, [Symbol.iterator]: synchronous } = lines as Partial<
      AsyncIterable<unknown> & Iterable<unknown>
    >;
    if (typeof asynchronous === "function") return asynchronous.call(lines);
    if (typeof synchronous === "function") return synchronous.call(lines);
  }
  throw args.invalid("lines", "an iterable of strings");
}
