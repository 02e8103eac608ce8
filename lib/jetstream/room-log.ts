/**
 * How a room changes. Its record in `rooms` is a log of one entry: the head, the last change of the membership, together
 * with everything that the room itself is. A write of that record, on the condition that it is as it was read, commits a
 * change. Readers lay the head over what `members` holds. Before the next change is committed, the head before it is put
 * into `members`: so all changes but the last one stand there, up to a sequence that the record names.
 *
 * What belongs to a change and stands elsewhere (an index entry, keys) is in place before, under ids that nothing
 * refers to yet. docs/protocol.md has the argument.
 */
import type { Call } from "../call.js";
import { StoreError } from "../errors.js";
import { isRefusal, memberNotFound, roomExists, roomNotFound } from "../rules.js";
import type { MemberFacts, RoomFacts } from "../rules.js";
import type { Bucket } from "./bucket.js";
import { RetryLoop } from "./retry-loop.js";
import type { Entry } from "./entry.js";
import { Seen } from "./seen.js";
import type { ProvedBucket } from "./proved-bucket.js";
import { keys, newId, newRoster, untoken, type MembershipRef } from "./keys.js";
import { toJson } from "./record-fields.js";
import {
  readMember,
  readRoom,
  writeRoom,
  writeTombstone,
  type MemberRow,
  type RoomRecord,
  type RoomSlot,
  type StoredMember,
  type UnappliedChange,
} from "./room-record.js";
import { appendWrite, includesWrite, newWrite, type WriteHistory } from "./write-history.js";
import type { JoinedRows } from "./joined-rows.js";
import type { RoomIndex } from "./room-index.js";
import { joinAll, joinBoth, inParallel } from "./join.js";

export interface RoomBuckets {
  readonly rooms: ProvedBucket<RoomSlot>;
  readonly members: Bucket;
  readonly membersByEndpoint: Bucket;
  readonly roomKeys: Bucket;
}

/** A room that is there, as it was read. */
export interface LiveRoom {
  readonly id: string;
  readonly seq: number;
  readonly record: RoomRecord;
  readonly facts: RoomFacts;
}

/** A member as it stands: the row, and the sequence that the row after it follows upon. */
export interface CurrentMember {
  /** `undefined`: not a member. */
  readonly row: MemberRow | undefined;
  /** The last row in the bucket, 0 if there is none. Of a head that is not in the bucket yet: `undefined`. */
  readonly expectedSeq: number | undefined;
  /** Whether `after` was proved. What was read from some replica has to be fenced before anything is committed upon it. */
  readonly isCertain: boolean;
}

/** How a read is meant: as some replica has it, or as it stands at a moment after the call, so that a refusal may rest on it. */
export type Freshness = "any" | "certain";

export interface StagedWrites {
  readonly indexEntry?: (call: Call) => Promise<number>;
  /** Answers the highest sequence of them. */
  readonly keys?: (call: Call) => Promise<number>;
}

/** What an attempt wants committed. */
export interface Commit<T> {
  /** What has to be in place before, all of it invisible until the commit: an index entry, keys. */
  readonly stage?: StagedWrites;
  /** Changes of memberships: `undefined` leaves the head as it is. */
  readonly changes?: readonly { readonly endpoint: string; readonly member: CurrentMember; readonly row: MemberRow }[];
  /** The room after the change, without what the log keeps itself. */
  readonly next: Partial<Omit<RoomRecord, keyof WriteHistory | "head" | "membersSeq" | "keysSeq" | "incarnation">>;
  readonly result: (record: RoomRecord) => T;
  /** What is invisible once this is committed. */
  readonly after?: CleanUp;
  /** What is of no use once this attempt has failed for good. */
  readonly undo?: CleanUp;
}

/** Removes what nothing refers to any more, in time of its own. What it leaves is invisible, and swept up later. */
export type CleanUp = (call: Call) => Promise<unknown>;

/** `done`: nothing would change. `again`: what was read does not belong together. */
export type Step<T> = { readonly done: T } | { readonly commit: Commit<T> } | "again";

/** A lock within this process: operations on one room take turns instead of failing each other's conditions. */
class KeyedMutex {
  readonly #last = new Map<string, Promise<void>>();

