// What every recipe has to do: `node try.mjs express.mjs`.

import assert from "node:assert/strict";
import { faulty, openMemory } from "unibus-membership/testing";

const { start } = await import(`./${process.argv[2]}`);

const store = faulty(await openMemory(), []);
await store.users.addFirstAdmin({ key: "a1b2", name: "Alice" });
await store.users.add({ key: "c3d4", name: "Carol" });
await store.rooms.create({ id: "lobby", owner: "a1b2" });
const app = await start(store);

async function get(path, key) {
  const headers = { connection: "close", ...(key === undefined ? {} : { "x-sign-key": key }) };
  const response = await fetch(`http://127.0.0.1:${app.port}${path}`, { headers });
  const text = await response.text();
  return response.ok ? text : response.status;
}

assert.equal(await get("/", "a1b2"), "hello Alice");
assert.equal(await get("/rooms/lobby", "a1b2"), "lobby");
assert.equal(await get("/rooms/lobby", "c3d4"), 403);
assert.equal(await get("/", "ffff"), 403);
assert.equal(await get("/"), 400);
await store.users.revoke("c3d4");
assert.equal(await get("/", "c3d4"), 403);
for (const fault of ["fail", "hang"]) {
  store.setPlan({ fault });
  assert.equal(await get("/", "a1b2"), 503);
}
store.setPlan({ on: "isMember", fault: "fail" });
assert.equal(await get("/rooms/lobby", "a1b2"), 403);
store.setPlan([]);
assert.equal(await get("/", "a1b2"), "hello Alice");
await app.close();
await store.close();
console.log("as it should be");
