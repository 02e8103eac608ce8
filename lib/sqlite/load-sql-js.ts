import { StoreError } from "../errors.js";
import type { LoadedSqlJs } from "./sql-js.js";

let loading: Promise<LoadedSqlJs> | undefined;

/** Loads sql.js, once: not before a store is opened, and again after a failure. Rejects with `UNAVAILABLE`. */
export function loadSqlJs(): Promise<LoadedSqlJs> {
  loading ??= import("./sql-js.js")
    .then((module) => module.instantiate())
    .catch((error: unknown) => {
      loading = undefined;
      const reason = error instanceof Error ? error.message : String(error);
      throw new StoreError("UNAVAILABLE", `SQLite cannot be loaded (${reason})`, { cause: error });
    });
  return loading;
}
