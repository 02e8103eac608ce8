/**
 * A replica that lags answers with what was. Here a connection gives such an answer again, as it came before another
 * instance changed the room: what a call says afterwards must be of the room as it is.
 */
import { expect } from "chai";
import { openJetStream, type Store } from "unibus-membership";
import { startNatsServer, type NatsServer } from "unibus-membership/testing";
import { codeOf } from "../support/code-of.js";
import { natsClients, type Connection } from "../support/nats-clients.js";
import { given, messagesOf, tapped, type Message, type RequestMany } from "./support/taps.js";

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

function lagging(inner: Connection) {
  const answers = new Map<string, readonly Message[]>();
  let lags = false;
  let stale = 0;
  const requestMany: RequestMany = async (subject, payload, options) => {
    const request = `${subject} ${String(payload)}`;
    const before = answers.get(request);
    if (lags && before !== undefined) {
      // Once each: the replica catches up.
      answers.delete(request);
      stale++;
      return given(before);
    }
    const messages = await messagesOf(await inner.requestMany(subject, payload, options));
    if (!lags) answers.set(request, messages);
    return given(messages);
  };
  return {
    /** From now on every request is first answered as it was the last time. */
    lag(): void {
      lags = true;
      stale = 0;
    },
    catchUp(): void {
      lags = false;
      answers.clear();
    },
    get stale(): number {
      return stale;
    },
    connection: tapped(inner, { requestMany }),
  };
}

