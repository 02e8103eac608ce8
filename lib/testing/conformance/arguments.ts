import assert from "node:assert/strict";
import { inspect } from "node:util";
import { runInNewContext } from "node:vm";
import { isStoreError } from "../../errors.js";
import {
  aloneCases,
  bytes,
  cases,
  failure,
  refused,
  sameBytes,
  seen,
  sleep,
  together,
  unique,
  settled,
} from "./case.js";
import { CHECKS, CHECK_NAMES, METHODS, METHOD_NAMES, readableOnce, withArgument, world } from "./methods.js";
import type { MethodName, World } from "./methods.js";
import type { Steps } from "./case.js";
import type { NewUser, Store, User } from "../../store.js";

/** All that the methods of the table could have changed by mistake. */
async function all(store: Store, w: World): Promise<unknown> {
  const missing = async (attempt: () => Promise<unknown>): Promise<string> =>
    (await failure(attempt, "not there")).code;
  return {
    room: await seen(store, w.room),
    admin: await store.users.get(w.admin),
    member: await store.users.get(w.member),
    newRoom: await missing(() => store.rooms.get(w.newRoom)),
    newUser: await missing(() => store.users.get(w.newKey)),
    newMember: await missing(() => store.members.get(w.room, w.newEndpoint)),
    indexed: await store.rooms.listForEndpoint(w.newEndpoint),
    memberships: await store.members.listForEndpoint(w.newEndpoint),
  };
}

function shown(value: unknown): string {
  try {
    return inspect(value, { maxStringLength: 20, maxArrayLength: 4, customInspect: false });
  } catch {
    return "what cannot be shown";
  }
}

const malformed: Steps = Object.fromEntries(
  METHOD_NAMES.map((name) => [
    `${name} refuses what is malformed, names it, and writes nothing`,
    async ({ store }: { store: Store }) => {
      const method = METHODS[name];
      const w = await world(store);
      const before = await all(store, w);
      for (const [path, values] of Object.entries(method.bad)) {
        for (const value of values) {
          const what = `${name} with ${path} = ${shown(value)}`;
          const args = withArgument(method, method.good(w), path, value);
          const error = await refused("INVALID_ARGUMENT", () => method.call(store, args), what);
          assert.equal(error.argument, path, what);
        }
      }
      for (const path of method.closed) {
        for (const unknown of ["timeout", "Owner", "__proto__x", "toString", "0", ""]) {
          const what = `${name} with ${path}.${unknown}`;
          const args = withArgument(method, method.good(w), `${path}.${unknown}`, 1);
          const error = await refused("INVALID_ARGUMENT", () => method.call(store, args), what);
          assert.ok(error.argument?.startsWith(path), `${what}: names ${String(error.argument)}`);
        }
      }
      assert.deepEqual(await all(store, w), before, "nothing was written");
    },
  ]),
);

/** Writes whose good arguments are good once only, on the world as it was made. */
const ACCEPTED = METHOD_NAMES.filter((name) => name !== "users.addFirstAdmin");

