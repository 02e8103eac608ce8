// For commands that use the built package: builds it where it is missing or older than its sources. With `--code` only the
// ES modules, which are all that most commands load.

import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const dist = join(root, "dist");

/** `code`: the ES modules. `whole`: what is published, with the CommonJS build and the declaration files. */
export type Build = "code" | "whole";

/** All that others name: an interrupted build counts as none. */
const built: Readonly<Record<Build, readonly string[]>> = {
  code: ["index.js", "testing.js", "sql-js.js"],
  whole: [
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
  ],
};

/** The CommonJS build and what tree shaking removes take most of the time, after the declaration files. */
const CODE_ALONE = ["--format", "esm", "--no-dts", "--no-treeshake", "--no-clean"];

function newest(path: string): number {
  const stat = statSync(path);
  if (!stat.isDirectory()) return stat.mtimeMs;
  return Math.max(stat.mtimeMs, ...readdirSync(path).map((name) => newest(join(path, name))));
}

function isStale(what: Build): boolean {
  const files = built[what].map((name) => join(dist, name));
  if (!files.every((path) => existsSync(path))) return true;
  const sources = ["lib", "package.json", "tsconfig.json", "tsup.config.ts"].map((name) => newest(join(root, name)));
  return Math.min(...files.map((path) => statSync(path).mtimeMs)) < Math.max(...sources);
}

/**
 * Removes the code of the build before, and with it the CommonJS build: who needs the whole finds that it is not there, not that
 * it is old. The declaration files stay for editors. Commands that read them see by their age that they are stale.
 */
function removeCode(): void {
  if (!existsSync(dist)) return;
  for (const name of readdirSync(dist).filter((name) => /\.c?js$/.test(name))) rmSync(join(dist, name));
}

/** Answers whether the build is there. */
export function buildIfNeeded(what: Build): boolean {
  if (!isStale(what)) return true;
  console.error("Building the package first ...");
  if (what === "code") removeCode();
  const args = ["--silent", ...(what === "code" ? CODE_ALONE : [])];
  const build = spawnSync(process.execPath, [join(root, "node_modules/tsup/dist/cli-default.js"), ...args], {
    cwd: root,
    stdio: ["ignore", "inherit", "inherit"],
  });
  return build.status === 0;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  process.exitCode = buildIfNeeded(process.argv.includes("--code") ? "code" : "whole") ? 0 : 1;
}