  async run<T>(name: string, call: Call, run: () => Promise<T>): Promise<T> {
    const before = this.#last.get(name);
    let release: () => void = () => undefined;
    const turn = new Promise<void>((resolve) => {
      release = resolve;
    });
    this.#last.set(name, turn);
    try {
      await before;
      call.throwIfEnded();
      return await run();
    } finally {
      release();
      if (this.#last.get(name) === turn) this.#last.delete(name);
    }
  }
}

/**
 * Invariants, each with the spec that goes red without it:
 *
 * 1. The rows of every change before the head stand in `members`, at or below the record's `membersSeq`: `crash-points.spec.ts`.
 * 2. Only a commit replaces a head, and it commits everything that was staged for it, or nothing: the same.
 * 3. What is staged stands under ids that no record names before the commit: the same, and `rosters.spec.ts` for rows.
 * 4. A row of the roster that the record names is never removed, also of one who left: `rosters.spec.ts`.
 * 5. A refusal rests on a fenced read: `stale-reads.spec.ts`.
 */
export class RoomLog {
  readonly buckets: RoomBuckets;
  readonly #turns = new KeyedMutex();
  /** The versions of members' rows that were seen. */
  readonly #rows: Seen;
  readonly #joined: JoinedRows;
  readonly #index: RoomIndex;
  /** Rooms that are being put into the index. */
  readonly #indexing = new Set<string>();
  /** Rooms whose rows are being copied. */
  readonly #compacting = new Set<string>();
  readonly #cleanUp: (work: CleanUp, timeoutMs?: number) => void;

  /** `cleanUp` runs work behind the operation's back, so that what is already committed is not held up by it. */
  constructor(
    buckets: RoomBuckets,
    cleanUp: (work: CleanUp, timeoutMs?: number) => void,
    joined: JoinedRows,
    index: RoomIndex,
    seenBytes: number,
  ) {
    this.#rows = new Seen(seenBytes);
    this.buckets = buckets;
    this.#cleanUp = cleanUp;
    this.#joined = joined;
    this.#index = index;
  }

  async slot(roomId: string, freshness: Freshness, call: Call): Promise<RoomSlot> {
    const { rooms } = this.buckets;
    const key = keys.room(roomId);
    const slot = readRoom(
      freshness === "any" ? await rooms.get(key, call) : (await rooms.readLinearizable(key, call)).entry,
    );
    this.#noteHead(roomId, slot);
    this.met(roomId, slot);
    return slot;
  }

  /** A record was read. Where a version of the library wrote it that knows no index, the room is put there. */
  met(roomId: string, { record }: RoomSlot): void {
    if (record === undefined || record.indexed || this.#indexing.has(roomId)) return;
    this.#indexing.add(roomId);
    this.#cleanUp(async (own) => {
      try {
        const slot = readRoom((await this.buckets.rooms.readLinearizable(keys.room(roomId), own)).entry);
        // Nothing visible changes: the record says from here on that the entry is there.
        if (slot.record?.indexed === false) await this.fence(roomId, slot, own);
      } finally {
        this.#indexing.delete(roomId);
      }
    });
  }

