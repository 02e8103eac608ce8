/** Buckets belong together: one that is older than the others is told from one whose replicas are behind. */
import { expect } from "chai";
import { cp, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { openJetStream, StoreError } from "unibus-membership";
import { startNatsServer, type NatsServer } from "unibus-membership/testing";
import { codeOf } from "../support/code-of.js";
import { natsClients, type Connection } from "../support/nats-clients.js";

describe("jetstream: one bucket that was restored without the others", function () {
  this.timeout(60_000);
  let server: NatsServer;
  let connection: Connection;

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

describe("jetstream: a backup that is put back under stores that are open", function () {
  this.timeout(120_000);

  it("is another log to a store whose own change it lacks, also when others have written as far since", async () => {
    await using server = await startNatsServer();
    const connections = await Promise.all(natsClients.map((client) => client.connect(server.url)));
    const [first, second] = connections;
    if (first === undefined || second === undefined) throw new Error("two clients are needed");
    const files = join(server.directory, "jetstream");
    const backup = join(server.directory, "backup");
    const options = { opTimeoutMs: 20_000 };
    const here = await openJetStream(first, 1, options);
    const there = await openJetStream(second, 1, options);
    await here.users.add({ key: "guest" });
    await here.rooms.create({ id: "room", owner: "owner" });
    await here.members.add("room", { endpoint: "guest", state: "joined" });
    for (const store of [here, there]) {
      expect(await store.isAuthorized("guest")).to.equal(true);
      expect(await store.isMember("room", "guest")).to.equal(true);
    }
    await server.kill();
    await cp(files, backup, { recursive: true });
    await server.restart();
    await here.users.revoke("guest");
    await here.members.remove("room", "guest");
    await server.kill();
    await rm(files, { recursive: true });
    await rename(backup, files);
    await server.restart();
    for (let i = 0; i < 3; i++) {
      await there.users.update("guest", { name: `name ${String(i)}` });
      await there.rooms.update("room", { name: `name ${String(i)}` });
    }
    expect(await there.isAuthorized("guest"), "to whom nothing is missing").to.equal(true);
    expect(await here.isAuthorized("guest")).to.equal(false);
    expect(await here.isMember("room", "guest")).to.equal(false);
    for (const call of [here.users.get("guest"), here.rooms.get("room")])
      expect(await call.then(() => "answered", codeOf)).to.equal("INCOMPATIBLE");
    await Promise.all([here.close(), there.close(), ...connections.map((connection) => connection.close())]);
  });
});
