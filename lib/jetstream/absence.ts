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
  next?: Promise<Answer>;
}

export class AbsenceFences {
  readonly #link: Link;
  readonly #stream: string;
  readonly #subjects: string;
  readonly #log: Log;
  readonly #turns = new Map<string, Turn>();

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
      const answer = await this.#shared(key, this.#link.attemptMs(call));
      if (answer === "absent") return true;
      if (answer === "not proved") return false;
      retries.failed(answer.failure, answer.error);
    }
  }

  /** The answer to a fence that is sent after this call. */
  #shared(key: string, timeoutMs: number): Promise<Answer> {
    const turn = this.#turns.get(key);
    if (turn === undefined) return this.#begin(key, timeoutMs);
    turn.next ??= turn.running.then(() => this.#begin(key, timeoutMs));
    return turn.next;
  }

  #begin(key: string, timeoutMs: number): Promise<Answer> {
    const turn: Turn = { running: this.#send(key, timeoutMs) };
    this.#turns.set(key, turn);
    return turn.running.finally(() => {
      if (turn.next === undefined) this.#turns.delete(key);
    });
  }

  async #send(key: string, timeoutMs: number): Promise<Answer> {
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
