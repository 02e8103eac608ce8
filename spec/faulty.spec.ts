/** `faulty` of the testing entry: what meets a fault, and that nothing goes past it. */
import { expect } from "chai";
import { connect } from "nats";
import {
  StoreError,
  exportStore,
  hasAdmin,
  isAdmin,
  isAuthorized,
  isMember,
  openJetStream,
  openSqlite,
  type Session,
  type Store,
  type StoreEvent,
} from "unibus-membership";
import { faulty, openMemory, startNatsServer, type FaultPlan, type FaultyStore } from "unibus-membership/testing";
import {
  CHECKS,
  CHECK_NAMES,
  METHODS,
  METHOD_NAMES,
  withArgument,
  world,
  type World,
} from "../lib/testing/conformance/methods.js";
import { codeOf, errorOf } from "./support/code-of.js";
import { foreign } from "./support/foreign-store.js";
import { eventually } from "./support/wait.js";

/** No call ends by its time, but those that are to. */
const AMPLE = { opTimeoutMs: 60_000 };
const SHORT = { timeoutMs: 30 };

/** The store as it is, and as an app may hold it. */
const FORMS: Readonly<Record<string, (store: FaultyStore) => Store>> = {
  "the store itself": (store) => store,
  "a copy": (store) => ({ ...store }),
  "a copy with a method of the app's": (store) => ({ ...store, close: () => Promise.resolve() }),
  "a store that the app has put around it": foreign,
};

const FUNCTIONS: Readonly<Record<string, (store: Store, at: World) => Promise<boolean>>> = {
  isAuthorized: (store, { admin }) => isAuthorized(store, admin),
  isAdmin: (store, { admin }) => isAdmin(store, admin),
  isMember: (store, { room, owner }) => isMember(store, room, owner),
  hasAdmin: (store) => hasAdmin(store),
};

/** What a plan calls each check. */
const CALL_OF = {
  authorize: "authorize",
  isAuthorized: "authorize",
  isAdmin: "authorize",
  isMember: "isMember",
  hasAdmin: "hasAdmin",
} as const;

async function peopled(options: { opTimeoutMs: number }): Promise<{ inside: Store; at: World }> {
  const inside = await openMemory(options);
  return { inside, at: await world(inside) };
}

/** Of everything that a store holds. */
async function digestOf(store: Store): Promise<string> {
  let last = "";
  for await (const line of exportStore(store)) last = line;
  return last;
}

async function admitted(store: Store, key: string): Promise<Session> {
  const session = await store.session(key, { maxStalenessMs: 60_000 });
  if (!session.allowed) throw new Error(`denied: ${session.reason}`);
  return session;
}

async function reasonOf(store: Store, key: string): Promise<string> {
  using session = await store.session(key, { maxStalenessMs: 60_000 });
  return session.allowed ? "active" : session.reason;
}

const ended = (session: Session): Promise<unknown> =>
  new Promise((resolve) => {
    const tell = (): void => {
      const { denial } = session.signal.reason as { denial: { reason: string } };
      resolve(denial.reason);
    };
    if (session.signal.aborted) tell();
    else session.signal.addEventListener("abort", tell);
  });

