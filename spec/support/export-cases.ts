// What the contract says of exports and imports, for every backend. It is not part of the table that is shipped: a
// store of somebody else has no way to whole records.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { EventEmitter, once } from "node:events";
import { StoreError, exportStore, importStore, type Store } from "unibus-membership";
import { openMemory } from "unibus-membership/testing";
import { aloneCases, bytes, failure, refused, sealedFor, seen, walk } from "../../lib/testing/conformance/case.js";
import type { Steps } from "../../lib/testing/conformance/case.js";
import { ofOwnStores } from "./own-stores.js";

const opTimeoutMs = 20_000;
const ROOMS = ["plain", "sealed", "sealed later", "> * . 🦄", "empty\u2028line"] as const;
const FAR = new Date("2999-12-31T23:59:59.999Z");

/** Something of everything that a record can be: what callers can write, and what only comes to be. */
export async function fill(store: Store): Promise<void> {
  await store.users.addFirstAdmin({ key: "root", name: "the first" });
  await store.users.add({ key: "second", role: "admin", expiresAt: FAR });
  await store.users.add({ key: "was-admin", role: "admin" });
  await store.users.update("was-admin", { role: "member" });
  await store.users.add({ key: "revoked", role: "admin", name: "Ærø 🦄 \u2028" });
  await store.users.revoke("revoked");
  await store.users.add({ key: "expired", expiresAt: new Date(0) });
  await store.users.add({ key: "again" });
  await store.users.revoke("again");
  await store.users.reinstate("again");
  for (const id of ROOMS) await fillRoom(store, id);
  await store.rooms.create({ id: "deleted", owner: "owner", encrypted: true, sealedKey: bytes("gone") });
  await store.rooms.delete("deleted");
}

async function fillRoom(store: Store, id: string): Promise<void> {
  const encrypted = id !== "plain";
  const sealedKey = id === "sealed" ? { sealedKey: bytes("epoch 1 of the owner") } : {};
  await store.rooms.create({
    id,
    name: `${id}?`,
    encrypted,
    owner: "owner",
    ownerPublicKey: bytes("pk"),
    ...sealedKey,
  });
  await store.members.add(id, { endpoint: "invited", invitedBy: "owner" });
  await store.members.add(id, { endpoint: "joined 🦄", state: "joined", publicKey: new Uint8Array([0, 255, 0]) });
  if (!encrypted) return;
  const epoch = id === "sealed" ? 1 : 0;
  const everyone = ["owner", "invited", "joined 🦄"];
  await store.roomKeys.rekey(id, sealedFor(epoch + 1, everyone), { expectedEpoch: epoch });
  // Who comes now has no key of the epochs before: a gap.
  await store.members.add(id, { endpoint: "late", state: "joined" });
  await store.roomKeys.rekey(id, sealedFor(epoch + 2, [...everyone, "late"]), { expectedEpoch: epoch + 1 });
  await store.rooms.update(id, { owner: "late" });
  await store.members.remove(id, "invited");
  // The debt stays, and so does the epoch without the one who left.
  if (id === "sealed")
    await store.roomKeys.rekey(id, sealedFor(4, ["owner", "joined 🦄", "late"]), { expectedEpoch: 3 });
}

export async function linesOf(store: Store): Promise<string[]> {
  const lines: string[] = [];
  for await (const line of exportStore(store)) lines.push(line);
  return lines;
}

/** What no order and no revision is in. A grant is told by backends that count them. */
export const contentOf = (lines: readonly string[]): string[] =>
  lines
    .slice(1, -1)
    .map((line) => line.replace(/,"grant":\d+\}/, "}"))
    .sort();

export function digestOf(lines: readonly string[]): string {
  const { end } = JSON.parse(lines.at(-1) ?? "") as { end: { digest: string } };
  return end.digest;
}

/** Everything that a caller can read, except for revisions. */
async function readable(store: Store): Promise<unknown> {
  const users = await walk((page) => store.users.list(page));
  const rooms = await walk((page) => store.rooms.list(page));
  const ids = rooms.map(({ id }) => id).sort();
  const found = await Promise.all(ids.map((id) => seen(store, id)));
  const sorted = users.sort((a, b) => (a.key < b.key ? -1 : 1));
  return JSON.parse(
    JSON.stringify({ users: sorted, found }, (name, value: unknown) => (name === "revision" ? 0 : value)),
  );
}

async function isEmpty(store: Store): Promise<void> {
  assert.deepEqual((await store.users.list()).items, []);
  assert.deepEqual((await store.rooms.list()).items, []);
  assert.equal(await store.hasAdmin(), false);
}

