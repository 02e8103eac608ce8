import type { RoomKeysDriver } from "../driver.js";
import { checkPut, checkRekey, checkRekeyMembers, keyExists, keyNotFound } from "../rules.js";
import type { Change } from "./changes.js";
import { answer, needMember, needRoom } from "./database.js";
import type { Database } from "./database.js";
import type { MemberEntry } from "./entries.js";
import { keyRecord, roomRecord, toRevision } from "./rows.js";
import type { KeyRow, RoomRow } from "./rows.js";

export function roomKeys(database: Database): RoomKeysDriver {
  const { tables, view } = database;

  const memberOf = (roomId: string, endpoint: string): MemberEntry => {
    const room = needRoom(tables.rooms.get(roomId), roomId);
    const member = needMember(room.members.get(endpoint), roomId, endpoint);
    return member;
  };

  return {
    put: (roomId, endpoint, epoch, sealed, call) =>
      database.write(call, ({ now }) => {
        const room = needRoom(view.room(roomId), roomId);
        checkPut(roomId, room, endpoint, view.member(roomId, endpoint), epoch);
        if (view.hasKey(roomId, endpoint, epoch)) throw keyExists(roomId, endpoint, epoch);
        const row: KeyRow = { roomId, endpoint, epoch, sealed, createdAt: now };
        return { changes: [{ kind: "key", row }], result: () => keyRecord(row) };
      }),

    get: (roomId, endpoint, epoch) =>
      answer(() => {
        const row = memberOf(roomId, endpoint).key(epoch);
        if (row === undefined) throw keyNotFound(roomId, endpoint, epoch);
        return keyRecord(row);
      }),

    list: (roomId, endpoint) => answer(() => memberOf(roomId, endpoint).keys.map(keyRecord)),

    rekey: (roomId, sealed, { expectedEpoch, ifRevision }, call) =>
      database.write(call, ({ sequence, now }) => {
        const room = needRoom(view.room(roomId), roomId);
        checkRekey(room, expectedEpoch, ifRevision);
        checkRekeyMembers(sealed, view.endpoints(roomId));
        const epoch = room.epoch + 1;
        const row: RoomRow = { ...room, epoch, rekeyRequired: false, revision: toRevision(sequence) };
        const changes: Change[] = [{ kind: "room", row }];
        for (const [endpoint, key] of sealed) {
          changes.push({ kind: "key", row: { roomId, endpoint, epoch, sealed: key, createdAt: now } });
        }
        return { changes, result: () => roomRecord(row) };
      }),
  };
}
