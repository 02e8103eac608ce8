/** Members as they stand: what `members` holds of a room, with the head of the room's record laid over it. */
import type { Call } from "../call.js";
import type { ProofNote } from "../driver.js";
import type { MemberFacts } from "../rules.js";
import type { Entry } from "./entry.js";
import { CERTAIN, asRead, madeOf, type Freshness, type Read, type Round, type Rules } from "./freshness.js";
import { joinAll, joinBoth } from "./join.js";
import type { JoinedRows } from "./joined-rows.js";
import { endpointOf, keys, type MembershipRef } from "./keys.js";
import { RetryLoop } from "./retry-loop.js";
import { readMember, type MemberRow, type RoomRecord, type PlacedRow } from "./room-record.js";
import type { Seq } from "./seq.js";
import { roomOf } from "./room-records.js";
import type { LiveRoom, RoomRecords } from "./room-records.js";

/** A member as it stands: its row, and the sequence that the next row must follow. */
export interface CurrentMember {
  /** `undefined`: not a member. */
  readonly row: MemberRow | undefined;
  /**
   * Sequence of the last row in the bucket, 0 if there is none. `undefined`: the row is a head that the bucket does not
   * have yet.
   */
  readonly expectedSeq: Seq<"members"> | undefined;
  /** Whether `expectedSeq` was proved. What any replica may have said has to be fenced before a commit rests on it. */
  readonly isCertain: boolean;
}

/** Members of a room, as of one version of it. */
export interface Roster<F extends Freshness> {
  readonly room: Read<LiveRoom, F | "certain">;
  readonly v: number;
  readonly members: ReadonlyMap<string, MemberRow>;
  /** Includes members who were removed. */
  readonly everyone: ReadonlyMap<string, MemberRow>;
}

/**
 * Invariants, each with the spec that goes red without it:
 *
 * 1. A row counts only as of the record's `membersSeq` or later: `stale-reads.spec.ts`.
 * 2. No read of a member goes back behind a row, or a head, that this store has seen: the same.
 * 3. Whoever has no row is no member only if the room still names the roster that was looked at: `rosters.spec.ts`.
 * 4. A list is one version of the room, whole: the simulation, and the mutant "a list that does not count".
 */
export class RoomMembers {
  readonly #records: RoomRecords;
  readonly #joined: JoinedRows;

  constructor(records: RoomRecords, joined: JoinedRows) {
    this.#records = records;
    this.#joined = joined;
  }

