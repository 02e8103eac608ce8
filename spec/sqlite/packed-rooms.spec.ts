import { expect } from "chai";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import initSqlJs from "sql.js";
import { isCorrupt, openSqlite, type Room, type Store } from "unibus-membership";
import { AT_LENGTH } from "../support/at-length.js";
import { codeOf } from "../support/code-of.js";
import { opTimeoutMs, refused } from "./support/crash.js";
import { useFolder } from "./support/folder.js";
import { resealed } from "./support/superblock.js";

const ROOMS = 12;
const ENDPOINTS = 40;
const ROUNDS = AT_LENGTH ? 200 : 12;
const STEPS = 60;

/** Of every length of UTF-8, and one that begins with a byte order mark. */
const nameOf = (n: number): string => ["", "ä", "語", "\u{1f600}", "\ufeff", "x".repeat(230)][n % 6] ?? "";
const roomOf = (n: number): string => `${nameOf(n)}room-${String(n)}`;
const endpointOf = (n: number): string => `${nameOf(n)}end-${String(n)}`;
/** Also none, and more than is packed. */
const bytesOf = (n: number): Uint8Array => new Uint8Array([1, 80, 2000, 20_000][n % 4] ?? 0).fill(n);

/** A store denies while its disk keeps it waiting: whoever has joined is asked for again, within bounds. */
async function isMember(store: Store, id: string, endpoint: string, hasJoined: boolean): Promise<boolean> {
  for (let tries = 0; hasJoined && tries < 100; tries++) if (await store.isMember(id, endpoint)) return true;
  return store.isMember(id, endpoint);
}

/** Everything that a store answers of its rooms, but for the time. */
async function everything(store: Store): Promise<string[]> {
  const found: unknown[] = [];
  const joined = new Set<string>();
  let after: string | undefined;
  do {
    const page = await store.rooms.list({ limit: 5, ...(after === undefined ? {} : { after }) });
    for (const room of page.items) {
      expect(await store.rooms.get(room.id)).to.deep.equal(room);
      const members = await store.members.list(room.id);
      found.push(room, members);
      for (const member of members) {
        expect(await store.members.get(room.id, member.endpoint)).to.deep.equal(member);
        if (member.state === "joined") joined.add(JSON.stringify([room.id, member.endpoint]));
        for (const key of await store.roomKeys.list(room.id, member.endpoint)) {
          expect(await store.roomKeys.get(room.id, member.endpoint, key.epoch)).to.deep.equal(key);
          found.push(key);
        }
      }
    }
    after = page.next;
  } while (after !== undefined);
  for (let n = 0; n <= ENDPOINTS; n++) {
    const endpoint = endpointOf(n);
    found.push(await store.members.listForEndpoint(endpoint), await store.rooms.listForEndpoint(endpoint));
    for (let room = 0; room < ROOMS; room++) {
      const isJoined = joined.has(JSON.stringify([roomOf(room), endpoint]));
      expect(await isMember(store, roomOf(room), endpoint, isJoined), `${roomOf(room)} ${endpoint}`).to.equal(isJoined);
    }
  }
  return found.map((each) =>
    JSON.stringify(each, (name, value: unknown) => {
      if (name === "createdAt" || name === "since") return undefined;
      return value instanceof Uint8Array ? [value.constructor.name, ...value] : value;
    }),
  );
}

