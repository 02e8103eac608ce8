/**
 * Reads of all that matches: at one moment where one request can have it, else page by page in the order of the log.
 */
import type { Call } from "../call.js";
import { whole } from "./answers.js";
import { BatchedReads } from "./batched-reads.js";
import type { Bucket } from "./bucket.js";
import { decode, intact, type Entry } from "./entry.js";
import { unavailable } from "./failures.js";
import type { Filter, Key } from "./keys.js";
import { isBarrier } from "./own-barriers.js";
import { RetryLoop } from "./retry-loop.js";
import type { Seen } from "./seen.js";
import type { BucketName, Seq } from "./seq.js";

/** Bytes of one page of a scan, far below what makes a server drop a slow connection. */
const PAGE_BYTES = 4 * 1024 * 1024;
export const MAX_PAGE = 512;
/** A list may have more than it seemed to have. Then those of one request are read each by itself. */
const LISTS = { maxMatches: 768, maxBytes: PAGE_BYTES, maxAsking: 4 };
/** How much a list has of which nothing is known. */
const SOME = 32;

export interface Portion<B extends BucketName> {
  readonly entries: readonly Entry<B>[];
  readonly isEnd: boolean;
}

export interface ScanOptions<B extends BucketName> {
  /** The first sequence to read. */
  readonly from?: number;
  /** How much the first request asks for, where little may be enough. */
  readonly page?: number;
  /** Called for each answer that has messages. */
  readonly answered?: () => void;
  /**
   * Publishes a message that the filter matches, and answers its sequence. Without it, the scan ends where any replica
   * ends.
   */
  readonly end?: () => Promise<Seq<B>>;
}

export class Scans<B extends BucketName> {
  readonly #bucket: Bucket<B>;
  readonly #lists: BatchedReads<B>;

  constructor(bucket: Bucket<B>, noted: Seen) {
    this.#bucket = bucket;
    this.#lists = new BatchedReads(bucket, noted, LISTS);
  }

  /**
   * Reads everything that matches, however much it is. Up to the server's limit of one request that is one moment of
   * one replica; beyond it, a scan that ends at `mark`, a key of its own that the filter matches and that is written
   * first. `about` as many match: those of lists that begin together fit into one request.
   */
  async all(
    filter: Filter<B>,
    mark: Key<B>,
    min: Seq<B>,
    call: Call,
    about = SOME,
  ): Promise<ReadonlyMap<Key<B>, Entry<B>>> {
    const found = new Map<Key<B>, Entry<B>>();
    const entries = await this.#lists.all(filter, about, min, call);
    if (entries !== undefined) {
      for (const entry of entries) if (!isBarrier(entry.key) && entry.key !== mark) found.set(entry.key, entry);
      return found;
    }
    await this.scan(filter, call, { end: () => this.#bucket.touch(mark, call) }, (entry) => {
      if (entry.key !== mark) found.set(entry.key, intact(entry));
      return "go on";
    });
    return found;
  }

  /**
   * The first records after a sequence, in the order of the log. `isEnd`: there are no others, as of a moment after
   * this call. `end` publishes a message that the filter matches, and answers its sequence. At `mark` it is none of the
   * records.
   */
  async portion(
    filter: Filter<B>,
    after: Seq<B>,
    most: number,
    end: () => Promise<Seq<B>>,
    call: Call,
    mark?: Key<B>,
  ): Promise<Portion<B>> {
    const found = new Map<Key<B>, Entry<B>>();
    let isEnd = true;
    await this.scan(filter, call, { from: after + 1, page: Math.min(most + 2, MAX_PAGE), end }, (entry) => {
      if (entry.key === mark) return "go on";
      found.delete(entry.key);
      found.set(entry.key, entry);
      if (found.size < most) return "go on";
      isEnd = false;
      return "stop";
    });
    return { entries: [...found.values()], isEnd };
  }

  /**
   * Reads everything that matches, in the order of the stream, page by page. A record that is changed while the scan is
   * under way moves to the end of the stream and so is met again: a scan that reaches the end has seen the newest of
   * each.
   *
   * But replicas lag, and each page can come from another one: what looks like the end may not be it. So a scan ends
   * only with an answer that contains a message which was published after every answer before it had come.
   */
  async scan(
    filter: Filter<B>,
    call: Call,
    options: ScanOptions<B>,
    visit: (entry: Entry<B>) => "go on" | "stop",
  ): Promise<void> {
    let next = options.from ?? 1;
    let page = options.page ?? MAX_PAGE;
    let last = 0;
    let end = await options.end?.();
    let answers = 0;
    // The log has not come to this place yet: nothing is behind it.
    if (end !== undefined && next > end) return;
    for (const retries = new RetryLoop(call); ;) {
      this.#bucket.use();
      call.throwIfEnded();
      const answer = await this.#bucket.client.direct(
        this.#bucket.stream,
        { seq: next, next_by_subj: this.#bucket.subjects + filter, batch: page, max_bytes: PAGE_BYTES },
        this.#bucket.client.attemptMs(call),
      );
      let more = false;
      switch (answer.kind) {
        case "failed":
          retries.failed(answer.failure, answer.error);
          await retries.pause();
          continue;
        case "too-many":
          throw unavailable("lost", new Error("a page was refused"));
        case "empty":
          break;
        case "end":
          if (!whole(answer)) {
            retries.failed("lost", new Error("a part of the answer is missing"));
            await retries.pause();
            continue;
          }
          options.answered?.();
          for (const message of answer.messages) {
            next = message.seq + 1;
            last = message.seq;
            const entry = decode(message, this.#bucket.subjects.length);
            this.#bucket.note(entry);
            if (visit(entry) === "stop") return;
          }
          more = answer.pending > 0 && answer.messages.length > 0;
      }
      page = MAX_PAGE;
      if (end === undefined) {
        if (!more) return;
        continue;
      }
      if (!more && last >= end && answers === 0) return;
      if (more) {
        answers++;
      } else if (answers > 0) {
        end = (await options.end?.()) ?? end;
        answers = 0;
      } else {
        await retries.pause();
      }
    }
  }
}
