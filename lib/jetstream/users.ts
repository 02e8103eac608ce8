/**
 * The user allowlist. A user is one record, except where a change makes or unmakes an active admin: then two records
 * change, and the guard's is the one that commits. The change is staged in the user's record, where it does not count;
 * the guard, under the condition that it is as it was when the rules were checked, names the attempt, and from then on
 * it does. docs/protocol.md has the argument.
 */
import type { UserChangeInput, UserInput } from "../arguments.js";
import { cursor, toCursor } from "../arguments.js";
import type { Call } from "../call.js";
import type { UsersDriver } from "../driver.js";
import * as rules from "../rules.js";
import type { PageInput } from "../arguments.js";
import type { Page, User } from "../store.js";
import { RetryLoop } from "./retry-loop.js";
import type { Entry } from "./entry.js";
import type { Proved, ProvedBucket } from "./proved-bucket.js";
import { keys, newId, untoken } from "./keys.js";
import { toJson } from "./record-fields.js";
import {
  factsOf,
  readGuard,
  readUser,
  toUser,
  type Guard,
  type GuardSlot,
  type LongestAdmin,
  type UserRow,
  type UserSlot,
} from "./user-record.js";
import { NO_WRITES, appendWrite, includesWrite, newWrite } from "./write-history.js";
import { joinBoth } from "./join.js";
import type { UserState } from "./user-cache.js";

/** Enough that a guard hardly ever runs out of them, few enough that it stays small. */
const MAX_WITNESSES = 8;

/** A user, and the guard where it has a say. */
interface View {
  readonly slot: UserSlot;
  /** Read only where the change of an admin is staged or wanted. */
  readonly guard: GuardSlot | undefined;
  /** What counts: the record's own value, or the staged one where the guard has committed it. */
  readonly user: UserRow | undefined;
}

interface GuardedView extends View {
  readonly guard: GuardSlot;
}

/** `undefined`: nothing would change. */
type Change = (user: UserRow | undefined, guard: Guard) => UserRow | undefined;

/** What counts of a record: the staged value, where the guard has committed it. A record without a stage needs no guard. */
function counts({ record }: UserSlot, guard: GuardSlot | undefined): UserRow | undefined {
  const { stage, user } = record;
  const head = guard?.guard.head;
  return stage !== undefined && head?.attempt === stage.attempt ? head.user : user;
}

/** How long the user counts as an admin: not at all, until an instant, or for ever. */
function adminUntil(user: UserRow | undefined): number | undefined {
  if (user === undefined || !user.admin || user.revokedAt !== undefined) return undefined;
  return user.expiresAt ?? Number.POSITIVE_INFINITY;
}

const untilOf = (witness: LongestAdmin): number => witness.until ?? Number.POSITIVE_INFINITY;

/** Of so many it is remembered that they are proved together with the guard. Of others it is found out anew. */
const MAX_STAGED = 1024;

/**
 * Invariants of the guard, each with the spec that goes red without it:
 *
 * 1. Every change that makes or unmakes an active admin commits by a write of the guard: the conformance case of two admins who
 *    demote each other, `races.ts`.
 * 2. A staged change counts only if the guard's head names its attempt: `crash-points.spec.ts`.
 * 3. A stage is not written over while its commit can still succeed: `stale-reads.spec.ts`.
 * 4. The guard gets another head only after the one before stands in its user's record: `crash-points.spec.ts`.
 */
export class JetStreamUsers implements UsersDriver {
  readonly #bucket: ProvedBucket<UserState>;
  readonly #staged = new Set<string>();

  constructor(bucket: ProvedBucket<UserState>) {
    this.#bucket = bucket;
  }

  /** What a check needs of the user, as of a moment after this call: what an allow, and a denial that says why, is based on. */
  provedFacts(key: string, call: Call): Promise<rules.UserFacts | undefined> {
    const recordKey = keys.user(key);
    const kept = this.#staged.has(recordKey) ? undefined : this.#bucket.proveKept(recordKey, call);
    if (kept === undefined) return this.#facts(key, call);
    // Nearly all checks end here, where each further promise is a good part of what they cost.
    return kept.then((found) => {
      if (found === undefined || found.value.slot !== undefined) return this.#facts(key, call);
      const { facts } = found.value;
      const opened = this.#bucket.checkOpen(found.asOf, call);
      return opened === undefined ? facts : opened.then(() => facts);
    });
  }

