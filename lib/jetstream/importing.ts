/**
 * How an import closes a store and opens it: by the two records of store-state.ts, one after the other. Whoever comes
 * next can tell by them where an import died.
 *
 * | `users` | `rooms` | what it is |
 * |---|---|---|
 * | open | open | a store like any other |
 * | importing | open | an import began, and wrote nothing yet: others may have written rooms |
 * | importing | importing | an import writes, or has died; with `checked: false` it has written nothing yet |
 * | open | importing | something was there: it is being opened again |
 * | opening | importing | it is over, and everything is there |
 * | opening | open | the same |
 * | complete | importing | a migration has everything there, and waits for its source |
 * | moving | open | a fence begins |
 * | moving | moving | it stands |
 * | open | moving | it is being lifted |
 * | leaving | moving | the source's end is final |
 * | moved | moving, moved | it is over |
 *
 * `users` decides: what it says comes first on the way in and on the way out. An id in both says whose they are: nobody
 * ends what another one began.
 */
import type { Call } from "../call.js";
import { StoreError, isConflict } from "../errors.js";
import { OPEN as OPEN_STATE, isSource, readMoveState } from "../moves.js";
import type { MoveState } from "../moves.js";
import type { Bucket } from "./bucket.js";
import type { Entry } from "./entry.js";
import type { Json } from "./json.js";
import { takenOver } from "./import-lanes.js";
import { joinBoth } from "./join.js";
import { RetryLoop } from "./retry-loop.js";
import type { Seq } from "./seq.js";
import { OPEN, STATE, StoreState, type CommittingBucket } from "./store-state.js";

/** What the record says, as of a moment after it was asked for. */
export interface FoundState<B extends CommittingBucket> {
  readonly seq: Seq<B>;
  readonly value: Json;
  readonly name: string;
  readonly state: StoreState;
}

export async function readState<B extends CommittingBucket>(bucket: Bucket<B>, call: Call): Promise<FoundState<B>> {
  const { entry } = await bucket.readLinearizable(STATE, call);
  if (entry === undefined)
    throw new StoreError("UNAVAILABLE", "Nothing says whether the store may be used: open it anew");
  const { state } = entry.value;
  return {
    seq: entry.seq,
    value: entry.value,
    name: typeof state === "string" ? state : "",
    state: new StoreState(entry),
  };
}

/** Answers where it stands. `CONFLICT`: somebody else wrote it meanwhile. */
export async function writeState<B extends CommittingBucket>(
  bucket: Bucket<B>,
  value: Json,
  before: Seq<B>,
  call: Call,
): Promise<Seq<B>> {
  const isMine = (entry: Entry<B>): "yes" | "no" =>
    entry.value["state"] === value["state"] && entry.value["id"] === value["id"] ? "yes" : "no";
  const seq = await bucket.write(STATE, value, before, call, isMine, "step");
  if (seq === undefined) throw takenOver();
  return seq;
}

/** The record of an open store. Versions of users are counted from `floor` on. */
export const openState = (floor: number, id: string): Json => ({ ...OPEN, id, ...(floor === 0 ? {} : { floor }) });

export function floorOf(value: Json): number {
  const { floor } = value;
  return typeof floor === "number" && Number.isSafeInteger(floor) && floor > 0 ? floor : 0;
}

/** What both records say. They are not of one moment. */
interface FoundRecords {
  readonly users: FoundState<"users">;
  readonly rooms: FoundState<"rooms">;
}

async function readBoth(users: Bucket<"users">, rooms: Bucket<"rooms">, call: Call): Promise<FoundRecords> {
  const [ofUsers, ofRooms] = await joinBoth(readState(users, call), readState(rooms, call));
  return { users: ofUsers, rooms: ofRooms };
}

/** Opens a store if an import had put everything in its place, and then died. */
export async function finishOpening(users: Bucket<"users">, rooms: Bucket<"rooms">, call: Call): Promise<void> {
  const found = await readBoth(users, rooms, call);
  if (found.users.state.isOpening) await openBoth(users, rooms, found, call);
}

