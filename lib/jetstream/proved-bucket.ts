/**
 * A bucket with an exact cache. One barrier proves every record that is in the cache, and all checks of the moment
 * share it.
 */
import type { Call } from "../call.js";
import type { ProofNote } from "../driver.js";
import { StoreError } from "../errors.js";
import { isRefusal } from "../rules.js";
import type { LogPlace } from "../store.js";
import { whole } from "./answers.js";
import { Bucket, type Limits, type IsMine } from "./bucket.js";
import type { DirectAnswer, DirectMessage, JetStreamClient } from "./client.js";
import { isFinal, unavailable } from "./failures.js";
import type { Json } from "./json.js";
import { RetryLoop } from "./retry-loop.js";
import { moment, msSince } from "../moment.js";
import type { Moment } from "../moment.js";
import { ExactCache, Explained, predecessors } from "./exact-cache.js";
import type { Cache, Fill, Known } from "./exact-cache.js";
import { decode, textOf } from "./entry.js";
import type { Entry } from "./entry.js";
import { joinAll } from "./join.js";
import { EVERYTHING, type Key } from "./keys.js";
import { historyOf, toJson } from "./record-fields.js";
import { later, type BucketName, type Seq } from "./seq.js";
import { CacheWithState, OPEN, STATE, StoreState, type CommittingBucket } from "./store-state.js";
import { OwnWrites, appendWrite, includesWrite, type Predecessor, type WriteHistory } from "./write-history.js";

/** A record as it stands at a moment after it was asked for, which is `asOf` in the log. */
export interface Proved<B extends BucketName, V> {
  readonly value: V;
  readonly seq: Seq<B>;
  readonly asOf: Seq<B>;
}

/**
 * How many changes one read takes: about as many as several stores have under way. Our records have at most some 20
 * KiB, and the server cuts an answer short at 64 MiB.
 */
const MAX_BATCH = 256;
/** How many changes behind a gap are read. One of them may explain it. */
const MAX_READ = 2048;
/** How long such a read may take. A replica that is slower is given up: the leader can prove every record. */
const FOLLOW_MS = 200;
/**
 * If the cache gets nowhere in so many reads and so much time, a new generation begins. Then each record needs a fence
 * of its own, which is a write. So waiting is worth it: later writes explain gaps.
 */
const MAX_ATTEMPTS = 4;
const MAX_GAP_MS = 200;
/** How long the cache may be behind while it gets on. Others can write faster than it reads. */
const MAX_BEHIND_MS = 500;
const MAX_PAUSE_MS = 16;
const IDENTIFY_MS = 500;

export class ProvedBucket<B extends CommittingBucket, V> extends Bucket<B> {
  readonly #bucket: B;
  readonly #cache: ExactCache<B, V | StoreState>;
  readonly #valueOf: (entry: Entry<B>) => V | StoreState;
  readonly #writes = new OwnWrites();
  /** The newest commit of this store. */
  #committed: Seq<B> = 0;
  protected override readonly keepsRecords = true;
  #catchingUp: Promise<DirectAnswer<B> | "gap"> | undefined;
  #identifying: Promise<void> | undefined;
  /** The newest message of this store did not tell which log it is. One that came after it tells as little. */
  #isUnknown = false;

