import { Buffer } from "node:buffer";
import { StoreError } from "../errors.js";
import type { DirectMessage } from "./client.js";
import { asObject, type Json } from "./json.js";
import { storedKey, type Key } from "./keys.js";
import type { BucketName, Seq } from "./seq.js";

/** Where a record stands in the log, and since when. */
type Place<B extends BucketName> = Pick<DirectMessage<B>, "seq" | "stamp">;

/** One record as it stands in a bucket. `Entry<never>` is one of whatever bucket. */
export class Entry<B extends BucketName> {
  readonly key: Key<B>;
  readonly value: Json;
  readonly #place: Place<B>;

  constructor(key: Key<B>, value: Json, place: Place<B>) {
    this.key = key;
    this.value = value;
    this.#place = place;
  }

  get seq(): Seq<B> {
    return this.#place.seq;
  }

  get stamp(): string {
    return this.#place.stamp;
  }

  get time(): Date {
    return new Date(this.stamp);
  }

  /** The same without the message, which would keep all that was received together with it in memory. */
  detached(): Entry<B> {
    return new Entry(this.key, this.value, { seq: this.seq, stamp: this.stamp });
  }
}

export const textOf = (data: Uint8Array): string =>
  Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("utf8");

/** A message as a record. `skip` is how much of its subject is the bucket's. */
export function decode<B extends BucketName>(
  message: Pick<DirectMessage<B>, "seq" | "stamp" | "subject" | "data">,
  skip: number,
): Entry<B> {
  let value: Json;
  try {
    value = asObject(JSON.parse(textOf(message.data)));
  } catch {
    value = {};
  }
  const key = value["k"];
  return typeof key === "string"
    ? new Entry(storedKey(message, key), value, message)
    : new Entry(storedKey(message, message.subject.slice(skip)), DAMAGED, message);
}

/** A value that is none of ours. Whoever looks at the record is told; who does not is not held up by it. */
const DAMAGED: Json = Object.freeze({});

export function intact<B extends BucketName>(entry: Entry<B>): Entry<B> {
  if (entry.value === DAMAGED) {
    throw new StoreError("CORRUPT", `A record is not of this library: sequence ${String(entry.seq)}`, {
      details: { key: entry.key, sequence: entry.seq },
    });
  }
  return entry;
}
