// What is asked of three servers and their buckets, beside what the library asks.

import { readFileSync } from "node:fs";
import { setTimeout as pause } from "node:timers/promises";
import type { KV, NatsConnection as Client } from "nats";
import type { NatsCluster } from "../dist/testing.js";
import { opTimeoutMs } from "./support.js";

/** Processor time is counted in hundredths of a second. */
export const TICK_MS = 10;
/** Servers are idle when for so many seconds all of them together took less than so much of each. */
const SETTLED_SECONDS = 5;
const IDLE_MS = 60;
const MAX_SETTLE_SECONDS = 240;

const text = new TextEncoder();
/** As large as a record of ours. */
export const plainValue = (key: string): Uint8Array =>
  text.encode(
    JSON.stringify({
      k: key,
      n: 1,
      log: ["0123456789abcdef"],
      user: { key, v: 1, admin: false, name: "a user", createdAt: Date.now() },
    }),
  );

/**
 * Servers that were just started, or just written to, have work of their own in proportion to what they hold. Waits
 * until it is done.
 */
export async function settled({ nodes }: NatsCluster, atMostSeconds = MAX_SETTLE_SECONDS): Promise<void> {
  let quiet = 0;
  for (let waited = 0; quiet < SETTLED_SECONDS; waited++) {
    if (waited === atMostSeconds) {
      console.log(`The servers were not idle after ${String(atMostSeconds)} s`);
      return;
    }
    const before = busyTicks(nodes);
    await pause(1000);
    quiet = (busyTicks(nodes) - before) * TICK_MS < IDLE_MS ? quiet + 1 : 0;
  }
}

export const busyTicks = (nodes: NatsCluster["nodes"]): number => nodes.reduce((sum, { pid }) => sum + ticksOf(pid), 0);

function ticksOf(pid: number | undefined): number {
  if (pid === undefined) return 0;
  const fields =
    readFileSync(`/proc/${String(pid)}/stat`, "utf8")
      .split(") ")[1]
      ?.split(" ") ?? [];
  return Number(fields[11]) + Number(fields[12]);
}

/** Right after its start a cluster can take a peer for offline, and says so at once. */
export async function plainBucket(client: Client): Promise<KV> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await client.jetstream().views.kv("plain", { replicas: 3 });
    } catch (error) {
      if (attempt === 20) throw error;
      await pause(250);
    }
  }
}

/**
 * One server leads all buckets, and it is not the one that the client is connected to: a publish to a leader that is
 * nearer than another bucket's is no measure of what that other costs.
 */
export async function leadTogether(client: Client): Promise<void> {
  const manager = await client.jetstreamManager();
  const streams = ["plain", "users", "rooms", "members", "room_keys", "rooms_by_member"].map(
    (bucket) => `KV_${bucket}`,
  );
  const { cluster } = await manager.streams.info("KV_users");
  const leader = cluster?.replicas?.find(({ name }) => name !== client.info?.server_name)?.name;
  for (const stream of streams) {
    for (let attempt = 1; (await manager.streams.info(stream)).cluster?.leader !== leader; attempt++) {
      if (attempt === 100) throw new Error(`${stream} does not get the leader ${String(leader)}`);
      await client.request(
        `$JS.API.STREAM.LEADER.STEPDOWN.${stream}`,
        JSON.stringify({ placement: { preferred: leader } }),
        { timeout: opTimeoutMs },
      );
      await pause(100);
    }
  }
}
