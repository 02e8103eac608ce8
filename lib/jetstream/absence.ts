/**
 * Proof that a record is not there. A replica that does not have it proves nothing: one that catches up from a snapshot drops
 * what was superseded before it has what superseded it. The leader knows. A barrier on the condition that the record's
 * subject has no message is acknowledged only if that was so after it was sent, and only by a quorum: a fence.
 */
import type { Call } from "../call.js";
import { Retries } from "./connection.js";
import type { Failure, Link } from "./connection.js";
import { BARRIER, BARRIER_KEY } from "./quorum.js";

interface Log {
  readonly seen: number;
  noteBarrier(seq: number): void;
}

type Answer = "absent" | "not proved" | { readonly failure: Failure; readonly error: unknown };

/** Fences of one key. The server refuses the second of two that are under way: who comes meanwhile shares the next. */
interface Turn {
  readonly running: Promise<Answer>;
  next?: { readonly calls: Call[]; readonly answer: Promise<Answer> };
}

/** Each fence is a write. So many at once, that those who ask for what is not there do not hold up everybody else. */
const MAX_UNDER_WAY = 64;

export class AbsenceFences {
  readonly #link: Link;
  readonly #stream: string;
  readonly #subjects: string;
  readonly #log: Log;
  readonly #turns = new Map<string, Turn>();
  #underWay = 0;
  readonly #queue: (() => void)[] = [];

  constructor(link: Link, stream: string, subjects: string, log: Log) {
    this.#link = link;
    this.#stream = stream;
    this.#subjects = subjects;
    this.#log = log;
  }

  /** Whether the key was absent at a moment after this call. `false` proves nothing: it may be there, or be about to be. */
  async prove(key: string, call: Call): Promise<boolean> {
    for (const retries = new Retries(call); ; ) {
      await retries.turn();
      const answer = await this.#shared(key, call);
      if (answer === "absent") return true;
      if (answer === "not proved") return false;
      retries.failed(answer.failure, answer.error);
    }
  }

  /** The answer to a fence that is sent after this call. */
  #shared(key: string, call: Call): Promise<Answer> {
    const turn = this.#turns.get(key);
    if (turn === undefined) return this.#begin(key, [call]);
    if (turn.next === undefined) {
      const calls = [call];
      turn.next = { calls, answer: turn.running.then(() => this.#begin(key, calls)) };
    } else {
      turn.next.calls.push(call);
    }
    return turn.next.answer;
  }

  #begin(key: string, calls: readonly Call[]): Promise<Answer> {
    const turn: Turn = { running: this.#inTurn(() => this.#send(key, calls)) };
    this.#turns.set(key, turn);
    return turn.running.finally(() => {
      if (turn.next === undefined) this.#turns.delete(key);
    });
  }

  async #inTurn(send: () => Promise<Answer>): Promise<Answer> {
    if (this.#underWay >= MAX_UNDER_WAY) {
      await new Promise<void>((resolve) => {
        this.#queue.push(resolve);
      });
    }
    this.#underWay++;
    try {
      return await send();
    } finally {
      this.#underWay--;
      this.#queue.shift()?.();
    }
  }

  async #send(key: string, calls: readonly Call[]): Promise<Answer> {
    // Nobody waits longer than its call, and for nobody nothing is sent.
    const waiting = calls.filter(({ ended }) => ended === undefined);
    if (waiting.length === 0) return "not proved";
    const timeoutMs = Math.max(...waiting.map((call) => this.#link.attemptMs(call)));
    const { seen } = this.#log;
    const ack = await this.#link.publish(this.#stream, this.#subjects + BARRIER_KEY, BARRIER, timeoutMs, 0, this.#subjects + key);
    switch (ack.kind) {
      case "stored":
        // Another log's acknowledgement proves nothing of this one.
        if (ack.seq <= seen) return "not proved";
        this.#log.noteBarrier(ack.seq);
        return "absent";
      case "conflict":
      case "rejected":
        return "not proved";
      case "failed":
        return ack;
    }
  }
}
