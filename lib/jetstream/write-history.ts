/** What a record tells of its own writes, for whoever lost an acknowledgement. */
import { randomBytes } from "node:crypto";
import type { BucketName, Seq } from "./seq.js";

/** What every record that is written under a condition tells of its writes, for whoever lost an acknowledgement. */
export interface WriteHistory<B extends BucketName> {
  /** Counts the writes. */
  readonly n: number;
  /** The id of the first write of all. */
  readonly first: string;
  /** The ids of the newest writes, newest first. */
  readonly log: readonly string[];
  /**
   * Where the record stood before, newest first: the newer state says of what is no longer in the log that it was this record.
   * A record that was written before there was this field has none.
   */
  readonly seqs: readonly Seq<B>[];
}

const LOG = 16;

/** More changes of one record than these between two looks at the log are rare, and only cost a look at the record itself. */
const SEQS = 8;

/** Tells the writes of one record apart, among the last few. */
export const newWrite = (): string => randomBytes(6).toString("base64url");

export const NO_WRITES: WriteHistory<BucketName> = { n: 0, first: "", log: [], seqs: [] };

/** The write after `before`, which stands at `seq` (0: there is none). */
export function appendWrite<B extends BucketName>(before: WriteHistory<B>, seq: Seq<B>, id: string): WriteHistory<B> {
  return {
    n: before.n + 1,
    first: before.n === 0 ? id : before.first,
    log: [id, ...before.log].slice(0, LOG),
    seqs: seq === 0 ? [] : [seq, ...before.seqs].slice(0, SEQS),
  };
}

/** Whether the write `id`, which followed upon `before`, is the one that the record `now` tells of, or was before it. */
export function includesWrite<B extends BucketName>(
  now: WriteHistory<B>,
  before: WriteHistory<B>,
  id: string,
): "yes" | "no" | "unknown" {
  if (now.log.includes(id) || now.first === id) return "yes";
  // A write on the condition that there is no record can only have been the first.
  if (before.n === 0) return "no";
  return now.n - before.n > LOG ? "unknown" : "no";
}
