/** The guides for developers show code that is there, and name files and commands that are there. */
import { expect } from "chai";
import { existsSync, readdirSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const read = (path: string): Promise<string> => readFile(join(root, path), "utf8");

describe("the documents", () => {
  /** What is part of a file is compiled, linted and tested with it. The README's code is run by a spec of its own. */
  it("have only code that stands so in the file that it names", async () => {
    const documents = ["CONTRIBUTING.md", "bench/README.md", "matrix/README.md"].concat(
      readdirSync(join(root, "docs"), { recursive: true, encoding: "utf8" })
        .filter((path) => path.endsWith(".md"))
        .map((path) => join("docs", path)),
    );
    let shown = 0;
    for (const document of documents) {
      for (const [, label = "", code = ""] of (await read(document)).matchAll(/^```(.*)\n([^]*?)^```$/gm)) {
        const [language, path, ...more] = label.split(" ");
        if (["sh", "text"].includes(label)) continue;
        expect([language, more.length], `${document}: ${label}`).to.deep.equal(["ts", 0]);
        expect((await read(path ?? "")).includes(code), `${document}: ${label}:\n${code}`).to.equal(true);
        shown++;
      }
    }
    expect(shown).to.be.greaterThan(0);
  });
});

for (const guide of ["docs/adding-a-backend.md", "CONTRIBUTING.md"]) {
  describe(guide, () => {
    let text: string;
    before(async () => {
      text = await read(guide);
    });

    it("names only files that are there", () => {
      const named = [...text.matchAll(/`((?:bench|docs|example|lib|matrix|spec|tools)\/[\w./-]*)`/g)].map(
        ([, path = ""]) => path,
      );
      const linked = [...text.matchAll(/\]\(([^):]+)\)/g)].map(([, path = ""]) => join(dirname(guide), path));
      expect(named.length).to.be.greaterThan(5);
      expect([...named, ...linked].filter((path) => !existsSync(join(root, path)))).to.deep.equal([]);
    });

    it("names only commands that are there", async () => {
      const { scripts } = JSON.parse(await read("package.json")) as { scripts: Readonly<Record<string, string>> };
      const commands = [...text.matchAll(/npm run ([\w:-]+)/g)].map(([, name = ""]) => name);
      expect(commands.length).to.be.greaterThan(0);
      expect(commands.filter((name) => scripts[name] === undefined)).to.deep.equal([]);
    });
  });
}

describe("docs/architecture.md", () => {
  it("has every file of the library on its map, and no other", async () => {
    const text = await read("docs/architecture.md");
    const named = new Set([...text.matchAll(/([\w-]+(?:\.d)?\.ts)\b/g)].map(([, name = ""]) => name));
    const folders = ["lib", "lib/jetstream", "lib/sqlite", "lib/transfer"];
    const there = folders.flatMap((folder) => readdirSync(join(root, folder)).filter((name) => name.endsWith(".ts")));
    const other = readdirSync(join(root, "lib/memory"));
    expect(there.filter((name) => !named.has(name))).to.deep.equal([]);
    expect([...named].filter((name) => ![...there, ...other].includes(name))).to.deep.equal([]);
  });
});

describe("docs/model/README.md", () => {
  it("names only functions that stand in the file that it names", async () => {
    const text = await read("docs/model/README.md");
    const rows = text.split("\n").filter((line) => /^\|.*`[\w-]+\.ts`/.test(line));
    expect(rows.length).to.be.greaterThan(15);
    const missing: string[] = [];
    for (const row of rows) {
      for (const part of (row.split("|")[2] ?? "").split(";")) {
        const [, file = "", names = ""] = /`([\w-]+\.ts)`(.*)/.exec(part) ?? [];
        if (file === "") continue;
        const code = await read(`lib/jetstream/${file}`);
        for (const [, name = ""] of names.matchAll(/`(?:\w+\.)?(#?\w+)`/g))
          if (!new RegExp(`${name}\\b`).test(code)) missing.push(`${file} ${name}`);
      }
    }
    expect(missing).to.deep.equal([]);
  });
});
