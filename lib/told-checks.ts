/**
 * The checks that answer `true` or `false`, where somebody listens: they answer as ever, and tell the reason, and what
 * it rests on.
 */
import * as args from "./arguments.js";
import { denialOf, denied } from "./authorization.js";
import type { Bounds } from "./arguments.js";
import type { Call } from "./call.js";
import { decisions, type DecisionMessage } from "./diagnostics.js";
import type { CheckReads, ProofNote, SyncCheckReads } from "./driver.js";
import { StoreError } from "./errors.js";
import { moment, msSince } from "./moment.js";
import { isActive } from "./rules.js";
import type { UserFacts } from "./rules.js";
import type { CheckOptions, Denial } from "./store.js";

/** What a store has for its checks. */
export interface CheckSource {
  readonly backend: string;
  readonly checks: CheckReads;
  isClosed(): boolean;
  decided<T>(
    bounds: Bounds,
    ask: (call: Call) => Promise<T>,
    fallback: (error: unknown, aborted: boolean) => T,
  ): Promise<T>;
}

/** An answer with its reason. */
type Verdict = { readonly allowed: true; readonly reason: "active" } | Denial;

const ACTIVE: Verdict = { allowed: true, reason: "active" };

/** What a check is about. */
type About = Pick<DecisionMessage, "check" | "key" | "roomId" | "endpoint">;

/** How to ask, with the arguments as they were checked. */
interface Question {
  readonly about: About;
  now(checks: SyncCheckReads): Verdict;
  recent(maxStalenessMs: number, note: ProofNote): Verdict | undefined;
  ask(call: Call, note: ProofNote): Promise<Verdict>;
}

export class ToldChecks {
  readonly #source: CheckSource;

  constructor(source: CheckSource) {
    this.#source = source;
  }

  user(check: "isAuthorized" | "isAdmin", key: string, options: CheckOptions | undefined): Promise<boolean> {
    const { checks } = this.#source;
    const judge = (facts: UserFacts | undefined): Verdict => judged(facts, check === "isAdmin");
    return this.#answer({ check }, options, () => {
      const folded = args.signKey(key, "key");
      return {
        about: { check, key: folded },
        now: (reads) => judge(reads.facts(folded)),
        recent: (maxStalenessMs, note) => {
          const facts = checks.synchronous ? undefined : checks.recentFacts(folded, maxStalenessMs, note);
          return facts === undefined ? undefined : judge(facts);
        },
        ask: async (call, note) => (checks.synchronous ? DENIED : judge(await checks.facts(folded, call, note))),
      };
    });
  }

  member(room: string, endpointId: string, options: CheckOptions | undefined): Promise<boolean> {
    const { checks } = this.#source;
    const check = "isMember";
    const judge = (joined: boolean): Verdict => (joined ? ACTIVE : denied("notMember"));
    return this.#answer({ check }, options, () => {
      const roomId = args.id(room, "roomId");
      const endpoint = args.id(endpointId, "endpoint");
      return {
        about: { check, roomId, endpoint },
        now: (reads) => judge(reads.joined(roomId, endpoint)),
        recent: (maxStalenessMs, note) => {
          const joined = checks.synchronous ? undefined : checks.recentlyJoined(roomId, endpoint, maxStalenessMs, note);
          return joined === undefined ? undefined : judge(joined);
        },
        ask: async (call, note) =>
          checks.synchronous ? DENIED : judge(await checks.joined(roomId, endpoint, call, note)),
      };
    });
  }

  admin(options: CheckOptions | undefined): Promise<boolean> {
    const { checks } = this.#source;
    const check = "hasAdmin";
    const judge = (isThere: boolean): Verdict => (isThere ? ACTIVE : denied("notAdmin"));
    return this.#answer({ check }, options, () => ({
      about: { check },
      now: (reads) => judge(reads.admin(Date.now())),
      recent: (maxStalenessMs, note) => {
        const isThere = checks.synchronous ? undefined : checks.recentAdmin(Date.now(), maxStalenessMs, note);
        return isThere === undefined ? undefined : judge(isThere);
      },
      ask: async (call, note) => (checks.synchronous ? DENIED : judge(await checks.admin(Date.now, call, note))),
    }));
  }

  /** `ask` checks the arguments. */
  #answer(what: About, options: CheckOptions | undefined, prepare: () => Question): Promise<boolean> {
    const { checks, backend } = this.#source;
    const note: ProofNote = { began: moment() };
    const tell = (about: About, { allowed, reason, error }: Verdict & { readonly error?: unknown }): boolean => {
      decisions.publish({
        ...about,
        backend,
        allowed,
        reason,
        proof: note.proof,
        durationMs: msSince(note.began),
        ...(error === undefined ? {} : { error }),
      } satisfies DecisionMessage);
      return allowed;
    };
    let bounds: args.CheckBounds;
    let question: Question;
    try {
      if (this.#source.isClosed()) return Promise.resolve(tell(what, denied("closed")));
      bounds = args.checkOptions(options);
      question = prepare();
    } catch (error) {
      return Promise.resolve(tell(what, denied("malformed", error)));
    }
    const { about } = question;
    try {
      const verdict = this.#atOnce(bounds, question, note);
      if (verdict !== undefined) return Promise.resolve(tell(about, verdict));
    } catch (error) {
      return Promise.resolve(tell(about, denialOf(error, false)));
    }
    const ask = (call: Call): Promise<Verdict> =>
      checks.synchronous ? renewedVerdict(checks, question, note) : question.ask(call, note);
    return this.#source.decided<Verdict>(bounds, ask, denialOf).then((verdict) => tell(about, verdict));
  }

  /** What can be answered without waiting. */
  #atOnce(
    { signal, maxStalenessMs: asked }: args.CheckBounds,
    question: Question,
    note: ProofNote,
  ): Verdict | undefined {
    const { checks } = this.#source;
    if (signal?.aborted === true) return denied("aborted");
    if (!checks.synchronous) {
      const maxStalenessMs = asked ?? checks.maxStalenessMs;
      return maxStalenessMs > 0 ? question.recent(maxStalenessMs, note) : undefined;
    }
    const verdict = question.now(checks);
    if (!checks.isCurrent(Date.now())) return undefined;
    note.proof = checks.proof(note.began);
    return verdict;
  }
}

const DENIED = denied("unavailable");

function judged(user: UserFacts | undefined, isOfAdmins: boolean): Verdict {
  if (user === undefined) return denied("unknown");
  if (!isActive(user, Date.now())) return denied(user.status === "active" ? "expired" : "revoked");
  return isOfAdmins && user.role !== "admin" ? denied("notAdmin") : ACTIVE;
}

async function renewedVerdict(checks: SyncCheckReads, question: Question, note: ProofNote): Promise<Verdict> {
  await checks.renew();
  const verdict = question.now(checks);
  if (!checks.isCurrent(Date.now()))
    throw new StoreError("UNAVAILABLE", "What the store has in memory may not be the newest state");
  note.proof = checks.proof(note.began);
  return verdict;
}
