/** What is told over channels of node:diagnostics_channel, and that no sealed key is in any of it. */
import { expect } from "chai";
import { Buffer } from "node:buffer";
import { mkdtemp, rm } from "node:fs/promises";
import { AsyncLocalStorage } from "node:async_hooks";
import { channel, subscribe, unsubscribe } from "node:diagnostics_channel";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { inspect } from "node:util";
import {
  exportStore,
  hasAdmin,
  importStore,
  isAdmin,
  isAuthorized,
  isMember,
  openSqlite,
  type DecisionMessage,
  type EventMessage,
  type OperationMessage,
  type Store,
} from "unibus-membership";
import { openMemory } from "unibus-membership/testing";
import { describeBackends } from "./support/backends.js";
import { eventually } from "./support/wait.js";

const opTimeoutMs = 20_000;
const OPERATION = ["start", "end", "asyncStart", "asyncEnd", "error"].map(
  (event) => `tracing:unibus-membership:operation:${event}`,
);
const DECISION = "unibus-membership:decision";
const EVENT = "unibus-membership:event";

interface Told<T> {
  readonly name: string;
  readonly message: T;
}

/** All that is told on these channels while `run` goes on. */
async function toldOf<T>(names: readonly string[], run: () => Promise<unknown>): Promise<Told<T>[]> {
  const all: Told<T>[] = [];
  const listeners = names.map((name) => {
    // Copied: one object goes through all channels of an operation.
    const listener = (message: unknown): void => void all.push({ name, message: { ...(message as object) } as T });
    subscribe(name, listener);
    return () => unsubscribe(name, listener);
  });
  try {
    await run();
  } finally {
    for (const stop of listeners) stop();
  }
  return all;
}

const code = (attempt: Promise<unknown>): Promise<unknown> => attempt.catch((error: unknown) => error);

/** Each method once, and some that are refused. Answers the names, in order. */
async function everyMethod(store: Store, sealed: Uint8Array): Promise<string[]> {
  const called: string[] = [];
  const call = async (name: string, work: Promise<unknown>): Promise<void> => {
    called.push(name);
    await code(work);
  };
  await call("users.addFirstAdmin", store.users.addFirstAdmin({ key: "root" }));
  await call("users.addFirstAdmin", store.users.addFirstAdmin({ key: "another" }));
  await call("users.add", store.users.add({ key: "guest" }));
  await call("users.get", store.users.get("nobody"));
  await call("users.update", store.users.update("guest", { name: "named" }));
  await call("users.revoke", store.users.revoke("guest"));
  await call("users.reinstate", store.users.reinstate("guest"));
  await call("users.list", store.users.list());
  await call("rooms.create", store.rooms.create({ id: "r", owner: "o", encrypted: true, sealedKey: sealed }));
  await call("rooms.create", store.rooms.create({ id: "r", owner: "o", encrypted: true, sealedKey: sealed }));
  await call("rooms.create", store.rooms.create({ id: "plain", owner: "o", sealedKey: sealed }));
  await call("rooms.get", store.rooms.get("r"));
  await call("rooms.update", store.rooms.update("r", { name: "named" }));
  await call("rooms.list", store.rooms.list());
  await call("rooms.listForEndpoint", store.rooms.listForEndpoint("o"));
  await call("members.add", store.members.add("r", { endpoint: "m", sealedKey: { epoch: 1, sealed } }));
  await call("members.add", store.members.add("r", { endpoint: "late", sealedKey: { epoch: 9, sealed } }));
  await call("members.get", store.members.get("r", "m"));
  await call("members.join", store.members.join("r", "m"));
  await call("members.list", store.members.list("r"));
  await call("members.listForEndpoint", store.members.listForEndpoint("m"));
  await call("members.add", store.members.add("r", { endpoint: "without" }));
  await call("roomKeys.put", store.roomKeys.put("r", "without", 1, sealed));
  await call("roomKeys.put", store.roomKeys.put("r", "without", 1, sealed));
  await call("roomKeys.put", store.roomKeys.put("r", "without", 7, sealed));
  await call("roomKeys.put", store.roomKeys.put("r", "", 1, sealed));
  await call("roomKeys.get", store.roomKeys.get("r", "m"));
  await call("roomKeys.list", store.roomKeys.list("r", "m"));
  const all = new Map(["o", "m", "without"].map((endpoint) => [endpoint, sealed]));
  await call("roomKeys.rekey", store.roomKeys.rekey("r", all, { expectedEpoch: 1 }));
  await call("roomKeys.rekey", store.roomKeys.rekey("r", all, { expectedEpoch: 1 }));
  await call("roomKeys.rekey", store.roomKeys.rekey("r", new Map([["o", sealed]]), { expectedEpoch: 2 }));
  await call("members.remove", store.members.remove("r", "m"));
  await call("rooms.delete", store.rooms.delete("r"));
  return called;
}

