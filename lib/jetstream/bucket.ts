/**
 * One bucket: writes that expect a revision, and reads.
 *
 * Any replica may answer a read of one record. What it answers was so once, and is never taken behind what this store has seen of
 * the record; what has to be sure is fenced. Lists are read by `multi_last`, which says how far its replica is: at or
 * after a barrier, and all that this store has seen of the bucket.
 */
import type { Call } from "../call.js";
import { StoreError } from "../errors.js";
import { BatchedReads } from "./batched-reads.js";
import type { Ack, JetStreamClient } from "./client.js";
import { moment } from "./continuity.js";
import { decode, intact, type Entry } from "./entry.js";
import { asRead, type Freshness, type Read, type ReadAs } from "./freshness.js";
import type { Json } from "./json.js";
import type { Filter, Key } from "./keys.js";
import { Log } from "./log.js";
import { RetryLoop } from "./retry-loop.js";
import { Scans } from "./scans.js";
import { Seen } from "./seen.js";
import type { BucketName, Seq } from "./seq.js";

/** How often a write is sent again at once while another one of its subject is under way. */
const MAX_AT_ONCE = 100;

/** A record that is proved to stand so, or not to be there, at a moment after it was asked for: that of a fence, `asOf`. */
export interface Certain<B extends BucketName> extends ReadAs<"certain"> {
  readonly entry: Entry<B> | undefined;
  readonly asOf: Seq<B>;
}

export interface Limits {
  /** Of one request, by how large the bucket's records can be. */
  readonly maxFilters: number;
  /** Memory for what was seen of each record. */
  readonly seenBytes: number;
}

export class Bucket<B extends BucketName> extends Log<B> {
  readonly reads: BatchedReads<B>;
  readonly scans: Scans<B>;
  readonly #noted: Seen;
  /** Told of each record that this store wrote, when it is acknowledged. */
  protected onStored: ((key: Key<B>, payload: string, seq: Seq<B>) => void) | undefined;

  constructor(link: JetStreamClient, prefix: string, bucket: B, { maxFilters, seenBytes }: Limits) {
    super(link, prefix, bucket);
    this.#noted = new Seen(seenBytes);
    this.reads = new BatchedReads(this, this.#noted, maxFilters);
    this.scans = new Scans(this);
  }

  /**
   * The record as some replica has it, and never older than this store has seen it. What another store wrote a moment ago can
   * be missing, and so can the record: that it is not there proves nothing.
   */
  async get(key: Key<B>, call: Call): Promise<Entry<B> | undefined> {
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      const entry = await this.#last(key, retries, call);
      switch (this.allowed(key, entry?.seq ?? 0)) {
        case "yes":
          return entry === undefined ? undefined : this.noted(entry);
        case "no":
          // Nothing is concluded from a record that is not there: whoever needs to know proves it.
          if (entry === undefined) return undefined;
          break;
        case "unknown":
          return entry === undefined ? undefined : (await this.readLinearizable(key, call)).entry;
      }
    }
  }

