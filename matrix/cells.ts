/** The cells: each a way to use the packed library, from a fresh folder. */
import { randomBytes } from "node:crypto";
import { cp, mkdir, readFile, readdir, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { bundlers } from "./bundlers.js";
import { absent, folderOf } from "./installed.js";
import { PARTS, program, type Report } from "./program.js";
import { onThisNode, readmeBlock, run, type Command, type Sandbox } from "./sandbox.js";

export interface Cell {
  readonly name: string;
  /** Why it cannot be tried here; otherwise what it says. */
  readonly missing?: string;
  /** Of a part that it does not try it says nothing. */
  run(sandbox: Sandbox): Promise<Partial<Report>>;
}

export interface Runtime extends Command {
  readonly name: string;
}

const OTHER_NODES = ["node-20.19", "node-20", "node-22.2", "node-22", "node-24", "node-26"];

/** The Nodes of package.json that are there; without any, that which runs this. */
export function nodes(): { there: Runtime[]; missing: string[] } {
  const there: Runtime[] = [];
  const missing: string[] = [];
  for (const name of OTHER_NODES) {
    const folder = folderOf(name);
    if (folder === undefined) missing.push(name);
    else there.push({ name: name.replace("node-", "Node "), program: join(folder, "bin/node"), args: [] });
  }
  return { there, missing };
}

const thisNode: Runtime = { ...onThisNode, name: `Node ${process.versions.node}` };

/** Of several runs one line: a part is well if it was on each runtime. */
function together(reports: readonly { readonly on: string; readonly report: Report }[]): Report {
  return Object.fromEntries(
    PARTS.map((part) => {
      const wrong = reports.filter(({ report }) => report[part] !== true);
      return [
        part,
        wrong.length === 0 ? true : wrong.map(({ on, report }) => `${on}: ${String(report[part])}`).join("; "),
      ];
    }),
  ) as Report;
}

/** Made once, moved to where there is no `node_modules`, and run on each Node. */
export function bundlerCells(runtimes: readonly Runtime[], packageOf: (name: string) => string | undefined): Cell[] {
  return bundlers.map((bundler) => {
    const needed = packageOf(bundler.name);
    return {
      name: bundler.name,
      ...(needed !== undefined && folderOf(needed) === undefined ? { missing: absent(needed) } : {}),
      async run(sandbox) {
        const app = await sandbox.app();
        await sandbox.installByNpm(app);
        const out = join(await sandbox.fresh(), "out");
        const file = await bundler.bundle(app, out, await readmeBlock("banner"));
        // Nothing of the folder in which it was made is there any more.
        await rename(app, `${app}-gone`);
        const moved = await sandbox.fresh();
        await cp(out, moved, { recursive: true });
        const reports = [];
        for (const runtime of runtimes) {
          reports.push({ on: runtime.name, report: await sandbox.check(runtime, file.replace(out, moved), moved) });
        }
        return together(reports);
      },
    };
  });
}

const BUNDLER_PACKAGES: Readonly<Record<string, string>> = {
  rollup: "@rollup/plugin-commonjs",
  webpack: "webpack",
  "Vite, SSR": "vite",
  ncc: "@vercel/ncc",
};
export const packageOfBundler = (name: string): string | undefined => BUNDLER_PACKAGES[name];

interface PackageManager {
  readonly name: string;
  readonly package?: string;
  /** Installs what the folder's package.json names; resolves to how a file is run there. */
  install(
    folder: string,
    sandbox: Sandbox,
    script: string,
  ): Promise<{ readonly command: Command; readonly env?: NodeJS.ProcessEnv }>;
}

async function installByPnpm(pnpm: Command, folder: string, sandbox: Sandbox): Promise<{ command: Command }> {
  const store = await sandbox.fresh();
  await run(pnpm, ["install", "--ignore-scripts", "--no-frozen-lockfile", "--store-dir", store], folder);
  return { command: onThisNode };
}

/** Settings that clients other than npm do not read from where npm has them. */
async function registry(cwd: string): Promise<string> {
  return await run({ program: "npm", args: [] }, ["config", "get", "registry"], cwd);
}

const packageManagers: readonly PackageManager[] = [
  {
    name: "npm",
    async install(folder, sandbox) {
      await sandbox.installByNpm(folder);
      return { command: onThisNode };
    },
  },
  {
    name: "pnpm 10",
    package: "pnpm",
    install: (folder, sandbox, script) => installByPnpm({ program: process.execPath, args: [script] }, folder, sandbox),
  },
  {
    name: "pnpm 12",
    package: "@pnpm/exe.linux-x64",
    install: (folder, sandbox, script) => installByPnpm({ program: script, args: [] }, folder, sandbox),
  },
  {
    name: "yarn 1",
    package: "yarn",
    async install(folder, sandbox, script) {
      const cache = await sandbox.fresh();
      const quiet = [
        "--non-interactive",
        "--no-progress",
        "--ignore-scripts",
        "--no-lockfile",
        "--cache-folder",
        cache,
      ];
      await run(onThisNode, [script, "install", ...quiet, "--registry", await registry(folder)], folder);
      return { command: onThisNode };
    },
  },
  {
    name: "yarn 4, PnP",
    package: "@yarnpkg/cli-dist",
    async install(folder, sandbox, script) {
      const address = await registry(folder);
      const env = {
        YARN_NPM_REGISTRY_SERVER: address,
        YARN_UNSAFE_HTTP_WHITELIST: new URL(address).hostname,
        YARN_NODE_LINKER: "pnp",
        YARN_ENABLE_GLOBAL_CACHE: "false",
        YARN_ENABLE_TELEMETRY: "false",
        YARN_ENABLE_IMMUTABLE_INSTALLS: "false",
        YARN_GLOBAL_FOLDER: await sandbox.fresh(),
      };
      // A project of its own: it would look for one in the folders above.
      await writeFile(join(folder, "yarn.lock"), "");
      await run(onThisNode, [script, "install"], folder, env);
      return { command: { program: process.execPath, args: [script, "node"] }, env };
    },
  },
];

export function packageManagerCells(): Cell[] {
  return packageManagers.map(({ package: needed, ...manager }) => ({
    name: manager.name,
    ...(needed !== undefined && folderOf(needed) === undefined ? { missing: absent(needed) } : {}),
    async run(sandbox) {
      const app = await sandbox.app();
      const { command, env } = await manager.install(app, sandbox, needed === undefined ? "" : await scriptOf(needed));
      const reports = [];
      for (const [on, file] of [
        ["ES module", "main.mjs"],
        ["CommonJS", "main.cjs"],
      ] as const) {
        reports.push({ on, report: await sandbox.check(command, join(app, file), app, env) });
      }
      return together(reports);
    },
  }));
}

async function scriptOf(packageName: string): Promise<string> {
  const folder = folderOf(packageName) ?? "";
  const { bin } = JSON.parse(await readFile(join(folder, "package.json"), "utf8")) as {
    bin?: string | Record<string, string>;
  };
  // What is nothing but a program names none.
  const script = bin === undefined ? "pnpm" : typeof bin === "string" ? bin : (bin["yarn"] ?? bin["pnpm"]);
  if (script === undefined) throw new Error(`${packageName} has no program`);
  return join(folder, script);
}

function others(): (Runtime & { readonly package: string })[] {
  return [
    { name: "Bun", package: "@oven/bun-linux-x64", program: "bin/bun", args: ["run"] },
    { name: "Deno", package: "@deno/linux-x64-glibc", program: "deno", args: ["run", "--allow-all", "--quiet"] },
  ];
}

/** Each runtime with the library installed by npm, from both kinds of modules. */
export function runtimeCells(): Cell[] {
  const { there, missing } = nodes();
  const known = [thisNode, ...there.map((node) => ({ ...node, missing: undefined }))];
  const cells = known.map((runtime) => runtimeCell(runtime));
  for (const name of missing)
    cells.push({
      name: name.replace("node-", "Node "),
      missing: absent(name),
      run: () => Promise.reject(new Error(name)),
    });
  for (const { package: needed, ...runtime } of others()) {
    const folder = folderOf(needed);
    cells.push({
      ...runtimeCell({ ...runtime, program: join(folder ?? "", runtime.program) }),
      ...(folder === undefined ? { missing: absent(needed) } : {}),
    });
  }
  return cells;
}

function runtimeCell(runtime: Runtime): Cell {
  return {
    name: runtime.name,
    async run(sandbox) {
      const app = await sandbox.app();
      await sandbox.installByNpm(app);
      // What the README says to paste, twice; JetStream's is given the address, and buckets that no other cell uses.
      const jetStream = (await readmeBlock("jetstream"))
        .replace("127.0.0.1:4222", sandbox.servers)
        .replace("openJetStream(nc)", `openJetStream(nc, 1, { prefix: "first${randomBytes(6).toString("hex")}_" })`);
      for (const [code, says] of [
        [await readmeBlock("sqlite"), "true true\nfalse revoked"],
        [jetStream, "true\ntrue\nfalse"],
      ] as const) {
        await writeFile(join(app, "first.mjs"), code);
        for (let i = 0; i < 2; i++) {
          const said = await run(runtime, ["first.mjs"], app);
          if (said !== says) throw new Error(`the quick start said: ${said}`);
        }
      }
      const reports = [];
      for (const [on, file] of [
        ["ES module", "main.mjs"],
        ["CommonJS", "main.cjs"],
      ] as const) {
        reports.push({ on, report: await sandbox.check(runtime, join(app, file), app) });
      }
      return together(reports);
    },
  };
}

interface Resolution {
  readonly name: string;
  readonly file: string;
  readonly options: Readonly<Record<string, unknown>>;
}

const RESOLUTIONS: readonly Resolution[] = [
  // Its way of resolving is left to the compiler: the old one that knows no `exports`, as long as there was that.
  { name: "commonjs", file: "main.ts", options: { module: "commonjs" } },
  { name: "Node16, ES module", file: "main.mts", options: { module: "Node16" } },
  { name: "NodeNext, ES module", file: "main.mts", options: { module: "NodeNext" } },
  { name: "NodeNext, CommonJS", file: "main.cts", options: { module: "NodeNext" } },
  { name: "bundler", file: "main.mts", options: { module: "ESNext", moduleResolution: "bundler" } },
];

const COMPILERS = [
  "typescript-5.2",
  "typescript-5.3",
  "typescript-5.4",
  "typescript-5.5",
  "typescript-5.6",
  "typescript-5.7",
  "typescript-5.8",
  "typescript-5.9",
  "typescript",
  "typescript-7.0",
];

export function typescriptCells(): Cell[] {
  return COMPILERS.flatMap((compiler) => {
    const folder = folderOf(compiler);
    const name = compiler === "typescript" ? "TypeScript 6.0" : compiler.replace("typescript-", "TypeScript ");
    const missing = folder === undefined ? { missing: absent(compiler) } : {};
    const tsc: Command = { program: process.execPath, args: [join(folder ?? "", "bin/tsc")] };
    return [
      ...RESOLUTIONS.map((resolution) => ({
        name: `${name}, ${resolution.name}`,
        ...missing,
        run: (sandbox: Sandbox) => compiled(sandbox, tsc, resolution),
      })),
      { name: `${name}, as tsc --init writes it`, ...missing, run: (sandbox: Sandbox) => initialised(sandbox, tsc) },
    ];
  });
}

async function compiled(sandbox: Sandbox, tsc: Command, { file, options }: Resolution): Promise<Report> {
  const app = await sandbox.app();
  await sandbox.installByNpm(app);
  await writeFile(join(app, file), program("ts"));
  const compilerOptions = {
    target: "ES2022",
    lib: ["ES2022", "DOM"],
    strict: true,
    noUncheckedIndexedAccess: true,
    exactOptionalPropertyTypes: true,
    skipLibCheck: false,
    types: [],
    outDir: "out",
    rootDir: ".",
    ...options,
  };
  await writeFile(join(app, "tsconfig.json"), JSON.stringify({ compilerOptions, files: [file] }));
  await run(tsc, ["-p", "."], app);
  return await sandbox.check(onThisNode, await onlyFile(join(app, "out")), app);
}

/** The quick start under the settings that a newcomer has, and the program after it. */
async function initialised(sandbox: Sandbox, tsc: Command): Promise<Report> {
  const app = await sandbox.app();
  await sandbox.installByNpm(app);
  await run(tsc, ["--init"], app);
  const isCommonJs = /"module": "commonjs"/.test(await readFile(join(app, "tsconfig.json"), "utf8"));
  const [source, made] = isCommonJs ? ["ts", "js"] : ["mts", "mjs"];
  await writeFile(join(app, `first.${source}`), await readmeBlock("sqlite"));
  await mkdir(join(app, "program"));
  await writeFile(join(app, "program", `main.${source}`), program("ts"));
  await run(tsc, [], app);
  for (let i = 0; i < 2; i++) {
    const said = await run(onThisNode, [`first.${made}`], app);
    if (said !== "true true\nfalse revoked") throw new Error(`the quick start said: ${said}`);
  }
  return await sandbox.check(onThisNode, join(app, "program", `main.${made}`), app);
}

async function onlyFile(folder: string): Promise<string> {
  const files = (await readdir(folder)).filter((name) => /\.[cm]?js$/.test(name));
  const [file] = files;
  if (file === undefined || files.length !== 1) throw new Error(`the compiler made ${files.join(", ") || "nothing"}`);
  return join(folder, file);
}
