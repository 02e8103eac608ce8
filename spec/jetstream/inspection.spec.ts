// Faults that are planted into the buckets with a plain client, at least one for each bucket.

import { expect } from "chai";
import { randomBytes } from "node:crypto";
import { inspect, openJetStream, type Store } from "unibus-membership";
import { allowed, finds, grantsNothing, seed, told } from "../support/faults.js";
import { dropBuckets, type Connection } from "../support/nats-clients.js";
import { useServer } from "../support/use-server.js";
import { isImported, newId, newImportedId } from "../../lib/jetstream/keys.js";
import { random } from "../soak/random.js";
import { rawBuckets, tokenOf, type RawBuckets, type RawRecord } from "./support/raw-bucket.js";
import { configure, type Json } from "./support/streams.js";

/** Of a fault: how it is planted, what is found, and what is left once it was repaired. */
interface Plant {
  readonly plant: (raw: RawBuckets) => Promise<void>;
  readonly finds: readonly string[];
  readonly left: readonly string[];
}

const objectOf = (value: unknown): Json => value as Json;
const user = (raw: RawBuckets, key: string): Promise<RawRecord> => raw.users.one(`user.${tokenOf(key)}`);
const room = (raw: RawBuckets, id: string): Promise<RawRecord> => raw.rooms.one(`room.${tokenOf(id)}`);

async function changeUser(raw: RawBuckets, key: string, change: Json): Promise<void> {
  const { key: at, value } = await user(raw, key);
  await raw.users.put(at, { ...value, user: { ...objectOf(value["user"]), ...change } });
}

async function changeRoom(raw: RawBuckets, id: string, change: (record: Json) => Json): Promise<void> {
  const { key, value } = await room(raw, id);
  await raw.rooms.put(key, { ...value, ...change(value) });
}

async function changeGuard(raw: RawBuckets, change: Json): Promise<void> {
  const { value } = await raw.users.one("admins");
  await raw.users.put("admins", { ...value, ...change });
}

/** A row of the room that stands in its bucket, and the id under which the rows stand. */
async function rowOf(raw: RawBuckets, id: string, endpoint: string): Promise<RawRecord & { readonly roster: string }> {
  const row = await raw.members.one(`${tokenOf(id)}.${tokenOf(endpoint)}.`);
  return { ...row, roster: row.key.split(".").slice(2).join(".") };
}

/** Puts a row that is right elsewhere to a key where none should be. */
async function copyRow(raw: RawBuckets, key: string): Promise<void> {
  const { value } = await rowOf(raw, "sealed", "joined 🦄");
  await raw.members.put(key, value);
}

async function lifeOf(raw: RawBuckets, id: string): Promise<string> {
  const { value } = await room(raw, id);
  return String(value["life"] ?? value["incarnation"]);
}

async function keyOf(raw: RawBuckets, endpoint: string, epoch: number): Promise<RawRecord> {
  const all = await raw.room_keys.all();
  const found = all.find(({ key }) => {
    const tokens = key.split(".");
    return tokens[0] === "key" && tokens[2] === tokenOf(endpoint) && tokens[5] === String(epoch);
  });
  if (found === undefined) throw new Error(`no key of ${endpoint}`);
  return found;
}

