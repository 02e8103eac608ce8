/** What a check may believe: all of it, because nobody else can change this memory, but for what is being imported. */
import type { SyncCheckReads } from "../driver.js";
import type { Memory } from "./memory.js";
import { factsOf, userRecord } from "./rows.js";

export function checkReads(memory: Memory): SyncCheckReads {
  return {
    synchronous: true,
    user: (key) => {
      const entry = memory.users.get(key);
      return entry === undefined ? undefined : userRecord(entry.user);
    },
    facts: (key) => {
      const entry = memory.users.get(key);
      return entry === undefined ? undefined : factsOf(entry.user);
    },
    joined: (roomId, endpoint) => memory.rooms.get(roomId)?.members.get(endpoint)?.member.state === "joined",
    admin: (now) => memory.hasAdmin(now),
    isCurrent: () => memory.refusal === undefined,
    proof: (wall) => ({ backend: "memory", provedAt: new Date(wall), staleMs: 0 }),
    renew: () => (memory.refusal === undefined ? Promise.resolve() : Promise.reject(memory.refusal)),
  };
}
