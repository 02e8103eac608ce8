/**
 * The index of all rooms. Each room has an entry in `rooms_by_member`, at a key that no endpoint has. The entry is
 * written before the room is committed, and removed after the room was deleted. So a list costs what it returns,
 * although each deleted room leaves a tombstone in `rooms` for ever. The entry does not decide whether a room exists:
 * the room's record does.
 */
import type { Call } from "../call.js";
import { isCorrupt } from "../errors.js";
import type { Bucket } from "./bucket.js";
import { RetryLoop } from "./retry-loop.js";
import type { Entry } from "./entry.js";
import type { ProvedBucket } from "./proved-bucket.js";
import { EVERYTHING, keys, parseRoom, parseRoomIndexEntry, type Key } from "./keys.js";
import { unlessCorrupt } from "./record-fields.js";
import { readRoom, type RoomRecord, type RoomSlot } from "./room-record.js";
import { joinAll, inParallel } from "./join.js";
import { later, seqIn, type Seq } from "./seq.js";

/** How many entries are made, or read, at once. */
const AT_ONCE = 256;
const PORTION = 2048;
/** A younger entry may be of a creation under way. Clearing it away would only delay that. */
const STALE_MS = 60_000;

export interface ListedRoom {
  readonly roomId: string;
  readonly record: RoomRecord;
}

export interface RoomPage {
  readonly rooms: readonly ListedRoom[];
  /** Where the next page continues, if there may be one. */
  readonly next: Seq<"rooms_by_member"> | undefined;
}

type Entries = readonly Entry<"rooms_by_member">[];
/** Answers the room of each entry, if it exists. */
type LookUp = (entries: Entries) => Promise<readonly (ListedRoom | undefined)[]>;

interface IndexProgress {
  /** 0: the record is not there. */
  readonly seq: Seq<"rooms">;
  /** Rooms whose record is at or below this sequence have an entry. */
  readonly upTo: Seq<"rooms">;
  /** Whether every room from before the format was raised has an entry. */
  readonly isComplete: boolean;
}

export class RoomIndex {
  readonly #rooms: ProvedBucket<"rooms", RoomSlot>;
  readonly #entries: Bucket<"rooms_by_member">;
  readonly #stale: (entryKeys: readonly Key<"rooms_by_member">[]) => void;

  /** `stale` is told of entries that lead nowhere. */
  constructor(
    rooms: ProvedBucket<"rooms", RoomSlot>,
    entries: Bucket<"rooms_by_member">,
    stale: (entryKeys: readonly Key<"rooms_by_member">[]) => void,
  ) {
    this.#rooms = rooms;
    this.#entries = entries;
    this.#stale = stale;
  }

  /**
   * Some of the rooms behind a position in the index, each as it is at a moment after this call. The checks' cache has
   * all of them afterwards.
   */
  page(after: Seq<"rooms_by_member">, limit: number, call: Call): Promise<RoomPage> {
    return this.#page(after, limit, call, (entries) => joinAll(entries.map((entry) => this.#room(entry, call))));
  }

  /** The same for whoever reads every room, and would push what checks need out of the cache. */
  pageBesideCache(after: Seq<"rooms_by_member">, limit: number, call: Call): Promise<RoomPage> {
    return this.#page(after, limit, call, (entries) => this.#roomsBesideCache(entries, call));
  }

