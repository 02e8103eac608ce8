// npm run spec: runs the named specs, or all: each file in a process of its own, several files at a time, since most of
// what the specs do is to wait for servers and disks. What a file prints is shown whole when it has ended. One file
// alone runs in this process, without the time that another one takes to start.

import { fork, type ChildProcess } from "node:child_process";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import type { Counts, FileReport } from "../spec/support/reporter.js";
import { buildIfNeeded, type Build } from "./build-if-needed.js";
import { temporaryFolderOf } from "./memory-folder.js";
import { options, runSpecFile, type SpecFileOptions } from "./spec-file.js";

const root = fileURLToPath(new URL("..", import.meta.url));

/** Files under way at a time: three for each of two processors, since half of them wait. */
const LANES = 6;

/** How long a file's process may go on after its last test. */
const EXIT_WITHIN_MS = 30_000;

/**
 * Those that take longest begin first, so that no lane is left over with one at the end. What counts is how long a file
 * takes when it runs beside others.
 */
const LONGEST_FIRST = [
  /conformance\/jetstream-r3/,
  /crash-points/,
  /conformance\/jetstream-r1/,
  /quorum/,
  /raisers/,
  /nats-server/,
  /jetstream\/soak/,
  /rollout/,
  /recovery/,
  /jetstream\/inspection/,
  /matrix/,
  /older-state/,
  /checkpoints/,
  /conformance\/sqlite/,
  /package/,
  /auth-callout/,
  /simulation\.spec/,
  /sqlite\/memory/,
  /buckets/,
  /readme/,
  /copy-faults/,
  /lock-lease/,
  /format/,
  /packed-rooms/,
  /versions/,
  /scale/,
  /copy/,
  /disk-errors/,
  /sqlite\/inspection/,
  /durability/,
  /transfer/,
  /migrate/,
  /stopped-runs/,
  /power-loss/,
  /exports/,
  /answers/,
  /restored/,
  /real-server/,
  /closed-store/,
  /many-users/,
  /shared-head/,
  /sqlite\/lock\.spec/,
  /authorization/,
  /stale-reads/,
];

/** These read the CommonJS build too. */
const BOTH_BUILDS = [/builds/, /errors/, /sqlite\/lock\.spec/, /soak/];
/**
 * These read the declaration files, the package as it is packed, or code that they look for as tree shaking leaves it.
 */
const WHOLE_BUILD = [/package/, /release/, /readme/, /matrix/, /simulation/];

/**
 * For the specs' nats-servers. Their heaps are small: at its default of 100, Go's collector takes a tenth of their
 * processor time. And there are more servers than processors: threads of one server that look for work take as much
 * again.
 */
const GO = { GOGC: process.env["GOGC"] ?? "400", GOMAXPROCS: process.env["GOMAXPROCS"] ?? "1" };

const DID_NOT_END = "Every test passed, but the process failed or did not end by itself.";

function allSpecs(): string[] {
  const rank = (path: string): number => {
    const found = LONGEST_FIRST.findIndex((pattern) => pattern.test(path));
    return found < 0 ? LONGEST_FIRST.length : found;
  };
  return readdirSync(join(root, "spec"), { recursive: true, encoding: "utf8" })
    .map((path) => join("spec", path).replaceAll("\\", "/"))
    .filter((path) => path.endsWith(".spec.ts"))
    .sort((a, b) => rank(a) - rank(b) || (a < b ? -1 : 1));
}

/** What the named specs read of the build. None named are all. */
function buildOf(named: readonly string[]): Build {
  const areSome = (patterns: readonly RegExp[]): boolean =>
    named.some((path) => patterns.some((pattern) => pattern.test(path)));
  if (named.length === 0 || areSome(WHOLE_BUILD)) return "whole";
  return areSome(BOTH_BUILDS) ? "both" : "code";
}

interface Totals extends Counts {
  readonly conformance: Map<string, Counts>;
  readonly failures: string[];
}

