/** Sessions over a feed that is held up, late or broken, and clocks that jump: what no real backend does on demand. */
import { expect } from "chai";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import type { Denial, Session, SessionOptions } from "unibus-membership";
import type { Call } from "../lib/call.js";
import type { ChangedGrants, GrantFeed, GrantsDriver, WantedGrants } from "../lib/driver.js";
import { StoreError } from "../lib/errors.js";
import { MembershipStore } from "../lib/membership-store.js";
import { Memory } from "../lib/memory/memory.js";
import { memoryDriver } from "../lib/memory/open.js";
import { SessionEnded } from "../lib/sessions/session-ended.js";
import { eventually, pause } from "./support/wait.js";

const LONG = { maxStalenessMs: 60_000 };
const HOUR_MS = 3_600_000;

/** What stands between the sessions and their feed. */
class Gate {
  readonly open = new Set<GrantFeed>();
  wanted: WantedGrants | undefined;
  /** When proofs were asked for. */
  readonly asked: number[] = [];
  beforeUser: ((call: Call) => Promise<void>) | undefined;
  onTake: ((take: () => Promise<ChangedGrants>, call: Call) => Promise<ChangedGrants>) | undefined;

  of(driver: GrantsDriver): GrantsDriver {
    return {
      follow: async (wanted, call) => {
        this.wanted = wanted;
        const feed = await driver.follow(wanted, call);
        const gated: GrantFeed = {
          user: async (key, own) => {
            await this.beforeUser?.(own);
            return feed.user(key, own);
          },
          member: (roomId, endpoint, own) => feed.member(roomId, endpoint, own),
          take: (own) => {
            this.asked.push(performance.now());
            const take = (): Promise<ChangedGrants> => feed.take(own);
            return this.onTake === undefined ? take() : this.onTake(take, own);
          },
          close: () => {
            this.open.delete(gated);
            feed.close();
          },
        };
        this.open.add(gated);
        return gated;
      },
    };
  }
}

/** Something that is waited for, until it is let go. */
function held(): { readonly until: Promise<void>; readonly letGo: () => void } {
  let letGo = (): void => undefined;
  const until = new Promise<void>((resolve) => {
    letGo = resolve;
  });
  return { until, letGo };
}

/** A backend that does not answer. */
const never = async (call: Call): Promise<never> => {
  while (call.ended === undefined) await pause(1);
  throw call.ended;
};

