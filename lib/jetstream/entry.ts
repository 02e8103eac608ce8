import { Buffer } from "node:buffer";
import { StoreError } from "../errors.js";
import type { DirectMessage } from "./client.js";
import { asObject, type Json } from "./json.js";

/** Where a record stands in the log, and since when. */
type Place = Pick<DirectMessage, "seq" | "stamp">;

/** One record as it stands in the bucket. */
export class Entry {
  readonly key: string;
  readonly value: Json;
  readonly #place: Place;

  constructor(key: string, value: Json, place: Place) {
    this.key = key;
    this.value = value;
    this.#place = place;
  }

  get seq(): number {
    return this.#place.seq;
  }

  get stamp(): string {
    return this.#place.stamp;
  }

  get time(): Date {
    return new Date(this.stamp);
  }

  /** The same without the message, which would keep all that was received together with it in memory. */
  detached(): Entry {
    return new Entry(this.key, this.value, { seq: this.seq, stamp: this.stamp });
  }
}

export const textOf = (data: Uint8Array): string =>
  Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("utf8");

/** A message as a record. `skip` is how much of its subject is the bucket's. */
export function decode(message: DirectMessage, skip: number): Entry {
  let value: Json;
  try {
    value = asObject(JSON.parse(textOf(message.data)));
  } catch {
    value = {};
  }
  const key = value["k"];
  return typeof key === "string"
    ? new Entry(key, value, message)
    : new Entry(message.subject.slice(skip), DAMAGED, message);
}

/** A value that is none of ours. Whoever looks at the record is told; who does not is not held up by it. */
const DAMAGED: Json = Object.freeze({});

export function intact(entry: Entry): Entry {
  if (entry.value === DAMAGED) {
    throw new StoreError("CORRUPT", `A record is not of this library: sequence ${String(entry.seq)}`, {
      details: { key: entry.key, sequence: entry.seq },
    });
  }
  return entry;
}
