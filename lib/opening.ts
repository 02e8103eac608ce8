/** Tells how far an opening is. */
import { notify } from "./notify.js";
import type { CommonOptions } from "./store.js";

/** The shortest time between two events of a phase. */
const TELL_EVERY_MS = 100;

export class Opening {
  readonly #listener: CommonOptions["onOpening"];
  #phase = "";
  #total: number | undefined;
  #done = 0;
  #told = 0;

  constructor(listener: CommonOptions["onOpening"]) {
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
    if (this.#listener !== undefined && performance.now() - this.#told >= TELL_EVERY_MS) this.#tell();
  }

  /** The phase is over, and all of it is done. */
  end(): void {
    this.#done = this.#total ?? this.#done;
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