/** The last two steps of an opening: `users` says that everything is in its place. */
export async function openBoth(
  users: Bucket<"users">,
  rooms: Bucket<"rooms">,
  { users: over, rooms: found }: FoundRecords,
  call: Call,
): Promise<void> {
  const id = String(over.value["id"]);
  const isItsOwn = (of: FoundState<"rooms">): boolean => of.value["id"] === over.value["id"];
  // It may have been read before the import closed it.
  const closed = isItsOwn(found) ? found : await readState(rooms, call);
  if (closed.name !== OPEN.state && !isItsOwn(closed)) throw takenOver();
  if (closed.name !== OPEN.state) await writeState(rooms, openState(0, id), closed.seq, call);
  await writeState(users, openState(floorOf(over.value), id), over.seq, call);
}

/** What both records say, with which conditions the next step is taken. */
export interface FoundStates extends FoundRecords {
  readonly state: MoveState;
}

/** What the store says of itself. What was begun, and leads only one way, is ended first. */
export async function readStates(users: Bucket<"users">, rooms: Bucket<"rooms">, call: Call): Promise<FoundStates> {
  for (const retries = new RetryLoop(call); ;) {
    await retries.next();
    const found = await readBoth(users, rooms, call);
    const { name, value, state } = found.users;
    if (state.isOpening) {
      await openBoth(users, rooms, found, call);
      continue;
    }
    if (name !== OPEN.state || found.rooms.name === OPEN.state)
      return { ...found, state: moveStateOf(value) ?? refuse(state) };
    // Where a fence, or an import, has come between both reads, both records are others by now.
    const again = await readBoth(users, rooms, call);
    if (again.users.seq !== found.users.seq || again.rooms.seq !== found.rooms.seq) continue;
    if (found.rooms.name !== "moving")
      return { ...found, state: moveStateOf(found.rooms.value) ?? refuse(found.rooms.state) };
    await liftRooms(rooms, found.rooms, call);
  }
}

/** A fence of `rooms` stands alone only when that of `users` was lifted. */
export async function liftRooms(rooms: Bucket<"rooms">, fenced: FoundState<"rooms">, call: Call): Promise<void> {
  await writeState(rooms, openState(floorOf(fenced.value), String(fenced.value["id"])), fenced.seq, call);
}

/**
 * Writes the record of an open store once more: what is on its way on the condition of where it stood does not come any
 * more. `false`: it has come.
 */
export async function isRenewed<B extends CommittingBucket>(
  bucket: Bucket<B>,
  { value, seq }: FoundState<B>,
  call: Call,
): Promise<boolean> {
  try {
    await writeState(bucket, value, seq, call);
    return true;
  } catch (error) {
    if (!isConflict(error)) throw error;
    return false;
  }
}

/** Ends the fence of a run in `rooms`, whether it stands there, or is on its way still. */
export async function endFence(
  rooms: Bucket<"rooms">,
  found: FoundState<"rooms">,
  id: string,
  call: Call,
): Promise<void> {
  let now = found;
  if (found.name === OPEN.state) {
    if (await isRenewed(rooms, found, call)) return;
    now = await readState(rooms, call);
  }
  if (now.name === "moving" && now.value["id"] === id) await liftRooms(rooms, now, call);
}

function refuse(state: StoreState): never {
  throw state.refusal ?? new StoreError("UNAVAILABLE", "Nothing says whether the store may be used");
}

/** `undefined`: of a later version. */
export function moveStateOf({ state, since, move }: Json): MoveState | undefined {
  if (move !== undefined) return readMoveState(move);
  if (state === OPEN.state) return OPEN_STATE;
  return state === "importing" ? readMoveState({ kind: "importing", since }) : undefined;
}

/** The record of a store in this state. Versions of users are counted from `floor` on, whatever becomes of it. */
export function stateRecord(state: MoveState, id: string, floor: number): Json {
  if (state.kind === "open") return openState(floor, id);
  const since = state.kind === "importing" ? state.since : state.run.since;
  const to = isSource(state) ? (state.run?.peer.name ?? "") : "";
  return { state: state.kind, id, to, since, floor, ...(state.run === undefined ? {} : { move: state }) };
}
