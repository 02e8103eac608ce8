/**
 * Whether a store may be used: a record in each log that commits, `rooms` and `users`. One that is moved away from, or
 * imported into, denies every check and refuses every write from there on in the log, by whatever store. It is there
 * from the opening on, so that a store knows by the log itself whether it was changed. The argument: docs/protocol.md,
 * E1 to E6.
 */
import { StoreError } from "../errors.js";
import type { Cache, Known } from "./exact-cache.js";
import type { Entry } from "./entry.js";
import { keys, type Key } from "./keys.js";
import type { Seq } from "./seq.js";

/** The buckets whose logs commit: each has the record. */
export type CommittingBucket = "rooms" | "users";

export const STATE = keys.state;

export const OPEN = { state: "open" } as const;

function since(value: unknown): string {
  return typeof value === "number" && Math.abs(value) <= 8.64e15 ? new Date(value).toISOString() : "";
}

function closed(what: string, to: unknown, at: unknown): StoreError {
  const details = { movingTo: typeof to === "string" ? to : "", since: since(at) };
  return new StoreError("UNAVAILABLE", `The store is closed to checks and writes: ${what}`, { details });
}

const isWritten = (state: unknown): boolean => state === "importing" || state === "complete" || state === "opening";

export class StoreState {
  /** Why the store may not be used. What this version does not know is no permission. */
  readonly refusal: StoreError | undefined;
  /** Its records are elsewhere for good. */
  readonly isMoved: boolean;
  /** Its records are being moved elsewhere, or were. */
  readonly isSource: boolean;
  /** What was imported is all there, and only the state is left to be written. */
  readonly isOpening: boolean;

  constructor({ value }: Entry<never>) {
    const { state, to, since: at } = value;
    this.isMoved = state === "moved";
    this.isSource = this.isMoved || state === "moving" || state === "leaving";
    this.isOpening = state === "opening";
    if (state === OPEN.state) this.refusal = undefined;
    else if (this.isMoved)
      this.refusal = new StoreError("INCOMPATIBLE", "The store was moved", {
        details: { movedTo: typeof to === "string" ? to : "" },
      });
    else this.refusal = closed(isWritten(state) ? "it is being imported" : "it is being moved", to, at);
  }
}

/** Keeps the state beside what another cache keeps: every check and every write needs it. */
export class CacheWithState<B extends CommittingBucket, V> implements Cache<B, V | StoreState> {
  readonly #others: Cache<B, V>;
  #state: Known<B, StoreState> | undefined;

  constructor(others: Cache<B, V>) {
    this.#others = others;
  }

  get onForget(): ((seq: Seq<B>) => void) | undefined {
    return this.#others.onForget;
  }

  set onForget(listener: ((seq: Seq<B>) => void) | undefined) {
    this.#others.onForget = listener;
  }

  get(key: Key<B>): Known<B, V | StoreState> | undefined {
    return key === STATE ? this.#state : this.#others.get(key);
  }

  put(entry: Entry<B>, generation: number): void {
    if (entry.key === STATE) this.#state = { value: new StoreState(entry), seq: entry.seq, generation: generation };
    else this.#others.put(entry, generation);
  }

  renew(key: Key<B>, generation: number): void {
    if (key !== STATE) this.#others.renew(key, generation);
    else if (this.#state !== undefined) this.#state = { ...this.#state, generation: generation };
  }

  clear(): void {
    this.#state = undefined;
    this.#others.clear();
  }
}
