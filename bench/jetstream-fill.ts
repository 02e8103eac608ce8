// A bucket of so many records, written directly: through the store a million of each would take an hour. What is
// written is what the store writes, with other ids, and is checked with the store afterwards.

import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { RequestStrategy, type NatsConnection as Client } from "nats";
import { isAlreadyExists, openJetStream, type Store } from "../dist/index.js";
import { inFlight, opTimeoutMs, range } from "./support.js";

const WIDTH = 1024;
const sealed = new Uint8Array(80).fill(7);

/** What is asked for again and again is made once: a hash takes as long as a good part of a check. */
const KEPT = 1_100_000;
const made: string[] = [];

/** The n-th key: 64 hex digits, in no order. */
export function keyOf(n: number): string {
  const key =
    made[n] ??
    createHash("sha256")
      .update(`user ${String(n)}`)
      .digest("hex");
  if (n >= 0 && n < KEPT) made[n] = key;
  return key;
}
export const roomOf = (n: number): string => `room-${String(n)}`;
export const memberOf = (n: number): string => `member-${String(n)}`;

const token = (id: string): string => Buffer.from(id, "utf8").toString("base64url");
const text = new TextEncoder();

/** One room, as the store leaves it once its owner and a member stand in the bucket. */
interface Template {
  readonly user: string;
  readonly room: string;
  readonly rows: readonly { readonly key: string; readonly value: string }[];
  readonly hints: readonly { readonly key: string; readonly value: string }[];
  readonly keys: readonly { readonly key: string; readonly value: string }[];
}

const TEMPLATE = { user: keyOf(-1), room: roomOf(-1), member: memberOf(-1), owner: "owner-of--1" };

async function last(client: Client, bucket: string, filter: string): Promise<{ key: string; value: string }[]> {
  const stream = `KV_${bucket}`;
  const found: { key: string; value: string }[] = [];
  const answers = await client.requestMany(
    `$JS.API.DIRECT.GET.${stream}`,
    JSON.stringify({ multi_last: [`$KV.${bucket}.${filter}`] }),
    { strategy: RequestStrategy.Timer, maxWait: 5000 },
  );
  for await (const message of answers) {
    if (message.data.length === 0) break;
    found.push({
      key: (message.headers?.get("Nats-Subject") ?? "").slice(`$KV.${bucket}.`.length),
      value: message.string(),
    });
  }
  return found;
}

async function templateOf(client: Client, store: Store): Promise<Template> {
  const { user, room, member, owner } = TEMPLATE;
  await store.users.add({ key: user, name: "a user" });
  await store.rooms.create({ id: room, encrypted: true, owner, sealedKey: sealed });
  await store.members.add(room, { endpoint: member, state: "joined", sealedKey: { epoch: 1, sealed } });
  const one = (found: readonly { value: string }[]): string => found[0]?.value ?? "";
  return {
    user: one(await last(client, "users", `user.${token(user)}`)),
    ...applied(
      room,
      one(await last(client, "rooms", `room.${token(room)}`)),
      await last(client, "members", `${token(room)}.>`),
    ),
    hints: await last(client, "rooms_by_member", `*.${token(room)}.>`),
    keys: await last(client, "room_keys", `key.${token(room)}.>`),
  };
}

/** A room whose last change stands in the bucket too, as it does once another has followed. */
function applied(
  room: string,
  record: string,
  rows: readonly { readonly key: string; readonly value: string }[],
): Pick<Template, "room" | "rows"> {
  const parsed = JSON.parse(record) as { roster: string; head: { endpoint: string; row: object }[] };
  const all = new Map(rows.map(({ key, value }) => [key, value]));
  for (const { endpoint, row } of parsed.head) {
    const key = `${token(room)}.${token(endpoint)}.${parsed.roster}`;
    all.set(key, JSON.stringify({ k: key, ...row }));
  }
  return { room: JSON.stringify({ ...parsed, head: [] }), rows: Array.from(all, ([key, value]) => ({ key, value })) };
}

/**
 * Publishes until it is acknowledged: what is written is the same each time. Over a subscription of its own, for the
 * client spends more on a request than the servers do on storing it.
 */
class Writer implements Disposable {
  readonly #client: Client;
  readonly #inbox = `_INBOX.bench-${String(process.pid)}-${String(performance.now()).replace(".", "-")}`;
  readonly #waiting = new Map<string, (stored: boolean) => void>();
  readonly #subscription;
  #sent = 0;

