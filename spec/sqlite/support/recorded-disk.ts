// A disk that forgets. It notes what the library has the system do to the files of a folder, and makes of any moment of
// that a folder as a loss of power may leave it: what was synced is there, and of everything else any part.
//
// - A sector of 512 bytes has any of the contents that it had since it was last durable: old, new, or one in between.
// - The length of a file is any that it had since it was durable.
// - A name that was given, taken or deleted since the folder was last synced was so or was not, each by itself, in
//   any order.
// - A sync makes durable what had ended when it began, and only when it has ended itself.
//
// That is less than any journaling file system keeps, and what POSIX promises.

import { expect } from "chai";
import files, { constants, existsSync, promises as fs, readFileSync, readdirSync } from "node:fs";
import type { FileHandle } from "node:fs/promises";
import { mkdir, writeFile } from "node:fs/promises";
import { syncBuiltinESMExports } from "node:module";
import { basename, dirname, join } from "node:path";

const SECTOR = 512;

interface Step {
  readonly began: number;
  /** When it had ended. `Infinity`: never, or badly. */
  ended: number;
}

interface Write extends Step {
  readonly position: number;
  readonly bytes: Buffer;
  readonly synced: boolean;
  /** The length that the file has afterwards, whatever it was. */
  readonly truncate: number | undefined;
}

interface RecordedFile {
  /** What was there when the recording began. */
  readonly base: Buffer;
  readonly writes: Write[];
  readonly syncs: Step[];
}

/** `from` loses its name, `to` gets the file. */
interface NameChange extends Step {
  readonly from: string | undefined;
  readonly to: string | undefined;
  readonly file: RecordedFile;
}

type Done = (error: Error | null, taken?: number) => void;
type PlainWrite = (fd: number, bytes: Uint8Array, offset: number, length: number, position: number, done: Done) => void;
const plain = files as unknown as { write: PlainWrite };

const newFile = (base: Buffer): RecordedFile => ({ base, writes: [], syncs: [] });

/** Decides what of the things that are not durable is there. */
export interface Fate {
  /** One of `count`: 0 is what is durable, `count - 1` is as if nothing had been lost. */
  pick(count: number, of: "data" | "length" | "name"): number;
}

export const nothingLost: Fate = { pick: (count) => count - 1 };
export const allLost: Fate = { pick: () => 0 };
/** Names are there, and nothing of what was not synced in the files; and the reverse. */
export const onlyNames: Fate = { pick: (count, of) => (of === "name" ? count - 1 : 0) };
export const onlyData: Fate = { pick: (count, of) => (of === "name" ? 0 : count - 1) };
/** Of the names that are not durable one alone is there, and all of the data. */
export function onlyName(at: number): Fate {
  let name = 0;
  return { pick: (count, of) => (of === "name" && name++ !== at ? 0 : count - 1) };
}
export const byChance = (next: () => number): Fate => ({ pick: (count) => Math.floor(next() * count) });

export class RecordedDisk {
  readonly #folder: string;
  readonly #names: NameChange[] = [];
  readonly #folderSyncs: Step[] = [];
  readonly #before = new Map<string, RecordedFile>();
  readonly #now = new Map<string, RecordedFile>();
  readonly #handles = new WeakMap<object, { file: RecordedFile | "folder"; synced: boolean }>();
  readonly #descriptors = new Map<number, { file: RecordedFile; synced: boolean }>();
  #moment = 0;
  #restore: () => void = () => undefined;

  private constructor(folder: string) {
    this.#folder = folder;
    for (const name of readdirSync(folder))
      if (this.#isOurs(name)) this.#before.set(name, newFile(readFileSync(join(folder, name))));
    for (const [name, file] of this.#before) this.#now.set(name, file);
  }

  /** Everything that is in the folder now counts as durable. */
  static async of(folder: string): Promise<RecordedDisk> {
    const disk = new RecordedDisk(folder);
    await disk.#watch();
    return disk;
  }

  /** How many moments there have been. Between two of them nothing that is recorded happened. */
  get moment(): number {
    return this.#moment;
  }

  /** Of the lock nothing is recorded: no process is left after a loss of power. */
  #isOurs(name: string): boolean {
    return !name.includes("-lock");
  }

  #nameOf(path: unknown): string | undefined {
    const name = basename(String(path));
    return typeof path === "string" && dirname(path) === this.#folder && this.#isOurs(name) ? name : undefined;
  }

  #begin(): Step {
    return { began: this.#moment++, ended: Infinity };
  }

