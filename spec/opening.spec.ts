import { expect } from "chai";
import files from "node:fs";
import { readdir } from "node:fs/promises";
import { syncBuiltinESMExports } from "node:module";
import { connect, type NatsConnection } from "nats";
import {
  isInvalidArgument,
  isLocked,
  isTimeout,
  openJetStream,
  openSqlite,
  openStore,
  type OpeningProgress,
  type Store,
  type StoreError,
} from "unibus-membership";
import { startNatsServer, type NatsServer } from "unibus-membership/testing";
import { describeBackends } from "./support/backends.js";
import { crashed } from "./sqlite/support/crash.js";
import { failure, useFolder } from "./sqlite/support/folder.js";

const opTimeoutMs = 20_000;

/** The phases, each with the last that was told of it. */
function lastOfEach(told: readonly OpeningProgress[]): OpeningProgress[] {
  return told.filter(({ phase }, i) => told[i + 1]?.phase !== phase);
}

function expectPhases(told: readonly OpeningProgress[], phases: readonly string[]): void {
  const last = lastOfEach(told);
  expect(last.map(({ phase }) => phase)).to.deep.equal(phases);
  for (const { phase, done, total } of last) if (total !== undefined) expect(done, phase).to.equal(total);
  for (const [i, progress] of told.entries()) {
    expect(Object.isFrozen(progress)).to.equal(true);
    const before = told[i - 1];
    if (before?.phase === progress.phase) expect(progress.done).to.be.at.least(before.done);
    else expect(progress.done).to.equal(0);
    if (progress.total !== undefined) expect(progress.done).to.be.at.most(progress.total);
  }
}

const reason = new Error("no longer wanted");

describe("opening: every backend", function () {
  this.timeout(60_000);
  describeBackends((open) => {
    it("stops when its signal was aborted before it began", async () => {
      const error = await failure(open({ signal: AbortSignal.abort(reason) }));
      expect(isTimeout(error) && error.cause).to.equal(reason);
    });

    it("does not look at its signal once the store is open", async () => {
      const controller = new AbortController();
      await using store = await open({ opTimeoutMs, signal: controller.signal });
      controller.abort(reason);
      expect((await store.users.add({ key: "ab" })).key).to.equal("ab");
    });

    it("refuses options that are none", async () => {
      for (const [name, value] of [
        ["opTimeoutMs", 0],
        ["signal", {}],
        ["onOpening", "log"],
        ["onOpenning", () => undefined],
      ] as const) {
        const error = (await failure(open({ [name]: value }))) as StoreError;
        expect(isInvalidArgument(error) && error.argument).to.equal(`options.${name}`);
      }
    });
  });
});

