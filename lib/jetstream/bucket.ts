/**
 * One bucket: reads, and conditional writes.
 *
 * Any replica may answer a read of one record. What it answers was true once, and is never older than what this store
 * has seen of the record. Whoever needs to be certain uses a fence. A list is read by `multi_last`, which says how far
 * its replica is: at or after a barrier, and after all that this store has seen of the bucket.
 */
import type { Call } from "../call.js";
import { StoreError } from "../errors.js";
import { BatchedReads } from "./batched-reads.js";
import type { Ack, JetStreamClient } from "./client.js";
import { moment } from "../moment.js";
import { decode, intact, type Entry } from "./entry.js";
import { asRead, type Freshness, type Read, type ReadAs } from "./freshness.js";
import type { Json } from "./json.js";
import { keys, type Filter, type Key } from "./keys.js";
import { Log } from "./log.js";
import { RetryLoop } from "./retry-loop.js";
import { Scans } from "./scans.js";
import { Seen } from "./seen.js";
import type { BucketName, Seq } from "./seq.js";

/** Reads of several records that are under way at once. */
const MAX_ASKING = 8;
/** How often a write is sent again at once while another one of its subject is under way. */
const MAX_AT_ONCE = 100;

/** A record, or its absence, as a fence proved it at `asOf`: a moment after it was asked for. */
export interface Certain<B extends BucketName> extends ReadAs<"certain"> {
  readonly entry: Entry<B> | undefined;
  readonly asOf: Seq<B>;
}

/**
 * Whether the record that stands there is of this write, or one that followed upon it. `isLost`: nobody answered a copy
 * of it, or it was refused for something that was under way.
 */
export type IsMine<B extends BucketName> = (entry: Entry<B>, isLost: boolean) => "yes" | "no" | "unknown";

export interface Limits {
  /** How many records one request may ask for: the fewer, the larger the bucket's records can be. */
  readonly maxFilters: number;
  /** Memory for what was seen of each record. */
  readonly seenBytes: number;
}

export class Bucket<B extends BucketName> extends Log<B> {
  readonly reads: BatchedReads<B>;
  readonly scans: Scans<B>;
  readonly #noted: Seen;
  /**
   * Whether no record is ever removed: one that stands behind another of its key says that that one stands there no
   * more.
   */
  protected readonly keepsRecords: boolean = false;
  /** Called when no stream takes a write. Rejects if that is why: the store is moved away from. */
  onNotTaken: ((call: Call) => Promise<void>) | undefined;
  /** Told of each record that this store wrote, when it is acknowledged. */
  protected onStored: ((key: Key<B>, payload: string, seq: Seq<B>) => void) | undefined;

