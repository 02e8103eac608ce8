/**
 * What a watcher has not taken yet, merged by record: a record keeps its place, and is told as it stood last. So memory
 * goes by how many records wait, and a reader that is slow still reaches the next proof, which counts once all that
 * waited for it when it came has gone.
 */
import type { WatchInput } from "../arguments.js";
import { MAX_CHANGES } from "../driver.js";
import type { ChangedMember, ChangedRoom, ChangedUser, Changes, WholeRoom } from "../driver.js";
import { copyOfMember, copyOfRoom, copyOfUser } from "../copies.js";
import type { Member, Room, StoreEvent, User } from "../store.js";

/** What a watcher wants to hear of. */
type Filter = Pick<WatchInput, "kinds" | "roomId" | "key">;

/** What waits of one record, or of a proof. */
type Waiting =
  | { readonly kind: "user"; readonly user: User; readonly ended: boolean }
  | { readonly kind: "room"; readonly roomId: string; readonly deleted: boolean; readonly room: Room | undefined }
  | {
      readonly kind: "member";
      readonly roomId: string;
      readonly endpoint: string;
      readonly ended: boolean;
      readonly member: Member | undefined;
    }
  | { readonly kind: "key"; readonly roomId: string; readonly endpoint: string; readonly epoch: number };

interface Place {
  readonly number: number;
  /** It has changed, or stands so and was read. */
  readonly isChange: boolean;
  readonly waiting: Waiting;
}

interface Proof {
  /** What has a number up to it comes first. */
  upTo: number;
  readonly asOf: number;
  readonly at: Date;
}

export class EventQueue {
  readonly #filter: Filter;
  readonly #places = new Map<string, Place>();
  /** Of each room the names of what waits of its members and keys: they go with it. */
  readonly #ofRoom = new Map<string, Set<string>>();
  /** And of each member those of its keys. */
  readonly #ofMember = new Map<string, Set<string>>();
  /** Whether what is put in has changed. */
  #isChange = true;
  /** Told before everything else. */
  #first: StoreEvent[] = [];
  #number = 0;
  /** How many of them have changed. */
  #changed = 0;
  #proof: Proof | undefined;
  #nextProof: Proof | undefined;

  constructor(filter: Filter) {
    this.#filter = filter;
  }

  get size(): number {
    return this.#places.size;
  }

  get isEmpty(): boolean {
    return this.#first.length === 0 && this.#places.size === 0 && this.#proof === undefined;
  }

  /** `false`: more records wait than may. */
  add({ users, rooms }: Changes): boolean {
    for (const [key, changed] of users) this.#user(key, changed);
    for (const [roomId, changed] of rooms) this.#room(roomId, changed);
    return this.#changed <= MAX_CHANGES;
  }

  /** What stands there, where no change of it is told. Whoever reads it reads a little at a time. */
  addUser(user: User): void {
    this.#isChange = false;
    this.#user(user.key, { user, ended: false });
    this.#isChange = true;
  }

  addRoom({ room, members, keys }: WholeRoom): void {
    const all = members.map((member): [string, ChangedMember] => [member.endpoint, { ended: false, member }]);
    this.#isChange = false;
    this.#room(room.id, { deleted: false, room, members: new Map(all), keys });
    this.#isChange = true;
  }

