/** What a check may believe: a record, and an absence, as of a moment after the check began. */
import type { Call } from "../call.js";
import type { AsyncCheckReads, ProofNote } from "../driver.js";
import { moment, msSince } from "../moment.js";
import type { UserFacts } from "../rules.js";
import type { JetStreamProof, User } from "../store.js";
import { hasActiveAdmin } from "./admin-guard.js";
import { joinBoth } from "./join.js";
import { keys, type Key } from "./keys.js";
import type { Proved, ProvedBucket } from "./proved-bucket.js";
import { RetryLoop } from "./retry-loop.js";
import type { RoomMembers } from "./room-members.js";
import type { Seq } from "./seq.js";
import type { UserCache, UserState } from "./user-cache.js";
import { factsOf, readUser, toUser, type GuardSlot, type UserRow } from "./user-record.js";
import { counts } from "./user-views.js";

/** So many records are remembered as staged. Of any other it is found out anew. */
const MAX_STAGED = 1024;

export class JetStreamChecks implements AsyncCheckReads {
  readonly synchronous = false;
  readonly maxStalenessMs: number;
  readonly #users: ProvedBucket<"users", UserState>;
  /** What that has in memory. */
  readonly #kept: UserCache;
  readonly #members: RoomMembers;
  /** Records that had a staged change when they were last met: they are proved together with the guard. */
  readonly #staged = new Set<Key<"users">>();

  constructor(users: ProvedBucket<"users", UserState>, kept: UserCache, members: RoomMembers, maxStalenessMs: number) {
    this.maxStalenessMs = maxStalenessMs;
    this.#users = users;
    this.#kept = kept;
    this.#members = members;
  }

  /** What a check needs of the user, as of a moment after this call. It decides, and says why a denial is one. */
  facts(key: string, call: Call, note?: ProofNote): Promise<UserFacts | undefined> {
    const recordKey = keys.user(key);
    const kept = this.#staged.has(recordKey) ? undefined : this.#users.proveKept(recordKey, call, note);
    if (kept === undefined) return this.#facts(key, call, note);
    // Nearly all checks end here. One promise more would be a good part of what they cost.
    return kept.then((found) => {
      if (found === undefined || found.value.slot !== undefined) return this.#facts(key, call, note);
      const { facts } = found.value;
      const opened = this.#users.checkOpen(found.asOf, call);
      return opened === undefined ? facts : opened.then(() => facts);
    });
  }

  async #facts(key: string, call: Call, note: ProofNote | undefined): Promise<UserFacts | undefined> {
    return (await this.#proved(key, call, note)).facts;
  }

  /** The whole user, as of a moment after this call. */
  async user(key: string, call: Call, note?: ProofNote): Promise<User | undefined> {
    const row = await this.row(key, call, note);
    return row === undefined ? undefined : toUser(row);
  }

  /** The same, with what callers do not see. */
  async row(key: string, call: Call, note?: ProofNote): Promise<UserRow | undefined> {
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      // The record and the proof come side by side. The proof is of this record if both stand at the same sequence.
      const [found, entry] = await joinBoth(this.#proved(key, call, note), this.#users.get(keys.user(key), call));
      if (found.facts === undefined) return undefined;
      if (found.row !== undefined) return found.row;
      if (entry?.seq !== found.seq) continue;
      const { user } = readUser(entry).record;
      if (user !== undefined) return user;
    }
  }

  /** What counts for the user at one moment after this call, and where the record stands. */
  async #proved(
    key: string,
    call: Call,
    note: ProofNote | undefined,
  ): Promise<{ facts?: UserFacts | undefined; seq?: Seq<"users">; row?: UserRow }> {
    const recordKey = keys.user(key);
    const isStaged = this.#staged.has(recordKey);
    const since = note === undefined ? undefined : moment();
    if (note !== undefined) note.place = undefined;
    const alone = isStaged ? undefined : await this.#users.prove(recordKey, call, note);
    if (!isStaged && alone?.value.slot === undefined) {
      await this.#users.checkOpen(alone?.asOf ?? this.#users.highestSeen, call);
      return alone === undefined ? {} : { facts: alone.value.facts, seq: alone.seq };
    }
    const [guard, user] = await this.#withGuard(recordKey, call);
    if (note !== undefined) {
      note.since = since;
      note.of = "users";
      note.place = user;
    }
    this.#noteStaged(recordKey, user?.value.slot !== undefined);
    await this.#users.checkOpen(user?.asOf ?? this.#users.highestSeen, call);
    if (user?.value.slot === undefined) return user === undefined ? {} : { facts: user.value.facts, seq: user.seq };
    const row = counts(user.value.slot, guard);
    return row === undefined ? {} : { facts: factsOf(row), seq: user.seq, row };
  }

  #noteStaged(recordKey: Key<"users">, isStaged: boolean): void {
    if (!isStaged) this.#staged.delete(recordKey);
    else if (this.#staged.size < MAX_STAGED) this.#staged.add(recordKey);
  }

  async #withGuard(
    recordKey: Key<"users">,
    call: Call,
  ): Promise<[guard: GuardSlot, user: Proved<"users", UserState> | undefined]> {
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      const [guard, user] = await this.#users.proveBoth(keys.admins, recordKey, call);
      // The guard is there since the opening: an answer without it proves nothing.
      if (guard?.value.guard !== undefined) return [guard.value.guard, user];
    }
  }

  /** Whether an admin is active, by one record however many users there are. */
  async admin(now: () => number, call: Call, note?: ProofNote): Promise<boolean> {
    const found = await this.#users.prove(keys.admins, call, note);
    await this.#users.checkOpen(found?.asOf ?? this.#users.highestSeen, call);
    const time = now();
    const guard = found?.value.guard?.guard;
    return guard !== undefined && hasActiveAdmin(guard, time);
  }

  joined(roomId: string, endpoint: string, call: Call, note?: ProofNote): Promise<boolean> {
    return this.#members.provedJoined(roomId, endpoint, call, note);
  }

  /** Both records are as of one moment of the log, so that the guard says what counts of a staged change. */
  recentFacts(key: string, maxStalenessMs: number, note?: ProofNote): UserFacts | undefined {
    const found = this.#users.recentOf(this.#kept.user(key), maxStalenessMs, note);
    if (found?.slot === undefined) return found?.facts;
    const guard = this.#users.recent(keys.admins, maxStalenessMs)?.guard;
    const row = guard === undefined ? undefined : counts(found.slot, guard);
    return row === undefined ? undefined : factsOf(row);
  }

  recentAdmin(now: number, maxStalenessMs: number, note?: ProofNote): boolean | undefined {
    const guard = this.#users.recent(keys.admins, maxStalenessMs, note)?.guard?.guard;
    return guard === undefined ? undefined : hasActiveAdmin(guard, now);
  }

  recentlyJoined(roomId: string, endpoint: string, maxStalenessMs: number, note?: ProofNote): boolean | undefined {
    return this.#members.recentlyJoined(roomId, endpoint, maxStalenessMs, note);
  }

  proof({ since, of, place }: ProofNote, monotonic: number, wall: number): JetStreamProof | undefined {
    if (since === undefined || place === undefined) return undefined;
    const provedAt = new Date(since.wall);
    const staleMs = msSince(since, monotonic, wall);
    const { seq, asOf } = place;
    return of === "rooms"
      ? { backend: "jetstream", provedAt, staleMs, rooms: { seq, asOf } }
      : { backend: "jetstream", provedAt, staleMs, users: { seq, asOf } };
  }
}
