/**
 * The state and the one order of its transactions. An operation is a function that looks and decides, without waiting;
 * what it changes is one record of the log, and its caller hears of it when that is on the disk.
 */
import type { Call, Ending, Eventually, Waiter } from "../call.js";
import { StoreError, isStoreError } from "../errors.js";
import { changesBytes, imageFull, logFull, memberBytes, roomBytes, userBytes } from "./budget.js";
import type { Budget } from "./budget.js";
import { beginWrite, checkFence, refusalOf } from "../moves.js";
import type { MoveRun, MoveState } from "../moves.js";
import { importTakenOver, isImporting, memberNotFound, roomNotFound } from "../rules.js";
import type { Change, ImportChange } from "./changes.js";
import { Journal } from "./journal.js";
import type { JournalEntry, LogFile } from "./journal.js";
import type { Holding } from "./lease.js";
import { PendingView } from "./pending-view.js";
import type { Tables } from "./tables.js";

/** What an operation decided: no changes if there is nothing to change. */
export interface Step<T> {
  readonly changes: readonly Change[];
  /** Whether it ends somebody's rights: then it is done however full the store is. */
  readonly takesAway?: boolean;
  /** The caller's copy, made when the changes are durable. */
  result(): T;
}

/** A read: it sees what is durable, and has its answer at once. */
export function answer<T>(read: () => T): Promise<T> {
  return new Promise((resolve) => resolve(read()));
}

/** The room as it was looked up. */
export function needRoom<T>(room: T | undefined, roomId: string): T {
  if (room === undefined) throw roomNotFound(roomId);
  return room;
}

/** The member as it was looked up. */
export function needMember<T>(member: T | undefined, roomId: string, endpoint: string): T {
  if (member === undefined) throw memberNotFound(roomId, endpoint);
  return member;
}

/** The transaction that an operation becomes, if it changes something. */
export interface Transaction {
  readonly sequence: number;
  readonly now: number;
}

export interface DatabaseEvents {
  /** A batch is durable, and with it everything up to this transaction. */
  batch(sequence: number): void;
  broken(): void;
}

/** One import. Another one that begins takes over. */
export interface Importer {
  readonly id: symbol;
}

/** A step that waits for the disk. */
class Submitted<T> implements JournalEntry, Ending<T> {
  readonly sequence: number;
  readonly imageBytes: number;
  readonly #step: Step<T>;
  #waiter: Waiter<T> | undefined;

  constructor(step: Step<T>, sequence: number, imageBytes: number) {
    this.sequence = sequence;
    this.imageBytes = imageBytes;
    this.#step = step;
  }

  get changes(): readonly Change[] {
    return this.#step.changes;
  }

  tell(waiter: Waiter<T>): void {
    this.#waiter = waiter;
  }

  settle(): void {
    this.#waiter?.done(this.#step.result());
  }

  fail(outcome: "none" | "unknown", cause: unknown): void {
    this.#waiter?.failed(unwritten(outcome, cause));
  }
}

export function promised<T>(ending: Eventually<T>): Promise<T> {
  if (ending instanceof Promise) return ending;
  return new Promise((resolve, reject) => {
    ending.tell({ done: resolve, failed: reject });
  });
}

export class Database {
  readonly tables: Tables;
  /** The tables with all submitted changes: writes decide on it. */
  readonly view: PendingView;
  readonly journal: Journal;
  readonly #events: DatabaseEvents;
  readonly #holding: Holding;
  readonly #budget: Budget;
  /** The most bytes that waiting changes can take in an image. */
  #waitingBytes = 0;
  #sequence: number;
  #durableSequence: number;
  #lastUser: number;
  #lastRoom: number;
  #failure: { readonly cause: unknown } | undefined;
  /** Operations that were acknowledged since opening. */
  acknowledged = 0;
  /** The import that goes on, or is about to begin. */
  #importer: Importer | undefined;
  /** The fence that is on its way. */
  #fencing: MoveState | undefined;
  /** Settles when the last change of the state is durable, or has failed. */
  #stateChanged: Promise<unknown> = Promise.resolve();

  constructor(
    tables: Tables,
    sequence: number,
    log: LogFile,
    budget: Budget,
    events: DatabaseEvents,
    holding: Holding,
  ) {
    this.#budget = budget;
    this.tables = tables;
    this.view = new PendingView(tables);
    this.#events = events;
    this.#holding = holding;
    this.#sequence = sequence;
    this.#durableSequence = sequence;
    this.#lastUser = tables.usersInOrder.last;
    this.#lastRoom = tables.rooms.last;
    this.journal = new Journal(
      log,
      {
        durable: (entries) => this.#durable(entries),
        failed: (cause, perhaps, surelyNot) => this.#failed(cause, perhaps, surelyNot),
      },
      () => holding.ensure(),
    );
  }

  get failure(): { readonly cause: unknown } | undefined {
    return this.#failure;
  }

  nextUser(): number {
    return this.#lastUser + 1;
  }

  nextRoom(): number {
    return this.#lastRoom + 1;
  }

