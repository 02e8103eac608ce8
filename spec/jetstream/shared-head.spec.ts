import { expect } from "chai";
import { isStoreError, openJetStream } from "unibus-membership";
import { startNatsServer } from "unibus-membership/testing";
import { natsClients } from "../support/nats-clients.js";
import { FaultyConnection } from "./support/faulty-connection.js";

/** Generous: what is tested here is what is answered, on a machine that does much else meanwhile. */
const opTimeoutMs = 20_000;

describe("jetstream: changes that are committed together", function () {
  this.timeout(60_000);

  it("one that gave up while its key was being put in place does not say that it was surely not made", async () => {
    await using server = await startNatsServer();
    const [client] = natsClients;
    if (client === undefined) throw new Error("no client");
    const connection = await client.connect(server.url);
    const slow = new FaultyConnection(connection);
    try {
      await using store = await openJetStream(slow, 1, { opTimeoutMs });
      await store.rooms.create({ id: "r", owner: "o", encrypted: true, sealedKey: Uint8Array.of(1) });
      await slow.quiet();
      slow.arm({ at: 1, how: "hold" });
      const sealedKey = { epoch: 1, sealed: Uint8Array.of(2) };
      // The first one is on its way alone, so that the two behind it share a head.
      const first = store.members.add("r", { endpoint: "first" });
      await slow.reached;
      const early = store.members.add("r", { endpoint: "early", sealedKey }, { timeoutMs: 1500 }).then(() => "ok", (error: unknown) => error);
      const late = store.members.add("r", { endpoint: "late", sealedKey });
      slow.release();
      // The first one's head is the next write; the one after it is of what the two put in place before theirs.
      slow.arm({ at: 2, how: "hold" });
      await slow.reached;
      const given = await early;
      slow.release();
      await Promise.all([first, late]);
      const isThere = (await store.members.list("r")).some(({ endpoint }) => endpoint === "early");
      if (!isStoreError(given)) throw new Error("it was to give up");
      expect({ isThere, outcome: given.outcome }).to.deep.equal({ isThere: true, outcome: "unknown" });
    } finally {
      await connection.close();
    }
  });
});
