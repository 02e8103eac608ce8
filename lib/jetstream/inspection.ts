/**
 * What is looked at of a store in JetStream: the settings, whether the store may be used, and then each bucket message
 * by message, in an order in which each is looked at with what the ones before said. What seems wrong is looked at
 * again, as certain, because replicas lag and others write meanwhile.
 */
import type { Call } from "../call.js";
import type { InspectionDriver, InspectionStep, Inspector, RecordReader } from "../driver.js";
import { isCorrupt } from "../errors.js";
import type { Found } from "../findings.js";
import type { AnyBucket, Bucket } from "./bucket.js";
import type { JetStreamClient } from "./client.js";
import type { Entry } from "./entry.js";
import { ReplicaFloors } from "./floors.js";
import { inParallel, joinAll } from "./join.js";
import { asObject } from "./json.js";
import { readEpoch, readKey } from "./key-record.js";
import {
  endpointOf,
  keys,
  parseIndexEntry,
  parseKey,
  parseMember,
  parseRoom,
  parseRoomIndexEntry,
  parseUser,
  token,
  type Key,
} from "./keys.js";
import { Leftovers, MANY_LEFTOVERS } from "./leftovers.js";
import { isBarrier } from "./own-barriers.js";
import { bucketRemoved, incompatibility, streamState } from "./provisioning.js";
import { RawPages, type RawMessage } from "./raw-pages.js";
import { Fields, unlessCorrupt } from "./record-fields.js";
import { BucketsReader } from "./record-reader.js";
import { readerFacts } from "./records.js";
import type { Writable } from "./record-writer.js";
import { RoomInspection } from "./room-inspection.js";
import { readMember, readRoom } from "./room-record.js";
import { readGuard } from "./user-record.js";
import type { RoomIndex, RoomPage } from "./room-index.js";
import type { RoomBuckets } from "./room-records.js";
import type { BucketName, Seq } from "./seq.js";
import { STATE, StoreState, type CommittingBucket } from "./store-state.js";
import type { Sweep } from "./sweep.js";
import { UserInspection } from "./user-inspection.js";

/** Rooms that are looked at together. */
const ROOMS_AT_ONCE = 16;

export interface Inspected extends Writable {
  readonly client: JetStreamClient;
  readonly buckets: readonly AnyBucket[];
  readonly sweep: Sweep;
  /** How long a call of a store takes at most, by this store's own options. */
  readonly opTimeoutMs: number;
}

export function inspection(parts: Inspected): InspectionDriver {
  return {
    begin: async (repair, call) => {
      const inspector = new BucketsInspector(parts, repair);
      await inspector.begin(call);
      return inspector;
    },
  };
}

interface Part {
  readonly phase: string;
  readonly total?: number;
  /** `undefined`: it is over. */
  readonly next: (call: Call) => Promise<{ readonly done: number; readonly findings: readonly Found[] } | undefined>;
}

const STATES: ReadonlySet<unknown> = new Set([
  "open",
  "importing",
  "complete",
  "opening",
  "moving",
  "leaving",
  "moved",
]);
/** What nobody reads that is not of the store, and what cannot be read and might be of anything. */
const FOREIGN = "It is at no key of this library. Nobody reads it: look who wrote it";
const DAMAGED = "It cannot be read, and what it was nobody can tell: restore a backup";

const found = (code: Found["code"], record: string, message: string, repaired = false): Found => ({
  code,
  message,
  record,
  repaired,
});

/** Whether each of these tokens is one that an id has. */
const areIds = (...tokens: readonly (readonly [text: string | undefined, id: string])[]): boolean =>
  tokens.every(([text, id]) => token(id) === text);

class BucketsInspector implements Inspector {
  readonly isExact = false;
  readonly #parts: Inspected;
  readonly #repair: boolean;
  readonly #users: UserInspection;
  readonly #rooms: RoomInspection;
  readonly #leftovers: Leftovers;
  /** Rooms that cannot be read, and with them those in which something is wrong. */
  readonly #badRooms = new Set<string>();
  readonly #doubted = new Set<string>();
  readonly #badUsers = new Set<string>();
  /** Rooms of which something was repaired that kept them from being looked at. */
  readonly #repaired = new Set<string>();
  #isGuardDamaged = false;
  /** Nothing else can be looked at. */
  #isUnfit = false;
  #waiting: Part[] = [];

  constructor(parts: Inspected, repair: boolean) {
    const { users, userViews, log, members, index, sweep, opTimeoutMs } = parts;
    this.#parts = parts;
    this.#repair = repair;
    this.#users = new UserInspection(users, userViews, repair);
    this.#rooms = new RoomInspection(log, members, index, repair);
    this.#leftovers = new Leftovers(log.records, sweep, { repair, graceMs: opTimeoutMs, doubted: this.#doubted });
  }

