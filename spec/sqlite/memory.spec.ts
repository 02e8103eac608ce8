import { expect } from "chai";
import { AT_LENGTH } from "../support/at-length.js";
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

const OPENINGS = AT_LENGTH ? 1000 : 200;
const WRITES = AT_LENGTH ? 1_000_000 : 300_000;

describe("sqlite: memory", function () {
  this.timeout(600_000);
  const folder = useFolder();

  async function growth(code: string): Promise<number> {
    const child = new Child(USED + code, [folder.file()], [], ["--expose-gc"]);
    const { code: status } = await child.ended;
    expect(status, child.errors).to.equal(0);
    return Number(child.said.at(-1));
  }

  it(`stays flat over ${OPENINGS} openings and closings`, async () => {
    const grown = await growth(`
      const cycle = async (n) => { const store = await openSqlite(path); await store.users.update("a", { name: "n" + n }); await store.close(); };
      const store = await openSqlite(path); await store.users.add({ key: "a" }); await store.close();
      for (let n = 0; n < ${OPENINGS / 2}; n++) await cycle(n);
      const before = await used();
      for (let n = ${OPENINGS / 2}; n < ${OPENINGS}; n++) await cycle(n);
      say(String(await used() - before));`);
    // That many openings that leaked as little as a file's buffer each would show more.
    expect(grown).to.be.lessThan(MB);
  });

  it(`stays flat over ${WRITES} writes`, async () => {
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
      const atRest = async () => { while ((await readdir(dirname(path))).filter((name) => name.includes("-redo")).length > 1) await new Promise((resolve) => setTimeout(resolve, 5)); };
      await until(${WRITES / 2});
      await atRest();
      const before = await used();
      await until(${WRITES});
      await atRest();
      say(String(await used() - before));
      await store.close();`);
    expect(grown).to.be.lessThan(4 * MB);
  });

  for (const [kind, write, least, most] of [
    ["as the image has it", "", 50, 150],
    [
      "of a room that was written to",
      'await inFlight(rooms, (n) => store.rooms.update("room-" + n, { name: "n" }));',
      100,
      330,
    ],
  ] as const) {
    it(`takes little for a membership ${kind}`, async () => {
      const bytes = await growth(`
        const rooms = 5000;
        const publicKey = new Uint8Array(32).fill(3);
        const inFlight = async (count, work) => { let n = 0; await Promise.all(Array.from({ length: 256 }, async () => { while (n < count) await work(n++); })); };
        const taken = async (file, members) => {
          const made = await openSqlite(file, { opTimeoutMs: 60_000 });
          await inFlight(rooms, (n) => made.rooms.create({ id: "room-" + n, owner: "owner-" + n }));
          await inFlight(members, (n) => made.members.add("room-" + (n % rooms), { endpoint: "member-" + (n % (rooms / 2)) + "-" + Math.floor(n / rooms), publicKey }));
          await made.close();
          const before = await used();
          const store = await openSqlite(file, { opTimeoutMs: 60_000 });
          ${write}
          const bytes = await used() - before;
          await store.close();
          return bytes;
        };
        // What is there once for all is not a membership's.
        await taken(path + "-first", 0);
        const without = await taken(path + "-without", 0);
        say(String((await taken(path, 2 * rooms) - without) / (2 * rooms)));`);
      expect(bytes).to.be.within(least, most);
    });
  }

  it("keeps nothing alive: a process ends by itself after close, and also without it", async () => {
    for (const end of ["await store.close();", ""]) {
      const child = new Child(`const store = await openSqlite(path); await store.users.list(); ${end} say("end");`, [
        folder.file(),
      ]);
      expect((await child.ended).code, child.errors).to.equal(0);
      expect(child.said).to.deep.equal(["end"]);
    }
  });
});
