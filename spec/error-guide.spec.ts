/** What docs/errors.md shows, which stands here so that it is compiled and run. */
import { expect } from "chai";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  isAlreadyExists,
  isConflict,
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
import { openMemory } from "unibus-membership/testing";

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
});
