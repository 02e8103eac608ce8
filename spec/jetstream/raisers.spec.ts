// Several stores that raise replicas, and operators who change settings meanwhile. JetStream has no conditional change
// of settings: an update that was held up takes the place of whatever came between.

import { expect } from "chai";
import { type JetStreamOptions, type Replicas, type RolloutProgress, type Store } from "unibus-membership";
import { startNatsCluster, type NatsCluster } from "unibus-membership/testing";
import { withLimits } from "../support/limited.js";
import { natsClients, type Connection } from "../support/nats-clients.js";
import { eventually, pause } from "../support/wait.js";
import { BUCKETS, configure, streamInfo } from "./support/streams.js";
import { natsError, requestsAlone, tapped, type Tap } from "./support/taps.js";

const opTimeoutMs = 20_000;
const WITHIN_MS = 90_000;
/** Longer than a store in use takes to look at its settings, and than a rollout takes for its next step. */
const LOOKED_MS = 8000;
/** Replicas have to stand for so long before they are told as done. Without this it is more than a minute. */
const STANDING_MS = 500;
const [ROOMS] = BUCKETS;

/**
 * The look that leaves together with an update goes to another server, which can be slower: nothing is promised then
 * (docs/protocol.md, N11). Here an update waits for its look.
 */
class Looks {
  #last: Promise<unknown> = Promise.resolve();

  async before(subject: string): Promise<void> {
    if (subject.includes("STREAM.UPDATE")) await this.#last;
  }

  seen(subject: string, answer: ReturnType<Tap>): ReturnType<Tap> {
    if (subject.includes("STREAM.INFO")) this.#last = answer.catch(() => undefined);
    return answer;
  }
}

/**
 * A process that stops when it is about to change settings: it sends nothing more until it is woken. Or one whose
 * update alone is held up on its way.
 */
class Stopping {
  readonly connection: Connection;
  readonly stopped: Promise<void>;
  readonly #inner: Connection;
  #wake: () => void = () => undefined;
  #die: () => void = () => undefined;
  #dies = false;
  #updates = 0;

