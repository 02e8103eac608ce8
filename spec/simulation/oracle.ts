/** What must hold of a history, whatever happened: docs of the promises are in the contract, by number. */
import {
  READS,
  missingKey,
  roomModel,
  wrongKey,
  type HistoryEntry,
  type RoomOperation,
  type SoakOperation,
} from "../soak/jetstream-history.js";
import { TooManyCourses, unexplained, type Model, type Operation } from "../soak/linearizability.js";
import { USERS } from "../soak/jetstream-history.js";
import { ALLOWLIST, type AllowlistOperation, type SimulatedOperation } from "./operations.js";

export interface Entry {
  readonly id: string;
  readonly store: string;
  readonly at: string;
  readonly op: SimulatedOperation;
  readonly invoked: number;
  /** `undefined`: whoever asked heard nothing. */
  readonly returned: number | undefined;
  readonly out: string | undefined;
}

export interface Violation {
  readonly kind: string;
  readonly why: string;
  /** The id of the call that shows it. */
  readonly id: string;
}

/** What is not decided by then is left: another seed says more in the same time. */
const MAX_COURSES = 3000;
const MAX_OF_A_RECORD = 5;
const NEVER = "-";
const ALLOW_READS: ReadonlySet<string> = new Set(["authorize", "isAdmin", "hasAdmin", "listed", "getUser"]);

/** The allowlist as one: for each user `-` or role and status, and whether there ever was an admin. */
export const allowlistModel: Model<AllowlistOperation, string> = {
  initial: `${NEVER.repeat(USERS)}.`,
  isPure: ({ f }, output) => ALLOW_READS.has(f) || (output !== undefined && output !== "ok"),
  step(state, op, output) {
    const at = "u" in op ? op.u : 0;
    const is = state[at] ?? NEVER;
    const ever = state.endsWith("!");
    const to = (what: string): string => {
      const next = state.slice(0, at) + what + state.slice(at + 1, USERS);
      return `${next}${ever || what === "A" || what === "a" ? "!" : "."}`;
    };
    const isAdmin = is === "A" || is === "a";
    const isActive = is === "A" || is === "M";
    const isLastAdmin = is === "A" && state.indexOf("A") === state.lastIndexOf("A");
    const accepted = output === undefined || output === "ok";
    const changed = (next: string, takesAnAdmin = false): string | undefined => {
      if (is === NEVER) return output === "NOT_FOUND" ? state : undefined;
      if (takesAnAdmin && isLastAdmin) return output === "CONFLICT" ? state : undefined;
      return accepted ? to(next) : undefined;
    };
    switch (op.f) {
      case "add":
        if (is !== NEVER) return output === "ALREADY_EXISTS" ? state : undefined;
        return accepted ? to(op.role === "admin" ? "A" : "M") : undefined;
      case "first":
        if (ever) return output === "CONFLICT" ? state : undefined;
        if (is !== NEVER) return output === "ALREADY_EXISTS" ? state : undefined;
        return accepted ? to("A") : undefined;
      case "role": {
        const letter = op.role === "admin" ? "A" : "M";
        return changed(isActive ? letter : letter.toLowerCase(), op.role === "member");
      }
      case "revoke":
        return changed(isAdmin ? "a" : "m", true);
      case "reinstate":
        return changed(isAdmin ? "A" : "M");
      case "name":
        return changed(is);
      case "authorize":
        return output === (is === NEVER ? "unknown" : isActive ? "active" : "revoked") ? state : undefined;
      case "isAdmin":
        return is === "A" ? state : undefined;
      case "hasAdmin":
        return state.includes("A") ? state : undefined;
      case "getUser":
        return is === NEVER ? state : undefined;
      case "listed":
        return output ===
          (is === NEVER ? "absent" : `${isAdmin ? "admin" : "member"} ${isActive ? "active" : "revoked"}`)
          ? state
          : undefined;
    }
  },
};

