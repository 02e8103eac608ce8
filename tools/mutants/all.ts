// All mutants of the project.

import { coreMutants } from "./core.js";
import { faultyMutants } from "./faulty.js";
import { inspectionMutants } from "./inspection.js";
import { jetStreamMutants } from "./jetstream.js";
import { movesMutants } from "./moves.js";
import type { Mutant } from "./mutant.js";
import { simulationMutants } from "./simulation.js";
import { sqliteMutants } from "./sqlite.js";

export const mutants: readonly Mutant[] = [
  ...coreMutants,
  ...sqliteMutants,
  ...jetStreamMutants,
  ...movesMutants,
  ...inspectionMutants,
  ...faultyMutants,
  ...simulationMutants,
];
