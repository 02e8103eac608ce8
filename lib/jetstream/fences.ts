/**
 * Proof of what a record is now. One replica's answer proves nothing. It may be behind. Or it catches up from a
 * snapshot, and has dropped what was superseded before it received what superseded it. The leader knows better. A fence
 * is a barrier on the condition that the record's subject is still at a given sequence (0: has no message). It is
 * acknowledged only if that was so after it was sent, and only by a quorum. The argument: docs/protocol.md, P2 and P3.
 */
import type { Call } from "../call.js";
import { isSurelyVain, type JetStreamClient } from "./client.js";
import type { Failure } from "./failures.js";
import { RetryLoop } from "./retry-loop.js";
import { moment } from "../moment.js";
import type { Moment } from "../moment.js";
import type { BucketName, Seq, Stream } from "./seq.js";

interface Log<B extends BucketName> {
  readonly highestSeen: Seq<B>;
  /** The next barrier of this store. Its key is not used again until the outcome is known. */
  takeBarrier(): { readonly key: string; readonly value: string };
  /** A barrier of this store, sent at `sent`, stands at `seq`. */
  noteBarrier(seq: Seq<B>, key: string, sent: Moment): void;
  /** The barrier of this key was surely not stored. */
  notePutBack(key: string): void;
  /** There is another log now. */
  goneBack(): void;
  /** The log has just acknowledged something that was sent at `sent`. */
  heard(sent: Moment): void;
}

/** The sequence of the fence. `undefined`: it was refused. Otherwise why no answer came. */
type Answer<B extends BucketName> =
  { readonly at: Seq<B> | undefined } | { readonly failure: Failure; readonly error: unknown };

const REFUSED = { at: undefined } as const;

/**
 * Fences of one key. The server refuses a second one while one is under way, so callers that arrive meanwhile share the
 * next.
 */
interface Turn<B extends BucketName> {
  readonly running: Promise<Answer<B>>;
  next?: { readonly expected: Seq<B>; readonly calls: Call[]; readonly answer: Promise<Answer<B>> };
}

/**
 * Each fence is a write. These limits bound how many are under way, so that questions about absent records do not hold
 * up the others.
 */
const MAX_OF_ABSENT = 64;
const MAX_OF_PRESENT = 256;

/** Runs at most a given number at a time. */
class Slots {
  readonly #most: number;
  #taken = 0;
  readonly #queue: (() => void)[] = [];

  constructor(most: number) {
    this.#most = most;
  }

  async run<T>(work: () => Promise<T>): Promise<T> {
    // An ending fence hands its slot to the next in line, so that no newcomer takes it in between.
    if (this.#taken < this.#most) this.#taken++;
    else await new Promise<void>((resolve) => this.#queue.push(resolve));
    try {
      return await work();
    } finally {
      const next = this.#queue.shift();
      if (next === undefined) this.#taken--;
      else next();
    }
  }
}

export class Fences<B extends BucketName> {
  readonly #client: JetStreamClient;
  readonly #stream: Stream<B>;
  readonly #subjects: string;
  readonly #log: Log<B>;
  readonly #turns = new Map<string, Turn<B>>();
  readonly #ofAbsent = new Slots(MAX_OF_ABSENT);
  readonly #ofPresent = new Slots(MAX_OF_PRESENT);

  constructor(client: JetStreamClient, stream: Stream<B>, subjects: string, log: Log<B>) {
    this.#client = client;
    this.#stream = stream;
    this.#subjects = subjects;
    this.#log = log;
  }

  /**
   * Whether the key was at `expected` (0: absent) at a moment after this call. Answers the sequence of the fence, which
   * is that moment. `undefined` proves nothing: the key may be there all the same, or be about to change.
   */
  async prove(key: string, expected: Seq<B>, call: Call): Promise<Seq<B> | undefined> {
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      const answer = await this.#shared(key, expected, call);
      if ("at" in answer) return answer.at;
      retries.failed(answer.failure, answer.error);
    }
  }

  /** The answer to a fence that is sent after this call. */
  async #shared(key: string, expected: Seq<B>, call: Call): Promise<Answer<B>> {
    for (;;) {
      const turn = this.#turns.get(key);
      if (turn === undefined) return this.#begin(key, expected, [call]);
      const { next } = turn;
      if (next === undefined) {
        const calls = [call];
        const answer = turn.running.then(() => this.#begin(key, expected, calls));
        turn.next = { expected, calls, answer };
        return answer;
      }
      if (next.expected === expected) {
        next.calls.push(call);
        return next.answer;
      }
      // The next fence expects another sequence, so this one has to come after it.
      await next.answer;
      call.throwIfEnded();
    }
  }

  #begin(key: string, expected: Seq<B>, calls: readonly Call[]): Promise<Answer<B>> {
    const slots = expected === 0 ? this.#ofAbsent : this.#ofPresent;
    const turn: Turn<B> = { running: slots.run(() => this.#send(key, expected, calls)) };
    this.#turns.set(key, turn);
    return turn.running.finally(() => {
      if (turn.next === undefined) this.#turns.delete(key);
    });
  }

  async #send(key: string, expected: Seq<B>, calls: readonly Call[]): Promise<Answer<B>> {
    // The fence has the time of the longest call. If every call has ended, none is sent.
    const waiting = calls.filter(({ ended }) => ended === undefined);
    if (waiting.length === 0) return REFUSED;
    const timeoutMs = Math.max(...waiting.map((call) => this.#client.attemptMs(call)));
    const { highestSeen: seen } = this.#log;
    const barrier = this.#log.takeBarrier();
    const sent = moment();
    const ack = await this.#client.publish(
      this.#stream,
      this.#subjects + barrier.key,
      barrier.value,
      timeoutMs,
      expected,
      this.#subjects + key,
    );
    if (isSurelyVain(ack)) this.#log.notePutBack(barrier.key);
    switch (ack.kind) {
      case "stored":
        // An acknowledgement of another log proves nothing about this one.
        if (ack.seq <= seen) {
          this.#log.goneBack();
          return REFUSED;
        }
        this.#log.heard(sent);
        this.#log.noteBarrier(ack.seq, barrier.key, sent);
        return { at: ack.seq };
      case "conflict":
      case "rejected":
        return REFUSED;
      case "failed":
        return ack;
    }
  }
}
