// Files that something happened to: the image and logs of a kill at any moment of a store's life, with flipped bits,
// cut, with sectors of zeros, swapped, or of another moment, with whole files of another moment, or without one.
// Opening says that they are damaged, and leaves them as they are; or it answers exactly what the store once held, and
// never less than the image that is there was told of (docs/sqlite.md, "Never an older state").

import { mkdir, mkdtemp, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isCorrupt, isIncompatible, openSqlite } from "unibus-membership";
import { RecordedDisk, nothingLost } from "../sqlite/support/recorded-disk.js";
import { release } from "../sqlite/support/folder.js";
import { openSqliteOf, smallBuild } from "../sqlite/support/small-build.js";
import { tryTold } from "../sqlite/support/superblock.js";
import { random } from "./random.js";
import {
  applyTo,
  canonical,
  emptyModel,
  ensureRoot,
  hasRoot,
  modelsIn,
  nextOperation,
  perform,
} from "./sqlite-operations.js";

export interface MutantsOptions {
  readonly seconds: number;
  readonly seed: number;
  /** How many at least, whatever the time is. */
  readonly least?: number;
  readonly log?: (line: string) => void;
}

export interface MutantsResult {
  readonly mutants: number;
  readonly refused: number;
  /** Opened with everything that was acknowledged. */
  readonly whole: number;
  /** Opened without the end that the image had not been told of, or as what an older image was told of. */
  readonly named: number;
}

const opTimeoutMs = 60_000;
const SECTOR = 512;
const OPERATIONS = 90;

type Files = Map<string, Buffer>;

interface Life {
  /** What a kill at each moment leaves, and how many operations had been acknowledged. */
  readonly moments: readonly { readonly files: Files; readonly acknowledged: number }[];
  /** The state after so many operations. */
  readonly states: readonly string[];
}

/** One operation after the other, so that each is one transaction, through some openings and many checkpoints. */
async function live(folder: string, open: typeof openSqlite, seed: number): Promise<Life> {
  const own = join(folder, "life");
  await mkdir(own);
  const model = emptyModel();
  const states = [canonical(model)];
  const moments: Life["moments"][number][] = [];
  for (let opening = 0; opening < 3; opening++) {
    const disk = await RecordedDisk.of(own);
    const before = states.length - 1;
    const acknowledged: number[] = [];
    try {
      const store = await open(join(own, "membership.db"), { opTimeoutMs });
      await ensureRoot(store);
      for (let i = 0; i < OPERATIONS / 3; i++) {
        const n = states.length - 1;
        const operation = nextOperation(model, 0, n, random(seed, 0, n));
        await perform(store, model, operation);
        applyTo(model, operation);
        states.push(canonical(model));
        acknowledged.push(disk.moment - 1);
      }
      await store.close();
      disk.expectComplete();
    } finally {
      disk.end();
    }
    for (let moment = 0; moment <= disk.moment; moment++) {
      moments.push({
        files: disk.filesAt(moment, nothingLost),
        acknowledged: before + acknowledged.filter((at) => at < moment).length,
      });
    }
  }
  await rm(own, { recursive: true });
  return { moments: moments.filter(({ files }) => files.has("membership.db")), states };
}

function put(bytes: Buffer, at: number, part: Buffer): void {
  bytes.set(part.subarray(0, Math.max(0, bytes.length - at)), Math.min(at, bytes.length));
}

/** Changes the files in one way, and says which. `undefined`: that way changes nothing here. */
function mutate(files: Files, { moments }: Life, next: () => number): string | undefined {
  const pick = <T>(from: readonly T[]): T | undefined => from[Math.floor(next() * from.length)];
  const below = (count: number): number => Math.floor(next() * count);
  const name = pick([...files.keys()]) ?? "";
  const whole = files.get(name) ?? Buffer.alloc(0);
  const bytes = Buffer.from(whole);
  // Behind what a log holds there are zeros: mostly where something stands.
  let used = bytes.length;
  if (next() < 0.9) while (used > 0 && bytes[used - 1] === 0) used--;
  const sectors = Math.max(1, Math.ceil(used / SECTOR));
  const sector = below(sectors) * SECTOR;
  const other = pick(moments)?.files ?? files;
  const way =
    pick(["flip", "cut", "zero", "swap", "old sector", "old file", "old file", "gone", "noise", "longer"]) ?? "";
  files.set(name, bytes);
  switch (way) {
    case "flip": {
      const place = below(Math.max(1, used));
      bytes[place] = (bytes[place] ?? 0) ^ (1 << below(8));
      return `${way} ${name} ${place}`;
    }
    case "cut": {
      const length = below(used + 1);
      files.set(name, bytes.subarray(0, length));
      return `${way} ${name} ${length}`;
    }
    case "zero": {
      const count = 1 + below(3);
      bytes.subarray(sector, sector + count * SECTOR).fill(0);
      return `${way} ${name} ${sector} ${count}`;
    }
    case "swap": {
      const second = below(sectors) * SECTOR;
      put(bytes, sector, whole.subarray(second, second + SECTOR));
      put(bytes, second, whole.subarray(sector, sector + SECTOR));
      return `${way} ${name} ${sector} ${second}`;
    }
    case "old sector":
      put(bytes, sector, other.get(name)?.subarray(sector, sector + SECTOR) ?? Buffer.alloc(0));
      return `${way} ${name} ${sector}`;
    case "old file": {
      const old = other.get(name);
      if (old === undefined) files.delete(name);
      else files.set(name, old);
      return `${way} ${name}`;
    }
    case "gone":
      files.delete(name);
      return `${way} ${name}`;
    case "noise":
      for (let at = sector; at < Math.min(bytes.length, sector + 1 + below(SECTOR)); at++) bytes[at] = below(256);
      return `${way} ${name} ${sector}`;
    case "longer":
      files.set(name, Buffer.concat([bytes, Buffer.alloc(1 + below(3 * SECTOR), below(2) * below(256))]));
      return `${way} ${name}`;
    default:
      return undefined;
  }
}

