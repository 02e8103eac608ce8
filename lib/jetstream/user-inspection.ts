/** What is looked at of `users`: each record, its stage, and the guard against all admins. */
import type { Call } from "../call.js";
import { isCorrupt } from "../errors.js";
import { named, type Found } from "../findings.js";
import { MAX_WITNESSES } from "./admin-guard.js";
import type { Entry } from "./entry.js";
import { EVERYTHING, keys, parseUser } from "./keys.js";
import type { ProvedBucket } from "./proved-bucket.js";
import { unlessCorrupt } from "./record-fields.js";
import type { UserState } from "./user-cache.js";
import {
  readGuard,
  readUser,
  type Guard,
  type GuardSlot,
  type LongestAdmin,
  type UserRow,
  type UserSlot,
} from "./user-record.js";
import type { UserViews } from "./user-views.js";
import type { WriteHistory } from "./write-history.js";

/** How often all users are looked through for admins, where these change meanwhile, or something seems wrong. */
const ATTEMPTS = 4;
const EXTEND_EVERY = 512;

const error = (code: Found["code"], record: string, message: string): Found => ({
  code,
  message,
  record,
  repaired: false,
});

const HEAD_LOST =
  "The last change of an admin that the guard has committed is not staged where it says. Which of both is right nobody can tell: change that user once more";

const isCount = (value: number): boolean => Number.isSafeInteger(value) && value >= 0;

interface Admins {
  /** Until when each of them is an admin who is not revoked. */
  readonly until: ReadonlyMap<string, number | undefined>;
  /** Whether anybody is an admin, revoked or not. */
  readonly hasAny: boolean;
}

export class UserInspection {
  readonly #users: ProvedBucket<"users", UserState>;
  readonly #views: UserViews;
  readonly #repair: boolean;

  constructor(users: ProvedBucket<"users", UserState>, views: UserViews, repair: boolean) {
    this.#users = users;
    this.#views = views;
    this.#repair = repair;
  }

