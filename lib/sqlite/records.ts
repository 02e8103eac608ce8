/** Whole records, out of the tables and into them. */
import type { Call } from "../call.js";
import type { RecordWriter, RecordsDriver, StoredRecord, StoredRoom } from "../driver.js";
import { StoreError } from "../errors.js";
import { importTakenOver } from "../rules.js";
import type { Change } from "./changes.js";
import { answer } from "./database.js";
import type { Database, Importer, Step, Transaction } from "./database.js";
import type { Holding } from "./lease.js";
import { SnapshotReader } from "./record-reader.js";
import { toRevision } from "./rows.js";

export function records(database: Database, holding: Holding): RecordsDriver {
  return {
    read: async () => {
      // What is read is what this process holds, and as of a moment in which nobody else can hold it.
      await holding.ensure();
      const { refusal } = database;
      if (refusal !== undefined) throw refusal;
      return new SnapshotReader(database);
    },

    write: async (revisionFloor, call) => {
      const importer = await database.beginImport(revisionFloor, call);
      return new ImportWriter(database, importer);
    },
  };
}

/** No image has a room without its owner, whatever dies before that one is there as it was. */
function ownerOf({ id: roomId, owner: endpoint, createdAt: since }: StoredRoom, revision: string): Change {
  const row = { roomId, endpoint, role: "owner", state: "joined", since, revision } as const;
  return { kind: "member", row: { ...row, invitedBy: undefined, publicKey: undefined } };
}

class ImportWriter implements RecordWriter {
  readonly #database: Database;
  readonly #importer: Importer;

  constructor(database: Database, importer: Importer) {
    this.#database = database;
    this.#importer = importer;
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
          isNew("user", key, view.user(key) !== undefined);
          const row = { ordinal: user++, key, role, status, name, createdAt, revokedAt, expiresAt, revision };
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

  seal(): Promise<void> {
    return Promise.resolve();
  }

  read(): Promise<SnapshotReader> {
    return answer(() => new SnapshotReader(this.#database, importTakenOver));
  }

  open(adminEver: boolean, call: Call): Promise<void> {
    return this.#database.endImport(this.#importer, adminEver, call);
  }

  release(): void {
    this.#database.releaseImport(this.#importer);
  }
}
