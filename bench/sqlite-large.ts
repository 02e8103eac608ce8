// A large SQLite file: how long the event loop stands still in opening, checkpoints and closing, what a lone writer
// keeps of its rate beside a checkpoint, in turns with one that is held, and memory. With
// BENCH_BASELINE=/other/build/index.js also another build of the library, in turns with this one. Exits with 1 if a
// figure misses its bound.

import { fork, type ChildProcess } from "node:child_process";
import { readFileSync, statSync } from "node:fs";
import { mkdir, mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { syncBuiltinESMExports } from "node:module";
import { setImmediate as turn, setTimeout as pause } from "node:timers/promises";
import { fileURLToPath, pathToFileURL } from "node:url";
import threads from "node:worker_threads";
import type * as library from "../dist/index.js";

type Library = typeof library;

const MB = 1e6;
const IMAGE_BYTES = Number(process.env["BENCH_IMAGE_MB"] ?? 500) * MB;
/** Users, and rooms with a key; twice as many further members. */
const RECORDS = Number(process.env["BENCH_RECORDS"] ?? 1_000_000);
/** Of each kind, to tell what one takes in memory. */
const SAMPLE = 100_000;
const ROUNDS = 3;
const WINDOW_MS = 2000;
/** While a checkpoint lasts, its thread is held and let go in turns of this. What each began with does not count. */
const TURN_MS = 250;
const SETTLE_MS = 30;
const KEY_BYTES = 20_000;
const opTimeoutMs = 60_000;
const OWN = fileURLToPath(new URL("../dist/index.js", import.meta.url));
const BASELINE = process.env["BENCH_BASELINE"];

const median = (values: readonly number[]): number =>
  [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN;

/** So many pieces of work, a thousand at a time. */
async function inFlight(count: number, work: (n: number) => Promise<unknown>, width = 1024): Promise<void> {
  let next = 0;
  await Promise.all(
    Array.from({ length: width }, async () => {
      while (next < count) await work(next++);
    }),
  );
}

const scattered = (n: number): string => ((n * 2_654_435_761) % 2 ** 32).toString(16).padStart(8, "0");
const sealedKey = new Uint8Array(80).fill(7);
const publicKey = new Uint8Array(32).fill(3);

async function populate(
  build: string,
  path: string,
  counts: { users: number; rooms: number; members: number },
): Promise<void> {
  const { openSqlite } = (await import(pathToFileURL(build).href)) as Library;
  const store = await openSqlite(path, { opTimeoutMs });
  const room = (n: number): string => `room-${scattered(n).repeat(2)}`;
  await inFlight(counts.users, (n) => store.users.add({ key: scattered(n).repeat(8), name: `user ${n}` }));
  await inFlight(counts.rooms, (n) =>
    store.rooms.create({
      id: room(n),
      name: `room ${n}`,
      encrypted: true,
      owner: `owner-${scattered(n)}`,
      sealedKey,
      ownerPublicKey: publicKey,
    }),
  );
  await inFlight(counts.members, (n) =>
    store.members.add(room(n % counts.rooms), {
      endpoint: `member-${n % (SAMPLE / 2)}-${Math.floor(n / counts.rooms)}`,
      state: "joined",
      publicKey,
    }),
  );
  await store.close();
}

function residentMb(): number {
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync("/proc/self/status", "utf8"))?.[1] ?? NaN) / 1000;
}

interface Window {
  readonly seconds: number;
  /** The longest that the event loop stood still, here and in a process that does nothing. */
  readonly stallMs: number;
  readonly idleMs: number;
  /** Megabytes that were resident at most. */
  readonly peakMb: number;
}

/** A process that does nothing, and stands still only where the machine does. */
async function idleProcess(): Promise<{ begin(): Promise<void>; end(): Promise<number>; stop(): unknown }> {
  const child = fork(fileURLToPath(import.meta.url), ["idle"], { execArgv: ["--import", "tsx"] });
  const asked = async (what: string): Promise<number> => {
    const answer = new Promise<number>((resolve) => child.once("message", (value) => resolve(Number(value))));
    child.send(what);
    return answer;
  };
  const begin = async (): Promise<void> => {
    await asked("begin");
  };
  await begin();
  return { begin, end: () => asked("end"), stop: () => child.kill() };
}

