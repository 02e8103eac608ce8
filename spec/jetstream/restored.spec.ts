/** Buckets belong together: one that is older than the others is told from one whose replicas are behind. */
import { expect } from "chai";
import { openJetStream, StoreError } from "unibus-membership";
import { startNatsServer, type NatsServer } from "unibus-membership/testing";
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
