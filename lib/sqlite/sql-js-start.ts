/**
 * Starts sql.js with its WebAssembly, once in each thread.
 *
 * It is sql.js's build for browsers, because that one asks for nothing of Node's: no `require`, which ES modules lack,
 * and no `__dirname`, which a bundle changes.
 */
import initSqlJs from "sql.js/dist/sql-wasm-browser.js";
import type { SqlJs, SqlJsModule } from "sql.js/dist/sql-wasm-browser.js";

interface Request {
  readonly imports: WebAssembly.Imports;
  readonly fulfil: (instance: WebAssembly.Instance) => void;
}

/** sql.js starts once for all time: it asks for its instance once, and a second attempt answers the same request. */
let started: { readonly request: Request; readonly sqlJs: Promise<SqlJsModule> } | undefined;

/**
 * Rejects if there is no memory for it, and can be called again then.
 *
 * sql.js would load its WebAssembly by a promise that nobody holds, whose rejection ends the process. Everything that
 * can fail is therefore done here, and sql.js is given what came of it.
 */
export async function startSqlJs(module: WebAssembly.Module): Promise<SqlJs> {
  started ??= start();
  const { request, sqlJs } = started;
  const instance = await WebAssembly.instantiate(module, request.imports);
  request.fulfil(instance);
  return Object.assign(await sqlJs, { memory: memoryOf(instance) });
}

/** It has no name of its own there. */
function memoryOf({ exports }: WebAssembly.Instance): WebAssembly.Memory {
  const memory = Object.values(exports).find((each) => each instanceof WebAssembly.Memory);
  if (memory === undefined) throw new Error("sql.js has no memory");
  return memory;
}

function start(): { readonly request: Request; readonly sqlJs: Promise<SqlJsModule> } {
  let request: Request | undefined;
  const sqlJs = initSqlJs({
    instantiateWasm: (imports, fulfil) => {
      request = { imports, fulfil };
      return {};
    },
  });
  // It asks before it returns.
  if (request === undefined) throw new Error("sql.js did not ask for its WebAssembly");
  return { request, sqlJs };
}
