import { crc32 } from "node:zlib";

const BYTES = 512;
const CHECKSUM_AT = BYTES - 4;

export interface Told {
  readonly clean: boolean;
  /** The transaction up to which the image says that its log was acknowledged. */
  readonly acknowledged: number;
}

/** Where an image that was made by this version has its superblock: at the end of its second page. */
export const SUPERBLOCK_AT = 2 * 4096 - BYTES;

function sectorOf(image: Buffer): Buffer {
  const sector = image.subarray(SUPERBLOCK_AT, SUPERBLOCK_AT + BYTES);
  if (sector.toString("latin1", 0, 16) !== "unibus sqlite 2\n") throw new Error("no superblock where one is expected");
  return sector;
}

export function told(image: Buffer): Told {
  const sector = sectorOf(image);
  return { clean: sector.readUInt32LE(28) === 1, acknowledged: Number(sector.readBigUInt64LE(32)) };
}

/** The same of an image that may be damaged, or is an old one of another layout. */
export function tryTold(image: Buffer): Told | undefined {
  try {
    return told(image);
  } catch {
    return undefined;
  }
}

/** The image with another superblock, as the store would have written it at another moment. */
export function telling(image: Buffer, { clean, acknowledged }: Told): Buffer {
  const copy = Buffer.from(image);
  const sector = sectorOf(copy);
  sector.writeUInt32LE(clean ? 1 : 2, 28);
  sector.writeBigUInt64LE(BigInt(acknowledged), 32);
  sector.writeUInt32LE(crc32(sector.subarray(0, CHECKSUM_AT)), CHECKSUM_AT);
  return copy;
}

/** The image with the checksum of what it holds by now: as a store would have written it, had it held that. */
export function resealed(image: Buffer): Buffer {
  const copy = Buffer.from(image);
  const sector = sectorOf(copy);
  sector.writeBigUInt64LE(BigInt(copy.length), 16);
  sector.writeUInt32LE(crc32(copy.subarray(SUPERBLOCK_AT + BYTES), crc32(copy.subarray(0, SUPERBLOCK_AT))), 24);
  return telling(copy, told(copy));
}
