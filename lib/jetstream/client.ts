/**
 * Everything that is said to a NATS client, and everything that it answers. Both go by shape: the classes of `nats` 2.x
 * and of `@nats-io/*` 3.x share neither prototypes nor error codes.
 */
import type { Call } from "../call.js";
import { failureOf, unavailable, type Failure } from "./failures.js";
import { asObject, parseJson, type Json } from "./json.js";
import type { NatsConnection, NatsHeaders, NatsMessage } from "./nats-connection.js";
import { Requests, type RequestOptions } from "./requests.js";
import { seqIn, type BucketName, type Seq, type Stream } from "./seq.js";
import { atLeast } from "./server-version.js";

/** What JetStream answers to a publish. */
export type Ack<B extends BucketName> =
  | { readonly kind: "stored"; readonly seq: Seq<B> }
  /** The expected sequence does not hold, surely (10071), or because of a write in flight that may yet fail (10164). */
  | { readonly kind: "conflict"; readonly inFlight: boolean }
  /** JetStream answered with an error of its own. */
  | { readonly kind: "rejected"; readonly code: number; readonly errCode: number; readonly description: string }
  | { readonly kind: "failed"; readonly failure: Failure; readonly error: unknown };

/** Whether the message is not stored, and never will be. */
export function isSurelyVain(ack: Ack<never>): boolean {
  switch (ack.kind) {
    case "conflict":
    case "rejected":
      return true;
    case "failed":
      return ack.failure === "no-responders" || ack.failure === "refused";
    case "stored":
    default:
      return false;
  }
}

const WRONG_LAST_SEQUENCE = 10071;
const WRONG_LAST_SEQUENCE_IN_FLIGHT = 10164;

/** A message of a direct get's answer. */
export interface DirectMessage<B extends BucketName> {
  readonly data: Uint8Array;
  readonly subject: string;
  readonly seq: Seq<B>;
  /** The sequence of the message before it in the same answer, 0 for the first. */
  readonly before: number;
  /** How many messages follow it in the same answer. */
  readonly following: number;
  /** When it was stored, in RFC 3339. */
  readonly stamp: string;
}

/** Many wait for the end of an answer: the client's own messages, with their headers, take several times the memory. */
function received<B extends BucketName>({ data, headers }: NatsMessage): DirectMessage<B> {
  const found = { data, subject: "", seq: 0 as Seq<B>, before: 0, following: 0, stamp: "" };
  for (const [name, [value = ""]] of headers === undefined ? [] : allOf(headers)) {
    switch (name) {
      case "Nats-Subject":
        found.subject = value;
        break;
      case "Nats-Sequence":
        found.seq = Number(value) as Seq<B>;
        break;
      case "Nats-Last-Sequence":
        found.before = Number(value);
        break;
      case "Nats-Num-Pending":
        found.following = Number(value);
        break;
      case "Nats-Time-Stamp":
        found.stamp = value;
    }
  }
  return found;
}

const NAMES = ["Nats-Subject", "Nats-Sequence", "Nats-Last-Sequence", "Nats-Num-Pending", "Nats-Time-Stamp"];

/** Both clients' headers can be iterated. Where each is asked for, they look through all names first. */
function allOf(headers: NatsHeaders): Iterable<[string, string[]]> {
  return isIterable(headers) ? headers : NAMES.map((name) => [name, [headers.get(name)]]);
}

function isIterable(headers: NatsHeaders): headers is NatsHeaders & Iterable<[string, string[]]> {
  return Symbol.iterator in headers;
}

/** The newest message of a subject, as one replica has it. */
export type LastAnswer<B extends BucketName> =
  | { readonly kind: "found"; readonly message: DirectMessage<B> }
  | { readonly kind: "none" }
  | { readonly kind: "failed"; readonly failure: Failure; readonly error: unknown };

export type DirectAnswer<B extends BucketName> =
  | {
      readonly kind: "end";
      readonly messages: DirectMessage<B>[];
      readonly upTo: Seq<B>;
      readonly pending: number;
      readonly last: number;
    }
  | { readonly kind: "empty" }
  | { readonly kind: "too-many" }
  | { readonly kind: "failed"; readonly failure: Failure; readonly error: unknown };

/** What a server says of itself. */
export interface ServerStatement {
  readonly name: string;
  readonly version: string;
  readonly cluster: string | undefined;
  readonly jetStream: boolean;
}

/** How long one request may take. What a dead server swallows is asked again within the call's time. */
const ATTEMPT_MS = 1000;

