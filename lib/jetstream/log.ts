/**
 * The log of one bucket: whether it may be used, how far it is known to be, and whether it is still the same log.
 * Barriers and fences, which prove something of it, go through here.
 */
import { Call } from "../call.js";
import { tell } from "../diagnostics.js";
import { StoreError } from "../errors.js";
import { Barrier } from "./barrier.js";
import type { DirectMessage, JetStreamClient } from "./client.js";
import { moment, type Moment } from "../moment.js";
import { Continuity } from "./continuity.js";
import { decode, type Entry } from "./entry.js";
import { isFinal, unavailable } from "./failures.js";
import { Fences } from "./fences.js";
import { OwnBarriers } from "./own-barriers.js";
import type { Key } from "./keys.js";
import { ProofAge } from "./proof-age.js";
import { RetryLoop } from "./retry-loop.js";
import { streamNamed, type BucketName, type Seq, type Stream } from "./seq.js";

/** A bucket in use is looked at this often: an operator can change its settings while stores are open. */
const LOOK_MS = 5000;
const RECOGNIZE_MS = 500;

/** A message of this store that surely stood in the log, under a key that is never removed. */
interface Landmark<B extends BucketName> {
  readonly key: string;
  readonly seq: Seq<B>;
  /** Whether what stands under the key now is that message, or was written after it. `unknown`: it does not tell. */
  readonly isBehind: (entry: Entry<B>) => "yes" | "no" | "unknown";
}

export class Log<B extends BucketName> {
  readonly name: string;
  readonly stream: Stream<B>;
  readonly client: JetStreamClient;
  readonly subjects: string;
  protected readonly own = new OwnBarriers<B>();
  protected readonly continuity = new Continuity();
  protected readonly fences: Fences<B>;
  protected readonly barrier: Barrier<B>;
  /** The key of a barrier that stands there. A read that asks for it too finds at least one message. */
  barrierKey = "";
  #seen: Seq<B> = 0;
  #drift: StoreError | undefined;
  #looked = performance.now();
  /** The newest barrier, or record, of this store. */
  #landmark: Landmark<B> | undefined;
  /** Another log may be there. */
  protected isDoubted = false;
  /**
   * Grows whenever nothing shows that the log is the one that was known: what was read of it before may be of another.
   */
  #logs = 0;
  /** Grows whenever nothing that stood in the log shows that it is the one that was known. */
  protected others = 0;
  /** Grows whenever this store's newest message does not show it. */
  protected olders = 0;
  /** Of what is kept of this bucket. */
  protected readonly age = new ProofAge();
  #recognizing: Promise<void> | undefined;
  /** Set once another log is there: the store is of no use any more. */
  #gone: StoreError | undefined;
  /** Called every few seconds of use: looks whether the bucket's settings still keep the promises. */
  onUse: (() => void) | undefined;
  /** The log is the same: the newest message of this store stood at `seq`, and `stands` there still. */
  protected onRecognized: ((seq: Seq<B>, stands: boolean, asked: Moment) => void) | undefined;
  /** Called when caches of this bucket may be of another log. */
  onDoubt: (() => void) | undefined;

  constructor(client: JetStreamClient, prefix: string, bucket: B) {
    this.client = client;
    this.name = `${prefix}${bucket}`;
    this.stream = streamNamed(prefix, bucket);
    this.subjects = `$KV.${this.name}.`;
    this.barrier = new Barrier(client, this.stream, this.subjects, this);
    this.fences = new Fences(client, this.stream, this.subjects, this);
  }

