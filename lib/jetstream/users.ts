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
import type { Bucket, Entry, Snapshot } from "./bucket.js";
import { Retries } from "./connection.js";
import { UNWRITTEN, keys, newId, newWrite, nextWrite, readGuard, readUser, toJson, toUser, wasWritten } from "./records.js";
import { both } from "./settled.js";
import type { Guard, GuardSlot, UserRow, UserSlot, Witness } from "./records.js";

/** Enough that a guard hardly ever runs out of them, few enough that it stays small. */
const MAX_WITNESSES = 8;

/** A user and the guard at one moment. */
interface View {
  readonly slot: UserSlot;
  readonly guard: GuardSlot;
  /** What counts: the record's own value, or the staged one where the guard has committed it. */
  readonly user: UserRow | undefined;
}

/** `undefined`: nothing would change. */
type Change = (user: UserRow | undefined, guard: Guard) => UserRow | undefined;

function view(snapshot: Snapshot, key: string): View {
  const slot = readUser(snapshot.get(keys.user(key)));
  const guard = readGuard(snapshot.get(keys.admins));
  const { stage, user } = slot.record;
  const { head } = guard.guard;
  return { slot, guard, user: stage !== undefined && head?.attempt === stage.attempt ? head.user : user };
}

const facts = (user: UserRow): rules.UserFacts => ({
  role: user.admin ? "admin" : "member",
  status: user.revokedAt === undefined ? "active" : "revoked",
  expiresAt: user.expiresAt,
});

/** How long the user counts as an admin: not at all, until an instant, or for ever. */
function adminUntil(user: UserRow | undefined): number | undefined {
  if (user === undefined || !user.admin || user.revokedAt !== undefined) return undefined;
  return user.expiresAt ?? Number.POSITIVE_INFINITY;
}

const untilOf = (witness: Witness): number => witness.until ?? Number.POSITIVE_INFINITY;

export class JetStreamUsers implements UsersDriver {
  readonly #bucket: Bucket;

  constructor(bucket: Bucket) {
    this.#bucket = bucket;
  }

