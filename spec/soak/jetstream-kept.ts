// What stands in the buckets, kind by kind, with its bytes as the server counts them: docs/protocol.md, "What stays".
// It fails at a message that is of no kind, and at one that is larger than is said there.

import { connect, type NatsConnection } from "nats";
import { exportStore, importStore, isNotFound, openJetStream, type Store } from "unibus-membership";
import { startNatsServer } from "unibus-membership/testing";
import { BUCKETS, api, streamInfo } from "../jetstream/support/streams.js";
import { eventually } from "../support/wait.js";
import { KINDS, type BucketName, type Kind, type Stored } from "./jetstream-kinds.js";
import { inParallel, must } from "./jetstream-scale.js";

/** How what is made is called. */
interface Names {
  readonly title: string;
  readonly size: keyof Kind["most"];
  readonly prefix: string;
  /** Of the store that all of it is imported into. */
  readonly importedPrefix: string;
  readonly userKey: (n: number) => string;
  readonly id: (what: string, n: number) => string;
  readonly name: string;
  readonly publicKey: Uint8Array;
}

const numbered = (length: number) => (what: string, n: number) => `${what}-${n}-`.padEnd(length, "x");
const hex = (length: number) => (n: number) => n.toString(16).padStart(length, "0");

const ALL_NAMES: readonly Names[] = [
  {
    title: "ids of 36 characters, users' keys of 64",
    size: "usual",
    prefix: "use_",
    importedPrefix: "us2_",
    userKey: hex(64),
    id: numbered(36),
    name: "one of us",
    publicKey: new Uint8Array(32),
  },
  {
    title: "the longest ids, keys and names",
    size: "longest",
    prefix: "max_",
    importedPrefix: "ma2_",
    userKey: hex(256),
    id: numbered(256),
    name: "x".repeat(256),
    publicKey: new Uint8Array(1024),
  },
];

/** So many messages of others stand between two barriers if the list of the next one is to be as long as any. */
const FOREIGN = 65_300;
/** The connection is not to be dropped as one that is too slow, nor the store to hear nothing for long. */
const FOREIGN_AT_ONCE = 5000;
/** More than one request of the server answers for. */
const MANY = 1100;
const SOME = 40;
/** One more than a record tells of. */
const CHANGES = 17;
const LONG = { timeoutMs: 600_000 };
const OPTIONS = { opTimeoutMs: 60_000 };

const upTo = (count: number): number[] => Array.from({ length: count }, (_, n) => n);

/** Makes at least one message of each kind, and each as large as it gets. */
class Filling {
  readonly #store: Store;
  readonly #connection: NatsConnection;
  readonly #names: Names;

  constructor(store: Store, connection: NatsConnection, names: Names) {
    this.#store = store;
    this.#connection = connection;
    this.#names = names;
  }

  async run(): Promise<void> {
    await this.#users();
    await this.#deletedRooms();
    await this.#barriers(await this.#room());
  }

