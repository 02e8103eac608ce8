// npm run mutants: applies each of a list of one-line changes to a copy of the project, and expects that what is named
// with it goes red. `npm run mutants -- sqlite/ barrier --runs 10 --jobs 3`: those whose name, file or killer contains
// a word.

import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { mutants } from "./all.js";
import type { Killer, Mutant } from "./mutant.js";
import { Sandbox, type Run } from "./sandbox.js";

const root = fileURLToPath(new URL("../..", import.meta.url));

interface Result {
  readonly mutant: Mutant;
  readonly end: "killed" | "SURVIVED" | "BROKEN" | "DOES NOT APPLY";
  readonly runs: number;
  readonly red: number;
  readonly seconds: number;
  readonly why: string;
}

function text(killer: Killer): string {
  switch (killer.kind) {
    case "spec":
      return killer.test === undefined ? killer.file : `${killer.file}: ${killer.test}`;
    case "simulation":
      return `simulation of ${String(killer.seconds)} s${killer.with === undefined ? "" : ` with ${killer.with}`}${killer.watch === true ? ", watched" : ""}${killer.sessions === true ? ", with sessions" : ""}${killer.migrate === true ? ", moved" : ""}`;
  }
}

function whole(value: string, name: string): number {
  const number = Number(value);
  if (!Number.isInteger(number) || number < 1) throw new Error(`--${name}: a whole number from 1 on is needed`);
  return number;
}

const seconds = (since: number): number => (performance.now() - since) / 1000;
const indented = (lines: string): string =>
  lines
    .split("\n")
    .slice(0, 4)
    .map((line) => `    ${line}`)
    .join("\n");

/** Takes the items one by one, a few at a time, each lane with a copy of its own. */
async function inLanes<T>(
  sandboxes: readonly Sandbox[],
  items: readonly T[],
  work: (item: T, sandbox: Sandbox) => Promise<void>,
): Promise<void> {
  const waiting = items.values();
  await Promise.all(
    sandboxes.map(async (sandbox) => {
      for (const item of waiting) await work(item, sandbox);
    }),
  );
}

/** What is to notice a change must be green without it. Answers whether all are. */
async function unchanged(sandboxes: readonly Sandbox[], killers: readonly Killer[]): Promise<boolean> {
  let ok = true;
  for (const { end, why } of await Promise.all(sandboxes.map((sandbox) => sandbox.build()))) {
    if (end === "green") continue;
    console.log(why);
    return false;
  }
  await inLanes(sandboxes, killers, async (killer, sandbox) => {
    const began = performance.now();
    const { end, why } = await sandbox.run(killer);
    console.log(`${end.padEnd(6)}  unchanged  ${text(killer)}  ${seconds(began).toFixed(1)} s`);
    if (end === "green") return;
    ok = false;
    console.log(indented(why));
  });
  return ok;
}

async function tried(mutant: Mutant, sandbox: Sandbox, runs: number): Promise<Result> {
  const began = performance.now();
  const result = (end: Result["end"], done: number, red: number, why: string): Result => ({
    mutant,
    end,
    runs: done,
    red,
    seconds: seconds(began),
    why,
  });
  const found = sandbox.apply(mutant);
  if (found !== 1) return result("DOES NOT APPLY", 0, 0, `its text is ${String(found)} times in ${mutant.file}`);
  try {
    const build = await sandbox.build();
    if (build.end !== "green") return result("BROKEN", 0, 0, build.why);
    let red = 0;
    let last: Run = build;
    const wanted = mutant.chance === true ? runs : 1;
    if (mutant.killedBy.kind === "simulation") {
      const simulated = await sandbox.simulate(mutant.killedBy, wanted);
      if (simulated.end === "broken") return result("BROKEN", wanted, 0, simulated.why);
      return result(simulated.end === "red" ? "killed" : "SURVIVED", wanted, simulated.red, simulated.why);
    }
    for (let run = 0; run < wanted; run++) {
      last = await sandbox.run(mutant.killedBy);
      if (last.end === "broken") return result("BROKEN", run + 1, red, last.why);
      if (last.end === "red") red++;
    }
    return result(red === wanted ? "killed" : "SURVIVED", wanted, red, red === wanted ? last.why : mutant.breaks);
  } finally {
    sandbox.restore();
  }
}

async function main(): Promise<boolean> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { runs: { type: "string", default: "1" }, jobs: { type: "string", default: "2" } },
  });
  const runs = whole(values.runs, "runs");
  const selected = mutants.filter((mutant) => {
    const searched = `${mutant.name} ${mutant.file} ${text(mutant.killedBy)}`;
    return positionals.length === 0 || positionals.some((word) => searched.includes(word));
  });
  if (selected.length === 0) throw new Error("no mutant is called so");
  const killers = new Map(selected.map(({ killedBy }) => [text(killedBy), killedBy]));

  const began = performance.now();
  const sandboxes = Array.from({ length: Math.min(whole(values.jobs, "jobs"), selected.length) }, () => new Sandbox());
  const stop = (): void => {
    for (const sandbox of sandboxes) sandbox.dispose();
    process.exit(130);
  };
  process.once("SIGINT", stop).once("SIGTERM", stop);
  const results: Result[] = [];
  try {
    for (const sandbox of sandboxes) sandbox.fill(root);
    if (!(await unchanged(sandboxes, [...killers.values()]))) {
      console.log("What is to notice the mutants is not green without them.");
      return false;
    }
    await inLanes(sandboxes, selected, async (mutant, sandbox) => {
      const result = await tried(mutant, sandbox, runs);
      results.push(result);
      console.log(`${result.end}  ${mutant.name}  ${result.seconds.toFixed(1)} s\n${indented(result.why)}`);
    });
  } finally {
    process.removeListener("SIGINT", stop).removeListener("SIGTERM", stop);
    for (const sandbox of sandboxes) sandbox.dispose();
  }

  const width = Math.max(...selected.map(({ name }) => name.length));
  console.log();
  for (const mutant of selected) {
    const found = results.find((result) => result.mutant === mutant);
    if (found === undefined) continue;
    console.log(
      `${found.end.padEnd(8)}  ${mutant.name.padEnd(width)}  ${String(found.red)}/${String(found.runs)} red  ${text(mutant.killedBy)}`,
    );
  }
  const killed = results.filter(({ end }) => end === "killed").length;
  console.log(`\nmutants took ${seconds(began).toFixed(1)} s`);
  console.log(`${String(killed)} killed, ${String(results.length - killed)} not`);
  return killed === selected.length;
}

process.exitCode = (await main()) ? 0 : 1;
