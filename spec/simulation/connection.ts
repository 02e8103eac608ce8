/**
 * A client's connection to the simulated servers: messages that take their time, are lost, late or cut in the middle.
 */
import type { NatsConnection } from "unibus-membership";
import { versionOf } from "./mix.js";
import { isBarrier, type Place } from "./log.js";
import { clientError, type SimulatedHeaders, type SimulatedMessage } from "./messages.js";
import type { SimulatedProcess } from "./process.js";
import type { Answer, SimulatedServers, World } from "./server.js";

type Options = NonNullable<Parameters<NatsConnection["request"]>[2]>;
type ManyOptions = NonNullable<Parameters<NatsConnection["requestMany"]>[2]>;

const DIRECT_GET = "$JS.API.DIRECT.GET.";

export class SimulatedConnection implements NatsConnection {
  readonly #process: SimulatedProcess;
  readonly #servers: SimulatedServers;
  readonly #world: World;
  /** The server that it is of: mostly that one's replicas answer. */
  readonly #home: number;
  /** How often what may happen to it, and to its process, does: whoever sends much would come to nothing. */
  readonly #share: number;
  #closed = false;
  /** What is sent before then waits for the connection; what was under way to the client is lost. */
  #connectedAt = 0;
  #connection = 0;
  /** The last write whose acknowledgement was lost. */
  #lost: string | undefined;

  constructor(process: SimulatedProcess, servers: SimulatedServers, home: number, world: World, share = 1) {
    this.#process = process;
    this.#servers = servers;
    this.#home = home;
    this.#share = share;
    this.#world = world;
  }

