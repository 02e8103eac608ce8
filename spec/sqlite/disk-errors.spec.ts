import { expect } from "chai";
import files, { promises as fs } from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { join } from "node:path";
import { mock } from "node:test";
import {
  hasAdmin,
  isAdmin,
  isAuthorized,
  isMember,
  isTimeout,
  isUnavailable,
  openSqlite,
  type Store,
  type StoreError,
} from "unibus-membership";
import { Child } from "./support/child.js";
import { crashed } from "./support/crash.js";
import { contents, failure, openIn, useFolder } from "./support/folder.js";
import { withoutTimers } from "./support/timers.js";

/** How many bytes the disk took. */
type Write = (fd: number, bytes: Uint8Array, offset: number, length: number, position: number) => Promise<number>;
type Done = (error: Error | null, taken?: number) => void;
/** The one way in which the store writes. */
const plain = files as unknown as { write: (...args: [...Parameters<Write>, Done]) => void };

/** ES modules, of which the library is some, have imported the function that was there before. */
function put(write: typeof plain.write): void {
  plain.write = write;
  syncBuiltinESMExports();
}

/** The methods that every file handle of this process shares. */
async function handles(folder: string): Promise<{ sync: () => Promise<void> }> {
  const handle = await fs.open(folder, "r");
  await handle.close();
  return Object.getPrototypeOf(handle) as { sync: () => Promise<void> };
}

const ioError = (code: string): Error => Object.assign(new Error(`${code}: injected`), { code });
const opTimeoutMs = 20_000;

