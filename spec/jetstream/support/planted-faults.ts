// Faults that were thought of by somebody who had read the contract and docs/protocol.md, and nothing of the
// inspection: what an operator's `nats kv put` and `nats kv del`, a restored backup, a lost disk or half a write leave.
// Each is planted with a plain client.

import { tokenOf, type Estate, type Found, type Lot } from "./estate.js";
import type { Json } from "./streams.js";

/** A fault of some records. Many of them are planted into one store, each into a lot of its own. */
export interface Fault {
  readonly in: string;
  /** Which promises of the contract it would break. */
  readonly promises: readonly number[];
  /** What of the lot it needs. */
  readonly needs: readonly ("user" | "hall" | "vault" | "crowd" | "gone")[];
  readonly plant: (estate: Estate, lot: Lot) => Promise<void>;
  /** The codes of what is found. */
  readonly finds: readonly string[];
  /** What is left of them after a repair, if that is less. */
  readonly left?: readonly string[];
  /** Who is allowed by the fault itself where a store has nothing in memory. */
  readonly grants?: (lot: Lot) => readonly string[];
}

const json = (value: unknown): Json => value as Json;
const text = (value: unknown): string => Buffer.from(String(value), "utf8").toString("base64");
const user = (key: string): string => `user.${tokenOf(key)}`;
const room = (id: string): string => `room.${tokenOf(id)}`;
const half = (value: Json): string => JSON.stringify(value).slice(0, 40);

const vaultKey = async (
  e: Estate,
  { vault }: Lot,
  endpoint: string,
  epoch: number,
): Promise<Found & { tokens: string[] }> => {
  const { value } = await e.room(vault);
  const { id } = (await e.row(vault, endpoint)).value;
  const key = [tokenOf(vault), tokenOf(endpoint), value["incarnation"], id, epoch].join(".");
  const found = await e.one("room_keys", `key.${key}.*`);
  return { ...found, tokens: found.key.split(".") };
};
/** A copy of a member's key, at another key of the bucket. */
const copyOfKey = async (e: Estate, lot: Lot, change: (tokens: string[]) => void): Promise<void> => {
  const { tokens, value } = await vaultKey(e, lot, "bob", 3);
  change(tokens);
  await e.put("room_keys", tokens.join("."), value);
};
const editKey = async (e: Estate, lot: Lot, change: Json): Promise<void> => {
  const { key, value } = await vaultKey(e, lot, "bob", 3);
  await e.put("room_keys", key, { ...value, ...change });
};
const epochKey = async (e: Estate, { vault }: Lot, epoch: number): Promise<string> => {
  const { value } = await e.room(vault);
  return `epoch.${tokenOf(vault)}.${String(value["incarnation"])}.${String(epoch)}`;
};
const rowKey = async (e: Estate, roomId: string, endpoint: string): Promise<string> =>
  `${tokenOf(roomId)}.${tokenOf(endpoint)}.${await e.roster(roomId)}`;
const copyOfRow = async (e: Estate, key: string, { hall }: Lot): Promise<void> =>
  e.put("members", key, { ...(await e.row(hall, "bob")).value, id: "made-up" });
const entry = (e: Estate, { hall }: Lot, endpoint = "bob"): Promise<Found> =>
  e.one("rooms_by_member", `${tokenOf(endpoint)}.${tokenOf(hall)}.>`);
const roomEntry = (e: Estate, { vault }: Lot): Promise<Found> => e.one("rooms_by_member", `=.${tokenOf(vault)}.*`);

