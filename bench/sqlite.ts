// The SQLite backend beside better-sqlite3 and node:sqlite, in one run: medians of 5 rounds in which everybody has
// turns. Exits with 1 if a ratio misses its floor.

import { spawnSync } from "node:child_process";
import { constants, mkdtempSync, rmSync, write } from "node:fs";
import { mkdir, open, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setImmediate as turn } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { isAuthorized, openSqlite, type Store } from "../dist/index.js";
import {
  addInFlight,
  betterSqlite,
  copied,
  keyOf,
  nodeSqlite,
  standstill,
  type SyncDatabase,
} from "./sqlite-support.js";
import { median, opTimeoutMs, seconds } from "./support.js";

const ROUNDS = 5;
const SMALL = 1_000;
const LARGE = Number(process.env["BENCH_USERS"] ?? 1_000_000);

/** Makes the three databases, with the same users. */
async function populate(
  folder: string,
  users: number,
  node: ((path: string) => SyncDatabase) | undefined,
): Promise<void> {
  const store = await openSqlite(join(folder, `own-${users}`), { opTimeoutMs });
  await addInFlight(store, 0, users, 1024);
  await store.close();
  for (const [name, open] of [
    ["better", betterSqlite],
    ["node", node],
  ] as const) {
    const database = open?.(join(folder, `${name}-${users}`));
    database?.bulk(0, users);
    database?.close();
  }
}

/**
 * What nobody who writes without blocking can be faster than: an append to a log that has its blocks, one at a time.
 */
async function plainLog(path: string): Promise<{ append(count: number): Promise<void>; close(): Promise<void> }> {
  await writeFile(path, Buffer.alloc(PLAIN_LOG_BYTES), { flush: true });
  const file = await open(path, constants.O_RDWR | constants.O_DSYNC);
  const record = Buffer.alloc(RECORD_BYTES, "record");
  let at = 0;
  return {
    append: async (count) => {
      for (let n = 0; n < count; n++, at += RECORD_BYTES) {
        await new Promise<void>((resolve, reject) => {
          write(file.fd, record, 0, RECORD_BYTES, at % (PLAIN_LOG_BYTES - RECORD_BYTES), (error) => {
            if (error === null) resolve();
            else reject(error);
          });
        });
      }
    },
    close: () => file.close(),
  };
}

interface Figures {
  readonly plain: number;
  readonly add: Map<number, number>;
  readonly addBetter: number;
  readonly addNode: number | undefined;
  readonly check: number;
  readonly get: number;
  readonly getNode: number | undefined;
}

/**
 * What one turn does, and how many turns a round has: short ones, so that whatever else the machine does hits everybody
 * alike.
 */
const IN_FLIGHT: readonly (readonly [inFlight: number, count: number])[] = [
  [1, 500],
  [64, 2_560],
  [1024, 8_192],
];
const SYNC_ADDS = 500;
const READS = 20_000;
const TURNS = 6;
/** Of a user, in the log. */
const RECORD_BYTES = 200;
const PLAIN_LOG_BYTES = 1024 * 1024;

/** How often per second, over all turns of one round. */
class Rate {
  #done = 0;
  #seconds = 0;

  async of(count: number, work: () => unknown): Promise<void> {
    this.#seconds += await seconds(work);
    this.#done += count;
  }

  get perSecond(): number {
    return this.#done / this.#seconds;
  }
}

