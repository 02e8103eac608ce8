/**
 * Many change one record at once. A write that was refused may have been stored all the same: what stands in the log
 * tells, however many writes of others followed, and while they go on.
 */
import { expect } from "chai";
import { isStoreError, type Store } from "unibus-membership";
import { codeOf } from "../support/code-of.js";
import type { Connection } from "../support/nats-clients.js";
import { eventually, pause } from "../support/wait.js";
import { fenced } from "./support/messages.js";
import { requestsAlone, tapped } from "./support/taps.js";
import { useTwoStores } from "./support/two-stores.js";

/** Generous: what is tested is what is answered, on a machine that does much else meanwhile. */
const opTimeoutMs = 60_000;
/** After so long without an answer another log could have taken the place of the one that is known. */
const AGED_MS = 1600;
/** More than the ids of writes that a record keeps. */
const MANY = 20;
const token = (id: string): string => Buffer.from(id).toString("base64url");
const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

/** Something that happens right before a message leaves. */
type Before = () => Promise<void>;

function between(inner: Connection) {
  let commit: { readonly subject: string; readonly how: "before" | "behind"; readonly run: Before } | undefined;
  let fence: { readonly of: string; readonly run: Before; left: number } | undefined;
  let isDeaf = false;
  return {
    /** Whether reads have no answer. */
    deaf(is: boolean): void {
      isDeaf = is;
    },
    /** Before the next write of the subject, or once it is stored, and its acknowledgement is taken for a refusal. */
    atCommit(subject: string, how: "before" | "behind", run: Before): void {
      commit = { subject, how, run };
    },
    /** Before each of the next fences of the subject. */
    atFences(of: string, left: number, run: Before): void {
      fence = { of, run, left };
    },
    get isOver(): boolean {
      return commit === undefined && (fence?.left ?? 0) === 0;
    },
    // The client's own requests: the store's timers would go on while others change the record, however long that
    // takes.
    connection: requestsAlone(
      tapped(inner, {
        request: async (send, ...asked) => {
          const [subject, , options] = asked;
          if (isDeaf && subject.startsWith("$JS.API.DIRECT.GET."))
            throw Object.assign(new Error("no answer"), { code: "TIMEOUT" });
          if (fence !== undefined && fence.left > 0 && fenced(subject, options) === fence.of) {
            fence.left--;
            await fence.run();
          }
          if (subject !== commit?.subject) return send(...asked);
          const { how, run } = commit;
          commit = undefined;
          if (how === "before") {
            await run();
            return send(...asked);
          }
          await send(...asked);
          await run();
          const error = { code: 400, err_code: 10071, description: "wrong last sequence" };
          return { data: bytes(JSON.stringify({ error, stream: "", seq: 0 })) };
        },
      }),
    ),
  };
}

/** One after another. */
async function times(count: number, run: (i: number) => Promise<unknown>): Promise<void> {
  for (let i = 0; i < count; i++) await run(i);
}

interface Kind {
  readonly what: string;
  /** Changes at once: those of one user do not wait for each other. */
  readonly racers: number;
  readonly subject: (id: string) => string;
  readonly make: (store: Store, id: string) => Promise<unknown>;
  readonly change: (store: Store, id: string, name: string, signal?: AbortSignal) => Promise<{ readonly name: string }>;
  readonly nameOf: (store: Store, id: string) => Promise<string>;
}

const kinds: readonly Kind[] = [
  {
    what: "room",
    racers: 200,
    subject: (id) => `$KV.rooms.room.${token(id)}`,
    make: (store, id) => store.rooms.create({ id, owner: "owner" }),
    change: (store, id, name, signal) => store.rooms.update(id, { name }, signal === undefined ? {} : { signal }),
    nameOf: async (store, id) => (await store.rooms.get(id)).name,
  },
  {
    what: "user",
    racers: 80,
    subject: (id) => `$KV.users.user.${token(id)}`,
    make: (store, id) => store.users.add({ key: id }),
    change: (store, id, name, signal) => store.users.update(id, { name }, signal === undefined ? {} : { signal }),
    nameOf: async (store, id) => (await store.users.get(id)).name,
  },
];