export const FAULTS: Readonly<Record<string, Fault>> = {
  "a user's record is cut": {
    in: "users",
    promises: [9, 11],
    needs: ["user"],
    plant: async (e, l) => e.put("users", user(l.plain), half((await e.user(l.plain)).value)),
    finds: ["RECORD_DAMAGED"],
  },
  "an admin's record stands at another's key": {
    in: "users",
    promises: [3, 11],
    needs: [],
    plant: async (e, l) => e.put("users", user(l.nobody), JSON.stringify((await e.user("root")).value)),
    finds: ["RECORD_MISPLACED"],
  },
  "a user's record stands at another's key, and says so": {
    in: "users",
    promises: [3, 11],
    needs: ["user"],
    plant: async (e, l) => e.put("users", user(l.nobody), (await e.user(l.plain)).value),
    finds: ["RECORD_MISPLACED"],
  },
  "a user of another key than the record's": {
    in: "users",
    promises: [1, 11],
    needs: ["user"],
    plant: (e, l) => e.editUser(l.plain, { key: "root" }),
    finds: ["RECORD_MISPLACED"],
  },
  "a user was deleted by the client": {
    in: "users",
    promises: [2, 9],
    needs: ["user"],
    plant: (e, l) => e.del("users", user(l.plain)),
    finds: ["RECORD_DAMAGED"],
  },
  "a user's grant is above the version": {
    in: "users",
    promises: [17, 19],
    needs: ["user"],
    plant: (e, l) => e.editUser(l.plain, { grant: 99 }),
    finds: ["FIELD_INVALID"],
  },
  "a user's grant is no number of changes": {
    in: "users",
    promises: [17, 19],
    needs: ["user"],
    plant: (e, l) => e.editUser(l.plain, { grant: -0.5 }),
    finds: ["FIELD_INVALID"],
  },
  "a user's version is no integer": {
    in: "users",
    promises: [1, 18],
    needs: ["user"],
    plant: (e, l) => e.editUser(l.plain, { v: 2.5 }),
    finds: ["FIELD_INVALID"],
  },
  "a user expires at no time": {
    in: "users",
    promises: [1, 19],
    needs: ["user"],
    plant: (e, l) => e.editUser(l.plain, { expiresAt: 1e18 }),
    finds: ["FIELD_INVALID"],
  },
  "a user was revoked at no time": {
    in: "users",
    promises: [1, 12],
    needs: ["user"],
    plant: (e, l) => e.editUser(l.plain, { revokedAt: "yesterday" }),
    finds: ["RECORD_DAMAGED"],
  },
  "a user's key in upper case": {
    in: "users",
    promises: [1, 3],
    needs: ["user"],
    plant: async (e, l) => {
      const key = `PLAIN-${String(l.n)}`;
      const { value } = await e.user(l.plain);
      await e.put("users", user(key), { ...value, user: { ...json(value["user"]), key } });
    },
    finds: ["FIELD_INVALID"],
  },
  "a user's name with a control character": {
    in: "users",
    promises: [1],
    needs: ["user"],
    plant: (e, l) => e.editUser(l.plain, { name: "a\u0000" }),
    finds: ["FIELD_INVALID"],
  },
  "a user's record counts its writes by a word": {
    in: "users",
    promises: [9],
    needs: ["user"],
    plant: (e, l) => e.edit("users", user(l.plain), () => ({ n: "many" })),
    finds: ["RECORD_DAMAGED"],
  },
  "a user's record counts more writes than the log has": {
    in: "users",
    promises: [4, 9],
    needs: ["user"],
    plant: (e, l) => e.edit("users", user(l.plain), () => ({ n: 1e9 })),
    finds: ["RECORD_DAMAGED"],
  },
  "a user's record says that it stood behind itself": {
    in: "users",
    promises: [12, 18],
    needs: ["user"],
    plant: (e, l) => e.edit("users", user(l.plain), () => ({ seqs: [1e9, 1e9 - 1] })),
    finds: ["RECORD_DAMAGED"],
  },
  "a change of a user is staged for a guard to come": {
    in: "users",
    promises: [4, 14],
    needs: ["user"],
    plant: (e, l) => e.edit("users", user(l.plain), () => ({ stage: { attempt: "made-up", guard: 1e9 } })),
    finds: ["STAGE_INVALID"],
  },
  "a foreign key in the users": {
    in: "users",
    promises: [1],
    needs: [],
    plant: (e, l) => e.put("users", `notes.${tokenOf(l.nobody)}`, "call Ann"),
    finds: ["RECORD_UNKNOWN"],
  },
  "a room was deleted by the client": {
    in: "rooms",
    promises: [2, 8],
    needs: ["vault"],
    plant: (e, l) => e.del("rooms", room(l.vault)),
    finds: ["RECORD_DAMAGED"],
  },
  "a room's record is cut": {
    in: "rooms",
    promises: [4, 11],
    needs: ["vault"],
    plant: async (e, l) => e.put("rooms", room(l.vault), half((await e.room(l.vault)).value)),
    finds: ["RECORD_DAMAGED"],
  },
  "a room's tombstone is there, and everything else": {
    in: "rooms",
    promises: [8],
    needs: ["vault"],
    plant: (e, l) => e.editRoom(l.vault, () => ({ gone: true })),
    finds: ["LEFTOVER"],
    left: [],
  },
  "a room of before came back in the record alone": {
    in: "rooms",
    promises: [8, 15],
    needs: ["vault", "gone"],
    plant: async (e, l) => e.put("rooms", room(l.gone), (await e.room(l.vault)).value),
    finds: ["EPOCH_MISSING", "MEMBER_COUNT"],
  },
  "a room's record is older than its members": {
    in: "rooms",
    promises: [12, 15],
    needs: ["vault"],
    plant: (e, l) => e.editRoom(l.vault, ({ v }) => ({ v: Number(v) - 2, head: [] })),
    finds: ["HEAD_INVALID", "LEFTOVER"],
  },
  "a room has lost the last change": {
    in: "rooms",
    promises: [4, 12],
    needs: ["vault"],
    plant: (e, l) => e.editRoom(l.vault, () => ({ head: [] })),
    finds: ["HEAD_INVALID", "LEFTOVER"],
  },
  "a room's last change joins a stranger": {
    in: "rooms",
    promises: [4, 11],
    needs: ["hall"],
    plant: async (e, l) => {
      const { value } = await e.row(l.hall, "bob");
      const row = { ...value, k: undefined, id: "made-up", of: 1 };
      await e.editRoom(l.hall, ({ v }) => ({ head: [{ endpoint: "stranger", after: 0, row: { ...row, v } }] }));
    },
    finds: ["HEAD_INVALID", "LEFTOVER"],
  },
  "a room's epoch that nobody made": {
    in: "rooms",
    promises: [6],
    needs: ["vault"],
    plant: (e, l) => e.editRoom(l.vault, () => ({ epoch: 5 })),
    finds: ["EPOCH_MISSING"],
  },
  "a room went back an epoch": {
    in: "rooms",
    promises: [6, 15],
    needs: ["vault"],
    plant: (e, l) => e.editRoom(l.vault, () => ({ epoch: 2 })),
    finds: ["EPOCH_INVALID", "LEFTOVER"],
  },
  "a room's rekey is another one": {
    in: "rooms",
    promises: [6],
    needs: ["vault"],
    plant: (e, l) => e.editRoom(l.vault, () => ({ attempt: "another" })),
    finds: ["EPOCH_INVALID", "LEFTOVER"],
  },
  "a room's owner is a stranger": {
    in: "rooms",
    promises: [4],
    needs: ["hall"],
    plant: (e, l) => e.editRoom(l.hall, () => ({ owner: "stranger" })),
    finds: ["OWNER_MISSING", "OWNER_ROLE"],
    left: ["OWNER_MISSING"],
  },
  "a room's owner is another member": {
    in: "rooms",
    promises: [4],
    needs: ["hall"],
    plant: (e, l) => e.editRoom(l.hall, () => ({ owner: "bob" })),
    finds: ["OWNER_ROLE"],
    left: [],
  },
  "a room counts one member more": {
    in: "rooms",
    promises: [5],
    needs: ["vault"],
    plant: (e, l) => e.editRoom(l.vault, ({ members }) => ({ members: Number(members) + 1 })),
    finds: ["MEMBER_COUNT"],
  },
  "a room knows more of the members' log than there is": {
    in: "rooms",
    promises: [15],
    needs: ["hall"],
    plant: (e, l) => e.editRoom(l.hall, () => ({ membersSeq: 1e9 })),
    finds: ["LOG_BEHIND"],
  },
  "a room knows more of the keys' log than there is": {
    in: "rooms",
    promises: [15],
    needs: ["vault"],
    plant: (e, l) => e.editRoom(l.vault, () => ({ keysSeq: 1e9 })),
    finds: ["LOG_BEHIND"],
  },
  "a room of another incarnation": {
    in: "rooms",
    promises: [4, 8],
    needs: ["vault"],
    plant: (e, l) => e.editRoom(l.vault, () => ({ incarnation: "another" })),
    finds: ["ROOM_NOT_INDEXED", "MEMBER_NOT_INDEXED", "EPOCH_MISSING", "LEFTOVER"],
    left: ["EPOCH_MISSING", "LEFTOVER"],
  },
  "a room names a roster that is not there": {
    in: "rooms",
    promises: [4],
    needs: ["vault"],
    plant: (e, l) =>
      e.editRoom(l.vault, ({ incarnation }) => ({
        incarnation: undefined,
        life: incarnation,
        roster: `${String(incarnation)}.another`,
      })),
    finds: ["MEMBER_COUNT", "LEFTOVER"],
  },
  "a debt of a room that is not encrypted": {
    in: "rooms",
    promises: [7],
    needs: ["hall"],
    plant: (e, l) => e.editRoom(l.hall, () => ({ rekeyRequired: true })),
    finds: ["FIELD_INVALID"],
  },
  "an epoch of a room that is not encrypted": {
    in: "rooms",
    promises: [7],
    needs: ["hall"],
    plant: (e, l) => e.editRoom(l.hall, () => ({ epoch: 2 })),
    finds: ["EPOCH_MISSING"],
  },
  "an encrypted room says that it is none": {
    in: "rooms",
    promises: [7],
    needs: ["vault"],
    plant: (e, l) => e.editRoom(l.vault, () => ({ encrypted: false })),
    finds: ["FIELD_INVALID"],
  },
  "a room's record stands at another's key": {
    in: "rooms",
    promises: [3, 8],
    needs: ["hall"],
    plant: async (e, l) => e.put("rooms", room(l.nowhere), JSON.stringify((await e.room(l.hall)).value)),
    finds: ["RECORD_MISPLACED"],
  },
  "a room's record says that it stood behind itself": {
    in: "rooms",
    promises: [12, 18],
    needs: ["hall"],
    plant: (e, l) => e.editRoom(l.hall, () => ({ seqs: [1e9] })),
    finds: ["RECORD_DAMAGED"],
  },
  "a room's name is no name": {
    in: "rooms",
    promises: [1],
    needs: ["hall"],
    plant: (e, l) => e.editRoom(l.hall, () => ({ name: "\u0007" })),
    finds: ["FIELD_INVALID"],
  },
  "a room was made at no time": {
    in: "rooms",
    promises: [1],
    needs: ["hall"],
    plant: (e, l) => e.editRoom(l.hall, () => ({ createdAt: 1e17 })),
    finds: ["FIELD_INVALID"],
  },
  "a room's version is no number of changes": {
    in: "rooms",
    promises: [1, 18],
    needs: ["hall"],
    plant: (e, l) => e.editRoom(l.hall, () => ({ v: -1 })),
    finds: ["FIELD_INVALID"],
  },
  "a tombstone is cut": {
    in: "rooms",
    promises: [8],
    needs: ["gone"],
    plant: (e, l) => e.put("rooms", room(l.gone), '{"gone":true'),
    finds: ["RECORD_DAMAGED"],
  },
  "a tombstone was deleted by the client": {
    in: "rooms",
    promises: [8],
    needs: ["gone"],
    plant: (e, l) => e.del("rooms", room(l.gone)),
    finds: ["RECORD_DAMAGED"],
  },
  "a room whose id is none": {
    in: "rooms",
    promises: [1],
    needs: ["hall"],
    plant: async (e, l) => e.put("rooms", room(`a\u0000${l.hall}`), (await e.room(l.hall)).value),
    finds: ["MEMBER_COUNT"],
  },
  "a foreign key in the rooms": {
    in: "rooms",
    promises: [1],
    needs: [],
    plant: (e, l) => e.put("rooms", `notes.${tokenOf(l.nowhere)}`, "7"),
    finds: ["RECORD_UNKNOWN"],
  },
  "a member's row was lost": {
    in: "members",
    promises: [5, 9],
    needs: ["hall"],
    plant: async (e, l) => e.purge("members", await rowKey(e, l.hall, "bob")),
    finds: ["MEMBER_COUNT", "LEFTOVER"],
  },
  "the owner's row was lost": {
    in: "members",
    promises: [4, 9],
    needs: ["vault"],
    plant: async (e, l) => e.purge("members", await rowKey(e, l.vault, "ann")),
    finds: ["MEMBER_COUNT", "LEFTOVER"],
  },
  "the row of somebody who left was lost": {
    in: "members",
    promises: [12],
    needs: ["vault"],
    plant: async (e, l) => e.purge("members", await rowKey(e, l.vault, "dan")),
    finds: ["MEMBER_COUNT"],
  },
  "the row of somebody who left was lost, of a roster that was copied": {
    in: "members",
    promises: [12],
    needs: ["crowd"],
    plant: async (e, l) => e.purge("members", await rowKey(e, l.crowd, "guest 47")),
    finds: ["MEMBER_COUNT"],
  },
  "a member was deleted by the client": {
    in: "members",
    promises: [2, 5],
    needs: ["hall"],
    plant: async (e, l) => e.del("members", await rowKey(e, l.hall, "bob")),
    finds: ["RECORD_DAMAGED"],
  },
  "a member's row is cut": {
    in: "members",
    promises: [4, 11],
    needs: ["vault"],
    plant: async (e, l) => e.put("members", await rowKey(e, l.vault, "bob"), '{"id":"'),
    finds: ["RECORD_DAMAGED"],
  },
  "a stranger's row": {
    in: "members",
    promises: [4, 11],
    needs: ["hall"],
    plant: async (e, l) => copyOfRow(e, await rowKey(e, l.hall, "stranger"), l),
    finds: ["MEMBER_UNCOMMITTED"],
    left: [],
  },
  "a stranger's row in an encrypted room": {
    in: "members",
    promises: [4, 6, 11],
    needs: ["hall", "vault"],
    plant: async (e, l) => copyOfRow(e, await rowKey(e, l.vault, "stranger"), l),
    finds: ["MEMBER_UNCOMMITTED"],
    left: [],
  },
  "who left is back": {
    in: "members",
    promises: [7, 12],
    needs: ["vault"],
    plant: (e, l) => e.editRow(l.vault, "dan", { gone: false }),
    finds: ["MEMBER_UNCOMMITTED"],
    left: [],
  },
  "a row of a version to come": {
    in: "members",
    promises: [4, 12],
    needs: ["hall"],
    plant: (e, l) => e.editRow(l.hall, "bob", { v: 99 }),
    finds: ["MEMBER_UNCOMMITTED"],
  },
  "who was invited has joined by hand": {
    in: "members",
    promises: [11],
    needs: ["hall"],
    plant: (e, l) => e.editRow(l.hall, "cyd", { joined: true }),
    finds: ["MEMBER_UNCOMMITTED"],
    grants: ({ hall }) => [`isMember ${hall}/cyd`],
  },
  "a second owner": {
    in: "members",
    promises: [4],
    needs: ["hall"],
    plant: (e, l) => e.editRow(l.hall, "bob", { owner: true }),
    finds: ["MEMBER_UNCOMMITTED"],
  },
  "an owner who has not joined": {
    in: "members",
    promises: [4],
    needs: ["hall"],
    plant: (e, l) => e.editRow(l.hall, "ann", { joined: false }),
    finds: ["MEMBER_UNCOMMITTED"],
  },
  "a member's row stands at another's key": {
    in: "members",
    promises: [3, 11],
    needs: ["hall"],
    plant: async (e, l) =>
      e.put("members", await rowKey(e, l.hall, "stranger"), JSON.stringify((await e.row(l.hall, "bob")).value)),
    finds: ["RECORD_MISPLACED"],
  },
  "a member since no time": {
    in: "members",
    promises: [1],
    needs: ["hall"],
    plant: (e, l) => e.editRow(l.hall, "bob", { since: -1e17 }),
    finds: ["MEMBER_UNCOMMITTED"],
  },
  "a public key that is too long": {
    in: "members",
    promises: [1],
    needs: ["vault"],
    plant: (e, l) => e.editRow(l.vault, "bob", { publicKey: "A".repeat(4000) }),
    finds: ["MEMBER_UNCOMMITTED"],
  },
  "a public key that is none": {
    in: "members",
    promises: [1],
    needs: ["vault"],
    plant: (e, l) => e.editRow(l.vault, "bob", { publicKey: "public, surely!" }),
    finds: ["RECORD_DAMAGED", "MEMBER_UNCOMMITTED"],
  },
  "another membership than the index has": {
    in: "members",
    promises: [5, 19],
    needs: ["vault"],
    plant: (e, l) => e.editRow(l.vault, "bob", { id: "another" }),
    finds: ["MEMBER_UNCOMMITTED", "LEFTOVER"],
  },
  "a row of a room that never was": {
    in: "members",
    promises: [8, 15],
    needs: ["hall"],
    plant: (e, l) => copyOfRow(e, `${tokenOf(l.nowhere)}.${tokenOf("bob")}.made-up`, l),
    finds: ["ROOM_MISSING"],
  },
  "a row of a deleted room": {
    in: "members",
    promises: [8],
    needs: ["hall", "gone"],
    plant: (e, l) => copyOfRow(e, `${tokenOf(l.gone)}.${tokenOf("bob")}.made-up`, l),
    finds: ["LEFTOVER"],
    left: [],
  },
  "a row of a roster that nobody names": {
    in: "members",
    promises: [12, 16],
    needs: ["hall"],
    plant: async (e, l) => copyOfRow(e, `${await rowKey(e, l.hall, "bob")}.made-up`, l),
    finds: ["LEFTOVER"],
    left: [],
  },
  "a foreign key in the members": {
    in: "members",
    promises: [1],
    needs: ["hall"],
    plant: (e, l) => copyOfRow(e, `a.b.c.d.${tokenOf(l.hall)}`, l),
    finds: ["RECORD_UNKNOWN"],
  },
  "a membership is not in the index": {
    in: "rooms_by_member",
    promises: [5],
    needs: ["hall"],
    plant: async (e, l) => e.purge("rooms_by_member", (await entry(e, l)).key),
    finds: ["MEMBER_NOT_INDEXED"],
    left: [],
  },
  "a room is not in the index": {
    in: "rooms_by_member",
    promises: [5],
    needs: ["vault"],
    plant: async (e, l) => e.purge("rooms_by_member", (await roomEntry(e, l)).key),
    finds: ["ROOM_NOT_INDEXED"],
    left: [],
  },
  "the index names a stranger": {
    in: "rooms_by_member",
    promises: [5, 16],
    needs: ["hall"],
    plant: async (e, l) => {
      const { key, value } = await entry(e, l);
      await e.put("rooms_by_member", [tokenOf("stranger"), ...key.split(".").slice(1)].join("."), value);
    },
    finds: ["LEFTOVER"],
    left: [],
  },
  "an entry is garbage": {
    in: "rooms_by_member",
    promises: [5],
    needs: ["hall"],
    plant: async (e, l) => e.put("rooms_by_member", (await entry(e, l)).key, "{"),
    finds: ["RECORD_DAMAGED"],
    left: [],
  },
  "an entry says that it stands elsewhere": {
    in: "rooms_by_member",
    promises: [5],
    needs: ["hall"],
    plant: async (e, l) =>
      e.put("rooms_by_member", (await entry(e, l)).key, JSON.stringify((await entry(e, l, "cyd")).value)),
    finds: ["RECORD_MISPLACED"],
    left: [],
  },
  "an entry was deleted by the client": {
    in: "rooms_by_member",
    promises: [2, 5],
    needs: ["hall"],
    plant: async (e, l) => e.del("rooms_by_member", (await entry(e, l)).key),
    finds: ["RECORD_DAMAGED"],
    left: [],
  },
  "a room's entry was deleted by the client": {
    in: "rooms_by_member",
    promises: [2, 5],
    needs: ["vault"],
    plant: async (e, l) => e.del("rooms_by_member", (await roomEntry(e, l)).key),
    finds: ["RECORD_DAMAGED"],
    left: [],
  },
  "an entry of an incarnation of before": {
    in: "rooms_by_member",
    promises: [8],
    needs: ["vault"],
    plant: (e, l) => e.put("rooms_by_member", `=.${tokenOf(l.vault)}.before`, {}),
    finds: ["LEFTOVER"],
    left: [],
  },
  "an entry of a room that never was": {
    in: "rooms_by_member",
    promises: [5, 8],
    needs: [],
    plant: (e, l) => e.put("rooms_by_member", `=.${tokenOf(l.nowhere)}.before`, {}),
    finds: ["LEFTOVER"],
    left: [],
  },
  "an entry of a membership of before": {
    in: "rooms_by_member",
    promises: [5],
    needs: ["hall"],
    plant: async (e, l) =>
      e.put("rooms_by_member", [...(await entry(e, l)).key.split(".").slice(0, 3), "before"].join("."), {}),
    finds: ["LEFTOVER"],
    left: [],
  },
  "a foreign key in the index": {
    in: "rooms_by_member",
    promises: [1],
    needs: [],
    plant: (e, l) => e.put("rooms_by_member", `hello.${tokenOf(l.nowhere)}`, "world"),
    finds: ["RECORD_UNKNOWN"],
  },
  "a key of an epoch to come": {
    in: "room_keys",
    promises: [6],
    needs: ["vault"],
    plant: (e, l) => copyOfKey(e, l, (tokens) => void (tokens[5] = "4")),
    finds: ["LEFTOVER"],
    left: [],
  },
  "a key of a rekey that lost": {
    in: "room_keys",
    promises: [6],
    needs: ["vault"],
    plant: (e, l) => copyOfKey(e, l, (tokens) => void (tokens[6] = "loser")),
    finds: ["LEFTOVER"],
    left: [],
  },
  "a key of who was removed": {
    in: "room_keys",
    promises: [7],
    needs: ["vault"],
    plant: async (e, l) => {
      const { id } = (await e.row(l.vault, "dan")).value;
      await copyOfKey(e, l, (tokens) => {
        tokens[2] = tokenOf("dan");
        tokens[4] = String(id);
      });
    },
    finds: ["LEFTOVER"],
    left: [],
  },
  "a key of a membership of before": {
    in: "room_keys",
    promises: [7],
    needs: ["vault"],
    plant: (e, l) => copyOfKey(e, l, (tokens) => void (tokens[4] = "before")),
    finds: ["LEFTOVER"],
    left: [],
  },
  "a key of a deleted room": {
    in: "room_keys",
    promises: [8],
    needs: ["vault", "gone"],
    plant: (e, l) => copyOfKey(e, l, (tokens) => void (tokens[1] = tokenOf(l.gone))),
    finds: ["LEFTOVER"],
    left: [],
  },
  "a key of an incarnation of before": {
    in: "room_keys",
    promises: [8],
    needs: ["vault"],
    plant: (e, l) => copyOfKey(e, l, (tokens) => void (tokens[3] = "before")),
    finds: ["LEFTOVER"],
    left: [],
  },
  "a key of a room that is not encrypted": {
    in: "room_keys",
    promises: [6],
    needs: ["hall", "vault"],
    plant: async (e, l) => {
      const { value } = await e.room(l.hall);
      const { id } = (await e.row(l.hall, "bob")).value;
      await copyOfKey(e, l, (tokens) => {
        tokens.splice(1, 6, tokenOf(l.hall), tokenOf("bob"), String(value["incarnation"]), String(id), "1", "made-up");
      });
    },
    finds: ["LEFTOVER"],
    left: [],
  },
  "a key is cut": {
    in: "room_keys",
    promises: [6, 9],
    needs: ["vault"],
    plant: async (e, l) => e.put("room_keys", (await vaultKey(e, l, "bob", 3)).key, '{"sealed":"AA'),
    finds: ["RECORD_DAMAGED"],
  },
  "a key without bytes": {
    in: "room_keys",
    promises: [1, 6],
    needs: ["vault"],
    plant: (e, l) => editKey(e, l, { sealed: "" }),
    finds: ["FIELD_INVALID"],
  },
  "a key that is too long": {
    in: "room_keys",
    promises: [1],
    needs: ["vault"],
    plant: (e, l) => editKey(e, l, { sealed: text("x".repeat(65_537)) }),
    finds: ["FIELD_INVALID"],
  },
  "a key that is no base64": {
    in: "room_keys",
    promises: [1, 6],
    needs: ["vault"],
    plant: (e, l) => editKey(e, l, { sealed: "sealed, surely!" }),
    finds: ["RECORD_DAMAGED"],
  },
  "a key of no time": {
    in: "room_keys",
    promises: [1],
    needs: ["vault"],
    plant: (e, l) => editKey(e, l, { createdAt: 1e17 }),
    finds: ["FIELD_INVALID"],
  },
  "another's key stands in a member's place": {
    in: "room_keys",
    promises: [6, 11],
    needs: ["vault"],
    plant: async (e, l) =>
      e.put("room_keys", (await vaultKey(e, l, "bob", 3)).key, JSON.stringify((await vaultKey(e, l, "ann", 3)).value)),
    finds: ["RECORD_MISPLACED"],
  },
  "a key was deleted by the client": {
    in: "room_keys",
    promises: [2, 9],
    needs: ["vault"],
    plant: async (e, l) => e.del("room_keys", (await vaultKey(e, l, "bob", 3)).key),
    finds: ["RECORD_DAMAGED"],
  },
  "an epoch was lost": {
    in: "room_keys",
    promises: [6, 9],
    needs: ["vault"],
    plant: async (e, l) => e.purge("room_keys", await epochKey(e, l, 2)),
    finds: ["EPOCH_MISSING"],
  },
  "an epoch was deleted by the client": {
    in: "room_keys",
    promises: [2, 6],
    needs: ["vault"],
    plant: async (e, l) => e.del("room_keys", await epochKey(e, l, 2)),
    finds: ["RECORD_DAMAGED"],
  },
  "an epoch names a rekey that lost": {
    in: "room_keys",
    promises: [6],
    needs: ["vault"],
    plant: async (e, l) => e.put("room_keys", await epochKey(e, l, 2), { attempt: "loser" }),
    finds: ["EPOCH_INVALID", "LEFTOVER"],
  },
  "an epoch names a rekey that lost, with all of its keys": {
    in: "room_keys",
    promises: [6],
    needs: ["vault"],
    plant: async (e, l) => {
      for (const endpoint of ["ann", "bob", "cyd"]) {
        const { tokens, value } = await vaultKey(e, l, endpoint, 2);
        tokens[6] = "loser";
        await e.put("room_keys", tokens.join("."), { ...value, sealed: text("loser") });
      }
      await e.put("room_keys", await epochKey(e, l, 2), { attempt: "loser" });
    },
    finds: ["EPOCH_INVALID", "LEFTOVER"],
  },
  "an epoch is garbage": {
    in: "room_keys",
    promises: [6],
    needs: ["vault"],
    plant: async (e, l) => e.put("room_keys", await epochKey(e, l, 1), "loser"),
    finds: ["RECORD_DAMAGED"],
  },
  "an epoch is there that is yet to come": {
    in: "room_keys",
    promises: [6],
    needs: ["vault"],
    plant: async (e, l) => e.put("room_keys", await epochKey(e, l, 7), { attempt: "made-up" }),
    finds: ["EPOCH_INVALID"],
    left: [],
  },
  "an epoch of an incarnation of before": {
    in: "room_keys",
    promises: [8],
    needs: ["vault"],
    plant: (e, l) => e.put("room_keys", `epoch.${tokenOf(l.vault)}.before.1`, { attempt: "made-up" }),
    finds: ["LEFTOVER"],
    left: [],
  },
  "a foreign key in the keys": {
    in: "room_keys",
    promises: [1],
    needs: [],
    plant: (e, l) => e.put("room_keys", `key.a.${tokenOf(l.nowhere)}`, "!"),
    finds: ["RECORD_UNKNOWN"],
  },
};

