/**
 * The redo log's format. A segment is a header and then records, each with its length, its place in the one sequence of
 * transactions, and checksums that tell any flipped bit. All numbers are little-endian.
 *
 *     header   magic 16 | format 4 | database 16 | generation 4 | checksum of the 40 before 4 | zero 20
 *              image length 8 | image checksum 4 | checksum of generation, length and image checksum 4 | end mark 1 | zero 47
 *     record   payload length 4 | sequence 8 | payload checksum 4 | checksum of the 16 before 4 | payload
 *     payload  length of the text 4 | the text | bytes | end mark 1
 *
 * The second line of the header, the seal, has no end mark until the image of the segment's generation is on the disk.
 */
import { Buffer } from "node:buffer";
import { crc32 } from "node:zlib";
import { decodeChanges } from "./changes.js";
import type { Change, EncodedChanges } from "./changes.js";

const MAGIC = Buffer.from("unibus redo log\n", "latin1");
export const LOG_FORMAT = 1;
export const HEADER_BYTES = 128;
export const SEAL_AT = 64;
const SEAL_BYTES = 17;
const RECORD_HEADER_BYTES = 20;
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

function isZero(bytes: Uint8Array, from: number, to: number): boolean {
  for (let i = from; i < to; i++) if (bytes[i] !== 0) return false;
  return true;
}

/** At least what the record takes. */
export function recordBound(encoded: EncodedChanges): number {
  let length = RECORD_HEADER_BYTES + 4 + encoded.text.length * 3 + 1;
  for (const part of encoded.bytes) length += part.length;
  return length;
}

/** Writes a record at `start` and returns where it ends. */
export function encodeRecord(buffer: Buffer, start: number, sequence: number, encoded: EncodedChanges): number {
  const payload = start + RECORD_HEADER_BYTES;
  const textLength = buffer.write(encoded.text, payload + 4, "utf8");
  buffer.writeUInt32LE(textLength, payload);
  let end = payload + 4 + textLength;
  for (const part of encoded.bytes) {
    buffer.set(part, end);
    end += part.length;
  }
  buffer[end++] = END_MARK;
  buffer.writeUInt32LE(end - payload, start);
  buffer.writeUInt32LE(sequence % 2 ** 32, start + 4);
  buffer.writeUInt32LE(Math.floor(sequence / 2 ** 32), start + 8);
  buffer.writeUInt32LE(crc32(buffer.subarray(payload, end)), start + 12);
  buffer.writeUInt32LE(crc32(buffer.subarray(start, start + 16)), start + 16);
  return end;
}

export interface LogRecord {
  readonly sequence: number;
  readonly changes: Change[];
  /** Where the next record begins. */
  readonly end: number;
}

/**
 * The records of a segment, up to where a crash tore it. What a crash leaves is a record without its end, or zeros
 * where bytes never came; everything else that does not check is damage and thrown with its offset.
 */
export function* readRecords(bytes: Buffer, firstSequence: number): Generator<LogRecord, void, undefined> {
  let start = HEADER_BYTES;
  let sequence = firstSequence;
  // Nothing but zeros from here on.
  let zeros = bytes.length;
  while (zeros > HEADER_BYTES && bytes[zeros - 1] === 0) zeros--;
  while (start < bytes.length) {
    const payload = start + RECORD_HEADER_BYTES;
    if (payload > bytes.length) return;
    if (crc32(bytes.subarray(start, start + 16)) !== bytes.readUInt32LE(start + 16)) {
      if (zeros <= payload) return;
      throw new LogDamage("a record's header is damaged", start);
    }
    const end = payload + bytes.readUInt32LE(start);
    if (end > bytes.length) return;
    if (crc32(bytes.subarray(payload, end)) !== bytes.readUInt32LE(start + 12)) {
      if (zeros < end) return;
      throw new LogDamage("a record is damaged", start);
    }
    const found = bytes.readUInt32LE(start + 4) + bytes.readUInt32LE(start + 8) * 2 ** 32;
    if (found !== sequence) {
      throw new LogDamage(`transaction ${String(sequence)} is missing: ${String(found)} is in its place`, start);
    }
    const text = payload + 4 + bytes.readUInt32LE(payload);
    let changes: Change[];
    try {
      if (text > end - 1) throw new Error("the text is longer than the record");
      changes = decodeChanges(bytes.toString("utf8", payload + 4, text), bytes.subarray(text, end - 1), sequence);
    } catch (cause) {
      throw new LogDamage(`a record is of no known form: ${cause instanceof Error ? cause.message : "?"}`, start);
    }
    yield { sequence, changes, end };
    start = end;
    sequence++;
  }
}
