/**
 * Grants in the buckets. What has changed in the logs that commit is read as in changes-feed.ts. But each user's record
 * has the number of its grant, and each membership an id of its own. So whoever knows these needs to be told nothing of
 * what was in between, and nothing is lost: where a log cannot tell what has changed, all that is wanted is read anew.
 * The argument: docs/protocol.md, M11 to M14.
 */
import type { Call } from "../call.js";
import type { ChangedGrants, GrantFeed, GrantsDriver, MemberGrant, UserGrant, WantedGrants } from "../driver.js";
import { isNotFound } from "../errors.js";
import { rosterOf } from "./changes-feed.js";
import type { JetStreamChecks } from "./checks.js";
import { CERTAIN } from "./freshness.js";
import { inParallel, joinBoth } from "./join.js";
import { keys, parseRoom, parseUser } from "./keys.js";
import { changedSince, type ChangedRange } from "./log-range.js";
import type { ProvedBucket } from "./proved-bucket.js";
import { unlessCorrupt } from "./record-fields.js";
import type { RoomLog } from "./room-log.js";
import type { RoomMembers } from "./room-members.js";
import { readRoom, type MemberRow } from "./room-record.js";
import { earlier, type Seq } from "./seq.js";
import { STATE, type CommittingBucket } from "./store-state.js";
import type { UserState } from "./user-cache.js";
import { readGuard, readUser, toUser, type Guard, type UserRow } from "./user-record.js";
import { counts } from "./user-views.js";

/** Where grants are read from. */
export interface GrantSources {
  readonly users: ProvedBucket<"users", UserState>;
  readonly checks: JetStreamChecks;
  readonly log: RoomLog;
  readonly members: RoomMembers;
}

/** Records that are read at once. */
const AT_ONCE = 64;

/** Up to where a log was read, and which log that is. */
interface Mark<B extends CommittingBucket> {
  readonly seq: Seq<B>;
  readonly log: number;
  readonly olders: number;
}

interface UsersMark extends Mark<"users"> {
  /** The guard as it stood there, or a moment later. */
  readonly guard: Guard;
}

/** A room whose members were told. */
interface ToldRoom {
  readonly incarnation: string;
  readonly v: number;
}

type MemberGrants = ReadonlyMap<string, MemberGrant | undefined>;

/** What was read in one go. It counts once all of it was. */
interface Taken {
  readonly users: Map<string, UserGrant | undefined>;
  readonly members: Map<string, MemberGrants>;
  readonly told: Map<string, ToldRoom | undefined>;
}

const OVER: ChangedGrants = { isOver: true, users: new Map(), members: new Map() };

export function grants(sources: GrantSources): GrantsDriver {
  return { follow: (wanted, call) => BucketsGrants.begin(sources, wanted, call) };
}

/**
 * Invariants, each with what goes red without it:
 *
 * 1. What is told is as of barriers that were sent after it was asked for: `sessions.spec.ts`, and the simulation.
 * 2. The log `rooms` is followed from before the first membership is read: the simulation.
 * 3. What is told of a room goes on from what was told before, or is all of it: the simulation.
 * 4. A store that was closed in between, or another log, ends all of it: `session-cases.ts`.
 */
class BucketsGrants implements GrantFeed {
  readonly #sources: GrantSources;
  readonly #wanted: WantedGrants;
  #users: UsersMark;
  /** `undefined`: nobody wants to know of a membership. */
  #rooms: Promise<Mark<"rooms">> | undefined;
  readonly #told = new Map<string, ToldRoom>();

  private constructor(sources: GrantSources, wanted: WantedGrants, users: UsersMark) {
    this.#sources = sources;
    this.#wanted = wanted;
    this.#users = users;
  }

  static async begin(sources: GrantSources, wanted: WantedGrants, call: Call): Promise<BucketsGrants> {
    return new BucketsGrants(sources, wanted, await usersMark(sources, call));
  }

  async user(key: string, call: Call): Promise<UserGrant | undefined> {
    const row = await this.#sources.checks.row(key, call);
    return row === undefined ? undefined : userGrant(row);
  }

  async member(roomId: string, endpoint: string, call: Call): Promise<MemberGrant | undefined> {
    await this.#roomsMark(call);
    try {
      const { member } = await this.#sources.members.member(roomId, endpoint, CERTAIN, call);
      return memberGrant(member.row);
    } catch (error) {
      if (isNotFound(error)) return undefined;
      throw error;
    }
  }