describe("faulty", function () {
  this.timeout(60_000);

  for (const [form, as] of Object.entries(FORMS)) {
    describe(form, () => {
      for (const name of METHOD_NAMES) {
        it(`${name} meets its fault, and nothing comes to the store inside`, async () => {
          const { inside, at } = await peopled(AMPLE);
          const before = await digestOf(inside);
          const store = faulty(inside, { on: name, fault: "fail" });
          const error = await errorOf(METHODS[name].call(as(store), METHODS[name].good(at)));
          expect([error.code, error.outcome]).to.deep.equal(["UNAVAILABLE", METHODS[name].writes ? "none" : undefined]);
          expect(store.met).to.deep.equal([{ call: name, nth: 1, fault: "fail" }]);
          expect(await digestOf(inside)).to.equal(before);
        });
      }

      for (const name of CHECK_NAMES) {
        for (const fault of ["fail", "hang", "deny"] as const) {
          it(`${name} is denied where the plan says ${fault}, and true without`, async () => {
            const { inside, at } = await peopled(AMPLE);
            const store = faulty(inside, { on: CALL_OF[name], fault, times: 1 });
            const good = CHECKS[name].good(at);
            expect(await CHECKS[name].call(as(store), fault === "hang" ? [...good, SHORT] : good)).to.equal(false);
            store.setPlan([]);
            expect(await CHECKS[name].call(as(store), good)).to.equal(true);
            expect(store.met).to.deep.equal([{ call: CALL_OF[name], nth: 1, fault }]);
          });
        }
      }

      for (const [name, check] of Object.entries(FUNCTIONS)) {
        it(`the function ${name} meets what the method meets`, async () => {
          const { inside, at } = await peopled(AMPLE);
          const store = faulty(inside, { on: "checks", from: 2, times: 1, fault: "fail" });
          const asked = [await check(as(store), at), await check(as(store), at), await check(as(store), at)];
          expect(asked).to.deep.equal([true, false, true]);
        });
      }
    });
  }

  it("a call that hangs ends with its time, and nobody can know whether it was done", async () => {
    const { inside, at } = await peopled(AMPLE);
    const store = faulty(inside, { fault: "hang" });
    const ends = await Promise.all(
      METHOD_NAMES.map(async (name) => {
        const { code, outcome } = await errorOf(
          METHODS[name].call(store, withArgument(METHODS[name], METHODS[name].good(at), "options.timeoutMs", 30)),
        );
        return { name, code, outcome };
      }),
    );
    for (const { name, code, outcome } of ends)
      expect([code, outcome], name).to.deep.equal(["TIMEOUT", METHODS[name].writes ? "unknown" : undefined]);
    expect((await inside.members.list(at.room)).map(({ endpoint }) => endpoint)).not.to.include(at.newEndpoint);
    expect(await store.authorize(at.admin, SHORT)).to.include({ allowed: false, reason: "timeout" });
    // What a session asks first has the time of the store.
    const brief = faulty(await openMemory({ opTimeoutMs: 100 }), { fault: "hang" });
    expect(await brief.session(at.admin, SHORT)).to.include({ allowed: false, reason: "timeout" });
  });

  it("a write whose acknowledgement is lost is done", async () => {
    const inside = await openMemory(AMPLE);
    const store = faulty(inside, [
      { on: "users.add", from: 1, times: 1, fault: "fail", done: true },
      { on: "users.add", fault: "hang", done: true },
    ]);
    const ends = [await errorOf(store.users.add({ key: "a" })), await errorOf(store.users.add({ key: "b" }, SHORT))];
    expect(ends.map(({ code, outcome }) => [code, outcome])).to.deep.equal([
      ["UNAVAILABLE", "unknown"],
      ["TIMEOUT", "unknown"],
    ]);
    expect((await inside.users.list()).items.map(({ key }) => key)).to.have.members(["a", "b"]);
    // Nor is a refusal heard of.
    expect(await errorOf(store.users.add({ key: "a" }, SHORT))).to.include({ code: "TIMEOUT", outcome: "unknown" });
  });

  it("whether a write was refused is not heard of where its acknowledgement is lost, whatever is inside", async () => {
    for (const inside of [await openMemory(AMPLE), await openSqlite(":memory:", AMPLE)]) {
      await inside.users.add({ key: "a" });
      await using store = faulty(inside, { on: "writes", fault: "fail", done: true });
      for (const key of ["a", "b"])
        expect(await errorOf(store.users.add({ key })), `${inside.backend} ${key}`).to.include({ outcome: "unknown" });
    }
  });

  it("an answer that is late comes within its time, and else is dropped", async () => {
    const inside = await openMemory(AMPLE);
    const store = faulty(inside, { fault: "late", ms: 10 });
    await store.users.addFirstAdmin({ key: "a" });
    expect([await store.isAdmin("a"), await hasAdmin(store)]).to.deep.equal([true, true]);
    store.setPlan({ fault: "late", ms: 60_000 });
    const error = await errorOf(store.users.add({ key: "b" }, SHORT));
    expect(error).to.include({ code: "TIMEOUT", outcome: "unknown" });
    expect((await inside.users.get("b")).key).to.equal("b");
    expect(await isAuthorized(store, "a", SHORT)).to.equal(false);
  });

  it("a fault has the code that is asked for, and a check the reason that belongs to it", async () => {
    const { inside, at } = await peopled(AMPLE);
    const reasons = { TIMEOUT: "timeout", CLOSED: "closed", LOCKED: "unavailable", CORRUPT: "unavailable" } as const;
    for (const [code, reason] of Object.entries(reasons)) {
      const store = faulty(inside, { fault: "fail", code: code as keyof typeof reasons });
      expect(await store.users.get(at.admin).catch(codeOf)).to.equal(code);
      expect((await store.authorize(at.admin)).reason).to.equal(reason);
    }
  });

  it("who is denied is so for the reason that is asked for, by checks and sessions alone", async () => {
    const { inside, at } = await peopled(AMPLE);
    for (const reason of ["unknown", "revoked", "expired"] as const) {
      const store = faulty(inside, { fault: "deny", reason });
      expect(await store.authorize(at.admin)).to.include({ allowed: false, reason });
      expect(await reasonOf(store, at.admin)).to.equal(reason);
      expect([
        await store.isAdmin(at.admin),
        await store.isMember(at.room, at.owner),
        await store.hasAdmin(),
      ]).to.deep.equal([false, false, false]);
      expect((await store.users.get(at.admin)).status).to.equal("active");
      // Nobody is revoked who is not there.
      expect(await store.authorize("nobody")).to.include({ reason: "unknown" });
    }
  });

  it("the first rule that holds counts, and each rule counts the calls that it names", async () => {
    const store = faulty(await openMemory(AMPLE), [
      { on: ["users.get", "rooms.get"], from: 2, times: 2, fault: "fail", code: "CORRUPT" },
      { on: "reads", from: 3, fault: "fail", code: "LOCKED" },
    ]);
    const codes = [];
    for (const read of [() => store.users.get("a"), () => store.rooms.get("a")])
      for (let i = 0; i < 2; i++) codes.push(await read().catch(codeOf));
    codes.push(await store.users.list().catch(codeOf), await store.users.add({ key: "a" }).then(({ key }) => key));
    expect(codes).to.deep.equal(["NOT_FOUND", "CORRUPT", "CORRUPT", "LOCKED", "LOCKED", "a"]);
    expect(store.met.map(({ call, nth }) => `${call} ${String(nth)}`)).to.deep.equal([
      "users.get 2",
      "rooms.get 1",
      "rooms.get 2",
      "users.list 1",
    ]);
    store.setPlan({ on: "users.get", from: 2, fault: "fail" });
    expect(await store.users.get("a").then(({ key }) => key)).to.equal("a");
    expect(await store.users.get("a").catch(codeOf)).to.equal("UNAVAILABLE");
  });

  it("a seed gives the same faults each time, whatever runs beside it", async () => {
    const faults: FaultPlan = {
      seed: 7,
      rate: 0.5,
      faults: [{ fault: "fail" }, { fault: "late", ms: 0 }, { fault: "deny" }],
    };
    const run = async (seed: number, alone: boolean): Promise<string[]> => {
      const store = faulty(await openMemory(AMPLE), { ...faults, seed });
      for (let i = 0; i < 30; i++) {
        if (!alone) await store.rooms.get("x").catch(codeOf);
        await store.users.get("a").catch(codeOf);
        if (!alone) await isAuthorized(store, "a");
      }
      return store.met.filter(({ call }) => call === "users.get").map(({ nth, fault }) => `${String(nth)} ${fault}`);
    };
    const first = await run(7, true);
    expect(first.length).to.be.within(5, 25);
    expect(new Set(first.map((each) => each.split(" ")[1]))).to.deep.equal(new Set(["fail", "late"]));
    expect(await run(7, false)).to.deep.equal(first);
    expect(await run(8, true)).not.to.deep.equal(first);
  });

  it("a seed alone is a plan: every call ends, and no check is true that was false", async () => {
    const { inside, at } = await peopled(AMPLE);
    const store = faulty(inside, { seed: 1, rate: 1 });
    for (let i = 0; i < 10; i++) {
      expect(await isAuthorized(store, "nobody", SHORT)).to.equal(false);
      await store.users.get(at.admin, SHORT).catch(codeOf);
    }
    expect(store.met).to.have.length(20);
  });

  describe("sessions", () => {
    it("end when the store inside proves nothing any more, and begin again when it does", async () => {
      const { inside, at } = await peopled(AMPLE);
      for (const fault of ["fail", "hang"] as const) {
        const store = faulty(inside, []);
        const session = await store.session(at.admin, { maxStalenessMs: 1000 });
        if (!session.allowed) throw new Error(session.reason);
        store.setPlan({ fault });
        // A machine that stands still for so long has proved nothing either.
        expect(await ended(session)).to.be.oneOf(["unavailable", "timeout"]);
        expect(session.active).to.equal(false);
        store.setPlan([]);
        (await admitted(store, at.admin)).close();
      }
    });

    it("end at the next proof where the plan denies", async () => {
      const { inside, at } = await peopled(AMPLE);
      const store = faulty(inside, []);
      const session = await admitted(store, at.admin);
      store.setPlan({ on: "session", fault: "deny", reason: "revoked" });
      // One more that opens asks for a proof.
      expect(await reasonOf(store, at.member)).to.equal("revoked");
      expect(await ended(session)).to.equal("revoked");
    });

    it("go on past a proof that failed, and hear what was taken away", async () => {
      const { inside, at } = await peopled(AMPLE);
      const store = faulty(inside, []);
      const session = await admitted(store, at.member);
      store.setPlan({ on: "session", fault: "fail", times: 1 });
      expect(await reasonOf(store, at.admin)).to.equal("unavailable");
      expect(session.active).to.equal(true);
      await inside.users.revoke(at.member);
      (await admitted(store, at.admin)).close();
      expect(await ended(session)).to.equal("revoked");
    });
  });

  describe("watches", () => {
    it("tell nothing while the plan says so, and everything after that", async () => {
      const store = faulty(await openMemory(AMPLE), { on: "watch", fault: "fail" });
      await using watch = store.watch({ proveEveryMs: 10 });
      const events = watch[Symbol.asyncIterator]();
      const first = events.next();
      await store.users.add({ key: "a" });
      let isTold = false;
      void first.then(() => (isTold = true));
      await eventually("it has asked more than once", () => store.met.length > 2);
      expect(isTold).to.equal(false);
      store.setPlan([]);
      const typeOf = ({ value, done }: IteratorResult<StoreEvent>): string => (done === true ? "end" : value.type);
      const types = [typeOf(await first)];
      while (types.at(-1) !== "proved") types.push(typeOf(await events.next()));
      expect(types).to.deep.equal(["user", "proved"]);
    });

    it("end with what does not pass by waiting", async () => {
      const store = faulty(await openMemory(AMPLE), { on: "watch", fault: "fail", code: "INCOMPATIBLE" });
      await using watch = store.watch();
      expect(await watch[Symbol.asyncIterator]().next().catch(codeOf)).to.equal("INCOMPATIBLE");
    });
  });

  it("no check is answered from what was proved before", async () => {
    await using server = await startNatsServer();
    const connection = await connect({ servers: server.url });
    const store = faulty(await openJetStream(connection, 1, { maxStalenessMs: 60_000, opTimeoutMs: 30_000 }), []);
    await store.users.addFirstAdmin({ key: "root" });
    await store.rooms.create({ id: "room", owner: "owner" });
    const lease = { maxStalenessMs: 60_000 };
    const all = (): Promise<boolean[]> =>
      Promise.all([
        store.isAuthorized("root", lease),
        store.isAdmin("root", lease),
        store.isMember("room", "owner", lease),
        store.hasAdmin(lease),
        isAuthorized(store, "root", lease),
        hasAdmin(store),
      ]);
    expect(await all()).to.deep.equal([true, true, true, true, true, true]);
    store.setPlan({ on: "checks", fault: "fail" });
    expect(await all()).to.deep.equal([false, false, false, false, false, false]);
    store.setPlan([]);
    const decision = await store.authorize("root");
    expect([decision.allowed, decision.proof?.backend]).to.deep.equal([true, "jetstream"]);
    await store.close();
    await connection.close();
  });

  it("is a store: arguments, time and closing are as ever", async () => {
    const inside = await openSqlite(":memory:", AMPLE);
    const store = faulty(inside, { fault: "hang" });
    expect([store.backend, Object.isFrozen(store)]).to.deep.equal(["sqlite", true]);
    expect(await store.users.add({ key: "two words" }).catch(codeOf)).to.equal("INVALID_ARGUMENT");
    expect((await store.authorize("two words")).reason).to.equal("malformed");
    expect(await store.users.get("a", { signal: AbortSignal.abort() }).catch(codeOf)).to.equal("TIMEOUT");
    // A copy has the time of the store, where it has none of its own.
    const timeOf = (each: object): unknown => Reflect.get(each, Symbol.for("unibus-membership.opTimeoutMs"));
    expect([timeOf(store), timeOf({ ...store })]).to.deep.equal([60_000, 60_000]);
    const twice = faulty(store, { on: "users.get", fault: "fail" });
    expect(await twice.users.get("a").catch(codeOf)).to.equal("UNAVAILABLE");
    expect(await twice.rooms.get("a", SHORT).catch(codeOf)).to.equal("TIMEOUT");
    await twice.close();
    for (const each of [twice, store, inside]) expect(await each.users.get("a").catch(codeOf)).to.equal("CLOSED");
    expect((await store.authorize("a")).reason).to.equal("closed");
    await using open = faulty(await openMemory(), []);
    expect(await exportStore(open)[Symbol.asyncIterator]().next().catch(codeOf)).to.equal("INVALID_ARGUMENT");
  });

  it("a store that is closed behind it is closed", async () => {
    const { inside, at } = await peopled(AMPLE);
    const store = faulty(inside, { fault: "fail" });
    await inside.close();
    expect(await store.users.get(at.admin).catch(codeOf)).to.equal("CLOSED");
    expect((await store.authorize(at.admin)).reason).to.equal("closed");
    await store.close();
  });

  it("says what is wrong with a plan, and with a store", async () => {
    await using inside = await openMemory();
    const wrong: readonly (readonly [unknown, string])[] = [
      [null, "plan"],
      ["hang", "plan"],
      [{}, "plan.fault"],
      [{ fault: "explode" }, "plan.fault"],
      [[{ fault: "fail" }, { fault: "late" }], "plan[1].ms"],
      [{ fault: "fail", code: "NOT_FOUND" }, "plan.code"],
      [{ fault: "hang", code: "TIMEOUT" }, "plan.code"],
      [{ fault: "deny", done: true }, "plan.done"],
      [{ fault: "deny", reason: "active" }, "plan.reason"],
      [{ fault: "deny", on: "users.get" }, "plan.on"],
      [{ fault: "deny", on: "writes" }, "plan.on"],
      [{ fault: "fail", on: "isAuthorized" }, "plan.on"],
      [{ fault: "fail", on: ["authorize", "isAdmin"] }, "plan.on"],
      [{ fault: "fail", on: "users" }, "plan.on"],
      [{ fault: "fail", from: 0 }, "plan.from"],
      [{ fault: "fail", times: 0.5 }, "plan.times"],
      [{ fault: "fail", time: 1 }, "plan.time"],
      [{ seed: -1 }, "plan.seed"],
      [{ seed: 1, rate: 2 }, "plan.rate"],
      [{ seed: 1, rate: NaN }, "plan.rate"],
      [{ seed: 1, faults: [] }, "plan.faults"],
      [{ seed: 1, faults: [{ fault: "late" }] }, "plan.faults[0].ms"],
      [{ seed: 1, from: 2 }, "plan.from"],
    ];
    const argumentOf = (make: () => unknown): unknown => {
      try {
        make();
        return "nothing";
      } catch (error) {
        return error instanceof StoreError ? error.argument : error;
      }
    };
    const store = faulty(inside, []);
    for (const [plan, argument] of wrong) {
      expect(argumentOf(() => faulty(inside, plan as FaultPlan))).to.equal(argument);
      expect(argumentOf(() => store.setPlan(plan as FaultPlan))).to.equal(argument);
    }
    for (const other of [foreign(inside), { ...store }, {}, null])
      expect(argumentOf(() => faulty(other as Store, []))).to.equal("store");
    expect((await store.authorize("a")).reason).to.equal("unknown");
  });
});
