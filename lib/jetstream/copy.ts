/**
 * Records that were read, kept exact by the order of the bucket. A bucket is one log: its sequences have no gaps. So when a
 * barrier gets the very next sequence after the one that the copy is as of, nothing else was stored between, and the copy
 * is as of the barrier too: no read is needed. Otherwise one read of everything since then brings it there.
 *
 * That read is believed only if it has no gap: a replica that catches up from a snapshot drops what was superseded before
 * it has what superseded it. A gap that is a barrier of this store's own is none: it held no record.
 *
 * The acknowledgement of a barrier proves as much here as it does for a read: docs/protocol.md has the argument.
 */
import { BARRIER_KEY } from "./quorum.js";
import { SequenceSet } from "./sequence-set.js";

/** What is kept of a record. */
export interface Kept {
  readonly key: string;
  readonly seq: number;
  /** When it was stored, as the server says it. */
  readonly stamp: string;
}

/** Records that a read found at one moment, `upTo`. */
interface Found<T> {
  readonly upTo: number;
  readonly records: readonly T[];
}

/** The most records that are kept. Those that were kept longest go first. */
export const MAX_RECORDS = 32_768;
/** Reads that were further than the copy, kept until it gets there. */
const MAX_AHEAD = 32;
/** Barriers that follow more closely on each other leave no time for another log to take the place of the one that is known. */
const SURE_MS = 1000;

export class Copy<T extends Kept> {
  readonly #records = new Map<string, T>();
  /** Every record in the copy is as it stands at this sequence of the log. */
  #at = 0;
  /** From here up to `#at` only barriers were stored: what was read in between is as it stands at `#at`. */
  #quiet = 0;
  /** The newest record that was kept: where it still stands, the log up to there is the one that is known. */
  #newest: T | undefined;
  /** The copy was not needed for a while: whether the log is the one that is known shows with the next read. */
  #unsure = false;
  /** Where this store's own barriers stand: no record was ever there. */
  readonly #barriers = new SequenceSet();
  #ahead: Found<T>[] = [];
  #used = 0;
  #reached = 0;
  /** Another number after each {@link clear}: what was asked for before it is not taken. */
  #era = 0;

  get era(): number {
    return this.#era;
  }

  /** Where the copy is. */
  get at(): number {
    return this.#at;
  }

  /** From where on {@link follow} needs everything. */
  get next(): number {
    return this.#unsure && this.#newest !== undefined ? this.#newest.seq : this.#at + 1;
  }

  /** Takes the sequence of a barrier of this store that was acknowledged. */
  noteBarrier(seq: number): void {
    this.#barriers.add(seq);
  }

  /** Takes the sequence of an acknowledged barrier. Answers whether the copy is as of it, or later. */
  reach(seq: number): boolean {
    // Only an acknowledgement that is new tells of the log: a call that comes again with its own does not.
    if (seq > this.#reached) {
      const now = performance.now();
      if (now - this.#used > SURE_MS) this.suspect();
      this.#used = now;
      this.#reached = seq;
    }
    if (this.#unsure) return false;
    if (this.#records.size === 0 && seq > this.#at) {
      this.#at = this.#quiet = seq;
    } else if (seq > this.#at && this.#barriers.hasAll(this.#at + 1, seq)) {
      this.#at = seq;
    }
    if (this.#ahead.length > 0) this.#settle();
    return seq <= this.#at;
  }

  /** The record, or `undefined` where it is not known. */
  get(key: string): T | undefined {
    return this.#records.get(key);
  }

  /** Takes records as of `upTo`, where it is known that they stand so at the sequence that the copy is as of. */
  keep(era: number, upTo: number, records: readonly T[]): void {
    // While it is not sure which log this is, nothing of it may take the place of what the look at it goes by.
    if (era !== this.#era || this.#unsure) return;
    if (this.#ahead.length < MAX_AHEAD) this.#ahead.push({ upTo, records });
    this.#settle();
  }

  #settle(): void {
    const ahead: Found<T>[] = [];
    for (const found of this.#ahead) {
      if (found.upTo > this.#at) {
        ahead.push(found);
      } else if (found.upTo >= this.#quiet) {
        for (const record of found.records) this.#put(record);
      }
    }
    this.#ahead = ahead;
  }

  /** Takes everything that was stored from {@link next} on, in order. With a gap in it, it proves nothing: see above. */
  follow(era: number, changes: readonly T[]): void {
    if (era !== this.#era) return;
    let end = this.#unsure ? (changes[0]?.seq ?? 0) : this.#at;
    for (const { seq } of changes) {
      if (seq <= end) continue;
      if (!this.#barriers.hasAll(end + 1, seq - 1)) {
        this.clear();
        return;
      }
      end = seq;
    }
    if (this.#unsure) {
      const [first] = changes;
      if (first === undefined || first.seq !== this.#newest?.seq || first.stamp !== this.#newest.stamp) {
        this.clear();
        return;
      }
      this.#unsure = false;
      this.#ahead = [];
      this.#at = this.#quiet = first.seq;
    }
    for (const change of changes) {
      if (change.seq <= this.#at) continue;
      this.#at = change.seq;
      if (change.key === BARRIER_KEY) continue;
      this.#quiet = this.#at;
      if (this.#records.has(change.key)) this.#put(change);
    }
    this.#barriers.dropBelow(this.#newest?.seq ?? this.#at);
    this.#settle();
  }

  /** Time has passed in which another log could have taken the place of the one that is known. */
  suspect(): void {
    if (this.#newest === undefined) this.clear();
    else this.#unsure = true;
  }

  clear(): void {
    this.#era++;
    this.#records.clear();
    this.#ahead = [];
    this.#newest = undefined;
    this.#unsure = false;
  }

  /** Forgets the log too: another may have taken its place. */
  forgetLog(): void {
    this.clear();
    this.#barriers.clear();
  }

  #put(record: T): void {
    this.#records.set(record.key, record);
    if (this.#newest === undefined || record.seq > this.#newest.seq) this.#newest = record;
    if (this.#records.size <= MAX_RECORDS) return;
    for (const key of this.#records.keys()) {
      this.#records.delete(key);
      break;
    }
  }
}
