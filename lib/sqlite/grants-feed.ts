/** Grants in the tables, which are told of each change when it is durable, and before its caller is. */
import type { GrantsDriver } from "../driver.js";
import { NotedGrants, feedOf } from "../noted-grants.js";
import { note } from "./changes-feed.js";
import type { Database } from "./database.js";
import type { Holding } from "./lease.js";
import { userRecord } from "./rows.js";

export function grants(database: Database, holding: Holding): GrantsDriver {
  const { tables } = database;
  /** What this process does not hold any more another one changes. */
  const open = async <T>(read: () => T): Promise<T> => {
    await holding.ensure();
    if (database.refusal !== undefined) throw database.refusal;
    return read();
  };
  return {
    follow: (wanted) =>
      open(() => {
        const noted = new NotedGrants(wanted, {
          user: (key) => {
            const row = tables.users.get(key);
            return row === undefined ? undefined : userRecord(row);
          },
          joined: (roomId, endpoint) => {
            const state = tables.rooms.get(roomId)?.members.get(endpoint)?.row.state;
            return state === undefined ? undefined : state === "joined";
          },
        });
        const stopListening = tables.listen({
          before: (change) => {
            note(change, tables, noted);
          },
        });
        return feedOf(noted, open, stopListening);
      }),
  };
}