async function everyCheck(store: Store): Promise<void> {
  await store.authorize("ROOT");
  for (const key of ["root", "guest", "out", "over", "nobody", "two words"]) {
    await isAuthorized(store, key);
    await isAdmin(store, key, { maxStalenessMs: 60_000 });
  }
  await isAuthorized(store, "root", { maxStalenessMs: 60_000, signal: AbortSignal.abort() });
  await isMember(store, "r", "o");
  await isMember(store, "r", "nobody", { maxStalenessMs: 60_000 });
  await hasAdmin(store);
  (await store.session("root"))[Symbol.dispose]();
  (await store.session("out"))[Symbol.dispose]();
  (await store.session("two words"))[Symbol.dispose]();
}

describe("diagnostics", function () {
  this.timeout(120_000);

  describeBackends((open) => {
    let store: Store;
    beforeEach(async () => {
      store = await open({ opTimeoutMs });
    });
    afterEach(() => store.close());

    it("trace each operation: its begin, its end, and how it ended", async () => {
      let called: string[] = [];
      const told = await toldOf<OperationMessage>(OPERATION, async () => {
        called = await everyMethod(store, Buffer.from("sealed"));
      });
      const of = (event: string): OperationMessage[] =>
        told.filter(({ name }) => name.endsWith(`:${event}`)).map(({ message }) => message);
      for (const event of ["start", "end", "asyncStart", "asyncEnd"])
        expect(of(event).map(({ operation }) => operation)).to.deep.equal(called);
      for (const { backend, durationMs } of of("asyncEnd")) {
        expect(backend).to.equal(store.backend);
        expect(durationMs).to.be.at.least(0);
      }
      expect(of("error").map(({ operation, code }) => `${operation} ${code ?? ""}`)).to.deep.equal([
        "users.addFirstAdmin CONFLICT",
        "users.get NOT_FOUND",
        "rooms.create ALREADY_EXISTS",
        "rooms.create CONFLICT",
        "members.add CONFLICT",
        "roomKeys.put ALREADY_EXISTS",
        "roomKeys.put CONFLICT",
        "roomKeys.put INVALID_ARGUMENT",
        "roomKeys.rekey CONFLICT",
        "roomKeys.rekey CONFLICT",
      ]);
    });

    it("carry what a tracer binds to the beginning of an operation", async () => {
      const spans = new AsyncLocalStorage<string>();
      const start = channel("tracing:unibus-membership:operation:start");
      const seen: (string | undefined)[] = [];
      const end = (): void => void seen.push(spans.getStore());
      start.bindStore(spans, (message) => (message as OperationMessage).operation);
      subscribe("tracing:unibus-membership:operation:asyncEnd", end);
      await store.users.list();
      unsubscribe("tracing:unibus-membership:operation:asyncEnd", end);
      start.unbindStore(spans);
      expect(seen).to.deep.equal(["users.list"]);
    });

    it("tell each decision, with its reason and what it rests on", async () => {
      await store.users.addFirstAdmin({ key: "root" });
      for (const key of ["guest", "out"]) await store.users.add({ key });
      await store.users.add({ key: "over", expiresAt: new Date(1) });
      await store.users.revoke("out");
      await store.rooms.create({ id: "r", owner: "o" });
      const before = Date.now();
      const told = await toldOf<DecisionMessage>([DECISION], () => everyCheck(store));
      const said = told.map(({ message: { check, key, roomId, endpoint, allowed, reason } }) =>
        [check, key, roomId, endpoint, allowed ? "yes" : "no", reason].filter((part) => part !== undefined).join(" "),
      );
      const ofUsers = [
        ["root", "yes active", "yes active"],
        ["guest", "yes active", "no notAdmin"],
        ["out", "no revoked", "no revoked"],
        ["over", "no expired", "no expired"],
        ["nobody", "no unknown", "no unknown"],
      ].flatMap(([key = "", allowed = "", admin = ""]) => [
        `isAuthorized ${key} ${allowed}`,
        `isAdmin ${key} ${admin}`,
      ]);
      expect(said).to.deep.equal([
        "authorize root yes active",
        ...ofUsers,
        "isAuthorized no malformed",
        "isAdmin no malformed",
        "isAuthorized root no aborted",
        "isMember r o yes active",
        "isMember r nobody no notMember",
        "hasAdmin yes active",
        "session root yes active",
        "session out no revoked",
        "session no malformed",
      ]);
      for (const { message } of told) {
        const { check, reason, proof, durationMs, backend } = message;
        expect(backend).to.equal(store.backend);
        expect(durationMs).to.be.at.least(0);
        // What proves nothing rests on nothing.
        if (reason === "malformed" || reason === "aborted") expect(proof, JSON.stringify(message)).to.equal(undefined);
        if (check === "session" || ["malformed", "aborted", "unknown"].includes(reason)) continue;
        expect(proof?.backend, JSON.stringify(message)).to.equal(store.backend);
        expect(proof?.staleMs).to.be.at.least(0);
        expect(proof?.provedAt.getTime()).to.be.greaterThan(before - 60_000);
        if (proof?.backend === "sqlite") expect(Number.parseInt(proof.transaction, 36)).to.be.greaterThan(0);
        if (proof?.backend !== "jetstream") continue;
        const place = check === "isMember" ? proof.rooms : proof.users;
        expect(place?.seq).to.be.greaterThan(0);
        expect(place?.asOf).to.be.at.least(place?.seq ?? Infinity);
      }
      const decision = await store.authorize("root");
      expect(decision.proof?.backend).to.equal(store.backend);
    });

    it("answer as they do where nobody listens, of a closed store too", async () => {
      await store.users.addFirstAdmin({ key: "root" });
      await store.users.add({ key: "guest" });
      const answers = async (): Promise<unknown[]> => [
        await store.isAuthorized("ROOT"),
        await store.isAdmin("guest"),
        await store.isAuthorized("guest", { maxStalenessMs: 60_000 }),
        await store.isMember("r", "o"),
        await store.isAuthorized("guest", { signal: AbortSignal.abort() }),
        await store.isAuthorized("guest", { timeoutMs: 0 }),
        await store.hasAdmin(),
        (await store.authorize("nobody")).reason,
      ];
      const whileHeard = async (): Promise<unknown[]> => {
        let heard: unknown[] = [];
        await toldOf([...OPERATION, DECISION, EVENT], async () => {
          heard = await answers();
        });
        return heard;
      };
      expect(await whileHeard()).to.deep.equal(await answers());
      await store.close();
      expect(await whileHeard()).to.deep.equal(await answers());
    });

    it("have no sealed key in any message, in whatever encoding", async () => {
      // Long, and not text, so that each encoding shows it.
      const sealed = Buffer.from(Array.from({ length: 48 }, (_, i) => (i * 37 + 11) % 256));
      const told = await toldOf<unknown>([...OPERATION, DECISION, EVENT], async () => {
        await everyMethod(store, sealed);
        await everyCheck(store);
        await store.close();
        await everyMethod(store, sealed);
        await everyCheck(store);
      });
      expect(told.length).to.be.greaterThan(100);
      const encodings = ["hex", "base64", "base64url", "latin1", "utf8"] as const;
      const needles = [
        ...encodings.map((encoding) => sealed.toString(encoding)),
        // base64 of what something stands before.
        ...[1, 2].map((skip) => sealed.subarray(skip).toString("base64").slice(0, 40)),
        sealed.toString("hex").toUpperCase(),
        // As an array is printed, and as an object with the places for names.
        [...sealed].join(","),
        [...sealed].map((byte, place) => `"${place}":${byte}`).join(","),
      ];
      const expectNone = (text: string): void => {
        const together = text.replaceAll(/\s+/g, "");
        for (const needle of needles) {
          expect(text).not.to.contain(needle);
          expect(together).not.to.contain(needle);
        }
      };
      for (const { message } of told) {
        expectNone(JSON.stringify(message, (_, value: unknown) => (value instanceof Error ? inspect(value) : value)));
        expectNone(inspect(message, { depth: Infinity, maxArrayLength: Infinity, maxStringLength: Infinity }));
      }
      // What would show it, if it were there.
      for (const leak of [{ sealed: new Uint8Array(sealed) }, { key: [{ sealed }] }, { sealed: [...sealed] }]) {
        expect(() => expectNone(JSON.stringify(leak)), "bytes that are there").to.throw();
        expect(() => expectNone(inspect(leak, { depth: Infinity, maxArrayLength: Infinity }))).to.throw();
      }
    });
  });

  it("tell what no call is told: a checkpoint, and that a watch begins anew", async () => {
    const folder = await mkdtemp(join(tmpdir(), "unibus-diagnostics-"));
    const told = await toldOf<EventMessage>([EVENT], async () => {
      const file = await openSqlite(join(folder, "membership.db"), { opTimeoutMs });
      await file.users.addFirstAdmin({ key: "root" });
      const memory = await openMemory({ opTimeoutMs });
      const watch = memory.watch({ proveEveryMs: 10 });
      const events: string[] = [];
      const listening = (async () => {
        for await (const { type } of watch) events.push(type);
      })();
      await eventually("the watch is proved", () => events.includes("proved"));
      await importStore(exportStore(file), memory);
      await eventually("it begins anew", () => events.includes("resync"));
      await watch.close();
      await listening;
      await memory.close();
      await file.close();
    });
    await rm(folder, { recursive: true });
    const types = told.map(({ message: { type, backend } }) => `${backend} ${type}`);
    expect(types).to.include("memory resync");
    expect(types).to.include("sqlite checkpoint");
  });
});
