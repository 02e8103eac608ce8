// What faults are planted into by somebody who knows the contract and the protocol, and writes with a plain client of
// NATS: a store with something of each kind in it, and what everybody may see of it.

import { headers, type KV, type NatsConnection } from "nats";
import { openJetStream, type Store } from "unibus-membership";
import { pause } from "../../support/wait.js";
import { api, BUCKETS, type Json, type StreamInfo } from "./streams.js";

export type BucketName = (typeof BUCKETS)[number];

export const tokenOf = (id: string): string => Buffer.from(id, "utf8").toString("base64url");

const WITHIN = { timeoutMs: 20_000 };
const ADMINS = ["root", "second", "former", "revoked", "nobody"] as const;
const ENDPOINTS = ["ann", "bob", "cyd", "dan", "guest 47", "stranger"] as const;
/** Whose keys are asked for: the owner's, a member's, and those of who left. */
const HOLDERS = ["ann", "bob", "dan"] as const;

/** Users and rooms that stand for themselves, so that many faults can be planted into one store. */
export class Lot {
  readonly n: number;
  readonly parts: ReadonlySet<Part>;
  readonly plain: string;
  readonly nobody: string;
  readonly hall: string;
  readonly vault: string;
  readonly crowd: string;
  readonly gone: string;
  readonly nowhere: string;

  constructor(n: number, parts: Iterable<Part>) {
    this.n = n;
    this.parts = new Set(parts);
    const name = (of: string): string => `${of}-${String(n)}`;
    [this.plain, this.nobody] = [name("plain"), name("nobody")];
    [this.hall, this.vault, this.crowd] = [name("hall"), name("vault"), name("crowd")];
    [this.gone, this.nowhere] = [name("gone"), name("nowhere")];
  }

  /** Those that it has, and one that it never had. */
  get rooms(): string[] {
    const all = (["hall", "vault", "crowd", "gone"] as const).filter((part) => this.parts.has(part));
    return [...all.map((part) => this[part]), this.nowhere];
  }
}

export type Part = "user" | "hall" | "vault" | "crowd" | "gone";

/** The bytes say whose they are: whoever is given another's is found. */
const sealed = (roomId: string, endpoint: string, epoch: number): Uint8Array =>
  new Uint8Array(Buffer.from(["sealed", roomId, endpoint, epoch].join("/"), "utf8"));

/** Admins: of both sorts, a former one, and one who was revoked. */
export async function furnish({ users }: Store): Promise<void> {
  await users.addFirstAdmin({ key: "root" }, WITHIN);
  await users.add({ key: "second", role: "admin", expiresAt: new Date("2999-01-01T00:00:00.000Z") }, WITHIN);
  await users.add({ key: "former", role: "admin" }, WITHIN);
  await users.update("former", { role: "member" }, WITHIN);
  await users.add({ key: "revoked", role: "admin" }, WITHIN);
  await users.revoke("revoked", WITHIN);
}

const PARTS: Readonly<Record<Part, (store: Store, lot: Lot) => Promise<void>>> = {
  user: async ({ users }, { plain }) => {
    await users.add({ key: plain }, WITHIN);
  },
  hall: async ({ rooms, members }, { hall }) => {
    await rooms.create({ id: hall, owner: "ann" }, WITHIN);
    await members.add(hall, { endpoint: "bob", state: "joined" }, WITHIN);
    await members.add(hall, { endpoint: "cyd", invitedBy: "ann" }, WITHIN);
    // The rows of the last change stand in the room's record alone.
    await members.add(hall, { endpoint: "eve", state: "joined" }, WITHIN);
  },
  vault: async ({ rooms, members, roomKeys }, { vault }) => {
    const rekey = async (epoch: number, endpoints: readonly string[]): Promise<void> => {
      const map = new Map(endpoints.map((endpoint) => [endpoint, sealed(vault, endpoint, epoch)]));
      await roomKeys.rekey(vault, map, { expectedEpoch: epoch - 1, ...WITHIN });
    };
    await rooms.create({ id: vault, owner: "ann", encrypted: true, sealedKey: sealed(vault, "ann", 1) }, WITHIN);
    const bob = { endpoint: "bob", state: "joined", publicKey: new Uint8Array([1, 2]) } as const;
    await members.add(vault, bob, WITHIN);
    await members.add(vault, { endpoint: "cyd", invitedBy: "ann" }, WITHIN);
    await members.add(vault, { endpoint: "dan", state: "joined" }, WITHIN);
    await rekey(2, ["ann", "bob", "cyd", "dan"]);
    await rekey(3, ["ann", "bob", "cyd", "dan"]);
    await members.remove(vault, "dan", WITHIN);
    await members.add(vault, { endpoint: "guest 3" }, WITHIN);
  },
  // So many come and go that the rows are copied under another roster.
  crowd: async ({ rooms, members }, { crowd }) => {
    await rooms.create({ id: crowd, owner: "ann" }, WITHIN);
    const guests = Array.from({ length: 48 }, (_, i) => `guest ${String(i)}`);
    await Promise.all(guests.map((endpoint) => members.add(crowd, { endpoint, state: "joined" }, WITHIN)));
    await Promise.all(guests.slice(4).map((endpoint) => members.remove(crowd, endpoint, WITHIN)));
  },
  gone: async ({ rooms }, { gone }) => {
    await rooms.create({ id: gone, owner: "ann", encrypted: true, sealedKey: sealed(gone, "ann", 1) }, WITHIN);
    await rooms.delete(gone, WITHIN);
  },
};

