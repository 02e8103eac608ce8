// Exports and imports between all backends, and those of JetStream that are disturbed. What each backend does by itself
// is in the conformance suite.

import { expect } from "chai";
import { createReadStream, createWriteStream } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGunzip, createGzip } from "node:zlib";
import { exportStore, importStore, isConflict, isUnavailable, openJetStream, openSqlite } from "unibus-membership";
import { openMemory } from "unibus-membership/testing";
import { backendNames, startBackends, type RunningBackends } from "./support/backends.js";
import { FaultyConnection } from "./jetstream/support/faulty-connection.js";
import { natsClients } from "./support/nats-clients.js";
import { contentOf, digestOf, fill, linesOf, manyLines, sealedForAll, tryKills } from "./support/exports.js";

const opTimeoutMs = 20_000;

describe("export and import between backends", function () {
  this.timeout(300_000);
  let backends: RunningBackends;
  let folder: string;

  before(async () => {
    backends = await startBackends();
    folder = await mkdtemp(join(tmpdir(), "unibus-transfer-"));
  });
  after(async () => {
    await backends.stop();
    await rm(folder, { recursive: true });
  });

  for (const from of backendNames)
    for (const to of backendNames)
      it(`from ${from} to ${to}, and what comes out there is the same`, async () => {
        const source = await backends.open[from]({ opTimeoutMs });
        await fill(source);
        const lines = await linesOf(source);
        const target = await backends.open[to]({ opTimeoutMs });
        const report = await importStore(lines, target);
        const again = await linesOf(target);
        expect(report.digest).to.equal(digestOf(lines));
        expect(digestOf(again)).to.equal(report.digest);
        expect(contentOf(again)).to.deep.equal(contentOf(lines));
        // Once more, back: what came in goes out as whole as what was written.
        const back = await backends.open[from]({ opTimeoutMs });
        expect((await importStore(again, back)).digest).to.equal(report.digest);
        await Promise.all([source, target, back].map((store) => store.close()));
      });

  it("a backup is a compressed file, and a restore reads it", async () => {
    const source = await openSqlite(":memory:", { opTimeoutMs });
    await fill(source);
    const file = join(folder, "membership.jsonl.gz");
    await pipeline(Readable.from(exportStore(source)), createGzip(), createWriteStream(file));
    const target = await backends.open.jetstream({ opTimeoutMs });
    const text = createReadStream(file).pipe(createGunzip()).setEncoding("utf8") as AsyncIterable<string>;
    const report = await importStore(text, target);
    expect(report.digest).to.equal(digestOf(await linesOf(source)));
    const lines = createInterface({ input: createReadStream(file).pipe(createGunzip()) });
    const other = await openMemory({ opTimeoutMs });
    expect(await importStore(lines, other)).to.deep.equal(report);
    await Promise.all([source, target].map((store) => store.close()));
  });

  it("an import that was killed leaves a closed store, and another one ends it", async () => {
    await tryKills(folder, backends.url, "killed_", () => backends.openJetStream("killed_", { opTimeoutMs }));
  });

  it("of two imports the later one wins, and nothing of the other comes after it", async () => {
    const first = await backends.openJetStream("two_", { opTimeoutMs });
    const second = await backends.openJetStream("two_", { opTimeoutMs });
    const [many, few] = [await manyLines(3000), await manyLines(10)];
    let resume: () => void = () => undefined;
    let paused: () => void = () => undefined;
    const isPaused = new Promise<void>((resolve) => (paused = resolve));
    const stopped = new Promise<void>((resolve) => (resume = resolve));
    const slow = async function* (): AsyncIterable<string> {
      yield* many.slice(0, 1500);
      paused();
      await stopped;
      yield* many.slice(1500);
    };
    const loser = importStore(slow(), first, { stallTimeoutMs: 120_000 }).catch((error: unknown) => error);
    await isPaused;
    const report = await importStore(few, second);
    resume();
    expect(isConflict(await loser)).to.equal(true);
    expect(digestOf(await linesOf(second))).to.equal(report.digest);
    expect(digestOf(await linesOf(first))).to.equal(report.digest);
    expect(await first.isAuthorized("user-9")).to.equal(true);
    expect(await first.isAuthorized("user-10")).to.equal(false);
    await Promise.all([first.close(), second.close()]);
  });

  it("an import whose connection dies at some write ends with one error, of which nothing else is heard", async () => {
    const source = await openMemory({ opTimeoutMs });
    await fill(source);
    const lines = await linesOf(source);
    const [client] = natsClients;
    if (client === undefined) throw new Error("no client");
    let ended = 0;
    for (let at = 1, dies = true; dies; at += 15) {
      const mortal = new FaultyConnection(await client.connect(backends.url));
      const store = await openJetStream(mortal, 1, { prefix: `dies_${String(at)}_`, opTimeoutMs });
      mortal.arm({ at, how: "before" });
      const error: unknown = await importStore(lines, store).then(
        () => undefined,
        (reason: unknown) => reason,
      );
      dies = error !== undefined;
      if (dies) expect(isUnavailable(error), `at write ${String(at)}: ${String(error)}`).to.equal(true);
      if (dies) ended++;
      await store.close();
      await mortal.close();
    }
    expect(ended).to.be.greaterThan(0);
  });

  it("who is revoked while the export goes on is in it as before or as after, and others once", async () => {
    const store = await backends.open.jetstream({ opTimeoutMs });
    await importStore(await manyLines(2000), store);
    const read: string[] = [];
    for await (const line of exportStore(store)) {
      read.push(line);
      if (read.length % 250 === 2 && read.length < 2000)
        await Promise.all([
          store.users.revoke(`user-${String(read.length)}`),
          store.users.update(`user-${String(2000 - read.length)}`, { name: "changed" }).catch(() => undefined),
        ]);
    }
    const keys = read
      .filter((line) => line.startsWith('{"user"'))
      .map((line) => (JSON.parse(line) as { user: { key: string } }).user.key);
    expect(new Set(keys).size).to.equal(keys.length);
    expect(keys).to.have.length(2001);
    const copy = await openMemory({ opTimeoutMs });
    await importStore(read, copy);
    await store.close();
  });

  it("a room that is too large for memory comes out whole", async () => {
    const source = await openMemory({ opTimeoutMs });
    await source.rooms.create({ id: "large", owner: "owner", encrypted: true, sealedKey: new Uint8Array([1]) });
    for (let i = 0; i < 700; i++)
      await source.members.add("large", {
        endpoint: `m${String(i)}`,
        sealedKey: { epoch: 1, sealed: new Uint8Array(1 + (i % 300)) },
      });
    await source.roomKeys.rekey("large", await sealedForAll(source, "large"), { expectedEpoch: 1 });
    const lines = await linesOf(source);
    const store = await backends.open.jetstream({ opTimeoutMs });
    await importStore(lines, store);
    const again = await linesOf(store);
    expect(contentOf(again)).to.deep.equal(contentOf(lines));
    await store.close();
  });
});
