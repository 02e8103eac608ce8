/** Buckets that were lost while the others are there: nothing would say any more who was an admin, or was revoked. */
import { expect } from "chai";
import { openJetStream, type Store } from "unibus-membership";
import { codeOf, errorOf } from "../support/code-of.js";
import type { Connection } from "../support/nats-clients.js";
import { useServer } from "../support/use-server.js";
import { OLD_VERSIONS, restore } from "./support/format-1.js";
import { BUCKETS, api, streamInfo } from "./support/streams.js";
import { natsError, tapped } from "./support/taps.js";

const opTimeoutMs = 20_000;
type BucketName = (typeof BUCKETS)[number];

/** Each choice of buckets but none and all. */
const PARTS: readonly (readonly BucketName[])[] = Array.from({ length: 2 ** BUCKETS.length - 2 }, (_, i) =>
  BUCKETS.filter((_of, bit) => ((i + 1) >> bit) % 2 === 1),
);

describe("jetstream: buckets that were lost", function () {
  this.timeout(120_000);
  let connection: Connection;
  let other: Connection;
  let prefixes = 0;
  let prefix = "";

  useServer((first, second) => {
    connection = first;
    other = second;
  });

  function anew(): void {
    prefix = `lost${String(++prefixes)}_`;
  }
  beforeEach(anew);

  const removeAll = (): Promise<unknown> =>
    Promise.all(BUCKETS.map((bucket) => api(connection, `STREAM.DELETE.KV_${prefix}${bucket}`)));

  const open = (on: Connection = connection): Promise<Store> => openJetStream(on, 1, { prefix, opTimeoutMs });

  async function lose(buckets: readonly BucketName[], isMadeAnew: boolean): Promise<void> {
    for (const bucket of buckets) {
      const { config } = await streamInfo(connection, prefix + bucket);
      await api(connection, `STREAM.DELETE.KV_${prefix}${bucket}`);
      if (isMadeAnew) await api(connection, `STREAM.CREATE.KV_${prefix}${bucket}`, config);
    }
  }

  async function fill(): Promise<void> {
    await using store = await open();
    await store.users.addFirstAdmin({ key: "root" });
    await store.users.add({ key: "guest" });
    await store.users.revoke("guest");
    await store.rooms.create({ id: "room", owner: "owner", encrypted: true, sealedKey: Uint8Array.of(1) });
    for (const endpoint of ["ann", "ben"]) await store.members.add("room", { endpoint, state: "joined" });
    await store.members.remove("room", "ben");
  }

  /** What was lost, as the refusal says it, or whom a store that opens lets in. */
  async function found(): Promise<unknown> {
    let store: Store;
    try {
      store = await open();
    } catch (error) {
      return codeOf(error);
    }
    await using opened = store;
    return {
      taken: await Promise.all([opened.isAuthorized("guest"), opened.isMember("room", "ben")]),
      first: codeOf(await errorOf(opened.users.addFirstAdmin({ key: "other" }))),
    };
  }

  const DENIES = { taken: [false, false], first: "CONFLICT" };

  it("nobody becomes the first admin once more, whichever part of the buckets was lost, or made anew", async () => {
    for (const [i, lost] of PARTS.entries()) {
      anew();
      await fill();
      const before = i % 2 === 0 ? "are missing" : "are empty";
      await lose(lost, before === "are empty");
      const isRefused = lost.includes("users") || lost.includes("rooms");
      for (const when of [before, "are there, as the last opening left them"])
        expect(await found(), `${lost.join(", ")} ${when}`).to.deep.equal(isRefused ? "INCOMPATIBLE" : DENIES);
      await removeAll();
    }
  });

  for (const version of OLD_VERSIONS) {
    it(`nor where they were of format 1, ${version}, as long as anything of a room is left`, async () => {
      for (const kept of [...BUCKETS.filter((bucket) => bucket !== "users"), undefined]) {
        anew();
        await restore(connection, prefix, version);
        await lose(kept === undefined ? ["users"] : BUCKETS.filter((bucket) => bucket !== kept), false);
        for (const when of ["at first", "again"])
          expect(await found(), `${kept ?? "all others"} ${when}`).to.equal("INCOMPATIBLE");
        await removeAll();
      }
    });
  }

  it("users that were lost before there was any room are told too", async () => {
    await using store = await open();
    await store.users.addFirstAdmin({ key: "root" });
    await lose(["users"], true);
    expect(await found()).to.equal("INCOMPATIBLE");
    expect(await store.isAdmin("root")).to.equal(false);
    expect(codeOf(await errorOf(store.users.addFirstAdmin({ key: "other" })))).to.equal("INCOMPATIBLE");
  });

  it("a bucket that another opening is just making, with other replicas, is waited for", async () => {
    const taken = new Set<string>();
    // A cluster takes the name before the stream is there. Until then it tells whoever asks that there is none.
    const inUse = { error: { code: 400, err_code: 10058, description: "stream name already in use" } };
    const late = tapped(connection, {
      request: async (send, ...asked) => {
        const [subject] = asked;
        if (!subject.includes("STREAM.CREATE.") || taken.has(subject)) return send(...asked);
        taken.add(subject);
        const answer = await send("$JS.API.INFO");
        return { ...answer, data: new TextEncoder().encode(JSON.stringify(inUse)) };
      },
    });
    await using store = await open(late);
    expect(taken.size).to.equal(BUCKETS.length);
    expect(await store.hasAdmin()).to.equal(false);
  });

  it("a first opening that died at any of its changes is no loss, and of many that follow at once one has the first admin", async () => {
    for (let most = 0; ; most++) {
      anew();
      let changes = 0;
      const end = new AbortController();
      const dies = tapped(connection, {
        request: async (send, ...asked) => {
          const [subject] = asked;
          const changed = subject.startsWith("$KV.") ? !subject.includes(".proof.") : subject.includes("STREAM.CREATE");
          if (!changed || ++changes <= most) return send(...asked);
          end.abort();
          throw natsError("TIMEOUT");
        },
      });
      const dying = openJetStream(dies, 1, { prefix, opTimeoutMs, signal: end.signal });
      const first = await dying.catch(() => undefined);
      const stores = await Promise.all([connection, other, connection, other].map((on) => open(on)));
      const asked = stores.map((store, i) => store.users.addFirstAdmin({ key: `user${String(i)}` }));
      const ends = await Promise.all(asked.map((adding) => adding.then(() => "added", codeOf)));
      expect(ends.sort(), `after ${String(most)}`).to.deep.equal(["CONFLICT", "CONFLICT", "CONFLICT", "added"]);
      await Promise.all([...(first === undefined ? [] : [first]), ...stores].map((store) => store.close()));
      if (first !== undefined) return;
    }
  });
});
