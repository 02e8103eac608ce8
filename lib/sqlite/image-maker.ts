/**
 * Makes images beside the file. A small one is made at once, on the event loop; any other in a thread of its own, so
 * that nobody notices. Where no thread can be started, large ones are made on the event loop too, in slices.
 */
import { promises as fs } from "node:fs";
import type { FileHandle } from "node:fs/promises";
// Node's own timers. A window, or a test that stops time, replaces the global ones.
import { clearTimeout, setTimeout } from "node:timers";
import { Worker } from "node:worker_threads";
import { createFile, removeIfThere, statIfThere, sync, writeAll } from "./files.js";
import { buildImage, copyImage, seal } from "./image-builder.js";
import type { BuildRequest } from "./image-builder.js";
import { MemoryFile } from "./image-file.js";
import { Image } from "./image.js";
import type { Meta } from "./image.js";
import type { ImageWork, ImageWorkerMessage } from "./image-worker.js";
import { TimeSlice } from "./time-slice.js";
import type { LoadedSqlJs } from "./sql-js.js";
import type { SealedImage } from "./superblock.js";
import { Haste } from "./throttle.js";

/** What is made on the event loop: a thread costs more than this. */
const SMALL_BYTES = 4 * 1024 * 1024;
/** A thread that says nothing for so long will not. */
const START_WITHIN_MS = 10_000;

/** The image, until it has its name. */
export function temporaryImagePath(path: string): string {
  return `${path}-checkpoint`;
}

/** Makes the image that was written the file. */
export async function renameImage(path: string): Promise<void> {
  await fs.rename(temporaryImagePath(path), path);
}

/** There is no thread to be had. */
class NoThread extends Error {}

export class ImageMaker {
  readonly #sql: LoadedSqlJs;
  readonly #path: string;
  #worker: Worker | undefined;
  #haste = new Haste();
  #stopped: Error | undefined;

  constructor(sql: LoadedSqlJs, path: string) {
    this.#sql = sql;
    this.#path = path;
  }

  /** Whatever is being made is not made to its end, and nothing is made any more. */
  stop(reason: Error): void {
    this.#stopped ??= reason;
    void this.#worker?.terminate();
  }

  /** Nobody else has use for the disk any more, or none who does not wait for this. */
  hurry(): void {
    this.#haste.make();
  }

  /**
   * An image that is on the disk under its temporary name when this resolves. Its thread leaves most of the time to
   * others, until it is to hurry.
   */
  make(request: BuildRequest): Promise<SealedImage> {
    this.#haste = new Haste();
    return this.#write(async (handle) => {
      if ((await sizeOf([request.image.path, ...request.logs])) > SMALL_BYTES) {
        try {
          return await this.#inThread(request);
        } catch (error) {
          if (!(error instanceof NoThread)) throw error;
          await handle.truncate(0);
        }
      }
      return await this.#onEventLoop(request, handle);
    });
  }

  /** The same, for an empty database. */
  makeEmpty(meta: Meta): Promise<SealedImage> {
    return this.#write(async (handle) => {
      const file = new MemoryFile();
      const image = Image.empty(this.#sql.sqlJs, file);
      let at: number | undefined;
      try {
        image.putMeta(meta);
        at = image.superblockAt();
      } finally {
        image.close();
      }
      const sealed = await seal(file, at, { clean: true, acknowledged: meta.sequence }, this.#pace());
      await writeTo(handle, file);
      return sealed;
    });
  }

  async #write(fill: (handle: FileHandle) => Promise<SealedImage>): Promise<SealedImage> {
    const temporary = temporaryImagePath(this.#path);
    try {
      // Whoever may read and write the file may do so with the next one.
      const handle = await createFile(temporary, await statIfThere(this.#path));
      try {
        const sealed = await fill(handle);
        await sync(handle);
        this.#check();
        return sealed;
      } finally {
        await handle.close();
      }
    } catch (error) {
      await removeIfThere(temporary).catch(() => undefined);
      throw error;
    }
  }

  async #onEventLoop(request: BuildRequest, handle: FileHandle): Promise<SealedImage> {
    const pace = this.#pace();
    const file = new MemoryFile();
    await copyImage(request, pace, (piece, position) => {
      file.write(piece, 0, piece.length, position);
    });
    const sealed = await buildImage(this.#sql.sqlJs, file, request, pace);
    await writeTo(handle, file);
    return sealed;
  }

  async #inThread(request: BuildRequest): Promise<SealedImage> {
    this.#check();
    const work: ImageWork = {
      module: this.#sql.module,
      request,
      target: temporaryImagePath(this.#path),
      haste: this.#haste.memory,
    };
    let worker: Worker;
    try {
      // None of the process's own settings: what they load or watch has no business in it.
      worker = new Worker(this.#sql.imageWorker(), { eval: true, workerData: work, execArgv: [], env: {} });
    } catch (cause) {
      throw new NoThread("No thread could be started", { cause });
    }
    this.#worker = worker;
    try {
      return await this.#answerOf(worker);
    } finally {
      this.#worker = undefined;
      // It has nothing open any more when this resolves.
      await worker.terminate();
    }
  }

  #answerOf(worker: Worker): Promise<SealedImage> {
    return new Promise<SealedImage>((resolve, reject) => {
      let started = false;
      const end = (what: string, cause?: unknown): void => {
        clearTimeout(timer);
        const options = cause === undefined ? {} : { cause };
        reject(this.#stopped ?? (started ? new Error(what, options) : new NoThread(what, options)));
      };
      const timer = setTimeout(() => {
        end("The thread that makes images did not start");
      }, START_WITHIN_MS);
      worker.on("message", (message: ImageWorkerMessage) => {
        switch (message.kind) {
          case "started":
            started = true;
            clearTimeout(timer);
            return;
          case "done":
            resolve(message.image);
            return;
          case "failed":
            end(
              message.message,
              Object.assign(new Error(message.message), message.code === undefined ? {} : { code: message.code }),
            );
            return;
        }
      });
      worker.on("error", (error) => {
        end(error.message, error);
      });
      worker.on("exit", () => {
        end("The thread that makes images ended");
      });
    });
  }

  #pace(): TimeSlice {
    return new TimeSlice(() => {
      this.#check();
    });
  }

  #check(): void {
    if (this.#stopped !== undefined) throw this.#stopped;
  }
}

async function sizeOf(paths: readonly string[]): Promise<number> {
  const sizes = await Promise.all(paths.map(async (path) => (await fs.stat(path)).size));
  return sizes.reduce((sum, size) => sum + size, 0);
}

async function writeTo(handle: FileHandle, file: MemoryFile): Promise<void> {
  let position = 0;
  for (const piece of file.pieces()) {
    await writeAll(handle, piece, position);
    position += piece.length;
  }
}
