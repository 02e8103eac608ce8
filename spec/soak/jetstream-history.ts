// What the soak's clients do and tell, and what is right: a user is a register, a room's members are a set, its epoch a
// counter.

import type { Model, Operation } from "./linearizability.js";

export type UserOperation =
  | { f: "add"; role: "admin" | "member" }
  | { f: "role"; role: "admin" | "member" }
  | { f: "revoke" | "reinstate" | "authorize" | "isAdmin" | "listed" };

export type RoomOperation =
  | { f: "create"; e: number }
  /** `inRooms`: whether it is on a page of all rooms. */
  | { f: "delete" | "list" | "get" | "rename" | "inRooms" }
  | { f: "add"; e: number; joined: boolean; epoch?: number }
  | { f: "join" | "remove" | "owner" | "isMember" | "indexed" | "member"; e: number }
  /** All keys of a member; `newest`: the one of the highest epoch alone. */
  | { f: "keys"; e: number; newest?: boolean }
  | { f: "put"; e: number; epoch: number }
  | { f: "rekey"; epoch: number; members: string };

export type SoakOperation = UserOperation | RoomOperation;

/** A line of a client: an operation begins, or has ended. Times are in microseconds of the machine's own clock. */
export type Line =
  | { i: string; t: number; at: string; op: SoakOperation }
  | { r: string; t: number; out: string; late?: number }
  | { note: string; t: number };

export interface Orders {
  readonly name: string;
  readonly servers: readonly string[];
  readonly prefix: string;
  readonly seed: number;
  readonly lanes: number;
  /** When the first generation began, and how long each lasts. Records of one are left alone in the next. */
  readonly began: number;
  readonly generationMs: number;
  readonly timeoutMs: number;
}

export const USERS = 3;
export const ROOMS = 2;
export const ENDPOINTS = 4;

/** Operations that only read. One that came to nothing tells nothing. */
export const READS: ReadonlySet<string> = new Set([
  "authorize",
  "isAdmin",
  "listed",
  "list",
  "isMember",
  "indexed",
  "keys",
  "get",
  "member",
  "inRooms",
]);

export const clock = (): number => Number(process.hrtime.bigint() / 1000n);

const ABSENT = "absent";

export const userModel: Model<UserOperation, string> = {
  initial: ABSENT,
  isPure: (input, output) => isPure(input, output),
  step(state, operation, output) {
    const [role = "", status = ""] = state === ABSENT ? [] : state.split(" ");
    const there = state !== ABSENT;
    switch (operation.f) {
      case "add":
        if (output === "ALREADY_EXISTS") return there ? state : undefined;
        return accepted(output) && !there ? `${operation.role} active` : undefined;
      case "role":
        return changed(there, output, `${operation.role} ${status}`);
      case "revoke":
        return changed(there, output, `${role} revoked`);
      case "reinstate":
        return changed(there, output, `${role} active`);
      case "authorize":
        return output === (there ? status : "unknown") ? state : undefined;
      case "isAdmin":
        return state === "admin active" ? state : undefined;
      case "listed":
        return output === state ? state : undefined;
    }
  },
};

const accepted = (output: string | undefined): boolean => output === undefined || output === "ok";

/**
 * A change of something that has to be there. There is always another admin, so that nothing else can be in its way.
 */
function changed(there: boolean, output: string | undefined, to: string): string | undefined {
  if (output === "NOT_FOUND") return there ? undefined : ABSENT;
  return accepted(output) && there ? to : undefined;
}

interface RoomState {
  owner: number;
  epoch: number;
  rekeyRequired: boolean;
  /** For each endpoint `.`, `i` or `j`. */
  members: string;
}

function readRoom(state: string): RoomState | undefined {
  if (state === ABSENT) return undefined;
  const [owner, epoch, rekeyRequired, members = ""] = state.split(" ");
  return { owner: Number(owner), epoch: Number(epoch), rekeyRequired: rekeyRequired === "true", members };
}

const writeRoom = ({ owner, epoch, rekeyRequired, members }: RoomState): string =>
  `${owner} ${epoch} ${rekeyRequired} ${members}`;

function withMember(room: RoomState, e: number, as: "." | "i" | "j"): RoomState {
  return { ...room, members: room.members.slice(0, e) + as + room.members.slice(e + 1) };
}

/** What only reads, and what was refused, changes nothing. */
const isPure = ({ f }: SoakOperation, output: string | undefined): boolean =>
  READS.has(f) || (output !== undefined && output !== "ok");

