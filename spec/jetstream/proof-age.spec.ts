import { expect } from "chai";
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import {
  hasAdmin,
  isAdmin,
  isAuthorized,
  isMember,
  openJetStream,
  type DecisionMessage,
  type JetStreamOptions,
  type Store,
} from "unibus-membership";
import { codeOf } from "../support/code-of.js";
import type { Connection } from "../support/nats-clients.js";
import { useServer } from "../support/use-server.js";
import { eventually, pause } from "../support/wait.js";
import { isBarrier } from "./support/messages.js";
import { tapped, type Request } from "./support/taps.js";

/** Generous: what is tested is what is answered, on a machine that does much else meanwhile. */
const opTimeoutMs = 20_000;
/** Longer than any of these cases takes. */
const LONG_MS = 60_000;
const SHORT_MS = 50;

// A check may be answered from memory while its proof is young enough: promise 17.
describe("checks that may rest on a proof of before", function () {
  this.timeout(60_000);
  let raw: Connection;
  let other: Connection;
  useServer((first, second) => {
    [raw, other] = [first, second];
  });

  let prefixes = 0;

  /** Two stores on the same buckets. All that the first one sends is counted. */
  async function stores(options: JetStreamOptions = {}) {
    const prefix = `ages${prefixes++}_`;
    const tap: { barrier: ((send: () => ReturnType<Request>) => ReturnType<Request>) | undefined; sent: number } = {
      barrier: undefined,
      sent: 0,
    };
    const connection = tapped(raw, {
      request: (ask, subject, payload, given) => {
        tap.sent++;
        const send = (): ReturnType<Request> => ask(subject, payload, given);
        return tap.barrier !== undefined && isBarrier(subject) ? tap.barrier(send) : send();
      },
      requestMany: (...args) => {
        tap.sent++;
        return raw.requestMany(...args);
      },
    });
    const here = await openJetStream(connection, 1, { prefix, opTimeoutMs, ...options });
    const there = await openJetStream(other, 1, { prefix, opTimeoutMs });
    await here.users.addFirstAdmin({ key: "root" });
    await here.users.add({ key: "guest" });
    await here.rooms.create({ id: "room", owner: "owner" });
    const sentBy = async (run: () => Promise<unknown>): Promise<number> => {
      const before = tap.sent;
      await run();
      return tap.sent - before;
    };
    /** Asks until the answer comes from memory. */
    const warm = (check: () => Promise<boolean>): Promise<void> =>
      eventually("a check sends nothing", async () => {
        const sent = await sentBy(async () => {
          expect(await check()).to.equal(true);
        });
        return sent === 0;
      });
    return {
      tap,
      here,
      there,
      sentBy,
      warm,
      [Symbol.asyncDispose]: async (): Promise<void> => {
        await Promise.all([here.close(), there.close()]);
      },
    };
  }

  const checks: readonly (readonly [
    name: string,
    check: (store: Store, maxStalenessMs?: number) => Promise<boolean>,
  ])[] = [
    ["isAuthorized", (store, ms) => isAuthorized(store, "guest", given(ms))],
    ["isAdmin", (store, ms) => isAdmin(store, "root", given(ms))],
    ["isMember", (store, ms) => isMember(store, "room", "owner", given(ms))],
    ["hasAdmin", (store, ms) => hasAdmin(store, given(ms))],
  ];

  for (const [name, check] of checks) {
    it(`${name} sends nothing while the proof is young enough, and proves by default`, async () => {
      await using all = await stores();
      const { here, sentBy, warm } = all;
      await warm(() => check(here, LONG_MS));
      for (const ms of [undefined, 0]) expect(await sentBy(() => check(here, ms))).to.be.greaterThan(0);
      expect(await sentBy(() => check(here, LONG_MS))).to.equal(0);
      // The proof of before is older by now than a millisecond.
      await pause(20);
      expect(await sentBy(() => check(here, 1))).to.be.greaterThan(0);
    });
  }

  it("a store has a default of its own, which a call can tighten", async () => {
    await using all = await stores({ maxStalenessMs: LONG_MS });
    const { here, sentBy, warm } = all;
    await warm(() => isAuthorized(here, "guest"));
    expect(await sentBy(() => isAuthorized(here, "guest", { maxStalenessMs: 0 }))).to.be.greaterThan(0);
  });

  it("who was revoked elsewhere is denied when the time is over that was asked for, each time", async () => {
    await using all = await stores();
    const { here, there, warm } = all;
    const check = (): Promise<boolean> => isAuthorized(here, "guest", { maxStalenessMs: SHORT_MS });
    for (let round = 0; round < 10; round++) {
      await warm(check);
      await there.users.revoke("guest");
      const revoked = performance.now();
      for (let answer = true; answer;) {
        const began = performance.now();
        answer = await check();
        if (answer)
          expect(began - revoked, "ms after the revocation a check began that was allowed").to.be.lessThan(SHORT_MS);
        // Turns of the event loop, so that answers of servers come in between.
        await new Promise((resolve) => setImmediate(resolve));
      }
      await there.users.reinstate("guest");
      await eventually("the user may come in again", check);
    }
  });

  it("a store sees at once what it did itself", async () => {
    await using all = await stores({ maxStalenessMs: LONG_MS });
    const { here, warm } = all;
    await warm(() => isAuthorized(here, "guest"));
    await warm(() => isMember(here, "room", "owner"));
    await here.users.revoke("guest");
    expect(await isAuthorized(here, "guest")).to.equal(false);
    await here.rooms.delete("room");
    expect(await isMember(here, "room", "owner")).to.equal(false);
  });

  it("also where another store's change stands before it, which it has not read", async () => {
    await using all = await stores({ maxStalenessMs: LONG_MS });
    const { here, there, warm } = all;
    await warm(() => isAuthorized(here, "guest"));
    await there.users.add({ key: "somebody" });
    await here.users.revoke("guest");
    expect(await isAuthorized(here, "guest")).to.equal(false);
  });

  it("the time counts from when the proof was sent for, and not from when it came", async () => {
    await using all = await stores();
    const { here, tap, sentBy, warm } = all;
    const check = (maxStalenessMs: number): Promise<boolean> => isAuthorized(here, "guest", { maxStalenessMs });
    await warm(() => check(LONG_MS));
    const LATE_MS = 400;
    tap.barrier = async (send) => {
      const answer = await send();
      await pause(LATE_MS);
      return answer;
    };
    expect(await check(0)).to.equal(true);
    tap.barrier = undefined;
    // A late machine makes it only older.
    expect(await sentBy(() => check(LATE_MS))).to.be.greaterThan(0);
  });

  it("what is told of a check rests on a proof from when it was sent, and a denial for want of one on nothing", async () => {
    await using all = await stores();
    const { here, tap, warm } = all;
    const told: DecisionMessage[] = [];
    const listener = (message: unknown): void => void told.push(message as DecisionMessage);
    subscribe("unibus-membership:decision", listener);
    try {
      const check = (maxStalenessMs: number, timeoutMs = opTimeoutMs): Promise<boolean> =>
        isAuthorized(here, "guest", { maxStalenessMs, timeoutMs });
      await warm(() => check(LONG_MS));
      let sent = 0;
      tap.barrier = async (send) => {
        sent = Date.now();
        const answer = await send();
        await pause(SHORT_MS);
        return answer;
      };
      for (const ms of [0, LONG_MS]) {
        const before = Date.now();
        expect(await check(ms)).to.equal(true);
        const { proof } = told.at(-1) ?? {};
        expect(proof?.provedAt.getTime(), "not later than the barrier").to.be.at.most(sent);
        if (ms === 0) expect(proof?.provedAt.getTime(), "not before the check").to.be.at.least(before);
        // Clocks are read in whole milliseconds, and in parts of them.
        expect(proof?.staleMs, "since then").to.be.at.least(SHORT_MS - 2);
      }
      tap.barrier = () => new Promise(() => undefined);
      expect(await check(SHORT_MS, 200)).to.equal(false);
      const { reason, proof } = told.at(-1) ?? {};
      expect([reason, proof]).to.deep.equal(["timeout", undefined]);
    } finally {
      unsubscribe("unibus-membership:decision", listener);
    }
  });

  it("a wall clock that goes on adds to the age, and one that goes back takes nothing away", async () => {
    await using all = await stores();
    const { here, sentBy, warm } = all;
    const check = (): Promise<boolean> => isAuthorized(here, "guest", { maxStalenessMs: 30_000 });
    await warm(check);
    const { now } = Date;
    try {
      // As after a sleep of the machine, in which the other clock stands still.
      Date.now = () => now() + 3_600_000;
      expect(await sentBy(check)).to.be.greaterThan(0);
      await warm(check);
      Date.now = () => now() - 3_600_000;
      expect(await sentBy(check)).to.equal(0);
      await pause(20);
      expect(await sentBy(() => isAuthorized(here, "guest", { maxStalenessMs: 1 }))).to.be.greaterThan(0);
    } finally {
      Date.now = now;
    }
  });

  it("a clock that tells no time makes no proof young", async () => {
    await using all = await stores();
    const { here, there, warm } = all;
    const check = (): Promise<boolean> => isAuthorized(here, "guest", { maxStalenessMs: LONG_MS });
    await warm(check);
    await there.users.revoke("guest");
    const { now } = Date;
    let answer: Promise<boolean>;
    try {
      Date.now = () => NaN;
      answer = check();
    } finally {
      Date.now = now;
    }
    expect(await answer).to.equal(false);
  });

  it("where the backend is gone the answer is there for so long, and then a denial, within its time", async () => {
    await using all = await stores();
    const { here, tap, warm } = all;
    const ask = (maxStalenessMs: number): Promise<boolean> =>
      isAuthorized(here, "guest", { maxStalenessMs, timeoutMs: 200 });
    await warm(() => ask(LONG_MS));
    tap.barrier = () => new Promise(() => undefined);
    expect(await ask(LONG_MS)).to.equal(true);
    await pause(SHORT_MS);
    expect(await ask(SHORT_MS)).to.equal(false);
  });

  it("nobody who is unknown, expired or named wrongly is let in, nor after the store is closed", async () => {
    const all = await stores({ maxStalenessMs: LONG_MS });
    const { here, warm } = all;
    await here.users.add({ key: "soon", expiresAt: new Date(Date.now() + 1000) });
    await eventually("the time is over", async () => !(await isAuthorized(here, "soon")));
    expect(await isAuthorized(here, "nobody")).to.equal(false);
    expect(await isAuthorized(here, "two words")).to.equal(false);
    expect(await isMember(here, "room", "")).to.equal(false);
    await warm(() => isAuthorized(here, "guest"));
    await all[Symbol.asyncDispose]();
    expect(await isAuthorized(here, "guest")).to.equal(false);
  });

  it("refuses what is no time: a denial of a check, INVALID_ARGUMENT of an opening", async () => {
    await using all = await stores();
    const { here, warm } = all;
    await warm(() => isAuthorized(here, "guest", { maxStalenessMs: LONG_MS }));
    for (const maxStalenessMs of [-1, 0.5, 60_001, NaN, "5", null]) {
      const options = { maxStalenessMs: maxStalenessMs as number };
      expect(await isAuthorized(here, "guest", options)).to.equal(false);
      expect(await here.isAuthorized("guest", options)).to.equal(false);
      expect((await here.authorize("guest", options)).reason).to.equal("malformed");
      expect(await openJetStream(other, 1, options).then(() => "opened", codeOf)).to.equal("INVALID_ARGUMENT");
    }
  });
});

function given(maxStalenessMs: number | undefined): { maxStalenessMs?: number } {
  return maxStalenessMs === undefined ? {} : { maxStalenessMs };
}
