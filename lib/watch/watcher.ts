/** One watch: an iterator over what waits for it. */
import type { WatchInput } from "../arguments.js";
import { StoreError } from "../errors.js";
import { abortReason, isAborted, onAbort } from "../signal.js";
import type { StoreEvent, Watch } from "../store.js";
import { EventQueue } from "./queue.js";

/** A snapshot that goes on: users page by page, then rooms. */
export interface SnapshotPlace {
  readonly stage: "users" | "rooms";
  /** Where the next page begins. */
  readonly after: string | undefined;
}

interface Waiter {
  readonly resolve: (result: IteratorResult<StoreEvent, undefined>) => void;
  readonly reject: (error: unknown) => void;
}

export class Watcher implements Watch {
  readonly input: WatchInput;
  readonly queue: EventQueue;
  /** `undefined`: all of what stands was read. */
  snapshot: SnapshotPlace | undefined;
  /** Whether it hears of changes: it was there before the feed was asked. */
  isFollowing = false;
  #waiters: Waiter[] = [];
  #end: { readonly error: unknown } | "done" | undefined;
  readonly #changed: () => void;
  readonly #left: (watcher: Watcher) => void;
  readonly #listenNoLonger: (() => void) | undefined;

  /** `changed`: it waits for more. `left`: it is over. */
  constructor(input: WatchInput, changed: () => void, left: (watcher: Watcher) => void) {
    this.input = input;
    this.queue = new EventQueue(input);
    this.#changed = changed;
    this.#left = left;
    if (input.snapshot) this.restartSnapshot();
    const { signal } = input;
    if (signal === undefined) return;
    const aborted = (): void => {
      this.fail(new StoreError("TIMEOUT", "The watch was ended by its signal", { cause: abortReason(signal) }));
    };
    if (isAborted(signal)) aborted();
    else this.#listenNoLonger = onAbort(signal, aborted);
  }

  get isOver(): boolean {
    return this.#end !== undefined;
  }

  /** Whether more would be taken at once, or soon. */
  get isHungry(): boolean {
    return this.queue.size < PAGE;
  }

  restartSnapshot(): void {
    this.snapshot = { stage: "users", after: undefined };
  }

  /** Something may have been missed, or is too much: everything anew. */
  resync(): void {
    this.queue.restart();
    this.restartSnapshot();
    this.deliver();
  }

  /** Hands on what waits to those who wait for it. */
  deliver(): void {
    while (this.#waiters.length > 0) {
      const event = this.queue.take();
      if (event === undefined) return;
      this.#waiters.shift()?.resolve({ done: false, value: event });
    }
  }

  next(): Promise<IteratorResult<StoreEvent, undefined>> {
    const end = this.#end;
    if (end !== undefined) {
      this.#end = "done";
      return end === "done" ? Promise.resolve(OVER) : rejected(end.error);
    }
    return new Promise((resolve, reject) => {
      this.#waiters.push({ resolve, reject });
      this.deliver();
      if (this.isHungry) this.#changed();
    });
  }

  return(): Promise<IteratorResult<StoreEvent, undefined>> {
    this.finish();
    return Promise.resolve(OVER);
  }

  close(): Promise<void> {
    this.finish();
    return Promise.resolve();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  [Symbol.asyncIterator](): AsyncIterator<StoreEvent, undefined> {
    return this;
  }

  finish(): void {
    this.#over("done");
    for (const { resolve } of this.#waiters.splice(0)) resolve(OVER);
  }

  /** The next one who asks is told why. */
  fail(error: unknown): void {
    this.#over({ error });
    const [first, ...others] = this.#waiters.splice(0);
    if (first === undefined) return;
    this.#end = "done";
    first.reject(error);
    for (const { resolve } of others) resolve(OVER);
  }

  #over(end: { readonly error: unknown } | "done"): void {
    if (this.#end !== undefined) {
      if (end === "done") this.#end = end;
      return;
    }
    this.#end = end;
    this.queue.clear();
    this.#listenNoLonger?.();
    this.#left(this);
  }
}

/** So many records wait at most before more of what stands is read. */
const PAGE = 1000;

const OVER: IteratorReturnResult<undefined> = { done: true, value: undefined };

function rejected(error: unknown): Promise<never> {
  return new Promise(() => {
    throw error;
  });
}
