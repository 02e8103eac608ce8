// From one replica to three with many records, while two stores add and check: nothing may be lost, nor may anything be
// refused but for a while, and afterwards the server that had it all alone can be killed.

import { connect } from "nats";
import { openJetStream, type RolloutProgress } from "unibus-membership";
import { startNatsCluster } from "unibus-membership/testing";
import { Load } from "../jetstream/support/load.js";
import { BUCKETS, streamInfo } from "../jetstream/support/streams.js";
import { eventually } from "../support/wait.js";
import { Surprise, inParallel, keysOf, must } from "./jetstream-scale.js";

const PREFIX = "rollout_";
const LONG = { timeoutMs: 600_000 };
/** How many of all are asked for one by one. */
const SAMPLE = 2_000;
const MEMBERS_OF_A_ROOM = 100;
/** Whoever is told so tries again. */
const RETRYABLE: ReadonlySet<string> = new Set(["TIMEOUT", "UNAVAILABLE"]);

/** Rejects with the first {@link Surprise}. */
export async function run({ records = 50_000, log }: { records?: number; log: (line: string) => void }): Promise<void> {
  const cluster = await startNatsCluster();
  const connections = await Promise.all(
    [0, 1].map(() => connect({ servers: [...cluster.urls], maxReconnectAttempts: -1, reconnectTimeWait: 100 })),
  );
  try {
    const [one, other] = connections;
    if (one === undefined || other === undefined) throw new Error("no connections");
    const options = { prefix: PREFIX, opTimeoutMs: 10_000 };
    const began = performance.now();
    const seconds = (): string => `${((performance.now() - began) / 1000).toFixed(1)} s`;

    const first = await openJetStream(one, 1, options);
    const rooms = Array.from({ length: Math.ceil(records / 5 / MEMBERS_OF_A_ROOM) }, (_, n) => `filled-${n}`);
    const users = Array.from({ length: records - rooms.length * MEMBERS_OF_A_ROOM }, (_, n) => `filled-${n}`);
    const members = Array.from({ length: MEMBERS_OF_A_ROOM }, (_, n) => `member-${String(n).padStart(4, "0")}`);
    await first.users.addFirstAdmin({ key: "root" });
    await inParallel(users, (key) => first.users.add({ key }, LONG));
    await inParallel(rooms, async (id) => {
      await first.rooms.create({ id, owner: "member-0000" }, LONG);
      await Promise.all(members.slice(1).map((endpoint) => first.members.add(id, { endpoint, state: "joined" }, LONG)));
    });
    const { leader } = (await streamInfo(one, `${PREFIX}users`)).cluster;
    log(
      `${seconds()}: ${users.length} users, and ${rooms.length} rooms with ${MEMBERS_OF_A_ROOM} members each, once; users at ${leader ?? "nobody"}`,
    );

    const told: RolloutProgress[] = [];
    const second = await openJetStream(other, 3, {
      ...options,
      onRollout: (step) => {
        told.push(step);
        log(`${seconds()}: ${step.bucket} has ${step.current} of ${step.replicas}${step.done ? ", done" : ""}`);
      },
    });
    log(`${seconds()}: opened with three replicas`);
    const loads = [await Load.start(first, "a"), await Load.start(second, "b")];
    await eventually(
      "the rollout is done",
      () => BUCKETS.every((bucket) => told.some(({ bucket: of, done }) => done && of === PREFIX + bucket)),
      LONG.timeoutMs,
    );
    for (const load of loads) await load.goesOn();
    const added = (await Promise.all(loads.map((load) => load.stop()))).flat();
    const refusals = loads.flatMap((load) => load.refusals);
    log(
      `${seconds()}: ${added.length} users and memberships added meanwhile, ${refusals.length} calls refused (${[...new Set(refusals)].join(", ")})`,
    );
    const [checks, allows] = [
      loads.reduce((sum, load) => sum + load.checks, 0),
      loads.reduce((sum, load) => sum + load.allows, 0),
    ];
    log(`${seconds()}: ${checks} checks meanwhile, ${allows} allowed`);
    must(
      refusals.every((code) => RETRYABLE.has(code)),
      `calls were refused for other reasons: ${refusals.join(", ")}`,
    );

    for (const bucket of BUCKETS) {
      await eventually(`${bucket} has three replicas that have everything`, async () => {
        const { config, cluster: group } = await streamInfo(one, PREFIX + bucket);
        const others = group.replicas ?? [];
        return (
          config["num_replicas"] === 3 &&
          others.length === 2 &&
          others.every(({ current, lag = 0 }) => current && lag === 0)
        );
      });
    }
    const holder = cluster.nodes.find(({ name }) => name === leader);
    if (holder === undefined) throw new Surprise("nobody held the users");
    await holder.kill();
    const killed = performance.now();
    await eventually("checks allow again", () => second.isAdmin("root", { timeoutMs: 1000 }), 60_000);
    log(
      `${seconds()}: ${holder.name} was killed; checks allow ${((performance.now() - killed) / 1000).toFixed(1)} s later`,
    );

    const listed = new Set(
      await keysOf(
        (page) => second.users.list(page, LONG),
        ({ key }) => key,
      ),
    );
    const lost = [...users, ...added].filter((key) => !listed.has(key));
    must(lost.length === 0, `${lost.length} users were lost: ${lost.slice(0, 5).join(", ")}`);
    const step = Math.max(1, Math.floor(users.length / SAMPLE));
    const sample = [...users.filter((_, n) => n % step === 0), ...added];
    await inParallel(sample, async (key) => must(await second.isAuthorized(key, LONG), `${key} is not authorized`));
    await inParallel(rooms, async (id) => {
      const found = (await second.members.list(id, LONG)).map(({ endpoint }) => endpoint);
      must(found.join() === members.join(), `${id} has ${found.length} members`);
    });
    for (const name of ["a", "b"]) {
      const found = new Set((await second.members.list(`room-${name}`, LONG)).map(({ endpoint }) => endpoint));
      const gone = added.filter((key) => key.startsWith(`${name}-`) && !found.has(key));
      must(gone.length === 0, `${gone.length} members were lost: ${gone.slice(0, 5).join(", ")}`);
    }
    log(
      `${seconds()}: ${listed.size} users listed, ${sample.length} authorized, ${rooms.length} rooms whole: nothing was lost`,
    );
    await first.close();
    await second.close();
  } finally {
    await Promise.all(connections.map((connection) => connection.close()));
    await cluster.dispose();
  }
}
