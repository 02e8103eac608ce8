/**
 * How a room changes. Its record in `rooms` is a log of one entry: the head, the last change of the membership,
 * together with everything that the room itself is. A change is committed by a write of that record, on the condition
 * that it still stands as it was read. Readers lay the head over what `members` holds (`room-members.ts`). Before the
 * next change is committed, the old head is put into `members`. So all changes but the last one stand there, up to a
 * sequence that the record names.
 *
 * What belongs to a change but stands elsewhere (an index entry, keys) is put in place before, under ids that nothing
 * refers to yet. The argument: docs/protocol.md, H1 to H9.
 */
import type { Call } from "../call.js";
import type { Entry } from "./entry.js";
import { commitOrCertain, type Attempt } from "./freshness.js";
import { joinAll, joinBoth } from "./join.js";
import { KeyedMutex } from "./keyed-mutex.js";
import { keys } from "./keys.js";
import { toJson } from "./record-fields.js";
import type { CurrentMember } from "./room-members.js";
import { readMember, type MemberRow, type RoomRecord, type UnappliedChange } from "./room-record.js";
import type { CleanUp, LiveRoom, RoomBuckets, RoomRecords } from "./room-records.js";
import { later, latest, type Seq } from "./seq.js";
import type { WriteHistory } from "./write-history.js";

/** What has to be in place before a commit. All of it is invisible until then. */
export interface StagedWrites {
  readonly indexEntry?: (call: Call) => Promise<Seq<"rooms_by_member">>;
  /** Answers the highest sequence of them. */
  readonly keys?: (call: Call) => Promise<Seq<"room_keys">>;
}

/** A change of one membership. It follows upon the member as it was read. */
export interface MemberUpdate {
  readonly endpoint: string;
  readonly member: CurrentMember;
  readonly row: MemberRow;
}

/** What an attempt wants committed. */
export interface Commit<T> {
  readonly stage?: StagedWrites;
  /** Changes of memberships: `undefined` leaves the head as it is. */
  readonly changes?: readonly MemberUpdate[];
  /** The room after the change, without what the log keeps itself. */
  readonly next: Partial<
    Omit<RoomRecord, keyof WriteHistory<never> | "head" | "membersSeq" | "keysSeq" | "incarnation">
  >;
  readonly result: (record: RoomRecord) => T;
  /** Removes what is invisible once this is committed. */
  readonly cleanUp?: CleanUp;
  /** Removes what is of no use once this attempt has failed for good. */
  readonly undo?: CleanUp;
}

/** `done`: nothing would change. `again`: what was read does not belong together. */
export type Step<T> = { readonly done: T } | { readonly commit: Commit<T> } | "again";

/** What was decided, and of which room. */
export interface Decided<T> {
  readonly room: LiveRoom;
  readonly step: Step<T>;
}

/**
 * Invariants, each with the spec that goes red without it:
 *
 * 1. The rows of every change before the head stand in `members`, at or below the record's `membersSeq`:
 *    `crash-points.spec.ts`.
 * 2. Only a commit replaces a head, and it commits everything that was staged for it, or nothing: the same.
 * 3. What is staged stands under ids that no record names before the commit: the same.
 * 4. A change follows upon rows that were fenced, or that a commit put in place: `stale-reads.spec.ts`.
 * 5. A refusal rests on a fenced read: the same.
 */
export class RoomLog {
  readonly records: RoomRecords;
  readonly #turns = new KeyedMutex();

  constructor(records: RoomRecords) {
    this.records = records;
  }

  get buckets(): RoomBuckets {
    return this.records.buckets;
  }

  /** Runs when the earlier operations of this process on the room are through. */
  turn<T>(roomId: string, call: Call, run: () => Promise<T>): Promise<T> {
    return this.#turns.run(roomId, call, run);
  }

  /**
   * Changes a room: reads it, lets `attempt` decide, puts in place what is staged, and commits on the condition that
   * the room's record still stands as it was read. If it does not, it starts anew.
   */
  change<T>(roomId: string, call: Call, attempt: Attempt<Decided<T>>): Promise<T> {
    return this.turn(roomId, call, () => this.changeUnqueued(call, attempt));
  }