  /** The last transaction that is durable. */
  get durableSequence(): number {
    return this.#durableSequence;
  }

  /** Why nobody may use the store: it is imported into, or moved. */
  get refusal(): StoreError | undefined {
    const closed = this.tables.state.kind === "open" ? this.#fencing : this.tables.state;
    if (closed !== undefined) return refusalOf(closed);
    return this.#importer === undefined ? undefined : isImporting(Date.now());
  }

  /** Runs a write operation. What it says, refusals too, is said when everything that it saw is durable. */
  write<T>(call: Call, operation: (transaction: Transaction) => Step<T>): Eventually<T> {
    const { refusal } = this;
    if (refusal !== undefined) return Promise.reject(refusal);
    return this.#write(call, this.#sequence + 1, operation);
  }

  /**
   * Closes the store, which has to be empty, or what an import left. What is there goes, and an import that still goes
   * on ends with `CONFLICT`. The transactions from here on have numbers above `floor`.
   */
  beginImport(floor: number, run: MoveRun | undefined, call: Call): Promise<Importer> {
    // An import that is about to end may be acknowledged: nothing of it may be cleared away.
    return this.#inTurnOfState(call, () => this.#beginImport(floor, run, call));
  }

  async #beginImport(floor: number, run: MoveRun | undefined, call: Call): Promise<Importer> {
    const state = beginWrite(this.tables.state, run, this.#isEmpty(), currentTime());
    const importer: Importer = { id: Symbol("import") };
    this.#importer = importer;
    try {
      await this.#changeState({ state, clears: true, adminEver: false }, call, floor);
      return importer;
    } catch (error) {
      this.releaseImport(importer);
      throw error;
    }
  }

