// Exports of many records: how fast they come out and go in, and what that takes of memory beside the store. And a thousand
// damaged texts, each of which is refused, and lets nobody in.

import { createHash } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { exportStore, importStore, isCorrupt, isIncompatible, openSqlite, type Store } from "unibus-membership";
import { admits, digestOf, linesOf, manyLines, mutants } from "../support/exports.js";

export interface ExportSoakOptions {
  readonly seed: number;
  readonly mutants: number;
  readonly records: number;
  readonly log: (line: string) => void;
}

const LEAST_MUTANTS = 1000;
const NOW = "2026-01-02T03:04:05.678Z";
const opTimeoutMs = 60_000;

/** The records that an export of so many would have, half of them users, and rooms of five members with a key each. */
function* recordsOf(count: number): Iterable<object> {
  const users = Math.floor(count / 2);
  for (let i = 0; i < users; i++) {
    const key = createHash("sha256").update(String(i)).digest("hex");
    yield { user: { key, role: i === 0 ? "admin" : "member", status: "active", name: `user ${i}`, createdAt: NOW } };
  }
  for (let i = 0; i < Math.floor((count - users) / 11); i++) {
    const roomId = `room-${i}`;
    const room = { id: roomId, name: "", encrypted: true, owner: "m0", epoch: 1, rekeyRequired: false, createdAt: NOW };
    yield { room };
    for (let j = 0; j < 5; j++) {
      const endpoint = `m${j}`;
      const role = j === 0 ? "owner" : "member";
      yield { member: { roomId, endpoint, role, state: "joined", since: NOW } };
      yield { key: { roomId, endpoint, epoch: 1, sealed: Buffer.alloc(96, j + 1).toString("base64"), createdAt: NOW } };
    }
  }
}

/** The text of an export, by what the documents say of it and not by the library. */
function* textOf(records: Iterable<object>): Iterable<string> {
  const sha256 = createHash("sha256");
  const counts = { users: 0, rooms: 0, members: 0, roomKeys: 0 };
  let sum = 0n;
  const add = (text: string): void => {
    sum = (sum + BigInt(`0x${createHash("sha256").update(text).digest("hex")}`)) % 2n ** 256n;
  };
  const line = (value: object): string => {
    const ended = `${JSON.stringify(value)}\n`;
    sha256.update(ended);
    return ended;
  };
  yield line({ format: "unibus-membership export", version: 1, counts, adminEver: true, revisionFloor: 1 });
  for (const record of records) {
    add(JSON.stringify(record));
    if ("user" in record) counts.users++;
    else if ("room" in record) counts.rooms++;
    else if ("member" in record) counts.members++;
    else counts.roomKeys++;
    yield line(record);
  }
  add('{"adminEver":true}');
  const digest = sum.toString(16).padStart(64, "0");
  yield `${JSON.stringify({ end: { counts, digest, sha256: sha256.digest("hex") } })}\n`;
}

/** What memory a work takes at most, and its seconds. */
async function measured<T>(work: () => Promise<T>): Promise<{ result: T; peak: number; seconds: number }> {
  globalThis.gc?.();
  let peak = process.memoryUsage.rss();
  const timer = setInterval(() => {
    peak = Math.max(peak, process.memoryUsage.rss());
  }, 20);
  const began = performance.now();
  try {
    const result = await work();
    return { result, peak: Math.max(peak, process.memoryUsage.rss()), seconds: (performance.now() - began) / 1000 };
  } finally {
    clearInterval(timer);
  }
}

const mb = (bytes: number): string => `${Math.round(bytes / 1024 / 1024)} MB`;

async function tryMany(folder: string, records: number, log: (line: string) => void): Promise<void> {
  const store = await openSqlite(join(folder, "many.db"), { opTimeoutMs });
  const took = await measured(() => importStore(textOf(recordsOf(records)), store));
  const { counts, digest } = took.result;
  const total = counts.users + counts.rooms + counts.members + counts.roomKeys;
  globalThis.gc?.();
  const own = process.memoryUsage.rss();
  log(
    `import of ${total} records: ${Math.round(total / took.seconds)} a second, peak ${mb(took.peak - own)} above ${mb(own)} after it`,
  );
  const gave = await measured(async () => {
    let last = "";
    for await (const line of exportStore(store)) last = line;
    return last;
  });
  if (digestOf([gave.result]) !== digest) throw new Error("what came out is not what went in");
  log(
    `export of them: ${Math.round(total / gave.seconds)} a second, peak ${mb(gave.peak - own)} above the store's ${mb(own)}`,
  );
  await store.close();
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
    await tryMany(folder, records, log);
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
