import assert from "node:assert/strict";
import { bytes, cases, encryptedRoom, sameBytes, settled, unique } from "./case.js";
import type { Room, User } from "../../store.js";

/** Changes whatever can be changed of a record: what it came from must not notice. */
function spoil(value: unknown): void {
  if (value instanceof Uint8Array) {
    new Uint8Array(value.buffer).fill(0xee);
  } else if (value instanceof Date) {
    value.setTime(1);
  } else if (Array.isArray(value)) {
    value.forEach(spoil);
    value.length = 0;
  } else if (typeof value === "object" && value !== null) {
    for (const [name, field] of Object.entries(value)) {
      spoil(field);
      // A frozen record is as good a copy as one that can be changed.
      Reflect.set(value, name, "spoilt");
    }
  }
}

export const copyCases = cases("copies", {
  "bytes given in are copied before the call returns": async ({ store }) => {
    const owner = unique("owner");
    const guest = unique("guest");
    const id = unique("room");
    const [publicKey, sealedKey] = [bytes("public"), bytes("sealed")];
    const creating = store.rooms.create({ id, owner, encrypted: true, ownerPublicKey: publicKey, sealedKey });
    publicKey.fill(0);
    sealedKey.fill(0);
    await creating;
    sameBytes((await store.members.get(id, owner)).publicKey, bytes("public"), "owner's public key");
    sameBytes((await store.roomKeys.get(id, owner)).sealed, bytes("sealed"), "owner's sealed key");

    const [guestKey, guestSealed] = [bytes("guest public"), bytes("guest sealed")];
    const adding = store.members.add(id, {
      endpoint: guest,
      publicKey: guestKey,
      sealedKey: { epoch: 1, sealed: guestSealed },
    });
    guestKey.fill(0);
    guestSealed.fill(0);
    await adding;
    sameBytes((await store.members.get(id, guest)).publicKey, bytes("guest public"), "guest's public key");
    sameBytes((await store.roomKeys.get(id, guest)).sealed, bytes("guest sealed"), "guest's sealed key");

    const second = bytes("second");
    const keys = new Map([
      [owner, second],
      [guest, bytes("second for guest")],
    ]);
    const rekeying = store.roomKeys.rekey(id, keys, { expectedEpoch: 1 });
    second.fill(0);
    keys.clear();
    assert.equal((await rekeying).epoch, 2);
    sameBytes((await store.roomKeys.get(id, owner)).sealed, bytes("second"), "the owner's second key");
    sameBytes((await store.roomKeys.get(id, guest)).sealed, bytes("second for guest"), "the guest's second key");

    const late = unique("late");
    await store.members.add(id, { endpoint: late });
    const put = bytes("put");
    const putting = store.roomKeys.put(id, late, 2, put);
    put.fill(0);
    await putting;
    sameBytes((await store.roomKeys.get(id, late)).sealed, bytes("put"), "a key put");
  },

  "objects and dates given in are copied before the call returns": async ({ store }) => {
    const key = unique("key");
    const expiresAt = new Date("2999-01-01T00:00:00Z");
    const user = { key, name: "n", expiresAt };
    const adding = store.users.add(user);
    user.name = "changed";
    expiresAt.setTime(0);
    await adding;
    const added = await store.users.get(key);
    assert.equal(added.name, "n");
    assert.deepEqual(added.expiresAt, new Date("2999-01-01T00:00:00Z"));
    const later = new Date("2998-01-01T00:00:00Z");
    const change = { name: "m", expiresAt: later };
    const updating = store.users.update(key, change);
    change.name = "changed";
    later.setTime(0);
    await updating;
    const updated = await store.users.get(key);
    assert.equal(updated.name, "m");
    assert.deepEqual(updated.expiresAt, new Date("2998-01-01T00:00:00Z"));
  },

  "a view into a larger buffer and a Buffer are taken for what they show": async ({ store }) => {
    const guest = unique("guest");
    const { id } = await encryptedRoom(store, guest);
    const around = bytes("before|inside|after");
    const late = unique("late");
    await store.members.add(id, { endpoint: late, publicKey: around.subarray(7, 13) });
    sameBytes((await store.members.get(id, late)).publicKey, bytes("inside"), "a view");
    await store.roomKeys.put(id, late, 1, Buffer.from("a buffer"));
    const key = await store.roomKeys.get(id, late);
    sameBytes(key.sealed, bytes("a buffer"), "a Buffer");
    assert.equal(key.sealed.length, 8);
  },

  "a record that was changed changes nothing": async ({ store, other }) => {
    const guest = unique("guest");
    const { id, owner } = await encryptedRoom(store, guest);
    const key = unique("key");
    await store.users.add({ key, expiresAt: new Date("2999-01-01T00:00:00Z") });
    for (const each of [store, await other()]) {
      await settled(async () => {
        assert.deepEqual(await each.rooms.get(id), await store.rooms.get(id));
      });
      const reads: readonly (readonly [string, () => Promise<unknown>])[] = [
        ["rooms.get", () => each.rooms.get(id)],
        ["rooms.listForEndpoint", () => each.rooms.listForEndpoint(guest)],
        ["rooms.update", () => each.rooms.update(id, {})],
        ["members.get", () => each.members.get(id, guest)],
        ["members.list", () => each.members.list(id)],
        ["members.listForEndpoint", () => each.members.listForEndpoint(guest)],
        ["members.join", () => each.members.join(id, owner)],
        ["roomKeys.get", () => each.roomKeys.get(id, guest)],
        ["roomKeys.list", () => each.roomKeys.list(id, guest)],
        ["users.get", () => each.users.get(key)],
        ["users.update", () => each.users.update(key, {})],
        ["users.reinstate", () => each.users.reinstate(key)],
        // What it rests on is another proof each time.
        ["authorize", async () => ({ ...(await each.authorize(key)), proof: undefined })],
        ["rooms.list", async () => (await each.rooms.list({ limit: 1 })).items],
        ["users.list", async () => (await each.users.list({ limit: 1 })).items],
      ];
      for (const [name, read] of reads) {
        const expected = structuredClone(await read());
        spoil(await read());
        assert.deepEqual(await read(), expected, name);
        assert.notEqual(await read(), await read(), `${name}: a fresh one each time`);
      }
      assert.equal(await each.isAuthorized(key), true);
    }
  },

  "the record that a write returns is a copy too": async ({ store }) => {
    const owner = unique("owner");
    const id = unique("room");
    spoil(
      await store.rooms.create({
        id,
        owner,
        name: "n",
        encrypted: true,
        sealedKey: bytes("k"),
        ownerPublicKey: bytes("p"),
      }),
    );
    assert.equal((await store.rooms.get(id)).name, "n");
    const guest = unique("guest");
    spoil(await store.members.add(id, { endpoint: guest, publicKey: bytes("pk") }));
    sameBytes((await store.members.get(id, guest)).publicKey, bytes("pk"), "public key");
    spoil(await store.roomKeys.put(id, guest, 1, bytes("sealed")));
    sameBytes((await store.roomKeys.get(id, guest)).sealed, bytes("sealed"), "sealed");
    spoil(
      await store.roomKeys.rekey(
        id,
        new Map([
          [owner, bytes("o2")],
          [guest, bytes("g2")],
        ]),
        { expectedEpoch: 1 },
      ),
    );
    assert.equal((await store.rooms.get(id)).epoch, 2);
    const key = unique("key");
    spoil(await store.users.add({ key, name: "n", expiresAt: new Date("2999-01-01T00:00:00Z") }));
    spoil(await store.users.update(key, { name: "m" }));
    const user: User = await store.users.get(key);
    assert.deepEqual([user.name, user.expiresAt?.getTime()], ["m", Date.parse("2999-01-01T00:00:00Z")]);
    spoil(await store.users.revoke(key));
    assert.equal((await store.users.get(key)).status, "revoked");
    const room: Room = await store.rooms.get(id);
    assert.ok(room.createdAt.getTime() > 1);
  },
});
