// All cells: `npm run matrix`, or those whose names contain a text: `npm run matrix -- TypeScript`.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import {
  bundlerCells,
  nodes,
  packageManagerCells,
  packageOfBundler,
  runtimeCells,
  typescriptCells,
  type Cell,
} from "./cells.js";
import { recipeCells } from "./recipes.js";
import { testRunnerCells } from "./test-runners.js";
import { PARTS } from "./program.js";
import { Sandbox, root } from "./sandbox.js";

/** Cells under way at a time. */
const LANES = 2;

interface Row {
  readonly cell: string;
  readonly columns: readonly string[];
  readonly details: readonly string[];
}

async function rowOf(cell: Cell, sandbox: Sandbox): Promise<Row> {
  if (cell.missing !== undefined)
    return { cell: cell.name, columns: PARTS.map(() => "NOT HAD"), details: [cell.missing] };
  try {
    const report = await cell.run(sandbox);
    return {
      cell: cell.name,
      columns: PARTS.map((part) => (report[part] === undefined ? "" : report[part] === true ? "ok" : "FAILED")),
      details: PARTS.filter((part) => (report[part] ?? true) !== true).map(
        (part) => `${part}: ${String(report[part])}`,
      ),
    };
  } catch (error) {
    return {
      cell: cell.name,
      columns: PARTS.map(() => "FAILED"),
      details: [error instanceof Error ? error.message : String(error)],
    };
  }
}

async function main(): Promise<void> {
  const testing = join(root, "dist/testing.js");
  if (!existsSync(testing)) throw new Error("run it from the root, by `npm run matrix`: the package has to be built");
  const { startNatsServer } = (await import(pathToFileURL(testing).href)) as {
    startNatsServer: () => Promise<AsyncDisposable & { readonly url: string }>;
  };
  const wanted = process.argv.slice(2);
  const { there } = nodes();
  const cells = [
    ...bundlerCells(
      there.length > 0 ? there : [{ name: "this Node", program: process.execPath, args: [] }],
      packageOfBundler,
    ),
    ...packageManagerCells(),
    ...runtimeCells(),
    ...typescriptCells(),
    ...testRunnerCells(),
    ...recipeCells(),
  ].filter(({ name }) => wanted.length === 0 || wanted.some((text) => name.includes(text)));

  await using server = await startNatsServer();
  const sandbox = await Sandbox.make(server.url);
  const rows: Row[] = [];
  try {
    const queue = [...cells.entries()];
    const lane = async (): Promise<void> => {
      for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
        const [index, cell] = next;
        const row = await rowOf(cell, sandbox);
        rows[index] = row;
        console.error(`${row.cell}: ${row.columns.join(", ")}`);
      }
    };
    await Promise.all(Array.from({ length: LANES }, lane));
  } finally {
    await sandbox.dispose();
  }

  console.log(
    `On Node ${process.versions.node}; bundles also on ${there.map(({ name }) => name).join(", ") || "no other"}.\n`,
  );
  console.log(`| | ${PARTS.join(" | ")} |\n|---|${PARTS.map(() => "---|").join("")}`);
  for (const { cell, columns } of rows) console.log(`| ${cell} | ${columns.join(" | ")} |`);
  console.log();
  for (const { cell, details } of rows) for (const detail of details) console.log(`${cell}: ${detail}\n`);
  const count = (column: string): number => rows.filter(({ columns }) => columns.includes(column)).length;
  const failed = count("FAILED");
  const notHad = count("NOT HAD");
  if (notHad > 0)
    console.log(`NOT HAD here: ${String(notHad)} of ${String(rows.length)} cells, named above. They prove nothing.`);
  console.log(
    `${String(rows.length - failed - notHad)} cells passed, ${String(failed)} failed, ${String(notHad)} not had`,
  );
  process.exitCode = failed === 0 && rows.length > notHad ? 0 : 1;
}

await main();
