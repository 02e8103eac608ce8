/**
 * Virtual time. Everything that happens in a simulation is an event of one queue; between two events every promise that
 * can settle has settled. A timeout of two seconds costs nothing, and the same choices give the same course of things.
 */
import { setFlagsFromString } from "node:v8";

/** Who an event is for, if it may not take it at once. */
export interface Recipient {
  deliver(run: () => void): void;
}

/** Something that is to happen, unless it is cancelled before. */
class Event implements Cancellable {
  readonly at: number;
  /** Of two events of the same instant the one that was scheduled first comes first. */
  readonly order: number;
  readonly run: () => void;
  readonly to: Recipient | undefined;
  readonly #queue: Queue;
  /** It has happened, or never will. */
  over = false;

  constructor(at: number, order: number, run: () => void, to: Recipient | undefined, queue: Queue) {
    this.at = at;
    this.order = order;
    this.run = run;
    this.to = to;
    this.#queue = queue;
  }

  cancel(): void {
    if (this.over) return;
    this.over = true;
    this.#queue.cancelled();
  }

  happen(): void {
    this.over = true;
    if (this.to === undefined) this.run();
    else this.to.deliver(this.run);
  }
}

/** Fewer that were cancelled are left where they are until their time comes. */
const MANY_CANCELLED = 64;

/**
 * Events by time. Nearly all timers are cancelled long before: what is in the way of the others is thrown out now and
 * then.
 */
class Queue {
  #heap: Event[] = [];
  #cancelled = 0;

  cancelled(): void {
    if (++this.#cancelled < MANY_CANCELLED || 2 * this.#cancelled < this.#heap.length) return;
    const heap = this.#heap.filter((event) => !event.over);
    this.#heap = [];
    this.#cancelled = 0;
    for (const event of heap) this.push(event);
  }

  push(event: Event): void {
    const heap = this.#heap;
    let i = heap.push(event) - 1;
    while (i > 0) {
      const parent = (i - 1) >> 1;
      const above = heap[parent];
      if (above === undefined || isBefore(above, event)) break;
      heap[i] = above;
      i = parent;
    }
    heap[i] = event;
  }

  /** The first that was not cancelled. */
  pop(): Event | undefined {
    for (;;) {
      const event = this.#first();
      if (event?.over !== true) return event;
      this.#cancelled--;
    }
  }

  #first(): Event | undefined {
    const heap = this.#heap;
    const [first] = heap;
    const last = heap.pop();
    if (last === undefined || first === last) return first;
    let i = 0;
    for (;;) {
      let child = 2 * i + 1;
      const right = heap[child + 1];
      let least = heap[child];
      if (least === undefined) break;
      if (right !== undefined && isBefore(right, least)) {
        least = right;
        child++;
      }
      if (isBefore(last, least)) break;
      heap[i] = least;
      i = child;
    }
    heap[i] = last;
    return first;
  }
}

let checkpoint: (() => void) | undefined;

/**
 * Runs every microtask that is due, and those that they make. V8's own name for what Node does between two callbacks.
 */
function microtaskCheckpoint(): () => void {
  if (checkpoint === undefined) {
    setFlagsFromString("--allow-natives-syntax");
    checkpoint = Reflect.construct(Function, ["%PerformMicrotaskCheckpoint()"]) as () => void;
  }
  return checkpoint;
}

export interface Cancellable {
  cancel(): void;
}

export class Engine {
  /** Milliseconds since the simulation began. */
  now = 0;
  /** Counts what happened. */
  events = 0;
  readonly #queue = new Queue();
  readonly #nextTicks: (() => void)[] = [];
  readonly #checkpoint = microtaskCheckpoint();
  #orders = 0;

  /**
   * Runs `run` after `ms`, unless it is cancelled before. Whoever settles promises in it does that by {@link enter}.
   */
  after(ms: number, run: () => void, to?: Recipient): Cancellable {
    const event = new Event(this.now + (ms > 0 ? ms : 0), this.#orders++, run, to, this.#queue);
    this.#queue.push(event);
    return event;
  }

  /** What `process.nextTick` is to what runs inside. */
  nextTick(run: () => void): void {
    this.#nextTicks.push(run);
  }

  /** Runs a callback as Node would: next ticks after it, then microtasks, until there are none. */
  enter(run: () => void): void {
    run();
    do {
      for (let next = this.#nextTicks.shift(); next !== undefined; next = this.#nextTicks.shift()) next();
      this.#checkpoint();
    } while (this.#nextTicks.length > 0);
  }

  /**
   * Runs events until `done`, or until `limit` of virtual time, or until nothing is left. Answers whether it is done.
   */
  runUntil(done: () => boolean, limit: number): boolean {
    while (!done()) {
      const event = this.#queue.pop();
      if (event === undefined) return false;
      if (event.at > limit) {
        this.#queue.push(event);
        return false;
      }
      this.now = event.at;
      this.events++;
      event.happen();
    }
    return true;
  }

  /** Lets time pass. It does so too when nothing is left to happen in it. */
  pass(ms: number): void {
    const until = this.now + ms;
    this.runUntil(() => false, until);
    this.now = until;
  }
}

function isBefore(a: Event, b: Event): boolean {
  return a.at < b.at || (a.at === b.at && a.order < b.order);
}
