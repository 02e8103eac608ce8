// A store at work: users and members are added and checked, over and over, until it is stopped. Whatever was
// acknowledged has to be there from then on.

import { isStoreError, type Store } from "unibus-membership";
import { eventually, pause } from "../../support/wait.js";

export class Load {
  readonly #store: Store;
  readonly #name: string;
  readonly #acknowledged: string[] = [];
  readonly #lanes: Promise<unknown>;
  #stopped = false;
  /** The codes of calls that did not succeed. */
  readonly refusals: string[] = [];
  /** Checks that were asked, and how many of them allowed. */
  checks = 0;
  allows = 0;

  private constructor(store: Store, name: string, lanes: number) {
    this.#store = store;
    this.#name = name;
    this.#lanes = Promise.all(Array.from({ length: lanes }, (_, lane) => this.#lane(lane)));
  }

  /** Begins with an admin `root-<name>`, and a room `room-<name>`. */
  static async start(store: Store, name: string, lanes = 3): Promise<Load> {
    await store.users.add({ key: `root-${name}`, role: "admin" });
    await store.rooms.create({ id: `room-${name}`, owner: `root-${name}`, encrypted: true });
    return new Load(store, name, lanes);
  }

  /** Resolves when more was added, and more checks allowed, than now. */
  async goesOn(): Promise<void> {
    const { length } = this.#acknowledged;
    const { allows } = this;
    await eventually(
      `${this.#name} goes on`,
      () => this.#acknowledged.length > length + 3 && this.allows > allows + 3,
      60_000,
    );
  }

  /** Answers the keys of the users, who are members of the room too, that were acknowledged. */
  async stop(): Promise<readonly string[]> {
    this.#stopped = true;
    await this.#lanes;
    return this.#acknowledged;
  }

  async #lane(lane: number): Promise<void> {
    for (let n = 0; !this.#stopped; n++) {
      const key = `${this.#name}-${lane}-${n}`;
      try {
        await this.#store.users.add({ key });
        await this.#store.members.add(`room-${this.#name}`, { endpoint: key, state: "joined" });
        this.#acknowledged.push(key);
      } catch (error) {
        this.refusals.push(isStoreError(error) ? error.code : String(error));
      }
      const known = this.#acknowledged[Math.floor(Math.random() * this.#acknowledged.length)];
      if (known !== undefined) {
        this.checks += 2;
        const answers = await Promise.all([
          this.#store.isAuthorized(known),
          this.#store.isMember(`room-${this.#name}`, known),
        ]);
        this.allows += answers.filter((allowed) => allowed).length;
      }
      await pause(5);
    }
  }
}
