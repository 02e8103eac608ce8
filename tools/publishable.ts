// Before a release: the repository's place is filled in wherever a reader of the package is sent there.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const PLACEHOLDER = "FILL-IN-THE-OWNER";

for (const name of ["package.json", "README.md"]) {
  if (!readFileSync(join(root, name), "utf8").includes(PLACEHOLDER)) continue;
  console.error(`${name} still says ${PLACEHOLDER} where the owner of the repository belongs.`);
  // `npm publish --dry-run` tries all else.
  if (process.env["npm_config_dry_run"] !== "true") process.exitCode = 1;
}
