/**
 * The same requests to real servers and to the simulated ones, and whether the answers are the same, message by message
 * and header by header.
 *
 * Servers are free in four ways when nothing fails, and the model must be able to do what they did. In a cluster:
 * - Which replica answers a read, and how far it is. A real answer must be the one that the model gives at some place
 *   of its log. It is asked for again until it is the one at the end of the log.
 * - Whether a write is still under way when the next one comes. Where a real server does not say so (10164) although
 *   the model would, the model commits what comes first, until it would not either.
 * - Who answers when somebody makes a stream that is there: each replica does, and tells how many messages it has
 *   itself. And always:
 * - Which comes first of what is sent at once: a write, and a purge or reads.
 */
import { Buffer } from "node:buffer";
import { isDeepStrictEqual } from "node:util";
import { expect } from "chai";
import { ErrorCode, connect, createInbox, headers as newHeaders, type Msg, type NatsConnection } from "nats";
import { Chance } from "./chance.js";
import { Engine } from "./engine.js";
import { SimulatedHeaders, type SimulatedMessage } from "./messages.js";
import { FAULTS, mixOf, without } from "./mix.js";
import { SimulatedServers, type World } from "./server.js";

/** How long a server may take to answer, or a replica to come to the end of the log. Far more than it needs. */
const PATIENCE_MS = 20_000;
/** A lost answer of a server that was asked only to hear that nobody listens. */
const LOST_MS = 500;
const WRONG_LAST_SEQUENCE_IN_FLIGHT = 10164;

type Json = Readonly<Record<string, unknown>>;
type HeaderValues = Readonly<Record<string, string>>;

/** A message with what may differ between any two servers taken out. */
interface Plain {
  readonly status: string;
  readonly headers: HeaderValues;
  readonly data: string | Json;
}

interface Request {
  readonly subject: string;
  readonly payload: string;
  readonly headers: HeaderValues;
}

/** What a write is conditional on: the sequence of its own key, or of another. */
export interface Condition {
  readonly expected?: number;
  readonly of?: string;
}

export interface Write extends Condition {
  readonly key: string;
  readonly data: string;
}

function withoutTimes(values: Iterable<readonly [string, string]>): HeaderValues {
  const headers: Record<string, string> = {};
  for (const [name, value] of [...values].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const isTime = name === "Nats-Time-Stamp" && /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z$/.test(value);
    headers[name] = isTime ? "a time" : value;
  }
  return headers;
}

/** Of the API's answers what the library reads, of a stream's settings all. */
function plainJson(value: Json): Json {
  const { config, state, cluster, error, success, purged, stream, seq, duplicate } = value as Record<
    string,
    Json | undefined
  >;
  const known = { error, success, purged, stream, seq, duplicate };
  return {
    ...Object.fromEntries(Object.entries(known).filter(([, each]) => each !== undefined)),
    ...(state && { state: { messages: state["messages"], last_seq: state["last_seq"] } }),
    ...(cluster && { cluster: plainCluster(cluster) }),
    ...(config && { config: { ...config, metadata: withoutVersions(config["metadata"] as Json) } }),
  };
}

/** Servers' names are their own, and in what state a follower is. */
function plainCluster({ name, leader, replicas }: Json): Json {
  return {
    name: typeof name,
    leader: typeof leader,
    replicas: Array.isArray(replicas)
      ? (replicas as readonly Json[]).map((replica) => ({
          name: typeof replica["name"],
          current: typeof replica["current"],
          lag: typeof (replica["lag"] ?? 0),
        }))
      : typeof replicas,
  };
}

function withoutVersions(metadata: Json): Json {
  return Object.fromEntries(Object.entries(metadata).filter(([name]) => !name.startsWith("_nats.")));
}

function plain(
  data: Uint8Array,
  code: number,
  description: string,
  headers: Iterable<readonly [string, string]>,
): Plain {
  const text = Buffer.from(data).toString();
  const values = withoutTimes(headers);
  // Only what was published has headers.
  const isJson = Object.keys(values).length === 0 && text.startsWith("{");
  return {
    status: code === 0 ? "" : `${code} ${description}`.trim(),
    headers: values,
    data: isJson ? plainJson(JSON.parse(text) as Json) : text,
  };
}

const plainReal = ({ data, headers }: Msg): Plain =>
  plain(
    data,
    headers?.code ?? 0,
    headers?.description ?? "",
    [...(headers ?? [])].map(([name, values]) => [name, values.join(", ")] as const),
  );

