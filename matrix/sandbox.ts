/** Fresh folders, the packed tarball, and programs that run in them. */
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdir, mkdtemp, readFile, realpath, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { PARTS, program, type Report } from "./program.js";

const execute = promisify(execFile);

export const root = fileURLToPath(new URL("..", import.meta.url));

export interface Command {
  readonly program: string;
  readonly args: readonly string[];
}

export const onThisNode: Command = { program: process.execPath, args: [] };

export async function run(
  command: Command,
  args: readonly string[],
  cwd: string,
  env: NodeJS.ProcessEnv = {},
): Promise<string> {
  const all = [...command.args, ...args];
  const { stdout } = await execute(command.program, all, {
    cwd,
    timeout: 300_000,
    maxBuffer: 2 ** 26,
    env: { ...process.env, ...env },
  }).catch((error: unknown) => {
    const { stdout = "", stderr = "" } = error as { stdout?: string; stderr?: string };
    throw new Error(`${command.program} ${all.join(" ")}:\n${(stdout + stderr).trim().slice(-2_000)}`, {
      cause: error,
    });
  });
  return stdout.trim();
}

export class Sandbox {
  readonly folder: string;
  readonly tarball: string;
  readonly servers: string;
  #folders = 0;

  private constructor(folder: string, tarball: string, servers: string) {
    this.folder = folder;
    this.tarball = tarball;
    this.servers = servers;
  }

  /** Packs what was built. `servers`: where a nats-server listens. */
  static async make(servers: string): Promise<Sandbox> {
    const folder = await realpath(await mkdtemp(join(tmpdir(), "unibus-matrix-")));
    const packing = ["pack", root, "--ignore-scripts", "--json", "--pack-destination", folder];
    const packed = await run({ program: "npm", args: [] }, packing, folder);
    const [{ filename }] = JSON.parse(packed) as [{ filename: string }];
    return new Sandbox(folder, join(folder, filename), servers);
  }

  async fresh(): Promise<string> {
    const folder = join(this.folder, `cell-${String(++this.#folders)}`);
    await mkdir(folder);
    return folder;
  }

  /** A folder of an app that has nothing but the library, with the program as `main.mjs` and `main.cjs`. */
  async app(): Promise<string> {
    const folder = await this.fresh();
    const dependencies = { "unibus-membership": `file:${this.tarball}` };
    await writeFile(
      join(folder, "package.json"),
      JSON.stringify({ name: "app", version: "1.0.0", private: true, dependencies }),
    );
    await writeFile(join(folder, "main.mjs"), program("esm"));
    await writeFile(join(folder, "main.cjs"), program("cjs"));
    return folder;
  }

  async installByNpm(folder: string): Promise<void> {
    const quiet = ["--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund"];
    await run({ program: "npm", args: [] }, ["install", ...quiet], folder);
  }

  /** Runs the program, or what was made of it, on files and buckets of its own. */
  async check(command: Command, file: string, cwd: string, env?: NodeJS.ProcessEnv): Promise<Report> {
    const files = await this.fresh();
    const stdout = await run(command, [file, files, this.servers, `m${randomBytes(6).toString("hex")}_`], cwd, env);
    const said: unknown = JSON.parse(stdout.split("\n").at(-1) ?? "");
    return Object.fromEntries(
      PARTS.map((part) => {
        const found = (said as Partial<Report>)[part];
        return [part, found ?? "nothing was said of it"];
      }),
    ) as Report;
  }

  async dispose(): Promise<void> {
    await rm(this.folder, { recursive: true, force: true, maxRetries: 5 });
  }
}

/** A block of the README by its label. */
export async function readmeBlock(label: string): Promise<string> {
  const readme = await readFile(join(root, "README.md"), "utf8");
  const [, code] = new RegExp(`\`\`\`js ${label}\n([^]*?)\`\`\``).exec(readme) ?? [];
  if (code === undefined) throw new Error(`README.md has no block ${label}`);
  return code.trim();
}
