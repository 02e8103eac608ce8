// Exports of many records, on both backends: how fast they come out and go in, and what that takes of memory beside the
// store. And a thousand damaged texts, each of which is refused, and lets nobody in.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { importStore, isCorrupt, isIncompatible, openSqlite, type Store } from "unibus-membership";
import { startNatsServer } from "unibus-membership/testing";
import { admits, digestOf, linesOf, manyLines, mutants } from "../support/exports.js";
import type { Taken, Task } from "./export-process.js";

export interface ExportSoakOptions {
  readonly seed: number;
  readonly mutants: number;
  readonly records: number;
  readonly log: (line: string) => void;
}

const LEAST_MUTANTS = 1000;
const opTimeoutMs = 60_000;

const script = fileURLToPath(new URL("export-process.ts", import.meta.url));
const mb = (bytes: number): string => `${Math.round(bytes / 1024 / 1024)} MB`;

/** Waits for the end of a process. What it prints goes to `take`, piece by piece. */
async function ended(command: string, args: readonly string[], take: (piece: Buffer) => void): Promise<void> {
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "inherit"] });
  child.stdout.on("data", take);
  const [code] = (await once(child, "close")) as [number | null];
  if (code !== 0) throw new Error(`${command} ended with ${String(code)}`);
}

async function perform(task: Task): Promise<Taken> {
  let text = "";
  await ended(process.execPath, ["--expose-gc", "--import", "tsx", script, JSON.stringify(task)], (piece) => {
    text += piece.toString();
  });
  return JSON.parse(text) as Taken;
}

/** What the store itself takes is what it takes when it is open and idle, in a process that did nothing else. */
async function tryMany(at: Task["at"], records: number, log: (line: string) => void): Promise<void> {
  const name = Object.keys(at).join("");
  const put = await perform({ work: "import", at, records });
  const got = await perform({ work: "export", at, records });
  if (got.digest !== put.digest) throw new Error("what came out is not what went in");
  const own = got.open - got.before;
  const rate = (seconds: number): string => `${Math.round(records / seconds)} a second`;
  const above = (taken: Taken): string => mb(Math.max(0, taken.peak - taken.before - own));
  log(
    `${name}: import of ${records} records: ${rate(put.seconds)}, at most ${above(put)} above the store's ${mb(own)}`,
  );
  log(`${name}: export of them: ${rate(got.seconds)}, at most ${above(got)} above the store's`);
}

/** What SQLite's own shell takes for the same file, which has several records in a row. */
async function tryDump(path: string, log: (line: string) => void): Promise<void> {
  const began = performance.now();
  let bytes = 0;
  try {
    await ended("sqlite3", ["-readonly", path, ".dump"], (piece) => {
      bytes += piece.length;
    });
  } catch (error) {
    log(`sqlite3 .dump: SKIPPED: ${String(error)}`);
    return;
  }
  const seconds = (performance.now() - began) / 1000;
  log(`sqlite3 .dump of the closed file: ${seconds.toFixed(1)} s, ${mb(bytes)} of text`);
}

async function tryBackends(folder: string, records: number, log: (line: string) => void): Promise<void> {
  const path = join(folder, "many.db");
  await tryMany({ sqlite: path }, records, log);
  await tryDump(path, log);
  await using server = await startNatsServer();
  await tryMany({ jetstream: server.url }, records, log);
}

async function tryMutants(store: Store, lines: readonly string[], seed: number, count: number): Promise<void> {
  for (const { what, text } of mutants(lines, seed, count)) {
    const looking = async function* (): AsyncIterable<string> {
      for (let i = 0; i < text.length; i += 20_000) {
        yield text.slice(i, i + 20_000);
        if (await admits(store)) throw new Error(`${what}: somebody came in`);
      }
    };
    const error = await importStore(looking(), store).catch((reason: unknown) => reason);
    if (!isCorrupt(error) && !isIncompatible(error)) throw new Error(`${what}: not refused`, { cause: error });
    if (await admits(store)) throw new Error(`${what}: somebody came in`);
    if ((await store.users.list()).items.length > 0) throw new Error(`${what}: somebody is left`);
  }
}

export async function run(options: ExportSoakOptions): Promise<object> {
  const { seed, records, log } = options;
  const count = Math.max(options.mutants, LEAST_MUTANTS);
  const folder = await mkdtemp(join(tmpdir(), "unibus-export-"));
  try {
    await tryBackends(folder, records, log);
    const lines = await manyLines(1000);
    const store = await openSqlite(join(folder, "mutants.db"), { opTimeoutMs });
    await tryMutants(store, lines, seed, count);
    const { digest } = await importStore(lines, store);
    if (digestOf(await linesOf(store)) !== digest) throw new Error("the whole text did not go in");
    await store.close();
    return { records, mutants: count };
  } finally {
    await rm(folder, { recursive: true });
  }
}
