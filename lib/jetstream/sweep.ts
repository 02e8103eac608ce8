/**
 * Clears away what attempts leave that died: index entries, keys and rows that nothing refers to. All of it is
 * invisible already; this is only about space, and about ciphertext that nobody should keep.
 *
 * An attempt that seems dead may be a stopped process that wakes at any time. So it is first made unable to commit: a
 * write of the room's record that changes nothing visible (`RoomRecords.fence`) breaks the condition of every attempt
 * under way. Only then is what it staged removed. Whoever wakes is refused, and starts anew under other ids. No clock
 * decides. The argument: docs/protocol.md, X1 to X3.
 */
import type { Call } from "../call.js";
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

/** Records of each bucket that one opening looks at, from a random place on: what one leaves out, a later one meets. */
const AT_ONCE = 1024;

/** What something staged belongs to. */
export interface StagedRecord {
  /** Its bucket, and its key there. */
  readonly name: string;
  /** Whether something stands there. */
  readonly isThere: (freshness: Freshness, call: Call) => Promise<boolean>;
  readonly remove: (call: Call) => Promise<void>;
  readonly roomId: string;
  readonly incarnation: string;
  /** Of a member's row: the id under which it stands. */
  readonly roster?: string;
  /** An entry in the index of all rooms. */
  readonly isOfRoom?: true;
  /** Of a key or an index entry: the membership that it is for. */
  readonly membership?: { readonly endpoint: string; readonly id: string };
  /** Of a key: the epoch and the attempt that would make it. */
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
   * Those of one room to which nothing refers, at a moment after this call. An attempt under way may do so later.
   * Nothing is changed.
   */
  async leftovers(roomId: string, traces: readonly StagedRecord[], call: Call): Promise<readonly StagedRecord[]> {
    const suspects = await this.#suspects(roomId, await this.#records.slot(roomId, "any", call), traces, "any", call);
    if (suspects.length === 0) return suspects;
    return this.#suspects(roomId, await this.#records.slot(roomId, "certain", call), suspects, "certain", call);
  }

  /** Removes those of one room to which nothing refers, and nothing ever can. */
  clear(roomId: string, traces: readonly StagedRecord[], call: Call): Promise<void> {
    return this.#room(roomId, traces, call);
  }

  /**
   * Looks at a bounded number of records of every bucket but `rooms` and `users`, which hold nothing that is staged.
   */
  async some(call: Call): Promise<void> {
    const { membersByEndpoint, roomKeys, members } = this.#records.buckets;
    const traces: StagedRecord[] = [];
    for (const { key } of await sample(membersByEndpoint, call)) traces.push(...indexTraces(membersByEndpoint, key));
    for (const { key } of await sample(roomKeys, call)) traces.push(...traceOf(roomKeys, key, parseKey(key)));
    for (const { key } of await sample(members, call)) traces.push(...traceOf(members, key, parseMember(key)));
    await this.#eachRoom(traces, call);
  }

  /** Looks at index entries that a reader found to lead nowhere. */
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
    // First as cheap as possible: nearly always everything is in order.
    const suspects = await this.#suspects(roomId, await this.#records.slot(roomId, "any", call), traces, "any", call);
    if (suspects.length === 0) return;
    // An import stages for long what no record names yet. It says so in the log before it stages anything, and so
    // before it was met.
    const { rooms } = this.#records.buckets;
    await rooms.checkOpen(await rooms.readIndex(call), call);
    const slot = await this.#records.slot(roomId, "certain", call);
    const found = await this.#suspects(roomId, slot, suspects, "certain", call);
    const open = found.filter(({ verdict }) => verdict === "open");
    const fenced = open.length === 0 || (await this.#records.fence(roomId, slot, call));
    // Not fenced: the room moved on, and with it perhaps the attempt. The next sweep looks again.
    const removable = fenced ? found : found.filter(({ verdict }) => verdict === "dead");
    await joinAll(removable.map(({ remove }) => remove(call)));
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
    // Made for a room of that id before this one, or for an attempt to make one that this one came before.
    if (trace.incarnation !== record.incarnation) return "dead";
    const { membership, made, roster } = trace;
    // Rows under another id are of before a copy, or of a copy that may still be committed.
    if (roster !== undefined) return roster === record.roster || roster === record.copying ? "live" : "open";
    if (membership === undefined) return "live";
    const { members, roomKeys } = this.#records.buckets;
    const rowKey = keys.member(roomId, membership.endpoint, record.roster);
    // Only what is certain is followed by a removal: a replica can be behind, or miss a row.
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
 * Rows and epochs are written only of rooms that were, which leave a tombstone; what is staged may be of a room that is
 * about to be. Where there is not even a tombstone nothing is dead before the fence.
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

/** What stands at a key, as far as its key says what it belongs to. */
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
      // Whatever it is.
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
