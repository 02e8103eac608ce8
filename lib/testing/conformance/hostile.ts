import assert from "node:assert/strict";
import {
  aloneCases,
  atOnce,
  byCodePoint,
  bytes,
  cases,
  encryptedRoom,
  refused,
  sameBytes,
  settled,
  unique,
  walk,
} from "./case.js";

/**
 * Ids that mean something to SQL, to NATS subjects, to file systems, to JavaScript objects, to Unicode. Each is an id
 * like any other.
 */
const IDS: readonly string[] = [
  "'",
  '"',
  "`",
  "';--",
  "'; DROP TABLE rooms; --",
  '" OR ""="',
  "a' OR '1'='1",
  "%",
  "_",
  "a%b",
  "a_b",
  "?",
  "?1",
  ":id",
  "@id",
  "$id",
  "*",
  ">",
  ".",
  "..",
  "...",
  "a.b",
  "a.*.b",
  "a.>",
  ".a",
  "a.",
  "$JS.API.>",
  "$KV.rooms.a",
  "KV_rooms",
  "_INBOX.x",
  "_kv",
  "=",
  "a=b",
  "/",
  "//",
  "a/b",
  "../../etc/passwd",
  "\\",
  "C:\\x",
  "~",
  "#",
  "&",
  "+",
  "-",
  "--",
  "|",
  ":",
  ";",
  ",",
  "!",
  "(",
  "[",
  "{",
  "{}",
  "[]",
  "<b>",
  " ",
  "  ",
  " a",
  "a ",
  "a b",
  "a  b",
  "__proto__",
  "constructor",
  "prototype",
  "hasOwnProperty",
  "toString",
  "valueOf",
  "then",
  "null",
  "undefined",
  "true",
  "NaN",
  "0",
  "-1",
  "1",
  "01",
  "1.0",
  "1e3",
  "0x1",
  "Alice",
  "alice",
  "ALICE",
  "aLICE",
  "ß",
  "ss",
  "SS",
  "ẞ",
  "ſ",
  "s",
  "S",
  "K",
  "k",
  "\u212a",
  "İ",
  "i",
  "ı",
  "I",
  "Σ",
  "σ",
  "ς",
  "\u00c5",
  "\u212b",
  "A\u030a",
  "\u00e9",
  "e\u0301",
  "ﬁ",
  "fi",
  "①",
  "½",
  "１",
  "가",
  "\u1100\u1161",
  "\u{1f984}",
  "\u{1f469}\u200d\u{1f467}",
  "\u{10ffff}",
  "\u{10000}",
  "\ue000",
  "\ufffd",
  "\uffff",
  "\uff5e",
  "\ufeff",
  "\ufeffa",
  "\u200b",
  "\u202e",
  "\u2028",
  "\u2029",
  "\u00a0",
  "\u3000",
  "\u00ad",
  "a\u0300\u0301",
  "日本語",
  "עברית",
  "%00",
  "%2e%2e",
  "\\u0000",
  "\\0",
  "${x}",
  "{{x}}",
  "YQ",
  "YQ==",
  "a".repeat(256),
  `${"a".repeat(255)}b`,
  "\u00e9".repeat(128),
  "\u{1f984}".repeat(64),
  ".".repeat(256),
  " ".repeat(256),
];

/** Printable ASCII, in lower case. */
const KEYS: readonly string[] = [
  ...Array.from({ length: 0x7f - 0x21 }, (_, i) => String.fromCharCode(0x21 + i)).filter((char) => !/[A-Z]/.test(char)),
  "';--",
  "';drop/**/table/**/users;--",
  "a.b",
  "a.*",
  ">",
  "a.>",
  "..",
  "$js.api.>",
  "__proto__",
  "constructor",
  "hasownproperty",
  "then",
  "null",
  "undefined",
  "0",
  "01",
  "1e3",
  "%2e",
  "\\u0000",
  "_guard",
  "guard",
  "_admins",
  "admins",
  "barrier",
  "_barrier",
  "a".repeat(256),
  `${"a".repeat(255)}b`,
  "~".repeat(256),
].filter((key, i, all) => all.indexOf(key) === i);

const SEPARATORS = [".", "/", ":", "|", " ", "_", "-", "=", "~", "$", "#", "\\", "\u2028", "\u{1f984}"] as const;

