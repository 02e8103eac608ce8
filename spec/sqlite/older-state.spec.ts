import { expect } from "chai";
import { cp, mkdir, readFile, readdir, rm, stat, truncate, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { gunzipSync } from "node:zlib";
import { isCorrupt, openSqlite, type Store, type StoreError } from "unibus-membership";
import { random } from "../soak/random.js";
import { AT_LENGTH } from "../support/at-length.js";
import formats from "./fixtures/format-1.json" with { type: "json" };
import { crashed, first, integrityOf, killedAtEachStep, opTimeoutMs, refused, usersOf } from "./support/crash.js";
import { contents, endsOf, failure, logOf, release, useFolder } from "./support/folder.js";
import { SUPERBLOCK_AT, told, telling } from "./support/superblock.js";

const SECTOR = 512;

describe("sqlite: never an older state", () => {
  const folder = useFolder();

  /** The files of a store under way, as a kill would leave them now, under the same name in a folder of their own. */
  async function copied(path: string, name: string): Promise<string> {
    const own = folder.file(name);
    await mkdir(own);
    for (const file of await readdir(join(path, ".."))) {
      if (/^membership\.db(-redo[01])?$/.test(file)) await cp(join(path, "..", file), join(own, file));
    }
    await release(join(own, "membership.db"));
    return join(own, "membership.db");
  }

  async function untilTold(path: string, acknowledged: number): Promise<void> {
    for (const until = performance.now() + 30_000; told(await readFile(path)).acknowledged < acknowledged;) {
      if (performance.now() > until) throw new Error(`not told of transaction ${String(acknowledged)}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  async function expectCorrupt(path: string, what: string): Promise<StoreError> {
    const error = await refused(path, join(path, ".."));
    expect(isCorrupt(error), `${what}: ${String(error)}`).to.equal(true);
    return error;
  }

  it("the file of a killed store without its log is refused, says what to do, and opens when the log is back", async () => {
    const { path, log } = await crashed(folder, "killed", 1, async (store) => {
      await store.users.revoke("u0");
    });
    const kept = await readFile(log);
    await rm(log);
    const error = await expectCorrupt(path, "without its log");
    expect(error.message).to.contain(basename(log)).and.contain("back");
    expect(error.details).to.deep.equal({ file: path, missing: log });
    expect(await integrityOf(path)).to.equal("ok");
    await writeFile(log, kept);
    const store = await openSqlite(path, { opTimeoutMs });
    expect(await store.isAuthorized("u0")).to.equal(false);
    expect((await store.users.get("u0")).status).to.equal("revoked");
    await store.close();
  });

  it("what an opening finds in the log is told to the file before anybody acts on it", async () => {
    for (const clean of [true, false]) {
      // A kill after the record was on the disk, and before the file was told.
      const { path, log } = await crashed(folder, `killed-${String(clean)}`, 1, (store) => store.users.revoke("u0"));
      await writeFile(path, telling(await readFile(path), { clean, acknowledged: 1 }));
      const store = await openSqlite(path, { opTimeoutMs });
      expect((await store.users.revoke("u0")).status).to.equal("revoked");
      expect(told(await readFile(path))).to.deep.equal({ clean: false, acknowledged: 2 });
      const later = await copied(path, `later-${String(clean)}`);
      await store.close();
      await truncate(later + log.slice(path.length), endsOf(await readFile(later + log.slice(path.length))).at(-2));
      await expectCorrupt(later, "a log that lost its end");
      await rm(later + log.slice(path.length));
      await expectCorrupt(later, "without its log");
    }
  });

  it("the file says so from before the first write of an opening is acknowledged on, and a clean close takes it back", async () => {
    for (let round = 0; round < 3; round++) {
      const store = await openSqlite(folder.file(), { opTimeoutMs });
      expect(told(await readFile(folder.file())).clean, "opened").to.equal(true);
      await store.users.list();
      await store.users.get("nobody").catch(() => undefined);
      expect(told(await readFile(folder.file())).clean, "only read").to.equal(true);
      const { revision } = await store.users.add({ key: `u${String(round)}` });
      const file = told(await readFile(folder.file()));
      expect(file.clean).to.equal(false);
      expect(file.acknowledged).to.equal(Number.parseInt(revision, 36));
      await store.close();
      expect(told(await readFile(folder.file()))).to.deep.equal({ clean: true, acknowledged: round + 1 });
      const alone = folder.file(`alone-${String(round)}`);
      await cp(folder.file(), alone);
      expect(await usersOf(alone)).to.deep.equal(first(round + 1));
    }
  });

  it("a log that is another's, new and empty, or an older copy of the right one, is refused", async () => {
    const store = await openSqlite(folder.file(), { opTimeoutMs });
    const log = await logOf(folder.file());
    const empty = await readFile(log);
    await store.users.add({ key: "u0" });
    await store.users.add({ key: "u1" });
    const older = await readFile(log);
    await store.users.revoke("u0");
    await untilTold(folder.file(), 3);
    const path = await copied(folder.file(), "killed");
    await store.close();
    const own = path + log.slice(folder.file().length);
    const right = await readFile(own);
    for (const [what, bytes] of [
      ["empty", empty],
      ["older", older],
      ["cut to nothing", Buffer.alloc(0)],
    ] as const) {
      await writeFile(own, bytes);
      const error = await expectCorrupt(path, what);
      expect(error.details?.["file"]).to.equal(own);
    }
    const other = await crashed(folder, "other", 4);
    await cp(other.log, own);
    await expectCorrupt(path, "of another database");
    await writeFile(own, right);
    expect(await usersOf(path)).to.deep.equal(first(2));
  });

  it("the log of a copy that went on by itself is refused", async () => {
    await usersOf(folder.file());
    const paths = await Promise.all(["one", "other"].map((name) => copied(folder.file(), name)));
    for (const path of paths) {
      const store = await openSqlite(path, { opTimeoutMs });
      await store.users.add({ key: "u0", name: basename(join(path, "..")) });
      await store.close();
    }
    const [path = "", other = ""] = paths;
    const log = await logOf(path);
    const right = await readFile(log);
    await cp(await logOf(other), log);
    await expectCorrupt(path, "of a copy");
    await writeFile(log, right);
    expect(await usersOf(path)).to.deep.equal(first(1));
  });

  it("an older file beside the newer log, and a newer file beside an older log, are refused or lead to the newest state", async () => {
    // What each moment of a store's life would have left, and how many users were acknowledged by then.
    const moments: { path: string; users: number }[] = [];
    for (let opening = 0; opening < 3; opening++) {
      const store = await openSqlite(folder.file(), { opTimeoutMs });
      for (let i = 0; i < 2; i++) {
        const users = opening * 2 + i + 1;
        await store.users.add({ key: `u${String(users - 1)}` });
        if (i > 0) await untilTold(folder.file(), users);
        moments.push({ path: await copied(folder.file(), `moment-${String(users)}`), users });
      }
      await store.close();
      moments.push({ path: await copied(folder.file(), `closed-${String(opening)}`), users: opening * 2 + 2 });
    }
    let opened = 0;
    for (const [i, image] of moments.entries()) {
      for (const [j, logs] of moments.entries()) {
        const own = folder.file(`mixed-${String(i)}-${String(j)}`);
        await cp(join(logs.path, ".."), own, { recursive: true });
        const path = join(own, "membership.db");
        await cp(image.path, path);
        const found = await usersOf(path).catch((error: unknown) => error);
        if (isCorrupt(found)) continue;
        opened++;
        // A clean file is everything that had happened when it was closed; the rest is never behind what the log holds.
        const clean = told(await readFile(image.path)).clean;
        const least = clean && image.users >= logs.users ? image.users : Math.max(image.users, logs.users);
        expect(found, `image ${String(i)}, logs ${String(j)}`).to.deep.equal(first(least));
      }
    }
    expect(opened).to.be.at.least(moments.length);
  });

  it("a log that was cut below what the file was told of is refused, whatever the byte, and says where it ends", async function () {
    this.timeout(240_000);
    const { path, log, ends } = await crashed(folder, "cut", 4);
    const [image, whole] = [telling(await readFile(path), { clean: false, acknowledged: 3 }), await readFile(log)];
    const least = ends[3] ?? 0;
    for (let length = 128; length <= (ends[4] ?? 0); length++) {
      // Every byte of the last record that must be there, and around where each ends. Of the others some tell the same.
      const isSpecial = (length >= (ends[2] ?? 0) && length < least) || ends.some((end) => Math.abs(end - length) <= 1);
      if (!AT_LENGTH && !isSpecial && length % 8 !== 0) continue;
      await writeFile(path, image);
      await writeFile(log, whole.subarray(0, length));
      if (length < least) {
        const error = await failure(openSqlite(path, { opTimeoutMs }));
        expect(isCorrupt(error), `cut at ${String(length)}: ${String(error)}`).to.equal(true);
        expect((error as StoreError).details).to.deep.equal({
          file: log,
          offset: ends.filter((end) => end <= length).at(-1),
        });
        expect((await readFile(log)).length).to.equal(length);
      } else {
        expect(await usersOf(path), `cut at ${String(length)}`).to.deep.equal(first(length === ends[4] ? 4 : 3));
        await Promise.all([rm(`${path}-redo0`, { force: true }), rm(`${path}-redo1`, { force: true })]);
      }
    }
  });

  it("a last sector that was lost is told, with the batches before the last that end in it", async () => {
    const store = await openSqlite(folder.file(), { opTimeoutMs });
    for (let i = 0; i < 12; i++) await store.users.add({ key: `u${String(i)}` });
    await untilTold(folder.file(), 12);
    const path = await copied(folder.file(), "lost");
    await store.close();
    const log = await logOf(path);
    const whole = await readFile(log);
    const sector = Math.floor(((endsOf(whole).at(-1) ?? 0) - 1) / SECTOR) * SECTOR;
    const bytes = Buffer.from(whole).fill(0, sector, sector + SECTOR);
    await writeFile(log, bytes);
    await expectCorrupt(path, "the last sector");
    await truncate(log, sector);
    await expectCorrupt(path, "cut at the last sector");
  });

  it("the file is told how far was acknowledged also when nothing is written any more, and keeps no process alive for that", async () => {
    const store = await openSqlite(folder.file(), { opTimeoutMs });
    await Promise.all(Array.from({ length: 50 }, (_, i) => store.users.add({ key: `u${String(i)}` })));
    await store.users.add({ key: "last" });
    await untilTold(folder.file(), 51);
    await store.close();
  });

  it("any changed byte of a file alone is told, and leaves it as it is", async function () {
    this.timeout(240_000);
    const store = await openSqlite(folder.file(), { opTimeoutMs });
    await store.users.addFirstAdmin({ key: "admin" });
    for (let i = 0; i < 40; i++) await store.users.add({ key: `u${String(i)}`, name: "n".repeat(i) });
    await store.rooms.create({
      id: "r",
      owner: "o",
      encrypted: true,
      sealedKey: new Uint8Array(900).fill(7),
      ownerPublicKey: new Uint8Array(300),
    });
    await store.close();
    const own = folder.file("alone");
    await mkdir(own);
    const path = join(own, "membership.db");
    await release(path);
    const whole = await readFile(folder.file());
    const next = random(20_260_711, 1);
    const places = Array.from({ length: AT_LENGTH ? 600 : 100 }, () => Math.floor(next() * whole.length));
    // Every byte that says what the file is, and every one of the superblock, of its many zeros some.
    for (let place = 0; place < 100; place++) places.push(place);
    for (let place = SUPERBLOCK_AT - 12; place < SUPERBLOCK_AT + SECTOR; place++) {
      const isZero = place >= SUPERBLOCK_AT + 40 && place < SUPERBLOCK_AT + SECTOR - 4;
      if (AT_LENGTH || !isZero || place % 16 === 0) places.push(place);
    }
    // And those by which the superblock's table is found.
    for (
      let name = whole.indexOf("superblock");
      name !== -1 && name < 4096;
      name = whole.indexOf("superblock", name + 1)
    )
      places.push(name, name + 9);
    for (const place of places) {
      const bytes = Buffer.from(whole);
      bytes[place] = (bytes[place] ?? 0) ^ (1 + Math.floor(next() * 255));
      await writeFile(path, bytes);
      const error = (await failure(openSqlite(path, { opTimeoutMs }))) as StoreError;
      expect(["CORRUPT", "INCOMPATIBLE"], `byte ${String(place)}: ${String(error)}`).to.include(error.code);
      expect((await readFile(path)).equals(bytes)).to.equal(true);
      expect((await readdir(own)).sort()).to.deep.equal(["membership.db", "membership.db-lock"]);
    }
    await writeFile(path, whole);
    expect((await usersOf(path)).length).to.equal(41);
  });

  it("a file that was cut to nothing is no new one, as long as there is a log beside it, also an empty one", async () => {
    await usersOf(folder.file());
    const whole = await readFile(folder.file());
    const log = await logOf(folder.file());
    await writeFile(folder.file(), "");
    expect((await expectCorrupt(folder.file(), "an empty file")).details?.["file"]).to.equal(log);
    await writeFile(folder.file(), whole);
    expect(await usersOf(folder.file())).to.deep.equal([]);
  });

  it("a file that was cut, or made longer, is refused", async () => {
    await usersOf(folder.file());
    const whole = await readFile(folder.file());
    await rm(await logOf(folder.file()));
    for (const bytes of [
      whole.subarray(0, whole.length - 1),
      whole.subarray(0, whole.length - 4096),
      Buffer.concat([whole, Buffer.alloc(4096)]),
    ]) {
      await writeFile(folder.file(), bytes);
      await expectCorrupt(folder.file(), `${String(bytes.length)} bytes`);
    }
  });

  /** What a store that closes after a write leaves behind if the file, or the log, was damaged under it. */
  async function damagedMeanwhile(damage: (path: string, log: string) => Promise<void>): Promise<void> {
    const store = await openSqlite(folder.file(), { opTimeoutMs });
    const log = await logOf(folder.file());
    for (let i = 0; i < 4; i++) await store.users.add({ key: `u${String(i)}` });
    await untilTold(folder.file(), 4);
    await damage(folder.file(), log);
    await store.close();
    // What is left of it is evidence, and may be all that there is.
    expect(endsOf(await readFile(log)).length, "records in the log").to.be.greaterThan(1);
    expect(isCorrupt(await failure(openSqlite(folder.file(), { opTimeoutMs })))).to.equal(true);
  }

  it("a checkpoint does not give a file that was damaged meanwhile a checksum of its own", async () => {
    await usersOf(folder.file());
    await damagedMeanwhile(async (path) => {
      const bytes = await readFile(path);
      // In a name or a value, or where nothing is: SQLite would not mind.
      bytes[bytes.length - 2] = (bytes[bytes.length - 2] ?? 0) ^ 1;
      await writeFile(path, bytes);
    });
  });

  it("the image that a checkpoint makes while the store runs is not everything", async function () {
    this.timeout(120_000);
    const store = await openSqlite(folder.file(), { opTimeoutMs });
    const { ino } = await stat(folder.file());
    const sealedKey = new Uint8Array(65_536).fill(7);
    // More than a log may be, so that a checkpoint begins. It has nothing to do after that one.
    for (let i = 0; i < 13; i++)
      await Promise.all(
        Array.from({ length: 40 }, () => store.rooms.create({ owner: "o", encrypted: true, sealedKey })),
      );
    for (const until = performance.now() + 60_000; (await stat(folder.file())).ino === ino;) {
      if (performance.now() > until) throw new Error("no checkpoint");
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    expect(told(await readFile(folder.file())).clean).to.equal(false);
    await store.close();
    expect(told(await readFile(folder.file())).clean).to.equal(true);
  });

  it("a checkpoint does not leave out what a log lost meanwhile", async () => {
    await damagedMeanwhile(async (_path, log) => {
      const bytes = await readFile(log);
      bytes.fill(0, endsOf(bytes).at(-2) ?? 0);
      await writeFile(log, bytes);
    });
  });

  it("a checkpoint does not leave out what a log lost since it was read, also where nothing was written since", async () => {
    const { path, log, ends } = await crashed(folder, "killed", 4);
    const store = await openSqlite(path, { opTimeoutMs });
    expect(await store.isAuthorized("u3")).to.equal(true);
    await truncate(log, ends.at(-2));
    await store.close();
    expect(told(await readFile(path)).clean, "sealed as if it were everything").to.equal(false);
    expect(endsOf(await readFile(log)), "records in the log").to.deep.equal(ends.slice(0, -1));
  });

  it("without its logs a file that a kill left at any step of a store's life is refused, or has all that was acknowledged", async function () {
    this.timeout(240_000);
    await crashed(folder, "before", 2);
    const work = `
      dieAt(Number(rest[0]));
      for (let opening = 0; opening < 2; opening++) {
        const store = await openSqlite(path, { opTimeoutMs: 20_000 });
        say("opened");
        for (let i = 0; i < 2; i++) {
          const key = "u" + (2 + opening * 2 + i);
          await store.users.add({ key });
          say(key);
        }
        await store.close();
        say("closed");
      }`;
    let opened = 0;
    let missing = 0;
    const steps = await killedAtEachStep(folder, folder.file("before"), work, async (path, said) => {
      const acknowledged = 2 + said.filter((line) => line.startsWith("u")).length;
      const alone = `${join(path, "..")}-alone`;
      await mkdir(alone);
      await cp(path, join(alone, "membership.db"));
      await release(join(alone, "membership.db"));
      const found = await usersOf(join(alone, "membership.db")).catch((error: unknown) => error);
      if (Array.isArray(found)) {
        opened++;
        expect(found.slice(0, acknowledged), said.join()).to.deep.equal(first(acknowledged));
      } else {
        missing++;
        expect(isCorrupt(found), String(found)).to.equal(true);
        expect(said.at(-1), "a clean close leaves everything in the file").to.not.equal("closed");
      }
      await rm(alone, { recursive: true });
      // Together they have everything, at every step.
      expect((await usersOf(path)).slice(0, acknowledged)).to.deep.equal(first(acknowledged));
    });
    expect(steps).to.be.greaterThan(20);
    expect(opened).to.be.at.least(1);
    expect(missing).to.be.at.least(5);
  });

  describe("files of format 1", () => {
    async function unpacked(name: keyof typeof formats): Promise<string> {
      const own = folder.file(name);
      await mkdir(own);
      for (const [file, text] of Object.entries(formats[name]))
        await writeFile(join(own, file), gunzipSync(Buffer.from(text, "base64")));
      await release(join(own, "membership.db"));
      return join(own, "membership.db");
    }

    async function expectContents(store: Store, keys: string[]): Promise<void> {
      expect((await store.users.list()).items.map(({ key }) => key)).to.deep.equal(keys);
      expect(await store.isAdmin("root")).to.equal(true);
      expect(await store.isAuthorized("guest")).to.equal(true);
      expect(await store.isAuthorized("gone")).to.equal(false);
      expect((await store.users.get("gone")).status).to.equal("revoked");
      expect((await store.members.list("room")).map(({ endpoint }) => endpoint)).to.deep.equal(["alice", "\ufeffbob"]);
      expect((await store.roomKeys.get("room", "alice")).sealed).to.deep.equal(new Uint8Array([3, 4, 5]));
      expect((await store.members.get("room", "alice")).publicKey).to.deep.equal(new Uint8Array([1, 2]));
      expect((await store.roomKeys.get("room", "\ufeffbob")).sealed).to.deep.equal(new Uint8Array(300));
    }

    for (const [name, keys] of [
      ["clean", ["root", "guest", "gone"]],
      ["killed", ["root", "guest", "gone"]],
      ["checkpoint", ["root", "guest", "gone", "late"]],
    ] as const) {
      it(`open, and are of this format from then on: ${name}`, async () => {
        const path = await unpacked(name);
        expect((await readFile(path)).readUInt32BE(60)).to.equal(1);
        const store = await openSqlite(path, { opTimeoutMs });
        await expectContents(store, [...keys]);
        // No older version of the library opens it any more: it would not know that a log belongs to it.
        expect((await readFile(path)).readUInt32BE(60)).to.equal(2);
        await store.users.add({ key: "added" });
        const killed = await copied(path, "killed-later");
        await store.close();
        expect(await integrityOf(path)).to.equal("ok");
        for (const each of [killed, path]) {
          const next = await openSqlite(each, { opTimeoutMs });
          await expectContents(next, [...keys, "added"]);
          await next.close();
        }
        await rm(await logOf(path));
        const alone = await openSqlite(path, { opTimeoutMs });
        await expectContents(alone, [...keys, "added"]);
        await alone.close();
      });
    }

    it("open alone, if they were closed", async () => {
      const path = await unpacked("clean");
      await rm(await logOf(path));
      const store = await openSqlite(path, { opTimeoutMs });
      await expectContents(store, ["root", "guest", "gone"]);
      await store.close();
    });

    it("are recovered by the next opening from a kill at any step of the first one", async function () {
      this.timeout(240_000);
      await unpacked("checkpoint");
      const work =
        "dieAt(Number(rest[0])); const store = await openSqlite(path, { opTimeoutMs: 20_000 }); await store.close();";
      const steps = await killedAtEachStep(folder, folder.file("checkpoint"), work, async (path) => {
        const store = await openSqlite(path, { opTimeoutMs });
        await expectContents(store, ["root", "guest", "gone", "late"]);
        await store.close();
      });
      expect(steps).to.be.greaterThan(8);
    });

    it("are left as they are where they are damaged", async () => {
      const path = await unpacked("killed");
      const whole = await readFile(path);
      for (let place = 0; place < whole.length; place += 997) {
        const bytes = Buffer.from(whole);
        bytes[place] = (bytes[place] ?? 0) ^ 1;
        await writeFile(path, bytes);
        const before = await contents(join(path, ".."));
        const error = (await failure(openSqlite(path, { opTimeoutMs }))) as StoreError;
        expect(["CORRUPT", "INCOMPATIBLE"], `byte ${String(place)}`).to.include(error.code);
        expect(await contents(join(path, ".."))).to.deep.equal(before);
      }
    });
  });
});
