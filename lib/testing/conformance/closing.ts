import assert from "node:assert/strict";
import { aloneCases, bytes, cases, refused, text, together, unique } from "./case.js";
import { CHECKS, CHECK_NAMES, METHODS, METHOD_NAMES, withArgument, world } from "./methods.js";
import type { World } from "./methods.js";
import type { Store } from "../../store.js";

/** Every method says `CLOSED`, whatever its arguments, and every check denies. */
async function closed(store: Store, w: World): Promise<void> {
  await Promise.all(
    METHOD_NAMES.map(async (name) => {
      const method = METHODS[name];
      await refused("CLOSED", () => method.call(store, method.good(w)), name);
      await refused(
        "CLOSED",
        () => method.call(store, withArgument(method, method.good(w), "options.timeoutMs", 5000)),
        name,
      );
    }),
  );
  for (const name of CHECK_NAMES) assert.equal(await CHECKS[name].call(store, CHECKS[name].good(w)), false, name);
  const decision = await store.authorize(w.admin);
  assert.equal(decision.allowed, false);
  assert.equal(decision.reason, "closed");
}

export const closingCases = [
  ...cases("closing", {
    "a store says which backend it is": async ({ store }) => {
      text(store.backend);
      assert.equal(typeof store[Symbol.asyncDispose], "function");
      await Promise.resolve();
    },
  }),

  ...aloneCases("closing", {
    "every method of a closed store is CLOSED and every check is false": async ({ store }) => {
      const w = await world(store);
      for (const name of CHECK_NAMES)
        assert.equal(await CHECKS[name].call(store, CHECKS[name].good(w)), true, `${name} just before`);
      await store.close();
      await closed(store, w);
      await store.close();
      await closed(store, w);
    },

    "every method of a closing store is CLOSED and every check is false": async ({ store }) => {
      const w = await world(store);
      const inFlight = Array.from({ length: 5 }, () => store.rooms.create({ owner: "o" }));
      const settled = Promise.allSettled(inFlight);
      const closing = store.close();
      await closed(store, w);
      await closing;
      await settled;
      await closed(store, w);
    },

    "calls in flight settle, and what was acknowledged is there after opening again": async (context) => {
      const { store } = context;
      const w = await world(store);
      const ids = Array.from({ length: 30 }, () => unique("room"));
      const creating = together(
        ids.map((id) => () => store.rooms.create({ id, owner: "o", encrypted: true, sealedKey: bytes("k") })),
      );
      const reading = together(Array.from({ length: 10 }, () => () => store.members.list(w.room)));
      const checks = Promise.all(Array.from({ length: 10 }, () => store.isAuthorized(w.admin)));
      await store.close();
      const [created, read] = await Promise.all([creating, reading]);
      for (const answer of await checks) assert.equal(typeof answer, "boolean");
      for (const error of [...created.errors, ...read.errors]) {
        assert.ok(
          ["CLOSED", "UNAVAILABLE", "TIMEOUT"].includes(error.code),
          `a call in flight ended with ${error.code}`,
        );
      }
      const again = await context.reopened();
      if (again === store) return;
      for (const room of created.values) assert.deepEqual(await again.rooms.get(room.id), room);
      for (const [i, id] of ids.entries()) {
        if (created.each[i] !== undefined) continue;
        // Not acknowledged: whole or not at all.
        const there = await again.rooms.get(id).then(
          () => true,
          () => false,
        );
        if (there) assert.equal((await again.roomKeys.get(id, "o")).epoch, 1);
      }
    },

    "checks in flight settle while the store closes, and none of them allows who may not": async ({ store }) => {
      const w = await world(store);
      await store.users.revoke(w.member);
      const keys = Array.from({ length: 200 }, (_, i) =>
        i % 2 === 0 ? w.admin : i % 4 === 1 ? w.member : unique("key"),
      );
      const deciding = Promise.all(keys.map((key) => store.authorize(key)));
      const closing = store.close();
      const decisions = await deciding;
      await closing;
      for (const [i, decision] of decisions.entries()) {
        const honest = keys[i] === w.admin ? "active" : keys[i] === w.member ? "revoked" : "unknown";
        assert.ok([honest, "closed", "unavailable"].includes(decision.reason), `${honest}: ${decision.reason}`);
        assert.equal(decision.allowed, decision.reason === "active");
      }
      assert.deepEqual(new Set(await Promise.all(keys.map((key) => store.isAuthorized(key)))), new Set([false]));
    },

    "a store closes although calls ran out of time or were aborted": async ({ store }) => {
      const w = await world(store);
      for (let round = 0; round < 10; round++) {
        const signal = AbortSignal.timeout(round % 3);
        await Promise.allSettled([
          ...CHECK_NAMES.map((name) => CHECKS[name].call(store, [...CHECKS[name].good(w), { timeoutMs: 1 }])),
          ...CHECK_NAMES.map((name) => CHECKS[name].call(store, [...CHECKS[name].good(w), { signal }])),
          store.members.list(w.room, { timeoutMs: 1 }),
          store.users.get(w.member, { signal }),
          store.rooms.list({}, { timeoutMs: 1 }),
          store.rooms.update(w.room, { name: String(round) }, { timeoutMs: 1 }),
        ]);
      }
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<string>((resolve) => {
        timer = setTimeout(() => resolve("hangs"), 45_000);
      });
      assert.equal(await Promise.race([store.close().then(() => "closed"), late]), "closed");
      clearTimeout(timer);
    },

    "close is idempotent, also at once": async ({ store }) => {
      await Promise.all([store.close(), store.close(), store[Symbol.asyncDispose](), store.close()]);
      await store.close();
      await store[Symbol.asyncDispose]();
      await refused("CLOSED", () => store.rooms.list());
    },

    "await using closes": async ({ store }) => {
      await store.rooms.list();
      await store[Symbol.asyncDispose]();
      await refused("CLOSED", () => store.rooms.list());
      assert.equal(await store.hasAdmin(), false);
    },

    "a closed store leaves another one on the same data alone": async ({ store, other }) => {
      const another = await other();
      const w = await world(store);
      if (another === store) return;
      await another.close();
      assert.equal(await another.isAuthorized(w.admin), false);
      assert.equal(await store.isAuthorized(w.admin), true);
      await store.rooms.update(w.room, { name: "still here" });
    },
  }),
];
