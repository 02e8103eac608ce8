import { expect } from "chai";
import {
  hasAdmin,
  isAdmin,
  isAuthorized,
  isMember,
  openSqlite,
  type Decision,
  type Store,
  type User,
} from "unibus-membership";
import { foreign } from "./support/foreign-store.js";

const user: User = { key: "abc", role: "admin", status: "active", name: "", createdAt: new Date(0), revision: "1" };
const active: Decision = { allowed: true, reason: "active", user };

/** What somebody else's store might do with the calls of a check. */
interface Answers {
  authorize?: unknown;
  isAuthorized?: unknown;
  isAdmin?: unknown;
  isMember?: unknown;
  hasAdmin?: unknown;
}

const asStore = (answers: Answers): Store => answers as unknown as Store;

/** A store of which each method does the same. */
function always(answer: (options: unknown) => unknown): Store {
  return asStore({
    authorize: (_: unknown, options: unknown) => answer(options),
    isAuthorized: (_: unknown, options: unknown) => answer(options),
    isAdmin: (_: unknown, options: unknown) => answer(options),
    isMember: (_room: unknown, _endpoint: unknown, options: unknown) => answer(options),
    hasAdmin: (options: unknown) => answer(options),
  });
}

type Check = (store: Store, options?: Parameters<typeof hasAdmin>[1]) => Promise<boolean>;

const checks: Readonly<Record<string, Check>> = {
  isAuthorized: (store, options) => isAuthorized(store, "ABC", options),
  isAdmin: (store, options) => isAdmin(store, "ABC", options),
  isMember: (store, options) => isMember(store, "room", "endpoint", options),
  hasAdmin: (store, options) => hasAdmin(store, options),
};

const honest: Answers = {
  authorize: () => Promise.resolve(active),
  isMember: () => Promise.resolve(true),
  hasAdmin: () => Promise.resolve(true),
};

async function timed(check: () => Promise<boolean>): Promise<{ answer: boolean; took: number }> {
  const started = performance.now();
  const answer = await check();
  return { answer, took: performance.now() - started };
}

/** What comes as late as this comes long after the check has ended, also on a busy machine. */
const LATE_MS = 10_000;
const later = <T>(value: T, ms: number): Promise<T> =>
  new Promise((resolve) => setTimeout(() => resolve(value), ms).unref());
const never = (): Promise<never> => new Promise(() => undefined);

