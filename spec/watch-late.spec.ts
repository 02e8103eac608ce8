/** A feed that answers when nobody waits for the answer any more. */
import { expect } from "chai";
import type { StoreEvent } from "unibus-membership";
import type { Call } from "../lib/call.js";
import type { ChangeFeed, ChangesDriver } from "../lib/driver.js";
import { MembershipStore } from "../lib/membership-store.js";
import { Memory } from "../lib/memory/memory.js";
import { memoryDriver } from "../lib/memory/open.js";
import { pause } from "./support/wait.js";

/** Ten times of it is what a step has. */
const opTimeoutMs = 5;

class Late {
  /** How many more answers come only when their call is over. */
  takes = 0;
  follows = 0;
  readonly open = new Set<ChangeFeed>();

  of(driver: ChangesDriver): ChangesDriver {
    return {
      room: (roomId, call) => driver.room(roomId, call),
      follow: async (call, wanted) => {
        const feed = await driver.follow(call, wanted);
        const late: ChangeFeed = {
          take: async (own) => {
            const changes = await feed.take(own);
            if (this.takes-- > 0) await over(own);
            return changes;
          },
          close: () => {
            this.open.delete(late);
            feed.close();
          },
        };
        this.open.add(late);
        if (this.follows-- > 0) await over(call);
        return late;
      },
    };
  }
}

async function over(call: Call): Promise<void> {
  while (call.ended === undefined) await pause(5);
}

describe("a feed that answers late", () => {
  let late: Late;
  let store: MembershipStore;

  beforeEach(() => {
    late = new Late();
    const driver = memoryDriver(new Memory());
    store = new MembershipStore({ ...driver, changes: late.of(driver.changes) }, opTimeoutMs);
  });
  afterEach(() => store.close());

  async function upToProof(events: AsyncIterator<StoreEvent, unknown>): Promise<string[]> {
    const keys: string[] = [];
    for (;;) {
      const { done, value } = await events.next();
      if (done === true || value.type === "proved") return keys;
      keys.push(value.type === "user" ? value.user.key : value.type);
    }
  }

  it("has its answer told all the same: nothing is missed", async () => {
    const watch = store.watch({ proveEveryMs: 20 });
    const events = watch[Symbol.asyncIterator]();
    await upToProof(events);
    late.takes = 1;
    await store.users.add({ key: "bob" }, { timeoutMs: 60_000 });
    // One of the proofs may have been on its way before.
    const told = [...(await upToProof(events)), ...(await upToProof(events))];
    expect(told).to.deep.equal(["bob"]);
    expect(late.takes).to.be.lessThan(1);
    await watch.close();
  });

  it("is let go of where it began to follow too late", async () => {
    late.follows = 1;
    const watch = store.watch({ proveEveryMs: 20 });
    await upToProof(watch[Symbol.asyncIterator]());
    expect(late.open.size).to.equal(1);
    await watch.close();
  });
});