  /** The same without waiting for a turn. It is for what may take long and would hold up the others. */
  changeUnqueued<T>(call: Call, attempt: Attempt<Decided<T>>): Promise<T> {
    return commitOrCertain<T>(this.buckets.rooms, call, async (round) => {
      const { room, step } = await attempt(round);
      if (step === "again") return step;
      if ("done" in step) return { unchanged: step.done };
      const committed = await this.commit(room, step.commit, call);
      return committed === undefined ? "again" : { committed: committed.value };
    });
  }

  /**
   * Puts in place what is staged, applies the old head, and commits. `undefined`: the room's record is no longer as it
   * was read.
   */
  async commit<T>(room: LiveRoom, commit: Commit<T>, call: Call): Promise<{ value: T } | undefined> {
    const undo = (): void => {
      if (commit.undo !== undefined) this.records.cleanUp(commit.undo);
    };
    let logged: Logged | undefined;
    try {
      logged = await this.#putInPlace(room, commit, call);
    } catch (error) {
      undo();
      throw error;
    }
    const { seq, record } = room;
    const next =
      logged === undefined
        ? undefined
        : await this.records.write(
            room.id,
            { seq, written: record, state: record.v },
            { ...record, ...commit.next, ...logged },
            call,
            "commit",
          );
    if (next === undefined) {
      undo();
      return undefined;
    }
    if (commit.cleanUp !== undefined) this.records.cleanUp(commit.cleanUp);
    return { value: commit.result(next) };
  }

  /** Does all that the commit needs, side by side. `undefined`: the room, or a member, is no longer as it was read. */
  async #putInPlace(room: LiveRoom, { stage, changes }: Commit<unknown>, call: Call): Promise<Logged | undefined> {
    const { record } = room;
    const [[staged], [applied, isAsRead]] = await joinBoth(
      joinBoth(inPlace(stage, call), this.records.putIntoIndex(room.id, record, call)),
      joinBoth(changes === undefined ? undefined : this.#apply(room, call), this.#areAsRead(room, changes ?? [], call)),
    );
    const { head, membersSeq } = record;
    const keysSeq = later(record.keysSeq, staged);
    if (changes === undefined) return { head, membersSeq, keysSeq };
    if (applied === undefined || !isAsRead) return undefined;
    return {
      head: changes.map(({ endpoint, member, row }) => ({
        endpoint,
        after: member.expectedSeq ?? applied.get(endpoint) ?? 0,
        row,
      })),
      membersSeq: latest(membersSeq, applied.values()),
      keysSeq,
    };
  }

  /**
   * Whether the rows that the changes follow upon still stand as they were read, at a moment at or after `membersSeq`.
   */
  async #areAsRead({ id, record }: LiveRoom, changes: readonly MemberUpdate[], call: Call): Promise<boolean> {
    const moments = await joinAll(
      changes.map(({ endpoint, member: { expectedSeq: after, isCertain } }) =>
        // What stands only in the head is put in place by {@link #apply}.
        isCertain || after === undefined
          ? Promise.resolve(record.membersSeq)
          : this.buckets.members.stands(keys.member(id, endpoint, record.roster), after, call),
      ),
    );
    return moments.every((moment) => moment !== undefined && moment >= record.membersSeq);
  }

  /**
   * Puts the head into the members bucket. Whoever comes second, or too late, changes nothing. Answers where the rows
   * stand. `undefined`: they do not, because the room is no longer as it was read.
   */
  async #apply({ id, record }: LiveRoom, call: Call): Promise<Map<string, Seq<"members">> | undefined> {
    const { members } = this.buckets;
    const seqs = new Map<string, Seq<"members">>();
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
}

/** The fields of a room's record that the log itself keeps. */
type Logged = Pick<RoomRecord, "head" | "membersSeq" | "keysSeq">;

/**
 * Puts the index entry and the keys in place, side by side. Answers the highest sequence of the keys, 0 without any.
 */
export async function inPlace(stage: StagedWrites | undefined, call: Call): Promise<Seq<"room_keys">> {
  const [keysSeq] = await joinBoth(stage?.keys?.(call), stage?.indexEntry?.(call));
  return keysSeq ?? 0;
}

const sameRow = (entry: Entry<"members">, head: UnappliedChange): "yes" | "no" =>
  isSameRow(entry, head.row) ? "yes" : "no";

/** Whether what stands there is this row. */
export function isSameRow(entry: Entry<"members">, { v, id }: MemberRow): boolean {
  const { row } = readMember(entry);
  return row.v === v && row.id === id;
}
