/** One file of the redo log: appended to while its generation is the newest, replayed at the next opening. */
import { constants, promises as fs } from "node:fs";
import { Buffer } from "node:buffer";
import type { FileHandle } from "node:fs/promises";
import {
  SYNCED_WRITES,
  codeOf,
  isAbsent,
  isFull,
  removeIfThere,
  statIfThere,
  syncData,
  syncFolderOf,
  writeAll,
  writeSynced,
} from "./files.js";
import { HEADER_BYTES, SEAL_AT, encodeHeader, encodeSeal, maskOf } from "./log-format.js";
import type { Header, ImageDigest } from "./log-format.js";

/** Two names, by parity: while an image is made, the log before it and the log after it exist. */
export function segmentPath(path: string, generation: number): string {
  return `${path}-redo${String(generation % 2)}`;
}

/** The image and its segments. */
export function filesOf(path: string): readonly [image: string, even: string, odd: string] {
  return [path, segmentPath(path, 0), segmentPath(path, 1)];
}

/** Which of a database's segments it is. */
type SegmentName = Pick<Header, "database" | "generation">;

/** A batch that would make the file grow by less makes it grow to a multiple of {@link GROWTH_BYTES}. */
const SMALL_BYTES = 32 * 1024;
const GROWTH_BYTES = 256 * 1024;

/**
 * How often a busy log looks whether its files still have their names. Each look costs the write beside it as much
 * again.
 */
const LOOK_EVERY_MS = 100;

export class Segment {
  readonly path: string;
  readonly generation: number;
  readonly mask: Uint8Array;
  readonly #image: string;
  readonly #handle: FileHandle | undefined;
  readonly #inode: number | undefined;
  #end: number;
  /** Up to where the file has blocks of its own: zeros that later writes replace. */
  #room: number;
  /** Whether to make the file grow ahead: until there was no room for it. */
  #grows = true;
  #looked = -Infinity;
  #sequence: number | undefined;

  private constructor(
    image: string,
    { generation, database }: SegmentName,
    handle: FileHandle | undefined,
    inode: number | undefined,
    end: number,
    sequence: number | undefined,
  ) {
    this.path = segmentPath(image, generation);
    this.#image = image;
    this.generation = generation;
    this.mask = maskOf(database);
    this.#handle = handle;
    this.#inode = inode;
    this.#end = end;
    this.#room = end;
    this.#sequence = sequence;
  }

  /** Makes a new segment. It gets its name when its header is on the disk, so that no crash leaves half a header. */
  static async create(path: string, header: Header): Promise<Segment> {
    const name = segmentPath(path, header.generation);
    const temporary = `${name}-new`;
    try {
      // Whoever may read and write the image may do so with its log.
      await writeSynced(temporary, encodeHeader(header), await statIfThere(path));
      await fs.rename(temporary, name);
      await syncFolderOf(name);
    } catch (error) {
      await removeIfThere(temporary).catch(() => undefined);
      throw error;
    }
    return Segment.open(path, header, HEADER_BYTES);
  }

  /** Goes on after `end`, where the transaction `sequence` ends: what a crash tore off behind it is cut away first. */
  static async open(path: string, segment: SegmentName, end: number, sequence?: number): Promise<Segment> {
    const name = segmentPath(path, segment.generation);
    const handle = await fs.open(name, constants.O_RDWR | (SYNCED_WRITES ?? 0));
    try {
      const { size, ino } = await handle.stat();
      if (size > end) await handle.truncate(end);
      // What a killed process wrote may not be on the disk yet.
      if (sequence !== undefined) await syncData(handle);
      return new Segment(path, segment, handle, ino, end, sequence);
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  /** One that has no file, on a disk without room for it: nothing can be appended. */
  static absent(path: string, segment: SegmentName): Segment {
    return new Segment(path, segment, undefined, undefined, HEADER_BYTES, undefined);
  }

  /** The last transaction in it. `undefined` while nothing was appended to a new one. */
  get sequence(): number | undefined {
    return this.#sequence;
  }

  /** Bytes of records. */
  get length(): number {
    return this.#end - HEADER_BYTES;
  }

  /** Resolves when the bytes are on the disk, in files that an opening will find. */
  append(bytes: Uint8Array, sequence: number): Promise<void> {
    const grow = this.#grows && this.#end + bytes.length > this.#room && bytes.length <= SMALL_BYTES;
    const written = grow ? this.#writeAndGrow(bytes, this.#end) : this.#write(bytes, this.#end);
    // After a write that failed there is none any more, wherever it would go.
    this.#end += bytes.length;
    this.#sequence = sequence;
    const now = performance.now();
    if (now - this.#looked < LOOK_EVERY_MS) return written;
    this.#looked = now;
    return this.#andStillThere(written);
  }

  async #andStillThere(written: Promise<void>): Promise<void> {
    const [, there] = await Promise.all([written, this.isThere()]);
    if (!there) throw new Error("The files of the store are gone");
  }

  /**
   * A write that makes the file grow waits for the file system's journal too, so this one makes room for many. To an
   * opening the zeros are the end of the log.
   */
  async #writeAndGrow(bytes: Uint8Array, position: number): Promise<void> {
    const room = Math.ceil((position + bytes.length) / GROWTH_BYTES) * GROWTH_BYTES;
    const padded = Buffer.alloc(room - position);
    padded.set(bytes);
    try {
      await this.#write(padded, position);
      this.#room = room;
    } catch (error) {
      if (!isFull(error)) throw error;
      // There may be room for what is asked, if not for more.
      this.#grows = false;
      await this.#write(bytes, position);
    }
  }

  /** Notes the checksum of the generation's image, before that gets its name. */
  async seal(seal: ImageDigest): Promise<void> {
    await this.#write(encodeSeal(this.generation, seal), SEAL_AT);
  }

  #write(bytes: Uint8Array, position: number): Promise<void> {
    const handle = this.#handle;
    if (handle === undefined) return Promise.reject(new Error("The log has no file"));
    const written = writeAll(handle, bytes, position);
    return SYNCED_WRITES === undefined ? written.then(() => syncData(handle)) : written;
  }

  /**
   * Whether the image and this file are where they were: what is written to a file without a name is gone with the
   * process.
   */
  async isThere(): Promise<boolean> {
    try {
      const [own] = await Promise.all([fs.stat(this.path), fs.stat(this.#image)]);
      return own.ino === this.#inode;
    } catch (error) {
      // Any other error says nothing about names.
      return !isAbsent(error) && codeOf(error) !== "ENOTDIR";
    }
  }

  async close(): Promise<void> {
    await this.#handle?.close();
  }
}
