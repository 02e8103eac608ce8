/** How the fields of a record are read. A field that is not as it should be makes the record `CORRUPT`. */
import { Buffer } from "node:buffer";
import { StoreError, isCorrupt } from "../errors.js";
import type { Entry } from "./entry.js";
import type { Json } from "./json.js";
import { seqIn, type BucketName, type Seq } from "./seq.js";
import type { WriteHistory } from "./write-history.js";

export function corrupt(entry: Entry<never>, field: string): StoreError {
  return new StoreError("CORRUPT", `A record is damaged: ${field}`, { details: { key: entry.key, field } });
}

/** `undefined`: what is read is damaged. It fails whoever asks for it, and must not hold up others. */
export function unlessCorrupt<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch (error) {
    if (isCorrupt(error)) return undefined;
    throw error;
  }
}

export class Fields {
  readonly #json: Json;
  readonly #entry: Entry<never>;

  constructor(json: unknown, entry: Entry<never>) {
    if (typeof json !== "object" || json === null) throw corrupt(entry, "value");
    this.#json = json as Json;
    this.#entry = entry;
  }

  text(name: string): string {
    const value = this.#json[name];
    if (typeof value !== "string") throw corrupt(this.#entry, name);
    return value;
  }

  maybeText(name: string): string | undefined {
    return this.#json[name] === undefined ? undefined : this.text(name);
  }

  number(name: string): number {
    const value = this.#json[name];
    if (typeof value !== "number" || !Number.isFinite(value)) throw corrupt(this.#entry, name);
    return value;
  }

  maybeNumber(name: string): number | undefined {
    return this.#json[name] === undefined ? undefined : this.number(name);
  }

  flag(name: string): boolean {
    const value = this.#json[name];
    if (typeof value !== "boolean") throw corrupt(this.#entry, name);
    return value;
  }

  maybeFlag(name: string): boolean | undefined {
    return this.#json[name] === undefined ? undefined : this.flag(name);
  }

  list(name: string): readonly unknown[] {
    const value = this.#json[name];
    if (!Array.isArray(value)) throw corrupt(this.#entry, name);
    return value;
  }

  maybe(name: string): Fields | undefined {
    return this.#json[name] === undefined ? undefined : new Fields(this.#json[name], this.#entry);
  }

  /** Bytes in base64. Node passes over what is none, and so would make other bytes of it. */
  bytes(name: string): Uint8Array {
    const text = this.text(name);
    const bytes = Buffer.from(text, "base64");
    if (text.length !== 4 * Math.ceil(bytes.length / 3)) throw corrupt(this.#entry, name);
    return new Uint8Array(bytes);
  }

  /** A sequence of that bucket's log, which the record remembers. */
  seq<B extends BucketName>(bucket: B, name: string): Seq<B> {
    return seqIn(bucket, this.number(name));
  }

  written<B extends BucketName>(): WriteHistory<B> {
    const seqs = this.#json["seqs"] === undefined ? [] : this.list("seqs").map((seq) => Number(seq) as Seq<B>);
    return {
      n: this.number("n"),
      first: this.text("first"),
      log: this.list("log").map(String),
      from: this.maybeNumber("from"),
      seqs,
      states: this.#json["states"] === undefined ? undefined : this.list("states").map(Number),
    };
  }
}

/** What a record tells of its own writes. */
export const historyOf = <B extends BucketName>(entry: Entry<B>): WriteHistory<B> =>
  new Fields(entry.value, entry).written<B>();

export const base64 = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("base64");

/**
 * Reads each record once. The checks look at a kept record again and again. What was read stands in the entry, not in a
 * `WeakMap`: what such a map leads to survives until all of memory is looked through, however soon nobody needs it.
 */
export function once<B extends BucketName, T>(read: (entry: Entry<B>) => T): (entry: Entry<B>) => T {
  return (entry) => entry.once(read);
}

/** A record as JSON: fields that are `undefined` are left out. */
export const toJson = (record: object): Json => record as Json;
