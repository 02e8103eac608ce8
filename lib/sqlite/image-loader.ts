/** Fills the tables from an image. Throws on rows that the library does not write. */
import { MAX_USERS, KEYS, MEMBERS, ROOMS, USERS, userOf } from "./image-rows.js";
import { RoomPacker } from "./room-packer.js";
import type { RowReader } from "./row-reader.js";
import type { Tables } from "./tables.js";
import type { TimeSlice } from "./time-slice.js";

export type OpenRows = (sql: string) => RowReader;

export async function loadTables(open: OpenRows, tables: Tables, pace: TimeSlice): Promise<void> {
  await each(open, MAX_USERS, pace, (rows) => tables.users.reserve(Math.max(0, rows.number(0))));
  // Throws if a user is there twice: it would have two places.
  await each(open, USERS, pace, (rows) => tables.apply({ kind: "user", row: userOf(rows) }));
  const packer = new RoomPacker(tables);
  await each(open, ROOMS, pace, (rows) => packer.room(rows));
  await tables.rooms.packed.indexRooms(pace);
  await loadMembers(open, packer, pace);
  await tables.rooms.packed.indexMembers(pace);
}

async function each(open: OpenRows, sql: string, pace: TimeSlice, visit: (rows: RowReader) => void): Promise<void> {
  const rows = open(sql);
  try {
    while (rows.next()) {
      visit(rows);
      if (pace.due()) await pace.rest();
    }
  } finally {
    rows.close();
  }
}

/** Members and keys have one order: each key comes when its member was the last. */
async function loadMembers(open: OpenRows, packer: RoomPacker, pace: TimeSlice): Promise<void> {
  const members = open(MEMBERS);
  try {
    const keys = open(KEYS);
    try {
      let isKey = keys.next();
      for (;;) {
        if (isKey && packer.isOfLastMember(keys, members)) {
          packer.key(keys);
          isKey = keys.next();
        } else if (members.next()) packer.member(members);
        else break;
        if (pace.due()) await pace.rest();
      }
      if (isKey) throw new Error("a key is of a member that is not there");
      packer.end();
    } finally {
      keys.close();
    }
  } finally {
    members.close();
  }
}
