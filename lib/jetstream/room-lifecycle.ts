/** How a room begins and ends. */
import type { Call } from "../call.js";
import { CERTAIN, commitOrCertain } from "./freshness.js";
import { inParallel, joinAll, joinBoth } from "./join.js";
import { endpointOf, keys, newId } from "./keys.js";
import { RetryLoop } from "./retry-loop.js";
import type { RoomIndex } from "./room-index.js";
import { inPlace, type RoomLog, type StagedWrites } from "./room-log.js";
import { readMember, readRoom, type MemberRow, type RoomRecord, type RoomSlot } from "./room-record.js";
import type { CleanUp } from "./room-records.js";
import type { Seq } from "./seq.js";
import type { WriteHistory } from "./write-history.js";

/** The ids of an attempt to make a room. */
export interface CreateIds {
  readonly incarnation: string;
  readonly membership: string;
  readonly attempt: string;
}

/** What an attempt wants made. */
export interface Creation<T> {
  readonly stage: StagedWrites;
  readonly undo: CleanUp;
  readonly record: Omit<RoomRecord, keyof WriteHistory<never> | "keysSeq" | "indexed" | "made">;
  readonly result: (record: RoomRecord) => T;
}

/** What says which records an incarnation has. */
type IncarnationRecords = Pick<RoomRecord, "incarnation" | "roster" | "copying" | "head" | "membersSeq">;

/** A server removes so many entries one by one in the time of one walk over a large bucket. */
const MANY_INDEX_ENTRIES = 2000;
const INDEX_ENTRIES_AT_ONCE = 16;

/**
 * The record of a room stays for ever, also once the room is deleted. It breaks the condition of every earlier attempt,
 * so that none is ever committed. What is removed after a deletion stands under the incarnation that is over.
 */
export class RoomLifecycle {
  readonly #log: RoomLog;
  readonly #index: RoomIndex;

  constructor(log: RoomLog, index: RoomIndex) {
    this.#log = log;
    this.#index = index;
  }

  /**
   * Makes a room where there is none. Its index entry and its owner's key are put in place before, under ids of this
   * attempt. The owner's membership is the head.
   */
  create<T>(roomId: string, call: Call, attempt: (ids: CreateIds) => Creation<T>): Promise<T> {
    const { records } = this.#log;
    return this.#log.turn(roomId, call, async () => {
      // Most rooms are new. So nothing is read first: the condition of the write tells whether there is a room.
      let slot: RoomSlot = readRoom(undefined);
      for (const retries = new RetryLoop(call); ;) {
        await retries.next();
        const { stage, undo, record, result } = attempt({
          incarnation: newId(),
          membership: newId(),
          attempt: newId(),
        });
        let keysSeq: Seq<"room_keys">;
        try {
          [keysSeq] = await joinBoth(inPlace(stage, call), this.#index.add(roomId, record.incarnation, call));
        } catch (error) {
          records.cleanUp(undo);
          throw error;
        }
        const made = await records.write(roomId, slot, { ...record, keysSeq }, call, "commit");
        if (made !== undefined) return result(made);
        records.cleanUp(undo);
        slot = await this.#log.buckets.rooms.decided(
          call,
          () => this.#free(roomId, call),
          () => false,
        );
      }
    });
  }

  /** What stands where there is no room. */
  async #free(roomId: string, call: Call): Promise<RoomSlot> {
    const slot = await this.#log.records.slot(roomId, "certain", call);
    if (slot.record !== undefined) throw CERTAIN.rules(slot).roomExists(roomId);
    return slot;
  }

  /**
   * Deletes the room. Its record stays as a tombstone. From then on everything else is out of reach, and is removed.
   */
  delete(roomId: string, call: Call): Promise<void> {
    const { records } = this.#log;
    const remove = (): Promise<undefined> =>
      commitOrCertain(this.#log.buckets.rooms, call, async (round) => {
        const { seq, record } = await records.room(roomId, round, call);
        if (!(await records.writeTombstone(roomId, { seq, written: record, state: record.v }, call, "commit")))
          return "again";
        records.cleanUp((own) => this.purge(roomId, record, own));
        return { committed: undefined };
      });
    return this.#log.turn(roomId, call, remove);
  }

  /** Removes what belongs to an incarnation that is over, or can never come to be. */
  async purge(roomId: string, left: IncarnationRecords, call: Call): Promise<void> {
    const { incarnation, roster, copying } = left;
    const { members, membersByEndpoint, roomKeys } = this.#log.buckets;
    await joinAll([
      this.#purgeIndexEntries(roomId, left, call),
      membersByEndpoint.purge(keys.roomIndexEntry(roomId, incarnation), call),
      roomKeys.purge(keys.roomKeysOfRoom(roomId, incarnation), call),
      roomKeys.purge(keys.epochs(roomId, incarnation), call),
    ]);
    // Last: they say which entries there are.
    await joinAll([
      members.purge(keys.members(roomId, roster), call),
      ...(copying === undefined ? [] : [members.purge(keys.members(roomId, copying), call)]),
    ]);
  }

  /**
   * Removes each index entry by its own key. A room's entries are not beside each other: to find them by a filter, a
   * server walks over every key of the bucket. What a dead attempt left is not among them. The sweep and the index's
   * readers meet it.
   */
  async #purgeIndexEntries(
    roomId: string,
    { incarnation, roster, head, membersSeq }: IncarnationRecords,
    call: Call,
  ): Promise<void> {
    const { members, membersByEndpoint } = this.#log.buckets;
    const indexEntry = (endpoint: string, { id }: MemberRow) => keys.indexEntry(endpoint, roomId, incarnation, id);
    const mark = keys.membersMark(roomId, roster);
    const rows = await members.scans.all(keys.members(roomId, roster), mark, membersSeq, call);
    const indexEntries = new Set([
      ...head.map(({ endpoint, row }) => indexEntry(endpoint, row)),
      ...Array.from(rows.values(), (entry) => indexEntry(endpointOf(entry.key), readMember(entry).row)),
    ]);
    if (indexEntries.size > MANY_INDEX_ENTRIES)
      await membersByEndpoint.purge(keys.indexEntriesOfRoom(roomId, incarnation), call);
    else await inParallel([...indexEntries], INDEX_ENTRIES_AT_ONCE, (key) => membersByEndpoint.purge(key, call));
  }
}
