import { expect } from "chai";
import { isStoreError, openJetStream, type Store } from "unibus-membership";
import { codeOf, errorOf } from "../support/code-of.js";
import { startNatsServer, type NatsServer } from "unibus-membership/testing";
import { natsClients, type Connection, type NatsClient } from "../support/nats-clients.js";
import { FaultyConnection } from "./support/faulty-connection.js";
import { tapped } from "./support/taps.js";
import { eventually } from "../support/wait.js";
import { BUCKETS, api, configure, streamInfo, type Json } from "./support/streams.js";

type BucketName = (typeof BUCKETS)[number];

const [client] = natsClients;
const opTimeoutMs = 20_000;

/** Names that no other case has: a setting can be found in any bucket, and its case may leave it there. */
let cases = 0;
const newPrefix = (): string => `c${++cases}_`;

async function usable(store: Store): Promise<void> {
  await store.users.addFirstAdmin({ key: "root" });
  await store.rooms.create({ id: "room", owner: "own", encrypted: true, sealedKey: Uint8Array.of(1) });
  expect(await store.isAdmin("root")).to.equal(true);
  expect((await store.rooms.listForEndpoint("own")).map(({ id }) => id)).to.deep.equal(["room"]);
}

describe("jetstream: buckets", function () {
  this.timeout(60_000);
  let server: NatsServer;
  let connection: Connection;

  const open = (prefix: string, on: Connection = connection): Promise<Store> =>
    openJetStream(on, 1, { prefix, opTimeoutMs });

  before(async () => {
    server = await startNatsServer();
    connection = await connect(client);
  });

  after(async () => {
    await connection.close();
    await server.dispose();
  });

  async function connect(which: NatsClient | undefined): Promise<Connection> {
    if (which === undefined) throw new Error("no client");
    return which.connect(server.url);
  }

  /** A bucket as this library makes it, but for `change`. */
  async function makeOtherwise(prefix: string, bucket: BucketName, change: (config: Json) => Json): Promise<void> {
    const store = await open(prefix);
    await store.close();
    const name = prefix + bucket;
    const { config } = await streamInfo(connection, name);
    await api(connection, `STREAM.DELETE.KV_${name}`);
    await api(connection, `STREAM.CREATE.KV_${name}`, change(config));
  }

  describe("that exist already are refused where a setting breaks a promise", () => {
    const with_ =
      (change: Json) =>
      (config: Json): Json => ({ ...config, ...change });
    const refusals: readonly {
      what: string;
      bucket: BucketName;
      setting: string;
      change: (config: Json, prefix: string) => Json;
    }[] = [
      { what: "no format", bucket: "rooms", setting: "metadata", change: with_({ metadata: {} }) },
      {
        what: "a newer format",
        bucket: "users",
        setting: "metadata",
        change: with_({ metadata: { "unibus-membership": "3" } }),
      },
      {
        what: "a format that is none",
        bucket: "users",
        setting: "metadata",
        change: with_({ metadata: { "unibus-membership": "1.5" } }),
      },
      {
        what: "other subjects",
        bucket: "members",
        setting: "subjects",
        change: (config, prefix) => ({ ...config, subjects: [`${prefix}elsewhere.>`] }),
      },
      {
        what: "more subjects",
        bucket: "rooms",
        setting: "subjects",
        change: (config, prefix) => ({ ...config, subjects: [`$KV.${prefix}rooms.>`, `${prefix}elsewhere.>`] }),
      },
      {
        what: "messages that go once they are seen",
        bucket: "users",
        setting: "retention",
        change: with_({ retention: "interest" }),
      },
      { what: "memory", bucket: "users", setting: "storage", change: with_({ storage: "memory" }) },
      {
        what: "a history",
        bucket: "room_keys",
        setting: "max_msgs_per_subject",
        change: with_({ max_msgs_per_subject: 5 }),
      },
      { what: "a limit of records", bucket: "members", setting: "max_msgs", change: with_({ max_msgs: 1_000_000 }) },
      { what: "a limit of bytes", bucket: "members", setting: "max_bytes", change: with_({ max_bytes: 2 ** 24 }) },
      { what: "an age at which records go", bucket: "users", setting: "max_age", change: with_({ max_age: 3600e9 }) },
      {
        what: "old records that give way to new ones",
        bucket: "users",
        setting: "max_msgs",
        change: with_({ max_msgs: 10, discard: "old" }),
      },
      {
        what: "a limit of a record",
        bucket: "room_keys",
        setting: "max_msg_size",
        change: with_({ max_msg_size: 1024 }),
      },
      { what: "no direct reads", bucket: "rooms", setting: "allow_direct", change: with_({ allow_direct: false }) },
      {
        what: "single records that can be deleted",
        bucket: "users",
        setting: "deny_delete",
        change: with_({ deny_delete: false }),
      },
      {
        what: "rooms that can be purged",
        bucket: "rooms",
        setting: "deny_purge",
        change: with_({ deny_purge: false }),
      },
      {
        what: "users that can be purged",
        bucket: "users",
        setting: "deny_purge",
        change: with_({ deny_purge: false }),
      },
      {
        what: "keys that cannot be purged",
        bucket: "room_keys",
        setting: "deny_purge",
        change: with_({ deny_purge: true }),
      },
      {
        what: "a mirror",
        bucket: "users",
        setting: "mirror",
        change: (config, prefix) => ({ ...config, subjects: null, mirror: { name: `KV_${prefix}rooms` } }),
      },
      {
        what: "sources",
        bucket: "users",
        setting: "sources",
        // Of nothing: what the server copies by itself is no change that the library made.
        change: (config, prefix) => ({
          ...config,
          sources: [{ name: `KV_${prefix}rooms`, filter_subject: `$KV.${prefix}rooms.nothing` }],
        }),
      },
      {
        what: "subjects that are transformed",
        bucket: "rooms",
        setting: "subject_transform",
        change: (config, prefix) => ({
          ...config,
          subject_transform: { src: `$KV.${prefix}rooms.a.>`, dest: `$KV.${prefix}rooms.b.>` },
        }),
      },
      {
        what: "records that are published elsewhere",
        bucket: "room_keys",
        setting: "republish",
        change: (config, prefix) => ({ ...config, republish: { src: ">", dest: `${prefix}elsewhere.>` } }),
      },
      { what: "no acknowledgements", bucket: "members", setting: "no_ack", change: with_({ no_ack: true }) },
      {
        what: "writes that are acknowledged before they are written",
        bucket: "users",
        setting: "persist_mode",
        change: with_({ persist_mode: "async" }),
      },
    ];

    for (const { what, bucket, setting, change } of refusals) {
      it(`${what}: ${setting} of ${bucket}`, async () => {
        const prefix = newPrefix();
        await makeOtherwise(prefix, bucket, (config) => change(config, prefix));
        const name = prefix + bucket;
        const before = await streamInfo(connection, name);
        const error = await errorOf(open(prefix));
        expect(error.code).to.equal("INCOMPATIBLE");
        expect(error.details).to.deep.equal({ bucket: name, setting });
        expect(error.message).to.contain(name);
        const { config, created, state } = await streamInfo(connection, name);
        expect({ config, created, state }).to.deep.equal({
          config: before.config,
          created: before.created,
          state: before.state,
        });
      });
    }

    it("somebody else's KV bucket of the same name", async () => {
      const prefix = newPrefix();
      const name = `${prefix}users`;
      await api(connection, `STREAM.CREATE.KV_${name}`, {
        name: `KV_${name}`,
        subjects: [`$KV.${name}.>`],
        max_msgs_per_subject: 1,
        allow_direct: true,
        discard: "new",
        deny_delete: true,
        allow_rollup_hdrs: true,
        num_replicas: 1,
        retention: "limits",
        storage: "file",
        max_consumers: -1,
        max_msgs: -1,
        max_bytes: -1,
        max_age: 0,
      });
      await connection.request(`$KV.${name}.theirs`, "theirs", { timeout: 5000 });
      const error = await errorOf(open(prefix));
      expect(error.code).to.equal("INCOMPATIBLE");
      expect(error.message).to.contain("another prefix");
      expect((await streamInfo(connection, name)).state).to.include({ messages: 1, last_seq: 1 });
    });

    it("but not for what breaks none, such as compression or a description", async () => {
      const prefix = newPrefix();
      await makeOtherwise(prefix, "members", (config) => ({
        ...config,
        compression: "s2",
        description: "of the members",
        duplicate_window: 10e9,
      }));
      const store = await open(prefix);
      await usable(store);
      await store.close();
    });
  });

  for (const [version, end] of [
    ["2.10.29", "too old"],
    ["2.12.7", "breaks a promise"],
    ["2.12.9", "breaks a promise"],
    ["2.12.10", ""],
    ["2.14.0-RC.1", ""],
  ] as const) {
    it(`a server that says that it is ${version} is ${end === "" ? "taken" : `refused: ${end}`}`, async () => {
      const as = new Proxy(connection, {
        get: (target, name) => {
          if (name === "info") return { ...target.info, version };
          const found: unknown = Reflect.get(target, name);
          return typeof found === "function" ? (found.bind(target) as unknown) : found;
        },
      });
      const opened = await openJetStream(as, 1, { prefix: newPrefix() }).then(
        (store) => store.close().then(() => ""),
        (error: unknown) => `${codeOf(error)} ${String(error)}`,
      );
      if (end === "") expect(opened).to.equal("");
      else expect(opened).to.contain("INCOMPATIBLE").and.contain(version).and.contain(end);
    });
  }

  describe("that change while a store is open", () => {
    const drifts: readonly { bucket: BucketName; setting: string; to: (prefix: string) => unknown; forGood?: true }[] =
      [
        { bucket: "users", setting: "metadata", to: () => ({}) },
        { bucket: "rooms", setting: "subjects", to: (prefix) => [`$KV.${prefix}rooms.>`, `${prefix}elsewhere.>`] },
        { bucket: "users", setting: "retention", to: () => "interest" },
        { bucket: "rooms", setting: "max_msgs_per_subject", to: () => 2 },
        { bucket: "users", setting: "max_msgs", to: () => 100_000 },
        { bucket: "rooms", setting: "max_bytes", to: () => 2 ** 24 },
        { bucket: "users", setting: "max_age", to: () => 3600e9 },
        { bucket: "rooms", setting: "max_msg_size", to: () => 2 ** 20 },
        { bucket: "rooms", setting: "allow_direct", to: () => false },
        { bucket: "users", setting: "sources", to: () => [{ name: "somewhere" }] },
        { bucket: "rooms", setting: "republish", to: (prefix) => ({ src: ">", dest: `${prefix}elsewhere.>` }) },
        {
          bucket: "users",
          setting: "subject_transform",
          to: (prefix) => ({ src: `$KV.${prefix}users.a.>`, dest: `$KV.${prefix}users.b.>` }),
        },
        { bucket: "users", setting: "no_ack", to: () => true },
        { bucket: "room_keys", setting: "deny_purge", to: () => true, forGood: true },
        { bucket: "rooms", setting: "sealed", to: () => true, forGood: true },
      ];

    it("are found within seconds of use: every operation on them is refused until they are repaired, and allowed from then on", async () => {
      // A store looks at its settings every few seconds: all at once, so that this is waited for once.
      await Promise.all(
        drifts.map(async ({ bucket, setting, to, forGood }) => {
          const prefix = newPrefix();
          const store = await open(prefix);
          await usable(store);
          const allowed = (): Promise<boolean> =>
            bucket === "users" ? store.isAdmin("root") : store.isMember("room", "own");
          // Without direct reads a call would wait for an answer as long as it may.
          const bounds = { timeoutMs: 1000 };
          const read = async (): Promise<unknown> => {
            if (bucket === "users") return store.users.get("root", bounds);
            if (bucket === "room_keys") return store.roomKeys.get("room", "own", undefined, bounds);
            return store.rooms.get("room", bounds);
          };
          const write = async (): Promise<unknown> => {
            if (bucket === "users") return store.users.update("root", { name: setting });
            if (bucket === "room_keys")
              return store.roomKeys.rekey("room", new Map([["own", Uint8Array.of(2)]]), { expectedEpoch: 1 });
            return store.rooms.update("room", { name: setting });
          };
          const before = await configure(connection, prefix + bucket, { [setting]: to(prefix) });
          await eventually(`${setting} is found`, async () => {
            const end = await read().then(
              () => undefined,
              (error: unknown) => error,
            );
            return isStoreError(end) && end.code === "INCOMPATIBLE";
          });
          for (const error of [await errorOf(read()), await errorOf(write())]) {
            expect(error.code, setting).to.equal("INCOMPATIBLE");
            expect(error.details, setting).to.deep.equal({ bucket: prefix + bucket, setting });
          }
          if (bucket !== "room_keys") expect(await allowed(), setting).to.equal(false);
          if (forGood !== true) {
            await api(connection, `STREAM.UPDATE.KV_${prefix}${bucket}`, before);
            await eventually(`${setting} is repaired`, allowed);
            await write();
          }
          await store.close();
        }),
      );
    });

    it("are found while a write is under way: it is not said that it was not done", async () => {
      const prefix = newPrefix();
      const slow = new FaultyConnection(connection);
      const store = await open(prefix, slow);
      await usable(store);
      slow.arm({ at: 1, how: "hold" });
      const end = errorOf(store.users.update("root", { name: "later" }));
      await slow.reached;
      await configure(connection, `${prefix}users`, { max_msgs: 100_000 });
      await eventually("it is found", async () => {
        const read = await store.users.get("root", { timeoutMs: 1000 }).then(() => undefined, codeOf);
        return read === "INCOMPATIBLE";
      });
      slow.release();
      const { code, outcome } = await end;
      expect({ code, outcome }).to.deep.equal({ code: "UNAVAILABLE", outcome: "unknown" });
      await store.close();
    });

    it("or are removed: every operation on them is refused, and a store that is opened anew works", async () => {
      const prefix = newPrefix();
      const store = await open(prefix);
      await usable(store);
      await Promise.all(BUCKETS.map((bucket) => api(connection, `STREAM.DELETE.KV_${prefix}${bucket}`)));
      await eventually("it is found", async () => {
        const end = await store.users.get("root", { timeoutMs: 500 }).then(
          () => undefined,
          (error: unknown) => error,
        );
        return isStoreError(end) && end.code === "INCOMPATIBLE" && end.message.includes("removed");
      });
      expect(await store.isAdmin("root")).to.equal(false);
      const anew = await open(prefix);
      await usable(anew);
      expect(await store.isAdmin("root", { timeoutMs: 300 })).to.equal(false);
      await anew.close();
      await store.close();
    });
  });

  describe("and servers that cannot hold them", () => {
    for (const each of natsClients) {
      it(`no JetStream: said so, and what to do (${each.name})`, async () => {
        await using without = await startNatsServer({ config: { jetstream: false } });
        const there = await each.connect(without.url);
        const error = await errorOf(openJetStream(there));
        expect(error.code).to.equal("INCOMPATIBLE");
        expect(error.message).to.contain("start it with -js");
        expect(there.isClosed()).to.equal(false);
        await there.close();
      });
    }

    it("more replicas than servers: said so, and what to do; nothing is made", async () => {
      const prefix = newPrefix();
      const error = await errorOf(openJetStream(connection, 3, { prefix }));
      expect(error.code).to.equal("INCOMPATIBLE");
      expect(error.details).to.have.property("setting", "num_replicas");
      expect(error.message).to.contain("start more servers in one cluster, or ask for fewer replicas");
      const { streams } = (await api(connection, "STREAM.NAMES", { subject: `$KV.${prefix}rooms.>` })) as {
        streams?: unknown[] | null;
      };
      expect(streams ?? []).to.deep.equal([]);
    });

    it("more replicas than servers, of buckets that are there: the same, they stay as they are, and go on working", async () => {
      const prefix = newPrefix();
      const store = await open(prefix);
      const error = await errorOf(openJetStream(connection, 3, { prefix }));
      expect(error.code).to.equal("INCOMPATIBLE");
      expect(error.details).to.have.property("setting", "num_replicas");
      expect(error.message).to.contain("start more servers in one cluster, or ask for fewer replicas");
      for (const bucket of BUCKETS)
        expect((await streamInfo(connection, prefix + bucket)).config).to.have.property("num_replicas", 1);
      await usable(store);
      await store.close();
    });
  });

  describe("and a connection", () => {
    /** What the server knows of the connection's subscriptions. */
    async function subscriptions(on: Connection): Promise<number> {
      const { client_id: id } = on.info as unknown as { client_id: number };
      const found = (await server.monitor(`/connz?cid=${id}`)) as { connections: { subscriptions: number }[] };
      return found.connections[0]?.subscriptions ?? -1;
    }

    for (const each of natsClients) {
      it(`stays open, and without a subscription more, when a store was closed (${each.name})`, async () => {
        const own = await each.connect(server.url);
        // The client's own, for all answers to requests.
        await api(own, "INFO");
        const before = await subscriptions(own);
        for (let n = 0; n < 3; n++) {
          const prefix = newPrefix();
          const store = await open(prefix, own);
          await usable(store);
          await Promise.all([store.users.list(), store.members.list("room"), store.authorize("root")]);
          await store.rooms.delete("room");
          await store.close();
        }
        expect(own.isClosed() || own.isDraining()).to.equal(false);
        await eventually("no subscription more", async () => (await subscriptions(own)) === before, 5000);
        await api(own, "INFO");
        await own.close();
      });

      it(`that closes while something is cleared away does not hold up the store's close (${each.name})`, async () => {
        const own = await each.connect(server.url);
        let purges = 0;
        const dying = tapped(own, {
          request: async (send, ...asked) => {
            if (asked[0].includes("STREAM.PURGE")) {
              purges++;
              await own.close();
            }
            return send(...asked);
          },
        });
        // As long as a timeout can be, and the time that clearing away has: whoever waits for it is found out.
        const store = await openJetStream(dying, 1, { prefix: newPrefix(), opTimeoutMs: 60_000 });
        await store.rooms.create({ id: "room", owner: "own" });
        await store.rooms.delete("room");
        await eventually("it is cleared away", () => purges > 0);
        const began = performance.now();
        await store.close();
        expect(performance.now() - began).to.be.below(10_000);
      });
    }
  });

  it("of two prefixes on one server do not see each other", async () => {
    const [a, b] = [await open(newPrefix()), await open(newPrefix())];
    await usable(a);
    expect(await b.hasAdmin()).to.equal(false);
    expect(await b.authorize("root")).to.deep.include({ allowed: false, reason: "unknown" });
    expect(await b.isMember("room", "own")).to.equal(false);
    for (const { items } of [await b.users.list(), await b.rooms.list()]) expect(items).to.deep.equal([]);
    expect(await b.rooms.listForEndpoint("own")).to.deep.equal([]);
    await usable(b);
    await b.rooms.delete("room");
    await a.users.add({ key: "amy" });
    expect(await a.isMember("room", "own")).to.equal(true);
    expect(await b.isAuthorized("amy")).to.equal(false);
    await a.close();
    await b.close();
  });

  for (const count of [2, 10]) {
    it(`are made once when ${count} stores open at once on an empty server`, async () => {
      await using empty = await startNatsServer();
      const connections = await Promise.all(natsClients.map((each) => each.connect(empty.url)));
      const stores = await Promise.all(
        Array.from({ length: count }, (_, n) => {
          const on = connections[n % connections.length];
          if (on === undefined) throw new Error("no connection");
          return openJetStream(on, 1, { opTimeoutMs });
        }),
      );
      const [first] = connections;
      if (first === undefined) throw new Error("no connection");
      const { total } = (await api(first, "STREAM.NAMES")) as unknown as { total: number };
      expect(total).to.equal(BUCKETS.length);
      // One of them can be the first to have an admin, as one alone.
      const ends = await Promise.all(
        stores.map((store, n) =>
          store.users.addFirstAdmin({ key: `root-${n}` }).then(
            () => "done",
            (error: unknown) => (isStoreError(error) ? error.code : String(error)),
          ),
        ),
      );
      expect(ends.sort()).to.deep.equal([...Array.from({ length: count - 1 }, () => "CONFLICT"), "done"]);
      for (const store of stores) expect(await store.hasAdmin()).to.equal(true);
      await Promise.all(stores.map((store) => store.close()));
      await Promise.all(connections.map((each) => each.close()));
    });
  }
});
