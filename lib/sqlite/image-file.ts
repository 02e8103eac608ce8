/** Where SQLite has an image while it is made or read: in memory, or in a file. */
import { fdatasyncSync, fstatSync, readSync, writeSync } from "node:fs";
import type { SqlFile } from "sql.js/dist/sql-wasm-browser.js";
import type { Throttle } from "./throttle.js";

/** Both take all that they are asked for, except that a read ends with the file. */
export interface ImageFile extends SqlFile {
  read(target: Uint8Array | Int8Array, offset: number, length: number, position: number): number;
  write(source: Uint8Array | Int8Array, offset: number, length: number, position: number): number;
  /** Why the disk did not do what it was asked to. SQLite says only that it did not. */
  readonly failure: unknown;
}

const PIECE_BYTES = 1024 * 1024;

/** In pieces, none of which is ever moved: however large it becomes, growing costs the same. */
export class MemoryFile implements ImageFile {
  readonly #pieces: Uint8Array[] = [];
  readonly failure = undefined;
  #length = 0;

  get length(): number {
    return this.#length;
  }

  /** The pieces, up to the end. */
  *pieces(): Generator<Uint8Array, void, undefined> {
    for (const [i, piece] of this.#pieces.entries())
      yield piece.subarray(0, Math.min(PIECE_BYTES, this.#length - i * PIECE_BYTES));
  }

  read(target: Uint8Array | Int8Array, offset: number, length: number, position: number): number {
    const end = Math.min(this.#length, position + length);
    for (let at = position; at < end;) {
      const [piece, from] = this.#piece(at);
      const part = piece.subarray(from, from + end - at);
      target.set(part, offset + at - position);
      at += part.length;
    }
    return Math.max(0, end - position);
  }

  write(source: Uint8Array | Int8Array, offset: number, length: number, position: number): number {
    const end = position + length;
    while (this.#pieces.length * PIECE_BYTES < end) this.#pieces.push(new Uint8Array(PIECE_BYTES));
    for (let at = position; at < end;) {
      const [piece, from] = this.#piece(at);
      const taken = Math.min(PIECE_BYTES - from, end - at);
      piece.set(source.subarray(offset + at - position, offset + at - position + taken), from);
      at += taken;
    }
    this.#length = Math.max(this.#length, end);
    return length;
  }

  #piece(position: number): [piece: Uint8Array, from: number] {
    const piece = this.#pieces[Math.floor(position / PIECE_BYTES)];
    if (piece === undefined) throw new RangeError("Beyond the end of the image");
    return [piece, position % PIECE_BYTES];
  }
}

/**
 * So much is written before it is waited for. All at once, at the end, would take the disk from others for as long as
 * that lasts.
 */
const SYNC_EVERY_BYTES = 1024 * 1024;
/** The same where it is to go fast: on a disk that others sync too, each time waits for theirs. */
const HASTY_SYNC_EVERY_BYTES = 16 * 1024 * 1024;

/**
 * On the disk. Each access waits for it: for a thread that has nothing else to do, and for files that were read just
 * now.
 */
export class DiskFile implements ImageFile {
  readonly #fd: number;
  #length: number;
  readonly #throttle: Throttle | undefined;
  #unsynced = 0;
  failure: unknown;

  /** `throttle`: where somebody else waits for the disk too. */
  constructor(fd: number, throttle?: Throttle) {
    this.#fd = fd;
    this.#throttle = throttle;
    this.#length = fstatSync(fd).size;
  }

  get length(): number {
    return this.#length;
  }

  read(target: Uint8Array | Int8Array, offset: number, length: number, position: number): number {
    const taken = this.#all(length, (done) =>
      readSync(this.#fd, target, offset + done, length - done, position + done),
    );
    this.#throttle?.pause();
    return taken;
  }

  write(source: Uint8Array | Int8Array, offset: number, length: number, position: number): number {
    const taken = this.#all(length, (done) =>
      writeSync(this.#fd, source, offset + done, length - done, position + done),
    );
    this.#length = Math.max(this.#length, position + taken);
    this.#unsynced += taken;
    if (this.#unsynced >= (this.#throttle?.isHasty === true ? HASTY_SYNC_EVERY_BYTES : SYNC_EVERY_BYTES)) this.sync();
    this.#throttle?.pause();
    return taken;
  }

  /** Waits until all that was written is on the disk. */
  sync(): void {
    this.#unsynced = 0;
    this.#all(1, () => {
      fdatasyncSync(this.#fd);
      return 1;
    });
  }

  #all(length: number, some: (done: number) => number): number {
    let done = 0;
    try {
      while (done < length) {
        const taken = some(done);
        if (taken === 0) break;
        done += taken;
      }
    } catch (error) {
      this.failure ??= error;
      throw error;
    }
    return done;
  }
}
