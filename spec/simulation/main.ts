// npm run simulate -- --seconds N [--seed S] [--runs N] [--with FAULT] [--library FOLDER] [--shrink SECONDS] [--all]
// [--kind TEXT] [--watch] [--sessions] [--migrate] [--replay JSON] [--digest N]

import { createHash } from "node:crypto";
import { parseArgs } from "node:util";
import { read, write, type WrittenSchedule } from "./cases.js";
import { FEW_LANES } from "./migration.js";
import { FAULTS } from "./mix.js";
import { LibraryLoader } from "./process.js";
import { shrink } from "./shrink.js";
import { mixOfSeed, scheduleOf, simulate, type Outcome, type Schedule } from "./simulation.js";

const { values } = parseArgs({
  options: {
    seconds: { type: "string", default: "10" },
    seed: { type: "string" },
    operations: { type: "string", default: "30" },
    /** The folder of a built package, other than this one's. */
    library: { type: "string", default: "dist" },
    shrink: { type: "string", default: "20" },
    /** Goes on after a violation, and counts what it meets. */
    all: { type: "boolean", default: false },
    /** So many times, each from other seeds and up to the first violation: how soon is one found? */
    runs: { type: "string" },
    /** Only schedules in which this fault may happen. */
    with: { type: "string", default: "" },
    /** Somebody watches each store. */
    watch: { type: "boolean", default: false },
    /** Somebody holds sessions of each store. */
    sessions: { type: "boolean", default: false },
    /** The store is moved elsewhere meanwhile. */
    migrate: { type: "boolean", default: false },
    /** Only violations whose kind contains this. */
    kind: { type: "string", default: "" },
    /** One schedule, as a failure prints it, with its whole trace. */
    replay: { type: "string" },
    /** So many traces, as one digest. */
    digest: { type: "string" },
  },
});

const others = { watches: values.watch, sessions: values.sessions, migrates: values.migrate };
const written = values.replay === undefined ? undefined : (JSON.parse(values.replay) as WrittenSchedule);
const isMoved = values.migrate || written?.migrates === true;
const loader = new LibraryLoader(values.library, ...(isMoved ? FEW_LANES : []));
// Where an error came from is of interest in a replay alone, and costs a good part of a simulation.
if (values.replay === undefined) Error.stackTraceLimit = 0;

function print(schedule: Schedule, outcome: Outcome): void {
  for (const line of outcome.trace) console.log(line);
  for (const { kind, why, id } of outcome.violations)
    console.log(`VIOLATION ${kind}${id === "" ? "" : ` (${id})`}: ${why}`);
  console.log(`schedule ${JSON.stringify(write(schedule))}`);
}

async function replay(of: WrittenSchedule): Promise<number> {
  const schedule = read(of);
  const outcome = await simulate(schedule, loader, true);
  print(schedule, outcome);
  return outcome.violations.length === 0 ? 0 : 1;
}

async function digest(count: number): Promise<number> {
  const hash = createHash("sha256");
  for (let seed = 1; seed <= count; seed++) {
    const { trace, violations } = await simulate(scheduleOf(seed, Number(values.operations), others), loader, true);
    for (const line of trace) hash.update(`${line}\n`);
    hash.update(JSON.stringify(violations));
  }
  console.log(`${count} traces: ${hash.digest("hex")}`);
  return 0;
}

async function explore(): Promise<number> {
  const first = values.seed === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(values.seed);
  const seconds = Number(values.seconds);
  console.log(`seed ${first}, ${seconds} s`);
  const began = performance.now();
  const cpu = process.cpuUsage();
  const found = new Map<string, number[]>();
  let count = 0;
  let calls = 0;
  for (let seed = first; performance.now() - began < seconds * 1000; seed++) {
    if (!isWanted(seed)) continue;
    const schedule = scheduleOf(seed, Number(values.operations), others);
    const outcome = await simulate(schedule, loader);
    count++;
    calls += outcome.entries.length;
    const kinds = new Set(outcome.violations.map(({ kind }) => kind).filter((kind) => kind.includes(values.kind)));
    for (const kind of kinds) {
      const seeds = found.get(kind);
      if (seeds === undefined) {
        found.set(kind, [seed]);
        console.log(`${((performance.now() - began) / 1000).toFixed(1)} s: seed ${seed}: ${kind}`);
      } else {
        seeds.push(seed);
      }
    }
    const [kind] = kinds;
    if (kind !== undefined && !values.all) {
      const shortest = await shrink(schedule, kind, loader, Number(values.shrink) * 1000);
      print(shortest, await simulate(shortest, loader, true));
      break;
    }
  }
  const took = (performance.now() - began) / 1000;
  const { user, system } = process.cpuUsage(cpu);
  for (const [kind, seeds] of found)
    console.log(`${String(seeds.length).padStart(6)}  ${kind}: ${seeds.slice(0, 5).join(", ")}`);
  console.log(
    `${count} schedules, ${calls} calls in ${took.toFixed(1)} s: ${(count / took).toFixed(0)} schedules a second, ${((1e6 * count) / (user + system)).toFixed(0)} a second of one core's time`,
  );
  console.log(found.size === 0 ? "no violation" : `${found.size} kinds of violations`);
  return found.size === 0 ? 0 : 1;
}

function isWanted(seed: number): boolean {
  const fault = FAULTS.find((name) => name === values.with);
  if (fault === undefined && values.with !== "") throw new Error(`there is no fault ${values.with}`);
  return fault === undefined || mixOfSeed(seed, values.migrate)[fault] > 0;
}

/** Seconds of processor time of this process: what another one does on the same core is of no matter. */
function worked(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}

/** When the first violation was found, in seconds of one core's time. `undefined`: not in time. */
async function soonest(first: number): Promise<number | undefined> {
  const began = worked();
  for (let seed = first; worked() - began < Number(values.seconds); seed++) {
    if (!isWanted(seed)) continue;
    const { violations } = await simulate(scheduleOf(seed, Number(values.operations), others), loader);
    const violation = violations.find(({ kind }) => kind.includes(values.kind));
    if (violation === undefined) continue;
    console.log(`seed ${seed}: ${violation.kind}`);
    return worked() - began;
  }
  return undefined;
}

async function repeat(runs: number): Promise<number> {
  const first = values.seed === undefined ? Math.floor(Math.random() * 2 ** 30) : Number(values.seed);
  const found: number[] = [];
  for (let run = 0; run < runs; run++) {
    const seconds = await soonest(first + run * 2 ** 20);
    if (seconds !== undefined) found.push(seconds);
  }
  console.log(
    `found in ${found.length} of ${runs} runs, after ${found.map((seconds) => seconds.toFixed(1)).join(", ")} s of one core's time`,
  );
  return found.length === 0 ? 0 : 1;
}

if (values.digest !== undefined) process.exitCode = await digest(Number(values.digest));
else if (values.runs !== undefined) process.exitCode = await repeat(Number(values.runs));
else process.exitCode = written === undefined ? await explore() : await replay(written);
