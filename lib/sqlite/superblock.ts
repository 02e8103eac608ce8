/**
 * The superblock: one sector of the image that says whether the store was closed cleanly, up to which transaction its
 * logs were acknowledged, and what the rest of the image must be. It is the last column of the only row of a table, so
 * that the image stays a plain SQLite database, and it fills a sector, so that it changes in place as a whole or not at
 * all.
 *
 *     magic 16 | length of the image 8 | checksum of all other bytes of the image 4 | state 4
 *     acknowledged transaction 8 | zero 468 | checksum of the 508 before 4
 */
import { Buffer } from "node:buffer";
import { crc32 } from "node:zlib";
import { isZero } from "./log-format.js";
import type { ImageDigest } from "./log-format.js";
import type { TimeSlice } from "./time-slice.js";

export const SUPERBLOCK_BYTES = 512;
const MAGIC = Buffer.from("unibus sqlite 2\n", "latin1");
const CLEAN = 1;
const IN_USE = 2;
const USED_BYTES = 40;
const CHECKSUM_AT = SUPERBLOCK_BYTES - 4;
/** Checksums are made in pieces of this, so that nothing stands still for a large image. */
const PIECE_BYTES = 1024 * 1024;

export interface Superblock {
  /** Of the image without the superblock, which changes. */
  readonly content: ImageDigest;
  /** Whether the image is everything. If not, it is nothing without its log. */
  readonly clean: boolean;
  /** The image and its logs lead at least to this transaction: it was acknowledged. */
  readonly acknowledged: number;
}

/** Where an image's superblock is, and what it says. */
export interface SealedImage {
  readonly at: number;
  readonly superblock: Superblock;
}

export function encodeSuperblock({ content, clean, acknowledged }: Superblock): Buffer {
  const sector = Buffer.alloc(SUPERBLOCK_BYTES);
  MAGIC.copy(sector, 0);
  sector.writeBigUInt64LE(BigInt(content.length), 16);
  sector.writeUInt32LE(content.checksum, 24);
  sector.writeUInt32LE(clean ? CLEAN : IN_USE, 28);
  sector.writeBigUInt64LE(BigInt(acknowledged), 32);
  sector.writeUInt32LE(crc32(sector.subarray(0, CHECKSUM_AT)), CHECKSUM_AT);
  return sector;
}

/** Throws on anything that `encodeSuperblock` does not write. */
export function decodeSuperblock(sector: Buffer): Superblock {
  const damaged = new Error("its superblock is damaged");
  if (sector.length < SUPERBLOCK_BYTES || !sector.subarray(0, MAGIC.length).equals(MAGIC)) throw damaged;
  if (crc32(sector.subarray(0, CHECKSUM_AT)) !== sector.readUInt32LE(CHECKSUM_AT)) throw damaged;
  const state = sector.readUInt32LE(28);
  if ((state !== CLEAN && state !== IN_USE) || !isZero(sector, USED_BYTES, CHECKSUM_AT)) throw damaged;
  return {
    content: { length: Number(sector.readBigUInt64LE(16)), checksum: sector.readUInt32LE(24) },
    clean: state === CLEAN,
    acknowledged: Number(sector.readBigUInt64LE(32)),
  };
}

/** Something that is read in pieces, as a file is. */
export interface Pieces {
  readonly length: number;
  /** Fills `bytes` with those at `position`. */
  readInto(bytes: Uint8Array, position: number): Promise<void> | void;
}

/**
 * What the image is, apart from its superblock. An image of format 1 has none: `at` is undefined. `visit` gets each
 * piece of all that it is, in their order.
 */
export async function contentOf(
  pieces: Pieces,
  at: number | undefined,
  pace: TimeSlice,
  visit?: (piece: Uint8Array, position: number) => Promise<void> | void,
): Promise<ImageDigest> {
  const { length } = pieces;
  const buffer = Buffer.allocUnsafeSlow(Math.min(PIECE_BYTES, length));
  let checksum = 0;
  for (let from = 0; from < length; from += PIECE_BYTES) {
    const piece = buffer.subarray(0, Math.min(PIECE_BYTES, length - from));
    await pieces.readInto(piece, from);
    if (at === undefined || at >= from + piece.length || at + SUPERBLOCK_BYTES <= from) {
      checksum = crc32(piece, checksum);
    } else {
      checksum = crc32(piece.subarray(0, Math.max(0, at - from)), checksum);
      checksum = crc32(piece.subarray(Math.min(piece.length, at + SUPERBLOCK_BYTES - from)), checksum);
    }
    await visit?.(piece, from);
    if (pace.isOver()) await pace.rest();
  }
  return { length, checksum };
}

export function isSame(a: ImageDigest, b: ImageDigest): boolean {
  return a.length === b.length && a.checksum === b.checksum;
}
