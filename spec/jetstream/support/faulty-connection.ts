import type { Connection } from "../../support/nats-clients.js";
import { isBarrier } from "./messages.js";
import { TappedRequests, natsError, type Request } from "./tapped-requests.js";

type Message = Awaited<ReturnType<Request>>;

/**
 * What happens at the `at`-th write from now on, counted as they are sent.
 *
 * - `before`: the connection dies when every write before it is acknowledged. It is not sent, nor is any after it.
 * - `after`: it dies when this one is acknowledged too; the acknowledgement is not delivered.
 * - `without`: all writes that are under way at the same time are stored, this one is not; then it dies.
 * - `lose`: this one is stored, its acknowledgement is lost; the connection lives. What is heard in its place proves
 *   nothing, and is there sooner than the end of a store's patience.
 * - `hold`: this one is sent when `release` is called, and so is the same one said again: a store does not wait for
 *   ever.
 * - `unheard`: nobody takes this one, nor any after it, until `release` is called.
 */
export interface Fault {
  readonly at: number;
  readonly how: "before" | "after" | "without" | "lose" | "hold" | "unheard";
}

/** A write changes what is stored. A barrier does not count: nothing that anybody reads depends on its value. */
export function isWrite(subject: string): boolean {
  return (subject.startsWith("$KV.") && !isBarrier(subject)) || subject.includes("STREAM.PURGE");
}

/** No stream acknowledges so. */
const PROVES_NOTHING: Message = { data: new TextEncoder().encode("{}") };

const closed = (): Error => natsError("CONNECTION_CLOSED");

interface Signal {
  readonly happened: Promise<void>;
  is(): boolean;
  now(): void;
}

function signal(): Signal {
  let is = false;
  let resolve = (): void => undefined;
  const happened = new Promise<void>((done) => (resolve = done));
  const now = (): void => {
    is = true;
    resolve();
  };
  return { happened, is: () => is, now };
}

/** A real connection that dies, forgets or hesitates at a chosen write. */
export class FaultyConnection {
  readonly #inner: Connection;
  readonly #requests: TappedRequests;
  #fault: Fault | undefined;
  #count = 0;
  #underWay = 0;
  #dead = false;
  #reached = signal();
  #released = signal();
  readonly #death = signal();
  #quiet: (() => void)[] = [];
  readonly subjects: string[] = [];

  constructor(inner: Connection) {
    this.#inner = inner;
    this.#requests = new TappedRequests(inner, (...asked) => this.#ask(...asked));
  }

  /** From now on writes are counted, and the fault waits for its own. */
  arm(fault: Fault | undefined): void {
    this.#fault = fault;
    this.#count = 0;
    this.#reached = signal();
    this.#released = signal();
    this.subjects.length = 0;
  }

  /** Resolves when the fault's write was asked for. */
  get reached(): Promise<void> {
    return this.#reached.happened;
  }

  get dead(): Promise<void> {
    return this.#death.happened;
  }

  release(): void {
    this.#released.now();
  }

  /** Resolves when no write is under way, nor follows at once upon the last one. */
  async quiet(): Promise<void> {
    for (let turns = 0; turns < 3; turns++) {
      if (this.#underWay > 0) {
        await new Promise<void>((resolve) => this.#quiet.push(resolve));
        turns = 0;
      }
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  get info(): NonNullable<Connection["info"]> {
    const { info } = this.#inner;
    if (info === undefined) throw new Error("not connected");
    return info;
  }

  isClosed(): boolean {
    return this.#dead || this.#inner.isClosed();
  }

  isDraining(): boolean {
    return this.#inner.isDraining();
  }

  requestMany(...args: Parameters<Connection["requestMany"]>): ReturnType<Connection["requestMany"]> {
    return this.#dead ? Promise.reject(closed()) : this.#inner.requestMany(...args);
  }

  request(...asked: Parameters<Request>): ReturnType<Request> {
    return this.#requests.request(...asked);
  }

  publish(...sent: Parameters<TappedRequests["publish"]>): void {
    if (this.#dead) throw closed();
    this.#requests.publish(...sent);
  }

  subscribe(...asked: Parameters<TappedRequests["subscribe"]>): ReturnType<TappedRequests["subscribe"]> {
    if (this.#dead) throw closed();
    return this.#requests.subscribe(...asked);
  }

  async #ask(
    ask: Request,
    subject: string,
    payload?: Uint8Array | string,
    options?: Parameters<Request>[2],
  ): Promise<Message> {
    if (this.#dead) throw closed();
    const send = (): Promise<Message> => ask(subject, payload, options);
    if (!isWrite(subject)) return this.#delivered(send());
    this.subjects.push(subject);
    const n = ++this.#count;
    const fault = this.#fault;
    if (fault === undefined) return this.#written(send);
    const { at, how } = fault;
    if (n === at) this.#reached.now();
    if (how === "hold" && n > at && subject === this.subjects[at - 1]) await this.#released.happened;
    if (n >= at && how === "unheard" && !this.#released.is()) throw natsError("503");
    if (n === at) {
      switch (how) {
        case "before":
        case "without":
          await this.quiet();
          await this.close();
          throw closed();
        case "after": {
          await this.#written(send).catch(() => undefined);
          await this.quiet();
          await this.close();
          throw closed();
        }
        case "lose":
          await this.#written(send);
          if (subject.startsWith("$KV.")) return PROVES_NOTHING;
          throw natsError("TIMEOUT");
        case "hold":
          await this.#released.happened;
          break;
        case "unheard":
          break;
      }
    } else if (n > at && (how === "before" || how === "after")) {
      // What comes after the fault's write never leaves.
      await this.#death.happened;
      throw closed();
    }
    return this.#written(send);
  }

  async close(): Promise<void> {
    this.#dead = true;
    await this.#inner.close();
    this.#death.now();
  }

  /** Nothing is heard any more once the connection is dead. */
  async #delivered(answer: Promise<Message>): Promise<Message> {
    const message = await answer;
    if (this.#dead) throw closed();
    return message;
  }

  async #written(send: () => Promise<Message>): Promise<Message> {
    this.#underWay++;
    try {
      return await this.#delivered(send());
    } finally {
      if (--this.#underWay === 0) for (const resolve of this.#quiet.splice(0)) resolve();
    }
  }
}
