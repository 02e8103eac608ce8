/** Whole records, out of the tables and into them. */
import type { Call } from "../call.js";
import type { RecordNames, RecordReader, RecordWriter, RecordsDriver, StoredRecord, StoredRoom } from "../driver.js";
import { StoreError } from "../errors.js";
import { OPEN, completed, givenBack, refusalOf } from "../moves.js";
import type { MoveRun, MoveReport, MoveState } from "../moves.js";
import { importTakenOver } from "../rules.js";
import type { Change } from "./changes.js";
import { answer } from "./database.js";
import type { Database, Importer, Step, Transaction } from "./database.js";
import type { Holding } from "./lease.js";
import { NamesReader } from "./names-reader.js";
import { SnapshotReader } from "./record-reader.js";
import { toRevision } from "./rows.js";

export function records(database: Database, holding: Holding): RecordsDriver {
  return {
    read: async () => {
      // What is read is what this process holds, and as of a moment in which nobody else can hold it.
      await holding.ensure();
      const { refusal } = database;
      if (refusal !== undefined) throw refusal;
      return readerOf(database, undefined);
    },

    write: async (revisionFloor, run, call) => {
      const importer = await database.beginImport(revisionFloor, run, call);
      return new ImportWriter(database, importer, run);
    },
  };
}

/** `cleared`: what ends the reading when an import clears the store. */
export function readerOf(
  database: Database,
  names: RecordNames | undefined,
  cleared: (state: MoveState) => StoreError | undefined = refusalOf,
): RecordReader {
  return names === undefined ? new SnapshotReader(database, cleared) : new NamesReader(database.tables, names);
}

/** No image has a room without its owner, whatever dies before that one is there as it was. */
function ownerOf({ id: roomId, owner: endpoint, createdAt: since }: StoredRoom, revision: string): Change {
  const row = { roomId, endpoint, role: "owner", state: "joined", since, revision } as const;
  return { kind: "member", row: { ...row, invitedBy: undefined, publicKey: undefined } };
}

class ImportWriter implements RecordWriter {
  readonly #database: Database;
  readonly #importer: Importer;
  readonly #run: MoveRun | undefined;
  /** Users that may be written once more. */
  readonly #again = new Set<string>();

  constructor(database: Database, importer: Importer, run: MoveRun | undefined) {
    this.#database = database;
    this.#importer = importer;
    this.#run = run;
  }

  async clear(call: Call): Promise<boolean> {
    const { users, rooms } = this.#database.tables.counts;
    // Beginning has cleared it.
    if (users > 0 || rooms > 0) await this.#database.clearImport(this.#importer, call);
    return false;
  }

  write(found: readonly StoredRecord[], call: Call): Promise<void> {
    return this.#database.importWrite(this.#importer, call, (transaction) => this.#changes(found, transaction));
  }

  #changes(found: readonly StoredRecord[], { sequence }: Transaction): Step<void> {
    const { view } = this.#database;
    const revision = toRevision(sequence);
    const names = new Set<string>();
    let user = this.#database.nextUser();
    let room = this.#database.nextRoom();
    const isNew = (kind: string, name: string, isThere: boolean): void => {
      if (isThere || names.has(`${kind} ${name}`)) throw new StoreError("CORRUPT", `A ${kind} is in the export twice`);
      names.add(`${kind} ${name}`);
    };
    const changes = found.flatMap((record): Change[] => {
      switch (record.kind) {
        case "user": {
          const { key, role, status, name, createdAt, revokedAt, expiresAt } = record.row;
          const before = view.user(key);
          isNew("user", key, before !== undefined && !this.#again.delete(key));
          const ordinal = before?.ordinal ?? user++;
          const row = { ordinal, key, role, status, name, createdAt, revokedAt, expiresAt, revision };
          return [{ kind: "user", row }];
        }
        case "room":
          isNew("room", record.row.id, view.room(record.row.id) !== undefined);
          return [{ kind: "room", row: { ...record.row, ordinal: room++, revision } }, ownerOf(record.row, revision)];
        case "member":
          return [{ kind: "member", row: { ...record.row, revision } }];
        case "key":
          return [record];
      }
    });
    return { changes, result: () => undefined };
  }

  async renew({ users, rooms }: RecordNames, call: Call): Promise<void> {
    const { view } = this.#database;
    await this.#database.importWrite(this.#importer, call, () => ({
      changes: rooms.flatMap((id): Change[] => {
        const row = view.room(id);
        return row === undefined ? [] : [{ kind: "roomGone", id, ordinal: row.ordinal }];
      }),
      result: () => undefined,
    }));
    for (const key of users) this.#again.add(key);
  }

  seal(): Promise<void> {
    return Promise.resolve();
  }

  read(names: RecordNames | undefined): Promise<RecordReader> {
    return answer(() => readerOf(this.#database, names, importTakenOver));
  }

  complete(report: MoveReport, adminEver: boolean, call: Call): Promise<void> {
    return this.#database.endImport(this.#importer, adminEver, (state) => completed(state, this.#run, report), call);
  }

  open(adminEver: boolean, call: Call): Promise<void> {
    return this.#database.endImport(this.#importer, adminEver, () => OPEN, call);
  }

  giveBack(call: Call): Promise<void> {
    return this.#database.endImport(this.#importer, false, givenBack, call);
  }

  release(): void {
    this.#database.releaseImport(this.#importer);
  }
}
