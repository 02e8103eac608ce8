// npm run simulate: the simulation as plain JavaScript, since a compiler that runs beside it would cost more than all
// the rest.

import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "tsup";

const root = fileURLToPath(new URL("..", import.meta.url));
const outDir = await mkdtemp(join(tmpdir(), "unibus-simulation-"));

await build({
  config: false,
  entry: { main: join(root, "spec/simulation/main.ts") },
  outDir,
  format: "esm",
  target: "node20",
  splitting: false,
  silent: true,
  dts: false,
  removeNodeProtocol: false,
  outExtension: () => ({ js: ".mjs" }),
});
// Less is compiled then that is called only now and then. Later versions of Node have another compiler for that.
const COMPILED_LATE = process.version.startsWith("v20.") ? ["--interrupt-budget=200000"] : [];
// Nothing of a simulation outlives it: with room for several, hardly anything is left to collect. Threads that compile
// and collect beside it would take from others what a run on another core has to itself.
const child = spawn(
  process.execPath,
  [
    "--max-semi-space-size=64",
    "--single-threaded",
    // The compiler takes time from the one thread too: what it would inline at most costs more than it brings.
    "--max-inlined-bytecode-size-cumulative=300",
    // What it has not come to is not interpreted: plain machine code takes hardly any time to make.
    "--always-sparkplug",
    ...COMPILED_LATE,
    join(outDir, "main.mjs"),
    ...process.argv.slice(2),
  ],
  { cwd: root, stdio: "inherit" },
);
const stop = (signal: NodeJS.Signals): void => {
  child.kill(signal);
};
process.on("SIGINT", stop).on("SIGTERM", stop);
process.exitCode = await new Promise<number>((resolve) => {
  child.once("close", (code) => {
    resolve(code ?? 2);
  });
});
await rm(outDir, { recursive: true, force: true });
