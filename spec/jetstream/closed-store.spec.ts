// A store that is moved away from, or imported into, says so in each log that commits: from there on nothing is allowed
// and nothing acknowledged, whatever a store knew, and however long it was stopped. The version that moves stores comes
// later.

import { expect } from "chai";
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { openJetStream, type DecisionMessage, type Store } from "unibus-membership";
import { errorOf } from "../support/code-of.js";
import type { Connection } from "../support/nats-clients.js";
import { useServer } from "../support/use-server.js";
import { eventually } from "../support/wait.js";
import { fenced, isBarrier } from "./support/messages.js";
import { streamInfo, type Json } from "./support/streams.js";
import { recordAt, tokenOf } from "./support/format-1.js";
import { tapped, type Tap } from "./support/taps.js";

const opTimeoutMs = 20_000;
const MOVING = { state: "moving", to: "nats://there", since: Date.UTC(2026, 0, 2) };
const DETAILS = { movingTo: "nats://there", since: "2026-01-02T00:00:00.000Z" };

/** Records without which a check says no, and the check. */
const lateOnes: readonly {
  readonly name: string;
  readonly bucket: "users" | "rooms";
  readonly key: string;
  readonly check: (store: Store) => Promise<boolean>;
}[] = [
  {
    name: "isAuthorized",
    bucket: "users",
    key: `user.${tokenOf("amy")}`,
    check: (store) => store.isAuthorized("amy"),
  },
  { name: "hasAdmin", bucket: "users", key: "admins", check: (store) => store.hasAdmin() },
  {
    name: "isMember",
    bucket: "rooms",
    key: `room.${tokenOf("room")}`,
    check: (store) => store.isMember("room", "bob"),
  },
];

/** The same record, after everything that it grants was taken away. */
function withNobody(record: Json): Json {
  const { user } = record;
  if (typeof user === "object" && user !== null) return { ...record, user: { ...user, revokedAt: 1 } };
  return { ...record, ...("witnesses" in record ? { witnesses: [] } : { gone: true }) };
}

const isRefused = (answer: { readonly data: Uint8Array }): boolean =>
  Buffer.from(answer.data).toString().includes('"error"');

let cases = 0;
const newPrefix = (): string => `m${++cases}_`;

