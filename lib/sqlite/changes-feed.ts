/** What changes in the tables, which are told of each change when it is durable, and before its caller is. */
import { ChangedNames } from "../changed-names.js";
import type { ChangeNotes, ChangedRoomNames } from "../changed-names.js";
import type { ChangeFeed, ChangedRoom, ChangedUser, Changes, ChangesDriver } from "../driver.js";
import { isSource } from "../moves.js";
import { endsGrant } from "../rules.js";
import type { Change } from "./changes.js";
import type { Database } from "./database.js";
import type { Holding } from "./lease.js";
import { memberRecord, roomRecord, userRecord } from "./rows.js";
import type { ChangeListener, Tables } from "./tables.js";

export function changes(database: Database, holding: Holding): ChangesDriver {
  return {
    follow: async (_call, wanted) => {
      await holding.ensure();
      const { refusal } = database;
      if (refusal !== undefined) throw refusal;
      return new TablesFeed(database, holding, wanted === undefined);
    },
    room: async (roomId) => {
      await holding.ensure();
      const entry = database.tables.rooms.get(roomId);
      if (entry === undefined) return undefined;
      const all = entry.members.all();
      return {
        room: roomRecord(entry.row),
        members: all.map(({ row }) => memberRecord(row)),
        keys: new Map(all.map(({ endpoint, keys }) => [endpoint, new Set(Array.from(keys, ({ epoch }) => epoch))])),
      };
    },
  };
}

class TablesFeed implements ChangeFeed, ChangeListener {
  readonly #database: Database;
  readonly #holding: Holding;
  readonly #stopListening: () => void;
  /**
   * Whether it tells the last changes of a store that is fenced: names alone, which a migration reads. A watch may not
   * go on there.
   */
  readonly #ofSource: boolean;
  #names = new ChangedNames();

  constructor(database: Database, holding: Holding, ofSource: boolean) {
    this.#ofSource = ofSource;
    this.#database = database;
    this.#holding = holding;
    this.#stopListening = database.tables.listen(this);
  }

  before(change: Change): void {
    note(change, this.#database.tables, this.#names);
  }

  async take(): Promise<Changes> {
    const asOf = performance.now();
    // What this process does not hold any more another one changes.
    await this.#holding.ensure();
    const { refusal, tables } = this.#database;
    if (refusal !== undefined && !(this.#ofSource && isSource(tables.state))) throw refusal;
    const names = this.#names;
    this.#names = new ChangedNames();
    return changesOf(tables, names, asOf);
  }

  close(): void {
    this.#stopListening();
    this.#names = new ChangedNames();
  }
}

/** Names what is about to be changed. */
export function note(change: Change, tables: Tables, names: ChangeNotes): void {
  switch (change.kind) {
    case "user": {
      const { row } = change;
      const before = tables.users.get(row.key);
      names.user(row.key, before !== undefined && endsGrant(before, row, Date.now()));
      return;
    }
    case "room":
      names.room(change.row.id);
      return;
    case "roomGone":
      names.roomDeleted(change.id);
      return;
    case "member":
      names.member(change.row.roomId, change.row.endpoint, false);
      return;
    case "memberGone":
      names.member(change.roomId, change.endpoint, true);
      return;
    case "key":
      names.key(change.row.roomId, change.row.endpoint, change.row.epoch);
      return;
    case "import":
      // A fence changes no record.
      if (change.clears) names.lose();
  }
}

function changesOf(tables: Tables, names: ChangedNames, asOf: number): Changes {
  const users = new Map<string, ChangedUser>();
  for (const [key, ended] of names.users) {
    const row = tables.users.get(key);
    if (row !== undefined) users.set(key, { user: userRecord(row), ended });
  }
  const rooms = new Map<string, ChangedRoom>();
  for (const [id, room] of names.rooms) rooms.set(id, changedRoom(tables, id, room));
  return { lost: names.lost, asOf, users, rooms };
}

function changedRoom(tables: Tables, id: string, { deleted, changed, members, keys }: ChangedRoomNames): ChangedRoom {
  const entry = tables.rooms.get(id);
  return {
    deleted,
    room: changed && entry !== undefined ? roomRecord(entry.row) : undefined,
    members: new Map(
      Array.from(members, ([endpoint, ended]) => {
        const found = entry?.members.get(endpoint);
        return [endpoint, { ended, member: found === undefined ? undefined : memberRecord(found.row) }];
      }),
    ),
    keys,
  };
}
