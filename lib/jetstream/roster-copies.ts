/**
 * Rows of members who are gone stay, so that no late head puts a member back. Once they outnumber the members, the
 * members' rows are copied under a new id, and a commit of the room's record names that id. From then on what stands
 * under the old one, or comes there late, is out of reach, and is removed. Nothing visible changes.
 *
 * The record names the id from before the first copy, so that no sweep takes it for that of an attempt that died.
 * Changes go on meanwhile: what they leave is copied in the next round, and the commit has the condition that the last
 * round missed none. The argument: docs/protocol.md, W1 to W6.
 */
import type { Call } from "../call.js";
import { StoreError } from "../errors.js";
import { CERTAIN } from "./freshness.js";
import { inParallel } from "./join.js";
import { keys, newRoster } from "./keys.js";
import { toJson } from "./record-fields.js";
import { RetryLoop } from "./retry-loop.js";
import { isSameRow, type RoomLog } from "./room-log.js";
import type { RoomMembers } from "./room-members.js";
import type { MemberRow, RoomRecord } from "./room-record.js";
import type { LiveRoom } from "./room-records.js";
import { latest, type Seq } from "./seq.js";

/** Rows that are copied at once. */
const COPIES = 256;
/** A million rows are copied in less. */
const COPY_MS = 600_000;
/** Rounds of copying beside which changes of the room go on, in this process too. */
const FREE_ROUNDS = 4;
/**
 * Who left in so many of the last versions of the room has a row in the copy too, if they are not more: whoever follows
 * the room learns of it there.
 */
const KEPT = 16;
/** So few rows of members who are gone do no harm. Copying is spread over as many removals. */
const FEW_ROWS = KEPT;
/** A copy is begun at one in so many removals: another one may be under way, or may have come to nothing. */
const COMPACT_EVERY = 16;
/** A copy under way is taken for dead once so many rows more have come than there are members. */
const PATIENCE_ROWS = 1024;

/** What was copied to a roster. */
interface Copied {
  /** Who was gone by this version has no row there, unless an earlier round copied one. The first round decides. */
  forgotten: number | undefined;
  /** Of each endpoint the row, and where it stands there. */
  readonly rows: Map<string, { readonly row: MemberRow; readonly seq: Seq<"members"> }>;
  mayBeCommitted: boolean;
}

/** `over`: the room is deleted, or another copy is under way. `committed`: the roster of `before` is out of reach. */
type CopyEnd = { readonly kind: "again" | "over" } | { readonly kind: "committed"; readonly before: string };

/**
 * Invariants, each with the spec that goes red without it:
 *
 * 1. Rows of the roster that the record names, or is being copied to, are never removed, also of one who left:
 *    `rosters.spec.ts`.
 * 2. A copy is committed only with every row as it stands at the commit: the same, "changes of the room go on".
 */
export class RosterCopies {
  readonly #log: RoomLog;
  readonly #members: RoomMembers;
  /** Rooms whose rows are being copied. */
  readonly #copying = new Set<string>();

  constructor(log: RoomLog, members: RoomMembers) {
    this.#log = log;
    this.#members = members;
  }

  /** A removal has made version `v` of the room, which was as `before`. Copies the rows if it is time to. */
  removed(roomId: string, before: RoomRecord, v: number): void {
    if (isDue(before, v) && isSparse(before.rows, before.members - 1)) this.#begin(roomId);
  }