describe("jetstream: a store that is closed", function () {
  this.timeout(60_000);
  let connection: Connection;

  useServer((connected) => {
    connection = connected;
  });

  const open = (prefix: string, cacheBytes?: number, on: Connection = connection): Promise<Store> =>
    openJetStream(on, 1, { prefix, opTimeoutMs, ...(cacheBytes === undefined ? {} : { cacheBytes }) });

  async function say(prefix: string, state: Json, buckets: readonly string[] = ["users", "rooms"]): Promise<void> {
    for (const bucket of buckets) {
      await connection.request(`$KV.${prefix}${bucket}.store`, JSON.stringify({ k: "store", ...state }), {
        timeout: opTimeoutMs,
      });
    }
  }

  async function filled(prefix: string): Promise<void> {
    const store = await open(prefix);
    await store.users.addFirstAdmin({ key: "root" });
    await store.users.add({ key: "amy" });
    await store.users.add({ key: "cold" });
    await store.rooms.create({ id: "room", owner: "own", encrypted: true, sealedKey: Uint8Array.of(1) });
    await store.members.add("room", { endpoint: "bob", state: "joined" });
    await store.close();
  }

  const checksOf = (store: Store): Promise<boolean[]> =>
    Promise.all([
      store.isAuthorized("amy"),
      store.isAdmin("root"),
      store.hasAdmin(),
      store.isMember("room", "bob"),
      store.isMember("room", "own"),
    ]);

  const writes: Readonly<Record<string, (store: Store) => Promise<unknown>>> = {
    "users.add": (store) => store.users.add({ key: "new" }),
    "users.revoke": (store) => store.users.revoke("amy"),
    "users.add an admin": (store) => store.users.add({ key: "boss", role: "admin" }),
    "rooms.create": (store) => store.rooms.create({ id: "new", owner: "own" }),
    "rooms.update": (store) => store.rooms.update("room", { name: "n" }),
    "rooms.delete": (store) => store.rooms.delete("room"),
    "members.add": (store) => store.members.add("room", { endpoint: "new" }),
    "members.remove": (store) => store.members.remove("room", "bob"),
    "roomKeys.rekey": (store) =>
      store.roomKeys.rekey(
        "room",
        new Map([
          ["own", Uint8Array.of(2)],
          ["bob", Uint8Array.of(2)],
        ]),
        { expectedEpoch: 1 },
      ),
  };

  /** What would be refused, or would change nothing, where the store is open: elsewhere that may be otherwise. */
  const needless: typeof writes = {
    "users.reinstate who is active": (store) => store.users.reinstate("amy"),
    "users.update of nothing": (store) => store.users.update("amy", { role: "member" }),
    "users.revoke of nobody": (store) => store.users.revoke("nobody"),
    "users.addFirstAdmin again": (store) => store.users.addFirstAdmin({ key: "second" }),
    "rooms.create again": (store) => store.rooms.create({ id: "room", owner: "own" }),
    "rooms.update of nothing": (store) => store.rooms.update("room", { owner: "own" }),
    "rooms.update of none": (store) => store.rooms.update("none", { name: "n" }),
    "rooms.delete of none": (store) => store.rooms.delete("none"),
    "members.join again": (store) => store.members.join("room", "bob"),
    "members.add again": (store) => store.members.add("room", { endpoint: "bob" }),
    "members.remove of nobody": (store) => store.members.remove("room", "nobody"),
    "members.remove in none": (store) => store.members.remove("none", "bob"),
    "roomKeys.put for nobody": (store) => store.roomKeys.put("room", "nobody", 1, Uint8Array.of(2)),
    "roomKeys.put again": (store) => store.roomKeys.put("room", "own", 1, Uint8Array.of(2)),
    "roomKeys.rekey of another epoch": (store) => store.roomKeys.rekey("room", new Map(), { expectedEpoch: 7 }),
  };

  async function expectClosed(store: Store, details: Json = DETAILS): Promise<void> {
    expect(await checksOf(store)).to.deep.equal([false, false, false, false, false]);
    for (const key of ["amy", "cold", "nobody"]) {
      const decision = await store.authorize(key);
      expect(decision, key).to.include({ allowed: false, reason: "unavailable" });
    }
    for (const [name, write] of Object.entries({ ...writes, ...needless })) {
      const error = await errorOf(write(store));
      expect(`${name} ${error.code} ${error.outcome ?? ""}`).to.equal(`${name} UNAVAILABLE none`);
      expect(error.details, name).to.deep.equal(details);
    }
  }

  for (const rooms of ["importing", "open"])
    it(`an import that died when all was there, and rooms were ${rooms}, is ended by who opens next, once`, async () => {
      const prefix = newPrefix();
      await filled(prefix);
      const before = await open(prefix);
      await say(prefix, { state: "opening", id: "it", since: 0, floor: 7 }, ["users"]);
      await say(prefix, { state: rooms, id: "it", since: 0 }, ["rooms"]);
      expect((await checksOf(before)).slice(0, 3)).to.deep.equal([false, false, false]);
      const stores = await Promise.all([open(prefix), open(prefix)]);
      for (const store of [before, ...stores])
        expect(await checksOf(store)).to.deep.equal([true, true, true, true, true]);
      // The versions of users go on from where the import began them.
      expect(await recordAt(connection, `${prefix}users`, "store")).to.include({ state: "open", floor: 7 });
      await Promise.all([before, ...stores].map((store) => store.close()));
    });

  for (const [what, cacheBytes] of [
    ["", undefined],
    [", without memory for what was read", 0],
  ] as const) {
    it(`denies and refuses at once, in stores that are open${what}, and works again when it is opened again`, async () => {
      const prefix = newPrefix();
      await filled(prefix);
      const stores = await Promise.all([open(prefix, cacheBytes), open(prefix, cacheBytes)]);
      // One has read everything, the other nothing.
      for (const store of stores.slice(0, 1))
        expect(await checksOf(store)).to.deep.equal([true, true, true, true, true]);
      await say(prefix, MOVING);
      for (const store of stores) await expectClosed(store);
      await say(prefix, { state: "open" });
      for (const store of stores) expect(await checksOf(store)).to.deep.equal([true, true, true, true, true]);
      await Promise.all(stores.map((store) => store.users.update("amy", { name: "Amy" })));
      await Promise.all(stores.map((store) => store.close()));
    });
  }

  it("what is told of its denials rests on no proof", async () => {
    const prefix = newPrefix();
    await filled(prefix);
    const store = await open(prefix);
    expect(await checksOf(store)).to.deep.equal([true, true, true, true, true]);
    await say(prefix, MOVING);
    const told: DecisionMessage[] = [];
    const listener = (message: unknown): void => void told.push(message as DecisionMessage);
    subscribe("unibus-membership:decision", listener);
    try {
      await checksOf(store);
    } finally {
      unsubscribe("unibus-membership:decision", listener);
      await store.close();
    }
    expect(told.map(({ reason, proof }) => [reason, proof])).to.deep.equal(told.map(() => ["unavailable", undefined]));
    expect(told.length).to.equal(5);
  });

  it("a store that opens meanwhile denies and refuses, and stages and clears away nothing", async () => {
    const prefix = newPrefix();
    await filled(prefix);
    const stray = `${tokenOf("stray")}.${tokenOf("nowhere")}.i.m`;
    await connection.request(`$KV.${prefix}rooms_by_member.${stray}`, JSON.stringify({ k: stray }));
    await say(prefix, { ...MOVING, state: "importing" });
    const store = await open(prefix);
    await expectClosed(store);
    expect(await recordAt(connection, `${prefix}rooms_by_member`, stray)).to.deep.equal({ k: stray });
    expect(await recordAt(connection, `${prefix}rooms`, `room.${tokenOf("nowhere")}`)).to.equal(undefined);
    await store.close();
  });

  it("what this version does not know is no permission", async () => {
    const prefix = newPrefix();
    await filled(prefix);
    const store = await open(prefix);
    await say(prefix, { state: "of a later version" });
    await expectClosed(store, { movingTo: "", since: "" });
    await store.close();
  });

  it("one that was moved is not opened: it says where to", async () => {
    const prefix = newPrefix();
    await filled(prefix);
    await say(prefix, { state: "moved", to: "nats://there" });
    const error = await errorOf(open(prefix));
    expect(error.code).to.equal("INCOMPATIBLE");
    expect(error.details).to.deep.equal({ movedTo: "nats://there" });
  });

  /**
   * Holds the messages that `isHeld`, with what a store that does not wait for ever says again, until they are let go.
   */
  function holding(isHeld: (subject: string) => boolean): {
    tap: Connection;
    reached: Promise<void>;
    letGo: () => void;
  } {
    let reach: () => void = () => undefined;
    let letGo: () => void = () => undefined;
    const reached = new Promise<void>((resolve) => {
      reach = resolve;
    });
    const released = new Promise<void>((resolve) => {
      letGo = resolve;
    });
    const request: Tap = async (send, ...asked) => {
      if (isHeld(asked[0])) {
        reach();
        await released;
      }
      return send(...asked);
    };
    return {
      tap: tapped(connection, { request }),
      reached,
      letGo: () => {
        letGo();
      },
    };
  }

  const commits: readonly {
    name: string;
    subject: (prefix: string) => string;
    key: string;
    bucket: "users" | "rooms" | "room_keys";
  }[] = [
    {
      name: "users.add",
      subject: (prefix) => `$KV.${prefix}users.user.${tokenOf("new")}`,
      key: `user.${tokenOf("new")}`,
      bucket: "users",
    },
    {
      name: "users.revoke",
      subject: (prefix) => `$KV.${prefix}users.user.${tokenOf("amy")}`,
      key: `user.${tokenOf("amy")}`,
      bucket: "users",
    },
    { name: "users.add an admin", subject: (prefix) => `$KV.${prefix}users.admins`, key: "admins", bucket: "users" },
    {
      name: "rooms.create",
      subject: (prefix) => `$KV.${prefix}rooms.room.${tokenOf("new")}`,
      key: `room.${tokenOf("new")}`,
      bucket: "rooms",
    },
    {
      name: "members.add",
      subject: (prefix) => `$KV.${prefix}rooms.room.${tokenOf("room")}`,
      key: `room.${tokenOf("room")}`,
      bucket: "rooms",
    },
    {
      name: "rooms.delete",
      subject: (prefix) => `$KV.${prefix}rooms.room.${tokenOf("room")}`,
      key: `room.${tokenOf("room")}`,
      bucket: "rooms",
    },
  ];

  for (const { name, subject, bucket, key } of commits) {
    it(`${name} of a store that was stopped before its commit, and wakes, is not acknowledged`, async () => {
      const prefix = newPrefix();
      await filled(prefix);
      const { tap, reached, letGo } = holding((of) => of === subject(prefix));
      const store = await open(prefix, undefined, tap);
      const before = await streamInfo(connection, prefix + bucket);
      const write = writes[name]?.(store) ?? Promise.resolve();
      const ended = errorOf(write);
      await reached;
      await say(prefix, MOVING);
      letGo();
      const error = await ended;
      expect(`${error.code} ${error.outcome ?? ""}`).to.equal("UNAVAILABLE unknown");
      expect(error.details).to.deep.equal(DETAILS);
      // It is stored, behind what closes the store: whoever copies the log leaves it out.
      expect((await streamInfo(connection, prefix + bucket)).state.last_seq).to.be.greaterThan(
        before.state.last_seq + 1,
      );
      expect(await recordAt(connection, prefix + bucket, key)).to.not.equal(undefined);
      await store.close();
    });
  }

  it("a key that was put by a store which was stopped is not acknowledged", async () => {
    const prefix = newPrefix();
    await filled(prefix);
    const { tap, reached, letGo } = holding((of) => of.startsWith(`$KV.${prefix}room_keys.key.`));
    const store = await open(prefix, undefined, tap);
    const ended = errorOf(store.roomKeys.put("room", "bob", 1, Uint8Array.of(7)));
    await reached;
    await say(prefix, MOVING);
    letGo();
    expect(await ended).to.include({ code: "UNAVAILABLE", outcome: "unknown" });
    await store.close();
  });

  for (const [what, cacheBytes] of [
    ["that has read everything", undefined],
    ["that keeps nothing", 0],
  ] as const) {
    it(`checks of a store ${what}, which was stopped before its barriers, deny when it wakes`, async () => {
      const prefix = newPrefix();
      await filled(prefix);
      let isStopped = false;
      const held: (() => void)[] = [];
      const tap = tapped(connection, {
        request: async (send, ...asked) => {
          if (isStopped && isBarrier(asked[0])) await new Promise<void>((resolve) => held.push(resolve));
          return send(...asked);
        },
      });
      const store = await open(prefix, cacheBytes, tap);
      expect(await checksOf(store)).to.deep.equal([true, true, true, true, true]);
      isStopped = true;
      const checks = checksOf(store);
      await eventually("the checks have come to their barriers", () => held.length >= 2);
      await say(prefix, MOVING);
      isStopped = false;
      for (const resolve of held) resolve();
      expect(await checks).to.deep.equal([false, false, false, false, false]);
      await store.close();
    });
  }

  // Whoever fills a store may find out last that somebody was revoked. A check that rests on what stood before says
  // nothing of that.
  for (const { name, bucket, key, check } of lateOnes) {
    it(`${name}: what was proved while the store was closed is no answer once it is open`, async () => {
      const prefix = newPrefix();
      await filled(prefix);
      await say(prefix, { ...MOVING, state: "importing" });
      const proved = `$KV.${prefix}${bucket}.${key}`;
      const other = `${bucket === "users" ? "user" : "room"}.${tokenOf("other")}`;
      let isDone = false;
      const tap = tapped(connection, {
        request: async (send, ...args) => {
          const isFence = !isDone && fenced(args[0], args[2]) === proved;
          // Another's record stands before the fence, so that the store has to read what came since.
          if (isFence) await connection.request(`$KV.${prefix}${bucket}.${other}`, JSON.stringify({ k: other }));
          const answer = await send(...args);
          if (!isFence || isRefused(answer)) return answer;
          isDone = true;
          const value = await recordAt(connection, prefix + bucket, key);
          await connection.request(proved, JSON.stringify({ k: key, ...withNobody(value ?? {}) }));
          await say(prefix, { state: "open" });
          return answer;
        },
      });
      const store = await open(prefix, undefined, tap);
      expect(await check(store)).to.equal(false);
      expect(isDone, "the record was fenced").to.equal(true);
      await store.close();
    });
  }

  it("a write that landed while the store was closed is not acknowledged once it is open", async () => {
    const prefix = newPrefix();
    await filled(prefix);
    const subject = `$KV.${prefix}users.user.${tokenOf("new")}`;
    const tap = tapped(connection, {
      request: async (send, ...args) => {
        if (args[0] !== subject) return send(...args);
        await say(prefix, MOVING);
        const answer = await send(...args);
        await say(prefix, { state: "open" });
        return answer;
      },
    });
    const store = await open(prefix, undefined, tap);
    const error = await errorOf(store.users.add({ key: "new" }));
    expect(`${error.code} ${error.outcome ?? ""}`).to.equal("UNAVAILABLE unknown");
    expect(await store.isAuthorized("new")).to.equal(true);
    await store.close();
  });

  it("a store that only writes finds out that it is open again", async () => {
    const prefix = newPrefix();
    await filled(prefix);
    await say(prefix, MOVING);
    const store = await open(prefix);
    expect(await errorOf(store.users.add({ key: "new" }))).to.include({ code: "UNAVAILABLE", outcome: "none" });
    await say(prefix, { state: "open" });
    expect(await store.users.add({ key: "new" })).to.include({ key: "new" });
    await store.close();
  });

  it("no key is put into a store that is known to be closed", async () => {
    const prefix = newPrefix();
    await filled(prefix);
    await say(prefix, { ...MOVING, state: "importing" });
    const store = await open(prefix);
    const before = await streamInfo(connection, `${prefix}room_keys`);
    const error = await errorOf(store.roomKeys.put("room", "bob", 1, Uint8Array.of(7)));
    expect(`${error.code} ${error.outcome ?? ""}`).to.equal("UNAVAILABLE none");
    expect((await streamInfo(connection, `${prefix}room_keys`)).state.messages).to.equal(before.state.messages);
    await store.close();
  });
});
