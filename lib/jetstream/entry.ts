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
  #read: { readonly by: unknown; readonly value: unknown } | undefined;

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

  /** What `read` makes of it, which is asked once as long as no other one is. */
  once<T>(read: (entry: this) => T): T {
    if (this.#read?.by === read) return this.#read.value as T;
    const value = read(this);
    this.#read = { by: read, value };
    return value;
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
  const at = message.subject.slice(skip);
  const key = value["k"];
  // Not the message itself: it would keep all that was received together with it in memory.
  const place = { seq: message.seq, stamp: message.stamp };
  // The key of the JSON is kept: the other one is a part of all the message's headers.
  if (typeof key === "string" && key === at) return new Entry(storedKey(message, key), value, place);
  return new Entry(storedKey(message, at), typeof key === "string" ? MISPLACED : DAMAGED, place);
}

/** A value that is none of ours. Whoever looks at the record is told; who does not is not held up by it. */
const DAMAGED: Json = Object.freeze({});
/** The same of a message that says that it stands at another key: it is a record of neither. */
const MISPLACED: Json = Object.freeze({});

export const isMisplaced = ({ value }: Entry<never>): boolean => value === MISPLACED;

export function intact<B extends BucketName>(entry: Entry<B>): Entry<B> {
  if (entry.value === DAMAGED || entry.value === MISPLACED) {
    throw new StoreError("CORRUPT", `A record is not of this library: sequence ${String(entry.seq)}`, {
      details: { key: entry.key, sequence: entry.seq },
    });
  }
  return entry;
}
