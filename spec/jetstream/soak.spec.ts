import { expect } from "chai";
import { run } from "../soak/jetstream.js";

/** Always the same faults in the same order; `npm run soak -- --jetstream --seconds 600` goes on, with others. */
const seed = 4;

describe("jetstream: a short soak", function () {
  this.timeout(300_000);

  it("finds no answer without an explanation while servers, routes and clients fail", async () => {
    const log = (line: string): void => console.log(`      ${line}`);
    const results = await run({ seconds: 16, seed, clusters: [3], log });
    for (const { operations, partitions } of results) {
      expect(operations).to.be.greaterThan(100);
      expect(partitions).to.be.greaterThan(2);
    }
  });

  it("finds one at once when the proof is taken out", async () => {
    const found: string[] = [];
    await run({ seconds: 12, seed, clusters: [3], withoutProof: true, log: (line) => found.push(line) });
    expect(found.join()).to.contain("a violation was found");
  });
});
