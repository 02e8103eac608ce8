/**
 * One call's time. Every wait of an operation goes through its `Call`. A backend may hang, die or answer late: the call
 * settles in time all the same, and a late answer is dropped.
 */
// Node's own timers. A window, or a test that stops time, replaces the global ones.
import { clearTimeout, setTimeout } from "node:timers";
import { StoreError, isError, isStoreError } from "./errors.js";
import type { Bounds } from "./arguments.js";
import { abortReason, isAborted, onAbort } from "./signal.js";

/**
 * The running calls of a store. One timer ends all calls whose time is over, because a timer for each would be a good
 * part of a fast call's cost. The timer stays set when a call is done, but does not keep the process alive.
 */
export class CallRegistry {
  readonly #running: Call[] = [];
  #timer: NodeJS.Timeout | undefined;
  /** When the timer fires. */
  #due = Infinity;
  #whenIdle: (() => void) | undefined;
  /** When, and with which error, a closing store ends the calls that still run. */
  #closing: { readonly at: number; readonly error: (call: Call) => StoreError } | undefined;

  begin(call: Call): void {
    if (this.#running.length === 0) this.#timer?.ref();
    call.place = this.#running.push(call) - 1;
    this.#wakeAt(call.expiresAt, call.startedAt);
  }

  finish(call: Call): void {
    if (this.#running[call.place] !== call) return;
    // The last call of the list takes its place.
    const last = this.#running.pop();
    if (last !== undefined && last !== call) {
      this.#running[call.place] = last;
      last.place = call.place;
    }
    if (this.#running.length > 0) return;
    this.#timer?.unref();
    this.#whenIdle?.();
  }

  /** Resolves when no call runs. After `graceMs`, calls that still have time are ended with `error`. */
  async close(graceMs: number, error: (call: Call) => StoreError): Promise<void> {
    if (this.#running.length > 0) {
      const now = performance.now();
      this.#closing = { at: now + graceMs, error };
      this.#wakeAt(this.#closing.at, now);
      await new Promise<void>((resolve) => {
        this.#whenIdle = resolve;
      });
    }
    this.clearTimer();
  }

  clearTimer(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#due = Infinity;
  }

  #wakeAt(at: number, now: number): void {
    // The timer should have fired by now. It is late, or lost, and no call may depend on it.
    if (this.#due < now) this.#setTimer(now);
    else if (at < this.#due) this.#setTimer(at);
  }

  #setTimer(at: number): void {
    clearTimeout(this.#timer);
    this.#due = at;
    this.#timer = setTimeout(
      () => {
        this.#wake();
      },
      // Newer versions of Node warn about a time in the past.
      Math.max(1, Math.ceil(at - performance.now())),
    );
  }

  /** A timer can fire a millisecond early: a call that has time left keeps it. */
  #wake(): void {
    this.clearTimer();
    const closing = this.#closing;
    const closed = closing !== undefined && closing.at <= performance.now();
    const late: Call[] = [];
    let next = closing === undefined || closed ? Infinity : closing.at;
    for (const call of this.#running) {
      if (closed || call.remaining() <= 0) late.push(call);
      else next = Math.min(next, call.expiresAt);
    }
    if (next < Infinity) this.#setTimer(next);
    for (const call of late) {
      if (closed && call.remaining() > 0) call.end(closing.error(call));
      else call.expire();
    }
  }
}

/** Learns how an operation ended. It is told once. */
export interface Waiter<T> {
  done(value: T): void;
  failed(error: unknown): void;
}

/**
 * How an operation ends, without a promise: promises and their resolving functions are a good part of a fast write's
 * cost. One waiter is told, and never before `tell` has returned.
 */
export interface Ending<T> {
  tell(waiter: Waiter<T>): void;
}

/** What becomes of an operation that never rejects. None of it may throw. */
export interface Answering<T, R> {
  /** When it was called, if that was looked at: a clock is a good part of what a fast call costs. */
  readonly began?: number | undefined;
  /** Any other end than an answer, as an answer. */
  failed(error: unknown, aborted: boolean): T;
  /** What the operation is resolved with, `now`. It is called once, and nothing else is answered any more. */
  last(answer: T, now: number): R;
}

/** What a write answers. */
export type Eventually<T> = Promise<T> | Ending<T>;

export class Call implements Waiter<unknown> {
  /** By `performance.now()`. */
  readonly startedAt: number;
  #expiresAt: number;
  /** Its place among the running calls. Only {@link CallRegistry} uses it. */
  place = 0;
  #timeoutMs: number;
  readonly #signal: AbortSignal | undefined;
  readonly #calls: CallRegistry | undefined;
  #outcome: "none" | "unknown" | undefined;
  #ended: StoreError | undefined;
  /** What tells it that its time is over, while it runs. */
  #registry: CallRegistry | undefined;
  #listenNoLonger: (() => void) | undefined;
  #resolve: (value: never) => void = nothing;
  #reject: (error: unknown) => void = nothing;
  #explain: (error: unknown, call: Call) => unknown = asIs;
  #answering: Answering<unknown, unknown> | undefined;

  /** `calls`: the registry that ends it. Without one it has its own timer. */
  constructor(
    bounds: Bounds,
    defaultTimeoutMs: number,
    kind: "read" | "write",
    calls?: CallRegistry,
    startedAt = performance.now(),
  ) {
    this.startedAt = startedAt;
    this.#timeoutMs = bounds.timeoutMs ?? defaultTimeoutMs;
    this.#expiresAt = this.startedAt + this.#timeoutMs;
    this.#signal = bounds.signal;
    this.#calls = calls;
    this.#outcome = kind === "write" ? "none" : undefined;
  }

  /**
   * The `outcome` of the error if the write ended now. A backend sets it to `unknown` before it sends anything that may
   * commit.
   */
  get outcome(): "none" | "unknown" | undefined {
    return this.#outcome;
  }

  set outcome(outcome: "none" | "unknown" | undefined) {
    this.#outcome = outcome;
  }

  get expiresAt(): number {
    return this.#expiresAt;
  }

  /** Gives the call more time, when there turns out to be more to do. */
  extend(ms: number): void {
    this.#timeoutMs += ms;
    this.#expiresAt += ms;
  }

  /** Milliseconds left, never below 0. */
  remaining(now = performance.now()): number {
    return this.#ended === undefined ? Math.max(0, this.expiresAt - now) : 0;
  }

  get aborted(): boolean {
    return isAborted(this.#signal);
  }

  /** The error that ended the call, if one did. A backend that stops work on an ended call rejects with it. */
  get ended(): StoreError | undefined {
    return this.#ended;
  }

  /** Whether the call is over at `now`, by `performance.now()`. If it is, {@link throwIfEnded} throws why. */
  isOver(now: number): boolean {
    return this.ended !== undefined || this.aborted || this.#expiresAt <= now;
  }

  /**
   * Throws once the call has ended: a backend calls it before each step, so that an abandoned operation stops working.
   */
  throwIfEnded(): void {
    if (this.#ended !== undefined) throw this.#ended;
    if (this.aborted) throw this.#stop(this.#abortError());
    if (this.remaining() <= 0) throw this.#stop(this.#timeoutError());
  }

  /** Ends the call early, as a closing store does. */
  end(error: StoreError): void {
    this.#stop(error);
  }

  /** Ends the call because its time is over. */
  expire(): void {
    this.#stop(this.#timeoutError());
  }

  #stop(error: StoreError): StoreError {
    if (this.#ended === undefined) {
      this.#ended = error;
      if (this.#registry !== undefined) {
        this.#finish();
        this.#refuse(error);
      }
    }
    return this.#ended;
  }

  #timeoutError(): StoreError {
    return new StoreError("TIMEOUT", `No answer within ${String(Math.round(this.#timeoutMs))} ms`, this.#admit({}));
  }

  #abortError(): StoreError {
    return new StoreError(
      "TIMEOUT",
      "The call was aborted by its signal",
      this.#admit({ cause: abortReason(this.#signal) }),
    );
  }

  #admit(options: { cause?: unknown }): { cause?: unknown; outcome?: "none" | "unknown" } {
    return this.outcome === undefined ? options : { ...options, outcome: this.outcome };
  }

  /**
   * Runs `operation` until it settles, the time is over, the signal aborts or the call is ended, whichever comes first.
   * `explain` makes what it rejects with of what it ended with. A call runs one operation at a time.
   */
  run<T>(
    operation: (call: this) => Eventually<T>,
    explain: (error: unknown, call: Call) => unknown = asIs,
  ): Promise<T> {
    const promise = new Promise<T>(takeSettlers);
    this.#resolve = settlers.resolve;
    this.#reject = settlers.reject;
    settlers.resolve = settlers.reject = nothing;
    this.#explain = explain;
    this.#run(operation);
    return promise;
  }

  /** The same, but never rejects: `answering` makes of every end what it resolves with. */
  answer<T, R>(operation: (call: this) => Promise<T>, answering: Answering<T, R>): Promise<R> {
    const promise = new Promise<R>(takeSettlers);
    this.#resolve = settlers.resolve;
    settlers.resolve = settlers.reject = nothing;
    this.#answering = answering;
    this.#run(operation);
    return promise;
  }

  #run<T>(operation: (call: this) => Eventually<T>): void {
    if (this.#ended !== undefined || this.aborted) {
      this.#refuse(this.#stop(this.#abortError()));
      return;
    }
    this.#begin();
    let running: Eventually<T>;
    try {
      running = operation(this);
    } catch (error) {
      running = Promise.reject(isError(error) ? error : unexplained(error));
    }
    if ("tell" in running) {
      running.tell(this);
      return;
    }
    running.then(
      (value) => {
        this.done(value);
      },
      (error: unknown) => {
        this.failed(error);
      },
    );
  }

