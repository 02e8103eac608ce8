// The server that held the users alone is killed as soon as three replicas are told as done, and starts again while the
// one that leads the meta layer hangs: nobody tells it what has changed since its last snapshot. A user was revoked in
// between, and a store is connected to that server alone.

import { connect, type NatsConnection } from "nats";
import type * as unibus from "unibus-membership";
import type { JetStreamOptions, Store } from "unibus-membership";
import { startNatsCluster, type NatsCluster } from "unibus-membership/testing";
import { BUCKETS, streamInfo } from "../jetstream/support/streams.js";
import { withLimits } from "../support/limited.js";
import { eventually } from "../support/wait.js";
import { Surprise, must } from "./jetstream-scale.js";

type Library = Pick<typeof unibus, "openJetStream">;

const PREFIX = "killed_";
const USERS = 50;
const VICTIM = "user-1";
const OTHER = "user-2";
const opTimeoutMs = 20_000;
const ROLLOUT_MS = 300_000;
const READY_MS = 60_000;
/** How long the server is asked that has nobody to tell it anything. */
const ALONE_MS = 8_000;

interface Place {
  readonly cluster: NatsCluster;
  /** Opens a store whose connection knows one server alone. */
  readonly open: (node: number, replicas: 1 | 3, options?: JetStreamOptions) => Promise<Store>;
  readonly log: (line: string) => void;
}

function nodeOf({ nodes }: NatsCluster, name: string | undefined): number {
  const found = nodes.findIndex((node) => node.name === name);
  if (found < 0) throw new Surprise(`no server is called ${name ?? "so"}`);
  return found;
}

/** Who leads the meta layer, as a server says. */
async function metaLeader(cluster: NatsCluster, asked: number): Promise<string | undefined> {
  const { meta_cluster: meta } = (await cluster.node(asked).monitor("/jsz")) as { meta_cluster?: { leader?: string } };
  return meta?.leader;
}

async function raised(open: Place["open"], node: number): Promise<Store> {
  const done = new Set<string>();
  const store = await open(node, 3, {
    onRollout: ({ bucket, done: isDone }) => {
      if (isDone) done.add(bucket);
    },
  });
  await eventually("the rollout is done", () => done.size === BUCKETS.length, ROLLOUT_MS);
  return store;
}

/** Asks and writes by the store on the server that has just started. Answers the users who were acknowledged. */
async function alone(store: Store, restarted: Promise<void>): Promise<{ yes: number; added: string[] }> {
  const until = performance.now() + ALONE_MS;
  const added: string[] = [];
  let yes = 0;
  const checks = async (): Promise<void> => {
    while (performance.now() < until) if (await store.isAuthorized(VICTIM, { timeoutMs: 300 })) yes++;
  };
  const writes = async (): Promise<void> => {
    for (let n = 0; performance.now() < until; n++) {
      const key = `added-${n}`;
      await store.users.add({ key }, { timeoutMs: 400 }).then(
        () => added.push(key),
        () => undefined,
      );
    }
  };
  await Promise.all([checks(), writes()]);
  // It is ready when the others are back.
  restarted.catch(() => undefined);
  return { yes, added };
}

async function killed({ cluster, open, log }: Place, connection: NatsConnection): Promise<void> {
  const first = await open(0, 1);
  await first.users.addFirstAdmin({ key: "root" });
  for (let n = 0; n < USERS; n++) await first.users.add({ key: `user-${n}` });
  const at = nodeOf(cluster, (await streamInfo(connection, `${PREFIX}users`)).cluster.leader);
  const other = (at + 1) % 3;
  // Its last snapshot says what holds now: that it has the users, alone.
  await cluster.node(at).restart();
  await cluster.ready(READY_MS);
  const began = performance.now();
  const raiser = await raised(open, other);
  log(`done after ${((performance.now() - began) / 1000).toFixed(1)} s`);
  const [there, here] = [await open(other, 3), await open(at, 3)];
  must(await here.isAuthorized(VICTIM), `${VICTIM} is not authorized before`);

  await cluster.node(at).kill();
  await there.users.revoke(VICTIM);
  let leader: string | undefined;
  await eventually("the meta layer has a leader among the others", async () => {
    leader = await metaLeader(cluster, other);
    return leader !== undefined && leader !== "" && leader !== cluster.node(at).name;
  });
  const hanging = cluster.node(nodeOf(cluster, leader));
  await hanging.pause();
  const restarted = cluster.node(at).restart();
  const { yes, added } = await alone(here, restarted);
  log(`${yes} yes for who was revoked; ${added.length} writes acknowledged meanwhile`);
  must(yes === 0, `${VICTIM} was revoked, and allowed ${yes} times`);
  await hanging.resume();
  await restarted;
  await cluster.ready(READY_MS);

  const after = await open(other, 3);
  const lost = [];
  for (const key of added) if (!(await after.isAuthorized(key))) lost.push(key);
  must(lost.length === 0, `${lost.length} acknowledged writes were lost`);
  for (const store of [here, after, raiser]) {
    await eventually("checks allow again", () => store.isAuthorized(OTHER, { timeoutMs: 1000 }), READY_MS);
    must(!(await store.isAuthorized(VICTIM)), `${VICTIM} was revoked, and is allowed`);
  }
}

async function runOnce(library: Library, log: (line: string) => void): Promise<void> {
  const cluster = await startNatsCluster();
  const connections: NatsConnection[] = [];
  const stores: Store[] = [];
  const connected = async (node: number): Promise<NatsConnection> => {
    const { url: servers } = cluster.node(node);
    const connection = await connect({ servers, maxReconnectAttempts: -1, reconnectTimeWait: 20 });
    connections.push(connection);
    return connection;
  };
  const open: Place["open"] = async (node, replicas, options = {}) => {
    const given = { prefix: PREFIX, opTimeoutMs, ...options };
    const store = await library.openJetStream(await connected(node), replicas, given);
    stores.push(store);
    return store;
  };
  try {
    await killed({ cluster, open, log }, await connected(0));
  } finally {
    await Promise.all(stores.map((store) => store.close()));
    await Promise.all(connections.map((connection) => connection.close()));
    await cluster.dispose();
  }
}

/** Rejects with the first {@link Surprise}. `withoutWait`: done is told as soon as the replicas have caught up. */
export async function run(options: {
  runs: number;
  withoutWait?: boolean;
  log: (line: string) => void;
}): Promise<void> {
  const { runs, withoutWait = false, log } = options;
  const limited = await withLimits(withoutWait ? { STANDING_MS: 0 } : {});
  try {
    for (let n = 1; n <= runs; n++) await runOnce(limited.library, (line) => log(`run ${n}: ${line}`));
  } finally {
    await limited.dispose();
  }
}
