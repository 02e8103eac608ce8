/** A bucket that keeps what it has read, so that what was read before is proved by a barrier that all checks share. */
import type { Call } from "../call.js";
import { StoreError } from "../errors.js";
import { whole } from "./answers.js";
import { Bucket, type Limits } from "./bucket.js";
import type { DirectAnswer, JetStreamClient } from "./client.js";
import type { Json } from "./json.js";
import { RetryLoop } from "./retry-loop.js";
import { moment } from "./continuity.js";
import { ExactCache } from "./exact-cache.js";
import type { Cache, Fill, Known } from "./exact-cache.js";
import { decode, textOf } from "./entry.js";
import type { Entry } from "./entry.js";
import { joinAll } from "./join.js";
import { CacheWithState, OPEN, STATE, StoreState } from "./store-state.js";

/** A record as it stands at a moment after it was asked for, which is `asOf` in the log. */
export interface Proved<V> {
  readonly value: V;
  readonly seq: number;
  readonly asOf: number;
}

/**
 * Changes that are read at once to bring the cache up to date: all that several stores have under way at a time. Our records have at
 * most some 20 KiB, and the server cuts an answer short at 64 MiB.
 */
const MAX_CHANGES = 256;
/** And behind a gap. */
const MAX_READ = 2048;
/** How long a read of them may take. A replica that takes longer is left alone: the leader can prove every record. */
const FOLLOW_MS = 200;
/**
 * After so many reads, and so long, in which the cache got nowhere, every record is proved on its own. What stores write meanwhile tells of
 * what they wrote before: to be patient costs a moment, and the other way a write for each record, which others have to be told of.
 */
const MAX_ATTEMPTS = 4;
const MAX_GAP_MS = 200;
/** So long it may be behind, also where it gets on: others can write more than is read. */
const MAX_BEHIND_MS = 500;
const MAX_PAUSE_MS = 16;
const IDENTIFY_MS = 500;

export class ProvedBucket<V> extends Bucket {
  readonly #cache: ExactCache<V | StoreState>;
  readonly #valueOf: (entry: Entry) => V | StoreState;
  #catchingUp: Promise<DirectAnswer | "gap"> | undefined;
  #identifying: Promise<void> | undefined;

