/** Long work in slices, so that calls and checks are answered in between. */
import { setImmediate } from "node:timers/promises";

const SLICE_MS = 4;
/** Reading the clock costs more than many a step. */
const STEPS = 16;

export class TimeSlice {
  readonly #check: () => void;
  #started = performance.now();
  #steps = 0;

  /** `check` throws when the work is to end. */
  constructor(check: () => void = () => undefined) {
    this.#check = check;
  }

  /** Whether the slice is over. Asked at each step. */
  due(): boolean {
    if (++this.#steps < STEPS) return false;
    this.#steps = 0;
    return this.isOver();
  }

  /** The same, for steps that are long themselves. */
  isOver(): boolean {
    return performance.now() - this.#started >= SLICE_MS;
  }

  async rest(): Promise<void> {
    this.#check();
    await setImmediate();
    this.#started = performance.now();
  }
}
