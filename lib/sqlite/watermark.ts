/**
 * Keeps the superblock of the file true while the store runs. Before the first write after an opening is acknowledged,
 * the image says that it is nothing without its log. After that it is told now and then how far was acknowledged, so
 * that a log whose end is missing is not taken for one that was never longer.
 *
 * What it tells is a lower bound: it is written only when the log has the transaction on the disk. So no crash can
 * leave an image that asks for more than its log has.
 */
import { constants, promises as fs } from "node:fs";
import type { FileHandle } from "node:fs/promises";
// Node's own timers. A window, or a test that stops time, replaces the global ones.
import { clearTimeout, setTimeout } from "node:timers";
import { SYNCED_WRITES, syncData, writeAll } from "./files.js";
import type { LogFile } from "./journal.js";
import type { ImageDigest } from "./log-format.js";
import { encodeSuperblock } from "./superblock.js";
import type { SealedImage, Superblock } from "./superblock.js";

/** So often at most: each costs the disk a small synced write. */
const TELL_EVERY_MS = 250;

export class Watermark {
  readonly #path: string;
  #at: number;
  #superblock: Superblock;
  #handle: FileHandle | undefined;
  #acknowledged: number;
  #timer: NodeJS.Timeout | undefined;
  /** One change of the file at a time, in their order. */
  #last: Promise<unknown> = Promise.resolve();
  #telling = false;
  #closed = false;

  private constructor(path: string, { at, superblock }: SealedImage, handle: FileHandle) {
    this.#path = path;
    this.#at = at;
    this.#superblock = superblock;
    this.#acknowledged = superblock.acknowledged;
    this.#handle = handle;
  }

  static async open(path: string, place: SealedImage): Promise<Watermark> {
    return new Watermark(path, place, await openImage(path));
  }

  /** Where the file has its superblock. */
  get at(): number {
    return this.#at;
  }

  /** What the file is besides. */
  get content(): ImageDigest {
    return this.#superblock.content;
  }

  /** The segment, for the journal: it acknowledges nothing that the image alone would deny. */
  guard(segment: LogFile): LogFile {
    return {
      mask: segment.mask,
      get length() {
        return segment.length;
      },
      append: (bytes, sequence) => {
        const written = segment.append(bytes, sequence);
        // The mark comes after the record: what it tells must be there.
        return this.#superblock.clean ? written.then(() => this.#markInUse(sequence)) : written;
      },
    };
  }

  /** The store goes on from this transaction: whatever answers rest on it, the image has to know of it before. */
  async reach(sequence: number): Promise<void> {
    if (sequence > this.#acknowledged) await this.#markInUse(sequence);
  }

  /**
   * Notes that everything up to this transaction was acknowledged. It is told within {@link TELL_EVERY_MS}, if the disk
   * is that fast.
   */
  advance(sequence: number): void {
    this.#acknowledged = Math.max(this.#acknowledged, sequence);
    if (this.#timer === undefined && !this.#telling && this.#isBehind()) this.#setTimer();
  }

  /**
   * Has `rename` give the file another image, that of `from`, and goes on in that. Can be done again after a failure.
   * It is opened before: what has the file's name afterwards may be another holder's.
   */
  replace(image: SealedImage, from: string, rename: () => Promise<void>): Promise<void> {
    return this.#inTurn(async () => {
      // Not every system renames over a file that is open.
      if (process.platform === "win32") await this.#release();
      const next = await openImage(from);
      try {
        await rename();
      } catch (error) {
        await next.close();
        throw error;
      }
      const last = this.#handle;
      this.#handle = next;
      this.#at = image.at;
      this.#superblock = image.superblock;
      await last?.close();
      await this.#write({
        ...image.superblock,
        acknowledged: Math.max(this.#acknowledged, image.superblock.acknowledged),
      });
    });
  }

  /** Says that the image is everything: nothing is in its log. */
  markClean(): Promise<void> {
    return this.#inTurn(async () => {
      if (!this.#superblock.clean)
        await this.#write({ ...this.#superblock, clean: true, acknowledged: this.#acknowledged });
    });
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    await this.#inTurn(() => this.#release());
  }

  #markInUse(sequence: number): Promise<void> {
    return this.#inTurn(() => this.#write({ ...this.#superblock, clean: false, acknowledged: sequence }));
  }

  #isBehind(): boolean {
    return !this.#closed && !this.#superblock.clean && this.#superblock.acknowledged < this.#acknowledged;
  }

  #setTimer(): void {
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#telling = true;
      const told = this.#inTurn(async () => {
        if (this.#isBehind()) await this.#write({ ...this.#superblock, acknowledged: this.#acknowledged });
      });
      // It is not what makes a write durable: one that fails is made up for by the next.
      void told
        .catch(() => undefined)
        .then(() => {
          this.#telling = false;
          if (this.#timer === undefined && this.#isBehind()) this.#setTimer();
        });
    }, TELL_EVERY_MS);
    this.#timer.unref();
  }

  #inTurn<T>(change: () => Promise<T>): Promise<T> {
    const changed = this.#last.then(change);
    this.#last = changed.catch(() => undefined);
    return changed;
  }

  async #write(superblock: Superblock): Promise<void> {
    this.#handle ??= await openImage(this.#path);
    await writeAll(this.#handle, encodeSuperblock(superblock), this.#at);
    if (SYNCED_WRITES === undefined) await syncData(this.#handle);
    this.#superblock = superblock;
  }

  async #release(): Promise<void> {
    const handle = this.#handle;
    this.#handle = undefined;
    await handle?.close();
  }
}

function openImage(path: string): Promise<FileHandle> {
  return fs.open(path, constants.O_RDWR | (SYNCED_WRITES ?? 0));
}