  constructor(client: JetStreamClient, prefix: string, bucket: B, { maxFilters, seenBytes }: Limits) {
    super(client, prefix, bucket);
    this.#noted = new Seen(seenBytes);
    this.reads = new BatchedReads(this, this.#noted, { maxMatches: maxFilters, maxAsking: MAX_ASKING });
    this.scans = new Scans(this, this.#noted);
  }

  /**
   * The record as some replica has it, and never older than this store has seen it. What another store wrote a moment
   * ago can be missing. So an absence proves nothing.
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

  /** The newest record that a wildcard matches, as some replica has it. There may be a newer one: it proves nothing. */
  async newest(filter: Filter<B>, call: Call): Promise<Entry<B> | undefined> {
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      this.use();
      const answer = await this.client.last(this.stream, this.subjects + filter, this.client.attemptMs(call));
      if (answer.kind === "failed") retries.failed(answer.failure, answer.error);
      else return answer.kind === "none" ? undefined : intact(decode(answer.message, this.subjects.length));
    }
  }

  /** The record, as fresh as it is asked for. */
  async read<F extends Freshness>(
    key: Key<B>,
    freshness: F,
    call: Call,
  ): Promise<Read<{ readonly entry: Entry<B> | undefined }, F>> {
    const entry = freshness === "any" ? await this.get(key, call) : (await this.readLinearizable(key, call)).entry;
    return asRead(freshness, { entry });
  }

  /** The record, or its absence, as the leader has it at a moment after this call. */
  async readLinearizable(key: Key<B>, call: Call): Promise<Certain<B>> {
    const found = await this.readFenced(key, call);
    if (found.entry !== undefined) this.noted(found.entry);
    return found;
  }

  /**
   * A record of another bucket rests on what stands here at `needed`. A fence that was asked for after that record was
   * read comes behind it. If the log ends before that, it was restored without the others, or they without it.
   */
  demand(needed: Seq<B>, asOf: Seq<B>): void {
    if (asOf < needed) this.isOlder({ needed, sequence: asOf });
  }

  isOlder(details: Readonly<Record<string, unknown>>): never {
    throw new StoreError("CORRUPT", `The bucket ${this.name} is older than others say: it was restored without them`, {
      details: { bucket: this.name, ...details },
    });
  }

  /** Like {@link readLinearizable}, for a caller that keeps the record and notes itself where it was seen. */
  protected async readFenced(key: Key<B>, call: Call): Promise<Certain<B>> {
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      const entry = await this.#last(key, retries, call);
      const isOlder = this.keepsRecords && this.allowed(key, entry?.seq ?? 0) === "no";
      const asOf = await this.fence(key, entry?.seq ?? 0, call);
      // It was seen in a newer state, and no replica is behind.
      if (asOf !== undefined && isOlder) {
        this.goneBack();
        this.use();
      }
      if (asOf !== undefined)
        return asRead("certain", { entry: entry === undefined ? undefined : intact(entry), asOf });
    }
  }

  /** Whether a read that found the record at `seq` (0: absent) is as new as what was seen of it. */
  protected allowed(key: Key<B>, seq: Seq<B>): "yes" | "no" | "unknown" {
    return this.#noted.allow(key, seq);
  }

  /** Records up to this sequence may have been seen. Which ones is no longer known. */
  protected forgot(seq: Seq<B>): void {
    this.#noted.forgot(seq);
  }

  /** Whether a record is not there at a moment after this call. `false` proves nothing. */
  async isAbsent(key: Key<B>, call: Call): Promise<boolean> {
    return (await this.fence(key, 0, call)) !== undefined;
  }

  /**
   * Proves that the record still stands at `seq`. Answers the sequence of that moment, which is after this call.
   * `undefined` proves nothing.
   */
  async stands(key: Key<B>, seq: Seq<B>, call: Call): Promise<Seq<B> | undefined> {
    this.use();
    return this.fence(key, seq, call);
  }

  /** No later read of the record may be older than this one. */
  note({ key, seq }: Pick<Entry<B>, "key" | "seq">): void {
    this.#noted.note(key, seq);
  }

  noted(entry: Entry<B>): Entry<B> {
    this.note(entry);
    return intact(entry);
  }

  async #last(key: Key<B>, retries: RetryLoop, call: Call): Promise<Entry<B> | undefined> {
    for (;;) {
      this.use();
      const answer = await this.client.last(this.stream, this.subjects + key, this.client.attemptMs(call));
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
   * Writes a record whose key holds an id of this attempt, so that nobody writes another value there. A late copy of
   * the message is refused: it would supersede the first one, and a replica between the two would have neither.
   */
  async stage(key: Key<B>, value: Json, call: Call): Promise<Seq<B>> {
    const seq = await this.write(key, value, 0, call, () => "yes", "step");
    if (seq === undefined) throw new StoreError("UNAVAILABLE", "A record that was staged is gone");
    return seq;
  }

  /**
   * Writes a record anew whose value nobody reads, and answers where it stands. A second copy does no harm, so the
   * message is sent until it is acknowledged.
   */
  async touch(key: Key<B>, call: Call): Promise<Seq<B>> {
    this.use();
    const payload = JSON.stringify({ k: key });
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      const ack = await this.client.publish(this.stream, this.subjects + key, payload, this.client.attemptMs(call));
      if (ack.kind === "stored") {
        this.observe(ack.seq);
        return ack.seq;
      }
      if (ack.kind === "failed") retries.failed(ack.failure, ack.error);
      if (ack.kind === "rejected") refused(ack, retries);
    }
  }

