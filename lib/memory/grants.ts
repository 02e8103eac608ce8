/** Grants in memory: every operation names what it changes. */
import type { GrantsDriver } from "../driver.js";
import { NotedGrants, feedOf } from "../noted-grants.js";
import { answer } from "./memory.js";
import type { Memory } from "./memory.js";
import { userRecord } from "./rows.js";

export function grants(memory: Memory): GrantsDriver {
  const open = <T>(read: () => T): Promise<T> =>
    answer(() => {
      if (memory.refusal !== undefined) throw memory.refusal;
      return read();
    });
  return {
    follow: (wanted) =>
      open(() => {
        const noted = new NotedGrants(wanted, {
          user: (key) => {
            const entry = memory.users.get(key);
            return entry === undefined ? undefined : userRecord(entry.user);
          },
          joined: (roomId, endpoint) => {
            const entry = memory.rooms.get(roomId)?.members.get(endpoint);
            return entry === undefined ? undefined : entry.member.state === "joined";
          },
        });
        memory.followers.add(noted);
        return feedOf(noted, open, () => {
          memory.followers.delete(noted);
        });
      }),
  };
}
