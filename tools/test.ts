// npm test: build, lint and types, then the specs against the built package. `npm test -- spec/some.spec.ts` runs some.
// Whatever happens, the last line is `N passed, N failed`, alone.

import { spawn } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const bin = (path: string): string => join(root, "node_modules", path);

const CLOSING_LINE = /^(\d+) passed, (\d+) failed$/;

/** How long the spec's process may go on after its last test. */
const EXIT_WITHIN_MS = 30_000;

async function step(name: string, script: string, args: string[]): Promise<boolean> {
  const began = performance.now();
  const output: Buffer[] = [];
  const child = spawn(process.execPath, [script, ...args], { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
  // Steps run side by side: each one's output is shown whole, and only when it failed.
  child.stdout.on("data", (bytes: Buffer) => output.push(bytes));
  child.stderr.on("data", (bytes: Buffer) => output.push(bytes));
  const code = await ended(child);
  if (code !== 0) process.stdout.write(Buffer.concat(output));
  console.log(`${name} ${code === 0 ? "took" : "FAILED after"} ${((performance.now() - began) / 1000).toFixed(1)} s`);
  return code === 0;
}

async function ended(child: ReturnType<typeof spawn>): Promise<number> {
  return await new Promise((resolve) => {
    child.once("error", (error) => {
      console.error(error.message);
      resolve(1);
    });
    child.once("close", (code) => resolve(code ?? 1));
  });
}

async function specs(args: string[]): Promise<string> {
  const child = spawn(process.execPath, ["--import", "tsx", join(root, "tools/specs.ts"), ...args], {
    cwd: root,
    stdio: ["ignore", "pipe", "inherit"],
  });

  const closings: (RegExpExecArray | null)[] = [];
  let overdue: NodeJS.Timeout | undefined;
  createInterface(child.stdout).on("line", (line) => {
    const closing = CLOSING_LINE.exec(line);
    closings.push(closing);
    if (closing === null) console.log(line);
    else overdue ??= setTimeout(() => child.kill("SIGKILL"), EXIT_WITHIN_MS);
  });
  const code = await ended(child);
  clearTimeout(overdue);

  const [line, passed = "0", failed = "0"] = closings.at(-1) ?? [];
  if (line === undefined) return "0 passed, 1 failed";
  if (failed !== "0" || (code === 0 && passed !== "0")) return line;
  console.log(passed === "0" ? "No test ran." : "Every test passed, but the specs' process failed or did not end by itself.");
  return `${passed} passed, 1 failed`;
}

async function main(): Promise<string> {
  if (!(await step("build", bin("tsup/dist/cli-default.js"), []))) return "0 passed, 1 failed";
  const checks = await Promise.all([
    step("types", bin("typescript/bin/tsc"), ["--noEmit"]),
    step("lint", bin("eslint/bin/eslint.js"), ["--max-warnings", "0", "."]),
  ]);
  if (!checks.every((ok) => ok)) return "0 passed, 1 failed";
  return await specs(process.argv.slice(2));
}

const began = performance.now();
const line = await main();
console.log(`npm test took ${((performance.now() - began) / 1000).toFixed(1)} s`);
console.log(line);
process.exitCode = CLOSING_LINE.exec(line)?.[2] === "0" ? 0 : 1;