/** Closed: no check is answered, and nothing can be written. */
async function isClosed(store: Store): Promise<void> {
  const decision = await store.authorize("root");
  assert.ok(!decision.allowed && decision.reason === "unavailable", JSON.stringify(decision));
  const answers = [
    store.isAuthorized("root"),
    store.isAdmin("root"),
    store.hasAdmin(),
    store.isMember("sealed", "late"),
  ];
  assert.deepEqual(await Promise.all(answers), [false, false, false, false]);
  const error = await refused("UNAVAILABLE", () => store.users.add({ key: "other" }), "a write while it is imported");
  assert.equal(error.outcome, "none");
  assert.equal(typeof error.details?.["since"], "string");
  await refused("UNAVAILABLE", () => store.rooms.create({ owner: "other" }), "a room while it is imported");
  await refused("UNAVAILABLE", () => linesOf(store), "an export while it is imported");
}

async function filledLines(): Promise<string[]> {
  const source = await openMemory({ opTimeoutMs });
  await fill(source);
  return linesOf(source);
}

/** The lines with a change, and with the trailer that belongs to them. */
function resealed(lines: readonly string[], change: (line: string) => string): string[] {
  const body = lines.slice(0, -1).map((line, i) => (i === 0 || line.startsWith('{"user"') ? change(line) : line));
  assert.notDeepEqual(body, lines.slice(0, -1));
  const { end } = JSON.parse(lines.at(-1) ?? "") as { end: object };
  const sha256 = createHash("sha256").update(body.join("")).digest("hex");
  return [...body, `${JSON.stringify({ end: { ...end, sha256 } })}\n`];
}

/** Some of each kind of damage, the same ones each time. */
function* mutantsOf(lines: readonly string[]): Iterable<string[]> {
  const at = (i: number, line: string): string[] => lines.map((each, j) => (i === j ? line : each));
  for (let i = 0; i < lines.length; i += 5) {
    const line = lines[i] ?? "";
    yield lines.filter((_, j) => j !== i);
    yield [...lines.slice(0, i), line, ...lines.slice(i)];
    const middle = Math.floor(line.length / 2);
    yield at(i, `${line.slice(0, middle)}~${line.slice(middle + 1)}`);
    if (i + 1 < lines.length) yield [...lines.slice(0, i), lines[i + 1] ?? "", line, ...lines.slice(i + 2)];
  }
  yield lines.slice(0, -1);
  yield [...lines, ...lines];
  yield [lines.join("").slice(0, -1)];
  yield [];
}

async function isRefused(store: Store): Promise<void> {
  await refused("INVALID_ARGUMENT", () => linesOf(store), "an export of a store that is not of this package");
  await refused("INVALID_ARGUMENT", () => importStore([], store), "an import into a store that is not of this package");
}