  #begin(roomId: string): void {
    if (this.#copying.has(roomId)) return;
    this.#copying.add(roomId);
    this.#log.records.cleanUp(async (call) => {
      try {
        // So many can have left meanwhile that it is time again, and nobody may leave after them.
        for (let isCopied = true; isCopied;) {
          const roster = await this.#log.turn(roomId, call, () => this.#reserve(roomId, call));
          isCopied = roster !== undefined && (await this.#copyTo(roster, roomId, call));
        }
      } finally {
        this.#copying.delete(roomId);
      }
    }, COPY_MS);
  }

  /**
   * The id of a copy that may begin: the record names it from now on. `undefined`: there is no need, or another copy is
   * under way.
   */
  async #reserve(roomId: string, call: Call): Promise<string | undefined> {
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      const room = await this.#log.records.room(roomId, CERTAIN, call);
      const { record } = room;
      if (record.rows === undefined) {
        const { v, everyone } = await this.#members.roster(roomId, CERTAIN, call);
        if (v !== record.v) continue;
        await this.#rewrite(room, { ...record, rows: everyone.size }, call);
        continue;
      }
      if (!isSparse(record.rows, record.members) || isBeingCopied(record)) return undefined;
      const roster = newRoster(record.incarnation);
      const { copying } = record;
      if (!(await this.#rewrite(room, { ...record, copying: roster, copyingSince: record.rows }, call))) continue;
      // The copy before it can no longer be committed.
      if (copying !== undefined) this.#drop(roomId, copying);
      return roster;
    }
  }

  /** Answers whether the copy is what the room has now. */
  async #copyTo(roster: string, roomId: string, call: Call): Promise<boolean> {
    const copied: Copied = { forgotten: undefined, rows: new Map(), mayBeCommitted: false };
    try {
      for (let round = 0; ; round++) {
        call.throwIfEnded();
        const attempt = (): Promise<CopyEnd> => this.#round(roster, roomId, copied, call);
        // Other changes of this process wait only if they come so fast that copying would never end.
        const end = await (round < FREE_ROUNDS ? attempt() : this.#log.turn(roomId, call, attempt));
        if (end.kind === "again") continue;
        const isCommitted = end.kind === "committed";
        this.#drop(roomId, isCommitted ? end.before : roster);
        return isCommitted;
      }
    } catch (error) {
      if (!copied.mayBeCommitted) this.#drop(roomId, roster);
      throw error;
    }
  }

  /** Copies what was not copied as it stands now, and commits the copy if nothing has changed meanwhile. */
  async #round(roster: string, roomId: string, copied: Copied, call: Call): Promise<CopyEnd> {
    const { room, v, everyone } = await this.#members.roster(roomId, CERTAIN, call);
    const { record } = room;
    if (record.copying !== roster) return { kind: "over" };
    const forgottenBy = (copied.forgotten ??= forgottenAt(record.v, everyone));
    await this.#copyRows(roster, roomId, { everyone, forgotten: forgottenBy }, copied, call);
    // Rows newer than the record, or a newer record: the condition of the commit would not hold, and after many changes
    // nobody could tell whether it did.
    const { rooms } = this.#log.buckets;
    const isCurrent = v === record.v && (await rooms.stands(keys.room(roomId), room.seq, call)) !== undefined;
    if (!isCurrent) return { kind: "again" };
    const membersSeq = latest(
      record.membersSeq,
      Array.from(copied.rows.values(), ({ seq }) => seq),
    );
    const rows = copied.rows.size;
    const forgotten = Math.max(forgottenBy, record.forgotten ?? 0);
    const next = {
      ...record,
      roster,
      copying: undefined,
      copyingSince: undefined,
      rows,
      forgotten,
      membersSeq,
      head: [],
    };
    copied.mayBeCommitted = true;
    const isCommitted = await this.#rewrite(room, next, call);
    copied.mayBeCommitted = isCommitted;
    return isCommitted ? { kind: "committed", before: record.roster } : { kind: "again" };
  }

  async #copyRows(
    roster: string,
    roomId: string,
    { everyone, forgotten }: { readonly everyone: ReadonlyMap<string, MemberRow>; readonly forgotten: number },
    copied: Copied,
    call: Call,
  ): Promise<void> {
    const { members } = this.#log.buckets;
    const wanted = [...everyone].filter(([endpoint, row]) => {
      const known = copied.rows.get(endpoint);
      // A member who is gone needs a row there only if an earlier round copied one: it has to say so.
      if (known === undefined) return !row.gone || row.v > forgotten;
      return known.row.v !== row.v || known.row.id !== row.id;
    });
    await inParallel(wanted, COPIES, async ([endpoint, row]) => {
      const key = keys.member(roomId, endpoint, roster);
      const known = copied.rows.get(endpoint);
      const seq = await members.write(
        key,
        toJson(row),
        known?.seq ?? 0,
        call,
        (entry) => (isSameRow(entry, row) ? "yes" : "no"),
        "step",
      );
      if (seq === undefined) throw new StoreError("UNAVAILABLE", "A row that was copied is not as it was written");
      copied.rows.set(endpoint, { row, seq });
    });
  }

  /** Nothing visible changes by it. */
  async #rewrite({ id, seq, record }: LiveRoom, next: RoomRecord, call: Call): Promise<boolean> {
    const { records } = this.#log;
    await records.putIntoIndex(id, record, call);
    return (await records.write(id, { seq, written: record, state: record.v }, next, call, "step")) !== undefined;
  }

  /** Removes the rows under an id that no record names any more, or ever will. */
  #drop(roomId: string, roster: string): void {
    this.#log.records.cleanUp((own) => this.#log.buckets.members.purge(keys.members(roomId, roster), own));
  }
}

/**
 * Whether a copy may begin at the removal that makes version `v`. It goes by the rows, if they are counted: versions of
 * removals can all be odd.
 */
function isDue({ rows, members }: RoomRecord, v: number): boolean {
  if (rows === undefined) return v % COMPACT_EVERY < 2;
  const [before, after] = [rows - 2 * members, rows - 2 * (members - 1)];
  return Math.floor((after - 1) / COMPACT_EVERY) > Math.floor((before - 1) / COMPACT_EVERY);
}

/** Whether more rows are of members who are gone than of members. Where they were not counted, it has to be looked. */
function isSparse(rows: number | undefined, members: number): boolean {
  return rows === undefined || rows > 2 * members + FEW_ROWS;
}

/** Up to which version a copy forgets who left. One version can be of many. */
function forgottenAt(v: number, everyone: ReadonlyMap<string, MemberRow>): number {
  const left = [...everyone.values()].flatMap((row) => (row.gone ? [row.v] : [])).sort((a, b) => b - a);
  return Math.max(v - KEPT, left[KEPT] ?? 0);
}

/** Whether a copy is under way that is not taken for dead. */
function isBeingCopied({ copying, copyingSince, rows, members }: RoomRecord): boolean {
  return copying !== undefined && (rows ?? 0) < (copyingSince ?? 0) + members + PATIENCE_ROWS;
}
