import { expect } from "chai";
import { chmod, chown, cp, mkdir, readFile, readdir, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import initSqlJs from "sql.js";
import { isCorrupt, isIncompatible, openSqlite, type Store, type StoreError, type User } from "unibus-membership";
import { AT_LENGTH } from "../support/at-length.js";
import { Child } from "./support/child.js";
import { crashed, first, integrityOf, killedAtEachStep, opTimeoutMs, refused, usersOf } from "./support/crash.js";
import { endsOf, failure, logOf, useFolder } from "./support/folder.js";
import { resealed } from "./support/superblock.js";

const HEADER = 128;
const SECTOR = 512;

/**
 * At length every byte. Otherwise every one of the last record, and around where each ends. Of the others some tell the
 * same.
 */
const isTried = (place: number, ends: readonly number[]): boolean =>
  AT_LENGTH || place % 8 === 0 || place >= (ends.at(-2) ?? 0) || ends.some((end) => Math.abs(end - place) <= 1);

describe("sqlite: recovery", () => {
  const folder = useFolder();

  it("keeps the file's owner and mode through checkpoints, and gives them to its logs", async () => {
    await usersOf(folder.file());
    // Only root can give it away; anybody else's stays its own.
    const uid = process.getuid?.() === 0 ? 65_534 : (process.getuid?.() ?? 0);
    await chown(folder.file(), uid, process.getgid?.() ?? 0);
    await chmod(folder.file(), 0o640);
    for (let i = 0; i < 2; i++) {
      const { ino } = await stat(folder.file());
      const store = await openSqlite(folder.file());
      await store.users.add({ key: `u${String(i)}` });
      await store.close();
      for (const name of [folder.file(), await logOf(folder.file())]) {
        const found = await stat(name);
        expect([found.uid, found.gid, found.mode & 0o777], name).to.deep.equal([uid, process.getgid?.() ?? 0, 0o640]);
      }
      expect((await stat(folder.file())).ino, "a checkpoint is another file").to.not.equal(ino);
    }
  });

  it("gives another group nothing where the file's owner and group cannot be kept", async () => {
    await usersOf(folder.file());
    const isRoot = process.getuid?.() === 0;
    await chmod(folder.file(), 0o666);
    if (isRoot) await chown(folder.path, 65_534, 65_534);
    await rm(await logOf(folder.file()));
    const child = new Child(
      `
      await (await openSqlite(path + "-other")).close();
      if (rest[0] === "true") for (const become of ["setgroups", "setgid", "setuid"]) process[become](become === "setgroups" ? [] : 65_534);
      const store = await openSqlite(path);
      await store.users.add({ key: "u0" });
      await store.close();`,
      [folder.file(), String(isRoot)],
    );
    expect(await child.ended, child.errors).to.deep.equal({ code: 0, signal: null });
    const { uid, mode } = await stat(folder.file());
    expect([uid, mode & 0o777]).to.deep.equal(isRoot ? [65_534, 0o606] : [process.getuid?.(), 0o666]);
    expect(await usersOf(folder.file())).to.deep.equal(["u0"]);
  });

  it("writes users of every form into the log as JSON has them, and reads them back", async () => {
    const names = ["", "plain ~ name", 'a "quoted" one', "back\\slash", "é", "𝒳 and more", "x".repeat(256)];
    const times = [0, 9, 10, 9_999_999, 10_000_000, 99_999_999_999_999, 8.64e15, -1, undefined];
    let added: readonly User[] = [];
    const { path, log } = await crashed(folder, "forms", 0, async (store) => {
      const made: User[] = [];
      for (const [i, name] of names.entries())
        for (const time of times)
          made.push(
            await store.users.add({
              key: `${i % 2 === 0 ? "" : '"'}k-${String(made.length)}`,
              name,
              ...(time === undefined ? {} : { expiresAt: new Date(time) }),
            }),
          );
      const [one] = made;
      if (one !== undefined) made[0] = await store.users.revoke(one.key);
      added = made;
    });
    const bytes = await readFile(log);
    for (const start of endsOf(bytes).slice(0, -1)) {
      const from = start + 25 + 4;
      const text = bytes.toString("utf8", from, from + bytes.readUInt32LE(start + 25));
      expect(text).to.equal(JSON.stringify(JSON.parse(text)));
      expect(JSON.parse(text)).to.have.nested.property("[0].length", 9);
    }
    const store = await openSqlite(path, { opTimeoutMs });
    expect((await store.users.list({ limit: 1000 })).items).to.deep.equal(added);
    await store.close();
  });

  /** Puts the files back as a crash would have left them. */
  async function left(path: string, image: Buffer, log: string, bytes: Buffer): Promise<void> {
    await Promise.all([rm(`${path}-redo0`, { force: true }), rm(`${path}-redo1`, { force: true })]);
    await writeFile(path, image);
    await writeFile(log, bytes);
  }

  it("goes on after the log was cut at any byte of its last records, with all that is whole before it", async function () {
    this.timeout(120_000);
    const { path, log, ends } = await crashed(folder, "cut", 4);
    const [image, whole] = [await readFile(path), await readFile(log)];
    const lengths = [whole.length - 1, whole.length];
    for (let length = ends[2] ?? 0; length <= (ends.at(-1) ?? 0) + 1; length++)
      if (isTried(length, ends)) lengths.push(length);
    for (const length of lengths) {
      await left(path, image, log, whole.subarray(0, length));
      expect(await usersOf(path), `cut at ${String(length)}`).to.deep.equal(
        first(ends.filter((end) => end <= length).length - 1),
      );
    }
  });

  it("takes zeros where bytes never came for a torn end, from any byte of the last record on", async function () {
    this.timeout(120_000);
    const { path, log, ends } = await crashed(folder, "zeros", 3);
    const [image, whole] = [await readFile(path), await readFile(log)];
    for (let length = ends[2] ?? 0; length < (ends[3] ?? 0); length += 7) {
      await left(
        path,
        image,
        log,
        Buffer.concat([whole.subarray(0, length), Buffer.alloc(whole.length - length + 4096)]),
      );
      expect(await usersOf(path), `zeros from ${String(length)}`).to.deep.equal(first(2));
    }
  });

  it("refuses a flipped bit at every byte of the log, says where, and touches nothing", async function () {
    this.timeout(240_000);
    const { path, log, ends } = await crashed(folder, "flips", 3);
    const whole = await readFile(log);
    const places = Array.from({ length: (ends.at(-1) ?? 0) + 30 }, (_, place) => place).filter((place) =>
      isTried(place, ends),
    );
    // Where nothing was written yet, too.
    for (let place = places.length; place < whole.length; place += 9_973) places.push(place);
    for (const place of places) {
      const bytes = Buffer.from(whole);
      bytes[place] = (bytes[place] ?? 0) ^ (1 << ((place * 5) % 8));
      await writeFile(log, bytes);
      const error = await failure(openSqlite(path, { opTimeoutMs }));
      // In the format's number the damage looks like another version.
      expect(isCorrupt(error) || isIncompatible(error), `byte ${String(place)}: ${String(error)}`).to.equal(true);
      if (place >= HEADER) {
        const offset = (error as StoreError).details?.["offset"];
        expect(offset)
          .to.be.a("number")
          .and.satisfy((at: number) => at <= place);
        expect((error as StoreError).details?.["file"]).to.equal(log);
      }
      expect((await readFile(log)).equals(bytes)).to.equal(true);
    }
    await writeFile(log, whole);
    expect(await usersOf(path)).to.deep.equal(first(3));
  });

  const zeros = { encrypted: true, owner: "o", sealedKey: new Uint8Array(900), ownerPublicKey: new Uint8Array(300) };

  /** The log without some of the sectors that its last batch, from `start` to `end`, was written to. */
  function without(
    whole: Buffer,
    start: number,
    end: number,
    missing: (sector: number) => boolean,
  ): { bytes: Buffer; firstMissing: number } {
    const bytes = Buffer.from(whole);
    let firstMissing = Infinity;
    for (let sector = Math.floor(start / SECTOR), i = 0; sector * SECTOR < end; sector++, i++) {
      if (!missing(i)) continue;
      const from = Math.max(start, sector * SECTOR);
      bytes.fill(0, from, (sector + 1) * SECTOR);
      firstMissing = Math.min(firstMissing, from);
    }
    return { bytes, firstMissing };
  }

  it("cuts off the last batch from the first sector that never came, whichever they are, zeros in what it holds or not", async function () {
    this.timeout(240_000);
    // One batch: what is submitted together shares a write.
    const batch = (store: Store): Promise<unknown> =>
      Promise.all([
        store.users.add({ key: "u2", name: "x".repeat(250) }),
        store.users.add({ key: "u3" }),
        store.rooms.create({ id: "r", ...zeros }),
        store.users.add({ key: "u4", name: "y".repeat(200) }),
        store.users.add({ key: "u5", name: "z".repeat(256) }),
      ]);
    const { path, log, ends } = await crashed(folder, "sectors", 2, batch);
    const [image, whole] = [await readFile(path), await readFile(log)];
    const [start = 0, end = 0] = [ends[2], ends.at(-1)];
    const sectors = Math.ceil(end / SECTOR) - Math.floor(start / SECTOR);
    expect(ends.length).to.equal(8);
    expect(sectors).to.be.within(5, 7);
    // Of the records, in their order, how many users each leaves.
    const users = [0, 1, 2, 3, 4, 4, 5, 6];
    for (let subset = 0; subset < 2 ** sectors; subset++) {
      const { bytes, firstMissing } = without(whole, start, end, (i) => (subset & (1 << i)) !== 0);
      await left(path, image, log, bytes);
      const records = ends.filter((each) => each <= firstMissing).length - 1;
      expect(await usersOf(path), `without ${subset.toString(2)}`).to.deep.equal(first(users[records] ?? 0));
    }
  });

  it("refuses a sector of zeros that another batch follows: it had been on the disk", async () => {
    const { path, log, ends } = await crashed(folder, "hole", 2, async (store) => {
      await store.rooms.create({ id: "r", ...zeros });
      await store.users.add({ key: "u2" });
    });
    const whole = await readFile(log);
    const [start = 0, end = 0] = [ends[2], ends[3]];
    const sectors = Math.ceil(end / SECTOR) - Math.floor(start / SECTOR);
    // The last one holds the begin of the next batch as well.
    for (let hole = 0; hole < sectors - 1; hole++) {
      const { bytes } = without(whole, start, end, (i) => i === hole);
      await writeFile(log, bytes);
      const error = await refused(path, join(folder.path, "hole"));
      expect(isCorrupt(error), `sector ${String(hole)}: ${String(error)}`).to.equal(true);
      expect(error.details).to.deep.equal({ file: log, offset: start });
    }
  });

  it("refuses a flipped bit in the last record also where it holds zeros, and a flip in one of a batch of many", async function () {
    this.timeout(120_000);
    const { path, log, ends } = await crashed(folder, "last", 1, (store) =>
      Promise.all([store.users.add({ key: "u1" }), store.rooms.create({ id: "r", ...zeros })]),
    );
    const whole = await readFile(log);
    for (let place = ends[1] ?? 0; place < (ends[3] ?? 0); place += 13) {
      const bytes = Buffer.from(whole);
      bytes[place] = (bytes[place] ?? 0) ^ (1 << (place % 8));
      await writeFile(log, bytes);
      const error = await refused(path, join(folder.path, "last"));
      expect(isCorrupt(error), `byte ${String(place)}: ${String(error)}`).to.equal(true);
      expect(error.details?.["offset"]).to.equal(place < (ends[2] ?? 0) ? ends[1] : ends[2]);
    }
    await writeFile(log, whole);
    const store = await openSqlite(path, { opTimeoutMs });
    expect((await store.roomKeys.get("r", "o")).sealed).to.deep.equal(zeros.sealedKey);
    expect((await store.members.get("r", "o")).publicKey).to.deep.equal(zeros.ownerPublicKey);
    await store.close();
  });

  it("refuses a flipped bit in the file, with a log and with an empty one", async function () {
    this.timeout(120_000);
    const { path } = await crashed(folder, "image", 2);
    for (const clean of [false, true]) {
      if (clean) await usersOf(path);
      const whole = await readFile(path);
      for (let place = 0; place < whole.length; place += 499) {
        const bytes = Buffer.from(whole);
        bytes[place] = (bytes[place] ?? 0) ^ (1 << (place % 8));
        await writeFile(path, bytes);
        const error = await refused(path, join(folder.path, "image"));
        expect(isCorrupt(error) || isIncompatible(error), `byte ${String(place)}: ${String(error)}`).to.equal(true);
      }
      await writeFile(path, whole);
    }
    expect(await usersOf(path)).to.deep.equal(first(2));
  });

  it("refuses a file in which a user's key is none, also where the low bits of its characters are another's", async () => {
    for (const key of ["\u0175\u0130", "\u00e9", "", "k".repeat(257), "key"]) {
      await usersOf(folder.file());
      const sqlJs = await initSqlJs();
      const database = new sqlJs.Database(await readFile(folder.file()));
      database.run("INSERT OR REPLACE INTO users VALUES (1, ?, 'member', 'active', '', 0, NULL, NULL, 1)", [key]);
      const changed = resealed(Buffer.from(database.export()));
      database.close();
      await rm(folder.path, { recursive: true });
      await mkdir(folder.path);
      await writeFile(folder.file(), changed);
      if (key === "key") {
        expect(await usersOf(folder.file())).to.deep.equal([key]);
        return;
      }
      const error = await refused(folder.file(), folder.path);
      expect(isCorrupt(error), JSON.stringify(key)).to.equal(true);
      expect(error.message).to.contain("no user's");
      await rm(folder.file());
    }
  });

  it("refuses what is not a file of ours, and leaves it as it is", async () => {
    const sqlJs = await initSqlJs();
    const database = new sqlJs.Database();
    database.run("CREATE TABLE users (key TEXT)");
    const foreign = database.export();
    database.close();
    for (const bytes of [foreign, Buffer.from("notes"), Buffer.alloc(5000, 1), foreign.subarray(0, 700)]) {
      await writeFile(folder.file(), bytes);
      expect(isIncompatible(await refused(folder.file(), folder.path))).to.equal(true);
    }
  });

  it("refuses a file, and a log, of a newer version", async () => {
    const { path, log } = await crashed(folder, "newer", 1);
    const [image, whole] = [await readFile(path), await readFile(log)];
    const newer = Buffer.from(image);
    newer.writeUInt32BE(3, 60);
    await writeFile(path, newer);
    expect((await refused(path, join(folder.path, "newer"))).message).to.contain("newer");
    await writeFile(path, image);
    const format = Buffer.from(whole);
    format.writeUInt32LE(2, 16);
    format.writeUInt32LE(crc32(format.subarray(0, 40)), 40);
    await writeFile(log, format);
    expect(isIncompatible(await refused(path, join(folder.path, "newer")))).to.equal(true);
  });

  it("refuses the log of another database, and one whose file is missing, by name", async () => {
    const a = await crashed(folder, "a", 2);
    const b = await crashed(folder, "b", 2);
    const own = await readFile(a.log);
    await cp(b.log, a.log);
    const foreign = await refused(a.path, join(folder.path, "a"));
    expect(isCorrupt(foreign), String(foreign)).to.equal(true);
    expect(foreign.details?.["file"]).to.equal(a.log);
    await writeFile(a.log, own);
    await rm(a.path);
    const orphan = await refused(a.path, join(folder.path, "a"));
    expect(isCorrupt(orphan)).to.equal(true);
    expect(orphan.message).to.contain(a.log);
  });

  it("refuses an older copy of the file beside a log that goes on from a later one", async () => {
    const store = await openSqlite(folder.file());
    await store.close();
    const old = await readFile(folder.file());
    const next = await openSqlite(folder.file());
    await next.users.add({ key: "u0" });
    await next.close();
    await writeFile(folder.file(), old);
    expect(isCorrupt(await refused(folder.file(), folder.path))).to.equal(true);
  });

  it("opens the file alone after a clean close: it is everything, and SQLite finds nothing wrong with it", async () => {
    const store = await openSqlite(folder.file());
    await store.users.addFirstAdmin({ key: "admin" });
    await store.rooms.create({
      id: "r",
      owner: "alice",
      encrypted: true,
      sealedKey: new Uint8Array([1, 2, 3]),
      ownerPublicKey: new Uint8Array([4]),
    });
    await store.close();
    expect(await integrityOf(folder.file())).to.equal("ok");
    const copy = folder.file("alone.db");
    await cp(folder.file(), copy);
    const alone = await openSqlite(copy);
    expect(await alone.hasAdmin()).to.equal(true);
    expect((await alone.roomKeys.get("r", "alice")).sealed).to.deep.equal(new Uint8Array([1, 2, 3]));
    await alone.close();
  });

  it("takes an empty file for a new one, and begins anew where only the empty log of a deleted file is left", async () => {
    await writeFile(folder.file(), "");
    expect(await usersOf(folder.file())).to.deep.equal([]);
    await rm(folder.file());
    expect(await usersOf(folder.file())).to.deep.equal([]);
  });

  it("is recovered by the next opening from a kill at any step of the first opening", async function () {
    this.timeout(240_000);
    await mkdir(folder.file("new"));
    const steps = await killedAtEachStep(
      folder,
      folder.file("new"),
      `dieAt(Number(rest[0])); await openSqlite(path, { opTimeoutMs: 20_000 });`,
      async (path) => {
        expect(await usersOf(path)).to.deep.equal([]);
      },
    );
    expect(steps).to.be.greaterThan(8);
  });

  it("is recovered by the next opening from a kill at any step of a checkpoint", async function () {
    this.timeout(240_000);
    await crashed(folder, "checkpoint", 3);
    const work = `
      const store = await openSqlite(path, { opTimeoutMs: 20_000 });
      await store.users.add({ key: "u3" });
      dieAt(Number(rest[0]));
      await store.close();`;
    const steps = await killedAtEachStep(folder, folder.file("checkpoint"), work, async (path) => {
      expect(await usersOf(path)).to.deep.equal(first(4));
    });
    expect(steps).to.be.greaterThan(10);
  });

  it("is recovered by the next opening from a kill at any step of a recovery, also one that ends a checkpoint", async function () {
    this.timeout(240_000);
    const { path } = await crashed(folder, "both", 2);
    const own = folder.file("both");
    // What a checkpoint leaves that got as far as its new log, to which a write went: the log of one that got to its
    // end.
    const later = join(folder.file("later"), "membership.db");
    await cp(own, folder.file("later"), { recursive: true });
    await (await openSqlite(later, { opTimeoutMs })).close();
    const store = await openSqlite(later, { opTimeoutMs });
    await store.users.add({ key: "u2" });
    const log = await logOf(later);
    await cp(log, path + log.slice(later.length));
    await store.close();
    expect((await readdir(own)).filter((name) => !name.endsWith("-lock"))).to.have.length(3);

    const work = `
      dieAt(Number(rest[0]));
      const store = await openSqlite(path, { opTimeoutMs: 20_000 });
      await store.users.add({ key: "u3" });`;
    const steps = await killedAtEachStep(folder, own, work, async (path) => {
      const keys = await usersOf(path);
      expect(keys.slice(0, 3)).to.deep.equal(first(3));
      expect(keys.length).to.be.within(3, 4);
    });
    expect(steps).to.be.greaterThan(10);
  });
});
