/**
 * The library's main job from end to end: `npm run example` on a SQLite file, `npm run example -- --jetstream` on a
 * cluster of three nats-servers. `npm run example -- --move` begins on the file, and moves to the cluster in the middle
 * of its work. It kills its own program in the middle, and ends with an error at the first surprise.
 */
import assert from "node:assert/strict";
import { fork, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { StoreConfig } from "unibus-membership";

const program = fileURLToPath(new URL("program.ts", import.meta.url));
const GUESTS_BEFORE_THE_KILL = 20;

const options = process.argv.slice(2);
assert.ok(
  options.length < 2 && options.every((option) => option === "--jetstream" || option === "--move"),
  "usage: npm run example [-- --jetstream | --move]",
);
const decentralized = options.includes("--jetstream");
const moves = options.includes("--move");

const folder = await mkdtemp(join(tmpdir(), "unibus-example-"));
let cluster: { readonly urls: readonly string[]; dispose(): Promise<void> } | undefined;
let running: ChildProcess | undefined;

function start(act: "first" | "second" | "third"): ChildProcess {
  running = fork(program, [act, folder], { stdio: ["ignore", "inherit", "inherit", "ipc"] });
  return running;
}

/** Resolves when the process is gone and everything that it sent has been read. */
async function ended(child: ChildProcess): Promise<{ code: number | null; signal: string | null }> {
  await Promise.all([once(child, "exit"), once(child, "disconnect")]);
  return { code: child.exitCode, signal: child.signalCode };
}

async function main(): Promise<void> {
  console.log(
    `The same program runs on a SQLite file and on a JetStream cluster; now it is ${decentralized ? "JetStream" : "SQLite"}.`,
  );
  if (decentralized || moves) {
    const { startNatsCluster } = await import("unibus-membership/testing");
    console.log("Starting a cluster of three nats-servers ...");
    cluster = await startNatsCluster();
  }
  // This file is all that differs. With both sections in it, the flag alone would swap the backend.
  const config: StoreConfig = {
    decentralized,
    sqlite: { path: join(folder, "membership.db") },
    ...(cluster === undefined ? {} : { jetstream: { connect: { servers: [...cluster.urls] }, replicas: 3 } }),
  };
  await writeFile(join(folder, "config.json"), JSON.stringify(config));

  const first = start("first");
  const acknowledged: string[] = [];
  const firstEnd = ended(first);
  first.on("message", (key) => {
    if (typeof key !== "string") return;
    acknowledged.push(key);
    // In the middle of the next write: nobody asked the process to finish anything.
    if (acknowledged.length === GUESTS_BEFORE_THE_KILL) first.kill("SIGKILL");
  });
  const end = await firstEnd;
  if (end.signal !== "SIGKILL")
    throw new Error(`the first process ended with ${String(end.code ?? end.signal)}, before it was killed`);
  console.log(
    `\nThe process was killed with SIGKILL after ${String(acknowledged.length)} acknowledged guests, in the middle of its work.`,
  );
  await writeFile(join(folder, "acknowledged.json"), JSON.stringify(acknowledged));

  for (const act of ["second", ...(moves ? ["third" as const] : [])] as const) {
    const { code, signal } = await ended(start(act));
    if (code !== 0) throw new Error(`the ${act} process ended with ${String(code ?? signal)}`);
  }
  console.log("\nEverything was as it should be.");
}

async function cleanUp(): Promise<void> {
  running?.kill("SIGKILL");
  await cluster?.dispose();
  await rm(folder, { recursive: true, force: true });
}

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.once(signal, () => {
    void cleanUp().finally(() => process.exit(1));
  });
}

try {
  await main();
} catch (error) {
  console.error("\nA surprise:", error);
  process.exitCode = 1;
} finally {
  await cleanUp();
}