  /** The operation is done. */
  done(value: unknown): void {
    if (this.#ended !== undefined) return;
    // The timer may be late because the event loop was busy. An answer after the deadline is late all the same.
    const now = performance.now();
    if (this.remaining(now) <= 0) {
      this.expire();
      return;
    }
    this.#finish();
    this.#resolve((this.#answering === undefined ? value : this.#answering.last(value, now)) as never);
  }

  /** The operation has failed. */
  failed(error: unknown): void {
    if (this.#ended !== undefined) return;
    this.#finish();
    // Work that this call began beside what failed stops too.
    this.#ended = isStoreError(error) ? error : unexplained(error);
    this.#refuse(error);
  }

  #refuse(error: unknown): void {
    const answering = this.#answering;
    if (answering !== undefined) {
      this.#resolve(answering.last(answering.failed(error, this.aborted), performance.now()) as never);
      return;
    }
    const reason = this.#explain(error, this);
    this.#reject(isError(reason) ? reason : unexplained(reason));
  }

  /** Waits for whatever ends the call first. */
  #begin(): void {
    this.#registry = this.#calls ?? new CallRegistry();
    const signal = this.#signal;
    if (signal !== undefined) this.#listenNoLonger = onAbort(signal, () => this.#stop(this.#abortError()));
    this.#registry.begin(this);
  }

