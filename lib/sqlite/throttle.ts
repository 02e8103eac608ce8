/**
 * What a thread that writes an image leaves to the others. Disk, processor and the file system's journal are shared with callers who
 * wait for each of their writes, and nothing tells how much of each they need. So it works for a short while, has what it
 * wrote go to the disk as it goes, and then sleeps for several times as long: whatever it takes, it takes for a part of the time only.
 */
/** So long it works at a stretch. */
const STRETCH_MS = 4;
/** For each part of the time that it takes, it leaves so many. */
const LEAVES = 3;
/** A single step that was slow, as on a disk that hangs, is not paid for at length. */
const MAX_REST_MS = 1000;

/** What is shared with the thread: whether it may take all that it can. */
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

  /** From here on nothing is left to others. Whoever rests is woken. */
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
