/**
 * What is known of versions of nats-server. One that breaks a promise is refused; one that only weakens something is
 * told in docs/operations.md, which has the same table.
 */
import type { Call } from "../call.js";
import { StoreError } from "../errors.js";
import type { JetStreamClient } from "./client.js";
import { atLeast, isVersion } from "./server-version.js";

/**
 * `refused`: it may hold no replica. `not-raised`: with it in the cluster no bucket gets more replicas. `told`: by the
 * docs.
 */
export type VersionEffect = "refused" | "not-raised" | "told";

export interface KnownVersions {
  readonly versions: string;
  readonly is: (version: string) => boolean;
  readonly effect: VersionEffect;
  /** What is wrong, and what to use instead. */
  readonly why: string;
}

export const KNOWN_VERSIONS: readonly KnownVersions[] = [
  {
    versions: "before 2.11",
    is: (version) => !atLeast(version, 2, 11),
    effect: "refused",
    why: "it is too old: 2.11 or later is needed",
  },
  {
    versions: "2.12.7 to 2.12.9",
    is: (version) => atLeast(version, 2, 12, 7) && !atLeast(version, 2, 12, 10),
    effect: "refused",
    // nats-server #8254. The guard of the admins is such a key: without it anybody could become the first admin.
    why: "it breaks a promise: after a restart it does not find keys that are rarely written. Use 2.12.10 or later",
  },
  {
    versions: "2.11",
    is: (version) => !atLeast(version, 2, 12),
    effect: "not-raised",
    // A new replica knows only since 2.12 (`ScaleUp` in the server's jetstream_cluster.go) that it may not vote yet.
    why: "while it raises replicas, new ones that are empty can elect a leader, and the records are gone. Use 2.12.12 or later",
  },
  {
    versions: "before 2.12.12, and 2.14.0 to 2.14.2",
    is: (version) => !atLeast(version, 2, 12, 12) || (atLeast(version, 2, 13) && !atLeast(version, 2, 14, 3)),
    effect: "told",
    // nats-server #8332
    why: "a membership change of a stream's servers that was never committed is not taken back when a log is truncated",
  },
  {
    versions: "before 2.14.4, all of 2.12 too",
    is: (version) => !atLeast(version, 2, 14, 4),
    effect: "told",
    // nats-server #8370
    why: "after two elections shortly after each other, a leader can still propose what it took in its old term",
  },
];

/** A server that answered, or of which something is known otherwise. */
export interface Server {
  readonly name: string;
  readonly version: string;
}

/**
 * Why one of the servers cannot be used, or cannot be used to raise replicas. The version of an unknown one proves
 * nothing.
 */
export function faultOf(servers: readonly Server[], effect: Exclude<VersionEffect, "told">): StoreError | undefined {
  for (const { name, version } of servers) {
    if (!isVersion(version)) continue;
    const known = KNOWN_VERSIONS.find((each) => each.effect === effect && each.is(version));
    if (known === undefined) continue;
    const what = effect === "refused" ? "cannot be used" : "cannot raise replicas";
    return new StoreError("INCOMPATIBLE", `nats-server ${version} (${name}) ${what}: ${known.why}`, {
      details: { version, server: name },
    });
  }
  return undefined;
}

/** How long the servers have to say their versions. They answer within milliseconds, those that do. */
const WINDOW_MS = 250;
/**
 * Nobody says how many servers there are. After so long without another answer all are taken to have answered. One that
 * was missed is found later, by the buckets that it holds.
 */
const QUIET_MS = 50;
/** How often a store in use asks those that hold its buckets. */
const ASK_AGAIN_MS = 60_000;
const NOBODY: ReadonlySet<string> = new Set();

/** What is known of a bucket's servers, by the stream's leader. */
export interface BucketServers {
  /** The names of those that hold a replica. */
  readonly holders: readonly string[];
  /** The leader, which answered. */
  readonly leader: Server | undefined;
}

