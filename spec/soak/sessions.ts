// Thousands of sessions on a cluster whose buckets get more replicas, and whose servers are then restarted in turn,
// killed, paused and cut off, while users are revoked, demoted, removed and expire all the time: how long each session
// takes to end, and whether one ends for nothing. Beside them the plain client's `kv.watch` looks at the same bucket.

import { connect, type NatsConnection } from "nats";
import {
  SessionEnded,
  openJetStream,
  type Denial,
  type Replicas,
  type Session,
  type SessionOptions,
  type Store,
} from "unibus-membership";
import { startNatsCluster, type NatsCluster } from "unibus-membership/testing";
import { BUCKETS } from "../jetstream/support/streams.js";
import { random } from "./random.js";

interface Options {
  readonly seconds: number;
  readonly seed: number;
  readonly sessions?: number;
  readonly log: (line: string) => void;
}

const PREFIX = "soak_";
const ROOM = "room";
const BOUNDS_MS = [1000, 5000] as const;
/** What a busy machine may add to a timer. */
const SLACK_MS = 1000;
const PROBE_EVERY_MS = 50;
const AT_ONCE = 64;
const LANES = 8;
const opTimeoutMs = 30_000;
/** So long servers may be away. */
const AGAIN_MS = 120_000;
const ROLLOUT_MS = 300_000;

type Taking = "revoked" | "given back" | "demoted" | "removed" | "expired";

/** One user, who has a session of each bound, of a membership and of the role. */
interface Subject {
  readonly n: number;
  readonly key: string;
  readonly endpoint: string;
  /** Those that go on. */
  readonly held: Map<number, Session>;
  /** Some of them are being opened. */
  isOpening: boolean;
  /** Something was begun that may take away what the sessions rest on. */
  isTaken: boolean;
}

interface Figures {
  readonly ended: Map<number, number[]>;
  readonly missed: string[];
  readonly wrong: string[];
  readonly reasons: Map<string, number>;
  /** What ended sessions for nothing. */
  readonly causes: Map<string, number>;
  excused: number;
}

/** Barriers of another connection of the same server, in both buckets: whether the backend answers. */
class Prober {
  /** When each was asked for, and when it was answered. */
  readonly #probes: { readonly at: number; answered: number }[] = [];
  readonly #timer: NodeJS.Timeout;

  constructor({ store, connection }: Opened, beside: readonly Opened[]) {
    this.#timer = setInterval(() => {
      const probe = { at: performance.now(), answered: Infinity };
      this.#probes.push(probe);
      const server = connection.getServer();
      // Where a connection has gone to another server, it says nothing of what this one could hear.
      if (beside.some((other) => other.connection.getServer() !== server)) return;
      void Promise.all([store.isAuthorized("root"), store.isMember(ROOM, "owner")]).then((allowed) => {
        if (allowed.every(Boolean)) probe.answered = performance.now();
      });
    }, PROBE_EVERY_MS);
  }

  /** Whether each barrier of the last `boundMs` before `at` came within a third of that. */
  answered(at: number, boundMs: number): boolean {
    const since = this.#probes.filter((probe) => probe.at > at - boundMs - PROBE_EVERY_MS && probe.at <= at);
    let last = at - boundMs - PROBE_EVERY_MS;
    for (const probe of [...since, { at, answered: at }]) {
      if (probe.at - last > 4 * PROBE_EVERY_MS || probe.answered - probe.at > boundMs / 3) return false;
      last = probe.at;
    }
    return true;
  }

  stop(): void {
    clearInterval(this.#timer);
  }
}

interface Opened {
  readonly store: Store;
  readonly connection: NatsConnection;
}

/** What the plain client tells of the users' bucket: when each key was delivered. */
async function watchPlainly(connection: NatsConnection): Promise<Map<string, number[]>> {
  const delivered = new Map<string, number[]>();
  const kv = await connection.jetstream().views.kv(`${PREFIX}users`, { bindOnly: true });
  const watch = await kv.watch();
  void (async () => {
    for await (const { key } of watch) delivered.set(key, [...(delivered.get(key) ?? []), performance.now()]);
  })();
  return delivered;
}

const plainKey = (key: string): string => `user.${Buffer.from(key).toString("base64url")}`;

async function each<T>(items: readonly T[], width: number, work: (item: T) => Promise<unknown>): Promise<void> {
  const iterator = items.values();
  const lane = async (): Promise<void> => {
    for (const item of iterator) await work(item);
  };
  await Promise.all(Array.from({ length: width }, lane));
}

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** Again until it is done: servers come and go. */
async function surely<T>(work: () => Promise<T>): Promise<T> {
  for (const end = performance.now() + AGAIN_MS; ;) {
    try {
      return await work();
    } catch (error) {
      if (performance.now() > end) throw error;
      await pause(100);
    }
  }
}

