/** The rooms and their members: those that were written to since opening as objects, the others packed. */
import { Memberships } from "./entries.js";
import type { RoomEntry } from "./entries.js";
import { InOrder } from "./in-order.js";
import { PackedRooms } from "./packed-rooms.js";
import type { Address } from "./record-arena.js";
import type { MemberRow, RoomRow } from "./rows.js";
import { ShardedMap } from "./sharded-map.js";

export class RoomTable {
  readonly packed = new PackedRooms();
  readonly #entries = new ShardedMap<RoomEntry>();
  readonly #inOrder = new InOrder<RoomEntry | Address>();
  /** The reverse index of the rooms that are objects. */
  readonly memberships = new Memberships();

  /** The last ordinal that was ever used. */
  get last(): number {
    return this.#inOrder.last;
  }

  row(id: string): RoomRow | undefined {
    const entry = this.#entries.get(id);
    if (entry !== undefined) return entry.row;
    const address = this.packed.find(id);
    return address === undefined ? undefined : this.packed.row(address);
  }

  /** To look at. A change of it may be lost: `toChange` is for that. */
  get(id: string): RoomEntry | undefined {
    const entry = this.#entries.get(id);
    if (entry !== undefined) return entry;
    const address = this.packed.find(id);
    return address === undefined ? undefined : this.packed.entry(address);
  }

  hasJoined(id: string, endpoint: string): boolean {
    const entry = this.#entries.get(id);
    return entry === undefined ? this.packed.hasJoined(id, endpoint) : entry.members.get(endpoint)?.hasJoined === true;
  }

  page(after: number, limit: number): { rows: RoomRow[]; next: number | undefined } {
    const { rows, next } = this.#inOrder.page(after, limit);
    return { rows: rows.map((room) => (typeof room === "number" ? this.packed.row(room) : room.row)), next };
  }

  /** The endpoint's memberships. */
  membersOf(endpoint: string): MemberRow[] {
    return this.memberships
      .of(endpoint)
      .map(({ row }) => row)
      .concat(this.packed.memberRows(endpoint));
  }

  roomsOf(endpoint: string): RoomRow[] {
    return this.memberships
      .of(endpoint)
      .map(({ room }) => room.row)
      .concat(this.packed.roomRows(endpoint));
  }

  /** The room as objects, which are kept. */
  toChange(id: string): RoomEntry | undefined {
    const entry = this.#entries.get(id);
    if (entry !== undefined) return entry;
    const address = this.packed.find(id);
    return address === undefined ? undefined : this.unpack(address);
  }

  unpack(address: Address): RoomEntry {
    const entry = this.packed.take(address, (room, row) => this.memberships.add(room, row));
    this.add(entry);
    return entry;
  }

  add(entry: RoomEntry): void {
    this.#inOrder.set(entry.ordinal, entry);
    this.#entries.set(entry.id, entry);
  }

  addPacked(ordinal: number, address: Address): void {
    this.#inOrder.set(ordinal, address);
  }

  delete({ id, ordinal, members }: RoomEntry): void {
    for (const member of members.all()) this.memberships.delete(member);
    this.#entries.delete(id);
    this.#inOrder.delete(ordinal);
  }
}
