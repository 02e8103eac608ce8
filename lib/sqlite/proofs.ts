/** What a check may believe: a grant counts when it is durable, what takes it away counts as soon as it is submitted. */
import type { Proofs } from "../driver.js";
import { isActiveAdmin } from "../rules.js";
import type { Database } from "./database.js";
import { userRecord } from "./rows.js";

export function proofs({ tables, view }: Database): Proofs {
  return {
    synchronous: true,

    user: (key) => {
      const row = tables.users.get(key);
      return row === undefined ? undefined : userRecord(view.admitted(row));
    },

    joined: (roomId, endpoint) =>
      tables.rooms.get(roomId)?.members.get(endpoint)?.row.state === "joined" && !view.deniesMember(roomId, endpoint),

    admin: (now) => {
      const instant = now();
      return tables.admins.some(instant, (row) => isActiveAdmin(view.admitted(row), instant));
    },
  };
}