class Soak {
  readonly #stores: ReadonlyMap<number, Store>;
  readonly #writer: Store;
  readonly #prober: Prober;
  readonly #next: () => number;
  readonly subjects: readonly Subject[];
  readonly figures: Figures = {
    ended: new Map(),
    missed: [],
    wrong: [],
    reasons: new Map(),
    causes: new Map(),
    excused: 0,
  };
  /** When what was begun and acknowledged of each user, for whoever compares. */
  readonly takings: { readonly key: string; readonly begun: number; readonly acked: number }[] = [];
  isOver = false;

  constructor(stores: ReadonlyMap<number, Store>, writer: Store, prober: Prober, subjects: number, seed: number) {
    this.#stores = stores;
    this.#writer = writer;
    this.#prober = prober;
    this.#next = random(seed);
    this.subjects = Array.from({ length: subjects }, (_, n) => ({
      n,
      key: `user-${n}`,
      endpoint: `e${n}`,
      held: new Map<number, Session>(),
      isOpening: false,
      isTaken: false,
    }));
  }

  async prepare(): Promise<void> {
    await this.#writer.users.addFirstAdmin({ key: "root" });
    await this.#writer.rooms.create({ id: ROOM, owner: "owner" });
    const add = async ({ key, endpoint, n }: Subject): Promise<void> => {
      await this.#writer.users.add({ key, role: isOfRole(n) ? "admin" : "member" });
      if (isOfRoom(n)) await this.#writer.members.add(ROOM, { endpoint, state: "joined" });
    };
    // All admins change one record, and all members of a room another.
    const isOfOne = ({ n }: Subject): boolean => isOfRole(n) || isOfRoom(n);
    await each(this.subjects.filter(isOfOne), 2, add);
    await each(
      this.subjects.filter((subject) => !isOfOne(subject)),
      AT_ONCE,
      add,
    );
    await each(this.subjects, AT_ONCE, (subject) => this.#hold(subject));
  }

  /** A session of each bound, of those that are not there. Nothing is taken away meanwhile. */
  async #hold(subject: Subject): Promise<void> {
    if (subject.isOpening) return;
    subject.isOpening = true;
    while (!this.isOver && subject.held.size < this.#stores.size)
      for (const [boundMs, store] of this.#stores)
        if (!subject.held.has(boundMs)) await this.#open(subject, boundMs, store);
    subject.isOpening = false;
  }

  async #open(subject: Subject, maxStalenessMs: number, store: Store): Promise<void> {
    const { key, endpoint, n } = subject;
    const options: SessionOptions = {
      maxStalenessMs,
      ...(isOfRole(n) ? { role: "admin" } : {}),
      ...(isOfRoom(n) ? { memberOf: [{ roomId: ROOM, endpoint }] } : {}),
    };
    const session = await store.session(key, options);
    if (session.allowed) this.#listen(subject, maxStalenessMs, session);
    else await pause(100);
  }

  #listen(subject: Subject, boundMs: number, session: Session): void {
    subject.held.set(boundMs, session);
    session.signal.addEventListener("abort", () => {
      const at = performance.now();
      if (subject.held.get(boundMs) === session) subject.held.delete(boundMs);
      const why: unknown = session.signal.reason;
      const reason: Denial["reason"] = why instanceof SessionEnded ? why.denial.reason : "malformed";
      this.figures.reasons.set(reason, (this.figures.reasons.get(reason) ?? 0) + 1);
      if (subject.isTaken || this.isOver) return;
      const isForWant = reason === "timeout" || reason === "unavailable";
      if (isForWant && !this.#prober.answered(at, boundMs)) this.figures.excused++;
      else {
        this.figures.wrong.push(`${subject.key}, ${boundMs} ms: ${reason} after ${at.toFixed(0)}, ${causeOf(why)}`);
        const what = `${boundMs} ms: ${reason}, ${causeOf(why)}`;
        this.figures.causes.set(what, (this.figures.causes.get(what) ?? 0) + 1);
      }
      void this.#hold(subject);
    });
  }

  async lane(): Promise<void> {
    while (!this.isOver) {
      const subject = this.subjects[Math.floor(this.#next() * this.subjects.length)];
      // Of a session that is being opened nobody knows whether it is of the grant before or of the next one.
      if (subject !== undefined && !subject.isTaken && !subject.isOpening) await this.#takeAway(subject);
      await pause(this.#next() * 50);
    }
  }

  async #takeAway(subject: Subject): Promise<void> {
    const { key, endpoint, n } = subject;
    const { users, members } = this.#writer;
    subject.isTaken = true;
    const sessions = [...subject.held];
    const kinds: Taking[] = ["revoked", "given back", "expired"];
    if (isOfRole(n)) kinds.push("demoted");
    if (isOfRoom(n)) kinds.push("removed");
    const kind = kinds[Math.floor(this.#next() * kinds.length)] ?? "revoked";
    const begun = performance.now();
    let acked = Infinity;
    // A write whose outcome is unknown is made again: the first acknowledgement counts.
    await surely(async () => {
      if (kind === "demoted") await users.update(key, { role: "member" });
      else if (kind === "expired") await users.update(key, { expiresAt: new Date(1) });
      else if (kind === "removed") await members.remove(ROOM, endpoint).catch(unlessGone);
      else await users.revoke(key);
      acked = performance.now();
    });
    if (kind !== "removed") this.takings.push({ key, begun, acked });
    const ends = sessions.map(([boundMs, session]) => this.#ends(subject, kind, boundMs, session, acked));
    if (kind === "given back") await surely(() => users.reinstate(key));
    await Promise.all(ends);
    await surely(async () => {
      if (kind === "removed") await members.add(ROOM, { endpoint, state: "joined" }).catch(unlessThere);
      await users.reinstate(key);
      await users.update(key, { expiresAt: null, role: isOfRole(n) ? "admin" : "member" });
    });
    subject.isTaken = false;
    await this.#hold(subject);
  }

  async #ends(subject: Subject, kind: Taking, boundMs: number, { signal }: Session, acked: number): Promise<void> {
    if (!signal.aborted)
      await Promise.race([
        new Promise((resolve) => {
          signal.addEventListener("abort", resolve);
        }),
        pause(acked - performance.now() + boundMs + 10 * SLACK_MS),
      ]);
    const took = performance.now() - acked;
    const all = this.figures.ended.get(boundMs) ?? [];
    this.figures.ended.set(boundMs, [...all, Math.max(0, took)]);
    if (!signal.aborted || took > boundMs + SLACK_MS)
      this.figures.missed.push(`${subject.key}, ${boundMs} ms, ${kind}: ${signal.aborted ? took.toFixed(0) : "never"}`);
  }
}

function causeOf(why: unknown): string {
  const error: unknown = why instanceof SessionEnded ? why.denial.error : why;
  return error instanceof Error ? error.message : "for want of an answer";
}

/** All have users; some sessions are of the role, some of a membership. */
const isOfRole = (n: number): boolean => n % 10 === 0 && n < 1000;
const isOfRoom = (n: number): boolean => n % 10 === 1 && n < 2000;

const codeOf = (error: unknown): unknown => (error as { readonly code?: unknown }).code;

function unlessGone(error: unknown): void {
  if (codeOf(error) !== "NOT_FOUND") throw error;
}

function unlessThere(error: unknown): void {
  if (codeOf(error) !== "ALREADY_EXISTS") throw error;
}

/** Raises all buckets to three replicas, and waits until that is done. Answers the store that did it. */
async function rollOut(
  open: (replicas: Replicas, onDone: (bucket: string) => void) => Promise<Opened>,
): Promise<Store> {
  let told: () => void = () => undefined;
  const done = new Set<string>();
  const isDone = new Promise<void>((resolve) => {
    told = resolve;
  });
  const { store } = await open(3, (bucket) => {
    done.add(bucket);
    if (done.size === BUCKETS.length) told();
  });
  const timer = setTimeout(told, ROLLOUT_MS);
  await isDone;
  clearTimeout(timer);
  if (done.size < BUCKETS.length) throw new Error(`the rollout is not done: only ${[...done].join(", ")}`);
  return store;
}

async function disturb(cluster: NatsCluster, next: () => number, isOver: () => boolean): Promise<Map<string, number>> {
  const faults: readonly (readonly [name: string, work: (node: number) => Promise<void>])[] = [
    [
      "kills",
      async (node) => {
        await cluster.node(node).kill();
        await pause(500 + next() * 2000);
        await cluster.node(node).restart();
      },
    ],
    [
      "pauses",
      async (node) => {
        await cluster.node(node).pause();
        await pause(500 + next() * 3000);
        await cluster.node(node).resume();
      },
    ],
    [
      "cuts",
      async (node) => {
        cluster.isolate(node, next() < 0.5 ? "blackhole" : "reset");
        await pause(1000 + next() * 3000);
        cluster.heal();
      },
    ],
    [
      // As another version, or another configuration, is brought to servers.
      "rolling restarts",
      async () => {
        for (const node of cluster.nodes) {
          await node.restart();
          await cluster.ready().catch(() => undefined);
        }
      },
    ],
  ];
  const counts = new Map<string, number>();
  // Each kind comes before one comes again.
  for (let round = 0; !isOver(); round++) {
    await pause(2000 + next() * 4000);
    if (isOver()) break;
    const [name, work] = faults[(round * 3) % faults.length] ?? ["none", () => Promise.resolve()];
    await work(Math.floor(next() * cluster.nodes.length));
    counts.set(name, (counts.get(name) ?? 0) + 1);
    await cluster.ready().catch(() => undefined);
  }
  return counts;
}

const longest = (values: readonly number[]): number => values.reduce((most, value) => Math.max(most, value), 0);
const medianOf = (values: readonly number[]): number =>
  [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;

/** Of what was taken from users: what the plain client never told, and what it told later than the shorter bound. */
function comparePlainly({ takings }: Soak, delivered: ReadonlyMap<string, readonly number[]>): string {
  const late: number[] = [];
  let missed = 0;
  for (const { key, begun, acked } of takings) {
    const told = delivered.get(plainKey(key))?.find((at) => at >= begun);
    if (told === undefined) missed++;
    else late.push(told - acked);
  }
  const delayed = late.filter((ms) => ms > BOUNDS_MS[0]).length;
  return `kv.watch of the plain client: of ${takings.length} it never told ${missed}, and ${delayed} later than ${BOUNDS_MS[0]} ms; longest ${longest(late).toFixed(0)} ms`;
}

export async function run({ seconds, seed, sessions = 10_000, log }: Options): Promise<void> {
  await using cluster = await startNatsCluster({ routes: "proxied" });
  const connections: NatsConnection[] = [];
  // All begin at the same server, and look for the next one in the same order.
  const connected = async (): Promise<NatsConnection> => {
    const servers = [...cluster.urls];
    const connection = await connect({ servers, noRandomize: true, maxReconnectAttempts: -1, reconnectTimeWait: 100 });
    connections.push(connection);
    return connection;
  };
  const open = async (replicas: Replicas = 1, onDone?: (bucket: string) => void): Promise<Opened> => {
    const connection = await connected();
    const store = await openJetStream(connection, replicas, {
      prefix: PREFIX,
      opTimeoutMs,
      onRollout: ({ bucket, done }) => {
        if (done) onDone?.(bucket);
      },
    });
    return { store, connection };
  };
  const opened = new Map<number, Opened>();
  for (const bound of BOUNDS_MS) opened.set(bound, await open());
  const stores = new Map([...opened].map(([bound, { store }]) => [bound, store]));
  const [{ store: writer }, probing] = [await open(), await open()];
  const prober = new Prober(probing, [...opened.values()]);
  const soak = new Soak(stores, writer, prober, sessions / BOUNDS_MS.length, seed);
  const began = performance.now();
  await soak.prepare();
  log(`${sessions} sessions after ${((performance.now() - began) / 1000).toFixed(1)} s`);
  const delivered = await watchPlainly(await connected());
  const lanes = Array.from({ length: LANES }, () => soak.lane());
  const rolling = performance.now();
  const raiser = await rollOut(open);
  log(`three replicas of each bucket after ${((performance.now() - rolling) / 1000).toFixed(1)} s more`);
  let isQuiet = false;
  const disturbing = disturb(cluster, random(seed, 1), () => isQuiet);
  await pause(seconds * 1000);
  isQuiet = true;
  const faults = await disturbing;
  await pause(BOUNDS_MS[1]);
  soak.isOver = true;
  await Promise.all(lanes);
  prober.stop();
  const { ended, missed, wrong, reasons, causes, excused } = soak.figures;
  for (const [bound, times] of ended)
    log(
      `within ${bound} ms: ${times.length} ended, median ${medianOf(times).toFixed(0)} ms, longest ${longest(times).toFixed(0)} ms after the acknowledgement`,
    );
  log(`${JSON.stringify(Object.fromEntries(faults))}; ended as ${JSON.stringify(Object.fromEntries(reasons))}`);
  log(`${missed.length} missed, ${wrong.length} ended for nothing; ${excused} more while the servers did not answer`);
  for (const [what, count] of causes) log(`${count} for nothing after ${what}`);
  log(comparePlainly(soak, delivered));
  await Promise.all([...stores.values(), writer, probing.store, raiser].map((store) => store.close()));
  await Promise.all(connections.map((connection) => connection.close()));
  if (missed.length + wrong.length > 0) throw new Error([...missed.slice(0, 10), ...wrong.slice(0, 10)].join("\n"));
}
