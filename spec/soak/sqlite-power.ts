// A store on a disk that forgets: whatever the library had the system do is noted, and at each moment of it the power
// may be gone. What such a disk leaves, in every way and by chance, is opened: everything that was acknowledged is
// there, nothing is half there, and nothing is damaged. Then it goes on from one of them.

import { createHash } from "node:crypto";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openSqlite, type Store } from "unibus-membership";
import {
  RecordedDisk,
  allLost,
  byChance,
  nothingLost,
  onlyData,
  onlyName,
  onlyNames,
  type Fate,
} from "../sqlite/support/recorded-disk.js";
import { release } from "../sqlite/support/folder.js";
import { openSqliteOf, smallBuild } from "../sqlite/support/small-build.js";
import { random } from "./random.js";
import {
  applyTo,
  canonical,
  emptyModel,
  ensureRoot,
  modelsIn,
  nextOperation,
  perform,
  type Model,
} from "./sqlite-operations.js";

export interface PowerOptions {
  readonly seconds: number;
  readonly seed: number;
  /** How many times the store goes on, whatever the time is. Each time the power may be gone at each of its moments. */
  readonly rounds?: number;
  /** How many of those moments are tried, apart from those at which a name may be lost. */
  readonly share?: number;
  readonly log?: (line: string) => void;
}

export interface PowerResult {
  readonly rounds: number;
  readonly moments: number;
  /** Folders that a loss of power left, all different within a round. */
  readonly losses: number;
  readonly acknowledged: number;
  /** Those in which an operation is that was not yet acknowledged. */
  readonly unheard: number;
  /** Images that got their name while the store ran. */
  readonly checkpoints: number;
}

const opTimeoutMs = 60_000;
const CALLERS = 4;

interface Caller {
  n: number;
  model: Model;
}

/** What a caller did in a round: when each of its operations had been acknowledged. */
type Acknowledged = readonly number[];

const copyOf = (model: Model): Model => structuredClone(model);

/**
 * The states that a caller may find after a loss at this moment: of what was acknowledged, or of one operation more.
 */
function* statesAt(
  moment: number,
  caller: number,
  { n, model }: Caller,
  acknowledged: Acknowledged,
  seed: number,
): Generator<Caller> {
  const state: Caller = { n, model: copyOf(model) };
  const step = (): void => {
    applyTo(state.model, nextOperation(state.model, caller, state.n, random(seed, caller, state.n)));
    state.n++;
  };
  for (const at of acknowledged) {
    if (at >= moment) break;
    step();
  }
  yield { n: state.n, model: copyOf(state.model) };
  step();
  yield state;
}

interface Round {
  readonly disk: RecordedDisk;
  readonly acknowledged: readonly Acknowledged[];
}

/** Opens, writes through all callers at once, and closes. */
async function record(
  folder: string,
  open: typeof openSqlite,
  callers: readonly Caller[],
  operations: number,
  seed: number,
): Promise<Round> {
  const disk = await RecordedDisk.of(folder);
  try {
    const store = await open(join(folder, "membership.db"), { opTimeoutMs });
    await ensureRoot(store);
    const acknowledged = await Promise.all(
      callers.map(async ({ n: first, model: before }, caller) => {
        const model = copyOf(before);
        const moments: number[] = [];
        for (let n = first; n < first + operations; n++) {
          const operation = nextOperation(model, caller, n, random(seed, caller, n));
          await perform(store, model, operation);
          applyTo(model, operation);
          // Whatever happens next, happens after it.
          moments.push(disk.moment - 1);
        }
        return moments;
      }),
    );
    await store.close();
    disk.expectComplete();
    return { disk, acknowledged };
  } finally {
    disk.end();
  }
}

function digestOf(files: ReadonlyMap<string, Buffer>): string {
  const hash = createHash("sha256");
  for (const [name, bytes] of [...files].sort(([a], [b]) => (a < b ? -1 : 1)))
    hash.update(`${name}\0${String(bytes.length)}\0`).update(bytes);
  return hash.digest("hex");
}

