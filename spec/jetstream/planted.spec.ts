// Faults that somebody planted who did not write the inspection: that each is found, what is left after a repair, and
// that no repair allows anybody anything.

import { expect } from "chai";
import { connect, type NatsConnection } from "nats";
import { random } from "../soak/random.js";
import { AT_LENGTH } from "../support/at-length.js";
import { codeOf } from "../support/code-of.js";
import { isSafe } from "../support/faults.js";
import { inspect, type Finding, type Store } from "unibus-membership";
import { startNatsServer } from "unibus-membership/testing";
import { Estate, Lot, furnish, furnishLot, granted, keysGiven } from "./support/estate.js";
import { FAULTS, FAULTS_OF_ALL, type Fault, type FaultOfAll } from "./support/planted-faults.js";

const STALL = { stallTimeoutMs: 60_000 };
const AT_ONCE = 8;
/** Of faults that meet by chance. */
const SEED = 0xfa17;
const ROUNDS = AT_LENGTH ? 40 : 1;
const LOTS = 24;

/** Which lot a finding is of, by the name of its record: an id in quotes, or the tokens of a key. */
function lotOf({ record = "" }: Finding): number | undefined {
  const names = [...record.matchAll(/"((?:[^"\\]|\\.)*)"/g)].map(([, id]) => id ?? "");
  const key = record.split(": ").at(-1) ?? "";
  names.push(...key.split(".").map((token) => Buffer.from(token, "base64url").toString("utf8")));
  const found = names.flatMap((name) => /-(\d+)$/.exec(name)?.[1] ?? []);
  return found.length === 0 ? undefined : Number(found[0]);
}

const codesOf = (findings: readonly Finding[]): string[] => [...new Set(findings.map(({ code }) => code))].sort();
const unmended = (findings: readonly Finding[]): Finding[] => findings.filter(({ repaired }) => !repaired);

function grantsNothing(before: ReadonlySet<string>, after: ReadonlySet<string>, what: string): void {
  expect(
    [...after].filter((each) => !before.has(each)),
    `${what}: granted`,
  ).to.deep.equal([]);
}

/** Runs them side by side, some at a time. */
async function side<T>(all: readonly T[], run: (one: T) => Promise<void>): Promise<void> {
  const left = all.values();
  await Promise.all(
    Array.from({ length: AT_ONCE }, async () => {
      for (const one of left) await run(one);
    }),
  );
}

