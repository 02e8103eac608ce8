/**
 * All sessions of a store, over one feed of grants. Each opening reads what it rests on, and begins with the next proof
 * after that. So nothing is missed between the two. What a proof does not tell of has not changed. While there is no
 * session, nothing is asked. The feed is not that of watches: a page that a watch reads, or what a watch cannot keep,
 * must not hold up or end a session.
 */
import { clearTimeout, setTimeout } from "node:timers";
import type { SessionInput } from "../arguments.js";
import { denialOf, denied } from "../authorization.js";
import { openedBy, type Call } from "../call.js";
import type { ChangedGrants, GrantFeed, GrantsDriver } from "../driver.js";
import { StoreError, isStoreError, isTimeout } from "../errors.js";
import { moment, msSince, type Moment } from "../moment.js";
import type { Decision, Denial, Session } from "../store.js";
import { LiveSession, type Keeper } from "./session.js";
import { SessionsByGrant } from "./by-grant.js";

/** The way to the driver. */
export interface SessionSource {
  readonly grants: GrantsDriver;
  readonly opTimeoutMs: number;
  /** One step, as a call of the store: it ends in time, and with `CLOSED` when the store is closed. */
  step<T>(timeoutMs: number, work: (call: Call) => Promise<T>): Promise<T>;
}

/** Runs work as the call of one opening, with its time and its signal. */
export type Bounded = (work: (call: Call) => Promise<Decision>) => Promise<Decision>;

/** So many proofs are asked for while a session may go without one. */
const PROOFS = 4;
const FIRST_PAUSE_MS = 10;

/** A session that waits for the proof after which it begins. */
interface Opening {
  readonly session: LiveSession;
  readonly call: Call;
  /** What it rests on is being read, or was. */
  state: "waiting" | "reading" | "read";
  readonly resolve: (decision: Decision) => void;
  readonly reject: (error: unknown) => void;
}

/** What the feed was asked, until its answer is taken. */
interface Taking {
  readonly asked: Moment;
  /** The openings that had read before. */
  readonly ready: readonly Opening[];
  readonly answer: Promise<ChangedGrants>;
}

/**
 * Invariants, each with what goes red without it:
 *
 * 1. What is asked for counts from before it was asked, by both clocks: `sessions.spec.ts`.
 * 2. Whoever was without a proof for too long is ended before a late one is heard: the same.
 * 3. A session begins with a proof that was asked for after it had read: the simulation.
 * 4. A feed's answer counts, however late it comes: the same.
 * 5. However many sessions there are, there is one timer of each kind, and one proof at a time: `sessions.spec.ts`.
 */
export class SessionHub implements Keeper {
  readonly #source: SessionSource;
  readonly #sessions = new Set<LiveSession>();
  readonly #openings = new Map<LiveSession, Opening>();
  readonly #wanted = new SessionsByGrant();
  /** How many sessions there are that take so old a proof. */
  readonly #bounds = new Map<number, number>();
  #feed: GrantFeed | undefined;
  #taking: Taking | undefined;
  /** When the last proof that came was asked for. */
  #proved: Moment | undefined;
  #lastError: unknown;
  #failures = 0;
  #asked = 0;
  #isRunning = false;
  #isClosed = false;
  /** The sessions that have ended in this turn. Others may ask about them before their signals abort. */
  #over: LiveSession[] | undefined;
  #wake: (() => void) | undefined;
  #staleTimer: NodeJS.Timeout | undefined;

  constructor(source: SessionSource) {
    this.#source = source;
  }

