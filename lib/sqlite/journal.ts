/**
 * Group commit. One write is under way at a time. What is submitted meanwhile goes with the next write. A transaction
 * is durable when its write is on the disk, and then everything before it is durable too.
 */
import { Buffer } from "node:buffer";
import { encodeChanges } from "./changes.js";
import type { Change } from "./changes.js";
import { MAX_RECORD_BYTES, encodeRecord, recordBound } from "./log-format.js";
import { StoreError } from "../errors.js";

const BUFFER_BYTES = 64 * 1024;
/** A buffer that a big batch made larger than this is not kept. */
const KEPT_BYTES = 1024 * 1024;
/** No more than this waits for a disk that hangs: memory is limited. */
const MAX_WAITING_BYTES = 64 * 1024 * 1024;

/** Where batches go. */
export interface LogFile {
  /** The mask over callers' bytes. The same for every log of a database. */
  readonly mask: Uint8Array;
  /** Bytes appended so far. */
  readonly length: number;
  /** `sequence`: the last transaction of the batch. */
  append(bytes: Uint8Array, sequence: number): Promise<void>;
}

/** A transaction. Without changes: a place in their order that somebody waits for. */
export interface JournalEntry {
  readonly sequence: number;
  readonly changes: readonly Change[];
  /** The most that it takes in an image. */
  readonly imageBytes: number;
  settle(): void;
  fail(outcome: "none" | "unknown", cause: unknown): void;
}

export interface JournalEvents {
  /** The batch is on the disk. */
  durable(entries: readonly JournalEntry[]): void;
  /** The batch may be on the disk. What waited behind it is surely not. Nothing is written any more. */
  failed(cause: unknown, perhaps: readonly JournalEntry[], surelyNot: readonly JournalEntry[]): void;
}

/** Entries that share a write. Their bytes are in `buffer`. `sequence`: the last transaction. */
interface Batch {
  readonly bytes: Buffer;
  readonly sequence: number;
  readonly buffer: Buffer;
  readonly entries: readonly JournalEntry[];
}

/**
 * Invariants, each with the spec that goes red without it:
 *
 * 1. One batch is on its way to the disk at a time, and batches go in the order of their transactions:
 *    `recovery.spec.ts`.
 * 2. An entry is durable only when its bytes are on the disk and the file is still held: `durability.spec.ts`,
 *    `lock-lease.spec.ts`.
 * 3. After a write that failed nothing is written any more, and every entry is told whether it is perhaps there:
 *    `disk-errors.spec.ts`.
 * 4. Nothing is written before it is known that the file is still held: `lock-lease.spec.ts`.
 *
 * Rejected: a write for each entry that waits for the one before. It has the same order, and a disk's latency for each.
 */
export class Journal {
  #log: LogFile;
  readonly #events: JournalEvents;
  readonly #ensureHeld: () => Promise<void> | undefined;
  #entries: JournalEntry[] = [];
  #buffer: Buffer = Buffer.allocUnsafeSlow(BUFFER_BYTES);
  #used = 0;
  /** The last transaction that was encoded. */
  #sequence = 0;
  #spare: Buffer | undefined;
  #writing = false;
  /** Whether the last batch was one entry. Who writes one thing after the other has nobody to wait for. */
  #alone = false;
  #scheduled = false;
  #broken = false;
  #next: { log: LogFile; switched: () => void } | undefined;
  #idle: (() => void)[] = [];

  /** `ensureHeld` waits, if needed, until nobody else can have the file. Only then is a write acknowledged. */
  constructor(log: LogFile, events: JournalEvents, ensureHeld: () => Promise<void> | undefined) {
    this.#log = log;
    this.#events = events;
    this.#ensureHeld = ensureHeld;
  }

  /** Bytes of the log, including what waits to be written. */
  get logBytes(): number {
    return this.#log.length + this.#used;
  }

  /**
   * Encodes the changes as the transaction `sequence`. If there is no room for them to wait, it throws and submits
   * nothing.
   */
  encode(sequence: number, changes: readonly Change[]): void {
    const encoded = encodeChanges(changes);
    const bound = recordBound(encoded);
    if (bound > MAX_RECORD_BYTES)
      throw new StoreError("UNAVAILABLE", "The operation is too large for the log", { outcome: "none" });
    if (this.#used > 0 && this.#used + bound > MAX_WAITING_BYTES) {
      throw new StoreError("UNAVAILABLE", "Too much waits for the disk", { outcome: "none" });
    }
    this.#reserve(bound);
    this.#sequence = sequence;
    this.#used = encodeRecord(this.#buffer, this.#used, sequence, encoded, this.#log.mask);
  }