  /** What has to be there before a record says that the room is in the index. */
  async #indexed(roomId: string, { indexed, incarnation }: RoomRecord, call: Call): Promise<void> {
    if (!indexed) await this.#index.add(roomId, incarnation, call);
  }

  /** Rows that a record shows stand in the bucket later, or already: no replica may say less of them from here on. */
  #noteHead(roomId: string, { record }: RoomSlot): void {
    for (const { endpoint, row } of record?.head ?? [])
      this.#rows.note(keys.member(roomId, endpoint, record?.roster ?? ""), row.v);
  }

  /** The room, or `NOT_FOUND`, which is sure if it was asked for as certain. */
  async room(roomId: string, freshness: Freshness, call: Call): Promise<LiveRoom> {
    return live(roomId, await this.slot(roomId, freshness, call));
  }

  /** The room and one member of it. Certain, it is as of one moment after the call: the row is at least as new as the record says. */
  async member(
    roomId: string,
    endpoint: string,
    freshness: Freshness,
    call: Call,
  ): Promise<{ room: LiveRoom; member: CurrentMember }> {
    if (freshness === "certain") {
      for (const retries = new RetryLoop(call); ;) {
        await retries.next();
        const room = await this.room(roomId, "certain", call);
        const member = await this.#certainly(room, endpoint, call);
        if (member !== undefined) return { room, member };
      }
    }
    // The roster is part of the row's key and known only from the record: the newest row of any is nearly always the one.
    const { members } = this.buckets;
    const [slot, newest] = await joinBoth(
      this.slot(roomId, "any", call),
      members.newest(keys.memberOfAny(roomId, endpoint), call),
    );
    const room = live(roomId, slot);
    const key = keys.member(roomId, endpoint, room.record.roster);
    const stored = newest?.key === key ? storedRow(newest) : undefined;
    const head = room.record.head.find((candidate) => candidate.endpoint === endpoint);
    if (stored === undefined && head === undefined) return { room, member: await this.#standing(room, endpoint, call) };
    const v = Math.max(stored?.row.v ?? 0, head?.row.v ?? 0);
    if (this.#rows.allow(key, v) !== "yes") return { room, member: await this.#standing(room, endpoint, call) };
    this.#rows.note(key, v);
    return { room, member: standing(room.record, endpoint, stored, false) };
  }

  /**
   * Members of a room that was read: in the order asked for. If the room has changed since, its seq tells at the commit.
   * `undefined`: it has, and who seems to be none may be a member.
   */
  async standings<E extends readonly string[]>(
    room: LiveRoom,
    endpoints: E,
    freshness: Freshness,
    call: Call,
  ): Promise<{ [K in keyof E]: CurrentMember } | undefined> {
    const found = await joinAll(
      endpoints.map((endpoint) =>
        freshness === "any" ? this.#standing(room, endpoint, call) : this.#certainly(room, endpoint, call),
      ),
    );
    return found.includes(undefined) ? undefined : (found as { [K in keyof E]: CurrentMember });
  }

  /** As some replica has it, and never older than this store has seen it. */
  async #standing(room: LiveRoom, endpoint: string, call: Call): Promise<CurrentMember> {
    const { record } = room;
    const key = keys.member(room.id, endpoint, record.roster);
    let isAskedAgain = false;
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      const stored = storedRow(await this.buckets.members.get(key, call));
      // A row that the head replaces need not have been seen.
      const head = record.head.find((candidate) => candidate.endpoint === endpoint);
      const allowed = this.#rows.allow(key, Math.max(stored?.row.v ?? 0, head?.row.v ?? 0));
      if (allowed === "no" && stored !== undefined && !isAskedAgain) {
        isAskedAgain = true;
        continue;
      }
      // The head of a newer record than this one can have been seen, whose row comes into the bucket with the next change only.
      if (allowed === "unknown" || (allowed === "no" && stored !== undefined))
        return (await this.#certainly(room, endpoint, call)) ?? standing(record, endpoint, stored, false);
      if (stored !== undefined) this.#rows.note(key, stored.row.v);
      return standing(record, endpoint, stored, false);
    }
  }

  /** As it stands at a moment after this call. `undefined`: the rows that the record names may have been removed since. */
  async #certainly(room: LiveRoom, endpoint: string, call: Call): Promise<CurrentMember | undefined> {
    const { record } = room;
    const key = keys.member(room.id, endpoint, record.roster);
    // The record was read before: every row that it demands stands before the fence.
    const { entry, asOf } = await this.buckets.members.readLinearizable(key, call);
    this.buckets.members.demand(record.membersSeq, asOf);
    const stored = storedRow(entry);
    if (stored !== undefined) this.#rows.note(key, stored.row.v);
    const member = standing(record, endpoint, stored, true);
    if (member.row !== undefined || stored !== undefined) return member;
    // A room that was deleted, or whose rows were copied, has none of them any more.
    const now = await this.slot(room.id, "certain", call);
    return now.record?.roster === record.roster ? member : undefined;
  }

  /** Whether the endpoint has joined the room, as of a moment after this call. */
  async provedJoined(roomId: string, endpoint: string, call: Call): Promise<boolean> {
    const { rooms, members } = this.buckets;
    const key = keys.room(roomId);
    let proved = (await rooms.proveKept(key, call)) ?? (await rooms.prove(key, call));
    const opened = rooms.checkOpen(proved?.asOf ?? rooms.highestSeen, call);
    if (opened !== undefined) await opened;
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      if (proved === undefined) return false;
      this.met(roomId, proved.value);
      const { record } = proved.value;
      if (record === undefined) return false;
      // The record is as it stands, and its head the newest of the rows that it names.
      const head = record.head.find((candidate) => candidate.endpoint === endpoint)?.row;
      if (head !== undefined) return head.joined && !head.gone;
      const joined = await this.#joined.prove(members, keys.member(roomId, endpoint, record.roster), record, call);
      if (joined !== undefined) return joined;
      // There is no such row, if the record names this roster still: those of another are removed once it was copied.
      proved = await rooms.prove(key, call);
      await rooms.checkOpen(proved?.asOf ?? rooms.highestSeen, call);
      if (proved?.value.record?.roster === record.roster) return false;
    }
  }

  /**
   * Every member of a room, as of one version of it, which is `v`. Rows are found in the order of the stream up to a
   * moment, and each change is in the bucket before the next is committed: so what is found is a state that the room had.
   */
  async roster(roomId: string, freshness: Freshness, call: Call): Promise<Roster> {
    let needed = freshness;
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      const room = await this.room(roomId, needed, call);
      const { record } = room;
      const { incarnation } = record;
      const entries = await this.buckets.members.scans.all(
        keys.members(roomId, record.roster),
        keys.membersMark(roomId, record.roster),
        record.membersSeq,
        call,
      );
      const rows = new Map<string, MemberRow>();
      let v = record.v;
      for (const entry of entries.values()) {
        const { row } = readMember(entry);
        this.#rows.note(entry.key, row.v);
        rows.set(untoken(entry.key.split(".")[1] ?? ""), row);
        v = Math.max(v, row.v);
      }
      let unapplied = false;
      for (const { endpoint, row } of record.head) {
        const stored = rows.get(endpoint);
        if (stored !== undefined && stored.v >= row.v) continue;
        rows.set(endpoint, row);
        unapplied = true;
      }
      const present = new Map([...rows].filter(([, row]) => !row.gone));
      if (v === record.v && present.size === record.members) return { room, v, members: present, everyone: rows };
      // Newer rows than the record: changes went on meanwhile. What was found is a state of the room if the newest head is
      // there with all its rows, and if the room was not deleted meanwhile, and its rows with it. Any other difference is
      // of a read that a write got in the way of.
      needed = "certain";
      const newest = [...rows.values()].filter((row) => row.v === v);
      const total = newest[0]?.members ?? present.size;
      // A head before the newest stands in the bucket: where it does not, the replica missed rows.
      if (v > record.v && !unapplied && newest.length === newest[0]?.of && present.size === total) {
        const now = await this.room(roomId, "certain", call);
        if (now.record.incarnation === incarnation) return { room, v, members: present, everyone: rows };
      }
    }
  }

  /**
   * Changes a room: reads it, lets `attempt` decide, puts in place what it stages, commits on the condition that the room's
   * record is as it was read, and starts anew if it is not.
   */
  change<T>(
    roomId: string,
    call: Call,
    attempt: (freshness: Freshness) => Promise<{ room: LiveRoom; step: Step<T> }>,
  ): Promise<T> {
    return this.#turns.run(roomId, call, () => this.changeUnqueued(call, attempt));
  }

  /** The same without waiting for a turn: for what may take long, and would hold up the others. */
  async changeUnqueued<T>(
    call: Call,
    attempt: (freshness: Freshness) => Promise<{ room: LiveRoom; step: Step<T> }>,
  ): Promise<T> {
    let fresh = false;
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      for (;;) {
        call.throwIfEnded();
        let room: LiveRoom;
        let step: Step<T>;
        try {
          ({ room, step } = await attempt(fresh ? "certain" : "any"));
        } catch (error) {
          // What a replica that lags says is no reason to refuse: what the quorum says is.
          if (fresh || !isRefusal(error)) throw error;
          fresh = true;
          continue;
        }
        if (step === "again") {
          fresh = true;
          break;
        }
        if ("done" in step) {
          if (fresh) return step.done;
          fresh = true;
          continue;
        }
        const committed = await this.commit(room, step.commit, call);
        if (committed !== undefined) return committed.value;
        fresh = true;
        break;
      }
    }
  }

  /** Runs when the operations on the room that came before, of this process, are through. */
  turn<T>(roomId: string, call: Call, run: () => Promise<T>): Promise<T> {
    return this.#turns.run(roomId, call, run);
  }

  /** Puts in place, applies the head, commits. `undefined`: the room's record is no longer as it was read. */
  async commit<T>(room: LiveRoom, commit: Commit<T>, call: Call): Promise<{ value: T } | undefined> {
    const { record } = room;
    const { changes, undo } = commit;
    let { head, membersSeq, keysSeq } = record;
    try {
      const [[staged], [applied, isAsRead]] = await joinBoth(
        joinBoth(inPlace(commit.stage, call), this.#indexed(room.id, record, call)),
        joinBoth(
          changes === undefined ? undefined : this.#apply(room, call),
          this.#areAsRead(room, changes ?? [], call),
        ),
      );
      keysSeq = Math.max(keysSeq, staged);
      if (changes !== undefined) {
        if (applied === undefined || !isAsRead) {
          if (undo !== undefined) this.#cleanUp(undo);
          return undefined;
        }
        membersSeq = Math.max(membersSeq, ...applied.values());
        head = changes.map(({ endpoint, member, row }) => ({
          endpoint,
          after: member.expectedSeq ?? applied.get(endpoint) ?? 0,
          row,
        }));
      }
    } catch (error) {
      if (undo !== undefined) this.#cleanUp(undo);
      throw error;
    }
    const id = newWrite();
    const next: RoomRecord = {
      ...record,
      ...commit.next,
      ...appendWrite(record, room.seq, id),
      indexed: true,
      head,
      membersSeq,
      keysSeq,
    };
    const seq = await this.buckets.rooms.write(keys.room(room.id), toJson(writeRoom(next)), room.seq, call, (entry) =>
      includesWrite(writtenOf(entry), record, id),
    );
    if (seq === undefined) {
      if (undo !== undefined) this.#cleanUp(undo);
      return undefined;
    }
    if (commit.after !== undefined) this.#cleanUp(commit.after);
    return { value: commit.result(next) };
  }

  /** Whether the rows that the changes follow upon stand as some replica had them, at a moment that the record's demand came before. */
  async #areAsRead(room: LiveRoom, changes: NonNullable<Commit<unknown>["changes"]>, call: Call): Promise<boolean> {
    const { id, record } = room;
    const moments = await joinAll(
      changes.map(({ endpoint, member: { expectedSeq: after, isCertain } }) =>
        // A row that the head replaces is put in place before.
        isCertain || after === undefined
          ? Promise.resolve(record.membersSeq)
          : this.buckets.members.stands(keys.member(id, endpoint, record.roster), after, call),
      ),
    );
    return moments.every((moment) => moment !== undefined && moment >= record.membersSeq);
  }

  /**
   * Puts the head into the members bucket. Whoever comes second, or too late, changes nothing. Answers where the rows
   * stand; `undefined`: not there, the room is no longer as it was read.
   */
  async #apply(room: LiveRoom, call: Call): Promise<Map<string, number> | undefined> {
    const { id, record } = room;
    const { members } = this.buckets;
    const seqs = new Map<string, number>();
    await joinAll(
      record.head.map(async (head) => {
        const key = keys.member(id, head.endpoint, record.roster);
        const seq = await members.write(
          key,
          toJson(head.row),
          head.after,
          call,
          (entry) => sameRow(entry, head),
          "step",
        );
        if (seq !== undefined) {
          seqs.set(head.endpoint, seq);
          return;
        }
        const { entry } = await members.readLinearizable(key, call);
        if (entry !== undefined && readMember(entry).row.v >= head.row.v) seqs.set(head.endpoint, entry.seq);
      }),
    );
    return seqs.size === record.head.length ? seqs : undefined;
  }

  /** Deletes the room: its record stays as a tombstone, everything else is out of reach from then on, and is removed. */
  delete(roomId: string, call: Call): Promise<void> {
    return this.#turns.run(roomId, call, async () => {
      let fresh = false;
      for (const retries = new RetryLoop(call); ;) {
        await retries.next();
        const slot = await this.slot(roomId, fresh ? "certain" : "any", call);
        const { record } = slot;
        if (record === undefined) {
          if (fresh) throw roomNotFound(roomId);
          fresh = true;
          continue;
        }
        const id = newWrite();
        const tombstone = writeTombstone(appendWrite(slot.written, slot.seq, id));
        const seq = await this.buckets.rooms.write(keys.room(roomId), tombstone, slot.seq, call, (entry) =>
          includesWrite(writtenOf(entry), slot.written, id),
        );
        if (seq !== undefined) {
          this.#cleanUp((own) => this.purgeRoom(roomId, record, own));
          return;
        }
        fresh = true;
      }
    });
  }

  /**
   * Makes a room where there is none. Its index entry and its owner's key are in place before, under ids of this attempt;
   * the owner's membership is the head.
   */
  async create<T>(
    roomId: string,
    call: Call,
    attempt: (ids: CreateIds) => {
      readonly stage: StagedWrites;
      readonly undo: CleanUp;
      readonly record: Omit<RoomRecord, keyof WriteHistory | "keysSeq" | "indexed">;
      readonly result: (record: RoomRecord) => T;
    },
  ): Promise<T> {
    return this.#turns.run(roomId, call, async () => {
      // Most rooms are new: the condition that there is none tells, without reading first.
      let slot: RoomSlot = readRoom(undefined);
      for (const retries = new RetryLoop(call); ;) {
        await retries.next();
        if (slot.record !== undefined) throw roomExists(roomId);
        const plan = attempt({ incarnation: newId(), membership: newId(), attempt: newId() });
        let keysSeq: number;
        try {
          [keysSeq] = await joinBoth(inPlace(plan.stage, call), this.#index.add(roomId, plan.record.incarnation, call));
        } catch (error) {
          this.#cleanUp(plan.undo);
          throw error;
        }
        const id = newWrite();
        const before = slot.written;
        const record: RoomRecord = { ...plan.record, ...appendWrite(before, slot.seq, id), indexed: true, keysSeq };
        const seq = await this.buckets.rooms.write(
          keys.room(roomId),
          toJson(writeRoom(record)),
          slot.seq,
          call,
          (entry) => includesWrite(writtenOf(entry), before, id),
        );
        if (seq !== undefined) return plan.result(record);
        this.#cleanUp(plan.undo);
        slot = await this.slot(roomId, "certain", call);
      }
    });
  }

  /** Removes what belongs to an incarnation that is over, or never came to be. */
  async purgeRoom(
    roomId: string,
    { incarnation, roster, copying }: Pick<RoomRecord, "incarnation" | "roster" | "copying">,
    call: Call,
  ): Promise<void> {
    const { members, membersByEndpoint, roomKeys } = this.buckets;
    await joinAll([
      membersByEndpoint.purge(keys.hintsOfRoom(roomId, incarnation), call),
      membersByEndpoint.purge(keys.roomHint(roomId, incarnation), call),
      members.purge(keys.members(roomId, roster), call),
      ...(copying === undefined ? [] : [members.purge(keys.members(roomId, copying), call)]),
      roomKeys.purge(keys.roomKeysOfRoom(roomId, incarnation), call),
      roomKeys.purge(keys.epochs(roomId, incarnation), call),
    ]);
  }

  /**
   * Rows of members who are gone stay, so that no late head puts a member back. Where there are more of them than of members,
   * the members' rows are copied under a new id, and a commit of the room's record makes that the room's: what stands under the
   * old one, and whatever comes there late, is out of reach from then on, and is removed. Nothing visible changes.
   *
   * The record names the id from before the first copy, so that no sweep takes it for that of an attempt that died. Changes go on
   * meanwhile: what they leave is copied in the next round, and the commit has the condition that the last round missed none.
   */
  compact(roomId: string): void {
    if (this.#compacting.has(roomId)) return;
    this.#compacting.add(roomId);
    this.#cleanUp(async (call) => {
      try {
        const roster = await this.turn(roomId, call, () => this.#beginCopy(roomId, call));
        if (roster !== undefined) await this.#copyTo(roster, roomId, call);
      } finally {
        this.#compacting.delete(roomId);
      }
    }, COPY_MS);
  }

  /** The id of a copy that may begin. `undefined`: there is no need, or the rows are now counted. */
  async #beginCopy(roomId: string, call: Call): Promise<string | undefined> {
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      const room = await this.room(roomId, "certain", call);
      const { record } = room;
      const id = newWrite();
      if (record.rows === undefined) {
        const { v, everyone } = await this.roster(roomId, "certain", call);
        if (v !== record.v) continue;
        if (
          await this.#rewrite(room, { ...record, ...appendWrite(record, room.seq, id), rows: everyone.size }, id, call)
        )
          continue;
      }
      if (!isSparse(record.rows, record.members) || isBeingCopied(record)) return undefined;
      const roster = newRoster(record.incarnation);
      const begun = await this.#rewrite(
        room,
        { ...record, ...appendWrite(record, room.seq, id), copying: roster, copyingSince: record.rows },
        id,
        call,
      );
      // Another one that was under way comes to nothing by it.
      const { copying } = record;
      if (begun && copying !== undefined)
        this.#cleanUp((own) => this.buckets.members.purge(keys.members(roomId, copying), own));
      if (begun) return roster;
    }
  }

  async #copyTo(roster: string, roomId: string, call: Call): Promise<void> {
    const drop =
      (from: string) =>
      (own: Call): Promise<unknown> =>
        this.buckets.members.purge(keys.members(roomId, from), own);
    const copied: Copied = { rows: new Map(), mayBeCommitted: false };
    try {
      for (let round = 0; ; round++) {
        call.throwIfEnded();
        const attempt = (): Promise<CopyEnd> => this.#copyRound(roster, roomId, copied, call);
        // Others of this process wait only where changes come so fast that it would never end.
        const end = await (round < FREE_ROUNDS ? attempt() : this.turn(roomId, call, attempt));
        if (end.kind === "again") continue;
        this.#cleanUp(drop(end.kind === "committed" ? end.before : roster));
        return;
      }
    } catch (error) {
      if (!copied.mayBeCommitted) this.#cleanUp(drop(roster));
      throw error;
    }
  }

  async #copyRound(roster: string, roomId: string, copied: Copied, call: Call): Promise<CopyEnd> {
    const { members } = this.buckets;
    const { room, v, everyone } = await this.roster(roomId, "certain", call);
    const { record } = room;
    if (record.copying !== roster) return { kind: "over" };
    const wanted = [...everyone].filter(([endpoint, row]) => {
      const known = copied.rows.get(endpoint);
      // Who is gone has a row there only if there was one: it says that he is gone.
      return known === undefined ? !row.gone : known.row.v !== row.v || known.row.id !== row.id;
    });
    await inParallel(wanted, COPIES, async ([endpoint, row]) => {
      const key = keys.member(roomId, endpoint, roster);
      const known = copied.rows.get(endpoint);
      const seq = await members.write(
        key,
        toJson(row),
        known?.seq ?? 0,
        call,
        (entry) => (isRow(entry, row) ? "yes" : "no"),
        "step",
      );
      if (seq === undefined) throw new StoreError("UNAVAILABLE", "A row that was copied is not as it was written");
      copied.rows.set(endpoint, { row, seq });
    });
    // Rows newer than the record, or a newer record: the condition of the commit would not hold, and after many changes nobody
    // could tell whether it did.
    const isCurrent =
      v === record.v && (await this.buckets.rooms.stands(keys.room(roomId), room.seq, call)) !== undefined;
    if (!isCurrent) return { kind: "again" };
    let { membersSeq } = record;
    for (const { seq } of copied.rows.values()) membersSeq = Math.max(membersSeq, seq);
    const id = newWrite();
    const next: RoomRecord = {
      ...record,
      ...appendWrite(record, room.seq, id),
      roster,
      copying: undefined,
      copyingSince: undefined,
      rows: copied.rows.size,
      membersSeq,
      head: [],
    };
    copied.mayBeCommitted = true;
    const isCommitted = await this.#rewrite(room, next, id, call);
    copied.mayBeCommitted = isCommitted;
    return isCommitted ? { kind: "committed", before: record.roster } : { kind: "again" };
  }

  async #rewrite(room: LiveRoom, next: RoomRecord, id: string, call: Call): Promise<boolean> {
    await this.#indexed(room.id, room.record, call);
    const seq = await this.buckets.rooms.write(
      keys.room(room.id),
      toJson(writeRoom({ ...next, indexed: true })),
      room.seq,
      call,
      (entry) => includesWrite(writtenOf(entry), room.record, id),
      "step",
    );
    return seq !== undefined;
  }

  /** Ends every attempt upon the room's record as it was read: their condition no longer holds. Nothing visible changes. */
  async fence(roomId: string, slot: RoomSlot, call: Call): Promise<boolean> {
    if (slot.record !== undefined) await this.#indexed(roomId, slot.record, call);
    const id = newWrite();
    const written = appendWrite(slot.written, slot.seq, id);
    const value =
      slot.record === undefined ? writeTombstone(written) : writeRoom({ ...slot.record, ...written, indexed: true });
    const seq = await this.buckets.rooms.write(
      keys.room(roomId),
      toJson(value),
      slot.seq,
      call,
      (entry) => includesWrite(writtenOf(entry), slot.written, id),
      "step",
    );
    return seq !== undefined;
  }
}

