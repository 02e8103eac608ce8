/** A store whose calls meet the faults of a plan, for the tests of apps. */
import { OP_TIMEOUT_MS } from "../authorization.js";
import * as args from "../arguments.js";
import { MembershipStore, driverOf, type DriverAccess } from "../membership-store.js";
import type { Store } from "../store.js";
import { faultyDriver } from "./driver.js";
import { Faults, type FaultPlan, type MetFault } from "./plan.js";

/** A {@link Store} whose calls meet faults: see {@link faulty}. */
export interface FaultyStore extends Store {
  /** Gives it another plan, from the next call on, and counts anew. `[]`: no faults. */
  setPlan(plan: FaultPlan): void;
  /** The faults that calls have met, the oldest first. */
  readonly met: readonly MetFault[];
}

/** The drivers of stores with faults, so that such a store can be given more of them. */
const drivers = new WeakMap<object, DriverAccess>();

/**
 * The same store, but its calls fail, hang, come late or are denied, as the plan says: so a test sees what an app does
 * while its store is dead. Everything else is as with the real one: arguments are checked, every call ends within its
 * time, checks never reject, sessions end when nothing was proved for too long. No fault makes a check `true`.
 *
 * `isAuthorized` and its kin meet the same faults as the methods. So does a copy of the store, `{ ...store }`. Closing
 * it closes the store inside. Checks are asked each time: a `maxStalenessMs` is not used. `exportStore`, `importStore`,
 * `migrate` and `inspect` refuse it: give them the store inside.
 *
 * `store` is one that this package opened, out of the same build as this function (ES modules or CommonJS). Anything
 * else is `INVALID_ARGUMENT`: put a store of your own around the faulty one.
 *
 * @example
 * const store = faulty(await openMemory({ opTimeoutMs: 50 }), { on: "authorize", fault: "hang" });
 * await isAuthorized(store, "a1b2"); // false, after 50 ms
 *
 * @example
 * // The second write is done, but nobody hears of it: `error.outcome` is "unknown".
 * const store = faulty(await openMemory(), { on: "writes", from: 2, times: 1, fault: "fail", done: true });
 *
 * @example
 * const store = faulty(await openMemory({ opTimeoutMs: 50 }), { seed: 7, rate: 0.2 });
 */
export function faulty(store: Store, plan: FaultPlan): FaultyStore {
  const inside = driverOf(store) ?? drivers.get(store);
  if (inside === undefined) throw args.invalid("store", "a store of this package, out of the same build as `faulty`");
  const faults = new Faults(plan);
  const driver = faultyDriver({ ...inside, close: () => store.close() }, (call) => faults.next(call));
  const own = new MembershipStore(driver, inside.opTimeoutMs);
  const { backend, rooms, members, roomKeys, users } = own;
  // Every method is its own property. So a copy has all of them, and each one comes here.
  const made: FaultyStore & { readonly [OP_TIMEOUT_MS]: number } = {
    backend,
    rooms,
    members,
    roomKeys,
    users,
    authorize: (key, options) => own.authorize(key, options),
    isAuthorized: (key, options) => own.isAuthorized(key, options),
    isAdmin: (key, options) => own.isAdmin(key, options),
    isMember: (roomId, endpoint, options) => own.isMember(roomId, endpoint, options),
    hasAdmin: (options) => own.hasAdmin(options),
    session: (key, options) => own.session(key, options),
    watch: (options) => own.watch(options),
    close: () => own.close(),
    [Symbol.asyncDispose]: () => own.close(),
    setPlan: (next) => {
      faults.plan = next;
    },
    met: faults.met,
    // The functions over any store keep the time of this one.
    [OP_TIMEOUT_MS]: inside.opTimeoutMs,
  };
  const access = driverOf(own);
  if (access !== undefined) drivers.set(made, access);
  return Object.freeze(made);
}
