/** What is looked at of a store in memory: its records, and nothing else. */
import type { InspectionDriver } from "../driver.js";
import { answer } from "./memory.js";
import type { Memory } from "./memory.js";
import { records } from "./records.js";

export function inspection(memory: Memory): InspectionDriver {
  const own = records(memory);
  return {
    begin: () =>
      answer(() => {
        if (memory.refusal !== undefined) throw memory.refusal;
        return {
          isExact: true,
          next: () => Promise.resolve(undefined),
          read: (call) => own.read(call),
          mendRole: (roomId, endpoint, call) =>
            memory.write(call, ({ revision }) => {
              const entry = memory.rooms.get(roomId);
              const member = entry?.members.get(endpoint);
              if (entry === undefined || member === undefined) return false;
              const role = entry.room.owner === endpoint ? "owner" : "member";
              member.member = { ...member.member, role, revision };
              entry.room = { ...entry.room, revision };
              memory.changed((names) => {
                names.room(roomId);
                names.member(roomId, endpoint, false);
              });
              return true;
            }),
        };
      }),
  };
}
