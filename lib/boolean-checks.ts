/**
 * The checks that answer `true` or `false`. Where somebody listens, each tells its reason, and what it rests on. It is
 * the same code in both cases: whoever listens changes no answer.
 */
import * as args from "./arguments.js";
import { denialOf } from "./authorization.js";
import type { Bounds, CheckBounds } from "./arguments.js";
import type { Answering, Call } from "./call.js";
import { decisions, type DecisionMessage } from "./diagnostics.js";
import type { CheckReads, ProofNote, SyncCheckReads } from "./driver.js";
import { StoreError } from "./errors.js";
import { isActive } from "./rules.js";
import type { UserFacts } from "./rules.js";
import { isAborted } from "./signal.js";
import type { CheckOptions, Decision, Proof } from "./store.js";

/** What a store has for its checks. */
export interface CheckSource {
  readonly backend: string;
  readonly checks: CheckReads;
  isClosed(): boolean;
  /** Asks, and answers in time. */
  decided<T, R>(bounds: Bounds, ask: (call: Call) => Promise<T>, answering: Answering<T, R>): Promise<R>;
}

type Reason = Decision["reason"];

const UNHEARD: Answering<Reason, boolean> = {
  failed: () => "unavailable",
  last: (reason) => reason === "active",
};

/** A check that somebody hears of. */
class Heard implements ProofNote, Answering<Reason, boolean> {
  readonly #source: CheckSource;
  readonly #check: DecisionMessage["check"];
  readonly began = performance.now();
  #error: unknown;
  /** Who is asked about. Not set before it was checked. */
  key: string | undefined;
  roomId: string | undefined;
  endpoint: string | undefined;
  /** What the driver says. */
  since: ProofNote["since"];
  of: ProofNote["of"];
  place: ProofNote["place"];
  /** When memory alone had the answer, in milliseconds since 1970. */
  currentAt: number | undefined;

  constructor(source: CheckSource, check: DecisionMessage["check"]) {
    this.#source = source;
    this.#check = check;
  }

  failed(error: unknown, aborted: boolean): Reason {
    const { reason, error: why } = denialOf(error, aborted);
    this.#error = why;
    this.restOnNothing();
    return reason;
  }

  /** Something may have been proved before it failed, or was found to be aborted. */
  restOnNothing(): void {
    this.since = undefined;
    this.currentAt = undefined;
  }

  last(reason: Reason, now: number): boolean {
    const allowed = reason === "active";
    const message = this.#message(allowed, reason, this.#proof(now), now - this.began);
    if (this.#error !== undefined) message.error = this.#error;
    decisions.publish(message);
    return allowed;
  }

  #proof(now: number): Proof | undefined {
    const { checks } = this.#source;
    if (checks.synchronous) return this.currentAt === undefined ? undefined : checks.proof(this.currentAt);
    return this.since === undefined ? undefined : checks.proof(this, now, Date.now());
  }

  /** Each kind is written as a whole: an object that is put together costs many times as much. */
  #message(
    allowed: boolean,
    reason: Reason,
    proof: Proof | undefined,
    durationMs: number,
  ): DecisionMessage & { error?: unknown } {
    const check = this.#check;
    const { backend } = this.#source;
    const { key, roomId, endpoint } = this;
    if (key !== undefined) return { check, backend, key, allowed, reason, proof, durationMs };
    if (roomId !== undefined) return { check, backend, roomId, endpoint, allowed, reason, proof, durationMs };
    return { check, backend, allowed, reason, proof, durationMs };
  }
}

export class BooleanChecks {
  readonly #source: CheckSource;
  readonly #checks: CheckReads;

  constructor(source: CheckSource) {
    this.#source = source;
    this.#checks = source.checks;
  }

  user(check: "isAuthorized" | "isAdmin", key: string, options: CheckOptions | undefined): Promise<boolean> {
    const checks = this.#checks;
    const heard = this.#heard(check);
    const ofAdmins = check === "isAdmin";
    let bounds: CheckBounds;
    let folded: string = key;
    try {
      if (this.#source.isClosed()) return ended("closed", heard);
      bounds = args.checkOptions(options);
      // Keys are kept folded. So only one that is not found needs to be folded.
      let facts = this.#known(key, bounds, heard);
      if (facts === undefined) {
        folded = args.signKey(key, "key");
        if (folded !== key) facts = this.#known(folded, bounds, heard);
      }
      if (heard !== undefined) heard.key = folded;
      if (isAborted(bounds.signal)) {
        heard?.restOnNothing();
        return ended("aborted", heard);
      }
      if (checks.synchronous) {
        const reason = reasonOf(facts, ofAdmins);
        if (isFinal(reason, checks, heard)) return ended(reason, heard);
      } else if (facts !== undefined) {
        return ended(reasonOf(facts, ofAdmins), heard);
      }
    } catch (error) {
      return refused(error, heard);
    }
    return this.#decided(
      bounds,
      checks.synchronous
        ? () => renewed(checks, () => reasonOf(checks.facts(folded), ofAdmins), heard)
        : (call) => checks.facts(folded, call, heard).then((facts) => reasonOf(facts, ofAdmins)),
      heard,
    );
  }

