// Migrations between all backends, and in each state in which one can die.

import { expect } from "chai";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as built from "unibus-membership";
import { isIncompatible, type Store } from "unibus-membership";
import { startNatsCluster, startNatsServer, type NatsServer } from "unibus-membership/testing";
import { openJetStream } from "../lib/jetstream/open.js";
import { openMemory } from "../lib/memory/open.js";
import { openSqlite } from "../lib/sqlite/open.js";
import { exportStore } from "../lib/transfer/export.js";
import { importStore } from "../lib/transfer/import.js";
import { migrate } from "../lib/transfer/migrate.js";
import { stoppable } from "./jetstream/support/stoppable.js";
import { api, streamInfo } from "./jetstream/support/streams.js";
import { AT_LENGTH } from "./support/at-length.js";
import { foreign } from "./support/foreign-store.js";
import { dropBuckets, natsClients, type Connection } from "./support/nats-clients.js";
import { codeOf } from "./support/code-of.js";
import { fill } from "./support/export-cases.js";
import {
  contentDigest,
  movesUnderLoad,
  oneSideCases,
  pairCases,
  revisionsOf,
  rivalCases,
  stateCases,
} from "./support/migrate-cases.js";

const opTimeoutMs = 20_000;
const LEASE_MS = 200;

describe("migrations", function () {
  this.timeout(300_000);
  let server: NatsServer;
  let connection: Connection;
  let prefixes = 0;

  before(async () => {
    server = await startNatsServer();
    const [client] = natsClients;
    if (client === undefined) throw new Error("no client");
    connection = await client.connect(server.url);
  });
  after(async () => {
    await connection.close();
    await server.dispose();
  });

  // Opened from the sources, where each step of a migration can be called by itself.
  const openers = {
    memory: () => openMemory({ opTimeoutMs }),
    sqlite: () => openSqlite(":memory:", { opTimeoutMs }),
    jetstream: () => openJetStream(connection, 1, { prefix: `m${String(++prefixes)}_`, opTimeoutMs }),
  } satisfies Record<string, () => Promise<Store>>;
  const names = Object.keys(openers) as (keyof typeof openers)[];

  // The pairs that apps have. All of them are tried at length.
  const pairsOf = (source: string, target: string): typeof pairCases =>
    AT_LENGTH || [source, target].sort().join() === "jetstream,sqlite" || source + target === "memorymemory"
      ? pairCases
      : {};
  for (const source of names)
    for (const target of names)
      describe(`from ${source} to ${target}`, () => {
        // A side goes through its states whatever the other one is.
        const cases = {
          ...pairsOf(source, target),
          ...(source === target ? { ...stateCases, ...oneSideCases, ...rivalCases } : {}),
        };
        for (const [name, run] of Object.entries(cases))
          it(name, async () => {
            const [from, to] = [await openers[source](), await openers[target]()];
            await run({ from, to });
            await Promise.all([from.close(), to.close()]);
          });
      });

  it("the same store, by whatever name, and one of another library, is no side", async () => {
    const from = await openers.jetstream();
    const same = await openJetStream(connection, 1, { prefix: `m${String(prefixes)}_`, opTimeoutMs });
    const own = await openers.memory();
    for (const [a, b] of [
      [from, from],
      [from, same],
      [from, foreign(own)],
      [foreign(own), from],
    ] as const)
      expect(await migrate(a, b, { cutOver: true }).catch(codeOf)).to.equal("INVALID_ARGUMENT");
    await Promise.all([from, same, own].map((store) => store.close()));
  });

  it("a store whose log had very many messages goes there, and on, and its exports can be read", async () => {
    const prefix = "long_";
    await (await openJetStream(connection, 1, { prefix, opTimeoutMs })).close();
    const { config } = await streamInfo(connection, `${prefix}users`);
    await dropBuckets(connection, prefix);
    // As after months of barriers.
    await api(connection, `STREAM.CREATE.KV_${prefix}users`, { ...config, first_seq: 20_000_000_000 });
    const source = await openJetStream(connection, 1, { prefix, opTimeoutMs });
    await fill(source);
    const digest = await contentDigest(source);
    const given = new Set(await revisionsOf(source));
    let from: Store = source;
    for (const open of [openers.sqlite, openers.jetstream, openers.sqlite, openers.memory]) {
      const to = await open();
      expect(await migrate(from, to, { cutOver: true })).to.include({ digest });
      await from.close();
      const { name } = await to.users.get("root");
      for (const next of ["moved", name]) await to.users.update("root", { name: next });
      const revisions = await revisionsOf(to);
      expect(revisions.filter((revision) => given.has(revision))).to.deep.equal([]);
      for (const revision of revisions) given.add(revision);
      const restored = await openers.memory();
      await importStore(exportStore(to), restored);
      await restored.close();
      from = to;
    }
    await from.close();
  });

  it("a clock that is far off leaves revisions for the migrations that come after", async () => {
    const now = Date.now;
    let from = await openers.memory();
    await fill(from);
    for (const open of [openers.jetstream, openers.sqlite, openers.memory]) {
      const to = await open();
      await from.users.update("root", { name: "takes a revision" });
      const digest = await contentDigest(from);
      // The last day that a date can be of.
      Date.now = () => 8.64e15;
      try {
        expect(await migrate(from, to, { cutOver: true })).to.include({ digest });
      } finally {
        Date.now = now;
      }
      await from.close();
      from = to;
    }
    await from.close();
  });

  it("a file that was moved away from opens no more, and takes its records back from where they went", async () => {
    const folder = await mkdtemp(join(tmpdir(), "unibus-migrate-"));
    const path = join(folder, "membership.db");
    const cluster = await built.openJetStream(connection, 1, { prefix: "there_", opTimeoutMs });
    const file = await built.openSqlite(path, { opTimeoutMs });
    await fill(file);
    const { digest } = await built.migrate(file, cluster, { cutOver: true });
    await file.close();
    const refusal = await built.openSqlite(path, { opTimeoutMs }).catch((error: unknown) => error);
    expect(isIncompatible(refusal) && refusal.details?.["movedTo"]).to.equal("jetstream:there_");
    const again = await built.openSqlite(path, { opTimeoutMs, reopenMoved: true });
    expect(await again.isAuthorized("root")).to.equal(false);
    const stranger = await built.openSqlite(":memory:", { opTimeoutMs });
    expect(await built.migrate(stranger, again, { cutOver: true }).catch(codeOf)).to.equal("INCOMPATIBLE");
    expect((await built.migrate(cluster, again, { cutOver: true })).digest).to.equal(digest);
    expect([await again.isAuthorized("root"), await cluster.isAuthorized("root")]).to.deep.equal([true, false]);
    await Promise.all([again, cluster, stranger].map((store) => store.close()));
    const last = await built.openSqlite(path, { opTimeoutMs });
    expect(await last.isAdmin("root")).to.equal(true);
    await last.close();
    const closed = await built
      .openJetStream(connection, 1, { prefix: "there_", opTimeoutMs })
      .catch((error: unknown) => error);
    expect(isIncompatible(closed)).to.equal(true);
    const [source, target] = await Promise.all([
      built.openSqlite(path, { opTimeoutMs }),
      built.openJetStream(connection, 1, { prefix: "there_", opTimeoutMs, reopenMoved: true }),
    ]);
    await source.users.add({ key: "since" });
    await source.rooms.delete("plain");
    const { counts } = await built.migrate(source, target, { cutOver: true });
    expect(counts).to.include({ users: 7, rooms: 4 });
    expect([await target.isAuthorized("since"), await source.isAuthorized("since")]).to.deep.equal([true, false]);
    await Promise.all([source.close(), target.close()]);
    await rm(folder, { recursive: true });
  });
});

