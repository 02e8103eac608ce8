/** Watches of a store in memory: what only many records, or a reader that takes nothing, can show. */
import { expect } from "chai";
import type { Store, StoreEvent, Watch } from "unibus-membership";
import { openMemory } from "unibus-membership/testing";
import { Listener } from "./support/watch-cases.js";

const MANY = 100_000;
/** So many records that changed may wait. */
const MAX_WAITING = 65_536;

/** A store in memory answers before anything else gets its turn. */
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe("a watch", function () {
  this.timeout(120_000);
  let store: Store;
  beforeEach(async () => {
    store = await openMemory();
  });
  afterEach(() => store.close());

  /** Another one reads meanwhile, so that what changes is taken from the feed. */
  async function withReader(work: (proved: () => Promise<unknown>) => Promise<void>): Promise<void> {
    await using reader = new Listener(store, { kinds: ["rooms"], snapshot: false });
    await work(() => reader.proved());
  }

  const addUsers = async (from: number, to: number): Promise<void> => {
    for (let i = from; i < to; i++) {
      await store.users.add({ key: `user-${String(i)}` });
      if (i % 1000 === 0) await turn();
    }
  };

  async function untilProved(iterator: AsyncIterator<StoreEvent>, since: number): Promise<StoreEvent[]> {
    const events: StoreEvent[] = [];
    for (;;) {
      const result = await iterator.next();
      if (result.done === true) return expect.fail("the watch is over");
      const { value } = result;
      events.push(value);
      if (value.type === "proved" && value.asOf >= since) return events;
    }
  }

  const begin = async (): Promise<{ watch: Watch; iterator: AsyncIterator<StoreEvent> }> => {
    const watch = store.watch({ proveEveryMs: 10 });
    const iterator = watch[Symbol.asyncIterator]();
    await untilProved(iterator, 0);
    return { watch, iterator };
  };

  it("of more records than may wait is begun anew, and then exact", async () => {
    const { watch, iterator } = await begin();
    await withReader(async (proved) => {
      await addUsers(0, MANY);
      await proved();
    });
    const events = await untilProved(iterator, performance.now());
    const at = events.findIndex(({ type }) => type === "resync");
    expect(at).to.be.greaterThanOrEqual(0);
    const keys = events.slice(at).flatMap((event) => (event.type === "user" ? [event.user.key] : []));
    expect(new Set(keys).size).to.equal(MANY);
    // Who was added while it began anew can come twice.
    expect(keys.length).to.be.lessThan(2 * MANY);
    await watch.close();
  });

  it("of as many records as may wait is not, however often they change", async () => {
    const { watch, iterator } = await begin();
    await withReader(async (proved) => {
      await addUsers(0, MAX_WAITING);
      for (let round = 0; round < 3; round++) {
        for (let i = 0; i < 1000; i++) await store.users.update(`user-${String(i)}`, { name: String(round) });
        await proved();
      }
    });
    const events = await untilProved(iterator, performance.now());
    expect(events.some(({ type }) => type === "resync")).to.equal(false);
    expect(events.filter(({ type }) => type === "user").length).to.equal(MAX_WAITING);
    const [first] = events;
    expect(first?.type === "user" && first.user.name).to.equal("2");
    await watch.close();
  });

  it("asks nothing while nobody watches, and goes on where one of several ends", async () => {
    const { watch, iterator } = await begin();
    await using other = new Listener(store);
    await other.proved();
    await watch.close();
    expect((await iterator.next()).done).to.equal(true);
    await store.users.add({ key: "later" });
    await other.proved();
    expect([...other.users.keys()]).to.deep.equal(["later"]);
  });

  it("reaches a proof although records change all the time", async () => {
    const { watch, iterator } = await begin();
    for (let i = 0; i < 50; i++) await store.users.add({ key: `user-${String(i)}` });
    const end = new AbortController();
    const writing = (async () => {
      for (let i = 0; !end.signal.aborted; i++) {
        await store.users.update(`user-${String(i % 50)}`, { name: String(i) });
        await turn();
      }
    })();
    await untilProved(iterator, performance.now());
    end.abort();
    await writing;
    await watch.close();
  });
});