/** One round: on files that hold `users` users when it begins, whatever was added in the rounds before. */
async function round(
  folder: string,
  users: number,
  node: ((path: string) => SyncDatabase) | undefined,
): Promise<Figures> {
  const place = join(folder, "round");
  await mkdir(place);
  const fresh = (name: string): Promise<string> => copied(join(folder, `${name}-${users}`), join(place, name));
  const own = await openSqlite(await fresh("own"), { opTimeoutMs });
  const better = betterSqlite(await fresh("better"));
  const other = node?.(await fresh("node"));
  const log = await plainLog(join(place, "plain"));
  try {
    const adds = new Map(IN_FLIGHT.map(([inFlight]) => [inFlight, new Rate()]));
    const [plain, addBetter, addNode, check, get, getNode] = [
      new Rate(),
      new Rate(),
      new Rate(),
      new Rate(),
      new Rate(),
      new Rate(),
    ];
    let next = users;
    for (let i = 0; i < TURNS; i++) {
      const syncAdds = (database: SyncDatabase) => (): void => {
        for (let n = next; n < next + SYNC_ADDS; n++) database.add(keyOf(n), n);
      };
      for (const [inFlight, count] of IN_FLIGHT) {
        await adds.get(inFlight)?.of(count, () => addInFlight(own, next, count, inFlight));
        next += count;
        // Between them, so that the nearest turn to compare with is never far.
        await addBetter.of(SYNC_ADDS, syncAdds(better));
        if (other !== undefined) await addNode.of(SYNC_ADDS, syncAdds(other));
        next += SYNC_ADDS;
      }
      await plain.of(SYNC_ADDS, () => log.append(SYNC_ADDS));

      // Made beforehand, and each a string of its own: as a request brings it.
      const keys = Array.from({ length: READS }, (_, n) => keyOf(((i * READS + n) * 7919) % users));
      await turn();
      await check.of(READS, async () => {
        for (const key of keys) if (!(await isAuthorized(own, key))) throw new Error("denied");
      });
      const gets = (database: SyncDatabase) => (): void => {
        for (const key of keys) if (database.get(key) === undefined) throw new Error("not found");
      };
      await get.of(READS, gets(better));
      if (other !== undefined) await getNode.of(READS, gets(other));
    }
    return {
      plain: plain.perSecond,
      add: new Map([...adds].map(([inFlight, rate]) => [inFlight, rate.perSecond])),
      addBetter: addBetter.perSecond,
      addNode: other === undefined ? undefined : addNode.perSecond,
      check: check.perSecond,
      get: get.perSecond,
      getNode: other === undefined ? undefined : getNode.perSecond,
    };
  } finally {
    await own.close();
    better.close();
    other?.close();
    await log.close();
    await rm(place, { recursive: true });
  }
}

/** The sizes in turn, so that how their costs compare does not rest on what the machine did when. */
async function measured(
  folder: string,
  node: ((path: string) => SyncDatabase) | undefined,
): Promise<{ small: Figures; large: Figures }> {
  const small: Figures[] = [];
  const large: Figures[] = [];
  for (let i = 0; i < ROUNDS; i++) {
    small.push(await round(folder, SMALL, node));
    large.push(await round(folder, LARGE, node));
  }
  return { small: medians(small), large: medians(large) };
}

function medians(rounds: readonly Figures[]): Figures {
  const middle = (of: (figures: Figures) => number): number => median(rounds.map(of));
  const [first] = rounds;
  return {
    plain: middle(({ plain }) => plain),
    add: new Map(IN_FLIGHT.map(([inFlight]) => [inFlight, middle(({ add }) => add.get(inFlight) ?? NaN)])),
    addBetter: middle(({ addBetter }) => addBetter),
    addNode: first?.addNode === undefined ? undefined : middle(({ addNode }) => addNode ?? NaN),
    check: middle(({ check }) => check),
    get: middle(({ get }) => get),
    getNode: first?.getNode === undefined ? undefined : middle(({ getNode }) => getNode ?? NaN),
  };
}

/** Opening, against reading every row once, of databases with the same users. */
async function openings(folder: string, users: number): Promise<{ own: number; better: number }> {
  const own: number[] = [];
  const better: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    let store: Store | undefined;
    own.push(
      await seconds(async () => {
        store = await openSqlite(join(folder, `own-${users}`), { opTimeoutMs });
      }),
    );
    await store?.close();
    let database: SyncDatabase | undefined;
    better.push(
      await seconds(() => {
        database = betterSqlite(join(folder, `better-${users}`));
        database.all();
      }),
    );
    database?.close();
  }
  return { own: median(own), better: median(better) };
}

/** In a process of its own, so that nobody else's garbage is counted. */
async function memory(path: string): Promise<void> {
  const collect = (globalThis as { gc?: () => void }).gc;
  const used = (): number => {
    collect?.();
    collect?.();
    const { heapUsed, external } = process.memoryUsage();
    return heapUsed + external;
  };
  const empty = await openSqlite(":memory:");
  const before = used();
  const store = await openSqlite(path, { opTimeoutMs });
  await turn();
  console.log(String(used() - before));
  await store.close();
  await empty.close();
}

function memoryOf(path: string): number {
  const child = spawnSync(process.execPath, ["--expose-gc", "--import", "tsx", fileURLToPath(import.meta.url), path], {
    encoding: "utf8",
    cwd: fileURLToPath(new URL(".", import.meta.url)),
  });
  if (child.status !== 0) throw new Error(child.stderr);
  return Number(child.stdout);
}

