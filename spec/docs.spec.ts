/** The guides for developers show code that is there, and name files and commands that are there. */
import { expect } from "chai";
import { existsSync, readdirSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Figures } from "../bench/figures.js";
import { COMMAND, FIGURES, PAGE, pageOf } from "../bench/page.js";
import {
  anchorOf,
  anchorsOf,
  documents,
  isReferenceCurrent,
  wrongBenchmarks,
  wrongCode,
  wrongLinks,
} from "../tools/docs/check.js";
import { wrongExamples } from "../tools/docs/examples.js";
import { KINDS } from "./soak/jetstream-kinds.js";

const root = fileURLToPath(new URL("..", import.meta.url));
const read = (path: string): Promise<string> => readFile(join(root, path), "utf8");

const measured: Figures = {
  isQuick: true,
  date: "2000-01-01",
  tookSeconds: 1,
  machine: ["a machine"],
  versions: [],
  sizes: [10],
  rounds: 1,
  groups: [
    {
      name: "process",
      series: (["check", "write"] as const).map((kind) => ({
        name: "a call",
        kind,
        isOneByOne: false,
        rates: [{ callers: 1, perSecond: 1234 }],
        cost: [{ records: 10, microseconds: 810.4 }],
      })),
    },
  ],
  standstill: [{ records: 10, of: [{ name: "a file", ms: 1 }] }],
  missing: [],
};

describe("the documents", function () {
  this.timeout(120_000);

  /** What is part of a file is compiled, linted and tested with it. The README's code is run by a spec of its own. */
  it("have only code that stands so in the file that it names", async () => {
    expect(await wrongCode()).to.deep.equal([]);
    expect(documents()).to.include.members(["README.md", "docs/guide.md", "matrix/README.md"]);
  });

  it("have only links that lead somewhere", async () => {
    expect(await wrongLinks()).to.deep.equal([]);
  });

  it("have a reference that is what the doc comments say: npm run docs", async () => {
    expect(await isReferenceCurrent()).to.equal(true);
  });

  it("have examples in the doc comments that compile", async () => {
    expect(await wrongExamples()).to.deep.equal([]);
  });

  it("have no figure of a benchmark that was not measured", async () => {
    expect(await wrongBenchmarks()).to.deep.equal([]);
  });

  it("are refused when a figure of a benchmark was changed by hand", async () => {
    const folder = await mkdtemp(join(tmpdir(), "unibus-docs-"));
    try {
      await mkdir(join(folder, dirname(FIGURES)), { recursive: true });
      expect(await wrongBenchmarks(folder)).to.deep.equal([`docs/benchmarks is not of ${COMMAND}`]);
      await writeFile(join(folder, FIGURES), JSON.stringify(measured));
      const pages = pageOf(measured);
      for (const [path, text] of pages) await writeFile(join(folder, path), text);
      expect(await wrongBenchmarks(folder)).to.deep.equal([]);

      const page = pages.get(PAGE) ?? "";
      expect(page).to.contain("| a call | 1,234 |");
      await writeFile(join(folder, PAGE), page.replace("1,234", "2,345"));
      await writeFile(join(folder, dirname(FIGURES), "other.svg"), "<svg/>");
      const wrong = await wrongBenchmarks(folder);
      expect(wrong.map((each) => each.split(" ")[0])).to.deep.equal([PAGE, "docs/benchmarks/other.svg"]);
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  it("take headings for what links call them", () => {
    expect([...anchorsOf("# A `b`, and C\n## `lib/x.ts`\n```sh\n# no heading\n```\n## A `b`, and C\n")]).to.deep.equal([
      "a-b-and-c",
      "libxts",
      "a-b-and-c-1",
    ]);
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
    const folders = [
      "lib",
      "lib/faulty",
      "lib/inspect",
      "lib/jetstream",
      "lib/sessions",
      "lib/sqlite",
      "lib/transfer",
      "lib/watch",
    ];
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

describe("docs/protocol.md", () => {
  let text: string;
  before(async () => {
    text = await read("docs/protocol.md");
  });

  /** `- **P1.** ...` or `- **P1. A sentence.** ...` */
  const labels = (): string[] => [...text.matchAll(/^- \*\*([A-Z]\d+)[. ]/gm)].map(([, label = ""]) => label);

  it("has each label once", () => {
    const found = labels();
    expect(found.length).to.be.greaterThan(90);
    expect(found.filter((label, i) => found.indexOf(label) !== i)).to.deep.equal([]);
  });

  it("cites only labels that are there", () => {
    const there = new Set(labels());
    const cited = [...text.matchAll(/\b([A-Z]\d{1,2})\b/g)].map(([, label = ""]) => label);
    expect(cited.filter((label) => !there.has(label))).to.deep.equal([]);
  });

  it("has the labels by which others cite it", async () => {
    const there = new Set(labels());
    const folders = ["lib", "docs", "spec", "tools", "bench"];
    const files = folders.flatMap((folder) =>
      readdirSync(join(root, folder), { recursive: true, encoding: "utf8" })
        .filter((path) => /\.(?:ts|md)$/.test(path) && !path.includes("node_modules"))
        .map((path) => join(folder, path)),
    );
    const wrong: string[] = [];
    let cited = 0;
    for (const file of files.concat("CONTRIBUTING.md", "README.md", "CHANGELOG.md")) {
      for (const [, found = ""] of (await read(file)).matchAll(
        /protocol\.md\)?,\s(?:\* )?((?:[A-Z]\d+(?:, | to | and )?)+)/g,
      )) {
        for (const [label] of found.matchAll(/[A-Z]\d+/g)) {
          cited++;
          if (!there.has(label)) wrong.push(`${file}: ${label}`);
        }
      }
    }
    expect(wrong).to.deep.equal([]);
    expect(cited).to.be.greaterThan(20);
  });

  it("has the arguments that the models take out", async () => {
    const there = new Set(labels());
    const taken = [...(await read("docs/model/README.md")).matchAll(/^\| `[A-Z_]+` \| ([^|]*) \|/gm)];
    expect(taken.length).to.be.greaterThan(35);
    expect(taken.map(([, label = ""]) => label).filter((label) => !there.has(label))).to.deep.equal([]);
  });

  it("names only files that are there, and links to headings that are there", () => {
    const library = readdirSync(join(root, "lib/jetstream"));
    const named = [...text.matchAll(/`([\w-]+\.ts)`/g)].map(([, name = ""]) => name);
    expect(named.filter((name) => !library.includes(name))).to.deep.equal([]);
    const headings = [...text.matchAll(/^#+ (.*)$/gm)].map(([, heading = ""]) => anchorOf(heading));
    const linked = [...text.matchAll(/\]\(#([^)]*)\)/g)].map(([, anchor = ""]) => anchor);
    expect(linked.filter((anchor) => !headings.includes(anchor))).to.deep.equal([]);
  });

  it("says of every kind of message that stays how large it is at most", () => {
    const rows = [...text.matchAll(/^\| ([\w ]+) \| (\d+) \| (\d+) \|/gm)].map(([, name, usual, longest]) => ({
      name,
      most: { usual: Number(usual), longest: Number(longest) },
    }));
    const byName = (a: { name?: string | undefined }, b: { name?: string | undefined }): number =>
      (a.name ?? "").localeCompare(b.name ?? "");
    expect(rows.sort(byName)).to.deep.equal(KINDS.map(({ name, most }) => ({ name, most })).sort(byName));
  });
});