export async function furnishLot(store: Store, lot: Lot): Promise<void> {
  await Promise.all(Array.from(lot.parts, (part) => PARTS[part](store, lot)));
}

/** Everything that is allowed. */
export async function granted(store: Store, lots: readonly Lot[]): Promise<ReadonlySet<string>> {
  const asked: Promise<string | undefined>[] = [];
  const check = (name: string, answer: Promise<boolean>): void => {
    asked.push(answer.then((is) => (is ? name : undefined)));
  };
  check("hasAdmin", store.hasAdmin(WITHIN));
  for (const key of [...ADMINS, ...lots.flatMap(({ plain, nobody }) => [plain, nobody])]) {
    check(`isAuthorized ${key}`, store.isAuthorized(key, WITHIN));
    check(`isAdmin ${key}`, store.isAdmin(key, WITHIN));
  }
  for (const room of lots.flatMap(({ rooms }) => rooms))
    for (const endpoint of ENDPOINTS) check(`isMember ${room}/${endpoint}`, store.isMember(room, endpoint, WITHIN));
  return new Set((await Promise.all(asked)).filter((each) => each !== undefined));
}

/** Keys that are given, with their bytes. */
export async function keysGiven(store: Store, lots: readonly Lot[]): Promise<ReadonlySet<string>> {
  const given = async (room: string, endpoint: string, epoch: number): Promise<string[]> => {
    try {
      const { sealed: bytes } = await store.roomKeys.get(room, endpoint, epoch, WITHIN);
      return [`${room}/${endpoint}/${String(epoch)}: ${Buffer.from(bytes).toString("utf8")}`];
    } catch {
      return [];
    }
  };
  const rooms = lots.filter(({ parts }) => parts.has("vault")).map(({ vault }) => vault);
  const asked = rooms.flatMap((room) => HOLDERS.flatMap((of) => [2, 3].map((epoch) => given(room, of, epoch))));
  return new Set((await Promise.all(asked)).flat());
}

export interface Found {
  readonly key: string;
  readonly seq: number;
  readonly value: Json;
}

/** The buckets of one store, as the servers' operator has them. */
export class Estate {
  readonly nc: NatsConnection;
  readonly prefix: string;
  #views = new Map<BucketName, Promise<KV>>();
  #stores: Store[] = [];

  constructor(nc: NatsConnection, prefix: string) {
    this.nc = nc;
    this.prefix = prefix;
  }

  async open(): Promise<Store> {
    const store = await openJetStream(this.nc, undefined, { prefix: this.prefix, opTimeoutMs: 2000 });
    this.#stores.push(store);
    return store;
  }

  async close(): Promise<void> {
    await Promise.all(this.#stores.map((store) => store.close()));
    for (const bucket of BUCKETS) await this.dropStream(bucket).catch(() => undefined);
  }

  stream(bucket: BucketName): string {
    return `KV_${this.prefix}${bucket}`;
  }

  subject(bucket: BucketName, key: string): string {
    return `$KV.${this.prefix}${bucket}.${key}`;
  }

  #kv(bucket: BucketName): Promise<KV> {
    let view = this.#views.get(bucket);
    if (view === undefined) {
      view = this.nc.jetstream().views.kv(this.prefix + bucket, { bindOnly: true });
      this.#views.set(bucket, view);
    }
    return view;
  }