  /** `valueOf` makes of a record what the cache keeps of it. */
  constructor(
    client: JetStreamClient,
    prefix: string,
    bucket: B,
    limits: Limits,
    cache: Cache<B, V>,
    valueOf: (entry: Entry<B>) => V,
  ) {
    super(client, prefix, bucket, limits);
    this.#bucket = bucket;
    this.#cache = new ExactCache(new CacheWithState<B, V>(cache), this.own, this.continuity);
    // Each function is made apart from where it is assigned. Otherwise it would keep its store in memory after the
    // store's end.
    const read = (entry: Entry<B>): V | StoreState => (entry.key === STATE ? new StoreState(entry) : valueOf(entry));
    const stored: typeof this.onStored = (key, payload, seq) => {
      this.#cache.applyOwnWrite(key, payload, seq);
    };
    const forgot: typeof cache.onForget = (seq) => {
      this.forgot(seq);
    };
    const recognized: typeof this.onRecognized = (last, stands, asked) => {
      if (stands && !this.#isUnknown && this.#cache.mustRevalidate && (this.#cache.anchors[0]?.seq ?? 0) <= last)
        this.#cache.revalidate(last, asked);
    };
    this.#valueOf = read;
    // The cache takes this store's own write without reading it, if it knows everything before.
    const notTaken = (call: Call): Promise<void> => this.checkNotSource(call);
    this.onNotTaken = notTaken;
    this.onStored = stored;
    cache.onForget = forgot;
    this.onRecognized = recognized;
  }

  protected override allowed(key: Key<B>, seq: Seq<B>): "yes" | "no" | "unknown" {
    const seen = this.#cache.seen(key);
    if (seen !== undefined && seq < seen) return "no";
    const allowed = super.allowed(key, seq);
    return seen !== undefined && allowed === "unknown" ? "yes" : allowed;
  }

  override takeBarrier(): { readonly key: string; readonly value: string } {
    // This comes first, so that the barrier is not taken for one of the old log.
    this.#checkAge();
    return super.takeBarrier();
  }

  override noteBarrier(seq: Seq<B>, key: string, sent: Moment): void {
    super.noteBarrier(seq, key, sent);
    this.#cache.advanceTo(seq);
  }

  override doubt(): void {
    super.doubt();
    // No log that has one of them in an older state is the known one.
    for (const anchor of this.#cache.anchors) this.note(anchor);
    if (this.#isUnknown) this.others++;
    this.#isUnknown = false;
    this.age.clear();
    this.#cache.forgetLog();
  }

  protected override suspect(): void {
    this.age.clear();
    this.#cache.invalidate();
  }

  /** A record that is kept may show that the log is the known one: {@link #identify} looks. */
  protected override superseded(): void {
    super.superseded();
    if (this.#cache.mustRevalidate) this.#isUnknown = true;
    else this.others++;
  }

  /**
   * The record as the cache has it, if the cache misses nothing that was acknowledged more than `maxStalenessMs` ago,
   * and nothing that this store committed. `undefined`: the record has to be proved. Nothing is sent.
   */
  recent(key: Key<B>, maxStalenessMs: number, note?: ProofNote): V | undefined {
    return this.recentOf(this.#cache.valid(key), maxStalenessMs, note);
  }

  /** The same for a record that was just found in the cache. */
  recentOf(known: Known<B, V | StoreState> | undefined, maxStalenessMs: number, note?: ProofNote): V | undefined {
    // A clock costs as much as all of the rest.
    const now = performance.now();
    this.use(now);
    if (known === undefined || this.isDoubted || !this.#cache.isValid(known)) return undefined;
    const state = this.#cache.valid(STATE)?.value;
    const { value } = known;
    const { asOf } = this.#cache;
    // A commit can be acknowledged by a fence on the state, before the cache has come to it.
    if (asOf < this.#committed) return undefined;
    if (!(state instanceof StoreState) || state.refusal !== undefined || value instanceof StoreState) return undefined;
    const sent = this.age.sentFor(asOf);
    if (sent === undefined) return undefined;
    const isYoung = msSince(sent, now) < maxStalenessMs;
    // Not the other way round: a clock that tells no time is no proof.
    if (!isYoung) return undefined;
    if (note !== undefined) this.#note(note, sent, { seq: known.seq, asOf });
    return value;
  }

  #note(note: ProofNote, since: Moment | undefined, place: LogPlace | undefined): void {
    note.since = since;
    note.of = this.#bucket;
    note.place = place;
  }

  /** What explains the sequences that are missing from `read`. That goes on from `since`, in the order of the log. */
  explained(since: Seq<B>, read: readonly Entry<B>[]): Explained<B> {
    return new Explained(since, this.own, read);
  }

  /** The record at a moment after this call. `undefined`: it is surely not there. */
  async prove(key: Key<B>, call: Call, note?: ProofNote): Promise<Proved<B, V> | undefined> {
    const since = note === undefined ? undefined : moment();
    const found = await this.#prove(key, call);
    if (note !== undefined) this.#note(note, since, found);
    return found === undefined ? undefined : ofRecord(found);
  }

  /**
   * Like {@link prove}, in fewer turns of the event loop, for a record in the cache: nearly all checks are of one.
   * `undefined`: only {@link prove} can tell.
   */
  proveKept(key: Key<B>, call: Call, note?: ProofNote): Promise<Proved<B, V> | undefined> | undefined {
    this.use();
    if (!this.#isSure() || this.mayBeAnother()) return undefined;
    const known = this.#cache.valid(key);
    if (known === undefined) return undefined;
    const { changes } = this.#cache;
    return this.barrier.prove(call).then((seq) => {
      if (this.isDoubted) return undefined;
      if (!this.#cache.advanceTo(seq)) return this.#broughtTo(seq, key, call, note);
      // Looked up again only if something has changed: among a million records each look misses the processor's cache.
      const kept = this.#cache.changes === changes ? this.#asOf(known) : this.#kept(key);
      if (kept === undefined) return this.#broughtTo(seq, key, call, note);
      // The newest barrier that the cache has come to: the one that this check waited for, or a later one.
      if (note !== undefined) this.#note(note, this.age.sentFor(kept.asOf), kept);
      return kept;
    });
  }

  /**
   * If the cache does not come to the barrier in time, a fence proves the record. A second barrier would fare no
   * better.
   */
  async #broughtTo(
    seq: Seq<B>,
    key: Key<B>,
    call: Call,
    note: ProofNote | undefined,
  ): Promise<Proved<B, V> | undefined> {
    const kept = (await this.#bring(seq, call)) ? this.#kept(key) : undefined;
    if (kept !== undefined) {
      if (note !== undefined) this.#note(note, this.age.sentFor(kept.asOf), kept);
      return kept;
    }
    const since = note === undefined ? undefined : moment();
    const found = await this.#byFence(key, call);
    if (found === undefined || found === "unknown") return undefined;
    if (note !== undefined) this.#note(note, since, found);
    return ofRecord(found);
  }

  #kept(key: Key<B>): Proved<B, V> | undefined {
    const known = this.#cache.valid(key);
    return known === undefined ? undefined : this.#asOf(known);
  }

  /** A valid record, as of the cache's `asOf`. */
  #asOf({ value, seq }: Known<B, V | StoreState>): Proved<B, V> {
    return ofRecord({ value, seq, asOf: this.#cache.asOf });
  }

  async #prove(key: Key<B>, call: Call): Promise<Proved<B, V | StoreState> | undefined> {
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      this.use();
      if (!this.#isSure()) await this.#sure(call);
      const valid = this.#cache.valid(key) === undefined ? undefined : (await this.#byBarrier([key], call))?.[0];
      if (valid !== undefined) return valid;
      const found = await this.#byFence(key, call);
      if (found !== "unknown") return found;
    }
  }

  async hasState(call: Call): Promise<boolean> {
    return (await this.#prove(STATE, call)) !== undefined;
  }

  /** Writes the state `open` if there is no state yet. Answers the state. */
  async prepareState(call: Call): Promise<StoreState> {
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      const found = await this.#prove(STATE, call);
      if (found?.value instanceof StoreState) return found.value;
      await super.write(STATE, OPEN, 0, call, () => "yes", "step");
    }
  }

  /**
   * Rejects unless the store was open at `seq`, where a message surely stands. What is read of a closed store proves
   * nothing, even if the store is opened later: an import may write last that somebody was revoked.
   */
  checkOpen(seq: Seq<B>, call: Call): Promise<void> | undefined {
    if (this.#cache.asOf >= seq) {
      const known = this.#cache.valid(STATE);
      const value = known?.value;
      if (known !== undefined && known.seq <= seq && value instanceof StoreState && value.refusal === undefined)
        return undefined;
    }
    return this.#checkOpen(seq, call);
  }

  async #checkOpen(seq: Seq<B>, call: Call): Promise<void> {
    let known = this.#cache.valid(STATE);
    if (known !== undefined && this.#cache.asOf < seq) {
      await this.#bring(seq, call);
      known = this.#cache.valid(STATE);
    }
    const found = known === undefined || this.#cache.asOf < seq ? await this.#prove(STATE, call) : known;
    const value = found?.value;
    // The state stands there since the opening. If it does not, another log is there.
    if (found === undefined || !(value instanceof StoreState))
      throw new StoreError("UNAVAILABLE", "Nothing says that the store may be used: open it anew");
    if (value.refusal !== undefined) throw value.refusal;
    if (found.seq > seq) throw new StoreError("UNAVAILABLE", "The store was closed, and has been opened just now");
  }

  /** Whether the store has been open from there on. Rejects if it is not open now. */
  async wasOpen(since: Seq<B>, call: Call): Promise<boolean> {
    await this.checkOpen(this.highestSeen, call);
    const state = this.#cache.remembered(STATE);
    return state !== undefined && state.seq <= since;
  }

  /**
   * A decision that rests on what is read meanwhile: a refusal, or what `isFinal` says of the answer. It holds only if
   * the store is open all the while. Of one that was moved the records may be others elsewhere; of one that was opened
   * since this store last heard of it they are read once more.
   */
  async decided<T>(call: Call, decide: () => Promise<T>, isFinal: (found: T) => boolean): Promise<T> {
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      const since = this.highestSeen;
      try {
        const found = await decide();
        if (!isFinal(found) || (await this.wasOpen(since, call))) return found;
      } catch (error) {
        if (!isRefusal(error) || (await this.wasOpen(since, call))) throw error;
      }
    }
  }

  /**
   * Rejects unless what changed up to `seq` can be told: the store was open there, or it is moved away from, and
   * nothing is acknowledged any more.
   */
  async checkTold(seq: Seq<B>, call: Call): Promise<void> {
    try {
      await this.checkOpen(seq, call);
    } catch (error) {
      const state = this.#asSource;
      if (state === undefined || error !== state.refusal) throw error;
    }
  }

  /** Whether the store was moved away from, or is being, as far as this store has heard. */
  get isSource(): boolean {
    return this.#asSource !== undefined;
  }

  get #asSource(): StoreState | undefined {
    const state = this.#cache.remembered(STATE)?.value;
    return state instanceof StoreState && state.isSource ? state : undefined;
  }

  /** Rejects if the store is moved away from, or is being: then its streams take no records. */
  async checkNotSource(call: Call): Promise<void> {
    try {
      await this.checkOpen(await this.readIndex(call), call);
    } catch (error) {
      if (error === this.#asSource?.refusal) throw error;
    }
  }

  /** Rejects unless the store is known to be open. To be called before anything is sent. */
  async checkNotClosed(call: Call): Promise<void> {
    const known = this.#cache.remembered(STATE)?.value;
    if (known instanceof StoreState && known.refusal === undefined) return;
    // The store may be open again.
    await this.checkOpen(await this.readIndex(call), call);
  }

  /** For records without a write history. None of them commits anything. */
  override write(
    key: Key<B>,
    value: Json,
    expected: Seq<B>,
    call: Call,
    mine: IsMine<B>,
    kind: "step",
  ): Promise<Seq<B> | undefined> {
    return super.write(key, value, expected, call, mine, kind);
  }

  /**
   * Writes the record that follows upon `before`, with its write history. `undefined`: `before` no longer stands there.
   *
   * A commit is acknowledged only if it surely stands before any record that closes the store. If the store turns out
   * to be closed after the write, the outcome is unknown.
   */
  async append(
    key: Key<B>,
    before: Predecessor<B>,
    make: (written: WriteHistory<B>) => object,
    call: Call,
    kind: "commit" | "step",
  ): Promise<Predecessor<B> | undefined> {
    const id = this.#writes.begin();
    try {
      const written = appendWrite(before, id, this.#writes);
      const mine: IsMine<B> = (entry, isLost) => includesWrite(historyOf(entry), before.written, id, isLost);
      if (kind === "commit") await this.checkNotClosed(call);
      const seq = await super.write(key, toJson(make(written)), before.seq, call, mine, kind);
      if (seq === undefined) return undefined;
      if (kind === "commit") {
        this.#committed = later(this.#committed, seq);
        // By this record the store finds out if the log goes back to before it. Records of this bucket are never
        // removed.
        if (this.noteOwn({ key, seq, isBehind: (entry) => mine(entry, true) })) this.#writes.landmark = id;
        await this.checkOpen(seq, call);
      }
      return { seq, written };
    } finally {
      this.#writes.end(id);
    }
  }

  /** The same of two records, at one moment. */
  async proveBoth(
    first: Key<B>,
    second: Key<B>,
    call: Call,
  ): Promise<readonly [Proved<B, V> | undefined, Proved<B, V> | undefined]> {
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      this.use();
      if (!this.#isSure()) await this.#sure(call);
      if (this.#cache.valid(first) !== undefined && this.#cache.valid(second) !== undefined) {
        const found = (await this.#byBarrier([first, second], call))?.map(ofRecord);
        if (found !== undefined) return [found[0], found[1]];
      }
      const a = await this.prove(first, call);
      const b = await this.prove(second, call);
      // The second has stood unchanged since before the moment of the first.
      if (a !== undefined && (b === undefined || (b.seq <= a.asOf && b.asOf >= a.asOf))) return [a, b];
    }
  }

  /**
   * Records of the cache, proved by a barrier that is sent after this call. `undefined`: one of them is no longer
   * valid.
   */
  async #byBarrier(keys: readonly Key<B>[], call: Call): Promise<Proved<B, V | StoreState>[] | undefined> {
    const seq = await this.readIndex(call);
    if (!this.#cache.advanceTo(seq) && !(await this.#bring(seq, call))) return undefined;
    const found: Proved<B, V | StoreState>[] = [];
    for (const key of keys) {
      const known = this.#cache.valid(key);
      if (known === undefined) return undefined;
      found.push({ value: known.value, seq: known.seq, asOf: this.#cache.asOf });
    }
    return found;
  }

  /** One record, proved by a fence on it. */
  async #byFence(key: Key<B>, call: Call): Promise<Proved<B, V | StoreState> | undefined | "unknown"> {
    const known = this.#cache.remembered(key);
    if (known !== undefined) {
      const { seq, value } = known;
      const asOf = await this.#reading(key, async (reading) => {
        const at = await this.stands(key, seq, call);
        // The fence proves nothing if another log may be there.
        if (at === undefined || !this.#cache.isOf(reading)) return undefined;
        return { at, seq };
      });
      if (asOf !== undefined) return { value, seq, asOf: asOf.at };
      if (this.#cache.mustRevalidate) return "unknown";
    }
    const found = await this.#reading(key, async () => {
      const { entry, asOf } = await this.readFenced(key, call);
      return entry === undefined ? undefined : { at: asOf, seq: entry.seq, entry };
    });
    return found === undefined ? undefined : { value: this.#valueOf(found.entry), seq: found.seq, asOf: found.at };
  }

  /** Keeps what is proved, unless the log changed the record meanwhile. */
  async #reading<T extends { readonly at: Seq<B>; readonly seq: Seq<B>; readonly entry?: Entry<B> }>(
    key: Key<B>,
    prove: (reading: Fill<B>) => Promise<T | undefined>,
  ): Promise<T | undefined> {
    const reading = this.#cache.beginFill(key);
    let found: T | undefined;
    try {
      found = await prove(reading);
      return found;
    } finally {
      if (found === undefined) {
        this.#cache.abandonFill(reading);
      } else {
        this.#cache.fill(reading, found.at, found.seq, found.entry);
        // A record that the cache does not keep is noted like every other one.
        if (found.entry !== undefined && this.#cache.seen(key) === undefined) this.noted(found.entry);
        this.#comeTo(found.at);
      }
    }
  }

  /** Brings the cache to `seq`, so that the next check finds the record in it. Nobody waits for it. */
  #comeTo(seq: Seq<B>): void {
    if (this.#catchingUp !== undefined || this.#cache.mustRevalidate || this.#cache.advanceTo(seq)) return;
    const begin = (): void => {
      if (!this.#cache.advanceTo(seq)) this.#cache.beginGenerationIfUnused(seq);
    };
    this.#catchUp().then(begin, begin);
  }

  /** Brings the cache to a barrier's sequence. `false`: a new generation has begun, or is about to. */
  async #bring(seq: Seq<B>, call: Call): Promise<boolean> {
    const { generation } = this.#cache;
    const retries = new RetryLoop(call);
    let { asOf: at } = this.#cache;
    const began = performance.now();
    let since = began;
    // A call with little time gives up early too. Then at least the next one gets on.
    const half = (call.expiresAt - call.startedAt) / 2;
    for (let attempts = 0; !this.#cache.advanceTo(seq); attempts++) {
      if (this.#cache.mustRevalidate || this.#cache.generation !== generation) return false;
      const now = performance.now();
      if (this.#cache.asOf > at) {
        at = this.#cache.asOf;
        since = now;
        attempts = 0;
      }
      const isStuck = attempts >= MAX_ATTEMPTS && now - since > Math.min(MAX_GAP_MS, half);
      if (isStuck || now - began > Math.min(MAX_BEHIND_MS, half)) {
        this.#cache.beginGeneration(seq);
        this.own.part();
        return false;
      }
      call.throwIfEnded();
      if (attempts > 0) await pause(Math.min(MAX_PAUSE_MS, 2 ** attempts / 2, call.remaining()));
      const answer = await this.#catchUp();
      if (answer !== "gap" && answer.kind === "failed") retries.failed(answer.failure, answer.error);
    }
    return this.#cache.generation === generation;
  }

  /** Reads what was stored since `asOf`. Callers that come meanwhile share the read. */
  #catchUp(): Promise<DirectAnswer<B> | "gap"> {
    this.#catchingUp ??= this.#follow().finally(() => {
      this.#catchingUp = undefined;
    });
    return this.#catchingUp;
  }

  async #follow(): Promise<DirectAnswer<B> | "gap"> {
    const { generation } = this.#cache;
    const began = performance.now();
    // What was read behind a gap. Something further on may explain the gap.
    let read: readonly Entry<B>[] = [];
    for (;;) {
      const request = {
        seq: Math.max(this.#cache.asOf, read.at(-1)?.seq ?? 0) + 1,
        next_by_subj: EVERYTHING,
        batch: MAX_BATCH,
      };
      // Several calls wait for this read. So it has a time of its own.
      const answer = await this.client.direct(this.stream, request, FOLLOW_MS);
      if (answer.kind === "empty" && read.length > 0) return "gap";
      if (answer.kind !== "end") return answer;
      if (!whole(answer))
        return { kind: "failed", failure: "lost", error: new Error("a part of the answer is missing") };
      const isFull = answer.messages.length >= MAX_BATCH;
      read = [...read, ...answer.messages.map((message) => decode(message, this.subjects.length))];
      const isWhole = this.#cache.applyChanges(generation, read);
      // No later read may be older than this one.
      this.observe(this.#cache.asOf);
      read = isWhole ? [] : read.filter(({ seq }) => seq > this.#cache.asOf);
      if (!isWhole && (!isFull || read.length >= MAX_READ)) return "gap";
      if (!isFull || this.#cache.generation !== generation) return answer;
      // Others write faster than this reads, or wrote much at once. Each caller decides whether to go on.
      if (performance.now() - began > FOLLOW_MS)
        return { kind: "failed", failure: "lost", error: new Error("too much has changed") };
    }
  }

  /** Whether the log is surely the same. To be asked before the cache is used. */
  #isSure(): boolean {
    this.#checkAge();
    return !this.#cache.mustRevalidate;
  }

  /** Where nothing was heard for a while, another log may be there. */
  #checkAge(): void {
    if (!this.continuity.isFresh) this.suspect();
  }

  /** Waits until it is known whether the log is the same. */
  async #sure(call: Call): Promise<void> {
    if (this.#cache.mustRevalidate) await this.recognize(call);
    for (const retries = new RetryLoop(call); this.#cache.mustRevalidate;) {
      await retries.next();
      this.#identifying ??= this.#identify().finally(() => {
        this.#identifying = undefined;
      });
      await this.#identifying;
    }
  }

  /**
   * If this store's last barrier, or an anchor, still stands where it stood, the log is the same up to there. Nobody
   * else can have written it.
   */
  async #identify(): Promise<void> {
    const asked = moment();
    const { anchors } = this.#cache;
    const { last } = this.own;
    if (last !== undefined && (anchors[0]?.seq ?? 0) <= last.seq) {
      const answer = await this.client.last(this.stream, this.subjects + last.key, IDENTIFY_MS);
      if (answer.kind === "found") {
        const { key, seq, value } = decode(answer.message, this.subjects.length);
        if (seq === last.seq && this.own.isOwn(value)) {
          this.#isUnknown = false;
          this.#cache.revalidate(last.seq, asked);
          return;
        }
        // Another store writes this key too: it would stand there again after the next pause.
        this.own.met(key, value);
      }
    }
    const looks = await joinAll(
      anchors.map(async ({ key, seq, stamp, payload }) => {
        const answer = await this.client.last(this.stream, this.subjects + key, IDENTIFY_MS);
        if (answer.kind === "failed") {
          if (isFinal(answer.failure)) throw unavailable(answer.failure, answer.error);
          return "unknown";
        }
        if (answer.kind !== "found") return "is gone";
        const { message } = answer;
        const isSame = payload === undefined ? message.stamp === stamp : textOf(message.data) === payload;
        if (message.seq !== seq) return "is gone";
        return isSame ? "stands" : "is another";
      }),
    );
    // Another message at its place: a backup was put back, and written to since.
    if (looks.includes("is another")) {
      this.goneBack();
      return;
    }
    const standing = anchors.find((_, i) => looks[i] === "stands");
    // One of those that were not answered may stand.
    if (standing === undefined && looks.includes("unknown")) return;
    // Records of this bucket are never removed. So each anchor is there, or a later record of its key, or the log has
    // gone back.
    const others = anchors.filter((_, i) => looks[i] === "is gone");
    const found = await joinAll(others.map(({ key, seq }) => this.whatBecameOf(key, seq)));
    if (found.includes(undefined)) return;
    if (others.some(({ seq }, i) => passesOver(seq, found[i], this.subjects.length))) {
      this.goneBack();
      return;
    }
    if (this.#isUnknown && standing === undefined) this.others++;
    this.#isUnknown = false;
    this.#cache.revalidateBy(standing, asked);
    if (standing !== anchors[0]) this.onDoubt?.();
  }
}

/** Whether a later record of the key stood before and behind a place, and not there: then another log had it there. */
function passesOver<B extends BucketName>(at: Seq<B>, found: DirectMessage<B> | undefined, prefix: number): boolean {
  if (found === undefined || found.seq <= at) return false;
  const stood = predecessors(decode(found, prefix).value);
  return !stood.includes(at) && stood.some((seq) => seq < at);
}

function ofRecord<B extends BucketName, V>({ value, seq, asOf }: Proved<B, V | StoreState>): Proved<B, V> {
  if (value instanceof StoreState)
    throw new StoreError("UNAVAILABLE", "The state of the store is no record of a caller");
  return { value, seq, asOf };
}

const pause = (ms: number): Promise<void> =>
  new Promise((resolve) => {
    setTimeout(resolve, ms);
  });