  /** What memory has of the user, if a check may rest on that. Of a key that was not checked, too. */
  #known(key: string, { maxStalenessMs }: CheckBounds, heard: Heard | undefined): UserFacts | undefined {
    const checks = this.#checks;
    if (checks.synchronous) return checks.facts(key);
    const most = maxStalenessMs ?? checks.maxStalenessMs;
    return most > 0 ? checks.recentFacts(key, most, heard) : undefined;
  }

  member(roomId: string, endpoint: string, options: CheckOptions | undefined): Promise<boolean> {
    const checks = this.#checks;
    const heard = this.#heard("isMember");
    let bounds: CheckBounds;
    try {
      if (this.#source.isClosed()) return ended("closed", heard);
      bounds = args.checkOptions(options);
      let joined = checks.synchronous ? checks.joined(roomId, endpoint) : undefined;
      // Ids that are stored were checked. So ids that are found need no check.
      if (joined !== true) {
        args.id(roomId, "roomId");
        args.id(endpoint, "endpoint");
      }
      if (heard !== undefined) [heard.roomId, heard.endpoint] = [roomId, endpoint];
      if (isAborted(bounds.signal)) return ended("aborted", heard);
      if (!checks.synchronous) {
        const most = bounds.maxStalenessMs ?? checks.maxStalenessMs;
        if (most > 0) joined = checks.recentlyJoined(roomId, endpoint, most, heard);
      }
      if (joined !== undefined) {
        const reason = reasonOfJoined(joined);
        if (!checks.synchronous || isFinal(reason, checks, heard)) return ended(reason, heard);
      }
    } catch (error) {
      return refused(error, heard);
    }
    return this.#decided(
      bounds,
      checks.synchronous
        ? () => renewed(checks, () => reasonOfJoined(checks.joined(roomId, endpoint)), heard)
        : (call) => checks.joined(roomId, endpoint, call, heard).then(reasonOfJoined),
      heard,
    );
  }

  admin(options: CheckOptions | undefined): Promise<boolean> {
    const checks = this.#checks;
    const heard = this.#heard("hasAdmin");
    let bounds: CheckBounds;
    try {
      if (this.#source.isClosed()) return ended("closed", heard);
      bounds = args.checkOptions(options);
      if (isAborted(bounds.signal)) return ended("aborted", heard);
      if (checks.synchronous) {
        const now = Date.now();
        const reason = reasonOfAdmin(checks.admin(now));
        if (isFinal(reason, checks, heard, now)) return ended(reason, heard);
      } else {
        const most = bounds.maxStalenessMs ?? checks.maxStalenessMs;
        const isThere = most > 0 ? checks.recentAdmin(Date.now(), most, heard) : undefined;
        if (isThere !== undefined) return ended(reasonOfAdmin(isThere), heard);
      }
    } catch (error) {
      return refused(error, heard);
    }
    return this.#decided(
      bounds,
      checks.synchronous
        ? () => renewed(checks, () => reasonOfAdmin(checks.admin(Date.now())), heard)
        : (call) => checks.admin(Date.now, call, heard).then(reasonOfAdmin),
      heard,
    );
  }

  #heard(check: DecisionMessage["check"]): Heard | undefined {
    return decisions.hasSubscribers ? new Heard(this.#source, check) : undefined;
  }

  #decided(bounds: CheckBounds, ask: (call: Call) => Promise<Reason>, heard: Heard | undefined): Promise<boolean> {
    return this.#source.decided(bounds, ask, heard ?? UNHEARD);
  }
}

/** Whether what memory says can be said at once. A denial that nobody hears of needs no proof. */
function isFinal(reason: Reason, checks: SyncCheckReads, heard: Heard | undefined, now = Date.now()): boolean {
  if (heard === undefined && reason !== "active") return true;
  if (!checks.isCurrent(now)) return false;
  if (heard !== undefined) heard.currentAt = now;
  return true;
}

function ended(reason: Reason, heard: Heard | undefined): Promise<boolean> {
  return Promise.resolve(heard === undefined ? reason === "active" : heard.last(reason, performance.now()));
}

function refused(error: unknown, heard: Heard | undefined): Promise<boolean> {
  return heard === undefined ? Promise.resolve(false) : ended(heard.failed(error, false), heard);
}

/** The clock is read only for those whose time runs out. */
function reasonOf(user: UserFacts | undefined, ofAdmins: boolean): Reason {
  if (user === undefined) return "unknown";
  if (user.status !== "active") return "revoked";
  if (user.expiresAt !== undefined && !isActive(user, Date.now())) return "expired";
  return ofAdmins && user.role !== "admin" ? "notAdmin" : "active";
}

const reasonOfJoined = (joined: boolean): Reason => (joined ? "active" : "notMember");
const reasonOfAdmin = (isThere: boolean): Reason => (isThere ? "active" : "notAdmin");

/** The answer from memory, after the backend made sure that the memory is current. */
async function renewed(checks: SyncCheckReads, answer: () => Reason, heard: Heard | undefined): Promise<Reason> {
  await checks.renew();
  const reason = answer();
  const now = Date.now();
  if (!checks.isCurrent(now))
    throw new StoreError("UNAVAILABLE", "What the store has in memory may not be the newest state");
  if (heard !== undefined) heard.currentAt = now;
  return reason;
}
