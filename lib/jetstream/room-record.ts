/** The records of a room and of its members: what stands in `rooms` and `members`. */
import { Buffer } from "node:buffer";
import type { Member, Room } from "../store.js";
import type { Entry } from "./entry.js";
import type { Json } from "./json.js";
import { Fields, corrupt } from "./record-fields.js";
import type { Seq } from "./seq.js";
import { NO_WRITES, type WriteHistory } from "./write-history.js";

/** A membership as of room version `v`. When the membership ends, its row stays, as `gone`. */
export interface MemberRow {
  readonly id: string;
  readonly v: number;
  /** How many rows version `v` has. They are put into the bucket one by one, and count only together. */
  readonly of: number;
  /** How many members the room has as of version `v`. Rows that are older than this field do not say it. */
  readonly members?: number | undefined;
  /** The version with which this membership began, if the endpoint had one before that has ended. */
  readonly again?: number | undefined;
  readonly gone: boolean;
  readonly owner: boolean;
  readonly joined: boolean;
  readonly since: number;
  readonly invitedBy: string | undefined;
  /** base64 */
  readonly publicKey: string | undefined;
}

/** A change of a membership that is committed with the room's record and may not stand in the members bucket yet. */
export interface UnappliedChange {
  readonly endpoint: string;
  /** The sequence of the row that this one follows; 0 if there is none. */
  readonly after: Seq<"members">;
  readonly row: MemberRow;
}

/** A room. Every change in it commits by a write of this record. The record's size has a bound. */
export interface RoomRecord extends WriteHistory<"rooms"> {
  /**
   * Whether whoever wrote the record knew that the room has an entry in the index of all rooms. A version of the
   * library that knows no such index drops the field, and writes rooms without entries.
   */
  readonly indexed: boolean;
  readonly incarnation: string;
  /** Under which id the members' rows stand. */
  readonly roster: string;
  /** Under which id the rows are being copied. It is to be the roster then. */
  readonly copying?: string | undefined;
  /** How many rows there were when the copying began. */
  readonly copyingSince?: number | undefined;
  /** How many rows there are, with those of members who are gone. Not known of a room that is older than this field. */
  readonly rows?: number | undefined;
  /** Rows of members who were gone by this version were left behind when rows were copied. No later rows were. */
  readonly forgotten?: number | undefined;
  /** Which write of the record made the room, as {@link WriteHistory.n} counts. */
  readonly made?: number | undefined;
  /** Counts the visible changes of the room and its membership. */
  readonly v: number;
  readonly name: string;
  readonly encrypted: boolean;
  readonly owner: string;
  readonly epoch: number;
  /** The rekey that made the current epoch. Its keys are the epoch's, and no others are. */
  readonly attempt: string;
  readonly rekeyRequired: boolean;
  readonly createdAt: number;
  readonly members: number;
  /**
   * Up to this sequence `members` has the rows of every change before the head. `keysSeq` is the same for `room_keys`
   * and the keys of every epoch.
   */
  readonly membersSeq: Seq<"members">;
  readonly keysSeq: Seq<"room_keys">;
  readonly head: readonly UnappliedChange[];
}

/** The place of a room's record. Without `record` there is no room: it never was (`seq` 0), or it was deleted. */
export interface RoomSlot {
  readonly seq: Seq<"rooms">;
  readonly written: WriteHistory<"rooms">;
  /** The room's version. 0: there is no room. */
  readonly state: number;
  readonly record: RoomRecord | undefined;
}

function memberRow(fields: Fields): MemberRow {
  return {
    id: fields.text("id"),
    v: fields.number("v"),
    of: fields.number("of"),
    members: fields.maybeNumber("members"),
    again: fields.maybeNumber("again"),
    gone: fields.flag("gone"),
    owner: fields.flag("owner"),
    joined: fields.flag("joined"),
    since: fields.number("since"),
    invitedBy: fields.maybeText("invitedBy"),
    publicKey: fields.maybeText("publicKey"),
  };
}

