// Buckets as versions of the library before format 2 left them, message by message.

import { readFileSync } from "node:fs";
import type { Connection } from "../../support/nats-clients.js";
import { BUCKETS, api, type Json } from "./streams.js";

/** `early`: without rosters, and without what records tell of the states before them. `late`: the last of format 1. */
export const OLD_VERSIONS = ["early", "late"] as const;
export type OldVersion = (typeof OLD_VERSIONS)[number];

type BucketName = (typeof BUCKETS)[number];
type Dump = Readonly<
  Record<
    BucketName,
    { readonly lastSeq: number; readonly records: readonly (readonly [seq: number, key: string, value: string])[] }
  >
>;

const dumpOf = (version: OldVersion): Dump =>
  JSON.parse(readFileSync(new URL(`../fixtures/format-1-${version}.json`, import.meta.url), "utf8")) as Dump;

export const ROOMS_OF_OLD = ["again", "plain", "sealed"] as const;

async function publish(connection: Connection, bucket: string, key: string, value: string): Promise<void> {
  await connection.request(`$KV.${bucket}.${key}`, value, { timeout: 10_000 });
}

/**
 * Makes the five buckets. Each record is at the sequence that others name; where one was superseded a barrier stood.
 */
export async function restore(connection: Connection, prefix: string, version: OldVersion): Promise<void> {
  const dump = dumpOf(version);
  for (const bucket of BUCKETS) {
    const name = prefix + bucket;
    await api(connection, `STREAM.CREATE.KV_${name}`, {
      name: `KV_${name}`,
      subjects: [`$KV.${name}.>`],
      retention: "limits",
      storage: "file",
      max_msgs_per_subject: 1,
      max_msgs: -1,
      max_bytes: -1,
      max_age: 0,
      max_msg_size: -1,
      max_consumers: -1,
      discard: "new",
      allow_direct: true,
      deny_delete: true,
      deny_purge: bucket === "rooms" || bucket === "users",
      allow_rollup_hdrs: false,
      num_replicas: 1,
      metadata: { "unibus-membership": "1" },
    });
    const { lastSeq, records } = dump[bucket];
    const bySeq = new Map(records.map(([seq, key, value]) => [seq, { key, value }]));
    const filler = version === "early" ? "barrier" : "barrier.0";
    for (let seq = 1; seq <= lastSeq; seq++) {
      const { key, value } = bySeq.get(seq) ?? { key: filler, value: JSON.stringify({ k: filler }) };
      await publish(connection, name, key, value);
    }
  }
}

/** A room's record as a version before format 2 writes it, which knows no index. */
export async function putOldRoom(connection: Connection, prefix: string, id: string): Promise<void> {
  const { rooms } = dumpOf("late");
  const [, , value] = rooms.records.find(([, key]) => key === `room.${tokenOf("plain")}`) ?? [];
  const key = `room.${tokenOf(id)}`;
  const record = {
    ...(JSON.parse(value ?? "{}") as Json),
    k: key,
    incarnation: `of-${id}`,
    roster: `of-${id}`,
    name: id,
  };
  await publish(connection, `${prefix}rooms`, key, JSON.stringify(record));
}

export const tokenOf = (id: string): string => Buffer.from(id).toString("base64url");

/** The newest message of a key, as the leader has it. */
export async function recordAt(connection: Connection, bucket: string, key: string): Promise<Json | undefined> {
  const { message } = (await api(connection, `STREAM.MSG.GET.KV_${bucket}`, {
    last_by_subj: `$KV.${bucket}.${key}`,
  }).catch(() => ({}))) as { message?: { data: string } };
  return message === undefined ? undefined : (JSON.parse(Buffer.from(message.data, "base64").toString()) as Json);
}

/** The subjects below a filter, of the leader, without the bucket's own part. */
export async function keysIn(connection: Connection, bucket: string, filter: string): Promise<string[]> {
  const prefix = `$KV.${bucket}.`;
  const { state } = (await api(connection, `STREAM.INFO.KV_${bucket}`, { subjects_filter: prefix + filter })) as {
    state: { subjects?: Record<string, number> };
  };
  return Object.keys(state.subjects ?? {})
    .map((subject) => subject.slice(prefix.length))
    .sort();
}
