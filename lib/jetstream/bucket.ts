/**
 * One bucket: writes that expect a revision, and reads.
 *
 * Any replica may answer a read of one record. What it answers was so once, and is never taken behind what this store has seen of
 * the record; what has to be sure is fenced. Lists are read by `multi_last`, which says how far its replica is: at or
 * after a barrier, and all that this store has seen of the bucket.
 */
import { Call } from "../call.js";
import { StoreError } from "../errors.js";
import type { Ack, DirectMessage, JetStreamClient } from "./client.js";
import { unavailable } from "./failures.js";
import type { Json } from "./json.js";
import { RetryLoop } from "./retry-loop.js";
import { Continuity, moment } from "./continuity.js";
import type { Moment } from "./continuity.js";
import { decode, intact } from "./entry.js";
import type { Entry } from "./entry.js";
import { Fences } from "./fences.js";
import { Seen } from "./seen.js";
import { OwnBarriers, isBarrier } from "./own-barriers.js";
import { Barrier } from "./barrier.js";
import { joinAll } from "./join.js";

/** What a read found: at one moment of one replica, `upTo`. */
export interface Snapshot {
  readonly upTo: number;
  /** The record of a key that was asked for. */
  get(key: string): Entry | undefined;
  /** The records below a prefix that was asked for as `prefix.*`. */
  children(prefix: string): readonly Entry[];
}

interface Read {
  readonly filters: readonly string[];
  readonly min: number;
  readonly call: Call;
  readonly resolve: (snapshot: Snapshot) => void;
  readonly reject: (error: unknown) => void;
  readonly retries: RetryLoop;
  /** Absent keys of the answer before: a miss counts when it was seen twice. */
  absent: ReadonlySet<string>;
}

/** The server takes at most 1,024 matches in one request, and a filter `prefix.*` can match a few. */
const FAMILY_WEIGHT = 4;
/**
 * Requests under way at once. Together with the filters of one, a bound on the bytes that are on their way to a client: a
 * server drops a connection that takes too long to read 64 MB.
 */
const MAX_ASKING = 8;
/** Bytes of one page of a scan, far below what makes a server drop a slow connection. */
const PAGE_BYTES = 4 * 1024 * 1024;
/** A bucket in use is looked at this often: an operator can change its settings while stores are open. */
const LOOK_MS = 5000;
const RECOGNIZE_MS = 500;
/** How often a write is sent again at once while another one of its subject is under way. */
const MAX_AT_ONCE = 100;

/** A record that is proved to stand so, or not to be there, at a moment after it was asked for: that of a fence, `asOf`. */
export interface Certain {
  readonly entry: Entry | undefined;
  readonly asOf: number;
}

export interface Limits {
  /** Of one request, by how large the bucket's records can be. */
  readonly maxFilters: number;
  /** Memory for what was seen of each record. */
  readonly seenBytes: number;
}

export class Bucket {
  readonly name: string;
  readonly stream: string;
  protected readonly link: JetStreamClient;
  protected readonly subjects: string;
  protected readonly own = new OwnBarriers();
  protected readonly continuity = new Continuity();
  protected readonly fences: Fences;
  readonly #barrier: Barrier;
  readonly #noted: Seen;
  readonly #maxFilters: number;
  /** Of a barrier that is there: every read that has to find something asks for it too. */
  #barrierKey = "";
  #asking = 0;
  #seen = 0;
  #queue: Read[] = [];
  #drift: StoreError | undefined;
  #looked = performance.now();
  /** The newest barrier of this store of which it is known that it stood in the log. */
  #landmark: { readonly key: string; readonly seq: number } | undefined;
  /** Another log may have taken the place of the one that is known. */
  #isDoubted = false;
  #recognizing: Promise<void> | undefined;
  /** What is there is another log, for good. */
  #gone: StoreError | undefined;
  /** Looks whether the settings are still what the promises rest on. */
  onUse: (() => void) | undefined;
  /** It is the log that is known: the newest barrier that was known stood at that sequence, and its key has this message now. */
  protected onRecognized: ((seq: number, found: DirectMessage, asked: Moment) => void) | undefined;
  /** What others keep of the bucket may be of another log. */
  onDoubt: (() => void) | undefined;
  /** Told of each record that this store wrote, when it is acknowledged. */
  protected onStored: ((key: string, payload: string, seq: number) => void) | undefined;