  /** Everything that was put in before is as of `asOf` or later. */
  prove(asOf: number): void {
    const proof = { upTo: this.#number, asOf, at: new Date() };
    if (this.#proof === undefined) this.#proof = proof;
    // A reader that is slow gets to the first, and then to the last.
    else this.#nextProof = proof;
  }

  /** All of it is gone, and comes anew. */
  restart(): void {
    this.clear();
    this.#first = [{ type: "resync" }];
  }

  clear(): void {
    this.#changed = 0;
    this.#places.clear();
    this.#ofRoom.clear();
    this.#ofMember.clear();
    this.#first = [];
    this.#proof = this.#nextProof = undefined;
  }

  take(): StoreEvent | undefined {
    const [event, ...more] = this.#first;
    if (event !== undefined) {
      this.#first = more;
      return event;
    }
    const [next] = this.#places;
    const proof = this.#proof;
    if (proof !== undefined && (next === undefined || next[1].number > proof.upTo)) {
      this.#proof = this.#nextProof;
      this.#nextProof = undefined;
      return { type: "proved", asOf: proof.asOf, at: proof.at };
    }
    if (next === undefined) return undefined;
    const [name, { waiting }] = next;
    this.#drop(name);
    const events = this.#eventsOf(waiting);
    this.#first = events.slice(1);
    return events[0] ?? this.take();
  }

  #user(key: string, { user, ended }: ChangedUser): void {
    const { kinds, key: only } = this.#filter;
    if (!kinds.has("users") || (only !== undefined && only !== key)) return;
    this.#put(`u${key}`, (before) => ({
      kind: "user",
      user,
      ended: ended || (before?.kind === "user" && before.ended),
    }));
  }

  #room(roomId: string, { deleted, room, members, keys }: ChangedRoom): void {
    const { kinds, roomId: only } = this.#filter;
    if (only !== undefined && only !== roomId) return;
    if (deleted) {
      for (const name of this.#ofRoom.get(roomId) ?? []) this.#drop(name);
    }
    const isOfRooms = kinds.has("rooms") || kinds.has("members") || kinds.has("roomKeys");
    if (isOfRooms && (deleted || (room !== undefined && kinds.has("rooms"))))
      this.#put(`r${roomId}`, (before) => ({
        kind: "room",
        roomId,
        deleted: deleted || (before?.kind === "room" && before.deleted),
        room: kinds.has("rooms") ? room : undefined,
      }));
    // Keys that wait are of the membership that has ended. Those of a new one are in what comes here.
    for (const [endpoint, { ended, member }] of members)
      if (ended || member === undefined) this.#forgetKeys(roomId, endpoint);
    if (kinds.has("members"))
      for (const [endpoint, { ended, member }] of members)
        this.#putOfRoom(roomId, `m${nameOf(roomId, endpoint)}`, (before) => ({
          kind: "member",
          roomId,
          endpoint,
          ended: ended || (before?.kind === "member" && before.ended),
          member,
        }));
    if (kinds.has("roomKeys"))
      for (const [endpoint, epochs] of keys) for (const epoch of epochs) this.#key(roomId, endpoint, epoch);
  }

  #key(roomId: string, endpoint: string, epoch: number): void {
    const member = nameOf(roomId, endpoint);
    const name = `k${member}:${String(epoch)}`;
    this.#putOfRoom(roomId, name, () => ({ kind: "key", roomId, endpoint, epoch }));
    addTo(this.#ofMember, member, name);
  }

  #forgetKeys(roomId: string, endpoint: string): void {
    for (const name of this.#ofMember.get(nameOf(roomId, endpoint)) ?? []) this.#drop(name);
  }

  #putOfRoom(roomId: string, name: string, make: (before: Waiting | undefined) => Waiting): void {
    addTo(this.#ofRoom, roomId, name);
    this.#put(name, make);
  }

  #put(name: string, make: (before: Waiting | undefined) => Waiting): void {
    const place = this.#places.get(name);
    const isChange = this.#isChange || place?.isChange === true;
    if (isChange && place?.isChange !== true) this.#changed++;
    this.#places.set(name, { number: place?.number ?? ++this.#number, isChange, waiting: make(place?.waiting) });
  }

  /** It does not wait any more. */
  #drop(name: string): void {
    const place = this.#places.get(name);
    if (place === undefined) return;
    this.#places.delete(name);
    if (place.isChange) this.#changed--;
    const { waiting } = place;
    if (waiting.kind !== "member" && waiting.kind !== "key") return;
    removeFrom(this.#ofRoom, waiting.roomId, name);
    if (waiting.kind === "key") removeFrom(this.#ofMember, nameOf(waiting.roomId, waiting.endpoint), name);
  }

  #eventsOf(waiting: Waiting): StoreEvent[] {
    switch (waiting.kind) {
      case "user":
        return [{ type: "user", user: copyOfUser(waiting.user), ended: waiting.ended }];
      case "room": {
        const { roomId, deleted, room } = waiting;
        const events: StoreEvent[] = deleted ? [{ type: "roomDeleted", roomId }] : [];
        return room === undefined ? events : [...events, { type: "room", room: copyOfRoom(room) }];
      }
      case "member": {
        const { roomId, endpoint, ended, member } = waiting;
        const isRemoved = ended || member === undefined;
        const events: StoreEvent[] = isRemoved ? [{ type: "memberRemoved", roomId, endpoint }] : [];
        return member === undefined ? events : [...events, { type: "member", member: copyOfMember(member) }];
      }
      case "key": {
        const { roomId, endpoint, epoch } = waiting;
        return [{ type: "roomKey", roomId, endpoint, epoch }];
      }
    }
  }
}

/** No other member has it, whatever is in the ids. */
const nameOf = (roomId: string, endpoint: string): string => `${String(roomId.length)}:${roomId}${endpoint}`;

function addTo(sets: Map<string, Set<string>>, key: string, name: string): void {
  const names = sets.get(key);
  if (names === undefined) sets.set(key, new Set([name]));
  else names.add(name);
}

function removeFrom(sets: Map<string, Set<string>>, key: string, name: string): void {
  const names = sets.get(key);
  names?.delete(name);
  if (names?.size === 0) sets.delete(key);
}
