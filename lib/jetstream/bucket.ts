/**
 * One bucket: writes that expect a revision, and reads that are verified.
 *
 * Any replica may answer a read. An answer counts only if it is at or after the sequence that the reader needs: that of a
 * barrier for a read that must be fresh, and otherwise the newest that this store has seen in the bucket, which makes
 * reads monotonic and lets a store read its own writes.
 */
import { Buffer } from "node:buffer";
import type { Call } from "../call.js";
import { StoreError } from "../errors.js";
import { Retries, asObject, unavailable } from "./connection.js";
import type { Ack, DirectAnswer, DirectMessage, Json, Link } from "./connection.js";
import { Copy } from "./copy.js";
import { AbsenceFences } from "./absence.js";
import { BARRIER_KEY, Barrier } from "./quorum.js";
import { all } from "./settled.js";

/** Where a record stands in the log, and since when. */
type Place = Pick<DirectMessage, "seq" | "stamp">;

/** One record as it stands in the bucket. */
export class Entry {
  readonly key: string;
  readonly value: Json;
  readonly #place: Place;

  constructor(key: string, value: Json, place: Place) {
    this.key = key;
    this.value = value;
    this.#place = place;
  }

  get seq(): number {
    return this.#place.seq;
  }

  get stamp(): string {
    return this.#place.stamp;
  }

  get time(): Date {
    return new Date(this.stamp);
  }

  /** The same without the message, which would keep all that was received together with it in memory. */
  detached(): Entry {
    return new Entry(this.key, this.value, { seq: this.seq, stamp: this.stamp });
  }
}

/** What a read found: at one moment of one replica, `upTo`. */
export interface Snapshot {
  readonly upTo: number;
  /** The record of a key that was asked for. */
  get(key: string): Entry | undefined;
  /** The records below a prefix that was asked for as `prefix.*`. */
  below(prefix: string): readonly Entry[];
}

interface Read {
  readonly filters: readonly string[];
  readonly min: number;
  readonly call: Call;
  readonly resolve: (snapshot: Snapshot) => void;
  readonly reject: (error: unknown) => void;
  readonly retries: Retries;
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
/**
 * Changes that are read to bring the copy up to date: where there are more, the copy is given up. So few, that the server never
 * cuts an answer short for its size: at 64 MiB, with messages of at most 1 MiB.
 */
const MAX_CHANGES = 50;
/** How long one catch-up may take: at first, and after others that took too long. */
const FOLLOW_MS = 200;
const MAX_FOLLOW_MS = 1000;
/** So many keys that were not in the copy make it worth while to read them all, but not all the time. */
const MANY_MISSES = 16;
/** How often a write is sent again at once while another one of its subject is under way. */
const MAX_AT_ONCE = 100;
/** What one request can ask for: the server answers at most 1,024 records. */
const ALL_AT_ONCE = 1000;
const ASK_AGAIN_MS = 5000;

export class Bucket {
  readonly name: string;
  readonly stream: string;
  readonly #link: Link;
  readonly #subjects: string;
  readonly #barrier: Barrier;
  readonly #absence: AbsenceFences;
  readonly #maxFilters: number;
  #asking = 0;
  readonly #copy = new Copy<Entry>();
  #catchingUp: Promise<DirectAnswer> | undefined;
  /** Catch-ups that failed one after the other. */
  #slow = 0;
  #misses = 0;
  #asked = Number.NEGATIVE_INFINITY;
  #seen = 0;
  #queue: Read[] = [];
  #drift: StoreError | undefined;
  #looked = performance.now();
  /** Looks whether the settings are still what the promises rest on. */
  onUse: (() => void) | undefined;
  /** Calls {@link keepAll}, in time of its own. */
  onMisses: (() => void) | undefined;

  /** `maxFilters` of one request, by how large the bucket's records can be. */
  constructor(link: Link, name: string, maxFilters: number) {
    this.#link = link;
    this.name = name;
    this.#maxFilters = maxFilters;
    this.stream = `KV_${name}`;
    this.#subjects = `$KV.${name}.`;
    this.#barrier = new Barrier(link, this.stream, this.#subjects + BARRIER_KEY, this);
    this.#absence = new AbsenceFences(link, this.stream, this.#subjects, this);
  }

