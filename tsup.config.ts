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

/**
 * sql.js looks for `module` and `exports` to find out what it is, and webpack answers for an ES module that there are none.
 * Here it is one.
 */
const asModule: Plugin = {
  name: "sql-js-as-module",
  setup(build) {
    build.onLoad({ filter: /sql-wasm-browser\.js$/ }, async ({ path }) => {
      const [code = "", tail, ...more] = (await readFile(path, "utf8")).split("// This bit below is copied almost exactly");
      const [head, rest, ...others] = code.split("        module = undefined;\n");
      if (head === undefined || rest === undefined || tail === undefined || more.length + others.length > 0) {
        throw new Error("sql.js ends in another way than the build knows");
      }
      return { contents: `${head}${rest}export default initSqlJs;\n`, loader: "js" };
    });
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
 * What is loaded later.
 *
 * In the CommonJS build `import()` becomes `require`: programs that run CommonJS in a context of their own, as Jest does, have
 * no other way to load a module. In the ES modules the NATS client, which is CommonJS, is taken by its default export, which
 * is all of it: it is the only one that a bundle with several files gives.
 */
const loadedLater: NonNullable<Options["plugins"]>[number] = {
  name: "loaded-later",
  renderChunk(code) {
    if (this.format === "esm") return { code: code.replaceAll('import("nats")', 'import("nats").then((nats) => nats.default ?? nats)') };
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
  esbuildPlugins: [inlineWasm, asModule, ownFile],
  plugins: [loadedLater],
  dts: {
    entry: { index: "lib/index.ts", testing: "lib/testing/index.ts" },
    // Store extends AsyncDisposable: a consumer's own `lib` need not name it.
    banner: '/// <reference lib="esnext.disposable" />',
  },
  onSuccess: addLicense,
});
