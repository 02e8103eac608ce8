/** Ends a migration that died, for the source or for the target. Which ways there are: docs/migration.md. */
import * as args from "../arguments.js";
import type { MoveState } from "../moves.js";
import type { Store } from "../store.js";
import { BulkWork } from "./options.js";
import type { BulkOptions } from "./options.js";
import { Side, conflict, emptied, finish } from "./pair.js";

export interface EndMigrationOptions extends BulkOptions {
  /** Which side is to be the store. */
  keep: "source" | "target";
  /** The other side, where it can be opened. */
  other?: Store;
}

/** A side, and what it said of itself. */
interface KnownSide {
  readonly side: Side;
  readonly state: MoveState;
}

/**
 * Ends a migration that died, of which `store` is one side.
 *
 * `keep: "source"`: the source's fence is lifted, and the target is emptied and opened. If only the source is at hand,
 * its fence is lifted. If only the target is, it is emptied, unless both sides had been compared. Then its source may
 * have ended, and `other` has to be given.
 *
 * `keep: "target"`: the source's end is made final, and the target is opened. It needs both sides, and that they had
 * been compared. Otherwise it is `CONFLICT`: run `migrate` again.
 *
 * What is done already is not done again. An end that is final is not taken back: that is `CONFLICT`. To come back
 * then, migrate back: see {@link CommonOptions.reopenMoved}.
 *
 * @example
 * await endMigration(source, { keep: "source" });
 */
export async function endMigration(store: Store, options: EndMigrationOptions): Promise<void> {
  const work = new BulkWork(store, "store", options, ["keep", "other"]);
  const keep = args.oneOf(options.keep, "options.keep", ["source", "target"]);
  const { other } = options;
  const works = [
    work,
    ...(other === undefined ? [] : [new BulkWork(other, "options.other", options, ["keep", "other"])]),
  ];
  const found: KnownSide[] = [];
  for (const each of works) {
    const side = await Side.of(each);
    found.push({ side, state: await side.state() });
  }
  const { source, target } = sidesOf(found);
  if (keep === "source") await keepSource(source, target);
  else await keepTarget(source, target);
}

/** Which side is which, by what they say. */
function sidesOf(found: readonly KnownSide[]): { source?: KnownSide; target?: KnownSide } {
  let source = found.find(({ state }) => isOf(state, ["moving", "leaving", "moved"]));
  let target = found.find(({ state }) => isOf(state, ["importing", "complete"]));
  const open = found.find(({ state }) => state.kind === "open");
  if (target !== undefined) source ??= open;
  else if (source !== undefined) target = open;
  if (source !== undefined && target !== undefined) {
    const isOther =
      (source.state.run !== undefined && source.state.run.peer.id !== target.side.identity.id) ||
      (target.state.run !== undefined && target.state.run.peer.id !== source.side.identity.id);
    if (isOther) throw args.invalid("options.other", "the other side of the same migration");
  }
  return { ...(source === undefined ? {} : { source }), ...(target === undefined ? {} : { target }) };
}

const isOf = (state: MoveState, kinds: readonly MoveState["kind"][]): boolean => kinds.includes(state.kind);

async function keepSource(source: KnownSide | undefined, target: KnownSide | undefined): Promise<void> {
  if (source?.state.kind === "leaving" || source?.state.kind === "moved")
    throw conflict("The end of the source is final: keep the target");
  if (source?.state.kind === "moving") await source.side.step("lift", source.state.run.id);
  if (target === undefined) return;
  const { side, state } = target;
  if (state.kind === "open") return;
  if (state.run === undefined) throw conflict("The store is imported into, and not by a migration");
  if (state.kind === "complete") {
    if (source === undefined)
      throw conflict("Both sides were compared, so that the source may have ended: give it as options.other");
    const now = await source.side.state();
    if (now.run?.id === state.run.id) throw conflict("The source is being moved to it just now");
    await side.step("giveUp", state.run.id);
  }
  await emptied(side, state.run);
}

async function keepTarget(source: KnownSide | undefined, target: KnownSide | undefined): Promise<void> {
  // Nothing is left to do where one side is as it is at the end.
  if (source?.state.kind === "moved") return;
  if (source === undefined && (target === undefined || target.state.kind === "open")) return;
  if (source === undefined || target === undefined)
    throw conflict(
      "Only both sides together tell whether everything is in the target: give the other one as options.other",
    );
  const pair = { source: source.side, target: target.side };
  if (source.state.kind === "leaving") {
    await finish(pair, source.state.run);
    return;
  }
  const { run } = target.state;
  if (source.state.kind !== "moving" || target.state.kind !== "complete" || run?.id !== source.state.run.id)
    throw conflict("The target does not have everything that the source holds: migrate again");
  await finish(pair, run);
}
