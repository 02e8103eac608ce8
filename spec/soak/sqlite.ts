// Kills a writer, which takes checkpoints all the time, at random instants and looks what is left, with the logs and
// without; then cuts the log at every byte, and flips bits at random places, with the log and without. Zero lost, zero
// half, never an older state, every damage told.

import { spawn, type ChildProcess } from "node:child_process";
import { existsSync } from "node:fs";
import { cp, mkdtemp, readFile, readdir, rm, stat, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import initSqlJs from "sql.js";
import ts from "typescript";
import { isCorrupt, isIncompatible, openSqlite } from "unibus-membership";
import { applyTo, canonical, emptyModel, modelsIn, nextOperation, type Model } from "./sqlite-operations.js";
import { random } from "./random.js";
import type { Orders } from "./sqlite-writer.js";
import { endsOf, release } from "../sqlite/support/folder.js";
import { smallBuild } from "../sqlite/support/small-build.js";
import { told, telling } from "../sqlite/support/superblock.js";

export interface SoakOptions {
  readonly seconds: number;
  readonly seed: number;
  /** Fewer or more callers change what a batch looks like. */
  readonly callers?: number;
  readonly log?: (line: string) => void;
}

export interface SoakResult {
  readonly kills: number;
  readonly acknowledged: number;
  /** Kills that hit an operation whose record was on the disk, and whose acknowledgement was not out yet. */
  readonly unheard: number;
  /** Kills that hit before the store was open. */
  readonly whileOpening: number;
  /** Kills whose file was refused without its logs, as it has to be where it is not everything. */
  readonly incomplete: number;
  /** Kills in the middle of a checkpoint. */
  readonly checkpointing: number;
  /** Kinds of operations that were acknowledged, of twelve. */
  readonly kinds: number;
  readonly cuts: number;
  /** Cuts below what the image had been told of. */
  readonly told: number;
  readonly flips: number;
  /** Changed bytes of a file that was closed, without a log. */
  readonly alone: number;
}

const opTimeoutMs = 60_000;

/**
 * The writer as plain JavaScript: a process that needs no compiler starts in a third of the time, and there are many.
 * It uses a copy of the library that takes checkpoints all the time.
 */
async function compileWriter(folder: string): Promise<string> {
  const library = JSON.stringify(await smallBuild(folder, ["checkpoints", "threads"]));
  for (const name of ["random", "sqlite-operations", "sqlite-writer"]) {
    const source = await readFile(fileURLToPath(new URL(`./${name}.ts`, import.meta.url)), "utf8");
    const { outputText } = ts.transpileModule(source, {
      compilerOptions: { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022, verbatimModuleSyntax: true },
    });
    await writeFile(join(folder, `${name}.js`), outputText.replaceAll('"unibus-membership"', library));
  }
  await writeFile(join(folder, "package.json"), '{ "type": "module" }');
  return join(folder, "sqlite-writer.js");
}

function signal(): { happened: Promise<void>; now: () => void } {
  let now = (): void => undefined;
  const happened = new Promise<void>((resolve) => (now = resolve));
  return { happened, now };
}

/** A writer that is started and waits. */
class Writer {
  readonly #child: ChildProcess;
  readonly #ready: Promise<void>;
  readonly #ended: Promise<void>;
  readonly #enough = signal();
  #wanted = 0;
  #count = 0;
  /** What each caller did last, as far as it could say it. */
  readonly heard = new Map<number, number>();
  opened = false;
  failed = "";

  constructor(script: string) {
    this.#child = spawn(process.execPath, [script], { stdio: ["pipe", "pipe", "pipe"] });
    const { stdout, stderr } = this.#child;
    if (stdout === null || stderr === null) throw new Error("a writer without pipes");
    stderr.setEncoding("utf8").on("data", (text: string) => (this.failed += text));
    this.#ended = new Promise((resolve) => this.#child.once("close", () => resolve()));
    const ready = signal();
    this.#ready = ready.happened;
    createInterface({ input: stdout }).on("line", (line) => {
      if (line === "ready") ready.now();
      else if (line === "open") {
        this.opened = true;
      } else {
        const [caller = NaN, n = NaN] = line.split(" ").map(Number);
        this.heard.set(caller, n);
        if (++this.#count >= this.#wanted) this.#enough.now();
      }
    });
  }

  /**
   * Kills it `ms` after so many acknowledgements, or after it began to open. Resolves when everything that it said has
   * been heard.
   */
  async run(orders: Orders, acknowledgements: number, ms: number): Promise<void> {
    this.#wanted = acknowledgements;
    await Promise.race([this.#ready, this.#ended]);
    this.#child.stdin?.on("error", () => undefined).write(`${JSON.stringify(orders)}\n`);
    if (acknowledgements > 0) await Promise.race([this.#enough.happened, this.#ended]);
    await Promise.race([new Promise((resolve) => setTimeout(resolve, ms)), this.#ended]);
    if (this.#child.exitCode !== null) throw new Error(`the writer ended by itself: ${this.failed}`);
    await this.end();
  }

  async end(): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#ended;
  }
}

async function integrityOf(path: string): Promise<string> {
  const sqlJs = await initSqlJs();
  const database = new sqlJs.Database(await readFile(path));
  try {
    return String(database.exec("PRAGMA integrity_check")[0]?.values[0]?.[0]);
  } finally {
    database.close();
  }
}

/** What the file says without its logs, or nothing if it is refused. */
async function withoutLogs(path: string): Promise<Map<number, Model> | undefined> {
  const folder = await mkdtemp(join(tmpdir(), "unibus-soak-alone-"));
  const alone = join(folder, "membership.db");
  try {
    await cp(path, alone);
    await release(alone);
    const store = await openSqlite(alone, { opTimeoutMs });
    try {
      return await modelsIn(store);
    } finally {
      await store.close();
    }
  } catch (error) {
    if (isCorrupt(error)) return undefined;
    throw error;
  } finally {
    await rm(folder, { recursive: true });
  }
}

interface Caller {
  n: number;
  model: Model;
}

type Kills = Pick<
  SoakResult,
  "kills" | "acknowledged" | "unheard" | "whileOpening" | "incomplete" | "checkpointing" | "kinds"
>;

async function kills(path: string, script: string, options: SoakOptions, until: number): Promise<Kills> {
  const { seed, log } = options;
  const next = random(seed, 1);
  const callers: Caller[] = Array.from({ length: options.callers ?? 32 }, () => ({ n: 0, model: emptyModel() }));
  const waiting = [new Writer(script), new Writer(script), new Writer(script)];
  let count = 0;
  let acknowledged = 0;
  let unheard = 0;
  let whileOpening = 0;
  let incomplete = 0;
  let checkpointing = 0;
  const kinds = new Set<string>();
  try {
    // A slow machine takes longer rather than kill less.
    const least = Math.ceil((options.seconds * 100) / 60);
    while (performance.now() < until || count < least) {
      const writer = waiting.shift() ?? new Writer(script);
      waiting.push(new Writer(script));
      const opening = next() < 0.2;
      await writer.run(
        { path, seed, callers },
        opening ? 0 : 1 + Math.floor(next() * next() * 1000),
        next() * (opening ? 60 : 10),
      );
      count++;
      if (!writer.opened) whileOpening++;

      if ((existsSync(`${path}-redo0`) && existsSync(`${path}-redo1`)) || existsSync(`${path}-checkpoint`))
        checkpointing++;

      // The file alone is a database at every instant, whatever the log says.
      let alone: Map<number, Model> | undefined;
      if (existsSync(path)) {
        alone = await withoutLogs(path);
        if (alone === undefined) incomplete++;
        const integrity = await integrityOf(path);
        if (integrity !== "ok") throw new Error(`kill ${count}: integrity_check says ${integrity}`);
      }
      const store = await openSqlite(path, { opTimeoutMs });
      const found = await modelsIn(store);
      await store.close();
      for (const [caller, state] of callers.entries()) {
        for (const last = writer.heard.get(caller) ?? -1; state.n <= last; state.n++) {
          const operation = nextOperation(state.model, caller, state.n, random(seed, caller, state.n));
          applyTo(state.model, operation);
          kinds.add(operation.kind);
          acknowledged++;
        }
        const is = canonical(found.get(caller) ?? emptyModel());
        // The record of a last operation may be in the log without its acknowledgement: then the file need not have it.
        const withoutLog = alone === undefined ? is : canonical(alone.get(caller) ?? emptyModel());
        if (withoutLog !== is && withoutLog !== canonical(state.model)) {
          throw new Error(
            `kill ${count}, caller ${caller}: without its logs the file is an older state\n  found     ${withoutLog}\n  with logs ${is}`,
          );
        }
        if (is === canonical(state.model)) continue;
        const operation = nextOperation(state.model, caller, state.n, random(seed, caller, state.n));
        const before = canonical(state.model);
        applyTo(state.model, operation);
        if (is !== canonical(state.model)) {
          throw new Error(
            `kill ${count}, caller ${caller}, operation ${state.n} (${operation.kind}): lost or half there\n` +
              `  found     ${is}\n  before it ${before}\n  after it  ${canonical(state.model)}`,
          );
        }
        state.n++;
        unheard++;
      }
      if (count % 25 === 0) log?.(`${count} kills, ${acknowledged} acknowledged operations, all there`);
    }
  } finally {
    await Promise.all(waiting.map((writer) => writer.end()));
  }
  if (acknowledged > 2000 && kinds.size < 12) throw new Error(`only ${[...kinds].join(", ")} were acknowledged`);
  return { kills: count, acknowledged, unheard, whileOpening, incomplete, checkpointing, kinds: kinds.size };
}

/** One changed byte of a file that was closed and has no log beside it: refused, and left as it is. */
async function alone(folder: string, next: () => number, until: number): Promise<number> {
  const path = join(folder, "membership.db");
  const store = await openSqlite(path, { opTimeoutMs });
  for (let n = 0; n < 60; n++)
    await store.users.add({ key: `u${n}`, name: "x".repeat(n), role: n % 7 === 0 ? "admin" : "member" });
  await store.rooms.create({
    id: "room",
    owner: "o",
    encrypted: true,
    ownerPublicKey: new Uint8Array(500),
    sealedKey: new Uint8Array(5000).fill(9),
  });
  await store.close();
  for (const name of await readdir(folder)) if (name !== basename(path)) await rm(join(folder, name));
  await release(path);
  const whole = await readFile(path);
  let count = 0;
  for (; count === 0 || performance.now() < until; count++) {
    const place = Math.floor(next() * whole.length);
    const bytes = Buffer.from(whole);
    bytes[place] = (bytes[place] ?? 0) ^ (1 + Math.floor(next() * 255));
    await writeFile(path, bytes);
    const error = await openSqlite(path, { opTimeoutMs }).then(
      (opened) => opened.close(),
      (reason: unknown) => reason,
    );
    if (!isCorrupt(error) && !isIncompatible(error))
      throw new Error(`byte ${place} of a file alone was changed, and opening said ${String(error)}`);
    if (!(await readFile(path)).equals(bytes) || (await readdir(folder)).length !== 2)
      throw new Error(`a file alone with byte ${place} changed was touched`);
  }
  return count;
}

async function filesOf(folder: string): Promise<Map<string, Buffer>> {
  const files = new Map<string, Buffer>();
  for (const name of (await readdir(folder)).sort()) {
    if ((await stat(join(folder, name))).isFile()) files.set(name, await readFile(join(folder, name)));
  }
  return files;
}

/** A file and its log as a kill leaves them, with where each acknowledged record of the log ends. */
async function crashed(folder: string, records: number): Promise<{ image: string; log: string; ends: number[] }> {
  const path = join(folder, "live");
  const store = await openSqlite(path, { opTimeoutMs });
  const log = (await readdir(folder)).find((name) => name.startsWith("live-redo"));
  if (log === undefined) throw new Error("no log");
  for (let n = 0; n < records; n++) await store.users.add({ key: `u${n}`, name: "x".repeat(n % 60) });
  const image = join(folder, "crashed");
  await cp(path, image);
  await cp(join(folder, log), image + log.slice("live".length));
  await store.close();
  await release(image);
  const copy = image + log.slice("live".length);
  return { image, log: copy, ends: endsOf(await readFile(copy)) };
}

/**
 * Every prefix of a log: what is whole in it is there, and what is not is gone. Where that is less than the image
 * was told of, it is refused.
 */
async function cuts(folder: string, next: () => number, until: number): Promise<Pick<SoakResult, "cuts" | "told">> {
  const { image, log, ends } = await crashed(folder, 12);
  const whole = await readFile(log);
  const base = await readFile(image);
  const least = told(base).acknowledged;
  const lengths = Array.from({ length: (ends.at(-1) ?? 0) + 2 }, (_, length) => length);
  // A short run takes some of them; the long one takes all.
  const order = lengths
    .map((length) => [next(), length] as const)
    .sort(([a], [b]) => a - b)
    .map(([, length]) => length);
  let count = 0;
  let refusals = 0;
  for (const [i, length] of order.entries()) {
    if (count > 0 && performance.now() > until) break;
    // Every other one as if the image had been told of all but the last.
    const acknowledged = i % 2 === 0 ? least : Math.max(least, 11);
    await writeFile(image, telling(base, { clean: false, acknowledged }));
    await writeFile(log, whole);
    await truncate(log, length);
    const expected = ends.filter((end) => end <= length).length - 1;
    count++;
    if (expected < acknowledged) {
      const error = await openSqlite(image, { opTimeoutMs }).then(
        (store) => store.close(),
        (reason: unknown) => reason,
      );
      if (!isCorrupt(error))
        throw new Error(`log cut at ${length}, transaction ${acknowledged} was told: ${String(error)}`);
      refusals++;
      continue;
    }
    const store = await openSqlite(image, { opTimeoutMs });
    const found = (await store.users.list()).items.length;
    await store.close();
    if (found !== expected) throw new Error(`log cut at ${length}: ${found} users, not ${expected}`);
    await rm(`${image}-redo0`, { force: true });
    await rm(`${image}-redo1`, { force: true });
  }
  return { cuts: count, told: refusals };
}

/** One flipped bit, anywhere in the log or the image: refused, and left as it is. */
async function flips(folder: string, next: () => number, until: number): Promise<number> {
  const { image, log, ends } = await crashed(folder, 30);
  for (const name of await readdir(folder)) {
    if (!name.startsWith("crashed")) await rm(join(folder, name));
  }
  let count = 0;
  for (; count === 0 || performance.now() < until; count++) {
    const target = next() < 0.7 ? log : image;
    const bytes = await readFile(target);
    // Mostly where something stands, and now and then in the zeros behind it.
    const within = target === log && next() < 0.9 ? (ends.at(-1) ?? 0) : bytes.length;
    const place = Math.floor(next() * within);
    const bit = 1 << Math.floor(next() * 8);
    bytes[place] = (bytes[place] ?? 0) ^ bit;
    await writeFile(target, bytes);
    const before = await filesOf(folder);
    const error = await openSqlite(image, { opTimeoutMs }).then(
      (store) => store.close(),
      (reason: unknown) => reason,
    );
    if (!isCorrupt(error) && !isIncompatible(error)) {
      throw new Error(
        `bit ${bit} of byte ${place} of ${basename(target)} was flipped, and opening said ${String(error)}`,
      );
    }
    const after = await filesOf(folder);
    if ([...after.keys()].join() !== [...before.keys()].join())
      throw new Error(`opening left ${[...after.keys()].join()}`);
    for (const [name, content] of before) {
      if (after.get(name)?.equals(content) !== true) throw new Error(`${name} was touched`);
    }
    bytes[place] = (bytes[place] ?? 0) ^ bit;
    await writeFile(target, bytes);
  }
  const store = await openSqlite(image, { opTimeoutMs });
  const found = (await store.users.list()).items.length;
  await store.close();
  if (found !== 30) throw new Error(`${found} users after every bit was put back`);
  return count;
}

export async function run(options: SoakOptions): Promise<SoakResult> {
  const { seconds, seed, log } = options;
  const folder = await mkdtemp(join(tmpdir(), "unibus-soak-"));
  const during = (part: number): number => performance.now() + seconds * 1000 * part;
  const inFolder = async <T>(work: (path: string) => Promise<T>): Promise<T> => {
    const own = await mkdtemp(join(folder, "part-"));
    return work(own);
  };
  let done = false;
  try {
    const script = await inFolder(compileWriter);
    const killed = await inFolder((own) => kills(join(own, "membership.db"), script, options, during(0.75)));
    const cut = await inFolder((own) => cuts(own, random(seed, 2), seconds < 60 ? during(0.12) : Infinity));
    const flipped = await inFolder((own) => flips(own, random(seed, 3), during(0.08)));
    const changed = await inFolder((own) => alone(own, random(seed, 4), during(0.05)));
    const result = { ...killed, ...cut, flips: flipped, alone: changed };
    log?.(
      `${result.kills} kills (${result.whileOpening} while opening, ${result.checkpointing} in a checkpoint), ${result.kinds} kinds of writes, ${result.acknowledged} acknowledged operations and ${result.unheard} unheard: ` +
        `zero lost, zero half; ${result.incomplete} of the files refused without their logs, and none an older state; ${result.cuts} cuts: zero wrong, ` +
        `${result.told} of them told; ${result.flips} flipped bits, and ${result.alone} changed bytes of a file alone: every one told`,
    );
    done = true;
    return result;
  } finally {
    // What a failure left is evidence.
    if (done) await rm(folder, { recursive: true });
    else log?.(`left as it is: ${folder}`);
  }
}
