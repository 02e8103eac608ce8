/** Buckets belong together: one that is older than the others is told from one whose replicas are behind. */
import { expect } from "chai";
import { cp, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { exportStore, importStore, openJetStream, StoreError, type Store } from "unibus-membership";
import { startNatsServer, type NatsServer } from "unibus-membership/testing";
import { codeOf } from "../support/code-of.js";
import { natsClients, type Connection } from "../support/nats-clients.js";
import { useServer } from "../support/use-server.js";
import { pause, signal } from "../support/wait.js";
import { isBarrier } from "./support/messages.js";
import { natsError, quieted, tapped } from "./support/taps.js";

/** After so long without an answer another log could have taken the place of the one that is known. */
const AGED_MS = 1600;

describe("jetstream: one bucket that was restored without the others", function () {
  this.timeout(60_000);
  let connection: Connection;

  useServer((connected) => {
    connection = connected;
  });

  it("members that are older than their room are corrupt, at once, and in no room", async () => {
    const options = { prefix: "older_", opTimeoutMs: 30_000 };
    const before = await openJetStream(connection, 1, options);
    await before.rooms.create({ id: "room", owner: "owner" });
    // However many barriers the store that finds it sends, the log does not get as far as it was.
    await Promise.all(
      Array.from({ length: 1000 }, () =>
        connection.request("$KV.older_members.barrier", `{"k":"barrier"}`, { timeout: 10_000 }),
      ),
    );
    for (const endpoint of ["ann", "ben"]) await before.members.add("room", { endpoint, state: "joined" });
    expect(await before.isMember("room", "ann")).to.equal(true);
    await before.close();

    const api = async (subject: string, body: unknown): Promise<{ config?: unknown; error?: unknown }> => {
      const { data } = await connection.request(`$JS.API.${subject}`, JSON.stringify(body), { timeout: 10_000 });
      return JSON.parse(new TextDecoder().decode(data)) as { config?: unknown; error?: unknown };
    };
    const stream = "KV_older_members";
    const { config } = await api(`STREAM.INFO.${stream}`, {});
    expect((await api(`STREAM.DELETE.${stream}`, {})).error).to.equal(undefined);
    expect((await api(`STREAM.CREATE.${stream}`, config)).error).to.equal(undefined);

    await using store = await openJetStream(connection, 1, options);
    const began = performance.now();
    expect(await store.isMember("room", "ann")).to.equal(false);
    const error: unknown = await store.members.remove("room", "ann").catch((thrown: unknown) => thrown);
    if (!(error instanceof StoreError)) throw new Error("it has to be refused");
    expect(error.code).to.equal("CORRUPT");
    expect(error.details).to.include({ bucket: "older_members" });
    // Not after its time: nothing that is waited for can come.
    expect(performance.now() - began).to.be.lessThan(25_000);
  });
});

const options = { opTimeoutMs: 20_000 };

/** A server whose buckets are put back from a backup while stores are open. */
class BackedUp implements AsyncDisposable {
  readonly #server: NatsServer;
  readonly #connections: readonly Connection[];

  private constructor(server: NatsServer, connections: readonly Connection[]) {
    this.#server = server;
    this.#connections = connections;
  }

  static async start(): Promise<BackedUp> {
    const server = await startNatsServer();
    const clients = [...natsClients, ...natsClients];
    return new BackedUp(server, await Promise.all(clients.map((client) => client.connect(server.url))));
  }

  connection(index: number): Connection {
    const found = this.#connections[index];
    if (found === undefined) throw new Error("no such client");
    return found;
  }

  /** `others` have sent what they clear away by then: a barrier of that would be missing in the backup too. */
  async backUp(others: ReturnType<typeof quieted>): Promise<void> {
    await others.quiet();
    await this.#server.kill();
    await cp(this.#folder("jetstream"), this.#folder("backup"), { recursive: true });
    await this.#server.restart();
  }

  async putBack(): Promise<void> {
    await this.#server.kill();
    await rm(this.#folder("jetstream"), { recursive: true });
    await rename(this.#folder("backup"), this.#folder("jetstream"));
    await this.#server.restart();
    // In less time than this the change of one log for another is not noticed: docs/protocol.md.
    await pause(AGED_MS);
  }

  #folder(name: string): string {
    return join(this.#server.directory, name);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#connections.map((connection) => connection.close()));
    await this.#server.dispose();
  }
}

/** Where the newest barrier of a store in `users` stands: a store knows its log by that. */
class Landmark {
  readonly connection: Connection;
  hasLeader = true;
  #subject = "";

  constructor(inner: Connection) {
    this.connection = tapped(inner, {
      request: (send, ...asked) => {
        if (isBarrier(asked[0], "users")) {
          if (!this.hasLeader) return Promise.reject(natsError("503"));
          [this.#subject] = asked;
        }
        return send(...asked);
      },
    });
  }

  /** As another store does that took the same key. */
  async supersede(by: Connection): Promise<void> {
    const k = this.#subject.split(".").slice(2).join(".");
    await by.request(this.#subject, JSON.stringify({ k, s: "another" }), { timeout: 20_000 });
  }
}

/** Others change a user so often. */
async function renamed(store: Store, key: string, times: number): Promise<void> {
  for (let i = 0; i < times; i++) await store.users.update(key, { name: `name ${String(i)}` });
}

describe("jetstream: a backup that is put back under stores that are open", function () {
  this.timeout(120_000);

  it("is another log to a store whose own change it lacks, also when others have written as far since", async () => {
    await using server = await BackedUp.start();
    await using here = await openJetStream(server.connection(0), 1, options);
    const observed = quieted(server.connection(1));
    await using there = await openJetStream(observed.connection, 1, options);
    await here.users.add({ key: "guest" });
    await here.rooms.create({ id: "room", owner: "owner" });
    await here.members.add("room", { endpoint: "guest", state: "joined" });
    for (const store of [here, there]) {
      expect(await store.isAuthorized("guest")).to.equal(true);
      expect(await store.isMember("room", "guest")).to.equal(true);
    }
    await server.backUp(observed);
    await here.users.revoke("guest");
    await here.members.remove("room", "guest");
    await server.putBack();
    await renamed(there, "guest", 3);
    for (let i = 0; i < 3; i++) await there.rooms.update("room", { name: `name ${String(i)}` });
    expect(await there.isAuthorized("guest"), "to whom nothing is missing").to.equal(true);
    expect(await here.isAuthorized("guest")).to.equal(false);
    expect(await here.isMember("room", "guest")).to.equal(false);
    for (const call of [here.users.get("guest"), here.rooms.get("room")])
      expect(await call.then(() => "answered", codeOf)).to.equal("INCOMPATIBLE");
  });

  it("is another log too where a barrier comes into it that was on its way before", async () => {
    await using server = await BackedUp.start();
    /** What is sent meanwhile comes to the server when it is let go. */
    let isHeld = false;
    const [isOnItsWay, letGo] = [signal(), signal()];
    const connection = tapped(server.connection(0), {
      request: async (send, ...asked) => {
        if (isHeld && isBarrier(asked[0])) {
          isOnItsWay.now();
          await letGo.happened;
        }
        return send(...asked);
      },
    });
    const observed = quieted(server.connection(1));
    await using there = await openJetStream(observed.connection, 1, options);
    await there.users.addFirstAdmin({ key: "root" });
    for (const key of ["guest", "busy"]) await there.users.add({ key });
    await using here = await openJetStream(connection, 1, options);
    await server.backUp(observed);
    await there.users.revoke("guest");
    // As a barrier of its own tells it: the revocation stands before that.
    const session = await here.session("root", { maxStalenessMs: 60_000 });
    expect(session.allowed).to.equal(true);
    await here.isAuthorized("root");
    isHeld = true;
    const check = here.isAuthorized("root");
    await isOnItsWay.happened;
    await server.putBack();
    // A store that opens anew cannot tell.
    await using anew = await openJetStream(server.connection(2), 1, options);
    await renamed(anew, "busy", 20);
    isHeld = false;
    letGo.now();
    await check;
    expect(await here.isAuthorized("guest")).to.equal(false);
    expect(await here.users.get("root").then(() => "answered", codeOf)).to.equal("INCOMPATIBLE");
    // At its next proof, which this one shares.
    expect((await here.session("root")).allowed).to.equal(false);
    expect(session.allowed && session.active).to.equal(false);
  });

  it("ends a session of whom it lacks, also where another store has the keys by which it would be known", async () => {
    await using server = await BackedUp.start();
    const landmark = new Landmark(server.connection(0));
    const observed = quieted(server.connection(1));
    await using there = await openJetStream(observed.connection, 1, options);
    await there.users.addFirstAdmin({ key: "root" });
    await there.users.add({ key: "busy" });
    await using here = await openJetStream(landmark.connection, 1, options);
    await server.backUp(observed);
    await there.users.add({ key: "late" });
    await there.users.update("busy", { name: "kept" });
    const session = await here.session("late", { maxStalenessMs: 60_000 });
    expect(session.allowed && session.active).to.equal(true);
    for (const key of ["root", "busy"]) expect(await here.isAuthorized(key)).to.equal(true);
    await server.putBack();
    await using anew = await openJetStream(server.connection(2), 1, options);
    await renamed(anew, "busy", 20);
    await landmark.supersede(server.connection(2));
    // A proof, which all sessions share.
    (await here.session("root"))[Symbol.dispose]();
    expect(session.allowed && session.active).to.equal(false);
    expect(await here.isAuthorized("late")).to.equal(false);
  });

  it("does not pass for the known one by what is written after it took that one's place", async () => {
    await using server = await BackedUp.start();
    const landmark = new Landmark(server.connection(0));
    const observed = quieted(server.connection(1));
    await using there = await openJetStream(observed.connection, 1, options);
    await there.users.addFirstAdmin({ key: "root" });
    for (const key of ["guest", "busy"]) await there.users.add({ key });
    await using here = await openJetStream(landmark.connection, 1, options);
    await server.backUp(observed);
    for (let i = 0; i < 100; i++) expect(await here.isAuthorized("guest")).to.equal(true);
    await server.putBack();
    await using anew = await openJetStream(server.connection(2), 1, options);
    await anew.users.revoke("guest");
    for (let i = 0; i < 150; i++) await anew.isAuthorized("root");
    await landmark.supersede(server.connection(2));
    // What is written needs nothing of what is kept.
    expect((await here.users.list()).items.map(({ key }) => key)).to.have.members(["root", "guest", "busy"]);
    await pause(AGED_MS);
    expect(await here.isAuthorized("guest")).to.equal(false);
  });

  for (const { what, many, isLeaderless, isChanged } of [
    { what: "where a record that was not changed since stands there", many: 1, isLeaderless: false },
    { what: "where all of the newest records have changed since", many: 7, isLeaderless: false },
    { what: "where the stream had no leader before", many: 1, isLeaderless: true },
    { what: "where it was about one whom others have changed since", many: 1, isLeaderless: false, isChanged: true },
  ])
    it(`is another log to a store that knows of a revocation which it lacks, ${what}`, async () => {
      await using server = await BackedUp.start();
      const landmark = new Landmark(server.connection(0));
      const observed = quieted(server.connection(1));
      await using there = await openJetStream(observed.connection, 1, options);
      await there.users.addFirstAdmin({ key: "root" });
      const busy = Array.from({ length: many }, (_, i) => `busy${String(i)}`);
      for (const key of ["guest", ...busy]) await there.users.add({ key });
      await using here = await openJetStream(landmark.connection, 1, options);
      await server.backUp(observed);
      await there.users.revoke("guest");
      for (const key of busy) await there.users.update(key, { name: "kept" });
      expect(await here.isAuthorized("guest")).to.equal(false);
      for (const key of busy) expect(await here.isAuthorized(key)).to.equal(true);
      landmark.hasLeader = !isLeaderless;
      if (isLeaderless) expect(await here.isAuthorized("busy0", { timeoutMs: 300 })).to.equal(false);
      landmark.hasLeader = true;
      await server.putBack();
      await using anew = await openJetStream(server.connection(2), 1, options);
      for (const key of busy) await renamed(anew, key, 60 / many);
      if (isChanged === true) await renamed(anew, "guest", 3);
      await landmark.supersede(server.connection(2));
      expect(await here.isAuthorized("guest")).to.equal(false);
      expect(await here.users.get("root").then(() => "answered", codeOf)).to.equal("INCOMPATIBLE");
    });
});

describe("jetstream: what is imported is no backup that was put back", function () {
  this.timeout(120_000);
  const opTimeoutMs = 20_000;
  let server: NatsServer;
  let connections: Connection[];

  before(async () => {
    server = await startNatsServer();
    connections = await Promise.all(natsClients.map((client) => client.connect(server.url)));
  });

  after(async () => {
    await Promise.all(connections.map((connection) => connection.close()));
    await server.dispose();
  });

  /** A client that hears nothing of the next write of a room, after which `meanwhile` happened. */
  function forgetting(prefix: string): {
    connection: Connection;
    forgetAfter: (meanwhile: () => Promise<unknown>) => void;
  } {
    const [first] = connections;
    if (first === undefined) throw new Error("no client");
    let meanwhile: (() => Promise<unknown>) | undefined;
    const connection = tapped(first, {
      request: async (send, ...asked) => {
        const answer = await send(...asked);
        const happens = meanwhile;
        if (happens === undefined || !asked[0].startsWith(`$KV.${prefix}rooms.room.`)) return answer;
        meanwhile = undefined;
        await happens();
        throw natsError("TIMEOUT");
      },
    });
    return { connection, forgetAfter: (happens) => (meanwhile = happens) };
  }

  const open = (index: number, prefix: string): Promise<Store> => {
    const connection = connections[index];
    if (connection === undefined) throw new Error("no client");
    return openJetStream(connection, 1, { prefix, opTimeoutMs });
  };

  /** What each of them does last with the rooms that are imported later, so that the store is empty again. */
  const last: Readonly<Record<string, (store: Store) => Promise<unknown>>> = {
    "deleted a room": async (store) => {
      await store.rooms.create({ id: "room", owner: "owner" });
      await store.rooms.delete("room");
    },
    "changed a room often, and deleted it": async (store) => {
      await store.rooms.create({ id: "room", owner: "owner" });
      for (let i = 0; i < 30; i++) await store.rooms.update("room", { name: String(i) });
      await store.rooms.delete("room");
    },
    "deleted a room that was imported before": async (store) => {
      await importStore(await exportOf("before_"), store);
      for (let i = 0; i < 30; i++) await store.rooms.update("room", { name: String(i) });
      await store.rooms.delete("room");
    },
  };

  /** A store with one room, and nobody. */
  async function exportOf(prefix: string): Promise<string[]> {
    await using source = await open(0, prefix);
    await source.rooms.create({ id: "room", name: "imported", owner: "owner" }).catch(() => undefined);
    const lines: string[] = [];
    for await (const line of exportStore(source)) lines.push(line);
    return lines;
  }

  for (const [i, [what, act]] of Object.entries(last).entries()) {
    it(`a store that ${what} goes on when another one has imported that room`, async () => {
      const prefix = `imported${String(i)}_`;
      const lines = await exportOf(`source${String(i)}_`);
      await using here = await open(0, prefix);
      await using there = await open(1, prefix);
      await act(here);
      await importStore(lines, there);
      // It hears nothing meanwhile.
      await pause(AGED_MS);
      expect(await here.isMember("room", "owner")).to.equal(true);
      expect((await here.rooms.get("room")).name).to.equal("imported");
      expect((await here.rooms.update("room", { name: "changed" })).name).to.equal("changed");
      expect((await there.rooms.get("room")).name).to.equal("changed");
    });
  }

  it("a store that did nothing meanwhile is told that a room is there, which was imported", async () => {
    const lines = await exportOf("source_");
    await using here = await open(0, "idle_");
    await using there = await open(1, "idle_");
    await importStore(lines, there);
    expect(await here.rooms.create({ id: "room", owner: "other" }).then(() => "done", codeOf)).to.equal(
      "ALREADY_EXISTS",
    );
  });

  it("whoever made a room is not told that it was not made, where another one deleted and imported it meanwhile", async () => {
    const lines = await exportOf("source_");
    const { connection: forgetful, forgetAfter } = forgetting("made_");
    await using here = await openJetStream(forgetful, 1, { prefix: "made_", opTimeoutMs });
    await using there = await open(1, "made_");
    forgetAfter(async () => {
      await there.rooms.delete("room");
      await importStore(lines, there);
    });
    const error: unknown = await here.rooms.create({ id: "room", owner: "owner" }).catch((thrown: unknown) => thrown);
    if (!(error instanceof StoreError)) throw new Error("it has to be refused");
    expect([error.code, error.outcome]).to.deep.equal(["TIMEOUT", "unknown"]);
  });

  it("a room that was deleted is not deleted again, where another one imported it meanwhile", async () => {
    const lines = await exportOf("source_");
    const { connection: forgetful, forgetAfter } = forgetting("gone_");
    await using here = await openJetStream(forgetful, 1, { prefix: "gone_", opTimeoutMs });
    await using there = await open(1, "gone_");
    await here.rooms.create({ id: "room", owner: "owner" });
    forgetAfter(() => importStore(lines, there));
    expect(await here.rooms.delete("room").then(() => "done", codeOf)).to.equal("TIMEOUT");
    expect((await there.rooms.get("room")).name).to.equal("imported");
  });
});
