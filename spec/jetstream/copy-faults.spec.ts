import { expect } from "chai";
import { Buffer } from "node:buffer";
import { openJetStream, type NatsConnection, type Store } from "unibus-membership";
import type { Connection } from "../support/nats-clients.js";
import { useServer } from "../support/use-server.js";
import { codeOf } from "../support/code-of.js";
import { eventually, pause, signal } from "../support/wait.js";
import { fenced, isBarrier, isCatchUp, readOf } from "./support/messages.js";
import { api, streamInfo } from "./support/streams.js";
import { given, isEnd, messagesOf, natsError, tapped, type Message, type Request } from "./support/taps.js";

/** Generous: what is tested here is what is answered, on a machine that does much else meanwhile. */
const opTimeoutMs = 20_000;

/** Longer than another log may take the place of the one that is known, unnoticed. */
const OUTAGE_MS = 2500;

/** Longer than what a store takes for no interruption. */
const IDLE_MS = 1100;

/** Longer than an acknowledgement takes that leaves no doubt. */
const LATE_ACK_MS = 1600;

/** Less than a store with more time looks for who explains a gap. */
const SHORT_MS = 100;

/** Longer than a store looks for who explains a gap. */
const LATE_MS = 200;

/** What may be done to what a store says to the servers, and to what they say: nothing is made up. */

interface Taps {
  connection: NatsConnection;
  /** Between a replica's answer to a catch-up and its delivery. */
  afterCatchUp: ((messages: readonly Message[]) => Promise<readonly Message[]>) | undefined;
  beforeCatchUp: (() => Promise<void>) | undefined;
  /** Before a record is read. */
  beforeRead: ((subject: string) => Promise<void>) | undefined;
  /** So many barriers are answered as by a stream without a leader. */
  refuse: number;
  barrier: ((send: () => ReturnType<Request>) => ReturnType<Request>) | undefined;
  /** The same for a fence of a record. */
  fence: ((of: string, send: () => ReturnType<Request>) => ReturnType<Request>) | undefined;
  /** The subject of the last barrier. */
  slot: string;
  /** What was asked. */
  readonly counts: { barriers: number; fences: number; reads: number; catchUps: number };
}

/**
 * The first barrier is stored, and its acknowledgement waits for `deliver`; those after it are not sent before `goOn`.
 */
function held() {
  const [stored, delivered, gone] = [signal(), signal(), signal()];
  let first = true;
  return {
    tap: async (send: () => ReturnType<Request>): ReturnType<Request> => {
      if (!first) {
        await gone.happened;
        return send();
      }
      first = false;
      const answer = await send();
      stored.now();
      await delivered.happened;
      return answer;
    },
    stored: stored.happened,
    deliver: delivered.now,
    goOn: gone.now,
  };
}

function tappedCopy(connection: Connection): Taps {
  const counts = { barriers: 0, fences: 0, reads: 0, catchUps: 0 };
  const taps: Taps = {
    afterCatchUp: undefined,
    beforeCatchUp: undefined,
    beforeRead: undefined,
    refuse: 0,
    barrier: undefined,
    fence: undefined,
    slot: "",
    counts,
    connection: tapped(connection, {
      request: async (ask, subject, payload, options) => {
        const send = (): ReturnType<Request> => ask(subject, payload, options);
        const read = readOf(subject, payload);
        if (read !== undefined) {
          counts.reads++;
          await taps.beforeRead?.(read);
        }
        if (!isBarrier(subject)) return send();
        const of = fenced(subject, options);
        if (of !== undefined) {
          counts.fences++;
          return taps.fence === undefined ? send() : taps.fence(of, send);
        }
        counts.barriers++;
        taps.slot = subject;
        if (taps.refuse > 0) {
          taps.refuse--;
          throw natsError("503");
        }
        return taps.barrier === undefined ? send() : taps.barrier(send);
      },
      requestMany: async (subject, payload, options) => {
        const answers = (): ReturnType<Connection["requestMany"]> => connection.requestMany(subject, payload, options);
        if (!isCatchUp(payload)) return answers();
        counts.catchUps++;
        await taps.beforeCatchUp?.();
        const after = taps.afterCatchUp;
        return after === undefined ? answers() : given(await after(await messagesOf(await answers())));
      },
    }),
  };
  return taps;
}

/** As a replica answers that has come less far: the messages before one, and the end that tells of them. */
function prefix(messages: readonly Message[], until: (message: Message) => boolean): readonly Message[] {
  const end = messages.at(-1);
  const cut = messages.findIndex((message) => !isEnd(message) && until(message));
  if (end === undefined || cut < 0) return messages;
  const last = messages[cut - 1]?.headers?.get("Nats-Sequence") ?? "0";
  const headers = end.headers;
  if (headers === undefined) throw new Error("an answer ends with a status");
  headers.set("Nats-Last-Sequence", last);
  headers.set("Nats-Num-Pending", "0");
  return [...messages.slice(0, cut), end];
}

/** Whether it happens before the check is answered, which can be without it. */
const isFirst = (happened: Promise<void>, check: Promise<boolean>): Promise<boolean> =>
  Promise.race([happened.then(() => true), check.then(() => false)]);

/** Of two checks: the first rests on what is kept alone, the second reads the record beside it, and says why. */
async function isRevoked(store: Store, key: string): Promise<void> {
  expect(await store.isAuthorized(key)).to.equal(false);
  expect((await store.authorize(key)).reason).to.equal("revoked");
}

