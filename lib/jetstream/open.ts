import * as args from "../arguments.js";
import { Call } from "../call.js";
import type { Driver } from "../driver.js";
import { MembershipStore } from "../membership-store.js";
import { isUnavailable, type StoreError } from "../errors.js";
import { Progress } from "../progress.js";
import type { CommonOptions, Replicas, Store } from "../store.js";
import { AdminGuard } from "./admin-guard.js";
import { Background } from "./background.js";
import { Bucket, type AnyBucket } from "./bucket.js";
import type { Entry } from "./entry.js";
import type { Cache } from "./exact-cache.js";
import {
  FORMAT,
  checkServer,
  ensureBucket,
  fenceIn,
  bucketLost,
  bucketRemoved,
  streamState,
  incompatibility,
} from "./provisioning.js";
import type { StreamState } from "./provisioning.js";
import { changes } from "./changes-feed.js";
import { grants } from "./grants-feed.js";
import { JetStreamChecks } from "./checks.js";
import { JetStreamClient } from "./client.js";
import type { NatsConnection } from "./nats-connection.js";
import { ReplicaFloors } from "./floors.js";
import { raiseFormat } from "./format.js";
import { finishOpening } from "./importing.js";
import { inspection } from "./inspection.js";
import { JetStreamMembers } from "./members.js";
import { keys, type Key } from "./keys.js";
import { Memberships } from "./memberships.js";
import { JoinedRows } from "./joined-rows.js";
import { ProvedBucket } from "./proved-bucket.js";
import { RecordCache } from "./record-cache.js";
import { records } from "./records.js";
import { readRoom, type RoomSlot } from "./room-record.js";
import { Rollout } from "./rollout.js";
import type { RolloutProgress } from "./rollout.js";
import { RoomIndex } from "./room-index.js";
import { RoomLifecycle } from "./room-lifecycle.js";
import { RoomLog } from "./room-log.js";
import { RoomMembers } from "./room-members.js";
import { RoomRecords, type CleanUp, type RoomBuckets } from "./room-records.js";
import { RosterCopies } from "./roster-copies.js";
import { JetStreamRoomKeys } from "./room-keys.js";
import { JetStreamRooms } from "./rooms.js";
import type { BucketName } from "./seq.js";
import { SettingsFence } from "./settings-fence.js";
import type { CommittingBucket } from "./store-state.js";
import { Sweep } from "./sweep.js";
import { UserCache, stateOf, type UserState } from "./user-cache.js";
import { UserPages } from "./user-pages.js";
import { UserViews } from "./user-views.js";
import { JetStreamUsers } from "./users.js";
import { ServerVersions } from "./versions.js";

export type { RolloutProgress };

export interface JetStreamOptions extends CommonOptions {
  /** Put before each bucket's name: letters, digits, `-` and `_`, at most 64. Default `""`. */
  prefix?: string;
  /**
   * Told of each step while buckets get more replicas. Opening does not wait for them. Until each is told as done, kill
   * no server: see {@link RolloutProgress}. What the function throws is ignored.
   */
  onRollout?: (progress: RolloutProgress) => void;
  /**
   * Memory for what checks have read, in bytes: 0 to 2^40, default 64 MiB. A check of what is in it costs a barrier,
   * which all checks of the moment share. A check of anything else costs a read and a write of its own.
   *
   * A user with a key of 64 hex digits takes some 50 to 70 bytes, any other user some 400. A room takes a kilobyte and
   * more, a member of a room some 600 bytes. Three eighths of the memory are for users, a quarter each for rooms and
   * for members, and an eighth for where records of any kind were seen.
   */
  cacheBytes?: number;
  /**
   * How old the proof may be that a check rests on, in milliseconds: 0 to 60000. A check may say otherwise. Default 0:
   * each check is proved after it began. See {@link CheckOptions}.
   */
  maxStalenessMs?: number;
}

