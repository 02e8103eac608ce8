// npm run model: runs the models of docs/model/ to the end, with spin. The good ones must be clean, and each argument
// that is taken out must be found missing. `npm run model -- NO_ERA` runs those whose name has that in it, and prints
// what happened, step by step; `proof` and `room` are all of a model.

import { spawn } from "node:child_process";
import { copyFile, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));

/** The exit code where the checker is not installed: nothing was checked, and nothing is wrong. */
const SKIPPED = 77;
/** MB of one run. */
const MEMORY = 4000;
const MAX_STEPS = 1_000_000;

/**
 * `holds`: no answer is wrong, in any state. `violated`: one is, because an argument is taken out. `reached`: the model
 * gets where the argument is at work.
 */
type Verdict = "holds" | "violated" | "reached";

interface Run {
  readonly model: "proof" | "room";
  readonly name: string;
  readonly size: Readonly<Record<string, number>>;
  readonly expected: Verdict;
}

interface Result {
  readonly found: Verdict | "incomplete" | "failed";
  readonly states: number;
  readonly seconds: number;
  readonly mb: number;
  readonly output: string;
}

/** Rows are copied, in rounds, beside one who changes the room. */
const COPY = { COMPACT: 1, WRITERS: 1 };

const runs: readonly Run[] = [
  ...holds("proof", "a member, two checks in one store", { MEMBER: 1, N: 8 }),
  ...holds("proof", "a member, two stores", { MEMBER: 1, N: 7, STORES: 2, CHECKS: 1 }),
  ...holds("proof", "a member, and who is not found", { MEMBER: 1, N: 6, CHECKS: 1, CHECK_ABSENCE: 1 }),
  ...holds("proof", "an admin and the guard, one check", { N: 9, CHECKS: 1 }),
  ...holds("proof", "an admin and the guard, two checks", { N: 8 }),
  ...holds("proof", "an admin and the guard, two stores", { N: 7, STORES: 2, CHECKS: 1 }),
  ...holds("proof", "state: a check", { MEMBER: 1, STATE: 1, N: 8, CHECKS: 1 }),
  ...holds("proof", "state: a write", { MEMBER: 1, STATE: 1, N: 9, CHECKS: 1, WRITES: 1 }),
  ...holds("proof", "state: a key that is put", { MEMBER: 1, STATE: 1, N: 9, CHECKS: 1, PUTS: 1 }),
  ...without("proof", { MEMBER: 1, N: 7 }, "holds", ["NO_LISTS", "NO_PREDECESSORS"]),
  ...without("proof", { N: 9, CHECKS: 1 }, "holds", ["STAGE_AFTER_GUARD"]),
  ...without("proof", { MEMBER: 1, N: 7 }, "violated", [
    "BARRIER_BEFORE",
    "NO_GAP_CHECK",
    "PREDECESSOR_BEYOND_END",
    "PREDECESSORS_UNACKED",
    "NO_FENCE",
    "NO_REGISTER",
    "READ_OVER_CHANGE",
    "NO_ERA",
    "NO_ERA_FOR_READS",
  ]),
  ...without("proof", { MEMBER: 1, N: 6, STORES: 2, CHECKS: 1 }, "violated", ["LISTS_UNACKED"]),
  ...without("proof", { MEMBER: 1, N: 6, CHECKS: 1, CHECK_ABSENCE: 1 }, "violated", ["ABSENCE_UNFENCED"]),
  ...without("proof", { N: 9, CHECKS: 1 }, "violated", [
    "NO_GAP_CHECK",
    "GUARD_AFTER_USER",
    "NO_GUARD_REWRITE",
    "APPLY_TRUSTS_ANY_READ",
  ]),
  ...without("proof", { MEMBER: 1, STATE: 1, N: 8, CHECKS: 1 }, "violated", [
    "STATE_BEFORE",
    "STATE_LATER",
    "STATE_UNFENCED",
    "STATE_OUTLIVES_ERA",
    "NO_GAP_CHECK",
  ]),
  ...without("proof", { MEMBER: 1, STATE: 1, N: 7, CHECKS: 1, WRITES: 1 }, "violated", [
    "WRITE_TRUSTS_BEFORE",
    "STATE_LATER",
  ]),
  ...without("proof", { MEMBER: 1, STATE: 1, N: 7, CHECKS: 1, PUTS: 1 }, "violated", [
    "PUT_AFTER_BARRIER",
    "STATE_BEFORE",
  ]),
  ...without("proof", { MEMBER: 1, STATE: 1, N: 8, CHECKS: 1 }, "reached", ["REACHES_ALLOWED_AGAIN"]),
  ...without("proof", { MEMBER: 1, N: 7 }, "reached", ["REACHES_COPY", "REACHES_PREDECESSOR"]),
  ...without("proof", { MEMBER: 1, N: 7, STORES: 2, CHECKS: 1 }, "reached", ["REACHES_LIST"]),
  ...without("proof", { N: 8, CHECKS: 1 }, "reached", ["REACHES_STAGE_IN_COPY", "REACHES_STAGE_BY_FENCES"]),

  ...holds("room", "isMember", { R: 4, IS_MEMBER: 1 }),
  ...holds("room", "isMember, sweep", { R: 4, IS_MEMBER: 1, SWEEP: 1 }),
  ...holds("room", "roster", { R: 4, ROSTER: 1 }),
  ...holds("room", "index, sweep", { R: 4, SWEEP: 1 }),
  ...holds("room", "copy: isMember", { R: 4, IS_MEMBER: 1, ...COPY }),
  ...holds("room", "copy: isMember, messages that come twice", { R: 4, IS_MEMBER: 1, LATE: 1, ...COPY }),
  ...without("room", { R: 4, IS_MEMBER: 1 }, "violated", [
    "COMMIT_UNCONDITIONAL",
    "NO_APPLY",
    "APPLY_UNCONDITIONAL",
    "HEAD_NOT_LAID_OVER",
    "NO_MEMBERS_SEQ",
    "PURGE_REMOVED",
  ]),
  ...without("room", { R: 4, IS_MEMBER: 1 }, "violated", ["NO_AFTER_FENCE"]),
  ...without("room", { R: 4, IS_MEMBER: 1, MAY_STICK: 1 }, "violated", ["NO_AFTER_FENCE"]),
  ...without("room", { R: 4, IS_MEMBER: 1, ...COPY }, "violated", ["ABSENT_ROW_BELIEVED"]),
  ...without("room", { R: 5, IS_MEMBER: 1, ...COPY }, "violated", [
    "COPY_COMMIT_UNCONDITIONAL",
    "COPY_LEAVES_LEAVERS",
    "COPY_READ_MISSES",
  ]),
  ...without("room", { R: 5, IS_MEMBER: 1, SWEEP: 1, ...COPY }, "violated", ["COPY_UNNAMED"]),
  ...without("room", { R: 5, IS_MEMBER: 1, COPIERS: 2, ...COPY }, "violated", ["COPY_NAME_IGNORED"]),
  ...without("room", { R: 5, IS_MEMBER: 1, LATE: 1, ...COPY }, "violated", ["COPY_PURGES", "COPIES_UNCONDITIONAL"]),
  ...without("room", { R: 4, ROSTER: 1 }, "violated", ["ROSTER_DOES_NOT_COUNT"]),
  ...without("room", { R: 4, SWEEP: 1 }, "violated", [
    "NO_FENCE_IN_SWEEP",
    "SWEEP_TRUSTS_ANY_READ",
    "ENTRY_AFTER_COMMIT",
    "UNDONE_BEFORE_KNOWN",
    "TOMBSTONE_REMOVED",
  ]),
  ...without("room", { R: 4, IS_MEMBER: 1 }, "reached", ["REACHES_NEW_INCARNATION"]),
  ...without("room", { R: 4, ROSTER: 1 }, "reached", ["REACHES_NEWER_ROWS"]),
  ...without("room", { R: 5, IS_MEMBER: 1, ...COPY }, "reached", ["REACHES_SECOND_ROUND"]),
];

