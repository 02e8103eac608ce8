// Lists cost the servers what they return. A server looks through the blocks of a bucket from the newest record that is
// asked for back to the oldest, over every key of each.

import { expect } from "chai";
import { importStore, openJetStream, type Store } from "unibus-membership";
import { openMemory } from "unibus-membership/testing";
import { digestOf, linesOf } from "../support/export-cases.js";
import type { Connection } from "../support/nats-clients.js";
import { useServer } from "../support/use-server.js";
import { given, messagesOf, tapped, type Message } from "./support/taps.js";

const opTimeoutMs = 20_000;
const ROOMS = 40;
/** More than fit into one request, of two rooms. */
const MANY = 600;

let cases = 0;
const newPrefix = (): string => `lists${++cases}_`;
const bytes = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, "utf8"));

interface Asked {
  readonly stream: string;
  readonly keys: readonly string[];
  readonly isEmpty: boolean;
}

const keysOf = (payload: unknown): string[] =>
  ((JSON.parse(String(payload)) as { multi_last?: string[] }).multi_last ?? []).map((subject) =>
    subject.split(".").slice(2).join("."),
  );

const isNothing = (messages: readonly Message[]): boolean => messages.at(-1)?.headers?.code === 404;

describe("jetstream: lists", function () {
  this.timeout(120_000);
  let inner: Connection;

  useServer((connected) => {
    inner = connected;
  });

  /** A connection that notes which records are asked for together, each once `held` lets it through. */
  function noting(asked: Asked[], held?: () => Promise<void>): Connection {
    return tapped(inner, {
      requestMany: async (subject, payload, options) => {
        const messages = await messagesOf(await inner.requestMany(subject, payload, options));
        const keys = keysOf(payload);
        if (keys.length > 0) {
          asked.push({ stream: subject.split(".").at(-1) ?? "", keys, isEmpty: isNothing(messages) });
          await held?.();
        }
        return given(messages);
      },
    });
  }

  /** Rooms whose rows stand in the bucket, and not only the last one in the room's record. */
  async function filled(prefix: string): Promise<Store> {
    const store = await openJetStream(inner, 1, { prefix, opTimeoutMs });
    for (let i = 0; i < ROOMS; i++) {
      const id = `room-${String(i)}`;
      await store.rooms.create({ id, owner: "owner", encrypted: true, sealedKey: bytes("1") });
      for (const endpoint of ["one", "two"])
        await store.members.add(id, { endpoint, state: "joined", sealedKey: { epoch: 1, sealed: bytes(endpoint) } });
      await store.users.add({ key: `user-${String(i)}` });
    }
    return store;
  }

  it("begin at what they ask for, and not at a barrier, which is the newest of all", async () => {
    const prefix = newPrefix();
    await using first = await filled(prefix);
    const asked: Asked[] = [];
    await using store = await openJetStream(noting(asked), 1, { prefix, opTimeoutMs });
    expect((await store.members.list("room-0")).length).to.equal(3);
    expect((await store.members.listForEndpoint("owner")).length).to.equal(ROOMS);
    expect((await store.rooms.listForEndpoint("one")).length).to.equal(ROOMS);
    expect((await store.roomKeys.list("room-0", "one")).length).to.equal(1);
    expect((await store.users.list({ limit: 10 })).items.length).to.equal(10);
    expect(digestOf(await linesOf(store))).to.equal(digestOf(await linesOf(first)));
    expect(asked.length).to.be.greaterThan(5);
    const withBarrier = asked.filter(({ keys }) => keys.some((key) => key.startsWith("proof.")));
    // Where nothing is, no answer says how far its replica is.
    const inVain = asked.filter(({ isEmpty }) => isEmpty);
    expect(withBarrier.length).to.equal(inVain.length);
  });

  it("share requests with those that begin while others are under way, and each has its own", async () => {
    const prefix = newPrefix();
    await using first = await filled(prefix);
    const asked: Asked[] = [];
    let letGo: () => void = () => undefined;
    const held = new Promise<void>((resolve) => {
      letGo = resolve;
    });
    await using store = await openJetStream(
      noting(asked, () => held),
      1,
      { prefix, opTimeoutMs },
    );
    const ids = Array.from({ length: ROOMS }, (_, i) => `room-${String(i)}`);
    // What is asked for from here on waits behind the first ones.
    await Promise.all(ids.map((id) => store.rooms.get(id)));
    const lists = Promise.all(ids.map((id) => store.members.list(id)));
    const before = await Promise.all(ids.map((id) => first.members.list(id)));
    letGo();
    expect(await lists).to.deep.equal(before);
    const ofMembers = asked.filter(({ stream }) => stream.endsWith("_members"));
    expect(ofMembers.length).to.be.below(ROOMS);
    expect(new Set(ofMembers.flatMap(({ keys }) => keys)).size).to.be.at.least(ROOMS);
  });

  it("that have more together than one answer may have are read each by itself", async () => {
    const memory = await openMemory({ opTimeoutMs });
    // Bytes: some megabytes of keys. Records: of each of these rooms more than half of what one answer may have.
    for (let i = 0; i < 10; i++) {
      const id = `bytes-${String(i)}`;
      const sealed = new Uint8Array(64 * 1024).fill(i);
      await memory.rooms.create({ id, owner: "owner", encrypted: true, sealedKey: sealed });
      for (let j = 0; j < 9; j++)
        await memory.members.add(id, { endpoint: `m${String(j)}`, sealedKey: { epoch: 1, sealed } });
    }
    for (const id of ["many-1", "many-2"]) {
      await memory.rooms.create({ id, owner: "owner" });
      for (let j = 1; j < MANY; j++) await memory.members.add(id, { endpoint: `m${String(j)}` });
    }
    const lines = await linesOf(memory);
    const prefix = newPrefix();
    await using store = await openJetStream(inner, 1, { prefix, opTimeoutMs });
    // It is read back, and compared.
    expect((await importStore(lines, store)).digest).to.equal(digestOf(lines));
    const all = await Promise.all(
      ["many-1", "bytes-0", "many-2", "bytes-1"].map(async (id) => (await store.members.list(id)).length),
    );
    expect(all).to.deep.equal([MANY, 10, MANY, 10]);
  });
});