export const JETSTREAM_OPTIONS = [
  ...args.COMMON_OPTIONS,
  "prefix",
  "onRollout",
  "cacheBytes",
  "maxStalenessMs",
] as const;
const DEFAULT_CACHE_BYTES = 64 * 1024 * 1024;
const MAX_CACHE_BYTES = 2 ** 40;
/** Opening touches many records. */
const MANY = 10;
/** What is not swept up in this time is left to the next opening. */
const SWEEP_MS = 30_000;
/**
 * An opening looks at so many records of rooms, for rooms that have no entry in the index. Records from before the
 * format was raised come on top.
 */
const ROOMS_AT_OPENING = 8192;
/** A store that raised the format looks again so many times, every few seconds of use. */
const LOOKS_FOR_ROOMS = 6;

export interface JetStreamInput extends args.CommonInput {
  readonly prefix: string;
  readonly onRollout: ((progress: RolloutProgress) => void) | undefined;
  readonly cacheBytes: number;
  readonly maxStalenessMs: number;
}

export function jetStreamInput(found: Readonly<Record<string, unknown>>, path: string): JetStreamInput {
  const { prefix = "", onRollout, cacheBytes, maxStalenessMs } = found;
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
    maxStalenessMs: args.maxStaleness(maxStalenessMs, `${path}.maxStalenessMs`) ?? 0,
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
 * Opens a replicated store on five JetStream KV buckets, and makes those that are missing. Needs nats-server 2.11 or
 * later.
 *
 * The connection stays the caller's: it is never closed here. `replicas` is a minimum. Omitted, it is 1 for new
 * buckets, and for old ones what they have. More than a bucket has raises it, in the background. Fewer changes nothing.
 *
 * Rejects with `INVALID_ARGUMENT`, `INCOMPATIBLE` (a server too old, without JetStream or with too few nodes; a bucket
 * that is somebody else's or set up in a way that breaks a promise), `TIMEOUT` or `UNAVAILABLE`.
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

/** Whether there are buckets of this prefix. Makes none. */
export async function isThere(connection: NatsConnection, prefix: string, call: Call): Promise<boolean> {
  const { headers } = await import("nats");
  const client = new JetStreamClient(connection, headers);
  try {
    return (await call.run(() => streamState(client, `${prefix}users`, call))) !== undefined;
  } finally {
    await client.close();
  }
}

/** Opens with arguments that were checked. `whenClosed` ends what the store owns beyond itself. */
export async function openOn(
  connection: NatsConnection,
  replicas: Replicas | undefined,
  input: JetStreamInput,
  call: Call = openingCall(input),
  whenClosed?: () => Promise<void>,
): Promise<Store> {
  const { opTimeoutMs } = input;
  const { headers } = await import("nats");
  const parts = partsOf(new JetStreamClient(connection, headers), input);
  const { background, buckets, rollout } = parts;
  const end = async (): Promise<void> => {
    await background.close(opTimeoutMs);
    await parts.client.close();
  };
  let toRaise: readonly AnyBucket[];
  try {
    toRaise = await call.run(() => prepare(parts, input, replicas, new Progress(input.onOpening), call));
  } catch (error) {
    // What is still under way ends by itself. Nobody waits for it, and it leaves nothing on the caller's connection.
    void end();
    throw error;
  }
  if (replicas !== undefined && toRaise.length > 0) rollout.start(toRaise, replicas);
  background.run(SWEEP_MS, "end", async (own) => {
    // What another writer stages is not for this store to judge.
    await parts.rooms.checkOpen(parts.rooms.highestSeen, own);
    await parts.sweep.some(own);
    await parts.index.follow(own, ROOMS_AT_OPENING);
  });
  for (const one of buckets) {
    const used = (): void => {
      background.run(opTimeoutMs, "end", (own) => look(parts, one, own));
    };
    one.onUse = used;
  }
  const close = async (): Promise<void> => {
    await end();
    await whenClosed?.();
  };
  return new MembershipStore(driverOf(parts, input, close), opTimeoutMs);
}

/** What a store is made of. */
interface Parts {
  readonly client: JetStreamClient;
  readonly background: Background;
  readonly rooms: ProvedBucket<"rooms", RoomSlot>;
  readonly buckets: readonly AnyBucket[];
  readonly users: ProvedBucket<"users", UserState>;
  readonly userCache: UserCache;
  readonly userViews: UserViews;
  readonly userPages: UserPages;
  readonly guard: AdminGuard;
  readonly index: RoomIndex;
  readonly log: RoomLog;
  readonly members: RoomMembers;
  readonly sweep: Sweep;
  readonly memberships: Memberships;
  readonly versions: ServerVersions;
  readonly rollout: Rollout;
  readonly settings: SettingsFence;
  /**
   * How often rooms without entries will still be looked for. An older store that is open makes such rooms until it
   * next looks at the settings.
   */
  looksForRooms: number;
}

function partsOf(client: JetStreamClient, { opTimeoutMs, prefix, onRollout, cacheBytes }: JetStreamInput): Parts {
  const userCache = new UserCache((cacheBytes * 3) / 8);
  const bucket = bucketsOf(client, prefix, cacheBytes, userCache);
  const { rooms } = bucket;
  const joined = new JoinedRows(cacheBytes / 4);
  const doubted = (): void => {
    joined.clear();
  };
  rooms.onDoubt = bucket.members.onDoubt = doubted;
  const background = new Background();
  const sweepIndex = (entries: readonly Key<"rooms_by_member">[]): void => {
    background.run(opTimeoutMs, "end", async (own) => {
      await rooms.checkOpen(rooms.highestSeen, own);
      await sweep.indexEntries(entries, own);
    });
  };
  const cleanUp = (work: CleanUp, timeoutMs?: number): void => {
    // What takes longer than an operation is not waited for. Another store begins it anew, later.
    if (timeoutMs === undefined) background.run(opTimeoutMs, "finish", work);
    else background.run(timeoutMs, "end", work);
  };
  const index = new RoomIndex(rooms, bucket.membersByEndpoint, sweepIndex);
  const records = new RoomRecords(bucket, cleanUp, index, seenBytesOf(cacheBytes));
  const members = new RoomMembers(records, joined);
  const sweep = new Sweep(records);
  const userViews = new UserViews(bucket.users);
  const versions = new ServerVersions(client);
  return {
    client,
    background,
    rooms,
    buckets: Object.values(bucket),
    users: bucket.users,
    userCache,
    userViews,
    userPages: new UserPages(bucket.users),
    guard: new AdminGuard(bucket.users, userViews),
    index,
    log: new RoomLog(records),
    members,
    sweep,
    memberships: new Memberships(records, members, sweepIndex),
    versions,
    rollout: new Rollout(client, new ReplicaFloors(rooms), versions, background, onRollout),
    settings: new SettingsFence(client, bucket.users, [rooms, bucket.roomKeys]),
    looksForRooms: 0,
  };
}

/**
 * An eighth of the memory is for what was seen: of the records of each of the five buckets, and of the members' rows.
 */
const seenBytesOf = (cacheBytes: number): number => cacheBytes / 48;

/**
 * How many records one request may ask for goes by how large they can be: a room has up to a full head, a key up to 64
 * KiB. See {@link Limits}.
 */
function bucketsOf(client: JetStreamClient, prefix: string, cacheBytes: number, userCache: UserCache) {
  const seenBytes = seenBytesOf(cacheBytes);
  const plain = <B extends BucketName>(bucket: B, maxFilters: number) =>
    new Bucket(client, prefix, bucket, { maxFilters, seenBytes });
  const proved = <B extends CommittingBucket, V>(
    bucket: B,
    maxFilters: number,
    cache: Cache<B, V>,
    valueOf: (entry: Entry<B>) => V,
  ) => new ProvedBucket(client, prefix, bucket, { maxFilters, seenBytes }, cache, valueOf);
  const rooms = proved("rooms", 200, new RecordCache(cacheBytes / 4, readRoom), readRoom);
  const roomKeys = plain("room_keys", 40);
  const notTaken = (call: Call): Promise<void> => rooms.checkNotSource(call);
  roomKeys.onNotTaken = notTaken;
  return {
    rooms,
    members: plain("members", 500),
    membersByEndpoint: plain("rooms_by_member", 900),
    roomKeys,
    users: proved("users", 900, userCache, stateOf),
  };
}

interface Opened {
  readonly one: AnyBucket;
  readonly state: StreamState;
}

/**
 * Makes sure of the servers, of the buckets, and of what has to stand in them. Answers the buckets that are to be
 * raised, or to be told of.
 */
async function prepare(
  parts: Parts,
  { reopenMoved }: JetStreamInput,
  replicas: Replicas | undefined,
  progress: Progress,
  call: Call,
): Promise<readonly AnyBucket[]> {
  const { client, buckets, rooms, users, guard, index, rollout } = parts;
  progress.begin("server");
  await checkServer(client, parts.versions, call);
  const found = await ensureBuckets(parts, replicas, progress, call);
  progress.begin("quorum");
  // A barrier in each bucket shows that its quorum is there. From then on every read finds the barrier's key.
  await Promise.all(buckets.map((one) => one.readIndex(call)));
  const older = found.filter(({ state }) => state.format < FORMAT);
  if (older.length > 0) await raiseFormats(client, older, progress, call);
  progress.begin("users");
  await prepareStates(parts, call);
  let states = await Promise.all([rooms.prepareState(call), users.prepareState(call)]);
  if (states.some(({ isOpening }) => isOpening)) {
    await finishOpening(users, rooms, call);
    states = await Promise.all([rooms.prepareState(call), users.prepareState(call)]);
  }
  const isFenced = found.some(({ state }) => fenceIn(state.config) !== undefined);
  if (isFenced || states.some(({ isSource }) => isSource)) await followIfPossible(parts, call);
  const moved = states.find(({ isMoved }) => isMoved)?.refusal;
  if (moved !== undefined && !reopenMoved) throw moved;
  // Where the store is closed, whoever writes into it makes what is missing.
  if (states.some(({ refusal }) => refusal !== undefined)) {
    progress.end();
    return [];
  }
  const [isIndexed] = await Promise.all([index.isComplete(call), guard.prepare(call)]);
  if (!isIndexed) {
    progress.begin("index", found.find(({ one }) => one === rooms)?.state.messages);
    await index.follow(call, undefined, (by) => {
      progress.advance(by);
    });
  }
  progress.end();
  parts.looksForRooms = older.length > 0 || !isIndexed ? LOOKS_FOR_ROOMS : 0;
  const lacking = found.find(({ state }) => replicas !== undefined && state.replicas < replicas);
  if (replicas !== undefined && lacking !== undefined) {
    // What can be known at once is said at once. If this bucket cannot have more replicas, none can.
    await rollout.request(lacking.one, replicas, call);
    return buckets;
  }
  const untold: AnyBucket[] = [];
  for (const { one, state } of found) {
    const floor = await rollout.putRight(one, state, call);
    // Whoever raised it was not told as done, and may have ended.
    if (floor !== undefined && replicas !== undefined && replicas > 1 && floor < replicas) untold.push(one);
  }
  return untold;
}

/**
 * Makes sure that there are both records of whether the store may be used, and finds out by them whether `users` or
 * `rooms` was lost. The argument: docs/protocol.md, L5.
 */
async function prepareStates({ users, rooms, guard, log }: Parts, call: Call): Promise<void> {
  for (let lostBefore: string | undefined; ;) {
    const [hasGuard, inUsers, inRooms] = await Promise.all([
      guard.isThere(call),
      users.hasState(call),
      rooms.hasState(call),
    ]);
    if (inUsers && inRooms) return;
    let lost: string | undefined;
    if (inUsers && hasGuard) lost = rooms.name;
    else if (inRooms && !hasGuard) lost = users.name;
    else if (!inUsers && !inRooms && !hasGuard && (await hasRooms(log.buckets, call))) lost = users.name;
    if (lost === undefined) {
      const [first, second] = hasGuard ? [rooms, users] : [users, rooms];
      await first.prepareState(call);
      await second.prepareState(call);
      return;
    }
    // Another store may have been opening just then.
    if (lost === lostBefore) throw bucketLost(lost);
    lostBefore = lost;
  }
}

/** Whether there is a room, or what was of one. None is there before the first opening is over. */
async function hasRooms({ rooms, members, membersByEndpoint, roomKeys }: RoomBuckets, call: Call): Promise<boolean> {
  const found = await Promise.all([
    rooms.newest(keys.rooms, call),
    members.newest(keys.ofRooms, call),
    membersByEndpoint.newest(keys.ofRooms, call),
    roomKeys.newest(keys.ofRooms, call),
  ]);
  return found.some((entry) => entry !== undefined);
}

async function ensureBuckets(
  { client, buckets, versions }: Parts,
  replicas: Replicas | undefined,
  progress: Progress,
  call: Call,
): Promise<readonly Opened[]> {
  let cluster: Promise<StoreError | undefined> | undefined;
  const beforeMaking = async (): Promise<void> => {
    const fault = await (cluster ??= versions.inCluster(call));
    if (fault !== undefined) throw fault;
  };
  progress.begin("buckets", buckets.length);
  const found = await Promise.all(
    buckets.map(async (one) => {
      const state = await ensureBucket(client, one.name, replicas, beforeMaking, call);
      progress.advance(1);
      return { one, state };
    }),
  );
  const fault = await versions.ofBuckets(new Map(found.map(({ one, state }) => [one.name, state.servers])), call);
  if (fault !== undefined) throw fault;
  progress.end();
  return found;
}

async function raiseFormats(
  client: JetStreamClient,
  older: readonly Opened[],
  progress: Progress,
  call: Call,
): Promise<void> {
  progress.begin("format", older.length);
  await Promise.all(
    older.map(async ({ one }) => {
      await raiseFormat(client, one.name, call);
      progress.advance(1);
    }),
  );
}

/** Looks at a bucket's settings, now and then while the bucket is used. */
async function look(parts: Parts, one: AnyBucket, call: Call): Promise<void> {
  const { client, versions, rooms, users, index, rollout } = parts;
  const state = await streamState(client, one.name, call);
  if (state === undefined) {
    one.drift = bucketRemoved(one.name);
    return;
  }
  const fault =
    incompatibility(one.name, state.config) ?? (await versions.ofBuckets(new Map([[one.name, state.servers]]), call));
  one.drift = fault;
  if (fault !== undefined) return;
  if (fenceIn(state.config) !== undefined || users.isSource) await followIfPossible(parts, call);
  if (state.format < FORMAT) await raiseFormat(client, one.name, call);
  if (one === rooms && parts.looksForRooms > 0) {
    parts.looksForRooms--;
    await index.follow(call, ROOMS_AT_OPENING);
  }
  await rollout.putRight(one, state, call);
}

/** Whoever moved the store may have died before its settings said so. Who may not change them leaves them. */
async function followIfPossible({ settings }: Parts, call: Call): Promise<void> {
  try {
    await settings.follow(call);
  } catch (error) {
    if (!isUnavailable(error)) throw error;
  }
}

function driverOf(
  parts: Parts,
  { maxStalenessMs, opTimeoutMs, prefix }: JetStreamInput,
  close: () => Promise<void>,
): Driver {
  const { client, log, members, memberships, index, users, userCache, userViews, userPages, guard, settings } = parts;
  const lifecycle = new RoomLifecycle(log, index);
  const checks = new JetStreamChecks(users, userCache, members, maxStalenessMs);
  return {
    backend: "jetstream",
    rooms: new JetStreamRooms(log, lifecycle, members, memberships, index),
    members: new JetStreamMembers(log, members, new RosterCopies(log, members), memberships),
    roomKeys: new JetStreamRoomKeys(log, members),
    users: new JetStreamUsers(users, userViews, guard, userPages),
    checks,
    ...records({ users, userViews, userPages, guard, log, members, index, lifecycle, settings }, client, prefix),
    inspection: inspection({ ...parts, lifecycle, opTimeoutMs }),
    changes: changes({ users, userViews, userPages, log, members, index }),
    grants: grants({ users, checks, log, members }),
    close,
  };
}
