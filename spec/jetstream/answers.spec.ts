/**
 * What servers say can arrive in part, or not at all, or be about the client. A call must not take it for more than it
 * is.
 */
import { expect } from "chai";
import { isStoreError, openJetStream, type Store } from "unibus-membership";
import { codeOf } from "../support/code-of.js";
import type { Connection } from "../support/nats-clients.js";
import { useServer } from "../support/use-server.js";
import { eventually, pause } from "../support/wait.js";
import { fenced, isBarrier, readOf } from "./support/messages.js";
import { api } from "./support/streams.js";
import {
  given,
  isEnd,
  messagesOf,
  natsError,
  requestsAlone,
  tapped,
  type Message,
  type Request,
} from "./support/taps.js";

/** Generous: what is tested here is what is answered, on a machine that does much else meanwhile. */
const opTimeoutMs = 20_000;

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

describe("jetstream: answers that come in part, not at all, or tell of the client", function () {
  this.timeout(60_000);
  let inner: Connection;
  let store: Store;
  /** Of which answer of many messages only the end arrives, as after a reconnection in the middle of it. Once. */
  let cut: ((subject: string, payload: string) => boolean) | undefined;
  /** Of which answer one message does not arrive, the one before the last. Once. */
  let lost: typeof cut;
  let between: ((subject: string, send: () => ReturnType<Request>) => ReturnType<Request>) | undefined;
  /** Of which record the next replica that is asked has nothing: it catches up from a snapshot. Once. */
  let hole: string | undefined;
  /** What happens before a record is read. */
  let meanwhile: ((subject: string) => Promise<void>) | undefined;
  const asked: string[] = [];

  useServer((connected) => {
    inner = connected;
  });

  let prefixes = 0;
  let connection: Connection;
  const openStore = (on: Connection): Promise<Store> =>
    openJetStream(on, 1, { prefix: `answers${prefixes}_`, opTimeoutMs });
  beforeEach(async () => {
    cut = lost = between = hole = meanwhile = undefined;
    connection = tapped(inner, {
      request: async (ask, subject, payload, options) => {
        asked.push(subject);
        const read = readOf(subject, payload);
        if (read !== undefined) await meanwhile?.(read);
        let asks = payload;
        if (hole !== undefined && read?.includes(hole) === true) {
          hole = undefined;
          asks = JSON.stringify({ last_by_subj: `${read}.none` });
        }
        const send = (): ReturnType<Request> => ask(subject, asks, options);
        return between === undefined || fenced(subject, options) !== undefined ? send() : between(subject, send);
      },
      requestMany: async (subject, payload, options) => {
        asked.push(subject);
        const messages = await messagesOf(await inner.requestMany(subject, payload, options));
        if (lost?.(subject, String(payload)) === true) {
          lost = undefined;
          return given(messages.toSpliced(-3, 1));
        }
        if (cut?.(subject, String(payload)) !== true) return given(messages);
        cut = undefined;
        return given(messages.filter(isEnd));
      },
    });
    prefixes++;
    store = await openStore(connection);
    // An opening goes on behind its answer, and what it asks is not what is tested.
    await quiet();
  });

  afterEach(() => store.close());

  /** Resolves when nothing is asked of the servers any more. */
  function quiet(): Promise<void> {
    return eventually("nothing is asked any more", async () => {
      asked.length = 0;
      await pause(300);
      return asked.length === 0;
    });
  }

  /**
   * The acknowledgement of the next commit on a room is lost, and the replica that is asked for the room then has none.
   */
  function loseCommit(): void {
    between = async (subject, send) => {
      const answer = await send();
      if (!subject.includes("rooms.room.")) return answer;
      between = undefined;
      hole = "rooms.room.";
      throw natsError("TIMEOUT");
    };
  }

  it("a write that is refused while another of its subject is under way is sent again at once, and asks nothing in between", async () => {
    let refused = 0;
    between = async (subject, send) => {
      const answer = await send();
      if (!subject.includes("users.user.") || refused === 30) return answer;
      refused++;
      return {
        ...answer,
        data: Buffer.from(
          JSON.stringify({ error: { code: 400, err_code: 10164, description: "wrong last sequence" } }),
        ),
      };
    };
    asked.length = 0;
    // The first copy was stored, as by a leader that the client does not hear: the last refusal is a plain one.
    await store.users.add({ key: "guest" });
    expect(refused).to.equal(30);
    expect(asked.slice(0, 31).every((subject) => subject.includes("users.user."))).to.equal(true);
    expect(await store.isAuthorized("guest")).to.equal(true);
  });

  it("a barrier that nobody answers does not hold up the checks that begin after another took its place", async () => {
    await store.users.add({ key: "guest" });
    expect(await store.isAuthorized("guest")).to.equal(true);
    await quiet();
    let swallowed = 0;
    between = (subject, send) => {
      if (!isBarrier(subject, `answers${prefixes}_users`) || swallowed > 0) return send();
      swallowed++;
      return new Promise((_, reject) => setTimeout(() => reject(natsError("TIMEOUT")), 2000));
    };
    // The first one's time is far longer than the checks may take.
    expect(await store.isAuthorized("guest")).to.equal(true);
    expect(swallowed).to.equal(1);
    for (let i = 0; i < 3; i++) expect(await store.isAuthorized("guest", { timeoutMs: 1500 })).to.equal(true);
  });

  it("a list of which only the end arrived is not empty", async () => {
    await store.rooms.create({ id: "r", owner: "o" });
    cut = (subject, payload) => subject.endsWith("rooms_by_member") && payload.includes("multi_last");
    expect((await store.rooms.listForEndpoint("o")).map(({ id }) => id)).to.deep.equal(["r"]);
    expect(cut).to.equal(undefined);
  });

  it("a page of which only the end arrived is not short", async () => {
    for (const key of ["a", "b", "c"]) await store.users.add({ key });
    cut = (subject, payload) => subject.endsWith("users") && payload.includes("multi_last");
    const first = await store.users.list({ limit: 2 });
    expect(first.items.map(({ key }) => key)).to.deep.equal(["a", "b"]);
    expect(cut).to.equal(undefined);
  });

  it("a scan from which a message is missing is not the whole list", async () => {
    for (const key of ["a", "b", "c"]) await store.users.add({ key });
    lost = (subject, payload) => subject.endsWith("users") && payload.includes("next_by_subj");
    const { items } = await store.users.list();
    expect(items.map(({ key }) => key)).to.deep.equal(["a", "b", "c"]);
    expect(lost).to.equal(undefined);
  });

  it("an addition is not taken for one in vain because a replica has no such room", async () => {
    await store.rooms.create({ id: "r", owner: "o" });
    loseCommit();
    await store.members.add("r", { endpoint: "m", state: "joined" });
    expect({ between, hole }).to.deep.equal({ between: undefined, hole: undefined });
    expect((await store.rooms.listForEndpoint("m")).map(({ id }) => id)).to.deep.equal(["r"]);
  });

  it("a rekey is not taken for one in vain because a replica has no such room: its keys stay", async () => {
    await store.rooms.create({ id: "r", owner: "o", encrypted: true, sealedKey: bytes("1") });
    loseCommit();
    await store.roomKeys.rekey("r", new Map([["o", bytes("2")]]), { expectedEpoch: 1 });
    expect({ between, hole }).to.deep.equal({ between: undefined, hole: undefined });
    const key = await store.roomKeys.get("r", "o", 2);
    expect(Buffer.from(key.sealed).toString()).to.equal("2");
  });

  it("an addition to a room that is deleted between its reads does not take a member for none", async () => {
    await using other = await openJetStream(inner, 1, { prefix: `answers${prefixes}_`, opTimeoutMs });
    await other.rooms.create({ id: "r", owner: "o", encrypted: true, sealedKey: bytes("1") });
    // So that the owner's row stands in the bucket, and no longer in the room's record.
    await other.members.add("r", { endpoint: "m" });
    const bucket = `answers${prefixes}_members`;
    let reads = 0;
    meanwhile = async (subject) => {
      // The first one finds the member, which is said only of what is certain.
      if (!subject.startsWith(`$KV.${bucket}.`) || ++reads !== 2) return;
      meanwhile = undefined;
      await other.rooms.delete("r");
      await eventually("its rows are gone", async () => {
        const { state } = (await api(inner, `STREAM.INFO.KV_${bucket}`, { subjects_filter: ">" })) as {
          state: { subjects: object };
        };
        return Object.keys(state.subjects).every((each) => isBarrier(each));
      });
    };
    const adding = store.members.add("r", { endpoint: "o", sealedKey: { epoch: 3, sealed: bytes("3") } });
    expect(await adding.then(() => "done", codeOf)).to.equal("NOT_FOUND");
    expect(meanwhile).to.equal(undefined);
  });

  // These errors are the client's own. Where the store listens by itself they come otherwise, which is in
  // requests.spec.ts.
  it("a write of which the client may not hear the answer is not surely undone, as one is that it may not send", async () => {
    await using own = await openStore(requestsAlone(connection));
    const denied = (operation: string): Error =>
      natsError("PERMISSIONS_VIOLATION", { permissionContext: { operation, subject: "_INBOX.x.*" } });
    for (const [key, operation] of [
      ["heard by the server", "subscription"],
      ["never sent", "publish"],
    ] as const) {
      const user = key.replaceAll(" ", "-");
      between = async (subject, send) => {
        if (!subject.includes("users.user.")) return send();
        if (operation === "subscription") await send();
        throw denied(operation);
      };
      const error = await own.users.add({ key: user }).catch((failure: unknown) => failure);
      between = undefined;
      expect(codeOf(error), key).to.equal("UNAVAILABLE");
      const there = await store.users.get(user).then(
        () => true,
        () => false,
      );
      expect({ there, outcome: isStoreError(error) ? error.outcome : undefined }).to.deep.equal(
        operation === "subscription" ? { there: true, outcome: "unknown" } : { there: false, outcome: "none" },
      );
    }
  });

  it("nothing is published any more for a call that has failed, while another bucket has no leader", async () => {
    await using own = await openStore(requestsAlone(connection));
    await own.rooms.create({ id: "r", owner: "o" });
    await quiet();
    between = (subject, send) => {
      if (isBarrier(subject, `answers${prefixes}_rooms_by_member`))
        return Promise.reject(natsError("PERMISSIONS_VIOLATION", { permissionContext: { operation: "publish" } }));
      return isBarrier(subject, `answers${prefixes}_rooms`) ? Promise.reject(natsError("503")) : send();
    };
    expect(await own.rooms.listForEndpoint("o").then(() => "done", codeOf)).to.equal("UNAVAILABLE");
    await quiet();
  });

  it("a cursor that lies behind everything gives an empty page", async () => {
    await store.users.add({ key: "k" });
    await store.rooms.create({ id: "r", owner: "o" });
    expect(await store.users.list({ after: "czz" })).to.deep.equal({ items: [] });
    expect(await store.rooms.list({ after: "izz" })).to.deep.equal({ items: [] });
    // A place in the list of before has no meaning in this one: the walk begins anew, and leaves out nothing.
    expect((await store.rooms.list({ after: "czz" })).items).to.have.length(1);
  });

  it("headers that tell of one name at a time are asked for each", async () => {
    const bare = tapped(inner, {
      requestMany: async (...sent) => given((await messagesOf(await inner.requestMany(...sent))).map(askedByName)),
    });
    await store.users.addFirstAdmin({ key: "root" });
    await store.users.add({ key: "user" });
    const other = await openStore(bare);
    try {
      expect((await other.users.list()).items.map(({ key }) => key)).to.deep.equal(["root", "user"]);
    } finally {
      await other.close();
    }
  });
});

/** The message as a wrapper may hand it on: its headers cannot be iterated. */
function askedByName({ data, headers }: Message): Message {
  if (headers === undefined) return { data };
  const { code, description } = headers;
  return {
    data,
    headers: {
      code,
      description,
      get: (name) => headers.get(name),
      set: (name, value) => {
        headers.set(name, value);
      },
    },
  };
}
