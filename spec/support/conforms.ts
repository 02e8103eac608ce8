import { openJetStream, hasAdmin, isAuthorized, openStore, type Replicas, type Store } from "unibus-membership";
import { ConformanceRun, conformanceCases, type ConformanceHarness, type NatsServer } from "unibus-membership/testing";
import { expect } from "chai";
import { randomBytes } from "node:crypto";
import { exportCases } from "./export-cases.js";
import { inspectCases } from "./inspect-cases.js";
import { sessionCases } from "./session-cases.js";
import { watchCases } from "./watch-cases.js";
import { foreign } from "./foreign-store.js";
import { dropBuckets, natsClients, type Connection, type NatsClient } from "./nats-clients.js";

/** Generous: what is tested here is what a call answers, on a machine that does much else meanwhile. */
export const opTimeoutMs = 20_000;

const all = async <T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> => {
  await Promise.all(items.map(work));
};

/** Registers the whole table. The title begins as the reporter expects it, which adds up what each target passed. */
export function conforms(target: string, harness: () => ConformanceHarness): void {
  describe(`conformance: ${target}`, function () {
    this.timeout(120_000);
    let run: ConformanceRun;
    before(() => {
      run = new ConformanceRun(harness());
    });
    for (const each of [...conformanceCases, ...exportCases, ...inspectCases, ...watchCases, ...sessionCases])
      it(each.name, () => run.case(each));
    after(() => run.dispose());
  });
}

export interface JetStreamTarget {
  readonly name: string;
  readonly replicas: Replicas;
  start(): Promise<{ readonly nodes: readonly NatsServer[]; dispose(): Promise<void> }>;
}

/** The table over servers of one kind, with each version of the client, and what the end of all servers does. */
export function conformsOnJetStream(target: JetStreamTarget): void {
  describe(target.name, function () {
    this.timeout(120_000);
    let servers: Awaited<ReturnType<JetStreamTarget["start"]>>;
    before(async () => {
      servers = await target.start();
    });
    after(() => servers.dispose());

    const urls = (): string[] => servers.nodes.map((node) => node.url);

    for (const client of natsClients) {
      const connections: Connection[] = [];
      /** One for each store that is open at a time, on different nodes where there are several. */
      const connection = async (index: number): Promise<Connection> => {
        const all = urls();
        const first = index % all.length;
        const made = connections[index] ?? (await client.connect([...all.slice(first), ...all.slice(0, first)]));
        connections[index] = made;
        return made;
      };

      conforms(`${target.name}, ${client.name}`, () => ({
        fresh: async () => {
          const prefix = `c${randomBytes(6).toString("hex")}_`;
          const open = async (index: number): Promise<Store> =>
            openJetStream(await connection(index), target.replicas, { prefix, opTimeoutMs });
          return {
            store: await open(0),
            second: () => open(1),
            reopen: () => open(0),
            dispose: async () => dropBuckets(await connection(0), prefix),
          };
        },
      }));

      after(() => Promise.all(connections.map((each) => each.close())));
    }

    it("opened by config does the same, and its connection is closed with it", async () => {
      const prefix = "by_config_";
      const store = await openStore({
        decentralized: true,
        jetstream: { connect: { servers: urls() }, replicas: target.replicas, prefix, opTimeoutMs },
      });
      await store.users.addFirstAdmin({ key: "root" });
      expect(await hasAdmin(store)).to.equal(true);
      expect(await isAuthorized(foreign(store), "root")).to.equal(true);
      await store.close();
      expect(await hasAdmin(store)).to.equal(false);
    });

    // A suite of its own, because a suite's own tests run before those of the suites inside: the servers do not come
    // back.
    describe("at the end", () => {
      it("the whole backend is shut down: both checks deny within their time, having allowed just before", async () => {
        const opened = await Promise.all(natsClients.map((client) => openOn(client)));
        for (const { store } of opened) await allows(store, true);

        await Promise.all(servers.nodes.map((node) => node.stop()));

        await all(opened, async ({ store, connection }) => {
          await allows(store, false);
          await connection.close();
          await allows(store, false);
          await store.close();
        });
      });
    });

    async function openOn(client: NatsClient): Promise<{ store: Store; connection: Connection }> {
      const connection = await client.connect(urls());
      const prefix = `down_${client.name.replaceAll(/[^a-z0-9]/g, "_")}_`;
      const store = await openJetStream(connection, target.replicas, { prefix });
      await store.users.addFirstAdmin({ key: "root" });
      return { store, connection };
    }

    async function allows(store: Store, expected: boolean): Promise<void> {
      const timeoutMs = 1500;
      const checks = [
        () => store.isAuthorized("root", { timeoutMs }),
        () => store.hasAdmin({ timeoutMs }),
        () => store.isAdmin("root", { timeoutMs }),
        () => isAuthorized(foreign(store), "root", { timeoutMs }),
        () => hasAdmin(foreign(store), { timeoutMs }),
      ];
      await all(checks, async (check) => {
        const started = performance.now();
        expect(await check()).to.equal(expected);
        // What the machine needs to wake a timer comes on top of the time that was asked for.
        expect(performance.now() - started).to.be.lessThan(timeoutMs + 5000);
      });
    }
  });
}
