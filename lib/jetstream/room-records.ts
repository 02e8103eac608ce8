/**
 * The records of rooms in their bucket: how one is read, and how it is written on the condition that it still stands as
 * it was read.
 */
import type { Call } from "../call.js";
import type { RoomFacts } from "../rules.js";
import type { Bucket } from "./bucket.js";
import { madeOf, type Freshness, type Read, type Round } from "./freshness.js";
import { keys } from "./keys.js";
import type { ProvedBucket } from "./proved-bucket.js";
import type { RoomIndex } from "./room-index.js";
import { readRoom, writeRoom, writeTombstone, type RoomRecord, type RoomSlot } from "./room-record.js";
import { Seen } from "./seen.js";
import type { Seq } from "./seq.js";
import type { Predecessor, WriteHistory } from "./write-history.js";

export interface RoomBuckets {
  readonly rooms: ProvedBucket<"rooms", RoomSlot>;
  readonly members: Bucket<"members">;
  readonly membersByEndpoint: Bucket<"rooms_by_member">;
  readonly roomKeys: Bucket<"room_keys">;
}

/** A room that is there, as it was read. */
export interface LiveRoom {
  readonly id: string;
  readonly seq: Seq<"rooms">;
  readonly record: RoomRecord;
  readonly facts: RoomFacts;
}

/** Removes what nothing refers to any more, in time of its own. What it leaves is invisible, and is swept up later. */
export type CleanUp = (call: Call) => Promise<unknown>;

export class RoomRecords {
  readonly buckets: RoomBuckets;
  /** Runs work in the background. An operation that is committed does not wait for it. */
  readonly cleanUp: (work: CleanUp, timeoutMs?: number) => void;
  /** The versions of members' rows that were seen: in their bucket, or as the head of a record. */
  readonly seenRows: Seen;
  readonly #index: RoomIndex;
  /** Rooms that are being put into the index. */
  readonly #indexing = new Set<string>();

  constructor(
    buckets: RoomBuckets,
    cleanUp: (work: CleanUp, timeoutMs?: number) => void,
    index: RoomIndex,
    seenBytes: number,
  ) {
    this.buckets = buckets;
    this.cleanUp = cleanUp;
    this.#index = index;
    this.seenRows = new Seen(seenBytes);
  }

  async slot<F extends Freshness>(roomId: string, freshness: F, call: Call): Promise<Read<RoomSlot, F>> {
    const read = await this.buckets.rooms.read(keys.room(roomId), freshness, call);
    const slot = readRoom(read.entry);
    this.#noteHead(roomId, slot);
    this.met(roomId, slot);
    return madeOf(read, slot);
  }

  /** The room, or `NOT_FOUND`. */
  async room<F extends Freshness>(roomId: string, round: Round<F>, call: Call): Promise<Read<LiveRoom, F>> {
    return roomOf(roomId, await this.slot(roomId, round.freshness, call), round);
  }

  /**
   * A head's rows come into the bucket later, if they are not there already. From here on no read of a row may be older
   * than the head.
   */
  #noteHead(roomId: string, { record }: RoomSlot): void {
    for (const { endpoint, row } of record?.head ?? [])
      this.seenRows.note(keys.member(roomId, endpoint, record?.roster ?? ""), row.v);
  }

  /**
   * A record was read. If it was written by a version of the library without an index, the room is put into the index.
   */
  met(roomId: string, { record }: RoomSlot): void {
    if (record === undefined || record.indexed || this.#indexing.has(roomId)) return;
    this.#indexing.add(roomId);
    this.cleanUp(async (own) => {
      try {
        const slot = readRoom((await this.buckets.rooms.readLinearizable(keys.room(roomId), own)).entry);
        // Nothing visible changes: the record says from here on that the entry is there.
        if (slot.record?.indexed === false) await this.fence(roomId, slot, own);
      } finally {
        this.#indexing.delete(roomId);
      }
    });
  }

  /** Puts the room into the index. The record says so only afterwards. */
  async putIntoIndex(roomId: string, { indexed, incarnation }: RoomRecord, call: Call): Promise<void> {
    if (!indexed) await this.#index.add(roomId, incarnation, call);
  }

  /**
   * Writes a room's record, which says that the room is in the index, on the condition that the one before stands where
   * it stood. Answers what was written. `undefined`: the condition does not hold.
   */
  async write(
    roomId: string,
    before: Predecessor<"rooms">,
    next: Omit<RoomRecord, keyof WriteHistory<never> | "indexed">,
    call: Call,
    kind: "commit" | "step",
  ): Promise<RoomRecord | undefined> {
    const recordOf = (written: WriteHistory<"rooms">): RoomRecord => ({
      ...next,
      ...written,
      indexed: true,
      made: before.state === 0 ? written.n : next.made,
    });
    const make = (written: WriteHistory<"rooms">): object => writeRoom(recordOf(written));
    const made = await this.buckets.rooms.append(keys.room(roomId), before, make, call, kind);
    return made === undefined ? undefined : recordOf(made.written);
  }

  /** The same with a record that says that there is no such room. */
  async writeTombstone(
    roomId: string,
    before: Predecessor<"rooms">,
    call: Call,
    kind: "commit" | "step",
  ): Promise<boolean> {
    return (await this.buckets.rooms.append(keys.room(roomId), before, writeTombstone, call, kind)) !== undefined;
  }

  /**
   * Ends every attempt that rests on the room's record as it was read: its condition no longer holds. Nothing visible
   * changes.
   */
  async fence(roomId: string, slot: RoomSlot, call: Call): Promise<boolean> {
    const { record } = slot;
    if (record === undefined) return this.writeTombstone(roomId, slot, call, "step");
    await this.putIntoIndex(roomId, record, call);
    return (await this.write(roomId, slot, record, call, "step")) !== undefined;
  }
}

/** The room that the record tells of, or `NOT_FOUND`. */
export function roomOf<F extends Freshness>(
  roomId: string,
  slot: Read<RoomSlot, F>,
  round: Round<F>,
): Read<LiveRoom, F> {
  const { record, seq } = slot;
  if (record === undefined) throw round.rules(slot).roomNotFound(roomId);
  const facts = {
    encrypted: record.encrypted,
    owner: record.owner,
    epoch: record.epoch,
    revision: `${record.incarnation}.${String(record.v)}`,
  };
  return madeOf(slot, { id: roomId, seq, record, facts });
}
