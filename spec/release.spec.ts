/** What a release needs, and what it must not have. */
import { expect } from "chai";
import { execFile } from "node:child_process";
import { readFile, readdir } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { LIMITS, sizes } from "../tools/size.js";

const run = promisify(execFile);
const root = fileURLToPath(new URL("..", import.meta.url));
const workflow = (name: string): Promise<string> => readFile(join(root, ".github/workflows", name), "utf8");

interface Manifest {
  readonly version: string;
  readonly engines: { readonly node: string };
  readonly scripts: Readonly<Record<string, string>>;
}

describe("a release", function () {
  this.timeout(60_000);

  it("is no larger than it may be, packed and installed", async () => {
    const { packed, installed } = await sizes();
    expect(packed).to.be.within(LIMITS.packed / 2, LIMITS.packed);
    expect(installed).to.be.within(LIMITS.installed / 2, LIMITS.installed);
    const readme = await readFile(join(root, "README.md"), "utf8");
    const [, told] = /What is installed is (\d\.\d) MB/.exec(readme) ?? [];
    expect(Number(told)).to.be.closeTo(installed / 1e6, 0.06);
  });

  it("is told of in the changelog, with its day", async () => {
    const { version } = JSON.parse(await readFile(join(root, "package.json"), "utf8")) as Manifest;
    const changelog = await readFile(join(root, "CHANGELOG.md"), "utf8");
    expect(changelog).to.match(new RegExp(`^## \\[${version.replaceAll(".", "\\.")}\\] - \\d{4}-\\d{2}-\\d{2}$`, "m"));
  });

  it("is published by a workflow that has no token, with provenance, after the tests", async () => {
    const release = await workflow("release.yml");
    expect(release).to.match(/publish:\n {4}needs: test\n/);
    expect(release).to.contain("id-token: write").and.to.contain("npm publish --provenance");
    for (const name of await readdir(join(root, ".github/workflows"))) {
      const text = await workflow(name);
      expect(text, name).not.to.match(/secrets\.|_TOKEN|_authToken/);
      expect(text, name).to.match(/^permissions:\n {2}contents: read\n/m);
    }
  });

  it("is tested on the oldest Node that package.json takes, and by commands that are there", async () => {
    const { engines, scripts } = JSON.parse(await readFile(join(root, "package.json"), "utf8")) as Manifest;
    const test = await workflow("test.yml");
    for (const [oldest = ""] of engines.node.matchAll(/\d+\.\d+\.\d+/g)) expect(test).to.contain(`"${oldest}"`);
    const all = `${test}${await workflow("release.yml")}`;
    const named = [...all.matchAll(/npm run ([\w:-]+)/g)].map(([, name = ""]) => name);
    expect(named).to.include.members(["docs:check", "size", "matrix", "example"]);
    expect(named.filter((name) => scripts[name] === undefined)).to.deep.equal([]);
  });

  it("is refused while the repository's owner is not filled in, but for a trial", async () => {
    const guard = (env: NodeJS.ProcessEnv): Promise<unknown> =>
      run(process.execPath, ["--import", "tsx", join(root, "tools/publishable.ts")], {
        env: { ...process.env, ...env },
      });
    const isFilledIn = !(await readFile(join(root, "package.json"), "utf8")).includes("FILL-IN-THE-OWNER");
    const refused = (await guard({ npm_config_dry_run: "" }).catch((error: unknown) => error)) as { code?: number };
    expect(refused.code ?? 0).to.equal(isFilledIn ? 0 : 1);
    await guard({ npm_config_dry_run: "true" });
  });
});
