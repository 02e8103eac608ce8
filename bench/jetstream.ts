// The JetStream backend beside the plain KV calls of the same client, over the same connection to a real cluster of three
// servers, on R3 buckets with as many keys: medians of 5 rounds in which everybody has a turn. Exits with 1 if a figure
// misses what is required of it.

import { connect, type KV, type NatsConnection as Client } from "nats";
import { isAuthorized, openJetStream, type NatsConnection, type Store } from "../dist/index.js";
import { startNatsCluster } from "../dist/testing.js";
import { Report, inFlight, median, newKeys, opTimeoutMs, perSecond, range, seconds } from "./jetstream-support.js";

const ROUNDS = 5;
const USERS = 10_000;
const CHECKS: readonly (readonly [width: number, count: number, required: number])[] = [
  [1024, 20_000, 3],
  [64, 8_000, 1.3],
];
const ALONE = 1_000;
const BESIDE = 2_000;
const ADDS = 3_000;
const ADDS_WIDTH = 256;
const MEMBERS = 1_000;

const text = new TextEncoder();
/** As large as a record of ours. */
const plainValue = (key: string): Uint8Array =>
  text.encode(JSON.stringify({ k: key, n: 1, log: ["0123456789abcdef"], user: { key, v: 1, admin: false, name: "a user", createdAt: Date.now() } }));

async function lastSequence(client: Client, stream: string): Promise<number> {
  const manager = await client.jetstreamManager();
  return (await manager.streams.info(stream)).state.last_seq;
}

/** Distinct keys, each in its turn. */
function* turnsOf(keys: readonly string[], from: number, count: number): Iterable<string> {
  for (const n of range(from, from + count)) yield keys[n % keys.length] ?? "";
}

async function checkOwn(store: Store, key: string): Promise<void> {
  if (!(await isAuthorized(store, key))) throw new Error(`denied: ${key}`);
}

async function getPlain(kv: KV, key: string): Promise<void> {
  const entry = await kv.get(key);
  if (entry === null || entry.value.length === 0) throw new Error(`missing: ${key}`);
}

/** Times of calls one after the other: their median in milliseconds. */
async function p50(keys: Iterable<string>, call: (key: string) => Promise<void>): Promise<number> {
  const times: number[] = [];
  for (const key of keys) {
    const began = performance.now();
    await call(key);
    times.push(performance.now() - began);
  }
  return median(times);
}

