/**
 * Everything that is said to a NATS client, and everything that it answers, in one place and by shape: the classes of
 * `nats` 2.x and of `@nats-io/*` 3.x share neither prototypes nor error codes.
 */
import { Buffer } from "node:buffer";
import type { Call } from "../call.js";
import { StoreError } from "../errors.js";

/** The part of a message's headers that is read here. */
export interface NatsHeaders {
  get(name: string): string;
  set(name: string, value: string): void;
  readonly code: number;
  readonly description: string;
}

export interface NatsMessage {
  readonly data: Uint8Array;
  readonly headers?: NatsHeaders;
}

/**
 * What is called on a NATS connection. A connection of `nats` 2.29 and one of `@nats-io/transport-node` 3.x are both
 * assignable.
 */
export interface NatsConnection {
  readonly info?: {
    readonly version: string;
    readonly jetstream?: boolean;
    readonly server_name?: string;
    readonly cluster?: string;
  };
  request(
    subject: string,
    payload?: Uint8Array | string,
    options?: { timeout: number; headers?: NatsHeaders },
  ): Promise<NatsMessage>;
  requestMany(
    subject: string,
    payload?: Uint8Array | string,
    options?: { strategy?: string; maxWait?: number; headers?: NatsHeaders },
  ): Promise<AsyncIterable<NatsMessage>>;
  isClosed(): boolean;
  isDraining(): boolean;
}

/**
 * What a failed request tells. After `lost` the request may still have been carried out, and after `no-answers` too: the
 * client may not hear what is said to it. Nobody took what was `refused`.
 */
export type Failure = "closed" | "lost" | "no-answers" | "no-responders" | "refused";

/** Waiting does not open a closed connection, nor does it give a permission. */
export function isFinal(failure: Failure): boolean {
  return failure === "closed" || failure === "refused" || failure === "no-answers";
}

interface ErrorShape {
  readonly name: string;
  readonly code: string;
  readonly message: string;
}

function shape(error: unknown): ErrorShape {
  if (typeof error !== "object" || error === null) return { name: "", code: "", message: String(error) };
  const { name, code, message } = error as { name?: unknown; code?: unknown; message?: unknown };
  return {
    name: typeof name === "string" ? name : "",
    code: typeof code === "string" ? code : "",
    message: typeof message === "string" ? message : "",
  };
}

/** Of the two permissions that a request needs, the one to publish it: the other is to hear the answer. */
function mayNotPublish(error: unknown): boolean {
  const { operation, permissionContext } = error as {
    operation?: unknown;
    permissionContext?: { operation?: unknown };
  };
  return (permissionContext?.operation ?? operation) === "publish";
}

/** Names are of the 3.x client, codes of the 2.x client. What neither knows counts as lost: nothing is concluded from it. */
export function failureOf(error: unknown): Failure {
  const { name, code, message } = shape(error);
  if (name === "ClosedConnectionError" || name === "DrainingConnectionError") return "closed";
  if (code === "CONNECTION_CLOSED" || code === "CONNECTION_DRAINING") return "closed";
  if (code === "503" || name === "NoResponders" || name === "NoRespondersError") return "no-responders";
  if (name === "RequestError") {
    const cause = (error as { cause?: unknown }).cause;
    if (message.startsWith("no responders")) return "no-responders";
    if (cause !== undefined && cause !== error) return failureOf(cause);
    return "lost";
  }
  if (code === "PERMISSIONS_VIOLATION" || name === "PermissionViolationError")
    return mayNotPublish(error) ? "refused" : "no-answers";
  if (code === "MAX_PAYLOAD_EXCEEDED" || message.includes("max_payload")) return "refused";
  return "lost";
}

/** What JetStream answers to a publish. */
export type Ack =
  | { readonly kind: "stored"; readonly seq: number }
  /** The expected sequence does not hold, surely (10071), or because of a write in flight that may yet fail (10164). */
  | { readonly kind: "conflict"; readonly inFlight: boolean }
  /** JetStream answered with an error of its own. */
  | { readonly kind: "rejected"; readonly code: number; readonly errCode: number; readonly description: string }
  | { readonly kind: "failed"; readonly failure: Failure; readonly error: unknown };

