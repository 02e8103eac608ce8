import { defineConfig, globalIgnores } from "eslint/config";
import tseslint from "typescript-eslint";

/**
 * docs/architecture.md has the map: what a layer may not import.
 *
 * @param {string[]} files
 * @param {string[]} forbidden
 * @param {{ name: string, allowImportNames: string[], message: string }[]} paths
 * @returns {import("eslint").Linter.Config}
 */
const layer = (files, forbidden, paths = []) => ({
  files,
  rules: {
    "no-restricted-imports": [
      "error",
      { paths, patterns: [{ group: forbidden, message: "docs/architecture.md says what this layer may import." }] },
    ],
  },
});
const BACKENDS = ["**/sqlite/*", "**/jetstream/*", "**/memory/*"];
const FRONT = ["**/index.js", "**/config.js", "**/backends.js", "**/testing/*"];

const BESIDE_JETSTREAM = ["**/sqlite/*", "**/memory/*", ...FRONT, "**/authorization.js"];

export default defineConfig(
  globalIgnores(["dist/", "**/node_modules/"]),
  {
    files: ["**/*.ts", "**/*.js"],
    extends: [tseslint.configs.strictTypeChecked],
    languageOptions: {
      parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname },
    },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      eqeqeq: "error",
      // A check that nobody awaits fails open: a promise is always true.
      "@typescript-eslint/no-floating-promises": ["error", { checkThenables: true }],
      "@typescript-eslint/no-misused-promises": "error",
      "@typescript-eslint/switch-exhaustiveness-check": "error",
      "@typescript-eslint/consistent-type-imports": "error",
      // A number reads in a template as one expects; objects, arrays and what may be absent do not.
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true }],
      // `() => socket.destroy()` as a callback is idiom; a void kept in a variable is a mistake.
      "@typescript-eslint/no-confusing-void-expression": ["error", { ignoreArrowShorthand: true }],
    },
  },
  {
    files: ["{lib,bench,example,tools,matrix}/**/*.ts"],
    rules: {
      // A function fits on a screen.
      "max-lines-per-function": ["error", { max: 70, skipBlankLines: true, skipComments: true }],
    },
  },
  layer(["lib/store.ts", "lib/errors.ts"], ["./*", "../*"]),
  layer(
    ["lib/rules.ts", "lib/call.ts", "lib/arguments.ts", "lib/signal.ts"],
    [...BACKENDS, ...FRONT, "**/driver.js", "**/membership-store.js", "**/authorization.js"],
  ),
  layer(["lib/driver.ts"], [...BACKENDS, ...FRONT, "**/membership-store.js", "**/authorization.js"]),
  layer(["lib/membership-store.ts", "lib/authorization.ts"], [...BACKENDS, ...FRONT]),
  layer(["lib/sqlite/*"], ["**/jetstream/*", "**/memory/*", ...FRONT, "**/authorization.js"]),
  layer(["lib/jetstream/*"], BESIDE_JETSTREAM, [
    {
      name: "../rules.js",
      allowImportNames: [
        "MemberFacts",
        "RoomFacts",
        "UserFacts",
        "MAX_REVISION_FLOOR",
        "byCodePoint",
        "isActive",
        "isActiveAdmin",
        "isRefusal",
        "sortedBy",
      ],
      message: "Rules that refuse come from freshness.ts, for what was read as certain.",
    },
  ]),
  layer(["lib/jetstream/freshness.ts"], BESIDE_JETSTREAM),
  {
    files: ["lib/jetstream/*"],
    rules: {
      "no-restricted-syntax": [
        "error",
        {
          selector: "NewExpression[callee.name='StoreError'] > Literal[value=/^(NOT_FOUND|ALREADY_EXISTS|CONFLICT)$/]",
          message: "Rules that refuse come from freshness.ts, for what was read as certain.",
        },
      ],
    },
  },
  layer(["lib/memory/*"], ["**/sqlite/*", "**/jetstream/*", ...FRONT, "**/authorization.js"]),
);
