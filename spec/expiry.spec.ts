/** A user comes in up to the instant at which the time runs out, and not at it: by the clock, to the millisecond. */
import { expect } from "chai";
import { mock } from "node:test";
import { openSqlite, type Store } from "unibus-membership";
import { describeBackends } from "./support/backends.js";
import { foreign, throughFunctions } from "./support/foreign-store.js";

const EXPIRES = Date.UTC(2030, 0, 1);
const opTimeoutMs = 20_000;

describe("the instant of expiry", function () {
  this.timeout(60_000);
  afterEach(() => mock.timers.reset());

  function isTheFirstAtWhichNobodyComesIn(open: () => Promise<Store>): void {
    it("is the first at which nobody comes in", async () => {
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

  describeBackends((open) => {
    isTheFirstAtWhichNobodyComesIn(() => open({ opTimeoutMs }));
  });
  describe("a store of somebody else", () => {
    isTheFirstAtWhichNobodyComesIn(async () =>
      throughFunctions(foreign(await openSqlite(":memory:", { opTimeoutMs }))),
    );
  });
});
