// What the contract says of migrations, tried between two backends. The states in between are made by the steps of the
// drivers.

import { expect } from "chai";
import { isConflict, isIncompatible, isUnavailable, type Store } from "unibus-membership";
import { recordsOf } from "../../lib/membership-store.js";
import type { RecordsAccess } from "../../lib/membership-store.js";
import type { MoveReport } from "../../lib/moves.js";
import type { Call } from "../../lib/call.js";
import type { ChangeFeed, Wanted } from "../../lib/driver.js";
import { endMigration } from "../../lib/transfer/end-migration.js";
import { exportStore } from "../../lib/transfer/export.js";
import { migrate, type MigrationReport } from "../../lib/transfer/migrate.js";
import { errorOf } from "./code-of.js";
import { digestOf, fill } from "./export-cases.js";
import { Watching, Writers, bothOf, type Asked, type Stores } from "./migrate-load.js";
import { signal } from "./wait.js";

async function linesOf(store: Store): Promise<string[]> {
  const lines: string[] = [];
  for await (const line of exportStore(store)) lines.push(line);
  return lines;
}

export const contentDigest = async (store: Store): Promise<string> => digestOf(await linesOf(store));

/** Who is asked for. */
async function fillFew(store: Store): Promise<void> {
  await store.users.addFirstAdmin({ key: "root" });
  await store.users.add({ key: "revoked" });
  await store.users.revoke("revoked");
  await store.rooms.create({ id: "sealed", owner: "late", encrypted: true, sealedKey: new Uint8Array([1]) });
}

/** Whom the store lets in. */
const admits = (store: Store): Promise<boolean[]> =>
  Promise.all([store.isAuthorized("root"), store.isAdmin("root"), store.hasAdmin(), store.isMember("sealed", "late")]);
const NOBODY = [false, false, false, false];
const EVERYBODY = [true, true, true, true];

async function expectOnly(allowed: Store, other: Store): Promise<void> {
  expect(await admits(allowed)).to.deep.equal(EVERYBODY);
  expect(await admits(other)).to.deep.equal(NOBODY);
}

function accessOf(store: Store): RecordsAccess {
  const access = recordsOf(store);
  if (access === undefined) throw new Error("not a store of this package");
  return access;
}

/** One step of its driver. */
export const stepOf = <T>(store: Store, work: (access: RecordsAccess, call: Call) => Promise<T>): Promise<T> => {
  const access = accessOf(store);
  return access.step({ timeoutMs: undefined, signal: undefined }, (call) => work(access, call));
};

const STATES = ["importing", "fenced", "complete", "leaving", "arrived", "moved"] as const;
type Reached = (typeof STATES)[number];

/** Brings both sides to a state in which a process may have died. */
async function reach(state: Reached, { from, to }: Stores): Promise<void> {
  const until = (other: Reached): boolean => STATES.indexOf(state) >= STATES.indexOf(other);
  const source = await stepOf(from, ({ moving }, call) => moving.identity(call));
  const target = await stepOf(to, ({ moving }, call) => moving.identity(call));
  const id = "the run that died";
  const since = Date.now();
  const { revisionFloor, adminEver } = await stepOf(from, ({ moving }, call) => moving.facts(call));
  const writer = await stepOf(to, ({ records }, call) =>
    records.write(Math.max(revisionFloor, Date.now()), { id, peer: source, since }, call),
  );
  const reader = await stepOf(from, ({ records }, call) => records.read(call));
  for (let some = 0; ; some++) {
    const page = await stepOf(from, (_, call) => reader.next(call));
    if (page === undefined || (some > 0 && state === "importing")) break;
    await stepOf(to, (_, call) => writer.write(page, call));
  }
  await reader.close();
  if (until("fenced")) await stepOf(from, ({ moving }, call) => moving.fence({ id, peer: target, since }, call));
  if (until("complete")) {
    await stepOf(to, (_, call) => writer.seal(call));
    const report: MoveReport = { counts: { users: 2, rooms: 1, members: 1, roomKeys: 1 }, digest: "it" };
    await stepOf(to, (_, call) => writer.complete(report, adminEver, call));
    if (until("leaving")) await stepOf(from, ({ moving }, call) => moving.step("leave", id, report, call));
    if (until("arrived")) await stepOf(to, ({ moving }, call) => moving.step("arrive", id, undefined, call));
    if (until("moved")) await stepOf(from, ({ moving }, call) => moving.step("end", id, undefined, call));
  }
  writer.release();
}

