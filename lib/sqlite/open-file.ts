/** A file that is read in pieces: none is too large for that. */
import { Buffer } from "node:buffer";
import { promises as fs, read } from "node:fs";
import type { FileHandle } from "node:fs/promises";
import { isAbsent } from "./files.js";

export class OpenFile {
  readonly path: string;
  /** As it was when it was opened. */
  readonly length: number;
  readonly #handle: FileHandle;

  private constructor(path: string, handle: FileHandle, length: number) {
    this.path = path;
    this.#handle = handle;
    this.length = length;
  }

  static async open(path: string): Promise<OpenFile> {
    const handle = await fs.open(path, "r");
    try {
      return new OpenFile(path, handle, (await handle.stat()).size);
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  static async openIfThere(path: string): Promise<OpenFile | undefined> {
    try {
      return await OpenFile.open(path);
    } catch (error) {
      if (isAbsent(error)) return undefined;
      throw error;
    }
  }

  get fd(): number {
    return this.#handle.fd;
  }

  /** The bytes from `from` to `to`, all of which are in the file. */
  async read(from: number, to: number): Promise<Buffer> {
    const bytes = Buffer.allocUnsafeSlow(to - from);
    await this.readInto(bytes, from);
    return bytes;
  }

  /** Fills `bytes` with those at `position`. */
  async readInto(bytes: Uint8Array, position: number): Promise<void> {
    for (let done = 0; done < bytes.length;) {
      const taken = await readSome(this.#handle.fd, bytes, done, position + done);
      if (taken === 0) throw new Error("The file became shorter");
      done += taken;
    }
  }

  /** The file was only read, so that an error of closing loses nothing. */
  async close(): Promise<void> {
    await this.#handle.close().catch(() => undefined);
  }
}

const CHUNK = 16 * 1024 * 1024;

function readSome(fd: number, bytes: Uint8Array, offset: number, position: number): Promise<number> {
  return new Promise((resolve, reject) => {
    read(fd, bytes, offset, Math.min(CHUNK, bytes.length - offset), position, (error, taken) => {
      if (error === null) resolve(taken);
      else reject(error);
    });
  });
}
