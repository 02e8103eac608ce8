import * as args from "../arguments.js";
import { Call } from "../call.js";
import type { Driver } from "../driver.js";
import { MembershipStore } from "../membership-store.js";
import type { StoreError } from "../errors.js";
import { Opening } from "../opening.js";
import type { CommonOptions, Replicas, Store } from "../store.js";
import { Background } from "./background.js";
import { Bucket } from "./bucket.js";
import {
  FORMAT,
  checkServer,
  closedBy,
  ensureBucket,
  bucketRemoved,
  streamState,
  incompatibility,
} from "./provisioning.js";
import type { StreamState } from "./provisioning.js";
import { JetStreamClient } from "./client.js";
import type { NatsConnection } from "./nats-connection.js";
import { ReplicaFloors } from "./floors.js";
import { raiseFormat } from "./format.js";
import { JetStreamMembers } from "./members.js";
import { Memberships } from "./memberships.js";
import { JoinedRows } from "./joined-rows.js";
import { ProvedBucket } from "./proved-bucket.js";
import { RecordCache } from "./record-cache.js";
import { readRoom } from "./records.js";
import { Rollout } from "./rollout.js";
import type { RolloutProgress } from "./rollout.js";
import { RoomIndex } from "./room-index.js";
import { RoomLog } from "./room-log.js";
import { JetStreamRoomKeys } from "./room-keys.js";
import { JetStreamRooms } from "./rooms.js";
import { Sweep } from "./sweep.js";
import { UserCache, stateOf } from "./user-cache.js";
import { JetStreamUsers } from "./users.js";
import { ServerVersions } from "./versions.js";

export type { RolloutProgress };

export interface JetStreamOptions extends CommonOptions {
  /** Put before each bucket's name: letters, digits, `-` and `_`, at most 64. Default `""`. */
  prefix?: string;
  /**
   * Told of each step while buckets get more replicas. Opening does not wait for it. What it throws is ignored.
   */
  onRollout?: (progress: RolloutProgress) => void;
  /**
   * Memory for what checks have read, in bytes: whoever is in it costs a barrier that all checks share, everybody else a
   * read and a write of their own. A user with a key of 64 hex digits takes some 50 to 70 bytes, any other some 400, a room a
   * kilobyte and more, a member of a room some 600. Half of it is for users, a quarter each for rooms and for members. 0 to
   * 2^40, default 64 MiB.
   */
  cacheBytes?: number;
}

export const JETSTREAM_OPTIONS = [...args.COMMON_OPTIONS, "prefix", "onRollout", "cacheBytes"] as const;
const DEFAULT_CACHE_BYTES = 64 * 1024 * 1024;
const MAX_CACHE_BYTES = 2 ** 40;
/** Opening touches many records. */
const MANY = 10;
/** What is not swept up in this time is left to the next opening. */
const SWEEP_MS = 30_000;
/** Records of rooms that an opening looks at for rooms without an entry in the index, beside those of before the format was raised. */
const ROOMS_AT_OPENING = 8192;
/** And how often a store that raised the format looks again: every few seconds of use. */
const LOOKS_FOR_ROOMS = 6;

export interface JetStreamInput extends args.CommonInput {
  readonly prefix: string;
  readonly onRollout: ((progress: RolloutProgress) => void) | undefined;
  readonly cacheBytes: number;
}

export function jetStreamInput(found: Readonly<Record<string, unknown>>, path: string): JetStreamInput {
  const { prefix = "", onRollout, cacheBytes } = found;
  if (typeof prefix !== "string" || !/^[A-Za-z0-9_-]{0,64}$/.test(prefix)) {
    throw args.invalid(`${path}.prefix`, "at most 64 letters, digits, - and _");
  }
  return {
    ...args.commonInput(found, path),
    prefix,
    onRollout: args.listener(onRollout, `${path}.onRollout`) as JetStreamInput["onRollout"],
    cacheBytes:
      cacheBytes === undefined
        ? DEFAULT_CACHE_BYTES
        : args.integer(cacheBytes, `${path}.cacheBytes`, 0, MAX_CACHE_BYTES),
  };
}

export function replicasInput(value: unknown, path: string): Replicas | undefined {
  switch (value) {
    case undefined:
    case 1:
    case 2:
    case 3:
    case 4:
    case 5:
      return value;
    default:
      throw args.invalid(path, "1, 2, 3, 4 or 5");
  }
}