describe("a session", function () {
  this.timeout(120_000);
  let gate: Gate;
  let store: MembershipStore;
  const clocks = [
    { name: "wall", of: Date },
    { name: "monotonic", of: performance },
  ] as const;
  const clocksOfBefore = clocks.map(({ of }) => Object.getOwnPropertyDescriptor(of, "now"));

  async function begin(opTimeoutMs: number): Promise<void> {
    gate = new Gate();
    const driver = memoryDriver(new Memory());
    store = new MembershipStore({ ...driver, grants: gate.of(driver.grants) }, opTimeoutMs);
    const timeoutMs = 60_000;
    await store.users.addFirstAdmin({ key: "root" }, { timeoutMs });
    await store.users.add({ key: "guest" }, { timeoutMs });
  }

  beforeEach(() => begin(60_000));
  afterEach(async () => {
    for (const [i, { of }] of clocks.entries()) {
      const before = clocksOfBefore[i];
      if (before === undefined) Reflect.deleteProperty(of, "now");
      else Object.defineProperty(of, "now", before);
    }
    gate.onTake = gate.beforeUser = undefined;
    await store.close();
  });

  async function admitted(key: string, options: SessionOptions = LONG): Promise<Session> {
    const session = await store.session(key, options);
    return session.allowed ? session : expect.fail(`${key} is denied: ${session.reason}`);
  }

  /** Everything of before has been told when another one has begun. */
  const heard = async (): Promise<void> => {
    (await admitted("root")).close();
  };

  const reasonOf = ({ signal }: Session): Denial["reason"] => {
    const why: unknown = signal.reason;
    expect(why).to.be.instanceOf(SessionEnded);
    return (why as SessionEnded).denial.reason;
  };

  const over = (session: Session, reason: Denial["reason"]): void => {
    expect([session.active, session.signal.aborted]).to.deep.equal([false, true]);
    expect(reasonOf(session)).to.equal(reason);
  };

  const aborted = async ({ signal }: Session): Promise<void> => {
    if (!signal.aborted) await once(signal, "abort");
  };

  /** The clock says so much more, or less, than it did. */
  const jump = (clock: (typeof clocks)[number], ms: number): void => {
    const before = clock.of.now.bind(clock.of);
    clock.of.now = () => before() + ms;
  };

  for (const clock of clocks) {
    it(`of a process that was stopped is not active, before a signal could abort, by the ${clock.name} clock`, async () => {
      const session = await admitted("guest");
      expect(session.active).to.equal(true);
      jump(clock, HOUR_MS);
      expect([session.active, session.signal.aborted]).to.deep.equal([false, false]);
      // It has been said once.
      jump(clock, -HOUR_MS);
      expect(session.active).to.equal(false);
      await aborted(session);
      over(session, "timeout");
    });

    it(`that nobody has asked is over when a proof comes too late, by the ${clock.name} clock`, async () => {
      const session = await admitted("guest");
      jump(clock, HOUR_MS);
      await heard();
      over(session, "timeout");
    });

    it(`is not older by a ${clock.name} clock that goes back`, async () => {
      const session = await admitted("guest");
      jump(clock, -HOUR_MS);
      expect(session.active).to.equal(true);
      await heard();
      expect(session.active).to.equal(true);
    });
  }

  it("counts from when a proof was asked for, and not from when it came", async () => {
    const late = held();
    gate.onTake = async (take) => {
      const changes = await take();
      await late.until;
      return changes;
    };
    const opening = store.session("guest", { ...LONG, timeoutMs: 600_000 });
    await eventually("a proof is asked for", () => gate.asked.length > 0);
    jump(clocks[0], HOUR_MS);
    late.letGo();
    const session = await opening;
    expect(session.allowed && session.active).to.equal(false);
  });

  it("ends by itself when nothing is proved for so long, however it fails", async () => {
    const fails: readonly Gate["onTake"][] = [
      (_take, call) => never(call),
      () => Promise.reject(new Error("no backend")),
      () => Promise.reject(new StoreError("UNAVAILABLE", "no backend")),
    ];
    for (const take of fails) {
      const patient = await admitted("guest");
      const session = await admitted("guest", { maxStalenessMs: 200 });
      gate.onTake = take;
      await aborted(session);
      // A machine that stands still for so long has not asked.
      over(session, reasonOf(session) === "unavailable" ? "unavailable" : "timeout");
      expect(patient.active).to.equal(true);
      gate.onTake = undefined;
      await heard();
      expect(patient.active).to.equal(true);
      patient.close();
    }
  });

  it("ends at once where the store is another one, is closed, or is moved away", async () => {
    const gone: Gate["onTake"][] = [
      () => Promise.reject(new StoreError("INCOMPATIBLE", "another log")),
      () => Promise.reject(new StoreError("UNAVAILABLE", "is being moved", { details: { movingTo: "x", since: "" } })),
      () => Promise.resolve({ isOver: true, users: new Map(), members: new Map() }),
    ];
    for (const take of gone) {
      const session = await admitted("guest");
      gate.onTake = take;
      const another = await store.session("root", LONG);
      expect(another.allowed ? "allowed" : another.reason).to.equal("unavailable");
      over(session, "unavailable");
      gate.onTake = undefined;
    }
  });

  it("does not begin on what its feed told of before it had read", async () => {
    const root = await admitted("root");
    const [reads, takes] = [held(), held()];
    gate.beforeUser = () => reads.until;
    const opening = store.session("guest", LONG);
    await eventually("it is wanted", () => gate.wanted?.users.has("guest") === true);
    gate.beforeUser = undefined;
    await store.users.update("guest", { name: "still in" });
    gate.onTake = async (take) => {
      gate.onTake = undefined;
      const changes = await take();
      await takes.until;
      return changes;
    };
    const asked = gate.asked.length;
    const another = store.session("root", LONG);
    await eventually("a proof is under way", () => gate.asked.length > asked);
    await store.users.revoke("guest");
    reads.letGo();
    await pause(1);
    takes.letGo();
    const session = await opening;
    expect(session.allowed ? "allowed" : session.reason).to.equal("revoked");
    (await another)[Symbol.dispose]();
    expect(root.active).to.equal(true);
  });

  it("counts what was answered when nobody waited any more", async () => {
    await store.close();
    await begin(5);
    gate.onTake = async (take, call) => {
      gate.onTake = undefined;
      await store.users.revoke("guest", { timeoutMs: 60_000 });
      const changes = await take();
      while (call.ended === undefined) await pause(1);
      await pause(1);
      return changes;
    };
    const session = await store.session("guest", { ...LONG, timeoutMs: 60_000 });
    expect(session.allowed ? "allowed" : session.reason).to.equal("revoked");
  });

  it("of nobody who has heard in time is not kept", async () => {
    gate.beforeUser = never;
    const session = await store.session("guest", { ...LONG, timeoutMs: 20 });
    expect(session.allowed ? "allowed" : session.reason).to.equal("timeout");
    await eventually("nothing is followed", () => gate.open.size === 0);
    expect([...(gate.wanted?.users.keys() ?? [])]).to.deep.equal([]);
  });

  it("is over before any signal aborts that ends with it", async () => {
    const sessions = [await admitted("guest"), await admitted("guest"), await admitted("guest")];
    const seen: boolean[] = [];
    for (const { signal } of sessions)
      signal.addEventListener("abort", () => seen.push(...sessions.map(({ active }) => active)));
    await store.users.revoke("guest");
    await heard();
    expect(seen).to.deep.equal(Array.from({ length: 9 }, () => false));
  });

  it("ends at the first proof after its time is over, and not where more was given before", async () => {
    const SOON_MS = 30_000;
    const expiresAt = new Date(Date.now() + SOON_MS);
    for (const key of ["soon", "later"]) await store.users.add({ key, expiresAt });
    const [soon, later] = [await admitted("soon"), await admitted("later")];
    await store.users.update("later", { expiresAt: new Date(Date.now() + HOUR_MS) });
    await heard();
    expect([soon.active, later.active]).to.deep.equal([true, true]);
    jump(clocks[0], SOON_MS);
    await heard();
    over(soon, "expired");
    expect(later.active).to.equal(true);
  });

  it("costs no proof of its own, and no more than four in the time that it may go without one", async () => {
    const sessions: Session[] = [];
    const { length: asked } = gate.asked;
    const all = await Promise.all(Array.from({ length: 2000 }, () => store.session("guest", LONG)));
    for (const session of all) if (session.allowed) sessions.push(session);
    expect(sessions.length).to.equal(2000);
    expect(gate.asked.length - asked, "proofs for those who came at once").to.be.lessThan(10);
    expect(gate.open.size).to.equal(1);
    const STALENESS_MS = 400;
    let times: number[] = [];
    for (let isUnbroken = false; !isUnbroken;) {
      const short = await admitted("guest", { maxStalenessMs: STALENESS_MS });
      const from = gate.asked.length;
      // Where the machine stands still for so long, it has ended.
      await eventually("some are asked for", () => !short.active || gate.asked.length > from + 12);
      isUnbroken = short.active;
      times = gate.asked.slice(from);
      sessions.push(short);
    }
    for (const [i, time] of times.slice(4).entries())
      // A timer can be a millisecond early.
      expect(time - (times[i] ?? 0)).to.be.greaterThan(STALENESS_MS - 8);
    for (const session of sessions) session.close();
    await eventually("nothing is followed", () => gate.open.size === 0);
    const { length: last } = gate.asked;
    await pause(2 * STALENESS_MS);
    expect(gate.asked.length).to.equal(last);
  });

  it("that waits to begin keeps no timer busy while nothing is proved", async () => {
    const patient = await admitted("guest");
    const reads = held();
    gate.beforeUser = () => reads.until;
    const opening = store.session("root", { maxStalenessMs: 100, timeoutMs: 600_000 });
    const from = gate.asked.length;
    await eventually("proofs are asked for as it needs them", () => gate.asked.length > from + 2);
    gate.onTake = (_take, call) => never(call);
    // Until the last proof is too old for it.
    await pause(200);
    let looks = 0;
    const { now } = Date;
    Date.now = () => {
      looks++;
      return now();
    };
    await pause(500);
    Date.now = now;
    gate.onTake = undefined;
    reads.letGo();
    (await opening)[Symbol.dispose]();
    expect(patient.active).to.equal(true);
    expect(looks).to.be.lessThan(100);
  });

  it("keeps no process alive, closed or not", async () => {
    const script = `
      import { openMemory } from "unibus-membership/testing";
      const store = await openMemory();
      await store.users.addFirstAdmin({ key: "root" });
      const session = await store.session("root", { maxStalenessMs: 60_000 });
      if (!session.active) throw new Error("not active");
      if (process.argv[1] === "closed") await store.close();
    `;
    for (const how of ["closed", "open"]) {
      const child = spawn(process.execPath, ["--input-type=module", "-e", script, how], {
        cwd: fileURLToPath(new URL("..", import.meta.url)),
        stdio: "inherit",
      });
      expect((await once(child, "exit"))[0], how).to.equal(0);
    }
  });
});
