import assert from "node:assert/strict";
import { faulty, openMemory } from "unibus-membership/testing";
import { door, enrol } from "./door.mjs";

let store;
beforeEach(async () => {
  store = faulty(await openMemory({ opTimeoutMs: 100 }), []); // no faults yet
  await store.users.addFirstAdmin({ key: "a1b2" });
});
afterEach(() => store.close());

it("the door lets in who is on the list", async () => {
  assert.equal(await door(store, "a1b2"), 200);
  assert.equal(await door(store, "ffff"), 403);
});

it("the door stays shut while the store is dead, and opens again", async () => {
  store.setPlan({ fault: "hang" });
  assert.equal(await door(store, "a1b2"), 503);
  store.setPlan([]);
  assert.equal(await door(store, "a1b2"), 200);
});

it("who was enrolled without hearing of it is enrolled once", async () => {
  store.setPlan({ on: "users.add", times: 1, fault: "fail", done: true });
  assert.equal((await enrol(store, "c3d4")).key, "c3d4");
  assert.equal(store.met.length, 1);
});
