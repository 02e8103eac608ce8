import type { MembersDriver } from "../driver.js";
import { checkAdd, checkRemove, memberExists, sortedBy } from "../rules.js";
import { answer, memberOf, membership, roomOf } from "./memory.js";
import type { Memory } from "./memory.js";
import { memberRecord } from "./rows.js";

export function members(memory: Memory): MembersDriver {
  return {
    add: (roomId, input, call) =>
      memory.write(call, (transaction) => {
        const entry = roomOf(memory, roomId);
        const { endpoint, state, invitedBy, publicKey, sealedKey } = input;
        if (entry.members.has(endpoint)) throw memberExists(roomId, endpoint);
        checkAdd(entry.room, sealedKey);
        const member = { roomId, endpoint, role: "member", state, invitedBy, publicKey } as const;
        const added = membership(transaction, member, sealedKey);
        entry.members.set(endpoint, added);
        // The revision of a room tells of its membership too.
        entry.room = { ...entry.room, revision: transaction.revision };
        memory.changed((names) => {
          names.room(roomId);
          names.member(roomId, endpoint, false);
          if (sealedKey !== undefined) names.key(roomId, endpoint, sealedKey.epoch);
        });
        return memberRecord(added.member);
      }),

    get: (roomId, endpoint) => answer(() => memberRecord(memberOf(memory, roomId, endpoint).member)),

    join: (roomId, endpoint, call) =>
      memory.write(call, ({ revision }) => {
        const room = roomOf(memory, roomId);
        const found = memberOf(memory, roomId, endpoint);
        if (found.member.state === "joined") return memberRecord(found.member);
        found.member = { ...found.member, state: "joined", revision };
        room.room = { ...room.room, revision };
        memory.changed((names) => {
          names.room(roomId);
          names.member(roomId, endpoint, false);
        });
        return memberRecord(found.member);
      }),

    remove: (roomId, endpoint, call) =>
      memory.write(call, ({ revision }) => {
        const entry = roomOf(memory, roomId);
        memberOf(memory, roomId, endpoint);
        checkRemove(entry.room, endpoint);
        entry.members.delete(endpoint);
        // Without encryption there is no key that the one who left could still hold.
        entry.room = { ...entry.room, rekeyRequired: entry.room.encrypted, revision };
        memory.changed((names) => {
          names.room(roomId);
          names.member(roomId, endpoint, true);
        });
      }),

    list: (roomId) =>
      answer(() => {
        const found = [...roomOf(memory, roomId).members.values()];
        return sortedBy(found, ({ member }) => member.endpoint).map(({ member }) => memberRecord(member));
      }),

    listForEndpoint: (endpoint) =>
      answer(() => {
        const found = [...memory.rooms.values()].flatMap(({ members }) => members.get(endpoint) ?? []);
        return sortedBy(found, ({ member }) => member.roomId).map(({ member }) => memberRecord(member));
      }),
  };
}
