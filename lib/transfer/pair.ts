/** Both sides of a migration, and how one that has not ended goes on. The argument: docs/migration.md. */
import * as args from "../arguments.js";
import { StoreError, isConflict } from "../errors.js";
import { refusalOf } from "../moves.js";
import type { MoveRun, MoveReport, MoveState, StepName, StoreIdentity } from "../moves.js";
import type { BulkWork } from "./options.js";

export const conflict = (message: string): StoreError => new StoreError("CONFLICT", message);

/** One side, as it was asked for. */
export class Side {
  readonly work: BulkWork;
  readonly identity: StoreIdentity;

  private constructor(work: BulkWork, identity: StoreIdentity) {
    this.work = work;
    this.identity = identity;
  }

  static async of(work: BulkWork): Promise<Side> {
    return new Side(work, await work.step((call) => work.store.moving.identity(call)));
  }

  state(): Promise<MoveState> {
    return this.work.step((call) => this.work.store.moving.state(call));
  }

  step(name: StepName, id: string, report?: MoveReport): Promise<void> {
    return this.work.step((call) => this.work.store.moving.step(name, id, report, call));
  }
}

export interface Pair {
  readonly source: Side;
  readonly target: Side;
}

export async function pairOf(from: BulkWork, to: BulkWork): Promise<Pair> {
  const source = await Side.of(from);
  const target = await Side.of(to);
  if (source.identity.id === target.identity.id) throw args.invalid("to", "another store than from");
  return { source, target };
}

/** Makes the source's end final, if it is not, opens the target, and ends the source. */
export async function finish({ source, target }: Pair, { id, report }: MoveRun): Promise<MoveReport> {
  if (report === undefined) throw conflict("The migration was not compared");
  let { kind } = await source.state();
  if (kind === "moving") {
    await source.step("leave", id, report);
    kind = "leaving";
  }
  const at = await target.state();
  // Only the end of its source opens a target. If it is no longer complete, it was opened.
  if (at.kind === "complete" && at.run.id === id) await target.step("arrive", id);
  // It was, and held nothing: a run that was late has closed it as an empty store, and died.
  if (at.kind === "importing" && at.run?.peer.id === source.identity.id && at.run.id !== id)
    await emptied(target, at.run);
  if (kind === "leaving") await source.step("end", id);
  return report;
}

/**
 * Answers what an earlier run had compared, or nothing. Afterwards the source is open, and the target may be taken
 * over.
 */
export async function goOn(pair: Pair, cutOver: boolean): Promise<MoveRun | undefined> {
  const { source, target } = pair;
  for (;;) {
    const from = await source.state();
    const at = await target.state();
    if (from.kind === "importing" || from.kind === "complete") throw refusalOf(from) ?? conflict("It is imported into");
    if (from.kind === "open") {
      if (at.kind !== "complete" || at.run.peer.id !== source.identity.id) return undefined;
      // The source is open, and can no longer leave by that run, unless it was fenced after it was asked.
      const now = await source.state();
      if (now.run?.id !== at.run.id) await target.step("giveUp", at.run.id);
      continue;
    }
    if (from.run.peer.id !== target.identity.id) throw refusalOf(from) ?? conflict("It is moved elsewhere");
    if (from.kind !== "moving") return from.run;
    if (cutOver && at.kind === "complete" && at.run.id === from.run.id) return at.run;
    // That run may have come to another state by itself.
    await source.step("lift", from.run.id).catch(unlessConflict);
  }
}

function unlessConflict(error: unknown): void {
  if (!isConflict(error)) throw error;
}

/** Removes what came of a migration that ends with its source. */
export async function emptied(target: Side, run: MoveRun): Promise<void> {
  const { work } = target;
  const { records } = work.store;
  const writer = await work.step((call) => records.write(0, run, call));
  try {
    work.progress.begin("clear");
    while (await work.step((call) => writer.clear(call))) work.progress.advance(1);
    await work.step((call) => writer.seal(call));
    await work.step((call) => writer.giveBack(call));
  } finally {
    writer.release();
  }
}
