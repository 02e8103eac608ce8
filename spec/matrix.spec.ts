import { expect } from "chai";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { startNatsServer, type NatsServer } from "unibus-membership/testing";
import { bundlerCells, packageManagerCells, packageOfBundler, runtimeCells, type Cell } from "../matrix/cells.js";
import { bundlers } from "../matrix/bundlers.js";
import { testRunnerCells } from "../matrix/test-runners.js";
import { PARTS, program } from "../matrix/program.js";
import { Sandbox, onThisNode, root } from "../matrix/sandbox.js";

const ALL_WELL = { file: true, thread: true, memory: true, jetstream: true };

/** The tools of these are there in every clone; `npm run matrix` has the others. */
const SHORT = [
  "esbuild, ES module",
  "esbuild, CommonJS",
  "esbuild, CommonJS of require",
  "tsup, ES module",
  "tsup, CommonJS",
  "npm",
];

describe("the matrix, in short", function () {
  this.timeout(180_000);
  let server: NatsServer;
  let sandbox: Sandbox;
  before(async () => {
    server = await startNatsServer();
    sandbox = await Sandbox.make(server.url);
  });
  after(async () => {
    await sandbox.dispose();
    await server.dispose();
  });

  const thisNode = { ...onThisNode, name: "this Node" };
  const cells = new Map<string, Cell>();
  for (const cell of [...bundlerCells([thisNode], packageOfBundler), ...packageManagerCells(), ...runtimeCells()])
    cells.set(cell.name, cell);

  for (const runner of ["node:test", "Mocha"]) {
    it(`tests by ${runner}`, async () => {
      const cell = testRunnerCells().find(({ name }) => name === `tests by ${runner}`);
      expect(await cell?.run(sandbox)).to.deep.equal({ memory: true });
    });
  }

  for (const name of [...SHORT, `Node ${process.versions.node}`]) {
    it(name, async () => {
      const cell = cells.get(name);
      if (cell === undefined) throw new Error("there is no such cell");
      expect(cell.missing).to.equal(undefined);
      expect(await cell.run(sandbox)).to.deep.equal(ALL_WELL);
    });
  }

  it("files whose handles cannot sync, as those of Yarn's Plug'n'Play", async () => {
    const app = await sandbox.app();
    await sandbox.installByNpm(app);
    await writeFile(
      join(app, "handles.cjs"),
      `
      const { open } = require("node:fs").promises;
      const lacking = () => { throw new Error("Method not implemented."); };
      module.exports = open(__filename).then(async (handle) => {
        Object.assign(Object.getPrototypeOf(handle), { sync: lacking, datasync: lacking });
        await handle.close();
      });`,
    );
    await writeFile(
      join(app, "lacking.mjs"),
      `import handles from "./handles.cjs";\nawait handles;\nawait import("./main.mjs");\n`,
    );
    expect(await sandbox.check(onThisNode, join(app, "lacking.mjs"), app)).to.deep.equal(ALL_WELL);
  });

  it("says which part failed, and why: otherwise a cell could not fail", async () => {
    const app = await sandbox.app();
    await sandbox.installByNpm(app);
    const wrong = program("esm").replaceAll('(store, "ffff")', '(store, "a1b2")');
    expect(wrong).not.to.equal(program("esm"));
    await writeFile(join(app, "main.mjs"), wrong);
    const report = await sandbox.check(onThisNode, join(app, "main.mjs"), app);
    expect(report.file).to.equal(true);
    expect(report.memory).to.match(/checks: \[true,true,true\]/);
    await writeFile(join(app, "main.mjs"), "console.log('{}')");
    const nothing = await sandbox.check(onThisNode, join(app, "main.mjs"), app);
    for (const part of PARTS) expect(nothing[part]).not.to.equal(true);
  });

  it("knows every bundler that the README names", async () => {
    const readme = await readFile(join(root, "README.md"), "utf8");
    const [, named = ""] = /lose: ([^]*?)take it as it is/.exec(readme) ?? [];
    const tools = named
      .replaceAll(/\s+/g, " ")
      .split(/,| and /)
      .map((name) => name.replace("(SSR)", "").trim())
      .filter((name) => name !== "");
    expect(tools).to.have.length.greaterThan(4);
    for (const tool of tools)
      expect(
        bundlers.some(({ name }) => name.startsWith(tool)),
        tool,
      ).to.equal(true);
  });

  it("downloads from no address that is written down", async () => {
    for (const folder of [".", "matrix", "bench"]) {
      expect(await readFile(join(root, folder, "package-lock.json"), "utf8")).not.to.contain('"resolved": "http');
    }
  });
});