async function filesIn(folder: string): Promise<string> {
  const found: string[] = [];
  for (const name of (await readdir(folder)).sort())
    found.push(name, (await readFile(join(folder, name))).toString("latin1"));
  return found.join("\0");
}

type End = "refused" | "whole" | "named";

/** Opens such files. Throws if that is a silent wrong opening. */
async function tried(folder: string, files: Files, life: Life, acknowledged: number): Promise<End> {
  await mkdir(folder);
  for (const [name, bytes] of files) await writeFile(join(folder, name), bytes);
  const path = join(folder, "membership.db");
  await release(path);
  const before = await filesIn(folder);
  const opened = await openSqlite(path, { opTimeoutMs }).catch((error: unknown) => {
    if (isCorrupt(error) || isIncompatible(error)) return undefined;
    throw error;
  });
  if (opened === undefined) {
    if ((await filesIn(folder)) !== before) throw new Error("refused, and touched");
    return "refused";
  }
  const models = await modelsIn(opened);
  await opened.close();
  const root = hasRoot(models);
  if (models.size > (root ? 2 : 1)) throw new Error("records of nobody");
  const at = life.states.lastIndexOf(canonical(models.get(0) ?? emptyModel()));
  if (at < 0) throw new Error("opened in a state that never was");
  if (at >= acknowledged && (root || acknowledged === 0)) return "whole";
  const image = files.get("membership.db");
  // No image, and no log that would need one: a new store.
  if (image === undefined || image.length === 0) throw new Error("opened as a new store");
  const told = tryTold(image);
  // The admin whom nobody touches is the first transaction.
  const sequence = root ? at + 1 : 0;
  if (told === undefined || sequence < told.acknowledged)
    throw new Error(`opened as of ${sequence}, before ${String(told?.acknowledged)}, which the image was told of`);
  return "named";
}

export async function run({ seconds, seed, least = 1, log }: MutantsOptions): Promise<MutantsResult> {
  const folder = await mkdtemp(join(tmpdir(), "unibus-mutants-"));
  const until = performance.now() + seconds * 1000;
  const result = { mutants: 0, refused: 0, whole: 0, named: 0 };
  try {
    const life = await live(folder, await openSqliteOf(await smallBuild(folder, ["checkpoints"])), seed);
    while (result.mutants < least || performance.now() < until) {
      const next = random(seed, 30, result.mutants);
      const moment = Math.floor(next() * life.moments.length);
      const { files: before, acknowledged } = life.moments[moment] ?? {
        files: new Map<string, Buffer>(),
        acknowledged: 0,
      };
      const files = new Map(before);
      const ways = Array.from({ length: next() < 0.8 ? 1 : 2 }, () =>
        files.size === 0 ? undefined : mutate(files, life, next),
      );
      const own = join(folder, "mutant");
      try {
        if (files.has("membership.db")) result[await tried(own, files, life, acknowledged)]++;
        else result[await withoutImage(own, files)]++;
      } catch (error) {
        throw new Error(
          `seed ${seed}, mutant ${result.mutants} (moment ${moment}, ${ways.join(", ")}): ${String(error)}`,
          { cause: error },
        );
      }
      await rm(own, { recursive: true });
      if (++result.mutants % 500 === 0) log?.(line(result));
    }
    log?.(line(result));
    return result;
  } finally {
    await rm(folder, { recursive: true });
  }
}

/**
 * Logs alone are refused where they hold anything. Nothing, or empty logs, is what a deleted store leaves: a new one
 * begins.
 */
async function withoutImage(folder: string, files: Files): Promise<End> {
  const holds = [...files].some(([name, bytes]) => /-redo[01]$/.test(name) && bytes.length > 128);
  await mkdir(folder);
  for (const [name, bytes] of files) await writeFile(join(folder, name), bytes);
  const opened = await openSqlite(join(folder, "membership.db"), { opTimeoutMs }).catch((error: unknown) => {
    if (isCorrupt(error) || isIncompatible(error)) return undefined;
    throw error;
  });
  await opened?.close();
  if (opened !== undefined && holds) throw new Error("opened as a new store beside a log that holds something");
  return opened === undefined ? "refused" : "named";
}

function line({ mutants, refused, whole, named }: MutantsResult): string {
  return `${mutants} mutants: ${refused} refused and left as they were, ${whole} opened with everything, ${named} without what docs/sqlite.md names; none silently wrong`;
}
