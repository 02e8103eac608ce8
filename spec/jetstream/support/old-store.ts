// What a store of format 1 sends, and what it makes of the answers: no more than what proves a check, and what writes.

import { headers } from "nats";
import type { Connection } from "../../support/nats-clients.js";
import { tokenOf } from "./format-1.js";
import { messagesOf } from "./taps.js";

/** The keys of its barriers: of the first versions, and of the last one. */
export const OLD_BARRIERS = ["barrier", "barrier.7-0"] as const;

export class OldStore {
  readonly #connection: Connection;
  readonly #prefix: string;
  readonly #barrier: string;

  constructor(connection: Connection, prefix: string, barrier: string) {
    this.#connection = connection;
    this.#prefix = prefix;
    this.#barrier = barrier;
  }

  /** A barrier, and then the record as a replica has it that has come to the barrier. */
  async provesByBarrier(key: string): Promise<boolean> {
    const at = await this.#publish("users", this.#barrier, { k: this.#barrier });
    if (at === undefined) return false;
    const user = this.#subject("users", `user.${tokenOf(key)}`);
    const answers = await this.#connection.requestMany(
      `$JS.API.DIRECT.GET.KV_${this.#prefix}users`,
      JSON.stringify({ multi_last: [user, this.#subject("users", this.#barrier)] }),
      { strategy: "timer", maxWait: 5000 },
    );
    const messages = await messagesOf(answers);
    const upTo = Number(messages.at(-1)?.headers?.get("Nats-UpTo-Sequence"));
    const found = messages.find((message) => message.headers?.get("Nats-Subject") === user);
    return upTo >= at && found !== undefined && isActive(found.data);
  }

  /** A barrier on the condition that the record stands as it was read. */
  async provesByFence(key: string): Promise<boolean> {
    const record = await this.#last("users", `user.${tokenOf(key)}`);
    if (record === undefined || !isActive(record.data)) return false;
    const of = this.#subject("users", `user.${tokenOf(key)}`);
    return (await this.#publish("users", this.#barrier, { k: this.#barrier }, record.seq, of)) !== undefined;
  }

  /** Writes of a user, of a room and of a key: which are acknowledged. */
  async writes(key: string): Promise<boolean[]> {
    const user = await this.#again("users", `user.${tokenOf(key)}`);
    const room = await this.#again("rooms", `room.${tokenOf("plain")}`);
    const sealed = `key.${tokenOf("plain")}.${tokenOf("owner")}.an-incarnation.a-membership.1.${String(Math.random())}`;
    const put = await this.#publish("room_keys", sealed.replace("0.", ""), { k: sealed }, 0);
    return [user, room, put !== undefined];
  }

  /** The same record once more. */
  async #again(bucket: string, key: string): Promise<boolean> {
    const record = await this.#last(bucket, key);
    if (record === undefined) throw new Error(`${key} is not there`);
    const value = JSON.parse(Buffer.from(record.data).toString()) as object;
    return (await this.#publish(bucket, key, value, record.seq)) !== undefined;
  }

  #subject(bucket: string, key: string): string {
    return `$KV.${this.#prefix}${bucket}.${key}`;
  }

  async #last(bucket: string, key: string): Promise<{ readonly data: Uint8Array; readonly seq: number } | undefined> {
    const message = await this.#connection.request(
      `$JS.API.DIRECT.GET.KV_${this.#prefix}${bucket}`,
      JSON.stringify({ last_by_subj: this.#subject(bucket, key) }),
      { timeout: 5000 },
    );
    if (message.data.length === 0) return undefined;
    return { data: message.data, seq: Number(message.headers?.get("Nats-Sequence")) };
  }

  /** Where it was stored, if it was. */
  async #publish(
    bucket: string,
    key: string,
    value: object,
    expected?: number,
    of?: string,
  ): Promise<number | undefined> {
    const conditions = headers();
    if (expected !== undefined) conditions.set("Nats-Expected-Last-Subject-Sequence", String(expected));
    if (of !== undefined) conditions.set("Nats-Expected-Last-Subject-Sequence-Subject", of);
    const options = { timeout: 5000, ...(expected === undefined ? {} : { headers: conditions }) };
    try {
      const { data } = await this.#connection.request(this.#subject(bucket, key), JSON.stringify(value), options);
      const { seq, error } = JSON.parse(Buffer.from(data).toString()) as { seq?: number; error?: unknown };
      return error === undefined ? seq : undefined;
    } catch {
      // Nobody takes it.
      return undefined;
    }
  }
}

function isActive(data: Uint8Array): boolean {
  const { user } = JSON.parse(Buffer.from(data).toString()) as { user?: { revokedAt?: number } };
  return user !== undefined && user.revokedAt === undefined;
}
