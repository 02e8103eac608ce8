/**
 * How high the versions of users are, which their revisions say. A store that takes the users over begins above, so
 * that no revision comes again (docs/protocol.md, V7).
 */
import type { Call } from "../call.js";
import { MAX_REVISION_FLOOR } from "../rules.js";
import { floorOf, readState } from "./importing.js";
import { parseUser } from "./keys.js";
import type { Writable } from "./record-writer.js";
import type { Seq } from "./seq.js";
import type { PageOfUsers } from "./user-pages.js";
import { readUser } from "./user-record.js";

/**
 * How many versions of users an export, or a migration, leaves room for, beside as many as there were. Others write
 * meanwhile.
 */
const VERSIONS_MEANWHILE = 10_000_000;
/**
 * As many messages as `users` may have had for their number to stand for that of versions. Barriers are messages too: a
 * log that had more may well have few versions, and a store gives out only so many revisions.
 */
const FEW = 500_000_000;
/** What is left where the versions were counted: messages for hours of the busiest store. */
const MANY_MEANWHILE = 250_000_000;
/** Users that are looked at in one step. */
const USERS = 500;

/** What versions of users were given so far, and what may be given meanwhile. */
export interface UserVersions {
  /** No user has, or had, a higher one. */
  readonly highest: number;
  /** Nor will one have in the next hours. */
  readonly meanwhile: number;
  /** Where the log was when this was so. */
  readonly asOf: Seq<"users">;
}

/** `before`: what was found some time ago. Every version since then was a message. */
export async function userVersions(
  { users, userPages }: Pick<Writable, "users" | "userPages">,
  before: UserVersions | undefined,
  call: Call,
): Promise<UserVersions> {
  const floor = floorOf((await readState(users, call)).value);
  const asOf = await users.readIndex(call);
  if (before !== undefined) {
    const highest = Math.max(floor, before.highest) + asOf - before.asOf;
    return { highest, meanwhile: highest + before.meanwhile - before.highest, asOf };
  }
  // Each version of a user was a message, except the versions that an import began with.
  const most = floor + asOf;
  if (most <= FEW) return { highest: most, meanwhile: most + asOf + VERSIONS_MEANWHILE, asOf };
  let highest = floor;
  for (let after: Seq<"users"> | undefined = 0; after !== undefined;) {
    const began = performance.now();
    const page: PageOfUsers = await userPages.page(after, USERS, ({ key }) => parseUser(key) !== undefined, call);
    for (const entry of page.entries) highest = Math.max(highest, readUser(entry).record.user?.v ?? 0);
    after = page.next;
    // It is stuck only if nothing goes forward.
    call.extend(performance.now() - began);
  }
  // What was staged has the next version, and what has changed meanwhile is a message.
  const now = highest + 1 + users.highestSeen - asOf;
  return { highest: now, meanwhile: now + MANY_MEANWHILE, asOf: users.highestSeen };
}

/** The revision of a version of a user, as a number. */
export const revisionOf = (version: number): number =>
  Math.min(Number.parseInt(String(version), 36), MAX_REVISION_FLOOR);

/**
 * A version of a user whose revision is above `floor`, as are all later ones. A revision is the version in decimal
 * digits, and is compared as a number to the base of 36. So the decimal digits with which `floor` begins are raised by
 * one, and zeros take the place of the others.
 */
export function versionAbove(floor: number): number {
  const digits = floor.toString(36);
  const letter = digits.search(/[a-z]/);
  const head = letter < 0 ? digits : digits.slice(0, letter);
  const next = String(Number(head === "" ? "0" : head) + 1);
  return Number(letter < 0 ? next : next + "0".repeat(digits.length - letter));
}
