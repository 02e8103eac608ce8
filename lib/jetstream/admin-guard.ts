/**
 * The guard of the admins: the one record of `users` through which every change goes that makes or unmakes an active
 * admin. The change is staged in the user's record, where it does not count; the guard, under the condition that it is
 * as it was when the rules were checked, names the attempt, and from then on it does. The argument: docs/protocol.md,
 * G1 to G8.
 */
import type { Call } from "../call.js";
import { isActiveAdmin } from "../rules.js";
import type { Rules } from "./freshness.js";
import { joinBoth } from "./join.js";
import { EVERYTHING, keys, newId, parseUser } from "./keys.js";
import type { ProvedBucket } from "./proved-bucket.js";
import { RetryLoop } from "./retry-loop.js";
import type { Seq } from "./seq.js";
import type { UserState } from "./user-cache.js";
import {
  factsOf,
  readGuard,
  readUser,
  toFollow,
  type Guard,
  type GuardSlot,
  type LongestAdmin,
  type UserRow,
} from "./user-record.js";
import type { GuardedView, UserView, UserViews } from "./user-views.js";
import type { WriteHistory } from "./write-history.js";

/** Enough that a guard hardly ever runs out of them, few enough that it stays small. */
export const MAX_WITNESSES = 8;

/** A guard that an import has written. */
export interface ReplacedGuard {
  readonly content: string;
  readonly seq: Seq<"users">;
}

/** What an import's guard is to say. */
export interface ImportedAdmins {
  readonly adminEver: boolean;
  readonly until: ReadonlyMap<string, number | undefined>;
  readonly before: ReplacedGuard | undefined;
}

/** What stands for the guard until it was read. */
export const NO_GUARD = readGuard(undefined).guard;

/**
 * Invariants, each with the spec that goes red without it:
 *
 * 1. Every change that makes or unmakes an active admin commits by a write of the guard: the conformance case "two
 *    admins who revoke each other at once do not both succeed".
 * 2. A staged change counts only if the guard's head names its attempt: `crash-points.spec.ts`.
 * 3. A stage is not written over while its commit can still succeed: `crash-points.spec.ts`.
 * 4. The guard gets another head only after the one before stands in its user's record: `stale-reads.spec.ts`, "a
 *    change of an admin that is staged", and the mutant "a committed change of an admin is lost".
 */
export class AdminGuard {
  readonly #bucket: ProvedBucket<"users", UserState>;
  readonly #views: UserViews;

  constructor(bucket: ProvedBucket<"users", UserState>, views: UserViews) {
    this.#bucket = bucket;
    this.#views = views;
  }

