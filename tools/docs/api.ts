/**
 * The reference: every export with its doc comment, as markdown. It is made of the syntax of `lib/` alone, so that it
 * takes neither a build nor types, and no other tool: those that there are bring tens of megabytes for as much.
 */
import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const root = fileURLToPath(new URL("../..", import.meta.url));

const ENTRIES = [
  { name: "unibus-membership", file: "lib/index.ts" },
  { name: "unibus-membership/testing", file: "lib/testing/index.ts" },
] as const;

const HEAD = `# API reference

Made of the doc comments by \`npm run docs\`, and checked to be current by \`npm run docs:check\`: change \`lib/\`, not this file. The contract that all
stores keep is told at [\`Store\`](#store), the codes of errors in [errors.md](errors.md).
`;

type Declaration =
  | ts.FunctionDeclaration
  | ts.ClassDeclaration
  | ts.InterfaceDeclaration
  | ts.TypeAliasDeclaration
  | ts.VariableStatement;

interface Entry {
  readonly name: string;
  readonly source: ts.SourceFile;
  readonly node: Declaration;
}

async function parse(file: string): Promise<ts.SourceFile> {
  const text = await readFile(join(root, file), "utf8");
  return ts.createSourceFile(file, text, ts.ScriptTarget.ES2022, true);
}

/** What a file exports out of others, by name, in the order in which it does. */
async function exportsOf(file: string): Promise<Entry[]> {
  const source = await parse(file);
  const found: Entry[] = [];
  for (const statement of source.statements) {
    if (!ts.isExportDeclaration(statement)) continue;
    const { moduleSpecifier, exportClause } = statement;
    if (moduleSpecifier === undefined || !ts.isStringLiteral(moduleSpecifier)) throw new Error(`${file}: export from`);
    if (exportClause === undefined || !ts.isNamedExports(exportClause))
      throw new Error(`${file}: exports by name only`);
    const from = join(dirname(file), moduleSpecifier.text.replace(/\.js$/, ".ts"));
    for (const { name } of exportClause.elements) found.push(await declared(name.text, from));
  }
  return found;
}

/** The declaration of a name, in the file or in one that it takes the name from. */
async function declared(name: string, file: string): Promise<Entry> {
  const source = await parse(file);
  for (const node of source.statements) if (isDeclaration(node) && nameOf(node) === name) return { name, source, node };
  for (const node of source.statements) {
    const from = takenFrom(node, name);
    if (from !== undefined) return await declared(name, join(dirname(file), from.replace(/\.js$/, ".ts")));
  }
  throw new Error(`${file} has no ${name}`);
}

function takenFrom(node: ts.Statement, name: string): string | undefined {
  let names: ts.NamedExportBindings | ts.NamedImportBindings | undefined;
  if (ts.isExportDeclaration(node)) names = node.exportClause;
  else if (ts.isImportDeclaration(node)) names = node.importClause?.namedBindings;
  else return undefined;
  if (names === undefined || !(ts.isNamedExports(names) || ts.isNamedImports(names))) return undefined;
  const { moduleSpecifier } = node;
  if (moduleSpecifier === undefined || !ts.isStringLiteral(moduleSpecifier)) return undefined;
  return names.elements.some((each) => each.name.text === name) ? moduleSpecifier.text : undefined;
}

function isDeclaration(node: ts.Statement): node is Declaration {
  return (
    ts.isFunctionDeclaration(node) ||
    ts.isClassDeclaration(node) ||
    ts.isInterfaceDeclaration(node) ||
    ts.isTypeAliasDeclaration(node) ||
    ts.isVariableStatement(node)
  );
}

function nameOf(node: Declaration): string | undefined {
  if (!ts.isVariableStatement(node)) return node.name?.text;
  const [first] = node.declarationList.declarations;
  return first !== undefined && ts.isIdentifier(first.name) ? first.name.text : undefined;
}

/** The text from where the node begins, without its own comment but with those inside. */
function textOf(node: ts.Node, source: ts.SourceFile, end = node.getEnd()): string {
  return source.text.slice(node.getStart(source), end).trimEnd();
}

const isPrivate = (member: ts.ClassElement): boolean =>
  (member.name !== undefined && ts.isPrivateIdentifier(member.name)) ||
  ts.isClassStaticBlockDeclaration(member) ||
  (ts.canHaveModifiers(member) &&
    (ts.getModifiers(member)?.some(({ kind }) => kind === ts.SyntaxKind.PrivateKeyword) ?? false));

/** A member of a class with its comment, and without what it does. */
function memberText(member: ts.ClassElement, source: ts.SourceFile): string {
  const body = "body" in member ? (member.body as ts.Node | undefined) : undefined;
  const end =
    body?.getStart(source) ?? (ts.isPropertyDeclaration(member) ? member.initializer?.getFullStart() : undefined);
  const [comment] = ts.getJSDocCommentsAndTags(member);
  const text = textOf(member, source, end)
    .replace(/ =$/, "")
    .replace(/^(?:declare|async) /, "");
  return `  ${comment === undefined ? "" : `${comment.getText(source)}\n  `}${text.replace(/;?$/, ";")}`;
}

