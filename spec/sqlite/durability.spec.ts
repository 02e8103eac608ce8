import { expect } from "chai";
import { constants, promises as fs } from "node:fs";
import { basename, dirname, relative } from "node:path";
import { isUnavailable, openSqlite, type StoreError } from "unibus-membership";
import { run } from "../soak/sqlite.js";
import { Child } from "./support/child.js";
import { crashed } from "./support/crash.js";
import { failure, logOf, useFolder } from "./support/folder.js";

/** Of this process's descriptor of a file. */
async function flagsOf(path: string): Promise<number> {
  for (const fd of await fs.readdir("/proc/self/fd")) {
    if ((await fs.readlink(`/proc/self/fd/${fd}`).catch(() => "")) !== path) continue;
    const [, flags] = /^flags:\s*(\d+)$/m.exec(await fs.readFile(`/proc/self/fdinfo/${fd}`, "utf8")) ?? [];
    return Number.parseInt(flags ?? "", 8);
  }
  throw new Error(`${path} is not open`);
}

/**
 * What is done to the files of a folder, in its order, by their names. The folder itself is `.`; of the lock nothing is
 * told.
 */
async function watchFiles(folder: string): Promise<{ steps: string[]; end: () => void }> {
  const steps: string[] = [];
  const tell = (step: string, ...paths: unknown[]): void => {
    const names = paths.map((path) => relative(folder, String(path)) || ".");
    if (!names.some((name) => name.startsWith("..") || name.includes("-lock"))) steps.push([step, ...names].join(" "));
  };
  const { open, rename, unlink } = fs;
  const opened = new WeakMap<object, unknown>();
  const some = await open(folder, "r");
  await some.close();
  const handles = Object.getPrototypeOf(some) as Record<"sync" | "datasync", (this: object) => Promise<void>>;
  const { sync, datasync } = handles;
  fs.open = async (...args) => {
    const handle = await open(...args);
    opened.set(handle, args[0]);
    return handle;
  };
  handles.sync = async function () {
    await sync.call(this);
    tell("sync", opened.get(this));
  };
  handles.datasync = async function () {
    await datasync.call(this);
    tell("sync", opened.get(this));
  };
  fs.rename = async (from, to) => {
    await rename(from, to);
    tell("rename", from, to);
  };
  fs.unlink = async (path) => {
    await unlink(path);
    tell("unlink", path);
  };
  return {
    steps,
    end: () => {
      Object.assign(fs, { open, rename, unlink });
      Object.assign(handles, { sync, datasync });
    },
  };
}

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

  // A machine that loses its power is not to be had here: instead, what the system is told, and in which order.
  if (process.platform === "linux") {
    it("has the system write to the log through to the disk, in a new file and in an old one", async () => {
      for (const key of ["new", "old"]) {
        const store = await openSqlite(folder.file());
        await store.users.add({ key });
        const flags = await flagsOf(await logOf(folder.file()));
        expect(flags & constants.O_DSYNC, `${key}: ${flags.toString(8)}`).to.equal(constants.O_DSYNC);
        await store.close();
      }
    });
  }

  it("names its files only when what they hold is on the disk, and acknowledges and deletes only when they have their names for good", async () => {
    const told = await watchFiles(folder.path);
    try {
      const store = await openSqlite(folder.file());
      await store.users.add({ key: "k" }).then(() => told.steps.push("acknowledged"));
      await store.close();
    } finally {
      told.end();
    }
    const renamed = told.steps.flatMap((step, at) =>
      step.startsWith("rename ") ? [{ at, names: step.split(" ").slice(1) }] : [],
    );
    // The image and the log of an opening, and of the checkpoint of a close.
    expect(renamed.map(({ names }) => names[1])).to.deep.equal([
      "membership.db",
      "membership.db-redo1",
      "membership.db-redo0",
      "membership.db",
    ]);
    for (const {
      at,
      names: [from = "", to = ""],
    } of renamed) {
      const story = `${from} as ${to} in: ${told.steps.join(", ")}`;
      expect(told.steps.lastIndexOf(`sync ${from}`, at), story).to.be.greaterThan(
        told.steps.lastIndexOf(`rename ${from} ${to}`, at - 1),
      );
      const next = told.steps.slice(at + 1);
      const synced = next.indexOf("sync .");
      expect(synced, story).to.be.at.least(0);
      expect(
        next.slice(0, synced).filter((step) => !step.startsWith("sync ")),
        story,
      ).to.deep.equal([]);
    }
    expect(told.steps.at(-1)).to.equal("unlink membership.db-redo1");
  });

  it("goes on from what it read of a log only when that is on the disk", async () => {
    // As it is where the last write was a large one: with nothing to cut off.
    const { path, log, ends } = await crashed(folder, "killed", 2);
    await fs.truncate(log, ends.at(-1));
    const told = await watchFiles(dirname(path));
    try {
      const store = await openSqlite(path);
      expect(told.steps).to.include(`sync ${basename(log)}`);
      await store.close();
    } finally {
      told.end();
    }
  });

  it("a clock that gives no time is no reason to write what cannot be read again", async () => {
    let store = await openSqlite(folder.file());
    await store.users.addFirstAdmin({ key: "admin" });
    await store.users.add({ key: "expiring", expiresAt: new Date("2999-01-01T00:00:00Z") });
    await store.rooms.create({ id: "room", owner: "alice" });
    const { now } = Date;
    for (const time of [NaN, Infinity, -Infinity, 8.64e15 + 1]) {
      try {
        Date.now = () => time;
        for (const write of [
          () => store.users.add({ key: "added" }),
          () => store.users.revoke("expiring"),
          () => store.rooms.create({ id: "new", owner: "alice" }),
          () => store.members.add("room", { endpoint: "bob" }),
          () => store.users.update("admin", { name: "n" }),
        ]) {
          const error = (await failure(write())) as StoreError;
          expect(isUnavailable(error), String(error)).to.equal(true);
          expect(error.outcome).to.equal("none");
        }
        if (Number.isNaN(time)) expect(await store.isAuthorized("expiring")).to.equal(false);
      } finally {
        Date.now = now;
      }
    }
    try {
      Date.now = () => 1_800_000_000_000.75;
      expect((await store.users.add({ key: "later" })).createdAt.getTime()).to.equal(1_800_000_000_000);
    } finally {
      Date.now = now;
    }
    const before = (await store.users.list()).items;
    await store.close();
    store = await openSqlite(folder.file());
    expect((await store.users.list()).items).to.deep.equal(before);
    expect(await store.isAuthorized("expiring")).to.equal(true);
    await store.close();
  });

  it("survives kills at random instants, cuts and flipped bits (a short run of npm run soak -- --sqlite)", async function () {
    this.timeout(300_000);
    const result = await run({ seconds: 6, seed: 20_260_101 });
    expect(result.kills).to.be.at.least(10);
    expect(result.acknowledged).to.be.greaterThan(100);
    expect(result.checkpointing).to.be.at.least(1);
    expect(result.cuts).to.be.at.least(1);
    expect(result.flips).to.be.at.least(1);
  });
});
