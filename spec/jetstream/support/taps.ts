import type { Connection } from "../../support/nats-clients.js";
import { TappedRequests, type Request, type Tap } from "./tapped-requests.js";

export type { Request, Tap } from "./tapped-requests.js";
export { natsError } from "./tapped-requests.js";
export type RequestMany = Connection["requestMany"];
export type Message = Awaited<ReturnType<RequestMany>> extends AsyncIterable<infer M> ? M : never;

/** The same connection, with something between it and whoever asks: nothing is made up. */
export function tapped(
  inner: Connection,
  { request: tap, requestMany }: { readonly request?: Tap; readonly requestMany?: RequestMany },
): Connection {
  const requests = tap === undefined ? undefined : new TappedRequests(inner, tap);
  const instead: Partial<Connection> = {
    ...(requests === undefined
      ? {}
      : {
          request: (...asked: Parameters<Request>) => requests.request(...asked),
          publish: (...sent: Parameters<TappedRequests["publish"]>) => {
            requests.publish(...sent);
          },
          subscribe: (...asked: Parameters<TappedRequests["subscribe"]>) => requests.subscribe(...asked),
        }),
    ...(requestMany === undefined ? {} : { requestMany }),
  };
  return new Proxy(inner, {
    get(target, name) {
      const found: unknown = Reflect.get(instead, name) ?? Reflect.get(target, name);
      return typeof found === "function" ? (found.bind(target) as unknown) : found;
    },
  });
}

/** The same connection as a wrapper hands it on that knows of requests alone: a store then asks by the client's own. */
export function requestsAlone(inner: Connection): Connection {
  return new Proxy(inner, {
    get(target, name) {
      if (name === "publish" || name === "subscribe") return undefined;
      const found: unknown = Reflect.get(target, name);
      return typeof found === "function" ? (found.bind(target) as unknown) : found;
    },
  });
}

/** What closes an answer of many messages. Nothing follows it, and a client waits for that. */
export function isEnd(message: Message): boolean {
  return message.data.length === 0 && (message.headers?.code ?? 0) !== 0;
}

/** All of an answer. */
export async function messagesOf(answers: AsyncIterable<Message>): Promise<Message[]> {
  const messages: Message[] = [];
  for await (const message of answers) {
    messages.push(message);
    if (isEnd(message)) break;
  }
  return messages;
}

export async function* given(messages: readonly Message[]): AsyncGenerator<Message> {
  await Promise.resolve();
  yield* messages;
}

/** How often the event loop turns while a store that is at work asks nothing: from an answer to the next request. */
const IDLE_TURNS = 20;

/** The same connection, and a way to wait until a store that uses it has nothing more to ask. */
export function quieted(inner: Connection): { connection: Connection; quiet: () => Promise<void> } {
  let underWay = 0;
  let asked = 0;
  const begin = (): void => {
    underWay++;
    asked++;
  };
  const connection = tapped(inner, {
    request: async (send, ...asked) => {
      begin();
      try {
        return await send(...asked);
      } finally {
        underWay--;
      }
    },
    requestMany: async (...args) => {
      begin();
      try {
        return given(await messagesOf(await inner.requestMany(...args)));
      } finally {
        underWay--;
      }
    },
  });
  const quiet = async (): Promise<void> => {
    for (let turns = 0, before = asked; turns < IDLE_TURNS; turns++) {
      await new Promise((resolve) => setImmediate(resolve));
      if (underWay === 0 && asked === before) continue;
      turns = 0;
      before = asked;
    }
  };
  return { connection, quiet };
}
