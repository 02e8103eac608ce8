/** A failure is made as short as it can be: without the calls and the faults that it does not need. */
import { FAULTS, type Fault } from "./mix.js";
import type { LibraryLoader } from "./process.js";
import { simulate, type Schedule } from "./simulation.js";

/**
 * Other choices of the servers that are tried for a schedule that has become shorter: what hurt comes elsewhere then.
 */
const TURNS = 12;

/** The shortest schedule found within `limitMs` that still ends in a violation of that kind. */
export async function shrink(
  schedule: Schedule,
  kind: string,
  loader: LibraryLoader,
  limitMs: number,
): Promise<Schedule> {
  const end = performance.now() + limitMs;
  const fails = async (candidate: Schedule): Promise<Schedule | undefined> => {
    for (let turn = 0; turn < TURNS && performance.now() < end; turn++) {
      const tried = { ...candidate, turn: turn === 0 ? candidate.turn : candidate.turn + turn };
      if ((await simulate(tried, loader)).violations.some((violation) => violation.kind === kind)) return tried;
    }
    return undefined;
  };
  let best = schedule;
  for (const fault of FAULTS) {
    if (best.calm.has(fault)) continue;
    best = (await fails({ ...best, calm: new Set<Fault>(best.calm).add(fault) })) ?? best;
  }
  // Whole halves first, then quarters, down to single calls.
  for (let size = Math.ceil(schedule.operations / 2); size >= 1; size = size === 1 ? 0 : Math.ceil(size / 2)) {
    for (let from = 0; from < schedule.operations; from += size) {
      const more = Array.from({ length: size }, (_, i) => from + i).filter(
        (i) => i < schedule.operations && !best.omit.has(i),
      );
      if (more.length > 0) best = (await fails({ ...best, omit: new Set([...best.omit, ...more]) })) ?? best;
    }
  }
  return best;
}
