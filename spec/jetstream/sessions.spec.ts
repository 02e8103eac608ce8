/** Sessions over a real server: what they send, and what they hear of buckets that others change. */
import { expect } from "chai";
import { once } from "node:events";
import { openJetStream, type Session, type SessionOptions, type Store } from "unibus-membership";
import type { Connection } from "../support/nats-clients.js";
import { useServer } from "../support/use-server.js";
import { pause } from "../support/wait.js";
import { isBarrier } from "./support/messages.js";
import { tapped } from "./support/taps.js";

/** Generous: what is tested is what is told, on a machine that does much else meanwhile. */
const opTimeoutMs = 20_000;
const LONG = { maxStalenessMs: 60_000 };

/** Longer than what a store takes for no interruption. */
const IDLE_MS = 1100;

describe("sessions on JetStream", function () {
  this.timeout(120_000);
  let raw: Connection;
  let other: Connection;
  useServer((first, second) => {
    [raw, other] = [first, second];
  });

  let prefixes = 0;

  /** Two stores on the same buckets. What the first one sends is counted. */
  async function stores() {
    const prefix = `sessions${prefixes++}_`;
    /** `barriers`: the newest one of each bucket. */
    const tap = { isSilent: false, sent: 0, leaderless: 0, barriers: new Map<string, string>() };
    const connection = tapped(raw, {
      request: (send, subject, payload, options) => {
        tap.sent++;
        if (isBarrier(subject)) tap.barriers.set(subject.slice(0, subject.indexOf(".proof.")), subject);
        // The servers say that nobody takes it.
        if (tap.leaderless > 0 && isBarrier(subject)) {
          tap.leaderless--;
          return send(`${prefix}nobody`, payload, options);
        }
        return tap.isSilent && isBarrier(subject) ? new Promise(() => undefined) : send(subject, payload, options);
      },
      requestMany: (...args) => {
        tap.sent++;
        return raw.requestMany(...args);
      },
    });
    const here = await openJetStream(connection, 1, { prefix, opTimeoutMs });
    const there = await openJetStream(other, 1, { prefix, opTimeoutMs });
    await here.users.addFirstAdmin({ key: "root" });
    await here.users.add({ key: "guest" });
    await here.rooms.create({ id: "room", owner: "owner" });
    await here.members.add("room", { endpoint: "guest", state: "joined" });
    return {
      tap,
      here,
      there,
      [Symbol.asyncDispose]: async (): Promise<void> => {
        tap.isSilent = false;
        await Promise.all([here.close(), there.close()]);
      },
    };
  }

  async function admitted(store: Store, key: string, options: SessionOptions = LONG): Promise<Session> {
    const session = await store.session(key, options);
    return session.allowed ? session : expect.fail(`${key} is denied: ${session.reason} ${String(session.error)}`);
  }

  /** Everything of before has been told when another one has begun. */
  const heard = async (store: Store): Promise<void> => {
    (await admitted(store, "root")).close();
  };

  const aborted = async ({ signal }: Session): Promise<void> => {
    if (!signal.aborted) await once(signal, "abort");
  };

  it("ends of itself when somebody else takes the grant away, or the membership", async () => {
    await using both = await stores();
    const { here, there } = both;
    const session = await admitted(here, "guest", { maxStalenessMs: 5000 });
    const ofRoom = await admitted(here, "root", {
      maxStalenessMs: 5000,
      memberOf: [{ roomId: "room", endpoint: "guest" }],
    });
    await there.users.revoke("guest");
    await there.members.remove("room", "guest");
    await Promise.all([aborted(session), aborted(ofRoom)]);
    expect([session.active, ofRoom.active]).to.deep.equal([false, false]);
  });

  it("ends of itself when the servers do not answer, while one that takes an older proof goes on", async () => {
    await using both = await stores();
    const { here, tap } = both;
    const session = await admitted(here, "guest", { maxStalenessMs: 300 });
    const patient = await admitted(here, "guest");
    tap.isSilent = true;
    await aborted(session);
    expect([session.active, patient.active]).to.deep.equal([false, true]);
    tap.isSilent = false;
    await heard(here);
    expect([session.active, patient.active]).to.deep.equal([false, true]);
  });

  it("goes on where a bucket had no leader for a moment, and hears what was taken away meanwhile", async () => {
    await using both = await stores();
    const { here, there, tap } = both;
    await here.users.add({ key: "other" });
    const memberOf = [{ roomId: "room", endpoint: "guest" }];
    const [session, other] = [await admitted(here, "guest", { ...LONG, memberOf }), await admitted(here, "other")];
    for (let i = 0; i < 5; i++) {
      tap.leaderless = 4;
      await heard(here);
      expect(tap.leaderless).to.equal(0);
      expect([session.active, other.active]).to.deep.equal([true, true]);
    }
    tap.leaderless = 4;
    await there.users.revoke("other");
    await heard(here);
    expect([session.active, other.active]).to.deep.equal([true, false]);
  });

  it("goes on where another store has its barriers' keys, and hears what was taken away meanwhile", async () => {
    await using both = await stores();
    const { here, there, tap } = both;
    await here.users.add({ key: "other" });
    const memberOf = [{ roomId: "room", endpoint: "guest" }];
    const session = await admitted(here, "guest", { ...LONG, memberOf });
    const ofOther = await admitted(here, "other");
    const ofRoom = await admitted(here, "root", { ...LONG, memberOf });
    /** As another store does that took the same keys. */
    const supersede = async (): Promise<void> => {
      for (const subject of tap.barriers.values()) {
        const k = subject.split(".").slice(2).join(".");
        await raw.request(subject, JSON.stringify({ k, s: "another" }), { timeout: opTimeoutMs });
      }
      await pause(IDLE_MS);
    };
    for (let i = 0; i < 3; i++) {
      await supersede();
      await heard(here);
      expect([session.active, ofOther.active, ofRoom.active]).to.deep.equal([true, true, true]);
    }
    await there.users.revoke("other");
    await there.users.reinstate("other");
    await supersede();
    await heard(here);
    expect([session.active, ofOther.active, ofRoom.active]).to.deep.equal([true, false, true]);
    await there.members.remove("room", "guest");
    await there.members.add("room", { endpoint: "guest", state: "joined" });
    await supersede();
    await heard(here);
    expect([session.active, ofRoom.active]).to.deep.equal([false, false]);
  });

  it("a proof is as many messages for thousands of sessions as for a few", async () => {
    await using both = await stores();
    const { here, tap } = both;
    const memberOf = [{ roomId: "room", endpoint: "guest" }];
    const proof = async (): Promise<number> => {
      const before = tap.sent;
      await heard(here);
      return tap.sent - before;
    };
    const first = await admitted(here, "guest", { ...LONG, memberOf });
    const few = await proof();
    const sessions: Session[] = [];
    for (let i = 0; i < 2000; i += 100)
      sessions.push(
        ...(await Promise.all(Array.from({ length: 100 }, () => admitted(here, "guest", { ...LONG, memberOf })))),
      );
    // Now and then a store looks at the settings of its buckets, with a message for each.
    expect((await proof()) - few).to.be.lessThan(30);
    await here.users.revoke("guest");
    await heard(here);
    expect([first, ...sessions].filter(({ active }) => active).length).to.equal(0);
  });

  it("what others change often between two proofs ends nobody's but who lost something", async () => {
    await using both = await stores();
    const { here, there } = both;
    for (const key of ["busy", "back"]) await here.users.add({ key });
    await here.members.add("room", { endpoint: "back", state: "joined" });
    const memberOf = (endpoint: string): SessionOptions => ({ ...LONG, memberOf: [{ roomId: "room", endpoint }] });
    const busy = await admitted(here, "busy", memberOf("guest"));
    const back = await admitted(here, "back");
    const inRoom = await admitted(here, "root", memberOf("back"));
    // More than a record tells of itself.
    for (let i = 0; i < 20; i++) {
      await there.users.update("busy", { name: String(i) });
      await there.rooms.update("room", { name: String(i) });
      await there.users.revoke("back");
      await there.users.reinstate("back");
      await there.members.remove("room", "back");
      await there.members.add("room", { endpoint: "back", state: "joined" });
    }
    await heard(here);
    expect([busy.active, back.active, inRoom.active]).to.deep.equal([true, false, false]);
    expect(busy.user.name).to.equal("19");
    for (let i = 0; i < 60; i++) {
      await there.members.add("room", { endpoint: `passes ${i}`, state: "joined" });
      await there.members.remove("room", `passes ${i}`);
    }
    await heard(here);
    expect(busy.active).to.equal(true);
    await there.members.remove("room", "guest");
    await heard(here);
    expect(busy.active).to.equal(false);
  });
});
