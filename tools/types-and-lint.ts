// For npm test: what `npm run typecheck` and `npm run lint` say, in one process. Both need the types of all files,
// which take most of the time of each.

import { ESLint } from "eslint";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const root = fileURLToPath(new URL("..", import.meta.url));

const host: ts.FormatDiagnosticsHost = {
  getCanonicalFileName: (path) => path,
  getCurrentDirectory: () => root,
  getNewLine: () => "\n",
};

function tell(diagnostics: readonly ts.Diagnostic[]): void {
  if (diagnostics.length > 0) console.log(ts.formatDiagnostics(diagnostics, host));
}

function programOf(path: string): { readonly program: ts.Program; readonly errors: readonly ts.Diagnostic[] } {
  const errors: ts.Diagnostic[] = [];
  const config = ts.getParsedCommandLineOfConfigFile(
    path,
    {},
    { ...ts.sys, onUnRecoverableConfigFileDiagnostic: (error) => errors.push(error) },
  );
  errors.push(...(config?.errors ?? []));
  const program = ts.createProgram(config?.fileNames ?? [], config?.options ?? {});
  errors.push(...ts.getPreEmitDiagnostics(program));
  return { program, errors };
}

async function lint(program: ts.Program): Promise<number> {
  const eslint = new ESLint({
    cwd: root,
    overrideConfig: [
      {
        files: ["**/*.ts", "**/*.js"],
        languageOptions: { parserOptions: { projectService: false, programs: [program] } },
      },
    ],
  });
  const results = await eslint.lintFiles(["."]);
  const found = results.reduce((sum, { errorCount, warningCount }) => sum + errorCount + warningCount, 0);
  const formatter = await eslint.loadFormatter("stylish");
  if (found > 0) console.log(await formatter.format(results));
  return found;
}

const { program, errors } = programOf(join(root, "tsconfig.json"));
tell(errors);
const found = await lint(program);
process.exitCode = errors.length + found === 0 ? 0 : 1;
