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
    const { scans, reads } = this.#bucket;
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
    await scans.scan(EVERYTHING, call, options, (entry) => {
      // A record that is met again was changed meanwhile, or came from a replica that was behind at first.
      found.delete(entry.key);
      if (isListed(entry)) found.set(entry.key, entry);
      return found.size < limit ? "go on" : "stop";
    });
    const entries = [...found.values()];
    const last = entries.at(-1);
    const isWhole = entries.length < limit;
    // There were several answers. A later one can come from a replica that lacks the newer state of a record in an
    // earlier one.
    if (last === undefined || (isWhole && answers === 1)) return { entries, next: undefined, begun: begun ?? 0 };
    // A scan that was stopped did not come to its end. Only that would have shown that no replica was behind.
    const now = await joinAll(
      entries.map(
        async ({ key }) =>
          (await reads.read([key], end, call)).get(key) ?? (await this.#bucket.readLinearizable(key, call)).entry,
      ),
    );
    return {
      entries: now.filter((entry): entry is Entry<"users"> => entry !== undefined && isListed(entry)),
      next: isWhole ? undefined : last.seq,
      begun: begun ?? 0,
    };
  }
}
