import type { RoomKeysDriver } from "../driver.js";
import { checkPut, checkRekey, checkRekeyMembers, keyExists, keyNotFound } from "../rules.js";
import { answer, memberOf, roomOf } from "./memory.js";
import type { Memory } from "./memory.js";
import { keyRecord, roomRecord } from "./rows.js";
import type { KeyRow } from "./rows.js";

export function roomKeys(memory: Memory): RoomKeysDriver {
  const keysOf = (roomId: string, endpoint: string): KeyRow[] =>
    [...memberOf(memory, roomId, endpoint).keys.values()].sort((a, b) => a.epoch - b.epoch);

  return {
    put: (roomId, endpoint, epoch, sealed, call) =>
      memory.write(call, ({ now }) => {
        const { room, members } = roomOf(memory, roomId);
        checkPut(roomId, room, endpoint, members.get(endpoint)?.member, epoch);
        const { keys } = memberOf(memory, roomId, endpoint);
        if (keys.has(epoch)) throw keyExists(roomId, endpoint, epoch);
        const key: KeyRow = { roomId, endpoint, epoch, sealed, createdAt: now };
        keys.set(epoch, key);
        memory.changed((names) => names.key(roomId, endpoint, epoch));
        return keyRecord(key);
      }),

    get: (roomId, endpoint, epoch) =>
      answer(() => {
        const keys = keysOf(roomId, endpoint);
        const found = epoch === undefined ? keys.at(-1) : keys.find((key) => key.epoch === epoch);
        if (found === undefined) throw keyNotFound(roomId, endpoint, epoch);
        return keyRecord(found);
      }),

    list: (roomId, endpoint) => answer(() => keysOf(roomId, endpoint).map(keyRecord)),

    rekey: (roomId, sealed, { expectedEpoch, ifRevision }, call) =>
      memory.write(call, ({ revision, now }) => {
        const entry = roomOf(memory, roomId);
        const { room, members } = entry;
        checkRekey(room, expectedEpoch, ifRevision);
        checkRekeyMembers(sealed, new Set(members.keys()));
        const epoch = room.epoch + 1;
        for (const [endpoint, key] of sealed)
          memberOf(memory, roomId, endpoint).keys.set(epoch, { roomId, endpoint, epoch, sealed: key, createdAt: now });
        entry.room = { ...room, epoch, rekeyRequired: false, revision };
        memory.changed((names) => {
          names.room(roomId);
          for (const endpoint of sealed.keys()) names.key(roomId, endpoint, epoch);
        });
        return roomRecord(entry.room);
      }),
  };
}
