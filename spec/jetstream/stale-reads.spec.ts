/**
 * A replica that lags answers with what was. Here a connection gives such an answer again, as it came before another
 * instance changed the room: what a call says afterwards must be of the room as it is.
 */
import { expect } from "chai";
import { openJetStream, type Store } from "unibus-membership";
import { codeOf } from "../support/code-of.js";
import type { Connection } from "../support/nats-clients.js";
import { pause } from "../support/wait.js";
import { isBarrier, readOf } from "./support/messages.js";
import { streamInfo } from "./support/streams.js";
import { given, messagesOf, tapped, type Message, type RequestMany, type Tap } from "./support/taps.js";
import { useTwoStores } from "./support/two-stores.js";

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

/** Longer than the acknowledgement of a barrier takes that leaves no doubt. */
const LATE_MS = 600;

function lagging(inner: Connection) {
  const answers = new Map<string, readonly Message[]>();
  /** The bucket whose replica lags. */
  let lags: string | undefined;
  let keepsFirst = false;
  let stale = 0;
  let slowMs = 0;
  const answer = async (
    subject: string,
    payload: unknown,
    ask: () => Promise<readonly Message[]>,
  ): Promise<readonly Message[]> => {
    const request = `${subject} ${String(payload)}`;
    const before = answers.get(request);
    if (before !== undefined && lags !== undefined && subject.endsWith(lags)) {
      // Once each: the replica catches up.
      answers.delete(request);
      stale++;
      return before;
    }
    const messages = await ask();
    if (lags === undefined && !(keepsFirst && before !== undefined)) answers.set(request, messages);
    return messages;
  };
  const requestMany: RequestMany = async (subject, payload, options) =>
    given(await answer(subject, payload, async () => messagesOf(await inner.requestMany(subject, payload, options))));
  const request: Tap = async (send, subject, payload, options) => {
    if (readOf(subject, payload) === undefined) {
      const acknowledged = await send(subject, payload, options);
      if (isBarrier(subject)) await pause(slowMs);
      return acknowledged;
    }
    const [message] = await answer(subject, payload, async () => [await send(subject, payload, options)]);
    if (message === undefined) throw new Error("an answer is a message");
    return message;
  };
  return {
    /** From now on every request, of one bucket or of all, is first answered as it was the last time. */
    lag(bucket = ""): void {
      lags = bucket;
      stale = 0;
    },
    /** A replica lags by the first answer that it gave, and not by the last. */
    keepFirst(): void {
      keepsFirst = true;
    },
    /** Barriers are acknowledged so late. */
    slow(ms: number): void {
      slowMs = ms;
    },
    catchUp(): void {
      slowMs = 0;
      lags = undefined;
      keepsFirst = false;
      answers.clear();
    },
    get stale(): number {
      return stale;
    },
    connection: tapped(inner, { request, requestMany }),
  };
}

