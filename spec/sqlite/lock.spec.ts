import { expect } from "chai";
import { spawnSync } from "node:child_process";
import { readdirSync, rmSync } from "node:fs";
import { chown, cp, link, mkdir, readFile, readdir, rm, symlink, writeFile } from "node:fs/promises";
import { connect, createServer, type Socket } from "node:net";
import { hostname } from "node:os";
import { basename, dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { isIncompatible, isLocked, openSqlite, type StoreError } from "unibus-membership";
import { Child } from "./support/child.js";
import { contents, failure, openIn, release, useFolder } from "./support/folder.js";

const HOLD = `
const store = await openSqlite(path);
await store.users.add({ key: "held" });
say("holding");
setInterval(() => undefined, 1000);
`;

/** More than a socket's queue takes: Node asks for 511 places. */
const MAX_QUEUE = 5000;

async function expectLocked(path: string, pid: number | undefined): Promise<void> {
  const error = await failure(openSqlite(path));
  expect(isLocked(error), String(error)).to.equal(true);
  const holder = (error as StoreError).details?.["holder"] as { pid: number; host: string; since: string } | undefined;
  expect(holder?.pid).to.equal(pid);
  expect(holder?.host).to.equal(hostname());
  expect(new Date(holder?.since ?? "").getTime()).to.be.within(Date.now() - 600_000, Date.now());
}

describe("sqlite: one owner", () => {
  const folder = useFolder();

  it("locks out a second opening in the same process, and lets the next one in after close", async () => {
    const store = await openSqlite(folder.file());
    await expectLocked(folder.file(), process.pid);
    await store.users.add({ key: "a1" });
    await store.close();
    const next = await openSqlite(folder.file());
    expect(await next.isAuthorized("a1")).to.equal(true);
    await next.close();
  });

  it("locks out another copy of the library in the same process, ES module or CommonJS, in either order", async () => {
    const copy = join(folder.path, "copy");
    await cp(dirname(fileURLToPath(import.meta.resolve("unibus-membership"))), copy, { recursive: true });
    await symlink(fileURLToPath(new URL("../../node_modules", import.meta.url)), join(folder.path, "node_modules"));
    await writeFile(join(folder.path, "package.json"), '{ "type": "module" }');
    const child = new Child(
      `
      const { createRequire } = await import("node:module");
      const commonJs = createRequire(rest[0] + "/")("./index.cjs");
      say(String(commonJs.openSqlite !== openSqlite));
      for (const [first, second] of [[openSqlite, commonJs.openSqlite], [commonJs.openSqlite, openSqlite]]) {
        const store = await first(path);
        const error = await second(path).catch((error) => error);
        say(error.code + " " + String(error.details.holder.pid === process.pid));
        await store.close();
      }`,
      [folder.file(), copy],
    );
    expect(await child.ended, child.errors).to.deep.equal({ code: 0, signal: null });
    expect(child.said).to.deep.equal(["true", "LOCKED true", "LOCKED true"]);
  });

  it("knows the file by any name: relative, through a link to it, through a link to its folder, before it exists", async () => {
    await mkdir(join(folder.path, "real"));
    const file = join(folder.path, "real", "membership.db");
    await symlink(join(folder.path, "real"), join(folder.path, "folder-link"));
    await symlink("real/membership.db", join(folder.path, "file-link"));
    const store = await openSqlite(join(folder.path, "file-link"));
    for (const name of [
      file,
      relative(process.cwd(), file),
      join(folder.path, "folder-link", "membership.db"),
      join(folder.path, "real", "..", "file-link"),
    ]) {
      await expectLocked(name, process.pid);
    }
    await store.users.add({ key: "a1" });
    await store.close();
    const direct = await openSqlite(file);
    expect(await direct.isAuthorized("a1")).to.equal(true);
    await direct.close();
  });

  it("names another process that holds it, also while that is stopped, and needs nobody when it is killed", async () => {
    const child = new Child(HOLD, [folder.file()]);
    try {
      await child.says("holding");
      await expectLocked(folder.file(), child.process.pid);
      child.process.kill("SIGSTOP");
      await expectLocked(folder.file(), child.process.pid);
    } finally {
      await child.kill();
    }
    const store = await openSqlite(folder.file());
    expect(await store.isAuthorized("held")).to.equal(true);
    await store.close();
    expect((await readdir(folder.path)).filter((name) => name.includes("-lock"))).to.deep.equal(["membership.db-lock"]);
    expect(await readFile(`${folder.file()}-lock`, "utf8")).to.equal('{"released":true}\n');
  });

  it("names another process that is stopped and cannot take more visitors", async () => {
    const child = new Child(HOLD, [folder.file()]);
    const visitors: Socket[] = [];
    try {
      await child.says("holding");
      child.process.kill("SIGSTOP");
      const { socket: name } = JSON.parse(await readFile(`${folder.file()}-lock`, "utf8")) as { socket: string };
      // Until its queue is full. Other systems than Linux say then what they say of the dead.
      let full = process.platform !== "linux";
      while (!full && visitors.length < MAX_QUEUE) {
        const visitor = connect(join(folder.path, name));
        visitors.push(visitor);
        full = await new Promise<boolean>((resolve) => {
          visitor.once("connect", () => resolve(false));
          visitor.once("error", () => resolve(true));
        });
      }
      expect(full, "a full queue").to.equal(true);
      await expectLocked(folder.file(), child.process.pid);
    } finally {
      for (const visitor of visitors) visitor.destroy();
      await child.kill();
    }
  });

  it("is not fooled by a pid that lives: that of a killed holder may be anybody's by now", async () => {
    const child = new Child(HOLD, [folder.file()]);
    await child.says("holding");
    await child.kill();
    const holder = JSON.parse(await readFile(`${folder.file()}-lock`, "utf8")) as { pid: number };
    await writeFile(`${folder.file()}-lock`, JSON.stringify({ ...holder, pid: process.pid }));
    await (await openSqlite(folder.file())).close();
  });

  it("is not fooled by a pid that does not: that of a holder in another pid namespace", async () => {
    const child = new Child(HOLD, [folder.file()]);
    try {
      await child.says("holding");
      const holder = JSON.parse(await readFile(`${folder.file()}-lock`, "utf8")) as { pid: number };
      await writeFile(`${folder.file()}-lock`, JSON.stringify({ ...holder, pid: 4_194_303 }));
      await expectLocked(folder.file(), 4_194_303);
    } finally {
      await child.kill();
    }
  });

  it("locks across pid namespaces that share the folder", async () => {
    const wrapper = [["unshare"], ["unshare", "--user", "--map-root-user"], ["sudo", "-n", "unshare"]]
      .map((command) => [...command, "--pid", "--fork", "--kill-child"])
      .find(([command = "", ...args]) => spawnSync(command, [...args, "true"]).status === 0);
    // Where no namespace can be made, the test above stands in for it: what differs in one is the pid.
    if (wrapper === undefined)
      console.warn("NO PID NAMESPACE CAN BE MADE HERE: the lock was tried in one namespace only");
    const child = new Child(HOLD, [folder.file()], wrapper ?? []);
    try {
      await child.says("holding");
      await expectLocked(folder.file(), wrapper === undefined ? child.process.pid : 1);
      const other = new Child(
        `await openSqlite(path).then(() => say("open"), (error) => say(error.code));`,
        [folder.file()],
        wrapper ?? [],
      );
      await other.says("LOCKED");
      await other.ended;
    } finally {
      await child.kill();
    }
    // The namespace dies with its first process, a moment after the one that we killed.
    let store;
    for (const until = performance.now() + 30_000; store === undefined;) {
      store = await openSqlite(folder.file()).catch((error: unknown) => {
        if (!isLocked(error) || performance.now() > until) throw error;
        return undefined;
      });
    }
    expect(await store.isAuthorized("held")).to.equal(true);
    await store.close();
  });

  it("lets exactly one of many in at once", async () => {
    for (let round = 0; round < 5; round++) {
      const attempts = await Promise.allSettled(
        Array.from({ length: 12 }, () => openSqlite(folder.file(), { opTimeoutMs: 20_000 })),
      );
      const stores = attempts.flatMap((each) => (each.status === "fulfilled" ? [each.value] : []));
      const codes = attempts.flatMap((each) => (each.status === "rejected" ? [(each.reason as StoreError).code] : []));
      expect(new Set(codes)).to.deep.equal(new Set(["LOCKED"]));
      expect(stores.length).to.equal(1);
      for (const store of stores) await store.close();
    }
  });

  it("begins again where another opener takes its new socket, which does not listen yet, for a dead one", async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(join(folder.path, "any"), resolve));
    const { _handle: handle } = server as unknown as { _handle: object };
    await new Promise((resolve) => server.close(resolve));
    const pipes = Object.getPrototypeOf(handle) as { fchmod: (mode: number) => number };
    const { fchmod } = pipes;
    let taken = 0;
    pipes.fchmod = function (mode) {
      if (taken++ === 0)
        for (const name of readdirSync(folder.path)) if (name.includes("-lock")) rmSync(join(folder.path, name));
      return fchmod.call(this, mode);
    };
    try {
      const store = await openSqlite(folder.file(), { opTimeoutMs: 20_000 });
      expect(taken).to.be.at.least(2);
      await expectLocked(folder.file(), process.pid);
      await store.close();
      expect(await openIn(folder.path), "left open").to.deep.equal([]);
    } finally {
      pipes.fchmod = fchmod;
    }
  });

  it("lets in one of many processes at once, and all of them in turn", async () => {
    const code = `
      for (;;) {
        try { const store = await openSqlite(path, { opTimeoutMs: 20_000 }); await store.users.add({ key: rest[0] }); await store.close(); break; }
        catch (error) { if (error.code !== "LOCKED") throw error; }
      }
      say("done");`;
    const children = Array.from({ length: 4 }, (_, i) => new Child(code, [folder.file(), `k${String(i)}`]));
    for (const child of children) {
      await child.says("done");
      await child.ended;
    }
    const store = await openSqlite(folder.file());
    expect((await store.users.list()).items.map(({ key }) => key).sort()).to.deep.equal(["k0", "k1", "k2", "k3"]);
    await store.close();
  });

  it("takes away the socket of the dead, and no file or living socket that only looks like one", async () => {
    const lookalike = `${folder.file()}-lock-0123456789ab0000`;
    await writeFile(lookalike, "somebody's");
    const other = createServer();
    await new Promise<void>((resolve) => other.listen(`${folder.file()}-lock-of-mine`, resolve));
    const store = await openSqlite(folder.file());
    await store.close();
    expect(await readFile(lookalike, "utf8")).to.equal("somebody's");
    expect(await readdir(folder.path)).to.include("membership.db-lock-of-mine");
    await new Promise((resolve) => other.close(resolve));
  });

  it("knows a hard link beside the file for the same file, in this process and from another", async () => {
    const store = await openSqlite(folder.file());
    await store.users.add({ key: "a1" });
    await store.close();
    const other = folder.file("other.db");
    await link(folder.file(), other);
    const child = new Child(HOLD, [folder.file()]);
    try {
      await child.says("holding");
      await expectLocked(other, child.process.pid);
    } finally {
      await child.kill();
    }
    // Closed cleanly, so that either name leads to everything.
    await (await openSqlite(folder.file())).close();
    await rm(other);
    await link(folder.file(), other);
    await release(other);
    for (const [first, second] of [
      [folder.file(), other],
      [other, folder.file()],
    ] as const) {
      const holder = await openSqlite(first);
      await expectLocked(second, process.pid);
      expect(
        (await readdir(folder.path))
          .filter((name) => name.includes("-lock-"))
          .every((name) => name.startsWith(basename(first))),
      ).to.equal(true);
      await holder.close();
    }
    // Two at once: never both.
    const both = await Promise.allSettled([openSqlite(folder.file()), openSqlite(other)]);
    const stores = both.flatMap((each) => (each.status === "fulfilled" ? [each.value] : []));
    expect(stores.length).to.be.at.most(1);
    for (const each of stores) await each.close();
    for (const each of both)
      if (each.status === "rejected") expect(isLocked(each.reason), String(each.reason)).to.equal(true);
  });

  it("is not held by a dead process of another user, whose socket only that one might ask", async () => {
    // Only root can become somebody else; for anybody else this is one more holder that was killed.
    const nobody = process.getuid?.() === 0 ? 65_534 : (process.getuid?.() ?? 0);
    const store = await openSqlite(folder.file());
    await store.close();
    for (const name of [".", ...(await readdir(folder.path))])
      await chown(join(folder.path, name), nobody, process.getgid?.() ?? 0);
    const holder = new Child(HOLD, [folder.file()]);
    await holder.says("holding");
    await holder.kill();
    const next = new Child(
      `
      await (await openSqlite(path + "-other")).close();
      process.setuid(Number(rest[0]));
      const store = await openSqlite(path);
      say(String(await store.isAuthorized("held")));
      await store.close();`,
      [folder.file(), String(nobody)],
    );
    await next.ended;
    expect(next.said, next.errors).to.deep.equal(["true"]);
  });

  it("works where paths are longer than a socket's address may be", async () => {
    const deep = join(folder.path, "d".repeat(120), "e".repeat(120));
    await mkdir(deep, { recursive: true });
    const file = join(deep, `${"f".repeat(100)}.db`);
    const store = await openSqlite(file);
    await expectLocked(file, process.pid);
    await store.close();
    await (await openSqlite(file)).close();
  });

  it("leaves nothing of a lock behind when opening is refused", async () => {
    await writeFile(folder.file(), "not a database at all, but somebody's notes".repeat(10));
    const before = await contents(folder.path);
    expect(isIncompatible(await failure(openSqlite(folder.file())))).to.equal(true);
    expect(await contents(folder.path)).to.deep.equal(before);
  });
});