/** Whether the message is not stored, and never will be. */
export function isSurelyVain(ack: Ack): boolean {
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

/** A direct get's answer: the messages, then how it ended. */
export class DirectMessage {
  readonly #message: NatsMessage;

  constructor(message: NatsMessage) {
    this.#message = message;
  }

  get data(): Uint8Array {
    return this.#message.data;
  }

  // Read only where they are needed: parsing headers costs more than all the rest of a check.
  get subject(): string {
    return this.#message.headers?.get("Nats-Subject") ?? "";
  }

  get seq(): number {
    return Number(this.#message.headers?.get("Nats-Sequence") ?? 0);
  }

  /** The sequence of the message before it in the same answer, 0 for the first. */
  get before(): number {
    return Number(this.#message.headers?.get("Nats-Last-Sequence") ?? 0);
  }

  /** How many messages follow it in the same answer. */
  get following(): number {
    return Number(this.#message.headers?.get("Nats-Num-Pending") ?? 0);
  }

  /** When it was stored, in RFC 3339. */
  get stamp(): string {
    return this.#message.headers?.get("Nats-Time-Stamp") ?? "";
  }
}

/** The newest message of a subject, as one replica has it. */
export type LastAnswer =
  | { readonly kind: "found"; readonly message: DirectMessage }
  | { readonly kind: "none" }
  | { readonly kind: "failed"; readonly failure: Failure; readonly error: unknown };

export type DirectAnswer =
  | {
      readonly kind: "end";
      readonly messages: DirectMessage[];
      readonly upTo: number;
      readonly pending: number;
      readonly last: number;
    }
  | { readonly kind: "empty" }
  | { readonly kind: "too-many" }
  | { readonly kind: "failed"; readonly failure: Failure; readonly error: unknown };

/** JSON of JetStream's API. Nothing is believed of it beyond what each reader checks. */
export type Json = Readonly<Record<string, unknown>>;

export function asObject(value: unknown): Json {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Json) : {};
}

function parse(data: Uint8Array): Json {
  try {
    return asObject(JSON.parse(Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("utf8")));
  } catch {
    return {};
  }
}

/** What a server says of itself. */
export interface ServerStatement {
  readonly name: string;
  readonly version: string;
  readonly cluster: string | undefined;
  readonly jetStream: boolean;
}

/** A requests' own bound: what a dead server swallows is asked again within the call's time. */
const ATTEMPT_MS = 1000;

export class Link {
  readonly connection: NatsConnection;
  readonly #headers: () => NatsHeaders;
  #underWay = 0;
  #idle: (() => void) | undefined;
  /** Whether no server is known to hold a replica and to be older than that. */
  replicasIsolateReads = true;

  constructor(connection: NatsConnection, headers: () => NatsHeaders) {
    this.connection = connection;
    this.#headers = headers;
  }

  get closed(): boolean {
    return this.connection.isClosed() || this.connection.isDraining();
  }

  /** Whether the server that the connection has says that it has JetStream. */
  get jetStream(): boolean {
    return this.connection.info?.jetstream === true;
  }

  /** Resolves when no request is under way: their timers are gone then too. */
  async idle(): Promise<void> {
    if (this.#underWay === 0) return;
    await new Promise<void>((resolve) => {
      this.#idle = resolve;
    });
  }

  /**
   * From a stack of its own: clients make an error for each request, in case that it fails, and what an error costs grows with the
   * calls that wait for it.
   */
  #request(
    subject: string,
    payload: Uint8Array | string,
    options: { timeout: number; headers?: NatsHeaders },
  ): Promise<NatsMessage> {
    return this.#counted(
      new Promise((resolve, reject) => {
        queueMicrotask(() => {
          try {
            this.connection.request(subject, payload, options).then(resolve, reject);
          } catch (error) {
            reject(error instanceof Error ? error : new Error(String(error)));
          }
        });
      }),
    );
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

  /** Whether a direct get of several keys is kept apart from writes: since 2.12, with the locks that atomic batches need. */
  get isolatesReads(): boolean {
    return this.replicasIsolateReads && atLeast(this.connection.info?.version, 2, 12);
  }

  /** Time for one request of a call: never more than the call has left. */
  attemptMs(call: Call): number {
    return Math.max(1, Math.ceil(Math.min(ATTEMPT_MS, call.remaining())));
  }

  /**
   * Publishes, expecting `expected` as the last sequence of the subject (0: none) where it is given, or as that of the
   * subject `expectedOf`.
   */
  async publish(
    stream: string,
    subject: string,
    payload: Uint8Array | string,
    timeoutMs: number,
    expected?: number,
    expectedOf?: string,
  ): Promise<Ack> {
    let reply: Json;
    try {
      const options: { timeout: number; headers?: NatsHeaders } = { timeout: timeoutMs };
      if (expected !== undefined) {
        options.headers = this.#headers();
        options.headers.set("Nats-Expected-Last-Subject-Sequence", String(expected));
        if (expectedOf !== undefined) options.headers.set("Nats-Expected-Last-Subject-Sequence-Subject", expectedOf);
      }
      reply = parse((await this.#request(subject, payload, options)).data);
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
    if (stored === stream && typeof seq === "number" && seq > 0 && duplicate !== true) return { kind: "stored", seq };
    return { kind: "failed", failure: "lost", error: new Error("not the acknowledgement of a fresh publish") };
  }

  /** A request to JetStream's API. Throws a {@link StoreError} where no answer came. */
  async api(subject: string, body: unknown, timeoutMs: number): Promise<Json> {
    try {
      const payload = body === undefined ? "" : JSON.stringify(body);
      return parse((await this.#request(`$JS.API.${subject}`, payload, { timeout: timeoutMs })).data);
    } catch (error) {
      throw unavailable(failureOf(error), error);
    }
  }

  /**
   * What each server says of itself, as the answers come, until `heard` says that it is enough, or another one has not come for
   * `quietMs`. Every account may ask for that, unless permissions forbid it: then nobody answers.
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
      // The client waits on for as long as it was told, and that is waited for at the end.
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
        const { name, ver, cluster, jetstream } = asObject(parse(message.data)["server"]);
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
      // Who does not answer is not known, and that is all that can be said.
    }
  }

  /** A direct get of the newest message that a subject has, from whichever replica answers. */
  async last(stream: string, subject: string, timeoutMs: number): Promise<LastAnswer> {
    try {
      const message = await this.#request(`$JS.API.DIRECT.GET.${stream}`, JSON.stringify({ last_by_subj: subject }), {
        timeout: timeoutMs,
      });
      const code = message.data.length === 0 ? (message.headers?.code ?? 0) : 0;
      switch (code) {
        case 0:
          return { kind: "found", message: new DirectMessage(message) };
        case 404:
          return { kind: "none" };
        case 503:
          return { kind: "failed", failure: "no-responders", error: new Error("no responders") };
        default:
          return {
            kind: "failed",
            failure: "lost",
            error: new Error(`${String(code)} ${message.headers?.description ?? ""}`),
          };
      }
    } catch (error) {
      return { kind: "failed", failure: failureOf(error), error };
    }
  }

  /** A direct get of many messages, from whichever replica answers. */
  direct(stream: string, body: unknown, timeoutMs: number): Promise<DirectAnswer> {
    return this.#counted(this.#direct(stream, body, timeoutMs));
  }

  async #direct(stream: string, body: unknown, timeoutMs: number): Promise<DirectAnswer> {
    const messages: DirectMessage[] = [];
    try {
      const answers = await this.connection.requestMany(`$JS.API.DIRECT.GET.${stream}`, JSON.stringify(body), {
        strategy: "timer",
        maxWait: timeoutMs,
      });
      for await (const message of answers) {
        // What ends an answer has no data; a marker that an operator left has none either, but no status.
        const headers = message.data.length === 0 ? message.headers : undefined;
        if (headers === undefined || headers.code === 0) {
          messages.push(new DirectMessage(message));
          continue;
        }
        switch (headers.code) {
          case 204:
            return {
              kind: "end",
              messages,
              upTo: Number(headers.get("Nats-UpTo-Sequence") || 0),
              pending: Number(headers.get("Nats-Num-Pending") || 0),
              last: Number(headers.get("Nats-Last-Sequence") || 0),
            };
          case 404:
            return { kind: "empty" };
          case 413:
            return { kind: "too-many" };
          case 503:
            return { kind: "failed", failure: "no-responders", error: new Error("no responders") };
          default:
            return {
              kind: "failed",
              failure: "lost",
              error: new Error(`${String(headers.code)} ${headers.description}`),
            };
        }
      }
      // Without the closing message the answer may have been cut short: it is none.
      return { kind: "failed", failure: "lost", error: new Error("the answer has no end") };
    } catch (error) {
      return { kind: "failed", failure: failureOf(error), error };
    }
  }
}

export function isVersion(version: string): boolean {
  return /^v?\d+\.\d+\.\d+/.test(version);
}

/** Whether a server's version is at least `major.minor.patch`. An unknown one is not. */
export function atLeast(version: string | undefined, major: number, minor: number, patch = 0): boolean {
  const match = /^v?(\d+)\.(\d+)\.(\d+)/.exec(version ?? "");
  if (match === null) return false;
  const wanted = [major, minor, patch];
  for (const [i, least] of wanted.entries()) {
    const found = Number(match[i + 1]);
    if (found !== least) return found > least;
  }
  return true;
}

export function unavailable(failure: Failure, cause: unknown): StoreError {
  switch (failure) {
    case "closed":
      return new StoreError("UNAVAILABLE", "The NATS connection is closed or draining", { cause });
    case "no-responders":
      return new StoreError("UNAVAILABLE", "JetStream does not answer: no leader, no quorum, or not enabled", {
        cause,
      });
    case "refused":
      return new StoreError("UNAVAILABLE", "The NATS server refuses the request", { cause });
    case "no-answers":
      return new StoreError(
        "UNAVAILABLE",
        "The NATS server refuses to deliver answers: the inbox of the connection is not permitted",
        { cause },
      );
    case "lost":
      return new StoreError("UNAVAILABLE", "JetStream did not answer", { cause });
  }
}

/** The errors of a call that goes on trying until its time is over. */
export class Retries {
  readonly #call: Call;
  #begun = false;
  #attempt = 0;
  #last: { failure: Failure; error: unknown } | undefined;

  constructor(call: Call) {
    this.#call = call;
  }

  failed(failure: Failure, error: unknown): void {
    this.#last = { failure, error };
    if (isFinal(failure)) throw unavailable(failure, error);
  }

  /** What every attempt begins with: nothing at first, a pause from then on. Throws once the call's time is over. */
  turn(): Promise<void> | undefined {
    this.#call.check();
    if (this.#begun) return this.pause();
    this.#begun = true;
    return undefined;
  }

  /** Waits a little longer each time, with jitter so that contenders part. Throws once the call's time is over. */
  async pause(): Promise<void> {
    const limit = Math.min(200, 2 ** Math.min(this.#attempt++, 8));
    const ms = limit * (0.5 + Math.random());
    // An instant "no" is better said as it is than as the timeout that it would become.
    if (this.#call.remaining() <= ms && this.#last?.failure === "no-responders") {
      throw unavailable(this.#last.failure, this.#last.error);
    }
    await new Promise<void>((resolve) => {
      setTimeout(resolve, Math.min(ms, this.#call.remaining()));
    });
    this.#call.check();
  }
}
