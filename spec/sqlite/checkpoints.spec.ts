import { expect } from "chai";
import { promises as fs } from "node:fs";
import { cp, readFile, readdir, stat } from "node:fs/promises";
import type { Worker } from "node:worker_threads";
import { isUnavailable, openSqlite, type CheckpointResult, type Store } from "unibus-membership";
import { Child } from "./support/child.js";
import { integrityOf } from "./support/crash.js";
import { logOf, useFolder } from "./support/folder.js";
import { withLimits } from "../support/limited.js";
import { told } from "./support/superblock.js";

const opTimeoutMs = 20_000;
const MB = 1024 * 1024;
const sealedKey = new Uint8Array(65_536).map((_, i) => (i * 7) % 256);

/** Rooms with large keys: some 16 to a megabyte. */
async function fill(store: Store, from: number, count: number): Promise<void> {
  for (let at = from; at < from + count; at += 40) {
    const some = Array.from({ length: Math.min(40, from + count - at) }, (_, i) => `r${String(at + i)}`);
    await Promise.all(some.map((id) => store.rooms.create({ id, owner: "o", encrypted: true, sealedKey })));
  }
}

/** More than a log may hold before a checkpoint begins. */
const OUTGROWS = 560;

/** Checkpoints leave most of the time to others, which a slow and busy machine has little of. */
const WITHIN_MS = 300_000;