  /** `valueOf` makes of a record what the cache keeps of it. */
  constructor(link: JetStreamClient, name: string, limits: Limits, cache: Cache<V>, valueOf: (entry: Entry) => V) {
    super(link, name, limits);
    this.#cache = new ExactCache(new CacheWithState(cache), this.own, this.continuity);
    // As in `Call`: a function that is made where it is assigned would keep its store in memory longer than it lives.
    const read = (entry: Entry): V | StoreState => (entry.key === STATE ? new StoreState(entry) : valueOf(entry));
    const stored: typeof this.onStored = (key, payload, seq) => {
      this.#cache.applyOwnWrite(key, payload, seq);
    };
    const forgot: typeof cache.onForget = (seq) => {
      this.forgot(seq);
    };
    const recognized: typeof this.onRecognized = (last, found, asked) => {
      const stands = found.seq === last && this.own.isOwn(decode(found, this.subjects.length).value);
      if (stands && this.#cache.mustRevalidate && (this.#cache.anchors[0]?.seq ?? 0) <= last)
        this.#cache.revalidate(last, asked);
    };
    this.#valueOf = read;
    // What it wrote needs not be read, where nothing stands between that and what it knows.
    this.onStored = stored;
    cache.onForget = forgot;
    this.onRecognized = recognized;
  }

  protected override allowed(key: string, seq: number): "yes" | "no" | "unknown" {
    const seen = this.#cache.seen(key);
    if (seen !== undefined && seq < seen) return "no";
    const allowed = super.allowed(key, seq);
    return seen !== undefined && allowed === "unknown" ? "yes" : allowed;
  }

  override takeBarrier(): { readonly key: string; readonly value: string } {
    // Before it is taken for one of the log that is known.
    this.#cache.checkAge();
    return super.takeBarrier();
  }

  override noteBarrier(seq: number, key: string): void {
    super.noteBarrier(seq, key);
    this.#cache.advanceTo(seq);
  }

  override doubt(): void {
    super.doubt();
    this.#cache.forgetLog();
  }

  protected override suspect(): void {
    this.#cache.invalidate();
  }

  /** The record at a moment after this call, or `undefined`: it is surely not there. */
  async prove(key: string, call: Call): Promise<Proved<V> | undefined> {
    const found = await this.#prove(key, call);
    return found === undefined ? undefined : ofRecord(found);
  }

  /**
   * What {@link prove} answers of a record that is kept, in fewer turns: nearly all checks are of one. `undefined`: only {@link prove}
   * can tell.
   */
  proveKept(key: string, call: Call): Promise<Proved<V> | undefined> | undefined {
    this.use();
    if (!this.#isSure() || this.mayBeAnother()) return undefined;
    const known = this.#cache.valid(key);
    if (known === undefined) return undefined;
    const { changes } = this.#cache;
    return this.barrier.prove(call).then((seq) => {
      if (this.isDoubted) return undefined;
      if (!this.#cache.advanceTo(seq)) return this.#broughtTo(seq, key, call);
      // Looked up again only where something has changed: of a million records each look is a miss of the processor's cache.
      const kept = this.#cache.changes === changes ? this.#asOf(known) : this.#kept(key);
      return kept ?? this.#broughtTo(seq, key, call);
    });
  }

  /** Where the cache cannot be brought to the barrier in time, the leader proves the record: a second barrier would end as the first. */
  async #broughtTo(seq: number, key: string, call: Call): Promise<Proved<V> | undefined> {
    const kept = (await this.#bring(seq, call)) ? this.#kept(key) : undefined;
    if (kept !== undefined) return kept;
    const found = await this.#byFence(key, call);
    return found === undefined || found === "unknown" ? undefined : ofRecord(found);
  }

  #kept(key: string): Proved<V> | undefined {
    const known = this.#cache.valid(key);
    return known === undefined ? undefined : this.#asOf(known);
  }

  /** What is valid, as of the cache's moment. */
  #asOf({ value, seq }: Known<V | StoreState>): Proved<V> {
    return ofRecord({ value, seq, asOf: this.#cache.asOf });
  }

  async #prove(key: string, call: Call): Promise<Proved<V | StoreState> | undefined> {
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

  /** Lays down that the store may be used, where nothing says whether it may. Answers what is said. */
  async prepareState(call: Call): Promise<StoreState> {
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      const found = await this.#prove(STATE, call);
      if (found?.value instanceof StoreState) return found.value;
      await super.write(STATE, OPEN, 0, call, () => "yes", "step");
    }
  }

  /**
   * Rejects unless the store may be used, at a moment of the log at or after `seq`, which is one of a message that this store knows
   * to be there.
   */
  checkOpen(seq: number, call: Call): Promise<void> | undefined {
    if (this.#cache.asOf >= seq) {
      const value = this.#cache.valid(STATE)?.value;
      if (value instanceof StoreState && value.refusal === undefined) return undefined;
    }
    return this.#checkOpen(seq, call);
  }

  async #checkOpen(seq: number, call: Call): Promise<void> {
    let known = this.#cache.valid(STATE);
    if (known !== undefined && this.#cache.asOf < seq) {
      await this.#bring(seq, call);
      known = this.#cache.valid(STATE);
    }
    const value = known === undefined || this.#cache.asOf < seq ? (await this.#prove(STATE, call))?.value : known.value;
    // It is there from the opening on. Where it is not, this is another log.
    if (!(value instanceof StoreState))
      throw new StoreError("UNAVAILABLE", "Nothing says that the store may be used: open it anew");
    if (value.refusal !== undefined) throw value.refusal;
  }

  /**
   * A write that commits is acknowledged only where it surely stands before what closes the store. Whoever finds out afterwards cannot
   * say that it was not stored.
   */
  override async write(
    key: string,
    value: Json,
    expected: number,
    call: Call,
    mine: (entry: Entry) => "yes" | "no" | "unknown",
    kind: "commit" | "step" = "commit",
  ): Promise<number | undefined> {
    const known = this.#cache.remembered(STATE)?.value;
    // What is not surely open is looked at before anything is sent.
    if (kind === "commit" && (!(known instanceof StoreState) || known.refusal !== undefined))
      await this.checkOpen(this.highestSeen, call);
    const seq = await super.write(key, value, expected, call, mine, kind);
    if (seq !== undefined && kind === "commit") await this.checkOpen(seq, call);
    return seq;
  }

  /** The same of two records, at one moment. */
  async proveBoth(
    first: string,
    second: string,
    call: Call,
  ): Promise<readonly [Proved<V> | undefined, Proved<V> | undefined]> {
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
      // As it stands at the later moment the second has stood since before the first one's.
      if (a !== undefined && (b === undefined || (b.seq <= a.asOf && b.asOf >= a.asOf))) return [a, b];
    }
  }

