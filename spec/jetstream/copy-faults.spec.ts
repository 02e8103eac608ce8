import { expect } from "chai";
import { Buffer } from "node:buffer";
import { openJetStream, type NatsConnection } from "unibus-membership";
import { startNatsServer, type NatsServer } from "unibus-membership/testing";
import { natsClients, type Connection } from "../support/nats-clients.js";
import { pause } from "../support/wait.js";
import { messagesOf, natsError, type Message, type Request } from "./support/taps.js";

/** Generous: what is tested here is what is answered, on a machine that does much else meanwhile. */
const opTimeoutMs = 20_000;

/** Longer than another log may take the place of the one that is known, unnoticed. */
const OUTAGE_MS = 2500;

/** What may be done to what a store says to the servers, and to what they say: nothing is made up. */

interface Taps {
  connection: NatsConnection;
  /** Between a replica's answer to a catch-up and its delivery. */
  afterCatchUp: ((messages: unknown[]) => Promise<unknown[]>) | undefined;
  beforeCatchUp: (() => Promise<void>) | undefined;
  /** The same for a read of single users. */
  afterRead: ((messages: unknown[]) => Promise<unknown[]>) | undefined;
  /** So many barriers are answered as by a stream without a leader. */
  refuse: number;
  barrier: ((send: () => ReturnType<Request>) => ReturnType<Request>) | undefined;
}