  async take(call: Call): Promise<ChangedGrants> {
    const { users, log } = this.#sources;
    const { rooms } = log.buckets;
    if (this.#wanted.members.size === 0) this.#rooms = undefined;
    const roomsMark = this.#wanted.members.size === 0 ? undefined : await this.#roomsMark(call);
    const [ofUsers, ofRooms] = await joinBoth(
      readLog(users, this.#users, call),
      roomsMark === undefined ? undefined : readLog(rooms, roomsMark, call),
    );
    if (ofUsers === "over" || ofRooms === "over") return OVER;
    if (ofUsers === "unknown" || ofRooms === "unknown") return this.#anew(call);
    const taken: Taken = { users: new Map(), members: new Map(), told: new Map() };
    const guard = this.#takeUsers(ofUsers, taken);
    if (ofRooms !== undefined) await this.#takeRooms(ofRooms, taken, call);
    this.#users = { ...ofUsers.mark, guard };
    if (ofRooms !== undefined) this.#rooms = Promise.resolve(ofRooms.mark);
    this.#remember(taken.told);
    return { isOver: false, users: taken.users, members: taken.members };
  }

  close(): void {
    this.#told.clear();
  }

  /** The log from before any membership is read. */
  #roomsMark(call: Call): Promise<Mark<"rooms">> {
    const begun = this.#rooms;
    if (begun !== undefined) return begun;
    const mark = markNow(this.#sources.log.buckets.rooms, call);
    this.#rooms = mark;
    mark.catch(() => {
      if (this.#rooms === mark) this.#rooms = undefined;
    });
    return mark;
  }

  /** All that is wanted, after new marks: the logs do not tell what has changed. */
  async #anew(call: Call): Promise<ChangedGrants> {
    const mark = await usersMark(this.#sources, call);
    const rooms = await markNow(this.#sources.log.buckets.rooms, call);
    const before = await this.#rooms;
    if (mark.log !== this.#users.log || (before !== undefined && rooms.log !== before.log)) return OVER;
    const users = new Map<string, UserGrant | undefined>();
    const members = new Map<string, Map<string, MemberGrant | undefined>>();
    await inParallel([...this.#wanted.users.keys()], AT_ONCE, async (key) => {
      users.set(key, await this.user(key, call));
    });
    const wanted = [...this.#wanted.members].flatMap(([roomId, endpoints]) =>
      Array.from(endpoints.keys(), (endpoint) => ({ roomId, endpoint })),
    );
    await inParallel(wanted, AT_ONCE, async ({ roomId, endpoint }) => {
      const found = await this.member(roomId, endpoint, call);
      const ofRoom = members.get(roomId);
      if (ofRoom === undefined) members.set(roomId, new Map([[endpoint, found]]));
      else ofRoom.set(endpoint, found);
    });
    this.#users = mark;
    this.#rooms = Promise.resolve(rooms);
    this.#told.clear();
    return { isOver: false, users, members };
  }

  #takeUsers({ entries }: ChangedRange<"users">, { users }: Taken): Guard {
    const guardEntry = entries.get(keys.admins);
    const guard = guardEntry === undefined ? this.#users.guard : readGuard(guardEntry).guard;
    for (const entry of entries.values()) {
      const key = parseUser(entry.key);
      if (key === undefined || !this.#wanted.users.has(key)) continue;
      const slot = unlessCorrupt(() => readUser(entry));
      const row = slot === undefined ? undefined : counts(slot, { seq: 0, guard });
      users.set(key, row === undefined ? undefined : userGrant(row));
    }
    const { head } = guard;
    // The guard has committed a change of a record that stands as it did. A head of before may be older than the
    // record.
    const isNew = head !== undefined && head.attempt !== this.#users.guard.head?.attempt;
    if (isNew && this.#wanted.users.has(head.user.key) && !entries.has(keys.user(head.user.key)))
      users.set(head.user.key, userGrant(head.user));
    return guard;
  }

  async #takeRooms({ entries }: ChangedRange<"rooms">, taken: Taken, call: Call): Promise<void> {
    const changed = [...entries.values()].flatMap((entry) => {
      const roomId = parseRoom(entry.key);
      const endpoints = roomId === undefined ? undefined : this.#wanted.members.get(roomId);
      return roomId === undefined || endpoints === undefined
        ? []
        : [{ roomId, endpoints: [...endpoints.keys()], entry }];
    });
    await inParallel(changed, AT_ONCE, async ({ roomId, endpoints, entry }) => {
      const record = unlessCorrupt(() => readRoom(entry))?.record;
      const told = this.#told.get(roomId);
      const isNext = told?.incarnation === record?.incarnation && (record?.v ?? Infinity) <= (told?.v ?? 0) + 1;
      if (record !== undefined && told !== undefined && isNext && record.head.length > 0) {
        // The head is the last change of the members, and there was no other one.
        const rows = record.head
          .filter(({ row }) => row.v > told.v)
          .map(({ endpoint, row }) => [endpoint, row] as const);
        taken.members.set(roomId, memberGrants(new Map(rows), endpoints, false));
        taken.told.set(roomId, { incarnation: record.incarnation, v: record.v });
        return;
      }
      const roster = record === undefined ? undefined : await rosterOf(this.#sources, roomId, call);
      taken.members.set(roomId, memberGrants(roster?.members ?? new Map(), endpoints, true));
      taken.told.set(
        roomId,
        roster === undefined
          ? undefined
          : { incarnation: roster.room.record.incarnation, v: Math.max(roster.v, roster.room.record.v) },
      );
    });
  }

  #remember(told: Taken["told"]): void {
    for (const [roomId, room] of told) {
      if (room === undefined) this.#told.delete(roomId);
      else this.#told.set(roomId, room);
    }
    for (const roomId of this.#told.keys()) if (!this.#wanted.members.has(roomId)) this.#told.delete(roomId);
  }
}

const userGrant = (row: UserRow): UserGrant => ({ user: toUser(row), grant: row.grant });

const memberGrant = (row: MemberRow | undefined): MemberGrant | undefined =>
  row === undefined || row.gone ? undefined : { joined: row.joined, membership: row.id };

/** `isAll`: who has no row is no member. */
function memberGrants(
  rows: ReadonlyMap<string, MemberRow>,
  endpoints: readonly string[],
  isAll: boolean,
): MemberGrants {
  const wanted = isAll ? endpoints : endpoints.filter((endpoint) => rows.has(endpoint));
  return new Map(wanted.map((endpoint) => [endpoint, memberGrant(rows.get(endpoint))]));
}

/**
 * The log up to a barrier that is sent after this call. One that was acknowledged while the log was in doubt may stand
 * in another log. Then the next reading begins before it: what was told may be told again.
 */
async function markNow<B extends CommittingBucket, V>(bucket: ProvedBucket<B, V>, call: Call): Promise<Mark<B>> {
  const { log, olders } = await bucket.recognized(call);
  const seq = await bucket.readIndex(call);
  const { upTo } = await bucket.recognized(call);
  return { seq: earlier(seq, upTo), log, olders };
}

async function usersMark({ users }: GrantSources, call: Call): Promise<UsersMark> {
  const mark = await markNow(users, call);
  await users.checkOpen(mark.seq, call);
  return { ...mark, guard: readGuard((await users.readLinearizable(keys.admins, call)).entry).guard };
}

/**
 * What changed in one of the logs that commit. `unknown`: it cannot be told. `over`: it may be another log, or whole
 * records were written.
 */
async function readLog<B extends CommittingBucket, V>(
  bucket: ProvedBucket<B, V>,
  mark: Mark<B>,
  call: Call,
): Promise<(ChangedRange<B> & { readonly mark: Mark<B> }) | "over" | "unknown"> {
  const found = await changedSince(bucket, mark.seq, call);
  await bucket.checkOpen(found?.upTo ?? (await bucket.readIndex(call)), call);
  const { log, olders, upTo } = await bucket.recognized(call);
  if (log !== mark.log || found?.entries.has(STATE) === true) return "over";
  if (found !== undefined && olders === mark.olders)
    return { ...found, mark: { seq: earlier(found.upTo, upTo), log, olders } };
  // The state of the store is known as of the barrier by now. One that stands behind the mark says that it was closed
  // since.
  return Promise.resolve(bucket.checkOpen(mark.seq, call)).then(
    () => "unknown",
    () => "over",
  );
}
