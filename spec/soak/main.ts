// npm run soak -- --sqlite --jetstream --seconds 60 [--seed 1]: long runs of what npm test runs shortly. The last line
// says how it ended.
//
// --without-proof            the JetStream clients run with a module in the proof's place that proves nothing
// --sqlite-power             the power fails
// --sessions                 many sessions on a cluster that suffers: [--count 10000]
// --sqlite-mutants           opens damaged files: [--mutants 10000]
//
// The others take the time that they take:
//
// --crash-points, --quorum, --jetstream-copy, --sqlite-memory, --sqlite-recovery, --sqlite-older-state
// --sqlite-size              as many keys of 64 KiB: [--records 50000]
// --jetstream-scale          many records: [--replicas 1]
// --jetstream-rollout        more replicas of many records: [--records 50000]
// --jetstream-rollout-killed who held a bucket alone is killed right after it is done: [--runs 10] [--without-wait]
// --jetstream-snapshot       a follower in the middle of a snapshot: [--runs 10]
// --jetstream-kept           what stays in the buckets
// --jetstream-old-keys       what puts of old keys take: [--records 50000]
// --export                   exports of many records, and damaged ones: [--records 1000000] [--mutants 1000]
// --migrate                  from a file to three servers and back, under load: [--records 100000]
// --migrate-kills            two hundred deaths each way

import type { Replicas } from "unibus-membership";
import { longSpec } from "./long-spec.js";

interface Options {
  seconds: number;
  seed: number;
  withoutProof: boolean;
  withoutWait: boolean;
  replicas: Replicas;
  records: number;
  mutants: number;
  runs: number;
  count: number;
  log: (line: string) => void;
}

type Run = (options: Options) => Promise<unknown>;

const timed = new Map<string, Run>([
  ["sqlite", async (options) => (await import("./sqlite.js")).run(options)],
  ["sqlite-power", async (options) => (await import("./sqlite-power.js")).run(options)],
  [
    "sqlite-mutants",
    async (options) => (await import("./sqlite-mutants.js")).run({ ...options, least: options.mutants }),
  ],
  [
    "sessions",
    async ({ seconds, seed, count, log }) =>
      (await import("./sessions.js")).run({ seconds, seed, sessions: count, log }),
  ],
  ["jetstream", async (options) => (await import("./jetstream.js")).run(options)],
]);
const sized = new Map<string, Run>([
  ["crash-points", longSpec("spec/jetstream/crash-points.spec.ts", { UNIBUS_AT_LENGTH: "1" })],
  ["jetstream-copy", longSpec("spec/jetstream/copy.spec.ts", { UNIBUS_AT_LENGTH: "1" })],
  ["sqlite-memory", longSpec("spec/sqlite/memory.spec.ts", { UNIBUS_AT_LENGTH: "1" })],
  ["sqlite-recovery", longSpec("spec/sqlite/recovery.spec.ts", { UNIBUS_AT_LENGTH: "1" })],
  ["sqlite-older-state", longSpec("spec/sqlite/older-state.spec.ts", { UNIBUS_AT_LENGTH: "1" })],
  ["sqlite-size", async ({ records, log }) => (await import("./sqlite-size.js")).run({ records, log })],
  ["quorum", longSpec("spec/jetstream/quorum.spec.ts", { UNIBUS_PROBE_SECONDS: "30" })],
  ["jetstream-scale", async ({ replicas, log }) => (await import("./jetstream-scale.js")).run({ replicas, log })],
  ["jetstream-rollout", async ({ records, log }) => (await import("./jetstream-rollout.js")).run({ records, log })],
  [
    "jetstream-rollout-killed",
    async ({ runs, withoutWait, log }) =>
      (await import("./jetstream-rollout-killed.js")).run({ runs, withoutWait, log }),
  ],
  [
    "export",
    async ({ seed, mutants, records, log }) => (await import("./export.js")).run({ seed, mutants, records, log }),
  ],
  ["migrate", async ({ records, log }) => (await import("./migrate.js")).run({ records, log })],
  ["migrate-kills", longSpec("spec/migrate-kills.spec.ts", { UNIBUS_MIGRATE_RUNS: "200" })],
  ["jetstream-snapshot", async ({ runs, log }) => (await import("./jetstream-snapshot.js")).run({ runs, log })],
  ["jetstream-kept", async ({ log }) => (await import("./jetstream-kept.js")).run({ log })],
  ["jetstream-old-keys", async ({ records, log }) => (await import("./jetstream-old-keys.js")).run({ records, log })],
]);
const soaks = new Map([...timed, ...sized]);

function replicasOf(text: string | undefined): Replicas {
  const found = ([1, 2, 3, 4, 5] as const).find((each) => String(each) === text);
  if (found === undefined) throw new Error("--replicas is 1, 2, 3, 4 or 5");
  return found;
}

function optionsOf(args: readonly string[]): { names: string[] } & Omit<Options, "log"> {
  const names: string[] = [];
  let seconds = 60;
  let withoutProof = false;
  let withoutWait = false;
  let seed = Math.floor(Math.random() * 2 ** 31);
  let replicas: Replicas = 3;
  let records = 50_000;
  let mutants = 1;
  let runs = 10;
  let count = 10_000;
  const rest = [...args];
  for (let option = rest.shift(); option !== undefined; option = rest.shift()) {
    const name = option.replace(/^--/, "");
    if (name === "seconds") seconds = Number(rest.shift());
    else if (name === "seed") seed = Number(rest.shift());
    else if (name === "without-proof") withoutProof = true;
    else if (name === "without-wait") withoutWait = true;
    else if (name === "replicas") replicas = replicasOf(rest.shift());
    else if (name === "records") records = Number(rest.shift());
    else if (name === "mutants") mutants = Number(rest.shift());
    else if (name === "runs") runs = Number(rest.shift());
    else if (name === "count") count = Number(rest.shift());
    else if (soaks.has(name)) names.push(name);
    else
      throw new Error(
        `${option}: expected --seconds, --seed, --without-proof, --without-wait, --replicas, --records, --mutants, --runs, --count or one of ${[...soaks.keys()].map((each) => `--${each}`).join(", ")}`,
      );
  }
  if (!Number.isSafeInteger(seed) || [seconds, records, mutants, runs, count].some((each) => !(each > 0))) {
    throw new Error("--seconds, --seed, --records, --mutants, --runs and --count are numbers");
  }
  return {
    names: names.length > 0 ? names : [...timed.keys()],
    seconds,
    seed,
    withoutProof,
    withoutWait,
    replicas,
    records,
    mutants,
    runs,
    count,
  };
}

const { names, ...options } = optionsOf(process.argv.slice(2));
let failed = 0;
for (const name of names) {
  const seeded = timed.has(name) ? `, seed ${options.seed}` : "";
  console.log(timed.has(name) ? `${name}: ${options.seconds} s${seeded}` : `${name}:`);
  try {
    await soaks.get(name)?.({ ...options, log: (line) => console.log(`${name}: ${line}`) });
    console.log(`${name}: passed`);
  } catch (error) {
    failed++;
    console.error(error);
    console.log(`${name}: FAILED${seeded}`);
  }
}
process.exitCode = failed === 0 ? 0 : 1;
