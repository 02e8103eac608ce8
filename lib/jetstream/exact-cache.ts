/**
 * A cache of records that is exact as of a sequence of the bucket's log. A barrier tells how far the log is. What was
 * stored since is read from any replica, in order. A record that is not among it still stands as it did.
 *
 * That reading is believed only up to its first gap: a replica that catches up from a snapshot may have dropped a
 * record before it has the newer one. A missing sequence is no gap if it is known what stood there:
 *
 * 1. a barrier of this store, which was acknowledged;
 * 2. a barrier of another store, which a later one of that store tells of;
 * 3. an older state of a record that was read in its newer one, which tells of it.
 *
 * Where a gap stays, a new *generation* begins at a barrier. Then the cache no longer knows whether a record still
 * stands. It knows how the record stood, so that one fence proves it. The argument: docs/protocol.md, C1 to C9.
 */
import { asObject } from "./json.js";
import { moment } from "../moment.js";
import type { Moment } from "../moment.js";
import type { Continuity } from "./continuity.js";
import { Entry } from "./entry.js";
import type { Key } from "./keys.js";
import { isBarrier } from "./own-barriers.js";
import type { OwnBarriers } from "./own-barriers.js";
import { later, type BucketName, type Seq } from "./seq.js";
import { listedIn } from "./sequence-window.js";
import type { Range } from "./sequence-window.js";

/** What is kept of a record. */
export interface Known<B extends BucketName, V> {
  /** What the record says. */
  readonly value: V;
  readonly seq: Seq<B>;
  /** The last generation in which the record was known to stand so. */
  readonly generation: number;
}

/** Where records are kept, in bounded memory: a record can be gone at any time. */
export interface Cache<B extends BucketName, V> {
  /** `key` is the record's in the bucket. */
  get(key: Key<B>): Known<B, V> | undefined;
  put(entry: Entry<B>, generation: number): void;
  /** The record still stands as it did. */
  renew(key: Key<B>, generation: number): void;
  clear(): void;
  /** Told the highest sequence of the records that were dropped. */
  onForget: ((seq: Seq<B>) => void) | undefined;
}

/** A record that is being proved on its own. */
export interface Fill<B extends BucketName> {
  readonly key: Key<B>;
  readonly generation: number;
  readonly log: number;
}

/** A record that was proved on its own as of `asOf`, to which the cache has not come yet. It stood at `seq`. */
interface PendingFill<B extends BucketName> {
  readonly asOf: Seq<B>;
  readonly reading: Fill<B>;
  readonly seq: Seq<B>;
}

/** A message by which the log is recognized: where it still stands, the log is the same. */
interface Anchor<B extends BucketName> {
  readonly key: Key<B>;
  readonly seq: Seq<B>;
  /** When it was stored. */
  readonly stamp: string;
  /** What this store wrote there, if it was not read: it has an id of its own in it. */
  readonly payload: string | undefined;
}

const MAX_AHEAD = 4096;
/** Writes of this store beyond the cache, which wait for what stands between. */
const MAX_WROTE = 1024;
const MAX_ANCHORS = 8;

/**
 * Invariants, each with the spec that goes red without it:
 *
 * 1. A record of this generation is the last of its subject as of `asOf`: `copy-faults.spec.ts`, "gaps of the log".
 * 2. `asOf` passes over a sequence only if what stood there was taken, or is known to be no record that could be
 *    wanted: the same.
 * 3. A fill is exact only if the log says nothing of its record after the moment at which it was proved: the
 *    simulation, and the mutant "what is proved late is kept over a change".
 * 4. While `mustRevalidate` nothing is exact, and nothing is remembered: `copy-faults.spec.ts`, "after a while
 *    without checks".
 * 5. `#pendingFills` are of this generation, in the order of `asOf`, and all beyond it: `copy-faults.spec.ts`, "nor
 *    where the change stands behind a gap".
 */
