// The JetStream backend beside the plain KV calls of the same client, over the same connection to a real cluster of
// three servers, on R3 buckets with as many keys, small and large: medians of 5 rounds in which everybody has a turn.
// Three more stores work on the same buckets meanwhile, in a process of their own. Exits with 1 if a figure misses what
// is required of it.
//
// BENCH_USERS=1000,10000,1000000 are the sizes: so many users, rooms, and twice as many members, keys and index
// entries. BENCH_CHURN=100000 have joined and left the room, and so many rooms were deleted, beside which lists are
// measured. BENCH_KEEP=/some/folder keeps what was written, for the next run: a million records take a quarter of an
// hour.

import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { cp, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { connect, type KV, type NatsConnection as Client } from "nats";
import { StoreError, isAuthorized, openJetStream, type NatsConnection, type Store } from "../dist/index.js";
import { startNatsCluster, type NatsCluster } from "../dist/testing.js";
import { startEtcd } from "./etcd.js";
import { check, fill, keyOf, memberOf, roomOf } from "./jetstream-fill.js";
import { TICK_MS, busyTicks, leadTogether, plainBucket, plainValue, settled } from "./jetstream-support.js";
import { Report, inFlight, median, newKeys, opTimeoutMs, perSecond, range, seconds } from "./support.js";

const KEEP = process.env["BENCH_KEEP"];
const SIZES = (process.env["BENCH_USERS"] ?? "1000,10000,1000000").split(",").map(Number);
const CHURN = Number(process.env["BENCH_CHURN"] ?? 100_000);
/** BENCH_PARTS=checks,growth,rest */
const PARTS = new Set((process.env["BENCH_PARTS"] ?? "checks,growth,rest").split(","));
const ROUNDS = 5;
const WIDTHS = [1024, 64] as const;
const COUNTS: Record<(typeof WIDTHS)[number], number> = { 1024: 20_000, 64: 8_000 };
const ALONE = 500;
const ADDS = 3_000;
const ADDS_WIDTH = 256;
const MEMBERS = 1_000;
/** Of checks that may be answered from memory. */
const LEASE_MS = 100;
const CACHE_BYTES = 2 ** 30;
type Check = (n: number) => Promise<void>;

const must = async (what: Promise<boolean>, n: number): Promise<void> => {
  if (!(await what)) throw new Error(`denied: ${String(n)}`);
};
const checkUser =
  (store: Store): Check =>
  (n) =>
    must(isAuthorized(store, keyOf(n)), n);
const checkLeased =
  (store: Store): Check =>
  (n) =>
    must(isAuthorized(store, keyOf(n), { maxStalenessMs: LEASE_MS }), n);
const checkMember =
  (store: Store): Check =>
  (n) =>
    must(store.isMember(roomOf(n), memberOf(n)), n);
const getPlain =
  (kv: KV): Check =>
  async (n) => {
    const entry = await kv.get(keyOf(n));
    if (entry === null || entry.value.length === 0) throw new Error(`missing: ${String(n)}`);
  };

/** Distinct records, each in its turn. */
function* turnsOf(size: number, from: number, count: number): Iterable<number> {
  for (const n of range(from, from + count)) yield n % size;
}

/** Times of calls one after the other: their median in milliseconds. */
async function p50(items: Iterable<number>, call: (n: number) => Promise<unknown>): Promise<number> {
  const [only = NaN] = await p50InTurn(items, [call]);
  return only;
}

/**
 * The same of several, of which each has its turn after the other: a loop of one kind alone keeps everything at hand
 * for it.
 */
async function p50InTurn(
  items: Iterable<number>,
  calls: readonly ((n: number) => Promise<unknown>)[],
): Promise<number[]> {
  const times = calls.map((): number[] => []);
  for (const n of items) {
    for (const [i, call] of calls.entries()) {
      const began = performance.now();
      await call(n);
      times[i]?.push(performance.now() - began);
    }
  }
  return times.map(median);
}

/** Three stores beside, until the work is done. */
async function beside(
  how: "fast" | "slow",
  cluster: NatsCluster,
  size: number,
  work: () => Promise<void>,
): Promise<void> {
  const script = fileURLToPath(new URL("jetstream-busy.ts", import.meta.url));
  const child = spawn(process.execPath, ["--import", "tsx", script, how, String(size), ...cluster.urls], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  try {
    await new Promise<void>((resolve, reject) => {
      child.stdout.once("data", () => resolve());
      child.once("exit", (code) => reject(new Error(`the stores beside ended with ${String(code)}`)));
    });
    await work();
  } finally {
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.stdin.end();
    if (child.exitCode === null) await ended;
  }
}

/**
 * What is required of a check: its rate beside busy stores with 1,024 and with 64 in flight, times kv.get's, and its
 * p50, times a publish.
 */
interface Floor {
  readonly rates: readonly [number, number];
  readonly p50: number;
}

interface Contest {
  readonly what: string;
  readonly check: Check;
  readonly floor: Floor | undefined;
  /** Every call has a record that was never read. */
  readonly isCold?: boolean;
}

interface Setting {
  readonly report: Report;
  readonly client: Client;
  readonly cluster: NatsCluster;
  readonly kv: KV;
  readonly size: number;
}

async function rates({ report, kv, size }: Setting, beside: string, contests: readonly Contest[]): Promise<void> {
  const found = new Map<string, number[]>();
  let cold = 0;
  const note = (name: string, round: number, rate: number): void => {
    if (round >= 0) found.set(name, [...(found.get(name) ?? []), rate]);
  };
  for (let round = -1; round < ROUNDS; round++) {
    for (const width of WIDTHS) {
      for (const { what, check, isCold } of [...contests, { what: "kv.get", check: getPlain(kv), isCold: false }]) {
        const count = isCold === true ? COUNTS[width] / 10 : COUNTS[width];
        const from = isCold === true ? cold : (round + 1) * count;
        if (isCold === true) cold += count;
        note(
          `${what} ${String(width)}`,
          round,
          count / (await seconds(() => inFlight(width, turnsOf(size, from, count), check))),
        );
      }
    }
  }
  for (const [i, width] of WIDTHS.entries()) {
    const plain = median(found.get(`kv.get ${String(width)}`) ?? []);
    report.say(`kv.get with ${String(width)} in flight, ${beside}: ${perSecond(plain)}`);
    for (const { what, floor } of contests) {
      const rate = median(found.get(`${what} ${String(width)}`) ?? []);
      const least = floor?.rates[i] ?? 0;
      report.require(
        `${what}, ${String(width)} in flight, ${beside} (${perSecond(rate)}): times kv.get`,
        rate / plain,
        (x) => x >= least,
        `>= ${String(least)}`,
      );
    }
  }
}

async function latencies(
  { report, client, size }: Setting,
  beside: string,
  contests: readonly Contest[],
): Promise<void> {
  const found = new Map<string, number[]>();
  const all = [...contests, { what: "publish", check: () => client.request("$KV.plain.published", "x") }];
  for (let round = -1; round < ROUNDS; round++) {
    // None of them was asked for cold before.
    const times = await p50InTurn(
      turnsOf(size, Math.floor(size / 2) + (round + 1) * ALONE, ALONE),
      all.map(({ check }) => check),
    );
    if (round >= 0)
      for (const [i, { what }] of all.entries()) found.set(what, [...(found.get(what) ?? []), times[i] ?? NaN]);
  }
  const publish = median(found.get("publish") ?? []);
  report.say(`an acknowledged publish alone, ${beside}: p50 ${publish.toFixed(3)} ms`);
  for (const { what, floor } of contests) {
    const time = median(found.get(what) ?? []);
    const most = floor?.p50 ?? Infinity;
    report.require(
      `${what} alone, ${beside}: p50 (${time.toFixed(3)} ms), times a publish`,
      time / publish,
      (x) => x <= most,
      `<= ${String(most)}`,
    );
  }
}

async function checks(setting: Setting): Promise<void> {
  const { client, cluster, size, report } = setting;
  await using stranger = await openJetStream(client, 3, { opTimeoutMs, cacheBytes: 0 });
  const warm = Math.min(size, 200_000);
  for (const n of range(0, warm)) keyOf(n);
  // With fewer, what the client and the servers' answers took weighs more.
  if (warm >= 100_000) {
    const perUser = await memoryOfUsers(setting, warm);
    report.require("memory for each cached user, bytes", perUser, (x) => x > 0 && x < 120, "< 120");
  }
  await using store = await openJetStream(client, 3, { opTimeoutMs, cacheBytes: CACHE_BYTES });
  await inFlight(1024, range(0, warm), checkUser(store));
  await inFlight(1024, range(0, Math.min(size, 20_000)), checkMember(store));

  // What is asked for warm was read before. A store that reads it for the first time has nothing.
  const known = { ...setting, size: Math.min(size, 20_000) };
  const warmContests = (alone: boolean): Contest[] => [
    {
      what: "isAuthorized, warm",
      check: checkUser(store),
      floor: alone ? { rates: [6, 3], p50: 1.3 } : { rates: [4, 1.5], p50: 1.5 },
    },
    { what: "isMember, warm", check: checkMember(store), floor: alone ? undefined : { rates: [3, 1.2], p50: 1.6 } },
  ];
  const leasedContest: Contest = {
    what: `isAuthorized, at most ${String(LEASE_MS)} ms old`,
    check: checkLeased(store),
    floor: { rates: [30, 30], p50: Infinity },
  };
  const coldContest: Contest = {
    what: "isAuthorized, cold",
    check: checkUser(stranger),
    floor: { rates: [0.4, 0.2], p50: 2.5 },
    isCold: true,
  };
  await rates(known, "nobody beside", [...warmContests(true), leasedContest]);
  await latencies(known, "nobody beside", warmContests(true));
  await beside("fast", cluster, size, async () => {
    await rates(known, "beside 3 busy stores", warmContests(false));
    await rates(setting, "beside 3 busy stores", [coldContest]);
  });
  await beside("slow", cluster, size, async () => {
    await latencies(known, "beside 3 slow stores", warmContests(false));
    await latencies(setting, "beside 3 slow stores", [coldContest]);
  });
}

/** What a service would ask instead: a get of etcd is as fresh as a check, and one of KV as old as its replica. */
async function besideEtcd({ report, client, kv, size }: Setting): Promise<void> {
  const etcd = await startEtcd();
  if (etcd === undefined) {
    report.say("SKIPPED: etcd is not installed (Debian: etcd-server)");
    return;
  }
  try {
    const known = Math.min(size, 20_000);
    await inFlight(256, range(0, known), (n) => etcd.put(keyOf(n), new TextDecoder().decode(plainValue(keyOf(n)))));
    await using store = await openJetStream(client, 3, { opTimeoutMs, cacheBytes: CACHE_BYTES });
    await inFlight(1024, range(0, known), checkUser(store));
    const calls: readonly (readonly [name: string, check: Check])[] = [
      ["isAuthorized, warm", checkUser(store)],
      ["kv.get", getPlain(kv)],
      [
        "etcd's linearizable get",
        async (n) =>
          must(
            etcd.get(keyOf(n)).then((value) => value !== null),
            n,
          ),
      ],
    ];
    const found = new Map<string, number[]>();
    for (let round = -1; round < ROUNDS; round++) {
      for (const width of WIDTHS) {
        for (const [name, check] of calls) {
          const rate = COUNTS[width] / (await seconds(() => inFlight(width, turnsOf(known, 0, COUNTS[width]), check)));
          if (round >= 0)
            found.set(`${name}, ${String(width)} in flight`, [
              ...(found.get(`${name}, ${String(width)} in flight`) ?? []),
              rate,
            ]);
        }
      }
    }
    for (const [name, rates] of found) report.say(`${name}, beside idle servers of both: ${perSecond(median(rates))}`);
    const times = await p50InTurn(
      turnsOf(known, 0, ALONE),
      calls.map(([, check]) => check),
    );
    for (const [i, [name]] of calls.entries())
      report.say(`${name}, alone, in turns: p50 ${(times[i] ?? NaN).toFixed(3)} ms`);
  } finally {
    await etcd[Symbol.asyncDispose]();
  }
}

/** What each user takes who was read once: by what goes with the store, since others' garbage may go before. */
async function memoryOfUsers({ client }: Setting, users: number): Promise<number> {
  const full = await (async () => {
    await using store = await openJetStream(client, 3, { opTimeoutMs, cacheBytes: CACHE_BYTES });
    await inFlight(1024, range(0, users), checkUser(store));
    return await memory();
  })();
  return (full - (await memory())) / users;
}

/**
 * What is in use, once nothing more is given back: what a part before this one left goes over several turns of the
 * event loop.
 */
async function memory(): Promise<number> {
  let least = Infinity;
  for (let unchanged = 0; unchanged < 3;) {
    (globalThis as { gc?: () => void }).gc?.();
    await pause(100);
    const { heapUsed, arrayBuffers } = process.memoryUsage();
    unchanged = heapUsed + arrayBuffers < least - 100_000 ? 0 : unchanged + 1;
    least = Math.min(least, heapUsed + arrayBuffers);
  }
  return least;
}

/** Every method on single records, one at a time. */
function methods(store: Store): readonly (readonly [name: string, call: (n: number) => Promise<unknown>])[] {
  const sealed = new Uint8Array(80).fill(7);
  const fresh = (n: number): string => `${String(n)}-${String(performance.now())}`;
  const made: string[] = [];
  const joined: string[] = [];
  const refused = async (call: Promise<unknown>): Promise<void> => {
    if (
      await call.then(
        () => true,
        (error: unknown) => !(error instanceof StoreError),
      )
    )
      throw new Error("not refused");
  };
  return [
    ["users.get", (n) => store.users.get(keyOf(n))],
    ["rooms.get", (n) => store.rooms.get(roomOf(n))],
    ["members.get", (n) => store.members.get(roomOf(n), memberOf(n))],
    ["roomKeys.get", (n) => store.roomKeys.get(roomOf(n), memberOf(n))],
    ["isAuthorized", (n) => store.isAuthorized(keyOf(n))],
    ["isMember", (n) => store.isMember(roomOf(n), memberOf(n))],
    ["hasAdmin", () => store.hasAdmin()],
    ["users.add", (n) => store.users.add({ key: fresh(n) })],
    ["users.update", (n) => store.users.update(keyOf(n), { name: fresh(n) })],
    ["users.revoke", (n) => store.users.revoke(keyOf(n))],
    ["users.reinstate", (n) => store.users.reinstate(keyOf(n))],
    ["users.reinstate of who is active", (n) => store.users.reinstate(keyOf(n))],
    ["users.add of who is there", (n) => refused(store.users.add({ key: keyOf(n) }))],
    ["users.update of nobody", (n) => refused(store.users.update(fresh(n), { name: "nobody" }))],
    ["users.get of nobody", (n) => refused(store.users.get(fresh(n)))],
    [
      "rooms.create",
      (n) =>
        store.rooms.create({
          id: made[made.push(fresh(n)) - 1] ?? "",
          owner: "owner",
          encrypted: true,
          sealedKey: sealed,
        }),
    ],
    ["rooms.create of one that is there", (n) => refused(store.rooms.create({ id: roomOf(n), owner: "owner" }))],
    ["rooms.update", (n) => store.rooms.update(roomOf(n), { name: fresh(n) })],
    [
      "members.add",
      (n) =>
        store.members.add(roomOf(n), {
          endpoint: joined[joined.push(fresh(n)) - 1] ?? "",
          sealedKey: { epoch: 1, sealed },
        }),
    ],
    [
      "members.add of who is there",
      (n) => refused(store.members.add(roomOf(n), { endpoint: memberOf(n), sealedKey: { epoch: 1, sealed } })),
    ],
    ["members.join", (n) => store.members.join(roomOf(n), joined[n % joined.length] ?? "").catch(() => undefined)],
    ["members.remove", (n) => store.members.remove(roomOf(n), memberOf(n)).catch(() => undefined)],
    ["rooms.delete", () => store.rooms.delete(made.pop() ?? "")],
  ];
}

/**
 * What the client's own calls cost on as many records: a server that writes into an old block of its file reads that
 * first.
 */
function ownCalls(kv: KV): readonly (readonly [name: string, call: (n: number) => Promise<unknown>])[] {
  return [
    ["kv.get", getPlain(kv)],
    ["kv.put of a key that is there", (n) => kv.put(keyOf(n), plainValue(keyOf(n)))],
    // The server looks for the message that it supersedes block by block, from where the one before that stood.
    ["kv.put of the same keys once more", (n) => kv.put(keyOf(n), plainValue(keyOf(n)))],
    [
      "kv.create",
      (n) => kv.create(`${String(n)}-${String(performance.now()).replace(".", "-")}`, plainValue(keyOf(n))),
    ],
  ];
}

/** The p50 of each method, and what the servers' processors do for it, on so many records. */
async function growth({ report, cluster, client, kv, size }: Setting, found: Map<string, number[]>): Promise<void> {
  await using store = await openJetStream(client, 3, { opTimeoutMs });
  const count = Math.min(ALONE, size / 4);
  const busy = (): number => busyTicks(cluster.nodes);
  const note = (name: string, figure: number): void => {
    found.set(name, [...(found.get(name) ?? []), figure]);
  };
  let began = busy();
  let calls = 0;
  for (const [name, call] of ownCalls(kv)) {
    note(`${name}, p50`, await p50(turnsOf(size, Math.floor(size / 2), count), call));
    calls += count;
  }
  note("the servers' processors for 1,000 calls of kv, ms", ((busy() - began) * TICK_MS * 1000) / calls);
  began = busy();
  calls = 0;
  for (const [name, call] of methods(store)) {
    // Those that were read already are warm: half of the records are read for the first time.
    const from = name.startsWith("users.r") ? 0 : Math.floor(size / 2);
    const [time = NaN, plain = NaN] = await p50InTurn(turnsOf(size, from, count), [call, getPlain(kv)]);
    calls += count;
    note(`${name}, p50`, time);
    if (["users.get", "rooms.get", "members.get", "roomKeys.get"].includes(name)) {
      report.require(`${name}: p50 (${time.toFixed(3)} ms), times kv.get`, time / plain, (x) => x <= 2.5, "<= 2.5");
    }
  }
  note("the servers' processors for 1,000 calls, ms", ((busy() - began) * TICK_MS * 1000) / calls);
}

/** Lists beside what is gone. */
async function churn({ report, client }: Setting): Promise<void> {
  await using store = await openJetStream(client, 3, { opTimeoutMs });
  const guests = Array.from(range(0, 19), (n) => `stays-${String(n)}`);
  for (const id of ["quiet", "busy"]) {
    await store.rooms.create({ id, owner: "owner" });
    await inFlight(16, guests, (endpoint) => store.members.add(id, { endpoint }));
  }
  await inFlight(256, range(0, CHURN), async (n) => {
    await store.members.add("busy", { endpoint: `passes-${String(n)}` });
    await store.members.remove("busy", `passes-${String(n)}`);
  });
  const times = new Map<string, number[]>();
  for (let round = 0; round < 20; round++) {
    for (const id of ["quiet", "busy"]) {
      const time = await p50([0], () => store.members.list(id));
      times.set(id, [...(times.get(id) ?? []), time]);
    }
  }
  const [quiet, busy] = [median(times.get("quiet") ?? []), median(times.get("busy") ?? [])];
  report.require(
    `members.list of 20 where ${String(CHURN)} joined and left (${busy.toFixed(2)} ms), times a quiet room`,
    busy / quiet,
    (x) => x < 2,
    "< 2",
  );
}

/** The first page beside rooms that are gone. */
async function deletedRooms({ report, client }: Setting): Promise<void> {
  const list = async (prefix: string, deleted: number): Promise<() => Promise<number>> => {
    const store = await openJetStream(client, 3, { opTimeoutMs, prefix });
    closing.push(store);
    await inFlight(16, range(0, 24), (n) => store.rooms.create({ id: `stays-${String(n)}`, owner: "owner" }));
    await inFlight(256, range(0, deleted), async (n) => {
      await store.rooms.create({ id: `passes-${String(n)}`, owner: "owner" });
      await store.rooms.delete(`passes-${String(n)}`);
    });
    return () => p50([0], () => store.rooms.list({ limit: 10 }));
  };
  const closing: Store[] = [];
  try {
    const lists = [await list("quiet_", 0), await list("busy_", CHURN)] as const;
    const times: [number[], number[]] = [[], []];
    for (let round = 0; round < 40; round++) for (const i of [0, 1] as const) times[i].push(await lists[i]());
    const [quiet, busy] = [median(times[0]), median(times[1])];
    report.require(
      `rooms.list of 10 where ${String(CHURN)} were deleted (${busy.toFixed(2)} ms), times none`,
      busy / quiet,
      (x) => x < 2,
      "< 2",
    );
  } finally {
    await Promise.all(closing.map((store) => store.close()));
  }
}

async function adds(report: Report, store: Store, kv: KV): Promise<void> {
  const own: number[] = [];
  const plain: number[] = [];
  for (let round = -1; round < ROUNDS; round++) {
    const keys = newKeys(ADDS);
    const took = await seconds(() => inFlight(ADDS_WIDTH, keys, (key) => store.users.add({ key, name: "a user" })));
    const tookPlain = await seconds(() => inFlight(ADDS_WIDTH, keys, (key) => kv.create(key, plainValue(key))));
    if (round < 0) continue;
    own.push(ADDS / took);
    plain.push(ADDS / tookPlain);
  }
  report.say(
    `users.add with ${String(ADDS_WIDTH)} in flight ${perSecond(median(own))}, kv.create ${perSecond(median(plain))}`,
  );
  report.require(
    `users.add with ${String(ADDS_WIDTH)} in flight: rate, times that of kv.create`,
    median(own) / median(plain),
    (x) => x >= 0.8,
    ">= 0.8",
  );
}

/**
 * A connection that counts, of the writes that go over it, the longest chain in which each was sent after an
 * acknowledgement of the one before: the round trips to the quorum that cannot be had at once.
 */
class Wire {
  readonly connection: NatsConnection;
  #acked = 0;
  #longest = 0;
  #writes = 0;

  constructor(client: Client) {
    this.connection = {
      request: async (subject, payload, options) => {
        // The client's own types know more than is handed through here.
        const sent = client.request(subject, payload, options as Parameters<Client["request"]>[2]);
        if (!subject.startsWith("$KV.")) return sent;
        const link = this.#acked + 1;
        this.#longest = Math.max(this.#longest, link);
        this.#writes++;
        const answer = await sent;
        this.#acked = Math.max(this.#acked, link);
        return answer;
      },
      requestMany: (subject, payload, options) =>
        client.requestMany(subject, payload, options as Parameters<Client["requestMany"]>[2]),
      isClosed: () => client.isClosed(),
      isDraining: () => client.isDraining(),
      ...(client.info === undefined ? {} : { info: client.info }),
    };
  }

  async of(operation: () => Promise<unknown>): Promise<{ roundTrips: number; writes: number }> {
    this.#acked = this.#longest = this.#writes = 0;
    await operation();
    return { roundTrips: this.#longest, writes: this.#writes };
  }
}

async function roundTrips(report: Report, client: Client): Promise<void> {
  const wire = new Wire(client);
  await using store = await openJetStream(wire.connection, 3, { opTimeoutMs });
  const sealed = new Uint8Array(80).fill(7);
  const endpoint = (n: number): string => `member-${String(n)}`;
  const room = "counted";
  const tell = (what: string, { roundTrips, writes }: { roundTrips: number; writes: number }): void => {
    report.require(`${what}: sequential round trips (${String(writes)} writes)`, roundTrips, (x) => x <= 3, "<= 3");
  };
  tell(
    "rooms.create with owner, key and index",
    await wire.of(() => store.rooms.create({ id: room, encrypted: true, owner: endpoint(0), sealedKey: sealed })),
  );
  const add = (n: number): Promise<unknown> =>
    store.members.add(room, { endpoint: endpoint(n), sealedKey: { epoch: 1, sealed } });
  tell("members.add with a key", await wire.of(() => add(1)));
  for (const n of range(2, MEMBERS)) await add(n);
  const all = new Map(Array.from(range(0, MEMBERS), (n) => [endpoint(n), sealed]));
  tell(
    `roomKeys.rekey of ${String(MEMBERS)} members`,
    await wire.of(() => store.roomKeys.rekey(room, all, { expectedEpoch: 1 })),
  );
}

const START_MS = 300_000;

/** A cluster with so many records: written now, or once into a folder that is kept, of which each run has a copy. */
async function filledCluster(size: number): Promise<AsyncDisposable & { cluster: NatsCluster; took: string }> {
  if (KEEP === undefined) {
    const cluster = await startNatsCluster();
    return {
      cluster,
      took: `written in ${await filledIn(cluster, size)} s`,
      [Symbol.asyncDispose]: () => cluster.dispose(),
    };
  }
  const kept = join(KEEP, String(size));
  const note = join(kept, "written.txt");
  if (!existsSync(note)) {
    await rm(kept, { recursive: true, force: true });
    await using cluster = await startNatsCluster({ stores: kept });
    const took = await filledIn(cluster, size);
    // Servers that are killed read everything when they start.
    for (const node of cluster.nodes) {
      if (node.pid !== undefined) process.kill(node.pid, "SIGTERM");
      await node.exited();
    }
    await writeFile(note, took);
  }
  const copy = join(KEEP, `${String(size)}-in-use`);
  // Of a run that was interrupted.
  await rm(copy, { recursive: true, force: true });
  await cp(kept, copy, { recursive: true });
  const remove = (): Promise<void> => rm(copy, { recursive: true, force: true });
  try {
    const cluster = await startNatsCluster({ stores: copy, startTimeoutMs: START_MS });
    return {
      cluster,
      took: `written in ${await readFile(note, "utf8")} s, and kept`,
      [Symbol.asyncDispose]: async () => {
        await cluster.dispose();
        await remove();
      },
    };
  } catch (error) {
    await remove();
    throw error;
  }
}

async function filledIn(cluster: NatsCluster, size: number): Promise<string> {
  const client = await connect({ servers: [...cluster.urls] });
  try {
    await plainBucket(client);
    await using store = await openJetStream(client, 3, { opTimeoutMs });
    await store.users.addFirstAdmin({ key: "root" });
    return (await fill(client, store, size)).toFixed(0);
  } finally {
    await client.close();
  }
}

async function main(): Promise<void> {
  const report = new Report();
  const grown = new Map<string, number[]>();
  for (const size of SIZES) {
    await using filled = await filledCluster(size);
    const { cluster, took } = filled;
    const client = await connect({ servers: [...cluster.urls] });
    try {
      const kv = await plainBucket(client);
      const store = await openJetStream(client, 3, { opTimeoutMs });
      await check(client, size);
      await leadTogether(client);
      await settled(cluster);
      report.say(
        `\n${size.toLocaleString("en-US")} users and rooms (${took}), ${String(cluster.nodes.length)} servers ${client.info?.version ?? ""}, Node ${process.version}, medians of ${String(ROUNDS)}`,
      );
      const setting: Setting = { report, client, cluster, kv, size };
      if (size >= 10_000 && PARTS.has("checks")) await checks(setting);
      if (PARTS.has("growth")) await settled(cluster);
      if (PARTS.has("growth")) await growth(setting, grown);
      if (size === SIZES[0] && PARTS.has("rest")) {
        await adds(report, store, kv);
        await roundTrips(report, client);
        await churn(setting);
        await deletedRooms(setting);
        await besideEtcd(setting);
      }
      await store.close();
    } finally {
      await client.close();
    }
  }
  report.say("");
  for (const [what, figures] of grown) {
    const [first = NaN, last = NaN] = [figures[0], figures.at(-1)];
    if (what.includes("kv")) {
      report.say(
        `${what}: ${figures.map((figure) => figure.toFixed(3)).join(" / ")}, growth ${(last / first).toFixed(2)}`,
      );
      continue;
    }
    report.require(
      `${what}: ${figures.map((figure) => figure.toFixed(3)).join(" / ")}, growth`,
      last / first,
      (x) => x < 1.5,
      "< 1.5",
    );
  }
  report.end();
}

await main();
