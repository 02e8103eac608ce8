// Buckets of format 1: how they become buckets of format 2, whoever is killed, and what a store of before may write
// meanwhile.

import { expect } from "chai";
import { openJetStream, type Store } from "unibus-membership";
import { startNatsServer, type NatsServer } from "unibus-membership/testing";
import { codeOf } from "../support/code-of.js";
import { natsClients, type Connection } from "../support/nats-clients.js";
import { eventually } from "../support/wait.js";
import { OLD_VERSIONS, ROOMS_OF_OLD, keysIn, putOldRoom, recordAt, restore, tokenOf } from "./support/format-1.js";
import { BUCKETS, configure, streamInfo, type Json } from "./support/streams.js";
import { natsError, tapped } from "./support/taps.js";

const opTimeoutMs = 20_000;
const FORMAT_METADATA = "unibus-membership";

let cases = 0;
const newPrefix = (): string => `f${++cases}_`;

async function listed(store: Store, limit = 2): Promise<string[]> {
  const ids: string[] = [];
  for (let after: string | undefined; ;) {
    const { items, next } = await store.rooms.list({ limit, ...(after === undefined ? {} : { after }) });
    ids.push(...items.map(({ id }) => id));
    if (next === undefined) return ids.sort();
    after = next;
  }
}

