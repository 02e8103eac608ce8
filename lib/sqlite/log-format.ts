/**
 * The redo log's format. A segment is a header and then records, each with its length, its place in the one sequence of
 * transactions, and checksums that tell any flipped bit. All numbers are little-endian.
 *
 *     header   magic 16 | format 4 | database 16 | generation 4 | checksum of the 40 before 4 | zero 20
 *              image length 8 | image checksum 4 | checksum of generation, length and image checksum 4 | end mark 1 | zero 47
 *     record   mark 1 | bytes since the batch began 4 | payload length 4 | sequence 8 | payload checksum 4
 *              checksum of the 21 before 4 | payload
 *     payload  length of the text 4 | the text | bytes, masked | end mark 1
 *
 * The second line of the header, the seal, has no end mark until the image of the segment's generation is on the disk.
 *
 * A batch is written over zeros, and only when the one before it is on the disk. What a crash leaves of the last one is
 * any of its sectors, each whole or still zero. Nothing that is written is a sector of zeros: the text and the marks
 * have none, and the bytes, which may, are masked.
 */
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { crc32 } from "node:zlib";
import { decodeChanges } from "./changes.js";
import type { Change, EncodedChanges } from "./changes.js";

const MAGIC = Buffer.from("unibus redo log\n", "latin1");
export const LOG_FORMAT = 1;
export const HEADER_BYTES = 128;
export const SEAL_AT = 64;
const SEAL_BYTES = 17;
const RECORD_HEADER_BYTES = 25;
/** Where a record begins: not zero by many bits, and in no text, because UTF-8 does not have it. */
const RECORD_MARK = 0xff;
/** What a disk writes whole or not at all. */
const SECTOR_BYTES = 512;
const MASK_BYTES = 4096;
/** Not zero, and two flipped bits away from it: what ends with a zero instead was never written to its end. */
const END_MARK = 0x0a;
/** A transaction is one record, and one record is one buffer. */
export const MAX_RECORD_BYTES = 1024 * 1024 * 1024;

export interface Seal {
  readonly length: number;
  readonly checksum: number;
}

export interface Header {
  /** 32 hex digits: which database the log belongs to. */
  readonly database: string;
  readonly generation: number;
  readonly seal: Seal | undefined;
}

/** Where a log is damaged, or in which way it is not ours. */
export class LogDamage extends Error {
  readonly offset: number;
  readonly reason: "damaged" | "foreign" | "newer";

  constructor(message: string, offset: number, reason: LogDamage["reason"] = "damaged") {
    super(message);
    this.offset = offset;
    this.reason = reason;
  }
}

export function encodeHeader(header: Header): Buffer {
  const bytes = Buffer.alloc(HEADER_BYTES);
  MAGIC.copy(bytes, 0);
  bytes.writeUInt32LE(LOG_FORMAT, 16);
  bytes.write(header.database, 20, "hex");
  bytes.writeUInt32LE(header.generation, 36);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, 40)), 40);
  if (header.seal !== undefined) encodeSeal(header.generation, header.seal).copy(bytes, SEAL_AT);
  return bytes;
}

export function encodeSeal(generation: number, seal: Seal): Buffer {
  const bytes = Buffer.alloc(SEAL_BYTES);
  bytes.writeBigUInt64LE(BigInt(seal.length), 0);
  bytes.writeUInt32LE(seal.checksum, 8);
  bytes.writeUInt32LE(sealChecksum(generation, bytes), 12);
  bytes[16] = END_MARK;
  return bytes;
}

function sealChecksum(generation: number, seal: Buffer): number {
  const bound = Buffer.alloc(4);
  bound.writeUInt32LE(generation, 0);
  return crc32(seal.subarray(0, 12), crc32(bound));
}

