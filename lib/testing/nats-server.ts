import { join } from "node:path";
import { findNatsServer, type FindNatsServerOptions } from "./find-nats-server.js";
import {
  freePorts,
  NatsNode,
  NotInTime,
  PortTaken,
  until,
  type NatsServer,
  type NatsServerConfig,
} from "./nats-node.js";
import { RouteProxy, type CutMode } from "./route-proxy.js";

export interface NatsServerOptions extends FindNatsServerOptions {
  /**
   * More settings, as an object with the keys of a nats-server configuration file, such as
   * `{ jetstream: { sync_interval: "always" } }`. Sections are merged.
   */
  config?: NatsServerConfig;
  /** How long a start may take until clients can use the server, or the cluster. Default: 30,000. */
  startTimeoutMs?: number;
}

export interface NatsClusterOptions extends NatsServerOptions {
  /** Default: 3. */
  size?: number;
  /**
   * A folder with JetStream's files of each node, which stay when the cluster is gone: a cluster of the same size that
   * is given it again has what was stored. Nodes that were stopped by SIGTERM start much faster from it. Default: the
   * nodes' own folders, which go with them.
   */
  stores?: string;
  /** `proxied` routes can be cut and slowed; `direct` ones, the default, are as fast as they get. */
  routes?: "direct" | "proxied";
}

/** A JetStream cluster on 127.0.0.1. Nodes are named by their index, from 0. */
export interface NatsCluster extends AsyncDisposable {
  readonly nodes: readonly NatsServer[];
  /** All clients' addresses: the nodes do not tell clients of each other. */
  readonly urls: readonly string[];
  node(index: number): NatsServer;
  /** The index of the node that this one (default: any that has an opinion) holds to be the meta leader. */
  metaLeader(asSeenBy?: number): Promise<number | undefined>;
  /**
   * Resolves when all nodes that run have routes to each other, save those cut, have caught up with one meta leader,
   * and say that they are healthy. What is stored can be read and written from then on; a *new* stream may be refused
   * for seconds more after a cut ("peer offline"), until the servers' own reports of themselves have gone round.
   */
  ready(timeoutMs?: number): Promise<void>;
  /** Cuts the routes between two nodes. For this and what follows `routes` has to be `proxied`. */
  cut(a: number, b: number, mode?: CutMode): void;
  /** Cuts a node off from all others. Its clients still reach it. */
  isolate(index: number, mode?: CutMode): void;
  /** Mends every cut. `ready` tells when the nodes have found each other again. */
  heal(): void;
  /** Delays every route, each way, by so much; 0 ends it. */
  delay(ms: number): void;
  /** Kills all nodes and removes their folders. The same as leaving an `await using`. */
  dispose(): Promise<void>;
}

/** Starts one nats-server with JetStream on free ports of 127.0.0.1. */
export async function startNatsServer(options: NatsServerOptions = {}): Promise<NatsServer> {
  const { path: program } = await findNatsServer(options);
  return await withFreshPorts(async () => {
    const [client = 0, monitor = 0] = await freePorts(2);
    const node = await NatsNode.prepare({
      program,
      name: `nats-${client}`,
      config: options.config ?? {},
      ports: { client, monitor },
      health: "",
      timeoutMs: options.startTimeoutMs ?? DEFAULT_START_TIMEOUT_MS,
    });
    return await disposeOnFailure(node, async () => {
      await node.start();
      return node;
    });
  });
}

/** Starts a cluster of nats-servers with JetStream on free ports of 127.0.0.1, and waits until it can be used. */
export async function startNatsCluster(options: NatsClusterOptions = {}): Promise<NatsCluster> {
  const { path: program } = await findNatsServer(options);
  return await withFreshPorts(async () => {
    const cluster = new Cluster();
    return await disposeOnFailure(cluster, async () => {
      await cluster.start(program, options);
      return cluster;
    });
  });
}

const DEFAULT_START_TIMEOUT_MS = 30_000;

/**
 * A node that was cut off has campaigned meanwhile: the next heartbeat, one a second, makes the leader that seemed
 * settled step down.
 */
const SETTLED_MS = 1_200;

