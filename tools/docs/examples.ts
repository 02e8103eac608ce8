/**
 * The examples of the doc comments, compiled: each is the body of a function, in one file that is never written. What
 * stands around an example in an app is declared here.
 */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";
import { examples, names } from "./api.js";

const root = fileURLToPath(new URL("../..", import.meta.url));
/** Beside the specs, whose settings it is compiled with. */
const FILE = join(root, "spec", "examples-of-doc-comments.ts");

const AROUND = `
import assert from "node:assert/strict";
import { createReadStream, createWriteStream } from "node:fs";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGunzip, createGzip } from "node:zlib";
import { connect, type NatsConnection as Client } from "nats";

declare const store: Store;
declare const sqlite: Store;
declare const cluster: Store;
declare const source: Store;
declare const nc: Client;
declare const server: NatsServer;
declare const key: string;
declare const sealedKey: Uint8Array;
declare const request: { readonly signKey: string };
declare const message: { readonly subject: string };
declare const socket: { close(): void };
declare const log: Pick<Console, "info" | "warn">;
declare function serve(given: typeof request): void;
declare function refuse(): void;
declare function kick(user: string): void;
declare function startApp(options: { store: Store }): unknown;
`;

async function program(): Promise<string> {
  const imported = (await names()).map(
    ({ entry, found }) =>
      `import { ${found.map(({ name, isType }) => (isType ? `type ${name}` : name)).join(", ")} } from "${entry}";`,
  );
  const bodies = (await examples()).map((code, i) => `export async function example${String(i)}() {\n${code}\n}`);
  return `${imported.join("\n")}${AROUND}${bodies.join("\n")}\n`;
}

/** What the compiler says of examples that do not hold. */
export async function wrongExamples(): Promise<string[]> {
  const text = await program();
  const config = ts.getParsedCommandLineOfConfigFile(
    join(root, "tsconfig.json"),
    {
      noUnusedLocals: false,
      noUnusedParameters: false,
      noImplicitReturns: false,
      noPropertyAccessFromIndexSignature: false,
    },
    { ...ts.sys, onUnRecoverableConfigFileDiagnostic: () => undefined },
  );
  const options: ts.CompilerOptions = {
    ...config?.options,
    paths: {
      "unibus-membership": [join(root, "lib/index.ts")],
      "unibus-membership/testing": [join(root, "lib/testing/index.ts")],
    },
  };
  const host = ts.createCompilerHost(options);
  const read = host.getSourceFile.bind(host);
  host.getSourceFile = (name, ...rest) =>
    name === FILE ? ts.createSourceFile(name, text, ts.ScriptTarget.ES2022, true) : read(name, ...rest);
  const exists = host.fileExists.bind(host);
  host.fileExists = (name) => name === FILE || exists(name);
  const built = ts.createProgram([FILE], options, host);
  const source = built.getSourceFile(FILE);
  const lines = text.split("\n");
  return [...built.getSyntacticDiagnostics(source), ...built.getSemanticDiagnostics(source)].map((each) => {
    const line = source === undefined ? 0 : source.getLineAndCharacterOfPosition(each.start ?? 0).line;
    return `an example of a doc comment: ${ts.flattenDiagnosticMessageText(each.messageText, " ")}: ${lines[line] ?? ""}`;
  });
}