for (const [name, check] of Object.entries(checks)) {
  describe(`${name} over a store of somebody else`, () => {
    it("allows what was proved", async () => {
      expect(await check(asStore(honest))).to.equal(true);
      expect(await check(asStore(honest), { timeoutMs: 1000, signal: new AbortController().signal })).to.equal(true);
    });

    const ill: Readonly<Record<string, (options: unknown) => unknown>> = {
      "throws at once": () => {
        throw new Error("down");
      },
      "rejects with what is no error": () => ({
        then: (_: unknown, reject: (error: unknown) => void) => reject(undefined),
      }),
      rejects: () => Promise.reject(new Error("down")),
      "rejects with what nobody can look at": () => {
        const { proxy, revoke } = Proxy.revocable({}, {});
        revoke();
        return { then: (_: unknown, reject: (error: unknown) => void) => reject(proxy) };
      },
      "rejects later": async () => {
        await later(0, 5);
        throw new Error("down");
      },
      "answers nothing": () => undefined,
      "answers null": () => Promise.resolve(null),
      "answers 1": () => Promise.resolve(1),
      'answers "true"': () => Promise.resolve("true"),
      "answers an object": () => Promise.resolve({}),
      "answers a boxed true": () => Promise.resolve(Object(true)),
      "answers a function": () => Promise.resolve(() => true),
      "answers a list": () => Promise.resolve([true]),
      "answers a thenable that rejects": () => ({
        then: (_: unknown, reject: (error: unknown) => void) => reject(new Error("down")),
      }),
      "answers a thenable that throws": () => ({
        then: () => {
          throw new Error("down");
        },
      }),
      "answers a decision whose fields throw": () =>
        Promise.resolve(
          new Proxy(
            {},
            {
              get: (_, field) => {
                if (field === "then") return undefined;
                throw new Error("down");
              },
            },
          ),
        ),
    };
    for (const [what, answer] of Object.entries(ill)) {
      it(`denies when the store ${what}`, async () => {
        const { answer: allowed, took } = await timed(() => check(always(answer), { timeoutMs: 20_000 }));
        expect(allowed).to.equal(false);
        expect(took).to.be.lessThan(10_000);
      });
    }

    it("denies within the time when the store hangs", async () => {
      const { answer, took } = await timed(() => check(always(never), { timeoutMs: 100 }));
      expect(answer).to.equal(false);
      expect(took).to.be.within(80, 10_000);
    });

    it("denies within the time when a thenable never answers", async () => {
      const { answer, took } = await timed(() =>
        check(
          always(() => ({ then: () => undefined })),
          { timeoutMs: 100 },
        ),
      );
      expect(answer).to.equal(false);
      expect(took).to.be.within(80, 10_000);
    });

    it("denies within two seconds where no time was given", async () => {
      const { answer, took } = await timed(() => check(always(never)));
      expect(answer).to.equal(false);
      expect(took).to.be.within(1900, 10_000);
    });

    it("discards an answer that comes late", async () => {
      const late = name === "isMember" || name === "hasAdmin" ? true : active;
      expect(
        await check(
          always(() => later(late, 20)),
          { timeoutMs: 20_000 },
        ),
      ).to.equal(true);
      const { answer, took } = await timed(() =>
        check(
          always(() => later(late, LATE_MS)),
          { timeoutMs: 50 },
        ),
      );
      expect(answer).to.equal(false);
      expect(took).to.be.lessThan(LATE_MS);
    });

    it("discards an answer that comes late because the store blocked the process", async () => {
      const late = name === "isMember" || name === "hasAdmin" ? true : active;
      const blocking = (): unknown => {
        const until = performance.now() + 100;
        while (performance.now() < until);
        return Promise.resolve(late);
      };
      expect(await check(always(blocking), { timeoutMs: 20_000 })).to.equal(true);
      expect(await check(always(blocking), { timeoutMs: 20 })).to.equal(false);
    });

    it("tells the store how long it has, and passes the signal on", async () => {
      const seen: unknown[] = [];
      const { signal } = new AbortController();
      await check(
        always((options) => seen.push(options)),
        { timeoutMs: 123, signal },
      );
      await check(always((options) => seen.push(options)));
      expect(seen).to.deep.equal([{ timeoutMs: 123, signal }, { timeoutMs: 2000 }]);
    });

    it("denies what was aborted, before and on the way", async () => {
      expect(await check(asStore(honest), { signal: AbortSignal.abort() })).to.equal(false);
      const controller = new AbortController();
      setTimeout(() => controller.abort(), 20);
      const { answer, took } = await timed(() =>
        check(always(never), { signal: controller.signal, timeoutMs: 20_000 }),
      );
      expect(answer).to.equal(false);
      expect(took).to.be.lessThan(10_000);
    });

    it("denies where an option is malformed", async () => {
      for (const options of [
        null,
        7,
        "soon",
        [],
        { timeoutMs: 0 },
        { timeoutMs: "5" },
        { timeout: 5 },
        { signal: {} },
        Object.defineProperty({}, "timeoutMs", {
          enumerable: true,
          get: () => {
            throw new Error("down");
          },
        }),
      ]) {
        expect(await check(asStore(honest), options as never)).to.equal(false);
      }
    });

    it("denies where there is no store", async () => {
      for (const nothing of [undefined, null, 7, "store", true, {}, [], Object.create(null), Promise.resolve()]) {
        expect(await check(nothing as Store), typeof nothing).to.equal(false);
      }
    });

    it("denies where the store's methods are no functions, or throw when they are looked for", async () => {
      expect(
        await check(asStore({ authorize: true, isAuthorized: true, isAdmin: true, isMember: true, hasAdmin: true })),
      ).to.equal(false);
      const thrower = new Proxy(
        {},
        {
          get: () => {
            throw new Error("down");
          },
          has: () => {
            throw new Error("down");
          },
        },
      );
      expect(await check(thrower as Store)).to.equal(false);
    });
  });
}

