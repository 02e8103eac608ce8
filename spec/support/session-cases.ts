// What the contract says of sessions (promise 19), for every backend.

import assert from "node:assert/strict";
import { SessionEnded, type Denial, type Session, type SessionOptions, type Store } from "unibus-membership";
import { aloneCases, bytes, sealedFor } from "../../lib/testing/conformance/case.js";
import type { Steps } from "../../lib/testing/conformance/case.js";

/** Nothing here ends by the time alone, however slow the machine is: each proof is asked for. */
const BOUND = { maxStalenessMs: 60_000 };

/** A session that has to be allowed. */
async function admitted(store: Store, key: string, options?: SessionOptions): Promise<Session> {
  const session = await store.session(key, { ...BOUND, ...options });
  if (!session.allowed) return assert.fail(`${key} is denied: ${session.reason} ${String(session.error)}`);
  assert.deepEqual([session.active, session.signal.aborted], [true, false], `${key} has a session that is over`);
  return session;
}

async function denial(store: Store, key: string, options?: SessionOptions): Promise<Denial["reason"]> {
  // Disposable, as a session is.
  using session = await store.session(key, { ...BOUND, ...options });
  return session.allowed ? assert.fail(`${key} has a session`) : session.reason;
}

/**
 * When this resolves, everything that was acknowledged before has been told to all sessions of the store: one more
 * begins by it.
 */
async function heard(store: Store): Promise<void> {
  (await admitted(store, "root")).close();
}

function goesOn(...sessions: readonly Session[]): void {
  for (const session of sessions)
    assert.deepEqual([session.active, session.signal.aborted], [true, false], `${session.user.key}: it has ended`);
}

function ended(session: Session, reason: Denial["reason"]): void {
  assert.deepEqual([session.active, session.signal.aborted], [false, true], `${session.user.key}: it goes on`);
  const why: unknown = session.signal.reason;
  assert.ok(why instanceof SessionEnded);
  assert.deepEqual([why.denial.allowed, why.denial.reason], [false, reason]);
}

/** An admin who stays, a user, and a room with two guests. */
async function peopled(store: Store): Promise<void> {
  await store.users.addFirstAdmin({ key: "root" });
  await store.users.add({ key: "guest", name: "a guest", expiresAt: new Date(4e12) });
  await store.rooms.create({ id: "room", owner: "owner", encrypted: true, sealedKey: bytes("sealed") });
  await store.members.add("room", { endpoint: "joined", state: "joined" });
  await store.members.add("room", { endpoint: "invited" });
}

const member = (endpoint: string, roomId = "room") => ({ memberOf: [{ roomId, endpoint }] });