  async #users(): Promise<void> {
    const { userKey, name } = this.#names;
    const { users } = this.#store;
    const until = (day: number): Date => new Date(Date.UTC(2100, 0, 1 + day));
    await users.addFirstAdmin({ key: userKey(0), name });
    await inParallel(upTo(SOME), async (n) => {
      const key = userKey(n + 1);
      await users.add({ key, name, role: n < 12 ? "admin" : "member", expiresAt: until(0) });
      if (n % 2 === 0) await users.revoke(key);
    });
    for (const n of upTo(CHANGES)) await users.update(userKey(2), { expiresAt: until(n + 1) });
  }

  /** One of them after as many changes as a record tells of. An endpoint was in all of them. */
  async #deletedRooms(): Promise<void> {
    const { id, name } = this.#names;
    const { rooms } = this.#store;
    const owner = id("owner", 0);
    const all = upTo(MANY).map((n) => id("gone", n));
    await inParallel(all, (room) => rooms.create({ id: room, owner, name }, LONG));
    must((await rooms.listForEndpoint(owner, LONG)).length === MANY, "rooms are missing");
    await rooms.list();
    for (const n of upTo(CHANGES)) await rooms.update(id("gone", 0), { name: String(n) });
    await inParallel(all, (room) => rooms.delete(room, LONG));
  }

  /** A room that many joined and left, and with many epochs. Answers its id. */
  async #room(): Promise<string> {
    const { id, name, publicKey } = this.#names;
    const { rooms, members, roomKeys } = this.#store;
    const [room, owner, sealed] = [id("room", 0), id("owner", 0), new Uint8Array(80)];
    await rooms.create({ id: room, owner, name, encrypted: true, sealedKey: sealed, ownerPublicKey: publicKey });
    for (const epoch of upTo(SOME))
      await roomKeys.rekey(room, new Map([[owner, sealed]]), { expectedEpoch: epoch + 1 });
    const endpoints = upTo(MANY).map((n) => id("endpoint", n));
    const sealedKey = { epoch: SOME + 1, sealed };
    await inParallel(endpoints, (endpoint) =>
      members.add(room, { endpoint, state: "joined", invitedBy: owner, publicKey, sealedKey }, LONG),
    );
    must((await members.list(room, LONG)).length === MANY + 1, "members are missing");
    await inParallel(endpoints.slice(SOME), (endpoint) => members.remove(room, endpoint, LONG));
    return room;
  }

  /** Barriers and fences of many calls at once, and some that tell of as many sequences as any. */
  async #barriers(room: string): Promise<void> {
    await this.#ask(room);
    for (const bucket of BUCKETS) {
      const name = this.#names.prefix + bucket;
      const end = (await streamInfo(this.#connection, name)).state.last_seq + FOREIGN;
      for (let n = 0; n < FOREIGN; n++) {
        this.#connection.publish(`$KV.${name}.barrier.99-0`, "{}");
        if (n % FOREIGN_AT_ONCE === 0) await Promise.all([this.#connection.flush(), this.#ask(room)]);
      }
      await eventually(
        `${name} has what was published`,
        async () => (await streamInfo(this.#connection, name)).state.last_seq >= end,
      );
      await this.#ask(room);
    }
  }

  /** About users and members who are not there, so that fences name the longest keys. */
  async #ask(room: string): Promise<void> {
    const { id, userKey } = this.#names;
    const asked = upTo(SOME).map(async (n) => {
      await this.#store.authorize(userKey(n + MANY), LONG);
      const why = await this.#store.members.get(room, id("nobody", n), LONG).then(
        () => "there",
        (error: unknown) => (isNotFound(error) ? "" : String(error)),
      );
      must(why === "", `a member who is not there: ${why}`);
    });
    await Promise.all(asked);
  }
}

/** Every message of a bucket. What they add up to is what the server says. */
async function messagesOf(connection: NatsConnection, prefix: string, bucket: BucketName): Promise<Stored[]> {
  const stream = `KV_${prefix}${bucket}`;
  const found: Stored[] = [];
  const state = (await streamInfo(connection, prefix + bucket)).state as { messages: number; bytes?: number };
  for (let seq = 1; found.length < state.messages;) {
    const { message } = (await api(connection, `STREAM.MSG.GET.${stream}`, { seq, next_by_subj: ">" })) as unknown as {
      message: { subject: string; seq: number; hdrs?: string; data?: string };
    };
    seq = message.seq + 1;
    const headers = Buffer.from(message.hdrs ?? "", "base64").length;
    const data = Buffer.from(message.data ?? "", "base64");
    found.push({
      bucket,
      key: message.subject.slice(`$KV.${prefix}${bucket}.`.length),
      value: JSON.parse(data.toString()) as Stored["value"],
      // Length, sequence, time, the subject's length and a checksum, and the headers' length where there are some.
      bytes: 30 + message.subject.length + (headers === 0 ? 0 : 4 + headers) + data.length,
    });
  }
  const sum = found.reduce((total, { bytes }) => total + bytes, 0);
  must(sum === state.bytes, `${stream} has ${state.bytes} bytes, and not ${sum}`);
  return found;
}

/** A line for each kind. */
function tell(messages: readonly Stored[], { title, size }: Names, log: (line: string) => void): void {
  log(`${title}:`);
  const wrong: string[] = [];
  let left = messages;
  for (const { name, is, most } of KINDS) {
    const of = left.filter(is);
    left = left.filter((each) => !is(each));
    const sizes = of.map(({ bytes }) => bytes);
    const [least, largest] = [Math.min(...sizes), Math.max(...sizes)];
    log(`  ${name}: ${of.length === 0 ? "none" : `${of.length}, of ${least} to ${largest} bytes`}`);
    if (largest > most[size]) wrong.push(`a ${name} has more than ${most[size]} bytes`);
  }
  wrong.push(...left.map(({ bucket, key }) => `${key} in ${bucket} is of no kind`));
  must(wrong.length === 0, wrong.slice(0, 10).join("; "));
}

async function look(connection: NatsConnection, names: Names, log: (line: string) => void): Promise<void> {
  const { prefix, importedPrefix } = names;
  const store = await openJetStream(connection, 1, { ...OPTIONS, prefix });
  const other = await openJetStream(connection, 1, { ...OPTIONS, prefix: importedPrefix });
  await new Filling(store, connection, names).run();
  await importStore(exportStore(store), other);
  // What is removed behind an answer is gone then.
  await store.close();
  await other.close();
  const messages: Stored[] = [];
  for (const each of [prefix, importedPrefix])
    for (const bucket of BUCKETS) messages.push(...(await messagesOf(connection, each, bucket)));
  tell(messages, names, log);
}

/** Rejects with the first surprise. */
export async function run({ log }: { log: (line: string) => void }): Promise<void> {
  await using server = await startNatsServer();
  const connection = await connect({ servers: server.url });
  try {
    for (const names of ALL_NAMES) await look(connection, names, log);
  } finally {
    await connection.close();
  }
}
