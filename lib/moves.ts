/**
 * What a store durably says of itself while its records are moved, and what follows from it. It is the same in every
 * backend. The table, and why it is right, is in docs/migration.md.
 */
import { StoreError } from "./errors.js";
import { importIntoNonEmpty, isImporting } from "./rules.js";

/** Tells stores apart, however they are reached. */
export interface StoreIdentity {
  /** All stores of the same records have the same id, and no others have it. */
  readonly id: string;
  /** For people. */
  readonly name: string;
}

/** What both sides hold. */
export interface MoveReport {
  readonly counts: {
    readonly users: number;
    readonly rooms: number;
    readonly members: number;
    readonly roomKeys: number;
  };
  readonly digest: string;
}

/** One run of a migration, as one side keeps it. */
export interface MoveRun {
  /** Of the run. */
  readonly id: string;
  /** The other side. */
  readonly peer: StoreIdentity;
  /** Milliseconds since 1970. */
  readonly since: number;
  /** Once both sides were compared. */
  readonly report?: MoveReport | undefined;
}

/**
 * `importing` and `complete` are states of a target, `moving`, `leaving` and `moved` those of a source. `was`: the
 * target was moved away from before, and is so again if nothing comes of the migration.
 */
export type MoveState =
  | { readonly kind: "open"; readonly run?: undefined }
  | {
      readonly kind: "importing";
      readonly since: number;
      readonly run?: MoveRun | undefined;
      readonly was?: MoveRun | undefined;
    }
  | { readonly kind: "complete"; readonly run: MoveRun; readonly was?: MoveRun | undefined }
  | { readonly kind: "moving" | "leaving" | "moved"; readonly run: MoveRun };

export const OPEN: MoveState = { kind: "open" };

/** Whether the store is a source that was fenced. What was followed up to its end can still be told. */
export const isSource = ({ kind }: MoveState): boolean => kind === "moving" || kind === "leaving" || kind === "moved";

/** Why a store in this state may not be used. */
export function refusalOf(state: MoveState): StoreError | undefined {
  switch (state.kind) {
    case "open":
      return undefined;
    case "importing":
      return isImporting(state.since);
    case "complete":
      return isImporting(state.run.since);
    case "moving":
    case "leaving":
      return isMoving(state.run);
    case "moved":
      return wasMoved(state.run.peer.name);
  }
}

function isMoving({ peer, since }: MoveRun): StoreError {
  const details = { movingTo: peer.name, since: new Date(since).toISOString() };
  return new StoreError("UNAVAILABLE", "The store is closed to checks and writes: it is being moved", {
    outcome: "none",
    details,
  });
}

export function wasMoved(to: string): StoreError {
  return new StoreError("INCOMPATIBLE", "The store was moved", { details: { movedTo: to } });
}

function conflict(message: string): StoreError {
  return new StoreError("CONFLICT", message);
}

/** The state in which a writer begins. `run`: the store is the target of that migration. */
export function beginWrite(
  state: MoveState,
  run: MoveRun | undefined,
  isEmpty: boolean,
  now: number,
): MoveState & { readonly kind: "importing" } {
  const begun = { kind: "importing", since: now, run } as const;
  switch (state.kind) {
    case "open":
      if (!isEmpty) throw importIntoNonEmpty();
      return begun;
    case "importing":
      if (state.run?.peer.id !== run?.peer.id) throw isOfAnother();
      return { ...begun, was: state.was };
    case "moved":
      if (state.run.peer.id !== run?.peer.id) throw wasMoved(state.run.peer.name);
      return { ...begun, was: state.run };
    case "complete":
      throw conflict("A migration into the store has everything there: run it again, or end it");
    case "moving":
    case "leaving":
      throw conflict("The store is being moved elsewhere");
  }
}

function isOfAnother(): StoreError {
  return conflict("Another import or migration into the store began, and did not end: run that one again, or end it");
}

