import { defineConfig, globalIgnores } from "eslint/config";
import tseslint from "typescript-eslint";

export default defineConfig(
  // bench/ is a package of its own, with dependencies that are not installed here.
  globalIgnores(["dist/", "bench/", "**/node_modules/"]),
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
);
