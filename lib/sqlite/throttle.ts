/**
 * What a thread that writes an image leaves to the others. It shares the disk, the processor and the file system's
 * journal with callers who wait for each of their writes, and nobody knows how much of each they need. So it works for
 * a short while, sends to the disk what it wrote, and then sleeps for several times as long. Whatever it uses, it uses
 * for a part of the time only.
 */
/** The longest time that it works without a rest. */
const STRETCH_MS = 4;
/** It rests for this many times as long as it worked. */
const LEAVES = 3;
/** The longest rest: one step that was slow, as on a disk that hangs, is not repaid in full. */
const MAX_REST_MS = 1000;

/** A flag that is shared with the thread: whether it may use all that it can get. */
export class Haste {
  readonly #shared: Int32Array;

  constructor(memory = new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT)) {
    this.#shared = new Int32Array(memory);
  }

  /** Goes to another thread. */
  get memory(): SharedArrayBuffer {
    return this.#shared.buffer as SharedArrayBuffer;
  }

  get isMade(): boolean {
    return Atomics.load(this.#shared, 0) !== 0;
  }

  /** From here on the thread does not rest, and one that rests wakes. */
  make(): void {
    Atomics.store(this.#shared, 0, 1);
    Atomics.notify(this.#shared, 0);
  }

  /** Blocks the thread until the time is over, or haste is made. */
  rest(ms: number): void {
    Atomics.wait(this.#shared, 0, 0, ms);
  }
}

export class Throttle {
  readonly #haste: Haste;
  #since = performance.now();

  constructor(haste: Haste) {
    this.#haste = haste;
  }

  /** Whether nothing is left to others. */
  get isHasty(): boolean {
    return this.#haste.isMade;
  }

  /** Between two steps. */
  pause(): void {
    const taken = performance.now() - this.#since;
    if (taken < STRETCH_MS) return;
    if (!this.#haste.isMade) this.#haste.rest(Math.min(MAX_REST_MS, taken * LEAVES));
    this.#since = performance.now();
  }
}
