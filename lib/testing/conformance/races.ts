import assert from "node:assert/strict";
import { inspect } from "node:util";
import {
  alternating,
  byCodePoint,
  bytes,
  cases,
  encryptedRoom,
  oneWinner,
  refused,
  sameBytes,
  sealedFor,
  together,
  unique,
  settled,
} from "./case.js";
import type { Store } from "../../store.js";

/** The room, its members, their keys and the index tell one story, on every store. */
async function consistent(stores: readonly Store[], roomId: string, endpoints: readonly string[]): Promise<void> {
  for (const store of stores) {
    await settled(async () => {
      const room = await store.rooms.get(roomId).catch(() => undefined);
      const members = room === undefined ? [] : await store.members.list(roomId);
      const names = new Set(members.map((member) => member.endpoint));
      if (room !== undefined) {
        const owner = members.find((member) => member.endpoint === room.owner);
        assert.deepEqual([owner?.role, owner?.state], ["owner", "joined"], "the owner is a joined member");
        assert.deepEqual(
          members.filter((member) => member.role === "owner").map((member) => member.endpoint),
          [room.owner],
          "one owner",
        );
      }
      for (const endpoint of new Set([...endpoints, ...names])) {
        const indexed = (await store.rooms.listForEndpoint(endpoint)).some((each) => each.id === roomId);
        assert.equal(indexed, names.has(endpoint), `the index of ${endpoint}`);
        const memberships = (await store.members.listForEndpoint(endpoint)).filter((each) => each.roomId === roomId);
        assert.deepEqual(
          memberships,
          members.filter((member) => member.endpoint === endpoint),
          `the membership of ${endpoint}`,
        );
        if (names.has(endpoint)) {
          for (const key of await store.roomKeys.list(roomId, endpoint))
            assert.ok(key.epoch <= (room?.epoch ?? 0), "no key of an epoch to come");
        } else {
          await refused("NOT_FOUND", () => store.roomKeys.list(roomId, endpoint));
        }
      }
    });
  }
}