const inUsers: Readonly<Record<string, Plant>> = {
  "a user's record that was removed": {
    plant: async (raw) => raw.users.write((await user(raw, "again")).key, ""),
    finds: ["RECORD_DAMAGED"],
    left: ["RECORD_DAMAGED"],
  },
  "a user's record that is of another user": {
    plant: (raw) => changeUser(raw, "again", { key: "root" }),
    finds: ["RECORD_MISPLACED"],
    left: ["RECORD_MISPLACED"],
  },
  "a message that says that it stands elsewhere": {
    plant: async (raw) => {
      const { key, value } = await user(raw, "again");
      await raw.users.write(key, JSON.stringify({ ...value, k: `user.${tokenOf("nobody")}` }));
    },
    finds: ["RECORD_MISPLACED"],
    left: ["RECORD_MISPLACED"],
  },
  "a message at no key of the library": {
    plant: (raw) => raw.users.put("notes.of.somebody", { text: "x" }),
    finds: ["RECORD_UNKNOWN"],
    left: ["RECORD_UNKNOWN"],
  },
  "more that was taken away than was changed": {
    plant: (raw) => changeUser(raw, "again", { grant: 99 }),
    finds: ["FIELD_INVALID"],
    left: ["FIELD_INVALID"],
  },
  "a user's name that is too long": {
    plant: (raw) => changeUser(raw, "again", { name: "n".repeat(300) }),
    finds: ["FIELD_INVALID"],
    left: ["FIELD_INVALID"],
  },
  "a staged change that the guard has not come to": {
    plant: async (raw) => {
      const { key, value } = await user(raw, "again");
      await raw.users.put(key, { ...value, stage: { attempt: "x", guard: 1_000_000 } });
    },
    finds: ["STAGE_INVALID"],
    left: ["STAGE_INVALID"],
  },
  "an admin whom the guard does not count": {
    plant: (raw) => changeUser(raw, "again", { admin: true }),
    finds: ["ADMIN_GUARD"],
    left: [],
  },
  "an admin of the guard who is revoked": {
    plant: async (raw) => {
      const { value } = await raw.users.one("admins");
      const witnesses = [...(value["witnesses"] as Json[]), { key: "revoked" }];
      await changeGuard(raw, { witnesses });
    },
    finds: ["ADMIN_GUARD"],
    left: [],
  },
  "a guard that knows of no admin ever": {
    plant: (raw) => changeGuard(raw, { ever: false }),
    finds: ["ADMIN_GUARD"],
    left: [],
  },
  "a guard that names nobody": {
    plant: (raw) => changeGuard(raw, { witnesses: [], ever: false }),
    finds: ["ADMIN_GUARD"],
    left: ["ADMIN_GUARD"],
  },
  "a change of an admin that was committed, and stands nowhere": {
    plant: async (raw) => {
      const { value } = await raw.users.one("admins");
      await changeGuard(raw, { head: { ...objectOf(value["head"]), seq: 1_000_000 } });
    },
    finds: ["ADMIN_GUARD", "STAGE_INVALID"],
    left: ["ADMIN_GUARD", "STAGE_INVALID"],
  },
  "a guard that cannot be read": {
    plant: (raw) => raw.users.write("admins", "{}"),
    finds: ["RECORD_DAMAGED"],
    left: ["RECORD_DAMAGED"],
  },
  "a state that no version knows": {
    plant: (raw) => raw.users.put("store", { state: "ajar" }),
    finds: ["STATE_INVALID"],
    left: ["STATE_INVALID"],
  },
};

const inRooms: Readonly<Record<string, Plant>> = {
  "a room's record that cannot be read": {
    plant: async (raw) => raw.rooms.write((await room(raw, "sealed")).key, "not of ours"),
    finds: ["RECORD_DAMAGED"],
    left: ["RECORD_DAMAGED"],
  },
  "a room that counts more members than it has": {
    plant: (raw) => changeRoom(raw, "sealed", ({ members }) => ({ members: Number(members) + 1 })),
    finds: ["MEMBER_COUNT"],
    left: ["MEMBER_COUNT"],
  },
  "a last change that is yet to come": {
    plant: (raw) =>
      changeRoom(raw, "sealed", ({ head }) => ({
        head: (head as Json[]).map((each) => ({ ...each, row: { ...objectOf(each["row"]), v: 1_000_000 } })),
      })),
    finds: ["HEAD_INVALID"],
    left: ["HEAD_INVALID"],
  },
  "a last change that is gone": {
    plant: (raw) => changeRoom(raw, "sealed", () => ({ head: [] })),
    finds: ["HEAD_INVALID"],
    left: ["HEAD_INVALID"],
  },
  "an epoch that says that another attempt has made it": {
    plant: (raw) => changeRoom(raw, "sealed", () => ({ attempt: "x" })),
    finds: ["EPOCH_INVALID", "LEFTOVER"],
    left: ["EPOCH_INVALID", "LEFTOVER"],
  },
  "numbers of replicas that cannot be read": {
    plant: (raw) => raw.rooms.write("replicas", "?"),
    finds: ["RECORD_DAMAGED"],
    left: ["RECORD_DAMAGED"],
  },
  "a room that is ahead of the bucket of members": {
    plant: (raw) => changeRoom(raw, "sealed", () => ({ membersSeq: 1_000_000 })),
    finds: ["LOG_BEHIND"],
    left: ["LOG_BEHIND"],
  },
  "an epoch of a room that is not encrypted": {
    plant: (raw) => changeRoom(raw, "plain", () => ({ epoch: 1, attempt: "x" })),
    finds: ["FIELD_INVALID"],
    left: ["FIELD_INVALID"],
  },
  "an owner who is no member": {
    plant: (raw) => changeRoom(raw, "plain", () => ({ owner: "stranger" })),
    finds: ["OWNER_MISSING", "OWNER_ROLE"],
    left: ["OWNER_MISSING"],
  },
  "an owner who has the role of a member": {
    plant: (raw) => changeRoom(raw, "plain", () => ({ owner: "joined 🦄" })),
    finds: ["OWNER_ROLE"],
    left: [],
  },
};