function idle(): void {
  const delays = monitorEventLoopDelay({ resolution: 1 });
  delays.enable();
  process.on("message", (what) => {
    const max = delays.max / 1e6;
    if (what === "begin") delays.reset();
    process.send?.(max);
  });
}

async function watched(
  neighbour: Awaited<ReturnType<typeof idleProcess>>,
  work: () => Promise<unknown>,
): Promise<Window> {
  const delays = monitorEventLoopDelay({ resolution: 1 });
  let peakMb = residentMb();
  const look = setInterval(() => {
    peakMb = Math.max(peakMb, residentMb());
  }, 20);
  await neighbour.begin();
  delays.enable();
  await turn();
  const began = performance.now();
  await work();
  const seconds = (performance.now() - began) / 1000;
  await turn();
  delays.disable();
  clearInterval(look);
  return { seconds, stallMs: delays.max / 1e6, idleMs: await neighbour.end(), peakMb: Math.max(peakMb, residentMb()) };
}

/**
 * Lets the thread of a checkpoint be held where it rests, so that what a lone writer keeps is measured in turns:
 * whatever else the machine does hits both alike. What a thread that is held has taken was done before.
 */
function holdable(): Int32Array {
  const hold = new Int32Array(new SharedArrayBuffer(4));
  const { Worker } = threads;
  const prelude = `{
    const hold = new Int32Array(require("node:worker_threads").workerData.hold);
    const { wait } = Atomics;
    Atomics.wait = (...args) => {
      const result = wait(...args);
      while (hold[0] !== 0) wait(hold, 0, 1);
      return result;
    };
  }`;
  threads.Worker = class extends Worker {
    constructor(source: string, options: threads.WorkerOptions) {
      const workerData = options.workerData as object;
      super(prelude + source, { ...options, workerData: { ...workerData, hold: hold.buffer } });
    }
  };
  syncBuiltinESMExports();
  return hold;
}

interface Large {
  readonly imageBytes: number;
  readonly opening: Window;
  readonly checkpoint: Window;
  readonly closing: Window;
  /** What a caller alone writes in a second. */
  readonly before: number;
  readonly beside: number;
  /** The part of its rate that it keeps, in turns with a checkpoint that is held. */
  readonly kept: number;
}

/** Opens a file, makes its log outgrow it, looks at the checkpoint, and closes. */
async function largeFile(build: string, path: string): Promise<Large> {
  const hold = holdable();
  const { openSqlite } = (await import(pathToFileURL(build).href)) as Library;
  const neighbour = await idleProcess();
  let store: library.Store | undefined;
  const opening = await watched(neighbour, async () => {
    store = await openSqlite(path, { opTimeoutMs });
  });
  if (store === undefined) throw new Error("not opened");
  const own = store;
  let n = 0;
  const logs = (): number =>
    ["-redo0", "-redo1"].filter((end) => statSync(path + end, { throwIfNoEntry: false }) !== undefined).length;
  const alone = async (until: (ms: number) => boolean): Promise<number> => {
    const began = performance.now();
    let writes = 0;
    for (; !until(performance.now() - began); writes++) await own.users.add({ key: `${scattered(n)}-${n++}` });
    return (writes * 1000) / (performance.now() - began);
  };
  const key = new Uint8Array(KEY_BYTES).fill(7);
  const before: number[] = [];
  for (let i = 0; i < ROUNDS; i++) before.push(await alone((ms) => ms > WINDOW_MS));
  while (logs() < 2)
    await inFlight(
      256,
      () => own.rooms.create({ owner: `o${n}`, id: `more-${n++}`, encrypted: true, sealedKey: key }),
      64,
    );
  const rates: [free: number[], held: number[]] = [[], []];
  const checkpoint = await watched(neighbour, async () => {
    for (let i = 0; logs() === 2; i++) {
      // Each as often before the other as behind it.
      const held = ((i >> 1) + i) % 2;
      Atomics.store(hold, 0, held);
      Atomics.notify(hold, 0);
      await alone((ms) => ms > SETTLE_MS);
      const rate = await alone((ms) => ms > TURN_MS);
      if (logs() === 2) rates[held]?.push(rate);
    }
    Atomics.store(hold, 0, 0);
    Atomics.notify(hold, 0);
  });
  const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
  const [beside, held] = [mean(rates[0]), mean(rates[1])];
  for (let i = 0; i < ROUNDS; i++) before.push(await alone((ms) => ms > WINDOW_MS));
  const closing = await watched(neighbour, () => own.close());
  neighbour.stop();
  return {
    imageBytes: statSync(path).size,
    opening,
    checkpoint,
    closing,
    before: median(before),
    beside,
    kept: beside / held,
  };
}