  /**
   * The room and one of its members. If it is certain, both are as of one moment after the call: the row is at least as
   * new as the record demands.
   */
  async member<F extends Freshness>(
    roomId: string,
    endpoint: string,
    round: Round<F>,
    call: Call,
  ): Promise<{ room: Read<LiveRoom, F | "certain">; member: Read<CurrentMember, F | "certain"> }> {
    if (round.freshness === "certain") {
      for (const retries = new RetryLoop(call); ;) {
        await retries.next();
        const room = await this.#records.room(roomId, CERTAIN, call);
        const member = await this.#certain(room, endpoint, call);
        if (member !== undefined) return { room, member };
      }
    }
    // The row's key contains the roster, which only the record tells. So the newest row of any roster is read beside
    // the record: nearly always it is the right one.
    const { members } = this.#records.buckets;
    const [slot, newest] = await joinBoth(
      this.#records.slot(roomId, round.freshness, call),
      members.newest(keys.memberOfAny(roomId, endpoint), call),
    );
    const room = roomOf(roomId, slot, round);
    const key = keys.member(roomId, endpoint, room.record.roster);
    const ofAnyReplica = async () => asRead(round.freshness, await this.#ofAnyReplica(room, endpoint, call));
    const stored = newest?.key === key ? storedRow(newest) : undefined;
    const head = room.record.head.find((candidate) => candidate.endpoint === endpoint);
    if (stored === undefined && head === undefined) return { room, member: await ofAnyReplica() };
    const v = Math.max(stored?.row.v ?? 0, head?.row.v ?? 0);
    if (this.#records.seenRows.allow(key, v) !== "yes") return { room, member: await ofAnyReplica() };
    this.#records.seenRows.note(key, v);
    return { room, member: asRead(round.freshness, currentMember(room.record, endpoint, stored, false)) };
  }

  /**
   * Members of a room that was read before, in the order asked for. If the room has changed since, the commit fails by
   * its sequence. `undefined`: it has changed, and who seems to be no member may be one.
   */
  async currentMembers<E extends readonly string[], F extends Freshness>(
    room: Read<LiveRoom, F>,
    endpoints: E,
    freshness: F,
    call: Call,
  ): Promise<{ [K in keyof E]: Read<CurrentMember, F> } | undefined> {
    const found = await joinAll(
      endpoints.map((endpoint) =>
        freshness === "any" ? this.#ofAnyReplica(room, endpoint, call) : this.#certain(room, endpoint, call),
      ),
    );
    return found.includes(undefined) ? undefined : (found as { [K in keyof E]: Read<CurrentMember, F> });
  }

  /** As any replica has it, but never older than this store has seen it. */
  async #ofAnyReplica(room: LiveRoom, endpoint: string, call: Call): Promise<CurrentMember> {
    const { record } = room;
    const key = keys.member(room.id, endpoint, record.roster);
    let isAskedAgain = false;
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      const stored = storedRow(await this.#records.buckets.members.get(key, call));
      // If the head replaces the row, the head's version counts.
      const head = record.head.find((candidate) => candidate.endpoint === endpoint);
      const allowed = this.#records.seenRows.allow(key, Math.max(stored?.row.v ?? 0, head?.row.v ?? 0));
      if (allowed === "no" && stored !== undefined && !isAskedAgain) {
        isAskedAgain = true;
        continue;
      }
      // This store may have seen the head of a newer record. Its row comes into the bucket only with the next change.
      if (allowed === "unknown" || (allowed === "no" && stored !== undefined))
        return (await this.#certain(room, endpoint, call)) ?? currentMember(record, endpoint, stored, false);
      if (stored !== undefined) this.#records.seenRows.note(key, stored.row.v);
      return currentMember(record, endpoint, stored, false);
    }
  }

  /** As it is at a moment after this call. `undefined`: the rows that the record names may have been removed since. */
  async #certain(room: LiveRoom, endpoint: string, call: Call): Promise<Read<CurrentMember, "certain"> | undefined> {
    const { record } = room;
    const key = keys.member(room.id, endpoint, record.roster);
    // The record was read before. So every row that it demands was there before the fence.
    const read = await this.#records.buckets.members.readLinearizable(key, call);
    const { entry, asOf } = read;
    this.#records.buckets.members.demand(record.membersSeq, asOf);
    const stored = storedRow(entry);
    if (stored !== undefined) this.#records.seenRows.note(key, stored.row.v);
    const member = madeOf(read, currentMember(record, endpoint, stored, true));
    if (member.row !== undefined || stored !== undefined) return member;
    // If the room was deleted or its rows were copied, none of the rows that the record names are left.
    const now = await this.#records.slot(room.id, "certain", call);
    return now.record?.roster === record.roster ? member : undefined;
  }

  /** Whether the endpoint has joined the room, as of a moment after this call. */
  async provedJoined(roomId: string, endpoint: string, call: Call, note?: ProofNote): Promise<boolean> {
    const { rooms, members } = this.#records.buckets;
    const key = keys.room(roomId);
    let proved = (await rooms.proveKept(key, call, note)) ?? (await rooms.prove(key, call, note));
    const opened = rooms.checkOpen(proved?.asOf ?? rooms.highestSeen, call);
    if (opened !== undefined) await opened;
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      if (proved === undefined) return false;
      this.#records.met(roomId, proved.value);
      const { record } = proved.value;
      if (record === undefined) return false;
      // The record is proved. Its head is newer than any row.
      const head = record.head.find((candidate) => candidate.endpoint === endpoint)?.row;
      if (head !== undefined) return head.joined && !head.gone;
      const joined = await this.#joined.prove(members, keys.member(roomId, endpoint, record.roster), record, call);
      if (typeof joined === "boolean") return joined;
      const { seq } = proved;
      proved = await rooms.prove(key, call, note);
      // A row comes into the bucket only after the record of its version.
      if (joined === "newer" && proved?.seq === seq) rooms.isOlder({ roomId });
      await rooms.checkOpen(proved?.asOf ?? rooms.highestSeen, call);
      // No row means no membership, but only if the record still names this roster: the rows of a roster that was
      // copied are removed.
      if (joined === "none" && proved?.value.record?.roster === record.roster) return false;
    }
  }