export const roomModel: Model<RoomOperation, string> = {
  initial: ABSENT,
  isPure,
  step(state, operation, output) {
    const room = readRoom(state);
    if (operation.f === "create") {
      if (output === "ALREADY_EXISTS") return room === undefined ? undefined : state;
      if (!accepted(output) || room !== undefined) return undefined;
      return writeRoom(
        withMember(
          { owner: operation.e, epoch: 1, rekeyRequired: false, members: ".".repeat(ENDPOINTS) },
          operation.e,
          "j",
        ),
      );
    }
    if (room === undefined)
      return output === "NOT_FOUND" || ((operation.f === "indexed" || operation.f === "inRooms") && output === "out")
        ? state
        : undefined;
    const as = "e" in operation ? (room.members[operation.e] ?? ".") : ".";
    const answers = (right: string, next?: RoomState): string | undefined => {
      if (right === "ok" && accepted(output)) return next === undefined ? state : writeRoom(next);
      return output === right ? state : undefined;
    };
    switch (operation.f) {
      case "delete":
        return accepted(output) ? ABSENT : undefined;
      case "rename":
        return answers("ok");
      case "inRooms":
        return answers("in");
      case "get":
      case "member":
        // What is found may be of a moment ago; that something is not there is said of now.
        return output === "NOT_FOUND" && operation.f === "member" && as === "." ? state : undefined;
      case "list":
        return answers(`${room.owner} ${room.members}`);
      case "add":
        if (as !== ".") return answers("ALREADY_EXISTS");
        if (operation.epoch !== undefined && operation.epoch !== room.epoch) return answers("CONFLICT");
        return answers("ok", withMember(room, operation.e, operation.joined ? "j" : "i"));
      case "join":
        return as === "." ? answers("NOT_FOUND") : answers("ok", withMember(room, operation.e, "j"));
      case "remove":
        if (as === ".") return answers("NOT_FOUND");
        if (room.owner === operation.e) return answers("CONFLICT");
        return answers("ok", { ...withMember(room, operation.e, "."), rekeyRequired: true });
      case "owner":
        if (as === ".") return answers("NOT_FOUND");
        return as === "i" ? answers("CONFLICT") : answers("ok", { ...room, owner: operation.e });
      case "isMember":
        return as === "j" ? state : undefined;
      case "indexed":
        if (as === ".") return answers("out");
        // Of the rooms it says that the endpoint is in this one, of the memberships as what.
        return output === "in" ? state : answers(`${room.owner === operation.e ? "owner" : "member"} ${as}`);
      case "keys":
        // What it says of keys is looked at elsewhere; that it is refused is about the membership, or a member without
        // a key.
        if (operation.newest === true && output === "NOT_FOUND") return state;
        return (output === "NOT_FOUND") === (as === ".") ? state : undefined;
      case "put":
        if (as === ".") return answers("NOT_FOUND");
        if (operation.epoch > room.epoch) return answers("CONFLICT");
        return output === "ALREADY_EXISTS" || accepted(output) ? state : undefined;
      case "rekey": {
        const members = room.members.replaceAll(/[ij]/g, "x");
        if (operation.epoch !== room.epoch || operation.members !== members) return answers("CONFLICT");
        return answers("ok", { ...room, epoch: room.epoch + 1, rekeyRequired: false });
      }
    }
  },
};

export interface HistoryEntry extends Operation<SoakOperation, string> {
  readonly id: string;
  readonly at: string;
}

/**
 * Promises 6 to 8: whose keys are seen, and whose never. Answers the index of the read that saw what it should not
 * have, and why. `find` knows every operation by its id, with how it ended: what an operation's keys hold is its id.
 */
export function wrongKey(
  at: string,
  entries: readonly HistoryEntry[],
  find: (id: string) => (HistoryEntry & { readonly out: string | undefined }) | undefined,
): { readonly index: number; readonly why: string } | undefined {
  const ended = entries.filter(({ output }) => output === "ok");
  for (const [index, read] of entries.entries()) {
    if (read.input.f !== "keys" || read.output === undefined || !read.output.startsWith("[")) continue;
    const { e } = read.input;
    for (const [epoch, id] of JSON.parse(read.output) as [number, string][]) {
      const source = find(id);
      const where = `the key of epoch ${epoch} of e${e} in ${at}, written by ${id}`;
      const problem = source === undefined ? "nobody wrote it" : keyProblem(source, at, e, epoch);
      if (problem !== undefined) return { index, why: `${where}: ${problem}` };
      const { returned } = source ?? {};
      if (source?.out !== "ok" || returned === undefined) continue;
      const over = ended.find(
        ({ input, invoked, returned: end }) =>
          (input.f === "delete" || (input.f === "remove" && "e" in input && input.e === e)) &&
          invoked > returned &&
          end !== undefined &&
          end < read.invoked,
      );
      if (over !== undefined) return { index, why: `${where}, outlived the membership (${over.id})` };
    }
  }
  return undefined;
}

