/** What docs/errors.md shows, which stands here so that it is compiled and run. */
import { expect } from "chai";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import {
  StoreError,
  exportStore,
  importStore,
  isAlreadyExists,
  isClosed,
  isConflict,
  isCorrupt,
  isIncompatible,
  isInvalidArgument,
  isLocked,
  isNotFound,
  isStoreError,
  isTimeout,
  isUnavailable,
  openSqlite,
  type Store,
  type User,
} from "unibus-membership";
import { faulty, openMemory } from "unibus-membership/testing";

async function findUser(store: Store, key: string): Promise<User | undefined> {
  try {
    return await store.users.get(key);
  } catch (error) {
    if (isNotFound(error)) return undefined;
    throw error;
  }
}

async function enrol(store: Store, key: string): Promise<User> {
  try {
    return await store.users.add({ key });
  } catch (error) {
    if (isAlreadyExists(error)) return await store.users.get(key); // who may be revoked: look at it
    throw error;
  }
}

async function rename(store: Store, roomId: string, change: (name: string) => string): Promise<void> {
  for (;;) {
    const room = await store.rooms.get(roomId);
    try {
      await store.rooms.update(roomId, { name: change(room.name) }, { ifRevision: room.revision });
      return;
    } catch (error) {
      if (!isConflict(error)) throw error; // somebody was faster: read again
    }
  }
}

async function revokeSurely(store: Store, key: string, tries = 10): Promise<void> {
  for (let left = tries; ; left--) {
    try {
      await store.users.revoke(key); // again does no harm: it is idempotent
      return;
    } catch (error) {
      if (left === 1 || !(isTimeout(error) || isUnavailable(error))) throw error;
    }
  }
}

async function addOnce(store: Store, key: string): Promise<User> {
  try {
    return await store.users.add({ key });
  } catch (error) {
    const isUnsure = (isTimeout(error) || isUnavailable(error)) && error.outcome === "unknown";
    if (!isUnsure) throw error;
    return await store.users.get(key); // NOT_FOUND: it was not done
  }
}

function complaint(error: unknown): string {
  if (!isInvalidArgument(error)) throw error;
  return `${error.argument ?? "something"} is malformed`; // the message says what was expected, and not what came
}

async function patiently<T>(call: () => Promise<T>, pauses: readonly number[] = [50, 200, 1000]): Promise<T> {
  for (const pause of pauses) {
    try {
      return await call();
    } catch (error) {
      if (!isUnavailable(error) || error.outcome === "unknown") throw error; // what may have been done is not for a loop
      if (error.details?.["movingTo"] !== undefined) throw error; // it does not come back here
    }
    await sleep(pause);
  }
  return await call();
}

/** For work in the background, which may be under way when the app stops. */
async function unlessClosed(work: Promise<void>): Promise<void> {
  await work.catch((error: unknown) => {
    if (!isClosed(error)) throw error;
  });
}

async function openWhenReleased(path: string, signal: AbortSignal): Promise<Store> {
  for (;;) {
    try {
      return await openSqlite(path, { signal });
    } catch (error) {
      if (!isLocked(error)) throw error;
      await sleep(100, undefined, { signal });
    }
  }
}

async function openOrRestore(path: string, backup: () => AsyncIterable<string>): Promise<Store> {
  try {
    return await openSqlite(path);
  } catch (error) {
    if (!isCorrupt(error)) throw error;
    const store = await openSqlite(`${path}.restored`); // the damaged files stay, for whoever finds out why
    await importStore(backup(), store); // whoever was revoked since the backup is active again: look at the users
    return store;
  }
}

function whatToDo(error: unknown): string {
  if (!isIncompatible(error)) throw error;
  const { movedTo, notMoved, version, setting } = error.details ?? {};
  if (movedTo !== undefined) return "use the other store: this one was moved";
  if (notMoved !== undefined) return "migrate first: the other section of the config holds users";
  if (typeof version === "string") return `use another nats-server than ${version}`;
  if (typeof setting === "string") return `set ${setting} of the bucket as it was`;
  return error.message;
}

function statusOf(error: unknown): number {
  if (!isStoreError(error)) return 500;
  switch (error.code) {
    case "INVALID_ARGUMENT":
      return 400;
    case "NOT_FOUND":
      return 404;
    case "ALREADY_EXISTS":
    case "CONFLICT":
      return 409;
    case "TIMEOUT":
    case "UNAVAILABLE":
    case "CLOSED":
    case "LOCKED":
      return 503;
    case "CORRUPT":
    case "INCOMPATIBLE":
      return 500;
  }
}