export function decodeHeader(bytes: Buffer): Header {
  // A segment gets its name when its header is on the disk: a short one is a damage, not a crash.
  if (bytes.length < HEADER_BYTES) throw new LogDamage("the header is cut", bytes.length);
  if (!bytes.subarray(0, MAGIC.length).equals(MAGIC)) throw new LogDamage("it is not a log of this library", 0, "foreign");
  const intact = crc32(bytes.subarray(0, 40)) === bytes.readUInt32LE(40);
  if (!intact) throw new LogDamage("the header is damaged", 16);
  const format = bytes.readUInt32LE(16);
  if (format !== LOG_FORMAT) throw new LogDamage(`the log has format ${String(format)}, known is ${String(LOG_FORMAT)}`, 16, "newer");
  if (!isZero(bytes, 44, SEAL_AT) || !isZero(bytes, SEAL_AT + SEAL_BYTES, HEADER_BYTES)) throw new LogDamage("the header is damaged", 44);
  const generation = bytes.readUInt32LE(36);
  const seal = bytes.subarray(SEAL_AT, SEAL_AT + SEAL_BYTES);
  const header = { database: bytes.toString("hex", 20, 36), generation };
  if (seal[16] === 0) return { ...header, seal: undefined };
  if (seal[16] !== END_MARK || seal.readUInt32LE(12) !== sealChecksum(generation, seal)) throw new LogDamage("the header is damaged", SEAL_AT);
  return { ...header, seal: { length: Number(seal.readBigUInt64LE(0)), checksum: seal.readUInt32LE(8) } };
}

export function isZero(bytes: Uint8Array, from: number, to: number): boolean {
  for (let i = from; i < to; i++) if (bytes[i] !== 0) return false;
  return true;
}

/** What the bytes of callers are laid over with, so that zeros among them are none on the disk. One for all logs of a database. */
export function maskOf(database: string): Uint8Array {
  const mask = Buffer.alloc(MASK_BYTES);
  for (let at = 0; at < MASK_BYTES; at += 64) createHash("sha512").update(`${database} ${at}`).digest().copy(mask, at);
  return mask;
}

/** Lays the mask over `bytes`, which begin at `from` of a record's bytes, into `target`. The same again takes it off. */
function putMasked(target: Uint8Array, at: number, bytes: Uint8Array, mask: Uint8Array, from: number): void {
  for (let i = 0; i < bytes.length; i++) target[at + i] = (bytes[i] ?? 0) ^ (mask[(from + i) % MASK_BYTES] ?? 0);
}

/** At least what the record takes. */
export function recordBound(encoded: EncodedChanges): number {
  let length = RECORD_HEADER_BYTES + 4 + encoded.text.length * 3 + 1;
  for (const part of encoded.bytes) length += part.length;
  return length;
}

/** Writes a record at `start` of a batch and returns where it ends. */
export function encodeRecord(buffer: Buffer, start: number, sequence: number, encoded: EncodedChanges, mask: Uint8Array): number {
  const payload = start + RECORD_HEADER_BYTES;
  const textLength = buffer.write(encoded.text, payload + 4, "utf8");
  buffer.writeUInt32LE(textLength, payload);
  const first = payload + 4 + textLength;
  let end = first;
  for (const part of encoded.bytes) {
    putMasked(buffer, end, part, mask, end - first);
    end += part.length;
  }
  buffer[end++] = END_MARK;
  buffer[start] = RECORD_MARK;
  buffer.writeUInt32LE(start, start + 1);
  buffer.writeUInt32LE(end - payload, start + 5);
  buffer.writeUInt32LE(sequence % 2 ** 32, start + 9);
  buffer.writeUInt32LE(Math.floor(sequence / 2 ** 32), start + 13);
  buffer.writeUInt32LE(crc32(buffer.subarray(payload, end)), start + 17);
  buffer.writeUInt32LE(crc32(buffer.subarray(start, start + 21)), start + 21);
  return end;
}

export interface LogRecord {
  readonly sequence: number;
  readonly changes: Change[];
  /** Where the next record begins. */
  readonly end: number;
}

function unmasked(bytes: Uint8Array, mask: Uint8Array): Uint8Array {
  const plain = new Uint8Array(bytes.length);
  putMasked(plain, 0, bytes, mask, 0);
  return plain;
}