  /**
   * The same from memory, if that misses nothing that was acknowledged more than `maxStalenessMs` ago. `undefined`: it
   * has to be proved.
   */
  recentlyJoined(roomId: string, endpoint: string, maxStalenessMs: number, note?: ProofNote): boolean | undefined {
    const { rooms } = this.#records.buckets;
    const key = keys.room(roomId);
    const record = rooms.recent(key, maxStalenessMs, note)?.record;
    if (record === undefined) return undefined;
    const head = record.head.find((candidate) => candidate.endpoint === endpoint)?.row;
    if (head !== undefined) return head.joined && !head.gone;
    return this.#joined.known(keys.member(roomId, endpoint, record.roster), record);
  }

  /**
   * Every member of a room, as of the one version `v`. Rows are found in the order of the stream, up to a moment. Each
   * change is in the bucket before the next one is committed. So what is found is a state that the room had.
   */
  async roster<F extends Freshness>(roomId: string, round: Round<F>, call: Call): Promise<Roster<F>> {
    let needed: Round<F | "certain"> = round;
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      const room = await this.#records.room(roomId, needed, call);
      const { record } = room;
      const { rows, isHeadApplied } = await this.#rows(room, call);
      let { v } = record;
      for (const row of rows.values()) v = Math.max(v, row.v);
      const present = new Map([...rows].filter(([, row]) => !row.gone));
      if (v === record.v && present.size === record.members) return { room, v, members: present, everyone: rows };
      // Some rows are newer than the record: changes went on meanwhile. What was found is a state of the room if the
      // newest head is there with all its rows, and the room was not deleted meanwhile. Any other difference comes from
      // a write between the reads.
      needed = CERTAIN;
      const newest = [...rows.values()].filter((row) => row.v === v);
      const total = newest[0]?.members ?? present.size;
      // Every earlier head is in the bucket. If it is not, the replica missed rows.
      if (v > record.v && isHeadApplied && newest.length === newest[0]?.of && present.size === total) {
        const now = await this.#records.room(roomId, CERTAIN, call);
        if (now.record.incarnation === record.incarnation) return { room, v, members: present, everyone: rows };
      }
    }
  }

  /**
   * The rows of a room by endpoint, with the head laid over them. Also tells whether all of the head was there already.
   */
  async #rows(
    { id: roomId, record }: LiveRoom,
    call: Call,
  ): Promise<{ readonly rows: ReadonlyMap<string, MemberRow>; readonly isHeadApplied: boolean }> {
    const entries = await this.#records.buckets.members.scans.all(
      keys.members(roomId, record.roster),
      keys.membersMark(roomId, record.roster),
      record.membersSeq,
      call,
      record.members,
    );
    const rows = new Map<string, MemberRow>();
    for (const entry of entries.values()) {
      const { row } = readMember(entry);
      this.#records.seenRows.note(entry.key, row.v);
      rows.set(endpointOf(entry.key), row);
    }
    let isHeadApplied = true;
    for (const { endpoint, row } of record.head) {
      const stored = rows.get(endpoint);
      if (stored !== undefined && stored.v >= row.v) continue;
      rows.set(endpoint, row);
      isHeadApplied = false;
    }
    return { rows, isHeadApplied };
  }
}

/** Lays the head over the row. The later version counts. */
export function currentMember(
  record: RoomRecord,
  endpoint: string,
  stored: PlacedRow | undefined,
  isCertain: boolean,
): CurrentMember {
  const head = record.head.find((candidate) => candidate.endpoint === endpoint);
  if (head !== undefined && (stored === undefined || stored.row.v < head.row.v)) {
    return { row: head.row.gone ? undefined : head.row, expectedSeq: undefined, isCertain };
  }
  return {
    row: stored === undefined || stored.row.gone ? undefined : stored.row,
    expectedSeq: stored?.seq ?? 0,
    isCertain,
  };
}

const storedRow = (entry: Entry<"members"> | undefined): PlacedRow | undefined =>
  entry === undefined ? undefined : readMember(entry);

export function need(rules: Rules, roomId: string, endpoint: string, member: CurrentMember): MemberRow {
  if (member.row === undefined) throw rules.memberNotFound(roomId, endpoint);
  return member.row;
}

export function memberFacts(row: MemberRow | undefined): MemberFacts | undefined {
  return row === undefined ? undefined : { state: row.joined ? "joined" : "invited" };
}

export function holderOf(room: LiveRoom, endpoint: string, row: Pick<MemberRow, "id">): MembershipRef {
  return { roomId: room.id, endpoint, incarnation: room.record.incarnation, membership: row.id };
}
