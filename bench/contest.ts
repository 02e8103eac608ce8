// Calls of several that do the same, each in its turn: how many a second, with so many callers in flight, and how long
// each takes.

import { Buffer } from "node:buffer";
import { setImmediate as nextTurn } from "node:timers/promises";
import type { Percentiles, Series } from "./figures.js";
import { median, newKeys } from "./support.js";

export interface Contestant {
  readonly name: string;
  readonly kind: Series["kind"];
  /** One that does not give its thread away until it is done: nobody else's can be under way. */
  readonly isSync?: boolean;
  /** Gives a promise, and does its work in this thread all the same: the same holds. */
  readonly isHeld?: boolean;
  /** Done in memory, so fast that a look at the clock before and after each call would be a good part of it. */
  readonly isInMemory?: boolean;
  /** Only records that this one was never asked for. */
  readonly isCold?: boolean;
  /** Its servers have none of the records, as to write them would take too long. */
  readonly isEmpty?: boolean;
  call(key: string): unknown;
}

export interface Contest {
  /** How many records there are. */
  readonly size: number;
  /** The keys that checks ask for. */
  readonly keyOf: (n: number) => string;
  readonly rounds: number;
  /** How long each turn takes, about. */
  readonly turnMs: number;
  /** At most so many writes in one turn: fewer than that change little of how many records there are. */
  readonly maxWrites: number;
}

/** Checks ask for so many, again and again. */
const KNOWN = 20_000;
/** The clock is looked at before each of so many calls that nobody times. */
const LOOK_EVERY = 16;

const isOneByOne = ({ isSync = false, isHeld = false }: Contestant): boolean => isSync || isHeld;

interface Turn {
  readonly contestant: Contestant;
  readonly callers: number;
  readonly ms: number;
  /** Takes the milliseconds of each call. */
  readonly times?: number[];
}

/** How far each that is never asked for the same record again has come. */
const cold = new WeakMap<Contestant, number>();

/** Made before the clock runs, and each a string of its own: as a request brings it. */
function keysFor(contestant: Contestant, count: number, { size, keyOf }: Contest): string[] {
  if (contestant.kind === "write") return newKeys(count);
  const from = cold.get(contestant) ?? 0;
  if (contestant.isCold === true) cold.set(contestant, from + count);
  const among = contestant.isCold === true ? size : Math.min(size, KNOWN);
  return Array.from({ length: count }, (_, n) => Buffer.from(keyOf(((from + n) * 7919) % among)).toString());
}

/** Works through the keys until they, or the time, are over. Answers how many it did, and in how many seconds. */
async function batch(turn: Turn, keys: readonly string[], ms: number): Promise<[done: number, seconds: number]> {
  const { contestant, callers, times } = turn;
  await nextTurn();
  const began = performance.now();
  const until = began + ms;
  let next = 0;
  // One call at least, however late it is: a busy machine can stop this process here.
  const isOver = (): boolean =>
    next >= keys.length || (next > 0 && next % LOOK_EVERY === 0 && performance.now() > until);
  if (contestant.isSync === true) {
    while (!isOver()) {
      const key = keys[next++] ?? "";
      const called = times === undefined ? 0 : performance.now();
      contestant.call(key);
      times?.push(performance.now() - called);
    }
  } else {
    const lane = async (): Promise<void> => {
      while (!isOver()) {
        const key = keys[next++] ?? "";
        const called = times === undefined ? 0 : performance.now();
        await contestant.call(key);
        times?.push(performance.now() - called);
      }
    };
    await Promise.all(Array.from({ length: callers }, lane));
  }
  return [next, (performance.now() - began) / 1000];
}

/** How many a second. */
async function rateOf(turn: Turn, contest: Contest): Promise<number> {
  const { contestant, ms } = turn;
  let done = 0;
  let seconds = 0;
  do {
    const count = contestant.kind === "write" ? contest.maxWrites : KNOWN;
    const [more, took] = await batch(turn, keysFor(contestant, count, contest), ms - seconds * 1000);
    done += more;
    seconds += took;
  } while (contestant.kind === "check" && seconds * 1000 < ms);
  return done / seconds;
}

