/** Tells a caller how far work is that goes in phases. */
import { notify } from "./notify.js";

/** How far a phase is. `total` is there where it is known. */
interface Told {
  phase: string;
  done: number;
  total?: number;
}

/** The shortest time between two events of a phase. */
const TELL_EVERY_MS = 100;

export class Progress {
  readonly #listener: ((progress: Told) => void) | undefined;
  #phase = "";
  #total: number | undefined;
  #done = 0;
  #told = 0;

  constructor(listener: ((progress: Told) => void) | undefined) {
    this.#listener = listener;
  }

  begin(phase: string, total?: number): void {
    this.#phase = phase;
    this.#total = total;
    this.#done = 0;
    this.#tell();
  }

  advance(by: number): void {
    this.#done += by;
    // The total may be known only about.
    if (this.#total !== undefined) this.#total = Math.max(this.#total, this.#done);
    if (this.#listener !== undefined && performance.now() - this.#told >= TELL_EVERY_MS) this.#tell();
  }

  /** The phase is over, and all of it is done. `total`, where it was known only about. */
  end(total = this.#total): void {
    this.#total = total;
    this.#done = total ?? this.#done;
    this.#tell();
  }

  #tell(): void {
    this.#told = performance.now();
    notify(this.#listener, {
      phase: this.#phase,
      done: this.#done,
      ...(this.#total === undefined ? {} : { total: this.#total }),
    });
  }
}