  /**
   * Writes a record on the condition that its key is still at sequence `expected` (0: absent). Answers the new
   * sequence, or `undefined` if the condition does not hold.
   *
   * Without an acknowledgement nobody knows which. The write is then repeated, on the same condition, until a fresh
   * read finds that the key has moved on. `mine` tells by the record that stands there whether this attempt moved it.
   *
   * `kind` says whether the write commits the operation. Only a commit makes the outcome of the operation unknown.
   */
  async write(
    key: Key<B>,
    value: Json,
    expected: Seq<B>,
    call: Call,
    mine: IsMine<B>,
    kind: "commit" | "step" = "commit",
  ): Promise<Seq<B> | undefined> {
    this.use();
    const payload = JSON.stringify({ k: key, ...value });
    let lost = false;
    const before = call.outcome;
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      // During the pause a signal may have aborted the call. Its caller was told then that nothing was sent.
      call.throwIfEnded();
      if (before !== undefined && kind === "commit") call.outcome = "unknown";
      let sent = moment();
      const publish = (): Promise<Ack<B>> => {
        sent = moment();
        return this.client.publish(this.stream, this.subjects + key, payload, this.client.attemptMs(call), expected);
      };
      let ack = await publish();
      // Another message of the subject is under way, perhaps a fence. It is over in a moment, but another may follow.
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
          // A refusal is no evidence. A leader without a quorum refuses too, and so does one that waits for a write
          // that then dies, while the real leader stores the message. Only what stands in the log tells.
          const entry = await this.#afterRefusal(key, expected, call, (found) => mine(found, lost));
          if ((entry?.seq ?? 0) === expected) {
            lost = true;
            break;
          }
          if (entry === undefined) {
            // It was purged.
            call.outcome = before;
            return undefined;
          }
          const verdict = mine(entry, lost);
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
          if (ack.failure === "no-responders" && key !== keys.state) await this.onNotTaken?.(call);
          retries.failed(ack.failure, ack.error);
      }
    }
  }

  /**
   * The record after a refusal. One that stands behind `expected`, and tells who moved it from there, is enough,
   * whichever replica has it: it never stands at `expected` again. A fence would wait until nobody changes the record.
   * Everything else is proved.
   */
  async #afterRefusal(
    key: Key<B>,
    expected: Seq<B>,
    call: Call,
    verdict: (entry: Entry<B>) => string,
  ): Promise<Entry<B> | undefined> {
    if (this.keepsRecords) {
      const entry = await this.#last(key, new RetryLoop(call), call);
      const isBehind = entry !== undefined && entry.seq > expected && !this.mayBeAnother();
      if (isBehind && verdict(intact(entry)) !== "unknown") return this.noted(entry);
    }
    return (await this.readLinearizable(key, call)).entry;
  }

  /** Removes what matches the filter, for good. Repeating it does no harm. */
  async purge(filter: Filter<B>, call: Call): Promise<void> {
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      try {
        const reply = await this.client.api(
          `STREAM.PURGE.${this.stream}`,
          { filter: this.subjects + filter },
          this.client.attemptMs(call),
        );
        if (reply["success"] === true) return;
        retries.failed("lost", reply["error"]);
      } catch (error) {
        retries.failed(this.client.closed ? "closed" : "lost", error);
      }
    }
  }
}

/** Any of the five. */
export type AnyBucket = { readonly [B in BucketName]: Bucket<B> }[BucketName];

/** An error of JetStream itself. 503 passes, as while a leader is elected; others stay, as a full disk does. */
export function refused(ack: { code: number; description: string }, retries: RetryLoop): void {
  const error = new StoreError("UNAVAILABLE", `JetStream refuses the write: ${ack.description}`);
  if (ack.code !== 503) throw error;
  retries.failed("no-responders", error);
}
