import Mocha from "mocha";

const { EVENT_RUN_BEGIN, EVENT_RUN_END, EVENT_TEST_FAIL, EVENT_TEST_PASS, EVENT_TEST_PENDING } = Mocha.Runner.constants;

/** The title of a conformance run is this and its target: `conformance: jetstream R3, nats 2.29`. */
const CONFORMANCE = "conformance: ";

/** mocha's own, then the conformance table, the time taken, and alone on the last line: `N passed, N failed`. */
export default class Reporter extends Mocha.reporters.Spec {
  readonly #conformance = new Map<string, { passed: number; failed: number }>();
  #passed = 0;
  #failed = 0;
  #began = performance.now();

  constructor(runner: Mocha.Runner, options: Mocha.MochaOptions) {
    super(runner, options);
    runner.once(EVENT_RUN_BEGIN, () => (this.#began = performance.now()));
    runner.on(EVENT_TEST_PASS, (test) => this.#count(test, true));
    runner.on(EVENT_TEST_FAIL, (test) => this.#count(test, false));
    // A skipped test shows nothing, and must not pass for one that did.
    if (process.env["CI"] !== undefined) runner.on(EVENT_TEST_PENDING, (test) => this.#count(test, false));
    runner.once(EVENT_RUN_END, () => this.#end());
  }

  #count(test: Mocha.Runnable, passed: boolean): void {
    if (passed) this.#passed++;
    else this.#failed++;
    const [, target] = test.titlePath().find((title) => title.startsWith(CONFORMANCE))?.split(CONFORMANCE) ?? [];
    if (target === undefined) return;
    const row = this.#conformance.get(target) ?? { passed: 0, failed: 0 };
    row[passed ? "passed" : "failed"]++;
    this.#conformance.set(target, row);
  }

  #end(): void {
    if (this.#conformance.size > 0) {
      const width = Math.max(...[...this.#conformance.keys()].map((target) => target.length));
      console.log(`${"Conformance".padEnd(width)}  passed  failed`);
      for (const [target, { passed, failed }] of this.#conformance) {
        console.log(`${target.padEnd(width)}  ${String(passed).padStart(6)}  ${String(failed).padStart(6)}`);
      }
      console.log();
    }
    console.log(`specs took ${((performance.now() - this.#began) / 1000).toFixed(1)} s`);
    console.log(`${this.#passed} passed, ${this.#failed} failed`);
  }
}
