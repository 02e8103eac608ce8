/** The recipes of docs/recipes.md, each in a folder that has the packed library and the framework. */
import { cp, mkdir, symlink } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Cell } from "./cells.js";
import { absent, folderOf } from "./installed.js";
import { onThisNode, root, run } from "./sandbox.js";

interface Recipe {
  readonly name: string;
  readonly file: string;
  /** What it imports. */
  readonly packages: readonly string[];
}

const recipes: readonly Recipe[] = [
  { name: "Express", file: "express.mjs", packages: ["express"] },
  { name: "Fastify", file: "fastify.mjs", packages: ["fastify"] },
  {
    name: "NestJS",
    file: "nest.mjs",
    packages: ["@nestjs/common", "@nestjs/core", "@nestjs/platform-express", "reflect-metadata"],
  },
];

export function recipeCells(): Cell[] {
  return recipes.map(({ name, file, packages }) => {
    const missing = packages.find((needed) => folderOf(needed) === undefined);
    return {
      name: `recipe for ${name}`,
      ...(missing === undefined ? {} : { missing: absent(missing) }),
      run: async (sandbox) => {
        const folder = await sandbox.app();
        await sandbox.installByNpm(folder);
        await cp(join(root, "matrix/recipes"), folder, { recursive: true });
        for (const needed of packages) {
          const link = join(folder, "node_modules", needed);
          await mkdir(dirname(link), { recursive: true });
          await symlink(folderOf(needed) ?? "", link);
        }
        const said = await run(onThisNode, ["try.mjs", file], folder);
        return { memory: said === "as it should be" ? true : said };
      },
    };
  });
}
