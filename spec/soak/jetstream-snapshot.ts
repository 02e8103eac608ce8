// A replica in the middle of a snapshot, on three real servers. A follower that was cut off while the leader compacted
// its log first drops what was superseded, and only then receives what superseded it. Between the two it has a hole: a
// user who was revoked is there neither as before nor as after. A check whose reads that follower answers must not take
// the missing revocation for none, and nobody may be told that a user who is there is unknown.

import { randomBytes } from "node:crypto";
import type * as unibus from "unibus-membership";
import type { Decision, Store } from "unibus-membership";
import { startNatsCluster, type NatsCluster } from "unibus-membership/testing";
import { isCatchUp } from "../jetstream/support/messages.js";
import { streamInfo } from "../jetstream/support/streams.js";
import {
  given,
  isEnd,
  messagesOf,
  tapped,
  type Message,
  type Tap,
  type RequestMany,
} from "../jetstream/support/taps.js";
import { natsClients, type Connection } from "../support/nats-clients.js";
import { eventually, pause } from "../support/wait.js";

type Library = Pick<typeof unibus, "openJetStream">;

/**
 * What hides the revocation: a later change of the user's own record, or that of another admin, which replaces the
 * guard.
 */
const SCHEDULES = ["own-change", "other-admin"] as const;
type Schedule = (typeof SCHEDULES)[number];

/** Something was answered that is not so. */
export class WrongAnswer extends Error {}

const OP_TIMEOUT_MS = 60_000;
const PROBE_TIMEOUT_MS = 2_000;
const PROBE_PAUSE_MS = 50;
const READY_MS = 60_000;
/**
 * Together more than the 8 MB after which the servers take a snapshot and compact their logs. They compress: of random
 * bytes.
 */
const PADS = 48;
const PAD_BYTES = 192 * 1024;
const PADS_AT_ONCE = 8;
/** The routes are so late while the hole is looked for, that it is seen. Then they are stalled, and it stays. */
const ROUTE_DELAY_MS = 300;
const TO_THE_HOLE_MS = 20_000;
/** With what comes before it, less than a follower waits for its leader before it campaigns. */
const IN_THE_HOLE_MS = 1_500;
/** Whoever is behind stalled routes is not heard, however long one waits. The others answer at once. */
const HEARD_MS = 100;
/** A server picks one of the three replicas at random, for each request. */
const AT_ONCE = 6;

const subjectOf = (key: string): string => `$KV.users.user.${token(key)}`;
const token = (text: string): string => Buffer.from(text).toString("base64url");

type Send = (connection: Connection, timeoutMs?: number) => Promise<Message[]>;

/** A connection whose reads of the users a follower answers: any replica may, and here it is chosen. */
class ChosenReads {
  readonly connection: Connection;
  readonly #others: Connection;
  #follower: Connection | undefined;
  #held: { readonly reached: () => void; readonly released: Promise<void> } | undefined;
  #release: () => void = () => undefined;
  readonly #turns = new Map<string, number>();
  /** What the read that was held was answered. */
  heldAnswer: readonly Message[] = [];
  /** Reads that the follower answered. */
  answers = 0;

