/** One session: what it rests on, and whether it goes on. */
import type { SessionInput } from "../arguments.js";
import { decide, denied } from "../authorization.js";
import { copyOfUser } from "../copies.js";
import type { MemberGrant, UserGrant } from "../driver.js";
import { isAborted, onAbort } from "../signal.js";
import type { Denial, Session, User } from "../store.js";
import { SessionEnded } from "./session-ended.js";

/** What a session asks of the hub that keeps all of them. */
export interface Keeper {
  /** Why the session may not go on just now, by the clocks. */
  staleness(maxStalenessMs: number): Denial | undefined;
  /** The session is over. Nothing is to be kept of it. */
  left(session: LiveSession): void;
}

/**
 * Invariants, each with what goes red without it:
 *
 * 1. A session that is over never comes back, whatever is told: `session-cases.ts`, "a grant that began at once".
 * 2. `active` is by the clocks at each read, and what it has said once stays so: `sessions.spec.ts`, "a process that
 *    was stopped".
 * 3. Until it begins, what is told last counts, and what was read only where nothing was told: the simulation.
 * 4. From then on another grant ends it, but for one demotion of whom it does not take for an admin:
 *    `session-cases.ts`.
 */
export class LiveSession implements Session {
  readonly allowed = true;
  readonly key: string;
  readonly input: SessionInput;
  readonly #keeper: Keeper;
  readonly #controller = new AbortController();
  #state: "opening" | "active" | "over" = "opening";
  /** The user as it is known. `null`: nobody has read it or told of it. */
  #user: UserGrant | undefined | null = null;
  readonly #members: (MemberGrant | undefined | null)[];
  #copy: User | undefined;
  #denial: Denial | undefined;
  #listenNoLonger: (() => void) | undefined;

  constructor(key: string, input: SessionInput, keeper: Keeper) {
    this.key = key;
    this.input = input;
    this.#keeper = keeper;
    this.#members = input.memberOf.map(() => null);
  }

  get isActive(): boolean {
    return this.#state === "active";
  }

  /** Why it is over. */
  get denial(): Denial | undefined {
    return this.#denial;
  }

  get user(): User {
    // Nobody has a session that has not begun.
    if (this.#copy === undefined) throw new Error("The session has not begun");
    return this.#copy;
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  get active(): boolean {
    if (this.#state !== "active") return false;
    const stale = this.#keeper.staleness(this.input.maxStalenessMs);
    if (stale === undefined) return true;
    this.end(stale);
    // Whoever reads a property expects no event.
    queueMicrotask(() => {
      this.abort();
    });
    return false;
  }

  close(): void {
    this.end(denied("closed"));
    this.abort();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** Takes what was read before the session begins. What was told meanwhile is newer, or the same. */
  readUser(user: UserGrant | undefined): void {
    if (this.#user === null) this.#user = user;
  }

  readMember(place: number, member: MemberGrant | undefined): void {
    if (this.#members[place] === null) this.#members[place] = member;
  }

  /** As of now, all that the session rests on is exact. Answers why it may not begin. */
  begin(now: number): Denial | undefined {
    if (this.#denial !== undefined) return this.#denial;
    const user = this.#user ?? undefined;
    const denial = this.#whyNot(user, now);
    if (denial !== undefined || user === undefined) return denial;
    this.#state = "active";
    this.#copy = copyOfUser(user.user);
    const { signal } = this.input;
    if (signal === undefined) return undefined;
    const aborted = (): void => {
      this.end(denied("aborted"));
      this.abort();
    };
    if (isAborted(signal)) aborted();
    else this.#listenNoLonger = onAbort(signal, aborted);
    return this.#denial;
  }

  /** Takes the user as it stands, and which grant it has. */
  tellUser(user: UserGrant | undefined, now: number): void {
    const before = this.#user;
    this.#user = user;
    if (this.#state !== "active") return;
    const denial = this.#whyNot(user, now);
    if (denial !== undefined) this.end(denial);
    else if (user === undefined || before === null || before === undefined || !this.#goesOn(before, user))
      this.end(denied("ended"));
    else this.#copy = copyOfUser(user.user);
  }

  tellMember(place: number, member: MemberGrant | undefined): void {
    const before = this.#members[place];
    this.#members[place] = member;
    if (this.#state !== "active") return;
    if (member?.joined !== true) this.end(denied("notMember"));
    else if (before?.membership !== member.membership) this.end(denied("ended"));
  }

  /** Time passes, and nothing else has changed. */
  judge(now: number): void {
    if (this.#state !== "active") return;
    const denial = this.#whyNot(this.#user ?? undefined, now);
    if (denial !== undefined) this.end(denial);
  }

  /** Its signal does not abort yet: whoever listens may ask for all the others. */
  end(denial: Denial): void {
    if (this.#state === "over") return;
    this.#state = "over";
    this.#denial = denial;
    this.#listenNoLonger?.();
    this.#listenNoLonger = undefined;
    this.#keeper.left(this);
  }

  abort(): void {
    if (this.#denial !== undefined && !this.signal.aborted) this.#controller.abort(new SessionEnded(this.#denial));
  }

  #whyNot(user: UserGrant | undefined, now: number): Denial | undefined {
    const decision = decide(user?.user, now);
    if (!decision.allowed) return decision;
    if (this.input.role === "admin" && decision.user.role !== "admin") return denied("notAdmin");
    if (this.#state === "active") return undefined;
    return this.#members.every((member) => member?.joined === true) ? undefined : denied("notMember");
  }

  /**
   * A demotion takes nothing away if the session does not take its user for an admin. Two ended grants may be more than
   * a demotion.
   */
  #goesOn(before: UserGrant, next: UserGrant): boolean {
    const taken = next.grant - before.grant;
    if (taken === 0) return true;
    const isDemotion = before.user.role === "admin" && next.user.role === "member";
    return taken === 1 && isDemotion && this.input.role === undefined;
  }
}
