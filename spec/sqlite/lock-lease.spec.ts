import { expect } from "chai";
import { existsSync, promises as fs, rmSync } from "node:fs";
import {
  chmod,
  chown,
  cp,
  lstat,
  mkdir,
  mkdtemp,
  readFile,
  readdir,
  rename,
  rm,
  stat,
  writeFile,
} from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import {
  hasAdmin,
  isAdmin,
  isAuthorized,
  isLocked,
  isMember,
  isTimeout,
  isUnavailable,
  openSqlite,
  type Store,
  type StoreError,
} from "unibus-membership";
import { eventually } from "../support/wait.js";
import { Child } from "./support/child.js";
import { contents, failure, openIn, useFolder } from "./support/folder.js";
import { withLimits } from "../support/limited.js";
import { withoutTimers } from "./support/timers.js";

const opTimeoutMs = 20_000;

/**
 * Holds the file, checks and writes without end, and says each write that was acknowledged. `flag` is there from when
 * another holder's revocation was acknowledged on: whoever is allowed by a check that began later is let in wrongly.
 */
const HOLD = `
const { existsSync } = await import("node:fs");
const [flag, mode] = rest;
const store = await openSqlite(path, { opTimeoutMs: 20_000 });
if (mode === "writes") await store.users.add({ key: "written" });
say("holding");
let refused = 0;
let wrong = 0;
for (let n = 0; refused < 20; n++) {
  const revoked = existsSync(flag);
  const allowed = await store.isAuthorized("user");
  if (revoked && allowed) say("WRONG " + ++wrong);
  if (!allowed) refused++;
  if (mode === "writes") await store.users.add({ key: "n" + n }).then(() => say("n" + n), () => undefined);
  if (n % 50 === 0) await new Promise((resolve) => setTimeout(resolve, 1));
}
say("denies " + (await store.authorize("user")).reason);
say("write " + (await store.users.add({ key: "late" }).then(() => "done", (error) => error.code + " " + error.outcome)));
say("close " + (await store.close().then(() => "done", (error) => error.code)));`;

/** The same way as on a system without /proc, in a process whose folder for temporary files is another one. */
const AS_DARWIN = `Object.defineProperty(process, "platform", { value: "darwin" });`;

const CAN_BE_ANYBODY = process.getuid?.() === 0;
const NOBODY = 65_534;

