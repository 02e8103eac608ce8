// npm run soak -- --sqlite-size [--records 50000]: as many keys of 64 KiB, one after the other, then closed and opened
// again; and logs of rekeys alone, killed. Needs as much room on the disk, and memory, as the keys take several times.

import { spawn } from "node:child_process";
import { mkdtemp, readdir, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { isUnavailable, openSqlite, type StoreError } from "unibus-membership";

const KEY_BYTES = 65_536;
const opTimeoutMs = 60_000;
const MEMBERS = 1000;

/** A key that is no other's, and no part of which is zero. */
function keyOf(n: number): Uint8Array {
  const key = new Uint8Array(KEY_BYTES);
  for (let i = 0; i < KEY_BYTES; i++) key[i] = 1 + ((n * 31 + i * 7 + (i >>> 8)) % 255);
  return key;
}

function isSame(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}

const seconds = (since: number): string => `${((performance.now() - since) / 1000).toFixed(1)} s`;

async function bytesOf(folder: string): Promise<string> {
  const sizes = await Promise.all(
    (await readdir(folder)).map(
      async (name) => `${name} ${String(Math.round((await stat(join(folder, name))).size / 2 ** 20))} MiB`,
    ),
  );
  return sizes.join(", ");
}

async function keys(folder: string, records: number, log: (line: string) => void): Promise<void> {
  const path = join(folder, "keys.db");
  const store = await openSqlite(path, {
    opTimeoutMs,
    onCheckpoint: ({ ok, error }) => {
      if (!ok) log(String(error));
    },
  });
  let since = performance.now();
  let n = 0;
  for (; n < records; n++) {
    const error = await store.rooms.create({ id: `r${n}`, owner: `o${n}`, encrypted: true, sealedKey: keyOf(n) }).then(
      () => undefined,
      (reason: unknown) => reason as StoreError,
    );
    if (error === undefined) continue;
    if (!isUnavailable(error) || error.outcome !== "none") throw error;
    log(`${n} keys, then refused: ${error.message}`);
    break;
  }
  log(`${n} keys written one after the other in ${seconds(since)}: ${await bytesOf(folder)}`);
  since = performance.now();
  await store.close();
  log(`closed in ${seconds(since)}: ${await bytesOf(folder)}`);
  since = performance.now();
  const again = await openSqlite(path, { opTimeoutMs });
  log(`opened in ${seconds(since)}, ${Math.round(process.memoryUsage().rss / 2 ** 20)} MiB of memory`);
  for (let i = 0; i < n; i++) {
    if (!isSame((await again.roomKeys.get(`r${i}`, `o${i}`)).sealed, keyOf(i)))
      throw new Error(`the key of room ${i} is another`);
  }
  await again.close();
  log("every key that was acknowledged is there");
}

/**
 * In a process of its own, which is killed: rekeys of one room until they are refused, or `rekeys` of them. No
 * checkpoint succeeds.
 */
async function rekeying(path: string, rekeys: number): Promise<void> {
  const { promises: fs } = await import("node:fs");
  const { rename } = fs;
  const store = await openSqlite(path, { opTimeoutMs });
  await store.rooms.create({ id: "room", owner: "m0", encrypted: true });
  for (let i = 1; i < MEMBERS; i++) await store.members.add("room", { endpoint: `m${i}` });
  fs.rename = (from, to) =>
    String(from).endsWith("-checkpoint") ? Promise.reject(new Error("no room")) : rename(from, to);
  for (let epoch = 0; epoch < rekeys; epoch++) {
    const sealed = new Map(Array.from({ length: MEMBERS }, (_, i) => [`m${i}`, keyOf(epoch * MEMBERS + i)]));
    const error = await store.roomKeys.rekey("room", sealed, { expectedEpoch: epoch }).then(
      () => undefined,
      (reason: unknown) => reason,
    );
    if (error !== undefined) {
      console.log(error instanceof Error ? error.message : "refused");
      break;
    }
    console.log(`epoch ${epoch + 1}`);
  }
  process.kill(process.pid, "SIGKILL");
}

async function logs(folder: string, rekeys: number, log: (line: string) => void): Promise<void> {
  const path = join(folder, "logs.db");
  const child = spawn(process.execPath, ["--import", "tsx", fileURLToPath(import.meta.url), path, String(rekeys)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let epoch = 0;
  for await (const line of createInterface({ input: child.stdout })) {
    if (line.startsWith("epoch ")) epoch = Number(line.slice(6));
    else log(`after ${epoch} rekeys of ${MEMBERS} members: ${line}`);
  }
  log(`${epoch} rekeys acknowledged, killed: ${await bytesOf(folder)}`);
  const since = performance.now();
  const store = await openSqlite(path, { opTimeoutMs });
  log(`opened in ${seconds(since)}`);
  const found = await store.rooms.get("room");
  if (found.epoch !== epoch && found.epoch !== epoch + 1) throw new Error(`the room is at epoch ${found.epoch}`);
  for (let held = 1; held <= epoch; held++) {
    for (let i = 0; i < MEMBERS; i += 97) {
      if (!isSame((await store.roomKeys.get("room", `m${i}`, held)).sealed, keyOf((held - 1) * MEMBERS + i)))
        throw new Error(`member ${i} has another key of epoch ${held}`);
    }
  }
  await store.close();
  log(`closed: ${await bytesOf(folder)}`);
}

export async function run({ records, log }: { records: number; log: (line: string) => void }): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "unibus-size-"));
  try {
    for (const [name, part] of [
      ["logs", () => logs(folder, Math.ceil(records / MEMBERS), log)],
      ["keys", () => keys(folder, records, log)],
    ] as const) {
      log(`${name}:`);
      await part();
      for (const file of await readdir(folder)) await rm(join(folder, file));
    }
  } finally {
    await rm(folder, { recursive: true });
  }
}

const [, script, path, rekeys] = process.argv;
if (script === fileURLToPath(import.meta.url) && path !== undefined) await rekeying(path, Number(rekeys));
