/**
 * The redo log's format. A segment is a header and then records, each with its length, its place in the one sequence of
 * transactions, and checksums that tell any flipped bit. All numbers are little-endian.
 *
 *     header   magic 16 | format 4 | database 16 | generation 4 | checksum of the 40 before 4 | zero 20
 *              image length 8 | image checksum 4 | checksum of generation, length and image checksum 4
 *              end byte 1 | zero 47
 *     record   start byte 1 | bytes since the batch began 4 | payload length 4 | sequence 8 | payload checksum 4
 *              checksum of the 21 before 4 | payload
 *     payload  length of the text 4 | the text | bytes, masked | end byte 1
 *
 * The seal is the header from the image length on. It has no end byte until the image of the segment's generation is on
 * the disk.
 *
 * A batch is written over zeros, and only when the one before it is on the disk. What a crash leaves of the last one is
 * any of its sectors, each whole or still zero. Nothing that is written is a sector of zeros: the text, the start byte
 * and the end byte have none, and the other bytes, which may, are masked.
 */
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { crc32 } from "node:zlib";
import { decodeChanges } from "./changes.js";
import type { Change, EncodedChanges } from "./changes.js";
import { checksumOf } from "./checksum.js";

const MAGIC = Buffer.from("unibus redo log\n", "latin1");
export const LOG_FORMAT = 1;
export const HEADER_BYTES = 128;
export const SEAL_AT = 64;
const SEAL_BYTES = 17;
export const RECORD_HEADER_BYTES = 25;
/** Where a record begins: not zero by many bits, and in no text, because UTF-8 does not have it. */
export const START_BYTE = 0xff;
/** What a disk writes whole or not at all. */
export const SECTOR_BYTES = 512;
const MASK_BYTES = 4096;
/** Not zero, and two flipped bits away from it: what ends with a zero instead was never written to its end. */
const END_BYTE = 0x0a;
/** A transaction is one record, and one record is one buffer. */
export const MAX_RECORD_BYTES = 1024 * 1024 * 1024;

export interface ImageDigest {
  readonly length: number;
  readonly checksum: number;
}

