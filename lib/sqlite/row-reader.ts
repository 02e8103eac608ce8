/**
 * Reads rows where SQLite has them: in the memory of its WebAssembly. sql.js makes a value of each column, and a text
 * or an array costs more than everything else about a row.
 */
import { Buffer } from "node:buffer";
import type { SqlJs } from "sql.js/dist/sql-wasm-browser.js";

const OK = 0;
const ROW = 100;
const DONE = 101;
const INTEGER = 1;
const FLOAT = 2;
const TEXT = 3;
const BLOB = 4;
const NULL = 5;

/** A row's columns count from 0. Each of the readers throws if the column has a value of another type. */
export class RowReader {
  readonly #sqlJs: SqlJs;
  readonly #database: number;
  readonly #statement: number;
  #bytes: Buffer;
  #view: DataView;
  /** Of the text or the bytes that were found last. */
  length = 0;

  constructor(sqlJs: SqlJs, database: number, sql: string) {
    this.#sqlJs = sqlJs;
    this.#database = database;
    const text = sqlJs.stringToNewUTF8(sql);
    const stack = sqlJs.stackSave();
    try {
      const place = sqlJs.stackAlloc(4);
      if (sqlJs._sqlite3_prepare_v2(database, text, -1, place, 0) !== OK) throw this.#failure();
      this.#statement = new DataView(sqlJs.memory.buffer).getInt32(place, true);
    } finally {
      sqlJs.stackRestore(stack);
      sqlJs._free(text);
    }
    [this.#bytes, this.#view] = this.#memory();
  }

  /** Goes to the next row, or answers that there is none. */
  next(): boolean {
    const code = this.#sqlJs._sqlite3_step(this.#statement);
    if (code !== ROW && code !== DONE) throw this.#failure();
    return code === ROW;
  }

  /**
   * SQLite's memory. What was found in it stays where it is until the next row, but this is another object when it has
   * grown.
   */
  get bytes(): Buffer {
    // What was taken from it has no length any more.
    if (this.#bytes.length === 0) [this.#bytes, this.#view] = this.#memory();
    return this.#bytes;
  }

  get view(): DataView {
    if (this.#bytes.length === 0) [this.#bytes, this.#view] = this.#memory();
    return this.#view;
  }

  isNull(column: number): boolean {
    return this.#type(column) === NULL;
  }

  number(column: number): number {
    const type = this.#type(column);
    if (type !== INTEGER && type !== FLOAT) throw otherType();
    return this.#sqlJs._sqlite3_column_double(this.#statement, column);
  }

  /** Finds a text: where it begins in SQLite's memory, as UTF-8. */
  textAt(column: number): number {
    if (this.#type(column) !== TEXT) throw otherType();
    // In this order: the text may have to be made UTF-8 first.
    const at = this.#sqlJs._sqlite3_column_text(this.#statement, column);
    this.length = this.#sqlJs._sqlite3_column_bytes(this.#statement, column);
    return at;
  }

  text(column: number): string {
    const at = this.textAt(column);
    return this.bytes.toString("utf8", at, at + this.length);
  }

  /** Finds bytes as `textAt` finds a text. */
  blobAt(column: number): number {
    if (this.#type(column) !== BLOB) throw otherType();
    const at = this.#sqlJs._sqlite3_column_blob(this.#statement, column);
    this.length = this.#sqlJs._sqlite3_column_bytes(this.#statement, column);
    return at;
  }

  /** A copy. */
  blob(column: number): Uint8Array {
    const at = this.blobAt(column);
    return new Uint8Array(this.bytes.buffer, at, this.length).slice();
  }

  close(): void {
    this.#sqlJs._sqlite3_finalize(this.#statement);
  }

  #type(column: number): number {
    return this.#sqlJs._sqlite3_column_type(this.#statement, column);
  }

  #memory(): [Buffer, DataView] {
    const { buffer } = this.#sqlJs.memory;
    return [Buffer.from(buffer), new DataView(buffer)];
  }

  #failure(): Error {
    return new Error(this.#sqlJs.UTF8ToString(this.#sqlJs._sqlite3_errmsg(this.#database)));
  }
}

function otherType(): Error {
  return new Error("a column has a value of another type");
}
