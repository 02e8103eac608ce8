// Messages in a store's buckets, as somebody writes and removes them who has the server's credentials, and no library.

import type { Connection } from "../../support/nats-clients.js";
import { api, type BUCKETS, type Json } from "./streams.js";

type BucketName = (typeof BUCKETS)[number];

export interface RawRecord {
  readonly key: string;
  readonly seq: number;
  readonly value: Json;
}

export const tokenOf = (id: string): string => Buffer.from(id, "utf8").toString("base64url");

export class RawBucket {
  readonly #connection: Connection;
  readonly name: string;

  constructor(connection: Connection, prefix: string, bucket: BucketName) {
    this.#connection = connection;
    this.name = `${prefix}${bucket}`;
  }

  /** Everything that stands there but barriers and marks, oldest first. */
  async all(): Promise<RawRecord[]> {
    const found: RawRecord[] = [];
    for (let seq = 1; ;) {
      const request = { seq, next_by_subj: `$KV.${this.name}.>` };
      const reply = await api(this.#connection, `STREAM.MSG.GET.KV_${this.name}`, request).catch(() => undefined);
      if (reply === undefined) return found;
      const message = reply["message"] as { readonly subject: string; readonly seq: number; readonly data?: string };
      const key = message.subject.slice(`$KV.${this.name}.`.length);
      seq = message.seq + 1;
      if (/^(proof|barrier)\./.test(key) || key.split(".").includes("=")) continue;
      const text = Buffer.from(message.data ?? "", "base64").toString("utf8");
      found.push({ key, seq: message.seq, value: JSON.parse(text === "" ? "{}" : text) as Json });
    }
  }

  /** The one whose key begins so. */
  async one(beginning: string): Promise<RawRecord> {
    const [found, ...more] = (await this.all()).filter(({ key }) => key.startsWith(beginning));
    if (found === undefined || more.length > 0)
      throw new Error(`${this.name}: ${beginning} is there ${String(more.length + 1)} times`);
    return found;
  }

  /** Whatever the condition of whoever else writes it. */
  async put(key: string, value: Json): Promise<void> {
    await this.write(key, JSON.stringify({ ...value, k: key }));
  }

  async write(key: string, text: string): Promise<void> {
    const { data } = await this.#connection.request(`$KV.${this.name}.${key}`, text, { timeout: 10_000 });
    const ack = JSON.parse(new TextDecoder().decode(data)) as Json;
    if (ack["error"] !== undefined) throw new Error(`${this.name}: ${key}: ${JSON.stringify(ack)}`);
  }

  async purge(key: string): Promise<void> {
    await api(this.#connection, `STREAM.PURGE.KV_${this.name}`, { filter: `$KV.${this.name}.${key}` });
  }
}

export type RawBuckets = Readonly<Record<BucketName, RawBucket>>;

export function rawBuckets(connection: Connection, prefix: string): RawBuckets {
  const of = (bucket: BucketName): RawBucket => new RawBucket(connection, prefix, bucket);
  return {
    rooms: of("rooms"),
    members: of("members"),
    rooms_by_member: of("rooms_by_member"),
    room_keys: of("room_keys"),
    users: of("users"),
  };
}