  constructor(link: JetStreamClient, name: string, { maxFilters, seenBytes }: Limits) {
    this.link = link;
    this.name = name;
    this.#maxFilters = maxFilters;
    this.#noted = new Seen(seenBytes);
    this.stream = `KV_${name}`;
    this.subjects = `$KV.${name}.`;
    this.#barrier = new Barrier(link, this.stream, this.subjects, this);
    this.fences = new Fences(link, this.stream, this.subjects, this);
  }

  /** What makes the bucket unfit for use, found after opening: while it lasts, every operation on it is refused. */
  set drift(error: StoreError | undefined) {
    this.#drift = error;
  }

  get drift(): StoreError | undefined {
    return this.#drift;
  }

  /** To be asked before the bucket is gone by: throws while it is unfit, and looks at its settings now and then. */
  use(): void {
    const now = performance.now();
    if (now - this.#looked > LOOK_MS) {
      this.#looked = now;
      this.onUse?.();
    }
    const fault = this.#drift ?? this.#gone;
    if (fault !== undefined) throw fault;
  }

  /** The newest sequence that this store knows to be in the bucket. */
  get highestSeen(): number {
    return this.#seen;
  }

  observe(seq: number): void {
    if (seq > this.#seen) this.#seen = seq;
  }

  /** The next barrier of this store. */
  takeBarrier(): { readonly key: string; readonly value: string } {
    return this.own.take();
  }

  /** What is kept of the log is forgotten: see {@link Barrier}. */
  doubt(): void {
    this.own.forget();
    this.#isDoubted = true;
    this.onDoubt?.();
  }

  /**
   * The log ends before what this store has seen of it, as one does that was restored from a backup or made anew. What was taken away may
   * be there again, and however far it gets, nothing tells what: the store is of no use any more.
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

  noteBarrier(seq: number, key: string): void {
    this.observe(seq);
    this.#barrierKey = key;
    this.own.add(seq, key);
    if (!this.#isDoubted && seq > (this.#landmark?.seq ?? 0)) this.#landmark = { key, seq };
  }

  notePutBack(key: string): void {
    this.own.unsent(key);
  }

  heard(sent: Moment): void {
    if (this.continuity.heard(sent)) return;
    this.#isDoubted = true;
    this.suspect();
  }

  /** Another log may have taken the place of the one that is known. */
  protected suspect(): void {
    this.own.clear();
  }

  #mayBeAnother(): boolean {
    if (!this.#isDoubted && !this.continuity.isFresh) {
      this.#isDoubted = true;
      this.suspect();
    }
    return this.#isDoubted;
  }

  /** Waits until it is known which log it is, if nothing was heard of it for a while. */
  protected async recognize(call: Call): Promise<void> {
    for (const retries = new RetryLoop(call); this.#mayBeAnother();) {
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
      this.own.spare(landmark.key);
      const found = await this.whatBecameOf(landmark.key, landmark.seq);
      if (found === undefined) return;
      this.own.spare(undefined);
      this.onRecognized?.(landmark.seq, found, asked);
    }
    this.#isDoubted = false;
    this.continuity.begin(asked);
  }

  /**
   * The newest message of a key that is never removed, and that stood at `seq`: that one, or a later one. Where the leader has only
   * an earlier one the log has gone back. `undefined`: nobody knows.
   */
  protected async whatBecameOf(key: string, seq: number): Promise<DirectMessage | undefined> {
    const answer = await this.link.last(this.stream, this.subjects + key, RECOGNIZE_MS);
    if (answer.kind === "failed") return undefined;
    const found = answer.kind === "found" ? answer.message : undefined;
    if (found !== undefined && found.seq >= seq) return found;
    // The replica may be behind.
    const call = new Call({ timeoutMs: undefined, signal: undefined }, RECOGNIZE_MS, "read");
    const proved = await call.run((own) => this.fences.prove(key, found?.seq ?? 0, own)).catch(() => undefined);
    if (proved !== undefined) this.goneBack();
    return undefined;
  }

