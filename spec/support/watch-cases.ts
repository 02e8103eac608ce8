// What the contract says of watches (promise 18), for every backend. A store of somebody else has a watch of its own.

import assert from "node:assert/strict";
import { isStoreError, type Store, type StoreEvent, type Watch, type WatchOptions } from "unibus-membership";
import { aloneCases, bytes, refused, sealedFor, seen, walk } from "../../lib/testing/conformance/case.js";
import type { Steps } from "../../lib/testing/conformance/case.js";
import { fill } from "./export-cases.js";

const OFTEN = { proveEveryMs: 20 };

/** What a watch has told, laid one over the other: the store as whoever listens knows it. */
export class Listener implements AsyncDisposable {
  readonly events: StoreEvent[] = [];
  readonly users = new Map<string, unknown>();
  readonly rooms = new Map<string, unknown>();
  readonly members = new Map<string, unknown>();
  readonly keys = new Set<string>();
  #watch: Watch;
  #iterator: AsyncIterator<StoreEvent>;

  constructor(store: Store, options?: WatchOptions) {
    this.#watch = store.watch({ ...OFTEN, ...options });
    this.#iterator = this.#watch[Symbol.asyncIterator]();
  }

  async next(): Promise<StoreEvent> {
    const result = await this.#iterator.next();
    assert.ok(result.done !== true, "the watch is over");
    const { value } = result;
    // Nothing here is too much, and nobody has taken the servers away.
    assert.notEqual(value.type, "resync");
    this.events.push(value);
    this.#apply(value);
    return value;
  }

  #apply(event: StoreEvent): void {
    switch (event.type) {
      case "user":
        this.users.set(event.user.key, event.user);
        return;
      case "room":
        this.rooms.set(event.room.id, event.room);
        return;
      case "roomDeleted":
        this.rooms.delete(event.roomId);
        for (const name of this.members.keys()) if (name.startsWith(`${event.roomId}\n`)) this.members.delete(name);
        for (const name of this.keys) if (name.startsWith(`${event.roomId}\n`)) this.keys.delete(name);
        return;
      case "member":
        this.members.set(`${event.member.roomId}\n${event.member.endpoint}`, event.member);
        return;
      case "memberRemoved":
        this.members.delete(`${event.roomId}\n${event.endpoint}`);
        for (const name of this.keys)
          if (name.startsWith(`${event.roomId}\n${event.endpoint}\n`)) this.keys.delete(name);
        return;
      case "roomKey":
        this.keys.add(`${event.roomId}\n${event.endpoint}\n${String(event.epoch)}`);
        return;
      case "resync":
        for (const known of [this.users, this.rooms, this.members, this.keys]) known.clear();
        return;
      case "proved":
        return;
    }
  }

  /** Until all of before this call is told. Answers what came. */
  async proved(): Promise<StoreEvent[]> {
    const now = performance.now();
    const from = this.events.length;
    for (;;) {
      const event = await this.next();
      if (event.type === "proved" && event.asOf >= now) return this.events.slice(from);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#watch.close();
  }
}

/** What a listener should know, by what is read. */
async function standing(store: Store) {
  const users = new Map((await walk((page) => store.users.list(page))).map((user) => [user.key, user]));
  const rooms = new Map((await walk((page) => store.rooms.list(page))).map((room) => [room.id, room]));
  const members = new Map<string, unknown>();
  const keys = new Set<string>();
  for (const id of rooms.keys()) {
    for (const member of await store.members.list(id)) {
      members.set(`${id}\n${member.endpoint}`, member);
      for (const { epoch } of await store.roomKeys.list(id, member.endpoint))
        keys.add(`${id}\n${member.endpoint}\n${String(epoch)}`);
    }
  }
  return { users, rooms, members, keys };
}

async function knowsAll(listener: Listener, store: Store): Promise<void> {
  const { users, rooms, members, keys } = await standing(store);
  assert.deepEqual(sorted(listener.users), sorted(users));
  assert.deepEqual(sorted(listener.rooms), sorted(rooms));
  assert.deepEqual(sorted(listener.members), sorted(members));
  assert.deepEqual([...listener.keys].sort(), [...keys].sort());
}

const sorted = (map: ReadonlyMap<string, unknown>): [string, unknown][] =>
  [...map].sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));

const ofType = <T extends StoreEvent["type"]>(
  events: readonly StoreEvent[],
  type: T,
): Extract<StoreEvent, { type: T }>[] =>
  events.filter((event): event is Extract<StoreEvent, { type: T }> => event.type === type);

/** Types of what is no proof. */
const told = (events: readonly StoreEvent[]): string[] =>
  events.map(({ type }): string => type).filter((type) => type !== "proved");

