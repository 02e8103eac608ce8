/**
 * What nothing refers to, though it stands there: entries, rows and keys of attempts that died. What a call stages, or
 * clears away behind its answer, looks the same until its time is over: so what is met is looked at until it is gone,
 * or that time is.
 */
import type { Call } from "../call.js";
import { isCorrupt } from "../errors.js";
import { named, type Found } from "../findings.js";
import type { Freshness } from "./freshness.js";
import { joinAll } from "./join.js";
import { isImported, keys, type Key } from "./keys.js";
import type { RoomRecords } from "./room-records.js";
import type { StagedRecord, Sweep } from "./sweep.js";

/** What waits in memory to be looked at again. */
export const MANY_LEFTOVERS = 4096;
const LOOK_EVERY_MS = 50;
const AT_ONCE = 1024;

interface OfRoom {
  readonly roomId: string;
  traces: readonly StagedRecord[];
  /** When the last of them was met. */
  since: number;
}

export class Leftovers {
  readonly #records: RoomRecords;
  readonly #sweep: Sweep;
  readonly #repair: boolean;
  /** So long may a call be under way. */
  readonly #graceMs: number;
  /** Rooms in which something is wrong: what belongs to them is left alone. */
  readonly #doubted: ReadonlySet<string>;
  readonly #waiting = new Map<string, OfRoom>();
  readonly #missing = new Set<string>();
  count = 0;

  constructor(
    records: RoomRecords,
    sweep: Sweep,
    { repair, graceMs, doubted }: { repair: boolean; graceMs: number; doubted: ReadonlySet<string> },
  ) {
    this.#records = records;
    this.#sweep = sweep;
    this.#repair = repair;
    this.#graceMs = graceMs;
    this.#doubted = doubted;
  }

  /** Judges what may be staged, and keeps what seems to be left. */
  async meet(bucket: "rooms_by_member" | "room_keys" | "members", met: readonly string[], call: Call): Promise<void> {
    const byRoom = new Map<string, StagedRecord[]>();
    for (const key of met) {
      for (const trace of this.#sweep.traces(bucket, key as Key<never>)) {
        const of = byRoom.get(trace.roomId);
        if (of === undefined) byRoom.set(trace.roomId, [trace]);
        else of.push(trace);
      }
    }
    await joinAll(
      Array.from(byRoom, async ([roomId, traces]) => {
        const left = await this.#left(roomId, traces, call);
        if (left.length === 0) return;
        const known = this.#waiting.get(roomId);
        if (known === undefined) this.#waiting.set(roomId, { roomId, traces: left, since: performance.now() });
        else {
          known.traces = [...known.traces, ...left];
          known.since = performance.now();
        }
        this.count += left.length;
      }),
    );
  }

  /** Looks once more. Answers what is left for good, or was removed. `undefined`: nothing waits any more. */
  async again(call: Call): Promise<readonly Found[] | undefined> {
    if (this.count === 0) return undefined;
    const found: Found[] = [];
    const rooms = [...this.#waiting.values()].slice(0, AT_ONCE);
    await joinAll(
      rooms.map(async (room) => {
        const isDue = performance.now() - room.since >= this.#graceMs;
        const there = await standing(room.traces, isDue ? "certain" : "any", call);
        const left = there.length === 0 ? there : await this.#left(room.roomId, there, call);
        this.count -= room.traces.length;
        if (left.length > 0 && !isDue) {
          this.count += left.length;
          room.traces = left;
          return;
        }
        this.#waiting.delete(room.roomId);
        if (left.length > 0) found.push(...(await this.#tellOrRemove(room.roomId, left, call)));
      }),
    );
    if (found.length === 0 && this.count > 0) await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS));
    return found;
  }

  /** What nothing refers to. Of a room that is damaged nothing can be said. */
  async #left(roomId: string, traces: readonly StagedRecord[], call: Call): Promise<readonly StagedRecord[]> {
    try {
      return await this.#sweep.leftovers(roomId, traces, call);
    } catch (error) {
      if (isCorrupt(error)) return [];
      throw error;
    }
  }

  async #tellOrRemove(roomId: string, left: readonly StagedRecord[], call: Call): Promise<Found[]> {
    if (await this.#isRoomMissing(roomId, left, call)) {
      if (this.#missing.has(roomId)) return [];
      this.#missing.add(roomId);
      const message =
        "There are rows or epochs of it, and no record, not even of its deletion: rooms was restored to an older state, or made anew. Nothing of it is removed: restore all five buckets";
      return [{ code: "ROOM_MISSING", message, record: named.room(roomId), repaired: false }];
    }
    const what = "Nothing refers to it: an attempt left it that died";
    if (this.#doubted.has(roomId)) {
      const message = `${what}, or it belongs to what is wrong in the room. It is left as long as that is so`;
      return left.map(({ name }) => ({ code: "LEFTOVER", message, record: name, repaired: false }));
    }
    if (!this.#repair)
      return left.map(({ name }) => ({ code: "LEFTOVER", message: what, record: name, repaired: false }));
    await this.#sweep.clear(roomId, left, call);
    const still = new Set((await standing(left, "certain", call)).map(({ name }) => name));
    return left.map(({ name }) => ({
      code: "LEFTOVER",
      message: still.has(name) ? `${what}. The room was changed while it was to be removed: repair again` : what,
      record: name,
      repaired: !still.has(name),
    }));
  }

  /**
   * An attempt to make a room stages keys and entries only: rows and epochs come later, and a room that was leaves a
   * tombstone.
   */
  async #isRoomMissing(roomId: string, left: readonly StagedRecord[], call: Call): Promise<boolean> {
    if (this.#missing.has(roomId)) return true;
    const { seq } = await this.#records.slot(roomId, "certain", call);
    if (seq > 0) return false;
    const own = left.filter(({ incarnation }) => !isImported(incarnation));
    if (own.some(({ roster, membership, isOfRoom }) => roster !== undefined || (!membership && !isOfRoom))) return true;
    const { members } = this.#records.buckets;
    for (const incarnation of new Set(own.map((trace) => trace.incarnation))) {
      const filter = keys.members(roomId, incarnation);
      const min = await members.readIndex(call);
      const rows = await members.scans.all(filter, keys.membersMark(roomId, incarnation), min, call);
      if (rows.size > 0) return true;
    }
    return false;
  }
}

async function standing(
  traces: readonly StagedRecord[],
  freshness: Freshness,
  call: Call,
): Promise<readonly StagedRecord[]> {
  const isThere = await joinAll(traces.map((trace) => trace.isThere(freshness, call)));
  return traces.filter((_, i) => isThere[i]);
}
