/** What the tables hold of some names: a room as of one moment with all that belongs to it. */
import type { RecordNames, RecordReader, StoredRecord } from "../driver.js";
import { sortedBy } from "../rules.js";
import { answer } from "./database.js";
import type { Tables } from "./tables.js";

const USERS = 256;
/** Records that are given at once. */
const PAGE = 1000;

export class NamesReader implements RecordReader {
  readonly expected;
  readonly adminEver: boolean;
  readonly revisionFloor = 0;
  readonly #tables: Tables;
  readonly #names: RecordNames;
  #user = 0;
  #room = 0;
  /** Of a room that was read, and not given yet. */
  #waiting: StoredRecord[] = [];

  constructor(tables: Tables, names: RecordNames) {
    this.#tables = tables;
    this.#names = names;
    this.adminEver = tables.adminEver;
    this.expected = { users: names.users.length, rooms: names.rooms.length, members: 0, roomKeys: 0 };
  }

  next(): Promise<readonly StoredRecord[] | undefined> {
    return answer(() => this.#next());
  }

  close(): Promise<void> {
    return answer(() => undefined);
  }

  #next(): readonly StoredRecord[] | undefined {
    const { users, rooms } = this.#names;
    while (this.#waiting.length === 0) {
      if (this.#user < users.length) {
        const keys = users.slice(this.#user, (this.#user += USERS));
        const rows = keys.flatMap((key) => this.#tables.users.get(key) ?? []);
        this.#waiting = rows.map((row) => ({ kind: "user", row }));
        continue;
      }
      const id = rooms[this.#room++];
      if (id === undefined) return undefined;
      this.#waiting = [...this.#roomOf(id)];
    }
    return this.#waiting.splice(0, PAGE);
  }

  *#roomOf(id: string): Iterable<StoredRecord> {
    const entry = this.#tables.rooms.get(id);
    if (entry === undefined) return;
    yield { kind: "room", row: entry.row };
    for (const { row, keys } of sortedBy([...entry.members.all()], ({ endpoint }) => endpoint)) {
      yield { kind: "member", row };
      for (const key of keys) yield { kind: "key", row: key };
    }
  }
}
