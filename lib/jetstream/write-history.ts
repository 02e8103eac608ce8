/** What a record tells of its own writes, for whoever lost an acknowledgement. */
import { randomBytes } from "node:crypto";
import type { BucketName, Seq } from "./seq.js";

/** What every record that is written under a condition tells of its writes, for whoever lost an acknowledgement. */
export interface WriteHistory<B extends BucketName> {
  /** Counts the writes. Never more than the sequence at which the record stands. */
  readonly n: number;
  /** The id of the first write of all. Empty where an import wrote over whatever was before. */
  readonly first: string;
  /**
   * The ids of writes, newest first: of the newest, but for those of which the store that made them knows what became.
   */
  readonly log: readonly string[];
  /**
   * From which write on `log` has the id of each of which somebody may not know what became. Where it is missing, `log`
   * has the newest writes one by one, or a version of before wrote the record, which knows no better.
   */
  readonly from?: number | undefined;
  /**
   * Where the record stood before, newest first: the newer state says of what is no longer in the log that it was this
   * record. A record that was written before there was this field has none.
   */
  readonly seqs: readonly Seq<B>[];
  /**
   * What the record was at each of these: of a room its version, and 0 where there was none; of a user its grant, and
   * -1 where there was none. By it whoever follows knows what has happened since a place of the log. A version of the
   * library that does not know it drops it: then it has fewer than `seqs`, of the newest, or is missing.
   */
  readonly states?: readonly number[] | undefined;
}

/** A record as a write follows upon it. */
export interface Predecessor<B extends BucketName> {
  readonly seq: Seq<B>;
  readonly written: WriteHistory<B>;
  /** What {@link WriteHistory.states} is to say of it, if anything. */
  readonly state?: number | undefined;
}

const LOG = 16;

/**
 * More changes of one record than these between two looks at the log are rare, and only cost a look at the record
 * itself.
 */
const SEQS = 8;

/**
 * The writes of one store to one bucket. Where many change a record at once, most ids in it would be of writes that
 * were acknowledged long ago: whoever made them takes them out with the next write of its own. So those of others stay,
 * however often it writes.
 */
export class OwnWrites {
  readonly #store = randomBytes(6).toString("base64url");
  #count = 0;
  /** Of which it is not known what became. */
  readonly #open = new Set<string>();
  /** The one by which the log is known. Others that are as old may be gone from the record. */
  landmark: string | undefined;

  /** The id of a new write. */
  begin(): string {
    const id = this.#store + (this.#count++).toString(36);
    this.#open.add(id);
    return id;
  }

  /** It is known what became of it, or nobody asks any more. */
  end(id: string): void {
    this.#open.delete(id);
  }

  isOver(id: string): boolean {
    return id.startsWith(this.#store) && !this.#open.has(id) && id !== this.landmark;
  }
}

export const NO_WRITES: WriteHistory<BucketName> = { n: 0, first: "", log: [], seqs: [] };

/** The write after `before`, which stands at `seq` (0: there is none). */
export function appendWrite<B extends BucketName>(
  { written: before, seq, state }: Predecessor<B>,
  id: string,
  own: OwnWrites,
): WriteHistory<B> {
  const n = before.n + 1;
  const log = [id, ...before.log.filter((each) => !own.isOver(each))];
  // Of what is cut off it is not known which write it was: none of the newest ones.
  const from = log.length > LOG ? Math.max(knownFrom(before), n - LOG + 1) : knownFrom(before);
  const kept = log.slice(0, LOG);
  return {
    n,
    first: before.n === 0 ? id : before.first,
    log: kept,
    from: from === n - kept.length + 1 ? undefined : from,
    seqs: seq === 0 ? [] : [seq, ...before.seqs].slice(0, SEQS),
    states: seq === 0 || state === undefined ? undefined : [state, ...(before.states ?? [])].slice(0, SEQS),
  };
}

/**
 * What an import writes, whatever was there before. The number is one above a sequence of the log that is above
 * everything before the import: so of every write of before it is said that nobody knows what became of it, and of none
 * that it was not stored.
 */
export function writeAnew<B extends BucketName>(after: Seq<B>, id: string): WriteHistory<B> {
  return { n: after + 1, first: "", log: [id], seqs: [] };
}

function knownFrom({ n, log, from }: WriteHistory<never>): number {
  return from ?? n - log.length + 1;
}

/**
 * Whether the write `id`, which followed upon `before`, is the one that the record `now` tells of, or was before it.
 */
export function includesWrite<B extends BucketName>(
  now: WriteHistory<B>,
  before: WriteHistory<B>,
  id: string,
  isLost: boolean,
): "yes" | "no" | "unknown" {
  if (now.log.includes(id) || now.first === id) return "yes";
  // A write on the condition that there is no record can only have been the first. Whether it was, before an import
  // wrote over everything, is not known any more; but what was refused at once, because there is a record, was not.
  if (before.n === 0 && (now.first !== "" || !isLost)) return "no";
  return before.n + 1 < knownFrom(now) ? "unknown" : "no";
}
