// Runs one file of specs. Not by mocha's own command, which loads TypeScript as CommonJS on some versions of Node: the
// specs are ES modules, and use the package as one. `--test text` runs only the tests whose title contains it, `--bail`
// ends with the first that fails.

import Mocha from "mocha";
import { resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import Reporter, { type FileReport } from "../spec/support/reporter.js";

export const options = { test: { type: "string" }, bail: { type: "boolean", default: false } } as const;

export interface SpecFileOptions {
  readonly test?: string;
  readonly bail: boolean;
}

/** A client of NATS leaves one behind, of its own, where its connection ends while it connects. */
const isOfClient = (reason: unknown): boolean =>
  reason instanceof Error && reason.stack?.includes("ProtocolHandler.dial") === true;

/** What the tests leave open keeps the process from ending: that is for the caller to see. */
export async function runSpecFile(path: string, { test, bail }: SpecFileOptions): Promise<FileReport> {
  const isCI = process.env["CI"] !== undefined;
  let report: FileReport | undefined;
  const mocha = new Mocha({
    reporter: class extends Reporter {
      protected override reported(found: FileReport): void {
        report = found;
      }
    },
    timeout: 60_000,
    slow: 2_000,
    bail,
    // On CI a test that is left out would pass for one that passed.
    forbidOnly: isCI,
    forbidPending: isCI,
  });
  if (test !== undefined) mocha.fgrep(test);

  // An app's process ends by a rejection that nobody hears. Mocha ignores it, and tells of it a second time.
  const unheard = new Map<Promise<unknown>, unknown>();
  process.on("unhandledRejection", (reason, promise) => {
    if (!isOfClient(reason)) unheard.set(promise, reason);
  });
  const file = resolve(path);
  mocha.suite.emit(Mocha.Suite.constants.EVENT_FILE_PRE_REQUIRE, globalThis, file, mocha);
  await import(pathToFileURL(file).href);
  const failures = await new Promise<number>((resolve) => mocha.run(resolve));
  report ??= { passed: 0, failed: 0, conformance: {}, failures: [] };
  for (const reason of unheard.values()) console.log("Nobody heard this rejection:", reason);
  // What mocha forbids fails without a test that did.
  return { ...report, failed: Math.max(failures, report.failed) + unheard.size };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values, positionals } = parseArgs({ allowPositionals: true, options });
  const [path = ""] = positionals;
  const report = await runSpecFile(path, values);
  process.exitCode = report.failed === 0 ? 0 : 1;
  process.send?.(report);
  // What this process still holds open after its last test is a leak, and keeps it from ending; the channel is not.
  if (process.connected) process.disconnect();
}
