/**
 * What is looked at of a store in SQLite: the files, whether they say what the process has in memory, and the records.
 * The reverse index is made of the members in memory, so that it cannot disagree with them.
 */
import type { SqlJs } from "sql.js/dist/sql-wasm-browser.js";
import type { Call } from "../call.js";
import type { InspectionDriver, InspectionStep, Inspector, RecordReader, StoredRecord } from "../driver.js";
import { isError } from "../errors.js";
import { nameOf, type Found } from "../findings.js";
import { promised } from "./database.js";
import type { Database, Step, Transaction } from "./database.js";
import type { Change } from "./changes.js";
import { DiskFile } from "./image-file.js";
import { Image } from "./image.js";
import type { Meta } from "./image.js";
import type { Holding } from "./lease.js";
import { LogDamage, decodeHeader, HEADER_BYTES } from "./log-format.js";
import { LogReader } from "./log-reader.js";
import { OpenFile } from "./open-file.js";
import { readerOf } from "./records.js";
import { toRevision, toSequence } from "./rows.js";
import { filesOf } from "./segment.js";
import { SUPERBLOCK_BYTES, contentOf, decodeSuperblock, isSame } from "./superblock.js";
import { TimeSlice } from "./time-slice.js";
import type { Watermark } from "./watermark.js";

/** Where a store's files are, and what the image has to be. A store in memory has none. */
export interface StoreFiles {
  readonly path: string;
  readonly sqlJs: SqlJs;
  readonly watermark: Pick<Watermark, "at" | "content">;
}

/** A checkpoint can give the file another image meanwhile. So many in a row do not come. */
const ATTEMPTS = 5;
const WHAT_TO_DO =
  "What the process has in memory is whole: export the store, and import that into a new file. Look at the disk";

export function inspection(database: Database, holding: Holding, files: StoreFiles | undefined): InspectionDriver {
  return {
    begin: async () => {
      await holding.ensure();
      const { refusal } = database;
      if (refusal !== undefined) throw refusal;
      return new SqliteInspector(database, files);
    },
  };
}

class SqliteInspector implements Inspector {
  readonly isExact = true;
  readonly #database: Database;
  #files: StoreFiles | undefined;

  constructor(database: Database, files: StoreFiles | undefined) {
    this.#database = database;
    this.#files = files;
  }