export function connectionInput(value: unknown, path: string): NatsConnection {
  const connection = value as Partial<Record<keyof NatsConnection, unknown>> | null | undefined;
  const methods = ["request", "requestMany", "isClosed", "isDraining"] as const;
  if (
    typeof connection !== "object" ||
    connection === null ||
    methods.some((name) => typeof connection[name] !== "function")
  ) {
    throw args.invalid(path, "a NATS connection");
  }
  const usable = connection as NatsConnection;
  if (usable.isClosed() || usable.isDraining())
    throw args.invalid(path, "an open NATS connection; this one is closed or draining");
  return usable;
}

/**
 * Opens a replicated store on five JetStream KV buckets, and makes those that are missing. Needs nats-server 2.11 or later.
 *
 * The connection stays the caller's: it is never closed here. `replicas` is a minimum: omitted, it is 1 for new buckets and
 * what they have for old ones; more than they have raises them, in the background; fewer changes nothing.
 *
 * Rejects with `INVALID_ARGUMENT`, `INCOMPATIBLE` (a server too old, without JetStream or with too few nodes; a bucket that is
 * somebody else's or set up in a way that breaks a promise), `TIMEOUT` or `UNAVAILABLE`.
 *
 * @example
 * const nc = await connect({ servers: "127.0.0.1:4222" });
 * const store = await openJetStream(nc, 3);
 */
export async function openJetStream(
  nc: NatsConnection,
  replicas?: Replicas,
  options?: JetStreamOptions,
): Promise<Store> {
  const connection = connectionInput(nc, "nc");
  const asked = replicasInput(replicas, "replicas");
  return openOn(
    connection,
    asked,
    jetStreamInput(args.fields(options === undefined ? {} : options, "options", JETSTREAM_OPTIONS), "options"),
  );
}

/** The time that opening has. */
export function openingCall(input: JetStreamInput): Call {
  return new Call({ timeoutMs: undefined, signal: input.signal }, input.opTimeoutMs * MANY, "read");
}

