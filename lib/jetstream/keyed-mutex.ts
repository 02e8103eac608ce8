import type { Call } from "../call.js";

/** A lock within this process: operations of one name take turns, in the order in which they came. */
export class KeyedMutex {
  readonly #last = new Map<string, Promise<void>>();

  async run<T>(name: string, call: Call, run: () => Promise<T>): Promise<T> {
    const before = this.#last.get(name);
    let release: () => void = () => undefined;
    const turn = new Promise<void>((resolve) => {
      release = resolve;
    });
    this.#last.set(name, turn);
    try {
      await before;
      call.throwIfEnded();
      return await run();
    } finally {
      release();
      if (this.#last.get(name) === turn) this.#last.delete(name);
    }
  }
}