  async #facts(key: string, call: Call): Promise<rules.UserFacts | undefined> {
    return (await this.#proved(key, call)).facts;
  }

  /** The same with the whole record. */
  async proved(key: string, call: Call): Promise<User | undefined> {
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      // The record and what proves it come side by side: it is the one that is proved if it stands at the same place.
      const [found, entry] = await joinBoth(this.#proved(key, call), this.#bucket.get(keys.user(key), call));
      if (found.facts === undefined) return undefined;
      if (found.row !== undefined) return toUser(found.row);
      if (entry?.seq !== found.seq) continue;
      const { user } = readUser(entry).record;
      if (user !== undefined) return toUser(user);
    }
  }

  /** Who counts for the user at one moment after this call, and where the record stands. */
  async #proved(
    key: string,
    call: Call,
  ): Promise<{ facts?: rules.UserFacts | undefined; seq?: number; row?: UserRow }> {
    const recordKey = keys.user(key);
    const isStaged = this.#staged.has(recordKey);
    const alone = isStaged ? undefined : await this.#bucket.prove(recordKey, call);
    if (!isStaged && alone?.value.slot === undefined) {
      await this.#bucket.checkOpen(alone?.asOf ?? this.#bucket.highestSeen, call);
      return alone === undefined ? {} : { facts: alone.value.facts, seq: alone.seq };
    }
    const [guard, user] = await this.#withGuard(recordKey, call);
    this.#noteStaged(recordKey, user?.value.slot !== undefined);
    await this.#bucket.checkOpen(user?.asOf ?? this.#bucket.highestSeen, call);
    if (user?.value.slot === undefined) return user === undefined ? {} : { facts: user.value.facts, seq: user.seq };
    const row = counts(user.value.slot, guard);
    return row === undefined ? {} : { facts: factsOf(row), seq: user.seq, row };
  }

  #noteStaged(recordKey: string, isStaged: boolean): void {
    if (!isStaged) this.#staged.delete(recordKey);
    else if (this.#staged.size < MAX_STAGED) this.#staged.add(recordKey);
  }

  async #withGuard(recordKey: string, call: Call): Promise<[guard: GuardSlot, user: Proved<UserState> | undefined]> {
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      const [guard, user] = await this.#bucket.proveBoth(keys.admins, recordKey, call);
      // It is there from the opening on: an answer without it is no answer.
      if (guard?.value.guard !== undefined) return [guard.value.guard, user];
    }
  }

  /** Whether an admin is active, by one record however many users there are. */
  async provedAdmin(now: () => number, call: Call): Promise<boolean> {
    const found = await this.#bucket.prove(keys.admins, call);
    await this.#bucket.checkOpen(found?.asOf ?? this.#bucket.highestSeen, call);
    const time = now();
    return found?.value.guard?.guard.witnesses.some((witness) => time < untilOf(witness)) === true;
  }

  async get(key: string, call: Call): Promise<User> {
    const { record } = readUser(await this.#bucket.get(keys.user(key), call));
    if (record.stage === undefined && record.user !== undefined) return toUser(record.user);
    const head =
      record.stage === undefined ? undefined : readGuard(await this.#bucket.get(keys.admins, call)).guard.head;
    if (head !== undefined && head.attempt === record.stage?.attempt) return toUser(head.user);
    // A miss is said only by what is as fresh as a check, and so is what becomes of a stage that the guard does not name.
    const { user } = await this.#certain(key, record.stage !== undefined, call);
    if (user === undefined) throw rules.userNotFound(key);
    return toUser(user);
  }

  async add(input: UserInput, call: Call): Promise<User> {
    const row = created(input);
    if (!row.admin) {
      // Most users are new: the condition that there is none tells, without reading first.
      const id = newWrite();
      const record = { ...appendWrite(NO_WRITES, 0, id), user: row };
      const written = await this.#bucket.write(keys.user(row.key), toJson(record), 0, call, (entry) =>
        includesWrite(readUser(entry).record, NO_WRITES, id),
      );
      if (written !== undefined) return toUser(row);
    }
    return this.#change(row.key, call, (user) => {
      if (user !== undefined) throw rules.userExists(row.key);
      return row;
    });
  }

  addFirstAdmin(input: UserInput, call: Call): Promise<User> {
    const row = created(input);
    return this.#change(
      row.key,
      call,
      (user, guard) => {
        if (guard.ever) throw rules.notFirstAdmin();
        if (user !== undefined) throw rules.userExists(row.key);
        return row;
      },
      true,
    );
  }

  update(key: string, change: UserChangeInput, ifRevision: string | undefined, call: Call): Promise<User> {
    return this.#change(key, call, (user) => {
      if (user === undefined) throw rules.userNotFound(key);
      rules.checkRevision(String(user.v), ifRevision);
      const next: UserRow = {
        ...user,
        admin: change.role === undefined ? user.admin : change.role === "admin",
        name: change.name ?? user.name,
        expiresAt: change.expiresAt === undefined ? user.expiresAt : (change.expiresAt?.getTime() ?? undefined),
      };
      const same = next.admin === user.admin && next.name === user.name && next.expiresAt === user.expiresAt;
      return same ? undefined : changed(user, next);
    });
  }

  revoke(key: string, call: Call): Promise<User> {
    return this.#change(key, call, (user) => {
      if (user === undefined) throw rules.userNotFound(key);
      return user.revokedAt === undefined ? changed(user, { ...user, revokedAt: Date.now() }) : undefined;
    });
  }

  reinstate(key: string, call: Call): Promise<User> {
    return this.#change(key, call, (user) => {
      if (user === undefined) throw rules.userNotFound(key);
      return user.revokedAt === undefined ? undefined : changed(user, { ...user, revokedAt: undefined });
    });
  }

  async list(page: PageInput, call: Call): Promise<Page<User>> {
    const isUser = (entry: Entry): boolean => entry.key.startsWith("user.");
    const { entries, next } = await this.#bucket.scans.page(cursor(page.after), page.limit, isUser, call);
    const items: User[] = [];
    for (const entry of entries) {
      const { record } = readUser(entry);
      const row =
        record.stage === undefined ? record.user : (await this.#certain(userKeyOf(entry.key), true, call)).user;
      if (row !== undefined) items.push(toUser(row));
    }
    return next === undefined ? { items } : { items, next: toCursor(next) };
  }

  /** A user as some replica has it, with the guard where it is needed. What the conditions of the commit do not hold, it is not. */
  async #view(key: string, withGuard: boolean, call: Call): Promise<View> {
    const [user, admins] = await joinBoth(
      this.#bucket.get(keys.user(key), call),
      withGuard ? this.#bucket.get(keys.admins, call) : undefined,
    );
    if (withGuard && admins === undefined) return this.#certain(key, true, call);
    const slot = readUser(user);
    const guard = withGuard ? readGuard(admins) : undefined;
    return { slot, guard, user: counts(slot, guard) };
  }

  /** The same at one moment after this call. A user who is not there is surely not there. */
  async #certain(key: string, withGuard: boolean, call: Call): Promise<View> {
    const recordKey = keys.user(key);
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      const guard = withGuard ? await this.#bucket.readLinearizable(keys.admins, call) : undefined;
      const { entry } = await this.#bucket.readLinearizable(recordKey, call);
      // It is there from the opening on: an answer without it is no answer.
      if (guard?.entry === undefined && withGuard) continue;
      const slot = readUser(entry);
      if (guard === undefined && slot.record.stage !== undefined) return this.#certain(key, true, call);
      // The user stands there since before the moment of the guard: both are as of that moment.
      if (guard !== undefined && slot.seq > guard.asOf) continue;
      const guardSlot = guard === undefined ? undefined : readGuard(guard.entry);
      return { slot, guard: guardSlot, user: counts(slot, guardSlot) };
    }
  }

  /** Reads, lets the rules decide, commits on the condition that nothing changed meanwhile, and starts anew if it did. */
  async #change(key: string, call: Call, change: Change, concernsGuard = false): Promise<User> {
    let fresh = false;
    let withGuard = concernsGuard;
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      for (;;) {
        call.throwIfEnded();
        const seen = fresh ? await this.#certain(key, withGuard, call) : await this.#view(key, withGuard, call);
        const { guard } = seen;
        let next: UserRow | undefined;
        try {
          next = change(seen.user, guard?.guard ?? NO_GUARD);
          if (guard === undefined && needsGuard(seen, next)) {
            withGuard = true;
            continue;
          }
          if (next !== undefined && guard !== undefined && concernsAdmins(seen.user, next, guard.guard)) {
            if (await this.#commitWithGuard(key, { ...seen, guard }, next, call)) return toUser(next);
            fresh = true;
            break;
          }
        } catch (error) {
          // What a replica that lags says is no reason to refuse: what the quorum says is.
          if (fresh || !rules.isRefusal(error)) throw error;
          fresh = true;
          continue;
        }
        if (next === undefined) {
          if (fresh && seen.user !== undefined) return toUser(seen.user);
          fresh = true;
          continue;
        }
        if (await this.#commitAlone(key, seen, next, call)) return toUser(next);
        fresh = true;
        break;
      }
    }
  }

  /** A change that makes or unmakes no active admin: the user's record commits it. */
  async #commitAlone(key: string, seen: View, next: UserRow, call: Call): Promise<boolean> {
    if (!(await this.#settled(seen, call))) return false;
    const before = seen.slot.record;
    const id = newWrite();
    const record = { ...appendWrite(before, seen.slot.seq, id), user: next };
    const seq = await this.#bucket.write(keys.user(key), toJson(record), seen.slot.seq, call, (entry) =>
      includesWrite(readUser(entry).record, before, id),
    );
    return seq !== undefined;
  }

  /** Whether the user's record may be written over: a stage on it that could still be committed is fenced off first. */
  async #settled(seen: View, call: Call): Promise<boolean> {
    const { stage } = seen.slot.record;
    if (stage === undefined) return true;
    if (seen.guard === undefined) return false;
    const { guard, seq } = seen.guard;
    if (guard.head?.attempt === stage.attempt || seq > stage.guard) return true;
    await this.#writeGuard(seen.guard, guard, newWrite(), call, "step");
    return false;
  }

  async #commitWithGuard(key: string, seen: GuardedView, next: UserRow, call: Call): Promise<boolean> {
    if (!(await this.#settled(seen, call))) return false;
    const guard = await this.#nextGuard(seen, next, call);
    if (guard === undefined) return false;
    const attempt = newId();
    const before = seen.slot.record;
    const id = newWrite();
    const staged = {
      ...appendWrite(before, seen.slot.seq, id),
      user: seen.user,
      stage: { attempt, guard: seen.guard.seq },
    };
    const { head } = seen.guard.guard;
    // Where the change before is of the same user, staging this one carries it over; else it is carried out beside.
    const apply = head === undefined || head.user.key === key ? Promise.resolve() : this.#apply(head, call);
    const [seq] = await joinBoth(
      this.#bucket.write(
        keys.user(key),
        toJson(staged),
        seen.slot.seq,
        call,
        (entry) => includesWrite(readUser(entry).record, before, id),
        "step",
      ),
      apply,
    );
    if (seq === undefined) return false;
    return this.#writeGuard(seen.guard, { ...guard, head: { attempt, seq, user: next } }, attempt, call, "commit");
  }

  /** Lays down a guard where there is none yet, so that reads of it are hits. */
  async prepare(call: Call): Promise<void> {
    const slot = readGuard((await this.#bucket.readLinearizable(keys.admins, call)).entry);
    if (slot.seq === 0) await this.#writeGuard(slot, slot.guard, newWrite(), call, "step");
  }

  async #writeGuard(seen: GuardSlot, guard: Guard, id: string, call: Call, kind: "commit" | "step"): Promise<boolean> {
    const before = seen.guard;
    const record: Guard = { ...guard, ...appendWrite(before, seen.seq, id) };
    const seq = await this.#bucket.write(
      keys.admins,
      toJson(record),
      seen.seq,
      call,
      (entry) => includesWrite(readGuard(entry).guard, before, id),
      kind,
    );
    return seq !== undefined;
  }

  /** Puts a committed change into the user's record. Whoever comes second, or too late, changes nothing. */
  async #apply(head: NonNullable<Guard["head"]>, call: Call): Promise<void> {
    const id = newWrite();
    const recordKey = keys.user(head.user.key);
    let before = readUser(await this.#bucket.get(recordKey, call));
    if (before.seq < head.seq) before = readUser((await this.#bucket.readLinearizable(recordKey, call)).entry);
    if (before.seq !== head.seq) return;
    const record = { ...appendWrite(before.record, before.seq, id), user: head.user };
    await this.#bucket.write(
      recordKey,
      toJson(record),
      head.seq,
      call,
      (now) => includesWrite(readUser(now).record, before.record, id),
      "step",
    );
  }

  /** The guard after the change, or the refusal to leave no active admin. `undefined`: what was read does not belong together. */
  async #nextGuard(seen: GuardedView, next: UserRow, call: Call): Promise<Guard | undefined> {
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
    if (
      to === undefined &&
      from !== undefined &&
      seen.user !== undefined &&
      rules.isActiveAdmin(factsOf(seen.user), now)
    ) {
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
   * The admins that last longest, of all users but one: needed only when no witness is left. `undefined`: there are not `count`
   * of them, because the guard has moved on, or because a replica that catches up from a snapshot missed some.
   */
  async #witnesses(except: string, count: number, call: Call): Promise<LongestAdmin[] | undefined> {
    const admins = new Map<string, LongestAdmin>();
    const staged: string[] = [];
    const consider = (recordKey: string, user: UserRow | undefined): void => {
      // Met again, it was changed meanwhile.
      admins.delete(recordKey);
      if (user === undefined || user.key === except || adminUntil(user) === undefined) return;
      admins.set(recordKey, { key: user.key, until: user.expiresAt });
    };
    await this.#bucket.scans.scan(">", call, { end: () => this.#bucket.readIndex(call) }, (entry) => {
      if (entry.key.startsWith("user.")) {
        const { record } = readUser(entry);
        if (record.stage === undefined) consider(entry.key, record.user);
        else staged.push(entry.key);
      }
      return "go on";
    });
    for (const key of staged) consider(key, (await this.#certain(userKeyOf(key), true, call)).user);
    if (admins.size !== count) return undefined;
    return [...admins.values()].sort(longestFirst).slice(0, MAX_WITNESSES);
  }
}