  get info(): { version: string; jetstream: boolean } {
    return { version: versionOf(this.#world.mix, this.#home), jetstream: true };
  }

  isClosed(): boolean {
    return this.#closed;
  }

  isDraining(): boolean {
    return false;
  }

  close(): void {
    this.#closed = true;
  }

  request(subject: string, payload?: Uint8Array | string, options?: Options): Promise<SimulatedMessage> {
    return new Promise((resolve, reject) => {
      let settled = false;
      const settle = (run: () => void): void => {
        if (settled) return;
        settled = true;
        timer.cancel();
        run();
      };
      const timer = this.#process.after(options?.timeout ?? 5000, () => {
        settle(() => {
          reject(clientError("TIMEOUT"));
        });
      });
      this.#send(subject, payload, options?.headers as SimulatedHeaders | undefined, (messages) => {
        const [message] = messages;
        if (message === undefined) return;
        settle(() => {
          if (message.headers?.code === 503) reject(clientError("503"));
          else resolve(message);
        });
      });
    });
  }

  requestMany(
    subject: string,
    payload?: Uint8Array | string,
    options?: ManyOptions,
  ): Promise<AsyncIterable<SimulatedMessage>> {
    const answers = new Answers();
    const timer = this.#process.after(options?.maxWait ?? 5000, () => {
      answers.end();
    });
    const over = (): void => {
      timer.cancel();
    };
    answers.whenOver = over;
    this.#send(subject, payload, undefined, (messages) => {
      for (const message of messages) answers.push(message);
    });
    return Promise.resolve(answers);
  }

  #delay(): number {
    const { chance, mix } = this.#world;
    return chance.happens(mix.slow) ? chance.between(0, mix.slowMs) : chance.between(0, mix.delayMs);
  }

  #send(
    subject: string,
    payload: Uint8Array | string | undefined,
    headers: SimulatedHeaders | undefined,
    deliver: Answer,
  ): void {
    const { engine, chance, mix, trace } = this.#world;
    const isPublish = subject.startsWith("$KV.");
    // Found out once, not for each thing that may happen to it.
    const ofBarrier = isPublish && isBarrier(subject);
    const isWrite = isPublish ? !ofBarrier : subject.includes(".PURGE.");
    trace?.say(
      `${this.#process.name} sends ${subject}${headers === undefined ? "" : ` ${[...headers.entries()].map(([name, value]) => `${name}: ${value}`).join(", ")}`}`,
    );
    if (chance.happens(mix.disconnects * this.#share)) {
      this.#connectedAt = Math.max(this.#connectedAt, engine.now + chance.between(0, mix.disconnectMs));
      this.#connection++;
      trace?.say(`${this.#process.name} has no connection until ${this.#connectedAt.toFixed(1)}`);
    }
    this.#mayStop(isWrite);
    // Of one that has just died the message may not have left.
    if (chance.happens(mix.lostRequests * this.#share) || (this.#process.state === "dead" && chance.happens(0.5))) {
      trace?.say(`${this.#process.name}: ${subject} is lost`);
      return;
    }
    let delay = Math.max(0, this.#connectedAt - engine.now) + this.#delay();
    if (chance.happens(isWrite ? mix.heldWrites : mix.heldReads)) delay += chance.between(0, mix.heldMs);
    const sent = subject.startsWith(DIRECT_GET) ? this.#beforeRead(subject.slice(DIRECT_GET.length)) : undefined;
    if (sent !== undefined) delay += chance.between(2, 20) * mix.delayMs;
    engine.after(delay, () => {
      this.#servers.receive(subject, payload ?? "", headers, { home: this.#home, sent }, (messages) => {
        this.#answer(subject, isPublish, ofBarrier, messages, deliver);
      });
    });
  }

  /** Others may come before a read. Answers where the stream was when it was sent. */
  #beforeRead(asked: string): Place | undefined {
    const { chance, mix } = this.#world;
    const end = asked.indexOf(".");
    const name = end < 0 ? asked : asked.slice(0, end);
    const lost = this.#lost?.startsWith(`$KV.${name.slice("KV_".length)}.`) === true ? this.#lost : undefined;
    // Whoever missed an acknowledgement looks whether it was stored.
    const isWanted = lost !== undefined && mix.superseded > 0 && chance.happens(0.9);
    if (!isWanted && !chance.happens(mix.superseded)) return undefined;
    if (isWanted) this.#lost = undefined;
    this.#world.aboutToRead(name, this.#process.name, isWanted ? lost : undefined);
    return this.#servers.stream(name)?.log.end;
  }

  #answer(
    subject: string,
    isPublish: boolean,
    ofBarrier: boolean,
    messages: readonly SimulatedMessage[],
    deliver: Answer,
  ): void {
    const { engine, chance, mix, trace } = this.#world;
    if (chance.happens(mix.lostAnswers * this.#share)) {
      if (isPublish && !ofBarrier) this.#lost = subject;
      trace?.say(`${this.#process.name}: the answer to ${subject} is lost`);
      return;
    }
    let heard = messages;
    if (messages.length > 1 && chance.happens(mix.cutAnswers)) {
      // The client's connection was another one for a part of it.
      const from = chance.below(messages.length);
      const to = chance.happens(0.5) ? messages.length : from;
      heard = chance.happens(0.5) ? messages.slice(from) : [...messages.slice(0, from), ...messages.slice(to)];
      trace?.say(`${this.#process.name} hears ${heard.length} of ${messages.length} messages that answer ${subject}`);
    }
    if (chance.happens(mix.doubledAnswers)) {
      const at = chance.below(heard.length);
      heard = chance.happens(0.5) ? [...heard, ...heard] : [...heard.slice(0, at + 1), ...heard.slice(at)];
      trace?.say(`${this.#process.name} hears a part of what answers ${subject} twice`);
    }
    const connection = this.#connection;
    let late = chance.happens(mix.lateAnswers) ? chance.between(0, mix.heldMs) : 0;
    if (ofBarrier && chance.happens(mix.superseded / 4)) {
      // An acknowledgement on its way tells of a moment that is over for whoever asks only now.
      const [, bucket = ""] = subject.split(".", 2);
      this.#world.aboutToRead(`KV_${bucket}`, this.#process.name);
      late += chance.between(5, 40) * mix.delayMs;
    }
    const arrive = (): void => {
      this.#process.after(this.#delay() + late, () => {
        if (engine.now >= this.#connectedAt && connection === this.#connection) deliver(heard);
      });
    };
    if (ofBarrier && chance.happens(mix.overtakes)) {
      const [, bucket = ""] = subject.split(".", 2);
      if (this.#world.overtake(`KV_${bucket}`, this.#process.name, arrive)) return;
    }
    arrive();
  }

  /** The process stops here, or dies: what it sends just now may still leave. */
  #mayStop(isWrite: boolean): void {
    const { engine, chance, mix, trace } = this.#world;
    if (isWrite && chance.happens(mix.deaths * this.#share)) {
      trace?.say(`${this.#process.name} dies`);
      this.#process.die();
      return;
    }
    if (!chance.happens((isWrite ? mix.stopsAtWrite : mix.stops) * this.#share)) return;
    const ms = chance.between(0, mix.stopMs);
    trace?.say(`${this.#process.name} stops for ${ms.toFixed(1)} ms`);
    this.#process.stop();
    engine.after(ms, () => {
      this.#process.wake();
    });
  }
}

/** What a request for many answers gives: the messages as they come, until nobody wants more. */
class Answers implements AsyncIterableIterator<SimulatedMessage> {
  readonly #messages: SimulatedMessage[] = [];
  #waiting: ((result: IteratorResult<SimulatedMessage>) => void) | undefined;
  #over = false;
  whenOver: (() => void) | undefined;

  push(message: SimulatedMessage): void {
    if (this.#over) return;
    if (this.#waiting === undefined) {
      this.#messages.push(message);
      return;
    }
    this.#waiting({ done: false, value: message });
    this.#waiting = undefined;
  }

  end(): void {
    if (this.#over) return;
    this.#over = true;
    this.whenOver?.();
    this.#waiting?.({ done: true, value: undefined });
    this.#waiting = undefined;
  }

  next(): Promise<IteratorResult<SimulatedMessage>> {
    const message = this.#messages.shift();
    if (message !== undefined) return Promise.resolve({ done: false, value: message });
    if (this.#over) return Promise.resolve({ done: true, value: undefined });
    return new Promise((resolve) => {
      this.#waiting = resolve;
    });
  }

  return(): Promise<IteratorResult<SimulatedMessage>> {
    this.end();
    return Promise.resolve({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}