async function checks(report: Report, client: Client, store: Store, kv: KV, keys: readonly string[]): Promise<void> {
  const own = new Map(CHECKS.map(([width]) => [width, [] as number[]]));
  const plain = new Map(CHECKS.map(([width]) => [width, [] as number[]]));
  const writes = new Map<number, number[]>([1024, 64, 1].map((width) => [width, []]));
  const ownAlone: number[] = [];
  const plainAlone: number[] = [];
  let at = 0;
  /** Runs checks and notes what they wrote. */
  const counted = async (width: number, count: number, work: () => Promise<void>): Promise<void> => {
    const before = await lastSequence(client, "KV_users");
    await work();
    writes.get(width)?.push(((await lastSequence(client, "KV_users")) - before) / (count / 1000));
  };
  for (let round = -1; round < ROUNDS; round++) {
    for (const [width, count] of CHECKS) {
      let took = 0;
      await counted(width, count, async () => {
        took = await seconds(() => inFlight(width, turnsOf(keys, at, count), (key) => checkOwn(store, key)));
      });
      const tookPlain = await seconds(() => inFlight(width, turnsOf(keys, at, count), (key) => getPlain(kv, key)));
      at += count;
      if (round < 0) continue; // the first one is for the compiler
      own.get(width)?.push(count / took);
      plain.get(width)?.push(count / tookPlain);
    }
    let time = 0;
    await counted(1, ALONE, async () => {
      time = await p50(turnsOf(keys, at, ALONE), (key) => checkOwn(store, key));
    });
    const timePlain = await p50(turnsOf(keys, at, ALONE), (key) => getPlain(kv, key));
    at += ALONE;
    if (round < 0) continue;
    ownAlone.push(time);
    plainAlone.push(timePlain);
  }
  for (const [width, , required] of CHECKS) {
    const [rate, plainRate] = [median(own.get(width) ?? []), median(plain.get(width) ?? [])];
    report.say(`isAuthorized with ${String(width)} in flight ${perSecond(rate)}, kv.get ${perSecond(plainRate)}`);
    report.require(`isAuthorized with ${String(width)} in flight: rate, times that of kv.get`, rate / plainRate, (x) => x >= required, `>= ${String(required)}`);
  }
  const [time, timePlain] = [median(ownAlone), median(plainAlone)];
  report.say(`isAuthorized one at a time ${time.toFixed(3)} ms, kv.get ${timePlain.toFixed(3)} ms`);
  report.require("isAuthorized one at a time: p50, times that of kv.get", time / timePlain, (x) => x <= 5, "<= 5");
  for (const [width, found] of writes) {
    report.say(`replicated writes per 1,000 checks with ${String(width)} in flight: ${median(found).toFixed(1)}`);
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
  report.say(`users.add with ${String(ADDS_WIDTH)} in flight ${perSecond(median(own))}, kv.create ${perSecond(median(plain))}`);
  report.require(`users.add with ${String(ADDS_WIDTH)} in flight: rate, times that of kv.create`, median(own) / median(plain), (x) => x >= 0.8, ">= 0.8");
}

/**
 * The same beside another store that checks all the time, on a connection of its own. Its barriers are gaps in the log, which
 * prove nothing, and the copy of the users is given up at each: this is what that costs. No figure is required of it yet.
 */
async function checksBesideAnother(report: Report, urls: readonly string[], store: Store, kv: KV, keys: readonly string[]): Promise<void> {
  const client = await connect({ servers: [...urls] });
  const ended = new AbortController();
  const width = 64;
  try {
    await using other = await openJetStream(client, 3, { opTimeoutMs });
    const busy = inFlight(width, (function* () {
      for (let n = 0; !ended.signal.aborted; n++) yield keys[n % keys.length] ?? "";
    })(), (key) => checkOwn(other, key));
    const own: number[] = [];
    const plain: number[] = [];
    for (let round = -1; round < ROUNDS; round++) {
      const from = (round + 1) * BESIDE;
      const took = await seconds(() => inFlight(width, turnsOf(keys, from, BESIDE), (key) => checkOwn(store, key)));
      const tookPlain = await seconds(() => inFlight(width, turnsOf(keys, from, BESIDE), (key) => getPlain(kv, key)));
      if (round < 0) continue;
      own.push(BESIDE / took);
      plain.push(BESIDE / tookPlain);
    }
    ended.abort();
    await busy;
    const [rate, plainRate] = [median(own), median(plain)];
    report.say(
      `isAuthorized with ${String(width)} in flight beside another store with as many: ${perSecond(rate)}, kv.get ${perSecond(plainRate)}, ` +
        `${(rate / plainRate).toFixed(2)} times that of kv.get`,
    );
  } finally {
    ended.abort();
    await client.close();
  }
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
  const add = (n: number): Promise<unknown> => store.members.add(room, { endpoint: endpoint(n), sealedKey: { epoch: 1, sealed } });
  tell("members.add with a key", await wire.of(() => add(1)));
  for (const n of range(2, MEMBERS)) await add(n);
  const all = new Map(Array.from(range(0, MEMBERS), (n) => [endpoint(n), sealed]));
  tell(`roomKeys.rekey of ${String(MEMBERS)} members`, await wire.of(() => store.roomKeys.rekey(room, all, { expectedEpoch: 1 })));
}

/** Right after its start a cluster can take a peer for offline, and says so at once. */
async function plainBucket(client: Client): Promise<KV> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await client.jetstream().views.kv("plain", { replicas: 3 });
    } catch (error) {
      if (attempt === 20) throw error;
      await new Promise((resolve) => setTimeout(resolve, 250));
    }
  }
}

async function main(): Promise<void> {
  const report = new Report();
  await using cluster = await startNatsCluster();
  const client = await connect({ servers: [...cluster.urls] });
  try {
    const store = await openJetStream(client, 3, { opTimeoutMs });
    const kv = await plainBucket(client);
    const keys = newKeys(USERS);
    await inFlight(ADDS_WIDTH, keys, (key) => store.users.add({ key, name: "a user" }));
    await inFlight(ADDS_WIDTH, keys, (key) => kv.create(key, plainValue(key)));
    report.say(`${String(USERS)} users, ${cluster.nodes.length.toString()} servers ${client.info?.version ?? ""}, Node ${process.version}, medians of ${String(ROUNDS)}`);
    await checks(report, client, store, kv, keys);
    await checksBesideAnother(report, cluster.urls, store, kv, keys);
    await adds(report, store, kv);
    await store.close();
    await roundTrips(report, client);
  } finally {
    await client.close();
  }
  report.end();
}

await main();