const count = (value: number): string => Math.round(value).toLocaleString("en-US");
const ms = (value: number): string => `${(value * 1000).toFixed(0)} ms`;
let missed = 0;

function ratio(name: string, value: number, floor: number, aim?: number): void {
  const ok = value >= floor;
  if (!ok) missed++;
  console.log(
    `  ${ok ? "ok    " : "MISSED"} ${name}: ${value.toFixed(2)}x (at least ${floor}x${aim === undefined ? "" : `, aim ${aim}x`})`,
  );
}

function atMost(name: string, value: number, ceiling: number): void {
  const ok = value < ceiling;
  if (!ok) missed++;
  console.log(`  ${ok ? "ok    " : "MISSED"} ${name}: ${value.toFixed(2)}x (less than ${ceiling}x)`);
}

function report(users: number, figures: Figures): void {
  console.log(`\n${count(users)} users, medians of ${ROUNDS}`);
  console.log(`  better-sqlite3 add ${count(figures.addBetter)}/s, get ${count(figures.get)}/s`);
  if (figures.addNode !== undefined && figures.getNode !== undefined) {
    console.log(`  node:sqlite    add ${count(figures.addNode)}/s, get ${count(figures.getNode)}/s`);
  } else {
    console.log(`  node:sqlite    not in Node ${process.version}`);
  }
  const alone = figures.add.get(1) ?? NaN;
  console.log(
    `  a plain append ${count(figures.plain)}/s: users.add, 1 in flight, has ${(alone / figures.plain).toFixed(2)}x of that, better-sqlite3 ${(figures.addBetter / figures.plain).toFixed(2)}x`,
  );
  const floors = new Map([
    [1, [0.8, 1]],
    [64, [8, 12]],
    [1024, [20, 30]],
  ]);
  for (const [inFlight, rate] of figures.add) {
    const [floor = 0, aim = 0] = floors.get(inFlight) ?? [];
    ratio(`users.add, ${inFlight} in flight, ${count(rate)}/s`, rate / figures.addBetter, floor, aim);
  }
  ratio(`isAuthorized, ${count(figures.check)}/s`, figures.check / figures.get, 8, 12);
}

async function main(): Promise<void> {
  const path = process.argv[2];
  if (path !== undefined) return memory(path);
  const folder = mkdtempSync(join(process.env["BENCH_FOLDER"] ?? tmpdir(), "unibus-bench-"));
  try {
    const node = await nodeSqlite();
    console.log(`Node ${process.version}, ${process.platform} ${process.arch}`);
    await populate(folder, SMALL, node);
    await populate(folder, LARGE, node);
    // Before anything is added to them: both have the same rows to read.
    const opened = await openings(folder, LARGE);
    const stalled = await standstill(folder, LARGE, ROUNDS);
    const perUser = memoryOf(join(folder, `own-${LARGE}`)) / LARGE;
    const { small, large } = await measured(folder, node);
    report(SMALL, small);
    report(LARGE, large);

    console.log(`\nFrom ${count(SMALL)} to ${count(LARGE)} users, the cost of`);
    for (const [inFlight, rate] of small.add)
      atMost(`users.add, ${inFlight} in flight`, rate / (large.add.get(inFlight) ?? 0), 1.5);
    // A million records do not fit into the caches of a processor, whoever looks them up: better-sqlite3 is the
    // measure.
    atMost(
      "isAuthorized, as a part of what better-sqlite3's get grows by",
      small.check / large.check / (small.get / large.get),
      1,
    );

    console.log(`\nOpening ${count(LARGE)} users`);
    console.log(`  opening ${opened.own.toFixed(2)} s, better-sqlite3 reads all in ${opened.better.toFixed(2)} s`);
    atMost("opening", opened.own / opened.better, 3);
    console.log(`  memory: ${count(perUser)} bytes per user`);

    console.log(`\nA checkpoint of ${count(LARGE)} users`);
    console.log(
      `  the event loop stands still for ${ms(stalled.own)}, an export by sql.js alone takes ${ms(stalled.exporting)}`,
    );
    atMost("the longest standstill", stalled.own / stalled.exporting, 1.25);
  } finally {
    rmSync(folder, { recursive: true });
  }
  if (missed > 0) process.exitCode = 1;
}

await main();