  async next(call: Call): Promise<InspectionStep | undefined> {
    const files = this.#files;
    this.#files = undefined;
    if (files === undefined) return undefined;
    let before: string | undefined;
    for (let i = 0; i < ATTEMPTS; i++) {
      const look = new FilesLook(files, this.#database.durableSequence, call);
      const findings = await look.at();
      if (look.isPassed()) continue;
      // What is written in place can be met half: then it is whole in the next look.
      const told = JSON.stringify(findings);
      if (findings.length === 0 || told === before)
        return { phase: "files", done: filesOf(files.path).length, findings };
      before = told;
    }
    return undefined;
  }

  read(): Promise<RecordReader> {
    return new Promise((resolve) => resolve(readerOf(this.#database, undefined)));
  }

  /** Revisions are numbers of transactions. */
  examine(record: StoredRecord): Found | undefined {
    const { row } = record;
    if (record.kind === "key" || !("revision" in row) || typeof row.revision !== "string") return undefined;
    const sequence = toSequence(row.revision);
    if (sequence < 1 || toRevision(sequence) !== row.revision) {
      const what = "Its revision is none. It gets one with the next change of the record";
      return { code: "FIELD_INVALID", message: what, record: nameOf(record), repaired: false };
    }
    if (sequence <= this.#database.durableSequence) return undefined;
    const message =
      "Its revision is one that the store has not come to, and will give again. It is new with the next change of the record";
    return { code: "REVISION_AHEAD", message, record: nameOf(record), repaired: false };
  }

  mendRole(roomId: string, endpoint: string, call: Call): Promise<boolean> {
    const mended = this.#database.write(call, ({ sequence }: Transaction): Step<boolean> => {
      const { view } = this.#database;
      const room = view.room(roomId);
      const member = view.member(roomId, endpoint);
      if (room === undefined || member === undefined) return { changes: [], result: () => false };
      const role = room.owner === endpoint ? "owner" : "member";
      const revision = toRevision(sequence);
      const changes: Change[] = [
        { kind: "room", row: { ...room, revision } },
        { kind: "member", row: { ...member, role, revision } },
      ];
      return { changes, result: () => true };
    });
    return promised(mended);
  }
}

/** One look at the image and at the logs that lead from it to `reached`, which were acknowledged before. */
class FilesLook {
  readonly #files: StoreFiles;
  readonly #reached: number;
  readonly #call: Call;
  readonly #pace: TimeSlice;
  readonly #content;
  readonly #at: number;
  readonly #findings: Found[] = [];

  constructor(files: StoreFiles, reached: number, call: Call) {
    this.#files = files;
    this.#reached = reached;
    this.#call = call;
    this.#content = files.watermark.content;
    this.#at = files.watermark.at;
    this.#pace = new TimeSlice(() => {
      call.throwIfEnded();
    });
  }

  /** Whether the file has had another image since. */
  isPassed(): boolean {
    return this.#files.watermark.content !== this.#content;
  }

  async at(): Promise<readonly Found[]> {
    const [path, ...logs] = filesOf(this.#files.path);
    const meta = await this.#looking(path, () => this.#image(path));
    if (meta === undefined) return this.#findings;
    let sequence = meta.sequence;
    const found: { readonly generation: number; readonly file: OpenFile }[] = [];
    const opened: OpenFile[] = [];
    try {
      for (const log of logs) {
        const file = await OpenFile.openIfThere(log);
        if (file === undefined) continue;
        opened.push(file);
        const header = await this.#looking(log, async () => decodeHeader(await file.read(0, head(file))));
        if (header !== undefined && header.generation >= meta.generation)
          found.push({ generation: header.generation, file });
      }
      for (const { file } of found.sort((a, b) => a.generation - b.generation))
        sequence = (await this.#looking(file.path, () => this.#log(file, meta, sequence))) ?? sequence;
    } finally {
      for (const file of opened) await file.close();
    }
    if (sequence < this.#reached && this.#findings.length === 0) {
      const message = `Transaction ${String(this.#reached)} was acknowledged, and the files lead to ${String(sequence)}`;
      this.#tell(found.at(-1)?.file.path ?? path, message);
    }
    return this.#findings;
  }

  async #image(path: string): Promise<Meta> {
    const file = await OpenFile.open(path);
    try {
      const content = await contentOf(file, this.#at, this.#pace, this.#goesOn());
      if (!isSame(content, this.#content)) throw new Error("its checksum is not that of its content");
      const { content: sealed } = decodeSuperblock(await file.read(this.#at, this.#at + SUPERBLOCK_BYTES));
      if (!isSame(sealed, content)) throw new Error("its superblock is of another image");
      const image = Image.of(this.#files.sqlJs, new DiskFile(file.fd));
      try {
        return image.meta();
      } finally {
        image.close();
      }
    } finally {
      await file.close();
    }
  }

  /** Answers the last transaction that is whole. What is behind it may be on its way. */
  async #log(file: OpenFile, { database }: Meta, after: number): Promise<number> {
    const goesOn = this.#goesOn();
    const reader = new LogReader(file, database, after + 1);
    let sequence = after;
    try {
      for (let records = await reader.next(); records !== undefined; records = await reader.next()) {
        sequence = records.at(-1)?.sequence ?? sequence;
        goesOn();
        if (this.#pace.isOver()) await this.#pace.rest();
      }
    } catch (error) {
      if (!(error instanceof LogDamage) || sequence < this.#reached) throw error;
    }
    return sequence;
  }

  /** However large they are: it is stuck only where nothing goes forward. */
  #goesOn(): () => void {
    let last = performance.now();
    return () => {
      const now = performance.now();
      this.#call.extend(now - last);
      last = now;
    };
  }

  async #looking<T>(path: string, look: () => Promise<T>): Promise<T | undefined> {
    try {
      return await look();
    } catch (error) {
      this.#call.throwIfEnded();
      const where = error instanceof LogDamage ? ` at offset ${String(error.offset)}` : "";
      this.#tell(path, `The file is damaged${where}: ${isError(error) ? error.message : "it cannot be read"}`);
      return undefined;
    }
  }

  #tell(record: string, what: string): void {
    this.#findings.push({ code: "FILE_DAMAGED", message: `${what}. ${WHAT_TO_DO}`, record, repaired: false });
  }
}

const head = (file: OpenFile): number => Math.min(file.length, HEADER_BYTES);
