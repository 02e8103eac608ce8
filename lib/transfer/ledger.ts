/**
 * What a store holds, user by user and room by room, in few bytes. So what changes is compared without reading the rest
 * again.
 */
import type { RecordCounts, StoredRecord } from "../driver.js";
import { hashOf, sumOf, totalHex } from "./digest.js";
import { contentOf } from "./lines.js";

/** A user, or a room with its members and keys. */
export interface Part {
  readonly kind: "user" | "room";
  readonly name: string;
  /** The sum of the hashes of its records. */
  readonly sum: bigint;
  readonly members: number;
  readonly roomKeys: number;
}

const nameOf = ({ kind, name }: Pick<Part, "kind" | "name">): string => `${kind} ${name}`;

const isSame = (a: Part | undefined, b: Part): boolean =>
  a !== undefined && a.sum === b.sum && a.members === b.members && a.roomKeys === b.roomKeys;

/** Makes parts of records in the order of a reader. A room may span several pages. */
export class Parts {
  #room: { name: string; sum: bigint; members: number; roomKeys: number } | undefined;

  /** The parts that are whole by now. */
  *add(records: readonly StoredRecord[]): Iterable<Part> {
    for (const record of records) {
      const hash = hashOf(contentOf(record));
      switch (record.kind) {
        case "user":
          yield { kind: "user", name: record.row.key, sum: hash, members: 0, roomKeys: 0 };
          break;
        case "room":
          yield* this.end();
          this.#room = { name: record.row.id, sum: hash, members: 0, roomKeys: 0 };
          break;
        case "member":
        case "key":
          if (this.#room === undefined) throw new Error("a record comes before its room");
          this.#room.sum = sumOf(this.#room.sum, hash);
          this.#room[record.kind === "member" ? "members" : "roomKeys"]++;
      }
    }
  }

  /** The last one. */
  *end(): Iterable<Part> {
    if (this.#room !== undefined) yield { kind: "room", ...this.#room };
    this.#room = undefined;
  }
}

export class Ledger {
  readonly #parts = new Map<string, Part>();
  #sum = 0n;
  readonly #counts = { users: 0, rooms: 0, members: 0, roomKeys: 0 };

  get size(): number {
    return this.#parts.size;
  }

  get counts(): RecordCounts {
    return { ...this.#counts };
  }

  /** Of the content: see digest.ts. */
  digest(adminEver: boolean): string {
    return totalHex(this.#sum, adminEver);
  }

  set(part: Part): void {
    this.delete(part);
    this.#parts.set(nameOf(part), part);
    this.#count(part, 1);
    this.#sum = sumOf(this.#sum, part.sum);
  }

  delete(named: Pick<Part, "kind" | "name">): void {
    const part = this.#parts.get(nameOf(named));
    if (part === undefined) return;
    this.#parts.delete(nameOf(named));
    this.#count(part, -1);
    this.#sum = sumOf(this.#sum, -part.sum);
  }

  has(named: Pick<Part, "kind" | "name">): boolean {
    return this.#parts.has(nameOf(named));
  }

  holds(part: Part): boolean {
    return isSame(this.#parts.get(nameOf(part)), part);
  }

  *names(): Iterable<Pick<Part, "kind" | "name">> {
    yield* this.#parts.values();
  }

  #count({ kind, members, roomKeys }: Part, by: number): void {
    this.#counts[kind === "user" ? "users" : "rooms"] += by;
    this.#counts.members += by * members;
    this.#counts.roomKeys += by * roomKeys;
  }
}
