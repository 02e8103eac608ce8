import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { brotliCompressSync, constants } from "node:zlib";
import { defineConfig, type Options } from "tsup";

type Plugin = NonNullable<Options["esbuildPlugins"]>[number];

const dist = join(import.meta.dirname, "dist");

/** sql.js is passed on under its own terms. */
async function addLicense(): Promise<void> {
  const license = await readFile(join(import.meta.dirname, "node_modules/sql.js/LICENSE"), "utf8");
  for (const name of ["sql-js.js", "sql-js.cjs"]) {
    const file = join(dist, name);
    const code = await readFile(file, "utf8");
    await writeFile(file, `/*!\nThis file holds sql.js, and in it SQLite, which is in the public domain.\n\n${license.trim()}\n*/\n${code}`);
  }
}

/** sql.js's WebAssembly becomes part of the code: it is there wherever the code is, whatever bundled it. */
const inlineWasm: Plugin = {
  name: "inline-wasm",
  setup(build) {
    build.onLoad({ filter: /\.wasm$/ }, async ({ path }) => ({
      contents: brotliCompressSync(await readFile(path), { params: { [constants.BROTLI_PARAM_LGWIN]: constants.BROTLI_MAX_WINDOW_BITS } }),
      loader: "binary",
    }));
  },
};

/** What is loaded later is a file of its own, which the others name but do not hold. */
const ownFile: Plugin = {
  name: "own-file",
  setup(build) {
    build.onResolve({ filter: /^\.\/sql-js\.js$/ }, ({ path, kind }) => (kind === "dynamic-import" ? { path, external: true } : undefined));
  },
};

/**
 * `import()` is `require` in the CommonJS build: programs that run CommonJS in a context of their own, as Jest does, have
 * no other way to load a module. What is loaded so is used by its named exports, which are the same to both.
 */
const requireOnly: NonNullable<Options["plugins"]>[number] = {
  name: "require-only",
  renderChunk(code) {
    if (this.format !== "cjs") return undefined;
    return {
      code: code.replaceAll(/\bimport\("([^"]+)"\)/g, (_, path: string) =>
        `Promise.resolve().then(() => require("${path.replace(/^(\.\/.*)\.js$/, "$1.cjs")}"))`),
    };
  },
};

export default defineConfig({
  entry: { index: "lib/index.ts", testing: "lib/testing/index.ts", "sql-js": "lib/sqlite/sql-js.ts" },
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
  // sql.js is part of the code, in the file that holds its license too. What remains external is what is imported.
  noExternal: ["sql.js"],
  esbuildPlugins: [inlineWasm, ownFile],
  plugins: [requireOnly],
  dts: {
    entry: { index: "lib/index.ts", testing: "lib/testing/index.ts" },
    // Store extends AsyncDisposable: a consumer's own `lib` need not name it.
    banner: '/// <reference lib="esnext.disposable" />',
  },
  onSuccess: addLicense,
});