  /** Puts what was encoded last, or an entry that only waits, into the next batch. */
  submit(entry: JournalEntry): void {
    this.#entries.push(entry);
    this.#schedule();
  }

  /** Continues in another log, from the next batch on. */
  switchTo(log: LogFile): Promise<void> {
    return new Promise((resolve) => {
      this.#next = { log, switched: resolve };
      if (!this.#writing) this.#switch();
    });
  }

  /** Resolves when nothing is under way and nothing waits. */
  idle(): Promise<void> {
    if (!this.#writing && this.#entries.length === 0) return Promise.resolve();
    return new Promise((resolve) => this.#idle.push(resolve));
  }

  #reserve(bound: number): void {
    const needed = this.#used + bound;
    if (needed <= this.#buffer.length) return;
    const grown = Buffer.allocUnsafeSlow(Math.max(needed, this.#buffer.length * 2));
    this.#buffer.copy(grown, 0, 0, this.#used);
    this.#buffer = grown;
  }

  /**
   * Writes after the callers that the last batch woke have run, so that what they submit shares one write. If it woke
   * at most one, nobody waits for that: the write starts with the next microtask, and shares what is submitted until
   * then.
   */
  #schedule(): void {
    if (this.#scheduled || this.#writing || this.#broken) return;
    this.#scheduled = true;
    const flush = (): void => {
      this.#scheduled = false;
      this.#flush();
    };
    if (this.#alone) void Promise.resolve().then(flush);
    else process.nextTick(flush);
  }

  #flush(): void {
    if (this.#writing || this.#broken) return;
    if (this.#entries.length === 0) {
      for (const resolve of this.#idle.splice(0)) resolve();
      return;
    }
    const entries = this.#entries;
    this.#alone = entries.length === 1;
    const bytes = this.#buffer.subarray(0, this.#used);
    const buffer = this.#buffer;
    const sequence = this.#sequence;
    this.#entries = [];
    this.#buffer = this.#spare ?? Buffer.allocUnsafeSlow(BUFFER_BYTES);
    this.#spare = undefined;
    this.#used = 0;
    this.#writing = true;
    const write = (): void => {
      this.#write({ bytes, sequence, buffer, entries });
    };
    if (bytes.length === 0) {
      write();
      return;
    }
    // After a pause another holder may own the log. So look first, then write.
    const known = this.#ensureHeld();
    if (known === undefined) write();
    else
      known.then(write, (error: unknown) => {
        this.#writing = false;
        this.#fail(error, [], entries);
      });
  }

  #write({ bytes, sequence, buffer, entries }: Batch): void {
    const fail = (error: unknown): void => {
      this.#writing = false;
      this.#fail(error, entries, []);
    };
    const done = (): void => {
      this.#writing = false;
      this.#done(entries);
    };
    const written = (): void => {
      if (buffer.length <= KEPT_BYTES) this.#spare = buffer;
      const held = this.#ensureHeld();
      if (held === undefined) done();
      else held.then(done, fail);
    };
    if (bytes.length === 0) written();
    else this.#log.append(bytes, sequence).then(written, fail);
  }

  #done(entries: readonly JournalEntry[]): void {
    this.#events.durable(entries);
    this.#switch();
    // The next writes should share one batch with those that the last batch woke.
    if (this.#entries.length > 0) this.#alone = false;
    // If there is no entry yet, the next one schedules the write.
    if (this.#entries.length > 0 || this.#idle.length > 0) this.#schedule();
  }

  #fail(cause: unknown, perhaps: readonly JournalEntry[], unwritten: readonly JournalEntry[]): void {
    this.#broken = true;
    const surelyNot = [...unwritten, ...this.#entries];
    this.#entries = [];
    this.#used = 0;
    this.#events.failed(cause, perhaps, surelyNot);
    this.#switch();
    for (const resolve of this.#idle.splice(0)) resolve();
  }

  #switch(): void {
    if (this.#next === undefined) return;
    this.#log = this.#next.log;
    this.#next.switched();
    this.#next = undefined;
  }
}
