/**
 * Proof of quorum. A store's barrier in a bucket is a reserved key. The store publishes to it, and the stream
 * acknowledges with sequence `S`. That proves that the leader had a quorum after the publish was sent. So a read at or
 * after `S` is at least as new as the moment the barrier was asked for. No other answer of a server proves as much: see
 * P1 to P5 in docs/protocol.md.
 */
import type { Call } from "../call.js";
import { isSurelyVain, type JetStreamClient } from "./client.js";
import { isFinal, unavailable } from "./failures.js";
import { moment } from "../moment.js";
import type { Moment } from "../moment.js";
import type { BucketName, Seq, Stream } from "./seq.js";

interface Waiter<B extends BucketName> {
  readonly call: Call;
  /** Barriers of a higher number were sent after this waiter began. */
  readonly since: number;
  readonly resolve: (seq: Seq<B>) => void;
  readonly reject: (error: unknown) => void;
}

/** The log that barriers are sent to, as far as this store knows it. */
interface Log<B extends BucketName> {
  /** The newest sequence that the log is known to have. */
  readonly highestSeen: Seq<B>;
  /** The next barrier of this store. Its key is not used again until the outcome is known. */
  takeBarrier(): { readonly key: string; readonly value: string };
  /** There may be another log now. Until that is known, no check may rest on this one. */
  doubt(): void;
  /** There is another log now. */
  goneBack(): void;
  /** The log has just acknowledged something that was sent at `sent`. */
  heard(sent: Moment): void;
  /** A barrier of this store, sent at `sent`, stands at `seq`. */
  noteBarrier(seq: Seq<B>, key: string, sent: Moment): void;
  /** The barrier of this key was surely not stored. */
  notePutBack(key: string): void;
}

/** While one barrier is under way no other is sent, unless it takes this long: its server may be dead. */
const HEDGE_MS = 150;
/** A slow acknowledgement proves as much as a fast one. */
const BARRIER_TIMEOUT_MS = 2000;
const MAX_IN_FLIGHT = 8;
const MAX_PAUSE_MS = 100;

export class Barrier<B extends BucketName> {
  readonly #client: JetStreamClient;
  readonly #stream: Stream<B>;
  readonly #subjects: string;
  readonly #log: Log<B>;
  #waiters: Waiter<B>[] = [];
  #sent = 0;
  #covered = 0;
  #inFlight = 0;
  /**
   * Numbers of the barriers that the next one waits for. An overtaken one is not among them: its server may be dead.
   */
  readonly #awaited = new Set<number>();
  #failures = 0;
  #timer: NodeJS.Timeout | undefined;
  #isNext = false;

  constructor(client: JetStreamClient, stream: Stream<B>, subjects: string, log: Log<B>) {
    this.#client = client;
    this.#stream = stream;
    this.#subjects = subjects;
    this.#log = log;
  }

  /** The sequence of a barrier that was sent after this call. Concurrent calls share one. */
  prove(call: Call): Promise<Seq<B>> {
    return new Promise((resolve, reject) => {
      this.#waiters.push({ call, since: this.#sent, resolve, reject });
      if (this.#timer !== undefined) return;
      if (this.#awaited.size === 0) this.#soon();
      else this.#after(HEDGE_MS);
    });
  }

  /** Sends at the end of this turn of the event loop, so that all calls that begin in it share one barrier. */
  #soon(): void {
    if (this.#isNext) return;
    this.#isNext = true;
    process.nextTick(() => {
      this.#isNext = false;
      this.#send();
    });
  }

  #send(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const now = performance.now();
    this.#waiters = this.#waiters.filter(({ call, reject }) => {
      if (!call.isOver(now)) return true;
      try {
        call.throwIfEnded();
      } catch (error) {
        reject(error);
      }
      return false;
    });
    if (this.#waiters.length === 0) return;
    const number = ++this.#sent;
    this.#covered = number;
    this.#inFlight++;
    this.#awaited.add(number);
    void this.#flight(number);
    if (this.#inFlight < MAX_IN_FLIGHT) this.#after(this.#inFlight === 1 ? HEDGE_MS : 2 * HEDGE_MS);
  }

  async #flight(number: number): Promise<void> {
    // The barrier has the time of the longest call. So nothing is under way once all calls have ended.
    const sent = moment();
    let longest = 1;
    for (const { call } of this.#waiters) longest = Math.max(longest, call.expiresAt - sent.monotonic);
    const { highestSeen: seen } = this.#log;
    const barrier = this.#log.takeBarrier();
    const timeoutMs = Math.ceil(Math.min(longest, BARRIER_TIMEOUT_MS));
    const ack = await this.#client.publish(this.#stream, this.#subjects + barrier.key, barrier.value, timeoutMs);
    this.#inFlight--;
    this.#awaited.delete(number);
    // The barrier's own sequence must be above this. An acknowledgement of another log proves nothing about this one.
    if (ack.kind === "stored" && ack.seq > seen) {
      this.#failures = 0;
      for (const earlier of this.#awaited) if (earlier < number) this.#awaited.delete(earlier);
      const { seq } = ack;
      this.#log.heard(sent);
      this.#log.noteBarrier(seq, barrier.key, sent);
      // Waiters are in the order in which they began.
      const later = this.#waiters.findIndex((waiter) => waiter.since >= number);
      for (const waiter of this.#waiters.splice(0, later < 0 ? this.#waiters.length : later)) waiter.resolve(seq);
      if (this.#waiters.length === 0) {
        clearTimeout(this.#timer);
        this.#timer = undefined;
      } else if (this.#waiters.some((waiter) => waiter.since >= this.#covered)) {
        this.#soon();
      }
      return;
    }
    if (isSurelyVain(ack)) this.#log.notePutBack(barrier.key);
    if (ack.kind === "stored") this.#log.goneBack();
    else if (ack.kind !== "failed" || ack.failure !== "lost") this.#log.doubt();
    if (ack.kind === "failed" && isFinal(ack.failure)) {
      const { failure, error } = ack;
      for (const waiter of this.#waiters.splice(0)) waiter.reject(unavailable(failure, error));
      clearTimeout(this.#timer);
      this.#timer = undefined;
      return;
    }
    if (this.#waiters.length > 0) this.#after(Math.min(MAX_PAUSE_MS, 2 ** Math.min(this.#failures++, 7)));
  }

  #after(ms: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#send();
    }, ms);
  }
}