  /** Records of the cache, by a barrier that is sent after this call. `undefined`: it does not have all of them any more. */
  async #byBarrier(keys: readonly string[], call: Call): Promise<Proved<V | StoreState>[] | undefined> {
    const seq = await this.readIndex(call);
    if (!this.#cache.advanceTo(seq) && !(await this.#bring(seq, call))) return undefined;
    const found: Proved<V | StoreState>[] = [];
    for (const key of keys) {
      const known = this.#cache.valid(key);
      if (known === undefined) return undefined;
      found.push({ value: known.value, seq: known.seq, asOf: this.#cache.asOf });
    }
    return found;
  }

  /** One record, by a fence on it. */
  async #byFence(key: string, call: Call): Promise<Proved<V | StoreState> | undefined | "unknown"> {
    const known = this.#cache.remembered(key);
    if (known !== undefined) {
      const { seq, value } = known;
      const asOf = await this.#reading(key, async (reading) => {
        const at = await this.stands(key, seq, call);
        // Whether the log is still the one that is known has to be sure.
        if (at === undefined || !this.#cache.isOf(reading)) return undefined;
        return { at, seq };
      });
      if (asOf !== undefined) return { value, seq, asOf: asOf.at };
      if (this.#cache.mustRevalidate) return "unknown";
    }
    const found = await this.#reading(key, async () => {
      const { entry, asOf } = await this.settled(key, call);
      return entry === undefined ? undefined : { at: asOf, seq: entry.seq, entry: entry.detached() };
    });
    return found === undefined ? undefined : { value: this.#valueOf(found.entry), seq: found.seq, asOf: found.at };
  }