/** One step of a store's life. What it comes to depends on the store alone. */
async function step(store: Store, die: (sides: number) => number): Promise<string> {
  const id = roomOf(die(ROOMS));
  const [endpoint, other, kind, size] = [endpointOf(die(ENDPOINTS)), endpointOf(die(ENDPOINTS)), die(16), die(4)];
  const encrypted = async (then: (room: Room) => Promise<unknown>): Promise<void> => {
    await then(await store.rooms.get(id));
  };
  try {
    if (kind < 2) {
      const publicKey = size === 0 ? {} : { ownerPublicKey: bytesOf(size) };
      const key = die(2) === 0 ? { encrypted: true, sealedKey: bytesOf(size) } : {};
      await store.rooms.create({ id, owner: endpoint, name: nameOf(size), ...publicKey, ...key });
    } else if (kind < 9) {
      await encrypted(({ epoch, encrypted }) =>
        store.members.add(id, {
          endpoint,
          state: size === 0 ? "invited" : "joined",
          ...(size < 2 ? { invitedBy: other } : {}),
          ...(size === 3 ? {} : { publicKey: bytesOf(size) }),
          ...(encrypted ? { sealedKey: { epoch, sealed: bytesOf(die(4)) } } : {}),
        }),
      );
    } else if (kind === 9) await store.members.join(id, endpoint);
    else if (kind === 10) await store.members.remove(id, endpoint);
    else if (kind === 11) await store.rooms.update(id, { owner: endpoint });
    else if (kind === 12) await store.rooms.update(id, { name: nameOf(size) + other });
    else if (kind === 13) await encrypted(({ epoch }) => store.roomKeys.put(id, endpoint, epoch, bytesOf(size)));
    else if (kind === 14) {
      const members = await store.members.list(id);
      await encrypted(({ epoch }) =>
        store.roomKeys.rekey(id, new Map(members.map((member) => [member.endpoint, bytesOf(size)])), {
          expectedEpoch: epoch,
        }),
      );
    } else if (die(3) === 0) await store.rooms.delete(id);
    return "done";
  } catch (error) {
    return codeOf(error);
  }
}

/** Lehmer's, which needs no `Math.imul`. */
function dieOf(seed: number): (sides: number) => number {
  let state = seed;
  return (sides) => {
    state = (state * 48_271) % 2_147_483_647;
    return (state >>> 8) % sides;
  };
}