/** `INCOMPATIBLE`: an operator has changed a bucket so that nothing can be done with it. */
export const FAILURES: ReadonlySet<string> = new Set(["TIMEOUT", "UNAVAILABLE", "CLOSED", "INCOMPATIBLE"]);

/** Whether what a read answered is evidence of how things were. A denial for want of an answer is none. */
function isEvidence(op: SimulatedOperation, out: string, listsMiss: boolean): boolean {
  switch (op.f) {
    case "authorize":
      return ["active", "unknown", "revoked"].includes(out);
    case "isAdmin":
    case "hasAdmin":
    case "isMember":
      return out === "true";
    case "getUser":
    case "get":
    case "member":
      return out === "NOT_FOUND";
    case "listed":
      return !FAILURES.has(out);
    case "indexed":
      return !FAILURES.has(out) && !(listsMiss && out === "out");
    case "inRooms":
      // Entries of the index are never superseded, so that no replica drops one.
      return !FAILURES.has(out);
    case "add":
    case "first":
    case "role":
    case "revoke":
    case "reinstate":
    case "name":
    case "create":
    case "delete":
    case "rename":
    case "join":
    case "remove":
    case "owner":
    case "put":
    case "rekey":
    case "list":
    case "keys":
      return !FAILURES.has(out);
  }
}

/** A stream was removed, and made anew or restored from a backup, from `at` on. */
export interface Disaster {
  readonly kind: "removed" | "restored";
  readonly stream: string;
  readonly at: number;
  /** The stores that were open then. */
  readonly open: ReadonlySet<string>;
}

export interface OracleOptions {
  readonly disaster: Disaster | undefined;
  /** Lists of an endpoint's rooms may miss one, in a replica in the middle of a snapshot: docs/protocol.md, N9. */
  readonly listsMiss: boolean;
}

export function violations(all: readonly Entry[], options: OracleOptions): Violation[] {
  const { disaster } = options;
  const found: Violation[] = disaster === undefined ? [] : allowedSince(all, disaster);
  const entries = disaster === undefined ? all : before(all, disaster);
  for (const entry of entries) {
    if (entry.out?.startsWith("not a StoreError") === true)
      found.push({ kind: "an error that is none of ours", why: entry.out, id: entry.id });
  }
  const byRecord = new Map<string, Entry[]>();
  const known = new Map<string, Historic>();
  for (const entry of entries) {
    const isRead = READS.has(entry.op.f) || ALLOW_READS.has(entry.op.f);
    if (entry.at !== ALLOWLIST && entry.op.f !== "keys") known.set(entry.id, historic(entry));
    const { out } = entry;
    if (isRead) {
      if (out === undefined || !isEvidence(entry.op, out, options.listsMiss)) continue;
    } else if (out === "none" || out === "CLOSED") {
      continue;
    }
    const isUnknown = out === undefined || out === "unknown" || FAILURES.has(out);
    const kept = isUnknown && !isRead ? unheard(entry) : entry;
    const record = byRecord.get(entry.at);
    if (record === undefined) byRecord.set(entry.at, [kept]);
    else record.push(kept);
  }
  for (const [at, record] of byRecord) {
    record.sort((a, b) => a.invoked - b.invoked);
    try {
      // Without an answer that nothing explains, others may show too.
      let rest: readonly Entry[] = record;
      for (let i = 0; i < MAX_OF_A_RECORD; i++) {
        const wrong = at === ALLOWLIST ? unexplainedIn(allowlistModel, rest) : unexplainedIn(roomModel, rest);
        if (wrong === undefined) break;
        found.push(described(wrong, record));
        rest = rest.filter((entry) => entry !== wrong);
      }
    } catch (error) {
      if (!(error instanceof TooManyCourses)) throw error;
    }
    if (at === ALLOWLIST) continue;
    const history = record.map(historic);
    const key = wrongKey(at, history, (id) => known.get(id));
    if (key !== undefined)
      found.push({ kind: "a key that should not be seen", why: key.why, id: record[key.index]?.id ?? "" });
    const missing = missingKey(history);
    if (missing !== undefined)
      found.push({ kind: "a key that is missing", why: missing.why, id: record[missing.index]?.id ?? "" });
  }
  found.push(...backwards(entries));
  return found;
}

