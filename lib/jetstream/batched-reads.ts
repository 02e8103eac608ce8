/**
 * Reads of several keys at one moment of one replica. Those that begin together are one request, bounded by what a
 * server takes and a client can hear.
 */
import type { Call } from "../call.js";
import { StoreError } from "../errors.js";
import { complete } from "./answers.js";
import { decode, intact, type Entry } from "./entry.js";
import type { Filter, Key } from "./keys.js";
import type { Log } from "./log.js";
import { RetryLoop } from "./retry-loop.js";
import type { Seen } from "./seen.js";
import { later, type BucketName, type Seq } from "./seq.js";

/** What a read found: at one moment of one replica, `upTo`. */
export interface Snapshot<B extends BucketName> {
  readonly upTo: Seq<B>;
  /** The record of a key that was asked for. */
  get(key: Key<B>): Entry<B> | undefined;
  /** The records below a prefix that was asked for as `prefix.*`. */
  children(prefix: string): readonly Entry<B>[];
}

interface PendingRead<B extends BucketName> {
  readonly filters: readonly Filter<B>[];
  readonly min: Seq<B>;
  readonly call: Call;
  readonly resolve: (snapshot: Snapshot<B>) => void;
  readonly reject: (error: unknown) => void;
  readonly retries: RetryLoop;
  /** Absent keys of the answer before: a miss counts when it was seen twice. */
  absent: ReadonlySet<string>;
}

/** The server takes at most 1,024 matches in one request, and a filter `prefix.*` can match a few. */
const FAMILY_WEIGHT = 4;
/**
 * Requests under way at once. Together with the filters of one, a bound on the bytes that are on their way to a client:
 * a server drops a connection that takes too long to read 64 MB.
 */
const MAX_ASKING = 8;
const NOTHING: ReadonlySet<string> = new Set();

export class BatchedReads<B extends BucketName> {
  readonly #log: Log<B>;
  readonly #noted: Seen;
  readonly #maxFilters: number;
  #asking = 0;
  #queue: PendingRead<B>[] = [];

  /** `maxFilters` of one request, by how large the records can be. */
  constructor(log: Log<B>, noted: Seen, maxFilters: number) {
    this.#log = log;
    this.#noted = noted;
    this.#maxFilters = maxFilters;
  }

  /**
   * Reads keys and, where a filter is `prefix.*`, all below a prefix, at one moment. At or after `min` and all that was
   * seen.
   */
  read(filters: readonly Filter<B>[], min: Seq<B>, call: Call): Promise<Snapshot<B>> {
    return new Promise((resolve, reject) => {
      this.#log.use();
      const read: PendingRead<B> = {
        filters,
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
    while (this.#queue.length > 0 && this.#asking < MAX_ASKING) {
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
      for (const filter of read.filters) weight += filter.endsWith("*") ? FAMILY_WEIGHT : 1;
      return i > 0 && weight > this.#maxFilters;
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
      const filters = new Set<string>();
      let timeoutMs = 1;
      for (const read of waiting) {
        for (const filter of read.filters) filters.add(filter);
        timeoutMs = Math.max(timeoutMs, this.#log.client.attemptMs(read.call));
      }
      const subjects = Array.from(filters, (filter) => this.#log.subjects + filter);
      subjects.push(this.#log.subjects + this.#log.barrierKey);
      const answer = await this.#log.client.direct(this.#log.stream, { multi_last: subjects }, timeoutMs);
      if (answer.kind === "too-many") {
        const half = waiting.length >> 1;
        if (half === 0) throw new StoreError("UNAVAILABLE", "Too many records match");
        await Promise.all([this.#ask(waiting.slice(0, half)), this.#ask(waiting.slice(half))]);
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
      );
      for (const read of waiting) this.#answer(read, found);
    } catch (error) {
      for (const read of waiting) read.reject(error);
    }
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
      const absent = new Set(read.filters.filter((filter) => !filter.endsWith("*") && !found.has(filter)));
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
  #byParent: Map<string, Entry<B>[]> | undefined;

  constructor(upTo: Seq<B>, entries: readonly Entry<B>[]) {
    this.upTo = upTo;
    for (const entry of entries) this.#byKey.set(entry.key, entry);
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

  children(prefix: string): readonly Entry<B>[] {
    if (this.#byParent === undefined) {
      this.#byParent = new Map();
      for (const entry of this.#byKey.values()) {
        const parent = entry.key.slice(0, entry.key.lastIndexOf("."));
        const siblings = this.#byParent.get(parent);
        if (siblings === undefined) this.#byParent.set(parent, [entry]);
        else siblings.push(entry);
      }
    }
    return (this.#byParent.get(prefix) ?? []).map(intact);
  }
}