const inMembers: Readonly<Record<string, Plant>> = {
  "a row of somebody whom no change has added": {
    plant: async (raw) => {
      const { value, roster } = await rowOf(raw, "sealed", "joined 🦄");
      const row = { ...value, id: "stranger", joined: true, owner: false };
      await raw.members.put(`${tokenOf("sealed")}.${tokenOf("stranger")}.${roster}`, row);
    },
    finds: ["MEMBER_UNCOMMITTED"],
    left: [],
  },
  "a row in the place of a member's": {
    plant: async (raw) => {
      const { key, value } = await rowOf(raw, "sealed", "invited");
      await raw.members.put(key, { ...value, joined: true });
    },
    finds: ["MEMBER_UNCOMMITTED"],
    left: ["MEMBER_UNCOMMITTED"],
  },
  "a member whose row is gone": {
    plant: async (raw) => raw.members.purge((await rowOf(raw, "sealed", "joined 🦄")).key),
    finds: ["MEMBER_COUNT", "LEFTOVER"],
    left: ["MEMBER_COUNT", "LEFTOVER"],
  },
  "a row that cannot be read": {
    plant: async (raw) => raw.members.write((await rowOf(raw, "sealed", "joined 🦄")).key, "?"),
    finds: ["RECORD_DAMAGED"],
    left: ["RECORD_DAMAGED"],
  },
  "a row of an incarnation that never was": {
    plant: (raw) => copyRow(raw, `${tokenOf("sealed")}.${tokenOf("stranger")}.never`),
    finds: ["LEFTOVER"],
    left: [],
  },
  "a row of a room that never was": {
    plant: (raw) => copyRow(raw, `${tokenOf("nowhere")}.${tokenOf("stranger")}.never`),
    finds: ["ROOM_MISSING"],
    left: ["ROOM_MISSING"],
  },
  "a row of a deleted room": {
    plant: (raw) => copyRow(raw, `${tokenOf("gone")}.${tokenOf("owner")}.before`),
    finds: ["LEFTOVER"],
    left: [],
  },
};

const inIndex: Readonly<Record<string, Plant>> = {
  "a member without an entry": {
    plant: async (raw) => raw.rooms_by_member.purge((await raw.rooms_by_member.one(`${tokenOf("late")}.`)).key),
    finds: ["MEMBER_NOT_INDEXED"],
    left: [],
  },
  "a room without an entry": {
    plant: async (raw) => raw.rooms_by_member.purge(`=.${tokenOf("plain")}.${await lifeOf(raw, "plain")}`),
    finds: ["ROOM_NOT_INDEXED"],
    left: [],
  },
  "an entry of nobody": {
    plant: async (raw) => {
      const at = `${tokenOf("stranger")}.${tokenOf("sealed")}.${await lifeOf(raw, "sealed")}.never`;
      await raw.rooms_by_member.put(at, {});
    },
    finds: ["LEFTOVER"],
    left: [],
  },
  "an entry that cannot be read": {
    plant: async (raw) => raw.rooms_by_member.write((await raw.rooms_by_member.one(`${tokenOf("late")}.`)).key, "?"),
    finds: ["RECORD_DAMAGED"],
    left: [],
  },
};

const inKeys: Readonly<Record<string, Plant>> = {
  "a key of a rekey that lost": {
    plant: async (raw) => {
      const { key, value } = await keyOf(raw, "late", 3);
      await raw.room_keys.put([...key.split(".").slice(0, -1), "loser"].join("."), value);
    },
    finds: ["LEFTOVER"],
    left: [],
  },
  "a key of a membership that is over": {
    plant: async (raw) => {
      const { key, value } = await keyOf(raw, "late", 3);
      const tokens = key.split(".");
      tokens[4] = "before";
      await raw.room_keys.put(tokens.join("."), value);
    },
    finds: ["LEFTOVER"],
    left: [],
  },
  "an epoch of which nobody knows the attempt": {
    plant: async (raw) => raw.room_keys.purge(`epoch.${tokenOf("sealed")}.${await lifeOf(raw, "sealed")}.2`),
    finds: ["EPOCH_MISSING"],
    left: ["EPOCH_MISSING"],
  },
  "another attempt of an epoch that is over": {
    plant: async (raw) =>
      raw.room_keys.put(`epoch.${tokenOf("sealed")}.${await lifeOf(raw, "sealed")}.2`, { attempt: "x" }),
    finds: ["EPOCH_INVALID", "LEFTOVER"],
    left: ["EPOCH_INVALID", "LEFTOVER"],
  },
  "the attempt of an epoch that is yet to come": {
    plant: async (raw) =>
      raw.room_keys.put(`epoch.${tokenOf("sealed")}.${await lifeOf(raw, "sealed")}.7`, { attempt: "x" }),
    finds: ["EPOCH_INVALID"],
    left: [],
  },
  "another attempt of the epoch that goes on": {
    plant: async (raw) =>
      raw.room_keys.put(`epoch.${tokenOf("sealed")}.${await lifeOf(raw, "sealed")}.3`, { attempt: "x" }),
    finds: ["EPOCH_INVALID"],
    left: [],
  },
  "a key that cannot be read": {
    plant: async (raw) => raw.room_keys.write((await keyOf(raw, "late", 3)).key, "?"),
    finds: ["RECORD_DAMAGED"],
    left: ["RECORD_DAMAGED"],
  },
  "a sealed key that is too long": {
    plant: async (raw) => {
      const { key, value } = await keyOf(raw, "late", 3);
      await raw.room_keys.put(key, { ...value, sealed: Buffer.alloc(70_000, 7).toString("base64") });
    },
    finds: ["FIELD_INVALID"],
    left: ["FIELD_INVALID"],
  },
};

