import { expect } from "chai";
import { execFile } from "node:child_process";
import { readdir } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const run = promisify(execFile);
const root = fileURLToPath(new URL("..", import.meta.url));

const leftovers = async (): Promise<string[]> =>
  (await readdir(tmpdir())).filter((name) => name.startsWith("unibus-example-"));

describe("the example", function () {
  this.timeout(120_000);

  const transcripts: string[] = [];
  for (const [name, options] of [
    ["on a SQLite file", []],
    ["on a cluster of three nats-servers", ["--jetstream"]],
    ["from the file to the cluster", ["--move"]],
  ] as const) {
    it(`goes through ${name} without a surprise and leaves nothing behind`, async () => {
      const before = await leftovers();
      const { stdout } = await run(process.execPath, ["--import", "tsx", join(root, "example/main.ts"), ...options], {
        cwd: root,
        timeout: 100_000,
      });
      expect(stdout).to.include("killed with SIGKILL");
      expect(stdout.trim().split("\n").at(-1)).to.equal("Everything was as it should be.");
      // A run beside this one may come and go: only what is new counts, and only for a while.
      expect((await leftovers()).filter((folder) => !before.includes(folder))).to.deep.equal([]);
      transcripts.push(stdout);
    });
  }

  it("tells the same story on both", () => {
    const story = transcripts.slice(0, 2).map((text) =>
      text
        .split("\n")
        .filter((line) => line.startsWith("  "))
        .map((line) => line.replace(/[0-9a-f]{8}\.\.\./, "key").replace(/All \d+ guests/, "All guests")),
    );
    expect(story).to.have.length(2);
    expect(story[0]).to.deep.equal(story[1]).and.have.length.greaterThan(15);
  });

  it("refuses an option that it does not know", async () => {
    const refused = await run(process.execPath, ["--import", "tsx", join(root, "example/main.ts"), "--jetsream"], {
      cwd: root,
    }).then(
      () => 0,
      (error: unknown) => (error as { code?: number }).code,
    );
    expect(refused).to.equal(1);
  });
});
