/** The rooms of an endpoint, by the reverse index. */
import type { Call } from "../call.js";
import { isNotFound } from "../errors.js";
import { sortedBy } from "../rules.js";
import { CERTAIN } from "./freshness.js";
import { keys, parseIndexEntry, type Key } from "./keys.js";
import { readMember, readRoom, type MemberRow, type RoomRecord } from "./room-record.js";
import { currentMember } from "./room-members.js";
import type { RoomMembers } from "./room-members.js";
import type { RoomRecords } from "./room-records.js";
import { latest } from "./seq.js";

/** Keys of one read: the server answers at most 1,024. */
const CHUNK = 200;
/** An entry younger than this may be of an addition under way, which clearing it away would only hold up. */
const STALE_MS = 60_000;

/** A membership as it stands, and the room that it is in. */
export interface Membership {
  readonly roomId: string;
  readonly record: RoomRecord;
  readonly row: MemberRow;
}

export class Memberships {
  readonly #records: RoomRecords;
  readonly #members: RoomMembers;
  readonly #stale: (entryKeys: readonly Key<"rooms_by_member">[]) => void;

  /** `stale` is told of index entries that lead nowhere. */
  constructor(
    records: RoomRecords,
    members: RoomMembers,
    stale: (entryKeys: readonly Key<"rooms_by_member">[]) => void,
  ) {
    this.#records = records;
    this.#members = members;
    this.#stale = stale;
  }

  /**
   * The endpoint's memberships, sorted by room id. An index entry only says where to look: it is written before its
   * membership and removed after it. Whether the endpoint is a member is what the room says.
   */
  async of(endpoint: string, call: Call): Promise<Membership[]> {
    const { rooms, members, membersByEndpoint } = this.#records.buckets;
    const [entriesMin, roomsMin] = await Promise.all([membersByEndpoint.readIndex(call), rooms.readIndex(call)]);
    const entries = await membersByEndpoint.scans.all(
      keys.indexEntries(endpoint),
      keys.indexMark(endpoint),
      entriesMin,
      call,
    );
    const roomIds = [...new Set(Array.from(entries.keys(), roomOf))];
    const found: Membership[] = [];
    for (let i = 0; i < roomIds.length; i += CHUNK) {
      const chunk = roomIds.slice(i, i + CHUNK);
      const snapshot = await rooms.reads.read(chunk.map(keys.room), roomsMin, call);
      const live = chunk.flatMap((roomId) => {
        const slot = readRoom(snapshot.get(keys.room(roomId)));
        this.#records.met(roomId, slot);
        const { record } = slot;
        return record === undefined ? [] : [{ roomId, record, key: keys.member(roomId, endpoint, record.roster) }];
      });
      if (live.length === 0) continue;
      const needed = latest(
        0,
        live.map(({ record }) => record.membersSeq),
      );
      const rows = await members.reads.read(
        live.map(({ key }) => key),
        needed,
        call,
      );
      for (const { roomId, record, key } of live) {
        const entry = rows.get(key);
        const { row } = currentMember(record, endpoint, entry === undefined ? undefined : readMember(entry), false);
        // Who is none has a row, or never had one. But rows are copied under another id, and a replica can miss one.
        const sure = row === undefined && entry === undefined ? await this.#certain(roomId, endpoint, call) : undefined;
        if (sure !== undefined) found.push(sure);
        else if (row !== undefined) found.push({ roomId, record, row });
      }
    }
    const ids = new Set(found.map(({ roomId }) => roomId));
    const old = Date.now() - STALE_MS;
    const stale = [...entries.values()].filter((entry) => !ids.has(roomOf(entry.key)) && entry.time.getTime() < old);
    if (stale.length > 0) this.#stale(stale.map((entry) => entry.key));
    return sortedBy(found, ({ roomId }) => roomId);
  }

  async #certain(roomId: string, endpoint: string, call: Call): Promise<Membership | undefined> {
    try {
      const { room, member } = await this.#members.member(roomId, endpoint, CERTAIN, call);
      return member.row === undefined ? undefined : { roomId, record: room.record, row: member.row };
    } catch (error) {
      if (isNotFound(error)) return undefined;
      throw error;
    }
  }
}

const roomOf = (entryKey: Key<"rooms_by_member">): string => parseIndexEntry(entryKey)?.roomId ?? "";
