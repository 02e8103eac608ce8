import { expect } from "chai";
import { isStoreError, openJetStream, type Store } from "unibus-membership";
import { startNatsServer } from "unibus-membership/testing";
import { codeOf } from "../support/code-of.js";
import { natsClients } from "../support/nats-clients.js";
import { eventually, pause } from "../support/wait.js";
import { FaultyConnection, type Fault } from "./support/faulty-connection.js";
import { isBarrier } from "./support/messages.js";
import { natsError, tapped } from "./support/taps.js";

/** Generous: what is tested here is what is answered, on a machine that does much else meanwhile. */
const opTimeoutMs = 20_000;

/** After so long without an answer another log could have taken the place of the one that is known. */
const AGED_MS = 1600;

/** What goes with the one that gives up, and which write is held up until it has. */
interface Case {
  readonly title: string;
  readonly other: (store: Store) => Promise<unknown>;
  /** What that answers. */
  readonly expected: string;
  /** Counted from where the head before is put in place, together with the index entries of the new ones. */
  readonly fault: Fault;
}

const cases: readonly Case[] = [
  {
    title: "while its index entry was being put in place",
    other: (store) => store.members.add("r", { endpoint: "late" }),
    expected: "done",
    fault: { at: 2, how: "hold" },
  },
  {
    title: "while its index entry was being put in place, beside one that is refused",
    other: (store) => store.members.join("r", "nobody"),
    expected: "NOT_FOUND",
    fault: { at: 2, how: "hold" },
  },
  {
    title: "while its index entry was being put in place, beside one with nothing to do",
    other: (store) => store.members.join("r", "o"),
    expected: "done",
    fault: { at: 2, how: "hold" },
  },
  {
    title: "while nobody took the commit",
    other: (store) => store.members.add("r", { endpoint: "late" }),
    expected: "done",
    fault: { at: 4, how: "unheard" },
  },
];

describe("jetstream: changes that are committed together", function () {
  this.timeout(60_000);

  for (const { title, other, expected, fault } of cases) {
    it(`one that gave up ${title} does not say that it was surely not made if it was`, async () => {
      await using server = await startNatsServer();
      const [client] = natsClients;
      if (client === undefined) throw new Error("no client");
      const connection = await client.connect(server.url);
      const slow = new FaultyConnection(connection);
      try {
        await using store = await openJetStream(slow, 1, { opTimeoutMs });
        await store.rooms.create({ id: "r", owner: "o" });
        await slow.quiet();
        slow.arm({ at: 1, how: "hold" });
        // The first one is on its way alone, so that those behind it go together.
        const first = store.members.add("r", { endpoint: "first" });
        await slow.reached;
        const given = store.members.add("r", { endpoint: "early" }, { timeoutMs: 1500 }).then(
          () => "ok",
          (error: unknown) => error,
        );
        const late = other(store).then(() => "done", codeOf);
        slow.release();
        slow.arm(fault);
        await first;
        await slow.reached;
        const error = await given;
        slow.release();
        // Who goes on is not ended by who gave up.
        expect(await late).to.equal(expected);
        await slow.quiet();
        if (!isStoreError(error)) throw new Error("it was to give up");
        const isThere = (await store.members.list("r")).some(({ endpoint }) => endpoint === "early");
        if (isThere) expect(error.outcome).to.equal("unknown");
      } finally {
        await connection.close();
      }
    });
  }

  it("nothing more is sent for those that all gave up, and closing does not wait for their time", async function () {
    this.timeout(30_000);
    await using server = await startNatsServer();
    const [client] = natsClients;
    if (client === undefined) throw new Error("no client");
    const connection = await client.connect(server.url);
    let isDeaf = false;
    let unheard = 0;
    const deaf = tapped(connection, {
      request: async (send, subject, payload, options) => {
        // A fence is a barrier under a condition, which stands in its headers.
        const isOfAll = isBarrier(subject) && options?.headers === undefined;
        if (!isDeaf || !isOfAll) return send(subject, payload, options);
        unheard++;
        throw natsError("TIMEOUT");
      },
    });
    try {
      const store = await openJetStream(deaf, 1, { opTimeoutMs: 60_000 });
      await store.rooms.create({ id: "r", owner: "o" });
      // After so long it is to be made sure which log it is, also of what was acknowledged: by a barrier.
      await pause(AGED_MS);
      isDeaf = true;
      const aborting = new AbortController();
      const code = store.members.add("r", { endpoint: "e" }, { signal: aborting.signal }).then(() => "done", codeOf);
      await eventually("its barrier is sent", () => unheard > 0);
      aborting.abort();
      expect(await code).to.equal("TIMEOUT");
      await store.close();
    } finally {
      await connection.close();
    }
  });
});
