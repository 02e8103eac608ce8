/** What is checked of the documents: their code, their links, and the reference. */
import { existsSync, readdirSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { dirname, join, posix } from "node:path";
import { fileURLToPath } from "node:url";
import type { Figures } from "../../bench/figures.js";
import { COMMAND, FIGURES, PAGE, pageOf } from "../../bench/page.js";
import { apiReference } from "./api.js";

export const root = fileURLToPath(new URL("../..", import.meta.url));
export const API = "docs/api.md";
/** Made of the doc comments: what it shows stands in `lib/`. */
const GENERATED = [API];

const read = (path: string): Promise<string> => readFile(join(root, path), "utf8");

/** Every document, in the order of their paths. */
export function documents(): string[] {
  const top = readdirSync(root).filter((name) => name.endsWith(".md"));
  const below = ["bench", "docs", "example", "matrix"].flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true, encoding: "utf8" })
      .filter((path) => path.endsWith(".md") && !path.includes("node_modules"))
      .map((path) => posix.join(folder, path.replaceAll("\\", "/"))),
  );
  return [...top, ...below].sort();
}

/** The code of documents that is not part of the file which it names. The README's is run by a spec of its own. */
export async function wrongCode(): Promise<string[]> {
  const wrong: string[] = [];
  for (const document of documents()) {
    if (document === "README.md" || GENERATED.includes(document)) continue;
    for (const [, label = "", code = ""] of (await read(document)).matchAll(/^```(.*)\n([^]*?)^```$/gm)) {
      const [language, path = "", ...more] = label.split(" ");
      if (["sh", "text"].includes(label)) continue;
      const isKnown = ["ts", "js"].includes(language ?? "") && path !== "" && more.length === 0;
      if (!isKnown) wrong.push(`${document}: a block is \`text\`, \`sh\`, or names its file: ${label}`);
      else if (!existsSync(join(root, path))) wrong.push(`${document}: there is no ${path}`);
      else if (!(await read(path)).includes(code)) wrong.push(`${document}: ${path} has not:\n${code}`);
    }
  }
  return wrong;
}

/** As the hosts of repositories make it of a heading. */
export function anchorOf(heading: string): string {
  return heading
    .trim()
    .toLowerCase()
    .replaceAll(/\[([^\]]*)\]\([^)]*\)/g, "$1")
    .replaceAll(/[^\p{L}\p{N}_\- ]/gu, "")
    .replaceAll(" ", "-");
}

/** Code is no text: what looks like a link there is none. */
const withoutCode = (text: string): string =>
  text.replaceAll(/^```[^]*?^```$/gm, "").replaceAll(/`[^`\n]*`/g, (code) => code.replaceAll(/[[\]()]/g, " "));

/** The second heading of a name has a number behind it. */
export function anchorsOf(text: string): Set<string> {
  const anchors = new Set<string>();
  for (const [, heading = ""] of text.replaceAll(/^```[^]*?^```$/gm, "").matchAll(/^#+ (.*)$/gm)) {
    const anchor = anchorOf(heading);
    let unique = anchor;
    for (let i = 1; anchors.has(unique); i++) unique = `${anchor}-${String(i)}`;
    anchors.add(unique);
  }
  return anchors;
}

/** Where the repository is, as package.json says it. Whole addresses into it are looked up here. */
async function ownAddress(): Promise<string> {
  const { repository } = JSON.parse(await read("package.json")) as { repository: { url: string } };
  return repository.url.replace(/^git\+/, "").replace(/\.git$/, "/blob/main/");
}

/** Links that lead nowhere. Those to other sites are not followed. */
export async function wrongLinks(): Promise<string[]> {
  const own = await ownAddress();
  const anchors = new Map<string, Set<string>>();
  const wrong: string[] = [];
  for (const document of documents()) {
    const text = withoutCode(await read(document));
    const inline = [...text.matchAll(/\]\(([^)\s]+)\)/g)].map(([, target = ""]) => target);
    const defined = new Map([...text.matchAll(/^\[([^\]]+)\]: (\S+)$/gm)].map(([, name = "", to = ""]) => [name, to]));
    for (const [, name = ""] of text.matchAll(/\]\[([^\]]+)\]/g))
      if (!defined.has(name)) wrong.push(`${document}: [${name}] is not defined`);
    for (const target of [...inline, ...defined.values()]) {
      const isOwn = target.startsWith(own);
      if (!isOwn && /^[a-z]+:/.test(target)) continue;
      const [path = "", anchor] = (isOwn ? target.slice(own.length) : target).split("#");
      const file = path === "" ? document : isOwn ? path : posix.join(dirname(document), path);
      if (!existsSync(join(root, file))) wrong.push(`${document}: ${target}: there is no ${file}`);
      else if (anchor !== undefined) {
        if (!anchors.has(file)) anchors.set(file, anchorsOf(await read(file)));
        if (anchors.get(file)?.has(anchor) !== true) wrong.push(`${document}: ${target}: no such heading`);
      }
    }
  }
  return wrong;
}

export async function isReferenceCurrent(): Promise<boolean> {
  return (await read(API)) === (await apiReference());
}

/** Where the page of benchmarks is not what its command makes of the figures that were measured. */
export async function wrongBenchmarks(folder = root): Promise<string[]> {
  const isThere = (path: string): boolean => existsSync(join(folder, path));
  const plots = dirname(FIGURES);
  if (!isThere(FIGURES)) return [PAGE, plots].filter(isThere).map((path) => `${path} is not of ${COMMAND}`);
  const text = (path: string): Promise<string> => readFile(join(folder, path), "utf8");
  const pages = pageOf(JSON.parse(await text(FIGURES)) as Figures);
  const wrong: string[] = [];
  for (const [path, made] of pages)
    if (!isThere(path) || (await text(path)) !== made) wrong.push(`${path} is not what ${COMMAND} makes of ${FIGURES}`);
  for (const name of readdirSync(join(folder, plots))) {
    const path = posix.join(plots, name);
    if (path !== FIGURES && !pages.has(path)) wrong.push(`${path} is not of ${COMMAND}`);
  }
  return wrong;
}
