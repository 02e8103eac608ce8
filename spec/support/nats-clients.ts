import { connect as connectV3 } from "@nats-io/transport-node";
import { connect as connectV2 } from "nats";
import type { NatsConnection } from "unibus-membership";

/** What the specs need of a connection besides what the library needs. */
export type Connection = NatsConnection & { close(): Promise<void> };

export interface NatsClient {
  readonly name: string;
  connect(servers: string | readonly string[]): Promise<Connection>;
}

// Reconnects for ever and soon: a spec that kills a server ends the connection itself.
const settings = { maxReconnectAttempts: -1, reconnectTimeWait: 100, ignoreAuthErrorAbort: true };

/** Both client versions that the library works with. */
export const natsClients: readonly NatsClient[] = [
  { name: "nats 2.29", connect: (servers) => connectV2({ ...settings, servers: [servers].flat() }) },
  { name: "transport-node 3.x", connect: (servers) => connectV3({ ...settings, servers: [servers].flat() }) },
];

const BUCKETS = ["rooms", "members", "rooms_by_member", "room_keys", "users"];

/** Takes the five buckets of a prefix away, so that a server that many specs share does not carry them all. */
export async function dropBuckets(connection: Connection, prefix: string): Promise<void> {
  await Promise.all(
    BUCKETS.map((bucket) => connection.request(`$JS.API.STREAM.DELETE.KV_${prefix}${bucket}`, "", { timeout: 10_000 })),
  );
}