  constructor(inner: Connection, what: "all of it" | "the update alone") {
    this.#inner = inner;
    let stop = (): void => undefined;
    this.stopped = new Promise((resolve) => (stop = resolve));
    const awake = new Promise<void>((resolve) => (this.#wake = resolve));
    const dead = new Promise<void>((resolve) => (this.#die = resolve));
    let isStopped = false;
    const looks = new Looks();
    const request: Tap = async (send, ...asked) => {
      const isUpdate = asked[0].includes("STREAM.UPDATE");
      if (isUpdate && !isStopped) {
        isStopped = true;
        stop();
      }
      // What is asked in one turn leaves together.
      await Promise.resolve();
      if (isStopped && (isUpdate || what === "all of it")) await awake;
      // On a closed connection it ends at once: nothing of it goes on in this process.
      if (this.#dies && this.#updates > 0) await dead;
      await looks.before(asked[0]);
      if (isUpdate) this.#updates++;
      return looks.seen(asked[0], send(...asked));
    };
    // The client's own requests: a process that is stopped has timers that stand still, and those of the store's own
    // would go on.
    const tap = tapped(inner, {
      request,
      requestMany: async (...args) => {
        if (isStopped && what === "all of it") await awake;
        return inner.requestMany(...args);
      },
    });
    this.connection = requestsAlone(tap);
  }

  wake(): void {
    this.#wake();
  }

  /** It wakes, and dies when the update has left. */
  async dieAfterTheUpdate(): Promise<void> {
    this.#dies = true;
    this.#wake();
    await eventually("it has sent the update", () => this.#updates > 0);
    // Whatever left before a ping has reached the server.
    await this.#inner.request("$JS.API.INFO", "", { timeout: 10_000 });
    await this.#inner.close();
    this.#die();
  }
}

/** As servers answer that have no leader just then. */
const NO_LEADER = { error: { code: 503, err_code: 10008, description: "JetStream system temporarily unavailable" } };

type Send = () => ReturnType<Tap>;

describe("jetstream: raisers", function () {
  this.timeout(240_000);
  let cluster: NatsCluster;
  let connection: Connection;
  let limited: Awaited<ReturnType<typeof withLimits>>;
  const connections: Connection[] = [];

  before(async () => {
    limited = await withLimits({ STANDING_MS });
    cluster = await startNatsCluster();
    connection = await connect();
  });

  after(async () => {
    await Promise.all(connections.filter((each) => !each.isClosed()).map((each) => each.close()));
    await cluster.dispose();
    await limited.dispose();
  });

  async function connect(): Promise<Connection> {
    const [client] = natsClients;
    if (client === undefined) throw new Error("no client");
    const made = await client.connect(cluster.urls);
    connections.push(made);
    return made;
  }

  const open = (
    prefix: string,
    replicas: Replicas | undefined,
    options: JetStreamOptions = {},
    on = connection,
  ): Promise<Store> => limited.library.openJetStream(on, replicas, { prefix, opTimeoutMs, ...options });

  const replicasOf = async (bucket: string): Promise<number> =>
    Number((await streamInfo(connection, bucket)).config["num_replicas"]);

  async function raised(prefix: string, replicas: Replicas): Promise<Store> {
    const told: RolloutProgress[] = [];
    const store = await open(prefix, replicas, { onRollout: (step) => told.push(step) });
    await allDone(told, prefix);
    return store;
  }

  const allDone = (told: readonly RolloutProgress[], prefix: string): Promise<void> =>
    eventually(
      "all is done",
      () => BUCKETS.every((bucket) => told.some(({ bucket: of, done }) => done && of === prefix + bucket)),
      WITHIN_MS,
    );

  /** A store that asks for more replicas has read that there is one, and stops before it changes that. */
  async function stoppedRaiser(
    prefix: string,
    replicas: Replicas,
    what: ConstructorParameters<typeof Stopping>[1] = "all of it",
  ): Promise<{ process: Stopping; opening: Promise<Store>; told: RolloutProgress[] }> {
    const first = await open(prefix, 1);
    await first.users.addFirstAdmin({ key: "root" });
    await first.close();
    const process = new Stopping(await connect(), what);
    const told: RolloutProgress[] = [];
    const opening = open(prefix, replicas, { onRollout: (step) => told.push(step) }, process.connection);
    opening.catch(() => undefined);
    await process.stopped;
    return { process, opening, told };
  }

  it("one that asked for two wakes when three were told as done: they stay three, and so does what an operator has set", async () => {
    const prefix = "woken_";
    const { process, opening, told } = await stoppedRaiser(prefix, 2);
    const store = await raised(prefix, 3);
    await configure(connection, prefix + ROOMS, { description: "set by hand", duplicate_window: 60e9 });
    const { metadata } = (await streamInfo(connection, prefix + ROOMS)).config as { metadata: object };
    await configure(connection, prefix + ROOMS, { metadata: { ...metadata, "by-hand": "yes" } });
    process.wake();
    const woken = await opening;
    await allDone(told, prefix);
    for (const bucket of BUCKETS) expect(await replicasOf(prefix + bucket), bucket).to.equal(3);
    const { config } = await streamInfo(connection, prefix + ROOMS);
    expect(config).to.include({ description: "set by hand", duplicate_window: 60e9 });
    expect(config["metadata"]).to.include({ "by-hand": "yes" });
    for (const each of [woken, store]) expect(await each.isAdmin("root")).to.equal(true);
    await woken.close();
    await store.close();
  });

  it("one whose update alone was held up finds what was told as done meanwhile, and raises it again", async () => {
    const prefix = "held_";
    const { process, opening, told } = await stoppedRaiser(prefix, 2, "the update alone");
    await (await raised(prefix, 3)).close();
    process.wake();
    const woken = await opening;
    await eventually(
      "it is told of the first as done",
      () => told.some(({ bucket, done }) => done && bucket === prefix + ROOMS),
      WITHIN_MS,
    );
    expect(await replicasOf(prefix + ROOMS)).to.equal(3);
    await allDone(told, prefix);
    for (const bucket of BUCKETS) expect(await replicasOf(prefix + bucket), bucket).to.equal(3);
    await woken.close();
  });

  it("one that wakes only to send its update and to die: a store that is in use puts it right", async () => {
    const prefix = "in_use_";
    const { process } = await stoppedRaiser(prefix, 2);
    const store = await raised(prefix, 3);
    await process.dieAfterTheUpdate();
    await eventually("it has come late", async () => (await replicasOf(prefix + ROOMS)) === 2);
    await eventually("they are three again", async () => {
      await store.rooms.list();
      return (await replicasOf(prefix + ROOMS)) === 3;
    });
    await store.close();
  });

  it("the same while no store is open: the next opening puts it right, whatever it asks for", async () => {
    const prefix = "closed_";
    const { process } = await stoppedRaiser(prefix, 2);
    await (await raised(prefix, 3)).close();
    await process.dieAfterTheUpdate();
    await eventually("it has come late", async () => (await replicasOf(prefix + ROOMS)) === 2);
    const store = await open(prefix, undefined);
    await eventually("they are three again", async () => (await replicasOf(prefix + ROOMS)) === 3);
    await store.close();
  });

  it("what an operator sets while a raiser is stopped, and nobody else raises, is there when it is done", async () => {
    const prefix = "settings_";
    const { process, opening, told } = await stoppedRaiser(prefix, 3);
    await configure(connection, prefix + ROOMS, { description: "set by hand", compression: "s2" });
    process.wake();
    const store = await opening;
    await allDone(told, prefix);
    expect((await streamInfo(connection, prefix + ROOMS)).config).to.include({
      description: "set by hand",
      compression: "s2",
      num_replicas: 3,
    });
    await store.close();
  });

  describe("what an operator sets just before a raiser's first update leaves is there when it is done", () => {
    const byHand = { description: "set by hand", compression: "s2" };

    /**
     * `ahead` happens before something leaves: an update together with its look (0), or one of the looks that follow.
     * It is told which update is the last one. `send` is what becomes of an update.
     */
    async function raisedMeanwhile(
      prefix: string,
      ahead: (update: number, look: number) => Promise<unknown>,
      send: (update: number, send: Send) => ReturnType<Tap>,
    ): Promise<void> {
      await (await open(prefix, 1)).close();
      const bucket = prefix + ROOMS;
      let updates = 0;
      let looks = 0;
      let first: Promise<unknown> = Promise.resolve();
      const order = new Looks();
      const request: Tap = async (inner, ...asked) => {
        const isUpdate = asked[0].endsWith(`STREAM.UPDATE.KV_${bucket}`);
        const isLook = asked[0].endsWith(`STREAM.INFO.KV_${bucket}`);
        if (isUpdate) {
          updates++;
          looks = 0;
          first = updates === 1 ? configure(connection, bucket, byHand) : ahead(updates, looks);
        }
        const before = updates;
        // What is asked in one turn leaves together.
        await Promise.resolve();
        if (isLook && updates === before) first = ahead(updates, ++looks);
        await first;
        await order.before(asked[0]);
        return isUpdate ? send(before, () => inner(...asked)) : order.seen(asked[0], inner(...asked));
      };
      const told: RolloutProgress[] = [];
      const tap = requestsAlone(tapped(await connect(), { request }));
      const store = await open(prefix, 3, { onRollout: (step) => told.push(step) }, tap);
      await allDone(told, prefix);
      expect((await streamInfo(connection, bucket)).config).to.include({ ...byHand, num_replicas: 3 });
      await store.close();
    }

    for (const { when, look } of [
      { when: "before the next one", look: 0 },
      { when: "after the next one, and after a look that does not know it", look: 2 },
    ]) {
      it(`where nobody waits for that update any more, and it comes ${when}`, async () => {
        const prefix = `late_${String(look)}_`;
        let late: Send | undefined;
        await raisedMeanwhile(
          prefix,
          async (...at) => {
            if (late === undefined || at[0] !== 2 || at[1] !== look) return;
            late().catch(() => undefined);
            late = undefined;
            await eventually("it has come", async () => {
              const { config } = await streamInfo(connection, prefix + ROOMS);
              return config["description"] === undefined;
            });
          },
          (update, send) => {
            if (update > 1) return send();
            late = send;
            return Promise.reject(natsError("TIMEOUT"));
          },
        );
        expect(late).to.equal(undefined);
      });
    }

    it("where the servers have no leader when it is put back", async () => {
      await raisedMeanwhile(
        "no_leader_",
        () => Promise.resolve(),
        async (update, send) => (update === 2 ? { data: new TextEncoder().encode(JSON.stringify(NO_LEADER)) } : send()),
      );
    });
  });

  it("replicas that an operator lowers stay lowered, until a store asks for more", async () => {
    const prefix = "by_hand_";
    await (await open(prefix, 1)).close();
    const store = await raised(prefix, 3);
    await configure(connection, prefix + ROOMS, { num_replicas: 1 });
    const until = performance.now() + LOOKED_MS;
    const other = await open(prefix, undefined);
    while (performance.now() < until) {
      await Promise.all([store.rooms.list(), other.rooms.list()]);
      await pause(100);
    }
    expect(await replicasOf(prefix + ROOMS)).to.equal(1);
    const two = await raised(prefix, 2);
    expect(await replicasOf(prefix + ROOMS)).to.equal(2);
    await Promise.all([store, other, two].map((each) => each.close()));
  });
});
