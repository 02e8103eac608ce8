import { expect } from "chai";
import { Buffer } from "node:buffer";
import { openJetStream, type NatsConnection, type Store } from "unibus-membership";
import { startNatsCluster, type NatsCluster } from "unibus-membership/testing";
import { AT_LENGTH } from "../support/at-length.js";
import { natsClients, type Connection } from "../support/nats-clients.js";
import { eventually, pause } from "../support/wait.js";
import { tapped } from "./support/taps.js";

/** Generous: what is tested here is what is answered, on a machine that does much else meanwhile. */
const opTimeoutMs = 20_000;

/** Longer than what a store takes for no interruption. */
const IDLE_MS = 1100;

/** Counts what goes over a connection: writes, and direct gets. */
function counting(connection: Connection): { connection: NatsConnection; counts: { writes: number; reads: number } } {
  const counts = { writes: 0, reads: 0 };
  return {
    counts,
    connection: tapped(connection, {
      request: (send, subject, ...more) => {
        if (subject.startsWith("$KV.")) counts.writes++;
        return send(subject, ...more);
      },
      requestMany: (subject, payload, options) => {
        counts.reads++;
        return connection.requestMany(subject, payload, options);
      },
    }),
  };
}

// A store keeps the users that it has read, and a barrier tells it whether they are still so. What is taken away must
// be seen all the same, whoever took it away and whatever else went on.
describe("what a store keeps of the users", function () {
  this.timeout(120_000);
  let cluster: NatsCluster;
  const connections: Connection[] = [];
  let prefixes = 0;
  before(async () => {
    cluster = await startNatsCluster();
    for (const [i, url] of cluster.urls.entries()) {
      const client = natsClients[i % natsClients.length];
      if (client !== undefined) connections.push(await client.connect(url));
    }
  });
  after(async () => {
    await Promise.all(connections.map((each) => each.close()));
    await cluster.dispose();
  });

  const connection = (index: number): Connection => {
    const found = connections[index];
    if (found === undefined) throw new RangeError(`no connection ${index}`);
    return found;
  };

  /** Stores on different nodes, the first one with a connection that counts. */
  async function open(): Promise<{
    here: Store;
    there: Store;
    counts: { writes: number; reads: number };
    prefix: string;
  }> {
    const prefix = `copy${prefixes++}_`;
    const counted = counting(connection(0));
    const here = await openJetStream(counted.connection, 3, { prefix, opTimeoutMs });
    const there = await openJetStream(connection(1), 3, { prefix, opTimeoutMs });
    return { here, there, counts: counted.counts, prefix };
  }

  async function warm(store: Store, keys: readonly string[]): Promise<void> {
    for (let times = 0; times < 2; times++) {
      const answers = await Promise.all(keys.map((key) => store.isAuthorized(key)));
      expect(answers.every((allowed) => allowed)).to.equal(true);
    }
  }

  it("takes what the store wrote itself without reading, and passes over nothing that another one wrote before", async () => {
    const { here, there, counts } = await open();
    await here.users.addFirstAdmin({ key: "root" });
    for (const key of ["amy", "bob"]) await here.users.add({ key });
    await warm(here, ["root", "amy", "bob"]);
    counts.reads = 0;
    for (let n = 0; n < 5; n++) {
      await here.users.add({ key: `new-${String(n)}` });
      await here.users.revoke("bob");
      expect(await here.isAuthorized("bob")).to.equal(false);
      await here.users.reinstate("bob");
      expect(await here.isAuthorized("bob")).to.equal(true);
    }
    // Only the first may find something that was not known.
    expect(counts.reads).to.be.lessThan(5);
    for (let n = 0; n < 5; n++) {
      await there.users.revoke("amy");
      await here.users.add({ key: `more-${String(n)}` });
      expect(await here.isAuthorized("amy")).to.equal(false);
      await there.users.reinstate("amy");
      await here.users.add({ key: `yet-more-${String(n)}` });
      expect(await here.isAuthorized("amy")).to.equal(true);
    }
    await here.close();
    await there.close();
  });

  it("a user that was read before costs a barrier, which all who begin together share, and no read", async () => {
    const { here, counts } = await open();
    const keys = Array.from({ length: 20 }, (_, i) => `user-${i}`);
    await Promise.all(keys.map((key) => here.users.add({ key })));
    await warm(here, keys);

    // A machine that stops for a second makes a store read anew, or send a barrier beside a slow one.
    const costs = async (checks: () => Promise<void>): Promise<string> => {
      counts.writes = counts.reads = 0;
      await checks();
      return JSON.stringify(counts);
    };
    await eventually("checks side by side share a barrier", async () => {
      return (await costs(() => warm(here, keys))) === JSON.stringify({ writes: 2, reads: 0 });
    });
    await eventually("checks one after the other have one each", async () => {
      const oneByOne = async (): Promise<void> => {
        for (const key of keys) await here.isAuthorized(key);
      };
      return (await costs(oneByOne)) === JSON.stringify({ writes: keys.length, reads: 0 });
    });
    await here.close();
  });

  it("what another store takes away and gives back is seen by the next check, also between the barriers of a third", async () => {
    const { here, there, prefix } = await open();
    const third = await openJetStream(connection(2), 3, { prefix, opTimeoutMs });
    const keys = Array.from({ length: 30 }, (_, i) => `user-${i}`);
    await Promise.all(keys.map((key) => here.users.add({ key })));
    await there.users.addFirstAdmin({ key: "root" });
    await warm(here, keys);
    await warm(third, keys);

    const busy = new AbortController();
    const checking = (async () => {
      while (!busy.signal.aborted) await Promise.all(keys.map((key) => third.isAuthorized(key)));
    })();
    try {
      for (const key of keys) {
        await there.users.revoke(key);
        expect(await here.isAuthorized(key), `${key} revoked`).to.equal(false);
        expect((await here.authorize(key)).reason).to.equal("revoked");
        await there.users.update(key, { name: "still revoked" });
        expect(await here.isAuthorized(key), `${key} renamed`).to.equal(false);
        await there.users.reinstate(key);
        expect(await here.isAuthorized(key), `${key} reinstated`).to.equal(true);
        await there.users.update(key, { expiresAt: new Date(Date.now() - 1) });
        expect((await here.authorize(key)).reason).to.equal("expired");
        await there.users.update(key, { expiresAt: null, role: "admin" });
        expect(await here.isAdmin(key), `${key} made an admin`).to.equal(true);
        await there.users.update(key, { role: "member" });
        expect(await here.isAdmin(key), `${key} demoted`).to.equal(false);
        expect(await here.isAuthorized(key)).to.equal(true);
      }
    } finally {
      busy.abort();
      await checking;
    }
    await Promise.all([here, there, third].map((store) => store.close()));
  });

  it("so is each of many changes at once, more than are followed one by one", async () => {
    const { here, there } = await open();
    const keys = Array.from({ length: 400 }, (_, i) => `user-${i}`);
    await Promise.all(keys.map((key) => here.users.add({ key })));
    await warm(here, keys);
    for (const count of [49, 50, 51, 400]) {
      const some = keys.slice(0, count);
      await Promise.all(some.map((key) => there.users.revoke(key)));
      const answers = await Promise.all(keys.map((key) => here.isAuthorized(key)));
      expect(answers.filter((allowed) => allowed).length, `after ${count} revocations`).to.equal(keys.length - count);
      await Promise.all(some.map((key) => there.users.reinstate(key)));
      await warm(here, keys);
    }
    await Promise.all([here.close(), there.close()]);
  });

  it("checks that are under way all the while never allow what was taken away before they began", async () => {
    const { here, there, prefix } = await open();
    const keys = Array.from({ length: 60 }, (_, i) => `user-${i}`);
    await Promise.all(keys.map((key) => here.users.add({ key })));
    // Users change in turn, and each is checked from many lanes at once. A user is revoked from the acknowledgement on
    // until the next grant begins.
    const revoked = new Set<string>();
    let wrong = 0;
    let allowed = 0;
    let denied = 0;
    const lane = async (store: Store, first: number, until: AbortSignal): Promise<void> => {
      for (let i = first; !until.aborted; i++) {
        const key = keys[i % keys.length] ?? "";
        const wasRevoked = revoked.has(key);
        const answer = await store.isAuthorized(key);
        if (answer) allowed++;
        else denied++;
        if (answer && wasRevoked && revoked.has(key)) wrong++;
      }
    };
    for (let round = 0; round < (AT_LENGTH ? 20 : 2); round++) {
      // One that knows the users of old, and one that reads them while they change.
      const young = await openJetStream(connection(2), 3, { prefix, opTimeoutMs });
      const ended = new AbortController();
      const lanes = [here, young].flatMap((store) =>
        Array.from({ length: 24 }, (_, i) => lane(store, i * 7, ended.signal)),
      );
      try {
        for (const key of keys) {
          await there.users.revoke(key);
          revoked.add(key);
        }
        for (const key of keys) {
          revoked.delete(key);
          await there.users.reinstate(key);
        }
      } finally {
        ended.abort();
        await Promise.all(lanes);
        await young.close();
      }
    }
    expect(wrong).to.equal(0);
    expect(allowed).to.be.greaterThan(0);
    expect(denied).to.be.greaterThan(0);
    await Promise.all([here.close(), there.close()]);
  });

  it("once some were asked for, all are kept: also those that nobody asked for", async () => {
    const { here, there, counts } = await open();
    const keys = Array.from({ length: 700 }, (_, i) => `user-${i}`);
    await Promise.all(keys.map((key) => there.users.add({ key })));
    await warm(here, keys.slice(0, 20));
    let next = 20;
    await eventually("a user that nobody asked for costs no read", async () => {
      counts.reads = 0;
      const key = keys[next++] ?? "";
      expect(await here.isAuthorized(key)).to.equal(true);
      return counts.reads === 0;
    });
    // Who is not there is looked for each time: what a replica does not have proves nothing.
    expect((await here.authorize("nobody")).reason).to.equal("unknown");
    await there.users.add({ key: "nobody" });
    expect(await here.isAuthorized("nobody")).to.equal(true);
    await there.users.revoke("nobody");
    await there.users.revoke("user-699");
    expect(await here.isAuthorized("nobody")).to.equal(false);
    expect(await here.isAuthorized("user-699")).to.equal(false);
    await Promise.all([here.close(), there.close()]);
  });

  it("after a while without checks it is looked whether the log is still the same, and what changed is seen", async () => {
    const { here, there, counts } = await open();
    const keys = Array.from({ length: 12 }, (_, i) => `user-${i}`);
    await Promise.all(keys.map((key) => here.users.add({ key })));
    await warm(here, keys);
    await eventually("one read tells for all", async () => {
      await warm(here, keys);
      await pause(IDLE_MS);
      counts.reads = 0;
      await warm(here, keys);
      return counts.reads <= 2;
    });
    for (const key of keys.slice(0, 3)) {
      await pause(IDLE_MS);
      await there.users.revoke(key);
      const answers = await Promise.all(keys.map((each) => here.isAuthorized(each)));
      expect(answers.indexOf(true)).to.equal(keys.indexOf(key) + 1);
    }
    await Promise.all([here.close(), there.close()]);
  });

  for (const idle of [false, true]) {
    it(`a bucket that was removed and made anew is not the one whose users are kept: ${idle ? "not looked at" : "looked at"} meanwhile`, async () => {
      const { here, prefix } = await open();
      await here.users.addFirstAdmin({ key: "root" });
      await here.users.add({ key: "guest" });
      await warm(here, ["guest", "root"]);

      const raw = connection(1);
      const api = async (subject: string, body: unknown): Promise<Record<string, unknown>> => {
        const answer = await raw.request(`$JS.API.${subject}`, JSON.stringify(body), { timeout: 10_000 });
        return JSON.parse(Buffer.from(answer.data).toString()) as Record<string, unknown>;
      };
      const stream = `KV_${prefix}users`;
      const { config } = await api(`STREAM.INFO.${stream}`, {});
      await api(`STREAM.DELETE.${stream}`, {});
      await eventually(
        "the bucket is there anew",
        async () => (await api(`STREAM.CREATE.${stream}`, config))["error"] === undefined,
      );
      if (idle) await pause(IDLE_MS);
      else expect(await here.isAuthorized("guest", { timeoutMs: 500 })).to.equal(false);
      // However far the new log gets meanwhile.
      await Promise.all(
        Array.from({ length: 200 }, () =>
          raw.request(`$KV.${prefix}users.barrier`, `{"k":"barrier"}`, { timeout: 10_000 }),
        ),
      );
      const options = { timeoutMs: 2000 };
      expect(await here.isAuthorized("guest", options)).to.equal(false);
      expect(await here.isAuthorized("root", options)).to.equal(false);
      await here.close();
    });
  }
});
