// What the build puts into sql-js.ts, see tsup.config.ts, and the little that is used of WebAssembly: `lib` has it only
// together with everything else that a browser's window has.

declare namespace WebAssembly {
  type Imports = Record<string, Record<string, unknown>>;
  class Memory {
    readonly buffer: ArrayBuffer;
  }
  interface Instance {
    readonly exports: Readonly<Record<string, unknown>>;
  }
  function compile(bytes: Uint8Array): Promise<Module>;
  function instantiate(module: Module, imports: Imports): Promise<Instance>;
}

declare module "sql.js/dist/sql-wasm-browser.js" {
  import type { Database } from "sql.js";

  /** Where SQLite reads and writes its pages. Both return how many bytes they took, which at the end are fewer. */
  export interface SqlFile {
    readonly length: number;
    read(target: Int8Array, offset: number, length: number, position: number): number;
    write(source: Int8Array, offset: number, length: number, position: number): number;
  }

  /** `db` is where SQLite has it. */
  export interface OpenDatabase extends Database {
    readonly db: number;
  }

  /** What sql.js itself works with: SQLite's own functions, and addresses in the memory of its WebAssembly. */
  interface Functions {
    _sqlite3_prepare_v2(database: number, sql: number, bytes: number, statement: number, rest: number): number;
    _sqlite3_step(statement: number): number;
    _sqlite3_finalize(statement: number): number;
    _sqlite3_column_type(statement: number, column: number): number;
    _sqlite3_column_double(statement: number, column: number): number;
    _sqlite3_column_text(statement: number, column: number): number;
    _sqlite3_column_blob(statement: number, column: number): number;
    _sqlite3_column_bytes(statement: number, column: number): number;
    _sqlite3_errmsg(database: number): number;
    _free(address: number): void;
    stringToNewUTF8(text: string): number;
    UTF8ToString(address: number): string;
    stackSave(): number;
    stackAlloc(bytes: number): number;
    stackRestore(stack: number): void;
  }

  export interface SqlJsModule extends Functions {
    readonly Database: new (file: SqlFile) => OpenDatabase;
  }

  export interface SqlJs extends SqlJsModule {
    readonly memory: WebAssembly.Memory;
  }

  const initSqlJs: (config: {
    instantiateWasm: (imports: WebAssembly.Imports, fulfil: (instance: WebAssembly.Instance) => void) => object;
  }) => Promise<SqlJsModule>;
  export default initSqlJs;
}

declare module "sql.js/dist/sql-wasm-browser.wasm" {
  /** Compressed by brotli. */
  const bytes: Uint8Array;
  export default bytes;
}

declare module "*?source" {
  /** The text of a program, compressed by brotli. */
  const source: Uint8Array;
  export default source;
}