describe("migrations of three servers", function () {
  this.timeout(300_000);

  it("there and back, under load", async () => {
    await using cluster = await startNatsCluster();
    const [client] = natsClients;
    if (client === undefined) throw new Error("no client");
    const connection = await client.connect(cluster.nodes.map(({ url }) => url));
    const file = await openSqlite(":memory:", { opTimeoutMs });
    const servers = await openJetStream(connection, 3, { opTimeoutMs });
    const stopped = stoppable(connection);
    const sleeper = await openJetStream(stopped.connection, 3, { opTimeoutMs });
    const leased = await openJetStream(connection, 3, { opTimeoutMs, maxStalenessMs: LEASE_MS });
    const other = await openSqlite(":memory:", { opTimeoutMs });
    await fill(file);
    const of = (side: "from" | "to") => [
      { side, store: leased, leaseMs: LEASE_MS },
      { side, store: sleeper },
    ];
    await movesUnderLoad({ from: file, to: servers }, "", of("to"));
    // It has asked, and is stopped before its message is sent, which wakes behind the fence.
    const asleep = stopped.stopAt(() => true);
    const asked = [sleeper.isAuthorized("root"), sleeper.isMember("sealed", "late"), sleeper.hasAdmin()];
    await asleep;
    await movesUnderLoad({ from: servers, to: other }, "back-", of("from").slice(0, 1));
    stopped.goOn();
    expect(await Promise.all(asked)).to.deep.equal([false, false, false]);
    await Promise.all([file, servers, sleeper, leased, other].map((store) => store.close()));
    await connection.close();
  });
});