describe("jetstream: what another replica is behind with", function () {
  this.timeout(60_000);
  let clean: Connection;
  let behind: ReturnType<typeof lagging>;
  let a: Store;
  let b: Store;

  useTwoStores(lagging, 20_000, (stores) => {
    ({ a, b, clean, faults: behind } = stores);
  });

  afterEach(() => {
    behind.catchUp();
  });

  const rekey = (room: string): Promise<unknown> =>
    a.roomKeys.rekey(room, new Map([["own", bytes("own 2")]]), { expectedEpoch: 1 });
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
      change: (room) =>
        a.roomKeys.rekey(
          room,
          new Map([
            ["own", bytes("own 2")],
            ["bob", bytes("bob 2")],
          ]),
          { expectedEpoch: 1 },
        ),
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
      expect(after.map((key) => Buffer.from(key.sealed).toString())).to.deep.equal([
        ...before.map((key) => Buffer.from(key.sealed).toString()),
        ...(end === "done" ? ["bob, put"] : []),
      ]);
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
      expect(items.map(({ key, status }) => `${key} ${status}`).sort()).to.deep.equal([
        "first revoked",
        "second active",
      ]);
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

  describe("a read goes not back behind what the store has seen", () => {
    it("of a user, whoever changed it", async () => {
      await a.users.add({ key: "seen" });
      behind.keepFirst();
      expect((await b.users.get("seen")).status).to.equal("active");
      await a.users.revoke("seen");
      expect((await b.users.get("seen")).status).to.equal("revoked");
      behind.lag();
      expect((await b.users.get("seen")).status).to.equal("revoked");
      expect(behind.stale).to.be.greaterThan(0);
    });

    for (const isLate of [false, true]) {
      it(`of a user whom a check has seen revoked${isLate ? ", also after a barrier that was acknowledged late" : ""}`, async () => {
        const key = `checked-${String(isLate)}`;
        await a.users.add({ key });
        behind.keepFirst();
        expect((await b.users.get(key)).status).to.equal("active");
        for (let i = 0; i < 3; i++) expect(await b.isAuthorized(key)).to.equal(true);
        await a.users.revoke(key);
        for (let i = 0; i < 3; i++) expect(await b.isAuthorized(key)).to.equal(false);
        if (isLate) {
          behind.slow(LATE_MS);
          expect(await b.isAuthorized(key)).to.equal(false);
        }
        behind.lag();
        expect((await b.users.get(key)).status).to.equal("revoked");
        expect(behind.stale).to.be.greaterThan(0);
      });
    }

    it("of a user that it has changed itself", async () => {
      await b.users.add({ key: "own", name: "before" });
      behind.keepFirst();
      expect((await b.users.get("own")).name).to.equal("before");
      await b.users.update("own", { name: "mine" });
      behind.lag();
      expect((await b.users.get("own")).name).to.equal("mine");
      expect(behind.stale).to.be.greaterThan(0);
    });

    it("of a member, where the room's record does not show it any more", async () => {
      await a.rooms.create({ id: "floors", owner: "own" });
      await a.members.add("floors", { endpoint: "bob" });
      await a.members.add("floors", { endpoint: "carol" });
      behind.keepFirst();
      expect((await b.members.get("floors", "bob")).state).to.equal("invited");
      await a.members.join("floors", "bob");
      // The head shows it, and the row is the one before.
      expect((await b.members.get("floors", "bob")).state).to.equal("joined");
      await a.members.join("floors", "carol");
      behind.lag("members");
      expect((await b.members.get("floors", "bob")).state).to.equal("joined");
      expect(behind.stale).to.be.greaterThan(0);
    });

    it("also where it has seen so many others since that it does not know what it saw", async () => {
      const prefix = "many_";
      await using here = await openJetStream(clean, 1, { prefix, opTimeoutMs: 20_000 });
      // It remembers some ten.
      const cacheBytes = 48 * 1024;
      await using there = await openJetStream(behind.connection, 1, { prefix, opTimeoutMs: 20_000, cacheBytes });
      await here.users.add({ key: "old" });
      behind.keepFirst();
      expect((await there.users.get("old")).status).to.equal("active");
      await here.users.revoke("old");
      expect((await there.users.get("old")).status).to.equal("revoked");
      const others = Array.from({ length: 30 }, (_, i) => `other-${String(i)}`);
      for (const key of others) await here.users.add({ key });
      for (const key of others) expect((await there.users.get(key)).status).to.equal("active");
      behind.lag();
      expect((await there.users.get("old")).status).to.equal("revoked");
      expect(behind.stale).to.be.greaterThan(0);
    });
  });

  it("a member is read although another read has meanwhile seen a change of it that no other change has followed", async () => {
    await a.rooms.create({ id: "meanwhile", owner: "own" });
    await a.members.add("meanwhile", { endpoint: "bob" });
    await a.members.add("meanwhile", { endpoint: "carol" });
    let goOn: () => void = () => undefined;
    const gone = new Promise<void>((resolve) => {
      goOn = resolve;
    });
    let read: () => void = () => undefined;
    const isRead = new Promise<void>((resolve) => {
      read = resolve;
    });
    let room: Promise<unknown> = Promise.resolve();
    const request: Tap = async (send, subject, payload, options) => {
      const of = readOf(subject, payload) ?? "";
      const answer = send(subject, payload, options);
      if (of.startsWith("$KV.rooms.room.")) room = answer;
      // The newest row of the member, which is asked for together with the room.
      if (of.startsWith("$KV.members.") && /[*>]$/.test(of)) {
        await Promise.all([room, answer]);
        read();
        await gone;
      }
      return answer;
    };
    await using slow = await openJetStream(tapped(clean, { request }), 1, { opTimeoutMs: 20_000 });
    const early = slow.members.get("meanwhile", "bob", { timeoutMs: 5000 });
    await isRead;
    await a.members.join("meanwhile", "bob");
    await slow.rooms.get("meanwhile");
    goOn();
    // It began before the change: either answer is right.
    expect(["invited", "joined"]).to.include((await early).state);
  });

  it("a room is listed for a member whose row is copied under another id just then", async () => {
    await a.rooms.create({ id: "copied", owner: "own" });
    // The head is of another one.
    for (const endpoint of ["dave", "erin"]) await a.members.add("copied", { endpoint, state: "joined" });
    let isCopied = false;
    const request: RequestMany = async (subject, payload, options) => {
      if (!isCopied && subject.endsWith("KV_members") && String(payload).includes("multi_last")) {
        isCopied = true;
        const rows = async (): Promise<number> => (await streamInfo(clean, "members")).state.messages;
        // More than are members, and more than a few: the rows of those who are gone are removed.
        for (let before = await rows(), now = before; now >= before; before = now, now = await rows()) {
          await a.members.add("copied", { endpoint: `guest-${String(before)}` });
          await a.members.remove("copied", `guest-${String(before)}`);
        }
      }
      return clean.requestMany(subject, payload, options);
    };
    await using store = await openJetStream(tapped(clean, { requestMany: request }), 1, { opTimeoutMs: 20_000 });
    expect((await store.rooms.listForEndpoint("dave")).map(({ id }) => id)).to.deep.equal(["copied"]);
    expect(isCopied).to.equal(true);
  });

  it("a change of an admin that is staged is put in place before the next one, also where a replica has the user as before", async () => {
    const prefix = "staged_";
    await using here = await openJetStream(clean, 1, { prefix, opTimeoutMs: 20_000 });
    await using there = await openJetStream(behind.connection, 1, { prefix, opTimeoutMs: 20_000 });
    await here.users.addFirstAdmin({ key: "root" });
    await here.users.add({ key: "boss" });
    expect((await there.users.get("boss")).role).to.equal("member");
    await here.users.update("boss", { role: "admin" });
    behind.lag();
    await there.users.add({ key: "next", role: "admin" });
    expect(behind.stale).to.be.greaterThan(0);
    expect((await here.users.get("boss")).role).to.equal("admin");
  });

  describe("a change that follows upon a row that is not the last one any more is not committed", () => {
    const rowsOf = async (room: string): Promise<string[]> =>
      (await a.members.list(room)).map(({ endpoint, state }) => `${endpoint} ${state}`);

    it("a removal of who was removed: NOT_FOUND", async () => {
      await a.rooms.create({ id: "rows", owner: "own" });
      await a.members.add("rows", { endpoint: "bob", state: "joined" });
      await a.members.add("rows", { endpoint: "carol" });
      await warmRow("rows", "bob");
      await a.members.remove("rows", "bob");
      await a.members.join("rows", "carol");
      behind.lag("members");
      expect(await b.members.remove("rows", "bob").then(() => "done", codeOf)).to.equal("NOT_FOUND");
      expect(behind.stale).to.be.greaterThan(0);
      behind.catchUp();
      expect(await rowsOf("rows")).to.deep.equal(["carol joined", "own joined"]);
    });

    it("an acceptance of an invitation that was taken back and given again", async () => {
      await a.rooms.create({ id: "again", owner: "own" });
      const first = await a.members.add("again", { endpoint: "bob" });
      await a.members.add("again", { endpoint: "carol" });
      await warmRow("again", "bob");
      await a.members.remove("again", "bob");
      await a.members.add("again", { endpoint: "bob", invitedBy: "carol" });
      await a.members.join("again", "carol");
      behind.lag("members");
      await b.members.join("again", "bob");
      expect(behind.stale).to.be.greaterThan(0);
      behind.catchUp();
      expect(first.invitedBy).to.equal(undefined);
      expect((await a.members.get("again", "bob")).invitedBy).to.equal("carol");
      expect(await rowsOf("again")).to.deep.equal(["bob joined", "carol joined", "own joined"]);
    });

    /** Reads the row of a member as a change of it does, and changes nothing. */
    async function warmRow(room: string, endpoint: string): Promise<void> {
      expect(await b.members.add(room, { endpoint }).then(() => "done", codeOf)).to.equal("ALREADY_EXISTS");
    }
  });
});