describe("jetstream: many who change one record at once", function () {
  this.timeout(120_000);
  let held: ReturnType<typeof between>;
  let a: Store;
  let b: Store;

  useTwoStores(between, opTimeoutMs, (stores) => {
    ({ a, b, faults: held } = stores);
  });

  for (const { what, racers, subject, make, change, nameOf } of kinds) {
    const named = (id: string): string => `${id}-${what}`;
    const byOthers = (id: string): Promise<void> => times(MANY, (i) => change(a, id, `of others ${String(i)}`));

    it(`a ${what} is changed, once, although many changes came between the read and the write`, async () => {
      const id = named("before");
      await make(a, id);
      held.atCommit(subject(id), "before", () => byOthers(id));
      expect((await change(b, id, "last")).name).to.equal("last");
      expect(held.isOver).to.equal(true);
      expect(await nameOf(a, id)).to.equal("last");
    });

    it(`a ${what} is changed, once, although it was refused, and many changes came behind`, async () => {
      const id = named("behind");
      await make(a, id);
      held.atCommit(subject(id), "behind", () => byOthers(id));
      await change(b, id, "first");
      expect(held.isOver).to.equal(true);
      // It is not made again over what others made of it.
      expect(await nameOf(a, id)).to.equal(`of others ${String(MANY - 1)}`);
      expect(await nameOf(b, id)).to.equal(`of others ${String(MANY - 1)}`);
    });

    it(`a ${what} is changed although it changes before each look at it`, async () => {
      const id = named("each");
      await make(a, id);
      held.atCommit(subject(id), "before", () => change(a, id, "other").then(() => undefined));
      held.atFences(subject(id), 3, () => times(6, (i) => change(a, id, String(i))));
      await change(b, id, "last");
      expect(held.isOver).to.equal(true);
      expect(await nameOf(a, id)).to.equal("last");
    });

    it(`a ${what} that changes before each look at it was surely not changed by a call that is given up then`, async () => {
      let round = 0;
      // A store that has heard nothing for a second looks first which log it is: then nobody knows.
      await eventually("it is known", async () => {
        const id = named(`none-${String(++round)}`);
        await make(a, id);
        const aborting = new AbortController();
        let looks = 0;
        held.atCommit(subject(id), "before", () => change(a, id, "other").then(() => undefined));
        held.atFences(subject(id), 3, async () => {
          await change(a, id, `another ${String(++looks)}`);
          if (looks === 3) aborting.abort();
        });
        const error: unknown = await change(b, id, "last", aborting.signal).catch((thrown: unknown) => thrown);
        if (!isStoreError(error)) throw new Error("it was given up");
        expect([held.isOver, error.code]).to.deep.equal([true, "TIMEOUT"]);
        expect(await nameOf(a, id)).to.equal("another 3");
        return error.outcome === "none";
      });
    });

    it(`of ${String(racers)} changes of a ${what} by two stores, all are made`, async () => {
      const id = named("race");
      await make(a, id);
      const made = Array.from({ length: racers }, (_, i) => change(i % 2 === 0 ? a : b, id, `name ${String(i)}`));
      const names = new Set((await Promise.all(made)).map(({ name }) => name));
      expect(names.size).to.equal(racers);
      expect(names).to.include(await nameOf(a, id));
    });
  }

  it("a user is changed, once, although its own store changed it many times before that was known", async () => {
    await a.users.add({ key: "own" });
    held.atCommit(`$KV.users.user.${token("own")}`, "behind", () =>
      times(MANY, (i) => b.users.update("own", { name: String(i) })),
    );
    await b.users.update("own", { name: "first" });
    expect(held.isOver).to.equal(true);
    expect((await a.users.get("own")).name).to.equal(String(MANY - 1));
  });

  it("a change that its caller gave up takes nothing away by which the log is known", async () => {
    await b.users.add({ key: "known" });
    await b.users.update("known", { name: "heard of" });
    const aborting = new AbortController();
    held.atCommit(`$KV.users.user.${token("known")}`, "behind", () => {
      // Nor does it find out that its change was stored: then it would know the log by that.
      held.deaf(true);
      aborting.abort();
      return Promise.resolve();
    });
    const given = await b.users.update("known", { name: "given up" }, { signal: aborting.signal }).catch(codeOf);
    expect([held.isOver, given]).to.deep.equal([true, "TIMEOUT"]);
    // It hears nothing, and then looks whether the log is the one that it knows.
    await pause(AGED_MS);
    held.deaf(false);
    expect(await b.isAuthorized("known")).to.equal(true);
    expect((await b.users.get("known")).name).to.equal("given up");
  });

  it("of two hundred members that two stores add to a room, all are there", async () => {
    await a.rooms.create({ id: "members", owner: "owner" });
    const endpoints = Array.from({ length: 200 }, (_, i) => `endpoint ${String(i)}`);
    await Promise.all(
      endpoints.map((endpoint, i) => (i % 2 === 0 ? a : b).members.add("members", { endpoint, state: "joined" })),
    );
    const there = (await a.members.list("members")).map(({ endpoint }) => endpoint);
    expect(there).to.have.members([...endpoints, "owner"]);
  });

  it("a rekey, which waits for nobody, is made once although its own store changed the room meanwhile", async () => {
    const id = "rekeyed";
    await a.rooms.create({ id, owner: "owner", encrypted: true, sealedKey: bytes("1") });
    held.atCommit(`$KV.rooms.room.${token(id)}`, "before", async () => {
      await times(MANY, (i) => b.rooms.update(id, { name: String(i) }));
    });
    const { epoch } = await b.roomKeys.rekey(id, new Map([["owner", bytes("2")]]), { expectedEpoch: 1 });
    expect(held.isOver).to.equal(true);
    expect(epoch).to.equal(2);
    expect((await a.rooms.get(id)).name).to.equal(String(MANY - 1));
  });
});
