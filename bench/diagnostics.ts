// What the channels of diagnostics cost: while nobody listens, beside a build of before if there is one, and with a
// listener that counts. Short turns, one of each kind after the other, and what counts is by how much neighbours
// differ: so a busy machine is busy for all of them.

import { subscribe, unsubscribe } from "node:diagnostics_channel";
import * as library from "../dist/index.js";
import type { Store } from "../dist/index.js";
import { startNatsCluster } from "../dist/testing.js";
import { setTimeout as pause } from "node:timers/promises";
import { connect } from "nats";
import { Report, inFlight, median, newKeys, opTimeoutMs, range, seconds } from "./support.js";

/** Turns of each kind. In the first ones code is thrown away that was compiled for another kind: they do not count. */
const TURNS = 60;
const FIRST = 20;
const CHANNELS = ["tracing:unibus-membership:operation:asyncEnd", "unibus-membership:decision"] as const;

interface Check {
  readonly name: string;
  /** How many in one turn, and how many of them at a time. */
  readonly count: number;
  readonly width: number;
  /** With a listener: at most so much of it, or so many microseconds. */
  readonly most: { readonly percent: number } | { readonly microseconds: number };
  run(store: Store, key: string): Promise<unknown>;
}

const checks: readonly Check[] = [
  {
    name: "isAuthorized, proved, 256 at a time",
    count: 2048,
    width: 256,
    most: { percent: 15 },
    run: (store, key) => store.isAuthorized(key),
  },
  {
    name: "isAuthorized, proved, one by one",
    count: 32,
    width: 1,
    most: { percent: 15 },
    run: (store, key) => store.isAuthorized(key),
  },
  {
    name: "isAuthorized, from memory",
    count: 20_000,
    width: 1,
    most: { microseconds: 1 },
    run: (store, key) => store.isAuthorized(key, { maxStalenessMs: 60_000 }),
  },
];

/** Another build of the library, such as one of before there were channels. */
const baseline = process.env["BENCH_BASELINE"];

/** What waits for nobody is timed by the processor's time: others that use it do not count. */
async function microseconds(check: Check, store: Store, keys: readonly string[]): Promise<number> {
  const { count, width, most } = check;
  const before = process.cpuUsage();
  const took = await seconds(() =>
    inFlight(width, range(0, count), (n) => check.run(store, keys[n % keys.length] ?? "")),
  );
  const { user, system } = process.cpuUsage(before);
  return ("microseconds" in most ? user + system : 1e6 * took) / count;
}

async function listening<T>(work: () => Promise<T>): Promise<T> {
  let heard = 0;
  const count = (): void => {
    heard++;
  };
  for (const name of CHANNELS) subscribe(name, count);
  try {
    const result = await work();
    if (heard === 0) throw new Error("nothing was heard");
    return result;
  } finally {
    for (const name of CHANNELS) unsubscribe(name, count);
  }
}

const report = new Report();
const cluster = await startNatsCluster();
const connection = await connect({ servers: cluster.nodes.map((node) => node.url) });
const keys = newKeys(256);
/** Each has buckets of its own: what another store wrote to the same ones would have to be read. */
async function opened(build: typeof library, prefix: string): Promise<Store> {
  const made = await build.openJetStream(connection, 3, { prefix, opTimeoutMs });
  await made.users.addFirstAdmin({ key: "root" });
  await inFlight(64, keys, (key) => made.users.add({ key }));
  return made;
}

/** One that is led by the server that the client is connected to is asked faster. */
async function leadAlike(streams: readonly string[]): Promise<void> {
  const manager = await connection.jetstreamManager();
  const leader = connection.info?.server_name;
  for (const stream of streams) {
    while ((await manager.streams.info(stream)).cluster?.leader !== leader) {
      const wish = JSON.stringify({ placement: { preferred: leader } });
      await connection.request(`$JS.API.STREAM.LEADER.STEPDOWN.${stream}`, wish, { timeout: opTimeoutMs });
      await pause(100);
    }
  }
}

const store = await opened(library, "now_");
const before = baseline === undefined ? undefined : await opened((await import(baseline)) as typeof library, "before_");
await leadAlike(["KV_now_users", ...(before === undefined ? [] : ["KV_before_users"])]);

for (const check of checks) {
  const times = { unheard: [] as number[], heard: [] as number[], before: [] as number[] };
  for (let turn = -FIRST; turn < TURNS; turn++) {
    const kinds = [
      [times.unheard, () => microseconds(check, store, keys)],
      [times.heard, () => listening(() => microseconds(check, store, keys))],
      [times.before, () => (before === undefined ? Promise.resolve(NaN) : microseconds(check, before, keys))],
    ] as const;
    // None is always the first one.
    for (let i = 0; i < kinds.length; i++) {
      const [into, take] = kinds[(i + turn + FIRST) % kinds.length] ?? kinds[0];
      const time = await take();
      if (turn >= 0) into.push(time);
    }
  }
  const more = (those: readonly number[], than: readonly number[]): number =>
    median(those.map((time, turn) => time - (than[turn] ?? NaN)));
  const unheard = median(times.unheard);
  report.say(`${check.name}: ${unheard.toFixed(2)} us`);
  if (before !== undefined) {
    const percent = (100 * more(times.unheard, times.before)) / median(times.before);
    report.require("  while nobody listens, % more than before", percent, (each) => each < 2, "< 2");
  }
  const moreHeard = more(times.heard, times.unheard);
  if ("percent" in check.most) {
    const { percent } = check.most;
    report.require(
      "  with a listener that counts, % more",
      (100 * moreHeard) / unheard,
      (each) => each < percent,
      `< ${percent}`,
    );
  } else {
    const { microseconds: most } = check.most;
    report.require("  with a listener that counts, us more", moreHeard, (each) => each <= most, `<= ${most}`);
  }
}

await Promise.all([store.close(), before?.close()]);
await connection.close();
await cluster.dispose();
report.end();