/** A fault of which a store has only one. Each is planted into a store of its own. */
export interface FaultOfAll extends Omit<Fault, "needs" | "plant" | "finds" | "grants"> {
  readonly plant: (estate: Estate) => Promise<void>;
  /** What an inspection by a store that was open meanwhile finds, or how it is refused. */
  readonly finds: readonly string[] | Refused;
  /** How the next opening is refused. */
  readonly opens?: Refused;
}

/** The code of an error. */
export type Refused = "CORRUPT" | "INCOMPATIBLE" | "UNAVAILABLE";

const guard = (e: Estate, change: (value: Json) => Json): Promise<void> => e.edit("users", "admins", change);

export const FAULTS_OF_ALL: Readonly<Record<string, FaultOfAll>> = {
  "a user was made an admin by hand": {
    in: "users",
    promises: [14],
    plant: (e) => e.editUser("former", { admin: true }),
    finds: ["ADMIN_GUARD"],
    left: [],
  },
  "an admin was revoked by hand": {
    in: "users",
    promises: [14],
    plant: (e) => e.editUser("root", { revokedAt: 7 }),
    finds: ["ADMIN_GUARD"],
    left: [],
  },
  "all admins were revoked by hand": {
    in: "users",
    promises: [14],
    plant: async (e) => {
      await e.editUser("root", { revokedAt: 7 });
      await e.editUser("second", { revokedAt: 7 });
    },
    finds: ["ADMIN_GUARD", "NO_ADMIN"],
    left: ["NO_ADMIN"],
  },
  "an admin was deleted by the client": {
    in: "users",
    promises: [9, 14],
    plant: (e) => e.del("users", user("root")),
    finds: ["ADMIN_GUARD", "RECORD_DAMAGED"],
    left: ["RECORD_DAMAGED"],
  },
  "an admin's record is there twice": {
    in: "users",
    promises: [3, 14],
    plant: async (e) => e.put("users", user("copy"), (await e.user("root")).value),
    finds: ["ADMIN_GUARD", "RECORD_MISPLACED"],
    left: ["RECORD_MISPLACED"],
  },
  "the guard is that of an empty store": {
    in: "users",
    promises: [14, 15],
    plant: (e) => guard(e, () => ({ ever: false, admins: 0, witnesses: [], head: undefined })),
    finds: ["ADMIN_GUARD"],
  },
  "the guard says that nobody ever was an admin": {
    in: "users",
    promises: [14],
    plant: (e) => guard(e, () => ({ ever: false })),
    finds: ["ADMIN_GUARD"],
    left: [],
  },
  "the guard was deleted by the client": {
    in: "users",
    promises: [14, 15],
    plant: (e) => e.del("users", "admins"),
    finds: ["RECORD_DAMAGED"],
    opens: "CORRUPT",
  },
  "the guard says nothing": {
    in: "users",
    promises: [14],
    plant: (e) => guard(e, () => ({ ever: "surely", admins: undefined })),
    finds: ["RECORD_DAMAGED"],
    opens: "CORRUPT",
  },
  "the guard counts one too many": {
    in: "users",
    promises: [14],
    plant: (e) => guard(e, ({ admins }) => ({ admins: Number(admins) + 1 })),
    finds: ["ADMIN_GUARD"],
    left: [],
  },
  "the guard counts one too few": {
    in: "users",
    promises: [14],
    plant: (e) => guard(e, ({ admins }) => ({ admins: Number(admins) - 1 })),
    finds: ["ADMIN_GUARD"],
    left: [],
  },
  "the guard names nobody": {
    in: "users",
    promises: [11, 14],
    plant: (e) => guard(e, () => ({ witnesses: [] })),
    finds: ["ADMIN_GUARD"],
  },
  "the guard names somebody who is none": {
    in: "users",
    promises: [11, 14],
    plant: (e) => guard(e, () => ({ witnesses: [{ key: "nobody" }, { key: "root" }] })),
    finds: ["ADMIN_GUARD"],
    left: [],
  },
  "the guard names one who lasts longer than the user": {
    in: "users",
    promises: [11, 14],
    plant: (e) => guard(e, () => ({ witnesses: [{ key: "root" }, { key: "second" }] })),
    finds: ["ADMIN_GUARD"],
    left: [],
  },
  "the guard's last change makes a stranger an admin": {
    in: "users",
    promises: [4, 11],
    plant: (e) =>
      guard(e, () => ({
        head: {
          attempt: "made-up",
          seq: 1,
          user: { key: "nobody", v: 1, admin: true, name: "", createdAt: 7, grant: 0 },
          ended: false,
        },
      })),
    finds: ["ADMIN_GUARD"],
  },
  "a revoked admin has a stage that the guard names": {
    in: "users",
    promises: [4, 12],
    plant: async (e) => {
      const { value, seq } = await e.guard();
      await e.edit("users", user("revoked"), () => ({ stage: { attempt: "made-up", guard: seq } }));
      const revoked = await e.user("revoked");
      const row = { ...json(revoked.value["user"]), v: 9, revokedAt: undefined };
      await e.put("users", "admins", {
        ...value,
        head: { attempt: "made-up", seq: revoked.seq, user: row, ended: false },
      });
    },
    finds: ["ADMIN_GUARD"],
    left: [],
  },
  "the state of the store is garbage": {
    in: "users",
    promises: [20],
    plant: (e) => e.put("users", "store", "closed?"),
    finds: ["STATE_INVALID"],
    opens: "CORRUPT",
  },
  "the state of the store is one that there is not": {
    in: "rooms",
    promises: [20],
    plant: (e) => e.put("rooms", "store", { state: "ajar" }),
    finds: ["STATE_INVALID"],
  },
  "the state of the store was deleted by the client": {
    in: "rooms",
    promises: [20],
    plant: (e) => e.del("rooms", "store"),
    finds: ["STATE_INVALID"],
    opens: "CORRUPT",
  },
  "the users say that the store was moved": {
    in: "users",
    promises: [20],
    plant: (e) => e.put("users", "store", { state: "moved", to: "elsewhere" }),
    finds: "INCOMPATIBLE",
    opens: "INCOMPATIBLE",
  },
  "the rooms say that the store is being imported": {
    in: "rooms",
    promises: [20],
    plant: (e) => e.put("rooms", "store", { state: "importing", to: "x", since: 7 }),
    finds: "UNAVAILABLE",
  },
  "the progress of the index is ahead of its log": {
    in: "rooms",
    promises: [5],
    plant: (e) => e.edit("rooms", "index", () => ({ upTo: 1e9 })),
    finds: ["RECORD_DAMAGED"],
    left: [],
  },
  "the progress of the index is garbage": {
    in: "rooms",
    promises: [5],
    plant: (e) => e.put("rooms", "index", "!"),
    finds: ["RECORD_DAMAGED"],
    left: [],
  },
  "the replicas that were told are garbage": {
    in: "rooms",
    promises: [9],
    plant: (e) => e.put("rooms", "replicas", "3"),
    finds: ["RECORD_DAMAGED"],
  },
  "more replicas were told than there are": {
    in: "rooms",
    promises: [9],
    plant: (e) => e.put("rooms", "replicas", { floors: { [`${e.prefix}members`]: 3 } }),
    finds: ["REPLICAS_MISSING"],
  },
  "a lane of an import, and a barrier, are garbage": {
    in: "users",
    promises: [20],
    plant: async (e) => {
      await e.put("users", "import.7", "][");
      await e.put("users", "proof.7-7", "][");
    },
    finds: ["RECORD_DAMAGED"],
  },
  "the users were lost": {
    in: "users",
    promises: [9, 15],
    plant: (e) => e.lose("users"),
    finds: "INCOMPATIBLE",
    opens: "INCOMPATIBLE",
  },
  "the rooms were lost": {
    in: "rooms",
    promises: [9, 15],
    plant: (e) => e.lose("rooms"),
    finds: "INCOMPATIBLE",
    opens: "INCOMPATIBLE",
  },
  "the users and the rooms were lost": {
    in: "rooms",
    promises: [9, 15],
    plant: async (e) => {
      await Promise.all([e.lose("users"), e.lose("rooms")]);
    },
    finds: "INCOMPATIBLE",
    opens: "INCOMPATIBLE",
  },
  "the users' bucket is gone": {
    in: "users",
    promises: [9, 15],
    plant: async (e) => {
      await Promise.all([e.dropStream("users"), e.idle()]);
    },
    finds: ["SETTING_INVALID"],
    opens: "INCOMPATIBLE",
  },
  "a bucket keeps five of each": {
    in: "settings",
    promises: [12],
    plant: (e) => e.configure("users", { max_msgs_per_subject: 5 }),
    finds: ["SETTING_INVALID"],
    opens: "INCOMPATIBLE",
  },
  "a bucket forgets": {
    in: "settings",
    promises: [9, 12],
    plant: (e) => e.configure("users", { max_age: 3600e9 }),
    finds: ["SETTING_INVALID"],
    opens: "INCOMPATIBLE",
  },
  "a bucket has a limit of bytes": {
    in: "settings",
    promises: [9],
    plant: (e) => e.configure("members", { max_bytes: 50_000_000, discard: "old" }),
    finds: ["SETTING_INVALID"],
    opens: "INCOMPATIBLE",
  },
  "a bucket gives no direct gets": {
    in: "settings",
    promises: [10, 11],
    plant: (e) => e.configure("rooms", { allow_direct: false }),
    finds: ["SETTING_INVALID"],
    opens: "INCOMPATIBLE",
  },
  "a bucket acknowledges nothing": {
    in: "settings",
    promises: [9, 11],
    plant: (e) => e.configure("rooms_by_member", { no_ack: true }),
    finds: ["SETTING_INVALID"],
    opens: "INCOMPATIBLE",
  },
  "a bucket has lost its format": {
    in: "settings",
    promises: [15],
    plant: (e) => e.configure("room_keys", { metadata: {} }),
    finds: ["SETTING_INVALID"],
    opens: "INCOMPATIBLE",
  },
  "a bucket is sealed": {
    in: "settings",
    promises: [9],
    plant: (e) => e.configure("rooms_by_member", { sealed: true }),
    finds: ["SETTING_INVALID"],
    opens: "INCOMPATIBLE",
  },
  "a bucket is published elsewhere": {
    in: "settings",
    promises: [1],
    plant: (e) => e.configure("room_keys", { republish: { src: ">", dest: `copy.${e.prefix}.>` } }),
    finds: ["SETTING_INVALID"],
    opens: "INCOMPATIBLE",
  },
};