  /** The newest of the records that a wildcard matches, as some replica has it. It proves nothing, and can be one of before. */
  async newest(filter: Filter<B>, call: Call): Promise<Entry<B> | undefined> {
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      this.use();
      const answer = await this.link.last(this.stream, this.subjects + filter, this.link.attemptMs(call));
      if (answer.kind === "failed") retries.failed(answer.failure, answer.error);
      else return answer.kind === "none" ? undefined : intact(decode(answer.message, this.subjects.length));
    }
  }

  /** The record as it is asked for. */
  async read<F extends Freshness>(
    key: Key<B>,
    freshness: F,
    call: Call,
  ): Promise<Read<{ readonly entry: Entry<B> | undefined }, F>> {
    const entry = freshness === "any" ? await this.get(key, call) : (await this.readLinearizable(key, call)).entry;
    return asRead(freshness, { entry });
  }

  /** The record as the leader says that it stands at a moment after this call, or that it does not. */
  async readLinearizable(key: Key<B>, call: Call): Promise<Certain<B>> {
    const found = await this.settled(key, call);
    if (found.entry !== undefined) this.noted(found.entry);
    return found;
  }

  /**
   * What a record of another bucket says that it rests on stands before every fence that is asked for after it was read. A log that
   * has less was restored without the others, or they without it.
   */
  demand(needed: Seq<B>, asOf: Seq<B>): void {
    if (asOf >= needed) return;
    throw new StoreError("CORRUPT", `The bucket ${this.name} is older than others say: it was restored without them`, {
      details: { bucket: this.name, needed, sequence: asOf },
    });
  }

  /** The same of a record that is kept elsewhere, where it is seen how it stood. */
  protected async settled(key: Key<B>, call: Call): Promise<Certain<B>> {
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      const entry = await this.#last(key, retries, call);
      const asOf = await this.fence(key, entry?.seq ?? 0, call);
      if (asOf !== undefined)
        return asRead("certain", { entry: entry === undefined ? undefined : intact(entry), asOf });
    }
  }

  /** Whether a read that found the record there (0: not at all) does not go back behind what was seen of it. */
  protected allowed(key: Key<B>, seq: Seq<B>): "yes" | "no" | "unknown" {
    return this.#noted.allow(key, seq);
  }

  /** Records up to this sequence may have been seen, and nobody knows it any more. */
  protected forgot(seq: Seq<B>): void {
    this.#noted.forgot(seq);
  }

  /** Whether a record is not there at a moment after this call. `false` proves nothing. */
  async isAbsent(key: Key<B>, call: Call): Promise<boolean> {
    return (await this.fence(key, 0, call)) !== undefined;
  }

  /** The sequence of a moment after this call at which the record stood at `seq`, as it was read. `undefined` proves nothing. */
  async stands(key: Key<B>, seq: Seq<B>, call: Call): Promise<Seq<B> | undefined> {
    this.use();
    return this.fence(key, seq, call);
  }

  /** What was read is not gone back behind. */
  note({ key, seq }: Entry<B>): void {
    this.#noted.note(key, seq);
  }

  noted(entry: Entry<B>): Entry<B> {
    this.note(entry);
    return intact(entry);
  }

  async #last(key: Key<B>, retries: RetryLoop, call: Call): Promise<Entry<B> | undefined> {
    for (;;) {
      this.use();
      const answer = await this.link.last(this.stream, this.subjects + key, this.link.attemptMs(call));
      switch (answer.kind) {
        case "found":
          return decode(answer.message, this.subjects.length);
        case "none":
          return undefined;
        case "failed":
          retries.failed(answer.failure, answer.error);
          await retries.pause();
      }
    }
  }

  /**
   * Writes a record whose key nobody writes with another value: it holds an id of this attempt. A copy of the message that comes
   * late is refused: it would supersede the first one, and a replica between the two would have neither.
   */
  async stage(key: Key<B>, value: Json, call: Call): Promise<Seq<B>> {
    const seq = await this.write(key, value, 0, call, () => "yes", "step");
    if (seq === undefined) throw new StoreError("UNAVAILABLE", "A record that was staged is gone");
    return seq;
  }

  /**
   * Writes a record anew whose value nobody reads, and answers where it stands. A second copy does no harm, so the message is
   * sent until it is acknowledged.
   */
  async touch(key: Key<B>, call: Call): Promise<Seq<B>> {
    this.use();
    const payload = JSON.stringify({ k: key });
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      const ack = await this.link.publish(this.stream, this.subjects + key, payload, this.link.attemptMs(call));
      if (ack.kind === "stored") {
        this.observe(ack.seq);
        return ack.seq;
      }
      if (ack.kind === "failed") retries.failed(ack.failure, ack.error);
      if (ack.kind === "rejected") refused(ack, retries);
    }
  }

  /**
   * Writes a record on the condition that its key is still at sequence `expected` (0: absent). Answers the new sequence,
   * or `undefined` if the condition does not hold.
   *
   * What is not acknowledged leaves open which: the write is then repeated, on the same condition, until a fresh read finds
   * that the key has moved on; `mine` tells by the record that stands there whether it was this attempt that moved it.
   *
   * `kind` says whether the write commits the operation: only then may a caller have to hear that it was perhaps done.
   */
  async write(
    key: Key<B>,
    value: Json,
    expected: Seq<B>,
    call: Call,
    mine: (entry: Entry<B>) => "yes" | "no" | "unknown",
    kind: "commit" | "step" = "commit",
  ): Promise<Seq<B> | undefined> {
    this.use();
    const payload = JSON.stringify({ k: key, ...value });
    let lost = false;
    const before = call.outcome;
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      // Between that and here a signal may have aborted the call, whose caller was then told that nothing was sent.
      call.throwIfEnded();
      if (before !== undefined && kind === "commit") call.outcome = "unknown";
      let sent = moment();
      const publish = (): Promise<Ack<B>> => {
        sent = moment();
        return this.link.publish(this.stream, this.subjects + key, payload, this.link.attemptMs(call), expected);
      };
      let ack = await publish();
      // Something else of the subject is under way, a fence perhaps: it is over in a moment, and another one may follow.
      for (let i = 0; i < MAX_AT_ONCE && ack.kind === "conflict" && ack.inFlight; i++) {
        lost = true;
        await new Promise((resolve) => setTimeout(resolve, 1));
        call.throwIfEnded();
        ack = await publish();
      }
      switch (ack.kind) {
        case "stored":
          this.observe(ack.seq);
          this.#noted.note(key, ack.seq);
          this.heard(sent);
          this.onStored?.(key, payload, ack.seq);
          return ack.seq;
        case "conflict": {
          // A refusal is no evidence: a leader without a quorum says it too, or one that waits for a write that then dies,
          // while the real leader stores the message. Only what stands in the log as of now tells.
          const { entry } = await this.readLinearizable(key, call);
          if ((entry?.seq ?? 0) === expected) {
            lost = true;
            break;
          }
          if (entry === undefined) {
            // It was purged.
            call.outcome = before;
            return undefined;
          }
          const verdict = mine(entry);
          if (verdict === "yes") return entry.seq;
          if (verdict === "unknown") {
            throw new StoreError("TIMEOUT", "An acknowledgement was lost, and many other writes followed", {
              outcome: "unknown",
            });
          }
          call.outcome = before;
          return undefined;
        }
        case "rejected":
          // One leader's word, as above: perhaps there is another.
          lost = true;
          refused(ack, retries);
          break;
        case "failed":
          if (ack.failure === "no-responders" || ack.failure === "refused") {
            // Nobody took the message: it was not stored, unless an earlier copy was.
            if (!lost) call.outcome = before;
          } else {
            lost = true;
          }
          retries.failed(ack.failure, ack.error);
      }
    }
  }

  /** Removes what matches the filter, for good. Repeating it does no harm. */
  async purge(filter: Filter<B>, call: Call): Promise<void> {
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      try {
        const reply = await this.link.api(
          `STREAM.PURGE.${this.stream}`,
          { filter: this.subjects + filter },
          this.link.attemptMs(call),
        );
        if (reply["success"] === true) return;
        retries.failed("lost", reply["error"]);
      } catch (error) {
        retries.failed(this.link.closed ? "closed" : "lost", error);
      }
    }
  }
}

/** Whichever of the five. */
export type AnyBucket = { readonly [B in BucketName]: Bucket<B> }[BucketName];

/** An error of JetStream itself. 503 passes, as while a leader is elected; others stay, as a full disk does. */
export function refused(ack: { code: number; description: string }, retries: RetryLoop): void {
  const error = new StoreError("UNAVAILABLE", `JetStream refuses the write: ${ack.description}`);
  if (ack.code !== 503) throw error;
  retries.failed("no-responders", error);
}
