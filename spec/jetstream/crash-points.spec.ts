import { expect } from "chai";
import { randomBytes } from "node:crypto";
import { openJetStream, openSqlite, type Store } from "unibus-membership";
import { startNatsServer, type NatsServer } from "unibus-membership/testing";
import { AT_LENGTH } from "../support/at-length.js";
import { dropBuckets, natsClients, type Connection, type NatsClient } from "../support/nats-clients.js";
import { FaultyConnection } from "./support/faulty-connection.js";
import { quieted } from "./support/taps.js";
import {
  Names,
  firstAdmin,
  outcome,
  roomOperations,
  roomsIn,
  setupRooms,
  setupUsers,
  userOperations,
  usersIn,
  type Action,
  type Operation,
} from "./support/operations.js";

/** Generous: what counts here is what is stored, on a machine that does much else meanwhile. */
const opTimeoutMs = 20_000;

// At length: every way to die, and every rival of every operation. Otherwise those on the same record, a store that
// opens and sweeps, and some of the others, in turn.
const WAYS = ["before", "after", "without"] as const;
const IN_TURN = 3;

interface Family {
  readonly operations: readonly Operation[];
  readonly setup: Action;
  readonly stateOf: (store: Store, names: Names) => Promise<string>;
  /** Records of several runs can stand side by side: else each run has buckets of its own. */
  readonly shared: boolean;
}

/** Of the operations on rooms, those that get in the way of every other one. */
const RIVALS: ReadonlySet<string> = new Set([
  "rooms.create with a key",
  "rooms.update owner",
  "rooms.delete",
  "members.add with a key",
  "members.remove",
  "roomKeys.rekey",
]);

/**
 * A room is deleted and its id used again, and a member removed and added again: what is held meanwhile belongs to the
 * one before.
 */
const anew: readonly Operation[] = [
  {
    name: "a room deleted and made anew",
    on: "room",
    run: async (store, of) => {
      await store.rooms.delete(of("room"));
      await store.rooms.create({ id: of("room"), owner: of("own"), encrypted: true, sealedKey: Uint8Array.of(1) });
      for (const endpoint of ["bob", "carol", "inv"]) await store.members.add(of("room"), { endpoint: of(endpoint) });
    },
  },
  {
    name: "members removed and added again",
    on: "room",
    run: async (store, of) => {
      for (const endpoint of ["bob", "carol", "inv"]) {
        await store.members.remove(of("room"), of(endpoint));
        await store.members.add(of("room"), { endpoint: of(endpoint), state: "joined" });
      }
    },
  },
];

/** Changes nothing that anybody sees. */
const sweep: Operation = { name: "another store opens and sweeps", on: "", run: () => Promise.resolve() };

interface Found {
  readonly ends: readonly string[];
  readonly state: string;
}

type Check = (found: Found, done: boolean, where: string) => void;

/**
 * What two operations that overlap may end as: as one after the other. If the first was `done` before, in that order.
 */
async function eitherOrder(family: Family, operation: Operation, rival: Operation): Promise<Check> {
  const both = [operation, rival];
  const { ends, state } = await reference(family, both, [operation.run, rival.run]);
  const turned = await reference(family, both, [rival.run, operation.run]);
  const orders: Found[] = [
    { ends, state },
    { ends: turned.ends.toReversed(), state: turned.state },
  ];
  return (found, done, where) => {
    const legal = done ? orders.slice(0, 1) : orders;
    expect(
      legal.map((order) => JSON.stringify(order)),
      where,
    ).to.include(JSON.stringify(found));
  };
}

const nothing: Action = () => Promise.resolve();

const families: Readonly<Record<string, Family>> = {
  rooms: { operations: roomOperations, setup: setupRooms, stateOf: roomsIn, shared: true },
  users: { operations: userOperations, setup: setupUsers, stateOf: usersIn, shared: false },
  "first admin": { operations: [firstAdmin], setup: nothing, stateOf: usersIn, shared: false },
};

/** What SQLite, where nothing fails, says of operations one after the other. */
async function reference(family: Family, prepare: readonly Operation[], actions: readonly Action[]): Promise<Found> {
  const names = new Names("0");
  const of = (name: string): string => names.of(name);
  await using store = await openSqlite(":memory:", { opTimeoutMs });
  await prepared(family, prepare, store, of);
  const ends: string[] = [];
  for (const run of actions) ends.push(names.plain(await outcome(run(store, of))));
  return { ends, state: await family.stateOf(store, names) };
}

async function prepared(
  family: Family,
  operations: readonly Operation[],
  store: Store,
  of: (name: string) => string,
): Promise<void> {
  await family.setup(store, of);
  for (const operation of new Set(operations)) await operation.setup?.(store, of);
}

