// The JetStream backend with many records: more users, rooms, members, rooms of one endpoint and epochs than one
// request of the server answers for. Every list has to be whole, and every method has to work on what is in it.

import { connect, type NatsConnection } from "nats";
import { isStoreError, openJetStream, type Page, type PageRequest, type Replicas, type Store } from "unibus-membership";
import { startNatsCluster, startNatsServer } from "unibus-membership/testing";
import { eventually } from "../support/wait.js";

export interface Scale {
  readonly users: number;
  readonly rooms: number;
  /** Of one room. */
  readonly members: number;
  /** Rooms of one endpoint. */
  readonly roomsOfOne: number;
  /** Of one room. */
  readonly epochs: number;
}

export const FULL: Scale = { users: 100_000, rooms: 10_000, members: 20_000, roomsOfOne: 5_000, epochs: 2_000 };

/** Something was not as it has to be. */
export class Surprise extends Error {}

/** Calls under way at once. */
const WIDTH = 256;
/** For calls on everything at once: as long as a call may ask for what it needs on a slow machine. */
const LONG = { timeoutMs: 600_000 };
const PREFIX = "scale_";

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const token = (id: string): string => Buffer.from(id).toString("base64url");
const userKey = (n: number): string => `user-${n}`;
const roomId = (n: number): string => `room-${n}`;
const endpoint = (n: number): string => `endpoint-${String(n).padStart(6, "0")}`;

const BIG = "the big room";
const OLD = "the old room";
const BUSY = "busy";

export class ScaleRun {
  readonly #scale: Scale;
  readonly #connection: NatsConnection;
  readonly #store: Store;
  /** Sees nothing but what the servers hold. */
  readonly #other: Store;
  readonly #log: (line: string) => void;

  private constructor(
    scale: Scale,
    connection: NatsConnection,
    store: Store,
    other: Store,
    log: (line: string) => void,
  ) {
    this.#scale = scale;
    this.#connection = connection;
    this.#store = store;
    this.#other = other;
    this.#log = log;
  }

  static async open(scale: Scale, url: string, replicas: Replicas, log: (line: string) => void): Promise<ScaleRun> {
    const connection = await connect({ servers: url });
    const options = { prefix: PREFIX, opTimeoutMs: 60_000 };
    const store = await openJetStream(connection, replicas, options);
    return new ScaleRun(scale, connection, store, await openJetStream(connection, replicas, options), log);
  }

  async close(): Promise<void> {
    await this.#store.close();
    await this.#other.close();
    await this.#connection.close();
  }

