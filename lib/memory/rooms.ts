import { randomBytes } from "node:crypto";
import type { RoomsDriver } from "../driver.js";
import { checkOwner, checkRevision, roomExists, sortedBy } from "../rules.js";
import { answer, membership, pageOf, roomOf } from "./memory.js";
import type { Memory } from "./memory.js";
import { roomRecord } from "./rows.js";
import type { RoomRow } from "./rows.js";

export function rooms(memory: Memory): RoomsDriver {
  return {
    create: (input, call) =>
      memory.write(call, (transaction) => {
        const { name, encrypted, owner, ownerPublicKey: publicKey, sealedKey: sealed } = input;
        const id = input.id ?? randomBytes(16).toString("base64url");
        if (memory.rooms.has(id)) throw roomExists(id);
        const { place, now: createdAt, revision } = transaction;
        const key = sealed === undefined ? undefined : { epoch: 1, sealed };
        const epoch = key?.epoch ?? 0;
        const room: RoomRow = { id, name, encrypted, owner, epoch, rekeyRequired: false, createdAt, revision };
        const member = { roomId: id, endpoint: owner, role: "owner", state: "joined", invitedBy: undefined } as const;
        const first = membership(transaction, { ...member, publicKey }, key);
        memory.rooms.set(id, { place, room, members: new Map([[owner, first]]) });
        memory.changed((names) => {
          names.room(id);
          names.member(id, owner, false);
          if (key !== undefined) names.key(id, owner, key.epoch);
        });
        return roomRecord(room);
      }),

    get: (id) => answer(() => roomRecord(roomOf(memory, id).room)),

    update: (id, change, ifRevision, call) =>
      memory.write(call, ({ revision }) => {
        const entry = roomOf(memory, id);
        const { room, members } = entry;
        checkRevision(room.revision, ifRevision);
        const owner = change.owner ?? room.owner;
        const name = change.name ?? room.name;
        if (owner === room.owner && name === room.name) return roomRecord(room);
        if (owner !== room.owner) {
          const heir = members.get(owner);
          checkOwner(id, owner, heir?.member);
          const before = members.get(room.owner);
          if (before !== undefined) before.member = { ...before.member, role: "member", revision };
          if (heir !== undefined) heir.member = { ...heir.member, role: "owner", revision };
          memory.changed((names) => {
            names.member(id, room.owner, false);
            names.member(id, owner, false);
          });
        }
        entry.room = { ...room, name, owner, revision };
        memory.changed((names) => names.room(id));
        return roomRecord(entry.room);
      }),

    delete: (id, call) =>
      memory.write(call, () => {
        roomOf(memory, id);
        memory.rooms.delete(id);
        memory.changed((names) => names.roomDeleted(id));
      }),

    list: (page) => answer(() => pageOf(memory.rooms.values(), page, ({ room }) => roomRecord(room))),

    listForEndpoint: (endpoint) =>
      answer(() => {
        const found = [...memory.rooms.values()].filter(({ members }) => members.has(endpoint));
        return sortedBy(found, ({ room }) => room.id).map(({ room }) => roomRecord(room));
      }),
  };
}