export class ExactCache<B extends BucketName, V> {
  readonly #cache: Cache<B, V>;
  readonly #own: OwnBarriers<B>;
  readonly #continuity: Continuity;
  /** Every record of this generation is as it stands at this sequence of the log. */
  #asOf: Seq<B> = 0;
  #generation = 1;
  /** Whether there are records of this generation. */
  #inUse = false;
  /** By key: how many prove the record, and where the log last changed it meanwhile. */
  readonly #fills = new Map<Key<B>, { count: number; changed: Seq<B> }>();
  /** Of this generation, in ascending order. */
  readonly #pendingFills: PendingFill<B>[] = [];
  /** What this store wrote beyond {@link asOf}, by where it stands. */
  readonly #ownWrites = new Map<Seq<B>, { readonly key: Key<B>; readonly payload: string }>();
  /** The newest records that were kept, newest first. */
  #anchors: Anchor<B>[] = [];
  /** A record above `seq`, and of a generation before `generation`, may be of another log. */
  #limit: { readonly generation: number; readonly seq: Seq<B> } = { generation: 0, seq: 0 };
  /** Grows whenever another log may have taken the place of this one. */
  #log = 0;
  /** Nothing was heard for a while. Before the cache is used again, the log has to be recognized. */
  #mustRevalidate = false;
  #changes = 0;

  constructor(cache: Cache<B, V>, own: OwnBarriers<B>, continuity: Continuity) {
    this.#cache = cache;
    this.#own = own;
    this.#continuity = continuity;
  }

  get asOf(): Seq<B> {
    return this.#asOf;
  }

  get generation(): number {
    return this.#generation;
  }

  /** Grows whenever a record is kept or a generation begins. While it is the same, a record that was valid still is. */
  get changes(): number {
    return this.#changes;
  }

  get mustRevalidate(): boolean {
    return this.#mustRevalidate;
  }