  /** What is proved is kept, if the log says nothing else of it meanwhile. */
  async #reading<T extends { readonly at: number; readonly seq: number; readonly entry?: Entry }>(
    key: string,
    prove: (reading: Fill) => Promise<T | undefined>,
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
        // What is not kept there is remembered as what every other record is.
        if (found.entry !== undefined && this.#cache.seen(key) === undefined) this.noted(found.entry);
        this.#comeTo(found.at);
      }
    }
  }

  /** Brings the cache to what was proved on its own, so that the next check finds it there. Nobody waits for it. */
  #comeTo(seq: number): void {
    if (this.#catchingUp !== undefined || this.#cache.mustRevalidate || this.#cache.advanceTo(seq)) return;
    const begin = (): void => {
      if (!this.#cache.advanceTo(seq)) this.#cache.beginGenerationIfUnused(seq);
    };
    this.#catchUp().then(begin, begin);
  }

  /** Brings the cache to a barrier's sequence. `false`: it has begun anew there, or is about to. */
  async #bring(seq: number, call: Call): Promise<boolean> {
    const { generation } = this.#cache;
    const retries = new RetryLoop(call);
    let { asOf: at } = this.#cache;
    const began = performance.now();
    let since = began;
    // Also calls that have little time get somewhere, be it the next one.
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

  /** Reads what was stored since the cache's moment. Whoever needs it meanwhile shares it. */
  #catchUp(): Promise<DirectAnswer | "gap"> {
    this.#catchingUp ??= this.#follow().finally(() => {
      this.#catchingUp = undefined;
    });
    return this.#catchingUp;
  }

  async #follow(): Promise<DirectAnswer | "gap"> {
    const { generation } = this.#cache;
    const began = performance.now();
    // What was read behind a gap, of which something further on may tell.
    let read: readonly Entry[] = [];
    for (;;) {
      const request = {
        seq: Math.max(this.#cache.asOf, read.at(-1)?.seq ?? 0) + 1,
        next_by_subj: ">",
        batch: MAX_CHANGES,
      };
      // Everybody waits for it, so that it has a time of its own.
      const answer = await this.link.direct(this.stream, request, FOLLOW_MS);
      if (answer.kind === "empty" && read.length > 0) return "gap";
      if (answer.kind !== "end") return answer;
      if (!whole(answer))
        return { kind: "failed", failure: "lost", error: new Error("a part of the answer is missing") };
      const isFull = answer.messages.length >= MAX_CHANGES;
      read = [...read, ...answer.messages.map((message) => decode(message, this.subjects.length).detached())];
      const isWhole = this.#cache.applyChanges(generation, read);
      // Nothing that comes later may lie before what was seen here.
      this.observe(this.#cache.asOf);
      read = isWhole ? [] : read.filter(({ seq }) => seq > this.#cache.asOf);
      if (!isWhole && (!isFull || read.length >= MAX_READ)) return "gap";
      if (!isFull || this.#cache.generation !== generation) return answer;
      // Others write faster than they are read, or have written much at once: whoever waits decides for how long.
      if (performance.now() - began > FOLLOW_MS)
        return { kind: "failed", failure: "lost", error: new Error("too much has changed") };
    }
  }

  /** Whether the log is the one that is known: to be asked before what is kept is used. */
  #isSure(): boolean {
    this.#cache.checkAge();
    return !this.#cache.mustRevalidate;
  }

  /** Looks whether the log is the one that is known. */
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
   * This store's last barrier, or a record that was kept, stands where it stood, which nobody else can have written: the log
   * up to there is the same.
   */
  async #identify(): Promise<void> {
    const asked = moment();
    const { anchors } = this.#cache;
    const { last } = this.own;
    if (last !== undefined && (anchors[0]?.seq ?? 0) <= last.seq) {
      const answer = await this.link.last(this.stream, this.subjects + last.key, IDENTIFY_MS);
      if (answer.kind === "found") {
        const { key, seq, value } = decode(answer.message, this.subjects.length);
        if (seq === last.seq && this.own.isOwn(value)) {
          this.#cache.revalidate(last.seq, asked);
          return;
        }
        // Each time that nothing is asked for a while another one's would stand there.
        this.own.met(key, value);
      }
    }
    const looks = await joinAll(
      anchors.map(async ({ key, seq, stamp, payload }) => {
        const answer = await this.link.last(this.stream, this.subjects + key, IDENTIFY_MS);
        if (answer.kind === "failed") return "unknown";
        if (answer.kind !== "found") return "is gone";
        const { message } = answer;
        const isSame = payload === undefined ? message.stamp === stamp : textOf(message.data) === payload;
        return message.seq === seq && isSame ? "stands" : "is gone";
      }),
    );
    const standing = anchors.find((_, i) => looks[i] === "stands");
    // Who did not answer may know it.
    if (standing === undefined && looks.includes("unknown")) return;
    const [newest] = anchors;
    // Records that are kept are never removed: it is there, or a later one of its key, or the log has gone back.
    if (newest !== undefined && newest !== standing && (await this.whatBecameOf(newest.key, newest.seq)) === undefined)
      return;
    this.#cache.revalidateBy(standing, asked);
    if (standing !== anchors[0]) this.onDoubt?.();
  }
}

function ofRecord<V>({ value, seq, asOf }: Proved<V | StoreState>): Proved<V> {
  if (value instanceof StoreState)
    throw new StoreError("UNAVAILABLE", "The state of the store is no record of a caller");
  return { value, seq, asOf };
}

const pause = (ms: number): Promise<void> =>
  new Promise((resolve) => {
    setTimeout(resolve, ms);
  });