describe("sqlite: the lease of a holder", () => {
  const folder = useFolder();

  async function prepared(path = folder.file()): Promise<void> {
    const store = await openSqlite(path, { opTimeoutMs });
    await store.users.addFirstAdmin({ key: "admin" });
    await store.users.add({ key: "user" });
    await store.rooms.create({ id: "room", owner: "alice" });
    await store.close();
  }

  async function sockets(of = folder.path): Promise<string[]> {
    return (await readdir(of)).filter((name) => /-lock-[0-9a-f]{16}$/.test(name)).map((name) => join(of, name));
  }

  async function deleteSockets(): Promise<void> {
    const found = await sockets();
    expect(found).to.have.length(1);
    for (const each of found) await rm(each);
  }

  async function expectTakenOver(
    holder: Child,
    path: string,
    meanwhile: () => Promise<void> = () => Promise.resolve(),
  ): Promise<void> {
    const began = performance.now();
    const store = await openSqlite(path, { opTimeoutMs });
    expect(performance.now() - began, "waits until the last holder has noticed").to.be.at.least(500);
    await store.users.revoke("user");
    await writeFile(folder.file("flag"), "");
    await meanwhile();
    expect(await holder.ended, holder.errors).to.deep.equal({ code: 0, signal: null });
    expect(holder.said.filter((line) => line.startsWith("WRONG"))).to.deep.equal([]);
    expect(holder.said)
      .to.include("denies unavailable")
      .and.include("write UNAVAILABLE none")
      .and.include("close UNAVAILABLE");
    // Whatever it acknowledged is there, and what it did when it closed harms nothing.
    const acknowledged = holder.said.filter((line) => /^n\d+$/.test(line));
    for (const key of acknowledged) expect((await store.users.get(key)).status, key).to.equal("active");
    await store.users.add({ key: "after" });
    await store.close();
    const again = await openSqlite(path, { opTimeoutMs });
    for (const key of [...acknowledged, "after"]) expect(await again.isAuthorized(key), key).to.equal(true);
    expect(await again.isAuthorized("user")).to.equal(false);
    await again.close();
  }

  for (const mode of ["writes", "reads"]) {
    it(`a holder whose socket is deleted neither allows nor acknowledges when another has the file: one that ${mode}`, async () => {
      await prepared();
      const holder = new Child(HOLD, [folder.file(), folder.file("flag"), mode]);
      try {
        await holder.says("holding");
        await deleteSockets();
        await expectTakenOver(holder, folder.file());
        if (mode === "writes")
          expect(
            holder.said.some((line) => /^n\d+$/.test(line)),
            holder.said.join(),
          ).to.equal(true);
      } finally {
        await holder.kill();
      }
    });

    it(`so does one whose lock file is deleted too, and that was stopped meanwhile: one that ${mode}`, async () => {
      await prepared();
      const holder = new Child(HOLD, [folder.file(), folder.file("flag"), mode]);
      try {
        await holder.says("holding");
        holder.process.kill("SIGSTOP");
        await deleteSockets();
        await rm(`${folder.file()}-lock`);
        await expectTakenOver(holder, folder.file(), () => {
          holder.process.kill("SIGCONT");
          return Promise.resolve();
        });
      } finally {
        await holder.kill();
      }
    });
  }

  it("a holder whose file was given another name notices before the one who opens that", async () => {
    await prepared();
    const holder = new Child(HOLD, [folder.file(), folder.file("flag"), "writes"]);
    try {
      await holder.says("holding");
      const moved = folder.file("moved.db");
      for (const name of await readdir(folder.path)) {
        if (/^membership\.db(-redo[01])?$/.test(name))
          await rename(folder.file(name), moved + name.slice("membership.db".length));
      }
      await expectTakenOver(holder, moved);
    } finally {
      await holder.kill();
    }
  });

  it("a holder whose folder was given another name is found there, and denies until it is gone", async () => {
    await mkdir(folder.file("old"));
    const old = join(folder.file("old"), "membership.db");
    const moved = join(folder.file("new"), "membership.db");
    await prepared(old);
    const holder = new Child(HOLD + "\nsetInterval(() => undefined, 1000);", [old, folder.file("flag"), "writes"]);
    try {
      await holder.says("holding");
      await rename(folder.file("old"), folder.file("new"));
      const error = (await failure(openSqlite(moved, { opTimeoutMs }))) as StoreError;
      expect(isLocked(error), String(error)).to.equal(true);
      expect((error.details?.["holder"] as { pid: number }).pid).to.equal(holder.process.pid);
      await holder.says("denies unavailable");
    } finally {
      await holder.kill();
    }
    const store = await openSqlite(moved, { opTimeoutMs });
    for (const key of holder.said.filter((line) => /^n\d+$/.test(line)))
      expect(await store.isAuthorized(key), key).to.equal(true);
    await store.close();
  });

  describe("in this process", () => {
    let store: Store;
    const { now: wallNow } = Date;
    const monotonicNow = performance.now.bind(performance);

    beforeEach(async () => {
      await prepared();
      store = await openSqlite(folder.file(), { opTimeoutMs });
    });

    afterEach(async () => {
      Date.now = wallNow;
      Object.assign(performance, { now: monotonicNow });
      await store.close().catch(() => undefined);
      expect(await openIn(folder.path), "left open").to.deep.equal([]);
    });

    /** Checked at once, so that no timer has looked in between. */
    async function expectDeniesAfter(change: () => void): Promise<void> {
      const [socket = ""] = await sockets();
      expect(await store.isAuthorized("user")).to.equal(true);
      rmSync(socket);
      change();
      for (const until = wallNow() + 2; wallNow() < until;);
      const answers = await Promise.all([
        store.isAuthorized("user"),
        store.isAdmin("admin"),
        store.isMember("room", "alice"),
        store.hasAdmin(),
        isAuthorized(store, "user"),
        isAdmin(store, "admin"),
        isMember(store, "room", "alice"),
        hasAdmin(store),
      ]);
      expect(answers).to.deep.equal(answers.map(() => false));
      for (const key of ["user", "nobody"]) expect((await store.authorize(key)).reason).to.equal("unavailable");
      // For good: what it has in memory may be old by now.
      await writeFile(socket, "");
      expect(await store.isAuthorized("user")).to.equal(false);
    }

    it("looks first when the wall clock says that much time went by", () =>
      expectDeniesAfter(() => {
        Date.now = () => wallNow() + 500;
      }));

    it("looks first when the monotonic clock says so", () =>
      expectDeniesAfter(() => {
        Object.assign(performance, { now: () => monotonicNow() + 500 });
      }));

    it("looks first when the wall clock was set back", () =>
      expectDeniesAfter(() => {
        Date.now = () => wallNow() - 3_600_000;
      }));

    for (const [what, put] of [
      [
        "its socket",
        async () => {
          const [socket = ""] = await sockets();
          await rename(folder.file("other"), socket);
        },
      ],
      ["its image", () => rename(folder.file("other"), folder.file())],
    ] as const) {
      it(`is not taken in by another file in the place of ${what}`, async () => {
        await cp(folder.file(), folder.file("other"));
        await put();
        Date.now = () => wallNow() + 500;
        expect(await store.isAuthorized("user")).to.equal(false);
        expect(isUnavailable(await failure(store.users.add({ key: "n" })))).to.equal(true);
      });
    }

    /**
     * Loses the socket in the middle of the checkpoint of a close, and answers what the files were then and are
     * afterwards.
     */
    async function losesItsSocketAt(
      step: "look" | "sync" | "rename",
    ): Promise<{ then: Record<string, string>; now: Record<string, string> }> {
      // Its own looks, which a timer begins, come late: that the checkpoint looks is asked. Those that have begun are
      // over before.
      const restoreTimers = await withoutTimers();
      await store.users.add({ key: "n" });
      const [socket = ""] = await sockets();
      let then: Record<string, string> | undefined;
      const lose = async (): Promise<void> => {
        if (then !== undefined) return;
        await rm(socket);
        then = await contents(folder.path);
      };
      const { lstat: look, rename: give } = fs;
      const handle = await fs.open(folder.path, "r");
      await handle.close();
      const handles = Object.getPrototypeOf(handle) as { sync: (this: object) => Promise<void> };
      const { sync } = handles;
      const found = (async (...args: Parameters<typeof look>) => {
        const stats = await look(...args);
        if (step === "look" && args[0] === socket) await lose();
        return stats;
      }) as typeof look;
      fs.lstat = found;
      fs.rename = async (from, to) => {
        await give(from, to);
        if (step === "rename" && to === folder.file()) await lose();
      };
      handles.sync = async function () {
        await sync.call(this);
        if (step === "sync" && existsSync(`${folder.file()}-checkpoint`)) await lose();
      };
      try {
        expect(isUnavailable(await failure(store.close()))).to.equal(true);
      } finally {
        Object.assign(fs, { lstat: look, rename: give });
        handles.sync = sync;
        restoreTimers();
      }
      if (then === undefined) throw new Error("the socket was not lost");
      const isOwn = ([name]: [string, string]): boolean => /^membership\.db(-redo[01])?$/.test(name);
      const now = await contents(folder.path);
      return {
        then: Object.fromEntries(Object.entries(then).filter(isOwn)),
        now: Object.fromEntries(Object.entries(now).filter(isOwn)),
      };
    }

    for (const [step, what] of [
      ["look", "makes no log"],
      ["sync", "gives no image its name"],
      ["rename", "deletes no log"],
    ] as const) {
      it(`in the middle of a checkpoint ${what} when its socket is gone`, async () => {
        const { then, now } = await losesItsSocketAt(step);
        expect(Object.keys(now)).to.deep.equal(Object.keys(then));
        expect(now["membership.db"] === then["membership.db"]).to.equal(true);
        const next = await openSqlite(folder.file(), { opTimeoutMs });
        expect(await next.isAuthorized("n")).to.equal(true);
        await next.close();
      });
    }

    it("looks by itself while it is used, also where the wall clock stands still", async () => {
      const frozen = wallNow();
      Date.now = () => frozen;
      expect(await store.isAuthorized("user")).to.equal(true);
      const [socket = ""] = await sockets();
      await rm(socket);
      await eventually("denied", async () => !(await store.isAuthorized("user")));
    });

    it("allows and acknowledges after any pause, and where no clock tells the time allows as it did", async () => {
      for (const later of [500, 3_600_000, -3_600_000]) {
        Date.now = () => wallNow() + later;
        Object.assign(performance, { now: () => monotonicNow() + Math.max(0, later) });
        expect(await store.isAuthorized("user"), String(later)).to.equal(true);
        expect((await store.users.update("user", { name: String(later) })).name).to.equal(String(later));
        expect((await store.users.reinstate("user")).status).to.equal("active");
      }
      Date.now = () => NaN;
      expect(await store.isAuthorized("user")).to.equal(true);
    });

    it("denies in time while it cannot be looked, and goes on when it can", async () => {
      const { lstat } = fs;
      const hung: (() => void)[] = [];
      const hanging = (...args: Parameters<typeof lstat>): Promise<unknown> =>
        new Promise((resolve, reject) => hung.push(() => void lstat(...args).then(resolve, reject)));
      const failing = (): Promise<never> => Promise.reject(Object.assign(new Error("EIO: injected"), { code: "EIO" }));
      try {
        for (const [look, reason, laterMs] of [
          [failing, "unavailable", 500],
          [hanging, "timeout", 3_600_000],
        ] as const) {
          fs.lstat = look as typeof lstat;
          Date.now = () => wallNow() + laterMs;
          expect(await store.isAuthorized("user", { timeoutMs: 100 }), reason).to.equal(false);
          expect((await store.authorize("user", { timeoutMs: 100 })).reason).to.equal(reason);
          expect(isUnavailable(await failure(store.users.reinstate("user", { timeoutMs: 100 }))), reason).to.equal(
            reason === "unavailable",
          );
        }
      } finally {
        fs.lstat = lstat;
        for (const each of hung) each();
      }
      expect(await store.isAuthorized("user")).to.equal(true);
      expect((await store.users.reinstate("user")).status).to.equal("active");
    });

    it("acknowledges after a look that counts, however long those before it took", async () => {
      const { lstat } = fs;
      let slow = 2;
      let laterMs = 500;
      Date.now = () => wallNow() + laterMs;
      const looks = async (...args: Parameters<typeof lstat>): Promise<unknown> => {
        const stats = await lstat(...args);
        if (slow-- > 0) laterMs += 500;
        return stats;
      };
      fs.lstat = looks as typeof lstat;
      try {
        await store.users.add({ key: "n" });
      } finally {
        fs.lstat = lstat;
      }
      expect(slow).to.be.lessThan(0);
      await store.users.add({ key: "m" });
      expect(await store.isAuthorized("n")).to.equal(true);
    });

    it("acknowledges nothing, also what changes nothing, after its socket was deleted", async () => {
      const [socket = ""] = await sockets();
      expect(await store.isAuthorized("user")).to.equal(true);
      rmSync(socket);
      Date.now = () => wallNow() + 500;
      const errors = await Promise.all([
        failure(store.users.reinstate("user")),
        failure(store.users.add({ key: "n" })),
      ]);
      for (const error of errors) expect(isUnavailable(error), String(error)).to.equal(true);
      expect((errors[1] as StoreError).outcome).to.equal("none");
      expect(((await failure(store.users.add({ key: "m" }))) as StoreError).outcome).to.equal("none");
      expect(isUnavailable(await failure(store.close()))).to.equal(true);
    });

    it("acknowledges nothing that is on its way to the disk when its socket is deleted", async () => {
      const [socket = ""] = await sockets();
      expect(await store.isAuthorized("user")).to.equal(true);
      const writing = failure(store.users.add({ key: "n" }));
      // By then it is being written, and the disk has not answered: no turn of the event loop has begun.
      await new Promise<void>((resolve) => process.nextTick(resolve));
      rmSync(socket);
      Date.now = () => wallNow() + 500;
      const error = (await writing) as StoreError;
      expect(isUnavailable(error), String(error)).to.equal(true);
      expect(error.outcome).to.equal("unknown");
    });

    it("writes nothing after a pause before it has looked: on a full disk the next holder goes on in the same files", async () => {
      await deleteSockets();
      const { open } = fs;
      fs.open = (path, ...more) =>
        String(path).endsWith("-checkpoint")
          ? Promise.reject(Object.assign(new Error("ENOSPC: injected"), { code: "ENOSPC" }))
          : open(path, ...more);
      let next: Store;
      try {
        next = await openSqlite(folder.file(), { opTimeoutMs });
      } finally {
        fs.open = open;
      }
      await next.users.revoke("user");
      const error = (await failure(store.users.add({ key: "late", name: "n".repeat(200) }))) as StoreError;
      expect(isUnavailable(error), String(error)).to.equal(true);
      await next.close();
      const again = await openSqlite(folder.file(), { opTimeoutMs });
      expect(await again.isAuthorized("user")).to.equal(false);
      await again.close();
      expect(error.outcome).to.equal("none");
    });

    it("is waited for again after an opener that did not find it gave up before it had new files", async () => {
      await deleteSockets();
      const lock = await readFile(`${folder.file()}-lock`, "utf8");
      const { ino } = await stat(folder.file());
      const giving = new AbortController();
      const refused = openSqlite(folder.file(), {
        opTimeoutMs,
        signal: giving.signal,
        onOpening: () => giving.abort(),
      });
      expect(isTimeout(await failure(refused))).to.equal(true);
      await eventually("the opener is gone", async () => (await sockets()).length === 0);
      expect(await readFile(`${folder.file()}-lock`, "utf8")).to.equal(lock);
      const next = await openSqlite(folder.file(), { opTimeoutMs });
      expect((await stat(folder.file())).ino).to.not.equal(ino);
      await next.close();
    });

    it("takes for its own what a look finds that began before a checkpoint gave the file its image", async () => {
      await store.close();
      const limited = await withLimits({ MIN_LOG_BYTES: 1 });
      const { stat: look, rename: give } = fs;
      let seen: Promise<boolean> | undefined;
      try {
        store = await limited.library.openSqlite(folder.file(), { opTimeoutMs });
        let found: () => void = () => undefined;
        let goOn: () => void = () => undefined;
        fs.rename = async (from, to) => {
          if (to !== folder.file()) return give(from, to);
          const looked = new Promise<void>((resolve) => (found = resolve));
          const renamed = new Promise<void>((resolve) => (goOn = resolve));
          fs.stat = (async (...args: Parameters<typeof look>) => {
            const stats = await look(...args);
            if (args[0] === folder.file()) {
              found();
              await renamed;
            }
            return stats;
          }) as typeof look;
          Date.now = () => wallNow() + 500;
          seen = store.isAuthorized("user");
          await looked;
          await give(from, to);
          // By then the checkpoint knows that it has its name.
          setImmediate(goOn);
        };
        // More than the file has, so that one begins.
        await store.rooms.create({
          id: "large",
          owner: "o",
          encrypted: true,
          sealedKey: new Uint8Array(65_536).fill(7),
        });
        await eventually("a checkpoint", () => Promise.resolve(seen !== undefined));
        expect(await seen).to.equal(true);
        await store.users.add({ key: "m" });
      } finally {
        Object.assign(fs, { stat: look, rename: give });
        await store.close();
        await limited.dispose();
      }
    });

    it("puts no image in the place of another holder's, however it comes to close", async () => {
      await store.users.add({ key: "n" });
      const [socket = ""] = await sockets();
      await rm(socket);
      const { ino, size } = await stat(folder.file());
      expect(isUnavailable(await failure(store.close()))).to.equal(true);
      expect((await stat(folder.file())).ino).to.equal(ino);
      expect((await stat(folder.file())).size).to.equal(size);
      const next = await openSqlite(folder.file(), { opTimeoutMs });
      expect(await next.isAuthorized("n")).to.equal(true);
      await next.close();
    });

    it("marks no image but its own, also when it was stopped right after it gave that its name", async () => {
      await store.users.add({ key: "n" });
      const [socket = ""] = await sockets();
      const { rename: give } = fs;
      let next: Store | undefined;
      let image: Buffer | undefined;
      fs.rename = async (from, to) => {
        await give(from, to);
        if (to !== folder.file() || next !== undefined) return;
        fs.rename = give;
        await rm(socket);
        next = await openSqlite(folder.file(), { opTimeoutMs });
        image = await readFile(folder.file());
      };
      try {
        expect(isUnavailable(await failure(store.close()))).to.equal(true);
      } finally {
        fs.rename = give;
      }
      expect(image?.equals(await readFile(folder.file()))).to.equal(true);
      expect(await next?.isAuthorized("n")).to.equal(true);
      await next?.close();
    });

    it("begins a checkpoint again only where it still holds the file: another holder's may be under way", async () => {
      const making = `${folder.file()}-checkpoint`;
      const { rename: give } = fs;
      let failed = false;
      fs.rename = async (from, to) => {
        if (from !== making) return give(from, to);
        failed = true;
        throw Object.assign(new Error("injected"), { code: "ENOSPC" });
      };
      try {
        const sealedKey = new Uint8Array(65_536).fill(7);
        for (let i = 0; i < 13; i++)
          await Promise.all(
            Array.from({ length: 40 }, () => store.rooms.create({ owner: "o", encrypted: true, sealedKey })),
          );
        await eventually("a checkpoint that failed", () => failed && !existsSync(making));
      } finally {
        fs.rename = give;
      }
      // Until its own looks are over: it is used no more.
      await new Promise((resolve) => setTimeout(resolve, 400));
      const [socket = ""] = await sockets();
      await rm(socket);
      await writeFile(making, "another's");
      // It is tried again after a second.
      await new Promise((resolve) => setTimeout(resolve, 1500));
      expect(await readFile(making, "utf8")).to.equal("another's");
      expect(isUnavailable(await failure(store.close()))).to.equal(true);
    });

    it("goes on in the same files where the last holder is known to be gone, and else in new ones", async () => {
      await store.close();
      const inode = async (): Promise<number> => {
        const opened = await openSqlite(folder.file(), { opTimeoutMs });
        const { ino } = await stat(folder.file());
        await opened.close();
        return ino;
      };
      const first = await inode();
      expect(await inode(), "closed").to.equal(first);
      await rm(`${folder.file()}-lock`);
      expect(await inode(), "not known").to.not.equal(first);
      const killed = new Child(`await openSqlite(path); say("open"); setInterval(() => undefined, 1000);`, [
        folder.file(),
      ]);
      await killed.says("open");
      const second = (await stat(folder.file())).ino;
      await killed.kill();
      expect(await inode(), "killed").to.equal(second);
    });
  });

  it("of many processes that do not find the last holder one gets in after the other, and nothing is lost", async () => {
    await prepared();
    const code = `
      const { rmSync, readdirSync } = await import("node:fs");
      const { dirname, join } = await import("node:path");
      for (let n = 0; n < 2; ) {
        try {
          const store = await openSqlite(path, { opTimeoutMs: 20_000 });
          await store.users.add({ key: rest[0] + n });
          say(rest[0] + n++);
          if (n === 1) for (const name of readdirSync(dirname(path))) if (/-lock$/.test(name)) rmSync(join(dirname(path), name));
          await store.close();
        } catch (error) { if (error.code !== "LOCKED") throw error; }
      }`;
    const children = Array.from({ length: 3 }, (_, i) => new Child(code, [folder.file(), `k${String(i)}-`]));
    for (const child of children) expect(await child.ended, child.errors).to.deep.equal({ code: 0, signal: null });
    const store = await openSqlite(folder.file(), { opTimeoutMs });
    expect((await store.users.list()).items.map(({ key }) => key).sort()).to.deep.equal([
      "admin",
      "k0-0",
      "k0-1",
      "k1-0",
      "k1-1",
      "k2-0",
      "k2-1",
      "user",
    ]);
    await store.close();
  });

  describe("where there is no /proc, as on macOS and BSD (simulated)", () => {
    const OPEN = `${AS_DARWIN}
      await openSqlite(path, { opTimeoutMs: 20_000 }).then(() => say("holding"), (error) => say(error.code + " " + error.details?.holder?.pid));
      setInterval(() => undefined, 1000);`;

    async function as(temporary: string, path: string): Promise<Child> {
      await mkdir(temporary, { recursive: true });
      return new Child(OPEN, [path], ["env", `TMPDIR=${temporary}`]);
    }

    for (const [what, name] of [
      ["a path longer than a socket's address", join("d".repeat(90), "e".repeat(90), `${"f".repeat(90)}.db`)],
      ["a short path", "m.db"],
    ] as const) {
      it(`processes with different folders for temporary files lock each other out: ${what}`, async () => {
        const path = folder.file(name);
        await mkdir(join(path, ".."), { recursive: true });
        const temporary = [folder.file("t1"), folder.file("t2"), join(folder.file("t3"), "t".repeat(90))];
        const holder = await as(temporary[0] ?? "", path);
        const others: Child[] = [];
        try {
          await holder.says("holding");
          for (const each of temporary.slice(1)) {
            const other = await as(each, path);
            others.push(other);
            await other.says(`LOCKED ${String(holder.process.pid)}`);
          }
        } finally {
          await holder.kill();
          for (const other of others) await other.kill();
        }
        // The sockets are beside the file, and nothing is left where they were shortened.
        for (const each of temporary) expect(await readdir(each)).to.deep.equal([]);
        expect(await sockets(join(path, ".."))).to.have.length(1);
        const next = await as(folder.file("t4"), path);
        try {
          await next.says("holding");
        } finally {
          await next.kill();
        }
      });
    }
  });

  describe("another user", () => {
    if (!CAN_BE_ANYBODY) {
      it("is only to be had by root", () => console.warn("NOT ROOT: the lock was not tried with another user"));
      return;
    }

    const AS_NOBODY = `
      await (await openSqlite(path + "-other")).close();
      for (const become of ["setgroups", "setgid", "setuid"]) process[become](become === "setgroups" ? [] : ${String(NOBODY)});
      const store = await openSqlite(path, { opTimeoutMs: 20_000 }).catch((error) => error);
      say(store.code ?? String(await store.isAuthorized("user")));
      await store.close?.();`;

    const openedByNobody = async (): Promise<string> => {
      const child = new Child(AS_NOBODY, [folder.file()]);
      await child.ended;
      return child.said[0] ?? child.errors;
    };

    async function give(mode = 0o755): Promise<void> {
      for (const name of await readdir(folder.path)) await chown(folder.file(name), NOBODY, NOBODY);
      await chmod(folder.path, mode);
      if (mode === 0o755) await chown(folder.path, NOBODY, NOBODY);
    }

    const ROOT_HOLDS = `await openSqlite(path, { opTimeoutMs: 20_000 }); say("holding"); setInterval(() => undefined, 1000);`;

    for (const [what, mode] of [
      ["its own folder", 0o755],
      ["a folder where only owners may delete", 0o1777],
    ] as const) {
      it(`that is root keeps the file while it lives, and not when it was killed: in ${what}`, async () => {
        await prepared();
        await give(mode);
        const holder = new Child(ROOT_HOLDS, [folder.file()]);
        try {
          await holder.says("holding");
          expect(await openedByNobody()).to.equal("LOCKED");
          // Also where the socket does not tell.
          for (const each of await sockets()) await chmod(each, 0);
          expect(await openedByNobody()).to.equal("LOCKED");
          for (const each of await sockets()) await chmod(each, 0o777);
        } finally {
          await holder.kill();
        }
        expect(await openedByNobody()).to.equal("true");
      });
    }

    it("that was killed before it let others ask is in nobody's way", async () => {
      await prepared();
      await give();
      const dead = `${folder.file()}-lock-00000000000a0000`;
      const server = createServer();
      await new Promise<void>((resolve) => server.listen(folder.file("any"), resolve));
      await rename(folder.file("any"), dead);
      await chmod(dead, 0o700);
      await new Promise((resolve) => server.close(resolve));
      expect((await lstat(dead)).isSocket()).to.equal(true);
      expect(await openedByNobody()).to.equal("true");
    });
  });

  it("says so where the folder's file system has no sockets, and leaves nothing", async () => {
    // What Linux has of such file systems everywhere. Others tell by other codes.
    const without =
      CAN_BE_ANYBODY && (await stat("/sys/kernel").catch(() => undefined)) !== undefined ? "/sys/kernel" : undefined;
    if (without === undefined) return;
    const error = (await failure(openSqlite(join(without, "membership.db"), { opTimeoutMs }))) as StoreError;
    expect(isUnavailable(error), String(error)).to.equal(true);
    expect(error.argument).to.equal("path");
    expect(error.message).to.contain("socket").and.contain(without);
  });

  it("waits for nobody where nobody can have been: a new file", async () => {
    const temporary = await mkdtemp(join(tmpdir(), "unibus-sqlite-"));
    const store = await openSqlite(join(temporary, "membership.db"), { opTimeoutMs });
    expect(basename((await sockets(temporary))[0] ?? "")).to.match(/^membership\.db-lock-/);
    await store.close();
    expect(await readFile(join(temporary, "membership.db-lock"), "utf8")).to.equal('{"released":true}\n');
    await rm(temporary, { recursive: true });
  });
});
