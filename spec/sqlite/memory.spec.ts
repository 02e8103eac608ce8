import { expect } from "chai";
import { Child } from "./support/child.js";
import { useFolder } from "./support/folder.js";

/** Bytes in use after everything that can be collected was. */
const USED = `
const used = async () => {
  for (let i = 0; i < 4; i++) { await new Promise(setImmediate); globalThis.gc(); }
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
};
`;

const MB = 1024 * 1024;

describe("sqlite: memory", function () {
  this.timeout(600_000);
  const folder = useFolder();

  async function growth(code: string): Promise<number> {
    const child = new Child(USED + code, [folder.file()], [], ["--expose-gc"]);
    const { code: status } = await child.ended;
    expect(status, child.errors).to.equal(0);
    return Number(child.said.at(-1));
  }

  it("stays flat over 300 openings and closings", async () => {
    const grown = await growth(`
      const cycle = async (n) => { const store = await openSqlite(path); await store.users.update("a", { name: "n" + n }); await store.close(); };
      const store = await openSqlite(path); await store.users.add({ key: "a" }); await store.close();
      for (let n = 0; n < 100; n++) await cycle(n);
      const before = await used();
      for (let n = 100; n < 300; n++) await cycle(n);
      say(String(await used() - before));`);
    // 200 openings that leaked as little as one database or one buffer each would show more.
    expect(grown).to.be.lessThan(MB);
  });

  it("stays flat over 300,000 writes", async () => {
    const grown = await growth(`
      const store = await openSqlite(path, { opTimeoutMs: 60_000 });
      await store.users.add({ key: "a" });
      let n = 0;
      const until = async (end) => {
        await Promise.all(Array.from({ length: 1024 }, async () => { while (n < end) await store.users.update("a", { name: "n" + n++ }); }));
      };
      // At rest: a checkpoint holds an image and a log while it runs.
      const { readdir } = await import("node:fs/promises");
      const { dirname } = await import("node:path");
      const atRest = async () => { while ((await readdir(dirname(path))).filter((name) => name.includes("-redo")).length > 1) await new Promise(setImmediate); };
      await until(150_000);
      await atRest();
      const before = await used();
      await until(300_000);
      await atRest();
      say(String(await used() - before));
      await store.close();`);
    expect(grown).to.be.lessThan(4 * MB);
  });

  it("keeps nothing alive: a process ends by itself after close, and also without it", async () => {
    for (const end of ["await store.close();", ""]) {
      const child = new Child(`const store = await openSqlite(path); await store.users.list(); ${end} say("end");`, [folder.file()]);
      expect((await child.ended).code, child.errors).to.equal(0);
      expect(child.said).to.deep.equal(["end"]);
    }
  });
});
