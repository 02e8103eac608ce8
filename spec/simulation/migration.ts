/**
 * A store that is moved to other buckets of the same servers while stores of both sides are used: who moves it, dies
 * over it, and begins anew; and what promise 20 says of it. The calls on both sides are one history: whoever asks the
 * target hears what was acknowledged on the source. Here is what that does not say: who may answer when.
 */
import { Buffer } from "node:buffer";
import type { NatsConnection } from "unibus-membership";
import type { Chance } from "./chance.js";
import type { Mix } from "./mix.js";
import { isChange, type SimulatedOperation } from "./operations.js";
import { FAILURES, type Entry, type Violation } from "./oracle.js";
import type { Library, SimulatedProcess } from "./process.js";

export type Side = "source" | "target";

/** What the target's buckets have before their names. */
export const TARGET_PREFIX = "to_";

/** The bucket of the source that a stream of either side is. */
export const asOfSource = (stream: string): string => stream.replace(`KV_${TARGET_PREFIX}`, "KV_");

export const sideOf = (stream: string): Side => (stream.startsWith(`KV_${TARGET_PREFIX}`) ? "target" : "source");

/** The stores of the target are called so. */
export const sideOfStore = (store: string): Side => (store.startsWith("t") ? "target" : "source");

/** With all its lanes nearly all that a migration sends is of no record. */
export const FEW_LANES = [{ from: /(?<=LANES\d* = )64;/, to: "3;" }] as const;

interface Migrator {
  readonly process: SimulatedProcess;
  readonly connection: NatsConnection;
  readonly library: Library;
}

/** What a migration needs of the simulation. */
export interface MigrationSurroundings {
  readonly chance: Chance;
  mix(): Mix;
  /** A process of its own. */
  start(name: string): Migrator;
  after(ms: number, run: () => void): void;
  tick(): number;
  say(line: string): void;
  found(violation: Violation): void;
  /** A side has come to another state. Whoever uses the stores may be about to do something. */
  changed(): void;
}

/** One of the two records of a side, from a place in the order of events on. */
interface StateAt {
  readonly side: Side;
  readonly log: "users" | "rooms";
  readonly state: string;
  readonly at: number;
}

type Kind = "migrate" | "copy" | "keep source" | "keep target";

const OP_TIMEOUT_MS = 2000;
/** Runs that begin while something may go wrong. */
const MOST_RUNS = 4;
/** A run has as long as it takes: the clients do not wait for it. */
const MOST_RUN_MS = 40_000;
const AFTER_DEATH_MS = 25;
/** The states of which somebody may have to stop, or die, when they are reached. */
const PAUSED: ReadonlySet<string> = new Set(["moving", "leaving", "complete", "opening", "moved", "importing"]);

export class SimulatedMigration {
  readonly #around: MigrationSurroundings;
  readonly #states: StateAt[] = [];
  readonly #running = new Map<SimulatedProcess, () => void>();
  /** Runs that are to begin. */
  #pending = 0;
  #runs = 0;
  #isOver = false;
  /** What runs that came to their end said: it is the same of all. */
  readonly #reports = new Set<string>();
  /** At so many states from now on the run that goes on is killed. */
  #killAt: number | undefined;
  #isLast = false;

  constructor(around: MigrationSurroundings) {
    this.#around = around;
  }

  begin(): void {
    const { chance } = this.#around;
    this.#later(chance.of([0, 5, 30, 100]), chance.happens(0.1) ? "copy" : "migrate");
  }

  get isIdle(): boolean {
    return this.#pending === 0 && this.#running.size === 0;
  }

  get isOver(): boolean {
    return this.#isOver;
  }

