import assert from "node:assert/strict";
import {
  Revisions,
  aloneCases,
  alternating,
  atOnce,
  cases,
  oneWinner,
  recent,
  refused,
  settled,
  sleep,
  together,
  unique,
  walk,
} from "./case.js";
import type { CheckOptions, Store } from "../../store.js";

const soon = (ms: number): Date => new Date(Date.now() + ms);
const past = (): Date => new Date(Date.now() - 1000);

async function denial(store: Store, key: string): Promise<string> {
  const decision = await store.authorize(key);
  assert.equal(decision.allowed, false);
  assert.equal(await store.isAuthorized(key), false);
  assert.equal(await store.isAdmin(key), false);
  return decision.reason;
}

async function allowed(store: Store, key: string, role: "admin" | "member"): Promise<void> {
  const decision = await store.authorize(key);
  assert.equal(decision.allowed, true, decision.reason);
  await settled(async () => {
    const { proof, ...rest } = decision;
    assert.deepEqual(rest, { allowed: true, reason: "active", user: await store.users.get(key) });
    assert.ok(proof === undefined || proof.staleMs >= 0, "a proof has an age");
  });
  assert.equal(await store.isAuthorized(key), true);
  assert.equal(await store.isAdmin(key), role === "admin");
}

export const userCases = [
  ...cases("users", {
    "a user is an active member by default and comes in": async ({ store, other }) => {
      const key = unique("key");
      assert.equal(await denial(store, key), "unknown");
      const user = await store.users.add({ key });
      const { createdAt, revision } = user;
      assert.deepEqual(user, { key, role: "member", status: "active", name: "", createdAt, revision });
      recent(createdAt, "createdAt");
      for (const each of [store, await other()]) {
        assert.deepEqual(await each.users.get(key), user);
        await allowed(each, key, "member");
      }
    },

    "a user has what was given": async ({ store }) => {
      const key = unique("key");
      const expiresAt = new Date("2999-12-31T23:59:59.999Z");
      const user = await store.users.add({ key, role: "admin", name: "Ærø 🦄", expiresAt });
      assert.deepEqual(
        { ...user, createdAt: 0, revision: "" },
        {
          key,
          role: "admin",
          status: "active",
          name: "Ærø 🦄",
          createdAt: 0,
          expiresAt,
          revision: "",
        },
      );
      assert.deepEqual(await store.users.get(key), user);
      await allowed(store, key, "admin");
    },

    "only an admin passes the admin gate": async ({ store }) => {
      const [admin, member] = [unique("admin"), unique("member")];
      await store.users.add({ key: admin, role: "admin" });
      await store.users.add({ key: member });
      assert.equal(await store.isAdmin(admin), true);
      assert.equal(await store.isAdmin(member), false);
      assert.equal(await store.isAuthorized(member), true);
      assert.equal(await store.isAdmin(unique("nobody")), false);
      assert.equal(await store.hasAdmin(), true);
    },

    "keys are trimmed and folded by ASCII rules": async ({ store }) => {
      const key = unique("key");
      const user = await store.users.add({ key: ` \t${key.toUpperCase()}\r\n` });
      assert.equal(user.key, key);
      for (const form of [key, key.toUpperCase(), ` ${key} `, `\n${key.slice(0, 5).toUpperCase()}${key.slice(5)}\t`]) {
        assert.equal((await store.users.get(form)).key, key);
        assert.equal(await store.isAuthorized(form), true);
        await refused("ALREADY_EXISTS", () => store.users.add({ key: form }));
        assert.equal((await store.users.update(form, { name: form.trim() })).key, key);
      }
      await store.users.revoke(key.toUpperCase());
      assert.equal(await denial(store, key), "revoked");
      await store.users.reinstate(` ${key.toUpperCase()}`);
      await allowed(store, key, "member");
    },

    "a duplicate is ALREADY_EXISTS and the first user stays as it was": async ({ store }) => {
      const key = unique("key");
      const expiresAt = soon(3_600_000);
      const first = await store.users.add({ key, name: "first", expiresAt });
      await refused("ALREADY_EXISTS", () => store.users.add({ key }));
      await refused("ALREADY_EXISTS", () => store.users.add({ key: key.toUpperCase(), role: "admin", name: "second" }));
      assert.deepEqual(await store.users.get(key), first);
      const revoked = await store.users.revoke(key);
      await refused("ALREADY_EXISTS", () => store.users.add({ key, role: "admin" }), "a revoked user is there too");
      assert.deepEqual(await store.users.get(key), revoked);
      assert.equal(await denial(store, key), "revoked");
    },

    "a revoked user is denied, and reinstated comes in again": async ({ store, other }) => {
      const key = unique("key");
      const another = await other();
      const first = await store.users.add({ key, name: "n" });
      const revoked = await store.users.revoke(key);
      const { revokedAt, revision } = revoked;
      assert.ok(revokedAt !== undefined);
      recent(revokedAt, "revokedAt");
      assert.deepEqual(revoked, { ...first, status: "revoked", revokedAt, revision });
      for (const each of [store, another]) {
        assert.equal(await denial(each, key), "revoked");
        await settled(async () => {
          assert.deepEqual(await each.users.get(key), revoked);
        });
      }
      const again = await another.users.reinstate(key);
      assert.deepEqual(again, { ...first, revision: again.revision });
      for (const each of [store, another]) await allowed(each, key, "member");
    },

    "revoked and reinstated again and again, a user is each time what he was, and nothing more is seen": async ({
      store,
      other,
    }) => {
      const key = unique("key");
      const another = await other();
      const first = await store.users.add({ key, name: "n", expiresAt: soon(3_600_000) });
      const revisions = new Revisions(first.revision);
      for (let round = 0; round < 4; round++) {
        const [one, two] = round % 2 === 0 ? [store, another] : [another, store];
        const revoked = await one.users.revoke(key);
        revisions.changed(revoked.revision, "revoked");
        assert.equal(await two.isAuthorized(key), false, "between two grants");
        const again = await two.users.reinstate(key);
        revisions.changed(again.revision, "reinstated");
        // How often something was taken away is nobody's field.
        assert.deepEqual(again, { ...first, revision: again.revision });
        for (const each of [one, two]) await allowed(each, key, "member");
      }
      const listed = (await walk((page) => another.users.list(page))).filter((user) => user.key === key);
      assert.deepEqual(listed, [await another.users.get(key)]);
    },

    "of a thousand and twenty-four keys at once each is answered as it is": async ({ store, other }) => {
      const another = await other();
      const keys = Array.from({ length: 1024 }, () => unique("key"));
      const kindOf = (i: number): "active" | "revoked" | "unknown" =>
        i % 4 === 0 ? "unknown" : i % 4 === 1 ? "revoked" : "active";
      await atOnce(keys, async (key, i) => {
        if (kindOf(i) !== "unknown") await store.users.add({ key });
        if (kindOf(i) === "revoked") await store.users.revoke(key);
      });
      // Each store once when it has read none of them, and once when it has.
      for (const each of [another, store, another]) {
        assert.deepEqual(
          (await Promise.all(keys.map((key) => each.authorize(key)))).map(({ reason }) => reason),
          keys.map((_, i) => kindOf(i)),
        );
        assert.deepEqual(
          await Promise.all(keys.map((key) => each.isAuthorized(key))),
          keys.map((_, i) => kindOf(i) === "active"),
        );
      }
    },

    "revoke and reinstate are idempotent": async ({ store }) => {
      const key = unique("key");
      const first = await store.users.add({ key });
      assert.deepEqual(await store.users.reinstate(key), first);
      const revoked = await store.users.revoke(key);
      await sleep(5);
      assert.deepEqual(await store.users.revoke(key), revoked);
      assert.deepEqual(await store.users.get(key), revoked);
      const again = await store.users.reinstate(key);
      assert.deepEqual(await store.users.reinstate(key), again);
      assert.deepEqual(await store.users.get(key), again);
    },

    "an expired user is denied from that instant on, until the time is put off": async ({ store }) => {
      const key = unique("key");
      const user = await store.users.add({ key, role: "admin", expiresAt: past() });
      assert.equal(user.status, "active", "expiry is no status");
      assert.equal(await denial(store, key), "expired");
      const later = await store.users.update(key, { expiresAt: soon(60_000) });
      assert.ok(later.expiresAt !== undefined);
      await allowed(store, key, "admin");
      await store.users.update(key, { expiresAt: past() });
      assert.equal(await denial(store, key), "expired");
      const never = await store.users.update(key, { expiresAt: null });
      assert.ok(!("expiresAt" in never));
      await allowed(store, key, "admin");
      await store.users.update(key, { expiresAt: soon(400) });
      await allowed(store, key, "admin");
      await sleep(500);
      assert.equal(await denial(store, key), "expired");
      await store.users.add({ key: unique("admin"), role: "admin" });
      await store.users.revoke(key);
      assert.equal(await denial(store, key), "revoked");
      await store.users.reinstate(key);
      assert.equal(await denial(store, key), "expired", "reinstating does not put the time off");
    },

    "update changes what it names and nothing else": async ({ store, other }) => {
      const key = unique("key");
      const another = await other();
      const expiresAt = soon(3_600_000);
      const first = await store.users.add({ key, name: "a", expiresAt });
      const named = await store.users.update(key, { name: "b" });
      assert.deepEqual(named, { ...first, name: "b", revision: named.revision });
      const admin = await another.users.update(key, { role: "admin" });
      assert.deepEqual(admin, { ...named, role: "admin", revision: admin.revision });
      assert.equal(await store.isAdmin(key), true);
      assert.equal(await another.isAdmin(key), true);
      await store.users.add({ key: unique("admin"), role: "admin" });
      const member = await store.users.update(key, { role: "member", name: "" });
      assert.deepEqual(member, { ...admin, role: "member", name: "", revision: member.revision });
      assert.equal(await store.isAdmin(key), false);
      assert.equal(await another.isAdmin(key), false);
      assert.equal(await another.isAuthorized(key), true);
      const revoked = await store.users.revoke(key);
      const renamed = await store.users.update(key, { name: "r" });
      assert.deepEqual(renamed, { ...revoked, name: "r", revision: renamed.revision });
      assert.equal(await denial(store, key), "revoked");
    },

    "update with ifRevision wants that very revision": async ({ store }) => {
      const key = unique("key");
      const first = await store.users.add({ key });
      const second = await store.users.update(key, { name: "two" }, { ifRevision: first.revision });
      await refused("CONFLICT", () => store.users.update(key, { name: "three" }, { ifRevision: first.revision }));
      await refused(
        "CONFLICT",
        () => store.users.update(key, { name: "two" }, { ifRevision: first.revision }),
        "a change of nothing",
      );
      await refused("CONFLICT", () => store.users.update(key, {}, { ifRevision: "no such revision" }));
      assert.deepEqual(await store.users.get(key), second);
      await store.users.revoke(key);
      await refused("CONFLICT", () => store.users.update(key, { role: "admin" }, { ifRevision: second.revision }));
      assert.equal((await store.users.get(key)).role, "member");
    },

    "a user's revision changes exactly when the user does": async ({ store }) => {
      const key = unique("key");
      const expiresAt = soon(3_600_000);
      const revisions = new Revisions((await store.users.add({ key })).revision);
      const now = async (): Promise<string> => (await store.users.get(key)).revision;
      const changes: readonly (readonly [string, () => Promise<unknown>])[] = [
        ["name", () => store.users.update(key, { name: "x" })],
        ["name back", () => store.users.update(key, { name: "" })],
        ["expiry", () => store.users.update(key, { expiresAt })],
        ["role", () => store.users.update(key, { role: "admin" })],
        ["no expiry", () => store.users.update(key, { expiresAt: null })],
        ["role back", () => store.users.update(key, { role: "member" })],
        ["revoke", () => store.users.revoke(key)],
        ["reinstate", () => store.users.reinstate(key)],
        ["revoke again", () => store.users.revoke(key)],
      ];
      await store.users.add({ key: unique("admin"), role: "admin" });
      for (const [change, run] of changes) {
        await run();
        revisions.changed(await now(), change);
        const { name, role, status } = await store.users.get(key);
        const expiry = (await store.users.get(key)).expiresAt ?? null;
        await store.users.update(key, {});
        await store.users.update(key, { name, role, expiresAt: expiry });
        await (status === "active" ? store.users.reinstate(key) : store.users.revoke(key));
        await refused("ALREADY_EXISTS", () => store.users.add({ key }));
        await store.isAuthorized(key);
        revisions.kept(await now(), `nothing, after ${change}`);
      }
    },

    "demotion takes the gate away at once, on every store": async ({ store, other }) => {
      const another = await other();
      const key = unique("key");
      await store.users.add({ key: unique("admin"), role: "admin" });
      await store.users.add({ key });
      for (let round = 0; round < 10; round++) {
        const [first, second] = round % 2 === 0 ? [store, another] : [another, store];
        await first.users.update(key, { role: "admin" });
        assert.equal(await second.isAdmin(key), true, "a grant is seen");
        await first.users.update(key, { role: "member" });
        assert.equal(await second.isAdmin(key), false, "what was taken away is gone");
        assert.equal(await first.isAdmin(key), false);
        await first.users.revoke(key);
        assert.equal(await second.isAuthorized(key), false);
        assert.equal(await first.isAuthorized(key), false);
        await first.users.reinstate(key);
        assert.equal(await second.isAuthorized(key), true);
      }
    },
  }),

  ...aloneCases("first and last admin", {
    "a new store has no admin and nobody in it": async ({ store }) => {
      assert.equal(await store.hasAdmin(), false);
      assert.deepEqual(await store.users.list(), { items: [] });
      assert.deepEqual(await store.rooms.list(), { items: [] });
      assert.equal(await store.isAuthorized("somebody"), false);
    },

    "the first admin is added once for all time": async (context) => {
      const { store } = context;
      const user = await store.users.addFirstAdmin({ key: "  ABC\n", name: "root" });
      const { createdAt, revision } = user;
      assert.deepEqual(user, { key: "abc", role: "admin", status: "active", name: "root", createdAt, revision });
      await allowed(store, "abc", "admin");
      assert.equal(await store.hasAdmin(), true);
      assert.equal(await (await context.other()).hasAdmin(), true);
      await refused("CONFLICT", () => store.users.addFirstAdmin({ key: "abc" }), "the same key");
      await refused("CONFLICT", () => store.users.addFirstAdmin({ key: "def" }));
      assert.deepEqual((await store.users.list()).items, [user]);
      const again = await context.reopened();
      await refused("CONFLICT", () => again.users.addFirstAdmin({ key: "ghi" }), "after opening again");
      assert.equal(await again.hasAdmin(), true);
    },

    "of ten first admins at once one wins and the others are told CONFLICT": async ({ store, other }) => {
      const stores = [store, await other()] as const;
      const winner = oneWinner(
        await alternating(stores, 10, (each, i) => each.users.addFirstAdmin({ key: `k${String(i)}` })),
        "CONFLICT",
      );
      assert.deepEqual((await store.users.list()).items, [winner]);
      assert.equal(await store.hasAdmin(), true);
      await allowed(store, winner.key, "admin");
    },

    "of ten first admins of one key at once one wins and the others are told CONFLICT": async ({ store, other }) => {
      const stores = [store, await other()] as const;
      const winner = oneWinner(
        await alternating(stores, 10, (each, i) => each.users.addFirstAdmin({ key: "same", name: String(i) })),
        "CONFLICT",
      );
      assert.deepEqual((await store.users.list()).items, [winner]);
    },

    "a first admin whose key is a member's is ALREADY_EXISTS, and the chance stays": async ({ store }) => {
      const member = await store.users.add({ key: "m" });
      await refused("ALREADY_EXISTS", () => store.users.addFirstAdmin({ key: "M" }));
      assert.deepEqual(await store.users.get("m"), member);
      assert.equal(await store.hasAdmin(), false);
      assert.equal((await store.users.addFirstAdmin({ key: "n" })).role, "admin");
    },

    "a revoked member's key is ALREADY_EXISTS for the first admin too": async ({ store }) => {
      await store.users.add({ key: "m" });
      await store.users.revoke("m");
      await refused("ALREADY_EXISTS", () => store.users.addFirstAdmin({ key: "m" }));
      assert.equal(await store.isAuthorized("m"), false);
    },

    "an admin added in the ordinary way ends the chance, expired or not": async ({ store }) => {
      await store.users.add({ key: "expired", role: "admin", expiresAt: past() });
      assert.equal(await store.hasAdmin(), false, "an expired admin is none");
      await refused("CONFLICT", () => store.users.addFirstAdmin({ key: "first" }));
      await refused("NOT_FOUND", () => store.users.get("first"));
    },

    "a member who became an admin ends the chance, also once demoted and after opening again": async (context) => {
      const { store } = context;
      await store.users.add({ key: "m" });
      await store.users.update("m", { role: "admin", expiresAt: past() });
      await store.users.update("m", { role: "member", expiresAt: null });
      assert.equal(await store.hasAdmin(), false);
      await refused("CONFLICT", () => store.users.addFirstAdmin({ key: "first" }));
      await refused("CONFLICT", () => store.users.addFirstAdmin({ key: "m" }));
      const again = await context.reopened();
      await refused("CONFLICT", () => again.users.addFirstAdmin({ key: "first" }));
      assert.equal(await again.hasAdmin(), false);
    },

    "a first admin beside an ordinary one at once": async ({ store, other }) => {
      const another = await other();
      const outcomes = await together([
        () => store.users.addFirstAdmin({ key: "first" }),
        () => another.users.add({ key: "second", role: "admin" }),
      ]);
      for (const error of outcomes.errors) assert.equal(error.code, "CONFLICT");
      assert.equal((await store.users.get("second")).role, "admin", "an ordinary add is never refused for that");
      assert.equal(await store.hasAdmin(), true);
      await refused("CONFLICT", () => another.users.addFirstAdmin({ key: "third" }));
    },

    "the last active admin can be neither revoked nor demoted": async ({ store, other }) => {
      const first = await store.users.addFirstAdmin({ key: "a" });
      await store.users.add({ key: "m" });
      const another = await other();
      await refused("CONFLICT", () => store.users.revoke("A"));
      await refused("CONFLICT", () => another.users.update("a", { role: "member" }));
      await refused("CONFLICT", () => store.users.update("a", { role: "member", name: "x" }));
      assert.deepEqual(await store.users.get("a"), first);
      assert.equal((await store.users.update("a", { name: "x", role: "admin" })).name, "x");
      await store.users.add({ key: "b", role: "admin" });
      await store.users.revoke("a");
      assert.equal(await store.hasAdmin(), true);
      await refused("CONFLICT", () => another.users.revoke("b"), "a revoked admin does not count");
      await refused("CONFLICT", () => store.users.update("b", { role: "member" }));
      assert.equal(
        (await store.users.update("a", { role: "member" })).role,
        "member",
        "a revoked admin can be demoted",
      );
      await store.users.reinstate("a");
      await refused("CONFLICT", () => store.users.revoke("b"), "a member does not count");
      await store.users.update("m", { role: "admin" });
      assert.equal((await store.users.update("b", { role: "member" })).role, "member");
      assert.equal(await store.hasAdmin(), true);
      assert.equal(await another.hasAdmin(), true);
    },

    "a reinstated admin is one again": async ({ store }) => {
      await store.users.addFirstAdmin({ key: "a" });
      await store.users.add({ key: "b", role: "admin" });
      await store.users.revoke("b");
      assert.equal(await store.isAdmin("b"), false);
      await store.users.reinstate("b");
      assert.equal(await store.isAdmin("b"), true);
      await store.users.revoke("a");
      await refused("CONFLICT", () => store.users.revoke("b"));
      assert.equal(await store.hasAdmin(), true);
    },

    "an expired admin is no active one": async ({ store }) => {
      await store.users.addFirstAdmin({ key: "a" });
      await store.users.add({ key: "b", role: "admin", expiresAt: past() });
      await store.users.add({ key: "c", role: "admin", expiresAt: past() });
      await refused("CONFLICT", () => store.users.revoke("a"), "the last one whose time has not run out");
      await refused("CONFLICT", () => store.users.update("a", { role: "member" }));
      assert.equal((await store.users.revoke("b")).status, "revoked", "an expired one can go");
      assert.equal((await store.users.update("c", { role: "member" })).role, "member", "an expired one can be demoted");
      await refused("CONFLICT", () => store.users.revoke("a"));
      await store.users.update("c", { role: "admin", expiresAt: soon(60_000) });
      assert.equal((await store.users.revoke("a")).status, "revoked", "one with time left counts");
      assert.equal(await store.hasAdmin(), true);
    },

    "expiry can leave no admin, and one put off is one again": async ({ store, other }) => {
      const another = await other();
      await store.users.addFirstAdmin({ key: "a" });
      await store.users.update("a", { expiresAt: soon(400) });
      assert.equal(await store.hasAdmin(), true);
      assert.equal(await another.hasAdmin(), true);
      await sleep(500);
      assert.equal(await store.hasAdmin(), false);
      assert.equal(await another.hasAdmin(), false);
      await refused("CONFLICT", () => store.users.addFirstAdmin({ key: "b" }), "once for all time");
      await store.users.update("a", { expiresAt: null });
      assert.equal(await store.hasAdmin(), true);
      assert.equal(await another.hasAdmin(), true);
    },

    "hasAdmin sees the one with time left behind many that expired": async ({ store }) => {
      await store.users.addFirstAdmin({ key: "a" });
      for (let i = 0; i < 20; i++) await store.users.add({ key: `x${String(i)}`, role: "admin", expiresAt: past() });
      await store.users.add({ key: "b", role: "admin", expiresAt: soon(60_000) });
      await store.users.update("a", { expiresAt: past() });
      assert.equal(await store.hasAdmin(), true);
      await refused("CONFLICT", () => store.users.revoke("b"));
      await store.users.update("b", { expiresAt: past() });
      assert.equal(await store.hasAdmin(), false);
    },

    "two admins who revoke each other at once do not both succeed": async ({ store, other }) => {
      const another = await other();
      await store.users.addFirstAdmin({ key: "a" });
      await store.users.add({ key: "b", role: "admin" });
      for (let round = 0; round < 10; round++) {
        const outcomes = await together([() => store.users.revoke("a"), () => another.users.revoke("b")]);
        oneWinner(outcomes, "CONFLICT");
        assert.equal(await store.hasAdmin(), true);
        assert.equal(await another.hasAdmin(), true);
        await store.users.reinstate("a");
        await store.users.reinstate("b");
      }
    },

    "checks that take a proof of before answer the same, and see at once what their own store did": async ({
      store,
    }) => {
      const old = { maxStalenessMs: 60_000 };
      const answers = async (options?: CheckOptions): Promise<boolean[]> => [
        await store.isAuthorized("a", options),
        await store.isAuthorized("b", options),
        await store.isAdmin("a", options),
        await store.isAdmin("b", options),
        await store.isMember("room", "owner", options),
        await store.isMember("room", "guest", options),
        await store.hasAdmin(options),
        (await store.authorize("b", options)).allowed,
      ];
      const same = async (...expected: boolean[]): Promise<void> => {
        // Twice: what one check proved, the next can rest on.
        for (const options of [old, old, undefined, { maxStalenessMs: 0 }])
          assert.deepEqual(await answers(options), expected);
      };
      await store.users.addFirstAdmin({ key: "a" });
      await store.users.add({ key: "b" });
      await store.rooms.create({ id: "room", owner: "owner" });
      await store.members.add("room", { endpoint: "guest", state: "joined" });
      await same(true, true, true, false, true, true, true, true);
      await store.users.revoke("b");
      await store.members.remove("room", "guest");
      await same(true, false, true, false, true, false, true, false);
      await store.users.update("b", { role: "admin" });
      await store.users.reinstate("b");
      await store.users.revoke("a");
      await store.rooms.delete("room");
      await same(false, true, false, true, false, false, true, true);
    },

    "a revocation and a demotion at once do not both succeed": async ({ store, other }) => {
      const another = await other();
      await store.users.addFirstAdmin({ key: "a" });
      await store.users.add({ key: "b", role: "admin" });
      for (let round = 0; round < 10; round++) {
        oneWinner(
          await together([() => store.users.revoke("a"), () => another.users.update("b", { role: "member" })]),
          "CONFLICT",
        );
        assert.equal(await store.hasAdmin(), true);
        await store.users.reinstate("a");
        await store.users.update("b", { role: "admin" });
      }
    },

    "of ten admins revoked at once one stays": async ({ store, other }) => {
      const stores = [store, await other()] as const;
      const keys = Array.from({ length: 10 }, (_, i) => `admin${String(i)}`);
      for (const key of keys) await store.users.add({ key, role: "admin" });
      const outcomes = await alternating(stores, 10, (each, i) => each.users.revoke(keys[i] ?? ""));
      assert.equal(outcomes.values.length, 9);
      assert.equal(outcomes.count("CONFLICT"), 1);
      assert.equal(await store.hasAdmin(), true);
      const users = (await store.users.list()).items;
      assert.equal(users.filter((user) => user.status === "active").length, 1);
    },

    "one admin revoked twice at once is no two admins": async ({ store, other }) => {
      const another = await other();
      for (const key of ["a", "b", "c"]) await store.users.add({ key, role: "admin" });
      const outcomes = await together([
        () => store.users.revoke("a"),
        () => another.users.revoke("a"),
        () => store.users.revoke("a"),
        () => another.users.revoke("a"),
      ]);
      assert.equal(outcomes.errors.length, 0, "idempotent, also at once");
      assert.equal(new Set(outcomes.values.map((user) => user.revision)).size, 1, "one change");
      await store.users.revoke("b");
      await refused("CONFLICT", () => store.users.revoke("c"));
      await store.users.reinstate("a");
      await store.users.reinstate("a");
      await store.users.revoke("c");
      await refused("CONFLICT", () => another.users.revoke("a"));
      assert.equal(await another.hasAdmin(), true);
    },
  }),
];
