/**
 * Records that were read, kept exact by the order of the bucket. A bucket is one log, so that a barrier tells how far it is,
 * and everything that was stored since is read from any replica, in order. What was read before still holds then.
 *
 * That reading is believed only as far as it has no gap: a replica that catches up from a snapshot drops what was superseded
 * before it has what superseded it. A sequence that is missing is no gap if it is known what stood there:
 *
 * 1. a barrier of this store, which was acknowledged;
 * 2. a barrier of another store, which a later one of that store tells of;
 * 3. an older state of a record that was read in its newer one, which tells of it.
 *
 * Where a gap stays, the copy is as of a barrier anew, and a new *era* begins: no record is known to be as it stands, but
 * each is still known as it was, so that one fence proves it. docs/protocol.md has the argument.
 */
import { asObject } from "./json.js";
import { moment } from "./continuity.js";
import type { Continuity, Moment } from "./continuity.js";
import { Entry } from "./entry.js";
import { isBarrier } from "./own-barriers.js";
import type { OwnBarriers } from "./own-barriers.js";
import { listedIn } from "./sequence-window.js";
import type { Range } from "./sequence-window.js";

/** What is kept of a record. */
export interface Known<V> {
  /** What the record says. */
  readonly value: V;
  readonly seq: number;
  /** The era in which it was last known to be as it stands. */
  readonly era: number;
}

/** Where it is kept, in bounded memory: a record can be gone at any time. */
export interface Cache<V> {
  /** `key` is the record's in the bucket. */
  get(key: string): Known<V> | undefined;
  put(entry: Entry, era: number): void;
  /** It is known to stand as it did. */
  renew(key: string, era: number): void;
  clear(): void;
  /** Told up to where the records stood that are not kept any more. */
  onForget: ((seq: number) => void) | undefined;
}

/** A record that is being proved on its own. */
export interface Reading {
  readonly key: string;
  readonly era: number;
  readonly log: number;
}

/** What was proved on its own as of `at`, which the copy has not come to. It is remembered as it stood, at `seq`. */
interface Ahead {
  readonly at: number;
  readonly reading: Reading;
  readonly seq: number;
}

/** A message by which the log is known again. */
interface Anchor {
  readonly key: string;
  readonly seq: number;
  /** When it was stored. */
  readonly stamp: string;
  /** Of what this store wrote and did not read: what it says, with an id of its own. */
  readonly payload: string | undefined;
}

const MAX_AHEAD = 4096;
/** Writes of this store that wait for what stands between them and the copy. */
const MAX_WROTE = 1024;
const MAX_ANCHORS = 8;

export class Copy<V> {
  readonly #cache: Cache<V>;
  readonly #own: OwnBarriers;
  readonly #continuity: Continuity;
  /** Every record of this era is as it stands at this sequence of the log. */
  #at = 0;
  #era = 1;
  /** Whether there are records of this era. */
  #inUse = false;
  /** How many are proving the same record. What the log says of it meanwhile is kept. */
  readonly #readings = new Map<string, { count: number; changed: number }>();
  /** Of this era, in ascending order. */
  readonly #ahead: Ahead[] = [];
  /** What this store wrote beyond {@link at}, by where it stands. */
  readonly #wrote = new Map<number, { readonly key: string; readonly payload: string }>();
  /** The newest records that were kept, newest first. */
  #anchors: Anchor[] = [];
  /** Records of an era before this one, above this sequence, may be of another log. */
  #limit = { era: 0, seq: 0 };
  /** Another number for each log. */
  #log = 0;
  /** The copy was not needed for a while: whether the log is the one that is known has to be looked at. */
  #unsure = false;

  constructor(cache: Cache<V>, own: OwnBarriers, continuity: Continuity) {
    this.#cache = cache;
    this.#own = own;
    this.#continuity = continuity;
  }

  get at(): number {
    return this.#at;
  }

  get era(): number {
    return this.#era;
  }

  get unsure(): boolean {
    return this.#unsure;
  }