/**
 * A key that has to be there: whose writer was told so before the read began, and whose membership lasts. Answers the
 * index of the read that misses it. What one store puts another one may see later: only a key that came with a change
 * of the room counts for all.
 */
export function missingKey(
  entries: readonly (HistoryEntry & { readonly store: string })[],
): { readonly index: number; readonly why: string } | undefined {
  for (const [index, read] of entries.entries()) {
    const { input, output, returned } = read;
    if (input.f !== "keys" || returned === undefined || output === undefined) continue;
    const { e, newest } = input;
    const seen = output.startsWith("[")
      ? (JSON.parse(output) as [number, string][])
      : output === "NOT_FOUND" && newest === true
        ? []
        : undefined;
    if (seen === undefined) continue;
    const highest = Math.max(0, ...seen.map(([epoch]) => epoch));
    for (const source of entries) {
      const epoch =
        source.output === "ok" && (source.returned ?? Infinity) < read.invoked ? epochOf(source, e) : undefined;
      if (epoch === undefined || (source.input.f === "put" && source.store !== read.store)) continue;
      if (newest === true ? highest >= epoch : seen.some(([known, id]) => known === epoch && id === source.id))
        continue;
      const mayBeOver = entries.some(
        ({ input: other, output: out, invoked, returned: end = Infinity }) =>
          (out === undefined || out === "ok") &&
          (other.f === "delete" || (other.f === "remove" && other.e === e)) &&
          end > source.invoked &&
          invoked < returned,
      );
      if (!mayBeOver)
        return { index, why: `the key of epoch ${epoch} of e${e}, written by ${source.id}, is not in ${output}` };
    }
  }
  return undefined;
}

/** The epoch of the key that an operation gives to an endpoint. */
function epochOf({ input }: HistoryEntry, e: number): number | undefined {
  switch (input.f) {
    case "create":
      return input.e === e ? 1 : undefined;
    case "add":
      return "e" in input && input.e === e ? input.epoch : undefined;
    case "put":
      return input.e === e ? input.epoch : undefined;
    case "rekey":
      return input.members[e] === "x" ? input.epoch + 1 : undefined;
    case "role":
    case "revoke":
    case "reinstate":
    case "authorize":
    case "isAdmin":
    case "listed":
    case "delete":
    case "list":
    case "join":
    case "remove":
    case "owner":
    case "isMember":
    case "indexed":
    case "keys":
    case "get":
    case "rename":
    case "member":
    case "inRooms":
      return undefined;
  }
}

/** Why a key that was read cannot be of this operation. */
function keyProblem(
  source: HistoryEntry & { readonly out: string | undefined },
  at: string,
  e: number,
  epoch: number,
): string | undefined {
  const { input, out } = source;
  if (source.at !== at) return `it is of ${source.at}`;
  if (out !== "ok" && out !== "unknown" && out !== undefined) return `its writer was told ${out}`;
  switch (input.f) {
    case "create":
      return input.e === e && epoch === 1 ? undefined : "it is another's, or of another epoch";
    case "add":
      return "e" in input && input.e === e && input.epoch === epoch
        ? undefined
        : "it is another's, or of another epoch";
    case "put":
      return input.e === e && input.epoch === epoch ? undefined : "it is another's, or of another epoch";
    case "rekey":
      return input.members[e] === "x" && input.epoch + 1 === epoch
        ? undefined
        : "the rekey did not name it, or was of another epoch";
    case "role":
    case "revoke":
    case "reinstate":
    case "authorize":
    case "isAdmin":
    case "listed":
    case "delete":
    case "list":
    case "join":
    case "remove":
    case "owner":
    case "isMember":
    case "indexed":
    case "keys":
    case "get":
    case "rename":
    case "member":
    case "inRooms":
      return "nobody wrote it";
  }
}
