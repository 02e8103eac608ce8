/**
 * Somebody who watches a store, and what promise 18 says of what he is told: by each proof he knows every record as it
 * stood at some moment between what the proof is as of and its coming, which the oracle takes for so many reads; and
 * that what was granted has ended he was told.
 */
import type { Store, StoreEvent } from "unibus-membership";
import type { Chance } from "./chance.js";
import { ALLOWLIST, endpointName, roomId, userKey, type Taste, type Touched } from "./operations.js";
import type { Entry, Violation } from "./oracle.js";

/** What a watcher needs of the simulation. */
export interface Surroundings {
  readonly chance: Chance;
  readonly taste: Taste;
  readonly touched: Touched;
  /** The place in the order of events of a moment, and of now. */
  tickAt(time: number): number;
  tick(): number;
  /** How many calls there were. */
  calls(): number;
  entries(): Iterable<Entry>;
  note(entry: Omit<Entry, "id">): void;
  found(violation: Violation): void;
}

/** What he knew by the last proof. */
interface Known {
  readonly heard: number;
  readonly users: ReadonlyMap<string, { readonly role: string; readonly status: string }>;
  readonly rooms: ReadonlySet<string>;
  readonly members: ReadonlySet<string>;
}

const nameOf = (room: string, endpoint: string): string => `${room} ${endpoint}`;

export class SimulatedWatcher {
  readonly #name: string;
  readonly #around: Surroundings;
  readonly #users = new Map<string, { role: string; status: string }>();
  readonly #rooms = new Set<string>();
  readonly #members = new Map<string, { role: string; state: string }>();
  /** What he was told has ended since the last proof. */
  readonly #ended = new Set<string>();
  #known: Known | undefined;
  /** How many calls there were when something was noted last. */
  #noted = 0;

  /** To be made in the process of the store. It goes on for as long as that does. */
  constructor(name: string, store: Store, around: Surroundings) {
    this.#name = name;
    this.#around = around;
    const iterator = store.watch({ proveEveryMs: around.chance.of([30, 100, 500]) })[Symbol.asyncIterator]();
    const next = (): void => {
      iterator.next().then(
        (result) => {
          if (result.done === true) return;
          this.#hear(result.value);
          next();
        },
        // The buckets are others now, or the store was closed.
        () => undefined,
      );
    };
    next();
  }

  #hear(event: StoreEvent): void {
    switch (event.type) {
      case "user": {
        const { key, role, status } = event.user;
        const before = this.#users.get(key);
        if (event.ended || status === "revoked" || (before?.role === "admin" && role === "member"))
          this.#ended.add(key);
        this.#users.set(key, { role, status });
        return;
      }
      case "room":
        this.#rooms.add(event.room.id);
        return;
      case "roomDeleted":
        this.#ended.add(event.roomId);
        this.#rooms.delete(event.roomId);
        for (const name of this.#members.keys())
          if (name.startsWith(`${event.roomId} `)) {
            this.#members.delete(name);
            this.#ended.add(name);
          }
        return;
      case "member": {
        const { roomId: room, endpoint, role, state } = event.member;
        this.#members.set(nameOf(room, endpoint), { role, state });
        return;
      }
      case "memberRemoved": {
        const name = nameOf(event.roomId, event.endpoint);
        this.#ended.add(name);
        this.#members.delete(name);
        return;
      }
      case "roomKey":
        return;
      case "resync":
        this.#users.clear();
        this.#rooms.clear();
        this.#members.clear();
        this.#known = undefined;
        return;
      case "proved":
        this.#proved(event.asOf);
    }
  }

  #proved(asOf: number): void {
    const { chance, taste, touched } = this.#around;
    // Where nothing was called since, there is nothing to say.
    const calls = this.#around.calls();
    if (calls === this.#noted && this.#ended.size === 0) return;
    this.#noted = calls;
    const invoked = this.#around.tickAt(asOf);
    const returned = this.#around.tick();
    const note = (at: string, op: Entry["op"], out: string): void => {
      this.#around.note({ store: `${this.#name} who watches`, at, op, invoked, returned, out });
    };
    for (const u of [chance.happens(0.7) ? touched.u : chance.below(taste.userCount)]) {
      const user = this.#users.get(userKey(u));
      note(ALLOWLIST, { f: "listed", u }, user === undefined ? "absent" : `${user.role} ${user.status}`);
    }
    for (const r of [chance.happens(0.7) ? touched.room : chance.below(taste.roomCount)]) {
      const room = roomId(r);
      note(room, { f: "inRooms" }, this.#rooms.has(room) ? "in" : "out");
      for (const e of [chance.happens(0.7) ? touched.e : chance.below(taste.endpointCount)]) {
        const member = this.#members.get(nameOf(room, endpointName(e)));
        note(room, { f: "indexed", e }, member === undefined ? "out" : `${member.role} ${member.state[0] ?? ""}`);
      }
    }
    if (this.#known !== undefined) this.#checkEnds(this.#known, invoked);
    this.#ended.clear();
    this.#known = {
      heard: returned,
      users: new Map(this.#users),
      rooms: new Set(this.#rooms),
      members: new Set(this.#members.keys()),
    };
  }

  /** What he knew to be granted, and was taken away between the two proofs. */
  #checkEnds(known: Known, asOf: number): void {
    for (const { id, at, op, out, invoked, returned = Infinity } of this.#around.entries()) {
      if (out !== "ok" || invoked < known.heard || returned > asOf) continue;
      const what = takenBy(known, at, op);
      if (what === undefined || this.#ended.has(what)) continue;
      this.#around.found({
        kind: "a watch that did not tell of an end",
        why: `${JSON.stringify(op)} on ${at} took something away between two proofs`,
        id,
      });
    }
  }
}

/** The name of what was there, and a change took away, if anything. */
function takenBy({ users, rooms, members }: Known, at: string, op: Entry["op"]): string | undefined {
  switch (op.f) {
    case "revoke":
      return users.get(userKey(op.u))?.status === "active" ? userKey(op.u) : undefined;
    case "role": {
      const isTaken = op.role === "member" && users.get(userKey(op.u))?.role === "admin";
      return isTaken ? userKey(op.u) : undefined;
    }
    case "remove": {
      const name = nameOf(at, endpointName(op.e));
      return members.has(name) ? name : undefined;
    }
    case "delete":
      return rooms.has(at) ? at : undefined;
    case "add":
    case "authorize":
    case "create":
    case "first":
    case "get":
    case "getUser":
    case "hasAdmin":
    case "indexed":
    case "inRooms":
    case "isAdmin":
    case "isMember":
    case "join":
    case "keys":
    case "list":
    case "listed":
    case "member":
    case "name":
    case "owner":
    case "put":
    case "reinstate":
    case "rekey":
    case "rename":
      return undefined;
  }
}
