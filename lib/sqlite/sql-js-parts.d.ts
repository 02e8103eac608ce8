// What the build puts into sql-js.ts, see tsup.config.ts, and the little that is used of WebAssembly: `lib` has it only
// together with everything else that a browser's window has.

declare namespace WebAssembly {
  type Imports = Record<string, Record<string, unknown>>;
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

  export interface SqlJs {
    readonly Database: new (file: SqlFile) => Database;
  }

  const initSqlJs: (config: {
    instantiateWasm: (imports: WebAssembly.Imports, fulfil: (instance: WebAssembly.Instance) => void) => object;
  }) => Promise<SqlJs>;
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
