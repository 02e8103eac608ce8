/** Names of users and rooms, each once. */
import type { RecordNames } from "../driver.js";

export interface Named {
  readonly kind: "user" | "room";
  readonly name: string;
}

/** What one step reads and writes. */
const USERS = 500;
const ROOMS = 64;

export class Names implements RecordNames {
  readonly #users: Set<string>;
  readonly #rooms: Set<string>;

  constructor({ users, rooms }: RecordNames = { users: [], rooms: [] }) {
    this.#users = new Set(users);
    this.#rooms = new Set(rooms);
  }

  get size(): number {
    return this.#users.size + this.#rooms.size;
  }

  get users(): readonly string[] {
    return [...this.#users];
  }

  get rooms(): readonly string[] {
    return [...this.#rooms];
  }

  add({ kind, name }: Named): void {
    (kind === "user" ? this.#users : this.#rooms).add(name);
  }

  delete({ kind, name }: Named): void {
    (kind === "user" ? this.#users : this.#rooms).delete(name);
  }

  *[Symbol.iterator](): Iterator<Named> {
    for (const name of this.#users) yield { kind: "user", name };
    for (const name of this.#rooms) yield { kind: "room", name };
  }
}

export function* chunksOf({ users, rooms }: RecordNames): Iterable<RecordNames> {
  for (let i = 0; i * USERS < users.length || i * ROOMS < rooms.length; i++)
    yield {
      users: users.slice(i * USERS, (i + 1) * USERS),
      rooms: rooms.slice(i * ROOMS, (i + 1) * ROOMS),
    };
}