interface Opened extends Window {
  readonly bytes: number;
}

async function opened(build: string, path: string): Promise<Opened> {
  const { openSqlite } = (await import(pathToFileURL(build).href)) as Library;
  const collect = (globalThis as { gc?: () => void }).gc;
  const used = (): number => {
    collect?.();
    collect?.();
    const { heapUsed, external } = process.memoryUsage();
    return heapUsed + external;
  };
  // What is there once for all, as SQLite's WebAssembly is, is not a record's.
  const folder = await mkdtemp(join(tmpdir(), "unibus-first-"));
  await (await openSqlite(join(folder, "first.db"))).close();
  await rm(folder, { recursive: true });
  const neighbour = await idleProcess();
  const before = used();
  let store: library.Store | undefined;
  const window = await watched(neighbour, async () => {
    store = await openSqlite(path, { opTimeoutMs });
  });
  const bytes = used() - before;
  await store?.close();
  neighbour.stop();
  return { ...window, bytes };
}

/** In a process of its own, so that nobody else's garbage is counted. */
function measured<T>(...args: readonly string[]): Promise<T> {
  return new Promise((resolve, reject) => {
    const child: ChildProcess = fork(fileURLToPath(import.meta.url), [...args], {
      execArgv: ["--expose-gc", "--import", "tsx"],
    });
    child.once("message", (message) => resolve(message as T));
    child.once("exit", (code) => reject(new Error(`${args.join(" ")} ended with ${code}`)));
  });
}

let missed = 0;

function bound(name: string, value: number, most: number, unit = ""): void {
  const ok = value < most;
  if (!ok) missed++;
  console.log(`  ${ok ? "ok    " : "MISSED"} ${name}: ${value.toFixed(2)}${unit} (less than ${most}${unit})`);
}

const builds = (): [name: string, build: string][] => [
  ["this build", OWN],
  ...(BASELINE === undefined ? [] : [["the baseline", BASELINE] as [string, string]]),
];

async function reportLarge(folder: string): Promise<void> {
  for (const [name, build] of builds()) {
    const place = join(folder, "place");
    await mkdir(place);
    const { openSqlite } = (await import(pathToFileURL(build).href)) as Library;
    const store = await openSqlite(join(place, "own.db"), { opTimeoutMs });
    await inFlight(
      Math.ceil(IMAGE_BYTES / (KEY_BYTES * 1.05)),
      (n) =>
        store.rooms.create({
          id: `r${n}`,
          owner: `o${n}`,
          encrypted: true,
          sealedKey: new Uint8Array(KEY_BYTES).fill(n),
        }),
      64,
    );
    await store.close();
    const before = (await stat(join(place, "own.db"))).size;
    const large = await measured<Large>("large", build, join(place, "own.db"));
    console.log(
      `\n${name}: a file of ${(before / MB).toFixed(0)} MB, and ${(large.imageBytes / MB).toFixed(0)} MB after a checkpoint`,
    );
    for (const [what, { seconds, stallMs, idleMs, peakMb }, bytes] of [
      ["opening", large.opening, before],
      ["a checkpoint", large.checkpoint, large.imageBytes],
      ["closing", large.closing, large.imageBytes],
    ] as const) {
      console.log(
        `  ${what}: ${seconds.toFixed(1)} s; the event loop stands still for ${stallMs.toFixed(0)} ms, that of an idle process for ${idleMs.toFixed(0)} ms; ${peakMb.toFixed(0)} MB of memory`,
      );
      if (build !== OWN) continue;
      bound(`${what}, the longest standstill beside that of the machine`, Math.max(0, stallMs - idleMs), 100, " ms");
      bound(`${what}, memory as a part of the file`, peakMb / (bytes / MB), 2.2);
    }
    console.log(
      `  a lone writer: ${large.before.toFixed(0)}/s before and after, beside the checkpoint ${large.beside.toFixed(0)}/s, in turns with it ${(large.beside / large.kept).toFixed(0)}/s`,
    );
    if (build === OWN) bound("the part of its rate that a lone writer loses to a checkpoint", 1 - large.kept, 0.3);
    await rm(place, { recursive: true });
  }
}

