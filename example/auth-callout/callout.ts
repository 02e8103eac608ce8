/**
 * Decides for nats-servers who may log in and what they may do there, by a store, and puts out whom the store no longer
 * lets in. Whatever fails, is late or cannot be proved is a no.
 */
import { RequestError, type Msg, type NatsConnection, type Subscription } from "@nats-io/transport-node";
import { SessionEnded, isStoreError, subjectToken, type Member, type Session, type Store } from "unibus-membership";
import { at, hasSigned, serverClaims, text, type Issuer } from "./nkey-jwt.js";

export interface CalloutOptions {
  readonly store: Store;
  /** A user of the callout's account, who is in `auth_users`. */
  readonly calls: NatsConnection;
  /** A user of the system account. */
  readonly system: NatsConnection;
  readonly issuer: Issuer;
  /** Where those who are let in are put. */
  readonly account: string;
  /** How old the proof may be that somebody is let in still. */
  readonly maxStalenessMs: number;
  /** When a server puts out whom it was not told about: the bound where a kick is lost, or this process. */
  readonly loginSeconds: number;
  readonly log: (event: CalloutEvent) => void;
}

export type CalloutEvent =
  | { event: "admitted"; user: string; rooms: number; ms: number }
  | { event: "denied"; user: string; reason: string; ms: number }
  | { event: "ended"; user: string; reason: string }
  | { event: "kicked"; user: string; ms: number }
  | { event: "failed"; what: string; error: string };

/** Servers wait for 2 seconds (`authorization.timeout`). What comes later is dropped by them. */
const ANSWER_WITHIN_MS = 1500;
const KICK_TIMEOUT_MS = 1000;
/** How long beyond a login's end it is tried to put out who is there still. */
const KICK_AFTER_MS = 10_000;
const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 1000;
/** Whoever is put out by a service that ends has so long. */
const CLOSE_WITHIN_MS = 5000;

/** Somebody at a server's door. */
interface Knock {
  readonly server: string;
  readonly client: number;
  /** The name that the server wants the login under: of this one connection. */
  readonly loginAs: string;
  readonly user: string;
  readonly nonce: string;
  readonly signature: string;
}

/** Somebody who was let in. */
interface Guest {
  readonly knock: Knock;
  readonly session: Session;
  readonly until: number;
}

export class AuthCallout implements AsyncDisposable {
  readonly #options: CalloutOptions;
  /** By server and client. */
  readonly #guests = new Map<string, Guest>();
  readonly #answers = new Set<Promise<void>>();
  readonly #kicks = new Set<Promise<void>>();
  readonly #subscriptions: readonly Subscription[];
  #kicksUntil = Infinity;

  constructor(options: CalloutOptions) {
    this.#options = options;
    const { calls, system } = options;
    this.#subscriptions = [
      // Of all instances of the service one answers, and watches whom it has let in.
      calls.subscribe("$SYS.REQ.USER.AUTH", {
        queue: "callout",
        callback: (error, message) => {
          if (error === null) keep(this.#answers, this.#answer(message));
          else this.#failed("logins", error);
        },
      }),
      // Of every account: who leaves before the answer is in none of ours yet.
      system.subscribe("$SYS.ACCOUNT.*.DISCONNECT", {
        callback: (error, message) => {
          if (error === null) this.#left(message);
          else this.#failed("departures", error);
        },
      }),
    ];
  }

