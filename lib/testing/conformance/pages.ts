import assert from "node:assert/strict";
import { aloneCases, refused, settled, walk } from "./case.js";
import type { Store } from "../../store.js";

const rooms = async (store: Store, count: number): Promise<string[]> => {
  const ids = Array.from({ length: count }, (_, i) => `room ${String(i)}`);
  for (const id of ids) await store.rooms.create({ id, owner: "o" });
  return ids;
};
const users = async (store: Store, count: number): Promise<string[]> => {
  const keys = Array.from({ length: count }, (_, i) => `key${String(i)}`);
  for (const key of keys) await store.users.add({ key });
  return keys;
};

/** Every one of `expected` was there, and nothing else. */
function whole(seen: readonly string[], expected: readonly string[]): void {
  assert.deepEqual([...new Set(seen)].sort(), [...expected].sort());
}

export const pageCases = aloneCases("pages", {
  "an empty list is one empty page": async ({ store }) => {
    for (const page of [undefined, {}, { limit: 1 }, { limit: 1000 }]) {
      assert.deepEqual(await store.rooms.list(page), { items: [] });
      assert.deepEqual(await store.users.list(page), { items: [] });
    }
  },

  "a walk sees every room, whatever the limit": async (context) => {
    const ids = await rooms(context.store, 25);
    for (const store of [context.store, await context.other()]) {
      for (const limit of [1, 2, 7, 24, 25, 26, 1000, undefined]) {
        const walked = await walk((page) => store.rooms.list(page), limit);
        whole(
          walked.map((room) => room.id),
          ids,
        );
        for (const room of walked) assert.deepEqual(room, await store.rooms.get(room.id));
      }
    }
  },

  "a walk sees every user of any status, whatever the limit": async (context) => {
    const keys = await users(context.store, 25);
    for (const key of keys.slice(0, 10)) await context.store.users.revoke(key);
    await context.store.users.update("key20", { expiresAt: new Date(0) });
    await context.store.users.update("key21", { role: "admin" });
    for (const store of [context.store, await context.other()]) {
      for (const limit of [1, 2, 7, 24, 25, 26, 1000, undefined]) {
        const walked = await walk((page) => store.users.list(page), limit);
        whole(
          walked.map((user) => user.key),
          keys,
        );
        await settled(async () => {
          for (const user of walked) assert.deepEqual(user, await store.users.get(user.key));
        });
      }
    }
  },

  "a page has a hundred by default, and a thousand at most": async ({ store }) => {
    const keys = await users(store, 130);
    const first = await store.users.list();
    assert.equal(first.items.length, 100);
    assert.ok(first.next !== undefined);
    const second = await store.users.list({ after: first.next });
    whole(
      [...first.items, ...second.items].map((user) => user.key),
      keys,
    );
    assert.equal((await store.users.list({ limit: 1000 })).items.length, 130);
  },

  "a walk goes on behind a room that was deleted meanwhile": async ({ store }) => {
    const ids = await rooms(store, 12);
    const first = await store.rooms.list({ limit: 4 });
    const deleted = first.items.map((room) => room.id);
    for (const id of deleted) await store.rooms.delete(id);
    const rest: string[] = [];
    let after = first.next;
    while (after !== undefined) {
      const page = await store.rooms.list({ limit: 4, after });
      rest.push(...page.items.map((room) => room.id));
      after = page.next;
    }
    whole(
      rest,
      ids.filter((id) => !deleted.includes(id)),
    );
  },

  "who is there throughout a walk appears, whatever others write": async ({ store, other }) => {
    const another = await other();
    const ids = await rooms(store, 20);
    const doomed = Array.from({ length: 20 }, (_, i) => `doomed ${String(i)}`);
    for (const id of doomed) await store.rooms.create({ id, owner: "o" });
    const seen = await walk(
      (page) => store.rooms.list(page),
      3,
      async (pages) => {
        if (pages > 20) return;
        await another.rooms.create({ id: `new ${String(pages)}`, owner: "o" });
        const id = doomed[pages];
        if (id !== undefined) await another.rooms.delete(id);
        // A change must not carry a record across the place where the walk is.
        await another.rooms.update(ids[(pages * 7) % 20] ?? "", { name: `changed ${String(pages)}` });
        await another.members.add(ids[(pages * 3) % 20] ?? "", { endpoint: `e ${String(pages)}` });
      },
    );
    const names = new Set(seen.map((room) => room.id));
    assert.deepEqual(
      ids.filter((id) => !names.has(id)),
      [],
      "missed",
    );
  },

  "which user is there throughout a walk appears, whatever others write": async ({ store, other }) => {
    const another = await other();
    const keys = await users(store, 30);
    const seen = await walk(
      (page) => store.users.list(page),
      3,
      async (pages) => {
        if (pages > 20) return;
        await another.users.add({ key: `new${String(pages)}` });
        const key = keys[(pages * 7) % 30] ?? "";
        await another.users.revoke(key);
        await another.users.reinstate(key);
        await another.users.update(keys[(pages * 11) % 30] ?? "", { name: `changed ${String(pages)}` });
      },
    );
    const names = new Set(seen.map((user) => user.key));
    assert.deepEqual(
      keys.filter((key) => !names.has(key)),
      [],
      "missed",
    );
  },

  "a walk that another one overtakes is not disturbed": async ({ store }) => {
    const ids = await rooms(store, 10);
    const seen = await walk(
      (page) => store.rooms.list(page),
      2,
      async () => {
        whole(
          (await walk((page) => store.rooms.list(page), 3)).map((room) => room.id),
          ids,
        );
      },
    );
    whole(
      seen.map((room) => room.id),
      ids,
    );
  },

  "a cursor that is none is INVALID_ARGUMENT": async ({ store }) => {
    await rooms(store, 3);
    for (const after of [
      "",
      "nonsense",
      "0",
      "-1",
      "c",
      "c-1",
      "c!",
      "c0 ",
      "'; --",
      " ",
      "\0",
      "c".repeat(5000),
      "\ud800",
    ]) {
      for (const list of [() => store.rooms.list({ after }), () => store.users.list({ after })]) {
        assert.equal(
          (await refused("INVALID_ARGUMENT", list, JSON.stringify(after.slice(0, 20)))).argument,
          "page.after",
        );
      }
    }
  },
});
