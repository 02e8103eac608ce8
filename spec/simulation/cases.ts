/** Seeds that once ended in a violation, or that an argument needs. Each stays, and is run with the others in `npm test`. */
import type { Fault } from "./mix.js";
import type { Schedule } from "./simulation.js";

/** A schedule as the command prints it. */
export interface WrittenSchedule {
  readonly seed: number;
  readonly operations?: number;
  readonly turn?: number;
  readonly omit?: readonly number[];
  readonly calm?: readonly Fault[];
}

export function read({ seed, operations = 30, turn = 0, omit = [], calm = [] }: WrittenSchedule): Schedule {
  return { seed, operations, turn, omit: new Set(omit), calm: new Set(calm) };
}

export function write({ seed, operations, turn, omit, calm }: Schedule): WrittenSchedule {
  return {
    seed,
    ...(operations === 30 ? {} : { operations }),
    ...(turn === 0 ? {} : { turn }),
    ...(omit.size === 0 ? {} : { omit: [...omit].sort((a, b) => a - b) }),
    ...(calm.size === 0 ? {} : { calm: [...calm] }),
  };
}

export interface Case {
  /** What was wrong, with the library as it was then. */
  readonly title: string;
  readonly schedule: WrittenSchedule;
}

export const cases: readonly Case[] = [];
