/**
 * Packs rooms as an image has them: a room with its members and their keys is written once, when all of them were read.
 */
import { Buffer, isUtf8 } from "node:buffer";
import { packedKeyBytes, packedMemberBytes, packedRoomBytes } from "./budget.js";
import type { RoomEntry } from "./entries.js";
import { flag, isFirst, keyOf, memberOf, roomOf } from "./image-rows.js";
import * as format from "./packed-format.js";
import { KEY, MAX_TEXT_BYTES, MEMBER, MEMBERS_HEAD, ROOM, copyBytes, isEqual } from "./packed-format.js";
import type { Bytes } from "./packed-format.js";
import type { Address } from "./record-arena.js";
import type { RowReader } from "./row-reader.js";
import { InconsistentState } from "./rows.js";
import type { Tables } from "./tables.js";

/** Larger rooms are kept as objects: a member of a packed room is found by passing others. */
const MAX_MEMBERS = 64;
const MAX_BYTES = 16_384;

/** The room whose members are being read: packed, or an entry. */
interface Group {
  readonly room: Address | undefined;
  entry: RoomEntry | undefined;
  members: number;
  hasOwner: boolean;
}

export class RoomPacker {
  readonly #tables: Tables;
  /** What is being written. */
  readonly #record = ownBytes(MAX_BYTES);
  #end = 0;
  #rooms = 0;
  /** How many of them have their members, with an owner among them. */
  #complete = 0;
  #group: Group | undefined;
  /** The id of the group's room. */
  #id = ownBytes(MAX_TEXT_BYTES);
  #idLength = 0;
  #idCharacters = 0;
  /** Where the last member is in the record, */
  #member = 0;
  /** and where SQLite has its endpoint. */
  #endpointAt = 0;
  #endpointLength = 0;
  #endpointCharacters = 0;

  constructor(tables: Tables) {
    this.#tables = tables;
  }

