/**
 * Reads of several keys, or of all that matches, at one moment of one replica. Those that begin together are one
 * request, bounded by what a server takes and a client can hear.
 *
 * A server looks through its blocks from the newest record that is asked for back to the oldest. So only what is wanted
 * is asked for: records that were written together are found in the block where they stand, however large the bucket
 * is.
 */
import type { Call } from "../call.js";
import { complete } from "./answers.js";
import { decode, intact, type Entry } from "./entry.js";
import type { Filter, Key } from "./keys.js";
import type { DirectAnswer } from "./client.js";
import { unavailable } from "./failures.js";
import type { Log } from "./log.js";
import { RetryLoop } from "./retry-loop.js";
import type { Seen } from "./seen.js";
import { later, type BucketName, type Seq } from "./seq.js";

/** What a read found: at one moment of one replica, `upTo`. */
export interface Snapshot<B extends BucketName> {
  readonly upTo: Seq<B>;
  /** The record of a key that was asked for. */
  get(key: Key<B>): Entry<B> | undefined;
  /** The records that match a filter that was asked for. */
  matching(filter: Filter<B>): readonly Entry<B>[];
}

interface PendingRead<B extends BucketName> {
  readonly filters: readonly Filter<B>[];
  /** How many records match, about. */
  readonly weight: number;
  readonly min: Seq<B>;
  readonly call: Call;
  /** `undefined`: more match than one request may have. */
  readonly resolve: (snapshot: Snapshot<B> | undefined) => void;
  readonly reject: (error: unknown) => void;
  readonly retries: RetryLoop;
  /** Absent keys of the answer before: a miss counts when it was seen twice. */
  absent: ReadonlySet<string>;
}

export interface BatchLimits {
  /** How many records one request may ask for: a server takes no more than 1,024 matches. */
  readonly maxMatches: number;
  /** Bytes of one answer, where what matches may be more than is known before. */
  readonly maxBytes?: number;
  /**
   * Requests under way at once. Together with the records of one, a bound on the bytes that are on their way to a
   * client: a server drops a connection that takes too long to read 64 MB.
   */
  readonly maxAsking: number;
}

const NOTHING: ReadonlySet<string> = new Set();

const isExact = (filter: string): boolean => !/[*>]/.test(filter);

export class BatchedReads<B extends BucketName> {
  readonly #log: Log<B>;
  readonly #noted: Seen;
  readonly #limits: BatchLimits;
  #asking = 0;
  #queue: PendingRead<B>[] = [];

  constructor(log: Log<B>, noted: Seen, limits: BatchLimits) {
    this.#log = log;
    this.#noted = noted;
    this.#limits = limits;
  }

  /** Reads keys at one moment. At or after `min` and all that was seen. */
  async read(keys: readonly Key<B>[], min: Seq<B>, call: Call): Promise<Snapshot<B>> {
    const found = await this.#read(keys, keys.length, min, call);
    if (found === undefined) throw unavailable("lost", new Error("more than was asked for"));
    return found;
  }

  /**
   * Reads all that matches at one moment, in the same way. `about` as many match. `undefined`: more than one request
   * may have.
   */
  async all(filter: Filter<B>, about: number, min: Seq<B>, call: Call): Promise<readonly Entry<B>[] | undefined> {
    const found = await this.#read([filter], about, min, call);
    return found?.matching(filter);
  }

  #read(filters: readonly Filter<B>[], weight: number, min: Seq<B>, call: Call): Promise<Snapshot<B> | undefined> {
    return new Promise((resolve, reject) => {
      this.#log.use();
      const read: PendingRead<B> = {
        filters,
        weight,
        min: later(min, this.#log.highestSeen),
        call,
        resolve,
        reject,
        retries: new RetryLoop(call),
        absent: NOTHING,
      };
      this.#enqueue(read);
    });
  }

  #enqueue(read: PendingRead<B>): void {
    // Reads that begin together, as those of checks that shared a barrier, become one request.
    if (this.#queue.push(read) === 1)
      process.nextTick(() => {
        this.#flush();
      });
  }

