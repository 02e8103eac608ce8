/** Reads a log in pieces: however long it is, little of it is in memory at a time. */
import { Buffer } from "node:buffer";
import { beginsImport } from "./changes.js";
import type { Change } from "./changes.js";
import {
  HEADER_BYTES,
  LogDamage,
  RECORD_HEADER_BYTES,
  START_BYTE,
  SECTOR_BYTES,
  decodePayload,
  decodeRecordHeader,
  isPayload,
  isZero,
  maskOf,
} from "./log-format.js";
import type { OpenFile } from "./open-file.js";

export interface LogRecord {
  readonly sequence: number;
  readonly changes: Change[];
  /** Where the next record begins. */
  readonly end: number;
}

/** As many records as this holds are decoded at a time. */
const PIECE_BYTES = 128 * 1024;
/** What a search for damage reads at a time. */
const SEARCH_BYTES = 4 * 1024 * 1024;

export class LogReader {
  readonly #file: OpenFile;
  readonly #mask: Uint8Array;
  #window: Buffer = Buffer.alloc(0);
  /** Where the window is in the file. */
  #from = 0;
  #start = HEADER_BYTES;
  #sequence: number;

  constructor(file: OpenFile, database: string, firstSequence: number) {
    this.#file = file;
    this.#mask = maskOf(database);
    this.#sequence = firstSequence;
  }

  /** Where what was read ends. */
  get end(): number {
    return this.#start;
  }

  /**
   * The next records, or `undefined` where a crash tore the log or nothing was written yet. Throws damage, with its
   * offset, when everything before it was given out.
   */
  async next(): Promise<LogRecord[] | undefined> {
    const { length } = this.#file;
    if (this.#start >= length) return undefined;
    this.#from = this.#start;
    this.#window = await this.#file.read(this.#start, Math.min(length, this.#start + PIECE_BYTES));
    const records = this.#decode();
    if (records.length > 0) return records;
    const header = decodeRecordHeader(this.#window, 0, this.#start);
    if (header !== undefined && header.end <= length) {
      // One that is larger than a piece.
      this.#window = await this.#file.read(this.#start, header.end);
      const [record] = this.#decode();
      if (record !== undefined) return [record];
    }
    if (await isTorn(this.#file, this.#start, header?.end ?? this.#start + RECORD_HEADER_BYTES)) return undefined;
    throw new LogDamage(header === undefined ? "a record's header is damaged" : "a record is damaged", this.#start);
  }

  /** Those that are in the window, up to the first that is not whole. */
  #decode(): LogRecord[] {
    const records: LogRecord[] = [];
    for (;;) {
      const at = this.#start - this.#from;
      const header = decodeRecordHeader(this.#window, at, this.#start);
      if (header === undefined) return records;
      const payload = at + RECORD_HEADER_BYTES;
      const end = header.end - this.#from;
      if (end > this.#window.length || !isPayload(this.#window, payload, end, header)) return records;
      const { sequence } = header;
      if (sequence < this.#sequence) {
        // What is before it comes first.
        if (records.length > 0) return records;
        throw this.#missing(sequence);
      }
      let changes: Change[];
      try {
        changes = decodePayload(this.#window, payload, end, sequence, this.#mask);
      } catch (cause) {
        if (records.length > 0) return records;
        throw new LogDamage(
          `a record is of no known form: ${cause instanceof Error ? cause.message : "?"}`,
          this.#start,
        );
      }
      // An import leaves room for the revisions that the store of the export gave. What was before it is no more.
      if (sequence > this.#sequence && !beginsImport(changes)) {
        if (records.length > 0) return records;
        throw this.#missing(sequence);
      }
      records.push({ sequence, changes, end: header.end });
      this.#start = header.end;
      this.#sequence = sequence + 1;
    }
  }

  #missing(found: number): LogDamage {
    return new LogDamage(
      `transaction ${String(this.#sequence)} is missing: ${String(found)} is in its place`,
      this.#start,
    );
  }
}

/** Whether a file is zeros from there on. */
export async function isZeroFrom(file: OpenFile, from: number): Promise<boolean> {
  return (await lastNonZero(file, from)) === undefined;
}

/** The last byte from `from` on that is not zero, and where it is. */
async function lastNonZero(file: OpenFile, from: number): Promise<{ at: number; value: number } | undefined> {
  for (let to = file.length; to > from; to -= SEARCH_BYTES) {
    const begin = Math.max(from, to - SEARCH_BYTES);
    const bytes = await file.read(begin, to);
    for (let i = bytes.length - 1; i >= 0; i--) {
      const value = bytes[i];
      if (value !== undefined && value !== 0) return { at: begin + i, value };
    }
  }
  return undefined;
}

async function isZeroRange(file: OpenFile, from: number, to: number): Promise<boolean> {
  for (let at = from; at < to; at += SEARCH_BYTES) {
    const bytes = await file.read(at, Math.min(to, at + SEARCH_BYTES));
    if (!isZero(bytes, 0, bytes.length)) return false;
  }
  return true;
}

/**
 * Whether the bytes from `start` to `end`, whose checksum is wrong, are what a crash leaves of the last batch. Anything
 * else is damage.
 */
async function isTorn(file: OpenFile, start: number, end: number): Promise<boolean> {
  const last = await lastNonZero(file, start);
  if (last === undefined) return true;
  // A single bit is nothing that anybody wrote.
  if ((last.value & (last.value - 1)) === 0 && (await isZeroRange(file, start, last.at))) return false;
  // A write that stopped short, or a file that did not grow: nothing follows.
  if (last.at + 1 < end) return true;
  return (await missesSector(file, start, end)) && !(await beginsBatch(file, start));
}

/** Whether a sector in which some of the record belongs is still zero, from the record on. `end` is in the file. */
async function missesSector(file: OpenFile, start: number, end: number): Promise<boolean> {
  const next = (at: number): number => (Math.floor(at / SECTOR_BYTES) + 1) * SECTOR_BYTES;
  const last = Math.min(file.length, next(end - 1));
  for (let from = start; from < last;) {
    const to = Math.min(last, next(from) + SEARCH_BYTES);
    const bytes = await file.read(from, to);
    for (let at = from; at < to; at = next(at))
      if (isZero(bytes, at - from, Math.min(next(at), to) - from)) return true;
    from = to;
  }
  return false;
}

/** Whether a batch begins after `start`: then everything before it had been on the disk. */
async function beginsBatch(file: OpenFile, start: number): Promise<boolean> {
  for (let from = start + 1; from < file.length; from += SEARCH_BYTES) {
    // A header may begin in one piece and end in the next.
    const bytes = await file.read(from, Math.min(file.length, from + SEARCH_BYTES + RECORD_HEADER_BYTES));
    for (let at = bytes.indexOf(START_BYTE); at !== -1 && at < SEARCH_BYTES; at = bytes.indexOf(START_BYTE, at + 1)) {
      const header = decodeRecordHeader(bytes, at, from + at);
      if (header !== undefined && header.batch > start) return true;
    }
  }
  return false;
}