export class JetStreamClient {
  readonly connection: NatsConnection;
  readonly #headers: () => NatsHeaders;
  readonly #requests: Requests;
  #underWay = 0;
  #idle: (() => void) | undefined;
  /** Whether no server that holds a replica is known to be older than 2.12. See {@link isolatesReads}. */
  replicasIsolateReads = true;

  constructor(connection: NatsConnection, headers: () => NatsHeaders) {
    this.connection = connection;
    this.#requests = new Requests(connection);
    this.#headers = headers;
  }

  get closed(): boolean {
    return this.connection.isClosed() || this.connection.isDraining();
  }

  /** Whether the server that the connection has says that it has JetStream. */
  get jetStream(): boolean {
    return this.connection.info?.jetstream === true;
  }

  /** Resolves when no request is under way: their timers are gone then too. Nothing may be asked any more. */
  async close(): Promise<void> {
    if (this.#underWay > 0) {
      await new Promise<void>((resolve) => {
        this.#idle = resolve;
      });
    }
    this.#requests.close();
  }

  #request(subject: string, payload: Uint8Array | string, options: RequestOptions): Promise<NatsMessage> {
    return this.#counted(this.#requests.request(subject, payload, options));
  }

  async #counted<T>(request: Promise<T>): Promise<T> {
    this.#underWay++;
    try {
      return await request;
    } finally {
      if (--this.#underWay === 0) this.#idle?.();
    }
  }

  /** The cluster of the server that the connection has. `undefined`: it stands alone. */
  get cluster(): string | undefined {
    return this.connection.info?.cluster;
  }

  /** The server that the connection has now: after a reconnect it is another one. */
  get server(): { readonly name: string; readonly version: string } | undefined {
    const { info } = this.connection;
    return info === undefined ? undefined : { name: info.server_name ?? "the connection's", version: info.version };
  }

  /**
   * Whether a direct get of several keys is kept apart from writes: since 2.12, unless the replica catches up
   * (docs/protocol.md, A6).
   */
  get isolatesReads(): boolean {
    return this.replicasIsolateReads && atLeast(this.connection.info?.version, 2, 12);
  }

  /** Time for one request of a call: never more than the call has left. */
  attemptMs(call: Call, attempts = 1): number {
    return Math.max(1, Math.ceil(Math.min(attempts * ATTEMPT_MS, call.remaining())));
  }

  /**
   * Publishes, expecting `expected` as the last sequence of the subject (0: none) where it is given, or as that of the
   * subject `expectedOf`.
   */
  async publish<B extends BucketName>(
    stream: Stream<B>,
    subject: string,
    payload: Uint8Array | string,
    timeoutMs: number,
    expected?: Seq<B>,
    expectedOf?: string,
  ): Promise<Ack<B>> {
    let reply: Json;
    try {
      const options: { timeout: number; headers?: NatsHeaders } = { timeout: timeoutMs };
      if (expected !== undefined) {
        options.headers = this.#headers();
        options.headers.set("Nats-Expected-Last-Subject-Sequence", String(expected));
        if (expectedOf !== undefined) options.headers.set("Nats-Expected-Last-Subject-Sequence-Subject", expectedOf);
      }
      reply = parseJson((await this.#request(subject, payload, options)).data);
    } catch (error) {
      return { kind: "failed", failure: failureOf(error), error };
    }
    const error = reply["error"];
    if (error !== undefined) {
      const { code, err_code: errCode, description } = asObject(error);
      if (errCode === WRONG_LAST_SEQUENCE || errCode === WRONG_LAST_SEQUENCE_IN_FLIGHT) {
        return { kind: "conflict", inFlight: errCode === WRONG_LAST_SEQUENCE_IN_FLIGHT };
      }
      return { kind: "rejected", code: Number(code), errCode: Number(errCode), description: String(description) };
    }
    // Only the stream itself, storing this very message, answers so: a duplicate or another responder proves nothing.
    const { seq, stream: stored, duplicate } = reply;
    if (stored === stream && typeof seq === "number" && seq > 0 && duplicate !== true)
      return { kind: "stored", seq: seqIn(stream, seq) };
    return { kind: "failed", failure: "lost", error: new Error("not the acknowledgement of a fresh publish") };
  }

  /** A request to JetStream's API. Throws a {@link StoreError} where no answer came. */
  async api(subject: string, body: unknown, timeoutMs: number): Promise<Json> {
    try {
      const payload = body === undefined ? "" : JSON.stringify(body);
      return parseJson((await this.#request(`$JS.API.${subject}`, payload, { timeout: timeoutMs })).data);
    } catch (error) {
      throw unavailable(failureOf(error), error);
    }
  }

  /**
   * What each server says of itself, as the answers come, until `heard` says that it is enough, or another one has not
   * come for `quietMs`. Every account may ask for that, unless permissions forbid it: then nobody answers.
   */
  async everyServer(timeoutMs: number, quietMs: number, heard: (server: ServerStatement) => boolean): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    let isOver = false;
    await new Promise<void>((resolve) => {
      const asked = this.#everyServer(timeoutMs, (server) => {
        if (isOver) return true;
        clearTimeout(timer);
        timer = setTimeout(resolve, quietMs);
        return heard(server);
      });
      // The client goes on waiting for its whole time, and closing waits for that.
      this.#counted(asked).then(resolve, resolve);
    });
    isOver = true;
    clearTimeout(timer);
  }

  async #everyServer(timeoutMs: number, heard: (server: ServerStatement) => boolean): Promise<void> {
    try {
      const options = { strategy: "timer", maxWait: timeoutMs };
      const answers = await this.connection.requestMany(
        "$SYS.REQ.ACCOUNT.PING.STATZ",
        JSON.stringify({ include_unused: true }),
        options,
      );
      for await (const message of answers) {
        if (message.data.length === 0) return;
        const { name, ver, cluster, jetstream } = asObject(parseJson(message.data)["server"]);
        if (typeof name !== "string" || typeof ver !== "string") continue;
        const statement = {
          name,
          version: ver,
          cluster: typeof cluster === "string" ? cluster : undefined,
          jetStream: jetstream === true,
        };
        if (heard(statement)) return;
      }
    } catch {
      // Of a server that does not answer nothing is known.
    }
  }

  /** A direct get of the newest message that a subject has, from whichever replica answers. */
  async last<B extends BucketName>(stream: Stream<B>, subject: string, timeoutMs: number): Promise<LastAnswer<B>> {
    try {
      const message = await this.#request(`$JS.API.DIRECT.GET.${stream}`, JSON.stringify({ last_by_subj: subject }), {
        timeout: timeoutMs,
      });
      const code = message.data.length === 0 ? (message.headers?.code ?? 0) : 0;
      switch (code) {
        case 0:
          return { kind: "found", message: received(message) };
        case 404:
          return { kind: "none" };
        default:
          return noAnswer(code, message.headers?.description ?? "");
      }
    } catch (error) {
      return { kind: "failed", failure: failureOf(error), error };
    }
  }

  /** A direct get of many messages, from whichever replica answers. */
  direct<B extends BucketName>(stream: Stream<B>, body: unknown, timeoutMs: number): Promise<DirectAnswer<B>> {
    return this.#counted(this.#direct(stream, body, timeoutMs));
  }

  async #direct<B extends BucketName>(stream: Stream<B>, body: unknown, timeoutMs: number): Promise<DirectAnswer<B>> {
    const messages: DirectMessage<B>[] = [];
    try {
      const answers = await this.connection.requestMany(`$JS.API.DIRECT.GET.${stream}`, JSON.stringify(body), {
        strategy: "timer",
        maxWait: timeoutMs,
      });
      for await (const message of answers) {
        // What ends an answer has no data; a marker that an operator left has none either, but no status.
        const headers = message.data.length === 0 ? message.headers : undefined;
        if (headers === undefined || headers.code === 0) {
          messages.push(received(message));
          continue;
        }
        switch (headers.code) {
          case 204:
            return {
              kind: "end",
              messages,
              upTo: seqIn(stream, Number(headers.get("Nats-UpTo-Sequence") || 0)),
              pending: Number(headers.get("Nats-Num-Pending") || 0),
              last: Number(headers.get("Nats-Last-Sequence") || 0),
            };
          case 404:
            return { kind: "empty" };
          case 413:
            return { kind: "too-many" };
          default:
            return noAnswer(headers.code, headers.description);
        }
      }
      // Without the closing message the answer may have been cut short: it is none.
      return { kind: "failed", failure: "lost", error: new Error("the answer has no end") };
    } catch (error) {
      return { kind: "failed", failure: failureOf(error), error };
    }
  }
}

/** A status that says neither what is there nor that nothing is. */
function noAnswer(code: number, description: string): { kind: "failed"; failure: Failure; error: Error } {
  if (code === 503) return { kind: "failed", failure: "no-responders", error: new Error("no responders") };
  return { kind: "failed", failure: "lost", error: new Error(`${String(code)} ${description}`) };
}