const steps: Steps = {
  "every record as it stands comes first, and then it is proved": async ({ store }) => {
    await fill(store);
    await using listener = new Listener(store);
    const events = await listener.proved();
    await knowsAll(listener, store);
    assert.equal(events.filter(({ type }) => type === "proved").length, 1, "proved once all of it was told");
    assert.equal(ofType(events, "user").length, 6, "each user once");
    assert.equal(ofType(events, "room").length, 5, "each room once");
    assert.deepEqual(
      ofType(events, "user").filter(({ ended }) => ended),
      [],
      "nothing has ended since",
    );
    assert.deepEqual(ofType(events, "memberRemoved"), []);
  },

  "an empty store is proved to be": async ({ store }) => {
    await using listener = new Listener(store);
    assert.deepEqual(told(await listener.proved()), []);
  },

  "what changes is told, whoever changes it": async ({ store, other }) => {
    await fill(store);
    await using listener = new Listener(store);
    await listener.proved();
    const second = await other();
    await second.users.add({ key: "new" });
    await store.users.update("new", { name: "named", expiresAt: new Date(4e12) });
    await second.rooms.create({ id: "made", owner: "owner", encrypted: true, ownerPublicKey: bytes("pk") });
    await store.members.add("made", { endpoint: "a", invitedBy: "owner", publicKey: bytes("a") });
    await second.members.join("made", "a");
    await store.roomKeys.rekey("made", sealedFor(1, ["owner", "a"]), { expectedEpoch: 0 });
    await second.members.add("made", { endpoint: "b", state: "joined" });
    await store.roomKeys.put("made", "b", 1, bytes("sealed to b"));
    await second.rooms.update("made", { owner: "a", name: "named" });
    await store.members.remove("made", "owner");
    await second.rooms.delete("plain");
    const events = await listener.proved();
    await knowsAll(listener, store);
    assert.ok(!JSON.stringify(events).includes(Buffer.from("sealed to b").toString("base64")));
    assert.ok(!events.some((event) => "sealed" in event));
  },

  "a key that waits is not told once its member was removed": async ({ store }) => {
    await store.rooms.create({ id: "r", owner: "o", encrypted: true, sealedKey: bytes("sealed to o") });
    await using slow = new Listener(store);
    await slow.proved();
    await using quick = new Listener(store);
    await quick.proved();
    await store.members.add("r", { endpoint: "m", sealedKey: { epoch: 1, sealed: bytes("sealed to m") } });
    await quick.proved();
    await store.members.remove("r", "m");
    await quick.proved();
    await slow.proved();
    await knowsAll(slow, store);
    await store.members.add("r", { endpoint: "m", state: "joined" });
    await quick.proved();
    await store.members.remove("r", "m");
    await store.members.add("r", { endpoint: "m", sealedKey: { epoch: 1, sealed: bytes("again") } });
    await quick.proved();
    await slow.proved();
    await knowsAll(slow, store);
  },

  "each of many changes is told, as they come": async ({ store, other }) => {
    await using listener = new Listener(store);
    await listener.proved();
    const second = await other();
    await store.rooms.create({ id: "busy", owner: "owner" });
    for (let i = 0; i < 12; i++) {
      const by = i % 2 === 0 ? store : second;
      await by.users.add({ key: `user-${String(i)}` });
      await by.members.add("busy", { endpoint: `member-${String(i)}`, state: "joined" });
      if (i % 3 === 0) await by.members.remove("busy", `member-${String(i)}`);
      if (i % 4 === 0) await listener.proved();
    }
    await listener.proved();
    await knowsAll(listener, store);
  },

  "a grant that ended is told, also where another one began at once": async ({ store, other }) => {
    await store.users.addFirstAdmin({ key: "root" });
    for (const key of ["again", "demoted", "renamed", "expired"]) await store.users.add({ key, role: "admin" });
    await store.rooms.create({ id: "room", owner: "owner" });
    await store.members.add("room", { endpoint: "left", state: "joined" });
    await store.members.add("room", { endpoint: "stays", state: "joined" });
    // Nothing is asked in between: all of it has to be told of at once.
    await using listener = new Listener(store, { proveEveryMs: 60_000 });
    await listener.proved();
    const second = await other();
    await second.users.revoke("again");
    await second.users.reinstate("again");
    await second.users.update("demoted", { role: "member" });
    await second.users.update("demoted", { role: "admin" });
    await second.users.update("renamed", { name: "renamed" });
    await second.users.update("expired", { expiresAt: new Date(1) });
    await second.users.update("expired", { expiresAt: null });
    await second.members.remove("room", "left");
    await second.members.add("room", { endpoint: "left", state: "joined" });
    const proved = listener.proved();
    // Who comes new has all be told at once.
    await using another = new Listener(store, { snapshot: false });
    await another.proved();
    const events = await proved;
    await knowsAll(listener, store);
    const ended = (key: string): boolean =>
      ofType(events, "user").some(({ user, ended: isOver }) => user.key === key && isOver);
    assert.deepEqual(
      ["again", "demoted", "expired", "renamed", "root"].map(ended),
      [true, true, true, false, false],
      "which grants ended",
    );
    const ofRoom = events.filter(({ type }) => type === "member" || type === "memberRemoved");
    const removed = ofRoom.findIndex(
      (event) => event.type === "memberRemoved" && event.roomId === "room" && event.endpoint === "left",
    );
    const added = ofRoom.findLastIndex((event) => event.type === "member" && event.member.endpoint === "left");
    assert.ok(removed >= 0 && removed < added, "the end comes before what began");
    assert.ok(!ofType(events, "memberRemoved").some(({ endpoint }) => endpoint !== "left"));
  },

  "what has ended is told once": async ({ store }) => {
    await store.users.addFirstAdmin({ key: "root" });
    await store.users.add({ key: "again", role: "admin" });
    await store.rooms.create({ id: "room", owner: "owner" });
    await store.members.add("room", { endpoint: "left", state: "joined" });
    await using listener = new Listener(store);
    await listener.proved();
    await store.users.revoke("again");
    await store.users.reinstate("again");
    await store.members.remove("room", "left");
    await store.members.add("room", { endpoint: "left", state: "joined" });
    await listener.proved();
    await store.users.update("again", { name: "later" });
    await store.users.update("root", { expiresAt: new Date(4e12) });
    await store.members.add("room", { endpoint: "another", state: "joined" });
    await store.members.join("room", "left");
    await store.rooms.update("room", { owner: "left" });
    const events = await listener.proved();
    assert.ok(!ofType(events, "user").some(({ ended }) => ended), "no grant has ended");
    assert.deepEqual(ofType(events, "memberRemoved"), []);
    await knowsAll(listener, store);
  },

  "a room that is deleted is told once, for all that belonged to it, and one of its id is another": async ({
    store,
  }) => {
    await fill(store);
    await using listener = new Listener(store);
    await listener.proved();
    await store.members.remove("sealed", "joined 🦄");
    await store.rooms.delete("sealed");
    await store.rooms.create({ id: "sealed", owner: "owner", encrypted: true, sealedKey: bytes("new") });
    await store.members.add("sealed", { endpoint: "late" });
    await store.rooms.delete("plain");
    const events = await listener.proved();
    await knowsAll(listener, store);
    assert.deepEqual(
      ofType(events, "roomDeleted")
        .map(({ roomId }) => roomId)
        .sort(),
      ["plain", "sealed"],
    );
    const deleted = events.findIndex(({ type }) => type === "roomDeleted");
    assert.ok(deleted >= 0);
    assert.ok(!events.some((event) => event.type === "memberRemoved" && event.roomId === "plain"));
  },

  "without a snapshot only what changes is told": async ({ store }) => {
    await fill(store);
    await using listener = new Listener(store, { snapshot: false });
    assert.deepEqual(told(await listener.proved()), []);
    await store.users.add({ key: "new" });
    assert.deepEqual(
      ofType(await listener.proved(), "user").map(({ user }) => user.key),
      ["new"],
    );
  },

  "only what is asked for is told": async ({ store }) => {
    await fill(store);
    const types = async (options: WatchOptions): Promise<string[]> => {
      await using listener = new Listener(store, options);
      const events = await listener.proved();
      return [...new Set(events.map(({ type }) => type))].sort();
    };
    assert.deepEqual(await types({ kinds: ["users"] }), ["proved", "user"]);
    assert.deepEqual(await types({ kinds: ["rooms", "members"] }), ["member", "proved", "room"]);
    assert.deepEqual(await types({ kinds: ["roomKeys"] }), ["proved", "roomKey"]);
    await using ofOne = new Listener(store, { key: " ROOT " });
    await ofOne.proved();
    assert.deepEqual([[...ofOne.users.keys()], ofOne.rooms.size], [["root"], 0]);
    await using ofRoom = new Listener(store, { roomId: "sealed" });
    await ofRoom.proved();
    assert.deepEqual([[...ofRoom.rooms.keys()], ofRoom.users.size], [["sealed"], 0]);
    assert.equal(ofRoom.members.size, (await store.members.list("sealed")).length);
    await using ofNone = new Listener(store, { roomId: "not there", key: "nobody" });
    assert.deepEqual(told(await ofNone.proved()), []);
    await store.rooms.update("sealed", { name: "changed" });
    await store.rooms.update("plain", { name: "changed" });
    await store.users.update("root", { name: "changed" });
    await store.users.update("again", { name: "changed" });
    assert.deepEqual(
      ofType(await ofOne.proved(), "user").map(({ user }) => user.name),
      ["changed"],
    );
    assert.deepEqual(
      ofType(await ofRoom.proved(), "room").map(({ room }) => room.id),
      ["sealed"],
    );
    assert.deepEqual(told(await ofNone.proved()), []);
    await store.rooms.delete("sealed");
    assert.deepEqual(told(await ofRoom.proved()), ["roomDeleted"]);
  },

  "a break, a close, the signal and the store's close end it": async ({ store }) => {
    for await (const event of store.watch(OFTEN)) if (event.type === "proved") break;
    const watch = store.watch(OFTEN);
    const iterator = watch[Symbol.asyncIterator]();
    await iterator.next();
    const waiting = iterator.next();
    await watch.close();
    await watch.close();
    await waiting;
    assert.equal((await iterator.next()).done, true);

    const end = new AbortController();
    const signalled = store.watch({ ...OFTEN, signal: end.signal })[Symbol.asyncIterator]();
    await signalled.next();
    const reason = new Error("enough");
    end.abort(reason);
    const error = await refused("TIMEOUT", () => signalled.next(), "a watch whose signal aborts");
    assert.equal(error.cause, reason);
    assert.equal((await signalled.next()).done, true);
    const aborted = store.watch({ signal: end.signal })[Symbol.asyncIterator]();
    await refused("TIMEOUT", () => aborted.next(), "a watch whose signal has aborted");

    const last = store.watch({ proveEveryMs: 60_000 })[Symbol.asyncIterator]();
    for (let isProved = false; !isProved;) {
      const result = await last.next();
      isProved = result.done !== true && result.value.type === "proved";
    }
    const never = last.next();
    await store.close();
    assert.equal((await never).done, true);
    assert.equal((await last.next()).done, true);
    await refused("CLOSED", () => store.watch()[Symbol.asyncIterator]().next(), "a watch of a closed store");
  },

  "options that are malformed, or unknown, are refused at once": ({ store }) => {
    const bad: [unknown, string][] = [
      [{ kind: "users" }, "options.kind"],
      [{ kinds: ["user"] }, "options.kinds[0]"],
      [{ kinds: "users" }, "options.kinds"],
      [{ kinds: [] }, "options.kinds"],
      [{ proveEveryMs: 9 }, "options.proveEveryMs"],
      [{ snapshot: 1 }, "options.snapshot"],
      [{ roomId: "" }, "options.roomId"],
      [{ key: "a b" }, "options.key"],
      [{ signal: {} }, "options.signal"],
      [1, "options"],
    ];
    for (const [options, argument] of bad) {
      assert.throws(
        () => store.watch(options as WatchOptions),
        (error) => isStoreError(error) && error.code === "INVALID_ARGUMENT" && error.argument === argument,
      );
    }
    return Promise.resolve();
  },

  "two watches hear the same, each with copies of its own": async ({ store }) => {
    await fill(store);
    await using first = new Listener(store);
    await using second = new Listener(store, { snapshot: false });
    await Promise.all([first.proved(), second.proved()]);
    await store.users.update("root", { name: "both" });
    const [a] = ofType(await first.proved(), "user");
    const [b] = ofType(await second.proved(), "user");
    assert.deepEqual(a, b);
    assert.notEqual(a?.user.createdAt, b?.user.createdAt);
    a?.user.createdAt.setTime(0);
    assert.deepEqual(await store.users.get("root"), b?.user);
  },

  "a reader that comes late is told each record once, as it stands": async ({ store }) => {
    await store.users.addFirstAdmin({ key: "root" });
    await store.rooms.create({ id: "room", owner: "owner" });
    await using slow = new Listener(store);
    await using quick = new Listener(store, { snapshot: false });
    await slow.proved();
    await quick.proved();
    for (let i = 0; i < 5; i++) {
      await store.users.update("root", { name: String(i) });
      await store.rooms.update("room", { name: String(i) });
      await quick.proved();
    }
    const events = await slow.proved();
    assert.deepEqual(
      [ofType(events, "user").map(({ user }) => user.name), ofType(events, "room").map(({ room }) => room.name)],
      [["4"], ["4"]],
    );
    assert.deepEqual(await seen(store, "room"), await seen(store, "room"));
  },
};

export const watchCases = aloneCases("watch", steps);
