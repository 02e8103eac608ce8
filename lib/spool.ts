/** What a slow reader has not taken yet: in memory as far as that is bounded, and in a file beyond it. */
import { Buffer } from "node:buffer";
import { randomBytes } from "node:crypto";
import { promises as fs } from "node:fs";
import type { FileHandle } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { deserialize, serialize } from "node:v8";

/** So much waits in memory. */
const MEMORY_BYTES = 4 * 1024 * 1024;

interface Frame<T> {
  readonly items: readonly T[];
  readonly bytes: number;
}

/** Frames of plain data, first in, first out. One at a time puts, and one takes. */
export class Spool<T> {
  #waiting: Frame<T>[] = [];
  #bytes = 0;
  #file: FileHandle | undefined;
  #path: string | undefined;
  /** In the file: where the next frame is read, and where the next one is written. */
  #from = 0;
  #to = 0;
  #lengths: number[] = [];
  #isPutting = false;
  #isClosed = false;

  /** Whether nothing waits. */
  get isEmpty(): boolean {
    return this.#waiting.length === 0 && this.#lengths.length === 0;
  }

  /** `bytes`: about what the items take in memory. */
  async put(items: readonly T[], bytes: number): Promise<void> {
    // What is in memory was put in before what is in the file.
    if (this.#lengths.length === 0 && this.#bytes + bytes <= MEMORY_BYTES) {
      this.#waiting.push({ items, bytes });
      this.#bytes += bytes;
      return;
    }
    const frame = serialize(items);
    this.#isPutting = true;
    try {
      const file = this.#file ?? (await this.#open());
      await writeAll(file, frame, this.#to);
      this.#to += frame.length;
      this.#lengths.push(frame.length);
    } finally {
      this.#isPutting = false;
    }
  }

  async take(): Promise<readonly T[] | undefined> {
    const first = this.#waiting.shift();
    if (first !== undefined) {
      this.#bytes -= first.bytes;
      return first.items;
    }
    const length = this.#lengths[0];
    if (length === undefined || this.#file === undefined) return undefined;
    const frame = Buffer.allocUnsafeSlow(length);
    await readAll(this.#file, frame, this.#from);
    this.#lengths.shift();
    this.#from += length;
    // What is being written goes behind what was there.
    if (this.#lengths.length === 0 && !this.#isPutting) this.#from = this.#to = 0;
    return deserialize(frame) as readonly T[];
  }

  /** Forgets what waits. */
  clear(): void {
    this.#waiting = [];
    this.#bytes = 0;
    this.#lengths = [];
    this.#from = this.#to = 0;
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.clear();
    const [file, path] = [this.#file, this.#path];
    this.#file = this.#path = undefined;
    await file?.close();
    if (path !== undefined) await fs.rm(path, { force: true });
  }

  async #open(): Promise<FileHandle> {
    const path = join(tmpdir(), `unibus-membership-${randomBytes(12).toString("hex")}`);
    const file = await fs.open(path, "wx+", 0o600);
    this.#file = file;
    // Nobody else finds it then, and nothing stays when the process dies. Where an open file keeps its name, it loses
    // it later.
    await fs.rm(path).catch(() => {
      this.#path = path;
    });
    if (this.#isClosed) await this.close();
    return file;
  }
}

async function writeAll(file: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length;)
    done += (await file.write(bytes, done, bytes.length - done, position + done)).bytesWritten;
}

async function readAll(file: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    const { bytesRead } = await file.read(bytes, done, bytes.length - done, position + done);
    if (bytesRead === 0) throw new Error("The file of what waits was cut");
    done += bytesRead;
  }
}
