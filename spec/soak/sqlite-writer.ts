// The process that the soak kills. It waits for its orders, so that starting it costs the soak no time, then writes
// through many callers at once and tells each acknowledgement in the moment in which it has it.

import { writeSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { openSqlite } from "unibus-membership";
import { applyTo, nextOperation, perform, type Model } from "./sqlite-operations.js";
import { random } from "./random.js";

export interface Orders {
  readonly path: string;
  readonly seed: number;
  readonly callers: readonly { readonly n: number; readonly model: Model }[];
}

// Synchronous, so that nothing that was said is lost with the process.
const say = (text: string): void => {
  for (let rest = Buffer.from(`${text}\n`); rest.length > 0;) rest = rest.subarray(writeSync(1, rest));
};

async function write({ path, seed, callers }: Orders): Promise<void> {
  const store = await openSqlite(path, { opTimeoutMs: 60_000 });
  say("open");
  await Promise.all(
    callers.map(async ({ n: first, model }, caller) => {
      for (let n = first; ; n++) {
        const operation = nextOperation(model, caller, n, random(seed, caller, n));
        await perform(store, model, operation);
        say(`${caller} ${n}`);
        applyTo(model, operation);
      }
    }),
  );
}

createInterface({ input: process.stdin }).once("line", (line) => {
  write(JSON.parse(line) as Orders).catch((error: unknown) => {
    console.error(error);
    process.exit(1);
  });
});
// Loads what opening needs, and so leaves the kills less of it and more of the store.
const folder = await mkdtemp(join(tmpdir(), "unibus-soak-warm-"));
await (await openSqlite(join(folder, "warm"))).close();
await rm(folder, { recursive: true });
say("ready");
