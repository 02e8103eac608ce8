import { existsSync } from "node:fs";
import { join } from "node:path";
import { root } from "./sandbox.js";

/** Where a tool is installed: here, or in the root, which has some of them too. */
export function folderOf(packageName: string): string | undefined {
  return [join(root, "matrix"), root]
    .map((base) => join(base, "node_modules", packageName))
    .find((folder) => existsSync(join(folder, "package.json")));
}

export function absent(packageName: string): string {
  return `${packageName} is not installed (for ${process.platform}-${process.arch}; see matrix/package.json)`;
}
