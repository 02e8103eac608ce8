/** How a room begins and ends. */
import type { Call } from "../call.js";
import { CERTAIN, commitOrCertain } from "./freshness.js";
import { joinAll, joinBoth } from "./join.js";
import { keys, newId } from "./keys.js";
import { RetryLoop } from "./retry-loop.js";
import type { RoomIndex } from "./room-index.js";
import { inPlace, type RoomLog, type StagedWrites } from "./room-log.js";
import { readRoom, type RoomRecord, type RoomSlot } from "./room-record.js";
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
  readonly record: Omit<RoomRecord, keyof WriteHistory<never> | "keysSeq" | "indexed">;
  readonly result: (record: RoomRecord) => T;
}

/**
 * Of a room that was there once a record stays for ever. It breaks the condition of every earlier attempt, so that none
 * is ever committed. What is removed behind a deletion stands under the incarnation that is over.
 */
export class RoomLifecycle {
  readonly #log: RoomLog;
  readonly #index: RoomIndex;

  constructor(log: RoomLog, index: RoomIndex) {
    this.#log = log;
    this.#index = index;
  }

  /**
   * Makes a room where there is none. Its index entry and its owner's key are in place before, under ids of this attempt;
   * the owner's membership is the head.
   */
  create<T>(roomId: string, call: Call, attempt: (ids: CreateIds) => Creation<T>): Promise<T> {
    const { records } = this.#log;
    return this.#log.turn(roomId, call, async () => {
      // Most rooms are new. So nothing is read first: the condition that there is none tells.
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
        const now = await records.slot(roomId, "certain", call);
        if (now.record !== undefined) throw CERTAIN.rules(now).roomExists(roomId);
        slot = now;
      }
    });
  }

  /** Deletes the room: its record stays as a tombstone, everything else is out of reach from then on, and is removed. */
  delete(roomId: string, call: Call): Promise<void> {
    const { records } = this.#log;
    const remove = (): Promise<undefined> =>
      commitOrCertain(call, async (round) => {
        const { seq, record } = await records.room(roomId, round, call);
        if (!(await records.writeTombstone(roomId, { seq, written: record }, call, "commit"))) return "again";
        records.cleanUp((own) => this.purge(roomId, record, own));
        return { committed: undefined };
      });
    return this.#log.turn(roomId, call, remove);
  }

  /** Removes what belongs to an incarnation that is over, or can never come to be. */
  async purge(
    roomId: string,
    { incarnation, roster, copying }: Pick<RoomRecord, "incarnation" | "roster" | "copying">,
    call: Call,
  ): Promise<void> {
    const { members, membersByEndpoint, roomKeys } = this.#log.buckets;
    await joinAll([
      membersByEndpoint.purge(keys.hintsOfRoom(roomId, incarnation), call),
      membersByEndpoint.purge(keys.roomHint(roomId, incarnation), call),
      members.purge(keys.members(roomId, roster), call),
      ...(copying === undefined ? [] : [members.purge(keys.members(roomId, copying), call)]),
      roomKeys.purge(keys.roomKeysOfRoom(roomId, incarnation), call),
      roomKeys.purge(keys.epochs(roomId, incarnation), call),
    ]);
  }
}