/** Members of a room, as of one version of it. */
export interface Roster {
  readonly room: LiveRoom;
  readonly v: number;
  readonly members: ReadonlyMap<string, MemberRow>;
  /** Those who are gone included. */
  readonly everyone: ReadonlyMap<string, MemberRow>;
}

/** What was copied to a roster. */
interface Copied {
  /** Of each endpoint the row, and where it stands there. */
  readonly rows: Map<string, { readonly row: MemberRow; readonly seq: number }>;
  mayBeCommitted: boolean;
}

/** `over`: the room is deleted, or another copy is under way. `committed`: the roster of `before` is out of reach. */
type CopyEnd = { readonly kind: "again" | "over" } | { readonly kind: "committed"; readonly before: string };

/** Rows that are copied at once. */
const COPIES = 256;
/** A million rows are copied in less. */
const COPY_MS = 600_000;
/** Rounds of copying beside which changes of the room go on, in this process too. */
const FREE_ROUNDS = 4;
/** So many rows of members who are gone are none too many, and what copying costs is spread over as many removals. */
const FEW_ROWS = 16;

/** Whether more rows are of members who are gone than of members. Where they were not counted, it has to be looked. */
export function isSparse(rows: number | undefined, members: number): boolean {
  return rows === undefined || rows > 2 * members + FEW_ROWS;
}