  /** `nats kv put` */
  async put(bucket: BucketName, key: string, value: string | Json): Promise<void> {
    await (await this.#kv(bucket)).put(key, typeof value === "string" ? value : JSON.stringify({ ...value, k: key }));
  }

  /** `nats kv del` */
  async del(bucket: BucketName, key: string): Promise<void> {
    const marker = headers();
    marker.set("KV-Operation", "DEL");
    await this.nc.jetstream().publish(this.subject(bucket, key), new Uint8Array(), { headers: marker });
  }

  /** Removes what stands there: a disk that lost it. `rooms` and `users` refuse. */
  async purge(bucket: BucketName, filter: string): Promise<void> {
    await api(this.nc, `STREAM.PURGE.${this.stream(bucket)}`, { filter: this.subject(bucket, filter) });
  }

  async config(bucket: BucketName): Promise<Json> {
    const info = (await api(this.nc, `STREAM.INFO.${this.stream(bucket)}`)) as unknown as StreamInfo;
    return info.config;
  }

  /** `nats stream edit` */
  async configure(bucket: BucketName, change: Json): Promise<void> {
    await api(this.nc, `STREAM.UPDATE.${this.stream(bucket)}`, { ...(await this.config(bucket)), ...change });
  }

  async dropStream(bucket: BucketName): Promise<void> {
    await api(this.nc, `STREAM.DELETE.${this.stream(bucket)}`);
  }

  /** As if its disk had been replaced by an empty one. */
  async empty(bucket: BucketName): Promise<void> {
    const config = await this.config(bucket);
    await this.dropStream(bucket);
    await api(this.nc, `STREAM.CREATE.${this.stream(bucket)}`, config);
  }

  /** So long that no open store takes another log for the one that it knows: docs/protocol.md, L2. */
  async idle(): Promise<void> {
    await pause(1700);
  }

  async lose(bucket: BucketName): Promise<void> {
    await this.empty(bucket);
    await this.idle();
  }

  /** Everything that stands in a bucket whose key matches, oldest first. */
  async all(bucket: BucketName, filter: string): Promise<Found[]> {
    const found: Found[] = [];
    for (let seq = 1; ;) {
      const request = { seq, next_by_subj: this.subject(bucket, filter) };
      const reply = await api(this.nc, `STREAM.MSG.GET.${this.stream(bucket)}`, request).catch(() => undefined);
      if (reply === undefined) return found;
      const message = reply["message"] as { readonly subject: string; readonly seq: number; readonly data?: string };
      seq = message.seq + 1;
      const text = Buffer.from(message.data ?? "", "base64").toString("utf8");
      const key = message.subject.slice(this.subject(bucket, "").length);
      if (key.split(".").includes("=") && !key.startsWith("=.")) continue;
      let value: Json = {};
      try {
        value = JSON.parse(text) as Json;
      } catch {
        // It is what a fault has left.
      }
      found.push({ key, seq: message.seq, value });
    }
  }

  async one(bucket: BucketName, filter: string): Promise<Found> {
    const [found, ...more] = await this.all(bucket, filter);
    if (found === undefined || more.length > 0) throw new Error(`${bucket}: ${filter}: ${String(more.length + 1)}`);
    return found;
  }

  room = (id: string): Promise<Found> => this.one("rooms", `room.${tokenOf(id)}`);
  user = (key: string): Promise<Found> => this.one("users", `user.${tokenOf(key)}`);
  guard = (): Promise<Found> => this.one("users", "admins");

  /** Changes fields of a record, as by an editor. */
  async edit(bucket: BucketName, filter: string, change: (value: Json) => Json): Promise<void> {
    const { key, value } = await this.one(bucket, filter);
    await this.put(bucket, key, { ...value, ...change(value) });
  }

  editRoom = (id: string, change: (value: Json) => Json): Promise<void> =>
    this.edit("rooms", `room.${tokenOf(id)}`, change);
  /** The user's row in the record. */
  editUser = (key: string, change: Json): Promise<void> =>
    this.edit("users", `user.${tokenOf(key)}`, (value) => ({ user: { ...(value["user"] as Json), ...change } }));

  /** Where the rows of a room's members stand now. */
  async roster(roomId: string): Promise<string> {
    const { value } = await this.room(roomId);
    return String(value["roster"] ?? value["incarnation"]);
  }

  async row(roomId: string, endpoint: string): Promise<Found> {
    return this.one("members", `${tokenOf(roomId)}.${tokenOf(endpoint)}.${await this.roster(roomId)}`);
  }

  async editRow(roomId: string, endpoint: string, change: Json): Promise<void> {
    const { key, value } = await this.row(roomId, endpoint);
    await this.put("members", key, { ...value, ...change });
  }
}