  #finish(): void {
    const registry = this.#registry;
    this.#registry = undefined;
    registry?.finish(this);
    if (this.#calls === undefined) registry?.clearTimer();
    this.#listenNoLonger?.();
    this.#listenNoLonger = undefined;
  }
}

interface Settlers {
  resolve: (value: never) => void;
  reject: (error: unknown) => void;
}

const nothing = (): void => undefined;

/**
 * The functions of a promise, from where it makes them to where its call takes them, which is the next statement. A
 * closure for each call would cost more.
 */
const settlers: Settlers = { resolve: nothing, reject: nothing };

function takeSettlers(resolve: Settlers["resolve"], reject: Settlers["reject"]): void {
  settlers.resolve = resolve;
  settlers.reject = reject;
}

const asIs = (error: unknown): unknown => error;

function unexplained(error: unknown): StoreError {
  return new StoreError("UNAVAILABLE", "The backend failed", { cause: error });
}

/** What a step opens. It is closed if the step has failed by then, or fails with it in hand: nobody else would. */
export async function openedBy<T extends { close(): void }>(
  step: (work: (call: Call) => Promise<T>) => Promise<T>,
  open: (call: Call) => Promise<T>,
): Promise<T> {
  let opened: T | undefined;
  let hasFailed = false;
  try {
    return await step(async (call) => {
      opened = await open(call);
      if (hasFailed) opened.close();
      return opened;
    });
  } catch (error) {
    hasFailed = true;
    opened?.close();
    throw error;
  }
}
