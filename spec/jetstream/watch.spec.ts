/** What a watch tells of a room that changes while its feed reads it. */
import { expect } from "chai";
import { openJetStream, type Room, type Store, type StoreEvent } from "unibus-membership";
import { startNatsServer, type NatsServer } from "unibus-membership/testing";
import { natsClients, type Connection } from "../support/nats-clients.js";
import { recordAt, tokenOf } from "./support/format-1.js";
import { stoppable, type Stoppable } from "./support/stoppable.js";
import type { Json } from "./support/streams.js";

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

  const record = async (): Promise<Json> => {
    const [connection] = connections;
    return (connection && (await recordAt(connection, "rooms", `room.${tokenOf("busy")}`))) ?? {};
  };

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

  /** The keys of which it tells until all from before this call was told. */
  async function keysTold(events: AsyncIterator<StoreEvent, unknown>): Promise<string[]> {
    const since = performance.now();
    // One that comes between two proofs can be told with both.
    const keys = new Set<string>();
    for (;;) {
      const { done, value } = await events.next();
      if (done === true) throw new Error("the watch is over");
      if (value.type === "roomKey") keys.add(`${value.endpoint} ${String(value.epoch)}`);
      if (value.type === "proved" && value.asOf >= since) return [...keys].sort();
    }
  }

  it("tells the keys that have come, and not all of the room", async () => {
    await using store = await openJetStream(await connect(), 1, { opTimeoutMs });
    const sealed = (...endpoints: string[]) => new Map(endpoints.map((endpoint) => [endpoint, KEY]));
    await store.rooms.create({ id: "keys", owner: "own", encrypted: true, sealedKey: KEY });
    await store.members.add("keys", { endpoint: "bob", state: "joined", sealedKey: { epoch: 1, sealed: KEY } });
    await store.roomKeys.rekey("keys", sealed("own", "bob"), { expectedEpoch: 1 });
    for (const isToldBefore of [false, true]) {
      await using watch = store.watch({ roomId: "keys", proveEveryMs: 20 });
      const events = watch[Symbol.asyncIterator]();
      await keysTold(events);
      if (isToldBefore) {
        await store.rooms.update("keys", { name: "another" });
        await keysTold(events);
      }
      const { epoch } = await store.rooms.get("keys");
      const name = `of-${String(epoch)}`;
      await store.members.add("keys", { endpoint: name, sealedKey: { epoch, sealed: KEY } });
      // A room that was not told before can have been rekeyed, as far as its version says.
      const others = isToldBefore ? [] : [`bob ${String(epoch)}`, `own ${String(epoch)}`];
      expect(await keysTold(events)).to.deep.equal([`${name} ${String(epoch)}`, ...others].sort());
      await store.roomKeys.put("keys", name, epoch - 1, KEY);
      expect(await keysTold(events)).to.deep.equal([`${name} ${String(epoch - 1)}`]);
      const members = await store.members.list("keys");
      const all = members.map(({ endpoint }) => endpoint);
      await store.roomKeys.rekey("keys", sealed(...all), { expectedEpoch: epoch });
      expect(await keysTold(events)).to.deep.equal(all.map((endpoint) => `${endpoint} ${String(epoch + 1)}`));
      // Who comes again has keys of its own.
      await store.members.remove("keys", name);
      await store.members.add("keys", { endpoint: name, sealedKey: { epoch: epoch + 1, sealed: KEY } });
      expect(await keysTold(events)).to.deep.equal([`${name} ${String(epoch + 1)}`]);
      await store.roomKeys.rekey("keys", sealed(...all), { expectedEpoch: epoch + 1 });
    }
  });

  it("tells a key that was written before its commit, and before a proof between the two", async () => {
    await using store = await openJetStream(await connect(), 1, { opTimeoutMs });
    const writing = await openStoppable();
    await store.rooms.create({ id: "late", owner: "own", encrypted: true, sealedKey: KEY });
    await using watch = store.watch({ roomId: "late", proveEveryMs: 20 });
    const events = watch[Symbol.asyncIterator]();
    await keysTold(events);
    await store.rooms.update("late", { name: "told" });
    await keysTold(events);
    const isCommit = (subject: string): boolean => subject === `$KV.rooms.room.${tokenOf("late")}`;
    const { members, roomKeys } = writing.store;
    const changes = [
      () => members.add("late", { endpoint: "bob", sealedKey: { epoch: 1, sealed: KEY } }),
      () => roomKeys.rekey("late", new Map(["own", "bob"].map((name) => [name, KEY])), { expectedEpoch: 1 }),
    ];
    for (const [n, change] of changes.entries()) {
      const isStopped = writing.stopAt(isCommit);
      const changed = change();
      await isStopped;
      expect(await keysTold(events)).to.deep.equal([]);
      writing.goOn();
      await changed;
      expect(await keysTold(events)).to.deep.equal(n === 0 ? ["bob 1"] : ["bob 2", "own 2"]);
    }
    await writing.store.close();
  });

  it("tells who has left a room of which so many leave that their rows are left behind", async () => {
    await using store = await openJetStream(await connect(), 1, { opTimeoutMs });
    const { members } = store;
    await store.rooms.create({ id: "busy", owner: "own" });
    await using watch = store.watch({ roomId: "busy", kinds: ["members"], proveEveryMs: 60_000 });
    const events: AsyncIterator<StoreEvent, unknown> = watch[Symbol.asyncIterator]();
    /** What is told up to a proof of now. A watch that begins has the feed asked. */
    const next = async (): Promise<string[]> => {
      const since = performance.now();
      await using another = store.watch({ roomId: "none" });
      const found: string[] = [];
      for (const began = another[Symbol.asyncIterator]().next(); ;) {
        const { done, value } = await events.next();
        if (done === true) throw new Error("the watch is over");
        if (value.type === "proved" && value.asOf >= since) {
          await began;
          return found;
        }
        if (value.type === "member") found.push(value.member.endpoint);
        else if (value.type === "memberRemoved") found.push(`-${value.endpoint}`);
        else if (value.type !== "proved") found.push(value.type);
      }
    };
    await next();
    let guests = 0;
    for (const n of [0, 1, 2]) {
      const [bob, carol] = [`bob-${String(n)}`, `carol-${String(n)}`];
      for (const endpoint of [bob, carol]) await members.add("busy", { endpoint });
      expect(await next()).to.deep.equal([bob, carol]);
      await members.remove("busy", bob);
      await members.remove("busy", carol);
      const { roster } = await record();
      // The second copy leaves behind who left before the first.
      for (let copies = 0, last = roster; copies < 2;) {
        await members.add("busy", { endpoint: `guest-${String(++guests)}` });
        await members.remove("busy", `guest-${String(guests)}`);
        const { roster: now } = await record();
        if (now !== last) copies++;
        last = now;
      }
      // There is no row that would tell that she was there before.
      await members.add("busy", { endpoint: carol });
      const after = await next();
      if (n === 0) expect(after).to.include("resync");
      else expect(after.filter((told) => !told.includes("guest"))).to.deep.equal([`-${bob}`, `-${carol}`, carol]);
      await members.remove("busy", carol);
      expect(await next()).to.deep.equal([`-${carol}`]);
    }
  });

  it("tells a room whose members were read in a newer state than its record", async () => {
    await using store = await openJetStream(await connect(), 1, { opTimeoutMs });
    const [watching, writing] = [await openStoppable(), await openStoppable()];
    await store.rooms.create({ id: "room", owner: "own", encrypted: true, sealedKey: KEY });
    await store.members.add("room", { endpoint: "bob", state: "joined" });
    const watch = watching.store.watch({ kinds: ["rooms", "members"], proveEveryMs: 60_000 });
    const events = watch[Symbol.asyncIterator]();
    const before = await told(events, undefined);
    // More than one change: then the feed reads the room's record, and all rows of its members.
    await store.rooms.update("room", { name: "another" });
    await store.members.add("room", { endpoint: "carol", state: "joined" });
    const rowsAreRead = watching.stopAt((subject) => subject.endsWith("DIRECT.GET.KV_members"));
    const last = told(events, before);
    // The feed is asked at once, and every second.
    const another = watching.store.watch({ kinds: ["rooms"], roomId: "none" });
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
    await Promise.all([watch.close(), another.close()]);
    await Promise.all([watching.store.close(), writing.store.close()]);
  });
});
