import { faulty, openMemory } from "unibus-membership/testing";
import { afterEach, beforeEach, expect, test } from "vitest";
import { door, enrol } from "./door.mjs";

let store;
beforeEach(async () => {
  store = faulty(await openMemory({ opTimeoutMs: 100 }), []); // no faults yet
  await store.users.addFirstAdmin({ key: "a1b2" });
});
afterEach(() => store.close());

test("the door lets in who is on the list", async () => {
  expect(await door(store, "a1b2")).toBe(200);
  expect(await door(store, "ffff")).toBe(403);
});

test("the door stays shut while the store is dead, and opens again", async () => {
  store.setPlan({ fault: "hang" });
  expect(await door(store, "a1b2")).toBe(503);
  store.setPlan([]);
  expect(await door(store, "a1b2")).toBe(200);
});

test("who was enrolled without hearing of it is enrolled once", async () => {
  store.setPlan({ on: "users.add", times: 1, fault: "fail", done: true });
  expect((await enrol(store, "c3d4")).key).toBe("c3d4");
  expect(store.met.length).toBe(1);
});