describe("faults that were planted into the buckets", function () {
  this.timeout(240_000);
  let nc: NatsConnection;
  let dispose = (): Promise<void> => Promise.resolve();
  const estates: Estate[] = [];
  const estate = (): Estate => {
    const made = new Estate(nc, `planted${String(estates.length)}_`);
    estates.push(made);
    return made;
  };

  before(async () => {
    const server = await startNatsServer();
    nc = await connect({ servers: server.url });
    dispose = async () => {
      await Promise.all(estates.map((each) => each.close()));
      await nc.close();
      await server.dispose();
    };
  });
  after(() => dispose());

  describe("many at a time, each of records of its own", () => {
    const faults = Object.entries(FAULTS).map(([name, fault], n) => ({ name, fault, lot: new Lot(n, fault.needs) }));
    const lots = faults.map(({ lot }) => lot);
    const found: Finding[][] = [];
    let allowed: ReadonlySet<string>;
    let repaired: ReadonlySet<string>;
    let anew: ReadonlySet<string>;
    let keys: readonly ReadonlySet<string>[];

    before(async () => {
      const place = estate();
      const store = await place.open();
      await furnish(store);
      await side(faults, ({ lot }) => furnishLot(store, lot));
      await side(faults, ({ fault, lot }) => fault.plant(place, lot));
      found.push([...(await inspect(store, STALL)).findings]);
      allowed = await granted(store, lots);
      const given = await keysGiven(store, lots);
      found.push([...(await inspect(store, { ...STALL, repair: true })).findings]);
      repaired = await granted(store, lots);
      found.push([...(await inspect(store, STALL)).findings]);
      const other = await place.open();
      anew = await granted(other, lots);
      keys = [given, await keysGiven(store, lots), await keysGiven(other, lots)];
    });

    const of = (run: number, { n }: Lot): Finding[] => (found[run] ?? []).filter((each) => lotOf(each) === n);

    for (const { name, fault, lot } of faults) {
      it(`${fault.in}: ${name}`, () => {
        const [first, second, third] = [of(0, lot), of(1, lot), of(2, lot)];
        const { finds, left = finds } = fault;
        expect(codesOf(first), JSON.stringify(first)).to.deep.equal([...finds].sort());
        expect(codesOf(second), JSON.stringify(second)).to.deep.equal([...finds].sort());
        expect(codesOf(unmended(second)), JSON.stringify(second)).to.deep.equal([...left].sort());
        expect(codesOf(third), JSON.stringify(third)).to.deep.equal([...left].sort());
        isSafe([...first, ...second, ...third]);
      });
    }

    it("nothing else is found", () => {
      for (const run of found) expect(run.filter((each) => lotOf(each) === undefined)).to.deep.equal([]);
    });

    it("no repair made a check true that was false", () => {
      expect(allowed.size).to.be.greaterThan(100);
      grantsNothing(allowed, repaired, "to the store that was open");
      const byFault = faults.flatMap(({ fault, lot }) => fault.grants?.(lot) ?? []);
      grantsNothing(new Set([...allowed, ...byFault]), anew, "to a store that is opened then");
    });

    it("nor gave anybody a key", () => {
      const [before = new Set<string>(), ...later] = keys;
      expect(before.size).to.be.greaterThan(50);
      for (const each of later) grantsNothing(before, each, "a key");
    });
  });

  describe("each into a store of its own", () => {
    const ends = new Map<string, () => void>();
    const look = async ({ plant, finds, left, opens }: FaultOfAll): Promise<() => void> => {
      const place = estate();
      const lots = [new Lot(0, ["hall"])] as const;
      const store = await place.open();
      await furnish(store);
      await furnishLot(store, lots[0]);
      await plant(place);
      const looked = async (repair: boolean): Promise<string | Finding[]> =>
        inspect(store, { ...STALL, repair }).then(({ findings }) => [...findings], codeOf);
      const [first, before, second, after, third] = [
        await looked(false),
        await granted(store, lots),
        await looked(true),
        await granted(store, lots),
        await looked(false),
      ];
      const opened = await place.open().catch(codeOf);
      const anew = typeof opened === "string" ? new Set<string>() : await granted(opened, lots);
      const intruder = await intrude(typeof opened === "string" ? store : opened);
      return () => {
        const told = (found: string | Finding[]): unknown => (typeof found === "string" ? found : codesOf(found));
        const wanted = typeof finds === "string" ? finds : [...finds].sort();
        expect(told(first), JSON.stringify(first)).to.deep.equal(wanted);
        expect(told(second), JSON.stringify(second)).to.deep.equal(wanted);
        const rest = left === undefined ? wanted : [...left].sort();
        if (typeof second !== "string") expect(codesOf(unmended(second)), JSON.stringify(second)).to.deep.equal(rest);
        expect(told(third), JSON.stringify(third)).to.deep.equal(rest);
        for (const each of [first, second, third]) if (typeof each !== "string") isSafe(each);
        expect(typeof opened === "string" ? opened : undefined, "the next opening").to.equal(opens);
        grantsNothing(before, after, "to the store that was open");
        // What the store that was open did not dare to say, as its log is another one.
        if (typeof finds !== "string") grantsNothing(before, anew, "to a store that is opened then");
        expect(intruder, "a first admin").not.to.equal("allowed");
      };
    };

    before(async () => {
      await side(Object.entries(FAULTS_OF_ALL), async ([name, fault]) => {
        const end = await look(fault).catch((error: unknown) => () => {
          throw error;
        });
        ends.set(name, end);
      });
    });

    for (const [name, fault] of Object.entries(FAULTS_OF_ALL))
      it(`${fault.in}: ${name}`, () => {
        const end = ends.get(name);
        expect(end).not.to.equal(undefined);
        end?.();
      });
  });

  it("no repair makes a check true that was false, whatever faults meet in one place", async () => {
    for (let round = 0; round < ROUNDS; round++) {
      const next = random(SEED, round);
      const one = <T>(of: readonly T[]): T => {
        const found = of[Math.floor(next() * of.length)];
        if (found === undefined) throw new Error("nothing to choose from");
        return found;
      };
      const place = estate();
      const store = await place.open();
      await furnish(store);
      const lots = Array.from({ length: LOTS }, (_, n) => new Lot(n, ["user", "hall", "vault", "gone"]));
      const all = Object.entries(FAULTS).filter(([, { needs }]) => !needs.includes("crowd"));
      await side(lots, (lot) => furnishLot(store, lot));
      const names = lots.map(() => Array.from({ length: 2 + Math.floor(next() * 2) }, () => one(all)));
      await side(lots, async (lot) => {
        // What one fault has left can be nothing that another one can be made of.
        for (const [, { plant }] of names[lot.n] ?? []) await plant(place, lot).catch(() => undefined);
      });
      const [, ofAll] = one(Object.entries(FAULTS_OF_ALL).filter(([name]) => name.startsWith("the guard")));
      await ofAll.plant(place);
      // Half of the time nobody has cleared anything away before.
      const other = next() < 0.5 ? await place.open().catch(() => undefined) : undefined;
      const asked = async (...stores: readonly (Store | undefined)[]): Promise<Set<string>> => {
        const there = stores.filter((each) => each !== undefined);
        const found = await Promise.all(there.map((each) => granted(each, lots)));
        return new Set(found.flatMap((each) => [...each]));
      };
      const before = await asked(store, other);
      if (other === undefined)
        for (const lot of lots)
          for (const [, { grants }] of names[lot.n] ?? []) for (const check of grants?.(lot) ?? []) before.add(check);
      const { findings } = await inspect(other ?? store, { ...STALL, repair: true });
      expect(findings.length).to.be.greaterThan(LOTS);
      const after = await asked(store, other, await place.open().catch(() => undefined));
      const what = [...after].filter((each) => !before.has(each));
      const why = what.map(
        (each) => `${each}: ${(names[Number(/-(\d+)/.exec(each)?.[1])] ?? []).map(([name]) => name).join(" + ")}`,
      );
      expect(why, `round ${String(round)}`).to.deep.equal([]);
    }
  });

  /** No repair, and no opening, lets anybody become the first admin. */
  async function intrude({ users }: Store): Promise<string> {
    return users.addFirstAdmin({ key: "intruder" }, { timeoutMs: 3000 }).then(() => "allowed", codeOf);
  }

  it("there is a fault of each bucket, and of each promise that a bucket can break", () => {
    const all: Pick<Fault, "in" | "promises">[] = [...Object.values(FAULTS), ...Object.values(FAULTS_OF_ALL)];
    const buckets = new Set(all.map((each) => each.in));
    for (const each of ["users", "rooms", "members", "rooms_by_member", "room_keys", "settings"])
      expect(buckets).to.include(each);
    // 13 is of a store that is closed: nothing of it stands in a bucket.
    const promises = new Set(all.flatMap((each) => each.promises));
    for (let promise = 1; promise <= 20; promise++)
      if (promise !== 13) expect(promises, `promise ${String(promise)}`).to.include(promise);
  });
});