  async #page(after: Seq<"rooms_by_member">, limit: number, call: Call, lookUp: LookUp): Promise<RoomPage> {
    // The bucket of rooms has to be usable even if no entry leads there.
    this.#rooms.use();
    const rooms: ListedRoom[] = [];
    const old = Date.now() - STALE_MS;
    for (let from = after; ;) {
      const mark = keys.roomIndexMark;
      const most = Math.min(limit - rooms.length, AT_ONCE);
      const { entries, isEnd } = await this.#entries.scans.portion(
        keys.roomIndexEntries,
        from,
        most,
        () => this.#entries.touch(mark, call),
        call,
        mark,
      );
      const found = await lookUp(entries);
      const stale: Key<"rooms_by_member">[] = [];
      for (const [i, entry] of entries.entries()) {
        from = entry.seq;
        const room = found[i];
        if (room !== undefined) rooms.push(room);
        else if (entry.time.getTime() < old) stale.push(entry.key);
      }
      if (stale.length > 0) this.#stale(stale);
      if (isEnd) return { rooms, next: undefined };
      if (rooms.length === limit) return { rooms, next: from };
    }
  }

  /** All of them at once, at or after a barrier. */
  async #roomsBesideCache(entries: Entries, call: Call): ReturnType<LookUp> {
    const found = entries.map(({ key }) => parseRoomIndexEntry(key));
    const wanted = found.flatMap((at) => (at === undefined ? [] : [keys.room(at.roomId)]));
    const min = await this.#rooms.readIndex(call);
    const read = wanted.length === 0 ? undefined : await this.#rooms.reads.read(wanted, min, call);
    return joinAll(
      entries.map(async (entry, i) => {
        const at = found[i];
        const stored = at === undefined ? undefined : read?.get(keys.room(at.roomId));
        // A record that is missing proves nothing.
        if (at === undefined || stored === undefined) return this.#room(entry, call);
        return listed(at, readRoom(stored).record);
      }),
    );
  }

  /** The room of an entry, if it exists. */
  async #room(entry: Entry<"rooms_by_member">, call: Call): Promise<ListedRoom | undefined> {
    const at = parseRoomIndexEntry(entry.key);
    if (at === undefined) return undefined;
    return listed(at, (await this.#rooms.prove(keys.room(at.roomId), call))?.value.record);
  }

  /** Writes a room's entry. A second or a late writer changes nothing. */
  add(roomId: string, incarnation: string, call: Call): Promise<Seq<"rooms_by_member">> {
    return this.#entries.stage(keys.roomIndexEntry(roomId, incarnation), {}, call);
  }

  /** Whether all rooms from before the format was raised have their entries. */
  async isComplete(call: Call): Promise<boolean> {
    return (await this.#progress(call)).isComplete;
  }

  /**
   * Makes the entries of rooms that were written by a version without an index. It continues where the last attempt
   * stopped. It can stop at any moment, and several stores can do it at once. `most` bounds the records that it looks
   * at.
   */
  async follow(call: Call, most = Number.POSITIVE_INFINITY, advance?: (by: number) => void): Promise<void> {
    let before = await this.#progress(call);
    for (let looked = 0; looked < most;) {
      const began = performance.now();
      // Reads all keys: then the barrier is among them, and marks the end.
      const { entries, isEnd } = await this.#rooms.scans.portion(
        EVERYTHING,
        before.upTo,
        PORTION,
        () => this.#rooms.readIndex(call),
        call,
      );
      const missing = entries.flatMap((entry) => {
        const roomId = parseRoom(entry.key);
        const record = roomId === undefined ? undefined : unlessCorrupt(() => readRoom(entry))?.record;
        return roomId === undefined || record === undefined || record.indexed ? [] : [{ roomId, record }];
      });
      await inParallel(missing, AT_ONCE, async ({ roomId, record }) => {
        await this.add(roomId, record.incarnation, call);
      });
      looked += entries.length;
      advance?.(entries.length);
      const upTo = entries.at(-1)?.seq ?? before.upTo;
      const isWorthIt = missing.length > 0 || !isEnd || !before.isComplete;
      if (isWorthIt) before = await this.#advance(before, { upTo, isComplete: before.isComplete || isEnd }, call);
      if (isEnd) return;
      // Many rooms take long. Only a lack of progress means that it is stuck.
      call.extend(performance.now() - began);
    }
  }

  async #progress(call: Call): Promise<IndexProgress> {
    try {
      const { entry } = await this.#rooms.readLinearizable(keys.indexProgress, call);
      return entry === undefined ? { seq: 0, upTo: 0, isComplete: false } : progressOf(entry);
    } catch (error) {
      const seq = isCorrupt(error) ? error.details?.["sequence"] : undefined;
      if (typeof seq !== "number") throw error;
      // Every entry can be made anew, and nothing else goes by this record.
      return { seq: seqIn("rooms", seq), upTo: 0, isComplete: false };
    }
  }

  /** Another store may have got further. The recorded position only grows. */
  async #advance(before: IndexProgress, to: Omit<IndexProgress, "seq">, call: Call): Promise<IndexProgress> {
    const isThere = (now: IndexProgress): boolean => now.upTo >= to.upTo && (now.isComplete || !to.isComplete);
    let known = before;
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      if (known.seq > 0 && isThere(known)) return known;
      const next = { upTo: later(known.upTo, to.upTo), complete: known.isComplete || to.isComplete };
      const seq = await this.#rooms.write(
        keys.indexProgress,
        next,
        known.seq,
        call,
        (entry) => (isThere(progressOf(entry)) ? "yes" : "no"),
        "step",
      );
      if (seq !== undefined) return { seq, upTo: next.upTo, isComplete: next.complete };
      known = await this.#progress(call);
    }
  }
}

const listed = (
  { roomId, incarnation }: { readonly roomId: string; readonly incarnation: string },
  record: RoomRecord | undefined,
): ListedRoom | undefined => (record?.incarnation === incarnation ? { roomId, record } : undefined);

/** The record stands behind all that it tells of. One that does not says nothing. */
function progressOf({ seq, value }: Entry<"rooms">): IndexProgress {
  const { upTo, complete } = value;
  if (typeof upTo !== "number" || upTo >= seq) return { seq, upTo: 0, isComplete: false };
  return { seq, upTo: seqIn("rooms", upTo), isComplete: complete === true };
}