  #flush(): void {
    while (this.#queue.length > 0 && this.#asking < this.#limits.maxAsking) {
      const batch = this.#batch();
      this.#asking++;
      void this.#ask(batch).finally(() => {
        this.#asking--;
        this.#flush();
      });
    }
  }

  /** The first of the queue that go together into one request. */
  #batch(): PendingRead<B>[] {
    let weight = 0;
    const end = this.#queue.findIndex((read, i) => {
      weight += read.weight;
      return i > 0 && weight > this.#limits.maxMatches;
    });
    return this.#queue.splice(0, end < 0 ? this.#queue.length : end);
  }

  async #ask(reads: readonly PendingRead<B>[]): Promise<void> {
    const waiting = reads.filter((read) => {
      const { ended } = read.call;
      if (ended !== undefined) read.reject(ended);
      return ended === undefined;
    });
    if (waiting.length === 0) return;
    try {
      const answer = await this.#answerTo(waiting);
      const isOver = answer.kind === "end" && answer.pending > 0 && this.#limits.maxBytes !== undefined;
      if (answer.kind === "too-many" || isOver) {
        const half = waiting.length >> 1;
        if (half === 0) waiting[0]?.resolve(undefined);
        else await Promise.all([this.#ask(waiting.slice(0, half)), this.#ask(waiting.slice(half))]);
        return;
      }
      // A bucket has its barrier from the start: a replica without it is behind, or the answer was cut short.
      if (answer.kind !== "end" || answer.pending > 0 || !complete(answer)) {
        for (const read of waiting) {
          this.#again(read, answer.kind === "failed" ? answer : undefined);
        }
        return;
      }
      const found = new ReadSnapshot(
        answer.upTo,
        answer.messages.map((message) => decode(message, this.#log.subjects.length)),
        waiting.flatMap(({ filters }) => filters),
      );
      for (const read of waiting) this.#answer(read, found);
    } catch (error) {
      for (const read of waiting) read.reject(error);
    }
  }

  /** Where nothing matches, a server does not say how far it is: then it is asked for its barrier, too. */
  async #answerTo(waiting: readonly PendingRead<B>[]): Promise<DirectAnswer<B>> {
    const { client, stream, subjects, barrierKey } = this.#log;
    const filters = new Set<string>();
    let timeoutMs = 1;
    for (const read of waiting) {
      for (const filter of read.filters) filters.add(subjects + filter);
      timeoutMs = Math.max(timeoutMs, client.attemptMs(read.call));
    }
    const { maxBytes } = this.#limits;
    const ask = (): Promise<DirectAnswer<B>> =>
      client.direct(
        stream,
        { multi_last: [...filters], ...(maxBytes === undefined ? {} : { max_bytes: maxBytes }) },
        timeoutMs,
      );
    const answer = await ask();
    if (answer.kind !== "empty") return answer;
    filters.add(subjects + barrierKey);
    return ask();
  }

  #answer(read: PendingRead<B>, found: ReadSnapshot<B>): void {
    if (found.upTo < read.min) {
      this.#again(read, undefined);
      return;
    }
    // A server before 2.12 does not keep a write apart from a read of several keys, and can miss a key that is written
    // at that moment. A later one can while it catches up: no absence that is found here proves anything
    // (docs/protocol.md, A6).
    if (!this.#log.client.isolatesReads) {
      const absent = new Set(read.filters.filter((filter) => isExact(filter) && !found.has(filter)));
      const known = read.absent;
      read.absent = absent;
      if ([...absent].some((key) => !known.has(key))) {
        this.#enqueue(read);
        return;
      }
    }
    this.#log.observe(found.upTo);
    for (const { key, seq } of found.entries) this.#noted.note(key, seq);
    read.resolve(found);
  }

  #again(
    read: PendingRead<B>,
    failed: { failure: Parameters<RetryLoop["failed"]>[0]; error: unknown } | undefined,
  ): void {
    const retry = async (): Promise<void> => {
      if (failed !== undefined) read.retries.failed(failed.failure, failed.error);
      await read.retries.pause();
      this.#enqueue(read);
    };
    retry().catch(read.reject);
  }
}

class ReadSnapshot<B extends BucketName> implements Snapshot<B> {
  readonly upTo: Seq<B>;
  readonly #byKey = new Map<string, Entry<B>>();
  readonly #byFilter = new Map<string, Entry<B>[]>();

  constructor(upTo: Seq<B>, entries: readonly Entry<B>[], filters: readonly Filter<B>[]) {
    this.upTo = upTo;
    for (const entry of entries) this.#byKey.set(entry.key, entry);
    // By what a filter begins with: so each record is compared with few of them.
    const byPrefix = new Map<string, Set<string>>();
    for (const filter of filters) {
      if (isExact(filter)) continue;
      this.#byFilter.set(filter, []);
      const prefix = filter.slice(0, filter.search(/[*>]/));
      byPrefix.set(prefix, (byPrefix.get(prefix) ?? new Set()).add(filter));
    }
    if (byPrefix.size === 0) return;
    for (const entry of entries) {
      for (let end = 0; end >= 0; end = entry.key.indexOf(".", end + 1))
        for (const filter of byPrefix.get(entry.key.slice(0, end === 0 ? 0 : end + 1)) ?? [])
          if (matches(filter, entry.key)) this.#byFilter.get(filter)?.push(entry);
    }
  }

  get entries(): Iterable<Entry<B>> {
    return this.#byKey.values();
  }

  has(key: string): boolean {
    return this.#byKey.has(key);
  }

  get(key: Key<B>): Entry<B> | undefined {
    const entry = this.#byKey.get(key);
    return entry === undefined ? undefined : intact(entry);
  }

  matching(filter: Filter<B>): readonly Entry<B>[] {
    return (this.#byFilter.get(filter) ?? []).map(intact);
  }
}

/** As subjects of NATS match. */
function matches(filter: string, key: string): boolean {
  const wanted = filter.split(".");
  const tokens = key.split(".");
  if (wanted.at(-1) === ">") {
    wanted.pop();
    if (tokens.length <= wanted.length) return false;
  } else if (tokens.length !== wanted.length) {
    return false;
  }
  return wanted.every((token, i) => token === "*" || token === tokens[i]);
}
