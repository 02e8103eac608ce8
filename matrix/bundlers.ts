/**
 * The bundlers, each by its own interface and with no more settings than its users need: everything goes into the
 * bundle, the library and the NATS client too. They are loaded by name, because not all of them are there in the short
 * run.
 */
import { mkdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";

export interface Bundler {
  readonly name: string;
  /** Bundles `main.mjs` and `main.cjs` of the folder into `out`; resolves to the file to run. */
  bundle(folder: string, out: string, banner: string): Promise<string>;
}

type Build = (options: unknown) => Promise<unknown>;

async function load<T>(name: string): Promise<T> {
  return (await import(name)) as T;
}

async function esbuild(folder: string, outfile: string, options: object): Promise<string> {
  const { build } = await load<{ build: Build }>("esbuild");
  await build({ absWorkingDir: folder, bundle: true, platform: "node", outfile, logLevel: "error", ...options });
  return outfile;
}

async function tsup(folder: string, out: string, options: object): Promise<void> {
  const { build } = await load<{ build: Build }>("tsup");
  const entry = { main: join(folder, "main.mjs") };
  await build({
    entry,
    config: false,
    outDir: out,
    outExtension: () => ({ js: ".js" }),
    silent: true,
    clean: false,
    platform: "node",
    target: "node20",
    noExternal: [/.*/],
    ...options,
  });
}

async function moduleType(out: string, type: "module" | "commonjs"): Promise<void> {
  await mkdir(out, { recursive: true });
  await writeFile(join(out, "package.json"), JSON.stringify({ type }));
}

export const bundlers: readonly Bundler[] = [
  {
    name: "esbuild, ES module",
    bundle: (folder, out, banner) =>
      esbuild(folder, join(out, "bundle.mjs"), { entryPoints: ["main.mjs"], format: "esm", banner: { js: banner } }),
  },
  {
    name: "esbuild, CommonJS",
    bundle: (folder, out) => esbuild(folder, join(out, "bundle.cjs"), { entryPoints: ["main.mjs"], format: "cjs" }),
  },
  {
    name: "esbuild, CommonJS of require",
    bundle: (folder, out) =>
      esbuild(folder, join(out, "bundle.cjs"), { entryPoints: ["main.cjs"], format: "cjs", minify: true }),
  },
  {
    name: "rollup",
    async bundle(folder, out) {
      const { rollup } = await load<{
        rollup: (options: unknown) => Promise<{ write: Build; close(): Promise<void> }>;
      }>("rollup");
      const { default: nodeResolve } = await load<{ default: (options: unknown) => unknown }>(
        "@rollup/plugin-node-resolve",
      );
      const { default: commonjs } = await load<{ default: () => unknown }>("@rollup/plugin-commonjs");
      const bundle = await rollup({
        input: join(folder, "main.mjs"),
        plugins: [nodeResolve({ preferBuiltins: true, exportConditions: ["node"] }), commonjs()],
        onwarn: () => undefined,
      });
      await bundle.write({ dir: out, format: "es", entryFileNames: "bundle.mjs", chunkFileNames: "[name].mjs" });
      await bundle.close();
      return join(out, "bundle.mjs");
    },
  },
  {
    name: "webpack",
    async bundle(folder, out) {
      interface Stats {
        hasErrors(): boolean;
        toString(options: unknown): string;
      }
      type Compiler = { close(done: () => void): void };
      type Webpack = (options: unknown, done: (error: Error | null, stats?: Stats) => void) => Compiler;
      const { default: webpack } = await load<{ default: Webpack }>("webpack");
      await new Promise<void>((resolve, reject) => {
        const options = {
          context: folder,
          entry: "./main.mjs",
          target: "node",
          mode: "production",
          output: { path: out, filename: "bundle.cjs" },
        };
        const compiler = webpack(options, (error, stats) => {
          compiler.close(() => {
            if (error !== null) reject(error);
            else if (stats?.hasErrors() === true) reject(new Error(stats.toString({ all: false, errors: true })));
            else resolve();
          });
        });
      });
      return join(out, "bundle.cjs");
    },
  },
  {
    name: "Vite, SSR",
    async bundle(folder, out) {
      const { build } = await load<{ build: Build }>("vite");
      await build({
        root: folder,
        configFile: false,
        logLevel: "error",
        build: { ssr: join(folder, "main.mjs"), outDir: out, emptyOutDir: false },
        ssr: { noExternal: true },
      });
      await moduleType(out, "module");
      return join(out, "main.mjs");
    },
  },
  {
    name: "ncc",
    async bundle(folder, out) {
      interface Result {
        readonly code: string;
        readonly assets: Readonly<Record<string, { readonly source: string | Buffer }>>;
      }
      const { default: ncc } = await load<{ default: (entry: string, options: unknown) => Promise<Result> }>(
        "@vercel/ncc",
      );
      const { code, assets } = await ncc(join(folder, "main.cjs"), { cache: false, quiet: true });
      await mkdir(out, { recursive: true });
      await writeFile(join(out, "index.js"), code);
      for (const [name, { source }] of Object.entries(assets)) {
        await mkdir(dirname(join(out, name)), { recursive: true });
        await writeFile(join(out, name), source);
      }
      await moduleType(out, "commonjs");
      return join(out, "index.js");
    },
  },
  {
    name: "tsup, ES module",
    async bundle(folder, out, banner) {
      await tsup(folder, out, { format: "esm", banner: { js: banner } });
      await moduleType(out, "module");
      return join(out, "main.js");
    },
  },
  {
    name: "tsup, CommonJS",
    async bundle(folder, out) {
      await tsup(folder, out, { format: "cjs" });
      await moduleType(out, "commonjs");
      return join(out, "main.js");
    },
  },
];