describe("opening: sqlite", () => {
  const folder = useFolder();

  async function opened(path: string): Promise<Store> {
    for (const until = performance.now() + 30_000; ;) {
      const store = await openSqlite(path, { opTimeoutMs }).catch((error: unknown) => {
        if (!isLocked(error) || performance.now() > until) throw error;
        return undefined;
      });
      if (store !== undefined) return store;
    }
  }

  it("tells how far it is", async () => {
    const { path } = await crashed(folder, "killed", 50);
    const told: OpeningProgress[] = [];
    const store = await openSqlite(path, {
      opTimeoutMs,
      onOpening: (progress) => {
        told.push(progress);
        throw reason;
      },
    });
    expectPhases(told, ["check", "load", "replay"]);
    await store.close();
  });

  it("stops when its signal aborts, before it began and in the middle, and the file is free then", async () => {
    const before = await failure(openSqlite(folder.file(), { signal: AbortSignal.abort(reason) }));
    expect(isTimeout(before) && before.cause).to.equal(reason);
    expect(await readdir(folder.path)).to.deep.equal([]);
    const { path } = await crashed(folder, "killed", 50);
    for (const at of ["check", "load", "replay"]) {
      const controller = new AbortController();
      const error = await failure(
        openSqlite(path, {
          opTimeoutMs,
          signal: controller.signal,
          onOpening: ({ phase }) => {
            if (phase === at) controller.abort(reason);
          },
        }),
      );
      expect(isTimeout(error) && error.cause, at).to.equal(reason);
      await (await opened(path)).close();
    }
    const controller = new AbortController();
    const store = await openSqlite(path, { opTimeoutMs, signal: controller.signal });
    controller.abort(reason);
    await store.users.add({ key: "later" });
    await store.close();
  });

  it("has time by the size of the file", async () => {
    const store = await openSqlite(folder.file(), { opTimeoutMs });
    const sealedKey = new Uint8Array(65_536).fill(7);
    for (let i = 0; i < 40; i++) await store.rooms.create({ owner: "o", encrypted: true, sealedKey });
    await store.close();
    const { size } = await files.promises.stat(folder.file());
    const { read } = files;
    const put = (replacement: unknown): void => {
      (files as { read: unknown }).read = replacement;
      syncBuiltinESMExports();
    };
    const hung: (() => void)[] = [];
    put((...args: Parameters<typeof read>) => hung.push(() => read(...args)));
    let began = NaN;
    let error: unknown;
    // On a busy machine the least time may be over before the size is known.
    for (let least = 1; hung.length === 0; least *= 4) {
      began = performance.now();
      error = await failure(openSqlite(folder.file(), { opTimeoutMs: least }));
    }
    put(read);
    for (const each of hung) each();
    expect(isTimeout(error), String(error)).to.equal(true);
    expect(performance.now() - began).to.be.at.least(size / 4096);
    await (await opened(folder.file())).close();
  });

  it("has time to close by the size of the file too", async () => {
    const filled = await openSqlite(folder.file(), { opTimeoutMs });
    const sealedKey = new Uint8Array(65_536).fill(7);
    for (let i = 0; i < 40; i++) await filled.rooms.create({ owner: "o", encrypted: true, sealedKey });
    await filled.close();
    const { size } = await files.promises.stat(folder.file());
    const store = await openSqlite(folder.file(), { opTimeoutMs: 300 });
    const { lstat } = files.promises;
    const hung: (() => void)[] = [];
    files.promises.lstat = ((...args: Parameters<typeof lstat>) =>
      new Promise((resolve, reject) => hung.push(() => void lstat(...args).then(resolve, reject)))) as typeof lstat;
    const began = performance.now();
    const error = await failure(store.close());
    files.promises.lstat = lstat;
    for (const each of hung) each();
    expect(isTimeout(error), String(error)).to.equal(true);
    expect(performance.now() - began).to.be.at.least(3000 + size / 4096);
    await (await opened(folder.file())).close();
  });

  it("refuses options that are none", async () => {
    for (const [name, value] of [
      ["signal", {}],
      ["onOpening", "log"],
      ["onCheckpoint", 1],
      ["onOpenning", () => undefined],
    ] as const) {
      const error = (await failure(openSqlite(folder.file(), { [name]: value }))) as StoreError;
      expect(isInvalidArgument(error) && error.argument).to.equal(`options.${name}`);
      const config = (await failure(openStore({ sqlite: { path: folder.file(), [name]: value } }))) as StoreError;
      expect(isInvalidArgument(config) && config.argument).to.equal(`config.sqlite.${name}`);
    }
    expect(await readdir(folder.path)).to.deep.equal([]);
  });
});

describe("opening: jetstream", function () {
  this.timeout(60_000);
  let server: NatsServer;
  let nc: NatsConnection;
  before(async () => {
    server = await startNatsServer();
    nc = await connect({ servers: server.url });
  });
  after(async () => {
    await nc.close();
    await server.dispose();
  });

  it("tells how far it is", async () => {
    const told: OpeningProgress[] = [];
    const store = await openJetStream(nc, 1, {
      opTimeoutMs,
      prefix: "told_",
      onOpening: (progress) => {
        told.push(progress);
        throw reason;
      },
    });
    expectPhases(told, ["server", "buckets", "quorum", "users", "index"]);
    await store.close();
  });

  it("stops when its signal aborts, before it began and in the middle", async () => {
    const before = await failure(openJetStream(nc, 1, { prefix: "before_", signal: AbortSignal.abort(reason) }));
    expect(isTimeout(before) && before.cause).to.equal(reason);
    for (const at of ["server", "buckets", "quorum", "users"]) {
      const controller = new AbortController();
      const error = await failure(
        openJetStream(nc, 1, {
          opTimeoutMs,
          prefix: `${at}_`,
          signal: controller.signal,
          onOpening: ({ phase }) => {
            if (phase === at) controller.abort(reason);
          },
        }),
      );
      expect(isTimeout(error) && error.cause, at).to.equal(reason);
    }
    const configured = await failure(
      openStore({
        decentralized: true,
        jetstream: { connect: { servers: server.url }, prefix: "before_", signal: AbortSignal.abort(reason) },
      }),
    );
    expect(isTimeout(configured) && configured.cause).to.equal(reason);
    const store = await openJetStream(nc, 1, { opTimeoutMs, prefix: "before_" });
    expect((await store.users.add({ key: "ab" })).key).to.equal("ab");
    await store.close();
  });

  it("refuses an option of another backend", async () => {
    const options = { opTimeoutMs, onCheckpoint: () => undefined };
    const error = (await failure(openJetStream(nc, 1, options))) as StoreError;
    expect(isInvalidArgument(error) && error.argument).to.equal("options.onCheckpoint");
  });
});