  constructor(others: Connection) {
    this.#others = others;
    const request: Tap = async (send, subject, payload, options) => {
      if (!isRead(subject)) return send(subject, payload, options);
      const [message] = await this.#read(payload, async (connection, timeoutMs) => [
        await connection.request(subject, payload, timeoutMs === undefined ? options : { timeout: timeoutMs }),
      ]);
      if (message === undefined) throw new Error("an answer is a message");
      return message;
    };
    const requestMany: RequestMany = async (subject, payload, options) => {
      if (!isRead(subject)) return others.requestMany(subject, payload, options);
      return given(
        await this.#read(payload, async (connection, timeoutMs) => {
          if (timeoutMs === undefined) return messagesOf(await connection.requestMany(subject, payload, options));
          const messages = await messagesOf(
            await connection.requestMany(subject, payload, { ...options, maxWait: timeoutMs }),
          );
          const last = messages.at(-1);
          if (last === undefined || !isEnd(last)) throw new Error("not heard");
          return messages;
        }),
      );
    };
    this.connection = tapped(others, { request, requestMany });
  }

  /** The next read of the log is held until it is known who answers. Resolves when it was asked for. */
  hold(): Promise<void> {
    const released = new Promise<void>((resolve) => (this.#release = resolve));
    return new Promise((reached) => {
      this.#held = { reached, released };
    });
  }

  /**
   * From now on the follower answers the first time that something is asked, another replica the second time, and so
   * on.
   */
  by(follower: Connection): void {
    this.#turns.clear();
    this.#follower = follower;
    this.#release();
  }

  byAnyone(): void {
    this.#follower = undefined;
    this.#release();
  }

  async #read(payload: unknown, send: Send): Promise<Message[]> {
    const held = isCatchUp(payload) ? this.#held : undefined;
    if (held !== undefined) {
      this.#held = undefined;
      held.reached();
      await held.released;
    }
    const turn = this.#turns.get(String(payload)) ?? 0;
    this.#turns.set(String(payload), turn + 1);
    const isFollower = turn % 2 === 0;
    for (let follower = this.#follower; follower !== undefined; follower = this.#follower) {
      const messages = await heard(() => send(isFollower ? follower : this.#others, HEARD_MS));
      if (messages === undefined) continue;
      if (held !== undefined) this.heldAnswer = messages;
      if (isFollower) this.answers++;
      return messages;
    }
    return send(this.#others);
  }
}

const isRead = (subject: string): boolean => subject.startsWith("$JS.API.DIRECT.GET.KV_users");

/** Asks several times at once, because whoever is behind the stalled routes is not heard. */
function heard(ask: () => Promise<Message[]>): Promise<Message[] | undefined> {
  return Promise.any(Array.from({ length: AT_ONCE }, ask)).catch(() => undefined);
}

class Tally {
  yes = 0;
  revoked = 0;
  denied = 0;

  hear({ allowed, reason }: Decision): void {
    if (allowed) this.yes++;
    else if (reason === "revoked") this.revoked++;
    else this.denied++;
  }

  add({ yes, revoked, denied }: Tally): void {
    this.yes += yes;
    this.revoked += revoked;
    this.denied += denied;
  }

  toString(): string {
    return `${this.yes} yes, ${this.revoked} revoked, ${this.denied} denied for want of an answer`;
  }
}

/** Who is asked for, and what may be answered. */
class Cast {
  /** Was revoked before anybody is asked. */
  readonly victim: string;
  /** The other admin, where there is one. */
  readonly other: string;
  /** Is active, and falls into the hole too. */
  readonly renamed: string;
  /** Is active, and does not. */
  readonly quiet: string;
  readonly ofVictim = new Tally();
  readonly ofActive = new Tally();

  constructor(name: string) {
    this.victim = `victim-${name}`;
    this.other = `other-${name}`;
    this.renamed = `renamed-${name}`;
    this.quiet = `quiet-${name}`;
  }

  get active(): readonly string[] {
    return [this.renamed, this.quiet];
  }

  async ask(store: Store, key: string, where: string, timeoutMs = OP_TIMEOUT_MS): Promise<Decision> {
    const decision = await store.authorize(key, { timeoutMs });
    const { allowed, reason } = decision;
    const isVictim = key === this.victim;
    (isVictim ? this.ofVictim : this.ofActive).hear(decision);
    must(!(isVictim && allowed), `${where}: ${key} was revoked before, and is allowed`);
    must(isVictim || reason !== "revoked", `${where}: ${key} is active, and revoked`);
    must(reason !== "unknown", `${where}: ${key} is there, and unknown`);
    return decision;
  }

  async hasToPass(store: Store, where: string): Promise<void> {
    for (const key of this.active) {
      const { allowed, reason } = await this.ask(store, key, where);
      must(allowed, `${where}: ${key} is active, and denied: ${reason}`);
    }
    must(await store.hasAdmin({ timeoutMs: OP_TIMEOUT_MS }), `${where}: there is no admin`);
  }

  /** What it says of the user who was revoked, and of who is active. */
  async askAll(store: Store, where: string): Promise<void> {
    await this.ask(store, this.victim, where);
    await this.hasToPass(store, where);
  }
}

/** Asks one store, as it is, over and over. */
class Probing {
  #stopped = false;
  readonly #done: Promise<void>;

  constructor(cast: Cast, store: Store, where: string) {
    this.#done = this.#loop(cast, store, where);
    // Told by `stop`.
    this.#done.catch(() => undefined);
  }

  async #loop(cast: Cast, store: Store, where: string): Promise<void> {
    while (!this.#stopped) {
      await Promise.all([cast.victim, ...cast.active].map((key) => cast.ask(store, key, where, PROBE_TIMEOUT_MS)));
      await pause(PROBE_PAUSE_MS);
    }
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#done;
  }
}

interface Place {
  /** A connection to the leader's node. */
  readonly near: Connection;
  /** A connection to the follower's node. */
  readonly far: Connection;
  readonly follower: number;
  readonly writer: Store;
  /** Has every user in its copy; `cold` has read none. */
  readonly warm: Store;
  readonly cold: Store;
  readonly warmReads: ChosenReads;
  readonly coldReads: ChosenReads;
}

class Soak {
  readonly #cluster: NatsCluster;
  readonly #library: Library;
  readonly #connections: readonly Connection[];
  readonly #stores: readonly Store[];
  readonly #log: (line: string) => void;

  constructor(
    cluster: NatsCluster,
    library: Library,
    connections: readonly Connection[],
    stores: readonly Store[],
    log: (line: string) => void,
  ) {
    this.#cluster = cluster;
    this.#library = library;
    this.#connections = connections;
    this.#stores = stores;
    this.#log = log;
  }

  /** Answers how many answers came out of the hole: none, if the follower did not come to it. */
  async run(schedule: Schedule, cast: Cast, turn: number): Promise<number> {
    const leader = await this.#leader();
    const follower = (leader + 1 + (turn % 2)) % this.#stores.length;
    const [near, far] = [nth(this.#connections, leader), nth(this.#connections, follower)];
    const writer = nth(this.#stores, leader);
    const role = schedule === "own-change" ? "member" : "admin";
    for (const key of [cast.victim, cast.other]) await writer.users.add({ key, role });
    for (const key of cast.active) await writer.users.add({ key });

    const [warmReads, coldReads] = [new ChosenReads(near), new ChosenReads(near)];
    const open = ({ connection }: ChosenReads): Promise<Store> =>
      this.#library.openJetStream(connection, 3, { opTimeoutMs: OP_TIMEOUT_MS });
    const [warm, cold] = [await open(warmReads), await open(coldReads)];
    try {
      // Often enough that they are all in its copy.
      for (let i = 0; i < 3; i++) {
        for (const key of [cast.victim, ...cast.active])
          must(await warm.isAuthorized(key), `${key} is active, and not allowed`);
      }
      return await this.#bring(schedule, cast, { near, far, follower, writer, warm, cold, warmReads, coldReads });
    } finally {
      warmReads.byAnyone();
      coldReads.byAnyone();
      this.#mend();
      await warm.close();
      await cold.close();
    }
  }

  async #bring(schedule: Schedule, cast: Cast, place: Place): Promise<number> {
    const { near, far, follower, writer, warm, warmReads } = place;
    const timeoutMs = OP_TIMEOUT_MS;
    await writer.users.revoke(cast.victim);
    const probes = this.#stores.map((store, node) => new Probing(cast, store, `node ${node}`));
    try {
      const held = warmReads.hold();
      const checks = Promise.all([
        warm.isAuthorized(cast.victim, { timeoutMs }),
        warm.isAdmin(cast.victim, { timeoutMs }),
        cast.askAll(warm, "a check that was held"),
      ]).then(([isAuthorized, isAdmin]) => {
        must(!isAuthorized && !isAdmin, `a check that was held: ${cast.victim} was revoked before, and is allowed`);
      });
      // Told where they are awaited.
      checks.catch(() => undefined);
      await held;
      // Something that the follower has after the checks' barrier, so that its log is as long as they need.
      const mark = await this.#store(near, `pad.${token(cast.victim)}`, 0);
      await eventually("the follower has all that came before", async () => (await this.#lastOf(follower)) >= mark);

      this.#cluster.isolate(follower, "blackhole");
      if (schedule === "own-change") await writer.users.update(cast.victim, { name: "another" });
      else await writer.users.revoke(cast.other);
      await writer.users.update(cast.renamed, { name: "another" });
      for (let i = 0; i < PADS; i += PADS_AT_ONCE) {
        await Promise.all(Array.from({ length: PADS_AT_ONCE }, () => this.#store(near, "pad", PAD_BYTES)));
      }
      this.#cluster.delay(ROUTE_DELAY_MS);
      this.#cluster.heal();

      const subject = subjectOf(cast.victim);
      if (!(await this.#stallInTheHole(far, follower, subject))) {
        this.#log(`${cast.victim}: node ${follower} did not come to the hole`);
        warmReads.byAnyone();
        this.#mend();
        await checks;
        return 0;
      }
      const answers = await this.#inTheHole(cast, place, mark, checks);
      this.#mend();
      await this.#cluster.ready(READY_MS);
      for (const store of [warm, place.cold, ...this.#stores]) {
        const { reason } = await cast.ask(store, cast.victim, "after the heal");
        must(reason === "revoked", `after the heal: ${cast.victim} is ${reason}`);
        await cast.hasToPass(store, "after the heal");
      }
      return answers;
    } finally {
      for (const probe of probes) await probe.stop();
    }
  }

  async #inTheHole(cast: Cast, place: Place, mark: number, held: Promise<void>): Promise<number> {
    const { far, follower, warm, cold, warmReads, coldReads } = place;
    const began = performance.now();
    const upTo = await this.#lastOf(follower);
    for (const reads of [warmReads, coldReads]) reads.by(far);
    await held;
    let rounds = 0;
    do {
      for (const store of [warm, cold]) await cast.askAll(store, "a check in the hole");
      const { status } = await cold.users.get(cast.victim);
      must(status === "revoked", `users.get in the hole: ${cast.victim} is ${status}`);
      await warm.users.get(cast.renamed);
      rounds++;
    } while (performance.now() - began < IN_THE_HOLE_MS);
    const ms = Math.round(performance.now() - began);
    const answers = warmReads.answers + coldReads.answers;

    // What was held got a log that is long enough, and has no revocation. And it was so to the end.
    const isTrap =
      warmReads.heldAnswer.some((message) => seqOf(message) >= mark) &&
      !warmReads.heldAnswer.some(({ headers }) => headers?.get("Nats-Subject") === subjectOf(cast.victim));
    const isOpen = (await isMissing(far, subjectOf(cast.victim))) && (await this.#lastOf(follower)) === upTo;
    if (!isTrap || !isOpen) {
      this.#log(
        `${cast.victim}: node ${follower} ${isTrap ? "did not stay in the hole" : "did not answer out of the hole"}`,
      );
      return 0;
    }
    this.#log(
      `${cast.victim}: node ${follower} in the hole at ${upTo} for ${ms} ms, ${rounds} rounds of checks, ${answers} of its answers`,
    );
    return answers;
  }

  /** Waits until the follower misses the record, which is in the bucket. From then on nothing reaches it any more. */
  async #stallInTheHole(far: Connection, follower: number, subject: string): Promise<boolean> {
    const state = { isStalled: false };
    const look = async (): Promise<void> => {
      if ((await lastOn(far, subject, 2 * ROUTE_DELAY_MS)) !== "none" || state.isStalled) return;
      state.isStalled = true;
      this.#cluster.isolate(follower, "stall");
      this.#cluster.delay(0);
    };
    const looks: Promise<void>[] = [];
    const deadline = performance.now() + TO_THE_HOLE_MS;
    while (!state.isStalled && performance.now() < deadline) {
      looks.push(look());
      await pause(5);
    }
    await Promise.all(looks);
    return state.isStalled && (await isMissing(far, subject));
  }

  #mend(): void {
    this.#cluster.delay(0);
    this.#cluster.heal();
  }

  /** A message that is no record of the library's. Answers its sequence. */
  async #store(connection: Connection, key: string, bytes: number): Promise<number> {
    const payload = JSON.stringify({ k: key, pad: randomBytes(bytes).toString("base64") });
    const { data } = await connection.request(`$KV.users.${key}`, payload, { timeout: OP_TIMEOUT_MS });
    const { seq } = JSON.parse(new TextDecoder().decode(data)) as { seq?: number };
    if (seq === undefined) throw new Error(`not stored: ${new TextDecoder().decode(data)}`);
    return seq;
  }

  /** The node of the users' leader, once both others are as far as it is. */
  async #leader(): Promise<number> {
    await this.#cluster.ready(READY_MS);
    let found = -1;
    await eventually("the users have a leader, and all replicas", async () => {
      const cluster = await streamInfo(nth(this.#connections, 0), "users").then(
        (info) => info.cluster,
        () => undefined,
      );
      found = this.#cluster.nodes.findIndex(({ name }) => name === cluster?.leader);
      return found >= 0 && cluster?.replicas?.every(({ current }) => current) === true;
    });
    return found;
  }

  /** The last sequence that a node has, as it says itself. */
  async #lastOf(node: number): Promise<number> {
    const { account_details: accounts } = (await this.#cluster
      .node(node)
      .monitor("/jsz?accounts=true&streams=true")) as {
      account_details?: { stream_detail?: { name: string; state: { last_seq: number } }[] }[];
    };
    const streams = accounts?.flatMap(({ stream_detail: details }) => details ?? []) ?? [];
    return streams.find(({ name }) => name === "KV_users")?.state.last_seq ?? 0;
  }
}

const seqOf = ({ headers }: Message): number => Number(headers?.get("Nats-Sequence") ?? 0);

/** What whoever is picked has of a subject. */
async function lastOn(
  connection: Connection,
  subject: string,
  timeoutMs: number,
): Promise<"found" | "none" | "not heard"> {
  try {
    const { data, headers } = await connection.request(
      "$JS.API.DIRECT.GET.KV_users",
      JSON.stringify({ last_by_subj: subject }),
      { timeout: timeoutMs },
    );
    if (data.length > 0) return "found";
    return headers?.code === 404 ? "none" : "not heard";
  } catch {
    return "not heard";
  }
}

/** Whether the follower does not have it, asked while nobody else is heard. */
async function isMissing(far: Connection, subject: string): Promise<boolean> {
  for (let asked = 0; asked < 100; asked++) {
    const found = await lastOn(far, subject, HEARD_MS);
    if (found !== "not heard") return found === "none";
  }
  return false;
}

function must(isSo: boolean, otherwise: string): void {
  if (!isSo) throw new WrongAnswer(otherwise);
}

function nth<T>(items: readonly T[], index: number): T {
  const item = items[index];
  if (item === undefined) throw new RangeError(`there is no ${index}`);
  return item;
}

/**
 * Rejects with the first {@link WrongAnswer}, or if too few runs came to the hole. With `library`, the module of
 * another build, it shows whether that one is wrong in it.
 */
export async function run(options: {
  runs: number;
  schedules?: readonly Schedule[];
  library?: string;
  log: (line: string) => void;
}): Promise<void> {
  const { runs, schedules = SCHEDULES, log } = options;
  const library = (await import(options.library ?? "unibus-membership")) as Library;
  const [client] = natsClients;
  if (client === undefined) throw new Error("no client");
  const cluster = await startNatsCluster({ routes: "proxied" });
  const connections: Connection[] = [];
  const stores: Store[] = [];
  try {
    for (const url of cluster.urls) {
      const connection = await client.connect(url);
      connections.push(connection);
      stores.push(await library.openJetStream(connection, 3, { opTimeoutMs: OP_TIMEOUT_MS }));
    }
    await nth(stores, 0).users.addFirstAdmin({ key: "root" });
    const soak = new Soak(cluster, library, connections, stores, log);
    for (const schedule of schedules) {
      const [ofVictims, ofActive] = [new Tally(), new Tally()];
      let [reached, answers] = [0, 0];
      let turn = 0;
      // One that does not come to the hole does not count.
      for (; reached < runs && turn < 2 * runs; turn++) {
        const cast = new Cast(`${schedule}-${turn}`);
        const found = await soak.run(schedule, cast, turn);
        if (found > 0) reached++;
        answers += found;
        ofVictims.add(cast.ofVictim);
        ofActive.add(cast.ofActive);
      }
      log(`${schedule}: ${reached} of ${turn} runs came to the hole, ${answers} answers of a follower in it`);
      log(`${schedule}: of who was revoked before: ${String(ofVictims)}; of who is active: ${String(ofActive)}`);
      if (reached < runs) throw new Error(`${schedule}: too few runs came to the hole`);
    }
  } finally {
    await Promise.all(stores.map((store) => store.close()));
    await Promise.all(connections.map((connection) => connection.close()));
    await cluster.dispose();
  }
}