/** What had ended before. What had begun may have come to something. */
function before(entries: readonly Entry[], { at }: Disaster): Entry[] {
  return entries
    .filter(({ invoked }) => invoked < at)
    .map((entry) => ((entry.returned ?? Infinity) < at ? entry : unheard(entry)));
}

const isAllow = ({ op, out }: Entry): boolean =>
  (op.f === "authorize" && out === "active") || ((op.f === "isAdmin" || op.f === "isMember") && out === "true");

/** Whether a change gives what the check allowed, or takes it. */
function effectOn(check: Entry, change: Entry): "gives" | "takes" | undefined {
  const { op } = change;
  if (change.at !== check.at || ("u" in check.op && "u" in op && op.u !== check.op.u)) return undefined;
  if (!("u" in check.op) && "e" in check.op && "e" in op && op.f !== "create" && op.e !== check.op.e) return undefined;
  switch (op.f) {
    case "add":
    case "first":
    case "reinstate":
    case "create":
    case "join":
      return "gives";
    case "revoke":
    case "remove":
    case "delete":
      return "takes";
    case "role":
      if (check.op.f !== "isAdmin") return undefined;
      return op.role === "admin" ? "gives" : "takes";
    case "authorize":
    case "isAdmin":
    case "listed":
    case "hasAdmin":
    case "getUser":
    case "name":
    case "isMember":
    case "indexed":
    case "keys":
    case "list":
    case "get":
    case "member":
    case "rename":
    case "owner":
    case "put":
    case "rekey":
    case "inRooms":
      return undefined;
  }
}

/** Whether a store knew of a change when the check began: it made it, or had answered by it. */
function knew(check: Entry, change: Entry, entries: readonly Entry[]): boolean {
  if (change.store === check.store) return true;
  return entries.some(
    ({ store, at, op, out, invoked, returned = Infinity }) =>
      store === check.store &&
      at === check.at &&
      op.f === "authorize" &&
      "u" in check.op &&
      op.u === check.op.u &&
      out === "revoked" &&
      invoked > change.invoked &&
      returned < check.invoked,
  );
}

/**
 * Promise 15: a store that was open never allows whom an operation took away that it knows of. What it never heard of
 * it cannot miss. And of a stream that is made anew nobody is allowed but who was granted it since.
 */
function allowedSince(entries: readonly Entry[], { kind, stream, at, open }: Disaster): Violation[] {
  const found: Violation[] = [];
  for (const check of entries) {
    if (check.invoked < at || !isAllow(check)) continue;
    const changes = entries.map((change) => ({ change, effect: effectOn(check, change) }));
    const isGivenSince = (since: number): boolean =>
      changes.some(
        ({ change: { invoked, returned = Infinity, out }, effect }) =>
          effect === "gives" &&
          // A write whose caller has given up may be stored at any time after.
          (out !== "ok" || returned > since) &&
          invoked < (check.returned ?? Infinity) &&
          (out === undefined || out === "ok" || out === "unknown" || FAILURES.has(out)),
      );
    const why = `${JSON.stringify(check.op)} on ${check.at} answered ${check.out ?? ""}`;
    const taken = changes.find(
      ({ change, effect }) =>
        effect === "takes" &&
        change.out === "ok" &&
        (change.returned ?? Infinity) < check.invoked &&
        knew(check, change, entries) &&
        !isGivenSince(change.invoked),
    );
    if (taken !== undefined && open.has(check.store)) {
      found.push({
        kind: `a wrong yes of ${check.op.f} after ${stream} was ${kind}`,
        why: `${why} after ${taken.change.id}`,
        id: check.id,
      });
    }
    const isOfStream = stream === (check.at === ALLOWLIST ? "KV_users" : "KV_rooms");
    if (kind === "removed" && isOfStream && !isGivenSince(at))
      found.push({ kind: `a yes of ${check.op.f} although ${stream} was made anew`, why, id: check.id });
  }
  return found;
}

