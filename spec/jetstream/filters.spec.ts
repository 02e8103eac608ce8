// What a server is asked to look for costs it no walk over a whole bucket: keys of a bucket stand in a tree by their
// tokens, and a filter whose first token is a wildcard matches along all of it.

import { expect } from "chai";
import { openJetStream } from "unibus-membership";
import type { Connection } from "../support/nats-clients.js";
import { useServer } from "../support/use-server.js";
import { Names, type Operation, roomOperations, setupRooms, setupUsers, userOperations } from "./support/operations.js";
import { tapped } from "./support/taps.js";

const opTimeoutMs = 20_000;
const prefix = "f_";

interface Asked {
  /** Whether every record that matches is wanted, and not only the next one in the log's order. */
  readonly all: boolean;
  readonly filter: string;
}

function filtersOf(payload: unknown): Asked[] {
  if (typeof payload !== "string" || !payload.startsWith("{")) return [];
  const { filter, multi_last, next_by_subj } = JSON.parse(payload) as {
    filter?: string;
    multi_last?: string[];
    next_by_subj?: string;
  };
  return [
    ...[filter, ...(multi_last ?? [])].flatMap((one) => (one === undefined ? [] : [{ all: true, filter: one }])),
    ...(next_by_subj === undefined ? [] : [{ all: false, filter: next_by_subj }]),
  ];
}

describe("jetstream: filters", function () {
  this.timeout(120_000);
  let connection: Connection;

  useServer((connected) => {
    connection = connected;
  });

  it("no operation has a server look through a whole bucket", async () => {
    const asked: Asked[] = [];
    const note = (subject: string, payload: unknown): void => {
      if (subject.startsWith("$JS.API.")) asked.push(...filtersOf(payload));
    };
    const tap = tapped(connection, {
      request: (send, ...args) => {
        note(args[0], args[1]);
        return send(...args);
      },
      requestMany: (...args) => {
        note(args[0], args[1]);
        return connection.requestMany(...args);
      },
    });
    const store = await openJetStream(tap, 1, { prefix, opTimeoutMs });
    const run = async ({ setup, run: operation }: Operation, of: (name: string) => string): Promise<void> => {
      await setup?.(store, of);
      await operation(store, of).catch(() => undefined);
    };
    for (const [n, operation] of roomOperations.entries()) {
      const names = new Names(String(n));
      await setupRooms(store, (name) => names.of(name));
      await run(operation, (name) => names.of(name));
    }
    await setupUsers(store, (name) => name);
    for (const operation of userOperations) await run(operation, (name) => name);
    const names = new Names("lists");
    await setupRooms(store, (name) => names.of(name));
    await store.members.list(names.of("room"));
    await store.members.listForEndpoint(names.of("bob"));
    await store.rooms.listForEndpoint(names.of("bob"));
    await store.rooms.list({ limit: 2 });
    await store.users.list({ limit: 2 });
    await store.roomKeys.list(names.of("room"), names.of("bob"));
    // What is removed behind operations is removed by then.
    await store.close();

    // How many there are is the operations' affair: what is not heard has no filter.
    expect(asked.length).to.be.greaterThan(50);
    const wide = asked.filter(({ all, filter }) => {
      const [first = ""] = filter.replace(/^\$KV\.f_[a-z_]+\./, "").split(".");
      return all && (first === "*" || first === ">");
    });
    expect(wide).to.deep.equal([]);
  });
});
