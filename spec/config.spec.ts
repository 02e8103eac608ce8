import { expect } from "chai";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  hasAdmin,
  isAuthorized,
  isLocked,
  isStoreError,
  migrate,
  openStore,
  type StoreConfig,
} from "unibus-membership";
import { startNatsServer, type NatsServer } from "unibus-membership/testing";
import { errorOf } from "./support/code-of.js";
import { natsClients } from "./support/nats-clients.js";
import { eventually } from "./support/wait.js";

/** The program: it knows its config and nothing of backends. */
async function program(config: StoreConfig): Promise<{ backend: string; transcript: unknown }> {
  await using store = await openStore(config);
  await store.users.addFirstAdmin({ key: "ADMIN" });
  await store.users.add({ key: "guest" });
  await store.rooms.create({ id: "ops", name: "Ops", encrypted: true, owner: "alice", sealedKey: Uint8Array.of(1) });
  await store.members.add("ops", { endpoint: "bob", sealedKey: { epoch: 1, sealed: Uint8Array.of(2) } });
  await store.members.join("ops", "bob");
  const wasMember = await store.isMember("ops", "bob");
  await store.members.remove("ops", "bob");
  const room = await store.roomKeys.rekey("ops", new Map([["alice", Uint8Array.of(3)]]), { expectedEpoch: 1 });
  await store.users.revoke("guest");
  return {
    backend: store.backend,
    transcript: {
      wasMember,
      isMember: await store.isMember("ops", "bob"),
      epoch: room.epoch,
      keys: (await store.roomKeys.list("ops", "alice")).map((key) => [key.epoch, ...key.sealed]),
      admin: await isAuthorized(store, "admin"),
      guest: (await store.authorize("guest")).reason,
      hasAdmin: await hasAdmin(store),
    },
  };
}

const expected = {
  wasMember: true,
  isMember: false,
  epoch: 2,
  keys: [
    [1, 1],
    [2, 3],
  ],
  admin: true,
  guest: "revoked",
  hasAdmin: true,
};

async function refusal(config: unknown): Promise<{ code: string; argument: string | undefined }> {
  try {
    const store = await openStore(config as StoreConfig);
    await store.close();
  } catch (error) {
    if (!isStoreError(error)) throw error;
    return { code: error.code, argument: error.argument };
  }
  throw new Error(`opened: ${JSON.stringify(config)}`);
}

