import { expect } from "chai";
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { startNatsCluster } from "unibus-membership/testing";
import * as library from "unibus-membership";

const run = promisify(execFile);
const root = fileURLToPath(new URL("..", import.meta.url));

describe("README.md", function () {
  this.timeout(120_000);
  let readme: string;
  let folder: string;
  before(async () => {
    readme = await readFile(join(root, "README.md"), "utf8");
    folder = await mkdtemp(join(tmpdir(), "unibus-readme-"));
    // The snippets import the package by its name, as its users do.
    await symlink(join(root, "node_modules"), join(folder, "node_modules"));
    const { exports, name, type } = JSON.parse(await readFile(join(root, "package.json"), "utf8")) as Record<string, unknown>;
    await writeFile(join(folder, "package.json"), JSON.stringify({ name, type, exports }));
    await symlink(join(root, "dist"), join(folder, "dist"));
  });
  after(() => rm(folder, { recursive: true }));

  function snippet(label: string): string {
    const [, code] = new RegExp(`\`\`\`ts ${label}\n([^]*?)\`\`\``).exec(readme) ?? [];
    if (code === undefined) throw new Error(`README.md has no snippet ${label}`);
    return code;
  }

  /** Compiled with the strictest settings, then run as what the compiler made of it. */
  async function compileAndRun(label: string, env: NodeJS.ProcessEnv): Promise<string> {
    const file = join(folder, `${label}.ts`);
    await writeFile(file, snippet(label));
    const tsconfig = join(folder, `tsconfig.${label}.json`);
    await writeFile(tsconfig, JSON.stringify({
      compilerOptions: {
        target: "ES2022", lib: ["ES2022", "ESNext.Disposable", "DOM"], module: "NodeNext", strict: true, exactOptionalPropertyTypes: true,
        noPropertyAccessFromIndexSignature: true, outDir: join(folder, "out"), rootDir: folder, skipLibCheck: true, types: ["node"],
        typeRoots: [join(root, "node_modules/@types")], preserveSymlinks: true,
      },
      files: [file],
    }));
    await run(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), "-p", tsconfig], { cwd: folder }).catch((error: unknown) => {
      throw new Error(`the snippet ${label} does not compile:\n${(error as { stdout?: string }).stdout ?? ""}`, { cause: error });
    });
    const { stdout } = await run(process.execPath, [join(folder, "out", `${label}.js`)], {
      cwd: folder, timeout: 30_000, env: { ...process.env, ...env },
    });
    return stdout.trim();
  }

  it("has a quick start for SQLite that compiles and runs", async () => {
    expect(await compileAndRun("sqlite", {})).to.equal("false revoked");
  });

  it("has a quick start for JetStream that compiles and runs", async () => {
    await using cluster = await startNatsCluster();
    expect(await compileAndRun("jetstream", { NATS_URL: cluster.urls.join(",") })).to.equal("true\ntrue\nfalse");
  });

  it("keeps its quick starts at about twenty lines", () => {
    for (const label of ["sqlite", "jetstream"]) expect(snippet(label).trim().split("\n").length).to.be.at.most(22);
  });

  it("has exactly two commands for a fresh machine", () => {
    const commands = [...readme.matchAll(/```sh\n([^]*?)```/g)].map(([, command]) => command?.trim());
    expect(commands).to.deep.equal(["npm ci && npm run example", "npm ci && npm test"]);
  });

  it("tells of every error code, and of no other", async () => {
    const table = [...readme.matchAll(/^\| `([A-Z_]+)` \|/gm)].map(([, code]) => code);
    const source = await readFile(join(root, "lib/errors.ts"), "utf8");
    const codes = [...(/type StoreErrorCode =([^;]*);/.exec(source)?.[1] ?? "").matchAll(/"([A-Z_]+)"/g)].map(([, code]) => code);
    expect(codes.length).to.be.greaterThan(5);
    expect(table).to.have.members(codes);
  });

  it("names nothing that the package does not have", () => {
    const named = [...readme.matchAll(/import \{([^}]*)\} from "unibus-membership"/g)].flatMap(([, names]) => names?.split(",") ?? []);
    for (const name of named) expect(library).to.have.property(name.trim());
    expect(named.length).to.be.greaterThan(0);
  });

  it("links to files that are there", async () => {
    for (const [, path] of readme.matchAll(/\]\((?!http)([^)#]+)\)/g)) await readFile(join(root, path ?? ""), "utf8");
  });
});