  /** A sequence that every read at or after it is fresh by: see {@link Barrier.prove}. */
  async readIndex(call: Call): Promise<number> {
    this.use();
    if (this.#mayBeAnother()) await this.recognize(call);
    const seq = await this.#barrier.prove(call);
    if (this.#isDoubted) await this.recognize(call);
    return seq;
  }

  /** The same of a fence: see {@link Fences.prove}. */
  async #fence(key: string, expected: number, call: Call): Promise<number | undefined> {
    if (this.#mayBeAnother()) await this.recognize(call);
    const at = await this.fences.prove(key, expected, call);
    if (this.#isDoubted) await this.recognize(call);
    return at;
  }

  /**
   * The record as some replica has it, and never older than this store has seen it. What another store wrote a moment ago can
   * be missing, and so can the record: that it is not there proves nothing.
   */
  async get(key: string, call: Call): Promise<Entry | undefined> {
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      const entry = await this.#last(key, retries, call);
      switch (this.allowed(key, entry?.seq ?? 0)) {
        case "yes":
          return entry === undefined ? undefined : this.noted(entry);
        case "no":
          // Nothing is concluded from a record that is not there: whoever needs to know proves it.
          if (entry === undefined) return undefined;
          break;
        case "unknown":
          return entry === undefined ? undefined : (await this.readLinearizable(key, call)).entry;
      }
    }
  }

  /** The newest of the records that a wildcard matches, as some replica has it. It proves nothing, and can be one of before. */
  async newest(filter: string, call: Call): Promise<Entry | undefined> {
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      this.use();
      const answer = await this.link.last(this.stream, this.subjects + filter, this.link.attemptMs(call));
      if (answer.kind === "failed") retries.failed(answer.failure, answer.error);
      else return answer.kind === "none" ? undefined : intact(decode(answer.message, this.subjects.length));
    }
  }

  /** The record as the leader says that it stands at a moment after this call, or that it does not. */
  async readLinearizable(key: string, call: Call): Promise<Certain> {
    const found = await this.settled(key, call);
    if (found.entry !== undefined) this.noted(found.entry);
    return found;
  }

  /**
   * What a record of another bucket says that it rests on stands before every fence that is asked for after it was read. A log that
   * has less was restored without the others, or they without it.
   */
  demand(needed: number, asOf: number): void {
    if (asOf >= needed) return;
    throw new StoreError("CORRUPT", `The bucket ${this.name} is older than others say: it was restored without them`, {
      details: { bucket: this.name, needed, sequence: asOf },
    });
  }

  /** The same of a record that is kept elsewhere, where it is seen how it stood. */
  protected async settled(key: string, call: Call): Promise<Certain> {
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      const entry = await this.#last(key, retries, call);
      const asOf = await this.#fence(key, entry?.seq ?? 0, call);
      if (asOf !== undefined) return { entry: entry === undefined ? undefined : intact(entry), asOf };
    }
  }

  /** Whether a read that found the record there (0: not at all) does not go back behind what was seen of it. */
  protected allowed(key: string, seq: number): "yes" | "no" | "unknown" {
    return this.#noted.allow(key, seq);
  }

  /** Records up to this sequence may have been seen, and nobody knows it any more. */
  protected forgot(seq: number): void {
    this.#noted.forgot(seq);
  }

  /** Whether a record is not there at a moment after this call. `false` proves nothing. */
  async isAbsent(key: string, call: Call): Promise<boolean> {
    return (await this.#fence(key, 0, call)) !== undefined;
  }

  /** The sequence of a moment after this call at which the record stood at `seq`, as it was read. `undefined` proves nothing. */
  async stands(key: string, seq: number, call: Call): Promise<number | undefined> {
    this.use();
    return this.#fence(key, seq, call);
  }

  protected noted(entry: Entry): Entry {
    const { seq } = entry;
    this.#noted.note(entry.key, seq);
    return intact(entry);
  }

  async #last(key: string, retries: RetryLoop, call: Call): Promise<Entry | undefined> {
    for (;;) {
      this.use();
      const answer = await this.link.last(this.stream, this.subjects + key, this.link.attemptMs(call));
      switch (answer.kind) {
        case "found":
          return decode(answer.message, this.subjects.length);
        case "none":
          return undefined;
        case "failed":
          retries.failed(answer.failure, answer.error);
          await retries.pause();
      }
    }
  }

  /**
   * Writes a record whose key nobody writes with another value: it holds an id of this attempt. A copy of the message that comes
   * late is refused: it would supersede the first one, and a replica between the two would have neither.
   */
  async stage(key: string, value: Json, call: Call): Promise<number> {
    const seq = await this.write(key, value, 0, call, () => "yes", "step");
    if (seq === undefined) throw new StoreError("UNAVAILABLE", "A record that was staged is gone");
    return seq;
  }