describe("sqlite: rooms as an image has them", function () {
  this.timeout(300_000);
  const folder = useFolder();

  for (const [kind, mix] of [
    ["as they are", Math.imul],
    ["with ids and endpoints whose hashes are all the same", () => 0],
  ] as const) {
    it(`a store that is opened again and again answers as one that never was: ${kind}`, async () => {
      const { imul } = Math;
      Math.imul = mix;
      try {
        const always = await openSqlite(":memory:", { opTimeoutMs });
        let store = await openSqlite(folder.file(), { opTimeoutMs });
        const [die, twin] = [dieOf(5), dieOf(5)];
        const seen = new Set<string>();
        for (let round = 0; round < ROUNDS; round++) {
          for (let n = 0; n < STEPS; n++) {
            const result = await step(always, die);
            expect(await step(store, twin)).to.equal(result);
            seen.add(result);
          }
          const expected = await everything(always);
          expect(await everything(store)).to.deep.equal(expected);
          await store.close();
          store = await openSqlite(folder.file(), { opTimeoutMs });
          expect(await everything(store)).to.deep.equal(expected);
        }
        await store.close();
        await always.close();
        expect([...seen]).to.include.members(["done", "NOT_FOUND", "ALREADY_EXISTS"]);
      } finally {
        Math.imul = imul;
      }
    });
  }

  it("answers with the times that it was given", async () => {
    let store = await openSqlite(folder.file(), { opTimeoutMs });
    const { createdAt } = await store.rooms.create({ id: "r", owner: "o", encrypted: true, sealedKey: bytesOf(1) });
    await store.close();
    store = await openSqlite(folder.file(), { opTimeoutMs });
    expect((await store.rooms.get("r")).createdAt).to.deep.equal(createdAt);
    expect((await store.members.get("r", "o")).since).to.deep.equal(createdAt);
    expect((await store.roomKeys.get("r", "o")).createdAt).to.deep.equal(createdAt);
    await store.close();
  });

  it("what is no id is no room, also where its bytes would be one's", async () => {
    let store = await openSqlite(folder.file(), { opTimeoutMs });
    for (const id of ["\ufffd", "a\u00e9", "r"]) await store.rooms.create({ id, owner: id });
    await store.close();
    store = await openSqlite(folder.file(), { opTimeoutMs });
    expect(await isMember(store, "\ufffd", "\ufffd", true)).to.equal(true);
    expect(await isMember(store, "a\u00e9", "a\u00e9", true)).to.equal(true);
    for (const none of ["\ud800", "a\u01e9", "e\u0301", "", "r".repeat(300), 3, null, ["r"], { length: 1 }]) {
      for (const id of ["\ufffd", "a\u00e9", "r"]) {
        expect(await store.isMember(none as string, id)).to.equal(false);
        expect(await store.isMember(id, none as string)).to.equal(false);
      }
    }
    await store.close();
  });

  describe("refuses at opening what the library does not write:", () => {
    const KEYS = "INSERT INTO room_keys VALUES";
    for (const [what, ...sql] of [
      [
        "a room without an owner",
        "DELETE FROM members WHERE role = 'owner'",
        "DELETE FROM room_keys WHERE endpoint = 'o'",
      ],
      ["a room without members", "DELETE FROM members", "DELETE FROM room_keys"],
      ["an owner who is a member", "UPDATE members SET role = 'member'"],
      ["another owner than the room's", "UPDATE rooms SET owner = 'other'"],
      [
        "a room that is there twice",
        "INSERT INTO rooms SELECT 9, id, name, encrypted, owner, epoch, rekey_required, created_at, revision FROM rooms",
      ],
      [
        "a member of a room that is not there",
        "INSERT INTO members SELECT 'none', endpoint, role, state, invited_by, public_key, since, revision FROM members",
      ],
      ["a key of a member who is not there", `${KEYS} ('r', 'none', 1, x'01', 0)`],
      ["a key of a member who comes before all", `${KEYS} ('r', 'a', 1, x'01', 0)`],
      ["a key of a room that is not there", `${KEYS} ('z', 'o', 1, x'01', 0)`],
      ["a room's id that is none", "UPDATE rooms SET id = x'72'"],
      ["a flag that is none", "UPDATE rooms SET encrypted = 2"],
      ["a role that is none", "UPDATE members SET role = 'admin' WHERE role = 'member'"],
      ["a state that is none", "UPDATE members SET state = 'gone' WHERE role = 'member'"],
      ["an endpoint that is none", "UPDATE members SET endpoint = x'6d' WHERE role = 'member'"],
      ["who invited as bytes", "UPDATE members SET invited_by = x'6d' WHERE role = 'member'"],
      ["a public key that is a text", "UPDATE members SET public_key = 'key'"],
      ["a time that is a text", "UPDATE members SET since = 'now'"],
      ["a sealed key that is a text", "UPDATE room_keys SET sealed = 'key'"],
      ["an epoch that is a text", "UPDATE room_keys SET epoch = 'one'"],
      [
        "an id that is not UTF-8",
        "UPDATE rooms SET id = CAST(x'ff' AS TEXT)",
        "UPDATE members SET room_id = CAST(x'ff' AS TEXT)",
        "DELETE FROM room_keys",
      ],
    ] as const) {
      it(what, async () => {
        const store = await openSqlite(folder.file(), { opTimeoutMs });
        await store.rooms.create({ id: "r", owner: "o", encrypted: true, sealedKey: bytesOf(1) });
        await store.members.add("r", { endpoint: "p", sealedKey: { epoch: 1, sealed: bytesOf(1) } });
        await store.close();
        const sqlJs = await initSqlJs();
        const database = new sqlJs.Database(await readFile(folder.file()));
        for (const statement of sql) database.run(statement);
        const changed = resealed(Buffer.from(database.export()));
        database.close();
        await rm(folder.path, { recursive: true });
        await mkdir(folder.path);
        await writeFile(folder.file(), changed);
        expect(isCorrupt(await refused(folder.file(), folder.path))).to.equal(true);
      });
    }
  });
});
