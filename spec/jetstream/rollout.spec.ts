import { expect } from "chai";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import {
  isStoreError,
  type JetStreamOptions,
  type Replicas,
  type RolloutProgress,
  type Store,
} from "unibus-membership";
import { startNatsCluster, type NatsCluster } from "unibus-membership/testing";
import { withLimits } from "../support/limited.js";
import { natsClients, type Connection } from "../support/nats-clients.js";
import { eventually, pause } from "../support/wait.js";
import { Load } from "./support/load.js";
import { BUCKETS, api, configure, streamInfo, type StreamInfo } from "./support/streams.js";
import { requestsAlone, tapped, type Tap } from "./support/taps.js";

type Limited = Awaited<ReturnType<typeof withLimits>>;

/** Servers are stopped here, and elect leaders: what counts is how a call ends, not how soon. */
const opTimeoutMs = 20_000;
const WITHIN_MS = 90_000;
/** Longer than a bucket has to be seen complete before it counts as done. */
const PASSED_MS = 4000;
/** Replicas have to stand for so long before they are told as done. Without this it is more than a minute. */
const STANDING_MS = 500;

describe("jetstream: rollout", function () {
  this.timeout(240_000);
  let cluster: NatsCluster;
  let limited: Limited;
  const connections: Connection[] = [];

  before(async () => {
    limited = await withLimits({ STANDING_MS });
    cluster = await startNatsCluster();
    for (const client of natsClients) connections.push(await client.connect(cluster.urls));
  });

  after(async () => {
    await Promise.all(connections.map((connection) => connection.close()));
    await cluster.dispose();
    await limited.dispose();
  });

  function via(index: number): Connection {
    const connection = connections[index % connections.length];
    if (connection === undefined) throw new Error("no connection");
    return connection;
  }

  const open = (
    prefix: string,
    replicas: Replicas | undefined,
    options: JetStreamOptions = {},
    index = 0,
    library: Limited["library"] = limited.library,
  ): Promise<Store> => library.openJetStream(via(index), replicas, { prefix, opTimeoutMs, ...options });

  const replicasOf = (prefix: string): Promise<number[]> =>
    Promise.all(
      BUCKETS.map(async (bucket) => Number((await streamInfo(via(0), prefix + bucket)).config["num_replicas"])),
    );

  /** Every bucket has three servers that say, all of them, that they have everything. */
  async function caughtUp(prefix: string): Promise<void> {
    for (const bucket of BUCKETS) {
      const { config, cluster: group } = await streamInfo(via(0), prefix + bucket);
      expect(config, bucket).to.have.property("num_replicas", 3);
      expect(group.leader, bucket).to.be.a("string");
      const others = (group.replicas ?? []).map(({ current, lag = 0, offline = false }) => ({ current, lag, offline }));
      // What is written at this very moment may be on its way to a follower, and is no lag of a rollout.
      expect(others, bucket).to.deep.equal([1, 2].map(() => ({ current: true, lag: 0, offline: false })));
    }
  }

  /**
   * One bucket after the other: it begins when the one before has caught up. Of each the replicas as they come, and at
   * the end, once, that it is done.
   */
  function inOrder(told: readonly RolloutProgress[], prefix: string): void {
    const begun = told.flatMap(({ bucket }, n) =>
      told.findIndex((step) => step.bucket === bucket) === n ? [bucket] : [],
    );
    expect(begun).to.deep.equal(BUCKETS.map((bucket) => prefix + bucket));
    begun.slice(1).forEach((bucket, n) => {
      const before = told.slice(
        0,
        told.findIndex((step) => step.bucket === bucket),
      );
      expect(before.filter((step) => step.bucket === begun[n] && step.current === 3)).to.not.deep.equal([]);
    });
    for (const bucket of BUCKETS) {
      const steps = told.filter((step) => step.bucket === prefix + bucket);
      expect(
        steps.map(({ done }) => done),
        bucket,
      ).to.deep.equal(steps.map((_, n) => n === steps.length - 1));
      expect(steps.at(-1), bucket).to.deep.equal({ bucket: prefix + bucket, replicas: 3, current: 3, done: true });
      for (const { replicas, current } of steps) {
        expect(replicas).to.equal(3);
        expect(current).to.be.within(0, 3);
      }
    }
  }

  const isDone = (told: readonly RolloutProgress[], prefix: string): boolean =>
    BUCKETS.every((bucket) => told.some(({ bucket: of, done }) => done && of === prefix + bucket));

  it("two raise at once while a third goes on; a server that is down meanwhile, and a setting that has to be repaired, only delay it; then the server that held a bucket can be lost", async () => {
    const prefix = "raised_";
    const down = 2;
    // Not killed: only of a server that leaves do the others know at once, and place nothing on it.
    await cluster.node(down).stop();
    await cluster.ready();
    const working = await open(prefix, 1);
    const load = await Load.start(working, "a");
    expect(await replicasOf(prefix)).to.deep.equal([1, 1, 1, 1, 1]);
    const held = await streamInfo(via(0), `${prefix}users`);

    const told: [RolloutProgress[], RolloutProgress[]] = [[], []];
    const raisers = await Promise.all(
      told.map((steps, index) => open(prefix, 3, { onRollout: (step) => steps.push(step) }, index)),
    );
    // They are open, and nothing can be done before the server is back.
    for (const steps of told) expect(steps.filter(({ done }) => done)).to.deep.equal([]);
    const [raiser] = raisers;
    if (raiser === undefined) throw new Error("no store");
    const more = await Load.start(raiser, "b");
    await load.goesOn();
    await more.goesOn();

    // Longer than a store takes to look at its settings: the rollout meets a bucket that is refused.
    const before = await configure(via(0), `${prefix}rooms`, { max_msg_size: 2 ** 20 });
    await eventually("the setting is found", async () => {
      const end = await raiser.rooms.get("nowhere").then(
        () => "",
        (error: unknown) => (isStoreError(error) ? error.code : String(error)),
      );
      return end === "INCOMPATIBLE";
    });
    await cluster.node(down).restart();
    await cluster.ready(WITHIN_MS);
    await eventually(
      "the first bucket has its replicas, and is refused",
      () => told[0].some(({ current }) => current === 3),
      WITHIN_MS,
    );
    await configure(via(0), `${prefix}rooms`, { max_msg_size: before["max_msg_size"] });

    await eventually("both are told that all is done", () => told.every((steps) => isDone(steps, prefix)), WITHIN_MS);
    await load.goesOn();
    await more.goesOn();
    const added = [...(await load.stop()), ...(await more.stop())];
    expect(
      [...load.refusals, ...more.refusals].filter((code) => !["TIMEOUT", "UNAVAILABLE", "INCOMPATIBLE"].includes(code)),
    ).to.deep.equal([]);
    for (const steps of told) inOrder(steps, prefix);
    await eventually("what was written last is everywhere", () =>
      caughtUp(prefix).then(
        () => true,
        () => false,
      ),
    ).catch(() => caughtUp(prefix));

    const holder = cluster.nodes.find(({ name }) => name === held.cluster.leader);
    expect(holder).to.not.equal(undefined);
    await holder?.kill();
    for (const store of [working, ...raisers]) {
      await eventually("checks allow", () => store.isAdmin("root-a", { timeoutMs: 2000 }), WITHIN_MS);
    }
    for (const key of added) expect(await raiser.isAuthorized(key), key).to.equal(true);
    for (const id of ["room-a", "room-b"]) {
      const members = (await raiser.members.list(id)).map(({ endpoint }) => endpoint);
      expect(members).to.include.members(added.filter((key) => key.startsWith(id.slice(-1))));
    }
    await holder?.restart();
    await cluster.ready(WITHIN_MS);
    await Promise.all([working, ...raisers].map((store) => store.close()));
  });

  it("a store that is closed in the middle of it leaves the rest to the next one; whoever asks for fewer lowers nothing", async () => {
    const prefix = "closed_";
    const first = await open(prefix, 1);
    await first.users.addFirstAdmin({ key: "root" });
    await first.close();

    let middle = (): void => undefined;
    const reached = new Promise<void>((resolve) => (middle = resolve));
    const told: RolloutProgress[] = [];
    const second = await open(prefix, 3, {
      onRollout: (step): unknown => {
        told.push(step);
        if (step.done) middle();
        // A listener's fault is its own, also where it comes later.
        if (step.done) throw new Error("a listener that fails");
        return Promise.reject(new Error("a listener that fails later"));
      },
    });
    await reached;
    await second.close();
    const count = told.length;
    const between = await replicasOf(prefix);
    expect(between[0]).to.equal(3);
    expect(between.at(-1)).to.equal(1);

    const fewer = await open(prefix, undefined, {
      onRollout: () => told.push({ bucket: "none is asked for", replicas: 0, current: 0, done: false }),
    });
    const rest: RolloutProgress[] = [];
    const third = await open(prefix, 3, { onRollout: (step) => rest.push(step) }, 1);
    await eventually("it is done", () => isDone(rest, prefix), WITHIN_MS);
    inOrder(rest, prefix);
    expect(told).to.have.length(count);
    await caughtUp(prefix);

    const one = await open(prefix, 1, {
      onRollout: () => told.push({ bucket: "fewer are asked for", replicas: 1, current: 0, done: false }),
    });
    for (const store of [one, fewer]) {
      expect(await store.isAdmin("root")).to.equal(true);
      await store.users.add({ key: store === one ? "one" : "fewer" });
    }
    expect(await third.isAuthorized("one")).to.equal(true);
    expect(await third.isAuthorized("fewer")).to.equal(true);
    expect(await replicasOf(prefix)).to.deep.equal([3, 3, 3, 3, 3]);
    expect(told).to.have.length(count);
    await Promise.all([fewer, third, one].map((store) => store.close()));
  });

  it("a replica that hangs does not hold the bucket: it is not done before that one has caught up", async () => {
    const prefix = "hanging_";
    const hanging = 2;
    // So that the buckets are made on the others, and these lead.
    await cluster.node(hanging).stop();
    await cluster.ready(WITHIN_MS);
    await (await open(prefix, 1)).close();
    await cluster.node(hanging).restart();
    await cluster.ready(WITHIN_MS);
    await cluster.node(hanging).pause();
    const told: RolloutProgress[] = [];
    const store = await open(prefix, 3, { onRollout: (step) => told.push(step) });
    try {
      const [first] = BUCKETS;
      await eventually("it has been placed", async () => {
        const { config, cluster: group } = await streamInfo(via(0), prefix + first);
        return config["num_replicas"] === 3 && group.replicas?.length === 2;
      });
      await pause(PASSED_MS);
      expect(told.filter(({ current, done }) => done || current === 3)).to.deep.equal([]);
      expect(told.map(({ bucket }) => bucket)).to.include(prefix + first);
      await cluster.node(hanging).resume();
      await eventually("it is done", () => told.some(({ done }) => done), WITHIN_MS);
    } finally {
      await cluster.node(hanging).resume();
      await store.close();
    }
  });

  describe("replicas that stand", () => {
    const STOOD_MS = 6000;
    /** Of a bucket that has caught up: they take half of that. */
    const LOOKS = 6;
    /** A timer may be early. */
    const SLACK_MS = 20;
    let slow: Limited;

    before(async () => {
      slow = await withLimits({ STANDING_MS: STOOD_MS });
    });
    after(() => slow.dispose());

    it("are done after a while, and the next bucket does not wait for it; one that is away, another leader, and fewer of them begin that anew", async () => {
      const prefix = "stood_";
      await (await open(prefix, 1)).close();
      const caughtUp = new Map<string, number>();
      const done = new Map<string, number>();
      const looks = new Map<string, number>();
      /** What somebody does to a bucket, or what its answer says, when it has stood for a while. */
      const [away, led, fewer, ...left] = BUCKETS.map((bucket) => prefix + bucket);
      const disturbed = new Map<string | undefined, number>();
      const said = new Map<string | undefined, (info: StreamInfo) => StreamInfo["cluster"]>([
        [
          away,
          ({ cluster: { replicas = [], ...rest } }) => ({
            ...rest,
            replicas: (replicas ?? []).map((each, n) => ({ ...each, offline: n === 0 })),
          }),
        ],
        [led, ({ cluster: group }) => ({ ...group, leader: "another" })],
      ]);
      const request: Tap = async (send, ...asked) => {
        const message = await send(...asked);
        const bucket = asked[0].split("STREAM.INFO.KV_")[1];
        if (bucket === undefined || !caughtUp.has(bucket)) return message;
        const seen = (looks.get(bucket) ?? 0) + 1;
        looks.set(bucket, seen);
        if (seen !== LOOKS) return message;
        disturbed.set(bucket, performance.now());
        if (bucket === fewer) await configure(via(0), bucket, { num_replicas: 1 });
        const info = JSON.parse(new TextDecoder().decode(message.data)) as StreamInfo;
        const data = JSON.stringify({ ...info, cluster: said.get(bucket)?.(info) ?? info.cluster });
        return { data: new TextEncoder().encode(data) };
      };
      const store = await slow.library.openJetStream(requestsAlone(tapped(via(0), { request })), 3, {
        prefix,
        opTimeoutMs,
        onRollout: ({ bucket, current, done: isDone }) => {
          if (isDone) done.set(bucket, performance.now());
          else if (current === 3 && !caughtUp.has(bucket)) caughtUp.set(bucket, performance.now());
        },
      });
      await eventually("it is done", () => done.size === BUCKETS.length, WITHIN_MS);
      const stood = (bucket: string | undefined, since: ReadonlyMap<string | undefined, number>): number =>
        (done.get(bucket ?? "") ?? 0) - (since.get(bucket) ?? 0);
      for (const bucket of left) expect(stood(bucket, caughtUp), bucket).to.be.at.least(STOOD_MS - SLACK_MS);
      for (const bucket of [away, led, fewer]) {
        expect(stood(bucket, disturbed), bucket).to.be.at.least(STOOD_MS - SLACK_MS);
      }
      expect(await replicasOf(prefix)).to.deep.equal([3, 3, 3, 3, 3]);
      expect(Math.max(...caughtUp.values()) - Math.min(...done.values()), "side by side").to.be.below(STOOD_MS);
      await store.close();
    });

    it("a store that is closed meanwhile ends at once, and leaves no timer; the next one that asks for them waits anew, and tells", async () => {
      const prefix = "left_";
      await (await open(prefix, 1)).close();
      // With the time that everybody has.
      const script = `
        import { connect } from "nats";
        import { openJetStream } from "unibus-membership";
        const connection = await connect({ servers: ${JSON.stringify(cluster.urls)} });
        let standing = () => undefined;
        const stands = new Promise((resolve) => (standing = resolve));
        const buckets = new Set();
        const store = await openJetStream(connection, 3, {
          prefix: "${prefix}",
          onRollout: ({ bucket, current }) => {
            if (current === 3 && buckets.add(bucket).size === ${String(BUCKETS.length)}) setTimeout(standing, ${String(PASSED_MS)});
          },
        });
        await stands;
        const began = performance.now();
        await store.close();
        const closed = performance.now() - began;
        await connection.close();
        console.log(JSON.stringify({ closed, left: process.getActiveResourcesInfo() }));
      `;
      const child = spawn(process.execPath, ["--input-type=module", "-e", script], {
        cwd: fileURLToPath(new URL("../..", import.meta.url)),
        stdio: ["ignore", "pipe", "inherit"],
      });
      let printed = "";
      child.stdout.on("data", (bytes: Buffer) => (printed += bytes.toString()));
      expect((await once(child, "exit"))[0]).to.equal(0);
      const { closed, left } = JSON.parse(printed) as { closed: number; left: string[] };
      expect(closed).to.be.below(400);
      expect(left).to.not.include("Timeout");

      expect(await replicasOf(prefix)).to.deep.equal([3, 3, 3, 3, 3]);
      const told: RolloutProgress[] = [];
      const next = await open(prefix, 3, { onRollout: (step) => told.push(step) });
      await eventually("it is done", () => isDone(told, prefix), WITHIN_MS);
      inOrder(told, prefix);
      await next.close();
      const last = await open(prefix, 3, { onRollout: (step) => told.push(step) });
      const { length } = told;
      await pause(PASSED_MS);
      expect(told, "nothing is left to be told").to.have.length(length);
      await last.close();
    });
  });

  it("more replicas than servers are refused at once, for new buckets and for old ones, which stay as they are", async () => {
    const code = (prefix: string): Promise<unknown> =>
      open(prefix, 5).then(
        () => "opened",
        (error: unknown) =>
          isStoreError(error)
            ? [error.code, error.details?.["setting"], error.message.includes("start more servers")]
            : error,
      );
    expect(await code("none_")).to.deep.equal(["INCOMPATIBLE", "num_replicas", true]);
    const prefix = "old_";
    const store = await open(prefix, 2);
    expect(await code(prefix)).to.deep.equal(["INCOMPATIBLE", "num_replicas", true]);
    expect(await replicasOf(prefix)).to.deep.equal([2, 2, 2, 2, 2]);
    await store.users.addFirstAdmin({ key: "root" });
    expect(await store.hasAdmin()).to.equal(true);
    await store.close();
    const { total } = (await api(via(0), "STREAM.NAMES", { subject: "$KV.none_rooms.>" })) as unknown as {
      total: number;
    };
    expect(total).to.equal(0);
  });
});
