/** A user comes in up to the instant at which the time runs out, and not at it: by the clock, to the millisecond. */
import { expect } from "chai";
import { mock } from "node:test";
import { openJetStream, openSqlite, type Store } from "unibus-membership";
import { startNatsServer, type NatsServer } from "unibus-membership/testing";
import { foreign, throughFunctions } from "./support/foreign-store.js";
import { natsClients, type Connection } from "./support/nats-clients.js";

const EXPIRES = Date.UTC(2030, 0, 1);
const opTimeoutMs = 20_000;

describe("the instant of expiry", function () {
  this.timeout(60_000);
  let server: NatsServer;
  let connection: Connection;
  before(async () => {
    server = await startNatsServer();
    const [client] = natsClients;
    if (client === undefined) throw new Error("no client");
    connection = await client.connect(server.url);
  });
  after(async () => {
    await connection.close();
    await server.dispose();
  });
  afterEach(() => mock.timers.reset());

  const stores: readonly (readonly [string, () => Promise<Store>])[] = [
    ["sqlite", () => openSqlite(":memory:", { opTimeoutMs })],
    ["jetstream", () => openJetStream(connection, 1, { opTimeoutMs })],
    ["a store of somebody else", async () => throughFunctions(foreign(await openSqlite(":memory:", { opTimeoutMs })))],
  ];
  for (const [name, open] of stores) {
    it(`is the first at which nobody comes in: ${name}`, async () => {
      await using store = await open();
      const expiresAt = new Date(EXPIRES);
      await store.users.add({ key: "admin", role: "admin", expiresAt });
      await store.users.add({ key: "user", expiresAt });
      for (const [now, allowed] of [
        [EXPIRES - 1, true],
        [EXPIRES, false],
        [EXPIRES + 1, false],
      ] as const) {
        // The clock alone stands still: what a call waits for goes on.
        mock.timers.enable({ apis: ["Date"], now });
        const answers = [
          await store.isAuthorized("user"),
          await store.isAuthorized("admin"),
          await store.isAdmin("admin"),
          await store.hasAdmin(),
          (await store.authorize("user")).allowed,
        ];
        mock.timers.reset();
        expect(answers, `${String(now - EXPIRES)} ms after`).to.deep.equal(answers.map(() => allowed));
      }
    });
  }
});