  /** What makes the bucket unfit for use, found after opening: while it lasts, every operation on it is refused. */
  set drift(error: StoreError | undefined) {
    this.#drift = error;
  }

  #use(): void {
    const now = performance.now();
    if (now - this.#looked > LOOK_MS) {
      this.#looked = now;
      this.onUse?.();
    }
    if (this.#drift !== undefined) throw this.#drift;
  }

  /** The newest sequence that this store knows to be in the bucket. */
  get seen(): number {
    return this.#seen;
  }

  saw(seq: number): void {
    if (seq > this.#seen) this.#seen = seq;
  }

  /** What is kept of the log is forgotten: see {@link Barrier}. */
  doubt(): void {
    this.#copy.forgetLog();
  }

  noteBarrier(seq: number): void {
    this.#copy.noteBarrier(seq);
  }

  suspect(): void {
    this.#copy.suspect();
  }

  /** A sequence that every read at or after it is fresh by: see {@link Barrier.prove}. */
  async fresh(call: Call): Promise<number> {
    this.#use();
    return this.#barrier.prove(call);
  }

  /**
   * Keys as they stand at one moment that comes after this call. Not for a bucket that is purged: a purge has no sequence.
   */
  async proved(wanted: readonly string[], call: Call): Promise<Snapshot> {
    const seq = await this.fresh(call);
    this.saw(seq);
    for (const retries = new Retries(call); !this.#copy.reach(seq); ) {
      await retries.turn();
      const answer = await this.#catchUp();
      if (answer.kind === "failed") retries.failed(answer.failure, answer.error);
    }
    const taken = this.#taken(wanted);
    if (taken !== undefined) return taken;
    if (++this.#misses >= MANY_MISSES) this.#askForAll();
    const { era } = this.#copy;
    const found = await this.readCertain(wanted, seq, call);
    // An absence is not kept: anybody can ask for keys that nobody has.
    this.#copy.keep(era, found.upTo, wanted.flatMap((key) => found.get(key)?.detached() ?? []));
    return found;
  }

  #taken(wanted: readonly string[]): Snapshot | undefined {
    const entries: Entry[] = [];
    for (const key of wanted) {
      const entry = this.#copy.get(key);
      if (entry === undefined) return undefined;
      entries.push(entry);
    }
    return new Taken(this.#copy.at, entries);
  }

  #askForAll(): void {
    const now = performance.now();
    if (now - this.#asked < ASK_AGAIN_MS) return;
    this.#asked = now;
    this.onMisses?.();
  }

  /** Reads the whole bucket into the copy, where one request can: only then are the records those of one moment. */
  async keepAll(messages: number, call: Call): Promise<void> {
    if (messages > ALL_AT_ONCE) return;
    const min = await this.fresh(call);
    const { era } = this.#copy;
    const answer = await this.#link.direct(this.stream, { multi_last: [`${this.#subjects}>`] }, this.#link.attemptMs(call));
    if (answer.kind !== "end" || answer.upTo < min || answer.pending > 0 || !complete(answer)) return;
    this.#misses = 0;
    const entries = answer.messages.map((message) => decode(message, this.#subjects.length).detached());
    this.#copy.keep(era, answer.upTo, entries.filter(({ key }) => key !== BARRIER_KEY));
  }

  /** Reads what was stored since the copy's moment. Whoever needs it meanwhile shares it. */
  #catchUp(): Promise<DirectAnswer> {
    this.#catchingUp ??= this.#follow().finally(() => {
      this.#catchingUp = undefined;
    });
    return this.#catchingUp;
  }

  async #follow(): Promise<DirectAnswer> {
    const { era } = this.#copy;
    const request = { seq: this.#copy.next, next_by_subj: ">", batch: MAX_CHANGES };
    // Everybody waits for it, so that it has a time of its own, and a short one at first: another replica may be quicker.
    const answer = await this.#link.direct(this.stream, request, Math.min(FOLLOW_MS * 2 ** this.#slow, MAX_FOLLOW_MS));
    this.#slow = answer.kind === "failed" ? Math.min(this.#slow + 1, 3) : 0;
    if (answer.kind !== "end") return answer;
    if (!whole(answer)) return { kind: "failed", failure: "lost", error: new Error("a part of the answer is missing") };
    // An answer that is not full has come to the end of its replica's log: nothing that came meanwhile is left out.
    if (answer.messages.length < MAX_CHANGES && answer.pending === 0) {
      this.#copy.follow(era, answer.messages.map((message) => decode(message, this.#subjects.length).detached()));
      // Nothing that comes later may lie before what was seen here.
      this.saw(this.#copy.at);
    } else {
      this.#copy.clear();
    }
    return answer;
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
  async #mark(key: string, value: Json, call: Call): Promise<number> {
    this.#use();
    const payload = JSON.stringify({ k: key, ...value });
    for (const retries = new Retries(call); ; ) {
      await retries.turn();
      const ack = await this.#link.publish(this.stream, this.#subjects + key, payload, this.#link.attemptMs(call));
      if (ack.kind === "stored") {
        this.saw(ack.seq);
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
    this.#use();
    const payload = JSON.stringify({ k: key, ...value });
    let lost = false;
    const before = call.outcome;
    for (const retries = new Retries(call); ; ) {
      await retries.turn();
      // Between that and here a signal may have aborted the call, whose caller was then told that nothing was sent.
      call.check();
      if (before !== undefined && kind === "commit") call.outcome = "unknown";
      const publish = (): Promise<Ack> => this.#link.publish(this.stream, this.#subjects + key, payload, this.#link.attemptMs(call), expected);
      let ack = await publish();
      // Something else of the subject is under way, a fence perhaps: it is over in a moment, and another one may follow.
      for (let i = 0; i < MAX_AT_ONCE && ack.kind === "conflict" && ack.inFlight; i++) {
        lost = true;
        await new Promise((resolve) => setTimeout(resolve, 1));
        call.check();
        ack = await publish();
      }
      switch (ack.kind) {
        case "stored":
          this.saw(ack.seq);
          return ack.seq;
        case "conflict": {
          // A refusal is no evidence: a leader without a quorum says it too, or one that waits for a write that then dies,
          // while the real leader stores the message. Only what stands in the log as of now tells.
          const entry = (await this.read([key], await this.fresh(call), call)).get(key);
          if ((entry?.seq ?? 0) === expected) {
            lost = true;
            break;
          }
          if (entry === undefined) {
            // Purged, or missed by a replica that catches up from a snapshot: then it may be this very write.
            if (!(await this.areAbsent([key], call))) {
              lost = true;
              break;
            }
            call.outcome = before;
            return undefined;
          }
          const verdict = mine(entry);
          if (verdict === "yes") return entry.seq;
          if (verdict === "unknown") {
            throw new StoreError("TIMEOUT", "An acknowledgement was lost, and many other writes followed", { outcome: "unknown" });
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
    for (const retries = new Retries(call); ; ) {
      await retries.turn();
      try {
        const reply = await this.#link.api(
          `STREAM.PURGE.${this.stream}`,
          { filter: this.#subjects + filter },
          this.#link.attemptMs(call),
        );
        if (reply["success"] === true) return;
        retries.failed("lost", reply["error"]);
      } catch (error) {
        retries.failed(this.#link.closed ? "closed" : "lost", error);
      }
    }
  }

  /** Reads keys and, where a filter is `prefix.*`, all below a prefix, at one moment. At or after `min` and all that was seen. */
  read(filters: readonly string[], min: number, call: Call): Promise<Snapshot> {
    return new Promise((resolve, reject) => {
      this.#use();
      const read: Read = {
        filters,
        min: Math.max(min, this.#seen),
        call,
        resolve,
        reject,
        retries: new Retries(call),
        absent: NOTHING,
      };
      this.#enqueue(read);
    });
  }

  /**
   * The same for keys alone, of which each that was not found is surely not there, as the leader says after this call. A
   * replica that catches up from a snapshot misses for a moment what is there.
   */
  async readCertain(wanted: readonly string[], min: number, call: Call): Promise<Snapshot> {
    for (const retries = new Retries(call); ; ) {
      await retries.turn();
      const found = await this.read(wanted, min, call);
      const missing = wanted.filter((key) => found.get(key) === undefined);
      if (await this.areAbsent(missing, call)) return found;
    }
  }

  /** Whether none of the keys is there, as the leader says after this call. `false` proves nothing. */
  async areAbsent(wanted: readonly string[], call: Call): Promise<boolean> {
    const absent = await all(wanted.map((key) => this.#absence.prove(key, call)));
    return absent.every((is) => is);
  }

  #enqueue(read: Read): void {
    // Reads that begin together, as those of checks that shared a barrier, become one request.
    if (this.#queue.push(read) === 1) process.nextTick(() => { this.#flush(); });
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
        timeoutMs = Math.max(timeoutMs, this.#link.attemptMs(read.call));
      }
      const subjects = Array.from(filters, (filter) => this.#subjects + filter);
      subjects.push(this.#subjects + BARRIER_KEY);
      const answer = await this.#link.direct(this.stream, { multi_last: subjects }, timeoutMs);
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
      const found = new Found(answer.upTo, answer.messages, this.#subjects.length);
      for (const read of waiting) this.#settle(read, found);
    } catch (error) {
      for (const read of waiting) read.reject(error);
    }
  }

  #settle(read: Read, found: Found): void {
    if (found.upTo < read.min) {
      this.#again(read, undefined);
      return;
    }
    // A server before 2.12 does not keep a write apart from a read of several keys, and can miss a key that is written
    // at that moment. https://github.com/nats-io/nats-server: stream.isolateMu
    if (!this.#link.isolatesReads) {
      const absent = new Set(read.filters.filter((filter) => !filter.endsWith("*") && !found.has(filter)));
      const known = read.absent;
      read.absent = absent;
      if ([...absent].some((key) => !known.has(key))) {
        this.#enqueue(read);
        return;
      }
    }
    this.saw(found.upTo);
    read.resolve(found);
  }

  /**
   * Reads everything that matches, however much it is. Up to the server's limit of one request that is one moment of one
   * replica; beyond it, a scan that ends at `marker`, a key of its own that the filter matches and that is written first.
   */
  async all(filter: string, marker: string, min: number, call: Call): Promise<ReadonlyMap<string, Entry>> {
    const needed = Math.max(min, this.#seen);
    const found = new Map<string, Entry>();
    for (const retries = new Retries(call); ; ) {
      await retries.turn();
      this.#use();
      call.check();
      const subjects = [this.#subjects + filter, this.#subjects + BARRIER_KEY];
      const answer = await this.#link.direct(
        this.stream,
        { multi_last: subjects, max_bytes: PAGE_BYTES },
        this.#link.attemptMs(call),
      );
      if (answer.kind === "failed") retries.failed(answer.failure, answer.error);
      if (answer.kind === "too-many" || (answer.kind === "end" && answer.pending > 0)) break;
      if (answer.kind !== "end" || answer.upTo < needed || !complete(answer)) continue;
      this.saw(answer.upTo);
      for (const message of answer.messages) {
        const entry = intact(decode(message, this.#subjects.length));
        if (entry.key !== BARRIER_KEY && entry.key !== marker) found.set(entry.key, entry);
      }
      return found;
    }
    await this.scan(filter, call, { end: () => this.#mark(marker, {}, call) }, (entry) => {
      if (entry.key !== marker) found.set(entry.key, intact(entry));
      return "go on";
    });
    return found;
  }

  /** What is listed of the records after a sequence, each once and as it stands at a moment after this call. */
  async page(after: number, limit: number, isListed: (entry: Entry) => boolean, call: Call): Promise<PageOfRecords> {
    const found = new Map<string, Entry>();
    let end = 0;
    const options = { from: after + 1, page: Math.min(limit + 2, MAX_PAGE), end: async () => (end = await this.fresh(call)) };
    // Of all keys, because the barrier is among them, and so ends a scan that is fresh.
    await this.scan(">", call, options, (entry) => {
      // Met again, it was changed meanwhile, or came from a replica that was behind at first.
      found.delete(entry.key);
      if (isListed(entry)) found.set(entry.key, entry);
      return found.size < limit ? "go on" : "stop";
    });
    const entries = [...found.values()];
    const last = entries.at(-1);
    if (last === undefined || entries.length < limit) return { entries, next: undefined, end };
    // A scan that was stopped has not come to its end, which would have shown that no replica was behind.
    const now = await all(entries.map(async ({ key }) => (await this.read([key], end, call)).get(key)));
    return { entries: now.filter((entry): entry is Entry => entry !== undefined && isListed(entry)), next: last.seq, end };
  }

  #again(read: Read, failed: { failure: Parameters<Retries["failed"]>[0]; error: unknown } | undefined): void {
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
  async scan(filter: string, call: Call, options: ScanOptions, visit: (entry: Entry) => "go on" | "stop"): Promise<void> {
    let next = options.from ?? 1;
    let page = options.page ?? MAX_PAGE;
    let last = 0;
    let end = await options.end?.();
    let answers = 0;
    // A place that the log has not come to: nothing is behind it.
    if (end !== undefined && next > end) return;
    for (const retries = new Retries(call); ; ) {
      this.#use();
      call.check();
      const answer = await this.#link.direct(
        this.stream,
        { seq: next, next_by_subj: this.#subjects + filter, batch: page, max_bytes: PAGE_BYTES },
        this.#link.attemptMs(call),
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
          for (const message of answer.messages) {
            next = message.seq + 1;
            last = message.seq;
            if (visit(decode(message, this.#subjects.length)) === "stop") return;
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
  /** Publishes a message that the filter matches, and answers its sequence. Without it, the scan ends where any replica ends. */
  readonly end?: () => Promise<number>;
}

const NOTHING: ReadonlySet<string> = new Set();

/** An error of JetStream itself. 503 passes, as while a leader is elected; others stay, as a full disk does. */
function refused(ack: { code: number; description: string }, retries: Retries): void {
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
function whole({ messages, last }: { messages: readonly DirectMessage[]; last: number }): boolean {
  let before = 0;
  for (const message of messages) {
    if (message.before !== before) return false;
    before = message.seq;
  }
  return last === before;
}

function decode(message: DirectMessage, skip: number): Entry {
  let value: Json;
  try {
    const { data } = message;
    value = asObject(JSON.parse(Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("utf8")));
  } catch {
    value = {};
  }
  const key = value["k"];
  return typeof key === "string" ? new Entry(key, value, message) : new Entry(message.subject.slice(skip), DAMAGED, message);
}

/** A value that is none of ours. Whoever looks at the record is told; who does not is not held up by it. */
const DAMAGED: Json = Object.freeze({});

function intact(entry: Entry): Entry {
  if (entry.value === DAMAGED) {
    throw new StoreError("CORRUPT", `A record is not of this library: sequence ${String(entry.seq)}`, {
      details: { key: entry.key, sequence: entry.seq },
    });
  }
  return entry;
}

/** What the copy holds of the keys that were asked for. */
class Taken implements Snapshot {
  readonly upTo: number;
  readonly #entries: readonly Entry[];

  constructor(upTo: number, entries: readonly Entry[]) {
    this.upTo = upTo;
    this.#entries = entries;
  }

  get(key: string): Entry | undefined {
    const entry = this.#entries.find((candidate) => candidate.key === key);
    return entry === undefined ? undefined : intact(entry);
  }

  below(): readonly Entry[] {
    return [];
  }
}

class Found implements Snapshot {
  readonly upTo: number;
  readonly #byKey = new Map<string, Entry>();
  #byParent: Map<string, Entry[]> | undefined;

  constructor(upTo: number, messages: readonly DirectMessage[], skip: number) {
    this.upTo = upTo;
    for (const message of messages) {
      const entry = decode(message, skip);
      this.#byKey.set(entry.key, entry);
    }
  }

  has(key: string): boolean {
    return this.#byKey.has(key);
  }

  get(key: string): Entry | undefined {
    const entry = this.#byKey.get(key);
    return entry === undefined ? undefined : intact(entry);
  }

  below(prefix: string): readonly Entry[] {
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