async function reportRecords(folder: string): Promise<void> {
  const files = {
    users: { users: SAMPLE, rooms: 0, members: 0 },
    rooms: { users: 0, rooms: SAMPLE, members: 0 },
    members: { users: 0, rooms: SAMPLE, members: 2 * SAMPLE },
  };
  const found = new Map<string, { user: number; room: number; member: number; seconds: number }>();
  console.log(`\n${RECORDS.toLocaleString("en-US")} users and rooms with a key, twice as many further members`);
  for (const [name, build] of builds()) {
    // Each has files of its own: an older build does not read those of a newer one.
    const own = join(folder, name);
    await mkdir(own);
    for (const [file, counts] of Object.entries(files)) await populate(build, join(own, file), counts);
    const all = join(own, "all");
    await populate(build, all, { users: RECORDS, rooms: RECORDS, members: 2 * RECORDS });
    const bytes: Record<string, number> = {};
    for (const file of Object.keys(files))
      bytes[file] = (await measured<Opened>("opened", build, join(own, file))).bytes;
    const times: Opened[] = [];
    for (let i = 0; i < ROUNDS; i++) times.push(await measured<Opened>("opened", build, all));
    const { users = NaN, rooms = NaN, members = NaN } = bytes;
    const figures = {
      user: users / SAMPLE,
      room: rooms / SAMPLE,
      member: (members - rooms) / (2 * SAMPLE),
      seconds: median(times.map(({ seconds }) => seconds)),
    };
    found.set(name, figures);
    console.log(
      `  ${name}, ${((await stat(all)).size / MB).toFixed(0)} MB: opening ${figures.seconds.toFixed(1)} s, standing still for ${median(times.map(({ stallMs }) => stallMs)).toFixed(0)} ms (an idle process ${median(times.map(({ idleMs }) => idleMs)).toFixed(0)} ms)`,
    );
    console.log(
      `    bytes of memory: ${figures.user.toFixed(0)} a user, ${figures.room.toFixed(0)} a room with owner and key, ${figures.member.toFixed(0)} a member; ${(times[0]?.peakMb ?? NaN).toFixed(0)} MB at most`,
    );
  }
  const own = found.get("this build");
  const baseline = found.get("the baseline");
  if (own === undefined) return;
  if (baseline === undefined) {
    bound("opening", own.seconds, 15, " s");
    return;
  }
  bound("opening, of the baseline's time", own.seconds / baseline.seconds, 0.5);
  bound("a room's memory, of the baseline's", own.room / baseline.room, 0.6);
  bound("a member's memory, of the baseline's", own.member / baseline.member, 0.6);
}

async function main(): Promise<void> {
  const [what, build = "", path = ""] = process.argv.slice(2);
  if (what === "idle") {
    idle();
    return;
  }
  if (what === "large" || what === "opened") {
    process.send?.(await (what === "large" ? largeFile(build, path) : opened(build, path)));
    await pause(100);
    process.disconnect();
    return;
  }
  const folder = await mkdtemp(join(process.env["BENCH_FOLDER"] ?? tmpdir(), "unibus-bench-"));
  try {
    await reportLarge(folder);
    await reportRecords(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
  if (missed > 0) process.exitCode = 1;
}

await main();