export const hostileCases = [
  ...aloneCases("ids", {
    "a room of any id is itself and no other": async (context) => {
      const { store } = context;
      const owner = "the owner";
      await atOnce(IDS, async (id, i) => {
        assert.equal((await store.rooms.create({ id, owner, name: `room ${String(i)}` })).id, id);
      });
      const check = async (each: typeof store): Promise<void> => {
        await atOnce(IDS, async (id, i) => {
          const room = await each.rooms.get(id);
          assert.deepEqual([room.id, room.name], [id, `room ${String(i)}`]);
          assert.equal(await each.isMember(id, owner), true);
        });
      };
      await check(store);
      const sorted = [...IDS].sort(byCodePoint);
      assert.deepEqual(
        (await store.rooms.listForEndpoint(owner)).map((room) => room.id),
        sorted,
      );
      assert.deepEqual(
        (await store.members.listForEndpoint(owner)).map((member) => member.roomId),
        sorted,
      );
      const listed = await walk((page) => store.rooms.list(page), 7);
      assert.deepEqual([...new Set(listed.map((room) => room.id))].sort(byCodePoint), sorted);
      const again = await context.reopened();
      await check(again);
      // Every other one goes, and takes none of its neighbours along.
      await atOnce(IDS, async (id, i) => {
        if (i % 2 === 0) await again.rooms.delete(id);
      });
      await atOnce(IDS, async (id, i) => {
        if (i % 2 === 0) await refused("NOT_FOUND", () => again.rooms.get(id));
        else assert.equal((await again.rooms.get(id)).name, `room ${String(i)}`);
      });
      const rest = IDS.filter((_, i) => i % 2 === 1).sort(byCodePoint);
      assert.deepEqual(
        (await again.rooms.listForEndpoint(owner)).map((room) => room.id),
        rest,
      );
    },

    "a user of any key is itself and no other": async (context) => {
      const { store } = context;
      for (const [i, key] of KEYS.entries())
        await store.users.add({ key, name: String(i), role: i % 3 === 0 ? "admin" : "member" });
      for (const [i, key] of KEYS.entries()) if (i % 2 === 0) await store.users.revoke(key);
      const check = async (each: typeof store): Promise<void> => {
        await atOnce(KEYS, async (key, i) => {
          const user = await each.users.get(key);
          assert.deepEqual([user.key, user.name, user.status], [key, String(i), i % 2 === 0 ? "revoked" : "active"]);
          assert.equal(await each.isAuthorized(key), i % 2 !== 0, key);
          assert.equal(await each.isAdmin(key.toUpperCase()), i % 2 !== 0 && i % 3 === 0, key);
        });
        const listed = await walk((page) => each.users.list(page), 9);
        assert.deepEqual([...new Set(listed.map((user) => user.key))].sort(), [...KEYS].sort());
      };
      await check(store);
      await check(await context.reopened());
    },

    "nobody is a user for bearing a name of JavaScript's or of the store's own": async ({ store }) => {
      await atOnce(KEYS, async (key) => {
        assert.equal(await store.isAuthorized(key), false, key);
        assert.equal((await store.authorize(key)).reason, "unknown", key);
      });
      await store.users.addFirstAdmin({ key: "root" });
      await atOnce(KEYS, async (key) => {
        assert.equal(await store.isAdmin(key), false, key);
        await refused("NOT_FOUND", () => store.users.get(key), key);
        await refused("NOT_FOUND", () => store.users.revoke(key), key);
      });
      assert.deepEqual(
        (await store.users.list()).items.map((user) => user.key),
        ["root"],
      );
    },
  }),

  ...cases("ids", {
    "an endpoint of any id is itself and no other": async ({ store, other }) => {
      const { id, owner } = await encryptedRoom(store);
      await atOnce(IDS, async (endpoint, i) => {
        const member = await store.members.add(id, {
          endpoint,
          state: i % 2 === 0 ? "joined" : "invited",
          invitedBy: endpoint,
          publicKey: bytes(`pk ${String(i)}`),
          sealedKey: { epoch: 1, sealed: bytes(`key ${String(i)}`) },
        });
        assert.equal(member.endpoint, endpoint);
      });
      const another = await other();
      assert.deepEqual(
        (await another.members.list(id)).map((member) => member.endpoint),
        [owner, ...IDS].sort(byCodePoint),
      );
      await atOnce(IDS, async (endpoint, i) => {
        const member = await another.members.get(id, endpoint);
        assert.deepEqual([member.endpoint, member.invitedBy], [endpoint, endpoint]);
        sameBytes(member.publicKey, bytes(`pk ${String(i)}`), "public key");
        sameBytes((await another.roomKeys.get(id, endpoint)).sealed, bytes(`key ${String(i)}`), "sealed key");
        assert.equal(await another.isMember(id, endpoint), i % 2 === 0, JSON.stringify(endpoint));
        assert.ok((await another.rooms.listForEndpoint(endpoint)).some((room) => room.id === id));
        assert.deepEqual(
          (await another.members.listForEndpoint(endpoint)).find((each) => each.roomId === id),
          member,
        );
      });
      const names = [owner, ...IDS];
      await store.roomKeys.rekey(id, new Map(names.map((name, i) => [name, bytes(`second ${String(i)}`)])), {
        expectedEpoch: 1,
      });
      await atOnce(names, async (name, i) => {
        const keys = await store.roomKeys.list(id, name);
        assert.deepEqual(
          keys.map((key) => key.epoch),
          [1, 2],
        );
        sameBytes(keys[1]?.sealed, bytes(`second ${String(i)}`), "second key");
      });
      await atOnce(IDS, async (endpoint, i) => {
        if (i % 2 === 0) await store.members.remove(id, endpoint);
      });
      await atOnce(IDS, async (endpoint, i) => {
        await settled(async () => {
          if (i % 2 === 0) await refused("NOT_FOUND", () => another.members.get(id, endpoint));
          else assert.equal((await another.roomKeys.list(id, endpoint)).length, 2);
        });
        assert.equal(
          (await another.rooms.listForEndpoint(endpoint)).some((room) => room.id === id),
          i % 2 === 1,
        );
      });
      await store.rooms.delete(id);
      await atOnce(IDS, async (endpoint) => {
        assert.ok(!(await another.rooms.listForEndpoint(endpoint)).some((room) => room.id === id));
      });
    },

    "a room and an endpoint side by side are not taken for another pair": async ({ store }) => {
      const stem = unique("r");
      for (const separator of SEPARATORS) {
        const [left, right] = [`${stem}${separator}b`, stem];
        const [leftGuest, rightGuest] = ["c", `b${separator}c`];
        await store.rooms.create({ id: left, owner: "o", encrypted: true, sealedKey: bytes("l") });
        if (separator === SEPARATORS[0])
          await store.rooms.create({ id: right, owner: "o", encrypted: true, sealedKey: bytes("r") });
        await store.members.add(left, {
          endpoint: leftGuest,
          state: "joined",
          sealedKey: { epoch: 1, sealed: bytes("left") },
        });
        assert.equal(await store.isMember(right, rightGuest), false);
        await refused("NOT_FOUND", () => store.members.get(right, rightGuest));
        await refused("NOT_FOUND", () => store.roomKeys.get(right, rightGuest));
        await store.members.add(right, { endpoint: rightGuest, sealedKey: { epoch: 1, sealed: bytes("right") } });
        await store.members.remove(left, leftGuest);
        sameBytes((await store.roomKeys.get(right, rightGuest)).sealed, bytes("right"), "the other pair's key");
        await store.rooms.delete(left);
        assert.equal((await store.members.get(right, rightGuest)).state, "invited");
      }
    },

    "an endpoint that ends like an epoch is not taken for one": async ({ store }) => {
      const { id, owner } = await encryptedRoom(store);
      const stem = unique("e");
      const endpoints = [stem, ...SEPARATORS.flatMap((separator) => [`${stem}${separator}1`, `${stem}${separator}2`])];
      for (const endpoint of endpoints)
        await store.members.add(id, { endpoint, sealedKey: { epoch: 1, sealed: bytes(`1 ${endpoint}`) } });
      await store.roomKeys.rekey(id, new Map([owner, ...endpoints].map((name) => [name, bytes(`2 ${name}`)])), {
        expectedEpoch: 1,
      });
      await store.members.remove(id, stem);
      for (const endpoint of endpoints.slice(1)) {
        const keys = await store.roomKeys.list(id, endpoint);
        assert.deepEqual(
          keys.map((key) => key.epoch),
          [1, 2],
        );
        sameBytes(keys[0]?.sealed, bytes(`1 ${endpoint}`), endpoint);
        sameBytes(keys[1]?.sealed, bytes(`2 ${endpoint}`), endpoint);
      }
    },

    "the longest ids go through every method": async ({ store }) => {
      const fill = (label: string): string => unique(label).padEnd(256, "z");
      const [id, owner, guest] = [fill("room"), fill("owner"), fill("guest")];
      const wide = "\u{1f984}".repeat(60) + unique("").slice(-16);
      await store.rooms.create({
        id,
        owner,
        name: "n".repeat(256),
        encrypted: true,
        ownerPublicKey: new Uint8Array(1024),
        sealedKey: bytes("o"),
      });
      for (const endpoint of [guest, wide]) {
        await store.members.add(id, { endpoint, invitedBy: owner, sealedKey: { epoch: 1, sealed: bytes("g") } });
        await store.members.join(id, endpoint);
        assert.equal(await store.isMember(id, endpoint), true);
      }
      await store.roomKeys.rekey(id, new Map([owner, guest, wide].map((name) => [name, bytes("2")])), {
        expectedEpoch: 1,
      });
      await store.rooms.update(id, { owner: guest });
      await store.members.remove(id, owner);
      assert.deepEqual(
        (await store.members.list(id)).map((member) => member.endpoint),
        [guest, wide].sort(byCodePoint),
      );
      assert.deepEqual(
        (await store.rooms.listForEndpoint(wide)).map((room) => room.id),
        [id],
      );
      assert.deepEqual(await store.members.listForEndpoint(wide), [await store.members.get(id, wide)]);
      await store.rooms.delete(id);
      assert.deepEqual(await store.rooms.listForEndpoint(guest), []);
    },

    "a name is any text that is not a control character": async ({ store }) => {
      const { id } = await encryptedRoom(store);
      const key = unique("key");
      await store.users.add({ key });
      for (const name of ["", ...IDS]) {
        assert.equal((await store.rooms.update(id, { name })).name, name);
        assert.equal((await store.rooms.get(id)).name, name);
        assert.equal((await store.users.update(key, { name })).name, name);
        assert.equal((await store.users.get(key)).name, name);
      }
    },
  }),
];
