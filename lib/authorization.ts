/**
 * The fail-closed checks. A check always resolves in time, and allows only if an allow was proved in time. The methods
 * of our stores and the functions over any store end in the same {@link decide}, within a {@link Call}.
 */
import { DEFAULT_OP_TIMEOUT_MS, checkOptions, id, opTimeout, signKey } from "./arguments.js";
import type { Bounds } from "./arguments.js";
import { Call } from "./call.js";
import type { Answering } from "./call.js";
import { isStoreError } from "./errors.js";
import { isActive } from "./rules.js";
import type { UserFacts } from "./rules.js";
import type { CheckOptions, Decision, Denial, Proof, Store, User } from "./store.js";

/**
 * The property that holds a store's `opTimeoutMs`. Every copy of the library in a process reads it: the ES modules, the
 * CommonJS build, the testing entry, another version. Copies share no module, and so no secret: any object can have
 * this property. That is why it gives no trust, only time:
 *
 * - A store of this very copy is believed as it is. Its private `#own` proves that it is one: no copy of the object,
 *   no object that inherits from it and no proxy of it can have that.
 * - Any other store, one of another copy or a stranger, has to give the proof itself, within a deadline of our own. A
 *   forged property moves that deadline within the bounds of `opTimeoutMs`.
 *
 * A shared `WeakSet` on `globalThis` would be as easy to forge, and would be state of the whole process.
 */
export const OP_TIMEOUT_MS = Symbol.for("unibus-membership.opTimeoutMs");

/** A store of this copy. Its checks keep the time and never reject, so that nothing is put around them. */
export abstract class OwnStore {
  readonly #own = true;
  readonly [OP_TIMEOUT_MS]: number;

  constructor(opTimeoutMs: number) {
    this[OP_TIMEOUT_MS] = opTimeoutMs;
    // Not enumerable: an object that spreads this store does not get it.
    Object.defineProperty(this, OP_TIMEOUT_MS, { enumerable: false, writable: false, configurable: false });
  }

  static includes(store: object): boolean {
    return #own in store && store.#own;
  }
}

/** The time that a store of another copy has by default; a stranger's is the library's. */
function opTimeoutOf(store: object): number {
  try {
    return opTimeout((store as { readonly [OP_TIMEOUT_MS]?: unknown })[OP_TIMEOUT_MS], "opTimeoutMs");
  } catch {
    return DEFAULT_OP_TIMEOUT_MS;
  }
}

export function denied(reason: Denial["reason"], error?: unknown): Denial {
  return error === undefined ? { allowed: false, reason } : { allowed: false, reason, error };
}

/** A record as the rules see it. */
export function factsOf(user: User): UserFacts {
  return { role: user.role, status: user.status, expiresAt: user.expiresAt?.getTime() };
}

/** The decision that a user record proves at `now`, in milliseconds since 1970. */
export function decide(user: User | undefined, now: number, proof?: Proof): Decision {
  if (user !== undefined && isActive(factsOf(user), now)) {
    const [allowed, reason] = [true, "active"] as const;
    return proof === undefined ? { allowed, reason, user } : { allowed, reason, user, proof };
  }
  const allowed = false;
  const reason = user === undefined ? "unknown" : user.status === "active" ? "expired" : "revoked";
  return proof === undefined ? { allowed, reason } : { allowed, reason, proof };
}

/** Why nothing could be proved. What is not known to be harmless is `unavailable`. */
export function denialOf(error: unknown, aborted: boolean): Denial {
  if (aborted) return denied("aborted", error);
  if (!isStoreError(error)) return denied("unavailable", error);
  switch (error.code) {
    case "TIMEOUT":
      return denied("timeout", error);
    case "CLOSED":
      return denied("closed", error);
    case "INVALID_ARGUMENT":
      return denied("malformed", error);
    case "NOT_FOUND":
    case "ALREADY_EXISTS":
    case "CONFLICT":
    case "UNAVAILABLE":
    case "LOCKED":
    case "CORRUPT":
    case "INCOMPATIBLE":
    default:
      return denied("unavailable", error);
  }
}