  /** Messages of which one has to stand where it did, with its time, newest first, so that the log is the one that is known. */
  get anchors(): readonly Anchor[] {
    return [...this.#anchors];
  }

  /** To be asked before what is kept is used: it is not sure for ever which log it is of. */
  wake(): void {
    if (!this.#continuity.isFresh) this.suspect();
  }

  /** The record as it stands at {@link at}. */
  valid(key: string): Known<V> | undefined {
    const known = this.#unsure ? undefined : this.#cache.get(key);
    return known?.era === this.#era ? known : undefined;
  }

  /** The record as it stood once, in the log that is known: a fence tells whether it still does. */
  remembered(key: string): Known<V> | undefined {
    const known = this.#unsure ? undefined : this.#cache.get(key);
    if (known === undefined || (known.era < this.#limit.era && known.seq > this.#limit.seq)) return undefined;
    return known;
  }

  /** Where the record was seen, in whatever log. */
  seen(key: string): number | undefined {
    return this.#cache.get(key)?.seq;
  }

  /** A record is proved on its own from here on, until {@link end} or {@link drop}. */
  begin(key: string): Reading {
    const known = this.#readings.get(key);
    if (known === undefined) this.#readings.set(key, { count: 1, changed: 0 });
    else known.count++;
    return { key, era: this.#era, log: this.#log };
  }

  /** Whether the log is surely the one that it was when the record began to be proved. */
  isOf({ log }: Reading): boolean {
    return log === this.#log && !this.#unsure;
  }

  /** It was not proved, or is not there: an absence is not kept, for anybody can ask for keys that nobody has. */
  drop(reading: Reading): void {
    this.#done(reading);
  }

  /** It was proved as of `at` to stand at `seq`: `entry`, or, without one, what is remembered. */
  end(reading: Reading, at: number, seq: number, entry?: Entry): void {
    if (reading.log === this.#log && entry !== undefined) {
      const known = this.#cache.get(reading.key);
      if (known === undefined || known.seq < seq) this.#put(entry, reading.era - 1);
    }
    const found = { at, reading, seq };
    if (at <= this.#at || reading.era !== this.#era) {
      this.#keep(found);
      return;
    }
    // Acknowledgements come nearly in order.
    let place = this.#ahead.length;
    while (place > 0 && (this.#ahead[place - 1]?.at ?? 0) > at) place--;
    this.#ahead.splice(place, 0, found);
    if (this.#ahead.length > MAX_AHEAD) this.#keep(this.#ahead.shift());
  }

  /** The sequence of a barrier that was acknowledged. Answers whether the copy is as of it, or later. */
  reach(seq: number): boolean {
    if (this.#unsure) return false;
    if (seq > this.#at) {
      if (!this.#inUse && this.#readings.size === 0) this.#at = seq;
      else {
        this.#takeWritten();
        if (this.#own.hasAll(this.#at + 1, seq)) this.#at = Math.max(this.#at, seq);
      }
      this.#settle();
    }
    return seq <= this.#at;
  }

  /** This store's own write was acknowledged: the copy takes it without reading, if nothing that is not known stands before it. */
  wrote(key: string, payload: string, seq: number): void {
    if (this.#unsure || seq <= this.#at) return;
    this.#wrote.set(seq, { key, payload });
    this.#takeWritten();
    for (const oldest of this.#wrote.keys()) {
      if (this.#wrote.size <= MAX_WROTE) break;
      this.#wrote.delete(oldest);
    }
  }

  #takeWritten(): void {
    for (const [seq, { key, payload }] of this.#wrote) {
      if (seq <= this.#at) {
        this.#wrote.delete(seq);
      } else if (this.#own.hasAll(this.#at + 1, seq - 1)) {
        this.#wrote.delete(seq);
        if (this.#isWanted(key)) this.#take(new Entry(key, asObject(JSON.parse(payload)), { seq, stamp: "" }), payload);
        this.#at = seq;
        this.#settle();
      }
    }
  }

  /** Takes what a replica has from {@link at} on, in order, as far as it has no gap. Answers whether it has none. */
  follow(era: number, changes: readonly Entry[]): boolean {
    if (era !== this.#era || this.#unsure) return true;
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
    this.#at = Math.max(this.#at, end);
    this.#settle();
    return end >= (changes.at(-1)?.seq ?? 0);
  }

  #isWanted(key: string): boolean {
    return this.#readings.has(key) || this.#cache.get(key) !== undefined;
  }

  #take(change: Entry, payload?: string): void {
    const reading = this.#readings.get(change.key);
    if (reading !== undefined) reading.changed = change.seq;
    this.#put(change, this.#era, payload);
  }

  /** Up to where the changes have no gap that is not explained. */
  #endOf(changes: readonly Entry[]): number {
    let before = this.#at;
    let end = before;
    let explained: Explained | undefined;
    // What a gap was before stands up to here: without it the gap is one.
    let needed = 0;
    for (const { seq } of changes) {
      if (seq <= before) continue;
      if (seq > before + 1) {
        explained ??= new Explained(this.#at + 1, this.#own, changes);
        needed = Math.max(needed, explained.neededFor(before + 1, seq - 1));
      }
      before = seq;
      if (needed <= seq) end = seq;
    }
    return end;
  }

  /** Begins a new era as of the sequence of a barrier, however the copy came to need it. */
  rebase(seq: number): void {
    this.#era++;
    this.#inUse = false;
    this.#at = Math.max(this.#at, seq);
    for (const found of this.#ahead.splice(0)) this.#keep(found);
  }

  /** The same where there is nothing to lose: what is ahead of a gap waits for nobody. */
  rebaseUnused(seq: number): void {
    if (!this.#inUse && !this.#unsure && seq > this.#at) this.rebase(seq);
  }

  /** Time has passed in which another log could have taken the place of the one that is known. */
  suspect(): void {
    this.#own.freeze();
    this.#wrote.clear();
    this.#unsure = true;
  }

  /** The log is the one that is known up to this sequence, and everything that is kept stands below: nothing was lost. */
  confirm(seq: number, asked: Moment): void {
    this.#unsure = false;
    this.#own.thaw(seq, this.#continuity.isUnbroken);
    this.#continuity.begin(asked);
    this.#at = Math.min(this.#at, seq);
  }

  /** The anchor that stands where it did: the log is the one that is known, up to there. Without one, it may be another. */
  identify(anchor: Anchor | undefined, asked: Moment): void {
    if (anchor === undefined) {
      this.forgetLog();
      return;
    }
    this.#unsure = false;
    this.#own.thaw(anchor.seq, this.#continuity.isUnbroken);
    this.#continuity.begin(asked);
    this.rebase(this.#at);
    this.#limit = { era: this.#era, seq: anchor.seq };
    this.#anchors = this.#anchors.filter(({ seq }) => seq <= anchor.seq);
  }

  /** Forgets everything: another log may have taken the place of the one that is known. */
  forgetLog(): void {
    this.#log++;
    this.#wrote.clear();
    this.#own.forget();
    this.#cache.clear();
    this.#anchors = [];
    this.#unsure = false;
    this.#continuity.begin(moment());
    this.#at = 0;
    this.rebase(0);
  }

  #settle(): void {
    while ((this.#ahead[0]?.at ?? Infinity) <= this.#at) this.#keep(this.#ahead.shift());
  }

  #keep(found: Ahead | undefined): void {
    if (found === undefined) return;
    const { reading, at, seq } = found;
    const changed = this.#readings.get(reading.key)?.changed ?? 0;
    this.#done(reading);
    // What came after it may have been kept, and forgotten again.
    if (changed > at) return;
    // Of another era, or not yet come to, it is only remembered. Of this one the log has said what came after it.
    if (reading.log !== this.#log || reading.era !== this.#era || at > this.#at || this.#unsure) return;
    const known = this.#cache.get(reading.key);
    if (known?.seq !== seq || known.era === this.#era) return;
    this.#cache.renew(reading.key, this.#era);
    this.#inUse = true;
  }

  #done({ key }: Reading): void {
    const reading = this.#readings.get(key);
    if (reading !== undefined && --reading.count === 0) this.#readings.delete(key);
  }

  #put(entry: Entry, era = this.#era, payload?: string): void {
    this.#cache.put(entry, era);
    if (era === this.#era) this.#inUse = true;
    this.#remember(entry, payload);
  }

  #remember(entry: Entry, payload: string | undefined): void {
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
class Explained {
  /** Where barriers stood, in ascending order. They can overlap. */
  readonly #barriers: readonly Range[];
  #next = 0;
  /** Where records stood before they stood where they were read. */
  readonly #successors = new Map<number, number>();

  constructor(since: number, own: OwnBarriers, changes: readonly Entry[]) {
    const barriers = [...own.since(since)];
    for (const { key, seq, value } of changes) {
      if (isBarrier(key)) barriers.push(...listedIn(value, since));
      else for (const earlier of predecessors(value)) if (earlier >= since) this.#successors.set(earlier, seq);
    }
    this.#barriers = barriers.sort((a, b) => a.from - b.from);
  }

  /** What has to be taken too so that `from` to `to` may be missing: up to which sequence. Asked in ascending order. */
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

/** The sequences at which a record stood before, as it tells of them. */
function predecessors(value: Entry["value"]): number[] {
  const { seqs } = value;
  return Array.isArray(seqs) ? seqs.map(Number) : [];
}