  /** A setting that breaks a promise, found after opening. While it lasts, every operation on the bucket is refused. */
  set drift(error: StoreError | undefined) {
    if (error !== undefined && this.#drift === undefined)
      tell({ type: "drift", backend: "jetstream", bucket: this.name, error });
    this.#drift = error;
  }

  get drift(): StoreError | undefined {
    return this.#drift;
  }

  /** To be called before the bucket is used. Throws while it is unfit, and looks at its settings now and then. */
  use(now = performance.now()): void {
    if (now - this.#looked > LOOK_MS) {
      this.#looked = now;
      this.onUse?.();
    }
    const fault = this.#drift ?? this.#gone;
    if (fault !== undefined) throw fault;
  }

  /** The newest sequence that this store knows to be in the bucket. */
  get highestSeen(): Seq<B> {
    return this.#seen;
  }

  observe(seq: Seq<B>): void {
    if (seq > this.#seen) this.#seen = seq;
  }

  /** The next barrier of this store. */
  takeBarrier(): { readonly key: string; readonly value: string } {
    return this.own.take();
  }

  /** Forgets what is known of the log: another one may be there. */
  doubt(): void {
    this.own.forget();
    this.isDoubted = true;
    this.#logs++;
    this.onDoubt?.();
  }

  /**
   * The log ends before what this store has seen of it: it was restored from a backup, or made anew. What was taken
   * away may be there again, and nothing tells what. The store is of no use any more.
   */
  goneBack(): void {
    this.#gone ??= new StoreError(
      "INCOMPATIBLE",
      `The bucket ${this.name} was restored from a backup, or made anew. Open the store anew`,
      {
        details: { bucket: this.name },
      },
    );
    this.doubt();
  }

  noteBarrier(seq: Seq<B>, key: string, sent: Moment): void {
    this.observe(seq);
    // It may be of another log, of which what is kept knows nothing.
    if (!this.isDoubted) this.age.note(seq, sent);
    this.barrierKey = key;
    this.own.add(seq, key);
    this.noteOwn({
      key,
      seq,
      // Its key is spared: what stands behind it there is of another store, or was sent before and came later.
      isBehind: ({ seq: now, value }) => (now > seq ? "unknown" : this.own.isOwn(value) ? "yes" : "no"),
    });
  }

  /** A message of this store was acknowledged. Answers whether the log is known by it from here on. */
  protected noteOwn(landmark: Landmark<B>): boolean {
    if (this.isDoubted || landmark.seq <= (this.#landmark?.seq ?? 0)) return false;
    this.#landmark = landmark;
    this.own.spare(landmark.key);
    return true;
  }

  notePutBack(key: string): void {
    this.own.unsent(key);
  }

  heard(sent: Moment): void {
    if (this.continuity.heard(sent)) return;
    this.isDoubted = true;
    this.suspect();
  }

  /** Another log may be there. */
  protected suspect(): void {
    this.own.clear();
  }

  /** Whether another log may be there. To be asked before something is proved. */
  protected mayBeAnother(): boolean {
    if (!this.isDoubted && !this.continuity.isFresh) {
      this.isDoubted = true;
      this.suspect();
    }
    return this.isDoubted;
  }

  /** A number of the log. While it is the same, the log surely is. To be asked behind a read of it. */
  async identity(call: Call): Promise<number> {
    this.use();
    if (this.mayBeAnother()) await this.recognize(call);
    return this.#logs;
  }

  /**
   * The same for whoever takes the log for the known one where something that stood in it still does, also if the
   * stream was without a leader meanwhile. While `olders` is the same, that was this store's newest message, which
   * stood at `upTo`. What was acknowledged above it may be of another log.
   */
  async recognized(call: Call): Promise<{ readonly log: number; readonly olders: number; readonly upTo: Seq<B> }> {
    await this.identity(call);
    return { log: this.others, olders: this.olders, upTo: this.#landmark?.seq ?? 0 };
  }

  /** Nothing tells what became of this store's newest message: another store may have its key. */
  protected superseded(): void {
    this.olders++;
  }

  /** If nothing was heard of the log for a while: waits until it is known whether it is the same. */
  protected async recognize(call: Call): Promise<void> {
    for (const retries = new RetryLoop(call); this.mayBeAnother();) {
      await retries.next();
      this.use();
      this.#recognizing ??= this.#recognize().finally(() => {
        this.#recognizing = undefined;
      });
      await this.#recognizing;
    }
    this.use();
  }

  async #recognize(): Promise<void> {
    const asked = moment();
    const landmark = this.#landmark;
    if (landmark !== undefined) {
      const found = await this.whatBecameOf(landmark.key, landmark.seq);
      if (found === undefined) return;
      const isBehind = landmark.isBehind(decode(found, this.subjects.length));
      // Another message at its place, or one that would tell of it and does not: a backup was put back, and written to
      // since.
      if (isBehind === "no") {
        this.goneBack();
        return;
      }
      if (isBehind !== "yes") {
        this.#logs++;
        this.superseded();
      }
      this.onRecognized?.(landmark.seq, isBehind === "yes" && found.seq === landmark.seq, asked);
    }
    this.isDoubted = false;
    this.continuity.begin(asked);
  }

  /**
   * The newest message of a key that is never removed, and that stood at `seq`: that one, or a later one. Where the
   * leader has only an earlier one the log has gone back. `undefined`: nobody knows.
   */
  protected async whatBecameOf(key: string, seq: Seq<B>): Promise<DirectMessage<B> | undefined> {
    const answer = await this.client.last(this.stream, this.subjects + key, RECOGNIZE_MS);
    if (answer.kind === "failed") {
      // Nobody will ever answer, so that nobody is to wait for it.
      if (isFinal(answer.failure)) throw unavailable(answer.failure, answer.error);
      return undefined;
    }
    const found = answer.kind === "found" ? answer.message : undefined;
    if (found !== undefined && found.seq >= seq) return found;
    // The replica may be behind.
    const call = new Call({ timeoutMs: undefined, signal: undefined }, RECOGNIZE_MS, "read");
    const proved = await call.run((own) => this.fences.prove(key, found?.seq ?? 0, own)).catch(() => undefined);
    if (proved !== undefined) this.goneBack();
    return undefined;
  }

  /** A sequence that every read at or after it is fresh by: see {@link Barrier.prove}. */
  async readIndex(call: Call): Promise<Seq<B>> {
    this.use();
    if (this.mayBeAnother()) await this.recognize(call);
    const seq = await this.barrier.prove(call);
    if (this.isDoubted) await this.recognize(call);
    return seq;
  }

  /** The same of a fence: see {@link Fences.prove}. */
  async fence(key: Key<B>, expected: Seq<B>, call: Call): Promise<Seq<B> | undefined> {
    if (this.mayBeAnother()) await this.recognize(call);
    const at = await this.fences.prove(key, expected, call);
    if (this.isDoubted) await this.recognize(call);
    return at;
  }
}
