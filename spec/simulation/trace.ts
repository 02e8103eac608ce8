import type { Engine } from "./engine.js";

/**
 * What happened, a line each, for whoever reads a failure. Where nobody does there is none: the same seed gives it at
 * any time.
 */
export class Trace {
  readonly #engine: Engine;
  readonly lines: string[] = [];

  constructor(engine: Engine) {
    this.#engine = engine;
  }

  say(what: string): void {
    this.lines.push(`${this.#engine.now.toFixed(3).padStart(10)}  ${what}`);
  }
}
