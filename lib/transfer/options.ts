/** What work on all records of a store takes, and how its steps are bounded. */
import * as args from "../arguments.js";
import { Call } from "../call.js";
import type { RecordCounts } from "../driver.js";
import { isStoreError } from "../errors.js";
import { recordsOf } from "../membership-store.js";
import type { RecordsAccess } from "../membership-store.js";
import { Progress } from "../progress.js";
import type { Store } from "../store.js";

/** How far work on all records is. `total` is about as many as there will be, where that is known. */
export interface BulkProgress {
  phase: string;
  done: number;
  total?: number;
}

/** What work on all records takes. */
export interface BulkOptions {
  /** Ends the work with `TIMEOUT`, and its reason as the cause. */
  signal?: AbortSignal;
  /**
   * The work takes as long as it takes, but where nothing goes forward for so long it is `TIMEOUT`. 1 to 600,000,
   * default ten times the store's `opTimeoutMs`.
   */
  stallTimeoutMs?: number;
  /** Told of each phase, and how far it is, some ten times a second at most. What it throws is ignored. */
  onProgress?: (progress: BulkProgress) => void;
}

/** How many records of each kind. */
export interface Counts {
  users: number;
  rooms: number;
  members: number;
  roomKeys: number;
}

const MAX_STALL_MS = 600_000;

export const totalOf = ({ users, rooms, members, roomKeys }: RecordCounts): number =>
  users + rooms + members + roomKeys;

export class BulkWork {
  readonly store: RecordsAccess;
  readonly progress: Progress;
  readonly #signal: AbortSignal | undefined;
  readonly #stallTimeoutMs: number;

  /** `argument`: the name of the store among the arguments. `more`: options that only this work has. */
  constructor(store: Store, argument: string, options: BulkOptions | undefined, more: readonly string[] = []) {
    const found = args.fields(options ?? {}, "options", ["signal", "stallTimeoutMs", "onProgress", ...more]);
    const access = recordsOf(store);
    if (access === undefined) throw args.invalid(argument, "a store of this package");
    const { stallTimeoutMs } = found;
    this.store = access;
    this.#signal = args.abortSignal(found["signal"], "options.signal");
    this.#stallTimeoutMs =
      stallTimeoutMs === undefined
        ? access.opTimeoutMs * 10
        : args.integer(stallTimeoutMs, "options.stallTimeoutMs", 1, MAX_STALL_MS);
    this.progress = new Progress(args.listener(found["onProgress"], "options.onProgress") as BulkOptions["onProgress"]);
  }

  /** One step of the work, which has a time of its own. */
  step<T>(work: (call: Call) => Promise<T>): Promise<T> {
    return this.store.step({ timeoutMs: this.#stallTimeoutMs, signal: this.#signal }, work);
  }

  /** A step that undoes the work. The signal that ended the work does not end it. */
  undo<T>(work: (call: Call) => Promise<T>): Promise<T> {
    return this.store.step({ timeoutMs: this.#stallTimeoutMs, signal: undefined }, work);
  }

  /** Waits for something outside of the store, as for the next line, in the same bounds. It rejects as that does. */
  outside<T>(work: () => Promise<T>): Promise<T> {
    const call = new Call({ timeoutMs: this.#stallTimeoutMs, signal: this.#signal }, this.#stallTimeoutMs, "read");
    return call.run(work, (error) => error);
  }
}

/** Whether to undo the work: not if the store is out of reach, or nobody wants to wait. */
export function isWorthUndoing(error: unknown): boolean {
  if (!isStoreError(error)) return true;
  switch (error.code) {
    case "CORRUPT":
    case "INVALID_ARGUMENT":
    case "ALREADY_EXISTS":
    case "NOT_FOUND":
      return true;
    case "CONFLICT":
    case "TIMEOUT":
    case "UNAVAILABLE":
    case "CLOSED":
    case "LOCKED":
    case "INCOMPATIBLE":
    default:
      return false;
  }
}
