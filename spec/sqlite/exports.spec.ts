// Exports of a SQLite store while it changes, and imports of damaged texts and by processes that die.

import { expect } from "chai";
import { createWriteStream } from "node:fs";
import { mkdtemp, readFile, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { exportStore, importStore, openSqlite } from "unibus-membership";
import { openMemory } from "unibus-membership/testing";
import { codeOf } from "../support/code-of.js";
import { openIn } from "./support/folder.js";
import { admits, digestOf, fill, linesOf, manyLines, mutants, sealedForAll, tryKills } from "../support/exports.js";

const opTimeoutMs = 20_000;

describe("sqlite: export and import", function () {
  this.timeout(300_000);
  let folder: string;

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "unibus-exports-"));
  });
  after(() => rm(folder, { recursive: true }));

  it("200 damaged texts: each is refused, and lets nobody in", async () => {
    const lines = await manyLines(300);
    const store = await openSqlite(":memory:", { opTimeoutMs });
    let tried = 0;
    for (const { what, text } of mutants(lines, 1, 200)) {
      const looking = function* (): Iterable<string> {
        for (let i = 0; i < text.length; i += 4000) yield text.slice(i, i + 4000);
      };
      expect(await importStore(looking(), store).then(() => "done", codeOf), what).to.be.oneOf([
        "CORRUPT",
        "INCOMPATIBLE",
      ]);
      expect(await admits(store), what).to.equal(false);
      expect((await store.users.list()).items, what).to.deep.equal([]);
      tried++;
    }
    expect(tried).to.equal(200);
    await importStore(lines, store);
    expect(await admits(store)).to.equal(true);
    await store.close();
  });

  it("what was imported stays, whenever meanwhile another import begins, and fails", async () => {
    const lines = await manyLines(3);
    const ends = new Set<string>();
    for (let turns = 0; turns < 80; turns++) {
      // In a file: its end is on its way to the disk for a while.
      const store = await openSqlite(join(folder, `taken-${String(turns)}.db`), { opTimeoutMs });
      let other: Promise<string> | undefined;
      const fail = async (): Promise<string> => {
        for (let i = 0; i < turns; i++) await new Promise((resolve) => setImmediate(resolve));
        return importStore(lines.slice(0, 1), store).then(() => "done", codeOf);
      };
      const first = await importStore(lines, store, {
        onProgress: ({ phase }) => {
          if (phase === "verify") other ??= fail();
        },
      }).then(() => "done", codeOf);
      const second = await other;
      ends.add(`${first} ${String(second)}`);
      expect(await admits(store), `${String(turns)}: ${first}, ${String(second)}`).to.equal(first === "done");
      await store.close();
    }
    expect([...ends]).to.include("done CONFLICT");
  });

  it("an import that another one takes over from while it reads back what it wrote ends in CONFLICT", async () => {
    const lines = await manyLines(20_000);
    const store = await openSqlite(join(folder, "taken-over.db"), { opTimeoutMs });
    let other: Promise<string> | undefined;
    const first = await importStore(lines, store, {
      onProgress: ({ phase }) => {
        if (phase === "verify") other ??= importStore(lines, store).then(() => "done", codeOf);
      },
    }).then(() => "done", codeOf);
    expect([first, await other]).to.deep.equal(["CONFLICT", "done"]);
    expect(await admits(store)).to.equal(true);
    await store.close();
  });

  it("an export that is aborted while it begins is read by nobody, and leaves no file open", async () => {
    const store = await openSqlite(":memory:", { opTimeoutMs });
    // More than what waits in memory.
    await importStore(await manyLines(20_000), store);
    for (let i = 0; i < 3; i++) {
      const controller = new AbortController();
      const begun = exportStore(store, { signal: controller.signal });
      const first = begun.next().then(() => "read", codeOf);
      controller.abort();
      expect(await first).to.equal("TIMEOUT");
    }
    // One that is begun later has come to its end, and so would have those.
    await linesOf(store);
    expect(await openIn(join(tmpdir(), "unibus-membership-"))).to.deep.equal([]);
    await store.close();
  });

  it("an export is of the moment in which it began, however slowly it is read, and leaves no file", async () => {
    const files = async (): Promise<string[]> =>
      (await readdir(tmpdir())).filter((name) => name.startsWith("unibus-membership-"));
    const before = await files();
    const store = await openSqlite(":memory:", { opTimeoutMs });
    // More than what waits in memory.
    const lines = await manyLines(20_000);
    await importStore(lines, store);
    const begun = exportStore(store);
    const read: string[] = [];
    const take = async (): Promise<boolean> => {
      const { done, value } = await begun.next();
      if (done !== true) read.push(value);
      return done !== true;
    };
    await take();
    await take();
    // It has not come far: users and rooms, whose turn comes, change meanwhile, go and come.
    await Promise.all([
      store.users.add({ key: "new" }),
      store.users.revoke("user-19999"),
      store.users.update("user-19998", { name: "another" }),
      store.rooms.delete("room-199"),
      store.rooms.delete("room-0"),
      store.members.remove("room-198", "member-3"),
      store.members.add("room-197", { endpoint: "late" }),
      store.roomKeys.rekey("room-196", await sealedForAll(store, "room-196"), { expectedEpoch: 1 }),
      store.rooms.create({ id: "new", owner: "owner" }),
    ]);
    while (await take());
    expect(digestOf(read)).to.equal(digestOf(lines));
    expect(await files()).to.deep.equal(before);
    expect(digestOf(await linesOf(store))).not.to.equal(digestOf(lines));
    await store.close();
  });

  it("a reader that goes away is forgotten", async () => {
    const store = await openSqlite(":memory:", { opTimeoutMs });
    await importStore(await manyLines(5000), store);
    for await (const line of exportStore(store)) if (line.startsWith('{"user"')) break;
    await store.users.add({ key: "new" });
    await store.close();
  });

  it("an import that was killed leaves a closed store, and another one ends it", async () => {
    const path = join(folder, "killed.db");
    await tryKills(folder, path, "killed", () => openSqlite(path, { opTimeoutMs }));
  });

  it("a file of it is read by any tool: a line a record", async () => {
    const file = join(folder, "plain.jsonl");
    const store = await openMemory({ opTimeoutMs });
    await fill(store);
    await pipeline(Readable.from(exportStore(store)), createWriteStream(file));
    const lines = (await readFile(file, "utf8")).trimEnd().split("\n");
    expect(lines.map((line) => Object.keys(JSON.parse(line) as object)[0])).to.include.members([
      "format",
      "user",
      "room",
      "member",
      "key",
      "end",
    ]);
  });
});
