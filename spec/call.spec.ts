import { expect } from "chai";
import { StoreError } from "unibus-membership";
import { Call, openedBy } from "../lib/call.js";

/** Counts how often it was closed. */
class Opened {
  closed = 0;
  close(): void {
    this.closed++;
  }
}

const failed = new StoreError("TIMEOUT", "The step is over");

describe("what a step opens", () => {
  const call = (): Call => new Call({ timeoutMs: undefined, signal: undefined }, 60_000, "read");

  it("is handed over open", async () => {
    const opened = new Opened();
    const found = await openedBy<Opened>(
      (work) => work(call()),
      () => Promise.resolve(opened),
    );
    expect(found).to.equal(opened);
    expect(opened.closed).to.equal(0);
  });

  it("is closed if it comes after the step has failed", async () => {
    const opened = new Opened();
    let comes: ((late: Opened) => void) | undefined;
    let work: Promise<Opened> | undefined;
    const error: unknown = await openedBy<Opened>(
      (begin) => {
        work = begin(call());
        return Promise.reject(failed);
      },
      () => new Promise((resolve) => (comes = resolve)),
    ).catch((reason: unknown) => reason);
    expect(error).to.equal(failed);
    expect(opened.closed).to.equal(0);
    comes?.(opened);
    await work;
    expect(opened.closed).to.equal(1);
  });

  it("is closed if the step fails with it in hand", async () => {
    const opened = new Opened();
    const error: unknown = await openedBy<Opened>(
      async (begin) => {
        await begin(call());
        throw failed;
      },
      () => Promise.resolve(opened),
    ).catch((reason: unknown) => reason);
    expect(error).to.equal(failed);
    expect(opened.closed).to.equal(1);
  });
});
