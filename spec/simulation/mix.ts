/**
 * What may go wrong in one simulation, and how often. Each seed has a mix of its own: swarm testing finds more than an
 * average.
 */
import type { Chance } from "./chance.js";

export interface Mix {
  readonly replicas: 1 | 3;
  /** Of each server. A client knows that of its own alone. */
  readonly versions: readonly [string, ...string[]];
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
  /** How long a replica may stay where it is. */
  readonly lagMs: number;
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
  /** Answers that take up to `heldMs` to their client. */
  readonly lateAnswers: number;
  readonly cutAnswers: number;
  /** Answers of which a message, or everything, comes twice. */
  readonly doubledAnswers: number;
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
  /**
   * Whether a leader proposes without waiting for what is under way: 0 or more. Otherwise few entries are committed at
   * a time.
   */
  readonly pipelined: number;
  /** Writes after whose acknowledgement the leader takes their subject for one that is under way, for a moment. */
  readonly lingers: number;
  /** What somebody with the server's credentials does, for each call that begins: other replicas, or other settings. */
  readonly resizes: number;
  readonly settings: number;
  /** And once: a stream that is removed, and made anew; one that is restored from a backup. */
  readonly removals: number;
  readonly restores: number;
  /** Checks that may be answered from memory. */
  readonly leases: number;
  /**
   * Acknowledgements of barriers that come only when something was taken away since, and their store was asked about
   * that.
   */
  readonly overtakes: number;
  /** Changes of a member that another follows at once, so that no head tells of them, and lists without their rows. */
  readonly buried: number;
  /** Changes of a member after which others ask at once for the rooms that the member is in. */
  readonly listings: number;
  /**
   * Only while a store is moved. Servers that hear of changed settings late, up to `unawareMs`: such a one may lead the
   * stream meanwhile.
   */
  readonly unaware: number;
  readonly unawareMs: number;
  /** Runs of the migration that are killed; beside which another one begins; in the place of which it is ended. */
  readonly migratorDeaths: number;
  readonly rivals: number;
  readonly endings: number;
  /** Processes that stop when a side of the migration comes to another state. */
  readonly stopsAtStates: number;
  /** Whether a store of format 1 is open, which knows of no state: 0 or more. */
  readonly oldStores: number;
}

/** Faults that the first mixes had. */
const EARLIER = [
  "slow",
  "heldReads",
  "heldWrites",
  "superseded",
  "staleReads",
  "snapshots",
  "elections",
  "oldLeaders",
  "stalls",
  "lostRequests",
  "lostAnswers",
  "lateAnswers",
  "cutAnswers",
  "doubledAnswers",
  "disconnects",
  "stopsAtWrite",
  "stops",
  "deaths",
  "shortCalls",
  "aborts",
  "reopens",
] as const satisfies readonly (keyof Mix)[];

/**
 * Faults that came later. They are drawn on their own, so that every seed keeps its course where they do not happen.
 */
export const LATER = [
  "pipelined",
  "lingers",
  "resizes",
  "settings",
  "removals",
  "restores",
  "leases",
  "overtakes",
  "buried",
  "listings",
  "unaware",
  "migratorDeaths",
  "rivals",
  "endings",
  "stopsAtStates",
  "oldStores",
] as const satisfies readonly (keyof Mix)[];

/** Only where a store is moved. */
export const OF_MIGRATIONS = ["unaware", "migratorDeaths", "rivals", "endings", "stopsAtStates", "oldStores"] as const;

/** The faults, by name, for whoever wants to do without one. */
export const FAULTS = [...EARLIER, ...LATER] as const;

export type Fault = (typeof FAULTS)[number];

/** Versions that differ in what the library does about them. */
const VERSIONS = ["2.11.17", "2.12.15", "2.14.0", "2.14.5"] as const;

/** The most that a fault happens, for each time that it could. */
const MOST: Readonly<Record<Fault, number>> = {
  slow: 0.05,
  heldReads: 0.5,
  heldWrites: 0.5,
  superseded: 0.9,
  staleReads: 0.6,
  snapshots: 0.9,
  elections: 0.03,
  oldLeaders: 1,
  stalls: 0.02,
  lostRequests: 0.03,
  lostAnswers: 0.25,
  lateAnswers: 0.3,
  cutAnswers: 0.1,
  doubledAnswers: 0.1,
  disconnects: 0.01,
  stopsAtWrite: 0.1,
  stops: 0.005,
  deaths: 0.02,
  shortCalls: 0.2,
  aborts: 0.1,
  reopens: 0.1,
  pipelined: 1,
  lingers: 0.5,
  resizes: 0.1,
  settings: 0.05,
  removals: 0.1,
  restores: 0.1,
  leases: 1,
  overtakes: 0.3,
  buried: 0.9,
  listings: 0.9,
  unaware: 1,
  migratorDeaths: 0.7,
  rivals: 0.6,
  endings: 0.5,
  stopsAtStates: 0.7,
  oldStores: 1,
};