/** Whether somebody is at it. One who died is waited for until as many rows more have come as there are members, and so many. */
const PATIENCE_ROWS = 1024;

function isBeingCopied({ copying, copyingSince, rows, members }: RoomRecord): boolean {
  return copying !== undefined && (rows ?? 0) < (copyingSince ?? 0) + members + PATIENCE_ROWS;
}

export interface CreateIds {
  readonly incarnation: string;
  readonly membership: string;
  readonly attempt: string;
}

/** Puts the index entry and the keys in place, side by side. Answers the highest sequence of the keys, 0 without any. */
export async function inPlace(stage: StagedWrites | undefined, call: Call): Promise<number> {
  const [keysSeq] = await joinBoth(stage?.keys?.(call), stage?.indexEntry?.(call));
  return keysSeq ?? 0;
}

function live(roomId: string, slot: RoomSlot): LiveRoom {
  const { record, seq } = slot;
  if (record === undefined) throw roomNotFound(roomId);
  return {
    id: roomId,
    seq,
    record,
    facts: {
      encrypted: record.encrypted,
      owner: record.owner,
      epoch: record.epoch,
      revision: `${record.incarnation}.${String(record.v)}`,
    },
  };
}

/** Lays the head over the row: whichever is of the later version counts. */
export function standing(
  record: RoomRecord,
  endpoint: string,
  stored: StoredMember | undefined,
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

const storedRow = (entry: Entry | undefined): StoredMember | undefined =>
  entry === undefined ? undefined : readMember(entry);

export function need(roomId: string, endpoint: string, member: CurrentMember): MemberRow {
  if (member.row === undefined) throw memberNotFound(roomId, endpoint);
  return member.row;
}

export function memberFacts(row: MemberRow | undefined): MemberFacts | undefined {
  return row === undefined ? undefined : { state: row.joined ? "joined" : "invited" };
}

export function holderOf(room: LiveRoom, endpoint: string, row: Pick<MemberRow, "id">): MembershipRef {
  return { roomId: room.id, endpoint, incarnation: room.record.incarnation, membership: row.id };
}

const sameRow = (entry: Entry, head: UnappliedChange): "yes" | "no" => (isRow(entry, head.row) ? "yes" : "no");

function isRow(entry: Entry, { v, id }: MemberRow): boolean {
  const { row } = readMember(entry);
  return row.v === v && row.id === id;
}

function writtenOf(entry: Entry): WriteHistory {
  return readRoom(entry).written;
}

/** Runs a read, and where it refuses, again as certain: a refusal is said only by what the quorum says. */
export async function orCertain<T>(read: (freshness: Freshness) => Promise<T>): Promise<T> {
  try {
    return await read("any");
  } catch (error) {
    if (!isRefusal(error)) throw error;
    return read("certain");
  }
}
