import assert from "node:assert/strict";
import {
  Revisions,
  atOnce,
  bytes,
  byCodePoint,
  cases,
  encryptedRoom,
  recent,
  refused,
  sameBytes,
  sealedFor,
  seen,
  sleep,
  unique,
  settled,
} from "./case.js";

const endpointOf = ({ endpoint }: { readonly endpoint: string }): string => endpoint;

export const memberCases = cases("members", {
  "a member is invited by default and has what was given": async ({ store }) => {
    const { id, owner } = await encryptedRoom(store);
    const endpoint = unique("guest");
    const publicKey = bytes("pk");
    const member = await store.members.add(id, {
      endpoint,
      invitedBy: owner,
      publicKey,
      sealedKey: { epoch: 1, sealed: bytes("for you") },
    });
    const { since, revision } = member;
    recent(since, "since");
    sameBytes(member.publicKey, publicKey, "public key");
    assert.deepEqual(
      { ...member, publicKey: undefined },
      {
        roomId: id,
        endpoint,
        role: "member",
        state: "invited",
        invitedBy: owner,
        publicKey: undefined,
        since,
        revision,
      },
    );
    assert.deepEqual(await store.members.get(id, endpoint), member);
    const key = await store.roomKeys.get(id, endpoint);
    assert.equal(key.epoch, 1);
    sameBytes(key.sealed, bytes("for you"), "sealed key");
    assert.equal((await store.rooms.listForEndpoint(endpoint))[0]?.id, id);
  },

  "what was not given is absent": async ({ store }) => {
    const { id } = await encryptedRoom(store);
    const endpoint = unique("guest");
    const member = await store.members.add(id, { endpoint });
    assert.deepEqual(Object.keys(member).sort(), ["endpoint", "revision", "role", "roomId", "since", "state"]);
    assert.deepEqual(Object.keys(await store.members.get(id, endpoint)).sort(), Object.keys(member).sort());
    assert.deepEqual(await store.roomKeys.list(id, endpoint), [], "a member without keys has none, and is found");
    await refused("NOT_FOUND", () => store.roomKeys.get(id, endpoint));
  },

  "a member added as joined is one at once": async ({ store, other }) => {
    const { id } = await encryptedRoom(store);
    const endpoint = unique("guest");
    assert.equal((await store.members.add(id, { endpoint, state: "joined" })).state, "joined");
    assert.equal(await store.isMember(id, endpoint), true);
    assert.equal(await (await other()).isMember(id, endpoint), true);
  },

  "an invited member is none for isMember until it joined": async ({ store, other }) => {
    const endpoint = unique("guest");
    const { id } = await encryptedRoom(store, endpoint);
    const another = await other();
    const invited = await store.members.get(id, endpoint);
    assert.equal(await store.isMember(id, endpoint), false);
    assert.equal(await another.isMember(id, endpoint), false);
    await sleep(5);
    const joined = await store.members.join(id, endpoint);
    assert.deepEqual(
      joined,
      { ...invited, state: "joined", revision: joined.revision },
      "since is when the membership began",
    );
    assert.notEqual(joined.revision, invited.revision);
    await settled(async () => {
      assert.deepEqual(await another.members.get(id, endpoint), joined);
    });
    assert.equal(await store.isMember(id, endpoint), true);
    assert.equal(await another.isMember(id, endpoint), true);
  },

  "join is idempotent": async ({ store }) => {
    const endpoint = unique("guest");
    const { id, owner } = await encryptedRoom(store, endpoint);
    const joined = await store.members.join(id, endpoint);
    const before = await seen(store, id);
    assert.deepEqual(await store.members.join(id, endpoint), joined);
    assert.equal((await store.members.join(id, owner)).role, "owner");
    assert.deepEqual(await seen(store, id), before);
  },

  "a duplicate is ALREADY_EXISTS and the first member stays as it was": async ({ store }) => {
    const endpoint = unique("guest");
    const { id, owner } = await encryptedRoom(store, endpoint);
    const before = await seen(store, id);
    await refused("ALREADY_EXISTS", () => store.members.add(id, { endpoint }));
    await refused("ALREADY_EXISTS", () =>
      store.members.add(id, { endpoint, state: "joined", publicKey: bytes("other") }),
    );
    await refused("ALREADY_EXISTS", () =>
      store.members.add(id, { endpoint, sealedKey: { epoch: 1, sealed: bytes("other") } }),
    );
    await refused("ALREADY_EXISTS", () =>
      store.members.add(id, { endpoint, sealedKey: { epoch: 9, sealed: bytes("other") } }),
    );
    await refused("ALREADY_EXISTS", () => store.members.add(id, { endpoint: owner, state: "joined" }));
    assert.deepEqual(await seen(store, id), before);
  },

  "a sealed key of another epoch is CONFLICT and adds nobody": async ({ store }) => {
    const { id } = await encryptedRoom(store);
    const plain = await store.rooms.create({ id: unique("room"), owner: unique("owner") });
    const young = await store.rooms.create({ id: unique("room"), owner: unique("owner"), encrypted: true });
    const endpoint = unique("guest");
    for (const [roomId, epoch] of [
      [id, 2],
      [plain.id, 1],
      [young.id, 1],
    ] as const) {
      const before = await seen(store, roomId);
      await refused("CONFLICT", () =>
        store.members.add(roomId, { endpoint, sealedKey: { epoch, sealed: bytes("k") } }),
      );
      await refused("NOT_FOUND", () => store.members.get(roomId, endpoint));
      assert.deepEqual(await seen(store, roomId), before);
    }
    assert.deepEqual(await store.rooms.listForEndpoint(endpoint), []);
  },

  "a sealed key of an epoch gone by is CONFLICT": async ({ store }) => {
    const { id, owner } = await encryptedRoom(store);
    await store.roomKeys.rekey(id, sealedFor(2, [owner]), { expectedEpoch: 1 });
    const endpoint = unique("guest");
    await refused("CONFLICT", () => store.members.add(id, { endpoint, sealedKey: { epoch: 1, sealed: bytes("k") } }));
    await store.members.add(id, { endpoint, sealedKey: { epoch: 2, sealed: bytes("k") } });
    assert.equal((await store.roomKeys.get(id, endpoint)).epoch, 2);
  },

  "a removed member is gone with its keys, also after it is added again": async ({ store, other }) => {
    const endpoint = unique("guest");
    const { id, owner } = await encryptedRoom(store, endpoint);
    await store.members.join(id, endpoint);
    await store.roomKeys.rekey(id, sealedFor(2, [owner, endpoint]), { expectedEpoch: 1 });
    const first = await store.members.get(id, endpoint);
    const another = await other();
    assert.equal(await another.isMember(id, endpoint), true);
    await store.members.remove(id, endpoint);
    for (const each of [another, store]) assert.equal(await each.isMember(id, endpoint), false);
    for (const each of [store, another]) {
      await settled(async () => {
        assert.equal(await each.isMember(id, endpoint), false);
        await refused("NOT_FOUND", () => each.members.get(id, endpoint));
        await refused("NOT_FOUND", () => each.members.remove(id, endpoint));
        await refused("NOT_FOUND", () => each.members.join(id, endpoint));
        await refused("NOT_FOUND", () => each.roomKeys.get(id, endpoint));
        await refused("NOT_FOUND", () => each.roomKeys.get(id, endpoint, 2));
        await refused("NOT_FOUND", () => each.roomKeys.list(id, endpoint));
        await refused("NOT_FOUND", () => each.roomKeys.put(id, endpoint, 1, bytes("k")));
        assert.deepEqual(await each.rooms.listForEndpoint(endpoint), []);
        assert.deepEqual(
          (await each.members.list(id)).map((member) => member.endpoint),
          [owner],
        );
      });
    }
    await sleep(5);
    const again = await store.members.add(id, { endpoint, state: "joined" });
    assert.notEqual(again.revision, first.revision);
    assert.ok(again.since.getTime() >= first.since.getTime());
    assert.ok(!("publicKey" in again), "nothing of the old membership");
    assert.ok(!("invitedBy" in again), "nothing of the old membership");
    for (const each of [store, another]) {
      await settled(async () => {
        assert.deepEqual(await each.roomKeys.list(id, endpoint), []);
        await refused("NOT_FOUND", () => each.roomKeys.get(id, endpoint));
        await refused("NOT_FOUND", () => each.roomKeys.get(id, endpoint, 1));
        await refused("NOT_FOUND", () => each.roomKeys.get(id, endpoint, 2));
      });
    }
    assert.deepEqual(
      (await store.roomKeys.list(id, owner)).map((key) => key.epoch),
      [1, 2],
      "the others keep theirs",
    );
  },

  "the owner cannot be removed": async ({ store }) => {
    const guest = unique("guest");
    const { id, owner } = await encryptedRoom(store, guest);
    const before = await seen(store, id);
    await refused("CONFLICT", () => store.members.remove(id, owner));
    assert.deepEqual(await seen(store, id), before);
  },

  "removal from an encrypted room is a debt that only a rekey pays": async ({ store, other }) => {
    const [a, b] = [unique("a"), unique("b")];
    const { id, owner } = await encryptedRoom(store, a, b);
    const required = async (): Promise<boolean> => (await store.rooms.get(id)).rekeyRequired;
    assert.equal(await required(), false);
    await store.members.remove(id, a);
    assert.equal(await required(), true);
    await settled(async () => {
      assert.equal((await (await other()).rooms.get(id)).rekeyRequired, true);
    });
    await store.rooms.update(id, { name: "renamed" });
    assert.equal(await required(), true, "after an update");
    await store.members.join(id, b);
    await store.rooms.update(id, { owner: b });
    assert.equal(await required(), true, "after a transfer");
    await store.members.add(id, { endpoint: a, sealedKey: { epoch: 1, sealed: bytes("again") } });
    assert.equal(await required(), true, "after adding the removed one again");
    await store.roomKeys.put(id, a, 1, bytes("x")).catch(() => undefined);
    assert.equal(await required(), true, "after a put");
    await refused("CONFLICT", () => store.roomKeys.rekey(id, sealedFor(2, [owner]), { expectedEpoch: 1 }));
    assert.equal(await required(), true, "after a refused rekey");
    await store.members.remove(id, a);
    assert.equal(await required(), true, "after a second removal");
    const room = await store.roomKeys.rekey(id, sealedFor(2, [owner, b]), { expectedEpoch: 1 });
    assert.equal(room.rekeyRequired, false);
    assert.equal(await required(), false);
    assert.equal((await store.rooms.listForEndpoint(owner))[0]?.rekeyRequired, false);
  },

  "removal sets the debt of an encrypted room at epoch 0 too, and never of an unencrypted one": async ({ store }) => {
    const endpoint = unique("guest");
    for (const encrypted of [true, false]) {
      const room = await store.rooms.create({ id: unique("room"), owner: unique("owner"), encrypted });
      await store.members.add(room.id, { endpoint });
      await store.members.remove(room.id, endpoint);
      assert.equal((await store.rooms.get(room.id)).rekeyRequired, encrypted);
    }
  },

  "members are listed whole, in any state, sorted by code point": async ({ store, other }) => {
    const { id, owner } = await encryptedRoom(store);
    const ends = ["\uff5e", "\u{1f600}", "\u{10ffff}", "\ue000", "b", "B", "a", "a ", "Z", "é", "e\u0301", "10", "9"];
    const stem = unique("m");
    for (const [i, end] of ends.entries())
      await store.members.add(id, { endpoint: stem + end, state: i % 2 === 0 ? "invited" : "joined" });
    const expected = [owner, ...ends.map((end) => stem + end)].sort(byCodePoint);
    for (const each of [store, await other()]) {
      await settled(async () => {
        const members = await each.members.list(id);
        assert.deepEqual(
          members.map((member) => member.endpoint),
          expected,
        );
        for (const member of members) assert.deepEqual(member, await each.members.get(id, member.endpoint));
      });
    }
  },

  "a member's revision changes exactly when the member does": async ({ store }) => {
    const endpoint = unique("guest");
    const { id, owner } = await encryptedRoom(store, endpoint);
    const now = async (): Promise<string> => (await store.members.get(id, endpoint)).revision;
    const revisions = new Revisions(await now());
    await store.rooms.update(id, { name: "renamed" });
    await store.members.add(id, { endpoint: unique("other") });
    revisions.kept(await now(), "what happens to the room and to others");
    await store.members.join(id, endpoint);
    revisions.changed(await now(), "join");
    await store.members.join(id, endpoint);
    revisions.kept(await now(), "join again");
    await store.rooms.update(id, { owner: endpoint });
    revisions.changed(await now(), "becoming the owner");
    await store.rooms.update(id, { owner });
    revisions.changed(await now(), "being the owner no more");
    const names = (await store.members.list(id)).map((member) => member.endpoint);
    await store.roomKeys.rekey(id, sealedFor(2, names), { expectedEpoch: 1 });
    revisions.kept(await now(), "rekey");
    await store.members.remove(id, endpoint);
    revisions.changed((await store.members.add(id, { endpoint })).revision, "added again");
    await store.rooms.delete(id);
    await store.rooms.create({ id, owner });
    revisions.changed((await store.members.add(id, { endpoint })).revision, "added to the room of the same id");
  },

  "one endpoint is a member of many rooms, each on its own": async ({ store }) => {
    const endpoint = unique("guest");
    const rooms = [
      await encryptedRoom(store, endpoint),
      await encryptedRoom(store, endpoint),
      await encryptedRoom(store, endpoint),
    ] as const;
    await store.members.join(rooms[0].id, endpoint);
    await store.members.remove(rooms[1].id, endpoint);
    assert.equal((await store.members.get(rooms[0].id, endpoint)).state, "joined");
    assert.equal((await store.members.get(rooms[2].id, endpoint)).state, "invited");
    assert.deepEqual(
      (await store.rooms.listForEndpoint(endpoint)).map((room) => room.id),
      [rooms[0].id, rooms[2].id].sort(byCodePoint),
    );
    sameBytes(
      (await store.roomKeys.get(rooms[2].id, endpoint)).sealed,
      bytes(`sealed 1 ${endpoint}`),
      "key of the other room",
    );
  },

  "listForEndpoint gives each membership of an endpoint as it is, of any state and role, sorted by room id": async ({
    store,
    other,
  }) => {
    const endpoint = unique("endpoint");
    const stem = unique("room");
    assert.deepEqual(await store.members.listForEndpoint(endpoint), [], "an endpoint that nobody knows");
    const ends = ["\uff5e", "\u{1f600}", "\ue000", "b", "B", "a", "Z", "é", "10", "9", "owned", "left", "deleted"];
    const owner = unique("owner");
    for (const end of ends)
      await store.rooms.create({ id: stem + end, owner: end === "owned" ? endpoint : owner, encrypted: true });
    for (const [i, end] of ends.entries()) {
      if (end === "owned") continue;
      const state = i % 2 === 0 ? "invited" : "joined";
      await store.members.add(stem + end, {
        endpoint,
        state,
        ...(i % 3 === 0 ? { invitedBy: owner, publicKey: bytes(end) } : {}),
      });
    }
    await store.members.remove(`${stem}left`, endpoint);
    await store.rooms.delete(`${stem}deleted`);
    const expected = ends
      .filter((end) => end !== "left" && end !== "deleted")
      .map((end) => stem + end)
      .sort(byCodePoint);
    for (const each of [store, await other()]) {
      await settled(async () => {
        const memberships = await each.members.listForEndpoint(endpoint);
        assert.deepEqual(
          memberships.map((member) => member.roomId),
          expected,
        );
        for (const member of memberships) assert.deepEqual(member, await each.members.get(member.roomId, endpoint));
        assert.deepEqual(
          memberships.filter(({ role }) => role === "owner").map(({ roomId }) => roomId),
          [`${stem}owned`],
        );
        assert.deepEqual(new Set(memberships.map(({ state }) => state)), new Set(["invited", "joined"]));
        assert.deepEqual(
          (await each.rooms.listForEndpoint(endpoint)).map((room) => room.id),
          expected,
          "the same rooms",
        );
      });
    }
  },

  "listForEndpoint follows a membership through all that happens to it": async ({ store, other }) => {
    const endpoint = unique("guest");
    const { id, owner } = await encryptedRoom(store, endpoint);
    const another = await other();
    /** A list is as fresh as a check: what was acknowledged to anyone is in it. */
    const shows = async (what: string, expected: readonly string[] | undefined): Promise<void> => {
      for (const each of [another, store]) {
        const found = await each.members.listForEndpoint(endpoint);
        assert.deepEqual(
          found.map((member) => [member.roomId, member.endpoint, member.role, member.state]),
          expected === undefined ? [] : [[id, endpoint, ...expected]],
          what,
        );
      }
    };
    await shows("invited", ["member", "invited"]);
    await store.members.join(id, endpoint);
    await shows("joined", ["member", "joined"]);
    await store.rooms.update(id, { owner: endpoint });
    await shows("the owner", ["owner", "joined"]);
    await another.rooms.update(id, { owner });
    await shows("the owner no more", ["member", "joined"]);
    await store.roomKeys.rekey(id, sealedFor(2, [owner, endpoint]), { expectedEpoch: 1 });
    await shows("after a rekey", ["member", "joined"]);
    await store.members.remove(id, endpoint);
    await shows("removed", undefined);
    const again = await store.members.add(id, { endpoint });
    await shows("added again", ["member", "invited"]);
    assert.deepEqual(await store.members.listForEndpoint(endpoint), [again], "nothing of the old membership");
    await store.rooms.delete(id);
    await shows("the room is deleted", undefined);
    await store.rooms.create({ id, owner });
    await shows("another room of the same id", undefined);
    await store.rooms.delete(id);
    await store.rooms.create({ id, owner: endpoint });
    await shows("the owner of another one", ["owner", "joined"]);
  },

  "a room that many joined and left lists who is in it, and who left can come back": async ({ store, other }) => {
    const stays = [unique("stays"), unique("stays")];
    const { id, owner } = await encryptedRoom(store, ...stays);
    const another = await other();
    const inRoom = [owner, ...stays].sort(byCodePoint);
    const left: string[] = [];
    // More of them than of members, several times over.
    for (let round = 0; round < 3; round++) {
      const guests = Array.from({ length: 24 }, () => unique("guest"));
      await atOnce(guests, async (endpoint, i) => {
        const each = i % 2 === 0 ? store : another;
        await each.members.add(id, { endpoint, state: "joined" });
        await each.members.remove(id, endpoint);
      });
      left.push(...guests);
      for (const each of [store, another]) {
        assert.deepEqual((await each.members.list(id)).map(endpointOf), inRoom, "who is in the room");
        assert.deepEqual(
          await Promise.all(inRoom.map((endpoint) => each.isMember(id, endpoint))),
          inRoom.map((endpoint) => endpoint === owner),
          "invited is not joined",
        );
      }
    }
    await atOnce(left, async (endpoint) => {
      assert.equal(await another.isMember(id, endpoint), false, "who left is no member");
      assert.deepEqual(await another.members.listForEndpoint(endpoint), []);
    });
    const back = left.at(-1) ?? "";
    await refused("NOT_FOUND", () => another.members.join(id, back));
    const member = await store.members.add(id, { endpoint: back });
    assert.deepEqual(await another.members.listForEndpoint(back), [member]);
    assert.deepEqual(await store.roomKeys.list(id, back), []);
    const everyone = [...inRoom, back];
    const room = await another.roomKeys.rekey(id, sealedFor(2, everyone), { expectedEpoch: 1 });
    assert.deepEqual([room.epoch, room.rekeyRequired], [2, false]);
    for (const each of [store, another]) {
      assert.deepEqual((await each.members.list(id)).map(endpointOf), everyone.toSorted(byCodePoint));
      for (const endpoint of stays)
        assert.deepEqual(
          (await each.roomKeys.list(id, endpoint)).map((key) => key.epoch),
          [1, 2],
        );
    }
  },

  "a room of sixty members is listed, rekeyed and deleted whole": async ({ store }) => {
    const { id, owner } = await encryptedRoom(store);
    const endpoints = Array.from({ length: 60 }, () => unique("m"));
    for (const endpoint of endpoints)
      await store.members.add(id, { endpoint, sealedKey: { epoch: 1, sealed: bytes(endpoint) } });
    const everybody = [owner, ...endpoints];
    assert.deepEqual(
      (await store.members.list(id)).map((member) => member.endpoint),
      [...everybody].sort(byCodePoint),
    );
    await store.roomKeys.rekey(id, sealedFor(2, everybody), { expectedEpoch: 1 });
    for (const endpoint of everybody)
      assert.deepEqual(
        (await store.roomKeys.list(id, endpoint)).map((key) => key.epoch),
        [1, 2],
      );
    await store.rooms.delete(id);
    for (const endpoint of everybody) assert.deepEqual(await store.rooms.listForEndpoint(endpoint), []);
  },
});
