import { readdir, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { defineConfig } from "tsup";

const entry = { index: "lib/index.ts", testing: "lib/testing/index.ts" };
const dist = join(import.meta.dirname, "dist");

/**
 * The code is shipped once, as CommonJS, and the ES modules name what is in it: an app that comes by both kinds has one
 * StoreError, not two, and the package is half as large.
 */
async function shareOneCopy(): Promise<void> {
  const load = createRequire(import.meta.url);
  for (const file of await readdir(dist)) {
    if (!file.endsWith(".js")) continue;
    const name = file.slice(0, -".js".length);
    if (name in entry) {
      const names = Object.keys(load(join(dist, `${name}.cjs`)) as object).sort();
      await writeFile(join(dist, file), `export {\n  ${names.join(",\n  ")},\n} from "./${name}.cjs";\n`);
    } else {
      await rm(join(dist, file));
    }
  }
}

export default defineConfig({
  entry,
  // Both, for the types of each.
  format: ["esm", "cjs"],
  target: "node20",
  platform: "node",
  splitting: true,
  treeshake: true,
  sourcemap: false,
  minify: false,
  clean: true,
  // The `node:` prefix cannot be shadowed by a package of the same name.
  removeNodeProtocol: false,
  // Store extends AsyncDisposable: a consumer's own `lib` need not name it.
  dts: { banner: '/// <reference lib="esnext.disposable" />' },
  onSuccess: shareOneCopy,
});