function signature({ node, source }: Entry): string {
  if (ts.isFunctionDeclaration(node)) return `${textOf(node, source, node.body?.getStart(source))};`;
  if (ts.isVariableStatement(node)) {
    const [first] = node.declarationList.declarations;
    const type = first?.type;
    if (first === undefined || type === undefined) throw new Error("an exported value says its type");
    return `const ${first.name.getText(source)}: ${type.getText(source)};`;
  }
  if (!ts.isClassDeclaration(node)) return textOf(node, source);
  const members = node.members.filter((member) => !isPrivate(member));
  const [first] = node.members;
  const head = textOf(node, source, first?.getFullStart());
  return `${head}\n${members.map((member) => memberText(member, source)).join("\n")}\n}`;
}

/** `declare` and `export` are of the file, not of what it says. */
const shown = (entry: Entry): string =>
  signature(entry)
    .replace(/^export (?:declare )?(?:abstract )?/, "")
    .replace(/^async function/, "function");

interface Told {
  readonly text: string;
  readonly examples: readonly string[];
}

/** The doc comment: what it says, and its examples. Only some of what stands before a declaration is one. */
function told({ node, source }: Entry): Told {
  const comments = ts.getJSDocCommentsAndTags(node).filter((each) => ts.isJSDoc(each));
  const comment = comments.at(-1)?.getText(source);
  return comment === undefined ? { text: "", examples: [] } : partsOf(comment);
}

function partsOf(comment: string): Told {
  const lines = comment
    .replace(/^\/\*\*/, "")
    .replace(/\*\/$/, "")
    .split("\n")
    .map((line) => line.replace(/^\s*\* ?/, ""));
  const [text = "", ...examples] = lines.join("\n").split(/^@example\n/m);
  return { text: text.trim(), examples: examples.map((each) => each.trimEnd()) };
}

function markdown(entry: Entry, known: ReadonlySet<string>): string {
  const { text, examples } = told(entry);
  const linked = text.replaceAll(/\{@link ([\w.]+)\}/g, (_, name: string) => {
    const [owner = ""] = name.split(".");
    return known.has(owner) ? `[\`${name}\`](#${owner.toLowerCase()})` : `\`${name}\``;
  });
  return [
    `### ${entry.name}`,
    ...(linked === "" ? [] : [linked]),
    `\`\`\`ts\n${shown(entry)}\n\`\`\``,
    ...examples.map((example) => `Example:\n\n\`\`\`ts\n${example}\n\`\`\``),
  ].join("\n\n");
}

const KINDS = ["Functions", "Classes", "Types"] as const;

function kindOf({ node }: Entry): (typeof KINDS)[number] {
  if (ts.isFunctionDeclaration(node) || ts.isVariableStatement(node)) return "Functions";
  return ts.isClassDeclaration(node) ? "Classes" : "Types";
}

const entries = (): Promise<{ readonly name: string; readonly found: readonly Entry[] }[]> =>
  Promise.all(ENTRIES.map(async ({ name, file }) => ({ name, found: await exportsOf(file) })));

/** What each entry exports. */
export async function names(): Promise<
  { readonly entry: string; readonly found: readonly { readonly name: string; readonly isType: boolean }[] }[]
> {
  return (await entries()).map(({ name: entry, found }) => ({
    entry,
    found: found.map((each) => ({ name: each.name, isType: kindOf(each) === "Types" })),
  }));
}

/** Every example of what is exported, and of what belongs to it. */
export async function examples(): Promise<string[]> {
  const found: string[] = [];
  const look = (node: ts.Node, source: ts.SourceFile): void => {
    for (const comment of ts.getJSDocCommentsAndTags(node))
      if (ts.isJSDoc(comment)) found.push(...partsOf(comment.getText(source)).examples);
    if (ts.isInterfaceDeclaration(node) || ts.isClassDeclaration(node))
      for (const member of node.members) look(member, source);
  };
  for (const { found: all } of await entries()) for (const { node, source } of all) look(node, source);
  return found;
}

/** docs/api.md, as it has to be. */
export async function apiReference(): Promise<string> {
  const all = await entries();
  const known = new Set(all.flatMap(({ found }) => found.map(({ name }) => name)));
  const parts = [HEAD.trim()];
  for (const { name, found } of all) {
    parts.push(`## ${name}`);
    for (const kind of KINDS) {
      const names = found.filter((entry) => kindOf(entry) === kind).map((entry) => entry.name);
      if (names.length > 0)
        parts.push(`${kind}: ${names.map((each) => `[\`${each}\`](#${each.toLowerCase()})`).join(", ")}.`);
    }
    for (const kind of KINDS) for (const entry of found) if (kindOf(entry) === kind) parts.push(markdown(entry, known));
  }
  return `${parts.join("\n\n")}\n`;
}
