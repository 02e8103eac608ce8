import { cursor, toCursor } from "../arguments.js";
import type { UserChangeInput, UserInput } from "../arguments.js";
import type { UsersDriver } from "../driver.js";
import { checkRevision, isActiveAdmin, lastAdmin, notFirstAdmin, userExists, userNotFound } from "../rules.js";
import type { User } from "../store.js";
import type { Change } from "./changes.js";
import { answer } from "./database.js";
import type { Database, Step, Transaction } from "./database.js";
import { toRevision, userRecord } from "./rows.js";
import type { UserRow } from "./rows.js";

/** A class: a function for the result of each would be more than all the rest of it. */
class PutUser implements Step<User> {
  readonly changes: readonly Change[];
  readonly takesAway: boolean;
  readonly #row: UserRow;

  constructor(row: UserRow, takesAway: boolean) {
    this.changes = [{ kind: "user", row }];
    this.takesAway = takesAway;
    this.#row = row;
  }

  result(): User {
    return userRecord(this.#row);
  }
}

const put = (row: UserRow, takesAway = false): Step<User> => new PutUser(row, takesAway);
const same = (row: UserRow): Step<User> => ({ changes: [], result: () => userRecord(row) });

export function users(database: Database): UsersDriver {
  const { tables, view } = database;

  const existing = (key: string): UserRow => {
    const user = view.user(key);
    if (user === undefined) throw userNotFound(key);
    return user;
  };

  const checkLastAdmin = (user: UserRow, now: number): void => {
    if (isActiveAdmin(user, now) && !view.otherAdmin(user.key, now)) throw lastAdmin();
  };

  return {
    add: (input, call) => database.write(call, (transaction) => added(database, input, transaction)),

    addFirstAdmin: (input, call) =>
      database.write(call, (transaction) => {
        if (view.adminEver) throw notFirstAdmin();
        return added(database, input, transaction);
      }),

    get: (key) =>
      answer(() => {
        const row = tables.users.get(key);
        if (row === undefined) throw userNotFound(key);
        return userRecord(row);
      }),

    update: (key, change, ifRevision, call) =>
      database.write(call, ({ sequence, now }) => {
        const user = existing(key);
        checkRevision(user.revision, ifRevision);
        const changed = { ...user, ...changesOf(user, change) };
        if (changed.role !== "admin") checkLastAdmin(user, now);
        if (isSame(changed, user)) return same(user);
        const takesAway =
          changed.role !== user.role
            ? changed.role !== "admin"
            : (changed.expiresAt ?? Infinity) < (user.expiresAt ?? Infinity);
        return put({ ...changed, revision: toRevision(sequence) }, takesAway);
      }),

    revoke: (key, call) =>
      database.write(call, ({ sequence, now }) => {
        const user = existing(key);
        if (user.status === "revoked") return same(user);
        checkLastAdmin(user, now);
        return put({ ...user, status: "revoked", revokedAt: now, revision: toRevision(sequence) }, true);
      }),

    reinstate: (key, call) =>
      database.write(call, ({ sequence }) => {
        const user = existing(key);
        if (user.status === "active") return same(user);
        return put({ ...user, status: "active", revokedAt: undefined, revision: toRevision(sequence) });
      }),

    list: (page) =>
      answer(() => {
        const { rows, next } = tables.usersInOrder.page(cursor(page.after), page.limit);
        return { items: rows.map(userRecord), ...(next === undefined ? {} : { next: toCursor(next) }) };
      }),
  };
}

const changesOf = (user: UserRow, { role, name, expiresAt }: UserChangeInput) => ({
  role: role ?? user.role,
  name: name ?? user.name,
  expiresAt: expiresAt === undefined ? user.expiresAt : expiresAt?.getTime(),
});

const isSame = (a: UserRow, b: UserRow): boolean =>
  a.role === b.role && a.name === b.name && a.expiresAt === b.expiresAt;

function added(database: Database, input: UserInput, { sequence, now }: Transaction): Step<User> {
  if (database.view.user(input.key) !== undefined) throw userExists(input.key);
  return put({
    ordinal: database.nextUser(),
    key: input.key,
    role: input.role,
    status: "active",
    name: input.name,
    createdAt: now,
    revokedAt: undefined,
    expiresAt: input.expiresAt?.getTime(),
    revision: toRevision(sequence),
  });
}
