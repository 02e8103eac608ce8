// For commands that use the built package: builds it where it is missing or older than its sources. With `--code` only
// the ES modules, which are all that most commands load.

import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const dist = join(root, "dist");

/**
 * `code`: the ES modules. `both`: with the CommonJS build. `whole`: what is published, with the declaration files too.
 */
export type Build = "code" | "both" | "whole";

const CODE = ["index.js", "testing.js", "sql-js.js"];
const BOTH = [...CODE, "index.cjs", "testing.cjs", "sql-js.cjs"];

/** All that others name: an interrupted build counts as none. */
const built: Readonly<Record<Build, readonly string[]>> = {
  code: CODE,
  both: BOTH,
  whole: [...BOTH, "index.d.ts", "index.d.cts", "testing.d.ts", "testing.d.cts"],
};

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
 * Removes the code of the build before, and with it the CommonJS build: who needs the whole finds that it is not there,
 * not that it is old. The declaration files stay for editors. Commands that read them see by their age that they are
 * stale.
 */
function removeCode(): void {
  if (!existsSync(dist)) return;
  for (const name of readdirSync(dist).filter((name) => /\.c?js$/.test(name))) rmSync(join(dist, name));
}

/**
 * The ES modules as tsup makes them, but without what tree shaking removes, and without a process of its own for tsup:
 * the CommonJS build and tree shaking take most of the time, after the declaration files, and the start of tsup most of
 * the rest.
 */
async function buildCode(): Promise<void> {
  // Loaded where there is something to build: most commands find that there is not.
  const [{ build }, config] = await Promise.all([import("esbuild"), import("../tsup.config.js")]);
  const { dependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { dependencies: object };
  const { outputFiles } = await build({
    absWorkingDir: root,
    entryPoints: config.ENTRIES,
    outdir: dist,
    write: false,
    bundle: true,
    splitting: true,
    format: "esm",
    platform: "node",
    target: config.TARGET,
    tsconfig: join(root, "tsconfig.json"),
    mainFields: ["module", "main"],
    external: Object.keys(dependencies),
    plugins: config.CODE_PLUGINS,
    logLevel: "silent",
  });
  const head = await config.licenseHead();
  mkdirSync(dist, { recursive: true });
  // Those that others are told by come last: an interrupted build counts as none.
  const isNamed = (path: string): boolean => built.code.includes(basename(path));
  for (const { path, text } of outputFiles.sort((a, b) => Number(isNamed(a.path)) - Number(isNamed(b.path)))) {
    const code = config.finished(text);
    writeFileSync(path, basename(path) === "sql-js.js" ? head + code : code);
  }
}

function tsup(...args: string[]): boolean {
  const build = spawnSync(
    process.execPath,
    [join(root, "node_modules/tsup/dist/cli-default.js"), "--silent", ...args],
    {
      cwd: root,
      stdio: ["ignore", "inherit", "inherit"],
    },
  );
  return build.status === 0;
}

/** Answers whether the build is there. */
export async function buildIfNeeded(what: Build): Promise<boolean> {
  if (!isStale(what)) return true;
  console.error("Building the package first ...");
  switch (what) {
    case "whole":
      return tsup();
    case "both":
      removeCode();
      return tsup("--no-dts", "--no-treeshake", "--no-clean");
    case "code":
      removeCode();
      return buildCode().then(
        () => true,
        (error: unknown) => {
          console.error(error instanceof Error ? error.message : error);
          return false;
        },
      );
    default:
      return false;
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  process.exitCode = (await buildIfNeeded(process.argv.includes("--code") ? "code" : "whole")) ? 0 : 1;
}
