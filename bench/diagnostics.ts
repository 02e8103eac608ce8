// What the channels of diagnostics cost: while nobody listens, beside a build of before if there is one, and with a
// listener that counts. Short turns, one after the other, so that a busy machine is busy for all of them.

import { subscribe, unsubscribe } from "node:diagnostics_channel";
import * as library from "../dist/index.js";
import type { Store } from "../dist/index.js";
import { startNatsCluster } from "../dist/testing.js";
import { connect } from "nats";
import { Report, inFlight, median, newKeys, opTimeoutMs, range, seconds } from "./jetstream-support.js";

const ROUNDS = 7;
/**
 * Of each kind in a round. What is compiled for one is thrown away when somebody begins to listen: the first is not
 * counted.
 */
const TURNS = 5;
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
    count: 4096,
    width: 256,
    most: { percent: 15 },
    run: (store, key) => store.isAuthorized(key),
  },
  {
    name: "isAuthorized, proved, one by one",
    count: 64,
    width: 1,
    most: { percent: 15 },
    run: (store, key) => store.isAuthorized(key),
  },
  {
    name: "isAuthorized, from memory",
    count: 50_000,
    width: 1,
    most: { microseconds: 1 },
    run: (store, key) => store.isAuthorized(key, { maxStalenessMs: 60_000 }),
  },
];

/** Another build of the library, such as one of before there were channels. */
const baseline = process.env["BENCH_BASELINE"];

async function microseconds(check: Check, store: Store, keys: readonly string[]): Promise<number> {
  const { count, width } = check;
  const took = await seconds(() =>
    inFlight(width, range(0, count), (n) => check.run(store, keys[n % keys.length] ?? "")),
  );
  return (1e6 * took) / count;
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
const store = await library.openJetStream(connection, 3, { opTimeoutMs });
const keys = newKeys(256);
await store.users.addFirstAdmin({ key: "root" });
await inFlight(64, keys, (key) => store.users.add({ key }));
const before =
  baseline === undefined
    ? undefined
    : await ((await import(baseline)) as typeof library).openJetStream(connection, 3, { opTimeoutMs });

for (const check of checks) {
  const times = { unheard: [] as number[], heard: [] as number[], before: [] as number[] };
  for (const one of [store, ...(before === undefined ? [] : [before])]) await microseconds(check, one, keys);
  const turns = async (into: number[], one: Store): Promise<void> => {
    await microseconds(check, one, keys);
    for (let turn = 0; turn < TURNS; turn++) into.push(await microseconds(check, one, keys));
  };
  for (let round = 0; round < ROUNDS; round++) {
    await turns(times.unheard, store);
    await listening(() => turns(times.heard, store));
    if (before !== undefined) await turns(times.before, before);
  }
  const unheard = median(times.unheard);
  report.say(`${check.name}: ${unheard.toFixed(2)} us`);
  if (before !== undefined) {
    const percent = 100 * (unheard / median(times.before) - 1);
    report.require("  while nobody listens, % more than before", percent, (more) => more < 2, "< 2");
  }
  const more = median(times.heard) - unheard;
  if ("percent" in check.most) {
    const { percent } = check.most;
    report.require(
      "  with a listener that counts, % more",
      (100 * more) / unheard,
      (each) => each < percent,
      `< ${percent}`,
    );
  } else {
    const { microseconds: most } = check.most;
    report.require("  with a listener that counts, us more", more, (each) => each <= most, `<= ${most}`);
  }
}

await Promise.all([store.close(), before?.close()]);
await connection.close();
await cluster.dispose();
report.end();
