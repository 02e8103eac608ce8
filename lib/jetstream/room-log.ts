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
import { isRefusal, memberNotFound, roomExists, roomNotFound } from "../rules.js";
import type { MemberFacts, RoomFacts } from "../rules.js";
import type { Bucket, Entry } from "./bucket.js";
import { Retries } from "./connection.js";
import {
  keys,
  newId,
  newWrite,
  nextWrite,
  readMember,
  readRoom,
  toJson,
  untoken,
  wasWritten,
  writeRoom,
  writeTombstone,
} from "./records.js";
import type { Head, Holder, MemberRow, RoomRecord, RoomSlot, StoredMember, Written } from "./records.js";
import { all, both } from "./settled.js";

export interface RoomBuckets {
  readonly rooms: Bucket;
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
export interface Standing {
  /** `undefined`: not a member. */
  readonly row: MemberRow | undefined;
  /** The last row in the bucket, 0 if there is none. Of a head that is not in the bucket yet: `undefined`. */
  readonly after: number | undefined;
}

export interface Stage {
  readonly hint?: (call: Call) => Promise<number>;
  /** Answers the highest sequence of them. */
  readonly keys?: (call: Call) => Promise<number>;
}

/** What an attempt wants committed. */
export interface Commit<T> {
  /** What has to be in place before, all of it invisible until the commit: an index entry, keys. */
  readonly stage?: Stage;
  /** Changes of memberships: `undefined` leaves the head as it is. */
  readonly changes?: readonly { readonly endpoint: string; readonly after: number | undefined; readonly row: MemberRow }[];
  /** The room after the change, without what the log keeps itself. */
  readonly next: Partial<Omit<RoomRecord, "n" | "first" | "log" | "head" | "membersSeq" | "keysSeq" | "incarnation">>;
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
class Turns {
  readonly #last = new Map<string, Promise<void>>();

  async take<T>(name: string, call: Call, run: () => Promise<T>): Promise<T> {
    const before = this.#last.get(name);
    let release: () => void = () => undefined;
    const turn = new Promise<void>((resolve) => {
      release = resolve;
    });
    this.#last.set(name, turn);
    try {
      await before;
      call.check();
      return await run();
    } finally {
      release();
      if (this.#last.get(name) === turn) this.#last.delete(name);
    }
  }
}

export class RoomLog {
  readonly buckets: RoomBuckets;
  readonly #turns = new Turns();
  readonly #cleanUp: (work: CleanUp) => void;

  /** `cleanUp` runs work behind the operation's back, so that what is already committed is not held up by it. */
  constructor(buckets: RoomBuckets, cleanUp: (work: CleanUp) => void) {
    this.buckets = buckets;
    this.#cleanUp = cleanUp;
  }

  async slot(roomId: string, min: number, call: Call): Promise<RoomSlot> {
    const key = keys.room(roomId);
    return readRoom((await this.buckets.rooms.read([key], min, call)).get(key));
  }

  /** The same as of a moment after this call. A record that is not there is surely not there. */
  async freshSlot(roomId: string, call: Call): Promise<RoomSlot> {
    return this.#slotFor(roomId, await this.buckets.rooms.fresh(call), call);
  }

  /** With `min` of a barrier, what is not there is surely not there. */
  async #slotFor(roomId: string, min: number, call: Call): Promise<RoomSlot> {
    if (min === 0) return this.slot(roomId, 0, call);
    const key = keys.room(roomId);
    return readRoom((await this.buckets.rooms.readCertain([key], min, call)).get(key));
  }