  /** Writes a mark, whose value nobody reads, anew. Repeating it does no harm, so that it is repeated until it is acknowledged. */
  async mark(key: string, call: Call): Promise<number> {
    this.use();
    const payload = JSON.stringify({ k: key });
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      const ack = await this.link.publish(this.stream, this.subjects + key, payload, this.link.attemptMs(call));
      if (ack.kind === "stored") {
        this.observe(ack.seq);
        return ack.seq;
      }
      if (ack.kind === "failed") retries.failed(ack.failure, ack.error);
      if (ack.kind === "rejected") refused(ack, retries);
    }
  }

  /**
   * Writes a record on the condition that its key is still at sequence `expected` (0: absent). Answers the new sequence,
   * or `undefined` if the condition does not hold.
   *
   * What is not acknowledged leaves open which: the write is then repeated, on the same condition, until a fresh read finds
   * that the key has moved on; `mine` tells by the record that stands there whether it was this attempt that moved it.
   *
   * `kind` says whether the write commits the operation: only then may a caller have to hear that it was perhaps done.
   */
  async write(
    key: string,
    value: Json,
    expected: number,
    call: Call,
    mine: (entry: Entry) => "yes" | "no" | "unknown",
    kind: "commit" | "step" = "commit",
  ): Promise<number | undefined> {
    this.use();
    const payload = JSON.stringify({ k: key, ...value });
    let lost = false;
    const before = call.outcome;
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      // Between that and here a signal may have aborted the call, whose caller was then told that nothing was sent.
      call.throwIfEnded();
      if (before !== undefined && kind === "commit") call.outcome = "unknown";
      let sent = moment();
      const publish = (): Promise<Ack> => {
        sent = moment();
        return this.link.publish(this.stream, this.subjects + key, payload, this.link.attemptMs(call), expected);
      };
      let ack = await publish();
      // Something else of the subject is under way, a fence perhaps: it is over in a moment, and another one may follow.
      for (let i = 0; i < MAX_AT_ONCE && ack.kind === "conflict" && ack.inFlight; i++) {
        lost = true;
        await new Promise((resolve) => setTimeout(resolve, 1));
        call.throwIfEnded();
        ack = await publish();
      }
      switch (ack.kind) {
        case "stored":
          this.observe(ack.seq);
          this.#noted.note(key, ack.seq);
          this.heard(sent);
          this.onStored?.(key, payload, ack.seq);
          return ack.seq;
        case "conflict": {
          // A refusal is no evidence: a leader without a quorum says it too, or one that waits for a write that then dies,
          // while the real leader stores the message. Only what stands in the log as of now tells.
          const { entry } = await this.readLinearizable(key, call);
          if ((entry?.seq ?? 0) === expected) {
            lost = true;
            break;
          }
          if (entry === undefined) {
            // It was purged.
            call.outcome = before;
            return undefined;
          }
          const verdict = mine(entry);
          if (verdict === "yes") return entry.seq;
          if (verdict === "unknown") {
            throw new StoreError("TIMEOUT", "An acknowledgement was lost, and many other writes followed", {
              outcome: "unknown",
            });
          }
          call.outcome = before;
          return undefined;
        }
        case "rejected":
          // One leader's word, as above: perhaps there is another.
          lost = true;
          refused(ack, retries);
          break;
        case "failed":
          if (ack.failure === "no-responders" || ack.failure === "refused") {
            // Nobody took the message: it was not stored, unless an earlier copy was.
            if (!lost) call.outcome = before;
          } else {
            lost = true;
          }
          retries.failed(ack.failure, ack.error);
      }
    }
  }

  /** Removes what matches the filter, for good. Repeating it does no harm. */
  async purge(filter: string, call: Call): Promise<void> {
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      try {
        const reply = await this.link.api(
          `STREAM.PURGE.${this.stream}`,
          { filter: this.subjects + filter },
          this.link.attemptMs(call),
        );
        if (reply["success"] === true) return;
        retries.failed("lost", reply["error"]);
      } catch (error) {
        retries.failed(this.link.closed ? "closed" : "lost", error);
      }
    }
  }

  /** Reads keys and, where a filter is `prefix.*`, all below a prefix, at one moment. At or after `min` and all that was seen. */
  read(filters: readonly string[], min: number, call: Call): Promise<Snapshot> {
    return new Promise((resolve, reject) => {
      this.use();
      const read: Read = {
        filters,
        min: Math.max(min, this.#seen),
        call,
        resolve,
        reject,
        retries: new RetryLoop(call),
        absent: NOTHING,
      };
      this.#enqueue(read);
    });
  }

  #enqueue(read: Read): void {
    // Reads that begin together, as those of checks that shared a barrier, become one request.
    if (this.#queue.push(read) === 1)
      process.nextTick(() => {
        this.#flush();
      });
  }

  #flush(): void {
    while (this.#queue.length > 0 && this.#asking < MAX_ASKING) {
      const batch = this.#batch();
      this.#asking++;
      void this.#ask(batch).finally(() => {
        this.#asking--;
        this.#flush();
      });
    }
  }

  /** The first of the queue that go together into one request. */
  #batch(): Read[] {
    let weight = 0;
    const end = this.#queue.findIndex((read, i) => {
      for (const filter of read.filters) weight += filter.endsWith("*") ? FAMILY_WEIGHT : 1;
      return i > 0 && weight > this.#maxFilters;
    });
    return this.#queue.splice(0, end < 0 ? this.#queue.length : end);
  }

  async #ask(reads: readonly Read[]): Promise<void> {
    const waiting = reads.filter((read) => {
      const { ended } = read.call;
      if (ended !== undefined) read.reject(ended);
      return ended === undefined;
    });
    if (waiting.length === 0) return;
    try {
      const filters = new Set<string>();
      let timeoutMs = 1;
      for (const read of waiting) {
        for (const filter of read.filters) filters.add(filter);
        timeoutMs = Math.max(timeoutMs, this.link.attemptMs(read.call));
      }
      const subjects = Array.from(filters, (filter) => this.subjects + filter);
      subjects.push(this.subjects + this.#barrierKey);
      const answer = await this.link.direct(this.stream, { multi_last: subjects }, timeoutMs);
      if (answer.kind === "too-many") {
        const half = waiting.length >> 1;
        if (half === 0) throw new StoreError("UNAVAILABLE", "Too many records match");
        await Promise.all([this.#ask(waiting.slice(0, half)), this.#ask(waiting.slice(half))]);
        return;
      }
      // A bucket has its barrier from the start: a replica without it is behind, or the answer was cut short.
      if (answer.kind !== "end" || answer.pending > 0 || !complete(answer)) {
        for (const read of waiting) {
          this.#again(read, answer.kind === "failed" ? answer : undefined);
        }
        return;
      }
      const found = new ReadSnapshot(
        answer.upTo,
        answer.messages.map((message) => decode(message, this.subjects.length)),
      );
      for (const read of waiting) this.#settle(read, found);
    } catch (error) {
      for (const read of waiting) read.reject(error);
    }
  }

  #settle(read: Read, found: ReadSnapshot): void {
    if (found.upTo < read.min) {
      this.#again(read, undefined);
      return;
    }
    // A server before 2.12 does not keep a write apart from a read of several keys, and can miss a key that is written
    // at that moment. https://github.com/nats-io/nats-server: stream.isolateMu
    if (!this.link.isolatesReads) {
      const absent = new Set(read.filters.filter((filter) => !filter.endsWith("*") && !found.has(filter)));
      const known = read.absent;
      read.absent = absent;
      if ([...absent].some((key) => !known.has(key))) {
        this.#enqueue(read);
        return;
      }
    }
    this.observe(found.upTo);
    for (const { key, seq } of found.entries) this.#noted.note(key, seq);
    read.resolve(found);
  }

  /**
   * Reads everything that matches, however much it is. Up to the server's limit of one request that is one moment of one
   * replica; beyond it, a scan that ends at `marker`, a key of its own that the filter matches and that is written first.
   */
  async all(filter: string, marker: string, min: number, call: Call): Promise<ReadonlyMap<string, Entry>> {
    const needed = Math.max(min, this.#seen);
    const found = new Map<string, Entry>();
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      this.use();
      call.throwIfEnded();
      const subjects = [this.subjects + filter, this.subjects + this.#barrierKey];
      const answer = await this.link.direct(
        this.stream,
        { multi_last: subjects, max_bytes: PAGE_BYTES },
        this.link.attemptMs(call),
      );
      if (answer.kind === "failed") retries.failed(answer.failure, answer.error);
      if (answer.kind === "too-many" || (answer.kind === "end" && answer.pending > 0)) break;
      if (answer.kind !== "end" || answer.upTo < needed || !complete(answer)) continue;
      this.observe(answer.upTo);
      for (const message of answer.messages) {
        const entry = decode(message, this.subjects.length);
        if (!isBarrier(entry.key) && entry.key !== marker) found.set(entry.key, this.noted(entry));
      }
      return found;
    }
    await this.scan(filter, call, { end: () => this.mark(marker, call) }, (entry) => {
      if (entry.key !== marker) found.set(entry.key, intact(entry));
      return "go on";
    });
    return found;
  }

  /**
   * The first records after a sequence, in the order of the log. `isEnd`: there are no others, as of a moment after this call.
   * `end` publishes a message that the filter matches, which counts as none where it is at `marker`, and answers its sequence.
   */
  async portion(
    filter: string,
    after: number,
    most: number,
    end: () => Promise<number>,
    call: Call,
    marker?: string,
  ): Promise<Portion> {
    const found = new Map<string, Entry>();
    let isEnd = true;
    await this.scan(filter, call, { from: after + 1, page: Math.min(most + 2, MAX_PAGE), end }, (entry) => {
      if (entry.key === marker) return "go on";
      found.delete(entry.key);
      found.set(entry.key, entry);
      if (found.size < most) return "go on";
      isEnd = false;
      return "stop";
    });
    return { entries: [...found.values()], isEnd };
  }

  /** What is listed of the records after a sequence, each once and as it stands at a moment after this call. */
  async page(after: number, limit: number, isListed: (entry: Entry) => boolean, call: Call): Promise<PageOfRecords> {
    const found = new Map<string, Entry>();
    let end = 0;
    let answers = 0;
    const options = {
      from: after + 1,
      page: Math.min(limit + 2, MAX_PAGE),
      end: async () => (end = await this.readIndex(call)),
      answered: () => answers++,
    };
    // Of all keys, because the barrier is among them, and so ends a scan that is fresh.
    await this.scan(">", call, options, (entry) => {
      // Met again, it was changed meanwhile, or came from a replica that was behind at first.
      found.delete(entry.key);
      if (isListed(entry)) found.set(entry.key, entry);
      return found.size < limit ? "go on" : "stop";
    });
    const entries = [...found.values()];
    const last = entries.at(-1);
    const isWhole = entries.length < limit;
    // Of several answers the later one can be of a replica that has dropped the newer state of what the earlier one had.
    if (last === undefined || (isWhole && answers === 1)) return { entries, next: undefined, end };
    // A scan that was stopped has not come to its end, which would have shown that no replica was behind.
    const now = await joinAll(
      entries.map(
        async ({ key }) =>
          (await this.read([key], end, call)).get(key) ?? (await this.readLinearizable(key, call)).entry,
      ),
    );
    return {
      entries: now.filter((entry): entry is Entry => entry !== undefined && isListed(entry)),
      next: isWhole ? undefined : last.seq,
      end,
    };
  }

  #again(read: Read, failed: { failure: Parameters<RetryLoop["failed"]>[0]; error: unknown } | undefined): void {
    const retry = async (): Promise<void> => {
      if (failed !== undefined) read.retries.failed(failed.failure, failed.error);
      await read.retries.pause();
      this.#enqueue(read);
    };
    retry().catch(read.reject);
  }

  /**
   * Reads everything that matches, in the order of the stream, page by page. A record that is changed while the scan is
   * under way moves to the end of the stream and so is met again: a scan that reaches the end has seen the newest of each.
   *
   * But replicas lag, each page can come from another, and what looks like the end of one may not be it. So a scan ends
   * only with an answer that contains a message which was published after every answer before it had come.
   */
  async scan(
    filter: string,
    call: Call,
    options: ScanOptions,
    visit: (entry: Entry) => "go on" | "stop",
  ): Promise<void> {
    let next = options.from ?? 1;
    let page = options.page ?? MAX_PAGE;
    let last = 0;
    let end = await options.end?.();
    let answers = 0;
    // A place that the log has not come to: nothing is behind it.
    if (end !== undefined && next > end) return;
    for (const retries = new RetryLoop(call); ;) {
      this.use();
      call.throwIfEnded();
      const answer = await this.link.direct(
        this.stream,
        { seq: next, next_by_subj: this.subjects + filter, batch: page, max_bytes: PAGE_BYTES },
        this.link.attemptMs(call),
      );
      let more = false;
      switch (answer.kind) {
        case "failed":
          retries.failed(answer.failure, answer.error);
          await retries.pause();
          continue;
        case "too-many":
          throw unavailable("lost", new Error("a page was refused"));
        case "empty":
          break;
        case "end":
          if (!whole(answer)) {
            retries.failed("lost", new Error("a part of the answer is missing"));
            await retries.pause();
            continue;
          }
          options.answered?.();
          for (const message of answer.messages) {
            next = message.seq + 1;
            last = message.seq;
            const entry = decode(message, this.subjects.length);
            this.#noted.note(entry.key, entry.seq);
            if (visit(entry) === "stop") return;
          }
          more = answer.pending > 0 && answer.messages.length > 0;
      }
      page = MAX_PAGE;
      if (end === undefined) {
        if (!more) return;
        continue;
      }
      if (!more && last >= end && answers === 0) return;
      if (more) {
        answers++;
      } else if (answers > 0) {
        end = (await options.end?.()) ?? end;
        answers = 0;
      } else {
        await retries.pause();
      }
    }
  }
}

