import { expect } from "chai";
import { execFile } from "node:child_process";
import { cp, mkdir, mkdtemp, readdir, readFile, realpath, rm, stat, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { LIMITS } from "../tools/size.js";

const run = promisify(execFile);
const root = fileURLToPath(new URL("..", import.meta.url));

/** Runs a program of the repository's own node_modules; its output is in the error when it fails. */
async function tool(path: string, args: string[], cwd: string): Promise<string> {
  return await runNode([join(root, "node_modules", path), ...args], cwd);
}

async function runNode(args: string[], cwd: string): Promise<string> {
  const { stdout } = await run(process.execPath, args, { cwd, timeout: 120_000 }).catch((error: unknown) => {
    const { stdout = "", stderr = "" } = error as { stdout?: string; stderr?: string };
    throw new Error(`${args.join(" ")} failed:\n${stdout}${stderr}`, { cause: error });
  });
  return stdout.trim();
}

const USE = `
  await store.users.add({ key: "ABCD", role: "admin" });
  const answers = [await isAuthorized(store, "abcd"), await isAuthorized(store, "nobody"), await hasAdmin(store)];
  await store.close();
  if (answers.join() !== "true,false,true") throw new Error(answers.join());
  console.log("works");
`;

const TYPED = `
import { hasAdmin, isAuthorized, isNotFound, openSqlite, type Store, type StoreConfig } from "unibus-membership";
import { startNatsServer, type NatsServer } from "unibus-membership/testing";

export const config: StoreConfig = { sqlite: { path: ":memory:" } };
export const start: () => Promise<NatsServer> = startNatsServer;
export const missing: (error: unknown) => boolean = isNotFound;

async function main(): Promise<void> {
  await using store: Store = await openSqlite(":memory:");
  ${USE}
}
void main();
`;

const STRICT = {
  target: "ES2022",
  strict: true,
  exactOptionalPropertyTypes: true,
  noUncheckedIndexedAccess: true,
  // The package's types have to hold by themselves, without Node's.
  skipLibCheck: false,
  types: [] as string[],
};

describe("the packed package", () => {
  let folder: string;
  let tarball: string;

  before(async function () {
    this.timeout(180_000);
    folder = await realpath(await mkdtemp(join(tmpdir(), "unibus-package-")));
    // Without scripts: what was built is what the other specs run, and it must not change under them.
    const packed = await run("npm", ["pack", "--ignore-scripts", "--json", "--pack-destination", folder], {
      cwd: root,
    });
    const [{ filename }] = JSON.parse(packed.stdout) as [{ filename: string }];
    tarball = join(folder, filename);
    await write("package.json", { name: "consumer", private: true });
    await run(
      "npm",
      ["install", tarball, "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"],
      { cwd: folder },
    );
  });
  after(async () => {
    await rm(folder, { recursive: true });
  });

  async function write(path: string, content: string | object): Promise<string> {
    const file = join(folder, path);
    await mkdir(dirname(file), { recursive: true });
    await writeFile(file, typeof content === "string" ? content : JSON.stringify(content, null, 2));
    return file;
  }

  it("holds only what a user needs, in little more than 1 MB", async () => {
    const { stdout } = await run("tar", ["-tzf", tarball]);
    const files = stdout
      .trim()
      .split("\n")
      .map((path) => path.replace(/^package\//, ""));
    expect(files).to.include.members(["package.json", "README.md", "LICENSE"]);
    expect(files).to.include.members(
      ["index", "testing"].flatMap((entry) => [".js", ".cjs", ".d.ts", ".d.cts"].map((end) => `dist/${entry}${end}`)),
    );
    const others = files.filter((path) => !/^(dist\/[^/]+\.(js|cjs|d\.ts|d\.cts)|[^/]+)$/.test(path));
    expect(others).to.deep.equal([]);
    expect(files.filter((path) => !path.includes("/"))).to.have.length(3);
    expect((await stat(tarball)).size).to.be.at.most(LIMITS.packed);
  });

  it("holds sql.js under its own terms: its license stands at the head of each file that has it", async () => {
    const license = (await readFile(join(root, "node_modules/sql.js/LICENSE"), "utf8")).trim();
    expect(license)
      .to.match(/^MIT license/i)
      .and.to.match(/Copyright/);
    for (const name of ["sql-js.js", "sql-js.cjs"]) {
      const text = await readFile(join(folder, "node_modules", "unibus-membership", "dist", name), "utf8");
      expect(text.startsWith("/*!\n"), name).to.equal(true);
      expect(text.slice(0, text.indexOf("*/")), name)
        .to.contain(license)
        .and.to.contain("SQLite");
    }
  });

  it("has types that need nobody else's", async () => {
    const installed = join(folder, "node_modules", "unibus-membership", "dist");
    for (const file of (await readdir(installed)).filter((name) => /\.d\.c?ts$/.test(name))) {
      const text = await readFile(join(installed, file), "utf8");
      const imported = [...text.matchAll(/(?:from |import\()['"]([^'"]+)['"]/g)].map(([, name]) => name);
      expect(imported.filter((name) => name?.startsWith("./") !== true)).to.deep.equal([]);
    }
  });

  it("is clean by publint", async () => {
    expect(await tool("publint/src/cli.js", ["run", tarball, "--strict"], folder)).to.contain("All good!");
  });

  it("resolves to the right types by attw", async () => {
    // The old way of resolving too, which knows no `exports`: TypeScript's default for a long time.
    const args = [tarball, "--profile", "strict", "--no-emoji", "--no-color"];
    const table = await tool("@arethetypeswrong/cli/dist/index.js", args, folder);
    expect(table)
      .to.match(/from CJS.* OK \(CJS\) .* OK \(CJS\) /)
      .and.to.match(/from ESM.* OK \(ESM\) .* OK \(ESM\) /);
    expect(table).to.match(/node10.* OK .* OK /);
  });

  it("works from ESM", async () => {
    const program = `
      import { hasAdmin, isAuthorized, openSqlite } from "unibus-membership";
      const store = await openSqlite(":memory:");
      ${USE}`;
    expect(await runNode([await write("esm/main.mjs", program)], folder)).to.equal("works");
  });

  it("works from CommonJS", async () => {
    const program = `
      const { hasAdmin, isAuthorized, openSqlite } = require("unibus-membership");
      async function main() {
        const store = await openSqlite(":memory:");
        ${USE}
      }
      main();`;
    expect(await runNode([await write("cjs/main.cjs", program)], folder)).to.equal("works");
  });

  it("works where CommonJS runs in a context of its own, which has no `import()`", async () => {
    const program = `
      const { readFileSync } = require("node:fs");
      const { dirname, resolve } = require("node:path");
      const { compileFunction } = require("node:vm");
      function load(file) {
        const module = { exports: {} };
        const inner = (name) => (name.startsWith(".") ? load(resolve(dirname(file), name)) : require(name));
        compileFunction(readFileSync(file, "utf8"), ["exports", "require", "module"])(module.exports, inner, module);
        return module.exports;
      }
      const { hasAdmin, isAuthorized, openSqlite } = load(require.resolve("unibus-membership"));
      async function main() {
        const store = await openSqlite("context.db");
        ${USE}
      }
      main();`;
    expect(await runNode([await write("context/main.cjs", program)], folder)).to.equal("works");
    const installed = join(folder, "node_modules", "unibus-membership", "dist");
    for (const file of (await readdir(installed)).filter((name) => name.endsWith(".cjs"))) {
      expect(await readFile(join(installed, file), "utf8")).not.to.match(/\bimport\(/);
    }
  });

  describe("where SQLite cannot be loaded", () => {
    const program = (load: string): string => `
      let unhandled = 0;
      process.on("unhandledRejection", () => unhandled++);
      const main = async () => {
        const { openSqlite, isUnavailable } = ${load};
        // Again after a failure, and two at a time.
        const path = __filename + ".db";
        const tried = [await openSqlite(path).catch((error) => error)];
        tried.push(...(await Promise.all([path + "1", path + "2"].map((each) => openSqlite(each).catch((error) => error)))));
        // What keeps no file needs no SQLite.
        const memory = await openSqlite(":memory:");
        await memory.users.addFirstAdmin({ key: "ab" });
        const works = await memory.hasAdmin();
        await memory.close();
        await new Promise((resolve) => setTimeout(resolve, 100));
        const left = require("node:fs").readdirSync(__dirname).filter((name) => name.includes(".db"));
        console.log(JSON.stringify({ codes: tried.map((error) => isUnavailable(error) && error.message), works, unhandled, left }));
      };
      main();`;

    async function refusals(args: string[], reason: RegExp): Promise<void> {
      const { codes, ...rest } = JSON.parse(await runNode(args, folder)) as {
        codes: unknown[];
        works: boolean;
        unhandled: number;
        left: string[];
      };
      expect(rest).to.deep.equal({ works: true, unhandled: 0, left: [] });
      expect(codes).to.have.length(3);
      for (const each of codes) expect(each).to.be.a("string").that.matches(reason);
    }

    for (const [kind, load] of [
      ["ES modules", 'await import("unibus-membership")'],
      ["CommonJS", 'require("unibus-membership")'],
    ] as const) {
      it(`says so once, and the process goes on: no WebAssembly (${kind})`, async () => {
        const file = await write(`jitless-${kind.length}/main.cjs`, program(load));
        await refusals(["--jitless", file], /^SQLite cannot be loaded \(WebAssembly is not defined\)$/);
      });

      it(`says so once, and the process goes on: its file was left behind (${kind})`, async () => {
        const project = `left-behind-${kind.length}`;
        const file = await write(`${project}/main.cjs`, program(load));
        const copy = join(folder, project, "node_modules", "unibus-membership");
        await cp(join(folder, "node_modules", "unibus-membership"), copy, { recursive: true });
        for (const name of ["sql-js.js", "sql-js.cjs"]) await rm(join(copy, "dist", name));
        await refusals([file], /^SQLite cannot be loaded \(Cannot find module [^]*sql-js/);
      });
    }
  });

  for (const [kind, load] of [
    ["ES modules", 'await import("unibus-membership")'],
    ["CommonJS", 'require("unibus-membership")'],
  ] as const) {
    it(`says what keeps the NATS client from being loaded (${kind})`, async () => {
      const project = `no-client-${kind.length}`;
      const file = await write(
        `${project}/main.cjs`,
        `
        const main = async () => {
          const { isUnavailable, openStore } = ${load};
          const error = await openStore({ decentralized: true, jetstream: { connect: {} } }).catch((error) => error);
          console.log(isUnavailable(error), error.message);
        };
        main();`,
      );
      await write(`${project}/node_modules/nats/package.json`, { name: "nats", main: "index.js" });
      await write(`${project}/node_modules/nats/index.js`, 'throw new Error("no require here");');
      await cp(
        join(folder, "node_modules", "unibus-membership"),
        join(folder, project, "node_modules", "unibus-membership"),
        { recursive: true },
      );
      expect(await runNode([file], folder)).to.equal("true The NATS client cannot be loaded (no require here)");
    });
  }

  const resolutions = [
    { name: "NodeNext, as ESM", type: "module", module: "NodeNext", moduleResolution: "NodeNext" },
    { name: "NodeNext, as CommonJS", type: "commonjs", module: "NodeNext", moduleResolution: "NodeNext" },
    { name: "Bundler", type: "module", module: "ESNext", moduleResolution: "Bundler" },
  ].map((resolution, index) => ({ ...resolution, project: `ts-${index}` }));

  describe("compiled by strict TypeScript", () => {
    const clientProjects = ["clients-strict", "clients-exact"];
    /** What the compiler says, of all projects. */
    let diagnostics: string;

    /** One process for all: the compiler's start and the libraries that they share take most of the time. */
    before(async function () {
      this.timeout(120_000);
      for (const { project, type, module, moduleResolution } of resolutions) {
        await write(`${project}/package.json`, { type });
        await write(`${project}/main.ts`, TYPED);
        const compilerOptions = { ...STRICT, module, moduleResolution, outDir: "out", rootDir: "." };
        await write(`${project}/tsconfig.json`, { compilerOptions, files: ["main.ts"] });
      }
      const clients = {
        ...STRICT,
        // The clients' own types need Node's.
        types: ["node"],
        typeRoots: [join(root, "node_modules", "@types")],
        module: "NodeNext",
        noEmit: true,
      };
      // Nor do they hold under exactOptionalPropertyTypes: each strictness is asked for without the other.
      for (const [index, compilerOptions] of [
        { ...clients, exactOptionalPropertyTypes: false },
        { ...clients, skipLibCheck: true },
      ].entries()) {
        const project = clientProjects[index] ?? "";
        await mkdir(join(folder, project, "node_modules"), { recursive: true });
        await symlink(join(root, "node_modules", "@nats-io"), join(folder, project, "node_modules", "@nats-io"));
        await write(`${project}/package.json`, { type: "module" });
        await write(
          `${project}/main.ts`,
          `import type { NatsConnection as V3 } from "@nats-io/transport-node";
           import type { NatsConnection as V2 } from "nats";
           import { openJetStream, type NatsConnection, type Store } from "unibus-membership";

           export const takeV2 = (nc: V2): NatsConnection => nc;
           export const takeV3 = (nc: V3): NatsConnection => nc;
           export const open = (nc: V2 | V3): Promise<Store> => openJetStream(nc, 3);`,
        );
        await write(`${project}/tsconfig.json`, { compilerOptions, files: ["main.ts"] });
      }
      const tsc = join(root, "node_modules/typescript/bin/tsc");
      const projects = [...resolutions.map(({ project }) => project), ...clientProjects];
      const args = [tsc, "-b", "--verbose", ...projects];
      diagnostics = await run(process.execPath, args, { cwd: folder, timeout: 120_000 }).then(
        ({ stdout }) => stdout,
        (error: unknown) => (error as { stdout?: string }).stdout ?? String(error),
      );
    });

    /** Errors are told by file: one of the package's own is everybody's. */
    function compiles(project: string): void {
      expect(diagnostics).to.contain(`Building project '${join(folder, project, "tsconfig.json")}'`);
      const errors = diagnostics.split("\n").filter((line) => line.includes("error TS"));
      const others = [...resolutions.map(({ project }) => project), ...clientProjects].filter(
        (each) => each !== project,
      );
      expect(errors.filter((line) => !others.some((other) => line.startsWith(`${other}/`)))).to.deep.equal([]);
    }

    for (const { name, project } of resolutions) {
      it(`works (${name})`, async () => {
        compiles(project);
        expect(await runNode([join(folder, project, "out", "main.js")], folder)).to.equal("works");
      });
    }

    it("takes the connections of both NATS clients, by type", () => {
      for (const project of clientProjects) compiles(project);
    });
  });

  for (const [kind, load] of [
    ["ESM", (name: string): string => `await import(${JSON.stringify(name)})`],
    ["CommonJS", (name: string): string => `require(${JSON.stringify(name)})`],
  ] as const) {
    it(`does nothing when imported: no driver is loaded, nothing is left open (${kind})`, async () => {
      const program = `
        ${load("unibus-membership")};
        ${load("unibus-membership/testing")};
        const { _cache } = ${load("node:module")};
        const imported = performance.now();
        process.once("beforeExit", () => {
          console.log(JSON.stringify({ loaded: Object.keys(_cache), heldForMs: performance.now() - imported }));
        });`;
      const file = await write(`import/${kind}.${kind === "ESM" ? "mjs" : "cjs"}`, program);
      const answer = JSON.parse(await runNode([file], folder)) as { loaded: string[]; heldForMs: number };
      const others = answer.loaded.filter((path) => /node_modules.(?!unibus-membership)/.test(path));
      expect(others).to.deep.equal([]);
      // The shortest time that anything here waits for by default is two seconds; a busy machine takes some of that.
      expect(answer.heldForMs).to.be.lessThan(1_800);
    });
  }
});
