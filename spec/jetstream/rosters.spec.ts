// Rows of members who left are left behind: the others are copied under another id, while changes go on.

import { expect } from "chai";
import { openJetStream, type Store } from "unibus-membership";
import { startNatsServer, type NatsServer } from "unibus-membership/testing";
import { natsClients, type Connection } from "../support/nats-clients.js";
import { eventually } from "../support/wait.js";
import { keysIn, recordAt, tokenOf } from "./support/format-1.js";
import type { Json } from "./support/streams.js";
import { quieted, tapped } from "./support/taps.js";

const opTimeoutMs = 20_000;
const MEMBERS = 300;
const ROOM = `room.${tokenOf("room")}`;

let cases = 0;
const newPrefix = (): string => `r${++cases}_`;

describe("jetstream: rosters", function () {
  this.timeout(120_000);
  let server: NatsServer;
  let connection: Connection;

  before(async () => {
    server = await startNatsServer();
    connection = await connect();
  });

  after(async () => {
    await connection.close();
    await server.dispose();
  });

  async function connect(): Promise<Connection> {
    const [client] = natsClients;
    if (client === undefined) throw new Error("no client");
    return client.connect(server.url);
  }

  const open = (prefix: string, on: Connection = connection): Promise<Store> =>
    openJetStream(on, 1, { prefix, opTimeoutMs });
  const record = async (prefix: string): Promise<Json> => (await recordAt(connection, `${prefix}rooms`, ROOM)) ?? {};
  const name = (n: number): string => `m${String(n).padStart(4, "0")}`;
  const rowsOf = (prefix: string, roster: unknown): Promise<string[]> =>
    keysIn(connection, `${prefix}members`, `${tokenOf("room")}.*.${String(roster)}`);

  async function filled(prefix: string): Promise<void> {
    const store = await open(prefix);
    await store.rooms.create({ id: "room", owner: "own" });
    await Promise.all(
      Array.from({ length: MEMBERS }, (_, n) =>
        store.members.add("room", { endpoint: name(n), ...(n % 2 === 0 ? { state: "joined" as const } : {}) }),
      ),
    );
    await store.close();
    await pretend(prefix);
  }

  /** As if so many had left that the next removals begin a copy. */
  async function pretend(prefix: string, more = 0): Promise<void> {
    const { rows, ...others } = await record(prefix);
    expect(rows).to.be.a("number");
    const pretended = 2 * Number(others["members"]) + 40 + more;
    await connection.request(`$KV.${prefix}rooms.${ROOM}`, JSON.stringify({ ...others, rows: pretended }));
  }

  /** One of so many removals begins a copy. */
  async function removals(store: Store, from: number): Promise<string[]> {
    const left = Array.from({ length: 16 }, (_, n) => name(from + n));
    for (const endpoint of left) await store.members.remove("room", endpoint);
    return left;
  }

  async function listed(store: Store): Promise<string[]> {
    return (await store.members.list("room")).map(({ endpoint, state }) => `${endpoint} ${state}`);
  }

  /** A store whose copying waits at its n-th row. */
  async function held(
    prefix: string,
    at: number,
  ): Promise<{ store: Store; reached: Promise<void>; letGo: () => void; own: Connection }> {
    let reach: () => void = () => undefined;
    let letGo: () => void = () => undefined;
    const reached = new Promise<void>((resolve) => {
      reach = resolve;
    });
    const released = new Promise<void>((resolve) => {
      letGo = resolve;
    });
    let count = 0;
    const own = await connect();
    const tap = tapped(own, {
      request: async (send, ...asked) => {
        // A roster that is not the first has a token more.
        if (
          asked[0].startsWith(`$KV.${prefix}members.${tokenOf("room")}.`) &&
          asked[0].split(".").length === 6 &&
          ++count >= at
        ) {
          reach();
          await released;
        }
        return send(...asked);
      },
    });
    return {
      store: await open(prefix, tap),
      reached,
      letGo: () => {
        letGo();
      },
      own,
    };
  }

  /** A room whose rows are being copied, which waits at one of them. */
  async function begunCopy(prefix: string) {
    await filled(prefix);
    const { store, reached, letGo, own } = await held(prefix, 200);
    await removals(store, 0);
    await reached;
    const { copying, roster } = await record(prefix);
    return { store, letGo, own, copying, roster };
  }

  it("changes of the room go on while rows are copied, and none of them is lost", async () => {
    const prefix = newPrefix();
    await filled(prefix);
    const { store, reached, letGo, own } = await held(prefix, 100);
    const other = await open(prefix);
    const before = await record(prefix);
    const left = await removals(store, 0);
    await reached;
    // In this process, and in another one.
    await store.members.remove("room", name(20));
    await other.members.remove("room", name(22));
    await store.members.join("room", name(21));
    await other.members.join("room", name(23));
    await store.members.add("room", { endpoint: "new", state: "joined" });
    await store.rooms.update("room", { owner: name(24) });
    expect((await record(prefix))["copying"]).to.be.a("string");
    letGo();
    await eventually("the rows are copied", async () => (await record(prefix))["roster"] !== before["roster"]);
    const gone = new Set([...left, name(20), name(22)]);
    const expected = ["new joined", "own joined"];
    for (let n = 0; n < MEMBERS; n++) {
      const endpoint = name(n);
      if (!gone.has(endpoint))
        expected.push(`${endpoint} ${n % 2 === 0 || n === 21 || n === 23 ? "joined" : "invited"}`);
    }
    for (const each of [store, other, await open(prefix)]) {
      expect(await listed(each)).to.deep.equal(expected.sort());
      for (const endpoint of [name(20), name(22), ...left])
        expect(await each.isMember("room", endpoint), endpoint).to.equal(false);
      expect(await each.isMember("room", name(21))).to.equal(true);
      expect((await each.rooms.get("room")).owner).to.equal(name(24));
      if (each !== store && each !== other) await each.close();
    }
    await eventually(
      "what stood under the old id is removed",
      async () => (await rowsOf(prefix, before["roster"])).length === 0,
    );
    const { roster, rows, copying } = await record(prefix);
    expect(copying).to.equal(undefined);
    expect((await rowsOf(prefix, roster)).length).to.equal(rows);
    expect(Number(rows)).to.be.lessThan(MEMBERS + 3);
    await store.close();
    await other.close();
    await own.close();
  });

  it("a store that opens and sweeps meanwhile leaves the copy alone", async () => {
    const prefix = newPrefix();
    const { store, letGo, own, copying, roster } = await begunCopy(prefix);
    const { connection: sweeping, quiet } = quieted(connection);
    const sweeper = await open(prefix, sweeping);
    await quiet();
    expect((await rowsOf(prefix, copying)).length).to.be.greaterThan(50);
    letGo();
    await eventually("the rows are copied", async () => (await record(prefix))["roster"] === copying);
    expect(await listed(store)).to.have.length(MEMBERS + 1 - 16);
    expect((await record(prefix))["roster"]).to.not.equal(roster);
    await sweeper.close();
    await store.close();
    await own.close();
  });

  it("where whoever copies dies, another one begins anew once as many have left again, and its rows are removed", async () => {
    const prefix = newPrefix();
    const { store, letGo, own, copying, roster } = await begunCopy(prefix);
    await own.close();
    letGo();
    await store.close();
    expect(copying).to.be.a("string");
    const other = await open(prefix);
    await removals(other, 20);
    expect(await record(prefix)).to.include({ copying, roster });
    await pretend(prefix, 2 * MEMBERS + 1024);
    await removals(other, 40);
    await eventually("the rows are copied", async () => (await record(prefix))["copying"] === undefined);
    await eventually(
      "none is left over",
      async () => (await rowsOf(prefix, copying)).length + (await rowsOf(prefix, roster)).length === 0,
    );
    expect(await listed(other)).to.have.length(MEMBERS + 1 - 48);
    await other.close();
  });

  it("they are copied once more where many left meanwhile, though nobody leaves after them", async () => {
    const prefix = newPrefix();
    const { store, letGo, own, copying } = await begunCopy(prefix);
    const other = await open(prefix);
    const leaving = Array.from({ length: 264 }, (_, n) => name(16 + n));
    await Promise.all(leaving.map((endpoint) => other.members.remove("room", endpoint)));
    expect(await record(prefix)).to.include({ copying });
    letGo();
    const few = 2 * (MEMBERS + 1 - 16 - 264) + 16;
    await eventually("few rows are left", async () => Number((await record(prefix))["rows"]) <= few);
    const { roster } = await record(prefix);
    expect((await rowsOf(prefix, roster)).length).to.be.at.most(few);
    expect(await listed(other)).to.have.length(MEMBERS + 1 - 16 - 264);
    await other.close();
    await store.close();
    await own.close();
  });

  it("a room that is deleted meanwhile leaves no rows", async () => {
    const prefix = newPrefix();
    const { store, letGo, own, copying, roster } = await begunCopy(prefix);
    await store.rooms.delete("room");
    letGo();
    await eventually(
      "none is left over",
      async () => (await rowsOf(prefix, copying)).length + (await rowsOf(prefix, roster)).length === 0,
    );
    await store.close();
    await own.close();
  });
});
