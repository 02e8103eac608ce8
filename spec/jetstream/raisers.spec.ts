// Several stores that raise replicas, and operators who change settings meanwhile. JetStream has no conditional change of settings: an
// update that was held up takes the place of whatever came between.

import { expect } from "chai";
import {
  openJetStream,
  type JetStreamOptions,
  type Replicas,
  type RolloutProgress,
  type Store,
} from "unibus-membership";
import { startNatsCluster, type NatsCluster } from "unibus-membership/testing";
import { natsClients, type Connection } from "../support/nats-clients.js";
import { eventually, pause } from "../support/wait.js";
import { BUCKETS, configure, streamInfo } from "./support/streams.js";
import { requestsAlone, tapped, type Tap } from "./support/taps.js";

const opTimeoutMs = 20_000;
const WITHIN_MS = 90_000;
/** Longer than a store in use takes to look at its settings, and than a rollout takes for its next step. */
const LOOKED_MS = 8000;
const [ROOMS] = BUCKETS;

/**
 * A process that stops when it is about to change settings: it sends nothing more until it is woken. Or one whose update
 * alone is held up on its way.
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
      if (isUpdate) this.#updates++;
      return send(...asked);
    };
    // The client's own requests: a process that is stopped has timers that stand still, and those of the store's own would go on.
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

describe("jetstream: raisers", function () {
  this.timeout(240_000);
  let cluster: NatsCluster;
  let connection: Connection;
  const connections: Connection[] = [];

  before(async () => {
    cluster = await startNatsCluster();
    connection = await connect();
  });

  after(async () => {
    await Promise.all(connections.filter((each) => !each.isClosed()).map((each) => each.close()));
    await cluster.dispose();
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
  ): Promise<Store> => openJetStream(on, replicas, { prefix, opTimeoutMs, ...options });

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