const MAX_PAGE = 512;

export interface Portion {
  readonly entries: readonly Entry[];
  readonly isEnd: boolean;
}

export interface PageOfRecords {
  readonly entries: readonly Entry[];
  /** Where the next page goes on, if there may be one. */
  readonly next: number | undefined;
  /** The moment as of which the page is, or an earlier one. */
  readonly end: number;
}

export interface ScanOptions {
  /** The first sequence to read. */
  readonly from?: number;
  /** How much the first request asks for, where little may be enough. */
  readonly page?: number;
  /** Told of each answer that has something. */
  readonly answered?: () => void;
  /** Publishes a message that the filter matches, and answers its sequence. Without it, the scan ends where any replica ends. */
  readonly end?: () => Promise<number>;
}

const NOTHING: ReadonlySet<string> = new Set();

/** An error of JetStream itself. 503 passes, as while a leader is elected; others stay, as a full disk does. */
function refused(ack: { code: number; description: string }, retries: RetryLoop): void {
  const error = new StoreError("UNAVAILABLE", `JetStream refuses the write: ${ack.description}`);
  if (ack.code !== 503) throw error;
  retries.failed("no-responders", error);
}

// A client that reconnects in the middle of an answer misses what was sent to the connection before, and gets the end.

/** Whether no message is missing, by the first one alone: it says how many follow. There is one at least, the barrier. */
function complete({ messages }: { messages: readonly DirectMessage[] }): boolean {
  const [first] = messages;
  return first !== undefined && first.before === 0 && first.following === messages.length - 1;
}