  async #during<T>(step: Step, work: () => Promise<T>): Promise<T> {
    const result = await work();
    step.ended = this.#moment++;
    return result;
  }

  async #watch(): Promise<void> {
    const { open, rename, unlink } = fs;
    const some = await open(this.#folder, "r");
    await some.close();
    const prototype = Object.getPrototypeOf(some) as Pick<FileHandle, "sync" | "datasync" | "truncate" | "close">;
    const { sync, datasync, truncate, close } = prototype;
    const { write } = plain;
    this.#restore = () => {
      Object.assign(fs, { open, rename, unlink });
      Object.assign(prototype, { sync, datasync, truncate, close });
      plain.write = write;
      syncBuiltinESMExports();
    };
    const of = (handle: object): { file: RecordedFile | "folder"; synced: boolean } | undefined =>
      this.#handles.get(handle);

    fs.open = async (path, flags, mode) => {
      if (path === this.#folder) {
        const handle = await open(path, flags, mode);
        this.#handles.set(handle, { file: "folder", synced: false });
        return handle;
      }
      const name = this.#nameOf(path);
      if (name === undefined) return open(path, flags, mode);
      expect(flags === "w" || typeof flags === "number" || flags === "r", `opened with ${String(flags)}`).to.equal(
        true,
      );
      let file = this.#now.get(name);
      const step = flags === "w" ? this.#begin() : undefined;
      if (step !== undefined && file !== undefined)
        file.writes.push(Object.assign(step, { position: 0, bytes: Buffer.alloc(0), synced: false, truncate: 0 }));
      else if (step !== undefined) {
        file = newFile(Buffer.alloc(0));
        this.#names.push(Object.assign(step, { from: undefined, to: name, file }));
        this.#now.set(name, file);
      }
      const handle =
        step === undefined ? await open(path, flags, mode) : await this.#during(step, () => open(path, flags, mode));
      if (file === undefined) throw new Error(`${name} was there and nobody knew`);
      const synced = typeof flags === "number" && (flags & constants.O_DSYNC) === constants.O_DSYNC;
      this.#handles.set(handle, { file, synced });
      this.#descriptors.set(handle.fd, { file, synced });
      return handle;
    };
    fs.rename = (from, to) => {
      const [source, target] = [this.#nameOf(from), this.#nameOf(to)];
      if (source === undefined || target === undefined) return rename(from, to);
      const file = this.#now.get(source);
      if (file === undefined) return rename(from, to);
      const change = Object.assign(this.#begin(), { from: source, to: target, file });
      this.#names.push(change);
      return this.#during(change, async () => {
        await rename(from, to);
        this.#now.delete(source);
        this.#now.set(target, file);
      });
    };
    fs.unlink = (path) => {
      const name = this.#nameOf(path);
      const file = name === undefined ? undefined : this.#now.get(name);
      if (name === undefined || file === undefined) return unlink(path);
      const change = Object.assign(this.#begin(), { from: name, to: undefined, file });
      this.#names.push(change);
      return this.#during(change, async () => {
        await unlink(path);
        this.#now.delete(name);
      });
    };
    const syncing = (original: () => Promise<void>) =>
      async function (this: FileHandle): Promise<void> {
        const found = of(this);
        if (found === undefined) return original.call(this);
        const step = begin();
        (found.file === "folder" ? folderSyncs : found.file.syncs).push(step);
        return during(step, () => original.call(this));
      };
    const begin = (): Step => this.#begin();
    const during = <T>(step: Step, work: () => Promise<T>): Promise<T> => this.#during(step, work);
    const folderSyncs = this.#folderSyncs;
    const descriptors = this.#descriptors;
    prototype.sync = syncing(sync);
    prototype.datasync = syncing(datasync);
    prototype.truncate = async function (this: FileHandle, length = 0): Promise<void> {
      const found = of(this);
      if (found === undefined || found.file === "folder") return truncate.call(this, length);
      const step = Object.assign(begin(), { position: 0, bytes: Buffer.alloc(0), synced: false, truncate: length });
      found.file.writes.push(step);
      return during(step, () => truncate.call(this, length));
    };
    prototype.close = function (this: FileHandle): Promise<void> {
      if (of(this) !== undefined) descriptors.delete(this.fd);
      return close.call(this);
    };
    plain.write = (fd, bytes, offset, length, position, done) => {
      const found = descriptors.get(fd);
      if (found === undefined) {
        write(fd, bytes, offset, length, position, done);
        return;
      }
      const step = Object.assign(begin(), {
        position,
        bytes: Buffer.from(bytes.subarray(offset, offset + length)),
        synced: found.synced,
        truncate: undefined,
      });
      found.file.writes.push(step);
      write(fd, bytes, offset, length, position, (error, taken) => {
        if (error === null) {
          expect(taken, "the whole of a write").to.equal(length);
          step.ended = this.#moment++;
        }
        done(error, taken);
      });
    };
    // ES modules, of which the library is some, import the function itself.
    syncBuiltinESMExports();
  }

  /** Records nothing any more. */
  end(): void {
    this.#restore();
  }

  /** The files as a loss of power at this moment may leave them. */
  filesAt(moment: number, fate: Fate): Map<string, Buffer> {
    const found = new Map(this.#before);
    for (const change of this.#names) {
      if (change.began >= moment) continue;
      if (!this.#isDurable(change, moment) && fate.pick(2, "name") === 0) continue;
      if (change.from !== undefined) found.delete(change.from);
      if (change.to !== undefined) found.set(change.to, change.file);
    }
    return new Map([...found].map(([name, file]) => [name, contentAt(file, moment, fate)]));
  }

  #isDurable(change: NameChange, moment: number): boolean {
    return this.#folderSyncs.some((sync) => sync.began > change.ended && sync.ended < moment);
  }

  /** How many changes of names may be lost at this moment. */
  unsyncedNames(moment: number): number {
    return this.#names.filter((change) => change.began < moment && !this.#isDurable(change, moment)).length;
  }

  /** Writes such files to a new folder. */
  async write(folder: string, left: ReadonlyMap<string, Buffer>): Promise<void> {
    await mkdir(folder);
    for (const [name, bytes] of left) await writeFile(join(folder, name), bytes);
  }

  /** How often a file was given this name. */
  renames(to: string): number {
    return this.#names.filter((change) => change.from !== undefined && change.to === to).length;
  }

  /** Whether the folder has what is recorded: or else something was done that the recording did not see. */
  expectComplete(): void {
    const recorded = this.filesAt(Infinity, nothingLost);
    const names = readdirSync(this.#folder).filter((name) => this.#isOurs(name));
    expect([...recorded.keys()].sort()).to.deep.equal(names.sort());
    for (const [name, bytes] of recorded) {
      expect(
        existsSync(join(this.#folder, name)) && readFileSync(join(this.#folder, name)).equals(bytes),
        `${name} is another than was recorded`,
      ).to.equal(true);
    }
  }
}

function contentAt({ base, writes, syncs }: RecordedFile, moment: number, fate: Fate): Buffer {
  let cache = base;
  let lengths = [base.length];
  /** What each sector may have, where that is not only what is in `durable`. */
  const versions = new Map<number, Buffer[]>();
  const sectorOf = (bytes: Buffer, sector: number): Buffer => {
    const copy = Buffer.alloc(SECTOR);
    copy.set(bytes.subarray(sector * SECTOR, (sector + 1) * SECTOR));
    return copy;
  };
  for (const write of writes) {
    if (write.began >= moment) continue;
    const before = cache;
    const { position, bytes, truncate } = write;
    const length = truncate ?? (bytes.length === 0 ? before.length : Math.max(before.length, position + bytes.length));
    cache = Buffer.alloc(length);
    before.copy(cache, 0, 0, Math.min(before.length, length));
    bytes.copy(cache, position);
    const durable =
      (write.synced && write.ended < moment) || syncs.some((sync) => sync.began > write.ended && sync.ended < moment);
    const [from, to] =
      truncate === undefined
        ? [position, position + bytes.length]
        : [Math.min(length, before.length), Math.max(length, before.length)];
    for (let sector = Math.floor(from / SECTOR); sector * SECTOR < to; sector++) {
      const old = versions.get(sector) ?? [sectorOf(before, sector)];
      versions.set(sector, durable ? [sectorOf(cache, sector)] : [...old, sectorOf(cache, sector)]);
    }
    lengths = durable ? [length] : [...lengths, length];
  }
  const length = lengths[fate.pick(lengths.length, "length")] ?? 0;
  const result = Buffer.alloc(length);
  cache.copy(result, 0, 0, Math.min(length, cache.length));
  for (const [sector, choices] of versions) {
    if (sector * SECTOR >= length) continue;
    choices[fate.pick(choices.length, "data")]?.copy(
      result,
      sector * SECTOR,
      0,
      Math.min(SECTOR, length - sector * SECTOR),
    );
  }
  return result;
}
