import { crc32 } from "node:zlib";
import type { Buffer } from "node:buffer";

/** Up to here a call of zlib, and a view of the bytes for it, cost more than what they do. */
const SHORT_BYTES = 512;

/** What a byte does to a checksum, and then up to three bytes of zero behind it. */
const tables = new Int32Array(4 * 256);
for (let byte = 0; byte < 256; byte++) {
  let sum = byte;
  for (let bit = 0; bit < 8; bit++) sum = (sum & 1) === 0 ? sum >>> 1 : (sum >>> 1) ^ 0xedb88320;
  tables[byte] = sum;
}
for (let at = 256; at < tables.length; at++) {
  const sum = tables[at - 256] ?? 0;
  tables[at] = (sum >>> 8) ^ (tables[sum & 0xff] ?? 0);
}

/**
 * The CRC-32 of the bytes from `start` to `end`, as zlib's: the reader of the log, which takes that, would notice any
 * other.
 */
export function checksumOf(bytes: Buffer, start: number, end: number): number {
  if (end - start > SHORT_BYTES) return crc32(bytes.subarray(start, end));
  let sum = -1;
  let at = start;
  for (; at + 4 <= end; at += 4) {
    sum ^= (bytes[at] ?? 0) | ((bytes[at + 1] ?? 0) << 8) | ((bytes[at + 2] ?? 0) << 16) | ((bytes[at + 3] ?? 0) << 24);
    sum =
      (tables[768 + (sum & 0xff)] ?? 0) ^
      (tables[512 + ((sum >>> 8) & 0xff)] ?? 0) ^
      (tables[256 + ((sum >>> 16) & 0xff)] ?? 0) ^
      (tables[sum >>> 24] ?? 0);
  }
  for (; at < end; at++) sum = (sum >>> 8) ^ (tables[(sum ^ (bytes[at] ?? 0)) & 0xff] ?? 0);
  return ~sum >>> 0;
}
