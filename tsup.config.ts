import { createHash, randomUUID } from "node:crypto";
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { brotliCompressSync, constants } from "node:zlib";
import { transformSync } from "esbuild";
import type { Options } from "tsup";

type Plugin = NonNullable<Options["esbuildPlugins"]>[number];
type BuildPlugin = NonNullable<Options["plugins"]>[number];

/** What stands at the head of a file that holds sql.js, which is passed on under its own terms. */
export async function licenseHead(): Promise<string> {
  const text = await readFile(join(import.meta.dirname, "node_modules/sql.js/LICENSE"), "utf8");
  return `/*!\nThis file holds sql.js, and in it SQLite, which is in the public domain.\n\n${text.trim()}\n*/\n`;
}

const license: BuildPlugin = {
  name: "license",
  async buildEnd({ writtenFiles }) {
    const head = await licenseHead();
    for (const { name } of writtenFiles.filter(({ name }) => /^sql-js\.c?js$/.test(basename(name))))
      await writeFile(name, head + (await readFile(name, "utf8")));
  },
};

const cache = join(import.meta.dirname, "node_modules/.cache/unibus-membership");

/** Most of a build was this, for bytes that hardly ever change: what they became is kept. */
async function compressed(bytes: Uint8Array): Promise<Buffer> {
  const digest = createHash("sha256").update(bytes).digest("hex");
  const path = join(cache, `${digest}.${process.versions["brotli"] ?? ""}.br`);
  const kept = await readFile(path).catch(() => undefined);
  if (kept !== undefined) return kept;
  const made = brotliCompressSync(bytes, {
    params: { [constants.BROTLI_PARAM_LGWIN]: constants.BROTLI_MAX_WINDOW_BITS },
  });
  // A reader finds all of it or nothing.
  const part = `${path}.${randomUUID()}`;
  await mkdir(cache, { recursive: true });
  await writeFile(part, made);
  await rename(part, path);
  return made;
}

/** sql.js's WebAssembly becomes part of the code: it is there wherever the code is, whatever bundled it. */
const inlineWasm: Plugin = {
  name: "inline-wasm",
  setup(build) {
    build.onLoad({ filter: /\.wasm$/ }, async ({ path }) => ({
      contents: await compressed(await readFile(path)),
      loader: "binary",
    }));
  },
};

/** The parts of `code` before and after something that it has once. */
function parted(code: string, by: string | RegExp): [before: string, after: string] {
  const [before, after, ...more] = code.split(by);
  if (before === undefined || after === undefined || more.length > 0)
    throw new Error(`sql.js is another than the build knows: ${String(by)}`);
  return [before, after];
}

/**
 * sql.js keeps a database in an array of its own, which it copies as a whole when it grows. Here it is given a file
 * instead, as `SqlFile` in sql-js-parts.d.ts, in the words that it has after minification: `B` finds a file, `fa` makes
 * one, `Qa` is what is done with an open one, `Wa` its length.
 */
const OPEN_FILE = `
  fa(this.filename, []);
  (function (node) {
    node.Wa = f.length;
    node.Qa = Object.create(node.Qa);
    var tried = function (access) {
      try { return access(); } catch (error) { throw new O(29); } finally { node.Wa = f.length; }
    };
    node.Qa.read = function (stream, bytes, offset, length, position) {
      return tried(function () { return f.read(bytes, offset, length, position); });
    };
    node.Qa.write = function (stream, bytes, offset, length, position) {
      return tried(function () { return f.write(bytes, offset, length, position); });
    };
  })(B("/" + this.filename).node);
`;

/**
 * It copies bytes one by one, which is most of the time that it takes to open a file of large keys; `v` is the memory
 * of its WebAssembly.
 */
const COPY_BYTES =
  /for\(var\s+p=\s*new\s+Uint8Array\(h\),\s*r=0;\s*r<h;\s*r\+=1\)\s*p\[r\]=\s*v\[f\+\s*r\];\s*return p\}(?=;\s*c\.prototype\.get=)/;
const COPIED_BYTES = "return new Uint8Array(v.buffer,f,h).slice()}";

/**
 * sql.js looks for `module` and `exports` to find out what it is, and webpack answers for an ES module that there are
 * none. Here it is one.
 */
