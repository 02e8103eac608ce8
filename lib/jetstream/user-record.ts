/** The records of users and of the guard of the admins: what stands in `users`. */
import type { UserFacts } from "../rules.js";
import type { User } from "../store.js";
import type { Entry } from "./entry.js";
import { Fields, once } from "./record-fields.js";
import type { Seq } from "./seq.js";
import { NO_WRITES, type Predecessor, type WriteHistory } from "./write-history.js";

/** A user as callers see it. */
export interface UserRow {
  readonly key: string;
  readonly v: number;
  readonly admin: boolean;
  readonly revokedAt: number | undefined;
  readonly name: string;
  readonly createdAt: number;
  readonly expiresAt: number | undefined;
  /**
   * Counts what was taken away from the user, so that two states between which something was differ in it. Never more
   * than `v`. A version of the library that does not know it drops it: then `v` counts, which is more than any number
   * before.
   */
  readonly grant: number;
}

/** A change that counts once the guard names its attempt. While the guard is still at `guard`, that can come. */
export interface StagedChange {
  readonly attempt: string;
  readonly guard: Seq<"users">;
}

/** What the rules need to know of a user. */
export const factsOf = (user: UserRow): UserFacts => ({
  role: user.admin ? "admin" : "member",
  status: user.revokedAt === undefined ? "active" : "revoked",
  expiresAt: user.expiresAt,
});

export interface UserRecord extends WriteHistory<"users"> {
  readonly user: UserRow | undefined;
  readonly stage: StagedChange | undefined;
}

export interface UserSlot {
  readonly seq: Seq<"users">;
  readonly record: UserRecord;
}

/** An admin among those whose time lasts longest. `until` is `undefined` where it does not run out. */
export interface LongestAdmin {
  readonly key: string;
  readonly until: number | undefined;
}

/** The one record that every change of an active admin goes through. Its size has a bound. */
export interface Guard extends WriteHistory<"users"> {
  /** Any user is, or was, an admin. */
  readonly ever: boolean;
  /** Active admins, also those whose time has run out. */
  readonly admins: number;
  /** Those whose time lasts longest, longest first: no other admin lasts longer than the last of them. */
  readonly witnesses: readonly LongestAdmin[];
  /** The change that this record committed. It may not stand in the user's record yet, which is at sequence `seq`. */
  readonly head:
    | {
        readonly attempt: string;
        readonly seq: Seq<"users">;
        readonly user: UserRow;
        /** Whether the change ended a grant. A version of the library that does not know it does not say. */
        readonly ended?: boolean | undefined;
      }
    | undefined;
}

export interface GuardSlot {
  readonly seq: Seq<"users">;
  readonly guard: Guard;
}

function userRow(fields: Fields): UserRow {
  return {
    key: fields.text("key"),
    v: fields.number("v"),
    admin: fields.flag("admin"),
    revokedAt: fields.maybeNumber("revokedAt"),
    name: fields.text("name"),
    createdAt: fields.number("createdAt"),
    expiresAt: fields.maybeNumber("expiresAt"),
    grant: fields.maybeNumber("grant") ?? fields.number("v"),
  };
}

/** The record as a write follows upon it. */
export const toFollow = ({ seq, record }: UserSlot): Predecessor<"users"> => ({
  seq,
  written: record,
  state: record.user?.grant ?? -1,
});

const NO_USER: UserSlot = { seq: 0, record: { ...NO_WRITES, user: undefined, stage: undefined } };

export const readUser = (entry: Entry<"users"> | undefined): UserSlot =>
  entry === undefined ? NO_USER : userSlot(entry);

const userSlot = once((entry: Entry<"users">): UserSlot => {
  const fields = new Fields(entry.value, entry);
  const user = fields.maybe("user");
  const stage = fields.maybe("stage");
  const { n, first, log, from, seqs, states } = fields.written<"users">();
  const record: UserRecord = {
    n,
    first,
    log,
    from,
    seqs,
    states,
    user: user === undefined ? undefined : userRow(user),
    stage: stage === undefined ? undefined : { attempt: stage.text("attempt"), guard: stage.seq("users", "guard") },
  };
  return {
    get seq() {
      return entry.seq;
    },
    record,
  };
});

const NO_GUARD: GuardSlot = { seq: 0, guard: { ...NO_WRITES, ever: false, admins: 0, witnesses: [], head: undefined } };

export const readGuard = (entry: Entry<"users"> | undefined): GuardSlot =>
  entry === undefined ? NO_GUARD : guardSlot(entry);

const guardSlot = once((entry: Entry<"users">): GuardSlot => {
  const fields = new Fields(entry.value, entry);
  const head = fields.maybe("head");
  const headUser = head?.maybe("user");
  const { n, first, log, from, seqs } = fields.written<"users">();
  return {
    get seq() {
      return entry.seq;
    },
    guard: {
      n,
      first,
      log,
      from,
      seqs,
      ever: fields.flag("ever"),
      admins: fields.number("admins"),
      witnesses: fields.list("witnesses").map((item) => {
        const witness = new Fields(item, entry);
        return { key: witness.text("key"), until: witness.maybeNumber("until") };
      }),
      head:
        head === undefined || headUser === undefined
          ? undefined
          : {
              attempt: head.text("attempt"),
              seq: head.seq("users", "seq"),
              user: userRow(headUser),
              ended: head.maybeFlag("ended"),
            },
    },
  };
});

export function toUser(row: UserRow): User {
  return {
    key: row.key,
    role: row.admin ? "admin" : "member",
    status: row.revokedAt === undefined ? "active" : "revoked",
    name: row.name,
    createdAt: new Date(row.createdAt),
    ...(row.revokedAt === undefined ? {} : { revokedAt: new Date(row.revokedAt) }),
    ...(row.expiresAt === undefined ? {} : { expiresAt: new Date(row.expiresAt) }),
    revision: String(row.v),
  };
}
