/**
 * The user allowlist. A user is one record, except where a change makes or unmakes an active admin: then two records
 * change, and the guard's is the one that commits (`admin-guard.ts`).
 */
import type { PageInput, UserChangeInput, UserInput } from "../arguments.js";
import { cursor, toCursor } from "../arguments.js";
import type { Call } from "../call.js";
import type { UsersDriver } from "../driver.js";
import { endsGrant } from "../rules.js";
import type { Page, User } from "../store.js";
import { NO_GUARD, concernsAdmins, type AdminGuard } from "./admin-guard.js";
import type { Entry } from "./entry.js";
import { CERTAIN, commitOrCertain, type Rules } from "./freshness.js";
import { keys, parseUser } from "./keys.js";
import type { ProvedBucket } from "./proved-bucket.js";
import { seqIn } from "./seq.js";
import type { UserState } from "./user-cache.js";
import type { UserPages } from "./user-pages.js";
import { factsOf, readGuard, readUser, toFollow, toUser, type Guard, type UserRow } from "./user-record.js";
import type { UserView, UserViews } from "./user-views.js";
import { NO_WRITES, type WriteHistory } from "./write-history.js";

/** `undefined`: nothing would change. */
type Change = (rules: Rules, user: UserRow | undefined, guard: Guard) => UserRow | undefined;

export class JetStreamUsers implements UsersDriver {
  readonly #bucket: ProvedBucket<"users", UserState>;
  readonly #views: UserViews;
  readonly #guard: AdminGuard;
  readonly #pages: UserPages;

  constructor(bucket: ProvedBucket<"users", UserState>, views: UserViews, guard: AdminGuard, pages: UserPages) {
    this.#bucket = bucket;
    this.#views = views;
    this.#guard = guard;
    this.#pages = pages;
  }

  async get(key: string, call: Call): Promise<User> {
    const { record } = readUser(await this.#bucket.get(keys.user(key), call));
    if (record.stage === undefined && record.user !== undefined) return toUser(record.user);
    const head =
      record.stage === undefined ? undefined : readGuard(await this.#bucket.get(keys.admins, call)).guard.head;
    if (head !== undefined && head.attempt === record.stage?.attempt) return toUser(head.user);
    // A miss takes a read as fresh as a check's. So does a stage that the guard did not name: it may be committed
    // since.
    const view = await this.#views.read(key, record.stage !== undefined, "certain", call);
    if (view.user === undefined) throw CERTAIN.rules(view).userNotFound(key);
    return toUser(view.user);
  }

  async add(input: UserInput, call: Call): Promise<User> {
    const row = created(input);
    if (!row.admin) {
      // Most users are new. So nothing is read first: the condition that there is none tells.
      const nothing = { seq: 0, written: NO_WRITES } as const;
      const make = (written: WriteHistory<"users">): object => ({ ...written, user: row });
      const made = await this.#bucket.append(keys.user(row.key), nothing, make, call, "commit");
      if (made !== undefined) return toUser(row);
    }
    return this.#change(row.key, call, (rules, user) => {
      if (user !== undefined) throw rules.userExists(row.key);
      return row;
    });
  }

  addFirstAdmin(input: UserInput, call: Call): Promise<User> {
    const row = created(input);
    return this.#change(
      row.key,
      call,
      (rules, user, guard) => {
        if (guard.ever) throw rules.notFirstAdmin();
        if (user !== undefined) throw rules.userExists(row.key);
        return row;
      },
      true,
    );
  }

  update(key: string, change: UserChangeInput, ifRevision: string | undefined, call: Call): Promise<User> {
    return this.#change(key, call, (rules, user) => {
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
    return this.#change(key, call, (rules, user) => {
      if (user === undefined) throw rules.userNotFound(key);
      return user.revokedAt === undefined ? changed(user, { ...user, revokedAt: Date.now() }) : undefined;
    });
  }

  reinstate(key: string, call: Call): Promise<User> {
    return this.#change(key, call, (rules, user) => {
      if (user === undefined) throw rules.userNotFound(key);
      return user.revokedAt === undefined ? undefined : changed(user, { ...user, revokedAt: undefined });
    });
  }

  async list(page: PageInput, call: Call): Promise<Page<User>> {
    const isUser = ({ key }: Entry<"users">): boolean => parseUser(key) !== undefined;
    const after = seqIn("users", cursor(page.after));
    const { entries, next } = await this.#pages.page(after, page.limit, isUser, call);
    const items: User[] = [];
    for (const entry of entries) {
      const key = parseUser(entry.key);
      if (key === undefined) continue;
      const { record } = readUser(entry);
      const row = record.stage === undefined ? record.user : (await this.#views.read(key, true, "certain", call)).user;
      if (row !== undefined) items.push(toUser(row));
    }
    return next === undefined ? { items } : { items, next: toCursor(next) };
  }

  /**
   * Reads, lets the rules decide, commits on the condition that nothing changed meanwhile, and starts anew if it did.
   */
  #change(key: string, call: Call, change: Change, concernsGuard = false): Promise<User> {
    let withGuard = concernsGuard;
    return commitOrCertain<User>(this.#bucket, call, async (round) => {
      for (;;) {
        const view = await this.#views.read(key, withGuard, round.freshness, call);
        const { user, guard } = view;
        const rules = round.rules(view);
        const next = change(rules, user, guard?.guard ?? NO_GUARD);
        if (guard === undefined && needsGuard(view, next)) {
          withGuard = true;
          continue;
        }
        if (next === undefined) return user === undefined ? "again" : { unchanged: toUser(user) };
        const isOfAdmins = guard !== undefined && concernsAdmins(user, next, guard.guard);
        const isCommitted = await (isOfAdmins
          ? this.#guard.commit(rules, { ...view, guard }, next, call)
          : this.#commitAlone(key, view, next, call));
        return isCommitted ? { committed: toUser(next) } : "again";
      }
    });
  }

  /** A change that makes or unmakes no active admin: the user's record commits it. */
  async #commitAlone(key: string, seen: UserView, next: UserRow, call: Call): Promise<boolean> {
    if (!(await this.#guard.endStage(seen, call))) return false;
    const make = (written: WriteHistory<"users">): object => ({ ...written, user: next });
    return (await this.#bucket.append(keys.user(key), toFollow(seen.slot), make, call, "commit")) !== undefined;
  }
}

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

/**
 * The next version of a user. It is of another grant if something was taken away, or if time that had run out is given
 * anew.
 */
function changed(before: UserRow, next: UserRow): UserRow {
  const ended = endsGrant(factsOf(before), factsOf(next), Date.now());
  return { ...next, v: before.v + 1, grant: before.grant + (ended ? 1 : 0) };
}

/** Whether the guard has to be looked at: for a change that is staged, and for every change of who is an admin. */
function needsGuard(seen: UserView, next: UserRow | undefined): boolean {
  return seen.slot.record.stage !== undefined || (next !== undefined && concernsAdmins(seen.user, next, NO_GUARD));
}
