import type { NatsConnection } from "unibus-membership";
import type { Connection } from "../../support/nats-clients.js";

export type Request = Connection["request"];
type Answer = Awaited<ReturnType<Request>>;
type Publish = NonNullable<NatsConnection["publish"]>;
type Subscribe = NonNullable<NatsConnection["subscribe"]>;
type Heard = Parameters<Parameters<Subscribe>[1]["callback"]>[1];

/**
 * What stands between a store and its connection. It sends what was asked, or something else, or nothing, and answers.
 */
export type Tap = (send: Request, ...asked: Parameters<Request>) => Promise<Answer>;

/** An error in the shape of the 2.x client's. The library knows errors by their shape. */
export function natsError(code: string, more: object = {}): Error {
  return Object.assign(new Error(code), { name: "NatsError", code }, more);
}

/** Longer than a store waits for an answer. */
const UNANSWERED_MS = 5000;

/** What a server says of a subject that nobody listens to. */
const noResponders: Answer = {
  data: new Uint8Array(),
  headers: { code: 503, description: "No Responders", get: () => "", set: () => undefined },
};

function required<T>(found: T | undefined): T {
  if (found === undefined) throw new Error("a client's connection publishes and subscribes");
  return found;
}

/**
 * A tap on what a store asks over `publish` and `subscribe`, as it does over a client's connection. Each publish goes
 * to the tap as a request, and what the tap answers is heard by the store's subscription. An error of the tap is what
 * it is on a wire: "503" is a message that nobody listens, anything else is silence, for as long as the store waits.
 */
export class TappedRequests {
  readonly #inner: Connection;
  readonly #tap: Tap;
  /** By the beginning of the subjects that they hear. */
  readonly #subscribers = new Map<string, (message: Heard) => void>();
  /** By the subject of the answer. */
  readonly #waiting = new Map<string, (answer: Answer | Error) => void>();

  constructor(inner: Connection, tap: Tap) {
    this.#inner = inner;
    this.#tap = tap;
  }

  /** For who asks the connection itself. */
  request(...asked: Parameters<Request>): Promise<Answer> {
    return this.#tap((...sent) => this.#inner.request(...sent), ...asked);
  }

  publish(...[subject, payload, { reply, headers } = {}]: Parameters<Publish>): void {
    if (reply === undefined) throw new Error("a store publishes nothing without an answer");
    // The client says at once that it is closed.
    if (this.#inner.isClosed()) throw natsError("CONNECTION_CLOSED");
    const options = { timeout: UNANSWERED_MS, ...(headers === undefined ? {} : { headers }) };
    const send: Request = (...sent) => this.#send(reply, sent);
    this.#tap(send, subject, payload, options).then(
      (answer) => {
        this.#deliver(reply, answer);
      },
      (error: unknown) => {
        if ((error as { code?: unknown }).code === "503") this.#deliver(reply, noResponders);
      },
    );
  }

  subscribe(...[subject, { callback }]: Parameters<Subscribe>): ReturnType<Subscribe> {
    const beginning = subject.replace(/\*$/, "");
    const subscription = required(this.#inner.subscribe?.bind(this.#inner))(subject, {
      callback: (error, message) => {
        if (error === null) this.#waiting.get(message.subject)?.(message);
        else callback(error, message);
      },
    });
    this.#subscribers.set(beginning, (message) => {
      callback(null, message);
    });
    const end = (): void => {
      this.#subscribers.delete(beginning);
      const closed = natsError("CONNECTION_CLOSED");
      for (const [reply, settle] of [...this.#waiting]) if (reply.startsWith(beginning)) settle(closed);
    };
    subscription.closed?.then(end, end);
    return subscription;
  }

  #send(reply: string, [subject, payload, options]: Parameters<Request>): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const settle = (answer: Answer | Error): void => {
        clearTimeout(timer);
        this.#waiting.delete(reply);
        if (answer instanceof Error) reject(answer);
        else if (answer.data.length === 0 && answer.headers?.code === 503) reject(natsError("503"));
        else resolve(answer);
      };
      const timer = setTimeout(() => {
        settle(natsError("TIMEOUT"));
      }, UNANSWERED_MS);
      this.#waiting.set(reply, settle);
      const headers = options?.headers;
      try {
        required(this.#inner.publish?.bind(this.#inner))(
          subject,
          payload,
          headers === undefined ? { reply } : { reply, headers },
        );
      } catch (error) {
        settle(error instanceof Error ? error : new Error(String(error)));
      }
    });
  }

  #deliver(reply: string, { data, headers }: Answer): void {
    const beginning = reply.slice(0, reply.lastIndexOf(".") + 1);
    const message = { subject: reply, data, ...(headers === undefined ? {} : { headers }) };
    this.#subscribers.get(beginning)?.(message);
  }
}
