/**
 * A bucket message by message, in the order of its log, whatever stands there: for whoever looks for what should not.
 */
import type { Call } from "../call.js";
import { whole } from "./answers.js";
import type { Bucket } from "./bucket.js";
import { decode, intact, isMisplaced, type Entry } from "./entry.js";
import { unavailable } from "./failures.js";
import { EVERYTHING } from "./keys.js";
import { unlessCorrupt } from "./record-fields.js";
import { RetryLoop } from "./retry-loop.js";
import type { BucketName, Seq } from "./seq.js";

const PAGE = 512;
const PAGE_BYTES = 4 * 1024 * 1024;

export interface RawMessage<B extends BucketName> {
  /** By its subject. */
  readonly key: string;
  readonly seq: Seq<B>;
  /** If it is one of ours, and says that it stands here. */
  readonly entry: Entry<B> | undefined;
  /** Whether it says that it stands elsewhere. */
  readonly isMisplaced: boolean;
}

export class RawPages<B extends BucketName> {
  readonly #bucket: Bucket<B>;
  #last = 0;
  /** A message, or a later one of the same key, stands there since this began. */
  #end: Seq<B> | undefined;
  #isOver = false;

  constructor(bucket: Bucket<B>) {
    this.#bucket = bucket;
  }

  /**
   * Some more. `undefined`: everything that stood there when this began has come, or was changed since and may have
   * come.
   */
  async next(call: Call): Promise<readonly RawMessage<B>[] | undefined> {
    if (this.#isOver) return undefined;
    const { client, stream, subjects } = this.#bucket;
    this.#end ??= await this.#bucket.readIndex(call);
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      this.#bucket.use();
      const request = { seq: this.#last + 1, next_by_subj: subjects + EVERYTHING, batch: PAGE, max_bytes: PAGE_BYTES };
      const answer = await client.direct(stream, request, client.attemptMs(call));
      switch (answer.kind) {
        case "failed":
          retries.failed(answer.failure, answer.error);
          break;
        case "too-many":
          throw unavailable("lost", new Error("a page was refused"));
        case "empty":
          // A replica that is behind: the barrier stands there, or another has taken its place.
          break;
        case "end": {
          if (!whole(answer)) {
            retries.failed("lost", new Error("a part of the answer is missing"));
            break;
          }
          const last = answer.messages.at(-1);
          if (last === undefined) break;
          this.#last = last.seq;
          this.#isOver = last.seq >= this.#end;
          return answer.messages.map((message) => {
            const entry = decode(message, subjects.length);
            return { key: entry.key, seq: entry.seq, entry: intactOf(entry), isMisplaced: isMisplaced(entry) };
          });
        }
      }
    }
  }
}

/** Removes what stood there, and nothing that was written later. Repeating it does no harm. */
export async function purgeUpTo<B extends BucketName>(bucket: Bucket<B>, at: Entry<B>, call: Call): Promise<void> {
  const { client, stream, subjects } = bucket;
  for (const retries = new RetryLoop(call); ;) {
    await retries.next();
    try {
      const request = { filter: subjects + at.key, seq: at.seq + 1 };
      const reply = await client.api(`STREAM.PURGE.${stream}`, request, client.attemptMs(call));
      if (reply["success"] === true) return;
      retries.failed("lost", reply["error"]);
    } catch (error) {
      retries.failed(client.closed ? "closed" : "lost", error);
    }
  }
}

/** `undefined`: it is damaged. */
export function intactOf<B extends BucketName>(entry: Entry<B>): Entry<B> | undefined {
  return unlessCorrupt(() => intact(entry));
}