  /** The room, or `NOT_FOUND`, which with `min` of a barrier is sure. */
  async room(roomId: string, min: number, call: Call): Promise<LiveRoom> {
    return live(roomId, await this.#slotFor(roomId, min, call));
  }

  /** Whether the room that was read is there still, and none of its rows was removed until now. */
  async isSame(room: LiveRoom, call: Call): Promise<boolean> {
    const { record } = await this.freshSlot(room.id, call);
    return record?.incarnation === room.record.incarnation;
  }

  /**
   * The room and one member of it, at one moment: the rows are at least as new as the record says that they must be. With
   * `min` of a barrier, who is not there is surely not there.
   */
  async member(roomId: string, endpoint: string, min: number, call: Call): Promise<{ room: LiveRoom; member: Standing }> {
    for (const retries = new Retries(call); ; ) {
      await retries.turn();
      const found = await this.#member(roomId, endpoint, min, call);
      if (min === 0 || (await this.areStrangers(found.room, [endpoint], [found.member], call))) return found;
    }
  }

  /**
   * Whether those of whom no row was found had none at a moment after this call. A replica that catches up from a snapshot
   * misses rows for a moment. The room's record, which was read before, is of a moment at which they had none either: rows
   * of a room that is there are never removed.
   */
  async areStrangers(room: LiveRoom, endpoints: readonly string[], members: readonly Standing[], call: Call): Promise<boolean> {
    const missing = endpoints.filter((_, i) => members[i]?.row === undefined && members[i]?.after === 0);
    return this.buckets.members.areAbsent(missing.map((endpoint) => keys.member(room.id, endpoint, room.record.incarnation)), call);
  }

  async #member(roomId: string, endpoint: string, min: number, call: Call): Promise<{ room: LiveRoom; member: Standing }> {
    // The incarnation is part of the row's key and known only from the record: asked for as a family, both are one round.
    const family = keys.memberOfAny(roomId, endpoint);
    const { members } = this.buckets;
    const [slot, early] = await Promise.all([this.#slotFor(roomId, min, call), members.read([`${family}.*`], 0, call)]);
    const room = live(roomId, slot);
    const rows = early.upTo >= room.record.membersSeq ? early : await members.read([`${family}.*`], room.record.membersSeq, call);
    const key = keys.member(roomId, endpoint, room.record.incarnation);
    const entry = rows.below(family).find((candidate) => candidate.key === key);
    return { room, member: standing(room.record, endpoint, entry === undefined ? undefined : readMember(entry)) };
  }

  /** Members of a room that was read: in the order asked for. If the room has changed since, its seq tells at the commit. */
  async standings<E extends readonly string[]>(room: LiveRoom, endpoints: E, call: Call): Promise<{ [K in keyof E]: Standing }> {
    const key = (endpoint: string): string => keys.member(room.id, endpoint, room.record.incarnation);
    const rows = await this.buckets.members.read(endpoints.map(key), room.record.membersSeq, call);
    return endpoints.map((endpoint) => {
      const entry = rows.get(key(endpoint));
      return standing(room.record, endpoint, entry === undefined ? undefined : readMember(entry));
    }) as { [K in keyof E]: Standing };
  }

  /**
   * Every member of a room, as of one version of it, which is `v`. Rows are found in the order of the stream up to a
   * moment, and each change is in the bucket before the next is committed: so what is found is a state that the room had.
   */
  async roster(roomId: string, min: number, call: Call): Promise<{ room: LiveRoom; v: number; members: Map<string, MemberRow> }> {
    let least = min;
    for (const retries = new Retries(call); ; ) {
      await retries.turn();
      const room = await this.room(roomId, least, call);
      const { record } = room;
      const { incarnation } = record;
      const entries = await this.buckets.members.all(
        keys.members(roomId, incarnation),
        keys.membersMark(roomId, incarnation),
        record.membersSeq,
        call,
      );
      const rows = new Map<string, MemberRow>();
      let v = record.v;
      for (const entry of entries.values()) {
        const { row } = readMember(entry);
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
      if (v === record.v && present.size === record.members) return { room, v, members: present };
      // Newer rows than the record: changes went on meanwhile. What was found is a state of the room if the newest head is
      // there with all its rows, and if the room was not deleted meanwhile, and its rows with it. Any other difference is
      // of a read that a write got in the way of.
      least = await this.buckets.rooms.fresh(call);
      const newest = [...rows.values()].filter((row) => row.v === v);
      const total = newest[0]?.members ?? present.size;
      // A head before the newest stands in the bucket: where it does not, the replica missed rows.
      if (v > record.v && !unapplied && newest.length === newest[0]?.of && present.size === total) {
        const now = await this.room(roomId, least, call);
        if (now.record.incarnation === incarnation) return { room, v, members: present };
      }
    }
  }

  /**
   * Changes a room: reads it, lets `attempt` decide, puts in place what it stages, commits on the condition that the room's
   * record is as it was read, and starts anew if it is not.
   */
  change<T>(roomId: string, call: Call, attempt: (min: number) => Promise<{ room: LiveRoom; step: Step<T> }>): Promise<T> {
    return this.#turns.take(roomId, call, () => this.changeAtOnce(call, attempt));
  }

  /** The same without waiting for a turn: for what may take long, and would hold up the others. */
  async changeAtOnce<T>(call: Call, attempt: (min: number) => Promise<{ room: LiveRoom; step: Step<T> }>): Promise<T> {
    let fresh = false;
    for (const retries = new Retries(call); ; ) {
      await retries.turn();
      for (;;) {
        call.check();
        let room: LiveRoom;
        let step: Step<T>;
        try {
          ({ room, step } = await attempt(fresh ? await this.buckets.rooms.fresh(call) : 0));
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
    return this.#turns.take(roomId, call, run);
  }

  /** Puts in place, applies the head, commits. `undefined`: the room's record is no longer as it was read. */
  async commit<T>(room: LiveRoom, commit: Commit<T>, call: Call): Promise<{ value: T } | undefined> {
    const { record } = room;
    const { changes, undo } = commit;
    let { head, membersSeq, keysSeq } = record;
    try {
      const [staged, applied] = await both(inPlace(commit.stage, call), changes === undefined ? undefined : this.#apply(room, call));
      keysSeq = Math.max(keysSeq, staged);
      if (changes !== undefined) {
        if (applied === undefined) {
          if (undo !== undefined) this.#cleanUp(undo);
          return undefined;
        }
        membersSeq = Math.max(membersSeq, ...applied.values());
        head = changes.map(({ endpoint, after, row }) => ({ endpoint, after: after ?? applied.get(endpoint) ?? 0, row }));
      }
    } catch (error) {
      if (undo !== undefined) this.#cleanUp(undo);
      throw error;
    }
    const id = newWrite();
    const next: RoomRecord = {
      ...record,
      ...commit.next,
      ...nextWrite(record, id),
      head,
      membersSeq,
      keysSeq,
    };
    const seq = await this.buckets.rooms.write(keys.room(room.id), toJson(writeRoom(next)), room.seq, call, (entry) =>
      wasWritten(writtenOf(entry), record, id),
    );
    if (seq === undefined) {
      if (undo !== undefined) this.#cleanUp(undo);
      return undefined;
    }
    if (commit.after !== undefined) this.#cleanUp(commit.after);
    return { value: commit.result(next) };
  }

  /**
   * Puts the head into the members bucket. Whoever comes second, or too late, changes nothing. Answers where the rows
   * stand; `undefined`: not there, the room is no longer as it was read.
   */
  async #apply(room: LiveRoom, call: Call): Promise<Map<string, number> | undefined> {
    const { id, record } = room;
    const { members } = this.buckets;
    const seqs = new Map<string, number>();
    await all(
      record.head.map(async (head) => {
        const key = keys.member(id, head.endpoint, record.incarnation);
        const seq = await members.write(key, toJson(head.row), head.after, call, (entry) => sameRow(entry, head), "step");
        if (seq !== undefined) {
          seqs.set(head.endpoint, seq);
          return;
        }
        const entry = (await members.read([key], await members.fresh(call), call)).get(key);
        if (entry !== undefined && readMember(entry).row.v >= head.row.v) seqs.set(head.endpoint, entry.seq);
      }),
    );
    return seqs.size === record.head.length ? seqs : undefined;
  }

  /** Deletes the room: its record stays as a tombstone, everything else is out of reach from then on, and is removed. */
  delete(roomId: string, call: Call): Promise<void> {
    return this.#turns.take(roomId, call, async () => {
      let fresh = false;
      for (const retries = new Retries(call); ; ) {
        await retries.turn();
        const slot = fresh ? await this.freshSlot(roomId, call) : await this.slot(roomId, 0, call);
        const { record } = slot;
        if (record === undefined) {
          if (fresh) throw roomNotFound(roomId);
          fresh = true;
          continue;
        }
        const id = newWrite();
        const tombstone = writeTombstone(nextWrite(slot.written, id));
        const seq = await this.buckets.rooms.write(keys.room(roomId), tombstone, slot.seq, call, (entry) =>
          wasWritten(writtenOf(entry), slot.written, id),
        );
        if (seq !== undefined) {
          this.#cleanUp((own) => this.purgeRoom(roomId, record.incarnation, own));
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
      readonly stage: Stage;
      readonly undo: CleanUp;
      readonly record: Omit<RoomRecord, "n" | "first" | "log" | "keysSeq">;
      readonly result: (record: RoomRecord) => T;
    },
  ): Promise<T> {
    return this.#turns.take(roomId, call, async () => {
      // Most rooms are new: the condition that there is none tells, without reading first.
      let slot: RoomSlot = readRoom(undefined);
      for (const retries = new Retries(call); ; ) {
        await retries.turn();
        if (slot.record !== undefined) throw roomExists(roomId);
        const plan = attempt({ incarnation: newId(), membership: newId(), attempt: newId() });
        let keysSeq: number;
        try {
          keysSeq = await inPlace(plan.stage, call);
        } catch (error) {
          this.#cleanUp(plan.undo);
          throw error;
        }
        const id = newWrite();
        const before = slot.written;
        const record: RoomRecord = { ...plan.record, ...nextWrite(before, id), keysSeq };
        const seq = await this.buckets.rooms.write(keys.room(roomId), toJson(writeRoom(record)), slot.seq, call, (entry) =>
          wasWritten(writtenOf(entry), before, id),
        );
        if (seq !== undefined) return plan.result(record);
        this.#cleanUp(plan.undo);
        slot = await this.freshSlot(roomId, call);
      }
    });
  }

  /** Removes what belongs to an incarnation that is over, or never came to be. */
  async purgeRoom(roomId: string, incarnation: string, call: Call): Promise<void> {
    const { members, membersByEndpoint, roomKeys } = this.buckets;
    await all([
      membersByEndpoint.purge(keys.hintsOfRoom(roomId, incarnation), call),
      members.purge(keys.members(roomId, incarnation), call),
      roomKeys.purge(keys.roomKeysOfRoom(roomId, incarnation), call),
      roomKeys.purge(keys.epochs(roomId, incarnation), call),
    ]);
  }

  /** Ends every attempt upon the room's record as it was read: their condition no longer holds. Nothing visible changes. */
  async fence(roomId: string, slot: RoomSlot, call: Call): Promise<boolean> {
    const id = newWrite();
    const written = nextWrite(slot.written, id);
    const value = slot.record === undefined ? writeTombstone(written) : writeRoom({ ...slot.record, ...written });
    const seq = await this.buckets.rooms.write(
      keys.room(roomId),
      toJson(value),
      slot.seq,
      call,
      (entry) => wasWritten(writtenOf(entry), slot.written, id),
      "step",
    );
    return seq !== undefined;
  }
}

export interface CreateIds {
  readonly incarnation: string;
  readonly membership: string;
  readonly attempt: string;
}

/** Puts the index entry and the keys in place, side by side. Answers the highest sequence of the keys, 0 without any. */
export async function inPlace(stage: Stage | undefined, call: Call): Promise<number> {
  const [keysSeq] = await both(stage?.keys?.(call), stage?.hint?.(call));
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
export function standing(record: RoomRecord, endpoint: string, stored: StoredMember | undefined): Standing {
  const head = record.head.find((candidate) => candidate.endpoint === endpoint);
  if (head !== undefined && (stored === undefined || stored.row.v < head.row.v)) {
    return { row: head.row.gone ? undefined : head.row, after: undefined };
  }
  return { row: stored === undefined || stored.row.gone ? undefined : stored.row, after: stored?.seq ?? 0 };
}

export function need(roomId: string, endpoint: string, member: Standing): MemberRow {
  if (member.row === undefined) throw memberNotFound(roomId, endpoint);
  return member.row;
}

export function memberFacts(row: MemberRow | undefined): MemberFacts | undefined {
  return row === undefined ? undefined : { state: row.joined ? "joined" : "invited" };
}

export function holderOf(room: LiveRoom, endpoint: string, row: Pick<MemberRow, "id">): Holder {
  return { roomId: room.id, endpoint, incarnation: room.record.incarnation, membership: row.id };
}

function sameRow(entry: Entry, head: Head): "yes" | "no" {
  const { row } = readMember(entry);
  return row.v === head.row.v && row.id === head.row.id ? "yes" : "no";
}

function writtenOf(entry: Entry): Written {
  return readRoom(entry).written;
}

/** Runs a read, and where it refuses, again with minima that are fresh: a refusal is said only by what the quorum says. */
export async function orFresh<T>(
  read: (min: number, otherMin: number) => Promise<T>,
  fresh: () => Promise<number>,
  other?: () => Promise<number>,
): Promise<T> {
  try {
    return await read(0, 0);
  } catch (error) {
    if (!isRefusal(error)) throw error;
    const [min, otherMin] = await Promise.all([fresh(), other?.() ?? 0]);
    return read(min, otherMin);
  }
}