/**
 * In how many of the mixes they happen at all. After a stream was removed or restored little can be asked of the rest.
 */
const SHARE: Readonly<Record<(typeof LATER)[number], number>> = {
  pipelined: 0.5,
  lingers: 0.3,
  resizes: 0.15,
  settings: 0.1,
  removals: 0.04,
  restores: 0.08,
  leases: 0.25,
  overtakes: 0.3,
  buried: 0.15,
  listings: 0.15,
  unaware: 0.5,
  migratorDeaths: 0.5,
  rivals: 0.25,
  endings: 0.2,
  stopsAtStates: 0.5,
  oldStores: 0.15,
};

/** Faults that belong together. */
const THEMES: readonly (readonly Fault[])[] = [
  ["superseded", "staleReads", "snapshots"],
  ["elections", "oldLeaders", "stalls", "heldWrites"],
  ["slow", "heldReads", "lateAnswers"],
  ["lostRequests", "lostAnswers", "cutAnswers", "doubledAnswers", "disconnects"],
  ["stopsAtWrite", "stops", "deaths", "reopens"],
  ["shortCalls", "aborts"],
];

export function mixOf(chance: Chance, later: Chance): Mix {
  const share = new Map<Fault, number>();
  if (chance.happens(0.4)) {
    // Each fault is there in half of the mixes: what hides another one is absent in many.
    for (const fault of EARLIER) if (chance.happens(0.5)) share.set(fault, chance.between(0.1, 1));
  } else {
    // A few themes, in earnest, and nothing else.
    for (const [i, theme] of THEMES.entries()) {
      if (!chance.happens(i === 0 ? 0.8 : 0.35)) continue;
      for (const fault of theme) if (chance.happens(0.9)) share.set(fault, chance.between(0.4, 1));
    }
  }
  for (const fault of LATER) if (later.happens(SHARE[fault])) share.set(fault, later.between(0.4, 1));
  const often = (fault: Fault): number => MOST[fault] * (share.get(fault) ?? 0);
  return {
    replicas: chance.happens(0.9) ? 3 : 1,
    versions: chance.happens(0.2)
      ? [chance.of(VERSIONS), chance.of(VERSIONS), chance.of(VERSIONS)]
      : [chance.of(VERSIONS)],
    stores: chance.of([2, 2, 3, 4]),
    delayMs: chance.between(0.1, 2),
    slow: often("slow"),
    slowMs: chance.of([20, 200, 1500]),
    heldReads: often("heldReads"),
    heldWrites: often("heldWrites"),
    superseded: often("superseded"),
    heldMs: chance.of([5, 20, 100, 400, 1500]),
    staleReads: often("staleReads"),
    lagMs: chance.of([5, 50, 500]),
    snapshots: often("snapshots"),
    elections: often("elections"),
    oldLeaders: often("oldLeaders"),
    oldLeaderMs: chance.of([20, 500, 4000]),
    electionMs: chance.of([0, 5, 100, 800]),
    stalls: often("stalls"),
    stallMs: chance.of([50, 500, 3000]),
    lostRequests: often("lostRequests"),
    lostAnswers: often("lostAnswers"),
    lateAnswers: often("lateAnswers"),
    cutAnswers: often("cutAnswers"),
    doubledAnswers: often("doubledAnswers"),
    disconnects: often("disconnects"),
    disconnectMs: chance.of([10, 300, 2000]),
    stopsAtWrite: often("stopsAtWrite"),
    stops: often("stops"),
    stopMs: chance.of([10, 100, 1000, 6000]),
    deaths: often("deaths"),
    shortCalls: often("shortCalls"),
    aborts: often("aborts"),
    reopens: often("reopens"),
    pipelined: often("pipelined"),
    lingers: often("lingers"),
    resizes: often("resizes"),
    settings: often("settings"),
    removals: often("removals"),
    restores: often("restores"),
    leases: often("leases"),
    overtakes: often("overtakes"),
    buried: often("buried"),
    listings: often("listings"),
    unaware: often("unaware"),
    unawareMs: later.of([50, 500, 4000]),
    migratorDeaths: often("migratorDeaths"),
    rivals: often("rivals"),
    endings: often("endings"),
    stopsAtStates: often("stopsAtStates"),
    oldStores: often("oldStores"),
  };
}

/** The version of a server: where there is one, it is that of all. */
export const versionOf = ({ versions }: Mix, server: number): string =>
  versions[server % versions.length] ?? versions[0];

/**
 * A server before 2.12 misses in a read of several keys what is written at that very moment, and knows of fewer writes
 * under way.
 */
export const isOld = (version: string): boolean => version.startsWith("2.11.");

/** The mix without some of its faults. */
export function without(mix: Mix, faults: ReadonlySet<Fault>): Mix {
  const changed: Record<string, unknown> = { ...mix };
  for (const fault of faults) changed[fault] = 0;
  return changed as unknown as Mix;
}
