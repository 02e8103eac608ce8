/** Which records have changed, for a backend that sees each change: their names, until somebody takes them. */
import { MAX_CHANGES } from "./driver.js";

/** Is told of each change, before its caller hears of it. */
export interface ChangeNotes {
  user(key: string, ended: boolean): void;
  room(id: string): void;
  roomDeleted(id: string): void;
  member(roomId: string, endpoint: string, ended: boolean): void;
  key(roomId: string, endpoint: string, epoch: number): void;
  /** What there is is another store's. */
  lose(): void;
}

export interface ChangedRoomNames {
  deleted: boolean;
  /** Whether the room's own record did. */
  changed: boolean;
  /** Whether a membership ended. */
  readonly members: Map<string, boolean>;
  readonly keys: Map<string, Set<number>>;
}

export class ChangedNames implements ChangeNotes {
  /** Whether a grant ended. */
  readonly users = new Map<string, boolean>();
  readonly rooms = new Map<string, ChangedRoomNames>();
  #count = 0;
  #lost = false;

  /** More than may be kept, or it cannot be told what. */
  get lost(): boolean {
    return this.#lost;
  }

  lose(): void {
    this.#lost = true;
    this.users.clear();
    this.rooms.clear();
  }

  user(key: string, ended: boolean): void {
    if (!this.#isKept(this.users.has(key))) return;
    this.users.set(key, ended || this.users.get(key) === true);
  }

  room(id: string): void {
    const room = this.#room(id);
    if (room !== undefined) room.changed = true;
  }

  /** What was known of the room's members and keys is gone with it. */
  roomDeleted(id: string): void {
    const room = this.#room(id);
    if (room === undefined) return;
    this.#count -= sizeOf(room);
    room.members.clear();
    room.keys.clear();
    room.deleted = room.changed = true;
  }

  member(roomId: string, endpoint: string, ended: boolean): void {
    const room = this.#room(roomId);
    if (room === undefined || !this.#isKept(room.members.has(endpoint))) return;
    room.members.set(endpoint, ended || room.members.get(endpoint) === true);
    if (!ended) return;
    this.#count -= room.keys.get(endpoint)?.size ?? 0;
    room.keys.delete(endpoint);
  }

  key(roomId: string, endpoint: string, epoch: number): void {
    const room = this.#room(roomId);
    if (room === undefined) return;
    let epochs = room.keys.get(endpoint);
    if (!this.#isKept(epochs?.has(epoch) === true)) return;
    if (epochs === undefined) room.keys.set(endpoint, (epochs = new Set()));
    epochs.add(epoch);
  }

  #room(id: string): ChangedRoomNames | undefined {
    let room = this.rooms.get(id);
    if (!this.#isKept(room !== undefined)) return undefined;
    if (room === undefined)
      this.rooms.set(id, (room = { deleted: false, changed: false, members: new Map(), keys: new Map() }));
    return room;
  }

  #isKept(isThere: boolean): boolean {
    if (this.#lost) return false;
    if (isThere) return true;
    if (this.#count >= MAX_CHANGES) {
      this.lose();
      return false;
    }
    this.#count++;
    return true;
  }
}

function sizeOf({ members, keys }: ChangedRoomNames): number {
  let size = members.size;
  for (const epochs of keys.values()) size += epochs.size;
  return size;
}