  #last(side: Side, log: StateAt["log"]): string {
    return this.#states.findLast((each) => each.side === side && each.log === log)?.state ?? "";
  }

  /** The side that is the store, or will be. */
  get current(): Side {
    return this.#states.some(({ side, state }) => side === "source" && state === "leaving") ? "target" : "source";
  }

  /** Whether nobody takes the target for an empty store in which he could begin. */
  get isTargetClosed(): boolean {
    return (
      this.current === "target" ||
      (["importing", "complete"].includes(this.#last("target", "users")) &&
        this.#last("target", "rooms") === "importing" &&
        this.#around.mix().endings === 0)
    );
  }

  get processes(): Iterable<SimulatedProcess> {
    return this.#running.keys();
  }

  /** A record was stored that says whether a store may be used. */
  stored(stream: string, data: Uint8Array): void {
    const log = asOfSource(stream) === "KV_users" ? "users" : "rooms";
    const { state } = JSON.parse(Buffer.from(data).toString("utf8")) as { state: string };
    const side = sideOf(stream);
    if (this.#last(side, log) === state) return;
    this.#states.push({ side, log, state, at: this.#around.tick() });
    this.#around.say(`the ${side}'s ${log} say ${state}`);
    if (!PAUSED.has(state) || this.#isLast) return;
    this.#around.changed();
    const { chance } = this.#around;
    const mix = this.#around.mix();
    if (this.#killAt !== undefined && --this.#killAt <= 0) {
      this.#killAt = undefined;
      this.#kill(chance.of([0, 0, 1, 5]) * mix.delayMs);
    }
    for (const process of this.#running.keys()) {
      if (!chance.happens(mix.stopsAtStates / 4)) continue;
      const ms = chance.between(0, chance.of([20, 500, 10_000]));
      this.#around.after(chance.between(0, 3) * mix.delayMs, () => {
        process.stop();
        this.#around.after(ms, () => {
          process.wake();
        });
      });
      // Whoever does not hear of it begins anew.
      if (chance.happens(0.5)) this.#later(chance.between(0, ms), "migrate");
    }
  }

  #kill(ms: number): void {
    const [process] = this.#running.keys();
    if (process === undefined) return;
    this.#around.after(ms, () => {
      if (process.state === "dead" || !this.#running.has(process)) return;
      this.#around.say(`${process.name} is killed`);
      process.die();
    });
  }

  #later(ms: number, kind: Kind): void {
    if (this.#isLast || this.#runs + this.#pending >= MOST_RUNS) return;
    this.#pending++;
    this.#around.after(ms, () => {
      this.#pending--;
      if (this.#isOver || this.#isLast) return;
      const mix = this.#around.mix();
      const { chance } = this.#around;
      if (chance.happens(mix.migratorDeaths)) {
        if (chance.happens(0.7)) this.#killAt = 1 + chance.below(8);
        else this.#around.after(chance.between(0, 300) * mix.delayMs, () => this.#kill(0));
      }
      if (chance.happens(mix.rivals)) this.#later(chance.between(0, 300) * mix.delayMs, "migrate");
      this.#run(kind);
    });
  }

  /** Runs to its end, however that is. */
  #run(kind: Kind): void {
    const { chance } = this.#around;
    const { process, connection, library } = this.#around.start(`m${this.#runs++}`);
    const controller = new AbortController();
    const isLast = this.#isLast;
    if (!isLast) this.#around.after(MOST_RUN_MS, () => process.deliver(() => controller.abort()));
    let isHeard = false;
    const over = (said: string): void => {
      if (isHeard) return;
      isHeard = true;
      this.#running.delete(process);
      this.#around.say(`${process.name}: ${kind}: ${said}`);
      if (this.#isOver) return;
      if (isLast) {
        this.#around.found({ kind: "wedged", why: `the migration does not end: ${said}`, id: "" });
        return;
      }
      const mix = this.#around.mix();
      this.#later(
        chance.between(0, chance.of([10, 300, 3000])),
        chance.happens(mix.endings) ? chance.of(["keep source", "keep target"]) : "migrate",
      );
    };
    this.#running.set(process, () => undefined);
    const died = (): void => {
      if (process.state === "dead")
        this.#around.after(AFTER_DEATH_MS, () => {
          over("it has died");
        });
    };
    process.whenChanged = died;
    process.enter(() => {
      this.#move(kind, connection, library, controller.signal).then(over, (error: unknown) => {
        const isOurs = library.isStoreError(error);
        if (!isOurs) this.#around.found({ kind: "an error that is none of ours", why: String(error), id: "" });
        over(isOurs ? `${error.code}: ${error.message}` : String(error));
      });
    });
  }

  async #move(kind: Kind, connection: NatsConnection, library: Library, signal: AbortSignal): Promise<string> {
    const { replicas } = this.#around.mix();
    const from = await library.openJetStream(connection, replicas, { opTimeoutMs: OP_TIMEOUT_MS, reopenMoved: true });
    const to = await library.openJetStream(connection, replicas, {
      opTimeoutMs: OP_TIMEOUT_MS,
      prefix: TARGET_PREFIX,
    });
    try {
      if (kind === "keep source" || kind === "keep target") {
        const { chance } = this.#around;
        const [store, other] = chance.happens(0.5) ? [from, to] : [to, from];
        const options = { keep: kind === "keep source" ? ("source" as const) : ("target" as const), signal };
        await library.endMigration(store, chance.happens(0.7) ? { ...options, other } : options);
        return "done";
      }
      const report = await library.migrate(from, to, { cutOver: kind === "migrate", signal });
      if (kind === "copy") return "done";
      this.#isOver = true;
      this.#reports.add(JSON.stringify([report.counts, report.digest]));
      return report.digest;
    } finally {
      void from.close();
      void to.close();
    }
  }

  /** Nothing goes wrong any more, and nobody else moves it. */
  finish(): void {
    this.#isLast = true;
    this.#isOver = false;
    this.#run("migrate");
  }

  /** What the states of both sides say, and who answered when. */
  judge(entries: readonly Entry[], isFinished: boolean): Violation[] {
    const found: Violation[] = [];
    const wrong = (kind: string, why: string, id = ""): number => found.push({ kind, why, id });
    if (this.#reports.size > 1) wrong("two runs that say something else", [...this.#reports].join(" and "));
    const ends = this.#states.filter(
      ({ side, log, state }) => side === "source" && log === "users" && state === "leaving",
    );
    if (ends.length > 1) wrong("a source that ended twice", ends.map(({ at }) => at).join(", "));
    const end = ends[0]?.at ?? Infinity;
    for (const log of ["users", "rooms"] as const) {
      const opened = this.#opened(log);
      if (opened < end) wrong("a target that opens before its source has ended", `${log} at ${opened}, not ${end}`);
      // Of a run that dies between both steps the other one needs no more: nobody opens it.
      if (isFinished && this.#last("source", "users") !== "moved")
        wrong("a source that is not at its end", `${log}: ${this.#last("source", log)}`);
      if (isFinished && this.#last("target", log) !== "open")
        wrong("a target that is not open", `${log}: ${this.#last("target", log)}`);
    }
    const closed = { users: this.#closed("users"), rooms: this.#closed("rooms") };
    const opened = { users: this.#opened("users"), rooms: this.#opened("rooms") };
    const empty = this.#empty();
    const revisions = new Map<string, Side>();
    for (const { id, store, op, out, invoked, returned = Infinity } of entries) {
      const side = sideOfStore(store);
      const log = "u" in op || op.f === "hasAdmin" ? "users" : "rooms";
      const what = `${JSON.stringify(op)} on the ${side} answered ${String(out)}`;
      if (op.f === "getUser" && out?.startsWith("found ") === true) {
        if ((revisions.get(out) ?? side) !== side) wrong("a revision that both sides gave", what, id);
        revisions.set(out, side);
      }
      const kind = kindOf(op, out);
      if (kind === undefined) continue;
      if (side === "source" && closed[log].some(({ from, to }) => invoked > from && returned < to))
        wrong(`${kind} by a source behind its fence`, what, id);
      const wasEmpty = !isAllow(out) && empty.some(({ from, to }) => invoked < to && returned > from);
      if (side === "target" && returned < opened[log] && !wasEmpty)
        wrong(`${kind} by a target that is closed`, what, id);
    }
    return found;
  }

  /** Since when the source has ended, if no fence was lifted before. */
  get endedAtOnce(): number | undefined {
    const ofUsers = this.#states.filter(({ side, log }) => side === "source" && log === "users");
    const states = ofUsers.map(({ state }) => state).join(" ");
    return states === "open moving leaving moved" ? ofUsers[2]?.at : undefined;
  }

  /** When the target has opened as the store. */
  #opened(log: StateAt["log"]): number {
    let wasComplete = false;
    for (const { side, log: of, state, at } of this.#states) {
      if (side !== "target") continue;
      if (of === "users" && (state === "complete" || state === "importing")) wasComplete = state === "complete";
      if (of === log && state === "open" && wasComplete) return at;
    }
    return Infinity;
  }

  /** While the log said that the source is closed. */
  #closed(log: StateAt["log"]): { readonly from: number; readonly to: number }[] {
    const found: { from: number; to: number }[] = [];
    let from: number | undefined;
    for (const { side, log: of, state, at } of this.#states) {
      if (side !== "source" || of !== log) continue;
      if (state === "open" && from !== undefined) {
        found.push({ from, to: at });
        from = undefined;
      } else if (state !== "open") {
        from ??= at;
      }
    }
    if (from !== undefined) found.push({ from, to: Infinity });
    return found;
  }

  /** While the target was an empty store like any other. */
  #empty(): { readonly from: number; readonly to: number }[] {
    const found: { from: number; to: number }[] = [];
    const opened = this.#opened("users");
    const closed = { users: false, rooms: false };
    let from: number | undefined = 0;
    for (const { side, log, state, at } of this.#states) {
      if (side !== "target" || at >= opened) continue;
      closed[log] = state !== "open";
      const isClosed = closed.users && closed.rooms;
      if (isClosed && from !== undefined) {
        found.push({ from, to: at });
        from = undefined;
      } else if (!isClosed) {
        from ??= at;
      }
    }
    if (from !== undefined) found.push({ from, to: Math.min(opened, this.#opened("rooms")) });
    return found;
  }

  /**
   * The calls as those of one store. What is left out: what was asked of the target while it was an empty store, and
   * what a side says of what stands there, while it is closed, to whoever does not ask for a proof.
   */
  history(entries: readonly Entry[]): Entry[] {
    const empty = this.#empty();
    const fences = [this.#closed("users").at(-1), this.#closed("rooms").at(-1)];
    const fenced = Math.min(...fences.map((last) => (last?.to === Infinity ? last.from : Infinity)));
    const opened = Math.max(this.#opened("users"), this.#opened("rooms"));
    return entries.filter(({ store, op, out = "unknown", invoked, returned = Infinity }) => {
      const isOpen = sideOfStore(store) === "source" ? returned < fenced : invoked > opened;
      if (isOpen) return true;
      if (isChange(op)) return out === "ok" || out === "unknown" || FAILURES.has(out);
      if (!isCheckOf(op.f)) return false;
      return isAllow(out) || !empty.some(({ from, to }) => invoked < to && returned > from);
    });
  }
}

const isAllow = (out: string | undefined): boolean => out === "active" || out === "true";

const isCheckOf = (f: string): boolean => f === "authorize" || f === "isAdmin" || f === "isMember" || f === "hasAdmin";

/** What only a store says that is open. */
function kindOf(op: SimulatedOperation, out: string | undefined): string | undefined {
  if (!isChange(op)) {
    const isProved = isAllow(out) || (op.f === "authorize" && (out === "unknown" || out === "revoked"));
    return isProved ? "a check that is proved" : undefined;
  }
  if (out === "ok") return "a write that is acknowledged";
  return out === "NOT_FOUND" || out === "ALREADY_EXISTS" || out === "CONFLICT" ? "a refusal" : undefined;
}
