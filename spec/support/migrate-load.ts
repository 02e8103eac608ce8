// Who uses both sides of a migration while it goes on.

import { expect } from "chai";
import { isStoreError, type Store, type StoreError } from "unibus-membership";
import { errorOf } from "./code-of.js";
import { pause } from "./wait.js";

const CHECK_EVERY_MS = 10;

export interface Stores {
  readonly from: Store;
  readonly to: Store;
}

/** One of the stores of a side. `leaseMs`: so old may the proof be that its checks take. */
export interface Asked {
  readonly side: "from" | "to";
  readonly store: Store;
  readonly leaseMs?: number;
}

/**
 * Asks both sides all the time, by all stores. A yes of the target comes only when none of the source can come any
 * more, but for one that rests on a proof of before.
 */
export class Watching {
  #isOver = false;
  #targetSaidYes = Infinity;
  yes = { from: 0, to: 0 };
  readonly #running: Promise<void>[];

  constructor(stores: readonly Asked[], key = "root", roomId = "sealed", endpoint = "late") {
    const watch = async (asked: Asked, check: () => Promise<boolean>): Promise<void> => {
      while (!this.#isOver) {
        const began = performance.now();
        if (await check()) this.#said(asked, began);
        await pause(CHECK_EVERY_MS);
      }
    };
    this.#running = stores.flatMap((asked) => [
      watch(asked, () => asked.store.isAuthorized(key)),
      watch(asked, () => asked.store.isMember(roomId, endpoint)),
    ]);
  }

  async end(): Promise<void> {
    this.#isOver = true;
    await Promise.all(this.#running);
  }

  #said({ side, leaseMs = 0 }: Asked, began: number): void {
    this.yes[side]++;
    if (side === "to") this.#targetSaidYes = Math.min(this.#targetSaidYes, performance.now());
    else if (began > this.#targetSaidYes + leaseMs) throw new Error("both sides said yes");
  }
}

export const bothOf = ({ from, to }: Stores): readonly Asked[] => [
  { side: "from", store: from },
  { side: "to", store: to },
];

/** All the time some change everything, and note what was acknowledged. */
export class Writers {
  #isOver = false;
  readonly acknowledged: ((store: Store) => Promise<void>)[] = [];
  refusals: StoreError[] = [];
  readonly #prefix: string;
  readonly #everyMs: number;
  readonly #most: number;
  readonly #running: Promise<unknown>;

  /** Each of them rests for `everyMs` after each room that it wrote, and writes `most` of them. */
  constructor(store: Store, { prefix = "", everyMs = 20, most = 60 } = {}) {
    this.#prefix = prefix;
    this.#everyMs = everyMs;
    this.#most = most;
    this.#running = Promise.all([0, 1, 2].map((lane) => this.#write(store, lane)));
  }

  async end(): Promise<void> {
    this.#isOver = true;
    await this.#running;
  }

  async #write(store: Store, lane: number): Promise<void> {
    for (let i = 0; !this.#isOver && i < this.#most; i++) {
      const name = `${this.#prefix}w${String(lane)}-${String(i)}`;
      try {
        await this.#one(store, name, i);
      } catch (error) {
        if (!isStoreError(error)) throw error;
        this.refusals.push(error);
        return;
      }
      // So that a migration can come after them.
      await pause(this.#everyMs);
    }
  }

  async #one(store: Store, name: string, i: number): Promise<void> {
    const bytes = new Uint8Array([i % 256]);
    await store.users.add({ key: name });
    this.acknowledged.push(async (to) => {
      expect((await to.users.get(name)).key).to.equal(name);
    });
    await store.rooms.create({ id: name, owner: "o", encrypted: true, sealedKey: bytes });
    await store.members.add(name, { endpoint: "m", state: "joined" });
    await store.roomKeys.put(name, "m", 1, bytes);
    if (i % 2 === 0) {
      this.acknowledged.push(async (to) => {
        expect((await to.roomKeys.get(name, "m")).sealed).to.deep.equal(bytes);
      });
      return;
    }
    await store.users.revoke(name);
    await store.rooms.delete(name);
    this.acknowledged.push(async (to) => {
      expect(await to.isAuthorized(name)).to.equal(false);
      expect((await errorOf(to.rooms.get(name))).code).to.equal("NOT_FOUND");
    });
  }
}