function percentiles(times: readonly number[]): Percentiles | undefined {
  if (times.length === 0) return undefined;
  const sorted = [...times].sort((a, b) => a - b);
  const at = (part: number): number => sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))] ?? NaN;
  return { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), calls: sorted.length };
}

/** What a call costs alone: the median of what the rounds came to, in microseconds. */
export async function alone(contestants: readonly Contestant[], contest: Contest): Promise<Map<string, number>> {
  const found = new Map<string, number[]>();
  for (let round = -1; round < contest.rounds; round++) {
    for (const contestant of contestants) {
      const rate = await rateOf({ contestant, callers: 1, ms: contest.turnMs }, contest);
      if (round >= 0) found.set(contestant.name, [...(found.get(contestant.name) ?? []), 1e6 / rate]);
    }
  }
  return new Map([...found].map(([name, costs]) => [name, median(costs)]));
}

/** How many callers a distribution is told of, beside one alone. */
export const BUSY = 64;

/** A number of callers of which each would wait longer than that for its first answer is left out. */
const MAX_WAIT_SECONDS = 2;

/** What one contestant has come to, by the number of callers. */
class Standing {
  readonly contestant: Contestant;
  readonly #rates = new Map<number, number[]>();
  readonly #times = new Map<number, number[]>();
  #callers: readonly number[];

  constructor(contestant: Contestant, callers: readonly number[]) {
    this.contestant = contestant;
    this.#callers = isOneByOne(contestant) ? [1] : callers;
  }

  async warmUp(callers: number, contest: Contest): Promise<void> {
    if (!this.#callers.includes(callers)) return;
    const rate = await rateOf({ contestant: this.contestant, callers, ms: contest.turnMs }, contest);
    // Rates grow with callers: of those that come after the next one nothing is known yet.
    const next = this.#callers.find((more) => more > callers) ?? 0;
    if (next / rate > MAX_WAIT_SECONDS) this.#callers = this.#callers.filter((few) => few <= callers);
  }

  async turn(callers: number, contest: Contest): Promise<void> {
    if (!this.#callers.includes(callers)) return;
    const { contestant } = this;
    const isTold = callers === 1 || callers === BUSY;
    const times = this.#times.get(callers) ?? [];
    this.#times.set(callers, times);
    // What is told of the distribution wants more calls than a rate.
    const isTimed = isTold && contestant.isInMemory !== true;
    const ms = contest.turnMs * (isTimed ? 2 : 1);
    const turn = { contestant, callers, ms };
    const rate = await rateOf(isTimed ? { ...turn, times } : turn, contest);
    this.#rates.set(callers, [...(this.#rates.get(callers) ?? []), rate]);
    if (isTold && !isTimed && callers === 1)
      await batch({ ...turn, times }, keysFor(contestant, KNOWN, contest), contest.turnMs);
  }

  result(): Series {
    const { name, kind } = this.contestant;
    const [alone, busy] = [1, BUSY].map((callers) => percentiles(this.#times.get(callers) ?? []));
    return {
      name,
      kind,
      isOneByOne: isOneByOne(this.contestant),
      rates: Array.from(this.#rates, ([callers, rates]) => ({ callers, perSecond: median(rates) })),
      ...(alone === undefined ? {} : { alone }),
      ...(busy === undefined ? {} : { busy }),
      cost: [],
    };
  }
}

/** Every one with every number of callers, round by round. The first round is not counted: it warms up. */
export async function sweep(
  contestants: readonly Contestant[],
  callers: readonly number[],
  contest: Contest,
): Promise<Series[]> {
  const standings = contestants.map((contestant) => new Standing(contestant, callers));
  for (const width of callers) for (const standing of standings) await standing.warmUp(width, contest);
  for (let round = 0; round < contest.rounds; round++)
    for (const width of callers) for (const standing of standings) await standing.turn(width, contest);
  return standings.map((standing) => standing.result());
}