describe("jetstream: format", function () {
  this.timeout(120_000);
  let server: NatsServer;
  const connections: Connection[] = [];

  before(async () => {
    server = await startNatsServer();
    for (const client of natsClients) connections.push(await client.connect(server.url));
  });

  after(async () => {
    for (const connection of connections) await connection.close();
    await server.dispose();
  });

  const [first, second] = [(): Connection => connectionAt(0), (): Connection => connectionAt(1)];
  function connectionAt(n: number): Connection {
    const found = connections[n % connections.length];
    if (found === undefined) throw new Error("no connection");
    return found;
  }

  const connectAnew = async (): Promise<Connection> => {
    const [client] = natsClients;
    if (client === undefined) throw new Error("no client");
    return client.connect(server.url);
  };

  const open = (prefix: string, on: Connection = first()): Promise<Store> =>
    openJetStream(on, 1, { prefix, opTimeoutMs });

  async function formats(prefix: string): Promise<unknown[]> {
    const all = await Promise.all(
      BUCKETS.map(async (bucket) => (await streamInfo(first(), prefix + bucket)).config["metadata"] as Json),
    );
    return [...new Set(all.map((metadata) => metadata[FORMAT_METADATA]))];
  }

  const entries = (prefix: string): Promise<string[]> => keysIn(first(), `${prefix}rooms_by_member`, "=.*.*");

  /** All that was there, and that it can be changed. */
  async function expectWhole(store: Store, prefix: string): Promise<void> {
    expect(await formats(prefix)).to.deep.equal(["2"]);
    expect(await listed(store)).to.deep.equal([...ROOMS_OF_OLD]);
    expect((await entries(prefix)).length).to.equal(ROOMS_OF_OLD.length);
    expect(
      (await store.users.list()).items.map(({ key, role, status }) => `${key} ${role} ${status}`).sort(),
    ).to.deep.equal(["amy member active", "boss admin active", "max member revoked", "root admin active"]);
    expect(await store.isAdmin("root")).to.equal(true);
    expect(await store.isAuthorized("max")).to.equal(false);
    expect((await store.members.list("sealed")).map(({ endpoint, state }) => `${endpoint} ${state}`)).to.deep.equal([
      "bob joined",
      "carol joined",
      "inv invited",
      "own joined",
    ]);
    expect(await store.isMember("sealed", "carol")).to.equal(true);
    expect(await store.isMember("sealed", "eve")).to.equal(false);
    expect(
      (await store.roomKeys.list("sealed", "bob")).map(
        ({ epoch, sealed }) => `${String(epoch)} ${Buffer.from(sealed).toString()}`,
      ),
    ).to.deep.equal(["1 bob 1", "2 bob 2"]);
    expect((await store.rooms.listForEndpoint("bob")).map(({ id }) => id)).to.deep.equal(["again", "sealed"]);
    await store.rooms.create({ id: "new", owner: "own" });
    await store.rooms.delete("plain");
    await store.rooms.update("sealed", { name: "changed" });
    expect(await listed(store, 1)).to.deep.equal(["again", "new", "sealed"]);
  }

  for (const version of OLD_VERSIONS) {
    it(`buckets of the ${version} version are taken over when they are opened`, async () => {
      const prefix = newPrefix();
      await restore(first(), prefix, version);
      const store = await open(prefix);
      await expectWhole(store, prefix);
      await store.close();
    });

    it(`buckets of the ${version} version, by four that open at once`, async () => {
      const prefix = newPrefix();
      await restore(first(), prefix, version);
      const stores = await Promise.all([0, 1, 2, 3].map((n) => open(prefix, connectionAt(n))));
      for (const store of stores) expect(await listed(store)).to.deep.equal([...ROOMS_OF_OLD]);
      const [one] = stores;
      if (one !== undefined) await expectWhole(one, prefix);
      await Promise.all(stores.map((store) => store.close()));
    });
  }

  it("whoever dies at any request of an opening, the next one that opens has all of it", async () => {
    let died = 0;
    for (let at = 1; ; at++) {
      const prefix = newPrefix();
      await restore(first(), prefix, "late");
      let count = 0;
      const own = await connectAnew();
      // The request is sent, and nothing is heard of it any more.
      const dying = tapped(own, {
        request: async (send, ...asked) => {
          if (++count !== at) return send(...asked);
          await send(...asked).catch(() => undefined);
          await own.close();
          throw natsError("CONNECTION_CLOSED");
        },
      });
      const opened = await openJetStream(dying, 1, { prefix, opTimeoutMs }).catch((error: unknown) => codeOf(error));
      const store = await open(prefix);
      await expectWhole(store, prefix);
      await store.close();
      const isDead = own.isClosed();
      if (typeof opened !== "string") await opened.close();
      await own.close();
      if (!isDead) break;
      died++;
    }
    expect(died).to.be.greaterThan(15);
  });

  it("more rooms than are looked at at once, and one who died in the middle: it goes on where that one was", async () => {
    const prefix = newPrefix();
    await restore(first(), prefix, "late");
    const more = Array.from({ length: 2500 }, (_, n) => `more-${String(n)}`);
    for (let n = 0; n < more.length; n += 250)
      await Promise.all(more.slice(n, n + 250).map((id) => putOldRoom(first(), prefix, id)));
    let made = 0;
    const own = await connectAnew();
    const dying = tapped(own, {
      request: async (send, ...asked) => {
        if (asked[0].startsWith(`$KV.${prefix}rooms_by_member.=.`) && ++made === 2200) await own.close();
        return send(...asked);
      },
    });
    expect(await openJetStream(dying, 1, { prefix, opTimeoutMs }).catch((error: unknown) => codeOf(error))).to.equal(
      "UNAVAILABLE",
    );
    expect(await recordAt(first(), `${prefix}rooms`, "index")).to.have.property("complete", false);
    let again = 0;
    const counting = tapped(second(), {
      request: (send, ...asked) => {
        if (asked[0].startsWith(`$KV.${prefix}rooms_by_member.=.`)) again++;
        return send(...asked);
      },
    });
    const phases = new Set<string>();
    const store = await openJetStream(counting, 1, {
      prefix,
      opTimeoutMs,
      onOpening: ({ phase }) => phases.add(phase),
    });
    expect(again).to.be.lessThan(1000);
    expect([...phases]).to.include("index");
    expect(await listed(store, 1000)).to.deep.equal([...ROOMS_OF_OLD, ...more].sort());
    await store.close();
  });

  describe("a store of before that is open meanwhile", () => {
    it("makes a room without an entry: whoever meets the room, or opens, puts it into the index", async () => {
      for (const how of ["get", "isMember", "open", "listForEndpoint"] as const) {
        const prefix = newPrefix();
        await restore(first(), prefix, "late");
        const store = await open(prefix);
        // As its writes were: the entry of the member, and the record.
        await first().request(
          `$KV.${prefix}rooms_by_member.${tokenOf("own")}.${tokenOf("late")}.of-late.m`,
          JSON.stringify({ k: `${tokenOf("own")}.${tokenOf("late")}.of-late.m` }),
        );
        await putOldRoom(first(), prefix, "late");
        if (how === "get") await store.rooms.get("late");
        if (how === "isMember") await store.isMember("late", "own");
        if (how === "listForEndpoint") await store.rooms.listForEndpoint("own");
        const other = how === "open" ? await open(prefix, second()) : undefined;
        await eventually(`${how} has put it there`, async () => (await listed(store)).includes("late"));
        await other?.close();
        await store.close();
      }
    });

    it("drops what says that a room is in the index: the entry stays, and it is said again", async () => {
      const prefix = newPrefix();
      const store = await open(prefix);
      await store.rooms.create({ id: "room", owner: "own" });
      const key = `room.${tokenOf("room")}`;
      const { indexed, ...others } = (await recordAt(first(), `${prefix}rooms`, key)) ?? {};
      expect(indexed).to.equal(true);
      await first().request(`$KV.${prefix}rooms.${key}`, JSON.stringify({ ...others, name: "of before" }));
      await eventually("it is said again", async () => {
        await store.rooms.get("room");
        return (await recordAt(first(), `${prefix}rooms`, key))?.["indexed"] === true;
      });
      expect((await store.rooms.list()).items.map(({ name }) => name)).to.deep.equal(["of before"]);
      await store.close();
    });

    it("deletes a room and leaves its entry: it is not listed", async () => {
      const prefix = newPrefix();
      const store = await open(prefix);
      await store.rooms.create({ id: "room", owner: "own" });
      await first().request(
        `$KV.${prefix}rooms.room.${tokenOf("room")}`,
        JSON.stringify({ k: `room.${tokenOf("room")}`, gone: true, n: 2, first: "x", log: ["y"] }),
      );
      expect(await entries(prefix)).to.have.length(1);
      expect(await listed(store)).to.deep.equal([]);
      await store.close();
    });

    it("takes back the format by an update that comes late: it is raised again within seconds of use", async () => {
      const prefix = newPrefix();
      const store = await open(prefix);
      const { config } = await streamInfo(first(), `${prefix}users`);
      await configure(first(), `${prefix}users`, {
        metadata: { ...(config["metadata"] as Json), [FORMAT_METADATA]: "1" },
      });
      await eventually("it is raised", async () => {
        await store.hasAdmin();
        return (await formats(prefix)).length === 1;
      });
      expect(await formats(prefix)).to.deep.equal(["2"]);
      await store.close();
    });
  });

  describe("grants are counted", () => {
    const grantOf = async (prefix: string, key: string): Promise<unknown> =>
      ((await recordAt(first(), `${prefix}users`, `user.${tokenOf(key)}`))?.["user"] as Json)["grant"];

    it("what is taken away and given again at once leaves a trace; nothing else does", async () => {
      const prefix = newPrefix();
      const store = await open(prefix);
      await store.users.addFirstAdmin({ key: "root" });
      await store.users.add({ key: "amy" });
      const { users } = store;
      const steps: readonly (readonly [run: () => Promise<unknown>, by: number])[] = [
        [() => users.update("amy", { name: "Amy" }), 0],
        [() => users.revoke("amy"), 1],
        [() => users.revoke("amy"), 0],
        [() => users.reinstate("amy"), 0],
        [() => users.update("amy", { expiresAt: new Date(Date.now() + 3_600_000) }), 0],
        // It ends, and is given anew.
        [() => users.update("amy", { expiresAt: new Date(Date.now() - 1000) }), 1],
        [() => users.update("amy", { expiresAt: null }), 1],
        // What an admin may is taken away by way of the guard; that change stands in the record with the next one.
        [
          async () => {
            await users.update("amy", { role: "admin" });
            await users.update("amy", { name: "A" });
          },
          0,
        ],
        [
          async () => {
            await users.update("amy", { role: "member" });
            await users.update("amy", { name: "B" });
          },
          1,
        ],
      ];
      let grant = 0;
      for (const [i, [run, by]] of steps.entries()) {
        await run();
        grant += by;
        expect(await grantOf(prefix, "amy"), `step ${String(i)}`).to.equal(grant);
      }
      await store.close();
    });

    it("where a version of before drops the number, it counts as a new one, and no number comes again", async () => {
      const prefix = newPrefix();
      await restore(first(), prefix, "late");
      const store = await open(prefix);
      const seen: unknown[] = [];
      const note = async (): Promise<void> => {
        seen.push(await grantOf(prefix, "amy"));
      };
      await store.users.update("amy", { name: "1" });
      await note();
      await store.users.revoke("amy");
      await note();
      // As a store of before writes what it has read, with the next version.
      const key = `user.${tokenOf("amy")}`;
      const record = (await recordAt(first(), `${prefix}users`, key)) ?? {};
      const { grant, revokedAt, v, ...others } = record["user"] as Json;
      expect(grant).to.equal(seen[1]);
      expect(revokedAt).to.be.a("number");
      await first().request(
        `$KV.${prefix}users.${key}`,
        JSON.stringify({ ...record, user: { ...others, v: Number(v) + 1 } }),
      );
      await store.users.update("amy", { name: "2" });
      await note();
      await store.users.revoke("amy");
      await note();
      const numbers = seen.map(Number);
      expect(new Set(numbers).size).to.equal(numbers.length);
      expect([...numbers].sort((a, b) => a - b)).to.deep.equal(numbers);
      await store.close();
    });
  });
});
