// The streams behind a store's buckets, as an operator sees them, who is not bound to what the library does with them.

import type { Connection } from "../../support/nats-clients.js";

export type Json = Readonly<Record<string, unknown>>;

export const BUCKETS = ["rooms", "members", "rooms_by_member", "room_keys", "users"] as const;

export interface StreamInfo {
  readonly config: Json;
  readonly created: string;
  readonly state: { readonly messages: number; readonly last_seq: number };
  readonly cluster: {
    readonly leader?: string;
    readonly replicas?:
      | readonly {
          readonly name: string;
          readonly current: boolean;
          readonly lag?: number;
          readonly offline?: boolean;
        }[]
      | null;
  };
}

/** An answer of JetStream's API that is not an error. */
export async function api(connection: Connection, request: string, body: unknown = {}): Promise<Json> {
  const { data } = await connection.request(`$JS.API.${request}`, JSON.stringify(body), { timeout: 10_000 });
  const reply = JSON.parse(new TextDecoder().decode(data)) as Json;
  if (reply["error"] !== undefined) throw new Error(`${request}: ${JSON.stringify(reply["error"])}`);
  return reply;
}

export async function streamInfo(connection: Connection, bucket: string): Promise<StreamInfo> {
  return (await api(connection, `STREAM.INFO.KV_${bucket}`)) as unknown as StreamInfo;
}

/** Changes settings of a bucket's stream, and answers what they were. */
export async function configure(connection: Connection, bucket: string, change: Json): Promise<Json> {
  const { config } = await streamInfo(connection, bucket);
  await api(connection, `STREAM.UPDATE.KV_${bucket}`, { ...config, ...change });
  return config;
}
