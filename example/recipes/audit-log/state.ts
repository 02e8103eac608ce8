/**
 * What `verify.ts` compares a log of decisions with: where each record stands in the backend's log, as lines of JSON.
 * Take it after the last decision that is to be verified, while nothing is written.
 */
import type { JetStreamManager, NatsConnection } from "nats";
import { exportStore, type Page, type Store, type User } from "unibus-membership";

export type StateLine =
  | { readonly backend: "sqlite"; readonly last: number }
  | {
      readonly user: string;
      readonly revision: string;
      readonly role: User["role"];
      readonly status: User["status"];
      readonly expiresAt?: string | undefined;
    }
  | { readonly room: string; readonly revision: string; readonly joined: readonly string[] }
  | { readonly backend: "jetstream"; readonly users: number; readonly rooms: number }
  /** `before`: where it stood before, newest first. */
  | { readonly of: "users" | "rooms"; readonly name: string; readonly seq: number; readonly before: readonly number[] };

/** Of a SQLite file: records have the transaction that wrote them for a revision. */
export async function* stateOfSqlite(store: Store): AsyncGenerator<StateLine> {
  for await (const { key: user, revision, role, status, expiresAt } of all((page) => store.users.list(page)))
    yield { user, revision, role, status, expiresAt: expiresAt?.toISOString() };
  for await (const { id, revision } of all((page) => store.rooms.list(page))) {
    const members = await store.members.list(id);
    yield {
      room: id,
      revision,
      joined: members.flatMap(({ state, endpoint }) => (state === "joined" ? endpoint : [])),
    };
  }
  // The last transaction is in the first line of an export.
  for await (const line of exportStore(store)) {
    yield { backend: "sqlite", last: (JSON.parse(line) as { readonly revisionFloor: number }).revisionFloor };
    return;
  }
}

/** Of JetStream: the messages of two streams. Of them it asks `STREAM.MSG.GET` and `STREAM.INFO`. */
export async function* stateOfJetStream(connection: NatsConnection, prefix = ""): AsyncGenerator<StateLine> {
  const manager = await connection.jetstreamManager();
  yield* placesOf(manager, "users", prefix, ["user.>", "admins"]);
  yield* placesOf(manager, "rooms", prefix, ["room.>"]);
  const lastOf = async (bucket: string): Promise<number> =>
    (await manager.streams.info(`KV_${prefix}${bucket}`)).state.last_seq;
  yield { backend: "jetstream", users: await lastOf("users"), rooms: await lastOf("rooms") };
}

async function* placesOf(
  manager: JetStreamManager,
  of: "users" | "rooms",
  prefix: string,
  filters: readonly string[],
): AsyncGenerator<StateLine> {
  const subjects = `$KV.${prefix}${of}.`;
  for (const filter of filters) {
    for (let from = 1; ;) {
      // The API of streams is answered by the leader. A direct get may be answered by a replica that is behind.
      const query = { seq: from, next_by_subj: subjects + filter };
      const found = await manager.streams.getMessage(`KV_${prefix}${of}`, query).catch(unlessNone);
      if (found === undefined) break;
      const { seqs } = found.json<{ readonly seqs?: readonly number[] }>();
      yield { of, name: nameOf(found.subject.slice(subjects.length)), seq: found.seq, before: seqs ?? [] };
      from = found.seq + 1;
    }
  }
}

/** `user.` and `room.` stand before the id, in base64url. */
function nameOf(key: string): string {
  const [, token] = key.split(".");
  return token === undefined ? key : Buffer.from(token, "base64url").toString();
}

function unlessNone(error: unknown): undefined {
  if ((error as { readonly code?: unknown }).code !== "404" && !/no message found/i.test(String(error))) throw error;
  return undefined;
}

async function* all<T>(pageOf: (page: { after?: string }) => Promise<Page<T>>): AsyncGenerator<T> {
  for (let after: string | undefined; ;) {
    const { items, next } = await pageOf(after === undefined ? {} : { after });
    yield* items;
    if (next === undefined) return;
    after = next;
  }
}