  /** Newest first. If one of them stands where it did, with its time, the log is the same. */
  get anchors(): readonly Anchor<B>[] {
    return [...this.#anchors];
  }

  /** The record as it stands at {@link asOf}. */
  valid(key: Key<B>): Known<B, V> | undefined {
    const known = this.#mustRevalidate ? undefined : this.#cache.get(key);
    return known !== undefined && this.isValid(known) ? known : undefined;
  }

  /** Whether a record that was found in the cache is as it stands at {@link asOf}. */
  isValid({ generation }: Known<B, V>): boolean {
    return !this.#mustRevalidate && generation === this.#generation;
  }

  /** The record as it stood once in the known log. A fence tells whether it still stands so. */
  remembered(key: Key<B>): Known<B, V> | undefined {
    const known = this.#mustRevalidate ? undefined : this.#cache.get(key);
    if (known === undefined || (known.generation < this.#limit.generation && known.seq > this.#limit.seq))
      return undefined;
    return known;
  }

  /** Where the record was seen, in this log or an earlier one. */
  seen(key: Key<B>): Seq<B> | undefined {
    return this.#cache.get(key)?.seq;
  }

  /** A record is proved on its own from here on, until {@link fill} or {@link abandonFill}. */
  beginFill(key: Key<B>): Fill<B> {
    const known = this.#fills.get(key);
    if (known === undefined) this.#fills.set(key, { count: 1, changed: 0 });
    else known.count++;
    return { key, generation: this.#generation, log: this.#log };
  }

  /** Whether the log is surely the same as when the fill began. */
  isOf({ log }: Fill<B>): boolean {
    return log === this.#log && !this.#mustRevalidate;
  }

  /**
   * The record was not proved, or it is not there. An absence is not kept: anybody can ask for keys that nobody has.
   */
  abandonFill(reading: Fill<B>): void {
    this.#endFill(reading);
  }

  /**
   * The record was proved, as of `at`, to stand at `seq`. `entry` is what was read. Without it, what is remembered
   * stands.
   */
  fill(reading: Fill<B>, at: Seq<B>, seq: Seq<B>, entry?: Entry<B>): void {
    if (reading.log === this.#log && entry !== undefined) {
      const known = this.#cache.get(reading.key);
      if (known === undefined || known.seq < seq) this.#put(entry, reading.generation - 1);
    }
    const found = { asOf: at, reading, seq };
    if (at <= this.#asOf || reading.generation !== this.#generation) {
      this.#applyFill(found);
      return;
    }
    // Acknowledgements come nearly in order.
    let place = this.#pendingFills.length;
    while (place > 0 && (this.#pendingFills[place - 1]?.asOf ?? 0) > at) place--;
    this.#pendingFills.splice(place, 0, found);
    if (this.#pendingFills.length > MAX_AHEAD) this.#applyFill(this.#pendingFills.shift());
  }

  /** The sequence of a barrier that was acknowledged. Answers whether the cache is as of it, or later. */
  advanceTo(seq: Seq<B>): boolean {
    if (this.#mustRevalidate) return false;
    if (seq > this.#asOf) {
      if (!this.#inUse && this.#fills.size === 0) this.#asOf = seq;
      else {
        this.#applyOwnWrites();
        if (this.#own.hasAll(this.#asOf + 1, seq)) this.#asOf = later(this.#asOf, seq);
      }
      this.#applyPendingFills();
    }
    return seq <= this.#asOf;
  }

  /** This store's own write was acknowledged. The cache takes it without reading, if it knows everything before it. */
  applyOwnWrite(key: Key<B>, payload: string, seq: Seq<B>): void {
    if (this.#mustRevalidate || seq <= this.#asOf) return;
    this.#ownWrites.set(seq, { key, payload });
    this.#applyOwnWrites();
    for (const oldest of this.#ownWrites.keys()) {
      if (this.#ownWrites.size <= MAX_WROTE) break;
      this.#ownWrites.delete(oldest);
    }
  }

  #applyOwnWrites(): void {
    for (const [seq, { key, payload }] of this.#ownWrites) {
      if (seq <= this.#asOf) {
        this.#ownWrites.delete(seq);
      } else if (this.#own.hasAll(this.#asOf + 1, seq - 1)) {
        this.#ownWrites.delete(seq);
        if (this.#isWanted(key)) this.#take(new Entry(key, asObject(JSON.parse(payload)), { seq, stamp: "" }), payload);
        this.#asOf = seq;
        this.#applyPendingFills();
      }
    }
  }

  /** Takes what a replica has from {@link asOf} on, in order, as far as it has no gap. Answers whether it has none. */
  applyChanges(generation: number, changes: readonly Entry<B>[]): boolean {
    if (generation !== this.#generation || this.#mustRevalidate) return true;
    const end = this.#endOf(changes);
    for (const change of changes) {
      const { key, seq } = change;
      if (seq > end) break;
      if (isBarrier(key)) {
        this.#own.met(key, change.value);
        continue;
      }
      if (this.#isWanted(key)) this.#take(change);
    }
    this.#asOf = later(this.#asOf, end);
    this.#applyPendingFills();
    return end >= (changes.at(-1)?.seq ?? 0);
  }

  #isWanted(key: Key<B>): boolean {
    return this.#fills.has(key) || this.#cache.get(key) !== undefined;
  }

  #take(change: Entry<B>, payload?: string): void {
    const reading = this.#fills.get(change.key);
    if (reading !== undefined) reading.changed = change.seq;
    this.#put(change, this.#generation, payload);
  }

  /** Up to where the changes have no gap that is not explained. */
  #endOf(changes: readonly Entry<B>[]): Seq<B> {
    let before = this.#asOf;
    let end = before;
    let explained: Explained<B> | undefined;
    // What explains the gaps stands at or below this sequence. It has to be taken with them.
    let needed = 0;
    for (const { seq } of changes) {
      if (seq <= before) continue;
      if (seq > before + 1) {
        explained ??= new Explained(this.#asOf + 1, this.#own, changes);
        needed = Math.max(needed, explained.neededFor(before + 1, seq - 1));
      }
      before = seq;
      if (needed <= seq) end = seq;
    }
    return end;
  }

  /** Begins a new generation as of the sequence of a barrier. */
  beginGeneration(seq: Seq<B>): void {
    this.#generation++;
    this.#changes++;
    this.#inUse = false;
    this.#asOf = later(this.#asOf, seq);
    for (const found of this.#pendingFills.splice(0)) this.#applyFill(found);
  }

  /** The same, if this generation has no records yet: nothing is lost by it. */
  beginGenerationIfUnused(seq: Seq<B>): void {
    if (!this.#inUse && !this.#mustRevalidate && seq > this.#asOf) this.beginGeneration(seq);
  }

  /**
   * So much time has passed that another log may be there. Nothing is exact until one of the three methods below is
   * called.
   */
  invalidate(): void {
    this.#own.freeze();
    this.#ownWrites.clear();
    this.#mustRevalidate = true;
  }

  /** The log is the same, up to this sequence, and everything that is kept stands at or below it. Nothing is lost. */
  revalidate(seq: Seq<B>, asked: Moment): void {
    this.#mustRevalidate = false;
    this.#own.thaw(seq, this.#continuity.isUnbroken);
    this.#continuity.begin(asked);
    if (seq < this.#asOf) this.#asOf = seq;
  }

  /** The log is the same up to this anchor, which stands where it did. Without an anchor it may be another. */
  revalidateBy(anchor: Anchor<B> | undefined, asked: Moment): void {
    if (anchor === undefined) {
      this.forgetLog();
      return;
    }
    this.#mustRevalidate = false;
    this.#own.thaw(anchor.seq, this.#continuity.isUnbroken);
    this.#continuity.begin(asked);
    this.beginGeneration(this.#asOf);
    this.#limit = { generation: this.#generation, seq: anchor.seq };
    this.#anchors = this.#anchors.filter(({ seq }) => seq <= anchor.seq);
  }

  /** Forgets everything: another log may be there. */
  forgetLog(): void {
    this.#log++;
    this.#ownWrites.clear();
    this.#own.forget();
    this.#cache.clear();
    this.#anchors = [];
    this.#mustRevalidate = false;
    this.#continuity.begin(moment());
    this.#asOf = 0;
    this.beginGeneration(0);
  }

  #applyPendingFills(): void {
    while ((this.#pendingFills[0]?.asOf ?? Infinity) <= this.#asOf) this.#applyFill(this.#pendingFills.shift());
  }

  #applyFill(found: PendingFill<B> | undefined): void {
    if (found === undefined) return;
    const { reading, asOf: at, seq } = found;
    const changed = this.#fills.get(reading.key)?.changed ?? 0;
    this.#endFill(reading);
    // The log has a newer state. It may have been kept, and dropped again.
    if (changed > at) return;
    // A fill of another generation, or beyond `asOf`, is only remembered. After any other, the log has told what
    // changed.
    if (reading.log !== this.#log || reading.generation !== this.#generation || at > this.#asOf || this.#mustRevalidate)
      return;
    const known = this.#cache.get(reading.key);
    if (known?.seq !== seq || known.generation === this.#generation) return;
    this.#cache.renew(reading.key, this.#generation);
    this.#inUse = true;
  }

  #endFill({ key }: Fill<B>): void {
    const reading = this.#fills.get(key);
    if (reading !== undefined && --reading.count === 0) this.#fills.delete(key);
  }

  #put(entry: Entry<B>, generation = this.#generation, payload?: string): void {
    this.#changes++;
    this.#cache.put(entry, generation);
    if (generation === this.#generation) this.#inUse = true;
    this.#remember(entry, payload);
  }

  #remember(entry: Entry<B>, payload: string | undefined): void {
    const anchors = this.#anchors;
    const { key, seq } = entry;
    const earlier = anchors.findIndex((anchor) => anchor.key === key);
    if (earlier >= 0) anchors.splice(earlier, 1);
    let place = anchors.length;
    while (place > 0 && (anchors[place - 1]?.seq ?? 0) < seq) place--;
    if (place === MAX_ANCHORS) return;
    anchors.splice(place, 0, { key, seq, stamp: entry.stamp, payload });
    if (anchors.length > MAX_ANCHORS) anchors.pop();
  }
}

/** What stood at the sequences that are missing of what was read of the log. */
export class Explained<B extends BucketName> {
  /** Where barriers stood, in ascending order. They can overlap. */
  readonly #barriers: readonly Range[];
  #next = 0;
  /** Where records stood before they stood where they were read. */
  readonly #successors = new Map<number, number>();

  constructor(since: number, own: OwnBarriers<B>, changes: readonly Entry<B>[]) {
    const barriers = [...own.since(since)];
    for (const { key, seq, value } of changes) {
      if (isBarrier(key)) barriers.push(...listedIn(value, since));
      else
        for (const earlier of predecessors(value))
          if (earlier >= since && earlier < seq) this.#successors.set(earlier, seq);
    }
    this.#barriers = barriers.sort((a, b) => a.from - b.from);
  }

  /**
   * Up to which sequence changes have to be taken, so that `from` to `to` may be missing. `Infinity`: no change
   * explains them. To be asked in ascending order.
   */
  neededFor(from: number, to: number): number {
    let needed = 0;
    for (let missing = from; missing <= to;) {
      const barriers = this.#barriers[this.#next];
      if (barriers !== undefined && barriers.from <= missing) {
        if (barriers.to < missing) this.#next++;
        else missing = barriers.to + 1;
        continue;
      }
      const successor = this.#successors.get(missing);
      if (successor === undefined) return Infinity;
      needed = Math.max(needed, successor);
      missing++;
    }
    return needed;
  }
}

/** The sequences at which the record stood before, as it tells itself. */
export function predecessors(value: Entry<never>["value"]): number[] {
  const { seqs } = value;
  return Array.isArray(seqs) ? seqs.map(Number) : [];
}
