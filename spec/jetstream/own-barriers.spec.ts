/** The keys of a store's barriers: which it takes, and beside which of other stores. */
import { expect } from "chai";
import { OwnBarriers } from "../../lib/jetstream/own-barriers.js";
import type { Seq } from "../../lib/jetstream/seq.js";

const STORES = 70;
const groupOf = (key: string): string => key.replace(/-\d+$/, "");

describe("the keys of barriers", () => {
  it("of more stores than there are groups are nearly all different", () => {
    const keys = Array.from({ length: STORES }, () => new OwnBarriers<"users">().take().key);
    expect(new Set(keys).size).to.be.greaterThan(55);
  });

  it("are others where another store has one of them, and only there", () => {
    const own = new OwnBarriers<"users">();
    const { key } = own.take();
    own.add(1 as Seq<"users">, key);
    const number = Number(key.slice(groupOf(key).length + 1));
    own.met(`${groupOf(key)}-${String((number + 256) % 512)}`, { s: "another" });
    expect(own.take().key).to.equal(key);
    own.met(key, { s: "another" });
    expect(groupOf(own.take().key)).not.to.equal(groupOf(key));
  });

  it("leave out the one by which the log is known, also where the group is the same again", () => {
    const own = new OwnBarriers<"users">();
    const { key } = own.take();
    own.add(1 as Seq<"users">, key);
    own.spare(key);
    for (let i = 0; i < 20_000; i++) {
      if (own.take().key === key) expect.fail("it is taken");
      own.part();
    }
  });
});
