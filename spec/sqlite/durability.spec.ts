import { expect } from "chai";
import { openSqlite } from "unibus-membership";
import { run } from "../soak/sqlite.js";
import { Child } from "./support/child.js";
import { useFolder } from "./support/folder.js";

describe("sqlite: durability", () => {
  const folder = useFolder();

  for (const callers of [1, 200]) {
    it(`keeps what was acknowledged to ${String(callers)} at once by a process that is killed in the same moment`, async () => {
      const child = new Child(
        `
        const store = await openSqlite(path, { opTimeoutMs: 20_000 });
        await Promise.all(Array.from({ length: Number(rest[0]) }, async (_, caller) => {
          for (let i = 0; i < 5; i++) {
            const { key } = await store.users.add({ key: "k" + caller + "." + i });
            say(key);
          }
        }));
        process.kill(process.pid, "SIGKILL");`,
        [folder.file(), String(callers)],
      );
      expect((await child.ended).signal).to.equal("SIGKILL");
      expect(child.said.length).to.equal(callers * 5);
      const store = await openSqlite(folder.file());
      for (const key of child.said) expect(await store.isAuthorized(key), key).to.equal(true);
      await store.close();
    });
  }

  it("answers who could not see it yet only when it is durable: refusals and what changes nothing wait too", async () => {
    const store = await openSqlite(folder.file());
    const order: string[] = [];
    const note = (name: string) => (): void => void order.push(name);
    await Promise.all([
      store.users.add({ key: "a1" }).then(note("added")),
      store.users.add({ key: "a1" }).catch(note("refused")),
      store.users.reinstate("a1").then(note("unchanged")),
    ]);
    expect(order[0]).to.equal("added");
    await store.close();
  });

  it("survives kills at random instants, cuts and flipped bits (a short run of npm run soak -- --sqlite)", async function () {
    this.timeout(300_000);
    const result = await run({ seconds: 6, seed: 20_260_101 });
    expect(result.kills).to.be.at.least(10);
    expect(result.acknowledged).to.be.greaterThan(100);
    expect(result.cuts).to.be.at.least(1);
    expect(result.flips).to.be.at.least(1);
  });
});
