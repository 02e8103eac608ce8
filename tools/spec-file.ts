// Runs one file of specs. Not by mocha's own command, which loads TypeScript as CommonJS on some versions of Node: the
// specs are ES modules, and use the package as one. `--test text` runs only the tests whose title contains it, `--bail`
// ends with the first that fails.

import Mocha from "mocha";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import Reporter from "../spec/support/reporter.js";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { test: { type: "string" }, bail: { type: "boolean", default: false } },
});
const [path = ""] = positionals;
const isCI = process.env["CI"] !== undefined;
const mocha = new Mocha({
  reporter: Reporter,
  timeout: 60_000,
  slow: 2_000,
  bail: values.bail,
  // On CI a test that is left out would pass for one that passed.
  forbidOnly: isCI,
  forbidPending: isCI,
});

if (values.test !== undefined) mocha.fgrep(values.test);

const file = resolve(path);
mocha.suite.emit(Mocha.Suite.constants.EVENT_FILE_PRE_REQUIRE, globalThis, file, mocha);
await import(pathToFileURL(file).href);
mocha.run((failures) => {
  process.exitCode = failures === 0 ? 0 : 1;
  // What this process still holds open after its last test is a leak, and keeps it from ending; the channel is not.
  if (process.connected) process.disconnect();
});