const PLANTS: Readonly<Record<string, Readonly<Record<string, Plant>>>> = {
  users: inUsers,
  rooms: inRooms,
  members: inMembers,
  rooms_by_member: inIndex,
  room_keys: inKeys,
};

describe("an inspection of the buckets", function () {
  this.timeout(240_000);
  let connection: Connection;

  useServer((connected) => {
    connection = connected;
  });

  interface Seeded {
    readonly raw: RawBuckets;
    readonly prefix: string;
    /**
     * Opened before there was anything, so that what an opening clears away was looked at by then. Its calls are over
     * after two seconds.
     */
    readonly store: Store;
  }

  const seeded = async (work: (seeded: Seeded) => Promise<void>): Promise<void> => {
    const prefix = `f${randomBytes(6).toString("hex")}_`;
    const store = await openJetStream(connection, 1, { prefix, opTimeoutMs: 2000 });
    const other = await openJetStream(connection, 1, { prefix, opTimeoutMs: 20_000 });
    await seed(other);
    await other.close();
    await work({ prefix, store, raw: rawBuckets(connection, prefix) });
    await store.close();
    await dropBuckets(connection, prefix);
  };

  it("finds nothing in what the faults are planted into", () =>
    seeded(async ({ store }) => {
      await finds(store, [], []);
    }));

  for (const [bucket, plants] of Object.entries(PLANTS))
    describe(bucket, () => {
      for (const [name, plant] of Object.entries(plants))
        it(`finds ${name}`, () =>
          seeded(async ({ raw, store }) => {
            await plant.plant(raw);
            await finds(store, plant.finds, plant.left);
          }));
    });

  it("takes no room for imported whose random id only begins like that of one", () => {
    let id = newId();
    // One of 4,096 does: that none of so many does has a chance of e^-48.
    for (let i = 0; i < 200_000 && !id.startsWith("i-"); i++) id = newId();
    expect(id).to.match(/^i-/);
    expect(isImported(id)).to.equal(false);
    expect(isImported(newImportedId())).to.equal(true);
  });

  it("finds a setting that breaks a promise, and looks at nothing else", () =>
    seeded(async ({ prefix, store }) => {
      await configure(connection, `${prefix}members`, { max_bytes: 1_000_000_000 });
      const found = await inspect(store, { repair: true });
      expect(told(found)).to.deep.equal([`SETTING_INVALID ${prefix}members`]);
      expect(found.ok).to.equal(false);
    }));

  it("takes nothing for left that is cleared away while a call may be under way", () =>
    seeded(async ({ raw, store }) => {
      const { key, value } = await keyOf(raw, "late", 3);
      const at = [...key.split(".").slice(0, -1), "loser"].join(".");
      await raw.room_keys.put(at, value);
      // It is gone before the time of a call is over: whoever staged it has cleared it away.
      const inspecting = inspect(store, {
        onProgress: ({ phase }) => void (phase === "leftovers" && raw.room_keys.purge(at)),
      });
      expect((await inspecting).findings).to.deep.equal([]);
    }));

  it("mends nothing that makes a check true which was false, whatever is wrong", async () => {
    const all = Object.values(PLANTS).flatMap((plants) => Object.values(plants));
    for (let round = 0; round < 12; round++) {
      const next = random(0xfa17, round);
      await seeded(async ({ raw, store, prefix }) => {
        const some = Array.from({ length: 1 + Math.floor(next() * 4) }, () => all[Math.floor(next() * all.length)]);
        // One can take away what another one is planted into.
        for (const plant of some) await plant?.plant(raw).catch(() => undefined);
        const could = await allowed(store);
        await inspect(store, { repair: true, stallTimeoutMs: 60_000 });
        grantsNothing(could, await allowed(store), `round ${String(round)}`);
        const other = await openJetStream(connection, 1, { prefix }).catch(() => undefined);
        if (other === undefined) return;
        grantsNothing(could, await allowed(other), `round ${String(round)}, opened anew,`);
        await other.close();
      });
    }
  });
});