  async isThere(call: Call): Promise<boolean> {
    return (await this.#bucket.readLinearizable(keys.admins, call)).entry !== undefined;
  }

  /** Writes a guard if there is none yet, so that every later read finds one. */
  async prepare(call: Call): Promise<void> {
    const slot = readGuard((await this.#bucket.readLinearizable(keys.admins, call)).entry);
    if (slot.seq === 0) await this.#writeGuard(slot, slot.guard, call, "step");
  }

  /** Whether any user is, or was, an admin, at a moment after this call. */
  async adminEver(call: Call): Promise<boolean> {
    return readGuard((await this.#bucket.readLinearizable(keys.admins, call)).entry).guard.ever;
  }

  /**
   * Writes the guard anew, for an import, unless what was written so before says the same, and stands. `until` has the
   * active admins, and when the time of each is over. `check` rejects if another import took over: it is asked after
   * the guard was read that is replaced. Answers what was written, and where it stands.
   */
  async replace(
    { adminEver, until, before }: ImportedAdmins,
    check: (call: Call) => Promise<void>,
    call: Call,
  ): Promise<ReplacedGuard> {
    const admins = Array.from(until, ([key, time]): LongestAdmin => ({ key, until: time }));
    const witnesses = admins.sort(longestFirst).slice(0, MAX_WITNESSES);
    const ever = adminEver || admins.length > 0;
    const content = JSON.stringify([ever, admins.length, witnesses]);
    if (before?.content === content && (await this.#bucket.stands(keys.admins, before.seq, call)) !== undefined)
      return before;
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      const seen = readGuard((await this.#bucket.readLinearizable(keys.admins, call)).entry);
      await check(call);
      const next: Guard = { ...seen.guard, ever, admins: admins.length, witnesses, head: undefined };
      const seq = await this.#writeGuard(seen, next, call, "step");
      if (seq !== undefined) return { content, seq };
    }
  }

  /** Whether the user's record may be written over. A stage on it that could still be committed is fenced off first. */
  async endStage(seen: UserView, call: Call): Promise<boolean> {
    const { stage } = seen.slot.record;
    if (stage === undefined) return true;
    if (seen.guard === undefined) return false;
    const { guard, seq } = seen.guard;
    if (guard.head?.attempt === stage.attempt || seq > stage.guard) return true;
    await this.#writeGuard(seen.guard, guard, call, "step");
    return false;
  }

  /**
   * Commits a change that the guard has to know of: stages it in the user's record, puts the change before it in place
   * side by side, and names it in the guard. `false`: something is no longer as it was read.
   */
  async commit(rules: Rules, seen: GuardedView, next: UserRow, call: Call): Promise<boolean> {
    const { key } = next;
    if (!(await this.endStage(seen, call))) return false;
    const guard = await this.#nextGuard(rules, seen, next, call);
    if (guard === undefined) return false;
    const attempt = newId();
    const stage = { attempt, guard: seen.guard.seq };
    const make = (written: WriteHistory<"users">): object => ({ ...written, user: seen.user, stage });
    const { head: last } = seen.guard.guard;
    // If the change before is of the same user, staging this one carries it along. Else it is put in place beside.
    const apply = last === undefined || last.user.key === key ? Promise.resolve() : this.#apply(last, call);
    const [staged] = await joinBoth(
      this.#bucket.append(keys.user(key), toFollow(seen.slot), make, call, "step"),
      apply,
    );
    if (staged === undefined) return false;
    const ended = seen.user !== undefined && seen.user.grant !== next.grant;
    const head = { attempt, seq: staged.seq, user: next, ended };
    return (await this.#writeGuard(seen.guard, { ...guard, head }, call, "commit")) !== undefined;
  }

  async #writeGuard(
    { seq, guard: before }: GuardSlot,
    guard: Guard,
    call: Call,
    kind: "commit" | "step",
  ): Promise<Seq<"users"> | undefined> {
    const make = (written: WriteHistory<"users">): Guard => ({ ...guard, ...written });
    return (await this.#bucket.append(keys.admins, { seq, written: before }, make, call, kind))?.seq;
  }

  /** Puts a committed change into the user's record. Whoever comes second, or too late, changes nothing. */
  async #apply(head: NonNullable<Guard["head"]>, call: Call): Promise<void> {
    const recordKey = keys.user(head.user.key);
    let before = readUser(await this.#bucket.get(recordKey, call));
    if (before.seq < head.seq) before = readUser((await this.#bucket.readLinearizable(recordKey, call)).entry);
    if (before.seq !== head.seq) return;
    const make = (written: WriteHistory<"users">): object => ({ ...written, user: head.user });
    await this.#bucket.append(recordKey, toFollow(before), make, call, "step");
  }

  /**
   * The guard after the change, or the refusal to leave no active admin. `undefined`: what was read does not belong
   * together.
   */
  async #nextGuard(rules: Rules, seen: GuardedView, next: UserRow, call: Call): Promise<Guard | undefined> {
    const { guard } = seen.guard;
    const from = adminUntil(seen.user);
    const to = adminUntil(next);
    const now = Date.now();
    let others = guard.witnesses.filter((witness) => witness.key !== next.key);
    const rest = guard.admins - (from === undefined ? 0 : 1);
    if (others.length === 0 && rest > 0) {
      const found = await this.#witnesses(next.key, rest, call);
      if (found === undefined) return undefined;
      others = found;
    }
    if (to === undefined && from !== undefined && seen.user !== undefined && isActiveAdmin(factsOf(seen.user), now)) {
      if (!others.some((witness) => now < untilOf(witness))) throw rules.lastAdmin();
    }
    const admins = rest + (to === undefined ? 0 : 1);
    const shortest = others.at(-1);
    const complete = others.length === rest;
    let witnesses = others;
    if (to !== undefined && (complete || shortest === undefined || to >= untilOf(shortest))) {
      const witness: LongestAdmin = { key: next.key, until: next.expiresAt };
      witnesses = [...others, witness].sort(longestFirst).slice(0, MAX_WITNESSES);
    }
    return { ...guard, ever: guard.ever || next.admin, admins, witnesses, head: undefined };
  }

  /**
   * The admins that last longest, of all users but one: needed only when no witness is left. `undefined`: there are not
   * `count` of them, because the guard has moved on, or because a replica that catches up from a snapshot missed some.
   */
  async #witnesses(except: string, count: number, call: Call): Promise<LongestAdmin[] | undefined> {
    const admins = new Map<string, LongestAdmin>();
    const staged: string[] = [];
    const consider = (key: string, user: UserRow | undefined): void => {
      // Met again, it was changed meanwhile.
      admins.delete(key);
      if (user === undefined || user.key === except || adminUntil(user) === undefined) return;
      admins.set(key, { key: user.key, until: user.expiresAt });
    };
    await this.#bucket.scans.scan(EVERYTHING, call, { end: () => this.#bucket.readIndex(call) }, (entry) => {
      const key = parseUser(entry.key);
      if (key !== undefined) {
        const { record } = readUser(entry);
        if (record.stage === undefined) consider(key, record.user);
        else staged.push(key);
      }
      return "go on";
    });
    for (const key of staged) consider(key, (await this.#views.read(key, true, "certain", call)).user);
    if (admins.size !== count) return undefined;
    return [...admins.values()].sort(longestFirst).slice(0, MAX_WITNESSES);
  }
}

/** How long the user counts as an admin: not at all, until an instant, or for ever. */
function adminUntil(user: UserRow | undefined): number | undefined {
  if (user === undefined || !user.admin || user.revokedAt !== undefined) return undefined;
  return user.expiresAt ?? Number.POSITIVE_INFINITY;
}

/** Whether the guard has to know: of every change of an active admin, and of the first admin that there ever was. */
export function concernsAdmins(before: UserRow | undefined, next: UserRow, guard: Guard): boolean {
  return adminUntil(before) !== adminUntil(next) || (next.admin && !guard.ever);
}

/** Whether an admin is active: one witness is enough, as no other admin lasts longer than all of them. */
export function hasActiveAdmin({ witnesses }: Guard, now: number): boolean {
  return witnesses.some((witness) => now < untilOf(witness));
}

const untilOf = (witness: LongestAdmin): number => witness.until ?? Number.POSITIVE_INFINITY;

const longestFirst = (a: LongestAdmin, b: LongestAdmin): number => {
  const x = untilOf(a);
  const y = untilOf(b);
  return x === y ? 0 : x > y ? -1 : 1;
};
