/**
 * Clears away what dead attempts left: index entries, keys and rows that nothing refers to. All of it is invisible
 * already. This is only about space, and about ciphertext that nobody should keep.
 *
 * An attempt that seems dead may be a stopped process that can wake at any time. So it is first made unable to commit:
 * a write to the room's record that changes nothing visible (`RoomRecords.fence`) breaks the condition of every attempt
 * under way. Only then is what it staged removed. An attempt that wakes is refused, and starts again under other ids.
 * No clock decides. The argument: docs/protocol.md, X1 to X3.
 */
import type { Call } from "../call.js";
import { tell } from "../diagnostics.js";
import { isCorrupt } from "../errors.js";
import type { Bucket } from "./bucket.js";
import type { Entry } from "./entry.js";
import { readEpoch } from "./key-record.js";
import { EVERYTHING, keys, parseIndexEntry, parseKey, parseMember, parseRoomIndexEntry, type Key } from "./keys.js";
import type { BucketName } from "./seq.js";
import { readMember, type RoomRecord, type RoomSlot } from "./room-record.js";
import { joinAll } from "./join.js";
import type { Freshness } from "./freshness.js";
import type { RoomRecords } from "./room-records.js";

/**
 * How many records of each bucket one opening looks at, from a random place on. What one opening misses, a later one
 * finds.
 */
const AT_ONCE = 1024;

/** What a staged record belongs to. */
export interface StagedRecord {
  /** Its bucket, and its key there. */
  readonly name: string;
  /** Whether there is a record at that key. */
  readonly isThere: (freshness: Freshness, call: Call) => Promise<boolean>;
  readonly remove: (call: Call) => Promise<void>;
  readonly roomId: string;
  readonly incarnation: string;
  /** For a member's row: the id of its roster. */
  readonly roster?: string;
  /** An entry in the index of all rooms. */
  readonly isOfRoom?: true;
  /** For a key or an index entry: its membership. */
  readonly membership?: { readonly endpoint: string; readonly id: string };
  /** For a key: the epoch, and the attempt that would make it. */
  readonly made?: { readonly epoch: number; readonly attempt: string };
}

/** `dead`: nothing can ever refer to it. `open`: an attempt that may still be under way would. */
type Verdict = "live" | "dead" | "open";

export class Sweep {
  readonly #records: RoomRecords;

  constructor(records: RoomRecords) {
    this.#records = records;
  }

  /** What may be staged at a key of one of these buckets. */
  traces(bucket: "rooms_by_member" | "room_keys" | "members", key: Key<never>): StagedRecord[] {
    const { membersByEndpoint, roomKeys, members } = this.#records.buckets;
    switch (bucket) {
      case "rooms_by_member":
        return indexTraces(membersByEndpoint, key as Key<"rooms_by_member">);
      case "room_keys":
        return traceOf(roomKeys, key as Key<"room_keys">, parseKey(key as Key<"room_keys">));
      case "members":
        return traceOf(members, key as Key<"members">, parseMember(key as Key<"members">));
    }
  }

  /**
   * The records of one room that nothing refers to, at a moment after this call. An attempt under way may still refer
   * to them later. Changes nothing.
   */
  async leftovers(roomId: string, traces: readonly StagedRecord[], call: Call): Promise<readonly StagedRecord[]> {
    const suspects = await this.#suspects(roomId, await this.#records.slot(roomId, "any", call), traces, "any", call);
    if (suspects.length === 0) return suspects;
    return this.#suspects(roomId, await this.#records.slot(roomId, "certain", call), suspects, "certain", call);
  }

  /** Removes the records of one room that nothing refers to, and that nothing ever can. */
  clear(roomId: string, traces: readonly StagedRecord[], call: Call): Promise<void> {
    return this.#room(roomId, traces, call);
  }

  /** Looks at a bounded number of records in every bucket except `rooms` and `users`, which hold nothing staged. */
  async some(call: Call): Promise<void> {
    const { membersByEndpoint, roomKeys, members } = this.#records.buckets;
    const traces: StagedRecord[] = [];
    for (const { key } of await sample(membersByEndpoint, call)) traces.push(...indexTraces(membersByEndpoint, key));
    for (const { key } of await sample(roomKeys, call)) traces.push(...traceOf(roomKeys, key, parseKey(key)));
    for (const { key } of await sample(members, call)) traces.push(...traceOf(members, key, parseMember(key)));
    await this.#eachRoom(traces, call);
  }