  async begin(call: Call): Promise<void> {
    const { buckets } = this.#parts;
    const settings = await this.#settings(call);
    const isSound = settings.every(({ code }) => code === "REPLICAS_MISSING");
    const states = isSound ? await this.#states(call) : [];
    const findings = [...settings, ...states];
    this.#isUnfit = !isSound || states.length > 0;
    this.#waiting = [once("settings", () => Promise.resolve({ done: buckets.length, findings }))];
    if (!this.#isUnfit) this.#waiting.push(...this.#phases());
  }

  #phases(): Part[] {
    const { users, log } = this.#parts;
    const { rooms, members, membersByEndpoint, roomKeys } = log.buckets;
    return [
      pages("users", users, (met, call) => this.#ofUsers(met, call)),
      once("admins", async (call) => ({ done: 1, findings: await this.#users.guard(call) })),
      pages("rooms", rooms, (met, call) => this.#ofRooms(met, call)),
      pages("members", members, (met, call) => this.#staged("members", members, met, call)),
      pages("roomKeys", roomKeys, (met, call) => this.#staged("room_keys", roomKeys, met, call)),
      pages("index", membersByEndpoint, (met, call) => this.#staged("rooms_by_member", membersByEndpoint, met, call)),
      once("repaired", (call) => this.#ofRepaired(call)),
      {
        phase: "leftovers",
        next: async (call) => {
          const findings = await this.#leftovers.again(call);
          return findings === undefined ? undefined : { done: findings.length, findings };
        },
      },
    ];
  }

  async next(call: Call): Promise<InspectionStep | undefined> {
    for (let part = this.#waiting[0]; part !== undefined; part = this.#waiting[0]) {
      const step = await part.next(call);
      if (step !== undefined) return { phase: part.phase, ...step };
      this.#waiting.shift();
    }
    return undefined;
  }

  async #settings(call: Call): Promise<Found[]> {
    const { client, buckets, log } = this.#parts;
    const looked = await joinAll(
      buckets.map(async ({ name }) => ({ name, state: await streamState(client, name, call) })),
    );
    const faults = looked.flatMap(({ name, state }): Found[] => {
      const fault = state === undefined ? bucketRemoved(name) : incompatibility(name, state.config);
      if (fault === undefined) return [];
      return [found("SETTING_INVALID", name, `${fault.message}. Nothing else was looked at`)];
    });
    if (faults.length > 0) return faults;
    const floors = new ReplicaFloors(log.buckets.rooms);
    for (const { name, state } of looked) {
      const floor = await floorOf(floors, name, call);
      const replicas = state?.replicas ?? 0;
      if (replicas < floor) {
        const message = `It was raised to ${String(floor)} replicas, and has ${String(replicas)}: an operator lowered it, or open a store with that many`;
        faults.push(found("REPLICAS_MISSING", name, message));
      }
      const peers = state?.cluster["replicas"];
      for (const peer of Array.isArray(peers) ? peers.map(asObject) : [])
        if (peer["offline"] === true)
          faults.push(found("REPLICAS_MISSING", name, `A replica is offline: server ${String(peer["name"])}`));
    }
    return faults;
  }

  /** Throws what is said of a store that is closed. */
  async #states(call: Call): Promise<Found[]> {
    const { users, log } = this.#parts;
    const read = async <B extends CommittingBucket>(bucket: Bucket<B>): Promise<StoreState | Found> => {
      const wrong = (what: string): Found =>
        found(
          "STATE_INVALID",
          `${bucket.name}: ${STATE}`,
          `${what}. It is not mended, since that would open the store, and nothing else was looked at: restore a backup, or open the store anew where the record is missing`,
        );
      try {
        const { entry } = await bucket.readLinearizable(STATE, call);
        if (entry === undefined) return wrong("Nothing says whether the store may be used, and so it denies everybody");
        if (STATES.has(entry.value["state"])) return new StoreState(entry);
        return wrong("What it says of whether the store may be used no version of the library has said");
      } catch (error) {
        if (isCorrupt(error)) return wrong("It cannot be read, and so the store denies everybody");
        throw error;
      }
    };
    const states = [await read(users), await read(log.buckets.rooms)];
    const wrong = states.flatMap((state) => (state instanceof StoreState ? [] : [state]));
    if (wrong.length > 0) return wrong;
    for (const state of states) if (state instanceof StoreState && state.refusal !== undefined) throw state.refusal;
    return [];
  }

  async #ofUsers(met: readonly RawMessage<"users">[], call: Call): Promise<Found[]> {
    const { users } = this.#parts;
    const findings: Found[] = [];
    for (const message of met) {
      const { key, entry } = message;
      const user = parseUser(key as Key<"users">);
      const isOurs = user === undefined ? isCommon(key) || key === keys.admins : areIds([key.split(".")[1], user]);
      const at = this.#place(users, message, isOurs);
      if (at !== undefined) findings.push(at);
      const isWhole = entry !== undefined && at === undefined;
      if (isWhole && !hasPossibleHistory(entry)) findings.push(impossible(users, key));
      if (user === undefined) {
        if (key !== keys.admins) continue;
        const isReadable = isWhole && unlessCorrupt(() => readGuard(entry)) !== undefined;
        if (isWhole && !isReadable) findings.push(damaged(users, key));
        this.#isGuardDamaged ||= !isReadable;
        continue;
      }
      const fault = isWhole ? await this.#users.user(entry, call) : "damaged";
      if (fault === "damaged" && at === undefined) findings.push(damaged(users, key));
      if (fault !== undefined && fault !== "damaged") findings.push(fault);
      if (fault === "damaged") this.#badUsers.add(key);
    }
    return findings;
  }

  async #ofRooms(met: readonly RawMessage<"rooms">[], call: Call): Promise<Found[]> {
    const { rooms } = this.#parts.log.buckets;
    const findings: Found[] = [];
    const whole: string[] = [];
    for (const message of met) {
      const { key, entry } = message;
      const room = parseRoom(key as Key<"rooms">);
      const isOurs =
        room === undefined
          ? isCommon(key) || key === keys.replicas || key === keys.indexProgress
          : areIds([key.split(".")[1], room]);
      const at = this.#place(rooms, message, isOurs);
      if (key === keys.indexProgress) {
        findings.push(...(await this.#ofIndexProgress(message, at, call)));
        continue;
      }
      if (at !== undefined) findings.push(at);
      if (entry !== undefined && at === undefined && !hasPossibleHistory(entry)) findings.push(impossible(rooms, key));
      if (room === undefined) continue;
      const slot = entry === undefined || at !== undefined ? undefined : unlessCorrupt(() => readRoom(entry));
      if (slot === undefined) {
        if (at === undefined) findings.push(damaged(rooms, key));
        this.#badRooms.add(room);
        this.#doubted.add(room);
      } else if (slot.record !== undefined) whole.push(room);
    }
    findings.push(...(await this.#lookAtRooms(whole, call)));
    return findings;
  }

  /** How far the index of rooms is made. All of it can be made anew. */
  async #ofIndexProgress(
    { key, seq, entry }: RawMessage<"rooms">,
    at: Found | undefined,
    call: Call,
  ): Promise<readonly Found[]> {
    const { log, index } = this.#parts;
    if (at === undefined && entry !== undefined && Number(entry.value["upTo"]) < seq) return [];
    const message = "How far the index of all rooms is made cannot be told by it: it is made anew, by the next opening";
    const record = `${log.buckets.rooms.name}: ${key}`;
    if (this.#repair) await index.follow(call);
    return [found(at?.code ?? "RECORD_DAMAGED", record, message, this.#repair)];
  }

  async #ofRepaired(call: Call): ReturnType<Part["next"]> {
    if (this.#repaired.size === 0) return undefined;
    for (const room of this.#repaired) {
      this.#badRooms.delete(room);
      this.#doubted.delete(room);
    }
    return { done: this.#repaired.size, findings: await this.#lookAtRooms([...this.#repaired], call) };
  }

  async #lookAtRooms(rooms: readonly string[], call: Call): Promise<Found[]> {
    const findings: Found[] = [];
    await inParallel(rooms, ROOMS_AT_ONCE, async (room) => {
      const began = performance.now();
      const looked = await this.#rooms.room(room, call);
      findings.push(...looked.findings);
      if (!looked.isReadable) this.#badRooms.add(room);
      if (looked.isDoubted) this.#doubted.add(room);
      // However many there are: it is stuck only where nothing goes forward.
      call.extend((performance.now() - began) / ROOMS_AT_ONCE);
    });
    return findings;
  }

  /** Rows, keys and entries: each by itself, and whether something refers to it. */
  async #staged<B extends "members" | "room_keys" | "rooms_by_member">(
    of: B,
    bucket: Bucket<B>,
    met: readonly RawMessage<B>[],
    call: Call,
  ): Promise<Found[]> {
    const findings: Found[] = [];
    const staged: string[] = [];
    for (const message of met) {
      const { key, entry } = message;
      const roomId = roomOf(of, key);
      // What a long list ends at: nobody reads what it says.
      if (isBarrier(key) || (roomId === undefined && isMark(key))) continue;
      if (roomId !== undefined) staged.push(key);
      const at = this.#place(bucket, message, roomId !== undefined);
      const fault = at ?? (entry !== undefined && !isSound(of, entry) ? damaged(bucket, key) : undefined);
      if (fault === undefined) continue;
      const isMended = roomId !== undefined && (await this.#mendEntry(of, bucket, message, call));
      findings.push({ ...fault, repaired: isMended });
      if (roomId === undefined) continue;
      this.#badRooms.add(roomId);
      this.#doubted.add(roomId);
      if (isMended) this.#repaired.add(roomId);
    }
    if (this.#leftovers.count > MANY_LEFTOVERS) findings.push(...((await this.#leftovers.again(call)) ?? []));
    await this.#leftovers.meet(of, staged, call);
    return findings;
  }

  /** An entry of the index says all with its key: what stands there is always the same. */
  async #mendEntry<B extends BucketName>(of: B, bucket: Bucket<B>, at: RawMessage<B>, call: Call): Promise<boolean> {
    if (!this.#repair || of !== "rooms_by_member") return false;
    const key = at.key as Key<B>;
    const isMine = (entry: Entry<B>): "yes" | "no" => (entry.key === key ? "yes" : "no");
    return (await bucket.write(key, {}, at.seq, call, isMine, "step")) !== undefined;
  }

  /** What is wrong with where a message stands, whatever it says. */
  #place(
    bucket: { readonly name: string },
    { key, entry, isMisplaced }: Omit<RawMessage<never>, "seq">,
    isOurs: boolean,
  ): Found | undefined {
    const record = `${bucket.name}: ${key}`;
    if (!isOurs) return found("RECORD_UNKNOWN", record, FOREIGN);
    if (isMisplaced) return found("RECORD_MISPLACED", record, `It says that it stands elsewhere. ${DAMAGED}`);
    return entry === undefined ? found("RECORD_DAMAGED", record, DAMAGED) : undefined;
  }

  async read(call: Call): Promise<RecordReader> {
    if (this.#isUnfit) return NOTHING;
    const { client, userPages, log, guard } = this.#parts;
    const isAdminEver = (): Promise<boolean> => (this.#isGuardDamaged ? Promise.resolve(true) : guard.adminEver(call));
    const facts = await readerFacts(this.#parts, client, isAdminEver, call);
    // A staged change is nothing without the guard.
    const isReadable = ({ key, value }: Entry<"users">): boolean =>
      !this.#badUsers.has(key) && !(this.#isGuardDamaged && value["stage"] !== undefined);
    const readable = {
      ...this.#parts,
      userPages: {
        page: (...[after, limit, isListed, own]: Parameters<typeof userPages.page>) =>
          userPages.page(after, limit, (entry) => isListed(entry) && isReadable(entry), own),
      },
      index: new SoundRooms(log.buckets, this.#badRooms),
    };
    return new BucketsReader(readable, { ...facts, revisionFloor: 0 });
  }

  mendRole(roomId: string, endpoint: string, call: Call): Promise<boolean> {
    return this.#rooms.mendRole(roomId, endpoint, call);
  }
}

/** What cannot be read is told where it is met. */
async function floorOf(floors: ReplicaFloors, name: string, call: Call): Promise<number> {
  try {
    return await floors.of(name, call);
  } catch (error) {
    if (isCorrupt(error)) return 0;
    throw error;
  }
}

function once(phase: string, look: Part["next"]): Part {
  let isOver = false;
  return {
    phase,
    next: async (call) => {
      if (isOver) return undefined;
      isOver = true;
      return look(call);
    },
  };
}

function pages<B extends BucketName>(
  phase: string,
  bucket: Bucket<B>,
  look: (met: readonly RawMessage<B>[], call: Call) => Promise<readonly Found[]>,
): Part {
  const raw = new RawPages(bucket);
  return {
    phase,
    next: async (call) => {
      const met = await raw.next(call);
      return met === undefined ? undefined : { done: met.length, findings: await look(met, call) };
    },
  };
}

const damaged = ({ name }: { readonly name: string }, key: string): Found =>
  found("RECORD_DAMAGED", `${name}: ${key}`, DAMAGED);

const impossible = ({ name }: { readonly name: string }, key: string): Found =>
  found(
    "RECORD_DAMAGED",
    `${name}: ${key}`,
    "What it tells of its own writes cannot have been, so that no store has written it so. Whether the rest is right nobody can tell: look who wrote it",
  );

/**
 * Whether a record can have been written so often, and have stood before where it says. Nobody believes that it stood
 * behind itself, but of its writes its word counts.
 */
function hasPossibleHistory({ seq, value }: Entry<never>): boolean {
  const { n, seqs = [] } = value;
  if (n === undefined) return true;
  if (!Number.isSafeInteger(n) || Number(n) < 1 || Number(n) > seq) return false;
  const places: readonly unknown[] = Array.isArray(seqs) ? seqs : [undefined];
  return places.every(
    (at, i) => Number.isSafeInteger(at) && Number(at) > 0 && Number(at) < Number(places[i - 1] ?? seq),
  );
}

/** Of `rooms` and of `users`. */
const isCommon = (key: string): boolean => isBarrier(key) || key === STATE || /^import\.\d+$/.test(key);

const isMark = (key: string): boolean => key.split(".").includes("=");

/** Of which room it is. `undefined`: it is none of ours. */
function roomOf(of: "members" | "room_keys" | "rooms_by_member", key: string): string | undefined {
  switch (of) {
    case "members": {
      const at = parseMember(key as Key<"members">);
      const [room, endpoint] = key.split(".");
      return at !== undefined && areIds([room, at.roomId], [endpoint, endpointOf(key as Key<"members">)])
        ? at.roomId
        : undefined;
    }
    case "room_keys": {
      const at = parseKey(key as Key<"room_keys">);
      const [, room, endpoint] = key.split(".");
      if (at === undefined || !areIds([room, at.roomId])) return undefined;
      return at.membership === undefined || areIds([endpoint, at.membership.endpoint]) ? at.roomId : undefined;
    }
    case "rooms_by_member": {
      const at = parseIndexEntry(key as Key<"rooms_by_member">);
      const [endpoint, room] = key.split(".");
      if (at !== undefined) return areIds([room, at.roomId], [endpoint, at.endpoint]) ? at.roomId : undefined;
      const ofRoom = parseRoomIndexEntry(key as Key<"rooms_by_member">);
      return ofRoom !== undefined && areIds([room, ofRoom.roomId]) ? ofRoom.roomId : undefined;
    }
  }
}

/** Whether it can be read. */
function isSound<B extends BucketName>(of: B, entry: Entry<B>): boolean {
  const read = (): boolean => {
    if (of === "members") {
      readMember(entry as unknown as Entry<"members">);
      const fields = new Fields(entry.value, entry);
      if (fields.maybeText("publicKey") !== undefined) fields.bytes("publicKey");
    }
    if (of === "room_keys") {
      const key = entry as unknown as Entry<"room_keys">;
      if (parseKey(key.key)?.made === undefined) readEpoch(key);
      else readKey(key);
    }
    return true;
  };
  return unlessCorrupt(read) ?? false;
}

/** Of a store of which nothing can be read. */
const NOTHING: RecordReader = {
  expected: { users: 0, rooms: 0, members: 0, roomKeys: 0 },
  adminEver: false,
  revisionFloor: 0,
  next: () => Promise.resolve(undefined),
  close: () => Promise.resolve(),
};

/** The index of all rooms, without those that are too damaged to be read. */
class SoundRooms implements Pick<RoomIndex, "pageBesideCache"> {
  readonly #buckets: RoomBuckets;
  readonly #bad: ReadonlySet<string>;

  constructor(buckets: RoomBuckets, bad: ReadonlySet<string>) {
    this.#buckets = buckets;
    this.#bad = bad;
  }

  async pageBesideCache(after: Seq<"rooms_by_member">, limit: number, call: Call): Promise<RoomPage> {
    const { membersByEndpoint, rooms } = this.#buckets;
    const mark = keys.roomIndexMark;
    const end = (): Promise<Seq<"rooms_by_member">> => membersByEndpoint.touch(mark, call);
    const { entries, isEnd } = await membersByEndpoint.scans.portion(
      keys.roomIndexEntries,
      after,
      limit,
      end,
      call,
      mark,
    );
    const met = await joinAll(
      entries.map(async ({ key }) => {
        const at = parseRoomIndexEntry(key);
        if (at === undefined || this.#bad.has(at.roomId)) return [];
        const record = (await rooms.prove(keys.room(at.roomId), call))?.value.record;
        return record?.incarnation === at.incarnation ? [{ roomId: at.roomId, record }] : [];
      }),
    );
    return { rooms: met.flat(), next: isEnd ? undefined : (entries.at(-1)?.seq ?? after) };
  }
}
