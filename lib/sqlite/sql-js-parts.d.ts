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
  import type { SqlJsStatic } from "sql.js";
  const initSqlJs: (config: {
    instantiateWasm: (imports: WebAssembly.Imports, fulfil: (instance: WebAssembly.Instance) => void) => object;
  }) => Promise<SqlJsStatic>;
  export default initSqlJs;
}

declare module "sql.js/dist/sql-wasm-browser.wasm" {
  /** Compressed by brotli. */
  const bytes: Uint8Array;
  export default bytes;
}