  /** Takes a row of the rooms. */
  room(rows: RowReader): void {
    this.#rooms++;
    const { view } = this.#record;
    const [id, idLength] = [rows.textAt(1), rows.length];
    const [name, nameLength] = [rows.textAt(2), rows.length];
    const [owner, ownerLength] = [rows.textAt(4), rows.length];
    if (Math.max(idLength, nameLength, ownerLength) > MAX_TEXT_BYTES) {
      this.#tables.apply({ kind: "room", row: roomOf(rows) });
      return;
    }
    const ordinal = rows.number(0);
    const flags = (flag(rows, 3) ? format.ENCRYPTED : 0) | (flag(rows, 6) ? format.REKEY_REQUIRED : 0);
    view.setUint32(ROOM.members, 0, true);
    view.setUint8(ROOM.flags, flags);
    view.setUint16(ROOM.id, idLength, true);
    view.setUint16(ROOM.name, nameLength, true);
    view.setUint16(ROOM.owner, ownerLength, true);
    view.setFloat64(ROOM.ordinal, ordinal, true);
    view.setFloat64(ROOM.epoch, rows.number(5), true);
    view.setFloat64(ROOM.createdAt, rows.number(7), true);
    view.setFloat64(ROOM.sequence, rows.number(8), true);
    this.#end = ROOM.texts;
    this.#copy(rows, id, idLength);
    this.#copy(rows, name, nameLength);
    this.#copy(rows, owner, ownerLength);
    this.#tables.bytes += packedRoomBytes(
      charactersIn(rows, id, idLength) + charactersIn(rows, name, nameLength) + charactersIn(rows, owner, ownerLength),
    );
    this.#tables.count("rooms", 1);
    const { rooms } = this.#tables;
    rooms.addPacked(ordinal, rooms.packed.addRoom(this.#record, this.#end));
  }

  /** Takes a row of the members, in the order of their rooms. */
  member(rows: RowReader): void {
    const group = this.#groupOf(rows);
    const [endpoint, endpointLength] = [rows.textAt(1), rows.length];
    const isInvited = !rows.isNull(4);
    const [inviter, inviterLength] = isInvited ? [rows.textAt(4), rows.length] : [0, 0];
    const hasKey = !rows.isNull(5);
    const [publicKey, publicKeyLength] = hasKey ? [rows.blobAt(5), rows.length] : [0, 0];
    this.#endpointAt = endpoint;
    this.#endpointLength = endpointLength;
    const size = MEMBER.texts + endpointLength + 2 + inviterLength + 2 + publicKeyLength;
    if (
      Math.max(endpointLength, inviterLength) > MAX_TEXT_BYTES ||
      group.members === MAX_MEMBERS ||
      this.#end + size > MAX_BYTES
    )
      this.#unpack(group);
    if (group.entry !== undefined) {
      this.#tables.apply({ kind: "member", row: memberOf(rows) });
      return;
    }
    const [isOwner, isJoined] = [isFirst(rows, 2), !isFirst(rows, 3)];
    const { view } = this.#record;
    const at = this.#end;
    const flags =
      (isOwner ? format.OWNER : 0) |
      (isJoined ? format.JOINED : 0) |
      (isInvited ? format.INVITED_BY : 0) |
      (hasKey ? format.PUBLIC_KEY : 0);
    view.setUint8(at + MEMBER.flags, flags);
    view.setUint16(at + MEMBER.endpoint, endpointLength, true);
    view.setFloat64(at + MEMBER.since, rows.number(6), true);
    view.setFloat64(at + MEMBER.sequence, rows.number(7), true);
    this.#end += MEMBER.texts;
    this.#copy(rows, endpoint, endpointLength);
    if (isInvited) this.#copyWithLength(rows, inviter, inviterLength);
    if (hasKey) this.#copyWithLength(rows, publicKey, publicKeyLength);
    this.#member = at;
    this.#endMember();
    group.members++;
    this.#tables.count("members", 1);
    if (isOwner && this.#isOwner(group, rows, endpoint, endpointLength)) group.hasOwner = true;
    this.#endpointCharacters = charactersIn(rows, endpoint, endpointLength);
    const characters = this.#idCharacters + this.#endpointCharacters + charactersIn(rows, inviter, inviterLength);
    this.#tables.bytes += packedMemberBytes(characters, hasKey ? publicKeyLength : undefined);
  }

  /** Whether a row of the keys is of the member that was taken last. `members` still has to be at its row. */
  isOfLastMember(keys: RowReader, members: RowReader): boolean {
    const [room, roomLength] = [keys.textAt(0), keys.length];
    const [endpoint, endpointLength] = [keys.textAt(1), keys.length];
    return (
      this.#group !== undefined &&
      endpointLength === this.#endpointLength &&
      isEqual(keys.view, endpoint, members.view, this.#endpointAt, endpointLength) &&
      roomLength === this.#idLength &&
      isEqual(keys.view, room, this.#id.view, 0, roomLength)
    );
  }

  /** Takes a row of the keys. */
  key(rows: RowReader): void {
    const group = this.#group;
    if (group === undefined) return;
    const [sealed, length] = [rows.blobAt(3), rows.length];
    if (this.#end + KEY.sealed + length > MAX_BYTES) this.#unpack(group);
    if (group.entry !== undefined) {
      this.#tables.apply({ kind: "key", row: keyOf(rows) });
      return;
    }
    const { view } = this.#record;
    view.setFloat64(this.#end + KEY.epoch, rows.number(2), true);
    view.setFloat64(this.#end + KEY.createdAt, rows.number(4), true);
    this.#end += KEY.length;
    this.#copyWithLength(rows, sealed, length);
    this.#endMember();
    this.#tables.count("roomKeys", 1);
    this.#tables.bytes += packedKeyBytes(this.#idCharacters + this.#endpointCharacters, length);
  }

  /** Everything was taken. */
  end(): void {
    this.#endGroup();
    // Of two rooms of one id, one has no members.
    if (this.#complete !== this.#rooms) throw new Error("a room has no owner, or is there twice");
  }

  #groupOf(rows: RowReader): Group {
    const [id, length] = [rows.textAt(0), rows.length];
    if (this.#group !== undefined && length === this.#idLength && isEqual(rows.view, id, this.#id.view, 0, length))
      return this.#group;
    this.#endGroup();
    if (length > this.#id.bytes.length) this.#id = ownBytes(length);
    copyBytes(rows, id, this.#id, 0, length);
    this.#idLength = length;
    this.#idCharacters = charactersIn(rows, id, length);
    this.#end = MEMBERS_HEAD;
    const { rooms } = this.#tables;
    const room = rooms.packed.locate(this.#id.view, 0, length);
    const entry = room === undefined ? rooms.get(rows.text(0)) : undefined;
    if (room === undefined && entry === undefined)
      throw new InconsistentState("a member is of a room that is not there");
    this.#group = { room, entry, members: 0, hasOwner: false };
    return this.#group;
  }

  #endGroup(): void {
    const group = this.#group;
    if (group === undefined) return;
    if (group.entry !== undefined) group.hasOwner = group.entry.members.get(group.entry.owner)?.isOwner === true;
    else this.#addMembers(group);
    if (group.hasOwner) this.#complete++;
    this.#group = undefined;
  }

  #addMembers({ room }: Group): void {
    if (room === undefined) return;
    this.#record.view.setUint32(0, this.#end, true);
    this.#tables.rooms.packed.addMembers(room, this.#record, this.#end);
  }

  /** Keeps the room as objects from here on, with the members that were read so far. */
  #unpack(group: Group): void {
    if (group.room === undefined || group.entry !== undefined) return;
    this.#addMembers(group);
    group.entry = this.#tables.rooms.unpack(group.room);
  }

  #isOwner({ room }: Group, rows: RowReader, endpoint: number, length: number): boolean {
    return room !== undefined && this.#tables.rooms.packed.hasOwner(room, rows.view, endpoint, length);
  }

  #endMember(): void {
    this.#record.view.setUint16(this.#member + MEMBER.length, this.#end - this.#member, true);
  }

  #copy(rows: RowReader, at: number, length: number): void {
    copyBytes(rows, at, this.#record, this.#end, length);
    this.#end += length;
  }

  #copyWithLength(rows: RowReader, at: number, length: number): void {
    this.#record.view.setUint16(this.#end, length, true);
    this.#end += 2;
    this.#copy(rows, at, length);
  }
}

function ownBytes(length: number): Bytes {
  const bytes = Buffer.alloc(length);
  return { bytes, view: new DataView(bytes.buffer, bytes.byteOffset) };
}

/** How many characters a text has, as JavaScript counts. Throws if it is not UTF-8. */
function charactersIn({ bytes, view }: Bytes, at: number, length: number): number {
  let all = 0;
  let i = 0;
  for (; i + 4 <= length; i += 4) all |= view.getInt32(at + i);
  for (; i < length; i++) all |= view.getUint8(at + i);
  if ((all & 0x80808080) === 0) return length;
  if (!isUtf8(bytes.subarray(at, at + length))) throw new Error("a text is not UTF-8");
  return bytes.toString("utf8", at, at + length).length;
}