/** The first barrier is stored, and its acknowledgement waits for `deliver`; those after it are not sent before `goOn`. */
function held() {
  const signal = (): { readonly happened: Promise<void>; readonly now: () => void } => {
    let now: () => void = () => undefined;
    const happened = new Promise<void>((resolve) => { now = resolve; });
    return { happened, now };
  };
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

function tapped(connection: Connection): Taps {
  const taps: Taps = {
    afterCatchUp: undefined, beforeCatchUp: undefined, afterRead: undefined, refuse: 0, barrier: undefined,
    connection: {
      ...(connection.info === undefined ? {} : { info: connection.info }),
      request: (subject, payload, options) => {
        const send = (): ReturnType<Request> => connection.request(subject, payload, options);
        if (!subject.endsWith("users.barrier")) return send();
        if (taps.refuse > 0) {
          taps.refuse--;
          return Promise.reject(natsError("503"));
        }
        return taps.barrier === undefined ? send() : taps.barrier(send);
      },
      requestMany: async (subject, payload, options) => {
        const catchUp = String(payload).includes('"next_by_subj":">"');
        if (catchUp) await taps.beforeCatchUp?.();
        const answers = await connection.requestMany(subject, payload, options);
        const after = catchUp ? taps.afterCatchUp : taps.afterRead;
        if (after === undefined) return answers;
        return (async function* () {
          yield* (await after(await messagesOf(answers))) as Message[];
        })();
      },
      isClosed: () => connection.isClosed(),
      isDraining: () => connection.isDraining(),
    },
  };
  return taps;
}

// What a store keeps of the users has to be right whatever becomes of the answers that it is made of.
describe("what a store keeps of the users, when answers are late, lost or of another log", function () {
  this.timeout(60_000);
  let server: NatsServer;
  let raw: Connection;
  let other: Connection;
  before(async () => {
    server = await startNatsServer();
    const [first, second] = await Promise.all(natsClients.map((client) => client.connect(server.url)));
    if (first === undefined || second === undefined) throw new Error("two clients are needed");
    [raw, other] = [first, second];
  });
  after(async () => {
    await Promise.all([raw.close(), other.close()]);
    await server.dispose();
  });

  let prefixes = 0;

  /** Two stores on the same buckets, of which the first keeps a guest who may come in. */
  async function stores() {
    const prefix = `faults${prefixes++}_`;
    const taps = tapped(raw);
    const here = await openJetStream(taps.connection, 1, { prefix, opTimeoutMs });
    const there = await openJetStream(other, 1, { prefix, opTimeoutMs });
    await here.users.addFirstAdmin({ key: "root" });
    await here.users.add({ key: "guest" });
    for (let i = 0; i < 3; i++) expect(await here.isAuthorized("guest")).to.equal(true);
    return { prefix, taps, here, there };
  }

  it("an answer that is later than the loss and return of the leader does not put old records over new ones", async () => {
    const { taps, here, there } = await stores();
    await there.users.update("guest", { name: "renamed" });

    let release: () => void = () => undefined;
    const held = new Promise<void>((resolve) => { release = resolve; });
    let answered: () => void = () => undefined;
    const inFlight = new Promise<void>((resolve) => { answered = resolve; });
    taps.afterCatchUp = async (all) => {
      answered();
      await held;
      return all;
    };
    const early = here.isAuthorized("guest");
    await inFlight;
    taps.afterCatchUp = undefined;
    await there.users.revoke("guest");
    taps.refuse = 1;
    expect((await here.authorize("guest")).reason).to.equal("revoked");
    release();
    await early;
    for (let i = 0; i < 5; i++) expect((await here.authorize("guest")).reason).to.equal("revoked");
    await Promise.all([here.close(), there.close()]);
  });

  it("checks that wait through an outage do not hide that another log takes the place of the known one meanwhile", async () => {
    const { taps, here, there, prefix } = await stores();
    await there.users.add({ key: "somebody" });
    const api = async (subject: string, body: unknown): Promise<Record<string, unknown>> =>
      JSON.parse(Buffer.from((await other.request(`$JS.API.${subject}`, JSON.stringify(body), { timeout: 5000 })).data).toString()) as Record<string, unknown>;
    const stream = `KV_${prefix}users`;
    const { config } = await api(`STREAM.INFO.${stream}`, {});
    let deleted: () => void = () => undefined;
    const gone = new Promise<void>((resolve) => { deleted = resolve; });
    taps.beforeCatchUp = async () => {
      taps.beforeCatchUp = undefined;
      await api(`STREAM.DELETE.${stream}`, {});
      deleted();
    };
    const early = here.isAuthorized("guest", { timeoutMs: 8000 });
    await gone;
    await pause(OUTAGE_MS);
    await api(`STREAM.CREATE.${stream}`, config);
    for (let i = 0; i < 60; i++) await other.request(`$KV.${prefix}users.barrier`, `{"k":"barrier"}`, { timeout: 5000 });
    // It began while the user was there: either answer is right.
    await early;
    // A bucket without what opening put there proves nothing: whether it says so or no answer comes in time, it denies.
    for (let i = 0; i < 5; i++) expect(await here.isAuthorized("guest", { timeoutMs: 1000 })).to.equal(false);
    await Promise.all([here.close(), there.close()]);
  });

  it("a barrier that was on its way when a check began proves nothing to it", async () => {
    const { taps, here, there } = await stores();
    // More than once: a machine that stops here lets the store read anew, which is right in any case.
    for (let round = 0; round < 5; round++) {
      const key = `guest-${String(round)}`;
      await here.users.add({ key });
      for (let i = 0; i < 3; i++) expect(await here.isAuthorized(key)).to.equal(true);
      const barriers = held();
      taps.barrier = barriers.tap;
      const early = here.isAuthorized(key);
      await barriers.stored;
      await there.users.revoke(key);
      const late = here.isAuthorized(key);
      barriers.deliver();
      // It began before the revocation: either answer is right.
      await early;
      barriers.goOn();
      expect(await late).to.equal(false);
      taps.barrier = undefined;
    }
    await Promise.all([here.close(), there.close()]);
  });

  it("a read that is answered late is not kept where the user was changed meanwhile", async () => {
    const { taps, here, there } = await stores();
    // More than once, as above.
    for (let round = 0; round < 5; round++) {
      const key = `late-${String(round)}`;
      await there.users.add({ key });
      expect(await here.isAuthorized("guest")).to.equal(true);
      let answered: () => void = () => undefined;
      const inFlight = new Promise<void>((resolve) => { answered = resolve; });
      let release: () => void = () => undefined;
      const released = new Promise<void>((resolve) => { release = resolve; });
      taps.afterRead = async (all) => {
        taps.afterRead = undefined;
        answered();
        await released;
        return all;
      };
      const early = here.isAuthorized(key);
      await inFlight;
      await there.users.revoke(key);
      // What is kept is brought beyond the revocation, of a user who is not among it.
      expect(await here.isAuthorized("guest")).to.equal(true);
      release();
      // It began before the revocation: either answer is right.
      await early;
      for (let i = 0; i < 2; i++) expect((await here.authorize(key)).reason).to.equal("revoked");
    }
    await Promise.all([here.close(), there.close()]);
  });

  it("an acknowledgement of a log that is made anew at once proves nothing of what is kept", async () => {
    for (let round = 0; round < 3; round++) {
      const { here, there, prefix } = await stores();
      const stream = `KV_${prefix}users`;
      const api = async (subject: string, body: unknown): Promise<Record<string, unknown>> =>
        JSON.parse(Buffer.from((await other.request(`$JS.API.${subject}`, JSON.stringify(body), { timeout: 5000 })).data).toString()) as Record<string, unknown>;
      const { config } = await api(`STREAM.INFO.${stream}`, {});
      expect(await here.isAuthorized("guest")).to.equal(true);
      await api(`STREAM.DELETE.${stream}`, {});
      await api(`STREAM.CREATE.${stream}`, config);
      expect(await here.isAuthorized("guest", { timeoutMs: 300 })).to.equal(false);
      await Promise.all([here.close(), there.close()]);
    }
  });

  it("an answer of which a part was lost on the way is none", async () => {
    const { taps, here, there } = await stores();
    await there.users.revoke("guest");
    // The client's connection was another one for the first message.
    taps.afterCatchUp = (all) => {
      taps.afterCatchUp = undefined;
      return Promise.resolve(all.slice(1));
    };
    for (let i = 0; i < 5; i++) expect((await here.authorize("guest")).reason).to.equal("revoked");
    await Promise.all([here.close(), there.close()]);
  });
});
