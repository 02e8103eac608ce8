import { cp, readFile, readdir, symlink, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import type { openSqlite } from "unibus-membership";

/** What a build says of sizes, and what the copy is to say. */
const CHANGES = {
  checkpoints: [/Math\.max\(MIN_LOG_BYTES, this\.#imageBytes\)/, "4096"],
  threads: [/(?<=var SMALL_BYTES\d* = )4 \* 1024 \* 1024(?=;)/, "0"],
} as const;

/**
 * A copy of the built package that takes a checkpoint every 4 KiB of its log, and that makes every image in a thread,
 * if that is asked for. Answers the address of the module.
 */
export async function smallBuild(folder: string, changes: readonly (keyof typeof CHANGES)[]): Promise<string> {
  const copy = join(folder, "build");
  await cp(dirname(fileURLToPath(import.meta.resolve("unibus-membership"))), copy, { recursive: true });
  await symlink(fileURLToPath(new URL("../../../node_modules", import.meta.url)), join(copy, "node_modules"));
  await writeFile(join(copy, "package.json"), '{ "type": "module" }');
  const left = new Set(changes);
  for (const name of (await readdir(copy)).filter((each) => each.endsWith(".js"))) {
    const before = await readFile(join(copy, name), "utf8");
    let code = before;
    for (const change of left) {
      const [find, replace] = CHANGES[change];
      if (!find.test(code)) continue;
      code = code.replace(find, replace);
      left.delete(change);
    }
    if (code !== before) await writeFile(join(copy, name), code);
  }
  if (left.size > 0) throw new Error(`the build has nothing to change for ${[...left].join(", ")}`);
  return pathToFileURL(join(copy, "index.js")).href;
}

export async function openSqliteOf(module: string): Promise<typeof openSqlite> {
  return ((await import(module)) as { openSqlite: typeof openSqlite }).openSqlite;
}
