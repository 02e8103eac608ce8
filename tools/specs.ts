// Runs the named specs, or all. Not by mocha's own command, which loads TypeScript as CommonJS on some versions of
// Node: the specs are ES modules, and use the package as one.

import Mocha from "mocha";
import { readdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import Reporter from "../spec/support/reporter.js";

const root = fileURLToPath(new URL("..", import.meta.url));

/** Whoever broke something learns it from the quick ones. */
const SLOW_LAST = [/^spec\/sqlite\//, /conformance/, /package/, /nats-server/, /jetstream/, /example/, /readme/];

function allSpecs(): string[] {
  const rank = (path: string): number => SLOW_LAST.findIndex((pattern) => pattern.test(path));
  return readdirSync(join(root, "spec"), { recursive: true, encoding: "utf8" })
    .map((path) => join("spec", path).replaceAll("\\", "/"))
    .filter((path) => path.endsWith(".spec.ts"))
    .sort((a, b) => rank(a) - rank(b) || (a < b ? -1 : 1));
}

const isCI = process.env["CI"] !== undefined;
const mocha = new Mocha({
  reporter: Reporter,
  timeout: 60_000,
  slow: 2_000,
  color: process.stdout.isTTY,
  // On CI a test that is left out would pass for one that passed.
  forbidOnly: isCI,
  forbidPending: isCI,
});

const named = process.argv.slice(2);
for (const path of named.length > 0 ? named : allSpecs()) {
  const file = resolve(root, path);
  mocha.suite.emit(Mocha.Suite.constants.EVENT_FILE_PRE_REQUIRE, globalThis, file, mocha);
  await import(pathToFileURL(file).href);
}
mocha.run((failures) => {
  process.exitCode = failures === 0 ? 0 : 1;
});
