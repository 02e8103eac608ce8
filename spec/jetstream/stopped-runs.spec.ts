// A run of a migration is stopped somewhere, as a process can be, another one comes to its end meanwhile, and the first
// one wakes. What it says then comes into the buckets of a store that is used, or into one that was moved away from.

import { expect } from "chai";
import { isConflict, type Store } from "unibus-membership";
import { openJetStream } from "../../lib/jetstream/open.js";
import { openMemory } from "../../lib/memory/open.js";
import { contentDigest, stepOf } from "../support/migrate-cases.js";
import { codeOf, errorOf } from "../support/code-of.js";
import { fill } from "../support/export-cases.js";
import { migrate } from "../../lib/transfer/migrate.js";
import type { Connection } from "../support/nats-clients.js";
import { useServer } from "../support/use-server.js";
import { signal } from "../support/wait.js";
import { recordAt, tokenOf } from "./support/format-1.js";
import { fenced, readOf } from "./support/messages.js";
import { stoppable } from "./support/stoppable.js";
import { tapped, type Tap } from "./support/taps.js";

const opTimeoutMs = 20_000;
/** What is stopped waits for the other run. */
const stallTimeoutMs = 120_000;

describe("jetstream: runs of migrations that are stopped", function () {
  this.timeout(120_000);
  let connection: Connection;
  let prefixes = 0;
  let prefix = "";

  useServer((connected) => {
    connection = connected;
  });
  beforeEach(() => {
    prefix = `s${String(++prefixes)}_`;
  });

  const open = (on: Connection = connection): Promise<Store> => openJetStream(on, 1, { prefix, opTimeoutMs });

  /** What is there is used, and changed, before the first run wakes. */
  async function use(store: Store): Promise<void> {
    await store.users.add({ key: "boss", role: "admin" });
    await store.users.update("boss", { role: "member" });
    await store.users.revoke("second");
    await store.members.remove("plain", "joined 🦄");
    await store.rooms.create({ id: "new", owner: "owner" });
  }

  const PHASES = ["clear", "copy", "verify", "follow", "cut over"] as const;
  /** What it is stopped before: a phase, or a message. */
  const places: Readonly<Record<string, (phase: string, subject: string) => boolean>> = {
    ...Object.fromEntries(PHASES.map((each) => [each, (phase: string) => phase === each])),
    "the lanes of a round": (phase, subject) => phase === "follow" && subject.includes(".import."),
    "the guard of the admins": (phase, subject) => phase === "copy" && subject === `$KV.${prefix}users.admins`,
    "the end of the copy": (phase, subject) => phase === "cut over" && subject === `$KV.${prefix}users.store`,
  };

  for (const [place, isThere] of Object.entries(places))
    it(`a run that was stopped before ${place} changes nothing when it wakes after another one`, async () => {
      const from = await openMemory({ opTimeoutMs });
      await fill(from);
      const to = await open();
      // So that there is something to be cleared away.
      await migrate(from, to);
      const stopped = stoppable(connection);
      let phase = "";
      const first = await open(stopped.connection);
      const reached = stopped.stopAt((subject) => isThere(phase, subject));
      const ended = errorOf(
        migrate(from, first, {
          cutOver: true,
          stallTimeoutMs,
          onProgress: (progress) => {
            if (progress.phase === "verify" && phase !== "verify") {
              // There is something to bring in a round.
              void from.users.update("again", { name: "meanwhile" });
              void from.rooms.update("plain", { name: "meanwhile" });
            }
            ({ phase } = progress);
          },
        }),
      );
      await reached;
      await migrate(from, to, { cutOver: true });
      await use(to);
      const digest = await contentDigest(to);
      stopped.goOn();
      expect(isConflict(await ended)).to.equal(true);
      expect(await contentDigest(to)).to.equal(digest);
      const checks = ["root", "second", "boss"].map((key) => to.isAdmin(key));
      expect(await Promise.all(checks)).to.deep.equal([true, false, false]);
      expect(await from.isAuthorized("root")).to.equal(false);
      await Promise.all([from, to, first].map((store) => store.close()));
    });

  it("what was written into an empty target just before it was closed is left, also where the run stops then", async () => {
    const from = await openMemory({ opTimeoutMs });
    await fill(from);
    const to = await open();
    const stopped = stoppable(connection);
    const closes = `$KV.${prefix}rooms.store`;
    let isClosed = false;
    const request: Tap = async (send, ...asked) => {
      // `users` is closed by now, and `rooms` is not.
      if (asked[0] === closes && !isClosed) {
        await to.rooms.create({ id: "its own", owner: "owner" });
        isClosed = true;
      }
      return send(...asked);
    };
    const first = await open(tapped(stopped.connection, { request }));
    const reached = stopped.stopAt((subject) => isClosed && subject !== closes);
    const ended = errorOf(migrate(from, first, { cutOver: true, stallTimeoutMs }));
    await reached;
    expect((await errorOf(to.rooms.create({ id: "late", owner: "owner" }))).code).to.equal("UNAVAILABLE");
    for (let again = 0; again < 2; again++)
      expect(isConflict(await errorOf(migrate(from, to, { cutOver: true })))).to.equal(true);
    expect((await to.rooms.get("its own")).owner).to.equal("owner");
    await to.users.add({ key: "its-own" });
    stopped.goOn();
    expect(isConflict(await ended)).to.equal(true);
    expect(await to.isMember("its own", "owner")).to.equal(true);
    expect([await to.isAuthorized("its-own"), await from.isAuthorized("root")]).to.deep.equal([true, true]);
    await Promise.all([from, to, first].map((store) => store.close()));
  });

  it("a run that stops right after it has closed an empty target is taken over", async () => {
    const from = await openMemory({ opTimeoutMs });
    await fill(from);
    const to = await open();
    const stopped = stoppable(connection);
    let isClosed = false;
    const first = await open(stopped.connection);
    const reached = stopped.stopAt((subject) => {
      const isNext = isClosed && subject !== `$KV.${prefix}rooms.store`;
      isClosed ||= subject === `$KV.${prefix}rooms.store`;
      return isNext;
    });
    const ended = errorOf(migrate(from, first, { cutOver: true, stallTimeoutMs }));
    await reached;
    const { digest } = await migrate(from, to, { cutOver: true });
    stopped.goOn();
    expect(isConflict(await ended)).to.equal(true);
    expect(await contentDigest(to)).to.equal(digest);
    await Promise.all([from, to, first].map((store) => store.close()));
  });

  it("a run that was stopped when it had closed the target opens nothing that another one fills", async () => {
    const from = await openMemory({ opTimeoutMs });
    await fill(from);
    const to = await open();
    const stopped = stoppable(connection);
    const first = await open(stopped.connection);
    let isClosed = false;
    const reached = stopped.stopAt((subject) => {
      const isNext = isClosed && subject.includes("users");
      isClosed ||= subject === `$KV.${prefix}rooms.store`;
      return isNext;
    });
    const ended = errorOf(migrate(from, first, { cutOver: true, stallTimeoutMs }));
    await reached;
    const { digest } = await migrate(from, to);
    stopped.goOn();
    expect(isConflict(await ended)).to.equal(true);
    expect(await to.isAuthorized("root")).to.equal(false);
    expect((await migrate(from, to, { cutOver: true })).digest).to.equal(digest);
    expect(await to.isAuthorized("root")).to.equal(true);
    await Promise.all([from, to, first].map((store) => store.close()));
  });

  it("a run that has seen another one begin, and wakes when that one writes, opens nothing of it", async () => {
    const from = await openMemory({ opTimeoutMs });
    await fill(from);
    const to = await open();
    const [one, other] = [stoppable(connection), stoppable(connection)];
    const [first, second] = [await open(one.connection), await open(other.connection)];
    let closes = 0;
    // Both logs say that it is there, and it has not looked yet whether anything came between.
    const isClosed = one.stopAt((subject) => subject === `$KV.${prefix}users.store` && ++closes === 2);
    let phase = "";
    const onProgress = (progress: { phase: string }): void => {
      ({ phase } = progress);
    };
    const ends = errorOf(migrate(from, first, { cutOver: true, stallTimeoutMs, onProgress }));
    await isClosed;
    // It has seen that, and is about to look what the target holds.
    const hasSeen = other.stopAt((...asked) => readOf(asked[0], asked[1]) === `$KV.${prefix}users.admins`);
    const late = errorOf(migrate(from, second, { cutOver: true, stallTimeoutMs }));
    await hasSeen;
    one.goOn();
    const writes = one.stopAt(() => phase === "verify");
    await writes;
    other.goOn();
    expect(isConflict(await late)).to.equal(true);
    // Whoever comes next takes what the first has written for what it is.
    const again = await migrate(from, to, { cutOver: true }).catch(codeOf);
    expect([await to.isAuthorized("root"), await from.isAuthorized("root")]).to.deep.equal([true, false]);
    expect(again).to.include({ digest: await contentDigest(to) });
    one.goOn();
    expect(isConflict(await ends)).to.equal(true);
    await Promise.all([from, to, first, second].map((store) => store.close()));
  });

  it("a run that has read one of the states before another one closed the target opens nothing of it", async () => {
    const from = await openMemory({ opTimeoutMs });
    await fill(from);
    const to = await open();
    const one = stoppable(connection);
    const [hasRead, goOn] = [signal(), signal()];
    const reads = { users: 0, rooms: 0 };
    const tap: Tap = async (send, ...asked) => {
      const [subject, payload, options] = asked;
      // It has looked at both once. Then it is about to close the store.
      if (readOf(subject, payload) === `$KV.${prefix}users.store` && ++reads.users === 2) await goOn.happened;
      const answer = await send(...asked);
      if (fenced(subject, options) === `$KV.${prefix}rooms.store` && ++reads.rooms === 2) hasRead.now();
      return answer;
    };
    const first = await open(one.connection);
    const second = await open(tapped(connection, { request: tap }));
    reads.users = reads.rooms = 0;
    const late = migrate(from, second, { cutOver: true, stallTimeoutMs }).catch(codeOf);
    await hasRead.happened;
    let phase = "";
    const onProgress = (progress: { phase: string }): void => {
      ({ phase } = progress);
    };
    const writes = one.stopAt(() => phase === "verify");
    const ends = errorOf(migrate(from, first, { cutOver: true, stallTimeoutMs, onProgress }));
    await writes;
    goOn.now();
    const said = await late;
    expect([await to.isAuthorized("root"), await from.isAuthorized("root")]).to.deep.equal([true, false]);
    expect(said).to.include({ digest: await contentDigest(to) });
    one.goOn();
    expect(isConflict(await ends)).to.equal(true);
    await Promise.all([from, to, first, second].map((store) => store.close()));
  });

  it("a run that comes too late to a store that holds nothing leaves it open", async () => {
    const from = await openMemory({ opTimeoutMs });
    const to = await open();
    const stopped = stoppable(connection);
    const first = await open(stopped.connection);
    let reads = 0;
    // It has seen both sides open, and is about to look at the target once more.
    const reached = stopped.stopAt((subject) => subject === `$JS.API.DIRECT.GET.KV_${prefix}users` && ++reads === 2);
    const ended = errorOf(migrate(from, first, { cutOver: true, stallTimeoutMs }));
    await reached;
    await migrate(from, to, { cutOver: true });
    stopped.goOn();
    expect(isConflict(await ended)).to.equal(true);
    await to.users.addFirstAdmin({ key: "root" });
    expect(await to.isAdmin("root")).to.equal(true);
    await Promise.all([from, to, first].map((store) => store.close()));
  });

  it("what another writer put into the target while it was filled is found out, and it stays closed", async () => {
    const from = await openMemory({ opTimeoutMs });
    await fill(from);
    const stopped = stoppable(connection);
    const to = await open(stopped.connection);
    let phase = "";
    const reached = stopped.stopAt(() => phase === "verify");
    const onProgress = (progress: { phase: string }): void => {
      ({ phase } = progress);
    };
    const ended = errorOf(migrate(from, to, { cutOver: true, stallTimeoutMs, onProgress }));
    await reached;
    // As somebody does who uses the bucket by hand.
    const key = `user.${tokenOf("revoked")}`;
    const { user, ...record } = (await recordAt(connection, `${prefix}users`, key)) ?? {};
    const active = { ...record, user: { ...(user as object), revokedAt: undefined } };
    await connection.request(`$KV.${prefix}users.${key}`, JSON.stringify(active), { timeout: opTimeoutMs });
    stopped.goOn();
    expect(isConflict(await ended)).to.equal(true);
    expect([await to.isAuthorized("revoked"), await from.isAuthorized("root")]).to.deep.equal([false, true]);
    await migrate(from, to, { cutOver: true });
    expect([await to.isAuthorized("revoked"), await to.isAuthorized("root")]).to.deep.equal([false, true]);
    await Promise.all([from.close(), to.close()]);
  });

  for (const bucket of ["users", "rooms"])
    it(`a fence of ${bucket} that is held up on its way does not come when its run has failed`, async () => {
      const from = await open();
      await fill(from);
      const elsewhere = await openMemory({ opTimeoutMs });
      const late: (() => Promise<unknown>)[] = [];
      const request: Tap = async (send, ...asked) => {
        const [subject, payload] = asked;
        if (subject !== `$KV.${prefix}${bucket}.store` || !String(payload).includes('"moving"')) return send(...asked);
        late.push(() => send(...asked));
        return new Promise(() => undefined);
      };
      const runs = await open(tapped(connection, { request }));
      const error = await errorOf(migrate(runs, elsewhere, { cutOver: true, stallTimeoutMs: 1500 }));
      expect(error.code).to.equal("TIMEOUT");
      expect(late).not.to.deep.equal([]);
      for (const comes of late) await comes();
      expect(await from.isAuthorized("root")).to.equal(true);
      expect(await from.isMember("sealed", "late")).to.equal(true);
      await from.rooms.update("plain", { name: "it goes on" });
      await migrate(from, elsewhere, { cutOver: true });
      expect([await from.isAuthorized("root"), await elsewhere.isAuthorized("root")]).to.deep.equal([false, true]);
      await Promise.all([from, runs, elsewhere].map((store) => store.close()));
    });

  it("a fence that comes between two reads of the state is not taken for one that is being lifted", async () => {
    const source = await open();
    await fill(source);
    const peer = { id: "there", name: "there" };
    const report = { counts: { users: 0, rooms: 0, members: 0, roomKeys: 0 }, digest: "" };
    const [askedForRooms, provedUsers, goOn] = [signal(), signal(), signal()];
    let isHeld = false;
    const tap: Tap = async (send, ...asked) => {
      const [subject, payload, options] = asked;
      if (isHeld && readOf(subject, payload) === `$KV.${prefix}rooms.store`) {
        askedForRooms.now();
        await goOn.happened;
      }
      const answer = await send(...asked);
      if (isHeld && fenced(subject, options) === `$KV.${prefix}users.store`) provedUsers.now();
      return answer;
    };
    const other = await open(tapped(connection, { request: tap }));
    isHeld = true;
    const state = stepOf(other, ({ moving }, call) => moving.state(call));
    await Promise.all([askedForRooms.happened, provedUsers.happened]);
    await stepOf(source, ({ moving }, call) => moving.fence({ id: "run", peer, since: 0 }, call));
    goOn.now();
    expect(await state).to.deep.include({ kind: "moving" });
    await stepOf(source, ({ moving }, call) => moving.step("leave", "run", report, call));
    for (const store of [source, other]) {
      expect(await store.isAuthorized("root")).to.equal(false);
      expect(await store.isMember("sealed", "late")).to.equal(false);
    }
    await Promise.all([source.close(), other.close()]);
  });
});
