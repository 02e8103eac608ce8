/**
 * What has changed in a log since a place of it, as of a barrier. Any replica is asked, and believed up to its gaps, as
 * in exact-cache.ts. What stood in a gap that nothing explains was superseded, or the replica has not come to it; the
 * leader knows which: its answer has no holes. What was superseded may stand behind the barrier by now, so that another
 * pass goes on from there, which is short. The last pass has no such gap. The argument: docs/protocol.md, M1 to M4.
 */
import { Buffer } from "node:buffer";
import type { Call } from "../call.js";
import { whole } from "./answers.js";
import { decode, type Entry } from "./entry.js";
import { inParallel } from "./join.js";
import { asObject } from "./json.js";
import { EVERYTHING, type Key } from "./keys.js";
import { isBarrier } from "./own-barriers.js";
import type { ProvedBucket } from "./proved-bucket.js";
import { RetryLoop } from "./retry-loop.js";
import { later, seqIn, type Seq } from "./seq.js";
import type { CommittingBucket } from "./store-state.js";

const PAGE = 512;
const PAGE_BYTES = 4 * 1024 * 1024;
/** Whoever is so far behind reads everything anew. */
const MAX_READ = 65_536;
const MAX_READ_BYTES = 64 * 1024 * 1024;
/**
 * A replica that is paused, or cut off, answers nothing, and is asked as often as the others. So the first attempt is
 * short, and each that comes to nothing doubles the next: a proof has to come in half of what a session waits for it.
 */
const FIRST_ATTEMPT_MS = 50;
/** Gaps about which the leader is asked, in one pass, and so many at a time. */
const MAX_GAPS = 1024;
const ASKED_AT_ONCE = 64;
const MAX_PASSES = 8;

/** Records as of `upTo`, the barrier or behind it: the last one of each key that changed. */
export interface ChangedRange<B extends CommittingBucket> {
  readonly upTo: Seq<B>;
  readonly entries: ReadonlyMap<Key<B>, Entry<B>>;
}

interface Gap {
  readonly from: number;
  readonly to: number;
}

/** `undefined`: more than is read at a time, or it cannot be told. */
export async function changedSince<B extends CommittingBucket, V>(
  bucket: ProvedBucket<B, V>,
  after: Seq<B>,
  call: Call,
): Promise<ChangedRange<B> | undefined> {
  const entries = new Map<Key<B>, Entry<B>>();
  let from = after;
  for (let pass = 0; pass < MAX_PASSES; pass++) {
    const upTo = await bucket.readIndex(call);
    const read = await readRange(bucket, from, upTo, call);
    if (read === undefined) return undefined;
    const { end, gaps } = explain(bucket, from, upTo, read);
    if (gaps.length > MAX_GAPS) return undefined;
    const found: Entry<B>[] = [];
    await inParallel(gaps, ASKED_AT_ONCE, async (gap) => {
      found.push(...(await ofLeader(bucket, gap, call)));
    });
    for (const entry of [...read, ...found]) {
      if (entry.seq > end || isBarrier(entry.key)) continue;
      if (entry.seq > (entries.get(entry.key)?.seq ?? 0)) entries.set(entry.key, entry);
    }
    if (entries.size > MAX_READ) return undefined;
    from = end;
    if (gaps.length === 0) return { upTo: end, entries };
  }
  return undefined;
}

/** What some replica has behind `after`, in order, until one has the log's end. What is behind that may be among it. */
async function readRange<B extends CommittingBucket, V>(
  bucket: ProvedBucket<B, V>,
  after: Seq<B>,
  upTo: Seq<B>,
  call: Call,
): Promise<Entry<B>[] | undefined> {
  const read: Entry<B>[] = [];
  let next = after + 1;
  let bytes = 0;
  let isBehind = false;
  let attemptMs = FIRST_ATTEMPT_MS;
  for (const retries = new RetryLoop(call); next <= upTo;) {
    if (isBehind) await retries.pause();
    call.throwIfEnded();
    bucket.use();
    isBehind = true;
    const answer = await bucket.client.direct(
      bucket.stream,
      { seq: next, next_by_subj: EVERYTHING, batch: PAGE, max_bytes: PAGE_BYTES },
      Math.min(bucket.client.attemptMs(call), attemptMs),
    );
    if (answer.kind === "failed") {
      retries.failed(answer.failure, answer.error);
      attemptMs *= 2;
    }
    if (answer.kind !== "end") continue;
    if (!whole(answer)) {
      retries.failed("lost", new Error("a part of the answer is missing"));
      continue;
    }
    for (const message of answer.messages) {
      const entry = decode(message, bucket.subjects.length);
      bytes += message.data.length;
      read.push(entry);
      next = entry.seq + 1;
      isBehind = false;
    }
    if (read.length > MAX_READ || bytes > MAX_READ_BYTES) return undefined;
  }
  return read;
}

/**
 * Where something is missing that nothing explains, up to an end. A record that changes all the time is superseded
 * behind the barrier before it is read: then the end is where it stands by now, or no pass would be the last one.
 */
function explain<B extends CommittingBucket, V>(
  bucket: ProvedBucket<B, V>,
  after: Seq<B>,
  upTo: Seq<B>,
  read: readonly Entry<B>[],
): { readonly end: Seq<B>; readonly gaps: readonly Gap[] } {
  const explained = bucket.explained(seqIn(bucket.stream, after + 1), read);
  const gaps: Gap[] = [];
  let end = upTo;
  const look = (from: number, to: number): void => {
    if (from > to || from > end) return;
    const needed = explained.neededFor(from, to);
    if (needed === Infinity) gaps.push({ from, to });
    else end = later(end, seqIn(bucket.stream, needed));
  };
  let before: number = after;
  for (const seq of [...read.map((entry): number => entry.seq), upTo + 1]) {
    look(before + 1, Math.min(seq - 1, upTo));
    look(Math.max(before, upTo) + 1, seq - 1);
    before = Math.max(before, seq);
  }
  return { end, gaps };
}

/** What the stream's leader has in a gap: of what it does not have there something newer was stored. */
async function ofLeader<B extends CommittingBucket, V>(
  { client, stream, subjects }: ProvedBucket<B, V>,
  { from, to }: Gap,
  call: Call,
): Promise<Entry<B>[]> {
  const found: Entry<B>[] = [];
  let next = from;
  let isBehind = false;
  for (const retries = new RetryLoop(call); next <= to;) {
    if (isBehind) await retries.pause();
    call.throwIfEnded();
    isBehind = true;
    const request = { seq: next, next_by_subj: EVERYTHING };
    const reply = await client
      .api(`STREAM.MSG.GET.${stream}`, request, client.attemptMs(call))
      .catch((error: unknown) => {
        retries.failed(client.closed ? "closed" : "lost", error);
        return undefined;
      });
    const message = asObject(reply?.["message"]);
    const { seq, subject, data, time } = message;
    // One that has nothing so far behind led once, and does not know yet that it does no more.
    if (typeof seq !== "number" || typeof subject !== "string") continue;
    next = seq + 1;
    isBehind = false;
    if (seq > to) break;
    const stored = {
      seq: seqIn(stream, seq),
      subject,
      data: Buffer.from(typeof data === "string" ? data : "", "base64"),
      stamp: typeof time === "string" ? time : "",
    };
    found.push(decode(stored, subjects.length));
  }
  return found;
}