  /** Never rejects. */
  async open(key: string, input: SessionInput, bounded: Bounded): Promise<Session | (Denial & Disposable)> {
    const session = new LiveSession(key, input, this);
    const decision = await bounded((call) => this.#begin(session, call));
    if (!decision.allowed) session.end(decision);
    // The session may be over by now.
    return session.denial === undefined ? session : disposable(session.denial);
  }

  close(): void {
    this.#isClosed = true;
    this.#endAll(denied("closed"));
    this.#wake?.();
  }

  staleness(maxStalenessMs: number): Denial | undefined {
    if (this.#proved !== undefined && msSince(this.#proved) < maxStalenessMs) return undefined;
    return this.#lastError === undefined ? denied("timeout") : denialOf(this.#lastError, false);
  }

  left(session: LiveSession): void {
    this.#openings.delete(session);
    if (!this.#sessions.delete(session)) return;
    this.#over?.push(session);
    this.#wanted.delete(session);
    const { maxStalenessMs } = session.input;
    const others = (this.#bounds.get(maxStalenessMs) ?? 0) - 1;
    if (others > 0) this.#bounds.set(maxStalenessMs, others);
    else this.#bounds.delete(maxStalenessMs);
    if (this.#sessions.size > 0) return;
    this.#setTimer();
    this.#wake?.();
  }

  get #shortest(): number {
    return Math.min(...this.#bounds.keys());
  }

  get #hasActive(): boolean {
    return this.#sessions.size > this.#openings.size;
  }

  /** Whether an opening has read, and waits for a proof. */
  get #isAwaited(): boolean {
    for (const { state } of this.#openings.values()) if (state === "read") return true;
    return false;
  }

  /** Reads what the session rests on, and waits for the proof after that. */
  #begin(session: LiveSession, call: Call): Promise<Decision> {
    if (this.#isClosed) return Promise.resolve(denied("closed"));
    this.#sessions.add(session);
    this.#wanted.add(session);
    const { maxStalenessMs } = session.input;
    this.#bounds.set(maxStalenessMs, (this.#bounds.get(maxStalenessMs) ?? 0) + 1);
    return new Promise((resolve, reject) => {
      const opening: Opening = { session, call, state: "waiting", resolve, reject };
      this.#openings.set(session, opening);
      if (this.#feed !== undefined) this.#read(opening, this.#feed);
      if (!this.#isRunning) void this.#run();
    });
  }

  #read(opening: Opening, feed: GrantFeed): void {
    const { session, call } = opening;
    opening.state = "reading";
    const members = session.input.memberOf.map(async ({ roomId, endpoint }, place) => {
      session.readMember(place, await feed.member(roomId, endpoint, call));
    });
    const user = feed.user(session.key, call).then((found) => {
      session.readUser(found);
    });
    Promise.all([user, ...members]).then(
      () => {
        opening.state = "read";
        this.#wake?.();
      },
      (error: unknown) => {
        opening.reject(error);
        // What one is told holds for all.
        if (isEnd(error)) this.#failed(error);
      },
    );
  }

  async #run(): Promise<void> {
    this.#isRunning = true;
    while (this.#sessions.size > 0) {
      try {
        await this.#round();
        this.#failures = 0;
        this.#lastError = undefined;
      } catch (error) {
        this.#failures++;
        this.#lastError = error;
        this.#failed(error);
      }
      this.#endStale();
      if (this.#sessions.size > 0) await this.#pause();
    }
    this.#dropFeed();
    this.#isRunning = false;
  }

  async #round(): Promise<void> {
    this.#asked = performance.now();
    const { opTimeoutMs } = this.#source;
    const feed = this.#feed;
    if (feed === undefined) {
      const begun = await openedBy<GrantFeed>(
        (work) => this.#source.step(opTimeoutMs, work),
        (call) => this.#source.grants.follow(this.#wanted, call),
      );
      this.#feed = begun;
      for (const opening of this.#openings.values()) this.#read(opening, begun);
      return;
    }
    if (!this.#hasActive && !this.#isAwaited) return;
    const ms = this.#hasActive ? this.#shortest : opTimeoutMs;
    const { taking, changes } = await this.#source.step(ms, (call) => this.#take(feed, call));
    this.#taking = undefined;
    this.#tell(taking, changes);
  }

  /** What a feed has given counts as taken. So an answer that came too late for one step is that of the next. */
  async #take(feed: GrantFeed, call: Call): Promise<{ readonly taking: Taking; readonly changes: ChangedGrants }> {
    const taking = (this.#taking ??= {
      asked: moment(),
      ready: [...this.#openings.values()].filter(({ state }) => state === "read"),
      answer: feed.take(call),
    });
    try {
      return { taking, changes: await taking.answer };
    } catch (error) {
      if (this.#taking === taking) this.#taking = undefined;
      throw error;
    }
  }

  #tell({ asked, ready }: Taking, { isOver, users, members }: ChangedGrants): void {
    this.#endStale();
    if (isOver) {
      const error = new StoreError("UNAVAILABLE", "The store was closed meanwhile: its records may be others");
      this.#endAll(denied("unavailable", error));
      this.#dropFeed();
      return;
    }
    this.#ending(() => {
      const now = Date.now();
      for (const [key, user] of users)
        for (const session of [...(this.#wanted.users.get(key) ?? [])]) session.tellUser(user, now);
      for (const [roomId, ofRoom] of members)
        for (const [endpoint, member] of ofRoom)
          for (const [session, places] of [...(this.#wanted.members.get(roomId)?.get(endpoint) ?? [])])
            for (const place of places) session.tellMember(place, member);
      this.#proved = asked;
      for (const { session, resolve } of ready) {
        if (!this.#openings.delete(session)) continue;
        resolve(session.begin(now) ?? { allowed: true, reason: "active", user: session.user });
      }
      for (const session of [...this.#sessions]) session.judge(now);
    });
    this.#setTimer();
  }

  /** Signals abort only when all sessions that end are over. Who listens to one may ask about another. */
  #ending(work: () => void): void {
    const over: LiveSession[] = [];
    this.#over = over;
    work();
    this.#over = undefined;
    for (const session of over) session.abort();
  }

  #endAll(denial: Denial): void {
    this.#ending(() => {
      for (const { resolve } of this.#openings.values()) resolve(denial);
      for (const session of [...this.#sessions]) session.end(denial);
    });
  }

  /** Goes by the clocks, also where no timer could run. */
  #endStale(): void {
    if (this.#proved === undefined || msSince(this.#proved) < this.#shortest) return;
    this.#ending(() => {
      for (const session of [...this.#sessions]) {
        const denial = session.isActive ? this.staleness(session.input.maxStalenessMs) : undefined;
        if (denial !== undefined) session.end(denial);
      }
    });
  }

  #failed(error: unknown): void {
    if (isEnd(error)) {
      this.#endAll(denialOf(error, false));
      this.#dropFeed();
    } else if (!isTimeout(error)) {
      // An opening is told at once. A session goes on for as long as its last proof lasts.
      for (const { reject } of [...this.#openings.values()]) reject(error);
    }
  }

  #dropFeed(): void {
    this.#feed?.close();
    this.#feed = undefined;
    this.#taking = undefined;
    this.#proved = undefined;
    this.#setTimer();
  }

  /** Waits until a proof is due, or an opening waits for one. */
  async #pause(): Promise<void> {
    const every = this.#shortest / PROOFS;
    const hasFailed = this.#failures > 0;
    const isDue = (): boolean => this.#sessions.size === 0 || (!hasFailed && this.#isAwaited);
    if (isDue()) {
      // Those who open in one turn share a proof.
      await new Promise<void>((resolve) => setImmediate(resolve));
      return;
    }
    const ms = hasFailed
      ? Math.min(every, FIRST_PAUSE_MS * 2 ** Math.min(this.#failures - 1, 10))
      : every - (performance.now() - this.#asked);
    let timer: NodeJS.Timeout | undefined;
    await new Promise<void>((resolve) => {
      this.#wake = () => {
        if (isDue()) resolve();
      };
      timer = setTimeout(resolve, Math.max(1, Math.ceil(ms))).unref();
    });
    clearTimeout(timer);
    this.#wake = undefined;
  }

  #setTimer(): void {
    clearTimeout(this.#staleTimer);
    this.#staleTimer = undefined;
    if (this.#proved === undefined || !this.#hasActive) return;
    // Whoever takes no proof that is as old as this one has ended, or waits to begin.
    const age = msSince(this.#proved);
    let next = Infinity;
    for (const ms of this.#bounds.keys()) if (ms > age && ms < next) next = ms;
    if (next === Infinity) return;
    this.#staleTimer = setTimeout(
      () => {
        // Whoever's time ends in between ends.
        this.#setTimer();
        this.#endStale();
      },
      Math.ceil(next - age),
    ).unref();
  }
}

/** What does not pass by waiting: another log, a store that is closed, or is being moved away. */
function isEnd(error: unknown): boolean {
  if (!isStoreError(error)) return false;
  return error.code === "CLOSED" || error.code === "INCOMPATIBLE" || error.details?.["movingTo"] !== undefined;
}

export const disposable = (denial: Denial): Denial & Disposable => ({
  ...denial,
  [Symbol.dispose]: () => {
    // There is nothing to let go of.
  },
});
