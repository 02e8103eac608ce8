// For commands that use the built package: builds it where it is missing or older than its sources.

import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));

/** All that others name: an interrupted build counts as none. */
const built = [
  "index.js",
  "index.cjs",
  "index.d.ts",
  "index.d.cts",
  "testing.js",
  "testing.cjs",
  "testing.d.ts",
  "testing.d.cts",
  "sql-js.js",
  "sql-js.cjs",
].map((name) => join(root, "dist", name));

function newest(path: string): number {
  const stat = statSync(path);
  if (!stat.isDirectory()) return stat.mtimeMs;
  return Math.max(stat.mtimeMs, ...readdirSync(path).map((name) => newest(join(path, name))));
}

function isStale(): boolean {
  if (!built.every((path) => existsSync(path))) return true;
  const sources = ["lib", "package.json", "tsconfig.json", "tsup.config.ts"].map((name) => newest(join(root, name)));
  return Math.min(...built.map((path) => statSync(path).mtimeMs)) < Math.max(...sources);
}

if (isStale()) {
  console.error("Building the package first ...");
  const build = spawnSync(process.execPath, [join(root, "node_modules/tsup/dist/cli-default.js"), "--silent"], {
    cwd: root,
    stdio: ["ignore", "inherit", "inherit"],
  });
  process.exitCode = build.status ?? 1;
}
