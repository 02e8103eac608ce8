import { expect } from "chai";
import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readFile, realpath, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { startNatsCluster, startNatsServer } from "unibus-membership/testing";
import * as library from "unibus-membership";

const run = promisify(execFile);
const root = fileURLToPath(new URL("..", import.meta.url));

const SQLITE_SAYS = "true true\nfalse revoked";
const JETSTREAM_SAYS = "true\ntrue\nfalse";
const ADDRESS = "127.0.0.1:4222";

/** As a newcomer would turn it into CommonJS. */
const asCommonJs = (code: string): string =>
  code.replaceAll(/^import (\{.*\}) from (".*");/gm, "const $1 = require($2);");

const KINDS = ["ES module", "CommonJS", "TypeScript"] as const;
type Kind = (typeof KINDS)[number];

describe("README.md", function () {
  this.timeout(120_000);
  let readme: string;
  let folder: string;
  let projects = 0;

  before(async () => {
    readme = await readFile(join(root, "README.md"), "utf8");
    folder = await realpath(await mkdtemp(join(tmpdir(), "unibus-readme-")));
    // Without scripts: what was built is what the other specs run, and it must not change under them.
    const packed = await run("npm", ["pack", "--ignore-scripts", "--json", "--pack-destination", folder], {
      cwd: root,
    });
    const [{ filename }] = JSON.parse(packed.stdout) as [{ filename: string }];
    await writeFile(join(folder, "package.json"), JSON.stringify({ name: "newcomer", private: true }));
    const quiet = ["--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"];
    await run("npm", ["install", join(folder, filename), ...quiet], { cwd: folder });
    await symlink(join(root, "node_modules", "@nats-io"), join(folder, "node_modules", "@nats-io"));
  });
  after(() => rm(folder, { recursive: true }));

  function block(label: string): string {
    const [, code] = new RegExp(`\`\`\`js ${label}\n([^]*?)\`\`\``).exec(readme) ?? [];
    if (code === undefined) throw new Error(`README.md has no block ${label}`);
    return code;
  }

  async function node(file: string, cwd: string): Promise<string> {
    const { stdout, stderr } = await run(process.execPath, [file], { cwd, timeout: 30_000 });
    expect(stderr).to.equal("");
    return stdout.trim();
  }

  /** Makes a project of its own of the code, and resolves to how to run it, and again. */
  async function project(kind: Kind, code: string): Promise<() => Promise<string>> {
    const home = join(folder, `project-${++projects}`);
    await mkdir(home);
    switch (kind) {
      case "ES module":
        await writeFile(join(home, "first.mjs"), code);
        return () => node("first.mjs", home);
      case "CommonJS":
        await writeFile(join(home, "first.cjs"), asCommonJs(code));
        return () => node("first.cjs", home);
      case "TypeScript": {
        await writeFile(join(home, "first.mts"), code);
        const tsc = join(root, "node_modules/typescript/bin/tsc");
        await run(process.execPath, [tsc, "--init"], { cwd: home });
        await run(process.execPath, [tsc], { cwd: home }).catch((error: unknown) => {
          throw new Error(`it does not compile:\n${(error as { stdout?: string }).stdout ?? ""}`, { cause: error });
        });
        return () => node("first.mjs", home);
      }
    }
  }

  for (const kind of KINDS) {
    it(`has a quick start for SQLite that runs as it is, again and again (${kind})`, async () => {
      const start = await project(kind, block("sqlite"));
      for (let i = 0; i < 3; i++) expect(await start()).to.equal(SQLITE_SAYS);
    });

    it(`has a quick start for JetStream that runs as it is, again and again (${kind})`, async () => {
      await using server = await startNatsServer();
      const start = await project(kind, at(server.url));
      for (let i = 0; i < 3; i++) expect(await start()).to.equal(JETSTREAM_SAYS);
    });
  }

  /** Another address is all that is changed: the one that it names may be somebody's. */
  function at(url: string): string {
    const code = block("jetstream");
    expect(code.split(ADDRESS)).to.have.length(2);
    return code.replace(ADDRESS, url);
  }

  it("has a quick start for JetStream that runs on a cluster, and with the other client, as it says", async () => {
    await using cluster = await startNatsCluster();
    const code = at(cluster.node(0).url).replace("openJetStream(nc)", "openJetStream(nc, 3)");
    expect(code).to.contain("openJetStream(nc, 3);");
    const other = code.replace('from "nats"', 'from "@nats-io/transport-node"');
    expect(other).not.to.equal(code);
    for (const each of [code, other]) {
      const start = await project("ES module", each);
      for (let i = 0; i < 2; i++) expect(await start()).to.equal(JETSTREAM_SAYS);
    }
  });

  it("shows the first line of CommonJS as it is", () => {
    const [first = ""] = asCommonJs(block("sqlite")).split("\n");
    expect(block("cjs")).to.equal(`${first}\n`);
  });

  it("has a config that opens a store", async () => {
    const code = `${block("config")}\nconsole.log(store.backend);\nawait store.close();`;
    const start = await project("ES module", code);
    for (let i = 0; i < 2; i++) expect(await start()).to.equal("sqlite");
  });

  it("has no block that is not run", () => {
    const labels = [...readme.matchAll(/^```([a-z].*)$/gm)].map(([, label]) => label);
    // The banner is the matrix's: there it is put on bundles.
    expect(labels).to.deep.equal(["sh", "js sqlite", "js cjs", "js jetstream", "js config", "js banner", "sh", "sh"]);
  });

  it("keeps its quick starts short", () => {
    for (const label of ["sqlite", "jetstream"]) expect(block(label).trim().split("\n").length).to.be.at.most(30);
  });

  it("has one command to install, and exactly two for a fresh clone", () => {
    const commands = [...readme.matchAll(/```sh\n([^]*?)```/g)].map(([, command]) => command?.trim());
    expect(commands).to.deep.equal([
      "npm install unibus-membership",
      "npm ci && npm run example",
      "npm ci && npm test",
    ]);
  });

  it("tells of every error code, and of no other", async () => {
    const table = [...readme.matchAll(/^\| `([A-Z_]+)` \|/gm)].map(([, code]) => code);
    const source = await readFile(join(root, "lib/errors.ts"), "utf8");
    const codes = [...(/type StoreErrorCode =([^;]*);/.exec(source)?.[1] ?? "").matchAll(/"([A-Z_]+)"/g)].map(
      ([, code]) => code,
    );
    expect(codes.length).to.be.greaterThan(5);
    expect(table).to.have.members(codes);
  });

  it("names nothing that the package does not have", () => {
    const named = [...readme.matchAll(/import \{([^}]*)\} from "unibus-membership"/g)].flatMap(
      ([, names]) => names?.split(",") ?? [],
    );
    for (const name of named) expect(library).to.have.property(name.trim());
    expect(named.length).to.be.greaterThan(0);
  });

  it("links to what is there, by whole addresses: where the package is shown there is no repository around it", async () => {
    const { repository } = JSON.parse(await readFile(join(root, "package.json"), "utf8")) as {
      repository: { url: string };
    };
    const inRepository = repository.url.replace(/^git\+/, "").replace(/\.git$/, "/blob/main/");
    expect(readme).not.to.match(/\]\((?!https:)/);
    const links = new Map(
      [...readme.matchAll(/^\[([a-z]+)\]: (\S+)$/gm)].map(([, name = "", url = ""]) => [name, url]),
    );
    expect(links.size).to.be.greaterThan(0);
    const used = new Set([...readme.matchAll(/\]\[([a-z]+)\]/g)].map(([, name]) => name));
    expect([...used].sort()).to.deep.equal([...links.keys()].sort());
    for (const url of links.values()) {
      expect(url.startsWith(inRepository), url).to.equal(true);
      const [path = ""] = url.slice(inRepository.length).split("#");
      await readFile(join(root, path), "utf8");
    }
  });
});
