import { expect } from "chai";
import { Haste, Throttle } from "../../lib/sqlite/throttle.js";

/** Notes how long it is to rest, and does not. */
class Noted extends Haste {
  readonly rests: number[] = [];

  override rest(ms: number): void {
    this.rests.push(ms);
  }
}

/** Works for so long, whatever else the machine does meanwhile. */
function work(ms: number): number {
  const began = performance.now();
  while (performance.now() - began < ms);
  return performance.now() - began;
}

describe("sqlite: what the thread of a checkpoint leaves to others", () => {
  it("is three quarters of the time, in short turns", () => {
    const haste = new Noted();
    const throttle = new Throttle(haste);
    for (let turn = 1; turn <= 5; turn++) {
      const taken = work(5);
      throttle.pause();
      expect(haste.rests).to.have.length(turn);
      expect(haste.rests.at(-1)).to.be.at.least(3 * taken);
    }
  });

  it("is nothing once somebody waits for it, and whoever rests is woken", () => {
    const haste = new Noted();
    // As in the thread: all that they share is memory.
    const other = new Haste(haste.memory);
    const throttle = new Throttle(haste);
    other.make();
    work(5);
    throttle.pause();
    expect(haste.rests).to.deep.equal([]);
    // Would not end within the time that a spec has.
    new Haste(haste.memory).rest(3_600_000);
  });

  it("is no more than a second after a step that took long", () => {
    const haste = new Noted();
    const throttle = new Throttle(haste);
    work(400);
    throttle.pause();
    expect(haste.rests).to.deep.equal([1000]);
  });
});