describe("jetstream: what another replica is behind with", function () {
  this.timeout(60_000);
  let server: NatsServer;
  let clean: Connection;
  let behind: ReturnType<typeof lagging>;
  let a: Store;
  let b: Store;

  before(async () => {
    server = await startNatsServer();
    const [client] = natsClients;
    if (client === undefined) throw new Error("no client");
    clean = await client.connect(server.url);
    behind = lagging(await client.connect(server.url));
    a = await openJetStream(clean, 1, { opTimeoutMs: 20_000 });
    b = await openJetStream(behind.connection, 1, { opTimeoutMs: 20_000 });
  });

  after(async () => {
    await a.close();
    await b.close();
    await clean.close();
    await behind.connection.close();
    await server.dispose();
  });

  const rekey = (room: string): Promise<unknown> => a.roomKeys.rekey(room, new Map([["own", bytes("own 2")]]), { expectedEpoch: 1 });
  const cases: readonly { what: string; change: (room: string) => Promise<unknown>; epoch: number; end: string }[] = [
    { what: "the member was removed", change: (room) => a.members.remove(room, "bob"), epoch: 1, end: "NOT_FOUND" },
    { what: "the room was deleted", change: (room) => a.rooms.delete(room), epoch: 1, end: "NOT_FOUND" },
    {
      what: "the room was deleted, and made anew without an epoch",
      change: async (room) => {
        await a.rooms.delete(room);
        await a.rooms.create({ id: room, owner: "bob", encrypted: true });
      },
      epoch: 1,
      end: "CONFLICT",
    },
    {
      what: "the room was deleted, and made anew without encryption",
      change: async (room) => {
        await a.rooms.delete(room);
        await a.rooms.create({ id: room, owner: "bob" });
      },
      epoch: 1,
      end: "CONFLICT",
    },
    {
      what: "the member was removed, and there was a rekey without it",
      change: async (room) => {
        await a.members.remove(room, "bob");
        await rekey(room);
      },
      epoch: 2,
      end: "NOT_FOUND",
    },
    {
      what: "there was a rekey, with a key for the member",
      change: (room) => a.roomKeys.rekey(room, new Map([["own", bytes("own 2")], ["bob", bytes("bob 2")]]), { expectedEpoch: 1 }),
      epoch: 2,
      end: "ALREADY_EXISTS",
    },
    {
      what: "there was a rekey, and the member was added after it",
      change: async (room) => {
        await a.members.remove(room, "bob");
        await rekey(room);
        await a.members.add(room, { endpoint: "bob", state: "joined" });
      },
      epoch: 2,
      end: "done",
    },
    {
      what: "there was a rekey, and the epoch asked for is still to come",
      change: async (room) => {
        await a.members.remove(room, "bob");
        await rekey(room);
        await a.members.add(room, { endpoint: "bob", state: "joined" });
      },
      epoch: 3,
      end: "CONFLICT",
    },
    {
      what: "another put one",
      change: (room) => a.roomKeys.put(room, "bob", 1, bytes("bob, another's")),
      epoch: 1,
      end: "ALREADY_EXISTS",
    },
  ];

  for (const [n, { what, change, epoch, end }] of cases.entries()) {
    it(`${what}: ${end}`, async () => {
      const room = `room-${n}`;
      await a.rooms.create({ id: room, owner: "own", encrypted: true, sealedKey: bytes("own 1") });
      await a.members.add(room, { endpoint: "bob", state: "joined" });
      // Asks for what a put asks for, and so has its answers: bob has no key yet, and this one is of an epoch to come.
      expect(await b.roomKeys.put(room, "bob", 7, bytes("early")).then(() => "done", codeOf)).to.equal("CONFLICT");
      await change(room);
      const before = await a.roomKeys.list(room, "bob").catch(() => []);
      behind.lag();
      const ended = await b.roomKeys.put(room, "bob", epoch, bytes("bob, put")).then(() => "done", codeOf);
      expect(behind.stale, "answers of a replica that lags").to.be.greaterThan(0);
      behind.catchUp();
      expect(ended).to.equal(end);
      const after = await a.roomKeys.list(room, "bob").catch(() => []);
      expect(after.map((key) => Buffer.from(key.sealed).toString())).to.deep.equal(
        [...before.map((key) => Buffer.from(key.sealed).toString()), ...(end === "done" ? ["bob, put"] : [])],
      );
    });
  }

  for (const { what, change } of [
    { what: "was removed", change: (room: string) => a.members.remove(room, "bob") },
    {
      what: "was removed and invited again",
      change: async (room: string) => {
        await a.members.remove(room, "bob");
        await a.members.add(room, { endpoint: "bob" });
      },
    },
  ]) {
    it(`who ${what} is no member to a replica that lags, also when the room has changed again`, async () => {
      const room = `room ${what}`;
      await a.rooms.create({ id: room, owner: "own" });
      await a.members.add(room, { endpoint: "bob", state: "joined" });
      await a.members.add(room, { endpoint: "carol" });
      for (let i = 0; i < 2; i++) expect(await b.isMember(room, "bob")).to.equal(true);
      await change(room);
      // So that the change stands in the members' bucket, and no longer in the room's record.
      await a.members.join(room, "carol");
      behind.lag();
      const isMember = await b.isMember(room, "bob");
      expect(behind.stale, "answers of a replica that lags").to.be.greaterThan(0);
      behind.catchUp();
      expect(isMember).to.equal(false);
    });
  }

  // A page that its limit ends, and one that the end of the log does.
  for (const limit of [2, 1000]) {
    it(`a page of at most ${limit} has each user once, as it is now`, async () => {
      const prefix = `users_${limit}_`;
      await using here = await openJetStream(clean, 1, { prefix, opTimeoutMs: 20_000 });
      await using there = await openJetStream(behind.connection, 1, { prefix, opTimeoutMs: 20_000 });
      for (const key of ["first", "second"]) await here.users.add({ key });
      expect((await there.users.list({ limit })).items).to.have.length(2);
      await here.users.revoke("first");
      behind.lag();
      const { items } = await there.users.list({ limit });
      expect(behind.stale).to.be.greaterThan(0);
      behind.catchUp();
      expect(items.map(({ key, status }) => `${key} ${status}`).sort()).to.deep.equal(["first revoked", "second active"]);
    });

    it(`a page of at most ${limit} has each room once, as it is now, and none that is deleted`, async () => {
      const prefix = `rooms_${limit}_`;
      await using here = await openJetStream(clean, 1, { prefix, opTimeoutMs: 20_000 });
      await using there = await openJetStream(behind.connection, 1, { prefix, opTimeoutMs: 20_000 });
      for (const id of ["renamed", "deleted"]) await here.rooms.create({ id, owner: "o", name: "before" });
      expect((await there.rooms.list({ limit })).items).to.have.length(2);
      await here.rooms.update("renamed", { name: "after" });
      await here.rooms.delete("deleted");
      behind.lag();
      const { items } = await there.rooms.list({ limit });
      expect(behind.stale).to.be.greaterThan(0);
      behind.catchUp();
      expect(items.map(({ id, name }) => `${id} ${name}`)).to.deep.equal(["renamed after"]);
    });
  }
});