function holds(model: Run["model"], name: string, size: Run["size"]): Run[] {
  return [{ model, name, size, expected: "holds" }];
}

function without(model: Run["model"], size: Run["size"], expected: Verdict, names: readonly string[]): Run[] {
  return names.map((name) => ({ model, name, size: { ...size, [name]: 1 }, expected }));
}

interface Ended {
  /** `undefined`: it could not be started. */
  readonly code: number | undefined;
  readonly output: string;
}

const began = new Set<ReturnType<typeof spawn>>();
const stopping = new AbortController();

async function execute(command: string, args: readonly string[], cwd: string): Promise<Ended> {
  const child = spawn(command, args, { cwd, stdio: ["ignore", "pipe", "pipe"] });
  began.add(child);
  const output: Buffer[] = [];
  child.stdout.on("data", (bytes: Buffer) => output.push(bytes));
  child.stderr.on("data", (bytes: Buffer) => output.push(bytes));
  const code = await new Promise<number | undefined>((resolve) => {
    child.once("error", () => {
      resolve(undefined);
    });
    child.once("close", (status) => {
      resolve(status ?? 1);
    });
  });
  began.delete(child);
  return { code, output: Buffer.concat(output).toString() };
}

/** Whether all of these can be started. */
async function installed(commands: readonly (readonly [string, string])[]): Promise<boolean> {
  for (const [command, argument] of commands)
    if ((await execute(command, [argument], tmpdir())).code === undefined) return false;
  return true;
}