interface RecordHeader {
  /** Where the batch of the record begins. */
  readonly batch: number;
  readonly end: number;
  readonly sequence: number;
  readonly checksum: number;
}

/** The header of the record at `start`, if it is whole. */
function recordHeader(bytes: Buffer, start: number): RecordHeader | undefined {
  const payload = start + RECORD_HEADER_BYTES;
  if (payload > bytes.length || bytes[start] !== RECORD_MARK) return undefined;
  if (crc32(bytes.subarray(start, start + 21)) !== bytes.readUInt32LE(start + 21)) return undefined;
  return {
    batch: start - bytes.readUInt32LE(start + 1),
    end: payload + bytes.readUInt32LE(start + 5),
    sequence: bytes.readUInt32LE(start + 9) + bytes.readUInt32LE(start + 13) * 2 ** 32,
    checksum: bytes.readUInt32LE(start + 17),
  };
}

/** Whether what does not check from `start` to `end` is what a crash leaves of the last batch. Anything else is damage. */
function isTorn(bytes: Buffer, start: number, end: number): boolean {
  let last = bytes.length - 1;
  while (last >= start && bytes[last] === 0) last--;
  if (last < start) return true;
  const value = bytes[last] ?? 0;
  // A single bit is nothing that anybody wrote.
  if ((value & (value - 1)) === 0 && isZero(bytes, start, last)) return false;
  // A write that stopped short, or a file that did not grow: nothing follows.
  if (last + 1 < end) return true;
  return missesSector(bytes, start, end) && !beginsBatch(bytes, start);
}

/** Whether a sector in which some of the record belongs is still zero, from the record on. */
function missesSector(bytes: Uint8Array, start: number, end: number): boolean {
  for (let from = start; from < end; ) {
    const to = Math.min(bytes.length, (Math.floor(from / SECTOR_BYTES) + 1) * SECTOR_BYTES);
    if (isZero(bytes, from, to)) return true;
    from = to;
  }
  return false;
}

/** Whether a batch begins after `start`: then everything before it had been on the disk. */
function beginsBatch(bytes: Buffer, start: number): boolean {
  for (let at = bytes.indexOf(RECORD_MARK, start + 1); at !== -1; at = bytes.indexOf(RECORD_MARK, at + 1)) {
    const header = recordHeader(bytes, at);
    if (header !== undefined && header.batch > start) return true;
  }
  return false;
}

/** The records of a segment, up to where a crash tore it or nothing was written yet. Throws damage, with its offset. */
export function* readRecords(bytes: Buffer, firstSequence: number): Generator<LogRecord, void, undefined> {
  const mask = maskOf(bytes.toString("hex", 20, 36));
  let start = HEADER_BYTES;
  let sequence = firstSequence;
  while (start < bytes.length) {
    const header = recordHeader(bytes, start);
    const payload = start + RECORD_HEADER_BYTES;
    if (header === undefined) {
      if (isTorn(bytes, start, payload)) return;
      throw new LogDamage("a record's header is damaged", start);
    }
    const { end } = header;
    if (end > bytes.length || crc32(bytes.subarray(payload, end)) !== header.checksum) {
      if (isTorn(bytes, start, end)) return;
      throw new LogDamage("a record is damaged", start);
    }
    if (header.sequence !== sequence) {
      throw new LogDamage(`transaction ${String(sequence)} is missing: ${String(header.sequence)} is in its place`, start);
    }
    const text = payload + 4 + bytes.readUInt32LE(payload);
    let changes: Change[];
    try {
      if (text > end - 1) throw new Error("the text is longer than the record");
      changes = decodeChanges(bytes.toString("utf8", payload + 4, text), unmasked(bytes.subarray(text, end - 1), mask), sequence);
    } catch (cause) {
      throw new LogDamage(`a record is of no known form: ${cause instanceof Error ? cause.message : "?"}`, start);
    }
    yield { sequence, changes, end };
    start = end;
    sequence++;
  }
}