/** What was found of each caller. */
async function found(
  store: Store,
  moment: number,
  callers: readonly Caller[],
  { acknowledged }: Round,
  seed: number,
  what: string,
): Promise<Caller[]> {
  const models = await modelsIn(store);
  return callers.map((before, caller) => {
    const is = canonical(models.get(caller) ?? emptyModel());
    const may = [...statesAt(moment, caller, before, acknowledged[caller] ?? [], seed)];
    const state = may.find(({ model }) => canonical(model) === is);
    if (state === undefined) {
      throw new Error(
        `${what}, caller ${caller}: lost or half there\n  found ${is}\n  may   ${may.map(({ model }) => canonical(model)).join("\n     or ")}`,
      );
    }
    return state;
  });
}

export async function run({ seconds, seed, rounds: least = 1, share = 1, log }: PowerOptions): Promise<PowerResult> {
  const folder = await mkdtemp(join(tmpdir(), "unibus-power-"));
  const until = performance.now() + seconds * 1000;
  const next = random(seed, 20);
  let callers: Caller[] = Array.from({ length: CALLERS }, () => ({ n: 0, model: emptyModel() }));
  const result = { rounds: 0, moments: 0, losses: 0, acknowledged: 0, unheard: 0, checkpoints: 0 };
  let done = false;
  try {
    const open = await openSqliteOf(await smallBuild(folder, ["checkpoints"]));
    let current = join(folder, "0");
    await mkdir(current);
    while (result.rounds < least || performance.now() < until) {
      const round = await record(current, open, callers, 4 + Math.floor(next() * 8), seed);
      const { disk } = round;
      result.rounds++;
      result.moments += disk.moment;
      result.checkpoints += disk.renames("membership.db");
      result.acknowledged += round.acknowledged.flat().length;
      const seen = new Set<string>();
      let goOn: { path: string; callers: Caller[] } | undefined;
      const last = Math.floor(next() * disk.moment);
      for (let moment = 0; moment <= disk.moment; moment++) {
        const names = disk.unsyncedNames(moment);
        if (moment !== last && next() > share && names === 0) continue;
        const fates: readonly (readonly [string, Fate])[] = [
          ...Array.from({ length: names }, (_, i) => [`only name ${i}`, onlyName(i)] as const),
          ["all lost", allLost],
          ["nothing lost", nothingLost],
          ["only names", onlyNames],
          ["only data", onlyData],
          ...Array.from(
            { length: share < 1 ? 1 : 4 },
            (_, i) => [`chance ${i}`, byChance(random(seed, result.rounds, moment, i))] as const,
          ),
        ];
        for (const [name, fate] of fates) {
          const files = disk.filesAt(moment, fate);
          const digest = `${digestOf(files)} ${round.acknowledged.map((each) => each.filter((at) => at < moment).length).join()}`;
          if (seen.has(digest)) continue;
          seen.add(digest);
          result.losses++;
          const own = join(folder, `loss-${result.losses}`);
          await disk.write(own, files);
          const path = join(own, "membership.db");
          await release(path);
          const what = `seed ${seed}, round ${result.rounds}, moment ${moment} of ${disk.moment}, ${name}`;
          const store = await openSqlite(path, { opTimeoutMs }).catch((error: unknown) => {
            throw new Error(`${what}: ${String(error)} (left as it is: ${own})`, { cause: error });
          });
          const states = await found(store, moment, callers, round, seed, what);
          await store.close();
          const heard = round.acknowledged.map(
            (each, caller) => (callers[caller]?.n ?? 0) + each.filter((at) => at < moment).length,
          );
          if (states.some(({ n }, caller) => n > (heard[caller] ?? 0))) result.unheard++;
          // One of them is where it goes on, with what it has become by being opened once.
          if (moment === last && goOn === undefined && next() < 0.4) goOn = { path: own, callers: states };
          else await rm(own, { recursive: true });
        }
      }
      if (goOn !== undefined) {
        await rm(current, { recursive: true });
        ({ path: current, callers } = goOn);
      } else {
        callers = callers.map(
          (before, caller) =>
            [...statesAt(Infinity, caller, before, round.acknowledged[caller] ?? [], seed)][0] ?? before,
        );
      }
      log?.(
        `${result.rounds} rounds, ${result.checkpoints} checkpoints, ${result.moments} moments, ${result.losses} losses of power: everything acknowledged is there`,
      );
    }
    done = true;
    return result;
  } finally {
    // What a failure left is evidence.
    if (done) await rm(folder, { recursive: true });
    else log?.(`left as it is: ${folder}`);
  }
}