  constructor(client: Client) {
    this.#client = client;
    this.#subscription = client.subscribe(`${this.#inbox}.*`, {
      callback: (_error, message) => {
        const token = message.subject.slice(this.#inbox.length + 1);
        this.#waiting.get(token)?.(message.data.length > 0 && !message.string().includes('"error"'));
        this.#waiting.delete(token);
      },
    });
  }

  async put(subject: string, value: Uint8Array): Promise<void> {
    while (!(await this.#once(subject, value))) await new Promise((resolve) => setTimeout(resolve, 250));
  }

  #once(subject: string, value: Uint8Array): Promise<boolean> {
    return new Promise((resolve) => {
      const token = String(++this.#sent);
      const timer = setTimeout(() => {
        this.#waiting.delete(token);
        resolve(false);
      }, 10_000);
      this.#waiting.set(token, (stored) => {
        clearTimeout(timer);
        resolve(stored);
      });
      this.#client.publish(subject, value, { reply: `${this.#inbox}.${token}` });
    });
  }

  [Symbol.dispose](): void {
    this.#subscription.unsubscribe();
  }
}

/** So many users, rooms, and of each room two members with a key. Answers how long it took, in seconds. */
export async function fill(client: Client, store: Store, count: number): Promise<number> {
  const template = await templateOf(client, store);
  const of = (n: number): ((what: string) => string) => {
    const { user, room, member, owner } = TEMPLATE;
    const names = [
      [user, keyOf(n)],
      [room, roomOf(n)],
      [member, memberOf(n)],
      [owner, `owner-of-${String(n)}`],
    ] as const;
    return (what) =>
      names.reduce((all, [from, to]) => all.replaceAll(token(from), token(to)).replaceAll(from, to), what);
  };
  const lastOf = async (stream: string): Promise<number> =>
    (await (await client.jetstreamManager()).streams.info(stream)).state.last_seq;
  // What a room's record demands of the other buckets stands there already.
  const membersSeq = await lastOf("KV_members");
  const keysSeq = await lastOf("KV_room_keys");
  const room = template.room
    .replace(/"membersSeq":\d+/, `"membersSeq":${String(membersSeq)}`)
    .replace(/"keysSeq":\d+/, `"keysSeq":${String(keysSeq)}`);
  const began = performance.now();
  using writer = new Writer(client);
  const put = (bucket: string, key: string, value: string): Promise<void> =>
    writer.put(`$KV.${bucket}.${key}`, text.encode(value));
  await inFlight(WIDTH, range(0, count), async (n) => {
    const named = of(n);
    await Promise.all([
      put("users", `user.${token(keyOf(n))}`, named(template.user)),
      put("plain", keyOf(n), named(template.user)),
      ...template.rows.map(({ key, value }) => put("members", named(key), named(value))),
      ...template.hints.map(({ key, value }) => put("rooms_by_member", named(key), named(value))),
      ...template.keys.map(({ key, value }) => put("room_keys", named(key), named(value))),
    ]);
    await put("rooms", `room.${token(roomOf(n))}`, named(room));
  });
  const took = (performance.now() - began) / 1000;
  return took;
}

/** Users alone, and as many plain records beside them. The template is that of an earlier call, if there was one. */
export async function fillUsers(client: Client, store: Store, from: number, to: number): Promise<void> {
  const { user } = TEMPLATE;
  await store.users.add({ key: user, name: "a user" }).catch((error: unknown) => {
    if (!isAlreadyExists(error)) throw error;
  });
  const [found] = await last(client, "users", `user.${token(user)}`);
  if (found === undefined) throw new Error("the template is not there");
  using writer = new Writer(client);
  await inFlight(WIDTH, range(from, to), async (n) => {
    const key = keyOf(n);
    const value = text.encode(found.value.replaceAll(token(user), token(key)).replaceAll(user, key));
    await Promise.all([writer.put(`$KV.users.user.${token(key)}`, value), writer.put(`$KV.plain.${key}`, value)]);
  });
}

/** By a store of its own, which knows nothing yet. */
export async function check(client: Client, count: number): Promise<void> {
  await using store = await openJetStream(client, 3, { opTimeoutMs });
  for (let i = 0; i < 20; i++) {
    const n = Math.floor((count * i) / 20);
    const answers = [
      await store.isAuthorized(keyOf(n)),
      await store.isMember(roomOf(n), memberOf(n)),
      (await store.rooms.get(roomOf(n))).id === roomOf(n),
      (await store.members.get(roomOf(n), memberOf(n))).state === "joined",
      (await store.roomKeys.get(roomOf(n), memberOf(n))).epoch === 1,
      (await store.rooms.listForEndpoint(memberOf(n))).length === 1,
    ];
    if (answers.includes(false))
      throw new Error(`what was written is not what the store reads: ${String(n)}: ${answers.join(" ")}`);
  }
  if (await store.isAuthorized(keyOf(count + 1))) throw new Error("allowed: nobody");
}
