// npm run size: how large the package is, packed and installed, and whether that is more than it may be.

import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const run = promisify(execFile);
const root = fileURLToPath(new URL("..", import.meta.url));

/** Raised in a commit that says what for, in CHANGELOG.md. */
export const LIMITS = { packed: 1_170_000, installed: 2_960_000 };

export interface Sizes {
  readonly packed: number;
  readonly installed: number;
  readonly files: readonly { readonly path: string; readonly size: number }[];
}

/** Of what was built. */
export async function sizes(): Promise<Sizes> {
  const { stdout } = await run("npm", ["pack", "--dry-run", "--ignore-scripts", "--json"], { cwd: root });
  const [{ size, unpackedSize, files }] = JSON.parse(stdout) as [
    { size: number; unpackedSize: number; files: Sizes["files"] },
  ];
  return { packed: size, installed: unpackedSize, files };
}

async function main(): Promise<void> {
  const found = await sizes();
  const number = (bytes: number): string => bytes.toLocaleString("en").padStart(11);
  for (const { path, size } of [...found.files].sort((a, b) => b.size - a.size))
    console.log(`${number(size)}  ${path}`);
  for (const what of ["packed", "installed"] as const) {
    const isTooLarge = found[what] > LIMITS[what];
    console.log(
      `${number(found[what])}  ${what}, of ${LIMITS[what].toLocaleString("en")}${isTooLarge ? ": TOO LARGE" : ""}`,
    );
    if (isTooLarge) process.exitCode = 1;
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