/** From which state each step leads, and to which. */
export const STEPS = {
  lift: { from: "moving", to: () => OPEN },
  leave: { from: "moving", to: ({ run }, report) => ({ kind: "leaving", run: { ...run, report } }) },
  end: { from: "leaving", to: ({ run }) => ({ kind: "moved", run }) },
  arrive: { from: "complete", to: () => OPEN },
  giveUp: { from: "complete", to: ({ run, was }) => ({ kind: "importing", since: run.since, run, was }) },
} as const satisfies Readonly<Record<string, Step>>;

export type StepName = keyof typeof STEPS;

/** A state that a step goes on from. */
interface WithRun {
  readonly run: MoveRun;
  readonly was?: MoveRun | undefined;
}

interface Step {
  readonly from: MoveState["kind"];
  readonly to: (state: WithRun, report?: MoveReport) => MoveState;
}

/** The state after the step of that run. */
export function stepFrom(state: MoveState, name: StepName, id: string, report?: MoveReport): MoveState {
  const step: Step = STEPS[name];
  const { run } = state;
  if (state.kind !== step.from || run?.id !== id)
    throw conflict("Another run of the migration, or its end, has come between");
  return step.to({ ...state, run }, report);
}

/** Only a store that is open can be fenced. */
export function checkFence(state: MoveState): void {
  if (state.kind !== "open") throw conflict("The store is not open: it is being moved, or imported into");
}

/** The state of a target that has everything. */
export function completed(state: MoveState, run: MoveRun | undefined, report: MoveReport): MoveState {
  if (run === undefined || state.kind !== "importing" || state.run?.id !== run.id) throw isOfAnother();
  return { kind: "complete", run: { ...run, report }, was: state.was };
}

/** The state of a target after a migration of which nothing came. */
export function givenBack(state: MoveState): MoveState {
  return "was" in state && state.was !== undefined ? { kind: "moved", run: state.was } : OPEN;
}

/** The state as it is kept, or `undefined` if it is none. */
export function readMoveState(value: unknown): MoveState | undefined {
  const { kind, since, run, was } = fieldsOf(value);
  const found = { run: readRun(run), was: readRun(was) };
  if ((run !== undefined && found.run === undefined) || (was !== undefined && found.was === undefined))
    return undefined;
  switch (kind) {
    case "open":
      return OPEN;
    case "importing":
      return isTime(since) ? { kind, since, ...found } : undefined;
    case "complete":
      return found.run === undefined ? undefined : { kind, run: found.run, was: found.was };
    case "moving":
    case "leaving":
    case "moved":
      return found.run === undefined ? undefined : { kind, run: found.run };
    default:
      return undefined;
  }
}

const isTime = (value: unknown): value is number => Number.isSafeInteger(value) && Math.abs(Number(value)) <= 8.64e15;

function fieldsOf(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null ? (value as Readonly<Record<string, unknown>>) : {};
}

function readRun(value: unknown): MoveRun | undefined {
  const { id, peer, since, report } = fieldsOf(value);
  const { id: peerId, name } = fieldsOf(peer);
  if (typeof id !== "string" || typeof peerId !== "string" || typeof name !== "string" || !isTime(since))
    return undefined;
  const read = report === undefined ? undefined : readReport(report);
  if (report !== undefined && read === undefined) return undefined;
  return { id, peer: { id: peerId, name }, since, report: read };
}

function readReport(value: unknown): MoveReport | undefined {
  const { counts, digest } = fieldsOf(value);
  const { users, rooms, members, roomKeys } = fieldsOf(counts);
  if (!isCount(users) || !isCount(rooms) || !isCount(members) || !isCount(roomKeys) || typeof digest !== "string")
    return undefined;
  return { counts: { users, rooms, members, roomKeys }, digest };
}

const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && Number(value) >= 0;

/** More operations than are done while a migration goes on. */
const OPERATIONS_MEANWHILE = 2 ** 33;

/** For a backend whose revisions count operations: what it gave so far, and what it may give meanwhile. */
export const revisionsFrom = (operations: number) => ({
  revisionCeiling: operations,
  revisionFloor: operations + OPERATIONS_MEANWHILE,
});