/** What the keys of a store's barriers have in common. */
const groupOf = (slot: string): string => slot.replace(/-\d+$/, "");

const subjectOf = (message: Message): string => message.headers?.get("Nats-Subject") ?? "";

// What a store keeps of the users has to be right whatever becomes of the answers that it is made of.
describe("what a store keeps of the users, when answers are late, lost or of another log", function () {
  this.timeout(60_000);
  let raw: Connection;
  let other: Connection;
  useServer((first, second) => {
    [raw, other] = [first, second];
  });

  let prefixes = 0;

  /** Two stores on the same buckets, of which the first keeps a guest who may come in. */
  async function stores(options: { cacheBytes?: number } = {}) {
    const prefix = `faults${prefixes++}_`;
    const taps = tappedCopy(raw);
    const here = await openJetStream(taps.connection, 1, { prefix, opTimeoutMs, ...options });
    const there = await openJetStream(other, 1, { prefix, opTimeoutMs });
    await here.users.addFirstAdmin({ key: "root" });
    await here.users.add({ key: "guest" });
    for (let i = 0; i < 3; i++) expect(await here.isAuthorized("guest")).to.equal(true);
    /** Checks until what is checked is kept. */
    const warm = (check: () => Promise<boolean>): Promise<void> =>
      eventually("a check costs a barrier alone", async () => {
        const costs = await costsOf(async () => {
          expect(await check()).to.equal(true);
        });
        return costs.barriers === 1 && costs.fences + costs.reads + costs.catchUps === 0;
      });
    const costsOf = async (run: () => Promise<unknown>): Promise<Taps["counts"]> => {
      const before = { ...taps.counts };
      await run();
      const { barriers, fences, reads, catchUps } = taps.counts;
      return {
        barriers: barriers - before.barriers,
        fences: fences - before.fences,
        reads: reads - before.reads,
        catchUps: catchUps - before.catchUps,
      };
    };
    const guest = (): Promise<boolean> => here.isAuthorized("guest");
    return {
      prefix,
      taps,
      here,
      there,
      warm,
      costsOf,
      guest,
      bucket: (name: string) => `${prefix}${name}`,
      /**
       * Two messages of which the second supersedes the first, and says nothing of it: nobody knows what stood there.
       */
      gap: async (bucket = "users"): Promise<void> => {
        for (let i = 0; i < 2; i++) await publish(`$KV.${prefix}${bucket}.barrier.x`, "{}");
      },
      [Symbol.asyncDispose]: async (): Promise<void> => {
        await Promise.all([here.close(), there.close()]);
      },
    };
  }

  const publish = (subject: string, data: string): Promise<Message> =>
    other.request(subject, data, { timeout: 10_000 });

  /** The newest message of a subject. */
  async function lastOf(bucket: string, subject: string): Promise<{ readonly seq: number; readonly data: string }> {
    const body = JSON.stringify({ last_by_subj: subject });
    const { data, headers } = await other.request(`$JS.API.DIRECT.GET.KV_${bucket}`, body, { timeout: 5000 });
    return { seq: Number(headers?.get("Nats-Sequence")), data: Buffer.from(data).toString() };
  }

  /** A bucket's stream is made anew, empty. */
  async function remake(bucket: string): Promise<void> {
    const { config } = await streamInfo(other, bucket);
    await api(other, `STREAM.DELETE.KV_${bucket}`);
    await api(other, `STREAM.CREATE.KV_${bucket}`, config);
  }

  /** Another log of so many messages: those that are given, each at its place, and barriers of which nobody knows. */
  async function replace(
    bucket: string,
    length: number,
    given: ReadonlyMap<number, readonly [subject: string, data: string]>,
  ): Promise<void> {
    await remake(bucket);
    for (let seq = 1; seq <= length; seq++) {
      const [subject, data] = given.get(seq) ?? [`$KV.${bucket}.barrier.x`, "{}"];
      await publish(subject, data);
    }
  }

  const revokedOf = (data: string, more: object = {}): string => {
    const record = JSON.parse(data) as { user: object };
    return JSON.stringify({ ...record, ...more, user: { ...record.user, revokedAt: 1 } });
  };

  /** As another store of the same keys has it. */
  const theirs = (slot: string): string =>
    JSON.stringify({ k: slot.split(".").slice(2).join("."), s: "another", b: [] });

  it("an answer that is later than the loss and return of the leader does not put old records over new ones", async () => {
    await using all = await stores();
    const { taps, here, there, warm, guest } = all;
    await warm(guest);
    await there.users.update("guest", { name: "renamed" });
    const [inFlight, release] = [signal(), signal()];
    taps.afterCatchUp = async (messages) => {
      inFlight.now();
      await release.happened;
      return messages;
    };
    const early = here.isAuthorized("guest");
    await inFlight.happened;
    taps.afterCatchUp = undefined;
    await there.users.revoke("guest");
    taps.refuse = 1;
    await isRevoked(here, "guest");
    expect(taps.refuse).to.equal(0);
    release.now();
    await early;
    for (let i = 0; i < 5; i++) await isRevoked(here, "guest");
  });

  it("checks that wait through an outage do not hide that another log takes the place of the known one meanwhile", async () => {
    await using all = await stores();
    const { taps, here, there, warm, guest, bucket } = all;
    await warm(guest);
    await there.users.add({ key: "somebody" });
    const { config } = await streamInfo(other, bucket("users"));
    const gone = signal();
    taps.beforeCatchUp = async () => {
      taps.beforeCatchUp = undefined;
      await api(other, `STREAM.DELETE.KV_${bucket("users")}`);
      gone.now();
    };
    const early = here.isAuthorized("guest", { timeoutMs: 8000 });
    await gone.happened;
    await pause(OUTAGE_MS);
    await api(other, `STREAM.CREATE.KV_${bucket("users")}`, config);
    for (let i = 0; i < 60; i++) await publish(`$KV.${bucket("users")}.barrier.x`, "{}");
    // It began while the user was there: either answer is right.
    await early;
    // A bucket without what opening put there proves nothing: whether it says so or no answer comes in time, it denies.
    for (let i = 0; i < 5; i++) expect(await here.isAuthorized("guest", { timeoutMs: 1000 })).to.equal(false);
  });

  it("a barrier that was on its way when a check began proves nothing to it", async () => {
    await using all = await stores();
    const { taps, here, there, warm } = all;
    // More than once: a machine that stops here lets the store read anew, which is right in any case.
    for (let round = 0; round < 5; round++) {
      const key = `guest-${String(round)}`;
      await here.users.add({ key });
      await warm(() => here.isAuthorized(key));
      const barriers = held();
      taps.barrier = barriers.tap;
      const early = here.isAuthorized(key);
      if (!(await isFirst(barriers.stored, early))) {
        barriers.goOn();
        taps.barrier = undefined;
        continue;
      }
      await there.users.revoke(key);
      const late = here.isAuthorized(key);
      barriers.deliver();
      // It began before the revocation: either answer is right.
      await early;
      barriers.goOn();
      expect(await late).to.equal(false);
      taps.barrier = undefined;
    }
  });

  it("so does a fence", async () => {
    await using all = await stores();
    const { taps, here, there, warm, gap } = all;
    for (let round = 0; round < 5; round++) {
      const key = `guest-${String(round)}`;
      await here.users.add({ key });
      await warm(() => here.isAuthorized(key));
      const fences = held();
      taps.fence = (of, send) => (of.endsWith(".store") ? send() : fences.tap(send));
      // What is kept is known as it was, and no more.
      await gap();
      const early = here.isAuthorized(key);
      await fences.stored;
      await there.users.revoke(key);
      const late = here.isAuthorized(key);
      // Its barrier comes to nothing: it waits for the fence.
      await pause(LATE_MS);
      fences.deliver();
      await early;
      fences.goOn();
      expect(await late).to.equal(false);
      taps.fence = undefined;
    }
  });

  it("what is proved late is not kept where the user was changed meanwhile", async () => {
    await using all = await stores();
    const { taps, here, there, warm, guest } = all;
    // More than once, as above.
    for (let round = 0; round < 5; round++) {
      const key = `late-${String(round)}`;
      await there.users.add({ key });
      await warm(guest);
      // Of one store each barrier takes the place of the one before: what is kept passes over the fence only where it
      // still stands.
      const [barriers, fences] = [held(), held()];
      // So that there is something to read.
      await there.users.add({ key: `more-${String(round)}` });
      taps.barrier = barriers.tap;
      taps.fence = (of, send) => (of.endsWith(Buffer.from(key).toString("base64url")) ? fences.tap(send) : send());
      const kept = guest();
      if (!(await isFirst(barriers.stored, kept))) {
        barriers.goOn();
        taps.fence = taps.barrier = undefined;
        continue;
      }
      const early = here.isAuthorized(key);
      await fences.stored;
      await there.users.revoke(key);
      // What is kept is brought beyond the revocation, of a user who is not among it.
      barriers.deliver();
      barriers.goOn();
      expect(await kept).to.equal(true);
      fences.deliver();
      fences.goOn();
      // It began before the revocation: either answer is right.
      await early;
      taps.fence = taps.barrier = undefined;
      for (let i = 0; i < 2; i++) await isRevoked(here, key);
    }
  });

  it("nor where the change stands behind a gap that nobody explains", async () => {
    await using all = await stores();
    const { taps, here, there, warm, guest, gap } = all;
    for (let round = 0; round < 5; round++) {
      const key = `hidden-${String(round)}`;
      await there.users.add({ key });
      await warm(guest);
      const fences = held();
      taps.fence = (of, send) => (of.endsWith(Buffer.from(key).toString("base64url")) ? fences.tap(send) : send());
      const early = here.isAuthorized(key);
      await fences.stored;
      await gap();
      await there.users.revoke(key);
      // What is kept begins anew behind the revocation.
      expect(await guest()).to.equal(true);
      fences.deliver();
      fences.goOn();
      await early;
      taps.fence = undefined;
      for (let i = 0; i < 2; i++) await isRevoked(here, key);
    }
  });

  it("nor where the change that came meanwhile had to make room for others", async () => {
    // A fourth of it is for rooms: more than one of their records, and less than four.
    await using all = await stores({ cacheBytes: 4 * 4000 });
    const { taps, here, there, warm } = all;
    const others = ["b", "c", "d"];
    for (const id of ["z", "a", ...others]) {
      await there.rooms.create({ id, name: id.repeat(200), owner: "own" });
      for (const endpoint of ["bob", "carol"]) await there.members.add(id, { endpoint, state: "joined" });
    }
    const isOf = (id: string, subject: string): boolean =>
      subject.endsWith(`rooms.room.${Buffer.from(id).toString("base64url")}`);
    const zed = (): Promise<boolean> => here.isMember("z", "bob");
    await warm(zed);
    // So that there is something to read.
    await there.rooms.create({ id: "more", owner: "own" });
    const [barriers, fences, read, asked] = [held(), held(), signal(), signal()];
    let waiting = 0;
    taps.barrier = barriers.tap;
    taps.fence = (of, send) => (isOf("a", of) ? fences.tap(send) : send());
    taps.beforeRead = async (subject) => {
      if (!others.some((id) => isOf(id, subject))) return;
      if (++waiting === others.length) asked.now();
      await read.happened;
    };
    const kept = zed();
    // A machine that stopped here let the store look at the log anew: there is nothing to be seen then.
    if (!(await isFirst(barriers.stored, kept))) return;
    const early = here.isMember("a", "bob");
    await fences.stored;
    // These are being read: what the log says of them is kept, and makes room for itself.
    const reading = others.map((id) => here.isMember(id, "bob"));
    await asked.happened;
    for (const id of ["a", ...others]) await there.members.remove(id, "bob");
    barriers.deliver();
    barriers.goOn();
    await kept;
    fences.deliver();
    fences.goOn();
    await early;
    const found = await here.isMember("a", "bob");
    read.now();
    await Promise.all(reading);
    expect(found).to.equal(false);
    for (const id of ["a", ...others]) expect(await here.isMember(id, "bob"), id).to.equal(false);
  });

  it("an acknowledgement of a log that is made anew at once proves nothing of what is kept", async () => {
    for (let round = 0; round < 3; round++) {
      await using all = await stores();
      const { here, guest, warm, bucket } = all;
      await warm(guest);
      await remake(bucket("users"));
      expect(await here.isAuthorized("guest", { timeoutMs: 300 })).to.equal(false);
    }
  });

  it("nor does that of a fence, although the user's record stands there at the same place", async () => {
    for (let round = 0; round < 3; round++) {
      await using all = await stores();
      const { here, guest, warm, bucket, gap } = all;
      await here.users.add({ key: "another" });
      await warm(guest);
      await warm(() => here.isAuthorized("another"));
      // From here on what is kept is known as it was, and no more.
      await gap();
      expect(await here.isAuthorized("another")).to.equal(true);
      const subject = `$KV.${bucket("users")}.user.${Buffer.from("guest").toString("base64url")}`;
      const found = await other.request(
        `$JS.API.DIRECT.GET.KV_${bucket("users")}`,
        JSON.stringify({ last_by_subj: subject }),
        { timeout: 5000 },
      );
      const record = JSON.parse(Buffer.from(found.data).toString()) as { user: object };
      const revoked = JSON.stringify({ ...record, user: { ...record.user, revokedAt: 1 } });
      expect(revoked).to.not.equal(JSON.stringify(record));
      const seq = Number(found.headers?.get("Nats-Sequence"));
      await remake(bucket("users"));
      for (let i = 1; i < seq; i++) await publish(`$KV.${bucket("users")}.barrier.x`, "{}");
      await publish(subject, revoked);
      expect(await here.isAuthorized("guest", { timeoutMs: 1000 })).to.equal(false);
    }
  });

  for (const isLookedAt of [true, false]) {
    it(`a log that has gone back is believed no more, however far it gets: ${isLookedAt ? "looked at" : "not looked at"} meanwhile`, async () => {
      await using all = await stores();
      const { here, warm, guest, bucket } = all;
      await warm(guest);
      const subject = `$KV.${bucket("users")}.user.${Buffer.from("guest").toString("base64url")}`;
      const before = await other.request(
        `$JS.API.DIRECT.GET.KV_${bucket("users")}`,
        JSON.stringify({ last_by_subj: subject }),
        { timeout: 5000 },
      );
      const seq = Number(before.headers?.get("Nats-Sequence"));
      await here.users.revoke("guest");
      expect(await guest()).to.equal(false);
      const { config, state } = await streamInfo(other, bucket("users"));
      await api(other, `STREAM.DELETE.KV_${bucket("users")}`);
      if (isLookedAt) expect(await here.isAuthorized("guest", { timeoutMs: 300 })).to.equal(false);
      // As a backup has it that was made before the revocation, and then beyond everything that the store has seen.
      await api(other, `STREAM.CREATE.KV_${bucket("users")}`, config);
      for (let i = 1; i < seq; i++) await publish(`$KV.${bucket("users")}.barrier.x`, "{}");
      await publish(subject, Buffer.from(before.data).toString());
      for (let i = seq; i < state.last_seq + 20; i++) await publish(`$KV.${bucket("users")}.barrier.x`, "{}");
      if (!isLookedAt) await pause(IDLE_MS);
      for (let i = 0; i < 3; i++) expect(await here.isAuthorized("guest", { timeoutMs: 1000 })).to.equal(false);
      expect(await here.users.revoke("guest").then(() => "done", codeOf)).to.equal("INCOMPATIBLE");
    });
  }

  it("an answer of which a part was lost on the way is none", async () => {
    await using all = await stores();
    const { taps, here, there, warm, guest } = all;
    await warm(guest);
    await there.users.revoke("guest");
    // The client's connection was another one for the first message.
    taps.afterCatchUp = (messages) => {
      taps.afterCatchUp = undefined;
      return Promise.resolve(messages.slice(1));
    };
    for (let i = 0; i < 5; i++) await isRevoked(here, "guest");
    expect(taps.afterCatchUp).to.equal(undefined);
  });

  describe("gaps of the log", () => {
    it("that were barriers and fences of other stores, or older states of what was changed, cost no proof of their own", async () => {
      await using all = await stores();
      const { here, there, warm, guest, costsOf } = all;
      await warm(guest);
      // A machine that stops for a second makes a store look at the log.
      await eventually("a check costs a barrier and a read of what came since", async () => {
        for (let i = 0; i < 3; i++) {
          expect(await there.isAuthorized("guest")).to.equal(true);
          expect((await there.authorize("nobody")).reason).to.equal("unknown");
          await there.users.update("guest", { name: `name ${String(i)}` });
        }
        const costs = await costsOf(guest);
        expect(await here.isAuthorized("guest")).to.equal(true);
        return costs.fences + costs.reads === 0;
      });
    });

    it("that nobody explains cost a fence of each record, and one of whether the store may be used, and no more", async () => {
      await using all = await stores();
      const { warm, guest, costsOf, gap } = all;
      await warm(guest);
      await eventually("a check costs a fence", async () => {
        await gap();
        const { fences, reads } = await costsOf(guest);
        return fences === 2 && reads === 0;
      });
      await warm(guest);
    });

    it("hide no change: a replica that catches up from a snapshot has neither the old record nor the new one", async () => {
      await using all = await stores();
      const { taps, here, there, warm, guest } = all;
      await warm(guest);
      await there.users.revoke("guest");
      const name = `.user.${Buffer.from("guest").toString("base64url")}`;
      let cut = 0;
      taps.barrier = async (send) => {
        taps.barrier = undefined;
        const answer = await send();
        // What superseded the revocation comes after the barrier, and the replica has come to the barrier.
        await there.users.update("guest", { name: "renamed" });
        taps.afterCatchUp = (messages) => {
          const short = prefix(messages, (message) => subjectOf(message).endsWith(name));
          if (short !== messages) cut++;
          if (cut === 1) taps.afterCatchUp = undefined;
          return Promise.resolve(short);
        };
        return answer;
      };
      await isRevoked(here, "guest");
      expect(cut).to.equal(1);
      for (let i = 0; i < 3; i++) await isRevoked(here, "guest");
    });

    it("hide no change that another one explains, which lies behind a gap that nobody does", async () => {
      await using all = await stores();
      const { taps, here, there, warm, guest, gap, bucket } = all;
      await warm(guest);
      await there.users.revoke("guest");
      // Another barrier, which a store sends where the first takes long, would lie behind all of it.
      const barriers = held();
      taps.barrier = barriers.tap;
      const checked = guest();
      await barriers.stored;
      await gap();
      const changed = there.users.update("guest", { name: "renamed" });
      const subject = `$KV.${bucket("users")}.user.${Buffer.from("guest").toString("base64url")}`;
      await eventually("it is stored", async () => (await lastOf(bucket("users"), subject)).data.includes("renamed"));
      barriers.deliver();
      const isAllowed = await checked;
      barriers.goOn();
      taps.barrier = undefined;
      expect(isAllowed).to.equal(false);
      await changed;
      for (let i = 0; i < 3; i++) await isRevoked(here, "guest");
    });

    it("hide no change that lies behind them", async () => {
      await using all = await stores();
      const { here, there, warm, guest, gap } = all;
      await here.users.add({ key: "another" });
      await warm(() => here.isAuthorized("another"));
      await warm(guest);
      await gap();
      await there.users.revoke("guest");
      // What is kept begins anew.
      expect(await here.isAuthorized("another")).to.equal(true);
      for (let i = 0; i < 3; i++) await isRevoked(here, "guest");
    });

    it("hide no change from a check that had looked at what is kept, and waits for its barrier while all is begun anew", async () => {
      await using all = await stores();
      const { taps, here, there, warm, guest, gap } = all;
      await here.users.add({ key: "another" });
      await warm(() => here.isAuthorized("another"));
      await warm(guest);
      await gap();
      await there.users.revoke("guest");
      const isLooking = signal();
      taps.beforeCatchUp = () => {
        isLooking.now();
        return Promise.resolve();
      };
      const another = here.isAuthorized("another");
      await isLooking.happened;
      let held = 0;
      taps.barrier = async (send) => {
        const answer = await send();
        held++;
        await another;
        return answer;
      };
      const checked = guest();
      expect(await another).to.equal(true);
      taps.barrier = undefined;
      expect(await checked).to.equal(false);
      expect(held).to.be.greaterThan(0);
    });

    it("hide no own change from a check that takes an older proof, while all is begun anew", async () => {
      await using all = await stores();
      const { taps, here, there, warm, gap, guest } = all;
      await there.users.add({ key: "somebody" });
      await warm(guest);
      const [asked, release] = [signal(), signal()];
      let before = Number.POSITIVE_INFINITY;
      // What another store writes before it has the proof of the state wait for a read of the log, which comes late.
      taps.fence = async (of, send) => {
        if (!of.endsWith(".store") || taps.afterCatchUp !== undefined) return send();
        before = taps.counts.catchUps;
        taps.afterCatchUp = async (messages) => {
          asked.now();
          await release.happened;
          return messages;
        };
        await there.users.update("somebody", { name: `before ${String(before)}` });
        return send();
      };
      await eventually("the proof of the state waits for a read of the log", async () => {
        taps.afterCatchUp = undefined;
        before = Number.POSITIVE_INFINITY;
        await gap();
        expect(await guest()).to.equal(true);
        return taps.counts.catchUps > before;
      });
      await asked.happened;
      await there.users.update("somebody", { name: "behind" });
      await here.users.revoke("guest");
      release.now();
      for (let i = 0; i < 10; i++) {
        await new Promise((resolve) => setImmediate(resolve));
        expect(await here.isAuthorized("guest", { maxStalenessMs: 60_000 })).to.equal(false);
      }
    });

    it("a replica that is behind says nothing of what came since", async () => {
      await using all = await stores();
      const { taps, here, there, warm, guest } = all;
      await warm(guest);
      await there.users.revoke("guest");
      let behind = 0;
      taps.afterCatchUp = (messages) => {
        if (++behind === 2) taps.afterCatchUp = undefined;
        return Promise.resolve(prefix(messages, () => true));
      };
      await isRevoked(here, "guest");
      expect(behind).to.equal(2);
    });
  });

  it("proofs of another store, many at once, are no gap while they are under way", async () => {
    await using all = await stores();
    const { prefix, here, warm, guest, costsOf } = all;
    const keys = Array.from({ length: 64 }, (_, i) => `one-of-many-${String(i)}`);
    await Promise.all(keys.map((key) => here.users.add({ key })));
    const theirs = tappedCopy(other);
    await using busy = await openJetStream(theirs.connection, 1, { prefix, opTimeoutMs, cacheBytes: 0 });
    await warm(guest);
    // All of them are stored, and nobody has heard of it.
    const [acknowledged, stored] = [signal(), signal()];
    let left = keys.length;
    theirs.fence = async (_, send) => {
      const answer = await send();
      if (--left === 0) stored.now();
      await acknowledged.happened;
      return answer;
    };
    const checks = keys.map((key) => busy.isAuthorized(key));
    await stored.happened;
    const { barriers, fences, reads } = await costsOf(guest);
    acknowledged.now();
    expect(await Promise.all(checks)).not.to.include(false);
    expect({ barriers, fences, reads }).to.deep.equal({ barriers: 1, fences: 0, reads: 0 });
  });

  it("what is kept stays known thousands of barriers later", async () => {
    await using all = await stores();
    const { prefix, warm, guest, costsOf } = all;
    await using busy = await openJetStream(other, 1, { prefix, opTimeoutMs, cacheBytes: 0 });
    await warm(guest);
    for (let done = 0; done < 6000; done += 60) {
      // Each proves on its own.
      const keys = Array.from({ length: 60 }, (_, i) => `nobody-${String(i)}`);
      expect(await Promise.all(keys.map((key) => busy.isAuthorized(key)))).not.to.include(true);
    }
    expect((await costsOf(guest)).fences).to.equal(0);
  });

  it("a gap is no gap where what tells of it stands hundreds of messages further on", async () => {
    await using all = await stores();
    const { warm, guest, costsOf, bucket } = all;
    await warm(guest);
    const subject = `$KV.${bucket("users")}.barrier`;
    const { seq } = JSON.parse(Buffer.from((await publish(`${subject}.x`, "{}")).data).toString()) as { seq: number };
    await publish(`${subject}.x`, "{}");
    // At once: what a store has not heard of for a second is proved anew.
    await Promise.all(Array.from({ length: 600 }, (_, i) => publish(`${subject}.y${String(i)}`, "{}")));
    await publish(`${subject}.z`, JSON.stringify({ k: "barrier.z", s: "another", t: seq, b: "AQ" }));
    const { fences, reads } = await costsOf(guest);
    expect({ fences, reads }).to.deep.equal({ fences: 0, reads: 0 });
  });

  it("a store that meets another one on its barriers' keys takes others, and its own barriers stay known", async () => {
    await using all = await stores();
    const { taps, there, warm, guest } = all;
    await warm(guest);
    const before = groupOf(taps.slot);
    await eventually("it has keys of another group", async () => {
      // So that it reads what came since.
      await there.users.update("guest", { name: taps.slot });
      taps.barrier = async (send) => {
        taps.barrier = undefined;
        const answer = await send();
        await publish(taps.slot, JSON.stringify({ k: taps.slot.split(".").slice(2).join("."), s: "another", b: [] }));
        return answer;
      };
      expect(await guest()).to.equal(true);
      expect(await guest()).to.equal(true);
      return groupOf(taps.slot) !== before;
    });
    await warm(guest);
  });

  describe("after a while without checks", () => {
    it("the store's own last barrier tells that the log is the same", async () => {
      await using all = await stores();
      const { warm, guest, costsOf } = all;
      await eventually("it costs one read", async () => {
        await warm(guest);
        await pause(IDLE_MS);
        const { reads, fences } = await costsOf(guest);
        return reads === 1 && fences === 0;
      });
    });

    it("a record that is kept does, where another store has written that barrier anew", async () => {
      await using all = await stores();
      const { taps, there, warm, guest, costsOf } = all;
      await eventually(
        "it costs a read of each that is known by, a fence, and one of whether the store may be used",
        async () => {
          await warm(guest);
          await publish(taps.slot, JSON.stringify({ k: taps.slot.split(".").slice(2).join("."), s: "another", b: [] }));
          await pause(IDLE_MS);
          const before = groupOf(taps.slot);
          const { reads, fences } = await costsOf(guest);
          if (reads <= 1 || fences !== 2) return false;
          await warm(guest);
          expect(groupOf(taps.slot), "it does not stay beside the other").not.to.equal(before);
          return true;
        },
      );
      await there.users.revoke("guest");
      expect(await guest()).to.equal(false);
    });

    for (const behind of [0, 5]) {
      const where = behind === 0 ? "where it stood" : "behind its place";
      it(`nothing is kept of a log of which nothing stands where it did, although a user's record does as far as its number goes, and another store has the last barrier's key, ${where}`, async () => {
        await using all = await stores();
        const { taps, here, warm, guest, bucket } = all;
        const users = bucket("users");
        await warm(guest);
        const subject = `$KV.${users}.user.${Buffer.from("guest").toString("base64url")}`;
        const state = `$KV.${users}.store`;
        const [user, store, last] = await Promise.all([subject, state, taps.slot].map((of) => lastOf(users, of)));
        if (user === undefined || store === undefined || last === undefined) throw new Error("each is there");
        const given = new Map<number, readonly [string, string]>([
          [store.seq, [state, store.data]],
          [user.seq, [subject, revokedOf(user.data)]],
          [last.seq + behind, [taps.slot, theirs(taps.slot)]],
        ]);
        // Further than the one before, so that its acknowledgements look new.
        await replace(users, last.seq + 20, given);
        await pause(IDLE_MS);
        for (let i = 0; i < 3; i++) expect(await here.isAuthorized("guest", { timeoutMs: 1000 })).to.equal(false);
      });
    }

    it("nor of one in which another store's barrier stands where the last one did, and what was written after it tells nothing", async () => {
      await using all = await stores();
      const { taps, here, warm, guest, bucket, costsOf } = all;
      const users = bucket("users");
      const subjectOfUser = (key: string): string => `$KV.${users}.user.${Buffer.from(key).toString("base64url")}`;
      let added = "";
      await eventually("the newest message of the store is a record", async () => {
        await warm(guest);
        added += "x";
        const { barriers, fences } = await costsOf(() => here.users.add({ key: added }));
        return barriers + fences === 0;
      });
      const state = `$KV.${users}.store`;
      const [user, newest, store, last] = await Promise.all(
        [subjectOfUser("guest"), subjectOfUser(added), state, taps.slot].map((of) => lastOf(users, of)),
      );
      if (user === undefined || newest === undefined || store === undefined || last === undefined)
        throw new Error("each is there");
      // As an import writes it.
      const imported = { n: newest.seq, first: "", log: ["another"], seqs: [] };
      const given = new Map<number, readonly [string, string]>([
        [store.seq, [state, store.data]],
        [user.seq, [subjectOfUser("guest"), revokedOf(user.data)]],
        [last.seq, [taps.slot, theirs(taps.slot)]],
        [newest.seq, [subjectOfUser(added), revokedOf(newest.data, imported)]],
      ]);
      await replace(users, newest.seq + 20, given);
      await pause(IDLE_MS);
      for (let i = 0; i < 3; i++) expect(await here.isAuthorized("guest", { timeoutMs: 1000 })).to.equal(false);
    });
  });

  it("a barrier that is sent after an outage explains no gap of another log by what stood in the one before", async () => {
    await using all = await stores();
    const { prefix, taps, here, warm, guest, bucket, gap } = all;
    const users = bucket("users");
    await warm(guest);
    // Further than another log is as soon as a store has been opened on it.
    for (let i = 0; i < 60; i++) expect(await guest()).to.equal(true);
    const { seq: top } = await lastOf(users, taps.slot);
    const sent = signal();
    let isOver = false;
    taps.barrier = async (send) => {
      if (isOver) {
        isOver = false;
        await send();
        sent.now();
      }
      throw natsError("TIMEOUT");
    };
    const end = new AbortController();
    const waiting = here.isAuthorized("guest", { signal: end.signal });
    await remake(users);
    // Without it no store opens: the bucket was lost.
    await publish(`$KV.${users}.store`, JSON.stringify({ k: "store", state: "open" }));
    await pause(IDLE_MS);
    const fresh = tappedCopy(other);
    await using store = await openJetStream(fresh.connection, 1, { prefix, opTimeoutMs });
    await store.users.add({ key: "guest" });
    for (let i = 0; i < 3; i++) expect(await store.isAuthorized("guest")).to.equal(true);
    const { state } = await streamInfo(other, users);
    expect(state.last_seq).to.be.lessThan(top - 1);
    for (let seq = state.last_seq + 1; seq < top; seq++) await publish(`$KV.${users}.barrier.y${String(seq)}`, "{}");
    const subject = `$KV.${users}.user.${Buffer.from("guest").toString("base64url")}`;
    const revoked = revokedOf((await lastOf(users, subject)).data);
    await publish(subject, revoked);
    expect((await lastOf(users, subject)).seq).to.equal(top);
    isOver = true;
    await sent.happened;
    const barriers = held();
    fresh.barrier = barriers.tap;
    const checked = store.isAuthorized("guest");
    await barriers.stored;
    // A gap that nobody explains, and behind it what has superseded the revocation.
    await gap();
    await publish(subject, revoked);
    barriers.deliver();
    const isAllowed = await checked;
    barriers.goOn();
    end.abort();
    await waiting;
    expect(isAllowed).to.equal(false);
  });

  it("a barrier that was acknowledged late is no sign of the log of before", async () => {
    await using all = await stores();
    const { taps, here, warm, guest, bucket } = all;
    await warm(guest);
    const { state } = await streamInfo(other, bucket("users"));
    let sent = 0;
    taps.barrier = async (send) => {
      // Only the first one comes through, after another log has taken the place of the known one.
      if (sent++ > 0) throw natsError("TIMEOUT");
      await remake(bucket("users"));
      // As far as the one before, and then without a gap.
      for (let i = 0; i < state.last_seq; i++) await publish(`$KV.${bucket("users")}.barrier.x`, "{}");
      for (let i = 0; i < 20; i++) await publish(`$KV.${bucket("users")}.other.${String(i)}`, "{}");
      await pause(LATE_ACK_MS);
      taps.barrier = undefined;
      return send();
    };
    // It began while the user was there: either answer is right.
    await here.isAuthorized("guest", { timeoutMs: 5000 });
    expect(taps.barrier).to.equal(undefined);
    for (let i = 0; i < 3; i++) expect(await here.isAuthorized("guest", { timeoutMs: 1000 })).to.equal(false);
  });

  it("a gap that nobody explains denies nobody for long, also where every check has little time", async () => {
    await using all = await stores();
    const { here, warm, guest, gap } = all;
    await warm(guest);
    await gap();
    await eventually("a check is answered in time", () => here.isAuthorized("guest", { timeoutMs: SHORT_MS }), 4000);
  });

  it("so much that was written meanwhile that it takes long to read it keeps nobody waiting", async () => {
    await using all = await stores();
    const { taps, here, warm, guest, bucket } = all;
    await warm(guest);
    const much = Array.from({ length: 3000 }, (_, i) => `$KV.${bucket("users")}.other.${String(i)}`);
    await Promise.all(much.map((subject) => publish(subject, "{}")));
    let pages = 0;
    taps.beforeCatchUp = async () => {
      pages++;
      await pause(50);
    };
    expect(await here.isAuthorized("guest", { timeoutMs: 2000 })).to.equal(true);
    expect(pages).to.be.greaterThan(0);
  });

  it("a change of an admin is seen whole, whatever becomes of the guard between the reads of the two records", async () => {
    await using all = await stores();
    const { taps, prefix, there } = all;
    await there.users.add({ key: "boss", role: "admin" });
    // Committed by the guard, and staged in the user's record.
    await there.users.revoke("boss");
    await using fresh = await openJetStream(taps.connection, 1, { prefix, opTimeoutMs });
    let between = 0;
    taps.beforeRead = async (subject) => {
      if (!subject.endsWith("users.admins")) return;
      taps.beforeRead = undefined;
      between++;
      // It comes into the user's record, and the guard says nothing of it any more.
      await there.users.add({ key: "next", role: "admin" });
    };
    expect(await fresh.isAdmin("boss")).to.equal(false);
    expect(between).to.equal(1);
  });

  it("a store that keeps nothing is right all the same, also of admins and members", async () => {
    await using all = await stores({ cacheBytes: 0 });
    const { here, there } = all;
    await there.rooms.create({ id: "room", owner: "root" });
    await there.members.add("room", { endpoint: "guest", state: "joined" });
    for (let i = 0; i < 3; i++) {
      await there.users.add({ key: `boss-${String(i)}`, role: "admin" });
      expect(await here.isAdmin(`boss-${String(i)}`)).to.equal(true);
      expect(await here.isMember("room", "guest")).to.equal(true);
      expect(await here.hasAdmin()).to.equal(true);
      await there.users.revoke(`boss-${String(i)}`);
      expect(await here.isAdmin(`boss-${String(i)}`)).to.equal(false);
      await there.users.revoke("guest");
      await isRevoked(here, "guest");
      await there.users.reinstate("guest");
      expect((await here.authorize("guest")).reason).to.equal("active");
      await there.members.remove("room", "guest");
      expect(await here.isMember("room", "guest")).to.equal(false);
      await there.members.add("room", { endpoint: "guest", state: "joined" });
    }
    expect((await here.authorize("nobody")).reason).to.equal("unknown");
  });

  it("who was removed while its row was being proved is no member to the checks that begin after it", async () => {
    await using all = await stores();
    const { taps, here, there } = all;
    for (let round = 0; round < 3; round++) {
      const room = `room-${String(round)}`;
      await there.rooms.create({ id: room, owner: "own" });
      for (const endpoint of ["bob", "carol"]) await there.members.add(room, { endpoint, state: "joined" });
      await there.members.add(room, { endpoint: "dave", state: "joined" });
      const fences = held();
      const row = `_members.${Buffer.from(room).toString("base64url")}.${Buffer.from("bob").toString("base64url")}.`;
      taps.fence = (of, send) => (of.includes(row) ? fences.tap(send) : send());
      const early = here.isMember(room, "bob");
      await fences.stored;
      await there.members.remove(room, "bob");
      // So that the removal stands in the members' bucket, and no longer in the room's record.
      await there.members.remove(room, "carol");
      fences.deliver();
      fences.goOn();
      await early;
      for (let i = 0; i < 2; i++) expect(await here.isMember(room, "bob")).to.equal(false);
      taps.fence = undefined;
    }
  });
});