type Case = (stores: Stores) => Promise<void>;

/** What each user, and each room, has. */
export async function revisionsOf(store: Store): Promise<string[]> {
  const users = (await store.users.list()).items.map((user) => `user ${user.key} ${user.revision}`);
  const rooms = (await store.rooms.list()).items.map((room) => `room ${room.id} ${room.revision}`);
  return [...users, ...rooms];
}

/** Moves a store that was filled while it is used. `prefix`: of what is written meanwhile. `others` are asked too. */
export async function movesUnderLoad({ from, to }: Stores, prefix = "", others: readonly Asked[] = []): Promise<void> {
  const watching = new Watching([...bothOf({ from, to }), ...others]);
  const writers = new Writers(from, { prefix });
  const report = await migrate(from, to, { cutOver: true });
  await Promise.all([writers.end(), watching.end()]);
  expect(watching.yes.from).to.be.greaterThan(0);
  expect(writers.acknowledged.length).to.be.greaterThan(0);
  for (const error of writers.refusals) {
    expect(isUnavailable(error) || isIncompatible(error), error.message).to.equal(true);
    if (isUnavailable(error)) expect(error.details).to.have.keys("movingTo", "since");
  }
  await Promise.all(writers.acknowledged.map((check) => check(to)));
  await expectOnly(to, from);
  expect(await contentDigest(to)).to.equal(report.digest);
}

export const pairCases: Readonly<Record<string, Case>> = {
  "everything is there as it was, and the source is at its end": async ({ from, to }) => {
    await fill(from);
    const digest = await contentDigest(from);
    const before = new Set(await revisionsOf(from));
    const phases = new Set<string>();
    const onProgress = ({ phase }: { phase: string }): void => void phases.add(phase);
    const report = await migrate(from, to, { cutOver: true, onProgress });
    expect(report).to.include({ digest });
    expect(report.counts).to.deep.equal({ users: 6, rooms: 5, members: 15, roomKeys: 24 });
    expect([...phases]).to.deep.equal(["clear", "copy", "verify", "compare", "follow", "cut over"]);
    await expectOnly(to, from);
    expect(await contentDigest(to)).to.equal(digest);
    expect((await revisionsOf(to)).filter((revision) => before.has(revision))).to.deep.equal([]);
    const error = await errorOf(from.users.add({ key: "late" }));
    expect(error.code).to.equal("INCOMPATIBLE");
    expect(error.details?.["movedTo"]).to.be.a("string");
    // Who was revoked, and that there was an admin, is known there too.
    expect((await errorOf(to.users.addFirstAdmin({ key: "other" }))).code).to.equal("CONFLICT");
    await to.users.add({ key: "new" });
    expect((await migrate(from, to, { cutOver: true })).digest).to.equal(digest);
  },

  "nothing that was acknowledged is lost, and at no instant do both allow": async (stores) => {
    await fill(stores.from);
    await movesUnderLoad(stores);
  },

  "what is written just before the fence goes over, or is refused": async ({ from, to }) => {
    await fill(from);
    let late: Promise<boolean> | undefined;
    const onProgress = ({ phase }: { phase: string }): void => {
      if (phase !== "cut over") return;
      late ??= from.users.add({ key: "just-before" }).then(
        () => true,
        () => false,
      );
    };
    await migrate(from, to, { cutOver: true, onProgress });
    expect(await to.isAuthorized("just-before")).to.equal(await late);
  },

  "without cutOver the source goes on, and the target stays closed": async ({ from, to }) => {
    await fill(from);
    const digest = await contentDigest(from);
    expect(await migrate(from, to)).to.include({ digest, fencedMs: 0 });
    await expectOnly(from, to);
    const onProgress = ({ phase }: { phase: string }): void => {
      if (phase === "verify") void from.users.add({ key: "meanwhile" }).catch(() => undefined);
    };
    expect(isConflict(await errorOf(migrate(from, to, { onProgress })))).to.equal(true);
    await expectOnly(from, to);
    expect((await errorOf(to.users.add({ key: "other" }))).code).to.equal("UNAVAILABLE");
    await migrate(from, to, { cutOver: true });
    await expectOnly(to, from);
    expect(await to.isAuthorized("meanwhile")).to.equal(true);
  },

  "a target that holds anything is left as it was": async ({ from, to }) => {
    await fill(from);
    await to.users.add({ key: "its-own" });
    expect(isConflict(await errorOf(migrate(from, to, { cutOver: true })))).to.equal(true);
    expect(await to.isAuthorized("its-own")).to.equal(true);
    expect(await admits(from)).to.deep.equal(EVERYBODY);
  },

  "a run that its signal ends leaves the source open, and the next one ends the same": async ({ from, to }) => {
    await fill(from);
    for (const at of ["clear", "copy", "verify", "compare", "follow", "cut over"]) {
      const controller = new AbortController();
      const onProgress = ({ phase }: { phase: string }): void => {
        if (phase === at) controller.abort();
      };
      const ended = errorOf(migrate(from, to, { cutOver: true, signal: controller.signal, onProgress }));
      expect((await ended).code, at).to.equal("TIMEOUT");
      expect(await admits(to), at).to.deep.equal(NOBODY);
      expect(await admits(from), at).to.deep.equal(EVERYBODY);
    }
    const { digest } = await migrate(from, to, { cutOver: true });
    expect(await contentDigest(to)).to.equal(digest);
    await expectOnly(to, from);
  },

  "of two that run one wins, and the other is a conflict": async ({ from, to }) => {
    await fill(from);
    const both = await Promise.allSettled([migrate(from, to, { cutOver: true }), migrate(from, to, { cutOver: true })]);
    for (const each of both)
      if (each.status === "rejected") expect(isConflict(each.reason), String(each.reason)).to.equal(true);
    expect(both.some(({ status }) => status === "fulfilled")).to.equal(true);
    await expectOnly(to, from);
  },
};