describe("the guide to errors", () => {
  let store: Store;
  before(async () => {
    store = await openMemory();
  });
  after(() => store.close());

  it("a miss is no failure, and who is there already is found", async () => {
    expect(await findUser(store, "nobody")).to.equal(undefined);
    const first = await enrol(store, "bob");
    expect(await enrol(store, "bob")).to.deep.equal(first);
    expect((await addOnce(store, "carol")).key).to.equal("carol");
    await revokeSurely(store, "carol");
    await revokeSurely(store, "carol");
    expect((await store.authorize("carol")).reason).to.equal("revoked");
  });

  it("many who change one name lose none of the changes", async () => {
    const { id } = await store.rooms.create({ owner: "alice", name: "" });
    await Promise.all(["a", "b", "c"].map((letter) => rename(store, id, (name) => name + letter)));
    const { name } = await store.rooms.get(id);
    expect(name).to.have.length(3);
    for (const letter of ["a", "b", "c"]) expect(name).to.include(letter);
  });

  it("an error names the argument, and each code has a status", async () => {
    const error: unknown = await store.users.add({ key: "two words" }).catch((reason: unknown) => reason);
    expect(isInvalidArgument(error) && error.argument).to.equal("user.key");
    expect(
      [error, await store.users.get("nobody").catch((reason: unknown) => reason), "x"].map(statusOf),
    ).to.deep.equal([400, 404, 500]);
  });

  it("a file that is held names who holds it", async () => {
    const folder = await mkdtemp(join(tmpdir(), "unibus-errors-"));
    const path = join(folder, "membership.db");
    const holder = await openSqlite(path);
    try {
      await openSqlite(path);
      expect.fail("it opened twice");
    } catch (error) {
      if (!isLocked(error)) throw error;
      expect(error.details).to.have.property("holder");
    } finally {
      await holder.close();
      await rm(folder, { recursive: true });
    }
  });

  it("what may have been done is not repeated blindly, and all else is", async () => {
    const failing = faulty(store, { on: "users.add", times: 2, fault: "fail" });
    expect((await patiently(() => failing.users.add({ key: "erin" }), [1, 1])).key).to.equal("erin");
    failing.setPlan({ on: "users.add", times: 1, fault: "fail", done: true });
    const refused = await patiently(() => failing.users.add({ key: "frank" }), [1, 1]).catch((error: unknown) => error);
    expect(isUnavailable(refused) && refused.outcome).to.equal("unknown");
    failing.setPlan({ on: "users.add", times: 1, fault: "fail", done: true });
    expect((await addOnce(failing, "grace")).key).to.equal("grace");
    failing.setPlan({ on: "users.revoke", times: 2, fault: "fail", done: true });
    await revokeSurely(failing, "grace");
    expect((await store.users.get("grace")).status).to.equal("revoked");
  });

  it("a malformed argument is named, and a closed store is the end of work", async () => {
    const error: unknown = await store.rooms.get("").catch((reason: unknown) => reason);
    expect(complaint(error)).to.equal("id is malformed");
    expect(() => complaint(new Error("other"))).to.throw("other");
    const closed = await openMemory();
    await closed.close();
    await unlessClosed(closed.rooms.delete("a"));
    const miss: unknown = await unlessClosed(store.rooms.delete("a")).catch((reason: unknown) => reason);
    expect(isNotFound(miss)).to.equal(true);
  });

  it("a file is opened when it was released, and restored beside what is damaged", async () => {
    const folder = await mkdtemp(join(tmpdir(), "unibus-errors-"));
    const path = join(folder, "membership.db");
    const holder = await openSqlite(path);
    await holder.users.addFirstAdmin({ key: "root" });
    const waiting = openWhenReleased(path, AbortSignal.timeout(60_000));
    const lines: string[] = [];
    for await (const line of exportStore(holder)) lines.push(line);
    await holder.close();
    await (await waiting).close();
    const bytes = await readFile(path);
    bytes.fill(7, bytes.length / 2);
    await writeFile(path, bytes);
    const store = await openOrRestore(path, async function* () {
      for (const line of lines) yield await Promise.resolve(line);
    });
    expect(await store.isAdmin("root")).to.equal(true);
    await store.close();
    await rm(folder, { recursive: true });
  });

  it("what does not fit says what to do", () => {
    const by = (details?: Record<string, unknown>): string =>
      whatToDo(new StoreError("INCOMPATIBLE", "as it is", details === undefined ? {} : { details }));
    expect(by({ movedTo: "x" })).to.contain("use the other store");
    expect(by({ notMoved: "sqlite" })).to.contain("migrate first");
    expect(by({ version: "2.12.8", server: "n1" })).to.contain("2.12.8");
    expect(by({ bucket: "users", setting: "max_age" })).to.contain("max_age");
    expect(by()).to.equal("as it is");
  });

  it("has a section with an example for each code, a row, and no other", async () => {
    const text = await readFile(fileURLToPath(new URL("../docs/errors.md", import.meta.url)), "utf8");
    const source = await readFile(fileURLToPath(new URL("../lib/errors.ts", import.meta.url)), "utf8");
    const union = /type StoreErrorCode =([^;]*);/.exec(source)?.[1] ?? "";
    const codes = [...union.matchAll(/"([A-Z_]+)"/g)].map(([, code = ""]) => code);
    expect(codes.length).to.be.greaterThan(5);
    const sections = text.split(/^## /m).filter((section) => /^[A-Z_]+\n/.test(section));
    expect(sections.map((section) => section.split("\n")[0])).to.have.members(codes);
    for (const section of sections)
      expect(section, section.split("\n")[0]).to.contain("```ts spec/error-guide.spec.ts\n");
    const rows = [...text.matchAll(/^\| \[`([A-Z_]+)`\]\(#(\w+)\) \|/gm)];
    expect(rows.map(([, code]) => code)).to.have.members(codes);
    for (const [, code = "", anchor] of rows) expect(anchor).to.equal(code.toLowerCase());
  });
});