  async users(): Promise<void> {
    const { users } = this.#scale;
    const all = Array.from({ length: users }, (_, n) => userKey(n));
    await this.#timed(`${users} users added`, async () => {
      await this.#store.users.addFirstAdmin({ key: userKey(0) });
      await inParallel(all.slice(1), (key, n) => this.#store.users.add({ key, name: `number ${n + 1}` }));
    });
    await this.#timed(`${users} users listed`, async () => {
      same(
        "users.list",
        await keysOf(
          (page) => this.#other.users.list(page, LONG),
          (user) => user.key,
        ),
        all,
      );
    });
    await this.#timed(`${users} users authorized`, () =>
      inParallel(all, async (key) => must(await this.#other.isAuthorized(key, LONG), `${key} is not authorized`)),
    );
    await this.#timed("every method on users among them", async () => {
      const [some, another] = [userKey(users >> 1), userKey(users - 1)];
      await this.#store.users.update(some, { role: "admin", name: "renamed" });
      must(await this.#other.isAdmin(some, LONG), "an admin is not one");
      await this.#store.users.revoke(another);
      const { reason } = await this.#other.authorize(another, LONG);
      must(reason === "revoked", `a revoked user is ${reason}`);
      await this.#store.users.reinstate(another);
      must(await this.#other.isAuthorized(another, LONG), "a user who was reinstated is not authorized");
      must((await this.#other.users.get(some)).name === "renamed", "a user has another name");
      must(await this.#other.hasAdmin(LONG), "there is no admin");
      await refused("users.add of a user who is there", "ALREADY_EXISTS", this.#store.users.add({ key: some }));
      await refused("users.get of nobody", "NOT_FOUND", this.#store.users.get(userKey(users)));
      same(
        "users.list after changes",
        await keysOf(
          (page) => this.#other.users.list(page, LONG),
          (user) => user.key,
        ),
        all,
      );
    });
  }

  async rooms(): Promise<void> {
    const { rooms, roomsOfOne } = this.#scale;
    const all = Array.from({ length: rooms }, (_, n) => roomId(n));
    const ofOne = all.slice(0, roomsOfOne);
    await this.#timed(`${rooms} rooms made`, () =>
      inParallel(all, (id, n) => this.#store.rooms.create({ id, owner: endpoint(n) })),
    );
    await this.#timed(`an endpoint added to ${roomsOfOne} rooms`, () =>
      inParallel(ofOne, (id) => this.#store.members.add(id, { endpoint: BUSY, state: "joined" })),
    );
    await this.#timed(`${rooms} rooms listed`, async () => {
      same(
        "rooms.list",
        await keysOf(
          (page) => this.#other.rooms.list(page, LONG),
          (room) => room.id,
        ),
        all,
      );
    });
    await this.#timed(`${roomsOfOne} rooms of one endpoint listed`, async () => {
      same(
        "listForEndpoint",
        (await this.#other.rooms.listForEndpoint(BUSY, LONG)).map(({ id }) => id),
        ofOne,
      );
    });
    await this.#timed("every method on rooms among them", async () => {
      const [kept, deleted, left] = [roomId(0), roomId(roomsOfOne >> 1), roomId(roomsOfOne - 1)];
      await this.#store.rooms.update(kept, { name: "renamed", owner: BUSY });
      const room = await this.#other.rooms.get(kept);
      must(room.name === "renamed" && room.owner === BUSY, "a room is not as it was changed");
      await this.#store.rooms.delete(deleted);
      await this.#store.members.remove(left, BUSY);
      must(await this.#other.isMember(kept, BUSY, LONG), "a member is none");
      must(!(await this.#other.isMember(deleted, BUSY, LONG)), "a member of a deleted room is one");
      must(!(await this.#other.isMember(left, BUSY, LONG)), "a removed member is one");
      const still = ofOne.filter((id) => id !== deleted && id !== left);
      same(
        "listForEndpoint after changes",
        (await this.#other.rooms.listForEndpoint(BUSY, LONG)).map(({ id }) => id),
        still,
      );
      const listed = await keysOf(
        (page) => this.#other.rooms.list(page, LONG),
        ({ id }) => id,
      );
      same(
        "rooms.list after changes",
        listed,
        all.filter((id) => id !== deleted),
      );
      await refused(
        "rooms.create of one that is there",
        "ALREADY_EXISTS",
        this.#store.rooms.create({ id: kept, owner: BUSY }),
      );
    });
  }

  async members(): Promise<void> {
    const { members } = this.#scale;
    const all = Array.from({ length: members }, (_, n) => endpoint(n));
    const [owner = "", ...invited] = all;
    const [some, removed, last] = [endpoint(members >> 1), endpoint(members >> 2), endpoint(members - 1)];
    const keysOfEpoch = (epoch: number, endpoints: readonly string[]): Map<string, Uint8Array> =>
      new Map(endpoints.map((each) => [each, bytes(`${each} ${epoch}`)]));
    await this.#timed(`a room with ${members} members`, async () => {
      await this.#store.rooms.create({ id: BIG, owner, encrypted: true, sealedKey: bytes(`${owner} 1`) });
      await inParallel(invited, (each) =>
        this.#store.members.add(BIG, { endpoint: each, sealedKey: { epoch: 1, sealed: bytes(`${each} 1`) } }, LONG),
      );
    });
    await this.#timed(`${members} members listed`, async () => {
      same(
        "members.list",
        (await this.#other.members.list(BIG, LONG)).map((member) => member.endpoint),
        all,
      );
    });
    await this.#timed("every method on members among them", async () => {
      await this.#store.members.join(BIG, some);
      must(await this.#other.isMember(BIG, some, LONG), "a member who joined is none");
      must(!(await this.#other.isMember(BIG, last, LONG)), "a member who did not join is one");
      must((await this.#other.members.get(BIG, last)).state === "invited", "a member was not invited");
      await this.#store.rooms.update(BIG, { owner: some });
      await this.#store.members.remove(BIG, removed);
      await refused("members.get of one who was removed", "NOT_FOUND", this.#other.members.get(BIG, removed));
      must((await this.#other.rooms.get(BIG)).rekeyRequired, "no rekey is required");
      const present = all.filter((each) => each !== removed);
      same(
        "members.list after changes",
        (await this.#other.members.list(BIG, LONG)).map((member) => member.endpoint),
        present,
      );
      await refused(
        "rekey with a key too many",
        "CONFLICT",
        this.#store.roomKeys.rekey(BIG, keysOfEpoch(2, all), { expectedEpoch: 1, ...LONG }),
      );
    });
    await this.#timed(`a rekey for ${members - 1} members`, async () => {
      const present = all.filter((each) => each !== removed);
      const room = await this.#other.roomKeys.rekey(BIG, keysOfEpoch(2, present), { expectedEpoch: 1, ...LONG });
      must(room.epoch === 2 && !room.rekeyRequired, "the room is not at the next epoch");
      await inParallel(present, async (each) => {
        const key = await this.#store.roomKeys.get(BIG, each, undefined, LONG);
        must(key.epoch === 2 && Buffer.from(key.sealed).toString() === `${each} 2`, `${each} has another key`);
      });
      await this.#store.members.add(BIG, { endpoint: removed });
      await refused("roomKeys.get of one who was added again", "NOT_FOUND", this.#other.roomKeys.get(BIG, removed));
      await this.#store.roomKeys.put(BIG, removed, 2, bytes(`${removed} 2`));
      must((await this.#other.roomKeys.list(BIG, removed)).length === 1, "a key was not put");
    });
    await this.#timed(`a room with ${members} members deleted, and all that belongs to it gone`, async () => {
      await this.#store.rooms.delete(BIG);
      await refused("members.list of a deleted room", "NOT_FOUND", this.#other.members.list(BIG, LONG));
      for (const each of [owner, some, last]) {
        must(!(await this.#other.isMember(BIG, each, LONG)), `${each} is a member of a deleted room`);
        must(
          (await this.#other.rooms.listForEndpoint(each, LONG)).every(({ id }) => id !== BIG),
          `${each} has a deleted room`,
        );
      }
      for (const [bucket, filter] of [
        ["members", `${token(BIG)}.>`],
        ["rooms_by_member", `*.${token(BIG)}.>`],
        ["room_keys", `*.${token(BIG)}.>`],
      ] as const) {
        await eventually(
          `${bucket} has nothing of the room`,
          async () => (await this.#count(bucket, filter)) === 0,
          LONG.timeoutMs,
        );
      }
    });
  }

  async epochs(): Promise<void> {
    const { epochs } = this.#scale;
    await this.#timed(`a room with ${epochs} epochs`, async () => {
      await this.#store.rooms.create({ id: OLD, owner: BUSY, encrypted: true, sealedKey: bytes("1") });
      for (let epoch = 1; epoch < epochs; epoch++) {
        await this.#store.roomKeys.rekey(OLD, new Map([[BUSY, bytes(String(epoch + 1))]]), {
          expectedEpoch: epoch,
          ...LONG,
        });
      }
    });
    await this.#timed(`${epochs} keys of one member listed`, async () => {
      const keys = await this.#other.roomKeys.list(OLD, BUSY, LONG);
      const found = keys.map(({ epoch, sealed }) => `${epoch} ${Buffer.from(sealed).toString()}`);
      same(
        "roomKeys.list",
        found,
        Array.from({ length: epochs }, (_, n) => `${n + 1} ${n + 1}`),
      );
      const key = await this.#other.roomKeys.get(OLD, BUSY, epochs >> 1);
      must(Buffer.from(key.sealed).toString() === String(epochs >> 1), "a key of another epoch");
      await this.#store.rooms.delete(OLD);
      await refused("roomKeys.list of a deleted room", "NOT_FOUND", this.#other.roomKeys.list(OLD, BUSY, LONG));
      await eventually(
        "room_keys has nothing of the room",
        async () => (await this.#count("room_keys", `*.${token(OLD)}.>`)) === 0,
        LONG.timeoutMs,
      );
    });
  }

  /** How many records the leader of a bucket's stream holds. */
  async #count(bucket: string, filter: string): Promise<number> {
    const name = PREFIX + bucket;
    const body = JSON.stringify({ subjects_filter: `$KV.${name}.${filter}` });
    const { data } = await this.#connection.request(`$JS.API.STREAM.INFO.KV_${name}`, body, { timeout: 60_000 });
    const { state } = JSON.parse(new TextDecoder().decode(data)) as { state: { subjects?: Record<string, number> } };
    return Object.keys(state.subjects ?? {}).length;
  }

  async #timed(what: string, run: () => Promise<unknown>): Promise<void> {
    const began = performance.now();
    await run();
    this.#log(`${what}: ${((performance.now() - began) / 1000).toFixed(1)} s`);
  }
}

/** Rejects with the first {@link Surprise}. */
export async function run(options: { scale?: Scale; replicas?: Replicas; log: (line: string) => void }): Promise<void> {
  const { scale = FULL, replicas = 3, log } = options;
  const size = Math.max(replicas, 3);
  const servers = replicas === 1 ? await startNatsServer() : await startNatsCluster({ size });
  try {
    const url = "urls" in servers ? servers.node(0).url : servers.url;
    log(`${replicas === 1 ? "one server" : `${size} servers`}, ${replicas} replicas`);
    const steps = await ScaleRun.open(scale, url, replicas, log);
    try {
      await steps.users();
      await steps.rooms();
      await steps.members();
      await steps.epochs();
    } finally {
      await steps.close();
    }
  } finally {
    await servers.dispose();
  }
}

export async function inParallel<T>(
  items: readonly T[],
  run: (item: T, index: number) => Promise<unknown>,
): Promise<void> {
  const entries = items.entries();
  await Promise.all(
    Array.from({ length: WIDTH }, async () => {
      for (const [index, item] of entries) await run(item, index);
    }),
  );
}

export async function keysOf<T>(
  list: (page: PageRequest) => Promise<Page<T>>,
  keyOf: (item: T) => string,
): Promise<string[]> {
  const keys: string[] = [];
  let after: string | undefined;
  do {
    const { items, next } = await list(after === undefined ? { limit: 1000 } : { after, limit: 1000 });
    keys.push(...items.map(keyOf));
    after = next;
  } while (after !== undefined);
  return keys;
}

export function must(isSo: boolean, otherwise: string): void {
  if (!isSo) throw new Surprise(otherwise);
}

/** Each once: nothing changes while a list is read. */
function same(what: string, found: readonly string[], expected: readonly string[]): void {
  const missing = new Set(expected);
  const extra = found.filter((each) => !missing.delete(each));
  const some = (names: Iterable<string>): string => [...names].slice(0, 5).join(", ");
  must(missing.size === 0, `${what}: ${missing.size} of ${expected.length} are missing: ${some(missing)}`);
  must(extra.length === 0, `${what}: ${extra.length} are there twice, or should not be there: ${some(extra)}`);
}

async function refused(what: string, code: string, call: Promise<unknown>): Promise<void> {
  const end = await call.then(
    () => "done",
    (error: unknown) => (isStoreError(error) ? error.code : String(error)),
  );
  must(end === code, `${what}: ${end} instead of ${code}`);
}
