import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import {
  Revisions,
  bytes,
  cases,
  encryptedRoom,
  recent,
  refused,
  sameBytes,
  sealedFor,
  seen,
  sleep,
  text,
  unique,
  settled,
} from "./case.js";
import type { Store } from "../../store.js";

async function ids(store: Store, endpoint: string): Promise<string[]> {
  return (await store.rooms.listForEndpoint(endpoint)).map((room) => room.id);
}

export const roomCases = cases("rooms", {
  "an unencrypted room has the defaults and its owner as a joined member": async ({ store }) => {
    const owner = unique("owner");
    const room = await store.rooms.create({ id: unique("room"), owner });
    const { id, createdAt, revision } = room;
    assert.deepEqual(room, {
      id,
      name: "",
      encrypted: false,
      owner,
      epoch: 0,
      rekeyRequired: false,
      createdAt,
      revision,
    });
    recent(createdAt, "createdAt");
    text(revision);
    assert.deepEqual(await store.rooms.get(id), room);
    const member = await store.members.get(id, owner);
    const { since } = member;
    recent(since, "since");
    text(member.revision);
    assert.deepEqual(member, {
      roomId: id,
      endpoint: owner,
      role: "owner",
      state: "joined",
      since,
      revision: member.revision,
    });
    assert.deepEqual(await store.members.list(id), [member]);
    assert.deepEqual(await store.rooms.listForEndpoint(owner), [room]);
    assert.deepEqual(await store.roomKeys.list(id, owner), []);
  },

  "an encrypted room with a sealed key is at epoch 1 and its owner holds that key": async ({ store }) => {
    const owner = unique("owner");
    const sealedKey = bytes("sealed");
    const room = await store.rooms.create({
      id: unique("room"),
      name: "Ops ✓",
      encrypted: true,
      owner,
      ownerPublicKey: bytes("pk"),
      sealedKey,
    });
    assert.equal(room.epoch, 1);
    assert.equal(room.encrypted, true);
    assert.equal(room.name, "Ops ✓");
    assert.equal(room.rekeyRequired, false);
    sameBytes((await store.members.get(room.id, owner)).publicKey, bytes("pk"), "public key");
    const key = await store.roomKeys.get(room.id, owner);
    assert.deepEqual(Object.keys(key).sort(), ["createdAt", "endpoint", "epoch", "roomId", "sealed"]);
    assert.equal(key.roomId, room.id);
    assert.equal(key.endpoint, owner);
    assert.equal(key.epoch, 1);
    recent(key.createdAt, "createdAt");
    sameBytes(key.sealed, sealedKey, "sealed key");
  },

  "an encrypted room without a sealed key is at epoch 0 until the first rekey": async ({ store }) => {
    const owner = unique("owner");
    const room = await store.rooms.create({ id: unique("room"), encrypted: true, owner });
    assert.equal(room.epoch, 0);
    assert.equal(room.encrypted, true);
    assert.deepEqual(await store.roomKeys.list(room.id, owner), []);
    await refused("NOT_FOUND", () => store.roomKeys.get(room.id, owner));
    await refused("CONFLICT", () => store.roomKeys.put(room.id, owner, 1, bytes("early")));
    const first = await store.roomKeys.rekey(room.id, sealedFor(1, [owner]), { expectedEpoch: 0 });
    assert.equal(first.epoch, 1);
    assert.equal((await store.roomKeys.get(room.id, owner)).epoch, 1);
  },

  "a sealed key for an unencrypted room is CONFLICT and makes nothing": async ({ store }) => {
    const id = unique("room");
    const owner = unique("owner");
    await refused("CONFLICT", () => store.rooms.create({ id, owner, sealedKey: bytes("k") }));
    await refused("CONFLICT", () => store.rooms.create({ id, owner, encrypted: false, sealedKey: bytes("k") }));
    await refused("NOT_FOUND", () => store.rooms.get(id));
    assert.deepEqual(await store.rooms.listForEndpoint(owner), []);
  },

  "a room without an id gets a random one": async ({ store }) => {
    const owner = unique("owner");
    const made = await Promise.all([1, 2, 3].map(() => store.rooms.create({ owner })));
    assert.equal(new Set(made.map((room) => room.id)).size, 3);
    for (const room of made) {
      text(room.id);
      assert.deepEqual(await store.rooms.get(room.id), room);
    }
    assert.deepEqual(new Set(await ids(store, owner)), new Set(made.map((room) => room.id)));
  },

  "a duplicate id is ALREADY_EXISTS and the first room stays as it was": async ({ store }) => {
    const guest = unique("guest");
    const { id } = await encryptedRoom(store, guest);
    const before = await seen(store, id);
    const owner = unique("intruder");
    await refused("ALREADY_EXISTS", () => store.rooms.create({ id, owner, name: "mine" }));
    await refused("ALREADY_EXISTS", () => store.rooms.create({ id, owner, encrypted: true, sealedKey: bytes("mine") }));
    await refused("ALREADY_EXISTS", () =>
      store.rooms.create({ id, owner: guest, encrypted: true, sealedKey: bytes("mine") }),
    );
    assert.deepEqual(await seen(store, id), before);
    assert.deepEqual(await store.rooms.listForEndpoint(owner), []);
    await refused("NOT_FOUND", () => store.members.get(id, owner));
  },

  "update renames, and a change of nothing changes nothing": async ({ store }) => {
    const { id } = await encryptedRoom(store);
    const first = await store.rooms.get(id);
    const renamed = await store.rooms.update(id, { name: "other" });
    assert.notEqual(renamed.revision, first.revision);
    assert.deepEqual(renamed, { ...first, name: "other", revision: renamed.revision });
    assert.deepEqual(await store.rooms.get(id), renamed);
    assert.deepEqual(await store.rooms.update(id, {}), renamed);
    assert.deepEqual(await store.rooms.update(id, { name: "other" }), renamed);
    assert.deepEqual(await store.rooms.update(id, { name: "other", owner: first.owner }), renamed);
    assert.deepEqual(await store.rooms.get(id), renamed);
    assert.equal((await store.rooms.update(id, { name: "" })).name, "");
  },

  "update with ifRevision wants that very revision": async ({ store }) => {
    const { id } = await encryptedRoom(store);
    const first = await store.rooms.get(id);
    const second = await store.rooms.update(id, { name: "two" }, { ifRevision: first.revision });
    await refused("CONFLICT", () => store.rooms.update(id, { name: "three" }, { ifRevision: first.revision }));
    await refused(
      "CONFLICT",
      () => store.rooms.update(id, { name: "two" }, { ifRevision: first.revision }),
      "a change of nothing",
    );
    await refused("CONFLICT", () => store.rooms.update(id, { name: "three" }, { ifRevision: "no such revision" }));
    assert.deepEqual(await store.rooms.get(id), second);
    // The membership is part of what a room's revision stands for.
    await store.members.add(id, { endpoint: unique("guest") });
    await refused("CONFLICT", () => store.rooms.update(id, { name: "three" }, { ifRevision: second.revision }));
  },

  "ownership moves to a joined member, and the old owner stays a member": async ({ store }) => {
    const guest = unique("guest");
    const { id, owner } = await encryptedRoom(store, guest);
    await store.members.join(id, guest);
    const before = await store.rooms.get(id);
    const ownerBefore = await store.members.get(id, owner);
    const guestBefore = await store.members.get(id, guest);
    const moved = await store.rooms.update(id, { owner: guest }, { ifRevision: before.revision });
    assert.deepEqual(moved, { ...before, owner: guest, revision: moved.revision });
    assert.notEqual(moved.revision, before.revision);
    const [ownerNow, guestNow] = [await store.members.get(id, owner), await store.members.get(id, guest)];
    assert.deepEqual(ownerNow, { ...ownerBefore, role: "member", revision: ownerNow.revision });
    assert.deepEqual(guestNow, { ...guestBefore, role: "owner", revision: guestNow.revision });
    assert.notEqual(ownerNow.revision, ownerBefore.revision);
    assert.notEqual(guestNow.revision, guestBefore.revision);
    await refused("CONFLICT", () => store.members.remove(id, guest), "the new owner cannot be removed");
    await store.members.remove(id, owner);
    assert.equal((await store.rooms.get(id)).rekeyRequired, true);
    assert.deepEqual(await store.rooms.listForEndpoint(owner), []);
    assert.deepEqual(
      (await store.members.list(id)).map((member) => member.endpoint),
      [guest],
    );
  },

  "ownership does not move to an invited member or to nobody, and a name beside it stays": async ({ store }) => {
    const guest = unique("guest");
    const { id } = await encryptedRoom(store, guest);
    const before = await seen(store, id);
    await refused("CONFLICT", () => store.rooms.update(id, { owner: guest, name: "new" }), "invited");
    await refused("NOT_FOUND", () => store.rooms.update(id, { owner: unique("stranger"), name: "new" }), "no member");
    assert.deepEqual(await seen(store, id), before);
  },

  "a deleted room is gone with its members, keys and index entries": async ({ store, other }) => {
    const guest = unique("guest");
    const { id, owner } = await encryptedRoom(store, guest);
    await store.members.join(id, guest);
    const kept = await encryptedRoom(store, guest);
    const another = await other();
    assert.equal(await another.isMember(id, guest), true);
    await store.rooms.delete(id);
    for (const each of [another, store])
      for (const endpoint of [guest, owner]) assert.equal(await each.isMember(id, endpoint), false);
    for (const each of [store, another]) {
      await settled(async () => {
        assert.equal(await each.isMember(id, guest), false);
        assert.equal(await each.isMember(id, owner), false);
        await refused("NOT_FOUND", () => each.rooms.get(id));
        await refused("NOT_FOUND", () => each.rooms.update(id, { name: "x" }));
        await refused("NOT_FOUND", () => each.rooms.delete(id));
        await refused("NOT_FOUND", () => each.members.list(id));
        for (const endpoint of [owner, guest]) {
          await refused("NOT_FOUND", () => each.members.get(id, endpoint));
          await refused("NOT_FOUND", () => each.members.join(id, endpoint));
          await refused("NOT_FOUND", () => each.members.remove(id, endpoint));
          await refused("NOT_FOUND", () => each.roomKeys.get(id, endpoint));
          await refused("NOT_FOUND", () => each.roomKeys.get(id, endpoint, 1));
          await refused("NOT_FOUND", () => each.roomKeys.list(id, endpoint));
        }
        assert.deepEqual(await each.rooms.listForEndpoint(owner), []);
        assert.deepEqual(await ids(each, guest), [kept.id]);
      });
    }
  },

  "a re-created room has nothing of the old one": async ({ store, other }) => {
    const guest = unique("guest");
    const { id, owner } = await encryptedRoom(store, guest);
    await store.members.join(id, guest);
    await store.roomKeys.rekey(id, sealedFor(2, [owner, guest]), { expectedEpoch: 1 });
    const old = await store.rooms.get(id);
    await store.rooms.delete(id);
    const newOwner = unique("owner");
    const room = await store.rooms.create({ id, encrypted: true, owner: newOwner, sealedKey: bytes("fresh") });
    assert.deepEqual(room, {
      id,
      name: "",
      encrypted: true,
      owner: newOwner,
      epoch: 1,
      rekeyRequired: false,
      createdAt: room.createdAt,
      revision: room.revision,
    });
    assert.notEqual(room.revision, old.revision);
    for (const each of [store, await other()]) {
      await settled(async () => {
        assert.deepEqual(
          (await each.members.list(id)).map((member) => member.endpoint),
          [newOwner],
        );
        assert.equal(await each.isMember(id, guest), false);
        assert.equal(await each.isMember(id, owner), false);
        assert.deepEqual(await each.rooms.listForEndpoint(guest), []);
        assert.deepEqual(await each.rooms.listForEndpoint(owner), []);
        assert.deepEqual(
          (await each.roomKeys.list(id, newOwner)).map((key) => key.epoch),
          [1],
        );
        await refused("NOT_FOUND", () => each.roomKeys.get(id, newOwner, 2));
      });
    }
    await store.members.add(id, { endpoint: guest });
    assert.deepEqual(await store.roomKeys.list(id, guest), [], "a member of before has no key of before");
    await refused("NOT_FOUND", () => store.roomKeys.get(id, guest));
  },

  "a room made again and again with the same members has the keys of its own life alone": async ({ store, other }) => {
    const id = unique("room");
    const [owner, guest] = [unique("owner"), unique("guest")];
    const another = await other();
    for (let life = 0; life < 4; life++) {
      const [one, two] = life % 2 === 0 ? [store, another] : [another, store];
      const sealedOf = (epoch: number): Uint8Array => bytes(`life ${String(life)} epoch ${String(epoch)}`);
      await one.rooms.create({ id, owner, encrypted: true, sealedKey: sealedOf(1) });
      await one.members.add(id, { endpoint: guest, state: "joined" });
      assert.deepEqual(await one.roomKeys.list(id, guest), [], "no key of an earlier life");
      const epochs = 2 + (life % 2);
      for (let epoch = 2; epoch <= epochs; epoch++) {
        const sealed = new Map([owner, guest].map((endpoint) => [endpoint, sealedOf(epoch)]));
        await one.roomKeys.rekey(id, sealed, { expectedEpoch: epoch - 1 });
      }
      await settled(async () => {
        const held = await two.roomKeys.list(id, guest);
        assert.deepEqual(
          held.map((key) => [key.epoch, Buffer.from(key.sealed).toString()]),
          Array.from({ length: epochs - 1 }, (_, i) => [i + 2, Buffer.from(sealedOf(i + 2)).toString()]),
        );
      });
      sameBytes((await one.roomKeys.get(id, owner, 1)).sealed, sealedOf(1), "the owner's first key");
      await refused("NOT_FOUND", () => one.roomKeys.get(id, guest, epochs + 1));
      assert.equal(await two.isMember(id, guest), true);
      await one.rooms.delete(id);
      assert.equal(await two.isMember(id, guest), false);
      assert.deepEqual(await two.members.listForEndpoint(guest), []);
    }
  },

  "a room deleted and made again with other properties is the new one for good": async ({ store }) => {
    const id = unique("room");
    const owner = unique("owner");
    const revisions = new Revisions(
      (await store.rooms.create({ id, owner, encrypted: true, sealedKey: bytes("a") })).revision,
    );
    for (let round = 0; round < 5; round++) {
      await store.rooms.delete(id);
      const encrypted = round % 2 === 1;
      const room = await store.rooms.create({ id, owner, encrypted });
      revisions.changed(room.revision, "re-created");
      assert.equal(room.encrypted, encrypted);
      assert.equal(room.epoch, 0);
      assert.deepEqual(await store.roomKeys.list(id, owner), []);
      assert.deepEqual(await ids(store, owner), [id]);
    }
  },

  "listForEndpoint is exact, of any state, and sorted by id": async ({ store, other }) => {
    const endpoint = unique("endpoint");
    const stem = unique("room");
    assert.deepEqual(await store.rooms.listForEndpoint(endpoint), [], "an endpoint that nobody knows");
    const names = ["\uff5e", "\u{1f600}", "b", "B", "a", "Z", "é", "10", "9"].map((end) => stem + end);
    for (const id of names) await store.rooms.create({ id, owner: id === `${stem}a` ? endpoint : unique("owner") });
    for (const id of names.filter((id) => id !== `${stem}a`)) await store.members.add(id, { endpoint });
    await store.members.join(`${stem}b`, endpoint);
    await store.members.remove(`${stem}Z`, endpoint);
    await store.rooms.delete(`${stem}9`);
    const expected = ["10", "B", "a", "b", "é", "\uff5e", "\u{1f600}"].map((end) => stem + end);
    for (const each of [store, await other()]) {
      await settled(async () => {
        const rooms = await each.rooms.listForEndpoint(endpoint);
        assert.deepEqual(
          rooms.map((room) => room.id),
          expected,
        );
        for (const room of rooms) assert.deepEqual(room, await each.rooms.get(room.id));
      });
    }
  },

  "everything is there after the store was closed and opened again": async (context) => {
    const guest = unique("guest");
    const { id, owner } = await encryptedRoom(context.store, guest);
    await context.store.members.join(id, guest);
    await context.store.roomKeys.rekey(id, sealedFor(2, [owner, guest]), { expectedEpoch: 1 });
    const gone = await encryptedRoom(context.store, guest);
    await context.store.rooms.delete(gone.id);
    const key = unique("key");
    await context.store.users.add({ key, role: "member", name: "n", expiresAt: new Date("2999-01-01T00:00:00.123Z") });
    const before = await seen(context.store, id);
    const user = await context.store.users.get(key);
    const store = await context.reopened();
    await settled(async () => {
      assert.deepEqual(await seen(store, id), before);
    });
    assert.deepEqual(await store.users.get(key), user);
    assert.equal(await store.isAuthorized(key), true);
    assert.equal(await store.isMember(id, guest), true);
    await settled(async () => {
      await refused("NOT_FOUND", () => store.rooms.get(gone.id));
    });
    const later = await store.rooms.update(id, { name: "later" });
    assert.notEqual(later.revision, before.room.revision);
  },

  "a room's revision changes exactly when the room or its membership does": async ({ store }) => {
    const guest = unique("guest");
    const second = unique("second");
    const { id, owner } = await encryptedRoom(store);
    const room = async (): Promise<string> => (await store.rooms.get(id)).revision;
    const revisions = new Revisions(await room());
    const changes: readonly (readonly [string, () => Promise<unknown>])[] = [
      ["add", () => store.members.add(id, { endpoint: guest })],
      ["join", () => store.members.join(id, guest)],
      ["rename", () => store.rooms.update(id, { name: "x" })],
      ["rename back", () => store.rooms.update(id, { name: "a room" })],
      ["rekey", () => store.roomKeys.rekey(id, sealedFor(2, [owner, guest]), { expectedEpoch: 1 })],
      ["add another", () => store.members.add(id, { endpoint: second, state: "joined" })],
      ["transfer", () => store.rooms.update(id, { owner: guest })],
      ["transfer back", () => store.rooms.update(id, { owner })],
      ["remove", () => store.members.remove(id, guest)],
      ["add again", () => store.members.add(id, { endpoint: guest })],
      ["remove again", () => store.members.remove(id, guest)],
    ];
    const nothing: readonly (readonly [string, () => Promise<unknown>])[] = [
      ["get", () => store.rooms.get(id)],
      ["join of a joined member", () => store.members.join(id, owner)],
      ["update of nothing", () => store.rooms.update(id, {})],
      ["update to what it is", async () => store.rooms.update(id, { owner: (await store.rooms.get(id)).owner })],
      ["a refused duplicate", () => refused("ALREADY_EXISTS", () => store.members.add(id, { endpoint: owner }))],
      ["a refused removal", () => refused("NOT_FOUND", () => store.members.remove(id, unique("nobody")))],
      [
        "a refused rekey",
        () => refused("CONFLICT", () => store.roomKeys.rekey(id, sealedFor(2, [owner]), { expectedEpoch: 77 })),
      ],
    ];
    for (const [change, run] of changes) {
      await run();
      revisions.changed(await room(), change);
      for (const [what, still] of nothing) {
        await still();
        revisions.kept(await room(), what);
      }
    }
    // A key is no field of the room: that a member lacked one and has it now changes no revision.
    await store.roomKeys.put(id, second, 1, bytes("old"));
    revisions.kept(await room(), "put");
    await store.rooms.delete(id);
    revisions.changed(
      (await store.rooms.create({ id, owner, name: "a room", encrypted: true, sealedKey: bytes("x") })).revision,
      "created again",
    );
  },

  "createdAt stays while the room lives": async ({ store }) => {
    const { id, owner } = await encryptedRoom(store);
    const { createdAt } = await store.rooms.get(id);
    await sleep(5);
    await store.rooms.update(id, { name: "later" });
    await store.roomKeys.rekey(id, sealedFor(2, [owner]), { expectedEpoch: 1 });
    assert.deepEqual((await store.rooms.get(id)).createdAt, createdAt);
  },
});