/** Waits before each call of a step of a driver, and after it. */
function held<K extends string>(
  on: Readonly<Record<K, (...asked: never[]) => Promise<unknown>>>,
  name: K,
  before: (times: number) => Promise<unknown> | undefined,
  after: (times: number) => Promise<unknown> | undefined = () => undefined,
): void {
  const step = on[name].bind(on) as (...asked: unknown[]) => Promise<unknown>;
  let begun = 0;
  Object.assign(on, {
    [name]: async (...asked: unknown[]) => {
      const times = ++begun;
      await before(times);
      const found = await step(...asked);
      await after(times);
      return found;
    },
  });
}

/** Two runs, of which one stands still while the other one goes on. They are the same store's steps on each side. */
class Rivals {
  readonly #stores: Stores;
  readonly #runs: Promise<MigrationReport>[] = [];
  /** The second is about to close the target. */
  readonly secondIsThere = signal();
  readonly secondGoesOn = signal();
  second: Promise<void> | undefined;

  constructor(stores: Stores) {
    this.#stores = stores;
    held(accessOf(stores.to).records, "write", (times) => {
      if (times !== 2) return undefined;
      this.secondIsThere.now();
      return this.secondGoesOn.happened;
    });
  }

  /** Resolves when it is over. */
  async run(): Promise<void> {
    const { from, to } = this.#stores;
    const run = migrate(from, to, { cutOver: true });
    this.#runs.push(run);
    await run.catch(() => undefined);
  }

  /** It comes as far as the target. */
  beginSecond(): Promise<void> {
    this.second = this.run();
    return this.secondIsThere.happened;
  }