export const argumentCases = [
  ...cases("arguments", malformed),

  ...cases("arguments", {
    "the good arguments, from which the malformed ones differ in one place, are accepted": async ({ store }) => {
      for (const name of ACCEPTED) await METHODS[name].call(store, METHODS[name].good(await world(store)));
      for (const name of ACCEPTED) {
        const w = await world(store);
        const method = METHODS[name];
        const timed = withArgument(method, method.good(w), "options.timeoutMs", 60_000);
        await method.call(store, withArgument(method, timed, "options.signal", new AbortController().signal));
      }
    },

    "an option that is undefined is one left out": async ({ store }) => {
      for (const name of ACCEPTED) {
        const method = METHODS[name];
        let args = method.good(await world(store));
        for (const option of ["options.timeoutMs", "options.signal"])
          args = withArgument(method, args, option, undefined);
        await method.call(store, args);
      }
      const id = unique("room");
      const owner = unique("owner");
      const loose = {
        id,
        owner,
        name: undefined,
        encrypted: undefined,
        ownerPublicKey: undefined,
        sealedKey: undefined,
      } as unknown as { owner: string };
      assert.equal((await store.rooms.create(loose)).id, id);
      assert.equal((await store.rooms.list(undefined, undefined)).items.length > 0, true);
    },

    "every field of an argument is read once, and a getter that throws is a malformed argument": async ({ store }) => {
      for (const name of ACCEPTED) {
        const method = METHODS[name];
        const args = withArgument(method, method.good(await world(store)), "options.timeoutMs", 60_000);
        await method.call(store, readableOnce(args));
      }
      const w = await world(store);
      const before = await all(store, w);
      for (const name of METHOD_NAMES) {
        const method = METHODS[name];
        for (const path of Object.keys(method.bad).filter((each) => each.includes("."))) {
          const [parent, field] = [path.slice(0, path.lastIndexOf(".")), path.slice(path.lastIndexOf(".") + 1)];
          for (const thrown of [
            new Error("the caller's own"),
            Object.assign(new Error("x"), { name: "StoreError", code: "NOT_FOUND" }),
          ]) {
            const args = withArgument(method, method.good(w), path, undefined);
            const holder = parent
              .split(".")
              .reduce<unknown>(
                (inside, part, i) =>
                  i === 0 ? args[method.parameters.indexOf(part)] : (inside as Record<string, unknown>)[part],
                undefined,
              );
            Object.defineProperty(holder, field, {
              enumerable: true,
              get: () => {
                throw thrown;
              },
            });
            const error = await refused(
              "INVALID_ARGUMENT",
              () => method.call(store, args),
              `${name} with ${path} that throws`,
            );
            assert.equal(error.argument, path);
          }
        }
      }
      assert.deepEqual(await all(store, w), before, "nothing was written");
    },

    "a proxy that answers as an object does is one": async ({ store }) => {
      const key = unique("user");
      await store.users.add(new Proxy({ key, name: "n" }, {}), new Proxy({ timeoutMs: 60_000 }, {}));
      assert.equal((await store.users.get(key)).name, "n");
      assert.equal(await store.isAuthorized(key, new Proxy({ timeoutMs: 60_000 }, {})), true);
    },

    "a date counts as what it is, whatever it says of itself, and so after the next opening": async (context) => {
      const { store } = context;
      const [past, future] = [new Date(Date.now() - 60_000), new Date("2999-01-01T00:00:00Z")];
      const said = (date: Date, time: number): Date =>
        Object.assign(new Date(date), { getTime: () => time, valueOf: () => time });
      const over = [Infinity, NaN, 8.64e15, future.getTime()].map((time) => ({
        key: unique("over"),
        expiresAt: said(past, time),
      }));
      const valid = [Infinity, NaN, 0, past.getTime()].map((time) => ({
        key: unique("valid"),
        expiresAt: said(future, time),
      }));
      for (const user of [...over, ...valid]) await store.users.add(user);
      const updated = unique("updated");
      await store.users.add({ key: updated });
      await store.users.update(updated, { expiresAt: said(past, Infinity) });
      for (const each of [store, await context.other()]) {
        for (const { key } of [...over, { key: updated }]) {
          assert.equal(await each.isAuthorized(key), false, key);
          assert.equal((await each.users.get(key)).expiresAt?.getTime(), past.getTime());
        }
        for (const { key } of valid) assert.equal(await each.isAuthorized(key), true, key);
      }
    },

    "bytes count as what they are, whatever they say of themselves": async ({ store }) => {
      const w = await world(store);
      const sealed = new Uint8Array([1, 2, 3]);
      Object.defineProperty(sealed, "length", { value: 100_000 });
      Object.defineProperty(sealed, "constructor", { value: { [Symbol.species]: Uint16Array } });
      Object.defineProperty(sealed, Symbol.iterator, { value: () => [9][Symbol.iterator]() });
      await store.roomKeys.put(w.room, w.keyless, 1, sealed);
      sameBytes((await store.roomKeys.get(w.room, w.keyless)).sealed, new Uint8Array([1, 2, 3]), "sealed");
    },

    "bytes and dates of another realm, as of a test runner, are bytes and dates": async ({ store }) => {
      const w = await world(store);
      await store.roomKeys.put(w.room, w.keyless, 1, runInNewContext("new Uint8Array([4, 5])") as Uint8Array);
      sameBytes((await store.roomKeys.get(w.room, w.keyless)).sealed, new Uint8Array([4, 5]), "sealed");
      const user = await store.users.add({ key: w.newKey, expiresAt: runInNewContext("new Date(1000)") as Date });
      assert.equal(user.expiresAt?.getTime(), 1000);
      assert.equal(await store.isAuthorized(w.newKey), false);
    },

    "a rekey whose map holds something malformed is refused and writes nothing": async ({ store }) => {
      const w = await world(store);
      const before = await all(store, w);
      const bad: readonly (readonly [unknown, unknown])[] = [
        ["", bytes("x")],
        ["\0", bytes("x")],
        [7, bytes("x")],
        ["\ud800", bytes("x")],
        ["a".repeat(257), bytes("x")],
        [undefined, bytes("x")],
        [w.owner, new Uint8Array(0)],
        [w.owner, new Uint8Array(65_537)],
        [w.owner, "text"],
        [w.owner, null],
        [w.owner, undefined],
        [w.owner, new Uint16Array(4)],
      ];
      for (const [endpoint, sealed] of bad) {
        const map = new Map<unknown, unknown>([
          [w.owner, bytes("o")],
          [w.guest, bytes("g")],
          [w.keyless, bytes("k")],
        ]);
        map.set(endpoint, sealed);
        const what = `rekey with ${shown(endpoint)}: ${shown(sealed)}`;
        const error = await refused(
          "INVALID_ARGUMENT",
          () => store.roomKeys.rekey(w.room, map as Map<string, Uint8Array>, { expectedEpoch: 1 }),
          what,
        );
        assert.ok(error.argument?.startsWith("sealed"), `${what}: names ${String(error.argument)}`);
      }
      assert.deepEqual(await all(store, w), before);
    },

    "the limits themselves are within": async ({ store }) => {
      const w = await world(store);
      await store.rooms.list({ limit: 1 });
      await store.users.list({ limit: 1000 });
      await store.rooms.get(w.room, { timeoutMs: 600_000 });
      await refused("CONFLICT", () => store.roomKeys.put(w.room, w.guest, 2 ** 31 - 1, bytes("x")));
      await refused("CONFLICT", () => store.roomKeys.rekey(w.room, new Map(), { expectedEpoch: 2 ** 31 - 1 }));
      await store.rooms.update(w.room, { name: "\u{1f984}".repeat(64) });
      const key = `${unique("k")}${"x".repeat(256)}`.slice(0, 256);
      assert.equal((await store.users.add({ key: `  ${key.toUpperCase()}  `, expiresAt: new Date(8.64e15) })).key, key);
      assert.equal(await store.isAuthorized(key), true);
    },

    "a role that something put into every object's prototype is nobody's": async ({ store }) => {
      const prototype = Object.prototype as { role?: string };
      const keys = [unique("user"), unique("user"), unique("user")] as const;
      const added = ((): Promise<User>[] => {
        prototype.role = "admin";
        try {
          return [
            store.users.add({ key: keys[0] }),
            store.users.add({ key: keys[1], role: undefined } as unknown as NewUser),
            store.users.add(Object.assign(Object.create(null) as object, { key: keys[2] })),
          ];
        } finally {
          delete prototype.role;
        }
      })();
      for (const adding of added) assert.equal((await adding).role, "member");
      for (const key of keys) assert.equal(await store.isAdmin(key), false);
    },

    "what is malformed is said before what is missing": async ({ store }) => {
      const w = await world(store);
      await refused("INVALID_ARGUMENT", () => store.members.add(w.newRoom, { endpoint: "" }));
      await refused("INVALID_ARGUMENT", () => store.roomKeys.put(w.newRoom, w.guest, 1, new Uint8Array(0)));
      await refused("INVALID_ARGUMENT", () => store.rooms.update(w.newRoom, { name: "\0" }));
      await refused("INVALID_ARGUMENT", () => store.users.update(w.newKey, { role: "root" as "admin" }));
    },

    "a check of anything malformed is false, and says so": async ({ store }) => {
      const w = await world(store);
      for (const name of CHECK_NAMES) {
        const check = CHECKS[name];
        assert.equal(await check.call(store, check.good(w)), true, `${name} of what is well formed`);
        const method = { parameters: check.parameters } as unknown as Parameters<typeof withArgument>[0];
        const bad: Record<string, readonly unknown[]> = {
          ...check.bad,
          "options.timeout": [5],
          "options.ifRevision": ["r"],
        };
        for (const [path, values] of Object.entries(bad)) {
          for (const value of values) {
            const args = withArgument(method, check.good(w), path, value);
            assert.equal(await check.call(store, args), false, `${name} with ${path} = ${shown(value)}`);
            if (name !== "authorize") continue;
            const decision = await store.authorize(...(args as Parameters<Store["authorize"]>));
            assert.equal(decision.reason, "malformed", `${path} = ${shown(value)}`);
          }
        }
      }
    },
  }),

  ...aloneCases("arguments", {
    "refused first admins leave the chance": async ({ store }) => {
      const method = METHODS["users.addFirstAdmin"];
      for (const [path, values] of Object.entries(method.bad)) {
        for (const value of values) {
          const args = withArgument(method, [{ key: "root" }], path, value);
          await refused("INVALID_ARGUMENT", () => method.call(store, args), `${path} = ${shown(value)}`);
        }
      }
      for (const field of ["role", "expiresAt", "status"]) {
        await refused(
          "INVALID_ARGUMENT",
          () => method.call(store, [{ key: "root", [field]: undefined, ...{ [field]: "x" } }]),
          field,
        );
      }
      assert.deepEqual(await store.users.list(), { items: [] });
      assert.equal((await store.users.addFirstAdmin({ key: "root" }, { timeoutMs: 60_000 })).role, "admin");
    },
  }),

  ...cases(
    "misses",
    Object.fromEntries(
      METHOD_NAMES.filter((name) => METHODS[name].misses !== undefined).map((name) => [
        `${name} of what is not there is NOT_FOUND and makes nothing`,
        async ({ store }: { store: Store }) => {
          const method = METHODS[name];
          const w = await world(store);
          const before = await all(store, w);
          for (const [i, args] of (method.misses?.(w) ?? []).entries()) {
            await refused("NOT_FOUND", () => method.call(store, args), `${name}, miss ${String(i)}`);
          }
          assert.deepEqual(await all(store, w), before);
        },
      ]),
    ),
  ),

  ...cases("misses", {
    "a check of what is not there is false": async ({ store }) => {
      const w = await world(store);
      assert.equal(await store.isMember(w.newRoom, w.owner), false);
      assert.equal(await store.isMember(w.room, w.newEndpoint), false);
      assert.equal(await store.isMember(w.owner, w.room), false);
      assert.equal(await store.isAuthorized(w.newKey), false);
      assert.equal(await store.isAdmin(w.newKey), false);
      assert.equal((await store.authorize(w.newKey)).reason, "unknown");
      assert.deepEqual(await store.rooms.listForEndpoint(w.newEndpoint), []);
      assert.deepEqual(await store.members.listForEndpoint(w.newEndpoint), []);
    },
  }),

  ...cases("time", {
    "a call whose signal is aborted already is TIMEOUT, with the reason as cause, and does nothing": async ({
      store,
    }) => {
      const w = await world(store);
      const before = await all(store, w);
      const reason = new Error("changed my mind");
      for (const name of METHOD_NAMES) {
        const method = METHODS[name];
        const args = withArgument(method, method.good(w), "options.signal", AbortSignal.abort(reason));
        const error = await refused("TIMEOUT", () => method.call(store, args), name);
        assert.equal(error.cause, reason, name);
        assert.equal(error.outcome, method.writes ? "none" : undefined, name);
      }
      assert.deepEqual(await all(store, w), before);
    },

    "a signal counts as what it is, whatever it says of itself": async ({ store }) => {
      const w = await world(store);
      const said = (signal: AbortSignal, aborted: boolean): AbortSignal => {
        const refuse = (): never => {
          throw new Error("a method of the caller's");
        };
        for (const name of ["addEventListener", "removeEventListener"])
          Object.defineProperty(signal, name, { value: refuse });
        Object.defineProperty(signal, "reason", { get: refuse });
        return Object.defineProperty(signal, "aborted", { value: aborted });
      };
      const reason = new Error("changed my mind");
      for (const name of METHOD_NAMES) {
        const method = METHODS[name];
        const args = withArgument(method, method.good(w), "options.signal", said(AbortSignal.abort(reason), false));
        assert.equal((await refused("TIMEOUT", () => method.call(store, args), name)).cause, reason, name);
      }
      for (const name of CHECK_NAMES) {
        const check = CHECKS[name];
        assert.equal(
          await check.call(store, [...check.good(w), { signal: said(AbortSignal.abort(reason), false) }]),
          false,
          name,
        );
        assert.equal(
          await check.call(store, [...check.good(w), { signal: said(new AbortController().signal, true) }]),
          true,
          name,
        );
      }
      const controller = new AbortController();
      assert.equal((await store.users.get(w.member, { signal: said(controller.signal, true) })).key, w.member);
      controller.abort();
    },

    "a malformed call whose signal is aborted is INVALID_ARGUMENT": async ({ store }) => {
      const w = await world(store);
      const signal = AbortSignal.abort();
      for (const name of METHOD_NAMES) {
        const method = METHODS[name];
        const args = withArgument(method, method.good(w), "options.signal", signal);
        await refused(
          "INVALID_ARGUMENT",
          () => method.call(store, withArgument(method, args, "options.timeoutMs", 0)),
          name,
        );
      }
    },

    "a check whose signal is aborted already is false, and says so": async ({ store }) => {
      const w = await world(store);
      const signal = AbortSignal.abort(new Error("changed my mind"));
      for (const name of CHECK_NAMES) {
        const check = CHECKS[name];
        assert.equal(await check.call(store, check.good(w)), true, name);
        assert.equal(await check.call(store, [...check.good(w), { signal }]), false, name);
      }
      assert.equal((await store.authorize(w.admin, { signal })).reason, "aborted");
      assert.equal((await store.authorize(w.newKey, { signal })).reason, "aborted");
      assert.equal((await store.authorize("not a key", { signal })).reason, "malformed");
    },

    "a signal that aborts later, or never, ends nothing that is over": async ({ store }) => {
      const controller = new AbortController();
      const w = await world(store);
      const user = await store.users.get(w.member, { signal: controller.signal });
      assert.equal(await store.isAuthorized(w.member, { signal: controller.signal }), true);
      controller.abort();
      assert.deepEqual(await store.users.get(w.member), user);
      assert.equal(await store.isAuthorized(w.member), true);
    },

    "a write aborted in the turn in which it began says that it was not made only if it was not": async ({
      store,
      other,
    }) => {
      const another = await other();
      for (let ticks = 0; ticks < 12; ticks++) {
        const controller = new AbortController();
        const key = unique("user");
        const told = store.users.add({ key }, { signal: controller.signal }).then(
          () => "done" as const,
          (error: unknown) => error,
        );
        for (let tick = 0; tick < ticks; tick++) await Promise.resolve();
        controller.abort();
        const answer = await told;
        if (!isStoreError(answer) || answer.outcome !== "none") continue;
        await sleep(20);
        await refused("NOT_FOUND", () => another.users.get(key), "surely not done");
      }
    },

    "a call aborted on its way settles, and says what is true of its write": async ({ store, other }) => {
      const another = await other();
      for (let round = 0; round < 25; round++) {
        const controller = new AbortController();
        const id = unique("room");
        const owner = unique("owner");
        const creating = store.rooms.create(
          { id, owner, encrypted: true, sealedKey: bytes("k") },
          { signal: controller.signal },
        );
        const told = creating.then(
          () => "done" as const,
          (error: unknown) => error,
        );
        if (round > 0) await sleep((round % 5) / 2);
        else await Promise.resolve();
        controller.abort(new Error("enough"));
        const answer = await told;
        if (answer !== "done") {
          const error = await refused("TIMEOUT", () => creating);
          assert.ok(error.outcome === "none" || error.outcome === "unknown", "a write says what became of it");
          if (error.outcome === "none") {
            await refused("NOT_FOUND", () => another.rooms.get(id));
            await sleep(20);
            await refused("NOT_FOUND", () => another.rooms.get(id), "surely not done");
          }
        }
        // Whole or not at all, and nothing blocks the next attempt. What may have been done can still come to be done.
        const whole = async (): Promise<void> => {
          await settled(async () => {
            assert.deepEqual(
              (await another.members.list(id)).map((member) => member.endpoint),
              [owner],
            );
          });
          await settled(async () => {
            assert.deepEqual(
              (await another.rooms.listForEndpoint(owner)).map((room) => room.id),
              [id],
            );
            assert.deepEqual(
              (await another.members.listForEndpoint(owner)).map((member) => [member.roomId, member.role]),
              [[id, "owner"]],
            );
          });
          await settled(async () => {
            assert.equal((await another.roomKeys.get(id, owner)).epoch, 1);
          });
        };
        if (answer === "done") await whole();
        const next = await together([() => another.rooms.create({ id, owner })]);
        if (next.errors.length === 0) continue;
        assert.equal(next.count("ALREADY_EXISTS"), 1);
        await whole();
        await another.rooms.delete(id);
        await another.rooms.create({ id, owner });
      }
    },

    "a call of one millisecond settles at once, one way or the other": async ({ store }) => {
      const w = await world(store);
      for (const name of METHOD_NAMES.filter((each): each is MethodName => !METHODS[each].writes)) {
        const method = METHODS[name];
        const started = Date.now();
        await method
          .call(store, withArgument(method, method.good(w), "options.timeoutMs", 1))
          .catch((error: unknown) => {
            assert.equal((error as { code?: unknown }).code, "TIMEOUT", name);
          });
        assert.ok(Date.now() - started < 1000, `${name} took ${String(Date.now() - started)} ms`);
      }
      for (const name of CHECK_NAMES) {
        const check = CHECKS[name];
        const started = Date.now();
        assert.equal(typeof (await check.call(store, [...check.good(w), { timeoutMs: 1 }])), "boolean", name);
        assert.ok(Date.now() - started < 1000, `${name} took ${String(Date.now() - started)} ms`);
      }
    },
  }),
];
