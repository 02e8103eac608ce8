/**
 * What a store has seen of each record, in bounded memory: what is forgotten is not known, and nothing of it is allowed
 * by mistake.
 */
import { expect } from "chai";
import { Seen } from "../../lib/jetstream/seen.js";

const keyOf = (n: number): string => `user.${String(n).padStart(8, "0")}`;

describe("what a store has seen of records", () => {
  it("says of what it remembers whether a read goes back", () => {
    const seen = new Seen(10_000);
    seen.note("user.a", 7);
    seen.note("user.a", 5);
    expect(seen.allow("user.a", 6)).to.equal("no");
    expect(seen.allow("user.a", 7)).to.equal("yes");
    expect(seen.allow("user.b", 0)).to.equal("yes");
  });

  it("keeps no more than it may, and what was noted last", () => {
    const seen = new Seen(10_000);
    for (let n = 1; n <= 1000; n++) {
      seen.note(keyOf(n), n);
      seen.note(keyOf(1), 1000 + n);
    }
    const known = Array.from({ length: 1000 }, (_, i) => seen.allow(keyOf(i + 1), 0) === "no").filter(Boolean).length;
    expect(known).to.be.within(50, 125);
    // It was noted anew all the time.
    expect(seen.allow(keyOf(1), 1999)).to.equal("no");
    // Of what is forgotten an old state may be one that was seen in a newer one.
    expect(seen.allow(keyOf(2), 2)).to.equal("unknown");
    expect(seen.allow(keyOf(2), 0)).to.equal("unknown");
    expect(seen.allow(keyOf(2), 3000)).to.equal("yes");
  });

  it("without memory knows nothing, and says so", () => {
    const seen = new Seen(0);
    seen.note("user.a", 7);
    expect(seen.allow("user.a", 7)).to.equal("unknown");
    expect(seen.allow("user.a", 8)).to.equal("yes");
  });
});
