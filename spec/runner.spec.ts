import { expect } from "chai";
import { execFile } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));

const passes = 'it("passes", () => undefined);';
const fails = 'it("fails", () => { throw new Error("as it should"); });';
const rejectsUnheard =
  'it("goes on", async () => { void Promise.reject(new Error()); await new Promise(setImmediate); });';
/** Like a timer or a socket that a test forgot, but one that ends at once. */
const failsAtTheEnd = "after(() => void setTimeout(() => process.exit(3), 50));";

describe("npm run spec", () => {
  let folder: string;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "unibus-runner-"));
  });
  after(() => rm(folder, { recursive: true }));

  const cases = [
    ["counts what passed and what failed", passes + fails, [], 1, "1 passed, 1 failed"],
    ["takes a file without a test for a failure", "", [], 1, "0 passed, 1 failed"],
    ["takes a process that fails after its tests for a failure", passes + failsAtTheEnd, [], 1, "1 passed, 1 failed"],
    ["takes a rejection that nobody hears for a failure", rejectsUnheard, [], 1, "1 passed, 1 failed"],
    ["runs the tests that are named", passes + fails, ["--test", "passes"], 0, "1 passed, 0 failed"],
  ] as const;

  async function written(title: string, text: string): Promise<string> {
    const file = join(folder, `${title.replaceAll(/\W/g, "-")}.spec.mjs`);
    await writeFile(file, text);
    return file;
  }

  for (const [title, text, args, code, line] of cases) {
    it(title, async () => {
      expect(await run(await written(title, text), ...args)).to.deep.equal({ code, line });
    });
  }

  it("adds up several files, each in a process of its own", async () => {
    const files = await Promise.all(cases.map(([title, text]) => written(title, text)));
    expect(await run(...files)).to.deep.equal({ code: 1, line: "4 passed, 5 failed" });
  });
});

/** The exit code and the last line. */
function run(...args: string[]): Promise<{ code: number; line: string | undefined }> {
  return new Promise((resolve) => {
    const child = execFile(
      process.execPath,
      ["--import", "tsx", join(root, "tools/specs.ts"), ...args],
      { cwd: root },
      (_, stdout) => resolve({ code: child.exitCode ?? -1, line: stdout.trimEnd().split("\n").at(-1) }),
    );
  });
}
