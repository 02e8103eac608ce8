import type { UserInput } from "../arguments.js";
import type { UsersDriver } from "../driver.js";
import { checkRevision, isActiveAdmin, lastAdmin, notFirstAdmin, userExists, userNotFound } from "../rules.js";
import type { User } from "../store.js";
import { answer, pageOf } from "./memory.js";
import type { Memory, Transaction, UserEntry } from "./memory.js";
import { factsOf, userRecord } from "./rows.js";
import type { UserRow } from "./rows.js";

export function users(memory: Memory): UsersDriver {
  const existing = (key: string): UserEntry => {
    const entry = memory.users.get(key);
    if (entry === undefined) throw userNotFound(key);
    return entry;
  };

  const set = (place: number, user: UserRow): User => {
    memory.setUser(place, user);
    return userRecord(user);
  };

  const add = ({ key, role, name, expiresAt }: UserInput, { place, revision, now }: Transaction): User => {
    if (memory.users.has(key)) throw userExists(key);
    return set(place, { key, role, status: "active", name, createdAt: now, revokedAt: undefined, expiresAt, revision });
  };

  /** Before an admin stops being one. */
  const checkLastAdmin = (user: UserRow, now: Date): void => {
    const active = isActiveAdmin(factsOf(user), now.getTime());
    if (active && !memory.hasAdmin(now.getTime(), user.key)) throw lastAdmin();
  };

  return {
    add: (input, call) => memory.write(call, (transaction) => add(input, transaction)),

    addFirstAdmin: (input, call) =>
      memory.write(call, (transaction) => {
        if (memory.adminEver) throw notFirstAdmin();
        return add(input, transaction);
      }),

    get: (key) => answer(() => userRecord(existing(key).user)),

    update: (key, change, ifRevision, call) =>
      memory.write(call, ({ revision, now }) => {
        const { place, user } = existing(key);
        checkRevision(user.revision, ifRevision);
        const role = change.role ?? user.role;
        const name = change.name ?? user.name;
        const expiresAt = change.expiresAt === undefined ? user.expiresAt : (change.expiresAt ?? undefined);
        if (role !== "admin") checkLastAdmin(user, now);
        const same = role === user.role && name === user.name && expiresAt?.getTime() === user.expiresAt?.getTime();
        return same ? userRecord(user) : set(place, { ...user, role, name, expiresAt, revision });
      }),

    revoke: (key, call) =>
      memory.write(call, ({ revision, now }) => {
        const { place, user } = existing(key);
        if (user.status === "revoked") return userRecord(user);
        checkLastAdmin(user, now);
        return set(place, { ...user, status: "revoked", revokedAt: now, revision });
      }),

    reinstate: (key, call) =>
      memory.write(call, ({ revision }) => {
        const { place, user } = existing(key);
        if (user.status === "active") return userRecord(user);
        return set(place, { ...user, status: "active", revokedAt: undefined, revision });
      }),

    list: (page) => answer(() => pageOf(memory.users.values(), page, ({ user }) => userRecord(user))),
  };
}
