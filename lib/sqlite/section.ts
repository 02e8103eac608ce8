/** SQLite's section of a config. */
import { promises as fs } from "node:fs";
import { fields } from "../arguments.js";
import type { Store } from "../store.js";
import { SQLITE_OPTIONS, checkedPath, openFile, sqliteInput } from "./open.js";
import type { SqliteOptions } from "./open.js";

export type SqliteSection = { path: string } & SqliteOptions;

/** Checks the section, and answers how to open what it names. */
export function sqliteSection(value: unknown, path: string) {
  const found = fields(value, path, ["path", ...SQLITE_OPTIONS]);
  const file = checkedPath(found["path"], `${path}.path`);
  const input = sqliteInput(found, path);
  return {
    open: () => openFile(file, input),
    find: async (): Promise<Store | undefined> => {
      if (file === ":memory:" || !(await isThere(file))) return undefined;
      return openFile(file, { ...input, reopenMoved: true, onOpening: undefined, onCheckpoint: undefined });
    },
  };
}

/** What cannot be looked at may be there. */
async function isThere(file: string): Promise<boolean> {
  try {
    await fs.stat(file);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== "ENOENT";
  }
}