describe("openStore", function () {
  this.timeout(60_000);
  let folder: string;
  let server: NatsServer;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "unibus-config-"));
    server = await startNatsServer();
  });
  after(async () => {
    await server.dispose();
    await rm(folder, { recursive: true });
  });

  const both = (name: string): StoreConfig & Required<Pick<StoreConfig, "sqlite" | "jetstream">> => ({
    sqlite: { path: join(folder, `${name}.db`), opTimeoutMs: 5000 },
    jetstream: { connect: { servers: server.url }, replicas: 1, prefix: `${name}_`, opTimeoutMs: 5000 },
  });

  it("runs one program on either backend, and a flag alone swaps them", async () => {
    const { sqlite, jetstream } = both("swap");
    expect(await program({ sqlite })).to.deep.equal({ backend: "sqlite", transcript: expected });
    expect(await program({ decentralized: true, jetstream })).to.deep.equal({
      backend: "jetstream",
      transcript: expected,
    });
    // What each holds, it still holds, and the other one has nothing to do with it.
    for (const [decentralized, backend] of [
      [false, "sqlite"],
      [true, "jetstream"],
    ] as const) {
      await using store = await openStore({ ...both("swap"), decentralized });
      expect(store.backend).to.equal(backend);
      expect((await store.rooms.get("ops")).epoch).to.equal(2);
      expect(await isAuthorized(store, "admin")).to.equal(true);
    }
  });

  for (const decentralized of [true, false])
    describe(`with ${decentralized ? "a cluster" : "a file"} that is empty`, () => {
      const other = decentralized ? "sqlite" : "jetstream";
      const asked = (name: string): StoreConfig => ({ ...both(name), decentralized });
      const ofOther = (name: string): StoreConfig => ({
        decentralized: !decentralized,
        [other]: both(name)[other],
      });
      const ofItself = (name: string): StoreConfig => {
        const { sqlite, jetstream } = both(name);
        return decentralized ? { decentralized, jetstream } : { sqlite };
      };

      it("refuses it while the other one holds users that were not moved, and opens it once they were", async () => {
        const name = `moved-${other}`;
        await program(ofOther(name));
        const refused = await errorOf(openStore(asked(name)));
        expect(refused.code).to.equal("INCOMPATIBLE");
        expect(refused.details).to.deep.equal({ notMoved: other });
        {
          await using from = await openStore(ofOther(name));
          await using to = await openStore(ofItself(name));
          expect(await isAuthorized(from, "admin")).to.equal(true);
          await migrate(from, to, { cutOver: true });
        }
        await using store = await openStore(asked(name));
        expect(await isAuthorized(store, "admin")).to.equal(true);
        expect((await errorOf(openStore({ ...both(name), decentralized: !decentralized }))).details).to.have.keys(
          "movedTo",
        );
      });

      it("refuses it where the users were moved elsewhere", async () => {
        const name = `elsewhere-${other}`;
        await program(ofOther(name));
        {
          await using from = await openStore(ofOther(name));
          await using there = await openStore({ sqlite: { path: join(folder, `there-${other}.db`) } });
          await migrate(from, there, { cutOver: true });
        }
        expect((await errorOf(openStore(asked(name)))).details).to.deep.equal({ notMoved: other });
      });

      it("opens it where the other one is not there or empty, and makes nothing", async () => {
        const name = `fresh-${other}`;
        await (await openStore(asked(name))).close();
        const streams = JSON.stringify(await server.monitor("/jsz?streams=1"));
        expect(streams.includes(`KV_${name}_users`)).to.equal(decentralized);
        expect(existsSync(join(folder, `${name}.db`))).to.equal(!decentralized);
        await (await openStore(ofOther(name))).close();
        await (await openStore(asked(name))).close();
      });
    });

  it("refuses an empty cluster while another store has the file open", async () => {
    await program({ sqlite: both("held").sqlite });
    await using store = await openStore({ sqlite: both("held").sqlite });
    expect(await isAuthorized(store, "admin")).to.equal(true);
    const refused = await errorOf(openStore({ ...both("held"), decentralized: true }));
    expect(refused.details).to.deep.equal({ notMoved: "sqlite" });
    expect(isLocked(refused.cause)).to.equal(true);
  });

  it("opens an empty file where the servers of the other section do not answer", async () => {
    const { sqlite } = both("alone");
    await using store = await openStore({ sqlite, jetstream: { connect: { servers: "127.0.0.1:1" } } });
    expect(store.backend).to.equal("sqlite");
  });

  it("takes what came from JSON", async () => {
    const json = JSON.stringify({ decentralized: false, sqlite: { path: join(folder, "json.db") } });
    expect((await program(JSON.parse(json) as StoreConfig)).transcript).to.deep.equal(expected);
    const other = JSON.stringify({
      decentralized: true,
      jetstream: { connect: { servers: [server.url] }, prefix: "json_" },
    });
    expect((await program(JSON.parse(other) as StoreConfig)).transcript).to.deep.equal(expected);
  });

  it("leaves a connection that it was given open", async () => {
    for (const [i, client] of natsClients.entries()) {
      const connection = await client.connect(server.url);
      const config: StoreConfig = { decentralized: true, jetstream: { connection, prefix: `given_${String(i)}_` } };
      expect((await program(config)).transcript).to.deep.equal(expected);
      expect(connection.isClosed()).to.equal(false);
      await connection.close();
      expect((await refusal(config)).code).to.equal("INVALID_ARGUMENT");
    }
  });

  it("closes a connection that it made with the store", async () => {
    const connections = async (): Promise<number> =>
      ((await server.monitor("/connz")) as { num_connections: number }).num_connections;
    // The server is told of the end of a connection, and takes its time to count it.
    const before = 0;
    await eventually("those of other specs are gone", async () => (await connections()) === before);
    const store = await openStore({
      decentralized: true,
      jetstream: { connect: { servers: server.url, name: "ours" }, prefix: "made_" },
    });
    expect(await connections()).to.equal(before + 1);
    await store.close();
    await eventually("it is closed", async () => (await connections()) === before);
    await refusal({ decentralized: true, jetstream: { connect: { servers: server.url }, prefix: "not.allowed" } });
    await eventually("it is closed after a refusal", async () => (await connections()) === before);
  });

  it("says UNAVAILABLE where no server answers, and shows no password", async () => {
    const connect = { servers: "127.0.0.1:1", user: "u", pass: "hunter2", timeout: 1000, maxReconnectAttempts: 0 };
    try {
      await openStore({ decentralized: true, jetstream: { connect } });
      expect.fail("opened");
    } catch (error) {
      expect(isStoreError(error) && error.code).to.equal("UNAVAILABLE");
      expect(JSON.stringify(error) + String(error)).not.to.include("hunter2");
    }
  });

  const sqlite = { path: ":memory:" };
  const connect = { servers: "127.0.0.1:1" };
  const wrong: readonly (readonly [path: string, config: unknown])[] = [
    ["config", undefined],
    ["config", null],
    ["config", []],
    ["config", "sqlite"],
    ["config", 7],
    ["config.sqlite", {}],
    ["config.sqlite", { decentralized: false }],
    ["config.sqlite", { jetstream: { connect } }],
    ["config.jetstream", { decentralized: true }],
    ["config.jetstream", { decentralized: true, sqlite }],
    ["config.jetstream.connect", { decentralized: true, jetstream: {} }],
    ["config.jetstream.connect", { decentralized: true, jetstream: { replicas: 3 } }],
    ["config.decentralised", { decentralised: true, sqlite }],
    ["config.Sqlite", { sqlite, Sqlite: sqlite }],
    ["config.decentralized", { decentralized: "true", sqlite }],
    ["config.decentralized", { decentralized: 1, sqlite }],
    ["config.decentralized", { decentralized: null, sqlite }],
    ["config.sqlite", { sqlite: null }],
    ["config.sqlite", { sqlite: "membership.db" }],
    ["config.sqlite", { sqlite: [] }],
    ["config.sqlite.path", { sqlite: {} }],
    ["config.sqlite.path", { sqlite: { path: "" } }],
    ["config.sqlite.path", { sqlite: { path: 7 } }],
    ["config.sqlite.path", { sqlite: { path: null } }],
    ["config.sqlite.file", { sqlite: { path: ":memory:", file: "x" } }],
    ["config.sqlite.opTimeout", { sqlite: { path: ":memory:", opTimeout: 5 } }],
    ["config.sqlite.opTimeoutMs", { sqlite: { path: ":memory:", opTimeoutMs: 0 } }],
    // Another path on the disk than it says: the file would never be found where it was made.
    ["config.sqlite.path", { sqlite: { path: "/tmp/\ud800.db" } }],
    ["config.sqlite.opTimeoutMs", { sqlite: { path: ":memory:", opTimeoutMs: "5" } }],
    ["config.sqlite.opTimeoutMs", { sqlite: { path: ":memory:", opTimeoutMs: 60_001 } }],
    ["config.sqlite.opTimeoutMs", { sqlite: { path: ":memory:", opTimeoutMs: 1.5 } }],
    ...[false, true].flatMap(
      (decentralized) =>
        [
          // Also in the section that is not used: a mistake shows before the flag is turned.
          ["config.jetstream", { decentralized, sqlite, jetstream: null }],
          ["config.jetstream", { decentralized, sqlite, jetstream: "nats://127.0.0.1" }],
          ["config.jetstream.server", { decentralized, sqlite, jetstream: { connect, server: "x" } }],
          ["config.jetstream.replicas", { decentralized, sqlite, jetstream: { connect, replicas: 0 } }],
          ["config.jetstream.replicas", { decentralized, sqlite, jetstream: { connect, replicas: 6 } }],
          ["config.jetstream.replicas", { decentralized, sqlite, jetstream: { connect, replicas: 1.5 } }],
          ["config.jetstream.replicas", { decentralized, sqlite, jetstream: { connect, replicas: "3" } }],
          ["config.jetstream.replicas", { decentralized, sqlite, jetstream: { connect, replicas: null } }],
          ["config.jetstream.prefix", { decentralized, sqlite, jetstream: { connect, prefix: "a.b" } }],
          ["config.jetstream.prefix", { decentralized, sqlite, jetstream: { connect, prefix: "a b" } }],
          ["config.jetstream.prefix", { decentralized, sqlite, jetstream: { connect, prefix: 7 } }],
          ["config.jetstream.opTimeoutMs", { decentralized, sqlite, jetstream: { connect, opTimeoutMs: -1 } }],
          ["config.jetstream.onRollout", { decentralized, sqlite, jetstream: { connect, onRollout: "log" } }],
          ["config.jetstream.connect", { decentralized, sqlite, jetstream: { connect: null } }],
          ["config.jetstream.connect", { decentralized, sqlite, jetstream: { connect: "127.0.0.1" } }],
          ["config.jetstream.connect.server", { decentralized, sqlite, jetstream: { connect: { server: "x" } } }],
          ["config.jetstream.connect.servers", { decentralized, sqlite, jetstream: { connect: { servers: [] } } }],
          ["config.jetstream.connect.servers", { decentralized, sqlite, jetstream: { connect: { servers: 4222 } } }],
          ["config.jetstream.connect.servers", { decentralized, sqlite, jetstream: { connect: { servers: [4222] } } }],
          ["config.jetstream.connect.pass", { decentralized, sqlite, jetstream: { connect: { pass: 7 } } }],
          ["config.jetstream.connect.tls", { decentralized, sqlite, jetstream: { connect: { tls: true } } }],
          ["config.jetstream.connect.creds", { decentralized, sqlite, jetstream: { connect: { creds: "a.jwt" } } }],
          ["config.jetstream.connect.nkeySeed", { decentralized, sqlite, jetstream: { connect: { nkeySeed: "SUX" } } }],
          [
            "config.jetstream.connect.authenticator",
            { decentralized, sqlite, jetstream: { connect: { authenticator: {} } } },
          ],
          [
            "config.jetstream.connect.authenticator",
            { decentralized, sqlite, jetstream: { connect: { credsFile: "x", authenticator: () => ({}) } } },
          ],
          [
            "config.jetstream.connect.tls.cafile",
            { decentralized, sqlite, jetstream: { connect: { tls: { cafile: "x" } } } },
          ],
        ] as const,
    ),
    ["config.jetstream.connection", { decentralized: true, jetstream: { connection: {} } }],
    ["config.jetstream.connection", { decentralized: true, jetstream: { connection: "nats://127.0.0.1" } }],
    ["config.jetstream.connection", { decentralized: true, jetstream: { connection: null } }],
  ];
  for (const [path, config] of wrong) {
    it(`refuses ${JSON.stringify(config)} and names ${path}`, async () => {
      expect(await refusal(config)).to.deep.equal({ code: "INVALID_ARGUMENT", argument: path });
    });
  }

  it("reads each field once, and names the one that cannot be read", async () => {
    const reads: string[] = [];
    const once = (name: string, fields: Record<string, unknown>): object =>
      Object.defineProperties(
        {},
        Object.fromEntries(
          Object.entries(fields).map(([field, value]) => {
            const get = (): unknown => {
              // What was checked would not be what is used.
              if (reads.includes(`${name}.${field}`)) throw new Error(`${name}.${field} was read again`);
              reads.push(`${name}.${field}`);
              return value;
            };
            return [field, { get, enumerable: true }];
          }),
        ),
      );
    const tls = once("tls", { ca: "x" });
    const config = once("config", {
      sqlite: once("sqlite", { path: ":memory:", opTimeoutMs: 5000 }),
      jetstream: once("jetstream", { connect: once("connect", { servers: ["127.0.0.1:1"], tls }), replicas: 1 }),
    });
    const store = await openStore(config);
    expect(store.backend).to.equal("sqlite");
    await store.close();
    expect(reads).to.include.members(["sqlite.path", "jetstream.connect", "connect.servers", "tls.ca"]);

    const gone = Proxy.revocable([], {});
    gone.revoke();
    const unreadable = {
      get: (): never => {
        throw new Error("not to be read");
      },
      enumerable: true,
    };
    for (const [path, section] of [
      ["config", gone.proxy],
      ["config.sqlite", { sqlite: gone.proxy }],
      ["config.sqlite.path", { sqlite: Object.defineProperty({}, "path", unreadable) }],
      ["config.jetstream", Object.defineProperty({ sqlite }, "jetstream", unreadable)],
      ["config.jetstream.connect", { sqlite, jetstream: { connect: gone.proxy } }],
      ["config.jetstream.connect.servers", { sqlite, jetstream: { connect: { servers: gone.proxy } } }],
      ["config.jetstream.connect.tls", { sqlite, jetstream: { connect: { tls: gone.proxy } } }],
    ] as const) {
      expect(await refusal(section)).to.deep.equal({ code: "INVALID_ARGUMENT", argument: path });
    }
  });

  it("refuses a connection and how to make one at once", async () => {
    const connection = await natsClients[0]?.connect(server.url);
    const { code, argument } = await refusal({
      decentralized: true,
      jetstream: { connection, connect: { servers: server.url } },
    });
    expect(code).to.equal("INVALID_ARGUMENT");
    expect(argument).to.match(/^config\.jetstream\.(connect|connection)$/);
    await connection?.close();
  });
});