const plainSimulated = ({ data, headers }: SimulatedMessage): Plain =>
  plain(data, headers?.code ?? 0, headers?.description ?? "", headers?.entries() ?? []);

function withoutState(message: Plain): Plain {
  const { data } = message;
  return typeof data === "object" ? { ...message, data: { ...data, state: undefined } } : message;
}

function errorOf(message: Plain | undefined): Json | undefined {
  return typeof message?.data === "object" ? (message.data["error"] as Json | undefined) : undefined;
}

const isInFlight = (answer: readonly Plain[]): boolean =>
  errorOf(answer[0])?.["err_code"] === WRONG_LAST_SEQUENCE_IN_FLIGHT;

/** A client of each node, which sees every message as it comes. */
export class RealServers {
  readonly #connections: readonly NatsConnection[];
  readonly #inbox = createInbox();
  readonly #waiting = new Map<string, (message: Msg) => void>();
  /** What each reply subject was for. */
  readonly #asked = new Map<string, string>();
  readonly #stray: { readonly to: string; readonly answer: Plain }[] = [];
  #requests = 0;

  private constructor(connections: readonly NatsConnection[]) {
    this.#connections = connections;
    for (const [node, connection] of connections.entries()) {
      connection.subscribe(`${this.#inbox}.${node}.*`, {
        callback: (_, message) => {
          const waiting = this.#waiting.get(message.subject);
          if (waiting === undefined)
            this.#stray.push({ to: this.#asked.get(message.subject) ?? "", answer: plainReal(message) });
          else waiting(message);
        },
      });
    }
  }

  static async connect(urls: readonly string[]): Promise<RealServers> {
    return new RealServers(await Promise.all(urls.map((servers) => connect({ servers }))));
  }

  get nodes(): number {
    return this.#connections.length;
  }

  get version(): string {
    return this.#connections[0]?.info?.version ?? "";
  }