describe("sqlite: disk errors", () => {
  const folder = useFolder();
  let restore: (() => void)[] = [];
  let store: Store;

  /** Puts another in place of what writes to a file. */
  function writing(replace: (original: Write) => Write): void {
    const { write } = plain;
    restore.push(() => {
      put(write);
    });
    const replaced = replace(
      (...args) =>
        new Promise((resolve, reject) => {
          write(...args, (error, taken = 0) => {
            if (error === null) resolve(taken);
            else reject(error);
          });
        }),
    );
    put((...args) => {
      const done = args[5];
      replaced(args[0], args[1], args[2], args[3], args[4]).then((taken) => done(null, taken), done);
    });
  }

  /** The disk hangs until everything is restored: what was written meanwhile is then carried out. */
  function hanging(): void {
    const hung: (() => void)[] = [];
    writing(
      (original) =>
        (...args) =>
          new Promise((resolve, reject) => hung.push(() => void original(...args).then(resolve, reject))),
    );
    restore.push(() => {
      for (const each of hung.splice(0)) each();
    });
  }

  const restoreAll = (): void => {
    for (const each of restore.splice(0)) each();
  };

  beforeEach(async () => {
    restore = [];
    store = await openSqlite(folder.file(), { opTimeoutMs });
    await store.users.addFirstAdmin({ key: "admin" });
    await store.users.add({ key: "before" });
    await store.rooms.create({ id: "room", owner: "alice" });
  });

  afterEach(async () => {
    restoreAll();
    await store.close().catch(() => undefined);
    // Whatever happened, nothing is left to the garbage collector. Closing goes on alone where it took longer than a
    // caller waits.
    for (const until = performance.now() + 30_000; (await openIn(folder.path)).length > 0 && performance.now() < until;)
      await new Promise(setImmediate);
    expect(await openIn(folder.path), "left open").to.deep.equal([]);
  });

  async function expectReadOnly(): Promise<void> {
    const later = (await failure(store.users.add({ key: "later" }))) as StoreError;
    expect(isUnavailable(later), String(later)).to.equal(true);
    expect(later.outcome).to.equal("none");
    expect((await store.users.list()).items.map(({ key }) => key)).to.deep.equal(["admin", "before"]);
    expect((await store.users.get("before")).status).to.equal("active");
    expect(await isAuthorized(store, "before")).to.equal(true);
    expect(await hasAdmin(store)).to.equal(true);
    expect(await isMember(store, "room", "alice")).to.equal(true);
    expect(await isAuthorized(store, "met")).to.equal(false);
  }

  async function expectKept(...perhaps: string[]): Promise<void> {
    await store.close();
    restoreAll();
    store = await openSqlite(folder.file(), { opTimeoutMs });
    const keys = (await store.users.list()).items.map(({ key }) => key).filter((key) => !perhaps.includes(key));
    expect(keys).to.deep.equal(["admin", "before"]);
    await store.users.add({ key: "again" });
    expect(await isAuthorized(store, "again")).to.equal(true);
  }

  for (const code of ["ENOSPC", "EIO", "EDQUOT"]) {
    it(`${code}: the write that met it rejects, nothing is acknowledged after it, and what is durable goes on being answered`, async () => {
      writing(() => () => Promise.reject(ioError(code)));
      const taken = failure(store.users.revoke("before"));
      const removed = failure(store.rooms.delete("room"));
      const met = (await failure(store.users.add({ key: "met" }))) as StoreError;
      // What took away, and was not done, takes nothing away any longer.
      expect(isUnavailable(await taken) && isUnavailable(await removed)).to.equal(true);
      expect(isUnavailable(met), String(met)).to.equal(true);
      expect(met.outcome).to.equal("unknown");
      expect((met.cause as { code?: string }).code).to.equal(code);
      restoreAll();
      await expectReadOnly();
      await expectKept("met");
    });
  }

  it("what waited behind the write that failed was surely not done", async () => {
    let fail: (error: Error) => void = () => undefined;
    writing(() => () => new Promise((_, reject) => (fail = reject)));
    const first = failure(store.users.add({ key: "met" }));
    // The first one is on its way to the disk when the others arrive.
    await new Promise(setImmediate);
    const behind = [
      failure(store.users.add({ key: "behind" })),
      failure(store.rooms.create({ id: "behind", owner: "bob" })),
    ];
    fail(ioError("EIO"));
    expect(((await first) as StoreError).outcome).to.equal("unknown");
    for (const error of (await Promise.all(behind)) as StoreError[]) {
      expect(isUnavailable(error)).to.equal(true);
      expect(error.outcome).to.equal("none");
    }
    restoreAll();
    await expectReadOnly();
    await expectKept("met");
    expect((await store.rooms.list()).items.map(({ id }) => id)).to.deep.equal(["room"]);
  });

  it("callers who write one thing after the other share their writes, however they began", async () => {
    let writes = 0;
    writing((original) => (...args) => {
      writes++;
      return original(...args);
    });
    const writer = async (name: string): Promise<void> => {
      for (let n = 0; n < 100; n++) await store.users.add({ key: `${name}-${String(n)}` });
    };
    const first = writer("first");
    // The first one's is on its way to the disk when the second begins.
    await new Promise(setImmediate);
    await Promise.all([first, writer("second")]);
    expect(writes).to.be.lessThan(120);
  });

  it("a call ends in its time also after somebody lost the timer of another", async () => {
    await store.close();
    store = await openSqlite(folder.file(), { opTimeoutMs: 100 });
    mock.timers.enable({ apis: ["setTimeout"] });
    await store.users.list();
    mock.timers.reset();
    hanging();
    await new Promise((resolve) => setTimeout(resolve, 1100));
    expect(isTimeout(await failure(store.users.add({ key: "met" })))).to.equal(true);
  });

  it("works where a timer is a number, as in a browser's window", async () => {
    const child = new Child(
      `
      const { setTimeout: set, clearTimeout: clear } = globalThis;
      const timers = new Map();
      globalThis.setTimeout = (...args) => {
        const timer = set(...args);
        timers.set(+timer, timer);
        return +timer;
      };
      globalThis.clearTimeout = (id) => clear(timers.get(id));
      const store = await openSqlite(path);
      await store.users.add({ key: "user" });
      say(String(await store.isAuthorized("user")));
      await store.close();
      say("closed");
    `,
      [join(folder.path, "another")],
    );
    await child.says("closed");
    expect(child.said).to.deep.equal(["true", "closed"]);
    expect(await child.ended).to.deep.equal({ code: 0, signal: null });
  });

  it("a short write goes on where it stopped", async () => {
    writing(
      (original) => (fd, bytes, offset, length, position) =>
        original(fd, bytes, offset, Math.ceil(length / 3), position),
    );
    await store.users.add({ key: "short", name: "written in many pieces" });
    restoreAll();
    await store.close();
    store = await openSqlite(folder.file());
    expect((await store.users.get("short")).name).to.equal("written in many pieces");
  });

  it("a short write that fails in the middle leaves a torn record, which the next opening cuts off", async () => {
    let calls = 0;
    writing(
      (original) => (fd, bytes, offset, length, position) =>
        calls++ > 0 ? Promise.reject(ioError("ENOSPC")) : original(fd, bytes, offset, Math.ceil(length / 2), position),
    );
    expect(((await failure(store.users.add({ key: "met" }))) as StoreError).outcome).to.equal("unknown");
    restoreAll();
    await expectReadOnly();
    await expectKept();
  });

  it("a disk that takes no byte has failed", async () => {
    writing(() => () => Promise.resolve(0));
    expect(isUnavailable(await failure(store.users.add({ key: "met" })))).to.equal(true);
    restoreAll();
    await expectKept();
  });

  it("a disk that hangs: grants wait, what takes away counts at once, checks and reads go on, and calls end in time", async () => {
    hanging();
    const limits = { timeoutMs: 200 };
    const granted = failure(store.users.add({ key: "met" }, limits));
    const revoked = failure(store.users.revoke("before", limits));
    const deleted = failure(store.rooms.delete("room", limits));
    expect(await isAuthorized(store, "met")).to.equal(false);
    expect(await isAuthorized(store, "before")).to.equal(false);
    expect(await isMember(store, "room", "alice")).to.equal(false);
    // Read committed: what others read is what the disk has.
    expect((await store.users.get("before")).status).to.equal("active");
    expect((await store.rooms.get("room")).owner).to.equal("alice");
    for (const error of (await Promise.all([granted, revoked, deleted])) as StoreError[]) {
      expect(isTimeout(error), String(error)).to.equal(true);
      expect(error.outcome).to.equal("unknown");
    }
    expect(await isAuthorized(store, "admin")).to.equal(true);
    expect(await hasAdmin(store)).to.equal(true);
    // The one write that each batch is, until nothing waits any more.
    restoreAll();
    await store.users.add({ key: "after" });
    expect(await isAuthorized(store, "met")).to.equal(true);
    expect((await store.users.get("before")).status).to.equal("revoked");
  });

  it("a disk that hangs: a removal, a demotion and an earlier expiry count at once too, and nothing beside them", async () => {
    await store.users.add({ key: "second", role: "admin" });
    await store.users.add({ key: "guest" });
    for (const endpoint of ["bob", "carol"]) await store.members.add("room", { endpoint, state: "joined" });
    hanging();
    const taken = Promise.all([
      store.members.remove("room", "bob"),
      store.users.update("second", { role: "member" }),
      store.users.update("before", { expiresAt: new Date(1000) }),
    ]);
    const checks = async (): Promise<unknown> => ({
      bob: await isMember(store, "room", "bob"),
      carol: await isMember(store, "room", "carol"),
      before: (await store.authorize("before")).reason,
      second: [await isAuthorized(store, "second"), await isAdmin(store, "second")],
      guest: await isAuthorized(store, "guest"),
      admin: [await isAdmin(store, "admin"), await hasAdmin(store)],
    });
    const expected = {
      bob: false,
      carol: true,
      before: "expired",
      second: [true, false],
      guest: true,
      admin: [true, true],
    };
    expect(await checks()).to.deep.equal(expected);
    expect(
      (await store.members.list("room")).map(({ endpoint }) => endpoint),
      "what others read is what the disk has",
    ).to.include("bob");
    restoreAll();
    await taken;
    expect(await checks()).to.deep.equal(expected);
  });

  it("a call whose time is over before a closing store ends it is told so, not that the store was closed", async () => {
    await store.close();
    store = await openSqlite(folder.file(), { opTimeoutMs: 500 });
    hanging();
    const over = failure(store.users.add({ key: "met" }, { timeoutMs: 550 }));
    const early = failure(store.users.add({ key: "behind" }, { timeoutMs: 60_000 }));
    const closing = store.close();
    // Whoever looks next finds both: the call's time over, and that of closing.
    for (const until = performance.now() + 600; performance.now() < until;);
    expect(((await over) as StoreError).code).to.equal("TIMEOUT");
    expect(((await early) as StoreError).code).to.equal("CLOSED");
    restoreAll();
    await closing;
  });

  it("a store that closes while the disk hangs says so in time, and keeps its lock until the disk has answered", async () => {
    await store.close();
    store = await openSqlite(folder.file(), { opTimeoutMs: 50 });
    let release: () => void = () => undefined;
    writing(
      (original) =>
        (...args) =>
          new Promise((resolve, reject) => (release = () => void original(...args).then(resolve, reject))),
    );
    const write = failure(store.users.add({ key: "met" }));
    const closing = (await failure(store.close())) as StoreError;
    expect(isTimeout(closing), String(closing)).to.equal(true);
    expect(isTimeout(await write)).to.equal(true);
    expect(((await failure(openSqlite(folder.file()))) as StoreError).code).to.equal("LOCKED");
    restoreAll();
    release();
    let next: Store | undefined;
    for (const until = performance.now() + 30_000; next === undefined;) {
      next = await openSqlite(folder.file()).catch((error: unknown) => {
        if (performance.now() > until) throw error;
        return undefined;
      });
    }
    expect(await isAuthorized(next, "met")).to.equal(true);
    store = next;
  });

  it("a folder that vanished: the write that met it rejects, and close says what is lost", async () => {
    // No look of the lease is to find it first: no timer begins one, and the last one counts for all of it.
    restore.push(await withoutTimers());
    const { now: wallNow } = Date;
    const monotonicNow = performance.now.bind(performance);
    const [wall, monotonic] = [wallNow(), monotonicNow()];
    const at = (ms: number): void => {
      Date.now = () => wall + ms;
      Object.assign(performance, { now: () => monotonic + ms });
    };
    restore.push(() => {
      Date.now = wallNow;
      Object.assign(performance, { now: monotonicNow });
    });
    at(1000);
    await store.users.add({ key: "looks-first" });
    await fs.rm(folder.path, { recursive: true });
    // By then the log looks where its files are.
    at(1200);
    expect(isUnavailable(await failure(store.users.add({ key: "lost" })))).to.equal(true);
    // Somebody else may have put another store in their place.
    expect((await store.authorize("before")).reason).to.equal("unavailable");
    restoreAll();
    expect(await isAuthorized(store, "before")).to.equal(false);
    const closing = (await failure(store.close())) as StoreError;
    expect(isUnavailable(closing)).to.equal(true);
    expect(closing.details?.["lost"]).to.be.at.least(3);
  });

  it("a folder that vanished: no check that begins half a second later allows, also where nobody writes", async () => {
    expect(await isAuthorized(store, "before")).to.equal(true);
    await fs.rm(folder.path, { recursive: true });
    // A look that found the files began before now.
    const gone = performance.now();
    let began = gone;
    let decision = await store.authorize("before");
    while (decision.allowed && began - gone < 500) {
      await new Promise(setImmediate);
      began = performance.now();
      decision = await store.authorize("before");
    }
    expect(decision.reason, `a check ${String(began - gone)} ms later`).to.equal("unavailable");
    for (const check of [
      isAuthorized(store, "before"),
      isAdmin(store, "admin"),
      isMember(store, "room", "alice"),
      hasAdmin(store),
    ])
      expect(await check).to.equal(false);
    expect(isUnavailable(await failure(store.close()))).to.equal(true);
  });

  it("a close that meets an error closes the other files all the same, and gives up the file", async () => {
    await store.close();
    const { open } = fs;
    restore.push(() => (fs.open = open));
    fs.open = async (...args) => {
      const handle = await open(...args);
      const close = handle.close.bind(handle);
      // The system has given it up then, as it does whatever it says.
      if (String(args[0]) === folder.file()) handle.close = () => close().then(() => Promise.reject(ioError("EIO")));
      return handle;
    };
    store = await openSqlite(folder.file(), { opTimeoutMs });
    const error = (await failure(store.close())) as StoreError;
    expect(isUnavailable(error), String(error)).to.equal(true);
    expect(await openIn(folder.path), "left open").to.deep.equal([]);
    restoreAll();
    store = await openSqlite(folder.file(), { opTimeoutMs });
    expect(await isAuthorized(store, "before")).to.equal(true);
  });

  it("a close that cannot delete what names the holder gives up the file all the same", async () => {
    const { unlink } = fs;
    restore.push(() => (fs.unlink = unlink));
    fs.unlink = (path) => (String(path).endsWith("-lock") ? Promise.reject(ioError("EROFS")) : unlink(path));
    await store.close();
    expect(await openIn(folder.path), "left open").to.deep.equal([]);
    restoreAll();
    store = await openSqlite(folder.file(), { opTimeoutMs });
    expect(await isAuthorized(store, "before")).to.equal(true);
  });

  it("a checkpoint that finds no room leaves the image and the log, which are everything", async () => {
    const { rename } = fs;
    restore.push(() => (fs.rename = rename));
    fs.rename = (from, to) =>
      String(from).endsWith("-checkpoint") ? Promise.reject(ioError("ENOSPC")) : rename(from, to);
    await store.close();
    restoreAll();
    store = await openSqlite(folder.file());
    expect(await isAuthorized(store, "before")).to.equal(true);
    expect((await store.rooms.get("room")).owner).to.equal("alice");
  });

  it("a file that cannot be replaced is refused by an opening that needs that, and nothing is left beside it", async () => {
    await store.close();
    for (const name of await fs.readdir(folder.path)) if (name !== "membership.db") await fs.rm(folder.file(name));
    const { rename } = fs;
    restore.push(() => (fs.rename = rename));
    // As of one file that is mounted into a container.
    fs.rename = (from, to) => (to === folder.file() ? Promise.reject(ioError("EBUSY")) : rename(from, to));
    const before = await contents(folder.path);
    expect(isUnavailable(await failure(openSqlite(folder.file(), { opTimeoutMs })))).to.equal(true);
    expect(await contents(folder.path)).to.deep.equal(before);
  });

  it("a file that cannot be told what its log had is read, and nothing is acknowledged, also what changes nothing", async () => {
    const { path } = await crashed(folder, "killed", 2, (killed) => killed.users.revoke("u0"));
    writing(
      (original) =>
        (...args) =>
          args[3] === 512 ? Promise.reject(ioError("EIO")) : original(...args),
    );
    const opened = await openSqlite(path, { opTimeoutMs });
    expect(await opened.isAuthorized("u1")).to.equal(true);
    expect(await opened.isAuthorized("u0")).to.equal(false);
    const error = (await failure(opened.users.revoke("u0"))) as StoreError;
    expect(isUnavailable(error)).to.equal(true);
    expect(error.outcome).to.equal("none");
    await opened.close();
  });

  it("a fsync that fails in a checkpoint does the same, also in the middle of a store's life", async function () {
    this.timeout(120_000);
    const shared = await handles(folder.path);
    const { sync } = shared;
    let failed = 0;
    restore.push(() => (shared.sync = sync));
    shared.sync = () => {
      failed++;
      return Promise.reject(ioError("EIO"));
    };
    // Outgrows what a log may be, so that a checkpoint begins.
    const sealedKey = new Uint8Array(65_536).fill(7);
    const fill = (from: number, count: number): Promise<unknown> =>
      Promise.all(
        Array.from({ length: count }, (_, i) =>
          store.rooms.create({ id: `big${String(from + i)}`, owner: "o", encrypted: true, sealedKey }),
        ),
      );
    for (let from = 0; from < 560; from += 40) await fill(from, 40);
    for (const until = performance.now() + 30_000; failed === 0 && performance.now() < until;)
      await new Promise(setImmediate);
    expect(failed).to.be.at.least(1);
    shared.sync = sync;
    for (let from = 560; from < 760; from += 40) await fill(from, 40);
    await store.close();
    store = await openSqlite(folder.file(), { opTimeoutMs });
    expect((await store.rooms.listForEndpoint("o")).length).to.equal(760);
    expect((await store.roomKeys.get("big759", "o")).sealed).to.deep.equal(sealedKey);
  });

  it("a real quota: the write that meets it rejects, and everything acknowledged before it is there", async () => {
    await store.close();
    const child = new Child(
      `
      const store = await openSqlite(path, { opTimeoutMs: 20_000 });
      for (let i = 0; ; i++) {
        try { await store.users.add({ key: "q" + i, name: "x".repeat(200) }); }
        catch (error) {
          say(["failed", i, error.code, error.outcome].join(" "));
          say("later " + (await store.users.add({ key: "later" }).catch((error) => error.code + " " + error.outcome)));
          say("check " + (await store.isAuthorized("q" + (i - 1))) + " " + (await store.isAuthorized("q" + i)));
          break;
        }
      }
      await store.close();
      say("closed");`,
      [folder.file()],
      // 512 bytes or 1 KiB a block, as the shell has it: a limit that holds for each file that the process writes.
      ["/bin/sh", "-c", 'ulimit -f 128; exec "$@"', "sh"],
    );
    await child.says("closed");
    await child.ended;
    const [, count, code, outcome] = child.said[0]?.split(" ") ?? [];
    expect(code).to.equal("UNAVAILABLE");
    expect(outcome).to.equal("unknown");
    expect(Number(count)).to.be.greaterThan(50);
    expect(child.said).to.include("later UNAVAILABLE none");
    expect(child.said).to.include("check true false");
    store = await openSqlite(folder.file());
    for (let i = 0; i < Number(count); i++)
      expect(await isAuthorized(store, `q${String(i)}`), `q${String(i)}`).to.equal(true);
    await store.users.add({ key: "later" });
  });

  it("a real quota: where there is no room for a log, a copy of the file alone is read", async () => {
    await store.close();
    const copy = join(folder.path, "copy", "membership.db");
    await fs.mkdir(join(copy, ".."));
    await fs.copyFile(folder.file(), copy);
    const code = `
      try {
        const store = await openSqlite(path, { opTimeoutMs: 20_000 });
        say("check " + (await store.isAuthorized("before")) + " " + (await store.isMember("room", "alice")));
        for (const error of [await store.users.add({ key: "later" }).catch((error) => error), await store.users.revoke("before").catch((error) => error)]) {
          say([error.code, error.outcome, error.cause?.code].join(" "));
        }
        say("check " + (await store.isAuthorized("before")));
        await store.close();
        say("closed");
      } catch (error) { say(error.code); }`;
    // Not a byte can be written to any file.
    const opened = async (): Promise<readonly string[]> => {
      const child = new Child(code, [copy], ["/bin/sh", "-c", 'ulimit -f 0; exec "$@"', "sh"]);
      await child.ended;
      return child.said;
    };
    const expected = ["check true true", "UNAVAILABLE none EFBIG", "UNAVAILABLE none EFBIG", "check true", "closed"];
    expect(await opened()).to.deep.equal(expected);
    expect(await fs.readdir(join(copy, ".."))).to.deep.equal(["membership.db"]);
    expect(await opened(), "again").to.deep.equal(expected);
    // Whoever opens another link to it would not find its holder.
    await fs.link(copy, join(copy, "..", "other"));
    expect(await opened()).to.deep.equal(["UNAVAILABLE"]);
    await fs.unlink(join(copy, "..", "other"));
    const roomy = await openSqlite(copy, { opTimeoutMs });
    await roomy.users.revoke("before");
    expect(await roomy.isAuthorized("before")).to.equal(false);
    await roomy.close();
    store = await openSqlite(folder.file(), { opTimeoutMs });
  });
});
