import { expect } from "chai";
import { unexplained, type Model, type Operation } from "../soak/linearizability.js";

/** A register that is written and read. */
const register: Model<{ write?: string }, string> = {
  initial: "0",
  step: (state, { write }, output) => {
    if (write !== undefined) return write;
    return output === undefined || output === state ? state : undefined;
  },
};

type Entry = Operation<{ write?: string }, string>;
const write = (value: string, invoked: number, returned?: number): Entry => ({
  input: { write: value },
  invoked,
  returned,
  output: undefined,
});
const read = (value: string, invoked: number, returned: number): Entry => ({
  input: {},
  invoked,
  returned,
  output: value,
});

describe("the linearizability checker", () => {
  const cases: readonly { title: string; history: readonly Entry[]; wrong?: number }[] = [
    { title: "one after the other", history: [write("1", 0, 1), read("1", 2, 3), write("2", 4, 5), read("2", 6, 7)] },
    { title: "a stale read", history: [write("1", 0, 1), read("0", 2, 3)], wrong: 1 },
    {
      title: "either value while a write is under way",
      history: [write("1", 0, 10), read("0", 1, 2), read("1", 3, 4)],
    },
    {
      title: "back to the old value while a write is under way",
      history: [write("1", 0, 10), read("1", 1, 2), read("0", 3, 4)],
      wrong: 2,
    },
    {
      title: "two readers who see two writes in different orders",
      wrong: 4,
      history: [write("1", 0, 20), write("2", 0, 20), read("1", 1, 2), read("2", 3, 4), read("1", 5, 6)],
    },
    {
      title: "a write of unknown outcome that takes effect late",
      history: [write("1", 0), read("0", 5, 6), read("1", 7, 8)],
    },
    { title: "a write of unknown outcome that never does", history: [write("1", 0), read("0", 5, 6), read("0", 7, 8)] },
    {
      title: "a write of unknown outcome that comes and goes",
      history: [write("1", 0), read("1", 5, 6), read("0", 7, 8)],
      wrong: 2,
    },
    { title: "a value that nobody wrote", history: [write("1", 0, 1), read("3", 2, 3)], wrong: 1 },
  ];
  for (const { title, history, wrong } of cases) {
    it(`${wrong === undefined ? "explains" : "rejects"} ${title}`, () => {
      expect(unexplained(register, history)).to.equal(wrong);
    });
  }

  it("agrees with trying out every order, on histories by chance", () => {
    let state = 1;
    const next = (n: number): number => (state = (state * 48_271) % 2_147_483_647) % n;
    let wrong = 0;
    for (let round = 0; round < 2000; round++) {
      const history = Array.from({ length: 5 }, (): Entry => {
        const invoked = next(10);
        const returned = invoked + 1 + next(6);
        const value = String(next(3));
        if (next(2) === 0) return read(value, invoked, returned);
        return next(3) === 0 ? write(value, invoked) : write(value, invoked, returned);
      });
      const explained = unexplained(register, history) === undefined;
      expect(explained, JSON.stringify(history)).to.equal(inSomeOrder(history, register.initial));
      if (!explained) wrong++;
    }
    expect(wrong).to.be.within(100, 1900);
  });
});

/** The same question, answered without any thought. */
function inSomeOrder(left: readonly Entry[], state: string): boolean {
  if (left.every(({ returned }) => returned === undefined)) return true;
  const deadline = Math.min(...left.map(({ returned }) => returned ?? Infinity));
  return left.some((entry, index) => {
    if (entry.invoked > deadline) return false;
    const next = register.step(state, entry.input, entry.output);
    return (
      next !== undefined &&
      inSomeOrder(
        left.filter((_, other) => other !== index),
        next,
      )
    );
  });
}