/** A row, and where it stands. */
export interface PlacedRow {
  readonly row: MemberRow;
  readonly seq: Seq<"members">;
}

export function readMember(entry: Entry<"members">): PlacedRow {
  return { row: memberRow(new Fields(entry.value, entry)), seq: entry.seq };
}

export function readRoom(entry: Entry<"rooms"> | undefined): RoomSlot {
  if (entry === undefined) return { seq: 0, written: NO_WRITES, state: 0, record: undefined };
  const fields = new Fields(entry.value, entry);
  const written = fields.written<"rooms">();
  if (fields.flag("gone")) return { seq: entry.seq, written, state: 0, record: undefined };
  const incarnation = fields.maybeText("life") ?? fields.text("incarnation");
  const v = fields.number("v");
  return {
    seq: entry.seq,
    written,
    state: v,
    record: {
      // One by one: a literal that begins with a spread is several times slower to make, and rooms are read all the
      // time.
      n: written.n,
      first: written.first,
      log: written.log,
      from: written.from,
      seqs: written.seqs,
      states: written.states,
      indexed: fields.maybeFlag("indexed") ?? false,
      incarnation,
      roster: fields.maybeText("roster") ?? incarnation,
      copying: fields.maybeText("copying"),
      copyingSince: fields.maybeNumber("copyingSince"),
      rows: fields.maybeNumber("rows"),
      forgotten: fields.maybeNumber("forgotten"),
      made: fields.maybeNumber("made"),
      v,
      name: fields.text("name"),
      encrypted: fields.flag("encrypted"),
      owner: fields.text("owner"),
      epoch: fields.number("epoch"),
      attempt: fields.text("attempt"),
      rekeyRequired: fields.flag("rekeyRequired"),
      createdAt: fields.number("createdAt"),
      members: fields.number("members"),
      membersSeq: fields.seq("members", "membersSeq"),
      keysSeq: fields.seq("room_keys", "keysSeq"),
      head: fields.list("head").map((item) => {
        const head = new Fields(item, entry);
        const row = head.maybe("row");
        if (row === undefined) throw corrupt(entry, "row");
        return { endpoint: head.text("endpoint"), after: head.seq("members", "after"), row: memberRow(row) };
      }),
    },
  };
}

/**
 * A version of the library that does not know rosters would drop the field, and the members with it. So where the
 * roster is not the first one, the record has no `incarnation`. That version takes such a record for damaged, and
 * leaves it alone.
 */
export function writeRoom(record: RoomRecord): Json {
  const { incarnation, ...others } = record;
  return record.roster === incarnation ? { gone: false, ...record } : { gone: false, life: incarnation, ...others };
}

/** What stays of a deleted room. Its sequence keeps every earlier attempt from being committed. */
export function writeTombstone(written: WriteHistory<"rooms">): Json {
  return { gone: true, ...written };
}

export function toRoom(id: string, record: RoomRecord): Room {
  return {
    id,
    name: record.name,
    encrypted: record.encrypted,
    owner: record.owner,
    epoch: record.epoch,
    rekeyRequired: record.rekeyRequired,
    createdAt: new Date(record.createdAt),
    revision: `${record.incarnation}.${String(record.v)}`,
  };
}

export function toMember(roomId: string, endpoint: string, incarnation: string, row: Omit<MemberRow, "of">): Member {
  return {
    roomId,
    endpoint,
    role: row.owner ? "owner" : "member",
    state: row.joined ? "joined" : "invited",
    ...(row.invitedBy === undefined ? {} : { invitedBy: row.invitedBy }),
    ...(row.publicKey === undefined ? {} : { publicKey: new Uint8Array(Buffer.from(row.publicKey, "base64")) }),
    since: new Date(row.since),
    revision: `${incarnation}.${String(row.v)}`,
  };
}