const asModule: Plugin = {
  name: "sql-js-as-module",
  setup(build) {
    build.onLoad({ filter: /sql-wasm-browser\.js$/ }, async ({ path }) => {
      const [code] = parted(await readFile(path, "utf8"), "// This bit below is copied almost exactly");
      const [one, other] = parted(code, COPY_BYTES);
      const [head, rest] = parted(`${one}${COPIED_BYTES}${other}`, "        module = undefined;\n");
      const [before, after] = parted(rest, /f!=null&&fa\(this\.filename,\s*f\);/);
      // What the words above stand for.
      for (const known of [
        /B\(f\)\.node,/,
        /\.write;\s*r\.Qa=Object\.create\(r\.Qa\);/,
        /read\(a,\s*b,d,c,e\)\{if\(e>=a\.node\.Wa\)return 0;/,
        /O=class\{name="ErrnoError";/,
      ])
        parted(rest, known);
      return { contents: `${head}${before}${OPEN_FILE}${after}export default initSqlJs;\n`, loader: "js" };
    });
  },
};

/**
 * `import source from "./x.js?source"`: the compressed text of a program that needs nothing beside itself, for a thread
 * of its own.
 */
const programs: Plugin = {
  name: "programs",
  setup(build) {
    build.onResolve({ filter: /\?source$/ }, ({ path, resolveDir }) => ({
      path: join(resolveDir, path.replace(/\.js\?source$/, ".ts")),
      namespace: "program",
    }));
    build.onLoad({ filter: /.*/, namespace: "program" }, async ({ path }) => {
      const {
        outputFiles: [file],
      } = await build.esbuild.build({
        entryPoints: [path],
        bundle: true,
        write: false,
        format: "cjs",
        platform: "node",
        target: "node20",
        minify: true,
        plugins: [asModule],
      });
      if (file === undefined) throw new Error(`${path} became nothing`);
      return { contents: await compressed(file.contents), loader: "binary" };
    });
  },
};

/**
 * What is loaded later is a file of its own, which the others name but do not hold. There is one for each kind of
 * module, though most of both is the same WebAssembly: Rollup without a plugin takes no CommonJS from an ES module, and
 * what runs CommonJS in a context of its own no ES module from that.
 */
const ownFile: Plugin = {
  name: "own-file",
  setup(build) {
    build.onResolve({ filter: /^\.\/sql-js\.js$/ }, ({ path, kind }) =>
      kind === "dynamic-import" ? { path, external: true } : undefined,
    );
  },
};

/**
 * The conformance cases are a good part of the code, and nobody reads them there. Stores stay readable: a stack trace
 * names their lines.
 */
const withoutSpace = (code: string): string =>
  code.includes("conformanceCases")
    ? transformSync(code, { minify: true, legalComments: "inline", target: TARGET }).code
    : code;

/** Comments are for who reads `lib/`, and the declaration files have theirs: here they would be a tenth of the code. */
const withoutComments = (code: string): string =>
  code.replaceAll(/^ *(?:\/\/ (?:lib|node_modules)\/.*|\/\*\*[^]*?\*\/)\n/gm, "");

/** What becomes of an ES module at last; of the NATS client it is said below. */
export const finished = (code: string): string =>
  withoutSpace(withoutComments(code)).replaceAll(
    'import("nats")',
    'import("nats").then((nats) => nats.default ?? nats)',
  );

/**
 * What is loaded later.
 *
 * In the CommonJS build `import()` becomes `require`: programs that run CommonJS in a context of their own, as Jest
 * does, have no other way to load a module. In the ES modules the NATS client, which is CommonJS, is taken by its
 * default export, which is all of it: it is the only one that a bundle with several files gives.
 */
const loadedLater: BuildPlugin = {
  name: "loaded-later",
  renderChunk(code) {
    if (this.format === "esm") return { code: finished(code) };
    return {
      code: withoutSpace(withoutComments(code)).replaceAll(
        /\bimport\("([^"]+)"\)/g,
        (_, path: string) => `Promise.resolve().then(() => require("${path.replace(/^(\.\/.*)\.js$/, "$1.cjs")}"))`,
      ),
    };
  },
};

/** Of the ES modules, and of the CommonJS build. */
export const ENTRIES = {
  index: "lib/index.ts",
  testing: "lib/testing/index.ts",
  "sql-js": "lib/sqlite/sql-js.ts",
};
export const TARGET = "node20";
export const CODE_PLUGINS = [inlineWasm, asModule, ownFile, programs];

export default {
  entry: ENTRIES,
  format: ["esm", "cjs"],
  target: TARGET,
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
  esbuildPlugins: CODE_PLUGINS,
  plugins: [loadedLater, license],
  dts: {
    entry: { index: "lib/index.ts", testing: "lib/testing/index.ts" },
    // Store extends AsyncDisposable: a consumer's own `lib` need not name it.
    banner: '/// <reference lib="esnext.disposable" />',
  },
} satisfies Options;