const definitions = (run: Run): string[] => Object.entries(run.size).map(([name, value]) => `-D${name}=${value}`);

async function check(run: Run, folder: string): Promise<Result> {
  const failed = (output: string): Result => ({ found: "failed", states: 0, seconds: 0, mb: 0, output });
  const file = `${run.model}.pml`;
  await copyFile(join(root, "docs/model", file), join(folder, file));
  const made = await execute("spin", ["-a", ...definitions(run), file], folder);
  if (made.code !== 0) return failed(made.output);
  // What is found after a few thousand states is not worth much compiling.
  const optimize = run.expected === "holds" ? "-O2" : "-O0";
  const compiled = await execute(
    "gcc",
    [optimize, "-w", "-DSAFETY", "-DVECTORSZ=4096", `-DMEMLIM=${MEMORY}`, "-o", "pan", "pan.c"],
    folder,
  );
  if (compiled.code !== 0) return failed(compiled.output);
  // -E: a process that waits for ever is one that stopped.
  const { output } = await execute("./pan", [`-m${MAX_STEPS}`, "-E"], folder);
  const number = (pattern: RegExp): number => Number(pattern.exec(output)?.[1] ?? "0");
  const states = number(/^ *([\d.e+]+) states, stored/m);
  const figures = {
    states,
    seconds: number(/elapsed time ([\d.]+)/),
    mb: number(/^ *([\d.]+)\s+total actual memory usage/m),
    output,
  };
  if (/assertion violated/.test(output))
    return { ...figures, found: run.expected === "reached" ? "reached" : "violated" };
  if (/errors: 0$/m.test(output) && states > 0 && !/not completed|too small|out of memory/.test(output))
    return { ...figures, found: "holds" };
  return { ...figures, found: "incomplete" };
}

/** What the model itself says of the steps that led to the violation. */
async function trace(run: Run, folder: string): Promise<string> {
  const { output } = await execute("spin", ["-t", "-T", ...definitions(run), `${run.model}.pml`], folder);
  return output
    .split("\n")
    .filter(
      (line) =>
        line.trim() !== "" && !/^(spin|#processes|\d+ processes|\s*\d+:\s*proc)|^\s+\w+(\[\d+\])? = /.test(line),
    )
    .join("\n");
}

async function main(): Promise<number> {
  if (
    !(await installed([
      ["spin", "-V"],
      ["gcc", "--version"],
    ]))
  ) {
    console.error(
      "SKIPPED: nothing was checked. `npm run model` needs spin and gcc: on Debian the packages `spin` and `gcc`.",
    );
    return SKIPPED;
  }
  const wanted = process.argv.slice(2);
  const chosen = runs.filter(
    (run) => wanted.length === 0 || wanted.some((name) => run.name.includes(name) || run.model === name),
  );
  if (chosen.length === 0) {
    console.error(
      `There is no run of that name. There are:\n${runs.map(({ model, name }) => `  ${model}  ${name}`).join("\n")}`,
    );
    return 1;
  }
  let wrong = 0;
  console.log("| model | run | size | expected | found | states | s | MB |\n|---|---|---|---|---|---|---|---|");
  for (const run of chosen) {
    const folder = await mkdtemp(join(tmpdir(), "unibus-model-"));
    try {
      const result = await check(run, folder);
      if (stopping.signal.aborted) return 1;
      const ok = result.found === run.expected;
      if (!ok) wrong++;
      const size = Object.entries(run.size)
        .filter(([name]) => name !== run.name)
        .map(([name, value]) => `${name}=${value}`)
        .join(" ");
      const found = ok ? result.found : `**${result.found}**`;
      console.log(
        `| ${run.model} | ${run.name} | ${size} | ${run.expected} | ${found} | ${result.states.toLocaleString("en")} | ${result.seconds} | ${Math.ceil(result.mb)} |`,
      );
      if (result.found === "failed" || result.found === "incomplete") console.log(result.output);
      if (result.found === "violated" && (!ok || wanted.length > 0)) console.log(await trace(run, folder));
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  }
  console.log(`${chosen.length - wrong} as expected, ${wrong} not`);
  return wrong === 0 ? 0 : 1;
}

const stop = (): void => {
  stopping.abort();
  for (const child of began) child.kill();
};
process.once("SIGINT", stop).once("SIGTERM", stop);
process.exitCode = await main();
