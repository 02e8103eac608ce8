/**
 * A change of one line that makes an argument of the code wrong. Something must notice it, or the argument is not
 * proved.
 */
export interface Mutant {
  /** Unique in the list. */
  readonly name: string;
  readonly file: string;
  /** A piece of the file that is there exactly once. Short, so that it outlives other changes. */
  readonly find: string;
  readonly replace: string;
  /** What is no longer true with it. */
  readonly breaks: string;
  readonly killedBy: Killer;
  /** Whether it is noticed depends on chance: `--runs N` tries it N times, and each run must notice it. */
  readonly chance?: true;
}

/** What must go red. */
export type Killer = SpecKiller | SimulationKiller;

export interface SpecKiller {
  readonly kind: "spec";
  readonly file: string;
  /** Only the tests whose full title contains this. */
  readonly test?: string;
}

/** `npm run simulate -- --seconds N`, from a seed of its own choice. */
export interface SimulationKiller {
  readonly kind: "simulation";
  readonly seconds: number;
  /** Only schedules in which this fault may happen. */
  readonly with?: string;
  /** Somebody watches each store. */
  readonly watch?: true;
  /** Somebody holds sessions of each store. */
  readonly sessions?: true;
  /** The store is moved elsewhere meanwhile. */
  readonly migrate?: true;
}

export const bySpec = (file: string, test?: string): SpecKiller => ({
  kind: "spec",
  file,
  ...(test === undefined ? {} : { test }),
});