/** Opens with arguments that were checked. `whenClosed` ends what the store owns beyond itself. */
export async function openOn(
  connection: NatsConnection,
  replicas: Replicas | undefined,
  input: JetStreamInput,
  call: Call = openingCall(input),
  whenClosed?: () => Promise<void>,
): Promise<Store> {
  const { opTimeoutMs, prefix, onOpening, onRollout, cacheBytes } = input;
  const opening = new Opening(onOpening);
  const { headers } = await import("nats");
  const link = new JetStreamClient(connection, headers);
  // How many records one request may ask for goes by how large they can be, which is up to a full head for a room and 64 KiB
  // for a key: see `Bucket`.
  // An eighth for what was seen: of each bucket's records, and of the members' rows by room.
  const seenBytes = cacheBytes / 48;
  const bucket = {
    rooms: new ProvedBucket(
      link,
      `${prefix}rooms`,
      { maxFilters: 200, seenBytes },
      new RecordCache(cacheBytes / 4, readRoom),
      readRoom,
    ),
    members: new Bucket(link, `${prefix}members`, { maxFilters: 500, seenBytes }),
    membersByEndpoint: new Bucket(link, `${prefix}rooms_by_member`, { maxFilters: 900, seenBytes }),
    roomKeys: new Bucket(link, `${prefix}room_keys`, { maxFilters: 40, seenBytes }),
    users: new ProvedBucket(
      link,
      `${prefix}users`,
      { maxFilters: 900, seenBytes },
      new UserCache((cacheBytes * 3) / 8),
      stateOf,
    ),
  };
  const buckets: readonly Bucket[] = Object.values(bucket);
  const joined = new JoinedRows(cacheBytes / 4);
  bucket.rooms.onDoubt = bucket.members.onDoubt = () => {
    joined.clear();
  };
  const users = new JetStreamUsers(bucket.users);
  const background = new Background();
  const sweepHints = (hintKeys: readonly string[]): void => {
    background.run(opTimeoutMs, "end", async (own) => {
      await bucket.rooms.checkOpen(bucket.rooms.highestSeen, own);
      await sweep.hints(hintKeys, own);
    });
  };
  const index = new RoomIndex(bucket.rooms, bucket.membersByEndpoint, sweepHints);
  const log = new RoomLog(
    bucket,
    (work, timeoutMs) => {
      // What takes longer than an operation is not waited for: it is begun anew by another store, later.
      if (timeoutMs === undefined) background.run(opTimeoutMs, "finish", work);
      else background.run(timeoutMs, "end", work);
    },
    joined,
    index,
    seenBytes,
  );
  const sweep = new Sweep(log);
  const versions = new ServerVersions(link);
  const rollout = new Rollout(link, new ReplicaFloors(bucket.rooms), versions, background, onRollout);
  const memberships = new Memberships(log, sweepHints);
  const members = new JetStreamMembers(log, memberships);
  let looksForRooms = 0;

  const rollsOut = await call.run(async () => {
    opening.begin("server");
    await checkServer(link, versions, call);
    let cluster: Promise<StoreError | undefined> | undefined;
    const beforeMaking = async (): Promise<void> => {
      const found = await (cluster ??= versions.inCluster(call));
      if (found !== undefined) throw found;
    };
    const ensured = (one: Bucket): Promise<StreamState> => ensureBucket(link, one.name, replicas, beforeMaking, call);
    opening.begin("buckets", buckets.length);
    const found = await Promise.all(
      buckets.map(async (one) => {
        const state = await ensured(one);
        opening.advance(1);
        return { one, state };
      }),
    );
    const fault = await versions.ofBuckets(new Map(found.map(({ one, state }) => [one.name, state.servers])), call);
    if (fault !== undefined) throw fault;
    opening.end();
    opening.begin("quorum");
    // A barrier in each: the quorum is there, and every read finds the barrier's key.
    await Promise.all(buckets.map((one) => one.readIndex(call)));
    const older = found.filter(({ state }) => state.format < FORMAT);
    if (older.length > 0) {
      opening.begin("format", older.length);
      await Promise.all(
        older.map(async ({ one }) => {
          await raiseFormat(link, one.name, call);
          opening.advance(1);
        }),
      );
    }
    opening.begin("users");
    const states = await Promise.all([bucket.rooms.prepareState(call), bucket.users.prepareState(call)]);
    const moved = states.find(({ isMoved }) => isMoved)?.refusal;
    if (moved !== undefined) throw moved;
    for (const { one, state } of found) one.drift = closedBy(state.config);
    // Whoever moves its records makes what is missing.
    if (states.some(({ refusal }) => refusal !== undefined) || buckets.some(({ drift }) => drift !== undefined)) {
      opening.end();
      return false;
    }
    const [isIndexed] = await Promise.all([index.isComplete(call), users.prepare(call)]);
    if (!isIndexed) {
      opening.begin("index", found.find(({ one }) => one === bucket.rooms)?.state.messages);
      await index.follow(call, undefined, (by) => {
        opening.advance(by);
      });
    }
    opening.end();
    // An older store that is open makes rooms without entries until it looks at the settings: what it made is looked for.
    looksForRooms = older.length > 0 || !isIndexed ? LOOKS_FOR_ROOMS : 0;
    const lacking = found.find(({ state }) => replicas !== undefined && state.replicas < replicas);
    if (replicas !== undefined && lacking !== undefined) {
      // What can be known at once is said at once: where this one cannot have more replicas, none can.
      await rollout.request(lacking.one, replicas, call);
      return true;
    }
    for (const { one, state } of found) await rollout.putRight(one, state, call);
    return false;
  });
  if (replicas !== undefined && rollsOut) rollout.start(buckets, replicas);

  background.run(SWEEP_MS, "end", async (own) => {
    // What another writer stages is not for this store to judge.
    await bucket.rooms.checkOpen(bucket.rooms.highestSeen, own);
    await sweep.some(own);
    await index.follow(own, ROOMS_AT_OPENING);
  });
  for (const one of buckets) {
    one.onUse = () => {
      background.run(opTimeoutMs, "end", async (own) => {
        const state = await streamState(link, one.name, own);
        if (state === undefined) {
          one.drift = bucketRemoved(one.name);
          return;
        }
        const fault =
          incompatibility(one.name, state.config) ??
          closedBy(state.config) ??
          (await versions.ofBuckets(new Map([[one.name, state.servers]]), own));
        one.drift = fault;
        if (fault !== undefined) return;
        if (state.format < FORMAT) await raiseFormat(link, one.name, own);
        if (one === bucket.rooms && looksForRooms > 0) {
          looksForRooms--;
          await index.follow(own, ROOMS_AT_OPENING);
        }
        await rollout.putRight(one, state, own);
      });
    };
  }

  const driver: Driver = {
    backend: "jetstream",
    rooms: new JetStreamRooms(log, memberships, index),
    members,
    roomKeys: new JetStreamRoomKeys(log),
    users,
    checks: {
      synchronous: false,
      user: (key, one) => users.proved(key, one),
      facts: (key, one) => users.provedFacts(key, one),
      joined: (roomId, endpoint, one) => log.provedJoined(roomId, endpoint, one),
      admin: (now, one) => users.provedAdmin(now, one),
    },
    close: async () => {
      await background.close(opTimeoutMs);
      await link.close();
      await whenClosed?.();
    },
  };
  return new MembershipStore(driver, opTimeoutMs);
}