/** Resolves when `seen` is true, asked again and again. */
async function until(what: string, seen: () => boolean | Promise<boolean>): Promise<void> {
  for (const end = performance.now() + WITHIN_MS; !(await seen());) {
    if (performance.now() > end) throw new Error(`not within ${String(WITHIN_MS / 1000)} s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

describe("sqlite: checkpoints", function () {
  this.timeout(2 * WITHIN_MS);
  const folder = useFolder();
  let results: CheckpointResult[];
  let threads: Worker[];
  let store: Store | undefined;
  let restore: (() => void)[];
  const onCheckpoint = (result: CheckpointResult): void => void results.push(result);
  const watch = (worker: Worker): void => void threads.push(worker);

  beforeEach(() => {
    results = [];
    threads = [];
    restore = [];
    store = undefined;
    process.on("worker", watch);
  });
  afterEach(async () => {
    process.off("worker", watch);
    for (const each of restore.splice(0)) each();
    await store?.close().catch(() => undefined);
  });

  const open = async (): Promise<Store> => (store = await openSqlite(folder.file(), { opTimeoutMs, onCheckpoint }));

  /** Lets no image get its name until it is called off. */
  function noRename(error: Error): () => void {
    const { rename } = fs;
    const back = (): void => void (fs.rename = rename);
    restore.push(back);
    fs.rename = (from, to) => (String(from).endsWith("-checkpoint") ? Promise.reject(error) : rename(from, to));
    return back;
  }

  it("are made in a thread of their own, which is gone afterwards, and told", async () => {
    const first = await open();
    await fill(first, 0, OUTGROWS);
    await until("a checkpoint", () => results.length > 0);
    const [result] = results;
    expect(result?.ok).to.equal(true);
    expect(result?.bytes).to.equal((await stat(folder.file())).size);
    expect(result?.durationMs).to.be.greaterThan(0);
    expect(Object.isFrozen(result)).to.equal(true);
    expect(threads.length).to.equal(1);
    expect(
      threads.map(({ threadId }) => threadId),
      "has ended",
    ).to.deep.equal([-1]);
    expect(told(await readFile(folder.file())).clean, "others may follow").to.equal(false);
    await first.close();
    expect(await integrityOf(folder.file())).to.equal("ok");
    const again = await open();
    expect((await again.rooms.listForEndpoint("o")).length).to.equal(OUTGROWS);
    for (const id of ["r0", `r${String(OUTGROWS - 1)}`])
      expect((await again.roomKeys.get(id, "o")).sealed).to.deep.equal(sealedKey);
  });

  it("need no thread where there is little to do", async () => {
    const first = await open();
    await fill(first, 0, 10);
    await first.close();
    expect(results.map(({ ok }) => ok)).to.deep.equal([true]);
    expect(threads).to.deep.equal([]);
  });

  for (const [how, Thread] of [
    ["be had", 'class { constructor() { throw new Error("not permitted"); } }'],
    [
      "be started",
      "class extends threads.Worker { constructor(_source, options) { super(\"throw new Error('no modules here')\", options); } }",
    ],
  ] as const) {
    it(`are made without a thread where none can ${how}`, async () => {
      const child = new Child(
        `
        import threads from "node:worker_threads";
        import { syncBuiltinESMExports } from "node:module";
        let asked = 0;
        const Thread = ${Thread};
        threads.Worker = class { constructor(...args) { asked++; return new Thread(...args); } };
        syncBuiltinESMExports();
        const results = [];
        const store = await openSqlite(path, { opTimeoutMs: 20_000, onCheckpoint: ({ ok, error }) => results.push([ok, String(error?.cause)].join(" ")) });
        const sealedKey = new Uint8Array(65_536).fill(7);
        for (let i = 0; i < 100; i++) await store.rooms.create({ id: "r" + i, owner: "o", encrypted: true, sealedKey });
        await store.close();
        say(asked + " " + results.join());
        const again = await openSqlite(path);
        say(String((await again.rooms.listForEndpoint("o")).length));
        await again.close();`,
        [folder.file()],
      );
      expect((await child.ended).code, child.errors).to.equal(0);
      expect(child.said).to.deep.equal(["1 true undefined", "100"]);
      expect(await integrityOf(folder.file())).to.equal("ok");
    });
  }

  it("that lose their thread fail, and lose nothing", async () => {
    const kill = (worker: Worker): void => {
      worker.on("message", ({ kind }: { kind: string }) => {
        if (kind === "started") void worker.terminate();
      });
    };
    process.on("worker", kill);
    restore.push(() => process.off("worker", kill));
    const first = await open();
    await fill(first, 0, OUTGROWS);
    await until("a checkpoint", () => results.length > 0);
    expect(results[0]?.ok).to.equal(false);
    process.off("worker", kill);
    await until("another", () => results.length > 1);
    expect(results[1]?.ok).to.equal(true);
    await first.close();
    expect((await (await open()).rooms.listForEndpoint("o")).length).to.equal(OUTGROWS);
  });

  it("that fail are told with the reason, and tried again after growing pauses, also where nobody writes", async () => {
    const first = await open();
    const error = Object.assign(new Error("ENOSPC: injected"), { code: "ENOSPC" });
    const back = noRename(error);
    const times: number[] = [];
    // Closing does not wait for a pause, nor does a new one begin with it.
    await first.close();
    store = await openSqlite(folder.file(), {
      opTimeoutMs,
      onCheckpoint: (result) => {
        times.push(performance.now() - result.durationMs, performance.now());
        results.push(result);
        throw new Error("of the caller's own");
      },
    });
    results = [];
    await fill(store, 0, OUTGROWS);
    await until("three checkpoints", () => results.length >= 3);
    const log = (await readdir(folder.path)).filter((name) => name.includes("-redo"));
    expect(log.length, "the log before, and the one that goes on").to.equal(2);
    for (const result of results) {
      expect(result.ok).to.equal(false);
      expect(result.bytes).to.be.greaterThan(32 * MB);
      expect(isUnavailable(result.error)).to.equal(true);
      expect(result.error?.cause).to.equal(error);
    }
    // From the end of one to the begin of the next. A timer may fire a millisecond early.
    const pauses = [1, 2].map((i) => (times[i * 2] ?? 0) - (times[i * 2 - 1] ?? 0));
    expect(pauses[0]).to.be.greaterThan(998);
    expect(pauses[1]).to.be.greaterThan(1998);
    expect((await readdir(folder.path)).filter((name) => name.endsWith("-checkpoint"))).to.deep.equal([]);
    back();
    await until("the next", () => results.at(-1)?.ok === true);
    await logOf(folder.file());
    await store.users.add({ key: "later" });
    await store.close();
    expect(await (await open()).isAuthorized("later")).to.equal(true);
  });

  it("that a crash ended are no reason not to open, however full the disk is", async () => {
    // As if a log of so little were large.
    const limited = await withLimits({ MIN_LOG_BYTES: 1 });
    restore.push(() => void limited.dispose());
    const first = await limited.library.openSqlite(folder.file("first.db"), { opTimeoutMs, onCheckpoint });
    const again = noRename(new Error("injected"));
    for (let n = 0; n < 5; n++) await first.users.add({ key: `u${String(n)}` });
    await first.rooms.create({ id: "r", owner: "o", encrypted: true, sealedKey });
    await until("a checkpoint", () => results.length > 0);
    await first.users.add({ key: "after" });
    for (const end of ["", "-redo0", "-redo1"])
      await cp(folder.file(`first.db${end}`), folder.file(`membership.db${end}`));
    again();
    await first.close();
    results = [];

    const full = Object.assign(new Error("ENOSPC: injected"), { code: "ENOSPC" });
    const { open: openFile } = fs;
    const room = (): void => void (fs.open = openFile);
    restore.push(room);
    fs.open = (path, flags, mode) => (flags === "w" ? Promise.reject(full) : openFile(path, flags, mode));
    const opened = await open();
    for (let n = 0; n < 5; n++) expect(await opened.isAuthorized(`u${String(n)}`)).to.equal(true);
    expect(await opened.isAuthorized("after")).to.equal(true);
    await until("an attempt", () => results.length > 0);
    expect(results[0]?.error?.cause).to.equal(full);
    // The room that the log has already is enough for this.
    await opened.users.revoke("u0");
    room();
    await until("the next", () => results.at(-1)?.ok === true);
    await opened.close();
    const last = await open();
    expect([await last.isAuthorized("u0"), await last.isAuthorized("after")]).to.deep.equal([false, true]);
  });

  it("leave most of the time to others, until somebody waits for them: a log that fills, or a close", async () => {
    const child = new Child(
      `
      import { existsSync, rmSync, writeFileSync } from "node:fs";
      import threads from "node:worker_threads";
      import { syncBuiltinESMExports } from "node:module";
      const go = path + ".go";
      // The thread has said that it is there, and goes on when it is told to.
      const held = \`{
        const files = require("node:fs");
        const { openSync } = files;
        files.openSync = (...args) => {
          while (!files.existsSync(\${JSON.stringify(go)})) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5);
          return openSync(...args);
        };
      }\`;
      let haste;
      const { Worker } = threads;
      threads.Worker = class extends Worker {
        constructor(source, options) {
          super(held + source, options);
          haste = new Int32Array(options.workerData.haste);
        }
      };
      syncBuiltinESMExports();
      const sealedKey = new Uint8Array(65_536).fill(7);
      let n = 0;
      const fill = (store) => Promise.all(Array.from({ length: 40 }, () => store.rooms.create({ id: "r" + n++, owner: "o", encrypted: true, sealedKey })));
      const until = async (seen) => { for (let i = 0; !seen() && i < 3000; i++) await new Promise((resolve) => setTimeout(resolve, 10)); };
      let store;
      for (const wait of [async () => { for (let i = 0; i < 20 && haste[0] === 0; i++) await fill(store); }, () => void store.close()]) {
        let ok;
        haste = undefined;
        store = await openSqlite(path, { opTimeoutMs: 20_000, onCheckpoint: (result) => { ok ??= result.ok; } });
        while (haste === undefined) await fill(store);
        const before = haste[0];
        await wait();
        await until(() => haste[0] !== 0);
        writeFileSync(go, "");
        await until(() => ok !== undefined);
        say([before, haste[0], ok].join(" "));
        await store.close();
        rmSync(go);
      }`,
      [folder.file()],
    );
    expect((await child.ended).code, child.errors).to.equal(0);
    expect(child.said).to.deep.equal(["0 1 true", "0 1 true"]);
  });

  it("that fail keep no process, and none is tried after close", async () => {
    const child = new Child(
      `
      import { promises as fs } from "node:fs";
      const { rename } = fs;
      fs.rename = (from, to) => String(from).endsWith("-checkpoint") && path.endsWith(".db") && global.full ? Promise.reject(new Error("full")) : rename(from, to);
      const store = await openSqlite(path, { opTimeoutMs: 20_000, onCheckpoint: ({ ok }) => say(String(ok)) });
      await store.users.add({ key: "u" });
      global.full = true;
      await store.close();
      say("closed");`,
      [folder.file()],
    );
    expect((await child.ended).code, child.errors).to.equal(0);
    expect(child.said).to.deep.equal(["false", "closed"]);
  });

  it("are told of a disk that is full while their thread writes", async () => {
    const child = new Child(
      `
      const results = [];
      const sealedKey = new Uint8Array(65_536).fill(7);
      const options = { opTimeoutMs: 20_000, onCheckpoint: (result) => results.push(result) };
      const fill = async (store, from, to) => { for (let i = from; i < to; i++) await store.rooms.create({ id: "r" + i, owner: "o", encrypted: true, sealedKey }); };
      const first = await openSqlite(path, options);
      await fill(first, 0, 400);
      await first.close();
      const store = await openSqlite(path, options);
      await fill(store, 400, 480);
      await store.close();
      const { ok, error } = results.at(-1);
      say([ok, error?.code, error?.cause?.cause?.code ?? error?.cause?.code].join(" "));
      const again = await openSqlite(path);
      say(String((await again.rooms.listForEndpoint("o")).length));
      await again.close();`,
      [folder.file()],
      // In blocks of 512 bytes: the image grows beyond it, and no log does.
      ["/bin/bash", "-c", 'ulimit -f 30000; exec "$@"', "bash"],
    );
    expect((await child.ended).code, child.errors).to.equal(0);
    expect(child.said).to.deep.equal(["false UNAVAILABLE EFBIG", "480"]);
  });

  it("take little memory of their own, however large the file is", async () => {
    const child = new Child(
      `
      import { readFileSync } from "node:fs";
      const resident = () => Number(/VmRSS:\\s+(\\d+)/.exec(readFileSync("/proc/self/status", "utf8"))[1]) / 1024;
      let done = false;
      const store = await openSqlite(path, { opTimeoutMs: 60_000, onCheckpoint: () => { done = true; } });
      const sealedKey = new Uint8Array(65_536).fill(7);
      const fill = async (from, to) => {
        for (let at = from; at < to; at += 40) await Promise.all(Array.from({ length: 40 }, (_, i) => store.rooms.create({ id: "r" + (at + i), owner: "o", encrypted: true, sealedKey })));
      };
      // The image is at 120 MB when the last one begins, and the log at as much.
      let n = 0;
      while (n < 3600) { await fill(n, n + 40); n += 40; }
      // Not by turns of the event loop, which would take the processor from the checkpoint's thread.
      const soon = () => new Promise((resolve) => setTimeout(resolve, 1));
      while (!done) await soon();
      done = false;
      const before = resident();
      let peak = before;
      const closing = store.close().then(() => { done = true; });
      while (!done) { peak = Math.max(peak, resident()); await soon(); }
      await closing;
      say(String(peak - before));`,
      [folder.file()],
    );
    expect((await child.ended).code, child.errors).to.equal(0);
    expect((await stat(folder.file())).size).to.be.greaterThan(220 * MB);
    if (process.platform === "linux") expect(Number(child.said[0]), "MB").to.be.lessThan(110);
  });
});