const steps: Steps = {
  "whoever may come in has one, until it is closed": async ({ store }) => {
    await peopled(store);
    const session = await admitted(store, " GUEST ");
    assert.deepEqual(session.user, await store.users.get("guest"));
    let aborts = 0;
    session.signal.addEventListener("abort", () => aborts++);
    session.close();
    session.close();
    ended(session, "closed");
    assert.equal(aborts, 1);
    const outer = await admitted(store, "guest");
    {
      using inner = outer;
      goesOn(inner);
    }
    ended(outer, "closed");
  },

  "whoever may not come in is told why, and nothing rejects": async ({ store }) => {
    await peopled(store);
    await store.users.add({ key: "over", expiresAt: new Date(1) });
    await store.users.add({ key: "out" });
    await store.users.revoke("out");
    assert.equal(await denial(store, "nobody"), "unknown");
    assert.equal(await denial(store, "out"), "revoked");
    assert.equal(await denial(store, "over"), "expired");
    assert.equal(await denial(store, "guest", { role: "admin" }), "notAdmin");
    for (const endpoint of ["invited", "nobody"])
      assert.equal(await denial(store, "guest", member(endpoint)), "notMember");
    assert.equal(await denial(store, "guest", member("joined", "no room")), "notMember");
    const both = { memberOf: [...member("joined").memberOf, ...member("invited").memberOf] };
    assert.equal(await denial(store, "guest", both), "notMember");
    const end = new AbortController();
    end.abort();
    assert.equal(await denial(store, "guest", { signal: end.signal }), "aborted");
  },

  "what is malformed is a denial": async ({ store }) => {
    await peopled(store);
    const malformed: unknown[] = [
      { maxStalenessMs: 99 },
      { maxStalenessMs: 60_001 },
      { maxStalenessMs: "1000" },
      { role: "member" },
      { memberOf: "room" },
      { memberOf: [{ roomId: "room" }] },
      { memberOf: [{ roomId: "room", endpoint: "" }] },
      { memberOf: [{ roomId: "room", endpoint: "joined", state: "joined" }] },
      { memberOf: Array.from({ length: 1001 }, () => ({ roomId: "room", endpoint: "joined" })) },
      { signal: {} },
      { timeoutMs: 0 },
      { maxStaleness: 1000 },
      1,
      null,
    ];
    for (const options of malformed) {
      const session = await store.session("guest", options as SessionOptions);
      assert.ok(!session.allowed);
      assert.equal(session.reason, "malformed", JSON.stringify(options));
    }
    for (const key of ["two words", "", 1, undefined]) assert.equal(await denial(store, key as string), "malformed");
  },

  "it ends when the user is revoked, on whatever store": async ({ store, other }) => {
    await peopled(store);
    const all = [
      await admitted(store, "guest"),
      await admitted(store, "guest"),
      await admitted(store, "root"),
    ] as const;
    const second = await other();
    const elsewhere = await admitted(second, "guest");
    await second.users.revoke("guest");
    await heard(store);
    await heard(second);
    for (const session of [all[0], all[1], elsewhere]) ended(session, "revoked");
    goesOn(all[2]);
    await second.users.reinstate("guest");
    await heard(store);
    ended(all[0], "revoked");
    goesOn(await admitted(store, "guest"));
    await store.users.revoke("guest");
    assert.equal(await denial(second, "guest"), "revoked");
  },

  "it ends with its grant, also where another one began at once": async ({ store, other }) => {
    await peopled(store);
    await store.users.add({ key: "boss", role: "admin" });
    const second = await other();
    const guest = await admitted(store, "guest");
    const boss = await admitted(store, "boss", { role: "admin" });
    const late = await admitted(store, "root", { role: "admin" });
    await second.users.revoke("guest");
    await second.users.reinstate("guest");
    await second.users.update("boss", { role: "member" });
    await second.users.update("boss", { role: "admin" });
    // Whoever comes now has the grant of now.
    const again = await admitted(store, "guest");
    const bossAgain = await admitted(store, "boss", { role: "admin" });
    ended(guest, "ended");
    ended(boss, "ended");
    await heard(store);
    goesOn(again, bossAgain, late);
  },

  "a demotion ends that of an admin, and no other": async ({ store, other }) => {
    await peopled(store);
    await store.users.add({ key: "boss", role: "admin" });
    const second = await other();
    const boss = await admitted(store, "boss", { role: "admin" });
    const user = await admitted(store, "boss");
    await second.users.update("boss", { role: "member" });
    await heard(store);
    ended(boss, "notAdmin");
    goesOn(user);
    assert.equal(user.user.role, "member");
    assert.equal(await denial(store, "boss", { role: "admin" }), "notAdmin");
    await second.users.update("boss", { role: "admin" });
    await heard(store);
    goesOn(user);
    await second.users.update("boss", { role: "member" });
    await second.users.revoke("boss");
    await second.users.reinstate("boss");
    await heard(store);
    ended(user, "ended");
  },

  "it ends when the time is over, and goes on where more is given before": async ({ store, other }) => {
    await peopled(store);
    const second = await other();
    const session = await admitted(store, "guest");
    const expiresAt = new Date(5e12);
    await second.users.update("guest", { expiresAt, name: "renamed" });
    await heard(store);
    goesOn(session);
    assert.deepEqual([session.user.expiresAt, session.user.name], [expiresAt, "renamed"]);
    await second.users.update("guest", { expiresAt: new Date(1) });
    await heard(store);
    ended(session, "expired");
    await second.users.update("guest", { expiresAt: null });
    await heard(store);
    ended(session, "expired");
  },

  "one of a membership ends with that": async ({ store, other }) => {
    await peopled(store);
    await store.members.add("room", { endpoint: "twice", state: "joined" });
    await store.rooms.create({ id: "gone", owner: "owner" });
    await store.rooms.create({ id: "anew", owner: "owner" });
    const second = await other();
    const joined = await admitted(store, "guest", member("joined"));
    const twice = await admitted(store, "guest", member("twice"));
    const owner = await admitted(store, "guest", member("owner"));
    const gone = await admitted(store, "guest", {
      memberOf: [...member("owner").memberOf, ...member("owner", "gone").memberOf],
    });
    const anew = await admitted(store, "guest", member("owner", "anew"));
    const without = await admitted(store, "guest");
    await second.members.remove("room", "joined");
    await second.members.remove("room", "twice");
    await second.members.add("room", { endpoint: "twice", state: "joined" });
    await second.rooms.delete("gone");
    await second.rooms.delete("anew");
    await second.rooms.create({ id: "anew", owner: "owner" });
    await heard(store);
    ended(joined, "notMember");
    ended(twice, "ended");
    ended(gone, "notMember");
    ended(anew, "ended");
    goesOn(owner, without, await admitted(store, "guest", member("twice")));
    await second.users.revoke("guest");
    await heard(store);
    ended(owner, "revoked");
  },

  "what takes nothing away ends nothing": async ({ store, other }) => {
    await peopled(store);
    const second = await other();
    const guest = await admitted(store, "guest", {
      memberOf: [...member("joined").memberOf, ...member("owner").memberOf],
    });
    const root = await admitted(store, "root", { role: "admin" });
    for (let i = 0; i < 12; i++) {
      await second.users.update("guest", { name: String(i) });
      await second.rooms.update("room", { name: String(i) });
      await second.members.add("room", { endpoint: "comes and goes", state: "joined" });
      await second.members.remove("room", "comes and goes");
      if (i % 5 === 0) await heard(store);
    }
    await second.users.reinstate("guest");
    await second.members.join("room", "invited");
    await second.members.join("room", "joined");
    await second.roomKeys.rekey("room", sealedFor(2, ["owner", "joined", "invited"]), { expectedEpoch: 1 });
    await second.rooms.update("room", { owner: "joined" });
    await second.users.add({ key: "another", role: "admin" });
    await second.users.revoke("another");
    await heard(store);
    goesOn(guest, root);
    await second.members.remove("room", "owner");
    await heard(store);
    ended(guest, "notMember");
    goesOn(root);
  },

  "its signal and the store's close end it": async ({ store }) => {
    await peopled(store);
    const end = new AbortController();
    const signalled = await admitted(store, "guest", { signal: end.signal });
    const another = await admitted(store, "guest");
    end.abort();
    ended(signalled, "aborted");
    goesOn(another);
    await store.close();
    ended(another, "closed");
    assert.equal(await denial(store, "guest"), "closed");
  },
};

export const sessionCases = aloneCases("session", steps);
