import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { randomBytes } from "node:crypto";
import { inspect } from "node:util";
import {
  byCodePoint,
  bytes,
  cases,
  encryptedRoom,
  refused,
  sameBytes,
  sealedFor,
  seen,
  unique,
  settled,
} from "./case.js";
import type { Store } from "../../store.js";

/** Of epochs 1 and 2, the same through both stores. */
async function holdsTwoKeys(
  [store, another]: readonly [Store, Store],
  id: string,
  endpoint: string,
  name: string,
): Promise<void> {
  const keys = await store.roomKeys.list(id, endpoint);
  const found = keys.map((key) => [key.roomId, key.endpoint, key.epoch]);
  assert.deepEqual(found, [
    [id, endpoint, 1],
    [id, endpoint, 2],
  ]);
  for (const [i, key] of keys.entries()) {
    sameBytes(key.sealed, bytes(`${String(i + 1)} for ${name}`), `key ${String(i + 1)}`);
    await settled(async () => {
      assert.deepEqual(await another.roomKeys.get(id, endpoint, key.epoch), key);
    });
  }
  assert.deepEqual(await store.roomKeys.get(id, endpoint), keys[1]);
}

export const roomKeyCases = cases("room keys", {
  "an encrypted room with an owner and an invited member goes round through every method": async ({ store, other }) => {
    const [alice, bob] = [unique("alice"), unique("bob")];
    const another = await other();
    const created = await store.rooms.create({
      id: unique("room"),
      name: "ops",
      encrypted: true,
      owner: alice,
      ownerPublicKey: bytes("pk alice"),
      sealedKey: bytes("1 for alice"),
    });
    const { id } = created;
    await store.members.add(id, {
      endpoint: bob,
      invitedBy: alice,
      publicKey: bytes("pk bob"),
      sealedKey: { epoch: 1, sealed: bytes("1 for bob") },
    });
    await another.members.join(id, bob);
    await settled(async () => {
      sameBytes((await another.roomKeys.get(id, bob)).sealed, bytes("1 for bob"), "the invited one's key");
    });
    await settled(async () => {
      sameBytes((await another.roomKeys.get(id, alice, 1)).sealed, bytes("1 for alice"), "the owner's key");
    });
    const rekeyed = await another.roomKeys.rekey(
      id,
      new Map([
        [alice, bytes("2 for alice")],
        [bob, bytes("2 for bob")],
      ]),
      { expectedEpoch: 1 },
    );
    assert.equal(rekeyed.epoch, 2);
    await settled(async () => {
      assert.deepEqual(await store.rooms.get(id), rekeyed);
    });
    await holdsTwoKeys([store, another], id, alice, "alice");
    await holdsTwoKeys([store, another], id, bob, "bob");
    assert.deepEqual(
      (await store.rooms.listForEndpoint(bob)).map((room) => room.name),
      ["ops"],
    );
    await store.rooms.update(id, { owner: bob });
    await store.members.remove(id, alice);
    await store.roomKeys.rekey(id, new Map([[bob, bytes("3 for bob")]]), { expectedEpoch: 2 });
    await settled(async () => {
      assert.deepEqual(
        (await another.roomKeys.list(id, bob)).map((key) => key.epoch),
        [1, 2, 3],
      );
    });
    await another.rooms.delete(id);
    await settled(async () => {
      await refused("NOT_FOUND", () => store.roomKeys.get(id, bob));
    });
  },

  "without an epoch it is the highest that the endpoint holds, by number": async ({ store }) => {
    const late = unique("late");
    const { id, owner } = await encryptedRoom(store);
    for (let epoch = 1; epoch < 12; epoch++)
      await store.roomKeys.rekey(id, sealedFor(epoch + 1, [owner]), { expectedEpoch: epoch });
    assert.equal((await store.roomKeys.get(id, owner)).epoch, 12);
    assert.deepEqual(
      (await store.roomKeys.list(id, owner)).map((key) => key.epoch),
      [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
    );
    await store.members.add(id, { endpoint: late });
    for (const epoch of [9, 2, 11, 10]) await store.roomKeys.put(id, late, epoch, bytes(`late ${String(epoch)}`));
    assert.equal(
      (await store.roomKeys.get(id, late)).epoch,
      11,
      "lower than the room's, which shows that it lacks one",
    );
    assert.deepEqual(
      (await store.roomKeys.list(id, late)).map((key) => key.epoch),
      [2, 9, 10, 11],
    );
    sameBytes((await store.roomKeys.get(id, late, 9)).sealed, bytes("late 9"), "epoch 9");
    await refused("NOT_FOUND", () => store.roomKeys.get(id, late, 12));
    await refused("NOT_FOUND", () => store.roomKeys.get(id, late, 1));
  },

  "put gives a member a key that it lacks": async ({ store, other }) => {
    const guest = unique("guest");
    const { id } = await encryptedRoom(store);
    await store.members.add(id, { endpoint: guest });
    const before = await seen(store, id);
    const key = await store.roomKeys.put(id, guest, 1, bytes("handed over"));
    assert.deepEqual([key.roomId, key.endpoint, key.epoch], [id, guest, 1]);
    sameBytes(key.sealed, bytes("handed over"), "sealed");
    await settled(async () => {
      assert.deepEqual(await (await other()).roomKeys.get(id, guest), key);
    });
    const after = await seen(store, id);
    assert.deepEqual(
      [after.room, after.members],
      [before.room, before.members],
      "a key is a field of neither room nor member",
    );
  },

  "put is refused for a stranger, an epoch to come and a key that is there": async ({ store }) => {
    const guest = unique("guest");
    const { id, owner } = await encryptedRoom(store, guest);
    const before = await seen(store, id);
    await refused("NOT_FOUND", () => store.roomKeys.put(unique("room"), guest, 1, bytes("x")), "no room");
    await refused("NOT_FOUND", () => store.roomKeys.put(id, unique("stranger"), 1, bytes("x")), "no member");
    await refused(
      "NOT_FOUND",
      () => store.roomKeys.put(id, unique("stranger"), 9, bytes("x")),
      "no member comes before the epoch",
    );
    await refused("CONFLICT", () => store.roomKeys.put(id, guest, 2, bytes("x")), "an epoch to come");
    await refused("CONFLICT", () => store.roomKeys.put(id, guest, 2 ** 31 - 1, bytes("x")), "the last epoch of all");
    await refused("ALREADY_EXISTS", () => store.roomKeys.put(id, guest, 1, bytes("x")), "there already");
    await refused(
      "ALREADY_EXISTS",
      () => store.roomKeys.put(id, guest, 1, bytes(`sealed 1 ${guest}`)),
      "there already, even the same",
    );
    await refused("ALREADY_EXISTS", () => store.roomKeys.put(id, owner, 1, bytes("x")), "the owner's");
    assert.deepEqual(await seen(store, id), before);
  },

  "an unencrypted room has no keys": async ({ store }) => {
    const owner = unique("owner");
    const { id } = await store.rooms.create({ id: unique("room"), owner });
    const before = await seen(store, id);
    await refused("CONFLICT", () => store.roomKeys.put(id, owner, 1, bytes("x")));
    await refused("CONFLICT", () => store.roomKeys.rekey(id, sealedFor(1, [owner]), { expectedEpoch: 0 }));
    await refused("NOT_FOUND", () => store.roomKeys.get(id, owner));
    await refused("NOT_FOUND", () => store.roomKeys.get(id, owner, 1));
    assert.deepEqual(await store.roomKeys.list(id, owner), []);
    assert.deepEqual(await seen(store, id), before);
  },

  "a rekey gives every member of any state a key and keeps the old ones": async ({ store, other }) => {
    const [invited, joined, keyless] = [unique("invited"), unique("joined"), unique("keyless")];
    const { id, owner } = await encryptedRoom(store, invited, joined);
    await store.members.join(id, joined);
    await store.members.add(id, { endpoint: keyless });
    const before = await store.rooms.get(id);
    const members = await store.members.list(id);
    const all = [owner, invited, joined, keyless];
    const room = await store.roomKeys.rekey(id, sealedFor(2, all), { expectedEpoch: 1, ifRevision: before.revision });
    assert.deepEqual(room, { ...before, epoch: 2, revision: room.revision });
    assert.notEqual(room.revision, before.revision);
    for (const each of [store, await other()]) {
      await settled(async () => {
        assert.deepEqual(await each.rooms.get(id), room);
        assert.deepEqual(await each.members.list(id), members, "members stay as they were");
        for (const endpoint of all) {
          assert.deepEqual(
            (await each.roomKeys.list(id, endpoint)).map((key) => key.epoch),
            endpoint === keyless ? [2] : [1, 2],
          );
          sameBytes((await each.roomKeys.get(id, endpoint)).sealed, bytes(`sealed 2 ${endpoint} `), endpoint);
        }
      });
    }
  },

  "a rekey that does not name exactly the members is CONFLICT, says who, and changes nothing": async ({ store }) => {
    const [a, b, x, y] = [unique("a"), unique("b"), unique("x"), unique("y")];
    const { id, owner } = await encryptedRoom(store, a, b);
    const before = await seen(store, id);
    const attempt = async (endpoints: readonly string[]): Promise<unknown> =>
      (await refused("CONFLICT", () => store.roomKeys.rekey(id, sealedFor(2, endpoints), { expectedEpoch: 1 })))
        .details;
    const sorted = (...endpoints: string[]): string[] => endpoints.sort(byCodePoint);
    const facts = async (endpoints: readonly string[]): Promise<{ missing: string[]; extra: string[] }> => {
      const details = (await attempt(endpoints)) as { missing?: unknown; extra?: unknown } | undefined;
      const names = (value: unknown): string[] => {
        assert.ok(Array.isArray(value), "details name missing and extra");
        return value.map(String).sort(byCodePoint);
      };
      return { missing: names(details?.missing), extra: names(details?.extra) };
    };
    assert.deepEqual(await facts([owner, a]), { missing: [b], extra: [] });
    assert.deepEqual(await facts([owner, a, b, x]), { missing: [], extra: [x] });
    assert.deepEqual(await facts([a, x, y]), { missing: sorted(owner, b), extra: sorted(x, y) });
    assert.deepEqual(await facts([]), { missing: sorted(owner, a, b), extra: [] });
    assert.deepEqual(await seen(store, id), before);
    for (const endpoint of [x, y]) await refused("NOT_FOUND", () => store.roomKeys.get(id, endpoint));
  },

  "the expected epoch of a rekey is checked before its members": async ({ store }) => {
    const guest = unique("guest");
    const { id, owner } = await encryptedRoom(store, guest);
    const before = await seen(store, id);
    for (const expectedEpoch of [0, 2, 3, 2 ** 31 - 1]) {
      const error = await refused("CONFLICT", () => store.roomKeys.rekey(id, sealedFor(2, [owner]), { expectedEpoch }));
      assert.ok(error.details === undefined || !("missing" in error.details), "not what is missing, but the epoch");
      await refused("CONFLICT", () => store.roomKeys.rekey(id, sealedFor(2, [owner, guest]), { expectedEpoch }));
    }
    assert.deepEqual(await seen(store, id), before);
  },

  "a rekey with ifRevision sees an addition that came before it": async ({ store }) => {
    const guest = unique("guest");
    const { id, owner } = await encryptedRoom(store);
    const { revision } = await store.rooms.get(id);
    await store.members.add(id, { endpoint: guest });
    const before = await seen(store, id);
    await refused("CONFLICT", () =>
      store.roomKeys.rekey(id, sealedFor(2, [owner, guest]), { expectedEpoch: 1, ifRevision: revision }),
    );
    assert.deepEqual(await seen(store, id), before);
    const now = before.room.revision;
    assert.equal(
      (await store.roomKeys.rekey(id, sealedFor(2, [owner, guest]), { expectedEpoch: 1, ifRevision: now })).epoch,
      2,
    );
  },

  "who was removed before a rekey holds no key of its epoch, and who was removed is not missing": async ({
    store,
    other,
  }) => {
    const [a, b] = [unique("a"), unique("b")];
    const { id, owner } = await encryptedRoom(store, a, b);
    await store.members.remove(id, a);
    const error = await refused("CONFLICT", () =>
      store.roomKeys.rekey(id, sealedFor(2, [owner, a, b]), { expectedEpoch: 1 }),
    );
    assert.deepEqual(error.details?.["extra"], [a]);
    await store.roomKeys.rekey(id, sealedFor(2, [owner, b]), { expectedEpoch: 1 });
    for (const each of [store, await other()]) {
      await settled(async () => {
        await refused("NOT_FOUND", () => each.roomKeys.get(id, a, 2));
        await refused("NOT_FOUND", () => each.roomKeys.get(id, a));
      });
    }
    await store.members.add(id, { endpoint: a });
    assert.deepEqual(await store.roomKeys.list(id, a), []);
  },

  "a second rekey of an epoch is CONFLICT and its keys are never seen": async ({ store }) => {
    const { id, owner } = await encryptedRoom(store);
    await store.roomKeys.rekey(id, sealedFor(2, [owner], "winner"), { expectedEpoch: 1 });
    const before = await seen(store, id);
    await refused("CONFLICT", () => store.roomKeys.rekey(id, sealedFor(2, [owner], "loser"), { expectedEpoch: 1 }));
    assert.deepEqual(await seen(store, id), before);
  },

  "a member added after a rekey shows that it lacks the key": async ({ store }) => {
    const guest = unique("guest");
    const { id, owner } = await encryptedRoom(store);
    await store.roomKeys.rekey(id, sealedFor(2, [owner]), { expectedEpoch: 1 });
    await store.members.add(id, { endpoint: guest });
    await refused("NOT_FOUND", () => store.roomKeys.get(id, guest));
    await store.roomKeys.put(id, guest, 1, bytes("history"));
    assert.equal((await store.roomKeys.get(id, guest)).epoch, 1);
    await store.roomKeys.put(id, guest, 2, bytes("now"));
    assert.equal((await store.roomKeys.get(id, guest)).epoch, 2);
  },

  "sealed keys of one byte and of 64 KiB come back byte for byte": async ({ store, reopened }) => {
    const guest = unique("guest");
    const owner = unique("owner");
    const large = new Uint8Array(randomBytes(64 * 1024));
    const { id } = await store.rooms.create({ id: unique("room"), owner, encrypted: true, sealedKey: large });
    await store.members.add(id, {
      endpoint: guest,
      publicKey: new Uint8Array(1024).fill(255),
      sealedKey: { epoch: 1, sealed: Uint8Array.of(0) },
    });
    const every = Uint8Array.from({ length: 256 }, (_, i) => i);
    await store.roomKeys.rekey(
      id,
      new Map([
        [owner, every],
        [guest, large],
      ]),
      { expectedEpoch: 1 },
    );
    const check = async (each: Store): Promise<void> => {
      sameBytes((await each.roomKeys.get(id, owner, 1)).sealed, large, "64 KiB");
      sameBytes((await each.roomKeys.get(id, guest, 1)).sealed, Uint8Array.of(0), "one byte");
      sameBytes((await each.roomKeys.get(id, owner, 2)).sealed, every, "every byte");
      sameBytes((await each.roomKeys.get(id, guest, 2)).sealed, large, "64 KiB");
      sameBytes(
        (await each.members.get(id, guest)).publicKey,
        new Uint8Array(1024).fill(255),
        "public key of 1024 bytes",
      );
    };
    await check(store);
    await check(await reopened());
  },

  "a rekey of more than a megabyte is one rekey": async ({ store }) => {
    const { id, owner } = await encryptedRoom(store);
    const endpoints = Array.from({ length: 20 }, () => unique("m"));
    for (const endpoint of endpoints) await store.members.add(id, { endpoint });
    const sealed = new Map([owner, ...endpoints].map((endpoint) => [endpoint, new Uint8Array(randomBytes(64 * 1024))]));
    assert.equal((await store.roomKeys.rekey(id, sealed, { expectedEpoch: 1 })).epoch, 2);
    for (const [endpoint, key] of sealed) sameBytes((await store.roomKeys.get(id, endpoint)).sealed, key, endpoint);
  },

  "no error shows a sealed key": async ({ store }) => {
    const secret = "TOPSECRET-CIPHERTEXT";
    const sealed = bytes(secret);
    const buffer = Buffer.from(secret);
    const forms = [
      secret,
      buffer.toString("base64"),
      buffer.toString("base64url"),
      buffer.toString("hex"),
      [...sealed].join(","),
    ];
    const guest = unique("guest");
    const { id, owner } = await encryptedRoom(store, guest);
    const attempts: readonly (() => Promise<unknown>)[] = [
      () => store.roomKeys.put(id, guest, 1, sealed),
      () => store.roomKeys.put(id, guest, 2, sealed),
      () => store.roomKeys.put(id, unique("nobody"), 1, sealed),
      () => store.roomKeys.put("", guest, 1, sealed),
      () => store.roomKeys.rekey(id, new Map([[owner, sealed]]), { expectedEpoch: 1 }),
      () =>
        store.roomKeys.rekey(
          id,
          new Map([
            [owner, sealed],
            [guest, sealed],
          ]),
          { expectedEpoch: 5 },
        ),
      () =>
        store.roomKeys.rekey(
          id,
          new Map([
            [owner, sealed],
            [guest, new Uint8Array(0)],
          ]),
          { expectedEpoch: 1 },
        ),
      () => store.members.add(id, { endpoint: guest, sealedKey: { epoch: 1, sealed } }),
      () => store.members.add(id, { endpoint: unique("g"), sealedKey: { epoch: 3, sealed } }),
      () => store.rooms.create({ id, owner, encrypted: true, sealedKey: sealed }),
      () => store.rooms.create({ id: unique("room"), owner, sealedKey: sealed }),
    ];
    for (const attempt of attempts) {
      const error: unknown = await attempt().then(
        () => assert.fail("should have been refused"),
        (reason: unknown) => reason,
      );
      const shown = inspect(error, { depth: 20, maxArrayLength: null }).replaceAll(/\s/g, "");
      for (const form of forms) assert.ok(!shown.includes(form), "an error shows a sealed key");
    }
  },
});