/**
 * The versions of the servers that matter. What the connection's own server says of itself is about that one only; the
 * leader of a stream says its version with the stream's settings; all others are asked, which permissions can forbid.
 */
export class ServerVersions {
  readonly #client: JetStreamClient;
  readonly #known = new Map<string, string>();
  /** When those that hold a bucket were asked last, and by way of which server. */
  readonly #asked = new Map<string, { readonly at: number; readonly by: string | undefined }>();
  #raising: { readonly at: number; readonly fault: StoreError | undefined } | undefined;

  constructor(client: JetStreamClient) {
    this.#client = client;
  }

  /** Why the server that the connection has cannot be used. */
  connected(): StoreError | undefined {
    const { server } = this.#client;
    return server === undefined ? undefined : faultOf([server], "refused");
  }

  /** Why a new bucket cannot be made: it can be placed on any server of the cluster. */
  async inCluster(call: Call): Promise<StoreError | undefined> {
    return faultOf(await this.#ask(NOBODY, call), "refused");
  }

  /** Why replicas cannot be raised: a new one can be placed on any server of the cluster. */
  async forRaising(call: Call): Promise<StoreError | undefined> {
    if (this.#raising === undefined || performance.now() - this.#raising.at > ASK_AGAIN_MS) {
      const answers = await this.#ask(NOBODY, call);
      const { server } = this.#client;
      const known = Array.from(this.#known, ([name, version]) => ({ name, version }));
      // What a server says now counts, whatever was known of it.
      const others = known.filter(({ name }) => !answers.some((each) => each.name === name));
      this.#raising = {
        fault: faultOf([...answers, ...others, ...(server === undefined ? [] : [server])], "not-raised"),
        at: performance.now(),
      };
    }
    return this.#raising.fault;
  }

  /**
   * Why one of those that hold the buckets cannot be used. They are asked once a minute at most, and when the
   * connection has got another server; the leaders have just answered.
   */
  async ofBuckets(buckets: ReadonlyMap<string, BucketServers>, call: Call): Promise<StoreError | undefined> {
    const at = performance.now();
    const by = this.#client.server?.name;
    const due = [...buckets].filter(([bucket]) => {
      const last = this.#asked.get(bucket);
      return last === undefined || last.by !== by || at - last.at > ASK_AGAIN_MS;
    });
    for (const [bucket] of due) this.#asked.set(bucket, { at, by });
    if (due.length > 0) {
      const wanted = new Set(due.flatMap(([, { holders }]) => holders));
      for (const { name, version } of await this.#ask(wanted, call)) this.#known.set(name, version);
    }
    const all = [...buckets.values()];
    for (const { leader } of all) if (leader !== undefined) this.#known.set(leader.name, leader.version);
    this.#client.replicasIsolateReads = [...this.#known.values()].every(
      (version) => !isVersion(version) || atLeast(version, 2, 12),
    );
    const holders = new Set(all.flatMap((each) => each.holders));
    const servers = Array.from(this.#known, ([name, version]) => ({ name, version })).filter(({ name }) =>
      holders.has(name),
    );
    return this.connected() ?? faultOf(servers, "refused");
  }

  /**
   * Servers of the connection's cluster that have JetStream, and those that are `wanted`. If any are wanted, it ends
   * when all of these have answered.
   */
  async #ask(wanted: ReadonlySet<string>, call: Call): Promise<Server[]> {
    const { cluster } = this.#client;
    if (cluster === undefined) return [];
    const found: Server[] = [];
    const missing = new Set(wanted);
    await this.#client.everyServer(
      Math.min(WINDOW_MS, this.#client.attemptMs(call)),
      wanted.size > 0 ? WINDOW_MS : QUIET_MS,
      (server) => {
        missing.delete(server.name);
        if (wanted.has(server.name) || (server.jetStream && server.cluster === cluster)) found.push(server);
        return wanted.size > 0 && missing.size === 0;
      },
    );
    return found;
  }
}