  /** What is wrong with a user's record. `"damaged"`: it cannot be read. */
  async user(entry: Entry<"users">, call: Call): Promise<Found | "damaged" | undefined> {
    const slot = unlessCorrupt(() => readUser(entry));
    if (slot === undefined) return "damaged";
    const key = parseUser(entry.key) ?? "";
    const { user } = slot.record;
    if (user !== undefined && user.key !== key) {
      const message = `It says that it is of ${named.user(user.key)}. Which of both is right nobody can tell: revoke the user, and look who wrote it`;
      return error("RECORD_MISPLACED", named.user(key), message);
    }
    if (user !== undefined && !(isCount(user.v) && user.v > 0 && isCount(user.grant))) {
      const message = "Its version, or its grant, is no number of changes. What it should be nobody can tell";
      return error("FIELD_INVALID", named.user(key), message);
    }
    if (user !== undefined && user.grant > user.v) {
      const message = "More was taken away from the user than was ever changed. It is right again with the next change";
      return error("FIELD_INVALID", named.user(key), message);
    }
    if (slot.record.stage !== undefined && (await this.#isWrongStage(key, slot, call))) {
      const message =
        "A change of an admin is staged that the guard cannot have seen so. What stands beside it counts: change the user once more";
      return error("STAGE_INVALID", named.user(key), message);
    }
    return undefined;
  }

  async #isWrongStage(key: string, { seq, record: { stage } }: UserSlot, call: Call): Promise<boolean> {
    if (stage === undefined) return false;
    const slot = await this.#guardNow(call);
    if (slot === undefined) return false;
    const { head } = slot.guard;
    const isOfHead = head?.attempt === stage.attempt;
    if (stage.guard <= slot.seq && (!isOfHead || (head.seq === seq && head.user.key === key))) return false;
    // It may have been changed since it was met.
    return (await this.#users.stands(keys.user(key), seq, call)) !== undefined;
  }

  /** `undefined`: it is damaged, which is told where it is met. */
  async #guardNow(call: Call): Promise<GuardSlot | undefined> {
    try {
      return readGuard((await this.#users.readLinearizable(keys.admins, call)).entry);
    } catch (error) {
      if (isCorrupt(error)) return undefined;
      throw error;
    }
  }

  /** The guard against the admins that there are. */
  async guard(call: Call): Promise<readonly Found[]> {
    let before: string | undefined;
    for (let i = 0; i < ATTEMPTS; i++) {
      const slot = await this.#guardNow(call);
      if (slot === undefined) return [];
      const admins = await this.#admins(call);
      // Every change of an active admin changes it: what was met is then all of one moment.
      if (slot.seq > 0 && (await this.#users.stands(keys.admins, slot.seq, call)) === undefined) continue;
      const what = (await this.#isHeadLost(slot.guard, call)) ? HEAD_LOST : faultOf(slot.guard, admins);
      if (what === undefined) return [];
      // A replica can have missed a user.
      if (what === before) return [await this.#mend(what, slot, admins, call)];
      before = what;
    }
    return [];
  }

  /** Whether the last change that the guard has committed stands nowhere else. */
  async #isHeadLost({ head }: Guard, call: Call): Promise<boolean> {
    if (head === undefined) return false;
    const { entry } = await this.#users.readLinearizable(keys.user(head.user.key), call);
    const slot = unlessCorrupt(() => readUser(entry));
    if (slot === undefined) return false;
    const { seq, record } = slot;
    return seq < head.seq || (seq === head.seq && record.stage?.attempt !== head.attempt);
  }

  /**
   * That nobody is taken for an admin who is none, and that nobody becomes the first one, takes away. Anything else
   * might not.
   */
  async #mend(what: string, seen: GuardSlot, admins: Admins, call: Call): Promise<Found> {
    const { guard } = seen;
    const found = error("ADMIN_GUARD", "users: admins", what);
    if (what === HEAD_LOST) return found;
    const right = rightGuard(guard, admins);
    const grants = horizonOf(right.witnesses) > horizonOf(guard.witnesses);
    const why =
      "It is not mended, since hasAdmin would be true where it is false: add an admin whose time does not run out, and repair then";
    const told = grants ? { ...found, message: `${what}. ${why}` } : found;
    if (!this.#repair || (grants && right.ever === guard.ever)) return told;
    const next = grants ? { ...guard, ever: right.ever } : right;
    const before = { seq: seen.seq, written: guard };
    const make = (written: WriteHistory<"users">): Guard => ({ ...next, ...written });
    const written = await this.#users.append(keys.admins, before, make, call, "step");
    return { ...told, repaired: written !== undefined && !grants };
  }

  async #admins(call: Call): Promise<Admins> {
    const until = new Map<string, number | undefined>();
    const staged = new Set<string>();
    let hasAny = false;
    const consider = (key: string, user: UserRow | undefined): void => {
      // Met again, it was changed meanwhile.
      until.delete(key);
      hasAny ||= user?.admin === true;
      if (user?.admin === true && user.revokedAt === undefined) until.set(key, user.expiresAt);
    };
    let looked = 0;
    let last = performance.now();
    await this.#users.scans.scan(EVERYTHING, call, { end: () => this.#users.readIndex(call) }, (entry) => {
      if (++looked % EXTEND_EVERY === 0) {
        const now = performance.now();
        call.extend(now - last);
        last = now;
      }
      const key = parseUser(entry.key);
      const slot = key === undefined ? undefined : unlessCorrupt(() => readUser(entry));
      if (key === undefined || slot === undefined) return "go on";
      staged.delete(key);
      if (slot.record.stage === undefined) consider(key, slot.record.user);
      else staged.add(key);
      return "go on";
    });
    for (const key of staged) consider(key, (await this.#views.read(key, true, "certain", call)).user);
    return { until, hasAny };
  }
}

const untilOf = (until: number | undefined): number => until ?? Number.POSITIVE_INFINITY;

/** Until when it says that there is an admin. */
function horizonOf(witnesses: readonly LongestAdmin[]): number {
  return Math.max(Number.NEGATIVE_INFINITY, ...witnesses.map(({ until }) => untilOf(until)));
}

function longest({ until }: Admins): LongestAdmin[] {
  const admins = Array.from(until, ([key, time]): LongestAdmin => ({ key, until: time }));
  return admins.sort((a, b) => (untilOf(a.until) < untilOf(b.until) ? 1 : -1)).slice(0, MAX_WITNESSES);
}

function rightGuard(guard: Guard, admins: Admins): Guard {
  return { ...guard, ever: guard.ever || admins.hasAny, admins: admins.until.size, witnesses: longest(admins) };
}

/** What the guard says that is not so. */
function faultOf({ ever, admins: count, witnesses }: Guard, { until, hasAny }: Admins): string | undefined {
  if (hasAny && !ever) return "There is an admin, and the guard says that there never was one";
  if (count !== until.size)
    return `The guard counts ${String(count)} admins who are not revoked, and there are ${String(until.size)}`;
  const names = new Set(witnesses.map(({ key }) => key));
  if (names.size !== witnesses.length) return "The guard names an admin twice";
  for (const { key, until: time } of witnesses) {
    if (!until.has(key)) return `The guard names ${named.user(key)}, who is no admin, or is revoked`;
    if (until.get(key) !== time) return `The guard has another time of ${named.user(key)} than the record`;
  }
  if (until.size > 0 && witnesses.length === 0) return "The guard names none of the admins";
  const shortest = Math.min(Number.POSITIVE_INFINITY, ...witnesses.map((witness) => untilOf(witness.until)));
  for (const [key, time] of until)
    if (!names.has(key) && untilOf(time) > shortest)
      return `The guard does not name ${named.user(key)}, who lasts longer than others that it names`;
  return undefined;
}