function unexplainedIn<Op>(model: Model<Op, string>, record: readonly Entry[]): Entry | undefined {
  const history = record.map(({ op, invoked, returned, out }): Operation<Op, string> => ({
    input: op as Op,
    invoked,
    returned,
    output: out,
  }));
  const index = unexplained(model, history, MAX_COURSES);
  return index === undefined ? undefined : record[index];
}

interface Historic extends HistoryEntry {
  readonly out: string | undefined;
  readonly store: string;
}

const historic = ({ id, store, at, op, invoked, returned, out }: Entry): Historic => ({
  id,
  store,
  at,
  input: op as RoomOperation & SoakOperation,
  invoked,
  returned,
  output: out,
  out,
});

/** A call of which nobody knows what it came to. */
const unheard = ({ id, store, at, op, invoked }: Entry): Entry => ({
  id,
  store,
  at,
  op,
  invoked,
  returned: undefined,
  out: undefined,
});

function described(entry: Entry, record: readonly Entry[]): Violation {
  const { op, out, id } = entry;
  const what = `${JSON.stringify(op)} on ${entry.at} answered ${out ?? "nothing"}, which no order of the operations explains`;
  const isYes = out === "active" || (out === "true" && READS.has(op.f)) || (out === "true" && ALLOW_READS.has(op.f));
  if (isYes) return { kind: `a wrong yes of ${op.f}${whileWhat(entry, record)}`, why: what, id };
  if (out === "unknown" || out === "NOT_FOUND") return { kind: `a wrong ${out} of ${op.f}`, why: what, id };
  return { kind: `a wrong answer of ${op.f}`, why: what, id };
}

/** What became of a user after the change that a wrong yes should have seen, for whoever looks for one such course. */
function whileWhat(entry: Entry, record: readonly Entry[]): string {
  const { op, invoked, returned = Infinity } = entry;
  if (!("u" in op) || op.f === "add") return "";
  const changes = record.filter((each) => !ALLOW_READS.has(each.op.f) && each.invoked < returned);
  const isOwn = (each: Entry): boolean => "u" in each.op && each.op.u === op.u;
  const taken = changes.findLast(
    (each) =>
      isOwn(each) &&
      each.out === "ok" &&
      (each.returned ?? Infinity) < invoked &&
      (each.op.f === "revoke" || each.op.f === "role"),
  );
  if (taken === undefined) return "";
  const later = changes.filter((each) => (each.returned ?? Infinity) > (taken.returned ?? Infinity) && each !== taken);
  if (later.some(isOwn)) return ", after the user's own later change";
  return later.length > 0 ? ", after another user's later change" : "";
}

/** A store never reads an older version of a user than it read before. */
function backwards(entries: readonly Entry[]): Violation[] {
  const found: Violation[] = [];
  const ended = entries.filter(({ op, out }) => op.f === "getUser" && out?.startsWith("found ") === true);
  for (const [i, later] of ended.entries()) {
    for (const earlier of ended.slice(0, i)) {
      if (earlier.store !== later.store || !("u" in earlier.op) || !("u" in later.op) || earlier.op.u !== later.op.u)
        continue;
      if (earlier.returned === undefined || earlier.returned > later.invoked) continue;
      const [before, after] = [earlier, later].map(({ out = "" }) => Number(out.slice("found ".length)));
      if ((after ?? 0) < (before ?? 0))
        found.push({ kind: "a read that goes back", why: `revision ${after} after ${before}`, id: later.id });
    }
  }
  return found;
}