  /** The user as of a moment after this call: what an allow, and a denial that says why, is based on. */
  async proved(key: string, call: Call): Promise<User | undefined> {
    const { user } = view(await this.#provedWithGuard([keys.user(key)], call), key);
    return user === undefined ? undefined : toUser(user);
  }

  /** Whether an admin is active, by one record however many users there are. */
  async provedAdmin(now: () => number, call: Call): Promise<boolean> {
    const snapshot = await this.#provedWithGuard([], call);
    const { guard } = readGuard(snapshot.get(keys.admins));
    const time = now();
    return guard.witnesses.some((witness) => time < untilOf(witness));
  }

  async get(key: string, call: Call): Promise<User> {
    const seen = await this.#view(key, 0, call);
    if (seen.user !== undefined) return toUser(seen.user);
    // A miss is said only by a read that is as fresh as a check.
    const fresh = await this.#freshView(key, call);
    if (fresh.user === undefined) throw rules.userNotFound(key);
    return toUser(fresh.user);
  }

  async add(input: UserInput, call: Call): Promise<User> {
    const row = created(input);
    if (!row.admin) {
      // Most users are new: the condition that there is none tells, without reading first.
      const id = newWrite();
      const record = { ...nextWrite(UNWRITTEN, id), user: row };
      const written = await this.#bucket.write(keys.user(row.key), toJson(record), 0, call, (entry) =>
        wasWritten(readUser(entry).record, UNWRITTEN, id),
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
    return this.#change(row.key, call, (user, guard) => {
      if (guard.ever) throw rules.notFirstAdmin();
      if (user !== undefined) throw rules.userExists(row.key);
      return row;
    });
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
      return same ? undefined : { ...next, v: user.v + 1 };
    });
  }

  revoke(key: string, call: Call): Promise<User> {
    return this.#change(key, call, (user) => {
      if (user === undefined) throw rules.userNotFound(key);
      return user.revokedAt === undefined ? { ...user, revokedAt: Date.now(), v: user.v + 1 } : undefined;
    });
  }

  reinstate(key: string, call: Call): Promise<User> {
    return this.#change(key, call, (user) => {
      if (user === undefined) throw rules.userNotFound(key);
      return user.revokedAt === undefined ? undefined : { ...user, revokedAt: undefined, v: user.v + 1 };
    });
  }

  async list(page: PageInput, call: Call): Promise<Page<User>> {
    const isUser = (entry: Entry): boolean => entry.key.startsWith("user.");
    const { entries, next, end } = await this.#bucket.page(cursor(page.after), page.limit, isUser, call);
    const items: User[] = [];
    for (const entry of entries) {
      const { record } = readUser(entry);
      const row = record.stage === undefined ? record.user : await this.#staged(entry.key, end, call);
      if (row !== undefined) items.push(toUser(row));
    }
    return next === undefined ? { items } : { items, next: toCursor(next) };
  }

  async #view(key: string, min: number, call: Call): Promise<View> {
    return view(await this.#withGuard([keys.user(key)], min, call), key);
  }

  /** The same as of a moment after this call. A user who is not there is surely not there. */
  async #freshView(key: string, call: Call): Promise<View> {
    const recordKey = keys.user(key);
    for (const retries = new Retries(call); ; ) {
      await retries.turn();
      const snapshot = await this.#withGuard([recordKey], await this.#bucket.fresh(call), call);
      if (snapshot.get(recordKey) !== undefined || (await this.#bucket.areAbsent([recordKey], call))) return view(snapshot, key);
    }
  }

  /** Reads together with the guard. It is there from the opening on: an answer without it is no answer. */
  async #withGuard(recordKeys: readonly string[], min: number, call: Call): Promise<Snapshot> {
    for (const retries = new Retries(call); ; ) {
      await retries.turn();
      const snapshot = await this.#bucket.read([...recordKeys, keys.admins], min, call);
      if (snapshot.get(keys.admins) !== undefined) return snapshot;
    }
  }

  /** The same as of a moment after this call. */
  async #provedWithGuard(recordKeys: readonly string[], call: Call): Promise<Snapshot> {
    for (const retries = new Retries(call); ; ) {
      await retries.turn();
      const snapshot = await this.#bucket.proved([...recordKeys, keys.admins], call);
      if (snapshot.get(keys.admins) !== undefined) return snapshot;
    }
  }

  /** A user whose record holds a stage: with the guard of the same moment it is clear what counts. */
  async #staged(recordKey: string, min: number, call: Call): Promise<UserRow | undefined> {
    const snapshot = await this.#withGuard([recordKey], min, call);
    const { record } = readUser(snapshot.get(recordKey));
    const { head } = readGuard(snapshot.get(keys.admins)).guard;
    return record.stage !== undefined && head?.attempt === record.stage.attempt ? head.user : record.user;
  }

  /** Reads, lets the rules decide, commits on the condition that nothing changed meanwhile, and starts anew if it did. */
  async #change(key: string, call: Call, change: Change): Promise<User> {
    let fresh = false;
    for (const retries = new Retries(call); ; ) {
      await retries.turn();
      for (;;) {
        call.check();
        const seen = fresh ? await this.#freshView(key, call) : await this.#view(key, 0, call);
        let next: UserRow | undefined;
        try {
          next = change(seen.user, seen.guard.guard);
          const needed = next !== undefined && concernsAdmins(seen, next);
          if (next !== undefined && needed) {
            if (await this.#commitWithGuard(key, seen, next, call)) return toUser(next);
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
    const record = { ...nextWrite(before, id), user: next };
    const seq = await this.#bucket.write(keys.user(key), toJson(record), seen.slot.seq, call, (entry) =>
      wasWritten(readUser(entry).record, before, id),
    );
    return seq !== undefined;
  }

  /** Whether the user's record may be written over: a stage on it that could still be committed is fenced off first. */
  async #settled(seen: View, call: Call): Promise<boolean> {
    const { stage } = seen.slot.record;
    const { guard, seq } = seen.guard;
    if (stage === undefined || guard.head?.attempt === stage.attempt || seq > stage.guard) return true;
    await this.#writeGuard(seen.guard, guard, newWrite(), call, "step");
    return false;
  }

  async #commitWithGuard(key: string, seen: View, next: UserRow, call: Call): Promise<boolean> {
    if (!(await this.#settled(seen, call))) return false;
    const guard = await this.#nextGuard(seen, next, call);
    if (guard === undefined) return false;
    const attempt = newId();
    const before = seen.slot.record;
    const id = newWrite();
    const staged = {
      ...nextWrite(before, id),
      user: seen.user,
      stage: { attempt, guard: seen.guard.seq },
    };
    const { head } = seen.guard.guard;
    // Where the change before is of the same user, staging this one carries it over; else it is carried out beside.
    const apply = head === undefined || head.user.key === key ? Promise.resolve() : this.#apply(head, call);
    const [seq] = await both(
      this.#bucket.write(
        keys.user(key),
        toJson(staged),
        seen.slot.seq,
        call,
        (entry) => wasWritten(readUser(entry).record, before, id),
        "step",
      ),
      apply,
    );
    if (seq === undefined) return false;
    return this.#writeGuard(seen.guard, { ...guard, head: { attempt, seq, user: next } }, attempt, call, "commit");
  }

  /** Lays down a guard where there is none yet, so that reads of it are hits. */
  async prepare(call: Call): Promise<void> {
    const snapshot = await this.#bucket.read([keys.admins], await this.#bucket.fresh(call), call);
    const slot = readGuard(snapshot.get(keys.admins));
    if (slot.seq === 0) await this.#writeGuard(slot, slot.guard, newWrite(), call, "step");
  }

  async #writeGuard(seen: GuardSlot, guard: Guard, id: string, call: Call, kind: "commit" | "step"): Promise<boolean> {
    const before = seen.guard;
    const record: Guard = { ...guard, ...nextWrite(before, id) };
    const seq = await this.#bucket.write(
      keys.admins,
      toJson(record),
      seen.seq,
      call,
      (entry) => wasWritten(readGuard(entry).guard, before, id),
      kind,
    );
    return seq !== undefined;
  }

  /** Puts a committed change into the user's record. Whoever comes second, or too late, changes nothing. */
  async #apply(head: NonNullable<Guard["head"]>, call: Call): Promise<void> {
    const id = newWrite();
    const recordKey = keys.user(head.user.key);
    const entry = (await this.#bucket.read([recordKey], head.seq, call)).get(recordKey);
    const before = readUser(entry);
    if (before.seq !== head.seq) return;
    const record = { ...nextWrite(before.record, id), user: head.user };
    await this.#bucket.write(
      recordKey,
      toJson(record),
      head.seq,
      call,
      (now) => wasWritten(readUser(now).record, before.record, id),
      "step",
    );
  }

  /** The guard after the change, or the refusal to leave no active admin. `undefined`: what was read does not belong together. */
  async #nextGuard(seen: View, next: UserRow, call: Call): Promise<Guard | undefined> {
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
    if (to === undefined && from !== undefined && seen.user !== undefined && rules.isActiveAdmin(facts(seen.user), now)) {
      if (!others.some((witness) => now < untilOf(witness))) throw rules.lastAdmin();
    }
    const admins = rest + (to === undefined ? 0 : 1);
    const shortest = others.at(-1);
    const complete = others.length === rest;
    let witnesses = others;
    if (to !== undefined && (complete || shortest === undefined || to >= untilOf(shortest))) {
      const witness: Witness = { key: next.key, until: next.expiresAt };
      witnesses = [...others, witness].sort(longestFirst).slice(0, MAX_WITNESSES);
    }
    return { ...guard, ever: guard.ever || next.admin, admins, witnesses, head: undefined };
  }

  /**
   * The admins that last longest, of all users but one: needed only when no witness is left. `undefined`: there are not `count`
   * of them, because the guard has moved on, or because a replica that catches up from a snapshot missed some.
   */
  async #witnesses(except: string, count: number, call: Call): Promise<Witness[] | undefined> {
    const admins = new Map<string, Witness>();
    const staged: string[] = [];
    const consider = (recordKey: string, user: UserRow | undefined): void => {
      // Met again, it was changed meanwhile.
      admins.delete(recordKey);
      if (user === undefined || user.key === except || adminUntil(user) === undefined) return;
      admins.set(recordKey, { key: user.key, until: user.expiresAt });
    };
    let end = 0;
    await this.#bucket.scan(">", call, { end: async () => (end = await this.#bucket.fresh(call)) }, (entry) => {
      if (entry.key.startsWith("user.")) {
        const { record } = readUser(entry);
        if (record.stage === undefined) consider(entry.key, record.user);
        else staged.push(entry.key);
      }
      return "go on";
    });
    for (const key of staged) consider(key, await this.#staged(key, end, call));
    if (admins.size !== count) return undefined;
    return [...admins.values()].sort(longestFirst).slice(0, MAX_WITNESSES);
  }
}

const longestFirst = (a: Witness, b: Witness): number => {
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
  };
}

/** Whether the guard has to know: of every change of an active admin, and of the first admin that there ever was. */
function concernsAdmins(seen: View, next: UserRow): boolean {
  return adminUntil(seen.user) !== adminUntil(next) || (next.admin && !seen.guard.guard.ever);
}