describe("a decision of somebody else's store", () => {
  const hour = 3_600_000;
  const untrue: Readonly<Record<string, unknown>> = {
    "true by itself": true,
    "not allowed": { ...active, allowed: false },
    "allowed by something truthy": { ...active, allowed: 1 },
    "allowed for another reason": { ...active, reason: "unknown" },
    "without a reason": { allowed: true, user },
    "without a user": { allowed: true, reason: "active" },
    "with no user": { allowed: true, reason: "active", user: null },
    "about another key": { ...active, user: { ...user, key: "abd" } },
    "about the key as it was given, not folded": { ...active, user: { ...user, key: "ABC" } },
    "about a revoked user": { ...active, user: { ...user, status: "revoked" } },
    "about a user of no status": { ...active, user: { ...user, status: undefined } },
    "about an expired user": { ...active, user: { ...user, expiresAt: new Date(Date.now() - 1) } },
    "about a user that expires at no time": { ...active, user: { ...user, expiresAt: new Date(NaN) } },
    "about a user that expires at a number": { ...active, user: { ...user, expiresAt: Date.now() + hour } },
    "about a user that expires at null": { ...active, user: { ...user, expiresAt: null } },
    "that is a list": [active],
    "that is text": JSON.stringify(active),
  };
  for (const [what, decision] of Object.entries(untrue)) {
    it(`is no proof: ${what}`, async () => {
      const store = asStore({ ...honest, authorize: () => Promise.resolve(decision) });
      expect(await isAuthorized(store, "ABC")).to.equal(false);
      expect(await isAdmin(store, "ABC")).to.equal(false);
    });
  }

  it("is a proof while the user has time left", async () => {
    const decision = { ...active, user: { ...user, expiresAt: new Date(Date.now() + hour) } };
    expect(await isAuthorized(asStore({ authorize: () => Promise.resolve(decision) }), "abc")).to.equal(true);
  });

  it("is a proof of an admin only for an admin", async () => {
    for (const role of ["member", "Admin", true, undefined]) {
      const store = asStore({ authorize: () => Promise.resolve({ ...active, user: { ...user, role } }) });
      expect(await isAuthorized(store, "abc")).to.equal(true);
      expect(await isAdmin(store, "abc")).to.equal(false);
    }
  });

  it("is not asked for where the key is malformed", async () => {
    let asked = 0;
    const store = asStore({
      authorize: () => {
        asked++;
        return Promise.resolve(active);
      },
      isMember: () => {
        asked++;
        return Promise.resolve(true);
      },
    });
    for (const key of ["", " ", "a b", "\u212a", "ключ", "a\0", "a".repeat(257), 7, null, undefined, {}, ["abc"]]) {
      expect(await isAuthorized(store, key as string)).to.equal(false);
      expect(await isAdmin(store, key as string)).to.equal(false);
    }
    for (const id of ["", "\0", "\ud800", "a".repeat(257), 7, null, undefined, {}]) {
      expect(await isMember(store, id as string, "endpoint")).to.equal(false);
      expect(await isMember(store, "room", id as string)).to.equal(false);
    }
    expect(asked).to.equal(0);
  });

  it("is asked for by the folded key, once", async () => {
    const keys: unknown[] = [];
    const store = asStore({
      authorize: (key: unknown) => {
        keys.push(key);
        return Promise.resolve(active);
      },
    });
    expect(await isAuthorized(store, "  ABC\n")).to.equal(true);
    expect(keys).to.deep.equal(["abc"]);
  });
});

describe("the functions over a store of ours", () => {
  it("answer as its methods do", async () => {
    await using store = await openSqlite(":memory:");
    await store.users.addFirstAdmin({ key: "root" });
    await store.rooms.create({ id: "room", owner: "alice" });
    for (const each of [store, foreign(store)]) {
      expect(await isAuthorized(each, " ROOT ")).to.equal(true);
      expect(await isAdmin(each, "root")).to.equal(true);
      expect(await isMember(each, "room", "alice")).to.equal(true);
      expect(await hasAdmin(each)).to.equal(true);
      expect(await isAuthorized(each, "nobody")).to.equal(false);
      expect(await isMember(each, "room", "Alice")).to.equal(false);
      expect(await hasAdmin(each, { signal: AbortSignal.abort() })).to.equal(false);
      expect(await hasAdmin(each, { timeoutMs: 0 })).to.equal(false);
    }
    await store.close();
    for (const each of [store, foreign(store)]) {
      expect(await isAuthorized(each, "root")).to.equal(false);
      expect(await hasAdmin(each)).to.equal(false);
    }
  });

  it("do not believe a store that only inherits from one of ours", async () => {
    await using store = await openSqlite(":memory:");
    const child = Object.create(store, {
      authorize: { value: () => Promise.resolve(true) },
      hasAdmin: { value: () => Promise.resolve(1) },
    }) as Store;
    expect(await isAuthorized(child, "root")).to.equal(false);
    expect(await hasAdmin(child)).to.equal(false);
  });
});
