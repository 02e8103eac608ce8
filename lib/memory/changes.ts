/** What changes in memory: every operation names it. */
import { ChangedNames } from "../changed-names.js";
import type { ChangedRoomNames } from "../changed-names.js";
import type { ChangedRoom, ChangedUser, Changes, ChangesDriver } from "../driver.js";
import { isSource } from "../moves.js";
import { answer } from "./memory.js";
import type { Memory } from "./memory.js";
import { memberRecord, roomRecord, userRecord } from "./rows.js";

export function changes(memory: Memory): ChangesDriver {
  // The last changes of a store that is fenced are told to a migration, which wants names alone. A watch may not go on
  // there.
  const begin = (ofSource: boolean): ChangedNames => {
    if (memory.refusal !== undefined && !(ofSource && isSource(memory.state))) throw memory.refusal;
    const names = new ChangedNames();
    memory.followers.add(names);
    return names;
  };
  return {
    follow: (_call, wanted) =>
      answer(() => {
        let names = begin(wanted === undefined);
        let isClosed = false;
        return {
          take: () =>
            answer(() => {
              const taken = names;
              if (!isClosed) names = begin(wanted === undefined);
              memory.followers.delete(taken);
              return changesOf(memory, taken);
            }),
          close: () => {
            isClosed = true;
            memory.followers.delete(names);
          },
        };
      }),
    room: (roomId) =>
      answer(() => {
        const entry = memory.rooms.get(roomId);
        if (entry === undefined) return undefined;
        const all = [...entry.members.values()];
        return {
          room: roomRecord(entry.room),
          members: all.map(({ member }) => memberRecord(member)),
          keys: new Map(all.map(({ member, keys }) => [member.endpoint, new Set(keys.keys())])),
        };
      }),
  };
}

function changesOf(memory: Memory, names: ChangedNames): Changes {
  const users = new Map<string, ChangedUser>();
  for (const [key, ended] of names.users) {
    const entry = memory.users.get(key);
    if (entry !== undefined) users.set(key, { user: userRecord(entry.user), ended });
  }
  const rooms = new Map<string, ChangedRoom>();
  for (const [id, room] of names.rooms) rooms.set(id, changedRoom(memory, id, room));
  return { lost: names.lost, asOf: performance.now(), users, rooms };
}

function changedRoom(memory: Memory, id: string, { deleted, changed, members, keys }: ChangedRoomNames): ChangedRoom {
  const entry = memory.rooms.get(id);
  return {
    deleted,
    room: changed && entry !== undefined ? roomRecord(entry.room) : undefined,
    members: new Map(
      Array.from(members, ([endpoint, ended]) => {
        const found = entry?.members.get(endpoint);
        return [endpoint, { ended, member: found === undefined ? undefined : memberRecord(found.member) }];
      }),
    ),
    keys,
  };
}