  async expectOneWins(): Promise<void> {
    const { from, to } = this.#stores;
    const both = await Promise.allSettled(this.#runs);
    expect(both).to.have.length(2);
    const lost = both.flatMap((each): unknown[] => (each.status === "rejected" ? [each.reason] : []));
    for (const error of lost) expect(isConflict(error), String(error)).to.equal(true);
    expect(lost.length, lost.join()).to.be.lessThan(2);
    await expectOnly(to, from);
  }
}

export const rivalCases: Readonly<Record<string, Case>> = {
  "a run whose fence is lifted just before it says that everything is there, and who has lifted it: one wins": async (
    stores,
  ) => {
    await fill(stores.from);
    const rivals = new Rivals(stores);
    held(
      accessOf(stores.from).moving,
      "fence",
      () => undefined,
      (times) => {
        if (times !== 1) return undefined;
        return rivals.beginSecond();
      },
    );
    await rivals.run();
    rivals.secondGoesOn.now();
    await rivals.second;
    await rivals.expectOneWins();
  },

  "a run that takes the target over while the fence of the other one stands: one wins": async (stores) => {
    await fill(stores.from);
    const rivals = new Rivals(stores);
    held(
      accessOf(stores.from).moving,
      "fence",
      (times) => {
        if (times !== 1) return undefined;
        return rivals.beginSecond();
      },
      (times) => {
        if (times !== 1) return undefined;
        rivals.secondGoesOn.now();
        return rivals.second;
      },
    );
    await rivals.run();
    await rivals.expectOneWins();
  },
};

/** What each way out does with each state. `"allows"`: which side is the store then. */
const WAYS: readonly {
  readonly name: string;
  readonly take: (stores: Stores) => Promise<unknown>;
  readonly ends: Readonly<Record<Reached, "from" | "to" | "CONFLICT">>;
}[] = [
  {
    name: "run again",
    take: ({ from, to }) => migrate(from, to, { cutOver: true }),
    ends: { importing: "to", fenced: "to", complete: "to", leaving: "to", arrived: "to", moved: "to" },
  },
  {
    name: "ended for the source",
    take: ({ from, to }) => endMigration(from, { keep: "source", other: to }),
    ends: {
      importing: "from",
      fenced: "from",
      complete: "from",
      leaving: "CONFLICT",
      arrived: "CONFLICT",
      moved: "CONFLICT",
    },
  },
  {
    name: "ended for the target",
    take: ({ from, to }) => endMigration(to, { keep: "target", other: from }),
    ends: { importing: "CONFLICT", fenced: "CONFLICT", complete: "to", leaving: "to", arrived: "to", moved: "to" },
  },
];

export const stateCases: Readonly<Record<string, Case>> = Object.fromEntries(
  STATES.flatMap((state) =>
    WAYS.map(({ name, take, ends }): [string, Case] => [
      `a migration that died when it was ${state}, ${name}`,
      async ({ from, to }) => {
        await fillFew(from);
        const digest = await contentDigest(from);
        await reach(state, { from, to });
        const allowed = {
          importing: from,
          fenced: undefined,
          complete: undefined,
          leaving: undefined,
          arrived: to,
          moved: to,
        }[state];
        expect(await admits(from)).to.deep.equal(allowed === from ? EVERYBODY : NOBODY);
        expect(await admits(to)).to.deep.equal(allowed === to ? EVERYBODY : NOBODY);
        const end = ends[state];
        if (end === "CONFLICT") {
          expect(isConflict(await errorOf(take({ from, to })))).to.equal(true);
          // Nothing has changed: the other ways are there still.
          await (state === "importing" || state === "fenced"
            ? endMigration(from, { keep: "source", other: to })
            : migrate(from, to, { cutOver: true }));
          return;
        }
        await take({ from, to });
        const [store, other] = end === "from" ? [from, to] : [to, from];
        await expectOnly(store, other);
        expect(await contentDigest(store)).to.equal(digest);
        if (end === "to") return;
        await other.users.add({ key: "first-of-an-empty-store" });
        expect((await other.users.list()).items).to.have.length(1);
      },
    ]),
  ),
);

const NO_REPORT: MoveReport = { counts: { users: 0, rooms: 0, members: 0, roomKeys: 0 }, digest: "" };

export const oneSideCases: Readonly<Record<string, Case>> = {
  "of two steps at once one is done: a fence, and the end of a source or of its fence": async ({ from, to }) => {
    await fillFew(from);
    const peer = await stepOf(to, ({ moving }, call) => moving.identity(call));
    const fence = (id: string): Promise<void> =>
      stepOf(from, ({ moving }, call) => moving.fence({ id, peer, since: 0 }, call));
    const step = (name: "leave" | "lift"): Promise<void> =>
      stepOf(from, ({ moving }, call) => moving.step(name, "one", NO_REPORT, call));
    const fences = await Promise.allSettled([fence("one"), fence("other")]);
    expect(fences.map(({ status }) => status).sort()).to.deep.equal(["fulfilled", "rejected"]);
    const { run } = await stepOf(from, ({ moving }, call) => moving.state(call));
    if (run?.id !== "one") return;
    const [left, lifted] = await Promise.allSettled([step("leave"), step("lift")]);
    expect([left.status, lifted.status].sort()).to.deep.equal(["fulfilled", "rejected"]);
    expect(await admits(from)).to.deep.equal(left.status === "fulfilled" ? NOBODY : EVERYBODY);
  },

  "sessions of a source that is fenced end, and none begins there again": async ({ from, to }) => {
    await fillFew(from);
    const options = { maxStalenessMs: 60_000 };
    const session = await from.session("root", options);
    expect(session.allowed && session.active).to.equal(true);
    const reasonOf = async (): Promise<string> => {
      using another = await from.session("root", options);
      return another.allowed ? "allowed" : another.reason;
    };
    await reach("fenced", { from, to });
    expect(await reasonOf()).to.equal("unavailable");
    expect(session.allowed && session.active).to.equal(false);
    expect(session.allowed && session.signal.aborted).to.equal(true);
  },

  "a watch proves nothing of a source that is fenced, and ends when it is moved": async ({ from, to }) => {
    await fillFew(from);
    let moved = Infinity;
    const watch = from.watch({ proveEveryMs: 20 });
    const watched = errorOf(
      (async () => {
        for await (const event of watch) expect(event.type === "proved" ? event.asOf : 0).to.be.lessThan(moved);
      })(),
    );
    const follow = (wanted?: Wanted): Promise<ChangeFeed> =>
      stepOf(from, ({ changes }, call) => changes.follow(call, wanted));
    const [names, all] = [await follow(), await follow({ members: true, keys: true })];
    await reach("moved", { from, to });
    moved = performance.now();
    expect((await watched).code).to.equal("INCOMPATIBLE");
    // Only a migration hears what was changed up to the fence.
    const taken = await stepOf(from, (_, call) => names.take(call));
    expect([taken.lost, taken.users.size]).to.deep.equal([false, 0]);
    expect((await errorOf(stepOf(from, (_, call) => all.take(call)))).code).to.equal("INCOMPATIBLE");
    names.close();
    all.close();
  },

  "with the source alone the fence is lifted, with the target alone what is there is removed": async ({ from, to }) => {
    await fillFew(from);
    await reach("fenced", { from, to });
    await endMigration(from, { keep: "source" });
    await expectOnly(from, to);
    await endMigration(to, { keep: "source" });
    await to.users.add({ key: "first-of-an-empty-store" });
    expect((await to.users.list()).items).to.have.length(1);
  },

  "what was compared is not removed with the target alone, and nothing is made final with one side": async ({
    from,
    to,
  }) => {
    await fillFew(from);
    await reach("complete", { from, to });
    for (const [store, keep] of [
      [to, "source"],
      [to, "target"],
      [from, "target"],
    ] as const)
      expect(isConflict(await errorOf(endMigration(store, { keep })))).to.equal(true);
    await endMigration(from, { keep: "source" });
    await expectOnly(from, to);
    expect(isConflict(await errorOf(endMigration(to, { keep: "source" })))).to.equal(true);
    await endMigration(to, { keep: "source", other: from });
    await to.users.add({ key: "first-of-an-empty-store" });
  },
};
