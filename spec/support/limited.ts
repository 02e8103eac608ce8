import { cp, mkdtemp, readFile, readdir, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import type * as library from "unibus-membership";

const root = new URL("../../", import.meta.url);
const dist = fileURLToPath(new URL("dist", root));

/**
 * The built package with other numbers in the place of some of its constants, so that its limits can be met within the
 * time and the room that a spec has. What users get has no such way in.
 */
export async function withLimits(
  limits: Readonly<Record<string, number>>,
): Promise<{ library: typeof library; dispose(): Promise<void> }> {
  const folder = await mkdtemp(join(tmpdir(), "unibus-limited-"));
  await cp(dist, folder, { recursive: true });
  await writeFile(join(folder, "package.json"), JSON.stringify({ type: "module" }));
  // The NATS client is the same as beside the package itself.
  await symlink(fileURLToPath(new URL("node_modules", root)), join(folder, "node_modules"), "junction");
  const left = new Set(Object.keys(limits));
  for (const file of (await readdir(folder)).filter((name) => name.endsWith(".js"))) {
    let code = await readFile(join(folder, file), "utf8");
    for (const [name, value] of Object.entries(limits)) {
      const constant = new RegExp(`(?<=\\n(var|const) ${name} = )[^;]+(?=;)`);
      if (!constant.test(code)) continue;
      left.delete(name);
      code = code.replace(constant, String(value));
    }
    await writeFile(join(folder, file), code);
  }
  if (left.size > 0) throw new Error(`not in the build: ${[...left].join(", ")}`);
  return {
    library: (await import(pathToFileURL(join(folder, "index.js")).href)) as typeof library,
    dispose: () => rm(folder, { recursive: true }),
  };
}
