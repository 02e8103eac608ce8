/** What changes in the buckets. */
import type { ChangesDriver } from "../driver.js";
import { joinBoth } from "./join.js";
import type { Readable } from "./record-reader.js";
import type { ProvedBucket } from "./proved-bucket.js";
import type { UserState } from "./user-cache.js";

/** What is followed. */
export interface Followed extends Readable {
  readonly users: ProvedBucket<"users", UserState>;
}

export function changes({ users, log }: Followed): ChangesDriver {
  const { rooms } = log.buckets;
  return {
    follow: () =>
      Promise.resolve({
        take: async (call) => {
          const asOf = performance.now();
          const [usersSeq, roomsSeq] = await joinBoth(users.readIndex(call), rooms.readIndex(call));
          await joinBoth(users.checkOpen(usersSeq, call), rooms.checkOpen(roomsSeq, call));
          return { lost: true, asOf, users: new Map(), rooms: new Map() };
        },
        close: () => undefined,
      }),
  };
}