  /** Puts out everybody whom this instance let in: nobody would watch them. They come back by another instance. */
  async close(): Promise<void> {
    for (const subscription of this.#subscriptions) subscription.unsubscribe();
    await Promise.all(this.#answers);
    this.#kicksUntil = Date.now() + CLOSE_WITHIN_MS;
    for (const { session } of [...this.#guests.values()]) session.close();
    await Promise.all(this.#kicks);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** Never rejects. What asks without being a server gets no answer. */
  async #answer(message: Msg): Promise<void> {
    const began = performance.now();
    const { log, issuer } = this.#options;
    try {
      const knock = knockOf(message.string());
      const { user, server: aud, loginAs: sub } = knock;
      const answer = await this.#decide(knock, began).catch((error: unknown) => ({ error: said(error) }));
      const { rooms, ...nats } = "jwt" in answer ? answer : { ...answer, rooms: 0 };
      message.respond(issuer.sign({ sub, aud, nats: { type: "authorization_response", version: 2, ...nats } }));
      const ms = performance.now() - began;
      log("error" in nats ? { event: "denied", user, reason: nats.error, ms } : { event: "admitted", user, rooms, ms });
    } catch (error) {
      this.#failed("an answer", error);
    }
  }

  async #decide(knock: Knock, began: number): Promise<{ jwt: string; rooms: number } | { error: string }> {
    // The server has verified nothing of an nkey that it does not know: it hands on what the client says.
    if (knock.nonce === "" || !hasSigned(knock.user, "U", knock.nonce, knock.signature))
      return { error: "the nkey was not proved" };
    // A server lets a connection log in again, and then forgets when the first login ends. Nobody would see to that.
    if (this.#guests.has(nameOf(knock))) return { error: "the connection is in already" };
    const { store, maxStalenessMs, loginSeconds } = this.#options;
    const timeLeft = (): number => Math.max(1, Math.floor(ANSWER_WITHIN_MS - (performance.now() - began)));
    // A user's endpoint is named as the user is.
    const memberships = await store.members.listForEndpoint(knock.user, { timeoutMs: timeLeft() });
    const joined = memberships.filter(({ state }) => state === "joined");
    const until = Date.now() + loginSeconds * 1000;
    const session = await store.session(knock.user, {
      timeoutMs: timeLeft(),
      maxStalenessMs,
      memberOf: joined.map(({ roomId, endpoint }) => ({ roomId, endpoint })),
      signal: AbortSignal.timeout(loginSeconds * 1000),
    });
    if (!session.allowed) return { error: session.reason };
    this.#watch({ knock, session, until });
    const jwt = this.#login(knock, joined, Math.min(until, session.user.expiresAt?.getTime() ?? Infinity));
    return session.active ? { jwt, rooms: joined.length } : { error: "ended" };
  }

  #watch(guest: Guest): void {
    const { knock, session } = guest;
    const name = nameOf(knock);
    this.#guests.set(name, guest);
    const ended = (): void => {
      // Whoever has left by themselves is not there any more.
      if (!this.#guests.delete(name)) return;
      const end: unknown = session.signal.reason;
      const reason = end instanceof SessionEnded ? end.denial.reason : String(end);
      this.#options.log({ event: "ended", user: knock.user, reason });
      keep(this.#kicks, this.#kick(guest));
    };
    if (session.signal.aborted) ended();
    else session.signal.addEventListener("abort", ended, { once: true });
  }

  #left(message: Msg): void {
    const event: unknown = JSON.parse(message.string());
    const name = `${text(event, "server", "id")} ${String(at(event, "client", "id"))}`;
    const guest = this.#guests.get(name);
    this.#guests.delete(name);
    guest?.session.close();
  }

  /** Asks until the server has answered, be it that the client is gone, or has put the client out by itself. */
  async #kick({ knock, until }: Guest): Promise<void> {
    const began = performance.now();
    const { system, log } = this.#options;
    const subject = `$SYS.REQ.SERVER.${knock.server}.KICK`;
    // The server may have forgotten when the login ends: by one on the same connection that another instance let in.
    const last = until + KICK_AFTER_MS;
    for (let pauseMs = FIRST_PAUSE_MS; Date.now() < Math.min(last, this.#kicksUntil);) {
      try {
        await system.request(subject, JSON.stringify({ cid: knock.client }), { timeout: KICK_TIMEOUT_MS });
        log({ event: "kicked", user: knock.user, ms: performance.now() - began });
        return;
      } catch (error) {
        this.#failed("a kick", error);
        // The server is down, or cut off and may come back: a service that ends does not wait for it.
        if (this.#kicksUntil < Infinity && error instanceof RequestError && error.isNoResponders()) return;
        pauseMs = Math.min(pauseMs * 2, LONGEST_PAUSE_MS);
        await new Promise((resolve) => setTimeout(resolve, pauseMs));
      }
    }
  }

  #login(knock: Knock, joined: readonly Member[], untilMs: number): string {
    const rooms = joined.map(({ roomId }) => `room.${subjectToken(roomId)}.>`);
    return this.#options.issuer.sign({
      sub: knock.loginAs,
      aud: this.#options.account,
      name: knock.user,
      exp: Math.floor(untilMs / 1000),
      nats: {
        type: "user",
        version: 2,
        // An empty list would allow everything.
        pub: rooms.length > 0 ? { allow: rooms } : { deny: [">"] },
        // No `resp`: whoever may respond may publish wherever a message asks for an answer, and could send it to
        // themselves.
        sub: { allow: [...rooms, `_INBOX_${knock.user}.>`] },
        subs: -1,
        data: -1,
        payload: -1,
        allowed_connection_types: ["STANDARD", "WEBSOCKET"],
      },
    });
  }

  #failed(what: string, error: unknown): void {
    this.#options.log({ event: "failed", what, error: said(error) });
  }
}

/** Of a connection. No two of a server have one number, and a server that starts anew is another one. */
const nameOf = ({ server, client }: Knock): string => `${server} ${client}`;

/** For the log, and for the server's. A client is told nothing. */
function said(error: unknown): string {
  if (isStoreError(error)) return error.code;
  return error instanceof Error ? error.message : String(error);
}

function keep(all: Set<Promise<void>>, one: Promise<void>): void {
  const kept = one.finally(() => all.delete(kept));
  all.add(kept);
}

/** Throws unless a server asks. */
function knockOf(token: string): Knock {
  const { server, claims } = serverClaims(token);
  const client = at(claims, "nats", "client_info", "id");
  if (text(claims, "aud") !== "nats-authorization-request" || text(claims, "nats", "server_id", "id") !== server)
    throw new Error("not a request of a server for itself");
  if (typeof client !== "number") throw new Error("a request without a client");
  return {
    server,
    client,
    loginAs: text(claims, "nats", "user_nkey"),
    user: text(claims, "nats", "connect_opts", "nkey"),
    nonce: text(claims, "nats", "client_info", "nonce"),
    signature: text(claims, "nats", "connect_opts", "sig"),
  };
}
