/**
 * sql.js with its WebAssembly inside, and the program of the thread that makes images. The build makes a file of its
 * own of this, which is loaded when the first file is opened, and which a bundler takes along like any other module:
 * there is no `.wasm` and no other script beside it that could be left behind.
 */
import { brotliDecompressSync } from "node:zlib";
import type { SqlJs } from "sql.js/dist/sql-wasm-browser.js";
import compressed from "sql.js/dist/sql-wasm-browser.wasm";
import imageWorker from "./image-worker.js?source";
import { startSqlJs } from "./sql-js-start.js";

export interface LoadedSqlJs {
  readonly sqlJs: SqlJs;
  /** What another thread starts it with. */
  readonly module: WebAssembly.Module;
  /** The text of `image-worker.ts`, as a program of its own. */
  imageWorker(): string;
}

/** Rejects if there is no WebAssembly, or no memory for it, and can be called again then. */
export async function instantiate(): Promise<LoadedSqlJs> {
  const module = await WebAssembly.compile(brotliDecompressSync(compressed));
  return {
    sqlJs: await startSqlJs(module),
    module,
    imageWorker: () => brotliDecompressSync(imageWorker).toString("utf8"),
  };
}