  /** Whether nothing is there, and nothing on its way. */
  #isEmpty(): boolean {
    const { users, rooms } = this.tables.counts;
    return users === 0 && rooms === 0 && !this.view.adminEver && this.view.isEmpty;
  }

  /** Removes what was imported. The store stays closed. */
  clearImport(importer: Importer, call: Call): Promise<void> {
    return this.#inTurnOfState(call, () => {
      this.#checkImporter(importer);
      return this.#changeState({ state: this.tables.state, clears: true, adminEver: false }, call);
    });
  }

  /** Everything is there. `next`: the state after that. */
  endImport(importer: Importer, adminEver: boolean, next: (state: MoveState) => MoveState, call: Call): Promise<void> {
    return this.#inTurnOfState(call, () => {
      this.#checkImporter(importer);
      return this.#changeState({ state: next(this.tables.state), clears: false, adminEver }, call);
    });
  }

  /**
   * From here on nothing is decided; what was decided before is durable when this resolves, and nothing changes any
   * more.
   */
  fence(run: MoveRun, call: Call): Promise<void> {
    return this.#inTurnOfState(call, () => this.#fence(run, call));
  }

  async #fence(run: MoveRun, call: Call): Promise<void> {
    checkFence(this.tables.state);
    const state = { kind: "moving", run } as const;
    this.#fencing = state;
    try {
      await this.#changeState({ state, clears: false, adminEver: false }, call);
    } finally {
      this.#fencing = undefined;
    }
  }

  /** `next` rejects where the state is none from which it may go on. */
  step(next: (state: MoveState) => MoveState, call: Call): Promise<void> {
    return this.#inTurnOfState(call, () =>
      this.#changeState({ state: next(this.tables.state), clears: false, adminEver: false }, call),
    );
  }

  /** One at a time decides on the state: what it goes by is durable, and no other change of it is on its way. */
  #inTurnOfState<T>(call: Call, change: () => Promise<T>): Promise<T> {
    const changed = this.#stateChanged.then(() => {
      call.throwIfEnded();
      return change();
    });
    this.#stateChanged = changed.catch(() => undefined);
    return changed;
  }

  /** Nobody imports any more. What was begun and not ended stays so. */
  releaseImport(importer: Importer): void {
    if (this.#importer === importer) this.#importer = undefined;
  }

  #checkImporter(importer: Importer): void {
    if (this.#importer !== importer) throw importTakenOver();
  }

  #changeState(change: Omit<ImportChange, "kind">, call: Call, floor = 0): Promise<void> {
    const step = (): Step<void> => ({
      changes: [{ kind: "import", ...change }],
      takesAway: true,
      result: () => undefined,
    });
    return promised(this.#write(call, Math.max(this.#sequence, floor) + 1, step));
  }

  /** A write of whoever imports. */
  async importWrite(
    importer: Importer,
    call: Call,
    operation: (transaction: Transaction) => Step<void>,
  ): Promise<void> {
    this.#checkImporter(importer);
    await promised(this.#write(call, this.#sequence + 1, operation));
  }

  #write<T>(call: Call, sequence: number, operation: (transaction: Transaction) => Step<T>): Eventually<T> {
    if (this.#failure !== undefined) return Promise.reject(this.#readOnly());
    let step: Step<T>;
    let imageBytes = 0;
    try {
      step = operation({ sequence, now: currentTime() });
      if (step.changes.length > 0) {
        imageBytes = changesBytes(step.changes);
        this.#checkBudget(step, imageBytes);
        this.journal.encode(sequence, step.changes);
      }
    } catch (error) {
      return this.#refused(error);
    }
    if (step.changes.length === 0) return this.#inTurn(() => step.result());
    this.#sequence = sequence;
    this.#count(step.changes);
    this.#waitingBytes += imageBytes;
    this.view.add(step.changes, sequence);
    call.outcome = "unknown";
    return this.#submit(step, sequence, imageBytes);
  }

  #refused(error: unknown): Promise<never> {
    const refuse = (): never => {
      throw error;
    };
    // Only a refusal by the rules rests on what it saw.
    const ruled = isStoreError(error) && error.code !== "UNAVAILABLE";
    return ruled ? this.#inTurn(refuse) : answer(refuse);
  }

  /** Refuses what image or log could not hold. */
  #checkBudget({ changes, takesAway = false }: Step<unknown>, added: number): void {
    if (takesAway) return;
    const { imageBytes, logBytes } = this.#budget;
    if (this.journal.logBytes > logBytes) throw logFull(this.journal.logBytes, logBytes);
    let bytes = this.tables.bytes + this.#waitingBytes + added;
    if (bytes <= imageBytes) return;
    // Most rows replace another one.
    bytes -= this.#replacedBytes(changes);
    if (bytes > imageBytes && bytes > this.tables.bytes + this.#waitingBytes) throw imageFull(bytes, imageBytes);
  }

  #replacedBytes(changes: readonly Change[]): number {
    let bytes = 0;
    for (const change of changes) {
      switch (change.kind) {
        case "user": {
          const row = this.view.user(change.row.key);
          if (row !== undefined) bytes += userBytes(row);
          break;
        }
        case "room": {
          const row = this.view.room(change.row.id);
          if (row !== undefined) bytes += roomBytes(row);
          break;
        }
        case "member": {
          const row = this.view.member(change.row.roomId, change.row.endpoint);
          if (row !== undefined) bytes += memberBytes(row);
          break;
        }
        // A key is written once.
        case "key":
        case "roomGone":
        case "memberGone":
        case "import":
          break;
      }
    }
    return bytes;
  }

  #submit<T>(step: Step<T>, sequence: number, imageBytes: number): Ending<T> {
    const submitted = new Submitted(step, sequence, imageBytes);
    this.journal.submit(submitted);
    return submitted;
  }

  /** Answers once everything that was submitted before is durable. */
  async #inTurn<T>(result: () => T): Promise<T> {
    if (this.view.isEmpty) await this.#holding.ensure();
    else await promised(this.#submit({ changes: [], result: () => undefined }, 0, 0));
    return result();
  }

  #count(changes: readonly Change[]): void {
    for (const change of changes) {
      if (change.kind === "user") this.#lastUser = Math.max(this.#lastUser, change.row.ordinal);
      else if (change.kind === "room") this.#lastRoom = Math.max(this.#lastRoom, change.row.ordinal);
    }
  }

  #durable(entries: readonly JournalEntry[]): void {
    for (const { changes, sequence, imageBytes } of entries) {
      for (const change of changes) this.tables.apply(change);
      if (changes.length === 0) continue;
      this.view.release(changes, sequence);
      this.#waitingBytes -= imageBytes;
    }
    for (const entry of entries) {
      if (entry.changes.length > 0) {
        this.acknowledged++;
        this.#durableSequence = entry.sequence;
      }
      entry.settle();
    }
    this.#events.batch(this.#durableSequence);
  }

  /** Takes no further write: the file may be another's, or has no log. What is under way fails by itself. */
  stop(cause: unknown): void {
    this.#failure ??= { cause };
    this.#events.broken();
  }

  /** Nothing can be acknowledged on top of a hole: from here on the store only reads. */
  #failed(cause: unknown, perhaps: readonly JournalEntry[], surelyNot: readonly JournalEntry[]): void {
    this.#failure = { cause };
    this.view.drop();
    this.#events.broken();
    for (const entry of perhaps) entry.fail(entry.changes.length > 0 ? "unknown" : "none", cause);
    for (const entry of surelyNot) entry.fail("none", cause);
  }

  #readOnly(): StoreError {
    return new StoreError(
      "UNAVAILABLE",
      "The store can only read since a write failed, its file was taken, or there was no room for its log; open it again",
      {
        outcome: "none",
        cause: this.#failure?.cause,
      },
    );
  }
}

const MAX_TIME = 8.64e15;

/** What is no time of a `Date` could not be read again, and would end no grant. */
function currentTime(): number {
  const now = Math.floor(Date.now());
  if (Math.abs(now) <= MAX_TIME) return now;
  throw new StoreError("UNAVAILABLE", "The clock of this machine gives no time", { outcome: "none" });
}

function unwritten(outcome: "none" | "unknown", cause: unknown): StoreError {
  return new StoreError("UNAVAILABLE", "The write to the disk failed", { outcome, cause });
}