async function runFile(file: string, { test, bail }: SpecFileOptions, running: Set<ChildProcess>): Promise<FileReport> {
  const began = performance.now();
  const args = [file, ...(test === undefined ? [] : ["--test", test]), ...(bail ? ["--bail"] : [])];
  const temporary = temporaryFolderOf(file);
  const child = fork(join(root, "tools/spec-file.ts"), args, {
    cwd: root,
    env: { ...process.env, ...GO, ...(temporary === undefined ? {} : { TMPDIR: temporary }) },
    execArgv: ["--import", "tsx"],
    silent: true,
  });
  running.add(child);
  const output: Buffer[] = [];
  child.stdout?.on("data", (bytes: Buffer) => output.push(bytes));
  child.stderr?.on("data", (bytes: Buffer) => output.push(bytes));

  let report: FileReport | undefined;
  let overdue: NodeJS.Timeout | undefined;
  child.on("message", (message) => {
    report = message as FileReport;
    overdue = setTimeout(() => child.kill("SIGKILL"), EXIT_WITHIN_MS);
  });
  const code = await new Promise<number | null>((resolve) => {
    child.once("error", () => resolve(null));
    child.once("close", resolve);
  });
  clearTimeout(overdue);
  running.delete(child);

  process.stdout.write(`\n${file}\n${Buffer.concat(output).toString()}`);
  console.log(`${file} took ${((performance.now() - began) / 1000).toFixed(1)} s`);
  const found = report ?? { passed: 0, failed: 0, conformance: {}, failures: [] };
  if (found.failed > 0 || (code === 0 && found.passed > 0)) return found;
  return { ...found, failed: 1, failures: [found.passed === 0 ? "No test ran." : DID_NOT_END] };
}

/** Prints the closing line when the process ends, which is when nothing that the tests opened is open any more. */
async function runHere(file: string, options: SpecFileOptions): Promise<void> {
  let report: Counts = { passed: 0, failed: 0 };
  const temporary = temporaryFolderOf(file);
  if (temporary !== undefined) process.env["TMPDIR"] = temporary;
  Object.assign(process.env, GO);
  process.once("exit", (code) => {
    const { passed, failed } = report;
    const isLeft = failed === 0 && (code !== 0 || passed === 0);
    if (isLeft) console.log(`FAILED ${file}\n${passed === 0 ? "No test ran." : DID_NOT_END}\n`);
    const counts = { passed, failed: failed + Number(isLeft) };
    console.log(`${file} took ${process.uptime().toFixed(1)} s`);
    console.log(closingLine(counts));
    process.exitCode = counts.failed === 0 ? 0 : 1;
  });
  try {
    report = await runSpecFile(file, options);
  } catch (error) {
    // A file that cannot be loaded. The closing line still comes last.
    console.error(error);
  }
  // It keeps nothing alive, so it fires only where something else does.
  setTimeout(() => process.exit(1), EXIT_WITHIN_MS).unref();
}

function add(totals: Totals, file: string, report: FileReport): void {
  totals.passed += report.passed;
  totals.failed += report.failed;
  totals.failures.push(...report.failures.map((failure) => `${file}\n${failure}`));
  for (const [target, counts] of Object.entries(report.conformance)) totals.conformance.set(target, counts);
}

function printTable(conformance: ReadonlyMap<string, Counts>): void {
  if (conformance.size === 0) return;
  const width = Math.max(...[...conformance.keys()].map((target) => target.length));
  console.log(`\n${"Conformance".padEnd(width)}  passed  failed`);
  for (const [target, { passed, failed }] of [...conformance].sort(([a], [b]) => (a < b ? -1 : 1))) {
    console.log(`${target.padEnd(width)}  ${String(passed).padStart(6)}  ${String(failed).padStart(6)}`);
  }
  console.log();
}

/** Runs the files and prints everything but the closing line. */
export async function runSpecs(named: readonly string[], options: SpecFileOptions = { bail: false }): Promise<Counts> {
  const began = performance.now();
  const queue = named.length > 0 ? [...named] : allSpecs();
  const totals: Totals = { passed: 0, failed: 0, conformance: new Map(), failures: [] };
  const running = new Set<ChildProcess>();
  const stop = (signal: NodeJS.Signals): void => {
    queue.length = 0;
    for (const child of running) child.kill(signal);
  };
  process.once("SIGINT", stop).once("SIGTERM", stop);
  const lane = async (): Promise<void> => {
    for (let file = queue.shift(); file !== undefined; file = queue.shift())
      add(totals, file, await runFile(file, options, running));
  };
  await Promise.all(Array.from({ length: LANES }, lane));
  process.removeListener("SIGINT", stop).removeListener("SIGTERM", stop);
  printTable(totals.conformance);
  // Again, at the end: the output of a long run is read from there, and may be cut.
  for (const failure of totals.failures) console.log(`FAILED ${failure}\n`);
  console.log(`specs took ${((performance.now() - began) / 1000).toFixed(1)} s`);
  return totals;
}

/** The last line of every run, alone. */
export const closingLine = ({ passed, failed }: Counts): string => `${String(passed)} passed, ${String(failed)} failed`;

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({ allowPositionals: true, options });
  const [file, ...others] = positionals;
  if (!(await buildIfNeeded(buildOf(positionals)))) {
    process.exitCode = 1;
    return;
  }
  if (file !== undefined && others.length === 0) {
    await runHere(file, values);
    return;
  }
  const counts = await runSpecs(positionals, values);
  console.log(closingLine(counts));
  process.exitCode = counts.failed === 0 ? 0 : 1;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
