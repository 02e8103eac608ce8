import { expect } from "chai";
import { createRequire } from "node:module";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as esm from "unibus-membership";
import type { Decision, Store } from "unibus-membership";

type Library = typeof esm;
const cjs = createRequire(import.meta.url)("unibus-membership") as Library;

/** A check by the functions of one copy. */
type Check = (library: Library, store: Store, options?: { timeoutMs?: number }) => Promise<boolean>;

const checks: Readonly<Record<string, Check>> = {
  isAuthorized: (library, store, options) => library.isAuthorized(store, "ABC", options),
  isAdmin: (library, store, options) => library.isAdmin(store, "ABC", options),
  isMember: (library, store, options) => library.isMember(store, "room", "alice", options),
  hasAdmin: (library, store, options) => library.hasAdmin(store, options),
};

async function filled(library: Library, path: string, opTimeoutMs?: number): Promise<Store> {
  const store = await library.openSqlite(path, opTimeoutMs === undefined ? {} : { opTimeoutMs });
  await store.users.addFirstAdmin({ key: "abc" });
  await store.rooms.create({ id: "room", owner: "alice" });
  return store;
}

/** The same store, which notes the time that its methods are given: to whoever asks it, one of the other copy. */
function notingTimes(store: Store): { store: Store; times: unknown[] } {
  const times: unknown[] = [];
  const noting = new Proxy(store, {
    get: (target, name) => {
      const found: unknown = Reflect.get(target, name);
      if (typeof found !== "function") return found;
      return (...args: unknown[]): unknown => {
        times.push((args.at(-1) as { timeoutMs?: number }).timeoutMs);
        return Reflect.apply(found, target, args);
      };
    },
  });
  return { store: noting, times };
}

describe("the two builds in one process", () => {
  let folder: string;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "unibus-builds-"));
  });
  after(() => rm(folder, { recursive: true }));

  it("are two: this spec would show nothing otherwise", () => {
    expect(cjs.StoreError).not.to.equal(esm.StoreError);
    expect(Object.keys(cjs).sort()).to.deep.equal(Object.keys(esm).sort());
  });

  for (const [name, opener, other] of [
    ["ES modules", esm, cjs],
    ["CommonJS", cjs, esm],
  ] as const) {
    it(`a store of the ${name} is checked by the functions of both`, async () => {
      const store = await filled(opener, join(folder, `${name}.db`));
      for (const library of [opener, other]) {
        for (const check of Object.values(checks)) expect(await check(library, store)).to.equal(true);
        expect(await library.isAuthorized(store, "nobody")).to.equal(false);
        expect(await library.isMember(store, "room", "bob")).to.equal(false);
      }
      await store.close();
      for (const library of [opener, other]) {
        for (const check of Object.values(checks)) expect(await check(library, store)).to.equal(false);
      }
    });

    it(`a store of the ${name} has its own time with the functions of the other`, async () => {
      const own = await filled(opener, ":memory:", 7_654);
      const { store, times } = notingTimes(own);
      for (const check of Object.values(checks)) expect(await check(other, store)).to.equal(true);
      expect(times).to.deep.equal([7_654, 7_654, 7_654, 7_654]);
      for (const check of Object.values(checks)) expect(await check(other, store, { timeoutMs: 4_321 })).to.equal(true);
      expect(times.slice(4)).to.deep.equal([4_321, 4_321, 4_321, 4_321]);
      await own.close();
    });

    it(`an error of the ${name} is known to the functions of the other`, async () => {
      const store = await opener.openSqlite(":memory:");
      const error: unknown = await store.users.get("nobody").catch((refusal: unknown) => refusal);
      expect(other.isNotFound(error)).to.equal(true);
      expect(other.isConflict(error)).to.equal(false);
      await store.close();
    });
  }
});

describe("a stranger that calls itself a store of ours", () => {
  const CLAIM = Symbol.for("unibus-membership.opTimeoutMs");
  const user = {
    key: "abc",
    role: "admin",
    status: "active",
    name: "",
    createdAt: new Date(0),
    revision: "1",
  } as const;

  const liars: Readonly<Record<string, unknown>> = {
    "that says 1": 1,
    'that says "true"': "true",
    "that says an object": {},
    "that says an allow without a user": { allowed: true, reason: "active" },
    "that allows somebody else": { allowed: true, reason: "active", user: { ...user, key: "def" } } satisfies Decision,
    "that allows whom it revoked": {
      allowed: true,
      reason: "active",
      user: { ...user, status: "revoked" },
    } satisfies Decision,
    "that allows who has expired": {
      allowed: true,
      reason: "active",
      user: { ...user, expiresAt: new Date(1) },
    } satisfies Decision,
  };
  for (const [what, answer] of Object.entries(liars)) {
    it(`${what} gets no further than any other`, async () => {
      const says = (): Promise<unknown> => Promise.resolve(answer);
      const store = {
        [CLAIM]: 5_000,
        authorize: says,
        isAuthorized: says,
        isAdmin: says,
        isMember: says,
        hasAdmin: says,
      } as unknown as Store;
      for (const library of [esm, cjs]) {
        for (const check of Object.values(checks)) expect(await check(library, store)).to.equal(false);
      }
    });
  }

  for (const [what, claim] of [
    ["no number", "soon"],
    ["no end", Infinity],
    ["longer than any store may", 60_001],
    ["nothing at all", 0],
    ["NaN", NaN],
  ] as const) {
    it(`has the default time if it claims ${what}`, async () => {
      const times: unknown[] = [];
      const hasAdmin = (options: { timeoutMs?: number }): Promise<boolean> => {
        times.push(options.timeoutMs);
        return Promise.resolve(true);
      };
      expect(await esm.hasAdmin({ [CLAIM]: claim, hasAdmin } as unknown as Store)).to.equal(true);
      expect(times).to.deep.equal([2_000]);
    });
  }

  it("denies nothing and nobody by throwing when asked for its time", async () => {
    const store = {
      get [CLAIM]() {
        throw new Error("mine");
      },
      hasAdmin: () => Promise.resolve(true),
    } as unknown as Store;
    expect(await esm.hasAdmin(store)).to.equal(true);
  });

  it("is none of ours by being made of one: a proxy, an heir, a copy", async () => {
    const store = await filled(esm, ":memory:");
    const lie = {
      isAuthorized: () => Promise.resolve(true),
      authorize: () => Promise.resolve({ allowed: false, reason: "unknown" }),
    };
    const made = [
      new Proxy(store, { get: (target, name): unknown => Reflect.get(lie, name) ?? Reflect.get(target, name) }),
      Object.assign(Object.create(store) as Store, lie),
      { ...store, ...lie } as unknown as Store,
    ];
    for (const each of made) expect(await esm.isAuthorized(each, "abc")).to.equal(false);
    expect(await esm.isAuthorized(store, "abc")).to.equal(true);
    await store.close();
  });
});
