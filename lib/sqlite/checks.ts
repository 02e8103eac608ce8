/**
 * What a check may believe: a grant counts when it is durable, what takes it away counts as soon as it is submitted.
 */
import type { SyncCheckReads } from "../driver.js";
import { isActiveAdmin } from "../rules.js";
import type { Database } from "./database.js";
import type { Holding } from "./lease.js";
import { toRevision, userRecord } from "./rows.js";
import type { UserRow } from "./rows.js";

export function checkReads(database: Database, holding: Holding): SyncCheckReads {
  const { tables, view } = database;
  const admitted = (key: string): UserRow | undefined => {
    const row = tables.users.get(key);
    return row === undefined ? undefined : view.admitted(row);
  };

  return {
    synchronous: true,

    user: (key) => {
      const row = admitted(key);
      return row === undefined ? undefined : userRecord(row);
    },

    facts: (key) => (view.touchesUser(key) ? admitted(key) : tables.users.facts(key)),

    joined: (roomId, endpoint) => tables.rooms.hasJoined(roomId, endpoint) && !view.deniesMember(roomId, endpoint),

    admin: (now) => tables.admins.some(now, (row) => isActiveAdmin(view.admitted(row), now)),

    isCurrent: (now) => tables.state.kind === "open" && holding.isCurrent(now),

    proof: (wall) => ({
      backend: "sqlite",
      provedAt: new Date(wall),
      staleMs: 0,
      transaction: toRevision(database.durableSequence),
    }),

    renew: () => {
      const { refusal } = database;
      return refusal === undefined ? holding.renew() : Promise.reject(refusal);
    },
  };
}
