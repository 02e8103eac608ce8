/** A user as it stands: the record, and the guard of the admins where it has a say. */
import type { Call } from "../call.js";
import { asRead, type Freshness, type Read } from "./freshness.js";
import { joinBoth } from "./join.js";
import { keys } from "./keys.js";
import type { ProvedBucket } from "./proved-bucket.js";
import { RetryLoop } from "./retry-loop.js";
import type { UserState } from "./user-cache.js";
import { readGuard, readUser, type GuardSlot, type UserRow, type UserSlot } from "./user-record.js";

/** A user, and the guard where it has a say. */
export interface UserView {
  readonly slot: UserSlot;
  /** Read only where the change of an admin is staged or wanted. */
  readonly guard: GuardSlot | undefined;
  /** What counts: the record's own value, or the staged one where the guard has committed it. */
  readonly user: UserRow | undefined;
}

export interface GuardedView extends UserView {
  readonly guard: GuardSlot;
}

/**
 * What counts of a record: the staged value, where the guard has committed it. A record without a stage needs no guard.
 */
export function counts({ record }: UserSlot, guard: GuardSlot | undefined): UserRow | undefined {
  const { stage, user } = record;
  const head = guard?.guard.head;
  return stage !== undefined && head?.attempt === stage.attempt ? head.user : user;
}

export class UserViews {
  readonly #bucket: ProvedBucket<"users", UserState>;

  constructor(bucket: ProvedBucket<"users", UserState>) {
    this.#bucket = bucket;
  }

  /** A user, with the guard where it is needed. */
  async read<F extends Freshness>(
    key: string,
    withGuard: boolean,
    freshness: F,
    call: Call,
  ): Promise<Read<UserView, F>> {
    const view = await (freshness === "any"
      ? this.#ofAnyReplica(key, withGuard, call)
      : this.#certain(key, withGuard, call));
    return asRead(freshness, view);
  }

  /** What the conditions of a commit do not hold, it is not. */
  async #ofAnyReplica(key: string, withGuard: boolean, call: Call): Promise<UserView> {
    const [user, admins] = await joinBoth(
      this.#bucket.get(keys.user(key), call),
      withGuard ? this.#bucket.get(keys.admins, call) : undefined,
    );
    if (withGuard && admins === undefined) return this.#certain(key, true, call);
    const slot = readUser(user);
    const guard = withGuard ? readGuard(admins) : undefined;
    return { slot, guard, user: counts(slot, guard) };
  }

  /** At one moment after this call. A user who is not there is surely not there. */
  async #certain(key: string, withGuard: boolean, call: Call): Promise<UserView> {
    const recordKey = keys.user(key);
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      const guard = withGuard ? await this.#bucket.readLinearizable(keys.admins, call) : undefined;
      const { entry } = await this.#bucket.readLinearizable(recordKey, call);
      // The guard is there since the opening: an answer without it proves nothing.
      if (guard?.entry === undefined && withGuard) continue;
      const slot = readUser(entry);
      if (guard === undefined && slot.record.stage !== undefined) return this.#certain(key, true, call);
      // The user stands there since before the moment of the guard: both are as of that moment.
      if (guard !== undefined && slot.seq > guard.asOf) continue;
      const guardSlot = guard === undefined ? undefined : readGuard(guard.entry);
      return { slot, guard: guardSlot, user: counts(slot, guardSlot) };
    }
  }
}
