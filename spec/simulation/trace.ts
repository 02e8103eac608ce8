import type { Engine } from "./engine.js";

/** What happened, a line each, for whoever reads a failure. It costs nothing while nobody wants it. */
export class Trace {
  readonly #engine: Engine;
  readonly lines: string[] | undefined;

  constructor(engine: Engine, wanted: boolean) {
    this.#engine = engine;
    this.lines = wanted ? [] : undefined;
  }

  say(what: () => string): void {
    this.lines?.push(`${this.#engine.now.toFixed(3).padStart(10)}  ${what()}`);
  }
}