  /** What is answered: one message, or all up to the one that has a status. */
  async ask(node: number, { subject, payload, headers }: Request, isMany = false): Promise<readonly Plain[]> {
    const connection = this.#connections[node];
    if (connection === undefined) throw new RangeError(`there is no node ${node}`);
    const reply = `${this.#inbox}.${node}.${this.#requests++}`;
    this.#asked.set(reply, subject);
    const messages: Plain[] = [];
    let timer: NodeJS.Timeout | undefined;
    try {
      return await new Promise((resolve, reject) => {
        timer = setTimeout(() => {
          reject(new Error(`no answer to ${subject}, but ${messages.length} messages`));
        }, PATIENCE_MS);
        this.#waiting.set(reply, (message) => {
          messages.push(plainReal(message));
          if (isMany && (message.headers?.code ?? 0) === 0) return;
          this.#waiting.delete(reply);
          resolve(messages);
        });
        const own = newHeaders();
        for (const [name, value] of Object.entries(headers)) own.set(name, value);
        connection.publish(subject, payload, { reply, ...(Object.keys(headers).length > 0 && { headers: own }) });
      });
    } finally {
      clearTimeout(timer);
      this.#waiting.delete(reply);
    }
  }

  /** Whether the server says that nobody listens. An answer that is lost says nothing. */
  async isUnanswered(node: number, { subject, payload }: Request): Promise<boolean> {
    try {
      await this.#connections[node]?.request(subject, payload, { timeout: LOST_MS });
      return false;
    } catch (error) {
      return (error as { code?: unknown }).code === ErrorCode.NoResponders;
    }
  }

  /**
   * Messages that came after what ended an answer. There are none, except where somebody makes a stream that is there:
   * then each of its replicas answers.
   */
  async stray(): Promise<readonly unknown[]> {
    await Promise.all(this.#connections.map((connection) => connection.flush()));
    return this.#stray.filter(({ to }) => !to.startsWith("$JS.API.STREAM.CREATE."));
  }

  /** Who leads a stream in a cluster, and since when. */
  async leadsSince(stream: string): Promise<string> {
    const { cluster } = await this.#info(stream);
    return `${cluster?.leader ?? "nobody"} ${cluster?.leader_since ?? ""}`;
  }

  async messages(stream: string): Promise<number | undefined> {
    return (await this.#info(stream)).state?.messages;
  }

  async #info(
    stream: string,
  ): Promise<{ cluster?: { leader?: string; leader_since?: string }; state?: { messages: number } }> {
    const message = await this.#connections[0]?.request(`$JS.API.STREAM.INFO.${stream}`, "", { timeout: PATIENCE_MS });
    return message?.json() ?? {};
  }

  async close(): Promise<void> {
    await Promise.all(this.#connections.map((connection) => connection.close()));
  }
}

/** Entries are committed one by one: how many at a time, the real servers tell. */
class NothingHappens extends Chance {
  override happens(): boolean {
    return false;
  }
}

/** A bucket on real servers, and the same one on simulated servers. */
export class Comparison {
  readonly bucket: string;
  readonly stream: string;
  readonly replicas: 1 | 3;
  /** Answers of which each was that of the model. */
  compared = 0;
  readonly #real: RealServers;
  readonly #engine = new Engine();
  readonly #servers: SimulatedServers;
  #reads = 0;
  #leaderSince: string | undefined;
  #wasUnavailable = false;

  constructor(real: RealServers, replicas: 1 | 3, bucket: string) {
    this.#real = real;
    this.replicas = replicas;
    this.bucket = bucket;
    this.stream = `KV_${bucket}`;
    const chance = new NothingHappens(1);
    const world: World = {
      engine: this.#engine,
      chance,
      trace: undefined,
      mix: { ...without(mixOf(chance, chance), new Set(FAULTS)), replicas, versions: [real.version] },
      aboutToRead: () => undefined,
      overtake: () => false,
      stateStored: () => undefined,
    };
    this.#servers = new SimulatedServers(world);
  }

  /** The settings that the library gives its buckets. */
  settings(changes: Json = {}): Json {
    return {
      name: this.stream,
      subjects: [`$KV.${this.bucket}.>`],
      retention: "limits",
      storage: "file",
      max_msgs_per_subject: 1,
      max_msgs: -1,
      max_bytes: -1,
      max_age: 0,
      max_msg_size: -1,
      max_consumers: -1,
      discard: "new",
      allow_direct: true,
      deny_delete: true,
      deny_purge: false,
      allow_rollup_hdrs: false,
      num_replicas: this.replicas,
      metadata: { "unibus-membership": "1" },
      ...changes,
    };
  }

  subject(key: string): string {
    return `$KV.${this.bucket}.${key}`;
  }

  /** Makes the bucket, and waits until every node has heard of it: until then some say that there is none. */
  async create(settings: Json = this.settings()): Promise<void> {
    await this.api("STREAM.CREATE", settings);
    const { subject } = this.#writeRequest({ key: "none", data: "" });
    const deadline = performance.now() + PATIENCE_MS;
    const untilHeard = async (node: number, request: Request): Promise<void> => {
      for (;;) {
        const [first] = await this.#real.ask(node, request);
        if (first?.status !== "503") return;
        if (performance.now() > deadline) throw new Error(`node ${node} has not heard of ${this.stream}`);
      }
    };
    for (let node = 0; node < this.#real.nodes; node++) {
      // Neither is a change: no message has such a sequence.
      await untilHeard(node, { subject, payload: "", headers: { "Nats-Expected-Last-Subject-Sequence": "1000000" } });
      await untilHeard(node, this.#readRequest({ multi_last: [subject] }));
    }
    this.#leaderSince = await this.#leadsSince();
  }

  /**
   * Waits until every node says that nobody answers direct gets any more. Servers end to answer in their own time:
   * until all have, a request may go to one that just did, and is lost.
   */
  async untilNoDirectGets(): Promise<void> {
    const deadline = performance.now() + PATIENCE_MS;
    const { request } = this.#lastRequest("none");
    for (let node = 0; node < this.#real.nodes; node++) {
      while (!(await this.#real.isUnanswered(node, request))) {
        if (performance.now() > deadline) throw new Error(`node ${node} goes on with direct gets of ${this.stream}`);
      }
    }
  }

  /**
   * Whether somebody was elected since the bucket was made, a leader of it or of all: here the model knows of no
   * election.
   */
  async wasElected(): Promise<boolean> {
    if (this.replicas === 1) return false;
    return (
      this.#wasUnavailable || (this.#leaderSince !== undefined && (await this.#leadsSince()) !== this.#leaderSince)
    );
  }

  #leadsSince(): Promise<string> {
    return this.#real.leadsSince(this.stream);
  }

  /** Publishes, and compares what is acknowledged. Several are sent at once, through one node. */
  async write(...writes: readonly Write[]): Promise<void> {
    await this.writeBesideReads(writes, []);
  }

  /** The same, with reads that are sent at once, through each node, some by a key alone: they find any part of it. */
  async writeBesideReads(
    writes: readonly Write[],
    reads: readonly Json[],
    lasts: readonly string[] = [],
  ): Promise<void> {
    const node = this.#reads++ % this.#real.nodes;
    const requests = writes.map((write) => this.#writeRequest(write));
    const [answers, found] = await Promise.all([
      Promise.all(requests.map((request) => this.#real.ask(node, request))),
      Promise.all(
        [
          ...reads.map((body) => ({ request: this.#readRequest(body), body })),
          ...lasts.map((key) => this.#lastRequest(key)),
        ].flatMap(({ request, body }) =>
          Array.from({ length: this.#real.nodes }, (_, at) => this.#askRead(at, request, body)),
        ),
      ),
    ]);
    const simulated = requests.map((request, i) => {
      let answer = this.#tell(request);
      while (isInFlight(answer) && !isInFlight(answers[i] ?? []) && this.#commitOne()) answer = this.#tell(request);
      return answer;
    });
    this.#settle();
    requests.forEach((request, i) => {
      this.#same(request, answers[i] ?? [], simulated[i] ?? []);
    });
    for (const { request, body, answer } of found) {
      const now = this.#tell(request);
      if (isDeepStrictEqual(answer, now) || !this.#wasSo(body, answer)) this.#same(request, answer, now);
    }
  }

  /** The newest message of each key that matches, all of one moment. */
  multiLast(filters: readonly string[], more: Json = {}): Promise<void> {
    return this.read({ multi_last: filters.map((filter) => this.subject(filter)), ...more });
  }

  next(filter: string, more: Json = {}): Promise<void> {
    return this.read({ next_by_subj: this.subject(filter), ...more });
  }

  /** A direct get by a key that is part of the request's subject. */
  async last(key: string, more?: Json): Promise<void> {
    const { request, body } = this.#lastRequest(key, more);
    await this.#compareRead(request, body);
  }

  #lastRequest(key: string, more?: Json): { request: Request; body: Json } {
    return {
      request: {
        subject: `$JS.API.DIRECT.GET.${this.stream}.${this.subject(key)}`,
        payload: more === undefined ? "" : JSON.stringify(more),
        headers: {},
      },
      body: { last_by_subj: this.subject(key) },
    };
  }

  read(body: Json): Promise<void> {
    return this.#compareRead(this.#readRequest(body), body);
  }

  async purge(filter?: string): Promise<void> {
    await this.api("STREAM.PURGE", filter === undefined ? undefined : { filter: this.subject(filter) });
  }

  /** A request to JetStream's API about the bucket, or whatever `stream` names. */
  async api(what: string, body?: Json, stream = this.stream): Promise<void> {
    const request = {
      subject: `$JS.API.${what}.${stream}`,
      payload: body === undefined ? "" : JSON.stringify(body),
      headers: {},
    };
    const answer = await this.#real.ask(this.#reads++ % this.#real.nodes, request);
    const simulated = this.#tell(request);
    this.#settle();
    const isOfAnyReplica = what === "STREAM.CREATE" && this.replicas === 3;
    this.#same(
      request,
      isOfAnyReplica ? answer.map(withoutState) : answer,
      isOfAnyReplica ? simulated.map(withoutState) : simulated,
    );
  }

  /** An operator removes the bucket. */
  async remove(): Promise<void> {
    const [answer] = await this.#real.ask(0, {
      subject: `$JS.API.STREAM.DELETE.${this.stream}`,
      payload: "",
      headers: {},
    });
    expect(answer?.data).to.deep.equal({ success: true });
    this.#leaderSince = undefined;
    this.#servers.remove(this.stream, () => 0);
  }

  /** Publishes, and purges what has the same key, at once. It is the only key of the bucket. */
  async writeAndPurge(write: Write): Promise<void> {
    const publish = this.#writeRequest(write);
    const purge = {
      subject: `$JS.API.STREAM.PURGE.${this.stream}`,
      payload: JSON.stringify({ filter: this.subject(write.key) }),
      headers: {},
    };
    const node = this.#reads++ % this.#real.nodes;
    const answers = await Promise.all([this.#real.ask(node, publish), this.#real.ask(node, purge)]);
    const told: Plain[][] = [];
    const [purged] = answers[1];
    if ((purged?.data as Json)["purged"] === 0) {
      // The leader noted what it had, which the write replaced before the purge was carried out: the write stays.
      expect(this.replicas, "only in a cluster does a purge take time").to.equal(3);
      told.push(this.#tell(publish), this.#tell(purge));
    } else if ((await this.#real.messages(this.stream)) === 0) {
      told.push(this.#tell(publish));
      this.#settle();
      told.push(this.#tell(purge));
    } else {
      const first = this.#tell(purge);
      this.#settle();
      told.push(this.#tell(publish), first);
    }
    this.#settle();
    [publish, purge].forEach((request, i) => {
      this.#same(request, answers[i] ?? [], told[i] ?? []);
    });
  }

  /** Any other request that has one answer. */
  async request(subject: string, payload = ""): Promise<void> {
    const request = { subject, payload, headers: {} };
    this.#same(request, await this.#real.ask(0, request), this.#tell(request));
  }

  /** The newest sequence of a key, which the model knows. 0: none. */
  sequenceOf(key: string): number {
    const log = this.#servers.stream(this.stream)?.log;
    return log?.last(this.subject(key), { place: log.end })?.seq ?? 0;
  }

  get lastSequence(): number {
    const log = this.#servers.stream(this.stream)?.log;
    return log?.sequenceAt(log.end) ?? 0;
  }

  #writeRequest({ key, data, expected, of }: Write): Request {
    return {
      subject: this.subject(key),
      payload: data,
      headers: {
        ...(expected !== undefined && { "Nats-Expected-Last-Subject-Sequence": String(expected) }),
        ...(of !== undefined && { "Nats-Expected-Last-Subject-Sequence-Subject": this.subject(of) }),
      },
    };
  }

  #readRequest(body: Json): Request {
    return { subject: `$JS.API.DIRECT.GET.${this.stream}`, payload: JSON.stringify(body), headers: {} };
  }

  async #askRead(
    node: number,
    request: Request,
    body: Json,
  ): Promise<{ request: Request; body: Json; answer: readonly Plain[] }> {
    return { request, body, answer: await this.#real.ask(node, request, "multi_last" in body || "batch" in body) };
  }

  async #compareRead(request: Request, body: Json): Promise<void> {
    const now = this.#tell(request);
    const deadline = performance.now() + PATIENCE_MS;
    for (;;) {
      const { answer } = await this.#askRead(this.#reads++ % this.#real.nodes, request, body);
      if (
        isDeepStrictEqual(answer, now) ||
        this.replicas === 1 ||
        performance.now() > deadline ||
        !this.#wasSo(body, answer)
      ) {
        this.#same(request, answer, now);
        return;
      }
    }
  }

  /** Whether a replica that is behind may answer so. */
  #wasSo(body: Json, answer: readonly Plain[]): boolean {
    const stream = this.#servers.stream(this.stream);
    if (stream === undefined) return false;
    for (let place = stream.log.end; place >= 0; place--) {
      if (isDeepStrictEqual(stream.answerAt(body, { place }).map(plainSimulated), answer)) return true;
    }
    return false;
  }

  /** What the simulated servers answer: it is there at once, or when they have committed. */
  #tell({ subject, payload, headers }: Request): Plain[] {
    const answer: Plain[] = [];
    const own = new SimulatedHeaders();
    for (const [name, value] of Object.entries(headers)) own.set(name, value);
    this.#servers.receive(
      subject,
      Buffer.from(payload),
      Object.keys(headers).length > 0 ? own : undefined,
      { home: 0 },
      (messages) => {
        answer.push(...messages.map(plainSimulated));
      },
    );
    return answer;
  }

  /** Whether there was something to commit. */
  #commitOne(): boolean {
    const log = this.#servers.stream(this.stream)?.log;
    const before = log?.end;
    return this.#engine.runUntil(() => log?.end !== before, this.#engine.now + 60_000);
  }

  #settle(): void {
    this.#engine.runUntil(() => false, this.#engine.now + 60_000);
  }

  #same({ subject, payload, headers }: Request, real: readonly Plain[], simulated: readonly Plain[]): void {
    if (!isDeepStrictEqual(real, simulated)) {
      this.#wasUnavailable = real.some((message) => message.status === "503" || errorOf(message)?.["code"] === 503);
      expect(
        simulated,
        `the simulated servers' answer to ${subject} ${payload} ${JSON.stringify(headers)}`,
      ).to.deep.equal(real);
    }
    this.compared++;
  }
}
