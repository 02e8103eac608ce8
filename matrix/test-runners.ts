/** The tests of docs/testing.md, each by its own runner, in a folder that has nothing but the packed library. */
import { copyFile, symlink } from "node:fs/promises";
import { join } from "node:path";
import type { Cell } from "./cells.js";
import { folderOf, absent } from "./installed.js";
import { onThisNode, root, run, type Sandbox } from "./sandbox.js";

interface TestRunner {
  readonly name: string;
  /** What has to be installed, and the program of it. Node has its own. */
  readonly package?: string;
  readonly script?: string;
  readonly args: readonly string[];
  /** The app, and the tests of it. */
  readonly app: string;
  readonly tests: string;
  passed(output: string): number;
}

const json = (output: string): unknown => JSON.parse(output);

const testRunners: readonly TestRunner[] = [
  {
    name: "node:test",
    args: ["--test", "--test-reporter=tap"],
    app: "door.mjs",
    tests: "node.test.mjs",
    passed: (output) => Number(/^# pass (\d+)$/m.exec(output)?.[1]),
  },
  {
    name: "Mocha",
    package: "mocha",
    script: "bin/mocha.js",
    args: ["--reporter", "json"],
    app: "door.mjs",
    tests: "mocha.test.mjs",
    passed: (output) => (json(output) as { stats: { passes: number } }).stats.passes,
  },
  {
    name: "Vitest",
    package: "vitest",
    script: "vitest.mjs",
    args: ["run", "--reporter=tap-flat"],
    app: "door.mjs",
    tests: "vitest.test.mjs",
    passed: (output) => output.match(/^ok /gm)?.length ?? 0,
  },
  {
    name: "Jest",
    package: "jest",
    script: "bin/jest.js",
    args: ["--json"],
    app: "door.cjs",
    tests: "jest.test.cjs",
    passed: (output) => (json(output) as { numPassedTests: number }).numPassedTests,
  },
];

/** How many tests each of the files has. */
const TESTS = 3;

async function tried(sandbox: Sandbox, runner: TestRunner): Promise<string | true> {
  const folder = await sandbox.app();
  await sandbox.installByNpm(folder);
  for (const file of [runner.app, runner.tests]) await copyFile(join(root, "matrix/runners", file), join(folder, file));
  const args = [...runner.args, runner.tests];
  if (runner.package !== undefined) {
    const installed = folderOf(runner.package) ?? "";
    // The tests import it.
    await symlink(installed, join(folder, "node_modules", runner.package));
    args.unshift(join(installed, runner.script ?? ""));
  }
  const passed = runner.passed(await run(onThisNode, args, folder));
  return passed === TESTS ? true : `${String(passed)} of ${String(TESTS)} tests passed`;
}

export function testRunnerCells(): Cell[] {
  return testRunners.map((runner) => {
    const needed = runner.package;
    return {
      name: `tests by ${runner.name}`,
      ...(needed !== undefined && folderOf(needed) === undefined ? { missing: absent(needed) } : {}),
      run: async (sandbox) => ({ memory: await tried(sandbox, runner) }),
    };
  });
}
