import { expect } from "chai";
import { openJetStream, type Store } from "unibus-membership";
import { startNatsCluster, type CutMode, type NatsCluster } from "unibus-membership/testing";
import { codeOf } from "../support/code-of.js";
import { natsClients, type Connection } from "../support/nats-clients.js";
import { eventually, pause } from "../support/wait.js";
import { CHECKS, PATIENCE_MS, PROBE_TIMEOUT_MS, Probes } from "./support/probes.js";

/** What the machine may need to wake a timer, on top of the time that was asked for. */
/** A busy machine lets a timer wait. Whatever has no time of its own takes far longer. */
const SLACK_MS = 5000;

/**
 * How long the side without quorum is asked. Its old leader reads what was, for 3 to 8 s, and calls itself leader.
 * `npm run soak -- --quorum` asks for 30 s.
 */
const WITHOUT_MS = Number(process.env["UNIBUS_PROBE_SECONDS"] ?? 6) * 1000;

const PREFIX = "quorum_";
const STREAMS = ["rooms", "members", "rooms_by_member", "room_keys", "users"].map((bucket) => `KV_${PREFIX}${bucket}`);

const subject = { user: "root", room: "room", endpoint: "bob" };

describe("jetstream: quorum", function () {
  this.timeout(5 * PATIENCE_MS + WITHOUT_MS);
  let cluster: NatsCluster;
  /** One for each node, and connected to that node alone. They stay open over everything that happens here. */
  const sides: { connection: Connection; store: Store }[] = [];

  before(async () => {
    cluster = await startNatsCluster({ routes: "proxied" });
    for (const [index, node] of cluster.nodes.entries()) {
      const connection = await clientOf(index).connect(node.url);
      sides.push({ connection, store: await openJetStream(connection, 3, { prefix: PREFIX }) });
    }
    const { store } = side(0);
    const timeoutMs = PATIENCE_MS;
    await store.users.addFirstAdmin({ key: subject.user }, { timeoutMs });
    await store.rooms.create({ id: subject.room, owner: "own" }, { timeoutMs });
    await store.members.add(subject.room, { endpoint: subject.endpoint, state: "joined" }, { timeoutMs });
  });

  // Whatever a case left broken is the next one's no more.
  afterEach(async () => {
    await Promise.all(cluster.nodes.map((node) => node.resume()));
    cluster.heal();
    await bringBack();
    await cluster.ready(PATIENCE_MS);
  });

  after(async () => {
    for (const { store } of sides) await store.close();
    await Promise.all(sides.map(({ connection }) => connection.close()));
    await cluster.dispose();
  });

  function side(index: number): { connection: Connection; store: Store } {
    const found = sides[index];
    if (found === undefined) throw new RangeError(`no side ${index}`);
    return found;
  }

  const others = (index: number): readonly [number, number] => [(index + 1) % 3, (index + 2) % 3];

  async function api(via: number, request: string, body: unknown): Promise<Record<string, unknown>> {
    const { data } = await side(via).connection.request(`$JS.API.${request}`, JSON.stringify(body), { timeout: 2000 });
    return JSON.parse(new TextDecoder().decode(data)) as Record<string, unknown>;
  }

  async function leaderOf(stream: string, via: number): Promise<string | undefined> {
    const answer = await api(via, `STREAM.INFO.${stream}`, {}).catch(() => ({}));
    return (answer as { cluster?: { leader?: string } }).cluster?.leader;
  }

  /** One node leads every bucket, so that a cut means the same for each check. */
  async function lead(index: number): Promise<void> {
    const { name } = cluster.node(index);
    for (const stream of STREAMS) {
      await eventually(
        `${name} leads ${stream}`,
        async () => {
          const leader = await leaderOf(stream, index);
          if (leader === name) return true;
          if (leader !== undefined) {
            await api(index, `STREAM.LEADER.STEPDOWN.${stream}`, { placement: { preferred: name } }).catch(
              () => undefined,
            );
          }
          return false;
        },
        PATIENCE_MS,
      );
    }
  }

  /** Resolves when every bucket has a leader again, as seen by a node that was not cut off. */
  async function elected(via: number, old: string): Promise<void> {
    for (const stream of STREAMS) {
      await eventually(
        `${stream} has another leader`,
        async () => ![undefined, "", old].includes(await leaderOf(stream, via)),
        PATIENCE_MS,
      );
    }
  }

  /** Starts probes on the sides, and waits until they allow. */
  async function probing<T>(indexes: readonly number[], use: (...probes: Probes[]) => Promise<T>): Promise<T> {
    const probes = indexes.map((index) => new Probes(side(index).store, subject));
    try {
      await Promise.all(probes.map((each) => each.allow()));
      return await use(...probes);
    } finally {
      await Promise.all(probes.map((each) => each.stop()));
      for (const { all } of probes) {
        for (const { check, began, ended, timeoutMs } of all)
          expect(ended - began, `${check} in time`).to.be.below(timeoutMs + SLACK_MS);
      }
    }
  }

  /** From `cut` on not one probe allows, and there are enough of them. */
  function deniedSince(cut: number, probes: Probes): void {
    const after = probes.since(cut);
    const allowed = after.filter((probe) => probe.allowed);
    expect(
      allowed.map(({ check, began }) => `${check}, ${Math.round(began - cut)} ms after the cut`),
      "allows without quorum",
    ).to.deep.equal([]);
    console.log(
      `      ${after.length} probes without a quorum in ${Math.round((performance.now() - cut) / 1000)} s, none allowed`,
    );
    for (const check of CHECKS) {
      expect(
        after.filter((probe) => probe.check === check),
        `probes of ${check}`,
      ).to.have.length.greaterThan(2);
    }
  }

  async function bringBack(): Promise<void> {
    await Promise.all(cluster.nodes.filter((node) => node.pid === undefined).map((node) => node.restart()));
  }

  for (const survivor of ["the leader", "a follower"] as const) {
    it(`two of three servers are killed and ${survivor} survives: no allow until they are back, then all`, async () => {
      const leader = 0;
      await lead(leader);
      const alive = survivor === "the leader" ? leader : 1;
      await probing([alive], async (probes) => {
        const [a, b] = others(alive);
        await Promise.all([cluster.node(a).kill(), cluster.node(b).kill()]);
        const cut = performance.now();
        await pause(WITHOUT_MS);
        deniedSince(cut, probes);
        await bringBack();
        await probes.allow();
      });
    });
  }

  for (const [leader, mode] of [
    [1, "blackhole"],
    [2, "stall"],
    [0, "reset"],
  ] as const satisfies (readonly [number, CutMode])[]) {
    it(`the old leader is cut off in the minority (${mode}): no allow there, all on the other side, and what is revoked stays so`, async () => {
      await lead(leader);
      const [a, b] = others(leader);
      const revoked = `revoked-${mode}`;
      await side(a).store.users.add({ key: revoked }, { timeoutMs: PATIENCE_MS });
      expect(await side(leader).store.isAuthorized(revoked, { timeoutMs: PATIENCE_MS })).to.equal(true);

      await probing([leader, a, b], async (minority, ...majority) => {
        cluster.isolate(leader, mode);
        const cut = performance.now();
        // Elections are the servers' own affair, and take what they take on a machine that does much else.
        await Promise.all([a, b].map((via) => elected(via, cluster.node(leader).name)));
        await Promise.all(majority.map((probes) => probes.allow()));
        const settled = performance.now();
        const firsts = majority.map((probes) => probes.since(cut).find(({ allowed }) => allowed)?.ended ?? Infinity);
        console.log(`      allowed again ${Math.round(Math.max(...firsts) - cut)} ms after the cut`);

        // The old leader may still believe that it leads.
        await side(b).store.users.revoke(revoked, { timeoutMs: PATIENCE_MS });
        const checks: Promise<boolean>[] = [];
        while (performance.now() < Math.max(cut + WITHOUT_MS, settled + 1000) || checks.length < 15) {
          for (const { store } of sides) checks.push(store.isAuthorized(revoked, { timeoutMs: PROBE_TIMEOUT_MS }));
          await pause(100);
        }
        deniedSince(cut, minority);

        cluster.heal();
        const healed = performance.now();
        const back = { is: false };
        const healing = minority.allow().finally(() => {
          back.is = true;
        });
        while (!back.is || minority.since(healed).length < 40) {
          for (const { store } of sides) checks.push(store.isAuthorized(revoked, { timeoutMs: PROBE_TIMEOUT_MS }));
          await pause(100);
        }
        await healing;
        expect(
          (await Promise.all(checks)).filter((allowed) => allowed),
          "allows after the revocation",
        ).to.deep.equal([]);
      });
      await cluster.ready(PATIENCE_MS);
      for (const { store } of sides) {
        expect(await store.authorize(revoked, { timeoutMs: PATIENCE_MS })).to.deep.include({
          allowed: false,
          reason: "revoked",
        });
      }
    });
  }

  it("the whole backend is down: every check denies in time, and allows when it is back", async () => {
    await probing([0, 1, 2], async (...probes) => {
      await Promise.all(cluster.nodes.map((node) => node.kill()));
      const cut = performance.now();
      await Promise.all(probes.map((each) => each.deny(cut)));
      await pause(2 * PROBE_TIMEOUT_MS);
      for (const each of probes) expect(each.since(cut).filter(({ allowed }) => allowed)).to.deep.equal([]);
      await bringBack();
      await cluster.ready(PATIENCE_MS);
      await Promise.all(probes.map((each) => each.allow()));
    });
  });

  for (const [title, paused] of [
    ["all servers", [0, 1, 2]],
    ["both followers", [1, 2]],
  ] as const) {
    it(`${title} are paused: every check denies in time, and allows when they go on`, async () => {
      await lead(0);
      await probing([0], async (probes) => {
        await Promise.all(paused.map((index) => cluster.node(index).pause()));
        const cut = performance.now();
        await pause(WITHOUT_MS / 2);
        const resumed = performance.now();
        await Promise.all(paused.map((index) => cluster.node(index).resume()));
        // A probe that was under way when they went on may be answered after that.
        const silent = probes.since(cut).filter(({ ended }) => ended < resumed);
        expect(silent.filter(({ allowed }) => allowed)).to.deep.equal([]);
        expect(silent).to.have.length.greaterThan(3);
        await probes.allow();
      });
    });
  }

  it("a client's connection is closed: every check denies at once, every call says so, and other stores go on", async () => {
    for (const [index, client] of natsClients.entries()) {
      const connection = await client.connect(cluster.node(index).url);
      const store = await openJetStream(connection, undefined, { prefix: PREFIX });
      const probes = new Probes(store, subject);
      await probes.allow();
      await connection.close();
      const cut = performance.now();
      await probes.deny(cut);
      expect(probes.since(cut).filter(({ allowed }) => allowed)).to.deep.equal([]);
      await probes.stop();
      for (const call of [store.users.get("root"), store.users.add({ key: "late" }), store.members.list("room")]) {
        expect(await call.then(() => "done", codeOf)).to.equal("UNAVAILABLE");
      }
      expect(await side(index).store.isAuthorized("root", { timeoutMs: PATIENCE_MS })).to.equal(true);
      await store.close();
    }
  });

  let n = 0;

  /**
   * Calls of every kind, over and over; each has to settle in time, with a result or a code that says what to make of
   * it.
   */
  async function working(disturb: () => Promise<void>): Promise<void> {
    const timeoutMs = 2000;
    const ended: string[] = [];
    let stopped = false;
    const loop = async (store: Store, kind: number): Promise<void> => {
      while (!stopped) {
        const began = performance.now();
        const key = `w${PREFIX}${kind}-${++n}`;
        const calls = [
          (): Promise<unknown> => store.users.add({ key }, { timeoutMs }),
          (): Promise<unknown> => store.members.add(subject.room, { endpoint: key }, { timeoutMs }),
          (): Promise<unknown> => store.users.get(subject.user, { timeoutMs }),
          (): Promise<unknown> => store.members.list(subject.room, { timeoutMs }),
        ];
        ended.push(await (calls[kind % calls.length]?.() ?? Promise.resolve()).then(() => "done", codeOf));
        expect(performance.now() - began, "a call in time").to.be.below(timeoutMs + SLACK_MS);
        await pause(10);
      }
    };
    const loops = Promise.all(sides.flatMap(({ store }) => [0, 1, 2, 3].map((kind) => loop(store, kind))));
    await probing([0, 1, 2], async (...probes) => {
      await disturb();
      await Promise.all(probes.map((each) => each.allow()));
    });
    const before = ended.filter((end) => end === "done").length;
    await eventually("calls go on", () => ended.filter((end) => end === "done").length > before + 20, PATIENCE_MS);
    stopped = true;
    await loops;
    expect(ended.filter((end) => !["done", "TIMEOUT", "UNAVAILABLE"].includes(end))).to.deep.equal([]);
  }

  it("servers are restarted, one after the other: calls settle with a code in time, and the next ones work", async () => {
    await working(async () => {
      for (const node of cluster.nodes) {
        await node.restart();
        await cluster.ready(PATIENCE_MS);
      }
    });
  });

  it("leaders step down, over and over: the same", async () => {
    await working(async () => {
      for (let round = 0; round < 3; round++) {
        for (const stream of STREAMS) {
          const before = await leaderOf(stream, 0);
          await api(0, `STREAM.LEADER.STEPDOWN.${stream}`, {}).catch(() => undefined);
          await eventually(
            "another one leads",
            async () => ![undefined, before].includes(await leaderOf(stream, 0)),
            PATIENCE_MS,
          );
        }
      }
    });
  });

  it("a server goes into lame duck mode: the same", async () => {
    await lead(1);
    await working(async () => {
      await cluster.node(1).lameDuck();
      await cluster.node(1).exited();
      await cluster.node(1).restart();
      await cluster.ready(PATIENCE_MS);
    });
  });
});

function clientOf(n: number): (typeof natsClients)[number] {
  const client = natsClients[n % natsClients.length];
  if (client === undefined) throw new Error("no client");
  return client;
}
