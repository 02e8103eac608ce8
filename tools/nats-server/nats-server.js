#!/usr/bin/env node
import { spawn } from "node:child_process";
import { constants } from "node:os";
import { tsImport } from "tsx/esm/api";

// The launcher's own finder, from source: the command must work before the first build.
/** @type {unknown} */
const finder = await tsImport("../../lib/testing/find-nats-server.ts", import.meta.url);
const { findNatsServer } = /** @type {typeof import("../../lib/testing/find-nats-server.js")} */ (finder);

let server;
try {
  server = await findNatsServer();
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exit(1);
}

const child = spawn(server.path, process.argv.slice(2), { stdio: "inherit" });
child.on("error", (error) => {
  console.error(error.message);
  process.exit(1);
});

// nats-server gives each of these a meaning of its own (USR1 reopens the log, USR2 is lame duck mode).
for (const signal of /** @type {const} */ (["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"])) {
  process.on(signal, () => child.kill(signal));
}
child.on("exit", (code, signal) => {
  process.exit(code ?? 128 + (signal === null ? 0 : constants.signals[signal]));
});