const steps: Steps = {
  "everything comes out, and into another store, as it was": async ({ store, reopened }) => {
    await fill(store);
    const lines = await linesOf(store);
    const copy = await openMemory({ opTimeoutMs });
    const report = await importStore(lines, copy);
    assert.equal(report.digest, digestOf(lines));
    assert.deepEqual(report.counts, { users: 6, rooms: 5, members: 15, roomKeys: 24 });
    assert.deepEqual(await readable(copy), await readable(store));
    assert.deepEqual(contentOf(await linesOf(copy)), contentOf(lines));
    assert.equal(digestOf(await linesOf(await reopened())), report.digest);
  },

  "everything goes in, and is there for everybody, and after a close": async ({ store, other, reopened }) => {
    const source = await openMemory({ opTimeoutMs });
    await fill(source);
    const lines = await linesOf(source);
    const report = await importStore(lines, store);
    assert.equal(report.digest, digestOf(lines));
    const expected = await readable(source);
    assert.deepEqual(await readable(store), expected);
    const second = await other();
    assert.equal(await second.isAdmin("root"), true);
    assert.deepEqual([await second.isAuthorized("revoked"), await second.isAuthorized("expired")], [false, false]);
    assert.deepEqual(
      [await second.isMember("sealed", "late"), await second.isMember("sealed", "invited")],
      [true, false],
    );
    assert.equal(digestOf(await linesOf(second)), report.digest);
    const again = await reopened();
    assert.deepEqual(await readable(again), expected);
    assert.equal(await again.isAdmin("root"), true);
  },

  "an empty store comes out, and goes in": async ({ store }) => {
    const lines = await linesOf(store);
    assert.equal(lines.length, 2);
    const report = await importStore(lines, store);
    assert.deepEqual(report.counts, { users: 0, rooms: 0, members: 0, roomKeys: 0 });
    await store.users.addFirstAdmin({ key: "root" });
    assert.equal(await store.isAdmin("root"), true);
  },

  "text in pieces of any size is the same as lines, with their end or without": async ({ store }) => {
    const lines = await filledLines();
    const text = lines.join("");
    const pieces = function* (): Iterable<string> {
      for (let i = 0; i < text.length; i += 300) yield text.slice(i, i + 300);
    };
    const report = await importStore(pieces(), store);
    const copy = await openMemory({ opTimeoutMs });
    const bare = lines.map((line) => line.trimEnd());
    assert.deepEqual(await importStore(bare, copy), report);
    for (const line of bare) assert.equal(/[\n\r\u2028\u2029]/.test(line), false, "a line has an end inside");
  },

  "until its trailer was checked nobody comes in, and nobody else writes": async ({ store, other }) => {
    const lines = await filledLines();
    const second = await other();
    let looks = 0;
    const looking = async function* (): AsyncIterable<string> {
      for (const [i, line] of lines.entries()) {
        yield line;
        if (i !== 1 && i !== lines.length - 2 && i !== lines.length - 1) continue;
        looks++;
        await isClosed(store);
        await isClosed(second);
      }
    };
    await importStore(looking(), store);
    assert.equal(looks, 3);
    assert.deepEqual([await store.isAdmin("root"), await second.isAdmin("root")], [true, true]);
    await second.users.add({ key: "other" });
  },

  "a text that was cut, reordered or changed is refused, and the store is as it was": async ({ store }) => {
    const lines = await filledLines();
    for (const mutant of mutantsOf(lines)) {
      const error = await failure(() => importStore(mutant, store), "a damaged export");
      // A changed header can be one of a version that nobody knows.
      assert.ok(error.code === "CORRUPT" || error.code === "INCOMPATIBLE", error.message);
    }
    await isEmpty(store);
    assert.equal((await importStore(lines, store)).digest, digestOf(lines));
    assert.equal(await store.isAdmin("root"), true);
  },

  "a text whose revisions would leave none for the store is refused": async ({ store }) => {
    const lines = await filledLines();
    const highest = String(Number.MAX_SAFE_INTEGER);
    const changes: readonly ((line: string) => string)[] = [
      (line) => line.replace(/"revisionFloor":\d+/, `"revisionFloor":${highest}`),
      (line) => line.replace(/^\{"user":(.*?)(,"grant":\d+)?\}\}/, `{"user":$1,"grant":${highest}}}`),
    ];
    for (const change of changes) {
      const text = resealed(lines, change);
      await refused("CORRUPT", () => importStore(text, store), "an export whose revisions leave none");
      await isEmpty(store);
    }
  },

  "a store that holds anything is not imported into, and stays as it was": async ({ store, other }) => {
    const lines = await filledLines();
    await store.rooms.create({ id: "room", owner: "owner" });
    await refused("CONFLICT", () => importStore(lines, store), "an import beside a room");
    await store.rooms.delete("room");
    await store.users.add({ key: "user" });
    const before = await readable(store);
    await refused("CONFLICT", async () => importStore(lines, await other()), "an import beside a user");
    assert.deepEqual(await readable(store), before);
    assert.equal(await store.isAuthorized("user"), true);
    await store.users.addFirstAdmin({ key: "root" });
  },

  "a source that fails is told as it failed, and the store is empty and open": async ({ store }) => {
    const lines = await filledLines();
    const failing = function* (reason: Error): Iterable<string> {
      yield* lines.slice(0, 20);
      throw reason;
    };
    // It can be an export of a store that is out of reach.
    for (const reason of [new Error("the source failed"), new StoreError("UNAVAILABLE", "the source failed")]) {
      await assert.rejects(importStore(failing(reason), store), (error) => error === reason);
      await isEmpty(store);
    }
    await store.users.addFirstAdmin({ key: "first" });
  },

  "an import that was ended from outside leaves a closed store, which another one opens": async ({
    store,
    reopened,
  }) => {
    const lines = await filledLines();
    const controller = new AbortController();
    const reason = new Error("no more of it");
    const ended = function* (): Iterable<string> {
      for (const [i, line] of lines.entries()) {
        if (i === 30) controller.abort(reason);
        yield line;
      }
    };
    const attempt = (): Promise<unknown> => importStore(ended(), store, { signal: controller.signal });
    const error = await refused("TIMEOUT", attempt, "an import that its signal ended");
    assert.equal(error.cause, reason);
    await isClosed(store);
    const again = await reopened();
    await isClosed(again);
    const report = await importStore(lines, again);
    assert.equal(digestOf(await linesOf(again)), report.digest);
    assert.equal(await again.isAdmin("root"), true);
  },

  "a source is told that nothing more is wanted of it, however the import ends": async ({ store }) => {
    const lines = await filledLines();
    const controller = new AbortController();
    let ended = 0;
    async function* source(end: () => Promise<void> | void): AsyncIterable<string> {
      try {
        yield* lines.slice(0, 20);
        await end();
        yield* lines;
      } finally {
        ended++;
      }
    }
    const abort = (): void => {
      controller.abort();
    };
    await refused(
      "CORRUPT",
      () =>
        importStore(
          source(() => undefined),
          store,
        ),
      "an export with another one in it",
    );
    assert.equal(ended, 1);
    const aborted = (): Promise<unknown> => importStore(source(abort), store, { signal: controller.signal });
    await refused("TIMEOUT", aborted, "an import that its signal ended");
    assert.equal(ended, 2);
    // A source that stands still is told when it goes on, and nobody waits for that.
    let goOn: () => void = () => undefined;
    const stopped = new Promise<void>((resolve) => (goOn = resolve));
    const second = new AbortController();
    const standsStill = (): Promise<void> => {
      second.abort();
      return stopped;
    };
    const stuck = (): Promise<unknown> => importStore(source(standsStill), store, { signal: second.signal });
    await refused("TIMEOUT", stuck, "an import whose source stands still");
    assert.equal(ended, 2);
    goOn();
    await new Promise(setImmediate);
    assert.equal(ended, 3);
    await importStore(lines, store);
  },

  "an import of nothing opens what another one left": async ({ store }) => {
    const lines = await filledLines();
    const nothing = await linesOf(await openMemory({ opTimeoutMs }));
    const controller = new AbortController();
    const ended = function* (): Iterable<string> {
      yield* lines.slice(0, -1);
      controller.abort();
    };
    const attempt = (): Promise<unknown> => importStore(ended(), store, { signal: controller.signal });
    await refused("TIMEOUT", attempt, "an import that its signal ended");
    await importStore(nothing, store);
    await isEmpty(store);
    await store.users.addFirstAdmin({ key: "first" });
    assert.equal(await store.isAdmin("first"), true);
    assert.equal(await store.isAuthorized("root"), false);
  },

  "no revision is one that the store of the export gave, and all of it goes on": async ({ store }) => {
    const source = await openMemory({ opTimeoutMs });
    await fill(source);
    const given = new Set<string>();
    for (let i = 0; i < 100; i++) given.add((await source.users.update("again", { name: String(i) })).revision);
    await importStore(await linesOf(source), store);
    for (let i = 0; i < 20; i++) {
      const { revision } = await store.users.update("again", { name: `then ${String(i)}` });
      assert.equal(given.has(revision), false, `the revision ${revision} was given before`);
      given.add(revision);
    }
    const old = (await source.users.get("again")).revision;
    await refused("CONFLICT", () => store.users.update("again", { name: "x" }, { ifRevision: old }), "an old revision");
  },

  "the rules hold for what was imported": async ({ store }) => {
    await importStore(await filledLines(), store);
    await refused("CONFLICT", () => store.users.addFirstAdmin({ key: "first" }), "a first admin");
    await refused("ALREADY_EXISTS", () => store.users.add({ key: "revoked" }), "a revoked user");
    await store.users.revoke("second");
    await refused("CONFLICT", () => store.users.revoke("root"), "the last admin");
    await refused("ALREADY_EXISTS", () => store.rooms.create({ id: "plain", owner: "x" }), "a room");
    assert.equal((await store.rooms.get("sealed later")).rekeyRequired, true);
    const members = (await store.members.list("sealed later")).map(({ endpoint }) => endpoint);
    const room = await store.roomKeys.rekey("sealed later", sealedFor(3, members), { expectedEpoch: 2 });
    assert.equal(room.rekeyRequired, false);
    await refused("ALREADY_EXISTS", () => store.roomKeys.put("sealed", "late", 3, bytes("again")), "a key of before");
    assert.deepEqual(
      (await store.roomKeys.list("sealed", "late")).map(({ epoch }) => epoch),
      [3, 4],
    );
    await store.members.remove("sealed", "owner");
    assert.equal(await store.isMember("sealed", "owner"), false);
    await store.members.add("sealed", { endpoint: "owner", state: "joined" });
    assert.deepEqual(await store.roomKeys.list("sealed", "owner"), []);
    await store.rooms.delete("plain");
    assert.deepEqual(
      (await store.rooms.listForEndpoint("late")).map(({ id }) => id),
      ["> * . 🦄", "empty\u2028line", "sealed", "sealed later"],
    );
  },

  "what is no argument is refused, and a store that is closed": async ({ store }) => {
    const refuse = async (attempt: () => Promise<unknown>, argument: string): Promise<void> => {
      const error = await refused("INVALID_ARGUMENT", attempt, argument);
      assert.equal(error.argument, argument);
    };
    const lines = await linesOf(store);
    await refuse(() => linesOf({ ...store }), "store");
    await refuse(() => importStore(lines, { ...store }), "to");
    await refuse(() => importStore(7 as unknown as string[], store), "lines");
    await refuse(() => importStore([7 as unknown as string], store), "lines");
    await refuse(() => importStore(lines, store, { stallTimeoutMs: 0 }), "options.stallTimeoutMs");
    await refuse(() => importStore(lines, store, { onprogress: 1 } as object), "options.onprogress");
    const never = (async function* (): AsyncIterable<string> {
      yield lines[0] ?? "";
      await new Promise(() => undefined);
    })();
    await refused("TIMEOUT", () => importStore(never, store, { stallTimeoutMs: 50 }), "a source that stands still");
    await importStore(lines, store);
    const begun = exportStore(store)[Symbol.asyncIterator]();
    await begun.next();
    await store.close();
    const error = await failure(async () => {
      for (;;) if ((await begun.next()).done === true) return;
    }, "an export of a store that is closed");
    assert.equal(error.code, "CLOSED");
    await refused("CLOSED", () => linesOf(store), "an export of a closed store");
    await refused("CLOSED", () => importStore(lines, store), "an import into a closed store");
  },

  "an import takes over from one that has not ended": async ({ store }) => {
    const lines = await filledLines();
    const begun = new EventEmitter();
    const [asked, goOn] = [once(begun, "asked"), once(begun, "go on")];
    const first = failure(
      () =>
        importStore(
          (async function* (): AsyncIterable<string> {
            yield lines[0] ?? "";
            begun.emit("asked");
            await goOn;
            yield* lines.slice(1);
          })(),
          store,
        ),
      "the import that was taken over",
    );
    await asked;
    assert.equal(await store.isAuthorized("root"), false);
    const { digest } = await importStore(lines, store);
    begun.emit("go on");
    assert.equal((await first).code, "CONFLICT");
    assert.equal(await store.isAuthorized("root"), true);
    assert.equal(digestOf(await linesOf(store)), digest);
  },

  "an import that is aborted while it begins does not hinder the next one": async ({ store }) => {
    const lines = await filledLines();
    const aborter = new AbortController();
    const headerAlone = (async function* (): AsyncIterable<string> {
      setImmediate(() => {
        aborter.abort();
      });
      yield lines[0] ?? "";
      await new Promise(() => undefined);
    })();
    await refused("TIMEOUT", () => importStore(headerAlone, store, { signal: aborter.signal }), "aborted");
    await importStore(lines, store);
    assert.equal(await store.isAuthorized("root"), true);
  },

  "progress is told, and what the listener throws is its own affair": async ({ store }) => {
    const lines = await filledLines();
    const phases = new Map<string, number>();
    const tooMany: string[] = [];
    const onProgress = ({ phase, done, total = done }: { phase: string; done: number; total?: number }): void => {
      phases.set(phase, done);
      if (done > total) tooMany.push(phase);
      throw new Error("not of interest");
    };
    // A header's numbers are about as many: here they are too few.
    const few = resealed(lines, (line) => line.replace(/"users":\d+,"rooms":\d+/, '"users":0,"rooms":0'));
    const late = async function* (): AsyncIterable<string> {
      yield* few.slice(0, -1);
      // So long nothing more is told.
      await new Promise((resolve) => setTimeout(resolve, 110));
      yield* few.slice(-1);
    };
    await importStore(late(), store, { onProgress });
    assert.deepEqual([phases.get("import"), phases.get("verify")], [50, 50]);
    for await (const line of exportStore(store, { onProgress })) assert.ok(line.endsWith("\n"));
    assert.equal(phases.get("export"), 50);
    assert.deepEqual(tooMany, []);
  },
};

export const exportCases = aloneCases("export", ofOwnStores(steps, isRefused));
