/** What may go wrong in one simulation, and how often. Each seed has a mix of its own: swarm testing finds more than an average. */
import type { Chance } from "./chance.js";

export interface Mix {
  readonly replicas: 1 | 3;
  readonly version: string;
  readonly stores: number;
  /** Milliseconds of one way of a message, and the share of messages that take up to `slowMs`. */
  readonly delayMs: number;
  readonly slow: number;
  readonly slowMs: number;
  /** Direct gets, and writes, that wait at the server for up to `heldMs`, so that others come before them. */
  readonly heldReads: number;
  readonly heldWrites: number;
  readonly heldMs: number;
  /** Direct gets that wait until another store has changed something that they may be about. */
  readonly superseded: number;
  /** Answers of a replica that is behind; of one that is in the middle of a snapshot. */
  readonly staleReads: number;
  readonly snapshots: number;
  /** Elections, for each request that reaches a stream; old leaders that do not know it yet, and for how long. */
  readonly elections: number;
  readonly oldLeaders: number;
  readonly oldLeaderMs: number;
  readonly electionMs: number;
  /** Times without a quorum, for each write. */
  readonly stalls: number;
  readonly stallMs: number;
  readonly lostRequests: number;
  readonly lostAnswers: number;
  readonly cutAnswers: number;
  readonly disconnects: number;
  readonly disconnectMs: number;
  /** A process that stops when it sends a write, or at any other event; one that dies there. */
  readonly stopsAtWrite: number;
  readonly stops: number;
  readonly stopMs: number;
  readonly deaths: number;
  /** Calls with a short time of their own, or with a signal that aborts. */
  readonly shortCalls: number;
  readonly aborts: number;
  /** Another store that opens, and sweeps, in the middle. */
  readonly reopens: number;
}

/** The faults, by name, for whoever wants to do without one. */
export const FAULTS = [
  "slow", "heldReads", "heldWrites", "superseded", "staleReads", "snapshots", "elections", "oldLeaders", "stalls", "lostRequests", "lostAnswers", "cutAnswers",
  "disconnects", "stopsAtWrite", "stops", "deaths", "shortCalls", "aborts", "reopens",
] as const satisfies readonly (keyof Mix)[];

export type Fault = (typeof FAULTS)[number];

/** Versions that differ in what the library does about them. */
const VERSIONS = ["2.11.17", "2.12.15", "2.14.0", "2.14.5"] as const;

export function mixOf(chance: Chance): Mix {
  // Each fault is there in half of the mixes: what hides another one is absent in many.
  const sometimes = (most: number): number => {
    const is = chance.happens(0.5);
    const value = most * chance.between(0.1, 1);
    return is ? value : 0;
  };
  return {
    replicas: chance.happens(0.9) ? 3 : 1,
    version: chance.of(VERSIONS),
    stores: 2 + chance.below(3),
    delayMs: chance.between(0.1, 2),
    slow: sometimes(0.05),
    slowMs: chance.of([20, 200, 1500]),
    heldReads: sometimes(0.5),
    heldWrites: sometimes(0.3),
    superseded: sometimes(0.8),
    heldMs: chance.of([5, 20, 100, 400]),
    staleReads: sometimes(0.6),
    snapshots: sometimes(0.9),
    elections: sometimes(0.03),
    oldLeaders: sometimes(1),
    oldLeaderMs: chance.of([20, 500, 4000]),
    electionMs: chance.of([0, 5, 100, 800]),
    stalls: sometimes(0.02),
    stallMs: chance.of([50, 500, 3000]),
    lostRequests: sometimes(0.03),
    lostAnswers: sometimes(0.15),
    cutAnswers: sometimes(0.1),
    disconnects: sometimes(0.01),
    disconnectMs: chance.of([10, 300, 2000]),
    stopsAtWrite: sometimes(0.1),
    stops: sometimes(0.005),
    stopMs: chance.of([10, 100, 1000, 6000]),
    deaths: sometimes(0.02),
    shortCalls: sometimes(0.2),
    aborts: sometimes(0.1),
    reopens: sometimes(0.1),
  };
}

/** The mix without some of its faults. */
export function without(mix: Mix, faults: ReadonlySet<Fault>): Mix {
  const changed: Record<string, unknown> = { ...mix };
  for (const fault of faults) changed[fault] = 0;
  return changed as unknown as Mix;
}