const DENYING: Answering<boolean, boolean> = { failed: () => false, last: (answer) => answer };

/** What a store of anybody says is believed only in the exact form of a proof. */
function provesActive(decision: unknown, key: string, now: number): decision is Extract<Decision, { allowed: true }> {
  if (typeof decision !== "object" || decision === null) return false;
  const { allowed, reason, user } = decision as { allowed?: unknown; reason?: unknown; user?: Partial<User> | null };
  if (allowed !== true || reason !== "active" || typeof user !== "object" || user === null) return false;
  if (user.key !== key || user.status !== "active") return false;
  if (user.expiresAt === undefined) return true;
  return user.expiresAt instanceof Date && now < user.expiresAt.getTime();
}

function checked(
  store: Store,
  options: CheckOptions | undefined,
  ask: (limits: CheckOptions) => Promise<boolean>,
): Promise<boolean> {
  let bounds: Bounds;
  try {
    if (typeof store !== "object" || (store as unknown) === null) return Promise.resolve(false);
    bounds = checkOptions(options);
  } catch {
    return Promise.resolve(false);
  }
  const timeoutMs = bounds.timeoutMs ?? opTimeoutOf(store);
  const limits: CheckOptions = { timeoutMs };
  if (bounds.signal !== undefined) limits.signal = bounds.signal;
  return new Call(bounds, timeoutMs, "read").answer(() => ask(limits), DENYING);
}

const isOwn = (store: unknown): boolean => typeof store === "object" && store !== null && OwnStore.includes(store);

/**
 * Whether the user may come in: `true` only if the store proved it within the time.
 *
 * Works over any {@link Store}, also one written by somebody else: it never rejects and never takes longer than
 * `timeoutMs` (default: the store's `opTimeoutMs`; 2000 ms for a store that is not ours). `false` proves nothing.
 *
 * @example
 * if (!(await isAuthorized(store, request.signKey))) return refuse();
 */
export function isAuthorized(store: Store, key: string, options?: CheckOptions): Promise<boolean> {
  if (isOwn(store)) return store.isAuthorized(key, options);
  return checked(store, options, async (limits) => {
    const folded = signKey(key, "key");
    return provesActive(await store.authorize(folded, limits), folded, Date.now());
  });
}

/** Whether the user may come in, and is an admin. Fails closed as {@link isAuthorized} does. */
export function isAdmin(store: Store, key: string, options?: CheckOptions): Promise<boolean> {
  if (isOwn(store)) return store.isAdmin(key, options);
  return checked(store, options, async (limits) => {
    const folded = signKey(key, "key");
    const decision: unknown = await store.authorize(folded, limits);
    return provesActive(decision, folded, Date.now()) && decision.user.role === "admin";
  });
}

/** Whether the endpoint has joined the room. Users are not consulted. Fails closed as {@link isAuthorized} does. */
export function isMember(store: Store, roomId: string, endpoint: string, options?: CheckOptions): Promise<boolean> {
  if (isOwn(store)) return store.isMember(roomId, endpoint, options);
  return checked(store, options, async (limits) => {
    const answer: unknown = await store.isMember(id(roomId, "roomId"), id(endpoint, "endpoint"), limits);
    return answer === true;
  });
}

/**
 * Whether at least one active admin exists. Fails closed as {@link isAuthorized} does.
 *
 * `false` is never proof of the opposite: `if (!(await hasAdmin(store))) letAnybodyIn()` is a hole. To set up the first
 * admin, call `store.users.addFirstAdmin`, which is atomic.
 */
export function hasAdmin(store: Store, options?: CheckOptions): Promise<boolean> {
  if (isOwn(store)) return store.hasAdmin(options);
  return checked(store, options, async (limits) => {
    const answer: unknown = await store.hasAdmin(limits);
    return answer === true;
  });
}
