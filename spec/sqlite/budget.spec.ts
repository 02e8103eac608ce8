import { expect } from "chai";
import { promises as fs } from "node:fs";
import { cp, mkdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { isUnavailable, openSqlite, type CheckpointResult, type Store, type StoreError } from "unibus-membership";
import { eventually } from "../support/wait.js";
import { failure, useFolder } from "./support/folder.js";
import { withLimits } from "../support/limited.js";

const opTimeoutMs = 20_000;
const KEY_BYTES = 65_536;

const keyOf = (n: number): Uint8Array => new Uint8Array(KEY_BYTES).fill(n + 1);

describe("sqlite: a store that is full", function () {
  this.timeout(60_000);
  const folder = useFolder();
  let limited: Awaited<ReturnType<typeof withLimits>>;
  let restore: () => void = () => undefined;
  const IMAGE = 3_000_000;
  const LOG = 4_000_000;

  before(async () => {
    limited = await withLimits({ MAX_IMAGE_BYTES: IMAGE, MAX_LOG_BYTES: LOG });
  });
  after(() => limited.dispose());
  afterEach(() => {
    restore();
    restore = () => undefined;
  });

  const add = (store: Store, n: number): Promise<unknown> =>
    store.rooms.create({ id: `r${String(n)}`, owner: "o", encrypted: true, sealedKey: keyOf(n) });

  /**
   * How many were acknowledged, and what refused the first that was not, because of the image: a checkpoint empties the
   * log.
   */
  async function untilFull(write: (n: number) => Promise<unknown>): Promise<{ done: number; error: StoreError }> {
    let done = 0;
    let refusal: StoreError | undefined;
    await eventually("the image is full, and not the log alone", async () => {
      for (;;) {
        refusal = await write(done).then(
          () => undefined,
          (reason: unknown) => reason as StoreError,
        );
        if (refusal !== undefined) return refusal.details?.["logBytes"] === undefined;
        done++;
      }
    });
    if (refusal === undefined) throw new Error("never full");
    return { done, error: refusal };
  }

  /** The rooms that were acknowledged, and what refused the first that was not. */
  async function filled(store: Store): Promise<{ rooms: number; error: StoreError }> {
    const { done: rooms, error } = await untilFull((n) => add(store, n));
    return { rooms, error };
  }

  function expectFull(error: StoreError, names: readonly string[], most: number): void {
    expect(isUnavailable(error), String(error)).to.equal(true);
    expect(error.outcome).to.equal("none");
    expect(Object.keys(error.details ?? {})).to.deep.equal(names);
    expect(error.details?.[names[1] ?? ""]).to.equal(most);
    expect(error.details?.[names[0] ?? ""]).to.be.greaterThan(most);
  }

  /** All that takes away, and all that only reads. */
  async function expectGoesOn(store: Store): Promise<void> {
    expect(await store.isAuthorized("guest")).to.equal(true);
    expect((await store.roomKeys.get("r0", "o")).sealed).to.deep.equal(keyOf(0));
    await store.users.update("second", { role: "member" });
    expect(await store.isAdmin("second")).to.equal(false);
    await store.users.update("second", { expiresAt: new Date(1000) });
    expect(await store.isAuthorized("second")).to.equal(false);
    await store.users.revoke("guest");
    expect(await store.isAuthorized("guest")).to.equal(false);
    await store.members.remove("small", "member");
    expect(await store.isMember("small", "member")).to.equal(false);
  }

  async function populated(onCheckpoint?: (result: CheckpointResult) => void): Promise<Store> {
    const store = await limited.library.openSqlite(folder.file(), {
      opTimeoutMs,
      ...(onCheckpoint === undefined ? {} : { onCheckpoint }),
    });
    await store.users.addFirstAdmin({ key: "admin" });
    await store.users.add({ key: "second", role: "admin" });
    await store.users.add({ key: "guest" });
    await store.rooms.create({ id: "small", owner: "o" });
    await store.members.add("small", { endpoint: "member", state: "joined" });
    return store;
  }

  /** What was acknowledged is there, in the library as it is shipped. */
  async function expectKept(path: string, rooms: readonly number[]): Promise<void> {
    const store = await openSqlite(path, { opTimeoutMs });
    expect((await store.rooms.listForEndpoint("o")).map(({ id }) => id)).to.deep.equal(
      [...rooms.map((n) => `r${String(n)}`), "small"].sort(),
    );
    for (const n of rooms) expect((await store.roomKeys.get(`r${String(n)}`, "o")).sealed).to.deep.equal(keyOf(n));
    expect((await store.users.get("guest")).status).to.equal("revoked");
    await store.close();
  }

  it("refuses what its file could not hold before it is written, and nothing else", async () => {
    const store = await populated();
    const { rooms, error } = await filled(store);
    expectFull(error, ["imageBytes", "maxImageBytes"], IMAGE);
    expect(rooms, "not long before it is full").to.be.within(36, 45);
    await expectGoesOn(store);
    // What is no larger than what it takes the place of.
    await store.rooms.update("small", { name: "" });
    await store.users.update("admin", { name: "" });
    expect(
      isUnavailable(await failure(store.roomKeys.put("r0", "o", 2, keyOf(9)).catch(() => add(store, 99)))),
    ).to.equal(true);
    // Room is made by deleting, and at once.
    await store.rooms.delete("r1");
    await store.rooms.delete("r2");
    await add(store, 1);
    expect(isUnavailable(await failure(Promise.all([add(store, 2), add(store, 98)])))).to.equal(true);
    await store.close();
    expect((await stat(folder.file())).size).to.be.within(IMAGE * 0.8, IMAGE);
    await expectKept(
      folder.file(),
      Array.from({ length: rooms }, (_, i) => i),
    );
    // Closed and opened again it is as full.
    const again = await limited.library.openSqlite(folder.file(), { opTimeoutMs });
    expect(isUnavailable(await failure(add(again, 97)))).to.equal(true);
    await again.close();
  });

  it("counts what waits for the disk", async () => {
    const store = await populated();
    const added = await Promise.allSettled(Array.from({ length: 100 }, (_, n) => add(store, n)));
    expect(added.filter(({ status }) => status === "fulfilled").length).to.be.within(36, 45);
    await store.close();
    expect((await stat(folder.file())).size).to.be.lessThan(IMAGE);
  });

  it("counts what goes with a room and with a member, also after it was opened again", async () => {
    let store = await populated();
    for (let round = 0; round < 4; round++) {
      const { rooms } = await filled(store);
      expect(rooms, `round ${String(round)}`).to.be.within(36, 45);
      if (round % 2 === 1) {
        await store.close();
        store = await limited.library.openSqlite(folder.file(), { opTimeoutMs });
      }
      for (let n = 0; n < rooms; n++) await store.rooms.delete(`r${String(n)}`);
    }
    await store.rooms.create({ id: "keys", owner: "o", encrypted: true, sealedKey: keyOf(0) });
    for (let round = 0; round < 3; round++) {
      const { done: members } = await untilFull((n) =>
        store.members.add("keys", {
          endpoint: `m${String(n)}`,
          publicKey: new Uint8Array(1024),
          sealedKey: { epoch: 1, sealed: keyOf(n) },
        }),
      );
      expect(members, `round ${String(round)}`).to.be.within(33, 45);
      for (let n = 0; n < members; n++) await store.members.remove("keys", `m${String(n)}`);
    }
    await store.close();
  });

  it("refuses what its log could not hold while no checkpoint succeeds, and goes on when one does", async () => {
    const results: CheckpointResult[] = [];
    const store = await populated((result) => results.push(result));
    await add(store, 0);
    const { rename } = fs;
    restore = () => void (fs.rename = rename);
    fs.rename = (from, to) =>
      String(from).endsWith("-checkpoint") ? Promise.reject(new Error("injected")) : rename(from, to);
    // Of the same size each time, so that only the log grows.
    let updates = 0;
    let error: StoreError | undefined;
    const name = (n: number): string => String(n).padStart(250, "x");
    while (error === undefined) {
      error = await Promise.all(
        Array.from({ length: 64 }, () => store.users.update("admin", { name: name(updates++) })),
      ).then(
        () => undefined,
        (reason: unknown) => reason as StoreError,
      );
    }
    expectFull(error, ["logBytes", "maxLogBytes"], LOG);
    expect(results.length).to.be.greaterThan(0);
    await expectGoesOn(store);
    expect(isUnavailable(await failure(add(store, 1))), "refused").to.equal(true);
    const killed = folder.file("killed");
    await mkdir(killed);
    for (const end of ["", "-redo0", "-redo1"]) await cp(folder.file() + end, join(killed, `membership.db${end}`));
    restore();
    for (
      const until = performance.now() + 30_000;
      !(await add(store, 1).then(
        () => true,
        () => false,
      ));
    ) {
      if (performance.now() > until) throw new Error("it never goes on");
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    expect(results.at(-1)?.ok).to.equal(true);
    await store.close();
    await expectKept(folder.file(), [0, 1]);
    // All of both logs, by whoever opens it after a kill.
    await expectKept(join(killed, "membership.db"), [0]);
  });
});