/** What `/jsz` tells of the group that places streams; only the leader lists the others. */
interface MetaGroup {
  meta_cluster?: {
    leader?: string;
    cluster_size?: number;
    replicas?: { name: string; current: boolean; offline?: boolean }[] | null;
  };
}

class Cluster implements NatsCluster {
  readonly nodes: NatsNode[] = [];
  readonly #proxies: { from: number; to: number; proxy: RouteProxy }[] = [];
  #nowhere: RouteProxy | undefined;
  #timeoutMs = DEFAULT_START_TIMEOUT_MS;

  async start(program: string, options: NatsClusterOptions): Promise<void> {
    const size = options.size ?? 3;
    if (!Number.isInteger(size) || size < 2) throw new Error(`a cluster has two nodes or more, not ${size}`);
    this.#timeoutMs = options.startTimeoutMs ?? DEFAULT_START_TIMEOUT_MS;
    const ports = await freePorts(size * 3);
    const clusterPorts = ports.splice(0, size);
    const { stores } = options;
    // Peers know each other by name: one that has another name today is another peer.
    const clusterName = stores === undefined ? `cluster-${clusterPorts.join("-")}` : "cluster-kept";

    const proxied = options.routes === "proxied";
    if (proxied) {
      // Nodes tell each other where a third one listens, and would dial it past the proxies: they are told nowhere.
      this.#nowhere = await RouteProxy.listen(0);
      this.#nowhere.cut("reset");
    }
    for (const [index, clusterPort] of clusterPorts.entries()) {
      const [client = 0, monitor = 0] = ports.splice(0, 2);
      const routes: string[] = [];
      for (const [other, otherPort] of clusterPorts.entries()) {
        if (other === index) continue;
        routes.push(`nats://127.0.0.1:${proxied ? await this.#dial(index, other, otherPort) : otherPort}`);
      }
      const cluster = {
        name: clusterName,
        listen: `127.0.0.1:${clusterPort}`,
        routes,
        // Clients stay with the addresses that they were given.
        no_advertise: true,
        ...(this.#nowhere && { advertise: `127.0.0.1:${this.#nowhere.port}` }),
      };
      this.nodes.push(
        await NatsNode.prepare({
          program,
          name: stores === undefined ? `nats-${index}-${client}` : `nats-${index}-kept`,
          config: { cluster, ...options.config },
          ...(stores !== undefined && { store: join(stores, String(index)) }),
          ports: { client, monitor },
          health: "?js-enabled-only=true",
          timeoutMs: this.#timeoutMs,
        }),
      );
    }

    const started = await Promise.allSettled(this.nodes.map((node) => node.start()));
    const failures = started.flatMap((result) => (result.status === "rejected" ? [result.reason as unknown] : []));
    if (failures.length > 0) throw failures.find((failure) => failure instanceof PortTaken) ?? failures[0];
    await this.#becomeReady(this.#timeoutMs, 0);
  }

  get urls(): readonly string[] {
    return this.nodes.map((node) => node.url);
  }

  node(index: number): NatsNode {
    const node = this.nodes[index];
    if (node === undefined) throw new RangeError(`there is no node ${index}: the last one is ${this.nodes.length - 1}`);
    return node;
  }

  async metaLeader(asSeenBy?: number): Promise<number | undefined> {
    for (const node of asSeenBy === undefined ? this.nodes : [this.node(asSeenBy)]) {
      const leader = (await metaGroup(node))?.leader;
      const index = this.nodes.findIndex((each) => each.name === leader);
      if (index >= 0) return index;
    }
    return undefined;
  }

  async ready(timeoutMs = this.#timeoutMs): Promise<void> {
    await this.#becomeReady(timeoutMs, SETTLED_MS);
  }

  async #becomeReady(timeoutMs: number, settledMs: number): Promise<void> {
    let missing = "";
    let since: { leader: number | undefined; time: number } | undefined;
    const settled = async (): Promise<boolean> => {
      missing = await this.#whatIsMissing();
      const leader = await this.metaLeader();
      if (missing !== "") since = undefined;
      else if (since?.leader !== leader) since = { leader, time: performance.now() };
      return since !== undefined && performance.now() - since.time >= settledMs;
    };
    await until(settled, performance.now() + timeoutMs).catch((error: unknown) => {
      if (!(error instanceof NotInTime)) throw error;
      throw new Error(`the cluster was not ready within ${timeoutMs} ms: ${missing}`, { cause: error });
    });
  }