export interface Header {
  /** 32 hex digits: which database the log belongs to. */
  readonly database: string;
  readonly generation: number;
  readonly seal: ImageDigest | undefined;
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

export function encodeSeal(generation: number, seal: ImageDigest): Buffer {
  const bytes = Buffer.alloc(SEAL_BYTES);
  bytes.writeBigUInt64LE(BigInt(seal.length), 0);
  bytes.writeUInt32LE(seal.checksum, 8);
  bytes.writeUInt32LE(sealChecksum(generation, bytes), 12);
  bytes[16] = END_BYTE;
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
  if (!bytes.subarray(0, MAGIC.length).equals(MAGIC))
    throw new LogDamage("it is not a log of this library", 0, "foreign");
  const intact = crc32(bytes.subarray(0, 40)) === bytes.readUInt32LE(40);
  if (!intact) throw new LogDamage("the header is damaged", 16);
  const format = bytes.readUInt32LE(16);
  if (format !== LOG_FORMAT)
    throw new LogDamage(`the log has format ${String(format)}, known is ${String(LOG_FORMAT)}`, 16, "newer");
  if (!isZero(bytes, 44, SEAL_AT) || !isZero(bytes, SEAL_AT + SEAL_BYTES, HEADER_BYTES))
    throw new LogDamage("the header is damaged", 44);
  const generation = bytes.readUInt32LE(36);
  const seal = bytes.subarray(SEAL_AT, SEAL_AT + SEAL_BYTES);
  const header = { database: bytes.toString("hex", 20, 36), generation };
  if (seal[16] === 0) return { ...header, seal: undefined };
  if (seal[16] !== END_BYTE || seal.readUInt32LE(12) !== sealChecksum(generation, seal))
    throw new LogDamage("the header is damaged", SEAL_AT);
  return { ...header, seal: { length: Number(seal.readBigUInt64LE(0)), checksum: seal.readUInt32LE(8) } };
}

export function isZero(bytes: Uint8Array, from: number, to: number): boolean {
  for (let i = from; i < to; i++) if (bytes[i] !== 0) return false;
  return true;
}

/**
 * What the bytes of callers are laid over with, so that zeros among them are none on the disk. One for all logs of a
 * database.
 */
export function maskOf(database: string): Uint8Array {
  // Not of a pool: it is read in words too.
  const mask = Buffer.alloc(MASK_BYTES);
  for (let at = 0; at < MASK_BYTES; at += 64) createHash("sha512").update(`${database} ${at}`).digest().copy(mask, at);
  return mask;
}

/**
 * Lays the mask over `bytes`, which begin at `from` of a record's bytes, into `target`. The same again takes it off.
 */
function putMasked(target: Uint8Array, at: number, bytes: Uint8Array, mask: Uint8Array, from: number): void {
  for (let i = 0; i < bytes.length; i++) target[at + i] = (bytes[i] ?? 0) ^ (mask[(from + i) % MASK_BYTES] ?? 0);
}

/** At least what the record takes. */
export function recordBound(encoded: EncodedChanges): number {
  let length = RECORD_HEADER_BYTES + 4 + encoded.textBound + 1;
  for (const part of encoded.bytes) length += part.length;
  return length;
}

/** Writes a record at `start` of a batch and returns where it ends. */
export function encodeRecord(
  buffer: Buffer,
  start: number,
  sequence: number,
  encoded: EncodedChanges,
  mask: Uint8Array,
): number {
  const payload = start + RECORD_HEADER_BYTES;
  const first = encoded.writeText(buffer, payload + 4);
  buffer.writeUInt32LE(first - payload - 4, payload);
  let end = first;
  for (const part of encoded.bytes) {
    putMasked(buffer, end, part, mask, end - first);
    end += part.length;
  }
  buffer[end++] = END_BYTE;
  buffer[start] = START_BYTE;
  buffer.writeUInt32LE(start, start + 1);
  buffer.writeUInt32LE(end - payload, start + 5);
  buffer.writeUInt32LE(sequence % 2 ** 32, start + 9);
  buffer.writeUInt32LE(Math.floor(sequence / 2 ** 32), start + 13);
  buffer.writeUInt32LE(checksumOf(buffer, payload, end), start + 17);
  buffer.writeUInt32LE(checksumOf(buffer, start, start + 21), start + 21);
  return end;
}

/**
 * Of which the mask begins with the bytes. Four at a time, which for large keys is most of what reading a log costs.
 */
function unmasked(bytes: Uint8Array, mask: Uint8Array): Uint8Array {
  if (bytes.length === 0) return bytes;
  const plain = new Uint8Array(Math.ceil(bytes.length / 4) * 4);
  plain.set(bytes);
  const words = new Int32Array(plain.buffer);
  const masks = new Int32Array(mask.buffer, mask.byteOffset, MASK_BYTES / 4);
  for (let i = 0; i < words.length; i++) words[i] = (words[i] ?? 0) ^ (masks[i % masks.length] ?? 0);
  return plain.subarray(0, bytes.length);
}

export interface RecordHeader {
  /** Where the batch of the record begins. */
  readonly batch: number;
  readonly end: number;
  readonly sequence: number;
  readonly checksum: number;
}

/** The header at `at` of some bytes of a log, which is at `start` in the log, if it is whole. */
export function decodeRecordHeader(bytes: Buffer, at: number, start: number): RecordHeader | undefined {
  if (at + RECORD_HEADER_BYTES > bytes.length || bytes[at] !== START_BYTE) return undefined;
  if (crc32(bytes.subarray(at, at + 21)) !== bytes.readUInt32LE(at + 21)) return undefined;
  return {
    batch: start - bytes.readUInt32LE(at + 1),
    end: start + RECORD_HEADER_BYTES + bytes.readUInt32LE(at + 5),
    sequence: bytes.readUInt32LE(at + 9) + bytes.readUInt32LE(at + 13) * 2 ** 32,
    checksum: bytes.readUInt32LE(at + 17),
  };
}

/** Whether the bytes from `at` to `end` are the payload that the header speaks of. */
export function isPayload(bytes: Buffer, at: number, end: number, { checksum }: RecordHeader): boolean {
  return crc32(bytes.subarray(at, end)) === checksum;
}

/** Throws on anything that `encodeRecord` does not write. */
export function decodePayload(bytes: Buffer, at: number, end: number, sequence: number, mask: Uint8Array): Change[] {
  const text = at + 4 + bytes.readUInt32LE(at);
  if (text > end - 1) throw new Error("the text is longer than the record");
  return decodeChanges(bytes.toString("utf8", at + 4, text), unmasked(bytes.subarray(text, end - 1), mask), sequence);
}
