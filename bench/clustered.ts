// What several nodes can ask: the JetStream backend, plain KV of the same client, and etcd, three servers each.

import { connect, type KV } from "nats";
import { isAuthorized, openJetStream, type Store } from "../dist/index.js";
import { startNatsCluster, type NatsCluster } from "../dist/testing.js";
import type { Contestant } from "./contest.js";
import { startEtcd, type Etcd } from "./etcd.js";
import type { Field, Missing } from "./in-process.js";
import { fillUsers, keyOf } from "./jetstream-fill.js";
import { leadTogether, plainBucket, plainValue, settled } from "./jetstream-support.js";
import { inFlight, opTimeoutMs, range } from "./support.js";

/** Of checks that may be answered from memory. */
export const LEASE_MS = 100;
/** A store reads what checks ask for before it is measured, since only the first check of a record reads it. */
const KNOWN = 20_000;
const MAX_SETTLE_SECONDS = 20;

const must = (allowed: boolean): void => {
  if (!allowed) throw new Error("denied");
};

interface Nats {
  readonly cluster: NatsCluster;
  readonly client: Awaited<ReturnType<typeof connect>>;
  readonly kv: KV;
}

async function startNats(config: { readonly jetstream?: { readonly sync_interval: "always" } }): Promise<Nats> {
  const cluster = await startNatsCluster({ config });
  const client = await connect({ servers: [...cluster.urls] });
  return { cluster, client, kv: await plainBucket(client) };
}

const open = (client: Nats["client"], options: { readonly cacheBytes?: number } = {}): Promise<Store> =>
  openJetStream(client, 3, { opTimeoutMs, ...options });

function kvContestants(kv: KV): readonly Contestant[] {
  return [
    {
      name: "NATS KV, get",
      kind: "check",
      call: async (key) => must(((await kv.get(key))?.value.length ?? 0) > 0),
    },
    { name: "NATS KV, create", kind: "write", call: (key) => kv.create(key, plainValue(key)) },
  ];
}

function storeContestants(store: Store, stranger: Store): readonly Contestant[] {
  return [
    {
      name: "JetStream backend, isAuthorized",
      kind: "check",
      call: async (key) => must(await isAuthorized(store, key)),
    },
    {
      name: "JetStream backend, isAuthorized, never read before",
      kind: "check",
      isCold: true,
      call: async (key) => must(await isAuthorized(stranger, key)),
    },
    {
      name: `JetStream backend, isAuthorized, maxStalenessMs: ${LEASE_MS}`,
      kind: "check",
      isInMemory: true,
      call: async (key) => must(await isAuthorized(store, key, { maxStalenessMs: LEASE_MS })),
    },
    { name: "JetStream backend, users.add", kind: "write", call: (key) => store.users.add({ key, name: "a user" }) },
  ];
}

/** Servers that sync before they acknowledge, as etcd's do. */
function syncedContestants(store: Store, kv: KV): readonly Contestant[] {
  return [
    {
      name: "JetStream backend, users.add, sync_interval: always",
      kind: "write",
      isEmpty: true,
      call: (key) => store.users.add({ key, name: "a user" }),
    },
    {
      name: "NATS KV, create, sync_interval: always",
      kind: "write",
      isEmpty: true,
      call: (key) => kv.create(key, plainValue(key)),
    },
  ];
}

function etcdContestants(etcd: Etcd): readonly Contestant[] {
  const value = (key: string): string => new TextDecoder().decode(plainValue(key));
  return [
    { name: "etcd, linearizable get", kind: "check", call: async (key) => must((await etcd.get(key)) !== null) },
    { name: "etcd, put", kind: "write", call: (key) => etcd.put(key, value(key)) },
  ];
}

/** The servers, which stay while the number of records grows. */
export class Clusters implements AsyncDisposable {
  readonly #nats: Nats;
  readonly #synced: Nats;
  readonly #etcd: Etcd | undefined;
  #filled = 0;

  private constructor(nats: Nats, synced: Nats, etcd: Etcd | undefined) {
    this.#nats = nats;
    this.#synced = synced;
    this.#etcd = etcd;
  }

  static async start(missing: Missing): Promise<Clusters> {
    const etcd = await startEtcd();
    if (etcd === undefined) missing.set("etcd", "it is not installed (Debian: etcd-server)");
    return new Clusters(await startNats({}), await startNats({ jetstream: { sync_interval: "always" } }), etcd);
  }

  get version(): string {
    return this.#nats.client.info?.version ?? "";
  }

  /** Everybody has so many records. */
  async open(size: number): Promise<Field> {
    const { client, kv, cluster } = this.#nats;
    await this.#fill(size);
    const store = await open(client);
    const stranger = await open(client, { cacheBytes: 0 });
    const synced = await open(this.#synced.client);
    await settled(cluster, MAX_SETTLE_SECONDS);
    await inFlight(1024, range(0, Math.min(size, KNOWN)), (n) => isAuthorized(store, keyOf(n)));
    return {
      contestants: [
        ...storeContestants(store, stranger),
        ...kvContestants(kv),
        ...syncedContestants(synced, this.#synced.kv),
        ...(this.#etcd === undefined ? [] : etcdContestants(this.#etcd)),
      ],
      keyOf,
      close: async () => {
        await Promise.all([store, stranger, synced].map((each) => each.close()));
      },
    };
  }

  async #fill(size: number): Promise<void> {
    const { client } = this.#nats;
    await using store = await open(client);
    await fillUsers(client, store, this.#filled, size);
    if (this.#filled === 0) await leadTogether(client);
    const etcd = this.#etcd;
    if (etcd !== undefined)
      await inFlight(256, range(this.#filled, size), (n) =>
        etcd.put(keyOf(n), new TextDecoder().decode(plainValue(keyOf(n)))),
      );
    this.#filled = size;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { client, cluster } of [this.#nats, this.#synced]) {
      await client.close();
      await cluster.dispose();
    }
    await this.#etcd?.[Symbol.asyncDispose]();
  }
}
