import { expect } from "chai";
import files, { constants, promises as fs } from "node:fs";
import { join } from "node:path";
import { run } from "../soak/sqlite-power.js";
import { run as runMutants } from "../soak/sqlite-mutants.js";
import { useFolder } from "./support/folder.js";
import { RecordedDisk, allLost, nothingLost, onlyData, onlyName, onlyNames } from "./support/recorded-disk.js";

describe("sqlite: a loss of power", function () {
  this.timeout(300_000);
  const folder = useFolder();

  it("on the disk that the following is tried on takes along whatever was not synced", async () => {
    const disk = await RecordedDisk.of(folder.path);
    const text = (moment: number, fate = allLost): Record<string, string> =>
      Object.fromEntries(
        [...disk.filesAt(moment, fate)].map(([name, bytes]) => [name, bytes.toString("latin1").replaceAll("\0", ".")]),
      );
    const write = (fd: number, word: string, position: number): Promise<unknown> =>
      new Promise((resolve, reject) =>
        files.write(fd, Buffer.from(word), 0, word.length, position, (error) =>
          error === null ? resolve(word) : reject(error),
        ),
      );
    const syncFolder = async (): Promise<void> => {
      const handle = await fs.open(folder.path, constants.O_RDONLY);
      await handle.sync();
      await handle.close();
    };
    try {
      const handle = await fs.open(folder.file("a"), "w");
      await write(handle.fd, "one", 0);
      expect(text(disk.moment)).to.deep.equal({});
      expect(text(disk.moment, onlyNames)).to.deep.equal({ a: "" });
      expect(text(disk.moment, nothingLost)).to.deep.equal({ a: "one" });
      await handle.sync();
      expect(text(disk.moment - 1, onlyNames), "a sync that has not ended").to.deep.equal({ a: "" });
      expect(text(disk.moment, onlyNames)).to.deep.equal({ a: "one" });
      await syncFolder();
      expect(text(disk.moment)).to.deep.equal({ a: "one" });
      await write(handle.fd, "x".repeat(600), 200);
      expect(text(disk.moment)).to.deep.equal({ a: "one" });
      // The second of its sectors alone.
      expect(
        text(disk.moment, { pick: (count, of) => (of === "length" || count > 1 ? count - 1 : 0) })["a"],
      ).to.have.length(800);
      await handle.close();

      const synced = await fs.open(folder.file("a"), constants.O_RDWR | constants.O_DSYNC);
      await write(synced.fd, "two", 0);
      expect(text(disk.moment - 1)["a"]?.slice(0, 3), "a write that has not ended").to.equal("one");
      expect(text(disk.moment)["a"]?.slice(0, 3)).to.equal("two");
      await synced.truncate(1);
      expect(text(disk.moment)["a"]?.slice(0, 3)).to.equal("two");
      await synced.datasync();
      expect(text(disk.moment)["a"]).to.equal("t");
      await synced.close();

      await fs.rename(folder.file("a"), folder.file("b"));
      await fs.unlink(folder.file("b"));
      expect(text(disk.moment)).to.deep.equal({ a: "t" });
      expect(text(disk.moment, onlyData)).to.deep.equal({ a: "t" });
      // Each by itself: renamed and not deleted, deleted and not renamed.
      expect(disk.unsyncedNames(disk.moment)).to.equal(2);
      expect(text(disk.moment, onlyName(0))).to.deep.equal({ b: "t" });
      expect(text(disk.moment, onlyName(1))).to.deep.equal({ a: "t" });
      await syncFolder();
      expect(text(disk.moment)).to.deep.equal({});
      disk.expectComplete();
      await fs.writeFile(join(folder.path, "unseen"), "");
      expect(() => disk.expectComplete()).to.throw();
    } finally {
      disk.end();
    }
  });

  it("at a moment of its life loses nothing of what a store acknowledged, and leaves nothing half or damaged", async () => {
    const result = await run({ seconds: 0, seed: 20_260_711, rounds: 2, share: 0.15 });
    expect(result.rounds).to.equal(2);
    expect(result.losses).to.be.at.least(30);
    expect(result.acknowledged).to.be.at.least(30);
    expect(result.unheard).to.be.at.least(1);
    expect(result.checkpoints).to.be.at.least(3);
  });

  it("and any other damage is told, or leads to no state that never was (a short run of npm run soak -- --sqlite-mutants)", async () => {
    const result = await runMutants({ seconds: 0, seed: 20_260_712, least: 100 });
    expect(result.mutants).to.equal(100);
    expect(result.refused).to.be.at.least(30);
    expect(result.whole).to.be.at.least(10);
  });
});
