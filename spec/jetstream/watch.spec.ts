/** What a watch tells of a room that changes while its feed reads it. */
import { expect } from "chai";
import { openJetStream, type Room, type Store, type StoreEvent } from "unibus-membership";
import { startNatsServer, type NatsServer } from "unibus-membership/testing";
import { natsClients, type Connection } from "../support/nats-clients.js";
import { tokenOf } from "./support/format-1.js";
import { stoppable, type Stoppable } from "./support/stoppable.js";

const opTimeoutMs = 20_000;
const KEY = new Uint8Array([1, 2, 3]);

describe("jetstream: watch", function () {
  this.timeout(60_000);
  let server: NatsServer;
  const connections: Connection[] = [];

  before(async () => {
    server = await startNatsServer();
  });

  after(async () => {
    await Promise.all(connections.map((connection) => connection.close()));
    await server.dispose();
  });

  async function connect(): Promise<Connection> {
    const [client] = natsClients;
    if (client === undefined) throw new Error("no client");
    const connection = await client.connect(server.url);
    connections.push(connection);
    return connection;
  }

  async function openStoppable(): Promise<Stoppable & { readonly store: Store }> {
    const own = stoppable(await connect());
    return { ...own, store: await openJetStream(own.connection, 1, { opTimeoutMs }) };
  }

  /** The newest state of the room, once all from before this call was told. */
  async function told(events: AsyncIterator<StoreEvent, unknown>, before: Room | undefined): Promise<Room | undefined> {
    const since = performance.now();
    for (let room = before; ;) {
      const { done, value } = await events.next();
      if (done === true) throw new Error("the watch is over");
      if (value.type === "room") room = value.room;
      if (value.type === "proved" && value.asOf >= since) return room;
    }
  }

  it("tells a room whose members were read in a newer state than its record", async () => {
    await using store = await openJetStream(await connect(), 1, { opTimeoutMs });
    const [watching, writing] = [await openStoppable(), await openStoppable()];
    await store.rooms.create({ id: "room", owner: "own", encrypted: true, sealedKey: KEY });
    await store.members.add("room", { endpoint: "bob", state: "joined" });
    const watch = watching.store.watch();
    const events = watch[Symbol.asyncIterator]();
    const before = await told(events, undefined);
    // More than one change: then the feed reads the room's record, and all rows of its members.
    const rowsAreRead = watching.stopAt((subject) => subject.endsWith("DIRECT.GET.KV_members"));
    await store.rooms.update("room", { name: "another" });
    await store.members.add("room", { endpoint: "carol", state: "joined" });
    const last = told(events, before);
    await rowsAreRead;
    await store.members.remove("room", "bob");
    // The next change puts the row of the removal in place, and gets no further.
    const isCommitted = writing.stopAt((subject) => subject === `$KV.rooms.room.${tokenOf("room")}`);
    const adding = writing.store.members.add("room", { endpoint: "dave" });
    await isCommitted;
    watching.goOn();
    expect(await told(events, await last)).to.deep.equal(await store.rooms.get("room"));
    writing.goOn();
    await adding;
    await watch.close();
    await Promise.all([watching.store.close(), writing.store.close()]);
  });
});
