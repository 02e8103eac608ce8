/**
 * The rooms of the image that nobody has changed since, with their members and keys. They are packed: opening copies
 * bytes, and a million rooms are a few objects. An object is made for whoever asks for it. A room that is written to is
 * taken out, and kept as objects (`entries.ts`). A large one is kept so from the beginning.
 */
import { randomInt } from "node:crypto";
import { MemberEntry, RoomEntry } from "./entries.js";
import { HashIndex } from "./hash-index.js";
import { LookupText } from "./lookup-text.js";
import { hashOf } from "./murmur.js";
import {
  GONE,
  MEMBER,
  ROOM,
  hasJoined,
  isEqual,
  memberAt,
  membersAt,
  readKeys,
  readMember,
  readRoom,
} from "./packed-format.js";
import type { Bytes } from "./packed-format.js";
import { RecordArena } from "./record-arena.js";
import type { Address } from "./record-arena.js";
import type { MemberRow, RoomRow } from "./rows.js";
import type { TimeSlice } from "./time-slice.js";

export class PackedRooms {
  /** Which texts have the same hash differs from store to store: nobody can choose them. */
  readonly seed = randomInt(2 ** 31);
  readonly #records = new RecordArena();
  readonly #byId = new HashIndex();
  /** The rooms of each endpoint. Those that are gone stay in it, and are passed over. */
  readonly #byEndpoint = new HashIndex();
  readonly #id = new LookupText(this.seed);
  readonly #endpoint = new LookupText(this.seed);
  #count = 0;

  // How they come.

  addRoom(record: Bytes, length: number): Address {
    this.#count++;
    const address = this.#records.add(record, length);
    this.#byId.add(hashOf(record.view, ROOM.texts, record.view.getUint16(ROOM.id, true), this.seed), address);
    return address;
  }

  /** From now on rooms are found. */
  async indexRooms(pace: TimeSlice): Promise<void> {
    await this.#byId.build(pace);
  }

  /** Gives a room its members, once. */
  addMembers(room: Address, record: Bytes, length: number): void {
    const piece = this.#piece(room);
    const at = this.#records.offset(room) + ROOM.members;
    if (piece.view.getUint32(at, true) !== 0) throw new Error("a room's members are not together");
    piece.view.setUint32(at, this.#records.add(record, length), true);
    const { view } = record;
    for (const member of membersAt(record, 0))
      this.#byEndpoint.add(
        hashOf(view, member + MEMBER.texts, view.getUint16(member + MEMBER.endpoint, true), this.seed),
        room,
      );
  }

  /** From now on memberships are found. */
  async indexMembers(pace: TimeSlice): Promise<void> {
    await this.#byEndpoint.build(pace);
  }

  // How they are found.

  find(id: unknown): Address | undefined {
    return this.#count > 0 && this.#id.set(id) ? this.locate(this.#id.view, 0, this.#id.length) : undefined;
  }

