// npm test: build, lint and types, then the specs against the built package. `npm test -- spec/some.spec.ts` runs some.
// Whatever happens, the last line is `N passed, N failed`, alone.

import { spawn } from "node:child_process";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Counts } from "../spec/support/reporter.js";
import { closingLine, runSpecs } from "./specs.js";

const root = fileURLToPath(new URL("..", import.meta.url));
const bin = (path: string): string => join(root, "node_modules", path);

async function step(name: string, ...args: string[]): Promise<boolean> {
  const began = performance.now();
  const output: Buffer[] = [];
  const child = spawn(process.execPath, args, { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
  // Steps run side by side: each one's output is shown whole, and only when it failed.
  child.stdout.on("data", (bytes: Buffer) => output.push(bytes));
  child.stderr.on("data", (bytes: Buffer) => output.push(bytes));
  const code = await new Promise<number | null>((resolve) => {
    child.once("error", (error) => {
      console.error(error.message);
      resolve(1);
    });
    child.once("close", resolve);
  });
  if (code !== 0) process.stdout.write(Buffer.concat(output));
  console.log(`${name} ${code === 0 ? "took" : "FAILED after"} ${((performance.now() - began) / 1000).toFixed(1)} s`);
  return code === 0;
}

async function main(): Promise<Counts> {
  // It needs no build.
  const format = step("format", bin("prettier/bin/prettier.cjs"), "--check", "--log-level", "warn", ".");
  if (!(await step("build", bin("tsup/dist/cli-default.js"))))
    return { passed: 0, failed: 1 + Number(!(await format)) };
  // Beside the specs, which wait a lot. One that fails counts as one more test.
  const checks = [format, step("types and lint", "--import", "tsx", join(root, "tools/types-and-lint.ts"))];
  const counts = await runSpecs(process.argv.slice(2));
  for (const ok of await Promise.all(checks)) if (!ok) counts.failed++;
  return counts;
}

const began = performance.now();
const counts = await main();
console.log(`npm test took ${((performance.now() - began) / 1000).toFixed(1)} s`);
console.log(closingLine(counts));
process.exitCode = counts.failed === 0 ? 0 : 1;
