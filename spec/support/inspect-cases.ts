// What the contract says of inspections, for every backend. It is not part of the table that is shipped: a store of
// somebody else has no way to whole records. What each backend finds is in the specs of its faults.

import assert from "node:assert/strict";
import { inspect, type Store } from "unibus-membership";
import { aloneCases, bytes, failure, refused, sealedFor } from "../../lib/testing/conformance/case.js";
import type { Steps } from "../../lib/testing/conformance/case.js";
import { contentOf, digestOf, fill, linesOf } from "./export-cases.js";
import { ofOwnStores } from "./own-stores.js";

async function isRefused(store: Store): Promise<void> {
  const error = await refused("INVALID_ARGUMENT", () => inspect(store), "a store that is not of this package");
  assert.equal(error.argument, "store");
}

const NOTHING = { users: 0, rooms: 0, members: 0, roomKeys: 0 };

const steps: Steps = {
  "a healthy store has no finding, and what is counted is what an export has": async ({ store, other, reopened }) => {
    await fill(store);
    const found = await inspect(store);
    assert.deepEqual(found.findings, []);
    assert.equal(found.ok, true);
    assert.deepEqual(found.counts, { users: 6, rooms: 5, members: 15, roomKeys: 24 });
    assert.equal(found.digest, digestOf(await linesOf(store)));
    assert.deepEqual(await inspect(await other()), found);
    assert.deepEqual(await inspect(await reopened()), found);
  },

  "a healthy store that is to be repaired stays as it was": async ({ store }) => {
    await fill(store);
    const before = await linesOf(store);
    const { revision } = await store.rooms.get("sealed");
    const found = await inspect(store, { repair: true });
    assert.deepEqual(found.findings, []);
    assert.equal(found.digest, digestOf(before));
    assert.deepEqual(contentOf(await linesOf(store)), contentOf(before));
    assert.equal((await store.rooms.get("sealed")).revision, revision);
    await refused("CONFLICT", () => store.users.addFirstAdmin({ key: "first" }), "a first admin");
  },

  "an empty store has no finding": async ({ store }) => {
    const { digest, ...found } = await inspect(store);
    assert.deepEqual(found, { ok: true, counts: NOTHING, findings: [] });
    assert.equal(digest, digestOf(await linesOf(store)));
  },

  "what others write meanwhile is no fault": async ({ store, other }) => {
    await fill(store);
    const second = await other();
    const end = new AbortController();
    const writing = (async () => {
      for (let i = 0; !end.signal.aborted; i++) {
        const id = `busy-${String(i % 3)}`;
        await second.rooms.create({ id, owner: "owner", encrypted: true, sealedKey: bytes("1") });
        await second.members.add(id, {
          endpoint: "guest",
          state: "joined",
          sealedKey: { epoch: 1, sealed: bytes("g") },
        });
        await second.roomKeys.rekey(id, sealedFor(2, ["owner", "guest"]), { expectedEpoch: 1 });
        await second.rooms.update(id, { owner: "guest" });
        await second.members.remove(id, "owner");
        await second.users.update("second", { role: i % 2 === 0 ? "member" : "admin" });
        await second.rooms.delete(id);
        // A store in memory answers before anything else gets its turn.
        await new Promise((resolve) => setImmediate(resolve));
      }
    })();
    try {
      for (const repair of [false, true, false]) assert.deepEqual((await inspect(store, { repair })).findings, []);
    } finally {
      end.abort();
      await writing;
    }
    assert.deepEqual((await inspect(store)).findings, []);
  },

  "what is no argument is refused, and a store that is closed": async ({ store }) => {
    const refuse = async (attempt: () => Promise<unknown>, argument: string): Promise<void> => {
      const error = await refused("INVALID_ARGUMENT", attempt, argument);
      assert.equal(error.argument, argument);
    };
    await refuse(() => inspect({ ...store }), "store");
    await refuse(() => inspect(store, 7 as unknown as object), "options");
    await refuse(() => inspect(store, { repair: 1 } as object), "options.repair");
    await refuse(() => inspect(store, { repairs: true } as object), "options.repairs");
    await refuse(() => inspect(store, { stallTimeoutMs: 0 }), "options.stallTimeoutMs");
    await refuse(() => inspect(store, { signal: {} } as object), "options.signal");
    await refuse(() => inspect(store, { onProgress: 1 } as object), "options.onProgress");
    await store.close();
    await refused("CLOSED", () => inspect(store), "an inspection of a closed store");
  },

  "a signal ends it": async ({ store }) => {
    await fill(store);
    const reason = new Error("no more of it");
    for (const when of ["before", "meanwhile"]) {
      const controller = new AbortController();
      if (when === "before") controller.abort(reason);
      const onProgress = (): void => controller.abort(reason);
      const error = await failure(() => inspect(store, { signal: controller.signal, onProgress }), when);
      assert.equal(error.code, "TIMEOUT");
      assert.equal(error.cause, reason);
    }
    assert.deepEqual((await inspect(store)).findings, []);
  },

  "progress is told, and what the listener throws is its own affair": async ({ store }) => {
    await fill(store);
    const phases = new Map<string, number>();
    const onProgress = ({ phase, done }: { phase: string; done: number }): void => {
      phases.set(phase, done);
      throw new Error("not of interest");
    };
    await inspect(store, { onProgress });
    assert.equal(phases.get("records"), 50);
  },
};

export const inspectCases = aloneCases("inspect", ofOwnStores(steps, isRefused));
