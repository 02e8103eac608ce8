// A copy of the project in a temporary folder, with the package built for it. The copy shares `node_modules`.

import { execFileSync, fork, spawn, type ChildProcess } from "node:child_process";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { FileReport } from "../../spec/support/reporter.js";
import type { Killer, Mutant, SimulationKiller } from "./mutant.js";
import { placesOf } from "./place.js";

/** A run that takes longer has hung. */
const LIMIT_MS = 600_000;
/**
 * How long a process may go on after its last test, and after one that failed: what that leaves open is of no interest.
 */
const EXIT_WITHIN_MS = 15_000;
const EXIT_RED_WITHIN_MS = 1000;

export interface Run {
  /** `broken`: nothing was tested, so that it says nothing. */
  readonly end: "green" | "red" | "broken";
  /** What was red, or why nothing ran. */
  readonly why: string;
}

export class Sandbox {
  readonly folder: string;
  readonly #running = new Set<ChildProcess>();
  /** What was changed, as it was. */
  #original: { readonly path: string; readonly text: string } | undefined;

  constructor() {
    this.folder = mkdtempSync(join(tmpdir(), "unibus-mutant-"));
  }

  /** Brings the project here as it is now: what is committed, and what is not yet. */
  fill(root: string): void {
    const listed = execFileSync("git", ["ls-files", "-z", "--cached", "--others", "--exclude-standard"], {
      cwd: root,
      encoding: "utf8",
    });
    for (const path of new Set(listed.split("\0"))) {
      // Of a repository inside this one git names the folder alone.
      if (path === "" || path.endsWith("/") || !existsSync(join(root, path))) continue;
      mkdirSync(dirname(join(this.folder, path)), { recursive: true });
      copyFileSync(join(root, path), join(this.folder, path));
    }
    symlinkSync(join(root, "node_modules"), join(this.folder, "node_modules"), "junction");
  }

  /** Changes the one place. Answers in how many places the text is: if not in one, nothing is changed. */
  apply({ file, find, replace }: Mutant): number {
    const path = join(this.folder, file);
    const text = existsSync(path) ? readFileSync(path, "utf8") : "";
    const found = placesOf(find, text);
    const [only] = found;
    if (only !== undefined && found.length === 1) {
      this.#original = { path, text };
      writeFileSync(path, text.slice(0, only.index) + replace + text.slice(only.index + only[0].length));
    }
    return found.length;
  }

  restore(): void {
    if (this.#original !== undefined) writeFileSync(this.#original.path, this.#original.text);
    this.#original = undefined;
  }

  /** Builds the code alone: declaration files take most of a build, and no mutant is in them. */
  async build(): Promise<Run> {
    const script = join(this.folder, "node_modules/tsup/dist/cli-default.js");
    const build = await this.#end(
      spawn(process.execPath, [script, "--no-dts", "--silent"], { cwd: this.folder, stdio: "pipe" }),
    );
    if (build.code !== 0) return { end: "broken", why: `it cannot be built: ${lastLines(build.output)}` };
    // For commands that build what is older than its sources.
    for (const name of ["index.d.ts", "index.d.cts", "testing.d.ts", "testing.d.cts"])
      writeFileSync(join(this.folder, "dist", name), "export {};\n");
    return { end: "green", why: "" };
  }

  /** Runs the simulation several times in one process, each from other seeds. Answers how often it found something. */
  async simulate(killer: SimulationKiller, runs: number): Promise<Run & { readonly red: number }> {
    const { seconds } = killer;
    const only = onlyOf(killer);
    const args = ["run", "--silent", "simulate", "--", "--seconds", String(seconds), "--runs", String(runs), ...only];
    const { output } = await this.#end(
      spawn("npm", args, { cwd: this.folder, stdio: "pipe" }),
      LIMIT_MS + 2000 * seconds * runs,
    );
    const [said, red] = /found in (\d+) of \d+ runs.*/.exec(output) ?? [];
    if (said === undefined) return { end: "broken", why: lastLines(output), red: 0 };
    return { end: Number(red) === runs ? "red" : "green", why: said, red: Number(red) };
  }

  run(killer: Killer): Promise<Run> {
    switch (killer.kind) {
      case "spec":
        return this.#spec(killer.file, killer.test);
      case "simulation":
        return this.#simulate(["--seconds", String(killer.seconds), "--shrink", "0", ...onlyOf(killer)]);
    }
  }

  async #spec(file: string, test: string | undefined): Promise<Run> {
    const args = [file, "--bail", ...(test === undefined ? [] : ["--test", test])];
    const child = fork(join(this.folder, "tools/spec-file.ts"), args, {
      cwd: this.folder,
      execArgv: ["--import", "tsx"],
      silent: true,
    });
    let report: FileReport | undefined;
    let overdue: NodeJS.Timeout | undefined;
    child.on("message", (message) => {
      report = message as FileReport;
      overdue = setTimeout(() => child.kill("SIGKILL"), report.failed > 0 ? EXIT_RED_WITHIN_MS : EXIT_WITHIN_MS);
    });
    const { code, hung, output } = await this.#end(child);
    clearTimeout(overdue);
    if (hung) return { end: "red", why: "it hung" };
    if (report === undefined || report.passed + report.failed === 0)
      return { end: "broken", why: `no test ran: ${lastLines(output)}` };
    if (report.failed > 0) return { end: "red", why: report.failures[0] ?? "" };
    return code === 0
      ? { end: "green", why: "" }
      : { end: "red", why: "every test passed, but the process failed or did not end by itself" };
  }

  async #simulate(args: readonly string[]): Promise<Run> {
    const { code, output } = await this.#end(
      spawn("npm", ["run", "--silent", "simulate", "--", ...args], { cwd: this.folder, stdio: "pipe" }),
    );
    if (code === 0) return { end: "green", why: "" };
    return code === 1
      ? { end: "red", why: lastLines(output) }
      : { end: "broken", why: `exit code ${String(code)}: ${lastLines(output)}` };
  }

  async #end(child: ChildProcess, limitMs = LIMIT_MS): Promise<{ code: number | null; hung: boolean; output: string }> {
    this.#running.add(child);
    const output: Buffer[] = [];
    child.stdout?.on("data", (bytes: Buffer) => output.push(bytes));
    child.stderr?.on("data", (bytes: Buffer) => output.push(bytes));
    let hung = false;
    const limit = setTimeout(() => {
      hung = true;
      child.kill("SIGKILL");
    }, limitMs);
    const code = await new Promise<number | null>((resolve) => {
      child.once("error", (error) => {
        output.push(Buffer.from(error.message));
        resolve(null);
      });
      child.once("close", resolve);
    });
    clearTimeout(limit);
    this.#running.delete(child);
    return { code, hung, output: Buffer.concat(output).toString() };
  }

  dispose(): void {
    for (const child of this.#running) child.kill("SIGTERM");
    rmSync(this.folder, { recursive: true, force: true });
  }
}

function lastLines(output: string): string {
  return output.trim().split("\n").slice(-8).join("\n");
}

/** Which schedules, and who else is there. */
function onlyOf({ with: fault, watch, sessions, migrate }: SimulationKiller): string[] {
  return [
    ...(fault === undefined ? [] : ["--with", fault]),
    ...(watch === true ? ["--watch"] : []),
    ...(sessions === true ? ["--sessions"] : []),
    ...(migrate === true ? ["--migrate"] : []),
  ];
}