/** The same, by all: each names the one before it, and the end names the last. */
export function whole({ messages, last }: { messages: readonly DirectMessage[]; last: number }): boolean {
  let before = 0;
  for (const message of messages) {
    if (message.before !== before) return false;
    before = message.seq;
  }
  return last === before;
}

class ReadSnapshot implements Snapshot {
  readonly upTo: number;
  readonly #byKey = new Map<string, Entry>();
  #byParent: Map<string, Entry[]> | undefined;

  constructor(upTo: number, entries: readonly Entry[]) {
    this.upTo = upTo;
    for (const entry of entries) this.#byKey.set(entry.key, entry);
  }

  get entries(): Iterable<Entry> {
    return this.#byKey.values();
  }

  has(key: string): boolean {
    return this.#byKey.has(key);
  }

  get(key: string): Entry | undefined {
    const entry = this.#byKey.get(key);
    return entry === undefined ? undefined : intact(entry);
  }

  children(prefix: string): readonly Entry[] {
    if (this.#byParent === undefined) {
      this.#byParent = new Map();
      for (const entry of this.#byKey.values()) {
        const parent = entry.key.slice(0, entry.key.lastIndexOf("."));
        const siblings = this.#byParent.get(parent);
        if (siblings === undefined) this.#byParent.set(parent, [entry]);
        else siblings.push(entry);
      }
    }
    return (this.#byParent.get(prefix) ?? []).map(intact);
  }
}