export const raceCases = cases("at once", {
  "of ten rooms of one id one is made, whole": async ({ store, other }) => {
    const stores = [store, await other()] as const;
    const id = unique("room");
    const owners = Array.from({ length: 10 }, () => unique("owner"));
    const room = oneWinner(
      await alternating(stores, 10, (each, i) =>
        each.rooms.create({
          id,
          owner: owners[i] ?? "",
          name: String(i),
          encrypted: true,
          sealedKey: bytes(`key ${String(i)}`),
        }),
      ),
      "ALREADY_EXISTS",
    );
    for (const each of stores) {
      await settled(async () => {
        assert.deepEqual(await each.rooms.get(id), room);
        assert.deepEqual(
          (await each.members.list(id)).map((member) => member.endpoint),
          [room.owner],
        );
        sameBytes((await each.roomKeys.get(id, room.owner)).sealed, bytes(`key ${room.name}`), "the winner's key");
      });
    }
    await consistent(stores, id, owners);
  },

  "of ten members of one name one is added, with its key": async ({ store, other }) => {
    const stores = [store, await other()] as const;
    const { id, owner } = await encryptedRoom(store);
    const endpoint = unique("guest");
    const member = oneWinner(
      await alternating(stores, 10, (each, i) =>
        each.members.add(id, {
          endpoint,
          invitedBy: String(i),
          sealedKey: { epoch: 1, sealed: bytes(`key ${String(i)}`) },
        }),
      ),
      "ALREADY_EXISTS",
    );
    assert.deepEqual(await store.members.get(id, endpoint), member);
    sameBytes(
      (await store.roomKeys.get(id, endpoint)).sealed,
      bytes(`key ${String(member.invitedBy)}`),
      "the winner's key",
    );
    await consistent(stores, id, [owner, endpoint]);
  },

  "of ten users of one key one is added": async ({ store, other }) => {
    const stores = [store, await other()] as const;
    const key = unique("key");
    const user = oneWinner(
      await alternating(stores, 10, (each, i) =>
        each.users.add({ key: i % 2 === 0 ? key : key.toUpperCase(), name: String(i) }),
      ),
      "ALREADY_EXISTS",
    );
    for (const each of stores) {
      await settled(async () => {
        assert.deepEqual(await each.users.get(key), user);
      });
    }
  },

  "of ten keys for one place one is put": async ({ store, other }) => {
    const stores = [store, await other()] as const;
    const { id } = await encryptedRoom(store);
    const endpoint = unique("guest");
    await store.members.add(id, { endpoint });
    const key = oneWinner(
      await alternating(stores, 10, (each, i) => each.roomKeys.put(id, endpoint, 1, bytes(`key ${String(i)}`))),
      "ALREADY_EXISTS",
    );
    for (const each of stores) {
      await settled(async () => {
        assert.deepEqual(await each.roomKeys.get(id, endpoint), key);
      });
    }
  },

  "of ten updates of one revision one is made": async ({ store, other }) => {
    const stores = [store, await other()] as const;
    const { id } = await encryptedRoom(store);
    const { revision } = await store.rooms.get(id);
    const room = oneWinner(
      await alternating(stores, 10, (each, i) => each.rooms.update(id, { name: String(i) }, { ifRevision: revision })),
      "CONFLICT",
    );
    for (const each of stores) {
      await settled(async () => {
        assert.deepEqual(await each.rooms.get(id), room);
      });
    }
    const key = unique("key");
    const first = await store.users.add({ key });
    const user = oneWinner(
      await alternating(stores, 10, (each, i) =>
        each.users.update(key, { name: String(i) }, { ifRevision: first.revision }),
      ),
      "CONFLICT",
    );
    for (const each of stores) {
      await settled(async () => {
        assert.deepEqual(await each.users.get(key), user);
      });
    }
  },

  "updates without a precondition all succeed, and the last of them stands": async ({ store, other }) => {
    const stores = [store, await other()] as const;
    const { id } = await encryptedRoom(store);
    const key = unique("key");
    await store.users.add({ key });
    const rooms = await alternating(stores, 8, (each, i) => each.rooms.update(id, { name: `name ${String(i)}` }));
    assert.deepEqual(rooms.errors, []);
    assert.equal(new Set(rooms.values.map((room) => room.revision)).size, 8);
    const room = await store.rooms.get(id);
    assert.ok(
      rooms.values.some((each) => each.revision === room.revision && each.name === room.name),
      "one of those acknowledged",
    );
    const users = await alternating(stores, 8, (each, i) => each.users.update(key, { name: `name ${String(i)}` }));
    assert.deepEqual(users.errors, []);
    const user = await store.users.get(key);
    assert.ok(
      users.values.some((each) => each.revision === user.revision && each.name === user.name),
      "one of those acknowledged",
    );
  },

  "members added to one room at once are all there": async ({ store, other }) => {
    const stores = [store, await other()] as const;
    const { id, owner } = await encryptedRoom(store);
    const endpoints = Array.from({ length: 10 }, () => unique("m"));
    const outcomes = await alternating(stores, 10, (each, i) =>
      each.members.add(id, { endpoint: endpoints[i] ?? "", sealedKey: { epoch: 1, sealed: bytes(String(i)) } }),
    );
    assert.deepEqual(outcomes.errors, [], "contention is no error of the caller's");
    for (const each of stores) {
      await settled(async () => {
        assert.deepEqual(
          (await each.members.list(id)).map((member) => member.endpoint),
          [owner, ...endpoints].sort(byCodePoint),
        );
      });
    }
    for (const [i, endpoint] of endpoints.entries())
      sameBytes((await store.roomKeys.get(id, endpoint)).sealed, bytes(String(i)), endpoint);
    await consistent(stores, id, endpoints);
  },

  "a hundred changes of one room, each of another member, all happen, and every list is exact": async ({
    store,
    other,
  }) => {
    const stores = [store, await other()] as const;
    const endpoints = (label: string): string[] => Array.from({ length: 25 }, () => unique(label));
    const [leaving, joining, coming, staying] = [
      endpoints("leaves"),
      endpoints("joins"),
      endpoints("comes"),
      endpoints("stays"),
    ];
    const { id, owner } = await encryptedRoom(store);
    await Promise.all([...leaving, ...joining, ...staying].map((endpoint) => store.members.add(id, { endpoint })));
    const names = Array.from({ length: 25 }, (_, i) => `name ${String(i)}`);
    const changes: ((each: Store) => Promise<unknown>)[] = Array.from({ length: 25 }, (_, i) => [
      (each: Store) => each.members.remove(id, leaving[i] ?? ""),
      (each: Store) => each.members.join(id, joining[i] ?? ""),
      (each: Store) => each.members.add(id, { endpoint: coming[i] ?? "", state: "joined" }),
      (each: Store) => each.rooms.update(id, { name: names[i] ?? "" }),
    ]).flat();
    // One store's half after the other's: how long a change of one waits for those of another nobody promises.
    for (const [half, each] of stores.entries()) {
      const mine = changes.filter((_, i) => Math.floor(i / 4) % 2 === half);
      const outcomes = await together(mine.map((change) => () => change(each)));
      assert.deepEqual(
        outcomes.errors.map((error) => `${error.code}: ${error.message}`),
        [],
        "none is in another's way",
      );
    }
    const expected = [
      [owner, "joined"],
      ...[...joining, ...coming].map((endpoint) => [endpoint, "joined"]),
      ...staying.map((endpoint) => [endpoint, "invited"]),
    ].sort(([a = ""], [b = ""]) => byCodePoint(a, b));
    for (const each of stores) {
      assert.deepEqual(
        (await each.members.list(id)).map((member) => [member.endpoint, member.state]),
        expected,
      );
      for (const endpoint of leaving) assert.deepEqual(await each.members.listForEndpoint(endpoint), []);
    }
    const room = await store.rooms.get(id);
    assert.ok(names.includes(room.name), "one of the names");
    assert.equal(room.rekeyRequired, true, "somebody was removed");
    await consistent(stores, id, [leaving[0] ?? "", joining[0] ?? "", coming[0] ?? "", staying[0] ?? ""]);
  },

  "of concurrent rekeys of one epoch one succeeds, and no key of a loser is ever seen": async ({ store, other }) => {
    const stores = [store, await other()] as const;
    const guest = unique("guest");
    const { id, owner } = await encryptedRoom(store, guest);
    for (let epoch = 1; epoch <= 4; epoch++) {
      const outcomes = await alternating(stores, 8, (each, i) =>
        each.roomKeys.rekey(id, sealedFor(epoch + 1, [owner, guest], String(i)), { expectedEpoch: epoch }),
      );
      const room = oneWinner(outcomes, "CONFLICT");
      assert.equal(room.epoch, epoch + 1);
      const winner = String(outcomes.each.findIndex((each) => each !== undefined));
      for (const each of stores) {
        await settled(async () => {
          assert.deepEqual(await each.rooms.get(id), room);
          for (const endpoint of [owner, guest]) {
            const expected = bytes(`sealed ${String(epoch + 1)} ${endpoint} ${winner}`);
            sameBytes((await each.roomKeys.get(id, endpoint)).sealed, expected, "the winner's key");
            const keys = await each.roomKeys.list(id, endpoint);
            assert.deepEqual(
              keys.map((key) => key.epoch),
              Array.from({ length: epoch + 1 }, (_, i) => i + 1),
            );
            sameBytes(keys[epoch]?.sealed, expected, "the winner's key");
          }
        });
      }
    }
  },

  "a rekey and a removal at once leave the removed one without a key and the room in debt": async ({
    store,
    other,
  }) => {
    const another = await other();
    for (let round = 0; round < 8; round++) {
      const guest = unique("guest");
      const { id, owner } = await encryptedRoom(store, guest);
      const outcomes = await together<unknown>([
        () => store.roomKeys.rekey(id, sealedFor(2, [owner, guest]), { expectedEpoch: 1 }),
        () => another.members.remove(id, guest),
      ]);
      for (const error of outcomes.errors) assert.equal(error.code, "CONFLICT");
      await settled(async () => {
        const room = await store.rooms.get(id);
        assert.equal(room.rekeyRequired, true, "a removal after the last rekey is a debt");
        assert.equal(room.epoch, outcomes.errors.length === 0 ? 2 : 1);
      });
      await consistent([store, another], id, [owner, guest]);
      await refused("NOT_FOUND", () => store.roomKeys.get(id, guest, 2));
      await store.members.add(id, { endpoint: guest });
      await settled(async () => {
        assert.deepEqual(await another.roomKeys.list(id, guest), []);
      });
    }
  },

  "a rekey and an addition at once leave every member with what it was given": async ({ store, other }) => {
    const another = await other();
    for (let round = 0; round < 8; round++) {
      const { id, owner } = await encryptedRoom(store);
      const guest = unique("guest");
      const [rekeyed, added] = await Promise.allSettled([
        store.roomKeys.rekey(id, sealedFor(2, [owner]), { expectedEpoch: 1 }),
        another.members.add(id, { endpoint: guest, sealedKey: { epoch: 1, sealed: bytes("first") } }),
      ]);
      for (const each of [rekeyed, added]) {
        if (each.status === "rejected") await refused("CONFLICT", () => Promise.reject(each.reason as Error));
      }
      assert.ok(rekeyed.status === "fulfilled" || added.status === "fulfilled", "one of the two can go on");
      await settled(async () => {
        const room = await another.rooms.get(id);
        assert.equal(room.epoch, rekeyed.status === "fulfilled" ? 2 : 1);
        if (added.status === "fulfilled")
          assert.deepEqual(
            (await store.roomKeys.list(id, guest)).map((key) => key.epoch),
            [1],
          );
        else await refused("NOT_FOUND", () => store.members.get(id, guest));
        assert.equal((await store.roomKeys.get(id, owner)).epoch, room.epoch);
      });
      await consistent([store, another], id, [owner, guest]);
    }
  },

  "a key put and a removal at once leave no key behind": async ({ store, other }) => {
    const another = await other();
    for (let round = 0; round < 8; round++) {
      const { id } = await encryptedRoom(store);
      const guest = unique("guest");
      await store.members.add(id, { endpoint: guest });
      const outcomes = await together<unknown>([
        () => store.roomKeys.put(id, guest, 1, bytes("late")),
        () => another.members.remove(id, guest),
      ]);
      for (const error of outcomes.errors) assert.equal(error.code, "NOT_FOUND");
      await settled(async () => {
        await refused("NOT_FOUND", () => store.members.get(id, guest));
      });
      await store.members.add(id, { endpoint: guest });
      assert.deepEqual(await store.roomKeys.list(id, guest), [], "a new membership starts without keys");
      await settled(async () => {
        assert.deepEqual(await another.roomKeys.list(id, guest), []);
      });
    }
  },

  "of removals of one member one succeeds": async ({ store, other }) => {
    const stores = [store, await other()] as const;
    const guest = unique("guest");
    const { id } = await encryptedRoom(store, guest);
    const outcomes = await alternating(stores, 6, async (each) => {
      await each.members.remove(id, guest);
      return "removed";
    });
    oneWinner(outcomes, "NOT_FOUND");
    await consistent(stores, id, [guest]);
  },

  "a join and a removal at once end without the member": async ({ store, other }) => {
    const another = await other();
    for (let round = 0; round < 8; round++) {
      const guest = unique("guest");
      const { id } = await encryptedRoom(store, guest);
      const outcomes = await together<unknown>([
        () => store.members.join(id, guest),
        () => another.members.remove(id, guest),
      ]);
      for (const error of outcomes.errors) assert.equal(error.code, "NOT_FOUND");
      assert.equal(await store.isMember(id, guest), false);
      assert.equal(await another.isMember(id, guest), false);
      await consistent([store, another], id, [guest]);
    }
  },

  "a transfer and a removal of the one who gets the room never leave it without an owner": async ({ store, other }) => {
    const another = await other();
    for (let round = 0; round < 8; round++) {
      const guest = unique("guest");
      const { id, owner } = await encryptedRoom(store, guest);
      await store.members.join(id, guest);
      const [moved, removed] = await Promise.allSettled([
        store.rooms.update(id, { owner: guest }).then(() => undefined),
        another.members.remove(id, guest),
      ]);
      assert.notEqual(moved.status, removed.status, "exactly one of the two can go on");
      if (moved.status === "rejected") await refused("NOT_FOUND", () => Promise.reject(moved.reason as Error));
      if (removed.status === "rejected") await refused("CONFLICT", () => Promise.reject(removed.reason as Error));
      await settled(async () => {
        assert.equal((await store.rooms.get(id)).owner, moved.status === "fulfilled" ? guest : owner);
      });
      await consistent([store, another], id, [owner, guest]);
    }
  },

  "two transfers at once leave one owner": async ({ store, other }) => {
    const another = await other();
    for (let round = 0; round < 5; round++) {
      const [a, b] = [unique("a"), unique("b")];
      const { id, owner } = await encryptedRoom(store, a, b);
      await store.members.join(id, a);
      await store.members.join(id, b);
      const outcomes = await together([
        () => store.rooms.update(id, { owner: a }),
        () => another.rooms.update(id, { owner: b }),
      ]);
      assert.deepEqual(outcomes.errors, []);
      await consistent([store, another], id, [owner, a, b]);
    }
  },

  "of deletions of one room one succeeds": async ({ store, other }) => {
    const stores = [store, await other()] as const;
    const guest = unique("guest");
    const { id, owner } = await encryptedRoom(store, guest);
    const outcomes = await alternating(stores, 6, async (each) => {
      await each.rooms.delete(id);
      return "deleted";
    });
    oneWinner(outcomes, "NOT_FOUND");
    await consistent(stores, id, [owner, guest]);
  },

  "an addition and a deletion at once leave nothing, also for the next room of that id": async ({ store, other }) => {
    const another = await other();
    for (let round = 0; round < 8; round++) {
      const guest = unique("guest");
      const { id, owner } = await encryptedRoom(store);
      const outcomes = await together<unknown>([
        () => store.members.add(id, { endpoint: guest, state: "joined", sealedKey: { epoch: 1, sealed: bytes("x") } }),
        () => another.rooms.delete(id),
      ]);
      for (const error of outcomes.errors) assert.equal(error.code, "NOT_FOUND");
      assert.equal(await store.isMember(id, guest), false);
      await consistent([store, another], id, [owner, guest]);
      await store.rooms.create({ id, owner, encrypted: true, sealedKey: bytes("new") });
      assert.equal(await another.isMember(id, guest), false);
      await settled(async () => {
        assert.deepEqual(
          (await another.members.list(id)).map((member) => member.endpoint),
          [owner],
        );
      });
      await consistent([store, another], id, [owner, guest]);
      await store.members.add(id, { endpoint: guest });
      await settled(async () => {
        assert.deepEqual(await another.roomKeys.list(id, guest), []);
      });
    }
  },

  "a rekey and a deletion at once leave nothing": async ({ store, other }) => {
    const another = await other();
    for (let round = 0; round < 5; round++) {
      const guest = unique("guest");
      const { id, owner } = await encryptedRoom(store, guest);
      const outcomes = await together<unknown>([
        () => store.roomKeys.rekey(id, sealedFor(2, [owner, guest]), { expectedEpoch: 1 }),
        () => another.rooms.delete(id),
      ]);
      for (const error of outcomes.errors) assert.equal(error.code, "NOT_FOUND");
      await consistent([store, another], id, [owner, guest]);
      const again = await store.rooms.create({ id, owner, encrypted: true });
      assert.equal(again.epoch, 0);
      await settled(async () => {
        assert.deepEqual(await another.roomKeys.list(id, owner), []);
      });
    }
  },

  "a room made and deleted by many at once is there whole or not at all": async ({ store, other }) => {
    const stores = [store, await other()] as const;
    const id = unique("room");
    const owners = Array.from({ length: 6 }, () => unique("owner"));
    for (let round = 0; round < 3; round++) {
      const outcomes = await alternating<unknown>(stores, 12, (each, i) =>
        i % 3 === 2
          ? each.rooms.delete(id)
          : each.rooms.create({ id, owner: owners[i % 6] ?? "", encrypted: true, sealedKey: bytes(String(i)) }),
      );
      for (const error of outcomes.errors) assert.ok(["ALREADY_EXISTS", "NOT_FOUND"].includes(error.code), error.code);
      await consistent(stores, id, owners);
    }
  },

  "additions and removals of one endpoint by many at once keep the index exact": async ({ store, other }) => {
    const stores = [store, await other()] as const;
    const endpoint = unique("guest");
    const { id, owner } = await encryptedRoom(store);
    for (let round = 0; round < 3; round++) {
      const outcomes = await alternating<unknown>(stores, 12, (each, i) =>
        i % 2 === 0
          ? each.members.add(id, { endpoint, sealedKey: { epoch: 1, sealed: bytes(String(i)) } })
          : each.members.remove(id, endpoint),
      );
      for (const error of outcomes.errors)
        assert.ok(["ALREADY_EXISTS", "NOT_FOUND"].includes(error.code), `${error.code}: ${error.message}`);
      await consistent(stores, id, [owner, endpoint]);
    }
  },

  "one endpoint added to many rooms at once is indexed in each": async ({ store, other }) => {
    const stores = [store, await other()] as const;
    const endpoint = unique("guest");
    const ids = await Promise.all(Array.from({ length: 10 }, async () => (await encryptedRoom(store)).id));
    const outcomes = await alternating(stores, 10, (each, i) => each.members.add(ids[i] ?? "", { endpoint }));
    assert.deepEqual(outcomes.errors, []);
    for (const each of stores) {
      await settled(async () => {
        assert.deepEqual(
          (await each.rooms.listForEndpoint(endpoint)).map((room) => room.id),
          [...ids].sort(byCodePoint),
        );
        assert.deepEqual(
          (await each.members.listForEndpoint(endpoint)).map((member) => member.roomId),
          [...ids].sort(byCodePoint),
        );
      });
    }
    await together(ids.slice(0, 5).map((id) => () => store.members.remove(id, endpoint)));
    for (const each of stores) {
      await settled(async () => {
        assert.deepEqual(
          (await each.rooms.listForEndpoint(endpoint)).map((room) => room.id),
          ids.slice(5).sort(byCodePoint),
        );
      });
    }
  },

  "a revocation and a reinstatement at once end in one of the two": async ({ store, other }) => {
    const another = await other();
    const key = unique("key");
    await store.users.add({ key });
    for (let round = 0; round < 8; round++) {
      const outcomes = await together([() => store.users.revoke(key), () => another.users.reinstate(key)]);
      assert.deepEqual(outcomes.errors, []);
      const allowed = await store.isAuthorized(key);
      assert.equal(await another.isAuthorized(key), allowed);
      for (const each of [store, another]) {
        await settled(async () => {
          const user = await each.users.get(key);
          assert.deepEqual(
            [user.status, user.revokedAt === undefined],
            allowed ? ["active", true] : ["revoked", false],
          );
        });
      }
    }
  },

  "a change of the name does not undo a revocation that comes at once": async ({ store, other }) => {
    const another = await other();
    await store.users.add({ key: unique("admin"), role: "admin" });
    for (let round = 0; round < 10; round++) {
      const key = unique("key");
      await store.users.add({ key });
      const outcomes = await together([
        () => another.users.update(key, { name: "x" }),
        () => store.users.revoke(key),
        () => another.users.update(key, { role: "admin" }),
      ]);
      assert.deepEqual(outcomes.errors, []);
      assert.equal(await store.isAuthorized(key), false);
      await settled(async () => {
        const user = await store.users.get(key);
        const story = `no update is lost: ${inspect({ acknowledged: outcomes.each, found: user })}`;
        assert.deepEqual([user.status, user.name, user.role], ["revoked", "x", "admin"], story);
      });
      assert.equal(await another.isAuthorized(key), false);
    }
  },

  "checks that start after a removal was acknowledged to anyone are false": async ({ store, other }) => {
    const another = await other();
    const guest = unique("guest");
    const { id, owner } = await encryptedRoom(store);
    for (let round = 0; round < 10; round++) {
      const [first, second] = round % 2 === 0 ? [store, another] : [another, store];
      await first.members.add(id, { endpoint: guest, state: "joined" });
      const answers = await Promise.all(Array.from({ length: 5 }, () => second.isMember(id, guest)));
      assert.deepEqual(answers, [true, true, true, true, true]);
      // Checks that run beside the removal answer either way; those that start after it must not allow.
      const beside = Promise.all(Array.from({ length: 5 }, () => second.isMember(id, guest)));
      await first.members.remove(id, guest);
      const after = await Promise.all(
        Array.from({ length: 5 }, (_, i) => (i % 2 === 0 ? first : second).isMember(id, guest)),
      );
      assert.deepEqual(after, [false, false, false, false, false]);
      await beside;
      assert.equal(await second.isMember(id, owner), true);
    }
    await store.rooms.delete(id);
    assert.equal(await another.isMember(id, owner), false);
  },
});
