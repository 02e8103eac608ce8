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
/** The one place here that names the backends. */
const BACKEND_NAMES = ["sqlite", "jetstream", "memory"];
/** @param {string} [but] */
const backends = (but) => BACKEND_NAMES.filter((name) => name !== but).map((name) => `**/${name}/*`);

const ENTRY = ["**/index.js", "**/config.js", "**/config-from-env.js", "**/backends.js", "**/testing/*"];
const FRONT = [...ENTRY, "**/transfer/*", "**/inspect/*"];
const WATCH = "**/watch/*";
const SESSIONS = "**/sessions/*";
/** @param {string} name */
const notForBackend = (name) => [...backends(name), ...FRONT, WATCH, SESSIONS, "**/authorization.js"];

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
      // The formatter keeps code to the width of .editorconfig, and leaves comments as they are.
      "max-len": ["error", { code: 10_000, comments: 120, ignoreUrls: true }],
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
    ["lib/findings.ts", "lib/moment.ts", "lib/progress.ts", "lib/notify.ts", "lib/spool.ts"],
    ["./*", "../*", "!./notify.js"],
  ),
  layer(
    [
      "lib/rules.ts",
      "lib/moves.ts",
      "lib/copies.ts",
      "lib/diagnostics.ts",
      "lib/call.ts",
      "lib/arguments.ts",
      "lib/signal.ts",
      "lib/subject-token.ts",
    ],
    [...backends(), ...FRONT, "**/driver.js", "**/membership-store.js", "**/authorization.js"],
  ),
  layer(["lib/driver.ts"], [...backends(), ...FRONT, "**/membership-store.js", "**/authorization.js"]),
  layer(
    ["lib/changed-names.ts", "lib/noted-grants.ts"],
    [...backends(), ...FRONT, "**/membership-store.js", "**/authorization.js"],
  ),
  layer(["lib/authorization.ts"], [...backends(), ...FRONT, "**/driver.js", "**/membership-store.js"]),
  layer(["lib/watch/*"], [...backends(), ...FRONT, SESSIONS, "**/membership-store.js", "**/authorization.js"]),
  layer(["lib/sessions/*"], [...backends(), ...FRONT, WATCH, "**/membership-store.js"]),
  layer(["lib/membership-store.ts", "lib/boolean-checks.ts", "lib/not-emptied.ts"], [...backends(), ...FRONT]),
  layer(["lib/faulty/*"], [...backends(), ...FRONT, WATCH, SESSIONS]),
  layer(["lib/transfer/*"], [...backends(), ...ENTRY, "**/inspect/*", WATCH, "**/authorization.js"]),
  layer(["lib/inspect/*"], [...backends(), ...ENTRY, "**/authorization.js"]),
  layer(
    ["lib/config.ts", "lib/config-from-env.ts", "lib/backends.ts", "lib/index.ts"],
    ["**/testing/*", "**/memory/*"],
  ),
  layer(
    ["lib/testing/**"],
    [
      ...backends("memory"),
      ...["transfer", "inspect"].map((name) => `**/${name}/*`),
      ...["config", "backends", "driver", "membership-store", "authorization", "rules", "call"].map(
        (name) => `../**/${name}.js`,
      ),
    ],
  ),
  ...BACKEND_NAMES.map((name) => layer([`lib/${name}/*`], notForBackend(name))),
  layer(["lib/jetstream/*"], notForBackend("jetstream"), [
    {
      name: "../rules.js",
      allowImportNames: [
        "MemberFacts",
        "RoomFacts",
        "UserFacts",
        "MAX_REVISION_FLOOR",
        "byCodePoint",
        "endsGrant",
        "isActive",
        "isActiveAdmin",
        "isRefusal",
        "sortedBy",
      ],
      message: "Rules that refuse come from freshness.ts, for what was read as certain.",
    },
  ]),
  layer(["lib/jetstream/freshness.ts"], notForBackend("jetstream")),
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
);
