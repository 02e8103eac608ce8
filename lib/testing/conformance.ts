/**
 * The conformance suite: the contract as a table of named cases, for every backend and every wrapper around one.
 * It registers nothing by itself, so that any test runner can run it.
 */
import { argumentCases } from "./conformance/arguments.js";
import { closingCases } from "./conformance/closing.js";
import { copyCases } from "./conformance/copies.js";
import { hostileCases } from "./conformance/hostile.js";
import { memberCases } from "./conformance/members.js";
import { pageCases } from "./conformance/pages.js";
import { raceCases } from "./conformance/races.js";
import { roomKeyCases } from "./conformance/room-keys.js";
import { roomCases } from "./conformance/rooms.js";
import { userCases } from "./conformance/users.js";
import type { ConformanceCase, ConformanceContext } from "./conformance/case.js";
import type { Store } from "../store.js";

export type { ConformanceCase, ConformanceContext } from "./conformance/case.js";

/** Every case. Which one needs a backend of its own, it says itself. */
export const conformanceCases: readonly ConformanceCase[] = [
  ...roomCases,
  ...memberCases,
  ...roomKeyCases,
  ...userCases,
  ...raceCases,
  ...hostileCases,
  ...pageCases,
  ...copyCases,
  ...argumentCases,
  ...closingCases,
];

/** A backend that holds nothing yet. */
export interface ConformanceBackend {
  /** Give it a generous `opTimeoutMs`: no case waits for a time that it did not ask for. */
  readonly store: Store;
  /** Another store over the same data at the same time. Absent where the backend allows one only. */
  second?(): Promise<Store>;
  /** Opens the data again after the store was closed. Absent where the backend keeps none. */
  reopen?(): Promise<Store>;
  /** Ends the backend. Every store on it was closed. */
  dispose?(): Promise<void>;
}

export interface ConformanceHarness {
  fresh(): Promise<ConformanceBackend>;
}

/** A backend and the stores that are open on it. */
class Running {
  readonly #backend: ConformanceBackend;
  #store: Store;
  #second: Promise<Store> | undefined;

  constructor(backend: ConformanceBackend) {
    this.#backend = backend;
    this.#store = backend.store;
  }

  context(): ConformanceContext {
    return {
      store: this.#store,
      other: () => {
        if (this.#backend.second === undefined) return Promise.resolve(this.#store);
        this.#second ??= this.#backend.second();
        return this.#second;
      },
      reopened: async () => {
        if (this.#backend.reopen === undefined) return this.#store;
        await this.#close();
        this.#store = await this.#backend.reopen();
        return this.#store;
      },
    };
  }

  async #close(): Promise<void> {
    const second = this.#second;
    this.#second = undefined;
    await this.#store.close();
    await (await second)?.close();
  }

  async dispose(): Promise<void> {
    await this.#close();
    await this.#backend.dispose?.();
  }
}

/**
 * Runs cases against backends of one kind. Cases that do not mind others share a backend; dispose of the run at the
 * end.
 *
 * @example
 * const fresh = async () => ({ store: await openSqlite(":memory:", { opTimeoutMs: 10_000 }) });
 * const run = new ConformanceRun({ fresh });
 * for (const each of conformanceCases) it(each.name, () => run.case(each));
 * after(() => run.dispose());
 */
export class ConformanceRun {
  readonly #harness: ConformanceHarness;
  #shared: Promise<Running> | undefined;

  constructor(harness: ConformanceHarness) {
    this.#harness = harness;
  }

  /** Runs one case. Rejects if the backend breaks the contract. */
  async case(each: ConformanceCase): Promise<void> {
    if (each.needs !== "empty") {
      this.#shared ??= this.#fresh();
      const shared = await this.#shared.catch((error: unknown) => {
        // One backend that could not be opened fails one case, not all that follow.
        this.#shared = undefined;
        throw error;
      });
      await each.run(shared.context());
      return;
    }
    const own = await this.#fresh();
    try {
      await each.run(own.context());
    } finally {
      await own.dispose();
    }
  }

  async dispose(): Promise<void> {
    const shared = this.#shared;
    this.#shared = undefined;
    await (await shared)?.dispose();
  }

  async #fresh(): Promise<Running> {
    return new Running(await this.#harness.fresh());
  }
}