  /** Looks at index entries that led a reader nowhere. */
  async indexEntries(entryKeys: readonly Key<"rooms_by_member">[], call: Call): Promise<void> {
    const bucket = this.#records.buckets.membersByEndpoint;
    await this.#eachRoom(
      entryKeys.flatMap((key) => indexTraces(bucket, key)),
      call,
    );
  }

  async #eachRoom(traces: readonly StagedRecord[], call: Call): Promise<void> {
    const byRoom = new Map<string, StagedRecord[]>();
    for (const trace of traces) {
      const of = byRoom.get(trace.roomId);
      if (of === undefined) byRoom.set(trace.roomId, [trace]);
      else of.push(trace);
    }
    await joinAll(Array.from(byRoom, ([roomId, of]) => this.#room(roomId, of, call)));
  }

  async #room(roomId: string, traces: readonly StagedRecord[], call: Call): Promise<void> {
    // The cheapest look comes first: nearly always everything is in order.
    const suspects = await this.#suspects(roomId, await this.#records.slot(roomId, "any", call), traces, "any", call);
    if (suspects.length === 0) return;
    // An import stages records long before anything names them. It says so in the log before it stages anything, and so
    // before the sweep could meet a record of it.
    const { rooms } = this.#records.buckets;
    await rooms.checkOpen(await rooms.readIndex(call), call);
    const slot = await this.#records.slot(roomId, "certain", call);
    const found = await this.#suspects(roomId, slot, suspects, "certain", call);
    const open = found.filter(({ verdict }) => verdict === "open");
    const fenced = open.length === 0 || (await this.#records.fence(roomId, slot, call));
    // The fence failed: the room has changed, and perhaps the attempt with it. The next sweep looks again.
    const removable = fenced ? found : found.filter(({ verdict }) => verdict === "dead");
    await joinAll(removable.map(({ remove }) => remove(call)));
    if (removable.length > 0) tell({ type: "sweep", backend: "jetstream", roomId, removed: removable.length });
  }

  async #suspects(
    roomId: string,
    slot: RoomSlot,
    traces: readonly StagedRecord[],
    freshness: Freshness,
    call: Call,
  ): Promise<(StagedRecord & { verdict: Verdict })[]> {
    const { record } = slot;
    if (record === undefined) return traces.map((trace) => ({ ...trace, verdict: withoutRoom(slot, trace) }));
    const judged = await joinAll(
      traces.map(async (trace) => ({ ...trace, verdict: await this.#judge(roomId, record, trace, freshness, call) })),
    );
    return judged.filter(({ verdict }) => verdict !== "live");
  }

  async #judge(
    roomId: string,
    record: RoomRecord,
    trace: StagedRecord,
    freshness: Freshness,
    call: Call,
  ): Promise<Verdict> {
    // Made for an earlier room of that id, or for an attempt that lost to the one that made this room.
    if (trace.incarnation !== record.incarnation) return "dead";
    const { membership, made, roster } = trace;
    // Rows under another id are from before a copy, or from a copy that may still be committed.
    if (roster !== undefined) return roster === record.roster || roster === record.copying ? "live" : "open";
    if (membership === undefined) return "live";
    const { members, roomKeys } = this.#records.buckets;
    const rowKey = keys.member(roomId, membership.endpoint, record.roster);
    // Only a certain read may lead to a removal: a replica can be behind, or miss a row.
    const { entry } = await members.read(rowKey, freshness, call);
    const rows = [
      ...record.head.filter((head) => head.endpoint === membership.endpoint).map((head) => head.row),
      ...(entry === undefined ? [] : [readMember(entry).row]),
    ];
    const row = rows.find((candidate) => candidate.id === membership.id);
    if (row === undefined) return "open";
    if (row.gone) return "dead";
    if (made === undefined) return "live";
    if (made.epoch > record.epoch) return "open";
    if (made.epoch === record.epoch) return made.attempt === record.attempt ? "live" : "dead";
    const epochKey = keys.epoch(roomId, record.incarnation, made.epoch);
    const { entry: epoch } = await roomKeys.read(epochKey, freshness, call);
    return epoch === undefined || readEpoch(epoch) === made.attempt ? "live" : "dead";
  }
}

/**
 * Rows and epochs are written only for rooms that exist, and a deleted room leaves a tombstone. What is staged may
 * belong to a room that is about to be made. So where there is no tombstone, nothing is dead before the fence.
 */
function withoutRoom(slot: RoomSlot, trace: StagedRecord): Verdict {
  return trace.membership === undefined && trace.isOfRoom === undefined && slot.seq > 0 ? "dead" : "open";
}

function indexTraces(bucket: Bucket<"rooms_by_member">, key: Key<"rooms_by_member">): StagedRecord[] {
  const room = parseRoomIndexEntry(key);
  if (room !== undefined) return traceOf(bucket, key, { ...room, isOfRoom: true });
  const at = parseIndexEntry(key);
  if (at === undefined) return [];
  const { roomId, incarnation, endpoint, membership } = at;
  return traceOf(bucket, key, { roomId, incarnation, membership: { endpoint, id: membership } });
}

/** The staged record at a key, if its key says what it belongs to. */
function traceOf<B extends BucketName>(
  bucket: Bucket<B>,
  key: Key<B>,
  at: Omit<StagedRecord, "remove" | "name" | "isThere"> | undefined,
): StagedRecord[] {
  if (at === undefined) return [];
  const isThere = async (freshness: Freshness, call: Call): Promise<boolean> => {
    try {
      return (await bucket.read(key, freshness, call)).entry !== undefined;
    } catch (error) {
      // A damaged record is there all the same.
      if (isCorrupt(error)) return true;
      throw error;
    }
  };
  return [{ ...at, name: `${bucket.name}: ${key}`, isThere, remove: (call) => bucket.purge(key, call) }];
}

async function sample<B extends BucketName>(bucket: Bucket<B>, call: Call): Promise<Entry<B>[]> {
  const start = 1 + Math.floor(Math.random() * bucket.highestSeen);
  const found = new Map<Key<B>, Entry<B>>();
  for (const from of [start, 1]) {
    if (found.size >= AT_ONCE) break;
    await bucket.scans.scan(EVERYTHING, call, { from }, (entry) => {
      found.set(entry.key, entry);
      return found.size < AT_ONCE ? "go on" : "stop";
    });
  }
  return [...found.values()];
}