describe("jetstream: crash points", function () {
  this.timeout(300_000);
  let server: NatsServer;
  const totals = new Map<string, number>();
  const count = (what: string): void => {
    totals.set(what, (totals.get(what) ?? 0) + 1);
  };
  before(async () => {
    server = await startNatsServer();
  });
  after(async () => {
    await server.dispose();
    console.log(`      ${[...totals].map(([what, number]) => `${number} ${what}`).join(", ")}`);
  });

  /** Buckets of their own, and a connection that lives. */
  async function inBuckets<T>(use: (prefix: string, connection: Connection) => Promise<T>): Promise<T> {
    const connection = await clientOf(0).connect(server.url);
    const prefix = `p${randomBytes(6).toString("hex")}_`;
    try {
      return await use(prefix, connection);
    } finally {
      await dropBuckets(connection, prefix);
      await connection.close();
    }
  }

  const open = (
    connection: ConstructorParameters<typeof FaultyConnection>[0] | FaultyConnection,
    prefix: string,
  ): Promise<Store> => openJetStream(connection, 1, { prefix, opTimeoutMs });

  /**
   * Runs `point` for the first write, the second and so on, until the operation has no more. Answers how many there
   * were.
   */
  async function eachWrite(
    family: Family,
    point: (at: number, prefix: string, connection: Connection, names: Names) => Promise<boolean>,
  ): Promise<number> {
    const walk = async (prefix: string, connection: Connection, at: number): Promise<boolean> => {
      const names = new Names(String(at));
      return point(at, prefix, connection, names);
    };
    if (family.shared) {
      return inBuckets(async (prefix, connection) => {
        for (let at = 1; ; at++) if (!(await walk(prefix, connection, at))) return at - 1;
      });
    }
    for (let at = 1; ; at++) {
      if (!(await inBuckets((prefix, connection) => walk(prefix, connection, at)))) return at - 1;
    }
  }

  for (const [title, family] of Object.entries(families)) {
    for (const operation of family.operations) {
      for (const how of AT_LENGTH ? WAYS : WAYS.slice(0, 2)) {
        it(`${title}: ${operation.name}: the connection dies ${how} its k-th write, for every k`, async () => {
          const start = await reference(family, [operation], []);
          const once = await reference(family, [operation], [operation.run]);
          const twice = await reference(family, [operation], [operation.run, operation.run]);
          const [firstEnd = ""] = once.ends;
          const [, secondEnd = ""] = twice.ends;

          const points = await eachWrite(family, async (at, prefix, connection, names) => {
            const of = (name: string): string => names.of(name);
            await using other = await open(connection, prefix);
            await prepared(family, [operation], other, of);

            const mortal = new FaultyConnection(await clientOf(at).connect(server.url));
            const store = await open(mortal, prefix);
            mortal.arm({ at, how });
            const running = outcome(operation.run(store, of)).then((end) => names.plain(end));
            const dies = await reaches(mortal, running);
            if (dies) await mortal.dead;
            const end = await running;
            await store.close();
            await mortal.close();
            if (!dies) {
              expect(end).to.equal(firstEnd);
              return false;
            }

            // Another instance, at once.
            const state = await family.stateOf(other, names);
            const where = `${how} write ${at} (${names.plain(mortal.subjects.at(at - 1)?.replace(prefix, "") ?? "")}), which ended as ${end}`;
            if (state !== start.state) expect(state, where).to.equal(once.state);
            if (end.startsWith("resolved")) {
              expect(end, where).to.equal(firstEnd);
              expect(state, where).to.equal(once.state);
            } else {
              expect(end, where).to.match(/^rejected (UNAVAILABLE|TIMEOUT) \[\{\}\] (none|unknown)$/);
              if (end.endsWith("none")) expect(state, where).to.equal(start.state);
            }

            // A retry, by an instance that was not there before.
            await using retry = await open(connection, prefix);
            const again = names.plain(await outcome(operation.run(retry, of)));
            expect(again, `a retry after the connection died ${where}`).to.equal(
              state === start.state ? firstEnd : secondEnd,
            );
            expect(await family.stateOf(other, names), `after a retry ${where}`).to.equal(once.state);
            count(`connections died ${how} a write`);
            return true;
          });
          expect(points).to.be.greaterThan(0);
        });
      }

      it(`${title}: ${operation.name}: the acknowledgement of the k-th write is lost, for every k, and it succeeds`, async () => {
        const once = await reference(family, [operation], [operation.run]);
        const points = await eachWrite(family, async (at, prefix, connection, names) => {
          const of = (name: string): string => names.of(name);
          await using other = await open(connection, prefix);
          await prepared(family, [operation], other, of);
          const forgetful = new FaultyConnection(await clientOf(at).connect(server.url));
          const store = await open(forgetful, prefix);
          forgetful.arm({ at, how: "lose" });
          const running = outcome(operation.run(store, of)).then((end) => names.plain(end));
          const lost = await reaches(forgetful, running);
          const end = await running;
          await store.close();
          await forgetful.close();
          const where = `write ${at} (${names.plain(forgetful.subjects.at(at - 1)?.replace(prefix, "") ?? "")})`;
          expect(end, where).to.equal(once.ends[0]);
          expect(await family.stateOf(other, names), where).to.equal(once.state);
          if (lost) count("acknowledgements lost");
          return lost;
        });
        expect(points).to.be.greaterThan(0);
      });
    }
  }

  // An owner that stops in the middle and wakes when somebody else has done something.
  for (const [title, family] of Object.entries(families)) {
    for (const operation of family.operations) {
      it(`${title}: ${operation.name}: held at its k-th write, for every k, while another instance does something else`, async () => {
        if (family.shared) {
          await inBuckets((prefix, connection) =>
            inStores(prefix, connection, async (store, other, slow) => {
              for (const [index, rival] of rivals(family, operation).entries()) {
                const check = await eitherOrder(family, operation, rival);
                for (
                  let at = 1;
                  await held(family, prefix, store, other, slow, {
                    operation,
                    rival,
                    at,
                    names: new Names(`${index}.${at}`),
                    check,
                  });
                  at++
                );
              }
            }),
          );
        } else {
          for (const rival of rivals(family, operation)) {
            const check = await eitherOrder(family, operation, rival);
            const names = new Names("0");
            const point = (at: number): Promise<boolean> =>
              inBuckets((prefix, connection) =>
                inStores(prefix, connection, (store, other, slow) =>
                  held(family, prefix, store, other, slow, { operation, rival, at, names, check }),
                ),
              );
            for (let at = 1; await point(at); at++);
          }
        }
      });
    }
  }

  async function inStores<T>(
    prefix: string,
    connection: Connection,
    use: (store: Store, other: Store, slow: FaultyConnection) => Promise<T>,
  ): Promise<T> {
    const slow = new FaultyConnection(connection);
    await using store = await open(slow, prefix);
    await using other = await open(connection, prefix);
    await slow.quiet();
    return await use(store, other, slow);
  }

  /** Whether the operation has that many writes. */
  async function held(
    family: Family,
    prefix: string,
    store: Store,
    other: Store,
    slow: FaultyConnection,
    {
      operation,
      rival,
      at,
      names,
      check,
    }: { operation: Operation; rival: Operation; at: number; names: Names; check: Check },
  ): Promise<boolean> {
    const of = (name: string): string => names.of(name);
    slow.arm(undefined);
    await prepared(family, [operation, rival], other, of);
    await slow.quiet();

    slow.arm({ at, how: "hold" });
    let settled = false;
    const running = outcome(operation.run(store, of)).then((end) => {
      settled = true;
      return names.plain(end);
    });
    const isHeld = await reaches(slow, running);
    if (!isHeld) return false;
    await slow.quiet();
    const done = settled;
    const second = names.plain(await outcome(rival === sweep ? openAndSweep(prefix) : rival.run(other, of)));
    slow.release();
    const first = await running;
    await slow.quiet();
    const found = { ends: [first, second], state: await family.stateOf(other, names) };
    check(
      found,
      done,
      `${operation.name} was held at write ${at} (${names.plain(slow.subjects.at(at - 1) ?? "")}) for ${rival.name}`,
    );
    count("writes held for another instance's operation");
    return true;
  }

  /** What another instance does meanwhile. */
  function rivals(family: Family, operation: Operation): readonly Operation[] {
    const isRooms = family === families["rooms"];
    const all = isRooms ? [...family.operations.filter(({ name }) => RIVALS.has(name)), ...anew] : family.operations;
    const turn = family.operations.indexOf(operation) % IN_TURN;
    const inTurn = (index: number): boolean => index % IN_TURN === turn % Math.min(IN_TURN, all.length);
    const some = AT_LENGTH ? all : all.filter(({ on }, index) => on === operation.on || inTurn(index));
    // First, while there is little to sweep. It leaves users alone.
    return isRooms ? [sweep, ...some] : some;
  }

  /** Resolves when a store that was opened has swept. */
  async function openAndSweep(prefix: string): Promise<void> {
    const observed = quieted(await clientOf(0).connect(server.url));
    try {
      const store = await open(observed.connection, prefix);
      await observed.quiet();
      await store.close();
    } finally {
      await observed.connection.close();
    }
  }

  /** Whether the fault's write came, or the operation ended without it. */
  async function reaches(faulty: FaultyConnection, running: Promise<unknown>): Promise<boolean> {
    let reached = false;
    const reaching = faulty.reached.then(() => (reached = true));
    await Promise.race([reaching, running.then(() => faulty.quiet())]);
    return reached;
  }
});

function clientOf(n: number): NatsClient {
  const client = natsClients[n % natsClients.length];
  if (client === undefined) throw new Error("no client");
  return client;
}
