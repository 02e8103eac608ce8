/** One file of the redo log: appended to while its generation is the newest, replayed at the next opening. */
import { constants, promises as fs } from "node:fs";
import type { FileHandle } from "node:fs/promises";
import { SYNCED_WRITES, codeOf, isAbsent, removeIfThere, syncFolderOf, writeAll, writeSynced } from "./files.js";
import { HEADER_BYTES, SEAL_AT, encodeHeader, encodeSeal } from "./log-format.js";
import type { Header, Seal } from "./log-format.js";

/** Two names, by parity: while an image is made, the log before it and the log after it exist. */
export function segmentPath(path: string, generation: number): string {
  return `${path}-redo${String(generation % 2)}`;
}

/** How often a busy log looks whether its files still have their names. Each look costs the write beside it as much again. */
const LOOK_EVERY_MS = 100;

export class Segment {
  readonly path: string;
  readonly generation: number;
  readonly #image: string;
  readonly #handle: FileHandle;
  readonly #inode: number;
  #end: number;
  #looked = -Infinity;

  private constructor(image: string, generation: number, handle: FileHandle, inode: number, end: number) {
    this.path = segmentPath(image, generation);
    this.#image = image;
    this.generation = generation;
    this.#handle = handle;
    this.#inode = inode;
    this.#end = end;
  }

  /** Makes a new segment. It gets its name when its header is on the disk, so that no crash leaves half a header. */
  static async create(path: string, header: Header): Promise<Segment> {
    const name = segmentPath(path, header.generation);
    const temporary = `${name}-new`;
    try {
      await writeSynced(temporary, encodeHeader(header));
      await fs.rename(temporary, name);
      await syncFolderOf(name);
    } catch (error) {
      await removeIfThere(temporary).catch(() => undefined);
      throw error;
    }
    return Segment.open(path, header.generation, HEADER_BYTES);
  }

  /** Goes on after `end`: what a crash tore off behind it is cut away first. */
  static async open(path: string, generation: number, end: number): Promise<Segment> {
    const name = segmentPath(path, generation);
    const handle = await fs.open(name, constants.O_RDWR | (SYNCED_WRITES ?? 0));
    try {
      const { size, ino } = await handle.stat();
      if (size > end) {
        await handle.truncate(end);
        await handle.datasync();
      }
      return new Segment(path, generation, handle, ino, end);
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  /** Bytes of records. */
  get length(): number {
    return this.#end - HEADER_BYTES;
  }

  /** Resolves when the bytes are on the disk, in files that an opening will find. */
  async append(bytes: Uint8Array): Promise<void> {
    const written = this.#write(bytes, this.#end);
    const now = performance.now();
    if (now - this.#looked < LOOK_EVERY_MS) {
      await written;
    } else {
      this.#looked = now;
      const [, there] = await Promise.all([written, this.isThere()]);
      if (!there) throw new Error("The files of the store are gone");
    }
    this.#end += bytes.length;
  }

  /** Notes the checksum of the generation's image, before that gets its name. */
  async seal(seal: Seal): Promise<void> {
    await this.#write(encodeSeal(this.generation, seal), SEAL_AT);
  }

  async #write(bytes: Uint8Array, position: number): Promise<void> {
    await writeAll(this.#handle, bytes, position);
    if (SYNCED_WRITES === undefined) await this.#handle.datasync();
  }

  /** Whether the image and this file are where they were: what is written to a file without a name is gone with the process. */
  async isThere(): Promise<boolean> {
    try {
      const [own] = await Promise.all([fs.stat(this.path), fs.stat(this.#image)]);
      return own.ino === this.#inode;
    } catch (error) {
      // Any other error says nothing about names.
      return !isAbsent(error) && codeOf(error) !== "ENOTDIR";
    }
  }

  close(): Promise<void> {
    return this.#handle.close();
  }
}
