// The JetStream backend on real clusters while servers are killed, stopped, restarted, cut off and slowed, and clients
// with them. What the clients told is a history; it has to be explained by some order of the operations, each at one
// instant.

import { spawn, type ChildProcess } from "node:child_process";
import { mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { connect } from "nats";
import { build, type Options } from "tsup";
import { openJetStream } from "unibus-membership";
import { startNatsCluster, type CutMode, type NatsCluster } from "unibus-membership/testing";
import {
  READS,
  clock,
  roomModel,
  userModel,
  wrongKey,
  type HistoryEntry as Entry,
  type Line,
  type Orders,
  type SoakOperation,
} from "./jetstream-history.js";
import { random } from "./random.js";
import { TooManyCourses, unexplained, type Model } from "./linearizability.js";

export interface SoakOptions {
  readonly seconds: number;
  readonly seed: number;
  /** Another module in place of the proof of quorum, which proves nothing. The soak has to find out. */
  readonly withoutProof?: boolean;
  /** Sizes of the clusters, one after the other. */
  readonly clusters?: readonly number[];
  readonly log?: (line: string) => void;
}

export interface SoakResult {
  readonly operations: number;
  readonly unknown: number;
  readonly partitions: number;
  readonly faults: Readonly<Record<string, number>>;
  readonly allows: number;
}

/** A promise was broken. */
export class Violation extends Error {}

/** What was answered has no explanation: a wrong yes, a lost write, something half done. */
export class WrongAnswer extends Violation {}

const root = fileURLToPath(new URL("../..", import.meta.url));
const opTimeoutMs = 700;
const GENERATION_MS = 8000;
const LANES = 6;
/** What a busy machine may add to a timeout. */
const SLACK_MS = 3000;

/** Answers at once and has asked nobody. It writes the barrier's key the first time: reads expect it to be there. */
const NO_PROOF = `
export const BARRIER_KEY = "barrier";
export const BARRIER = JSON.stringify({ k: BARRIER_KEY });
export class Barrier {
  #first;
  constructor(link, stream, subject) {
    this.#first = () => link.publish(stream, subject, BARRIER, 5000);
  }
  async prove() {
    const first = this.#first;
    this.#first = undefined;
    await first?.();
    return 0;
  }
}
`;

/** The client as plain JavaScript: a process without a compiler in it starts in a fraction of the time. */
async function buildClient(folder: string, withoutProof: boolean): Promise<string> {
  const plugins: NonNullable<Options["esbuildPlugins"]> = [];
  if (withoutProof) {
    plugins.push({
      name: "without-proof",
      setup(building) {
        building.onResolve({ filter: /^unibus-membership$/ }, () => ({ path: join(root, "lib/index.ts") }));
        building.onResolve({ filter: /\/barrier\.js$/ }, () => ({ path: "no-proof", namespace: "no-proof" }));
        building.onLoad({ filter: /.*/, namespace: "no-proof" }, () => ({ contents: NO_PROOF, loader: "js" }));
      },
    });
  }
  await symlink(join(root, "node_modules"), join(folder, "node_modules"));
  await build({
    config: false,
    entry: { client: join(root, "spec/soak/jetstream-client.ts") },
    outDir: folder,
    format: "cjs",
    target: "node20",
    splitting: false,
    silent: true,
    dts: false,
    clean: false,
    removeNodeProtocol: false,
    noExternal: ["unibus-membership"],
    // What opens a SQLite file is not asked for.
    external: ["nats", /\/sql-js\.js$/],
    esbuildPlugins: withoutProof
      ? plugins
      : [
          {
            name: "as-built",
            setup(building) {
              building.onResolve({ filter: /^unibus-membership$/ }, () => ({
                path: join(root, "dist/index.cjs"),
                external: true,
              }));
            },
          },
        ],
  });
  await writeFile(join(folder, "package.json"), '{ "type": "commonjs" }');
  return join(folder, "client.cjs");
}

/** All that the clients told, by record. */
class History {
  readonly #open = new Map<string, { at: string; op: SoakOperation; t: number }>();
  readonly #records = new Map<string, Entry[]>();
  /** What an operation's keys are known by is its id. */
  readonly #byId = new Map<string, Entry & { out: string | undefined }>();
  operations = 0;
  unknown = 0;
  allows = 0;
  problems: string[] = [];

  hear(line: Line): void {
    if ("i" in line) {
      this.#open.set(line.i, { at: line.at, op: line.op, t: line.t });
      return;
    }
    if ("note" in line) {
      if (line.note.startsWith("uncaught")) this.problems.push(line.note);
      return;
    }
    const begun = this.#open.get(line.r);
    if (begun === undefined) return;
    this.#open.delete(line.r);
    if (line.late !== undefined && line.late > SLACK_MS)
      this.problems.push(`${begun.op.f} on ${begun.at} took ${Math.round(line.late)} ms more than its time`);
    if (line.out.startsWith("not a StoreError")) this.problems.push(`${begun.op.f} on ${begun.at}: ${line.out}`);
    this.#end(line.r, begun, line.t, line.out);
  }

  #end(id: string, begun: { at: string; op: SoakOperation; t: number }, t: number, out: string | undefined): void {
    this.operations++;
    const { at, op } = begun;
    const entry = (returned: number | undefined, output: string | undefined): Entry => ({
      id,
      at,
      input: op,
      invoked: begun.t,
      returned,
      output,
    });
    const known = entry(t, out);
    if (op.f !== "keys") this.#byId.set(id, { ...known, out });
    let kept: Entry | undefined;
    if (READS.has(op.f)) {
      // Only what is proof of something is kept: a denial for want of an answer is none.
      const evidence =
        op.f === "authorize"
          ? ["active", "unknown", "revoked"].includes(out ?? "")
          : op.f === "isAdmin" || op.f === "isMember"
            ? out === "true"
            : out !== undefined && !["TIMEOUT", "UNAVAILABLE", "CLOSED"].includes(out);
      if (evidence) kept = known;
      if (out === "active" || out === "true") this.allows++;
    } else if (out === undefined || out === "unknown") {
      this.unknown++;
      kept = entry(undefined, undefined);
    } else if (out !== "none" && out !== "CLOSED") {
      kept = known;
    }
    if (kept === undefined) return;
    const record = this.#records.get(at);
    if (record === undefined) this.#records.set(at, [kept]);
    else record.push(kept);
  }

  /** A client that is gone will say no more: of what it had begun nobody knows. */
  gone(client: string): void {
    for (const [id, begun] of this.#open) {
      if (!id.startsWith(`${client}.`)) continue;
      this.#open.delete(id);
      if (!READS.has(begun.op.f)) this.#end(id, begun, Infinity, undefined);
    }
  }

  /** Looks at the records of generations before this one, and forgets them. Answers how many. */
  check(before: number): { checked: number; skipped: number } {
    let checked = 0;
    let skipped = 0;
    for (const [at, entries] of [...this.#records]) {
      if (Number(/^g(\d+)-/.exec(at)?.[1]) >= before) continue;
      this.#records.delete(at);
      entries.sort((a, b) => a.invoked - b.invoked);
      if (at.includes("-r")) this.#checkKeys(at, entries);
      try {
        const isUser = at.includes("-u");
        const wrong = isUser
          ? unexplained(userModel as Model<SoakOperation, string>, entries)
          : unexplained(roomModel as Model<SoakOperation, string>, entries);
        checked++;
        if (wrong !== undefined)
          throw new WrongAnswer(`no order of the operations on ${at} explains this answer:\n${around(entries, wrong)}`);
      } catch (error) {
        if (!(error instanceof TooManyCourses)) throw error;
        skipped++;
      }
    }
    return { checked, skipped };
  }

  #checkKeys(at: string, entries: readonly Entry[]): void {
    const wrong = wrongKey(at, entries, (id) => this.#byId.get(id));
    if (wrong !== undefined) throw new WrongAnswer(`${wrong.why}\n${around(entries, wrong.index)}`);
  }
}

function around(entries: readonly Entry[], wrong: number): string {
  const { invoked: t0 = 0 } = entries[wrong] ?? {};
  const near = entries
    .map((entry, index) => ({ entry, index }))
    .filter(
      ({ entry, index }) =>
        index === wrong ||
        (!READS.has(entry.input.f) && entry.invoked < t0 + 1e6) ||
        Math.abs(entry.invoked - t0) < 3e5,
    );
  const ms = (t: number): string => ((t - t0) / 1000).toFixed(1);
  const at = near.findIndex(({ index }) => index === wrong);
  return near
    .slice(Math.max(0, at - 150), at + 15)
    .map(
      ({ entry: { id, input, invoked, returned, output }, index }) =>
        `${index === wrong ? ">>" : "  "} ${ms(invoked).padStart(9)} ${returned === undefined ? "?".padStart(9) : ms(returned).padStart(9)}  ${id.padEnd(9)} ${JSON.stringify(input)} ${output ?? "unknown"}`,
    )
    .join("\n");
}

/** The processes, each bound to one node, but the last one, which goes wherever it can. */
class Clients {
  readonly #script: string;
  readonly #history: History;
  readonly #orders: Omit<Orders, "name" | "servers" | "seed">;
  readonly #running = new Map<number, { child: ChildProcess; ended: Promise<void> }>();
  readonly #seed: number;
  readonly #urls: readonly string[];
  #count = 0;
  #stopped = false;
  suicides = 0;

  constructor(
    script: string,
    history: History,
    orders: Omit<Orders, "name" | "servers" | "seed">,
    seed: number,
    urls: readonly string[],
  ) {
    this.#script = script;
    this.#history = history;
    this.#orders = orders;
    this.#seed = seed;
    this.#urls = urls;
    for (let slot = 0; slot < 4; slot++) this.#start(slot);
  }

  #start(slot: number): void {
    const name = `c${++this.#count}`;
    const url = this.#urls[slot];
    const servers = slot === 3 || url === undefined ? this.#urls : [url];
    const orders: Orders = { ...this.#orders, name, servers, seed: this.#seed * 1000 + this.#count };
    const child = spawn(process.execPath, [this.#script, JSON.stringify(orders)], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    child.stdin.on("error", () => undefined);
    createInterface({ input: child.stdout }).on("line", (line) => this.#history.hear(JSON.parse(line) as Line));
    const ended = new Promise<void>((resolve) => {
      child.once("close", (code) => {
        this.#history.gone(name);
        if (code === null) this.suicides++;
        resolve();
        if (!this.#stopped) this.#start(slot);
      });
    });
    this.#running.set(slot, { child, ended });
  }

  kill(slot: number): void {
    this.#running.get(slot)?.child.kill("SIGKILL");
  }

  cut(slot: number): void {
    this.#running.get(slot)?.child.stdin?.write("cut\n");
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    for (const { child } of this.#running.values()) child.kill("SIGKILL");
    await Promise.all([...this.#running.values()].map(({ ended }) => ended));
  }
}

const pause = async (ms: number): Promise<void> => {
  await new Promise((resolve) => setTimeout(resolve, ms));
};

/**
 * The node that leads the users, as every one of them says it, is alone: what it believes is out of date for seconds.
 */
async function isolateLeader(cluster: NatsCluster, mode: CutMode, lastsMs: number): Promise<string> {
  const { nodes } = cluster;
  for (let via = 0; via < nodes.length; via++) {
    const info = (await cluster
      .node(via)
      .monitor("/jsz?streams=true")
      .catch(() => undefined)) as Jsz | undefined;
    const stream = info?.account_details
      ?.flatMap((account) => account.stream_detail ?? [])
      .find(({ name }) => name.endsWith("_users"));
    const leader = nodes.findIndex(({ name }) => name === stream?.cluster?.leader);
    if (leader < 0) continue;
    cluster.isolate(leader, mode);
    await pause(lastsMs);
    cluster.heal();
    return `a leader cut off (${mode})`;
  }
  return "no leader to cut off";
}

interface Jsz {
  readonly account_details?: readonly {
    readonly stream_detail?: readonly { readonly name: string; readonly cluster?: { readonly leader?: string } }[];
  }[];
}

const MODES: readonly CutMode[] = ["blackhole", "stall", "reset"];

/** One fault: it begins, lasts and is undone. */
async function fault(cluster: NatsCluster, clients: Clients, next: () => number): Promise<string> {
  const size = cluster.nodes.length;
  const below = (n: number): number => Math.floor(next() * n);
  const node = below(size);
  const mode = MODES[below(MODES.length)] ?? "reset";
  const lasts = 500 + next() * 5500;
  const some = [...cluster.nodes.keys()].filter((index) => (index - node + size) % size <= below(size - 1));
  switch (below(10)) {
    case 0:
      await cluster.node(node).kill();
      await pause(lasts);
      await cluster.node(node).restart();
      return "a server killed";
    case 1:
      await Promise.all(some.map((index) => cluster.node(index).kill()));
      await pause(lasts);
      await Promise.all(some.map((index) => cluster.node(index).restart()));
      return "servers killed";
    case 2:
      await cluster.node(node).pause();
      await pause(lasts);
      await cluster.node(node).resume();
      return "a server paused";
    case 3:
      await Promise.all(some.map((index) => cluster.node(index).pause()));
      await pause(lasts);
      await Promise.all(some.map((index) => cluster.node(index).resume()));
      return "servers paused";
    case 4:
      await cluster.node(node).restart();
      return "a server restarted";
    case 5:
      return isolateLeader(cluster, mode, lasts + 4000);
    case 6:
      cluster.isolate(node, mode);
      await pause(lasts + 2000);
      cluster.heal();
      return `a server cut off (${mode})`;
    case 7:
      cluster.cut(node, (node + 1) % size, mode);
      await pause(lasts);
      cluster.heal();
      return `a route cut (${mode})`;
    case 8:
      cluster.delay(20 + next() * 200);
      await pause(lasts);
      cluster.delay(0);
      return "slow routes";
    default:
      for (let n = 0; n < 6; n++) {
        if (next() < 0.5) clients.kill(below(4));
        else clients.cut(below(4));
        await pause(next() * 400);
      }
      return "clients killed and cut";
  }
}

async function soakOn(
  size: number,
  script: string,
  until: number,
  options: SoakOptions,
  seed: number,
): Promise<SoakResult> {
  const { log } = options;
  const next = random(seed, size);
  const cluster = await startNatsCluster({ size, routes: "proxied" });
  const faults: Record<string, number> = {};
  const history = new History();
  let clients: Clients | undefined;
  let partitions = 0;
  let skipped = 0;
  const look = (before: number): void => {
    const [problem] = history.problems;
    if (problem !== undefined) throw new Violation(problem);
    const found = history.check(before);
    partitions += found.checked;
    skipped += found.skipped;
  };
  try {
    const prefix = "soak_";
    const connection = await connect({ servers: [...cluster.urls] });
    const store = await openJetStream(connection, 3, { prefix });
    // There is always an admin, so that none of the others is the last.
    await store.users.addFirstAdmin({ key: "root" });
    const began = clock();
    clients = new Clients(
      script,
      history,
      { prefix, lanes: LANES, began, generationMs: GENERATION_MS, timeoutMs: opTimeoutMs },
      seed,
      cluster.urls,
    );
    const generation = (): number => Math.floor((clock() - began) / 1000 / GENERATION_MS);
    await pause(1500);
    do {
      const first = Object.keys(faults).length === 0;
      const name = first ? await isolateLeader(cluster, "blackhole", 9000) : await fault(cluster, clients, next);
      faults[name] = (faults[name] ?? 0) + 1;
      await pause(500 + next() * 2500);
      // Calls of a generation may go on for a while into the next ones.
      look(generation() - Math.ceil((2 * opTimeoutMs + SLACK_MS) / GENERATION_MS) - 1);
    } while (performance.now() < until);

    // All is well again, and so must the checks be, without anything being opened anew.
    cluster.heal();
    await cluster.ready(60_000);
    const limit = performance.now() + 15_000;
    while (!(await store.isAdmin("root")) || !(await store.hasAdmin())) {
      if (performance.now() > limit) throw new Violation("no allow within 15 s though the cluster is well again");
    }
    await clients.stop();
    look(Infinity);
    await store.close();
    await connection.close();
    if (history.allows === 0) throw new Violation("nobody was allowed anything");
    log?.(
      `${size} nodes: ${history.operations} operations, ${history.unknown} of unknown outcome, ${history.allows} allows, ` +
        `${partitions} records explained, ${skipped} not decided; ${clients.suicides} client processes killed; ` +
        Object.entries(faults)
          .map(([name, count]) => `${count} ${name}`)
          .join(", "),
    );
    return { operations: history.operations, unknown: history.unknown, partitions, faults, allows: history.allows };
  } catch (error) {
    if (error instanceof Violation && options.withoutProof !== true) {
      log?.(`seed ${seed}; faults so far: ${JSON.stringify(faults)}`);
      for (const node of cluster.nodes) log?.(`${node.name} logged:\n${node.logs().split("\n").slice(-80).join("\n")}`);
    }
    throw error;
  } finally {
    await clients?.stop();
    await cluster.dispose();
  }
}

/** Rejects with a {@link Violation} where a promise was broken; `withoutProof` where no {@link WrongAnswer} came. */
export async function run(options: SoakOptions): Promise<readonly SoakResult[]> {
  const { seconds, seed, withoutProof = false, clusters = [3, 5], log } = options;
  const folder = await mkdtemp(join(tmpdir(), "unibus-soak-"));
  const results: SoakResult[] = [];
  try {
    const script = await buildClient(folder, withoutProof);
    for (const size of clusters) {
      const until = performance.now() + (seconds * 1000) / clusters.length;
      results.push(await soakOn(size, script, until, options, seed));
    }
  } catch (error) {
    if (!withoutProof || !(error instanceof WrongAnswer)) throw error;
    log?.(`without the proof a violation was found, as it has to be: ${error.message}`);
    return results;
  } finally {
    await rm(folder, { recursive: true });
  }
  if (withoutProof) throw new Error("the proof was taken out and the soak found nothing");
  return results;
}
