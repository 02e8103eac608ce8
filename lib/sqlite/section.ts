/** SQLite's section of a config. */
import { fields } from "../arguments.js";
import type { Store } from "../store.js";
import { SQLITE_OPTIONS, checkedPath, openFile, sqliteInput } from "./open.js";
import type { SqliteOptions } from "./open.js";

export type SqliteSection = { path: string } & SqliteOptions;

/** Checks the section, and answers how to open what it names. */
export function sqliteSection(value: unknown, path: string): () => Promise<Store> {
  const found = fields(value, path, ["path", ...SQLITE_OPTIONS]);
  const file = checkedPath(found["path"], `${path}.path`);
  const input = sqliteInput(found, path);
  return () => openFile(file, input);
}