const longestFirst = (a: LongestAdmin, b: LongestAdmin): number => {
  const x = untilOf(a);
  const y = untilOf(b);
  return x === y ? 0 : x > y ? -1 : 1;
};

function created(input: UserInput): UserRow {
  return {
    key: input.key,
    v: 1,
    admin: input.role === "admin",
    revokedAt: undefined,
    name: input.name,
    createdAt: Date.now(),
    expiresAt: input.expiresAt?.getTime(),
    grant: 0,
  };
}

/** The next version of a user. Where something was taken away, or had run out and is given anew, it is of another grant. */
function changed(before: UserRow, next: UserRow): UserRow {
  const now = Date.now();
  const isOver = ({ expiresAt }: UserRow): boolean => expiresAt !== undefined && expiresAt <= now;
  const isTaken = next.revokedAt !== undefined && before.revokedAt === undefined;
  const isDemoted = before.admin && !next.admin;
  const ended = isTaken || isDemoted || isOver(before) !== isOver(next);
  return { ...next, v: before.v + 1, grant: before.grant + (ended ? 1 : 0) };
}

const NO_GUARD = readGuard(undefined).guard;

const userKeyOf = (recordKey: string): string => untoken(recordKey.slice(keys.user("").length));

/** Whether the guard has to be looked at: for a change that is staged, and for every change of who is an admin. */
function needsGuard(seen: View, next: UserRow | undefined): boolean {
  return seen.slot.record.stage !== undefined || (next !== undefined && concernsAdmins(seen.user, next, NO_GUARD));
}

/** Whether the guard has to know: of every change of an active admin, and of the first admin that there ever was. */
function concernsAdmins(before: UserRow | undefined, next: UserRow, guard: Guard): boolean {
  return adminUntil(before) !== adminUntil(next) || (next.admin && !guard.ever);
}
