// Stores of format 1 know no state record. One that was stopped, and wakes when its buckets are moved elsewhere, gets
// nothing proved and nothing stored there: the streams do not take what it sends.

import { expect } from "chai";
import { isStoreError, type Store } from "unibus-membership";
import { openJetStream } from "../../lib/jetstream/open.js";
import { openMemory } from "../../lib/memory/open.js";
import { endMigration } from "../../lib/transfer/end-migration.js";
import { migrate } from "../../lib/transfer/migrate.js";
import { errorOf } from "../support/code-of.js";
import { fill } from "../support/export-cases.js";
import { contentDigest } from "../support/migrate-cases.js";
import type { Connection } from "../support/nats-clients.js";
import { useServer } from "../support/use-server.js";
import { eventually } from "../support/wait.js";
import { recordAt, tokenOf } from "./support/format-1.js";
import { OLD_BARRIERS, OldStore } from "./support/old-store.js";
import { configure, streamInfo, type Json } from "./support/streams.js";
import { tapped, type Tap } from "./support/taps.js";

const opTimeoutMs = 20_000;
const FENCE = "unibus-membership.fence";
const FENCED = ["users", "rooms", "room_keys"] as const;

describe("jetstream: stores of an older version, and stores that are moved", function () {
  this.timeout(120_000);
  let connection: Connection;
  let prefixes = 0;
  let prefix = "";

  useServer((connected) => {
    connection = connected;
  });
  beforeEach(() => {
    prefix = `old${String(++prefixes)}_`;
  });

  const open = (on: Connection = connection, reopenMoved = false): Promise<Store> =>
    openJetStream(on, 1, { prefix, opTimeoutMs, reopenMoved });

  const settings = async (): Promise<Json[]> =>
    Promise.all(
      FENCED.map(async (bucket) => {
        const { config } = await streamInfo(connection, prefix + bucket);
        return { bucket, subjects: config["subjects"], fence: (config["metadata"] as Json)[FENCE] };
      }),
    );
  const asMade = (): Json[] =>
    FENCED.map((bucket) => ({ bucket, subjects: [`$KV.${prefix}${bucket}.>`], fence: undefined }));

  async function filled(): Promise<Store> {
    const store = await open();
    await fill(store);
    return store;
  }

  /** What stores of before get proved. */
  async function proofs(): Promise<boolean[]> {
    const found: boolean[] = [];
    for (const barrier of OLD_BARRIERS) {
      const old = new OldStore(connection, prefix, barrier);
      found.push(await old.provesByBarrier("root"), await old.provesByFence("root"));
    }
    return found;
  }

  /** The same, and what they get stored. */
  async function gets(): Promise<object> {
    const old = new OldStore(connection, prefix, OLD_BARRIERS[0]);
    return { proofs: await proofs(), writes: await old.writes("root") };
  }

  const ALL = { proofs: [true, true, true, true], writes: [true, true, true] };
  const NOTHING = { proofs: [false, false, false, false], writes: [false, false, false] };

  /** A connection that does something right before a store's first record says so. */
  const before = (works: Readonly<Record<string, () => Promise<void>>>): Connection => {
    const request: Tap = async (send, ...asked) => {
      if (asked[0].endsWith("users.store")) {
        const { state } = JSON.parse(String(asked[1])) as { state: string };
        await works[state]?.();
      }
      return send(...asked);
    };
    return tapped(connection, { request });
  };

  it("get nothing from the moment before the source's end on, and everything again once it is the store", async () => {
    const first = await filled();
    expect(await gets()).to.deep.equal(ALL);
    await first.close();
    let atTheEnd: object = {};
    const from = await open(
      before({
        leaving: async () => {
          atTheEnd = await gets();
        },
      }),
    );
    const elsewhere = await openMemory({ opTimeoutMs });
    const { digest } = await migrate(from, elsewhere, { cutOver: true });
    expect(atTheEnd).to.deep.equal(NOTHING);
    expect(await gets()).to.deep.equal(NOTHING);
    expect(await from.isAuthorized("root")).to.equal(false);
    await from.close();

    // Back: what stands there is still of before while it is copied.
    await using back = await open(connection, true);
    expect(await gets()).to.deep.equal(NOTHING);
    let meanwhile: Promise<boolean[]> | undefined;
    await elsewhere.users.add({ key: "new" });
    const { digest: now } = await migrate(elsewhere, back, {
      cutOver: true,
      onProgress: ({ phase }) => {
        if (phase === "clear") meanwhile ??= proofs();
      },
    });
    expect(await meanwhile).to.deep.equal(NOTHING.proofs);
    expect(now).not.to.equal(digest);
    expect(await contentDigest(back)).to.equal(now);
    expect(await settings()).to.deep.equal(asMade());
    await back.users.revoke("new");
    await back.rooms.create({ id: "another", owner: "o", encrypted: true, sealedKey: Uint8Array.of(1) });
    expect(await back.isAuthorized("root")).to.equal(true);
  });

  it("get everything again where the fence is lifted", async () => {
    const from = await filled();
    const dies = await open(before({ leaving: () => Promise.reject(new Error("it dies")) }));
    const elsewhere = await openMemory({ opTimeoutMs });
    const ended = new AbortController();
    const failed = migrate(dies, elsewhere, { cutOver: true, stallTimeoutMs: 2000, signal: ended.signal });
    expect(isStoreError(await errorOf(failed))).to.equal(true);
    await endMigration(from, { keep: "source", other: elsewhere });
    expect(await gets()).to.deep.equal(ALL);
    expect(await settings()).to.deep.equal(asMade());
    expect(await from.isAuthorized("root")).to.equal(true);
    await dies.close();
    await from.close();
  });

  /** As whoever lifted a fence, and died before the settings said so, leaves it. */
  async function forgetSettings(): Promise<void> {
    for (const bucket of FENCED) {
      const { config } = await streamInfo(connection, prefix + bucket);
      await configure(connection, prefix + bucket, {
        metadata: { ...(config["metadata"] as Json), [FENCE]: "source a-run 1700000000000 elsewhere" },
        subjects: [`$KV.${prefix}${bucket}.store`, `$KV.${prefix}${bucket}.proof.>`],
      });
    }
  }

  it("settings that still refuse what an open store writes are put right by whoever opens it, and by whoever uses it", async () => {
    const store = await filled();
    await forgetSettings();
    expect(await store.isAuthorized("root")).to.equal(true);
    const other = await open();
    expect(await settings()).to.deep.equal(asMade());
    await other.users.add({ key: "new" });
    await forgetSettings();
    await eventually("it can be written to again", async () => {
      await store.users.get("root");
      return (await settings()).every(({ fence }) => fence === undefined);
    });
    await store.users.revoke("new");
    await other.close();
    await store.close();
  });

  it("settings that a late update has taken back are put there again before the source's end", async () => {
    const first = await filled();
    await first.close();
    let atTheEnd: object = {};
    // An update with the settings of before comes when everything is compared.
    const made = await Promise.all(
      FENCED.map(async (bucket) => ({ bucket, ...(await streamInfo(connection, prefix + bucket)) })),
    );
    const takeBack = async (): Promise<void> => {
      for (const { bucket, config } of made) await configure(connection, prefix + bucket, config);
      expect(await proofs()).to.deep.equal(ALL.proofs);
    };
    const look = async (): Promise<void> => {
      atTheEnd = await gets();
    };
    const from = await open(before({ leaving: look }));
    const to = await openJetStream(before({ complete: takeBack }), 1, { prefix: `to${prefix}`, opTimeoutMs });
    await migrate(from, to, { cutOver: true });
    expect(atTheEnd).to.deep.equal(NOTHING);
    expect(await gets()).to.deep.equal(NOTHING);
    await Promise.all([from, to].map((store) => store.close()));
  });

  it("an update that takes a late fence of somebody else's back is not sent again and again", async () => {
    const from = await filled();
    const stream = `${prefix}users`;
    let updates = 0;
    let change: Promise<unknown> | undefined;
    let isFenced = false;
    const lateFence = async (): Promise<void> => {
      const { config } = await streamInfo(connection, stream);
      const metadata = { ...(config["metadata"] as Json), [FENCE]: "source another-run 1700000000000 elsewhere" };
      await configure(connection, stream, { metadata });
    };
    const request: Tap = async (send, ...asked) => {
      const [subject] = asked;
      const isUpdate = subject.endsWith(`STREAM.UPDATE.KV_${stream}`);
      const isLook = subject.endsWith(`STREAM.INFO.KV_${stream}`);
      if (isFenced && (isUpdate || isLook)) {
        if (isUpdate) {
          updates++;
          change ??= lateFence();
          await change;
        }
        // A look that leaves together with an update comes before it, and behind the other update.
        await new Promise((resolve) => setImmediate(resolve));
        if (isLook) await change;
      }
      return send(...asked);
    };
    const moves = await open(tapped(connection, { request }));
    const elsewhere = await openMemory({ opTimeoutMs });
    const onProgress = ({ phase }: { phase: string }): void => {
      isFenced ||= phase === "cut over";
    };
    await migrate(moves, elsewhere, { cutOver: true, onProgress });
    expect(change).not.to.equal(undefined);
    expect(updates).to.equal(1);
    expect((await settings()).map(({ fence }) => String(fence).includes("memory"))).to.deep.equal([true, true, true]);
    await Promise.all([from, moves, elsewhere].map((store) => store.close()));
  });

  it("what a store of this version has on its way then is refused: none of it is there", async () => {
    const first = await filled();
    let goOn: () => void = () => undefined;
    const held = new Promise<void>((resolve) => {
      goOn = resolve;
    });
    const isHeld: string[] = [];
    const request: Tap = async (send, ...asked) => {
      if (/\.(user|room|key)\./.test(asked[0]) && asked[0].startsWith("$KV.")) {
        isHeld.push(asked[0]);
        await held;
      }
      return send(...asked);
    };
    const late = await open(tapped(connection, { request }));
    let writes: Promise<unknown>[] = [];
    const atTheFence = async (): Promise<void> => {
      writes = [
        errorOf(late.users.update("root", { name: "late" })),
        errorOf(late.rooms.update("plain", { name: "late" })),
        errorOf(late.roomKeys.put("sealed", "late", 1, Uint8Array.of(9))),
      ];
      await eventually("they are on their way", () => Promise.resolve(isHeld.length >= writes.length));
    };
    let errors: unknown[] = [];
    const atTheEnd = async (): Promise<void> => {
      goOn();
      errors = await Promise.all(writes);
    };
    const from = await open(before({ moving: atTheFence }));
    const to = await openJetStream(before({ complete: atTheEnd }), 1, { prefix: `to${prefix}`, opTimeoutMs });
    await migrate(from, to, { cutOver: true });
    expect(errors.length).to.equal(writes.length);
    for (const error of errors) expect(error).to.include({ code: "UNAVAILABLE", outcome: "none" });
    for (const error of errors) expect(error).to.have.property("details").that.has.keys("movingTo", "since");
    const user = await recordAt(connection, `${prefix}users`, `user.${tokenOf("root")}`);
    expect(JSON.stringify(user)).not.to.include("late");
    await Promise.all([first, late, from, to].map((store) => store.close()));
  });
});