  /** By the bytes of its id. */
  locate(view: DataView, at: number, length: number): Address | undefined {
    const hash = hashOf(view, at, length, this.seed);
    const rooms = this.#byId.part(hash);
    const end = rooms.end(hash);
    for (let i = rooms.first(hash); i < end; i++) {
      if (!rooms.isOf(i, hash)) continue;
      const address = rooms.value(i);
      if (this.#isThere(address) && this.hasId(address, view, at, length)) return address;
    }
    return undefined;
  }

  hasId(address: Address, view: DataView, at: number, length: number): boolean {
    const piece = this.#piece(address);
    const offset = this.#records.offset(address);
    return (
      piece.view.getUint16(offset + ROOM.id, true) === length &&
      isEqual(piece.view, offset + ROOM.texts, view, at, length)
    );
  }

  /** Whether these bytes are the endpoint of the room's owner. */
  hasOwner(address: Address, view: DataView, at: number, length: number): boolean {
    const piece = this.#piece(address);
    const offset = this.#records.offset(address);
    if (piece.view.getUint16(offset + ROOM.owner, true) !== length) return false;
    const before = piece.view.getUint16(offset + ROOM.id, true) + piece.view.getUint16(offset + ROOM.name, true);
    return isEqual(piece.view, offset + ROOM.texts + before, view, at, length);
  }

  hasJoined(id: unknown, endpoint: unknown): boolean {
    const room = this.find(id);
    if (room === undefined || !this.#endpoint.set(endpoint)) return false;
    const [piece, at] = this.#members(room);
    const member = memberAt(piece, at, this.#endpoint);
    return member !== undefined && hasJoined(piece, member);
  }

  row(room: Address): RoomRow {
    return readRoom(this.#piece(room), this.#records.offset(room));
  }

  /** Made for whoever looks at it. A change of it would be lost. */
  entry(room: Address): RoomEntry {
    return this.#entry(room, (entry, row) => new MemberEntry(entry, row.endpoint, row));
  }

  /** Takes the room out. `member` makes the entry of each member, and keeps it. */
  take(room: Address, member: (entry: RoomEntry, row: MemberRow) => MemberEntry): RoomEntry {
    const entry = this.#entry(room, member);
    const piece = this.#piece(room);
    const offset = this.#records.offset(room);
    piece.view.setUint8(offset + ROOM.flags, piece.view.getUint8(offset + ROOM.flags) | GONE);
    this.#records.delete(piece.view.getUint32(offset + ROOM.members, true));
    this.#records.delete(room);
    this.#count--;
    return entry;
  }

  /** The endpoint's memberships: each room, and the place of the member in it. */
  *#memberships(endpoint: string): Generator<[room: Address, piece: Bytes, member: number], void, undefined> {
    if (this.#count === 0 || !this.#endpoint.set(endpoint)) return;
    const { hash } = this.#endpoint;
    const memberships = this.#byEndpoint.part(hash);
    const end = memberships.end(hash);
    // Two endpoints of one hash may be in one room.
    const seen = new Set<Address>();
    for (let i = memberships.first(hash); i < end; i++) {
      if (!memberships.isOf(i, hash)) continue;
      const room = memberships.value(i);
      if (!this.#isThere(room) || seen.has(room)) continue;
      seen.add(room);
      const [piece, at] = this.#members(room);
      const member = memberAt(piece, at, this.#endpoint);
      if (member !== undefined) yield [room, piece, member];
    }
  }

  memberRows(endpoint: string): MemberRow[] {
    return Array.from(this.#memberships(endpoint), ([room, piece, at]) => readMember(piece, at, this.row(room).id).row);
  }

  roomRows(endpoint: string): RoomRow[] {
    return Array.from(this.#memberships(endpoint), ([room]) => this.row(room));
  }

  #entry(room: Address, make: (entry: RoomEntry, row: MemberRow) => MemberEntry): RoomEntry {
    const entry = new RoomEntry(this.row(room));
    const [piece, at] = this.#members(room);
    for (const place of membersAt(piece, at)) {
      const packed = readMember(piece, place, entry.id);
      const member = make(entry, packed.row);
      entry.members.add(member);
      entry.shareOwner(member.endpoint);
      for (const key of readKeys(piece, place, packed)) member.setKey(key);
    }
    return entry;
  }

  #isThere(room: Address): boolean {
    const piece = this.#records.piece(room);
    return piece !== undefined && (piece.view.getUint8(this.#records.offset(room) + ROOM.flags) & GONE) === 0;
  }

  #members(room: Address): [piece: Bytes, at: number] {
    const address = this.#piece(room).view.getUint32(this.#records.offset(room) + ROOM.members, true);
    return [this.#piece(address), this.#records.offset(address)];
  }

  #piece(address: Address): Bytes {
    const piece = this.#records.piece(address);
    if (piece === undefined) throw new RangeError("An address without a record");
    return piece;
  }
}
