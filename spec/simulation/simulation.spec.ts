/** A short part of `npm run simulate`: the same seeds every time, and every case that an earlier one of them became. */
import { expect } from "chai";
import { createHash } from "node:crypto";
import { fileURLToPath } from "node:url";
import { cases, read, write } from "./cases.js";
import { Engine } from "./engine.js";
import { FEW_LANES } from "./migration.js";
import { LibraryLoader } from "./process.js";
import { scheduleOf, simulate, type Schedule } from "./simulation.js";

const dist = fileURLToPath(new URL("../../dist", import.meta.url));
/** Of these the first few are enough here: `npm run simulate` goes on with others. */
const SEEDS = 150;
/** Where somebody watches each takes several times as long. */
const WATCHED = 15;
/** Where somebody holds sessions, it takes longer still. */
const HELD = 4;
/** And so does a store that is moved. */
const MOVED = 10;
/** Within so many schedules a fault is found. */
const FOUND_WITHIN = 250;

describe("the simulated cluster", function () {
  this.timeout(240_000);
  const loader = new LibraryLoader(dist);

  async function expectNone(schedule: Schedule, library = loader): Promise<void> {
    const { violations } = await simulate(schedule, library);
    const said = violations.map(({ kind, why }) => `${kind}: ${why}`);
    expect(said, `npm run simulate -- --replay '${JSON.stringify(write(schedule))}'`).to.deep.equal([]);
  }

  const copiesOften = (): LibraryLoader =>
    new LibraryLoader(
      dist,
      { from: /(?<=> )2 \* (?=members\d* \+ FEW_ROWS)/, to: "" },
      { from: /(?<= KEPT\d* = )16;/, to: "1;" },
      { from: /(?<=COMPACT_EVERY\d* = )16;/, to: "2;" },
    );

  it(`${SEEDS} schedules end without a violation`, async () => {
    for (let seed = 1; seed <= SEEDS; seed++) await expectNone(scheduleOf(seed));
  });

  it(`${SEEDS} schedules end without a violation where members' rows are copied at every second removal`, async () => {
    const often = copiesOften();
    for (let seed = 1001; seed <= 1000 + SEEDS; seed++) await expectNone(scheduleOf(seed), often);
  });

  it(`${WATCHED} schedules end without a violation where somebody watches each store`, async () => {
    for (let seed = 2001; seed <= 2000 + WATCHED; seed++) await expectNone(scheduleOf(seed, 30, { watches: true }));
  });

  it(`${WATCHED} schedules end without a violation where somebody watches, and rows are copied often`, async () => {
    const often = copiesOften();
    for (let seed = 3001; seed <= 3000 + WATCHED; seed++)
      await expectNone(scheduleOf(seed, 30, { watches: true }), often);
  });

  it(`${HELD} schedules end without a violation where somebody holds sessions of each store`, async () => {
    for (let seed = 4001; seed <= 4000 + HELD; seed++) await expectNone(scheduleOf(seed, 30, { sessions: true }));
  });

  const moving = new LibraryLoader(dist, ...FEW_LANES);

  it(`${MOVED} schedules end without a violation where the store is moved meanwhile`, async () => {
    for (let seed = 5001; seed <= 5000 + MOVED; seed++)
      await expectNone(scheduleOf(seed, 30, { migrates: true }), moving);
  });

  for (const { title, schedule } of cases) {
    it(`${title}: not any more`, () => expectNone(read(schedule), schedule.migrates === true ? moving : loader));
  }

  it("time passes although nothing is left to happen in it, and what is later is still to come", () => {
    const engine = new Engine();
    const happened: number[] = [];
    for (const ms of [100, 6000]) engine.after(ms, () => happened.push(engine.now));
    engine.pass(5000);
    expect([engine.now, happened]).to.deep.equal([5000, [100]]);
    engine.pass(2000);
    expect([engine.now, happened]).to.deep.equal([7000, [100, 6000]]);
  });

  it("the same seed gives the same course of things, to the byte", async () => {
    const digest = async (seed: number, own: LibraryLoader): Promise<string> =>
      createHash("sha256")
        .update((await simulate(scheduleOf(seed), own, true)).trace.join("\n"))
        .digest("hex");
    for (const seed of [3, 17, 40]) {
      // An instance that others had before it, and a new one.
      expect(await digest(seed, loader)).to.equal(await digest(seed, new LibraryLoader(dist)));
    }
  });

  // What cannot fail proves nothing: each of these is an argument of docs/protocol.md that is taken out of the code as
  // it is loaded.
  const broken: readonly { readonly what: string; readonly from: RegExp; readonly to: string }[] = [
    {
      what: "a refused fence proves what one replica has",
      from: /(?<=const asOf\d* = )await this\.fence\(key\d*, entry\d*\?\.seq \?\? 0, call\d*\)/,
      to: "this.highestSeen",
    },
    { what: "a new generation forgets nothing", from: /this\.#generation\+\+;/, to: ";" },
    {
      what: "what may have been stored says none",
      from: /kind\d* === "commit"\) call\d*\.outcome = "unknown"/,
      to: "false) void 0",
    },
  ];
  for (const { what, from, to } of broken) {
    it(`finds it within ${FOUND_WITHIN} schedules if ${what}`, async () => {
      const without = new LibraryLoader(dist, { from, to });
      for (let seed = 1; seed <= FOUND_WITHIN; seed++) {
        if ((await simulate(scheduleOf(seed), without)).violations.length > 0) return;
      }
      expect.fail("nothing was found");
    });
  }
});
