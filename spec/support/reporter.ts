import Mocha from "mocha";

const { EVENT_RUN_END, EVENT_TEST_FAIL, EVENT_TEST_PASS, EVENT_TEST_PENDING } = Mocha.Runner.constants;

/** The title of a conformance run is this and its target: `conformance: jetstream R3, nats 2.29`. */
const CONFORMANCE = "conformance: ";

/** How many tests passed and failed. */
export interface Counts {
  passed: number;
  failed: number;
}

/** What is told of one file's run. */
export interface FileReport extends Counts {
  /** The same by target of the conformance suite. */
  readonly conformance: Readonly<Record<string, Counts>>;
  /** The title of each test that failed, and why it did. */
  readonly failures: readonly string[];
}

/** mocha's own, and at the end the counts for who ran the file. */
export default abstract class Reporter extends Mocha.reporters.Spec {
  readonly #total: Counts = { passed: 0, failed: 0 };
  readonly #conformance: Record<string, Counts> = {};
  readonly #failures: string[] = [];

  constructor(runner: Mocha.Runner, options: Mocha.MochaOptions) {
    super(runner, options);
    runner.on(EVENT_TEST_PASS, (test) => this.#count(test, "passed"));
    runner.on(EVENT_TEST_FAIL, (test, error: unknown) => {
      this.#count(test, "failed");
      this.#failures.push(
        `${test.titlePath().join(": ")}\n${error instanceof Error ? (error.stack ?? error.message) : String(error)}`,
      );
    });
    // A skipped test shows nothing, and must not pass for one that did.
    if (process.env["CI"] !== undefined) runner.on(EVENT_TEST_PENDING, (test) => this.#count(test, "failed"));
    runner.once(EVENT_RUN_END, () => {
      this.reported({ ...this.#total, conformance: this.#conformance, failures: this.#failures });
    });
  }

  protected abstract reported(report: FileReport): void;

  #count(test: Mocha.Runnable, outcome: keyof Counts): void {
    this.#total[outcome]++;
    const [, target] =
      test
        .titlePath()
        .find((title) => title.startsWith(CONFORMANCE))
        ?.split(CONFORMANCE) ?? [];
    if (target !== undefined) (this.#conformance[target] ??= { passed: 0, failed: 0 })[outcome]++;
  }
}