  cut(a: number, b: number, mode: CutMode = "blackhole"): void {
    for (const proxy of this.#between((from, to) => (from === a && to === b) || (from === b && to === a))) {
      proxy.cut(mode);
    }
  }

  isolate(index: number, mode: CutMode = "blackhole"): void {
    for (const proxy of this.#between((from, to) => from === index || to === index)) proxy.cut(mode);
  }

  heal(): void {
    for (const proxy of this.#between(() => true)) proxy.heal();
  }

  delay(ms: number): void {
    for (const proxy of this.#between(() => true)) proxy.delay(ms);
  }

  async dispose(): Promise<void> {
    await Promise.all(this.nodes.map((node) => node.dispose()));
    for (const { proxy } of this.#proxies) proxy.close();
    this.#nowhere?.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  async #dial(from: number, to: number, target: number): Promise<number> {
    const proxy = await RouteProxy.listen(target);
    this.#proxies.push({ from, to, proxy });
    return proxy.port;
  }

  #between(isMeant: (from: number, to: number) => boolean): RouteProxy[] {
    const meant = this.#proxies.filter(({ from, to }) => isMeant(from, to)).map(({ proxy }) => proxy);
    if (meant.length === 0) {
      throw new Error(
        'no such routes to cut or slow: start the cluster with routes: "proxied" and name nodes by index',
      );
    }
    return meant;
  }

  #isCut(a: string, b: string): boolean {
    const isEnd = (index: number): boolean => [a, b].includes(this.node(index).name);
    return this.#proxies.some(({ from, to, proxy }) => proxy.isCut && isEnd(from) && isEnd(to));
  }

  async #whatIsMissing(): Promise<string> {
    const running = this.nodes.filter((node) => node.pid !== undefined);
    const groups = await Promise.all(running.map(metaGroup));
    const leaders = new Set(groups.map((group) => group?.leader));
    const [leader] = leaders;
    if (leaders.size !== 1 || leader === undefined || leader === "") {
      return `the nodes see as meta leader: ${[...leaders].map((name) => name ?? "none").join(", ")}`;
    }
    const group = groups[running.findIndex((node) => node.name === leader)];
    if (group === undefined) return `the meta leader ${leader} is down`;
    if (group.cluster_size !== this.nodes.length) return `the meta group has ${group.cluster_size ?? 0} nodes`;
    const peers = group.replicas ?? [];
    for (const { name } of running) {
      const peer = peers.find((each) => each.name === name);
      if (name !== leader && (peer === undefined || !peer.current || peer.offline === true))
        return `${name} lags behind`;
    }
    for (const node of running) {
      const reached = await routesOf(node);
      const unreached = running.find(
        ({ name }) => name !== node.name && !reached.has(name) && !this.#isCut(node.name, name),
      );
      if (unreached !== undefined) return `${node.name} has no route to ${unreached.name}`;
      const refusal = await node.monitor("/healthz").then(() => "", String);
      if (refusal !== "") return refusal;
    }
    return "";
  }
}

async function metaGroup(node: NatsNode): Promise<MetaGroup["meta_cluster"]> {
  if (node.pid === undefined) return undefined;
  const answer = await node.monitor("/jsz").catch(() => undefined);
  return (answer as MetaGroup | undefined)?.meta_cluster;
}

async function routesOf(node: NatsNode): Promise<Set<string>> {
  const answer = (await node.monitor("/routez").catch(() => undefined)) as
    { routes?: { remote_name: string }[] } | undefined;
  return new Set(answer?.routes?.map((route) => route.remote_name));
}

/** Between finding ports free and using them somebody else can take one. */
async function withFreshPorts<T>(start: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await start();
    } catch (error) {
      if (!(error instanceof PortTaken) || attempt === 5) throw error;
    }
  }
}

async function disposeOnFailure<T>(made: { dispose(): Promise<void> }, use: () => Promise<T>): Promise<T> {
  try {
    return await use();
  } catch (error) {
    await made.dispose();
    throw error;
  }
}
