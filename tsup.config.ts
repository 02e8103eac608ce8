import { defineConfig } from "tsup";

export default defineConfig({
  entry: { index: "lib/index.ts", testing: "lib/testing/index.ts" },
  format: ["esm", "cjs"],
  target: "node20",
  platform: "node",
  // In CommonJS too: a backend and its driver are loaded when a store is opened, not when the package is.
  splitting: true,
  treeshake: true,
  sourcemap: false,
  minify: false,
  clean: true,
  // The `node:` prefix cannot be shadowed by a package of the same name.
  removeNodeProtocol: false,
  // Store extends AsyncDisposable: a consumer's own `lib` need not name it.
  dts: { banner: '/// <reference lib="esnext.disposable" />' },
});
