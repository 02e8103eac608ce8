/**
 * Pages of users, in which nobody is missing who is there throughout. A scan alone can miss a user who is being changed
 * just then: a replica that catches up from a snapshot has dropped the record, and has not come to what superseded it.
 * Whatever superseded it stands behind the barrier that the last page began with. So what has changed since is read
 * from the log, without a gap. The argument: docs/protocol.md, S4 and S7.
 */
import type { Call } from "../call.js";
import type { Entry } from "./entry.js";
import { joinAll } from "./join.js";
import { EVERYTHING, type Key } from "./keys.js";
import { changedSince } from "./log-range.js";
import type { ProvedBucket } from "./proved-bucket.js";
import { RetryLoop } from "./retry-loop.js";
import { MAX_PAGE } from "./scans.js";
import type { Seq } from "./seq.js";
import type { UserState } from "./user-cache.js";

type IsListed = (entry: Entry<"users">) => boolean;

export interface PageOfUsers {
  readonly entries: readonly Entry<"users">[];
  /** Where the next page goes on, if there may be one. */
  readonly next: Seq<"users"> | undefined;
}

interface Scanned extends PageOfUsers {
  /** The barrier that it began with. */
  readonly begun: Seq<"users">;
}

/** What a scan met, as some replicas had it. */
interface Met {
  readonly entries: Entry<"users">[];
  /** Where the next page goes on: the scan was stopped there. */
  readonly more: Seq<"users"> | undefined;
  readonly begun: Seq<"users">;
  /** The newest barrier of the scan. */
  readonly end: Seq<"users">;
  /** Whether all of it came in one answer. */
  readonly isOne: boolean;
}

/** How many records are read again in one request: each can have some 20 KiB. */
const AT_ONCE = 500;

export class UserPages {
  readonly #bucket: ProvedBucket<"users", UserState>;

  constructor(bucket: ProvedBucket<"users", UserState>) {
    this.#bucket = bucket;
  }

  /** The records after a sequence that `isListed` takes: each once, and as it stands at a moment after this call. */
  async page(after: Seq<"users">, limit: number, isListed: IsListed, call: Call): Promise<PageOfUsers> {
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      const scanned = await this.#scan(after, limit, isListed, call);
      // Whoever is missing has a record further on, or is met by the last page.
      if (scanned.next !== undefined) return scanned;
      const changed = await changedSince(this.#bucket, scanned.begun, call);
      // More has changed meanwhile than is read at a time.
      if (changed === undefined) continue;
      const met = new Set(scanned.entries.map(({ key }) => key));
      const missed = [...changed.entries.values()].filter(
        (entry) => entry.seq > after && !met.has(entry.key) && isListed(entry),
      );
      if (missed.length === 0) return scanned;
      const entries = [...scanned.entries, ...missed].sort((a, b) => a.seq - b.seq);
      const kept = entries.slice(0, limit);
      return { entries: kept, next: entries.length > limit ? kept.at(-1)?.seq : undefined };
    }
  }

  async #scan(after: Seq<"users">, limit: number, isListed: IsListed, call: Call): Promise<Scanned> {
    const { entries, more, begun, end, isOne } = await this.#meet(after, limit, isListed, call);
    if (more === undefined && isOne) return { entries, next: undefined, begun };
    // There were several answers, or the scan was stopped: nothing has shown that no replica was behind.
    const keys = entries.splice(0).map(({ key }) => key);
    const parts = Array.from({ length: Math.ceil(keys.length / AT_ONCE) }, (_, i) =>
      this.#read(keys.slice(i * AT_ONCE, (i + 1) * AT_ONCE), end, call),
    );
    return { entries: (await joinAll(parts)).flat().filter(isListed), next: more, begun };
  }

  async #meet(after: Seq<"users">, limit: number, isListed: IsListed, call: Call): Promise<Met> {
    const found = new Map<Key<"users">, Entry<"users">>();
    let begun: Seq<"users"> | undefined;
    let end: Seq<"users"> = 0;
    let answers = 0;
    const options = {
      from: after + 1,
      page: Math.min(limit + 2, MAX_PAGE),
      end: async () => {
        end = await this.#bucket.readIndex(call);
        begun ??= end;
        return end;
      },
      answered: () => answers++,
    };
    // Of all keys: then the barrier is among them, and ends the scan.
    await this.#bucket.scans.scan(EVERYTHING, call, options, (entry) => {
      // A record that is met again was changed meanwhile, or came from a replica that was behind at first.
      found.delete(entry.key);
      if (isListed(entry)) found.set(entry.key, entry);
      return found.size < limit ? "go on" : "stop";
    });
    const entries = [...found.values()];
    const more = entries.length < limit ? undefined : entries.at(-1)?.seq;
    // A later answer can come from a replica that lacks the newer state of a record in an earlier one.
    return { entries, more, begun: begun ?? 0, end, isOne: answers === 1 || entries.length === 0 };
  }

  /** These records, at or after `min`. Whoever is missing is surely not there. */
  async #read(keys: readonly Key<"users">[], min: Seq<"users">, call: Call): Promise<Entry<"users">[]> {
    const read = await this.#bucket.reads.read(keys, min, call);
    const found = await joinAll(
      keys.map(async (key) => read.get(key) ?? (await this.#bucket.readLinearizable(key, call)).entry),
    );
    return found.filter((entry) => entry !== undefined);
  }
}
