// npm run soak -- --sqlite --jetstream --seconds 60 [--seed 1]: long runs of what npm test runs shortly. The last line says how
// it ended. --crash-points and --quorum take the time that they take. With --without-proof the JetStream clients run with a module in the proof's place that proves nothing.

import { longSpec } from "./long-spec.js";

interface Soak {
  run(options: { seconds: number; seed: number; withoutProof?: boolean; log: (line: string) => void }): Promise<unknown>;
}

const soaks = new Map<string, () => Promise<Soak>>([
  ["sqlite", () => import("./sqlite.js")],
  ["jetstream", () => import("./jetstream.js")],
  ["crash-points", () => Promise.resolve({ run: longSpec("spec/jetstream/crash-points.spec.ts", { UNIBUS_AT_LENGTH: "1" }) })],
  ["quorum", () => Promise.resolve({ run: longSpec("spec/jetstream/quorum.spec.ts", { UNIBUS_PROBE_SECONDS: "30" }) })],
]);

function optionsOf(args: readonly string[]): { names: string[]; seconds: number; seed: number; withoutProof: boolean } {
  const names: string[] = [];
  let seconds = 60;
  let withoutProof = false;
  let seed = Math.floor(Math.random() * 2 ** 31);
  const rest = [...args];
  for (let option = rest.shift(); option !== undefined; option = rest.shift()) {
    const name = option.replace(/^--/, "");
    if (name === "seconds") seconds = Number(rest.shift());
    else if (name === "seed") seed = Number(rest.shift());
    else if (name === "without-proof") withoutProof = true;
    else if (soaks.has(name)) names.push(name);
    else throw new Error(`${option}: expected --seconds, --seed, --without-proof or one of ${[...soaks.keys()].map((each) => `--${each}`).join(", ")}`);
  }
  if (!(seconds > 0) || !Number.isSafeInteger(seed)) throw new Error("--seconds and --seed are numbers");
  return { names: names.length > 0 ? names : ["sqlite", "jetstream"], seconds, seed, withoutProof };
}

const { names, seconds, seed, withoutProof } = optionsOf(process.argv.slice(2));
let failed = 0;
for (const name of names) {
  console.log(`${name}: ${seconds} s, seed ${seed}`);
  try {
    const soak = await soaks.get(name)?.();
    await soak?.run({ seconds, seed, withoutProof, log: (line) => console.log(`${name}: ${line}`) });
    console.log(`${name}: passed`);
  } catch (error) {
    failed++;
    console.error(error);
    console.log(`${name}: FAILED, seed ${seed}`);
  }
}
process.exitCode = failed === 0 ? 0 : 1;
