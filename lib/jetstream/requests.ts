/**
 * Requests and their answers over one subscription of the store's own. What clients do for each request (an error for
 * its stack, a timer that is raced, options that are checked) costs five times as much as all the rest of a request.
 */
import { randomBytes } from "node:crypto";
import { RequestFailure } from "./failures.js";
import type { NatsConnection, NatsHeaders, NatsMessage, NatsSubscription } from "./nats-connection.js";

export interface RequestOptions {
  readonly timeout: number;
  readonly headers?: NatsHeaders;
}

/** Both clients' connections are. */
type Publishing = NatsConnection & Required<Pick<NatsConnection, "publish" | "subscribe">>;

function isPublishing(connection: NatsConnection): connection is Publishing {
  return typeof connection.publish === "function" && typeof connection.subscribe === "function";
}

interface Waiting {
  readonly subject: string;
  readonly resolve: (message: NatsMessage) => void;
  readonly reject: (error: unknown) => void;
  readonly timer: NodeJS.Timeout;
}

interface Inbox {
  readonly prefix: string;
  readonly subscription: NatsSubscription;
  readonly end: () => void;
}

const NO_RESPONDERS = 503;

export class Requests {
  readonly #connection: NatsConnection;
  /** Under the last part of the subject that is answered to, the oldest first. */
  readonly #waiting = new Map<string, Waiting>();
  #inbox: Inbox | undefined;
  #sent = 0;
  #isClosed = false;

  constructor(connection: NatsConnection) {
    this.#connection = connection;
  }

  /** Rejects with what the connection throws, or with a {@link RequestFailure}. */
  request(subject: string, payload: Uint8Array | string, options: RequestOptions): Promise<NatsMessage> {
    const connection = this.#connection;
    if (this.#isClosed) return Promise.reject(new RequestFailure("closed", "nothing is asked any more"));
    if (!isPublishing(connection)) return this.#byClient(subject, payload, options);
    // Clients publish while they drain, and the answer would not be heard.
    if (connection.isDraining()) return Promise.reject(new RequestFailure("closed", "the connection is draining"));
    return new Promise((resolve, reject) => {
      const { prefix } = (this.#inbox ??= this.#listen(connection));
      const token = String(++this.#sent);
      const timer = setTimeout(() => {
        this.#waiting.delete(token);
        reject(new RequestFailure("lost", `no answer within ${String(options.timeout)} ms`));
      }, options.timeout);
      this.#waiting.set(token, { subject, resolve, reject, timer });
      const reply = prefix + token;
      const { headers } = options;
      try {
        connection.publish(subject, payload, headers === undefined ? { reply } : { reply, headers });
      } catch (error) {
        this.#take(token);
        throw error;
      }
    });
  }

  /** Nothing may be under way. A later request fails: nobody would end the subscription that it began. */
  close(): void {
    this.#isClosed = true;
    this.#inbox?.end();
  }

  /**
   * On a fresh stack: the client makes an error for each request, in case it fails, and the cost of an error grows with
   * the stack.
   */
  #byClient(subject: string, payload: Uint8Array | string, options: RequestOptions): Promise<NatsMessage> {
    return new Promise((resolve, reject) => {
      queueMicrotask(() => {
        try {
          this.#connection.request(subject, payload, options).then(resolve, reject);
        } catch (error) {
          reject(error instanceof Error ? error : new Error(String(error)));
        }
      });
    });
  }

  #take(token: string): Waiting | undefined {
    const waiting = this.#waiting.get(token);
    if (waiting === undefined) return undefined;
    this.#waiting.delete(token);
    clearTimeout(waiting.timer);
    return waiting;
  }

  #listen(connection: Publishing): Inbox {
    const prefix = `${inboxPrefix(connection)}.${randomBytes(16).toString("hex")}.`;
    const subscription = connection.subscribe(`${prefix}*`, {
      callback: (error, message) => {
        // The client ends a subscription that the server refuses. The next request tries with another one.
        if (error !== null) {
          end();
          this.#failAll(new RequestFailure("no-answers", error.message));
          return;
        }
        // Nobody waits for an answer that comes late, or twice.
        const waiting = this.#take(message.subject.slice(prefix.length));
        if (waiting === undefined) return;
        if (message.data.length === 0 && message.headers?.code === NO_RESPONDERS) {
          waiting.reject(new RequestFailure("no-responders", "no responders"));
        } else waiting.resolve(message);
      },
    });
    const unwatch = this.#watchRefusals();
    const end = (): void => {
      if (this.#inbox?.subscription !== subscription) return;
      this.#inbox = undefined;
      unwatch();
      if (!connection.isClosed()) subscription.unsubscribe();
    };
    const closed = (): void => {
      end();
      this.#failAll(new RequestFailure("closed", "the connection is closed"));
    };
    // Only `end` and the connection close this subscription, and nobody calls `end` while something waits.
    subscription.closed?.then(closed, closed);
    return { prefix, subscription, end };
  }

  #failAll(error: RequestFailure): void {
    for (const token of [...this.#waiting.keys()]) this.#take(token)?.reject(error);
  }

  /** The server answers nothing to what may not be published: it tells the connection. Answers how to stop. */
  #watchRefusals(): () => void {
    const statuses = this.#connection.status?.();
    if (statuses === undefined) return () => undefined;
    const watch = async (): Promise<void> => {
      for await (const status of statuses) this.#refuse(status);
    };
    watch().catch(() => undefined);
    return () => (statuses as { stop?: () => void }).stop?.();
  }

  #refuse(status: unknown): void {
    const { permissionContext, error } = status as { permissionContext?: unknown; error?: unknown };
    const { operation, subject } = (permissionContext ?? error ?? {}) as { operation?: unknown; subject?: unknown };
    if (operation !== "publish") return;
    // Refusals come in the order of what was sent.
    for (const [token, waiting] of this.#waiting) {
      if (waiting.subject !== subject) continue;
      this.#take(token)?.reject(new RequestFailure("refused", `publishing to ${waiting.subject} is not permitted`));
      return;
    }
  }
}

/** What the connection's own requests use: permissions may name it. */
function inboxPrefix(connection: NatsConnection): string {
  const { options } = connection as { options?: { inboxPrefix?: unknown } };
  const prefix = options?.inboxPrefix;
  return typeof prefix === "string" && prefix !== "" ? prefix : "_INBOX";
}
