/**
 * One stream as a replicated log, and what a replica that has come to some place in it answers. Nothing is stored per
 * replica: every record knows from which place to which it was the last of its subject.
 */

import { Buffer } from "node:buffer";
import type { HeaderLines } from "./messages.js";

/** A place in the log: so many entries were committed up to it. A purge is an entry too, but has no sequence. */
export type Place = number;

export class StoredMessage {
  readonly subject: string;
  readonly seq: number;
  readonly data: Uint8Array;
  /** What it was published with: a server keeps it, and gives it back. */
  readonly headers: HeaderLines;
  readonly from: Place;
  /** Found out once: a log is gone through again and again. */
  readonly isBarrier: boolean;
  /** The place of what superseded or purged it. */
  until: Place = Infinity;
  /** When it was stored, by the wall clock. */
  readonly #time: number;
  #lines: HeaderLines | undefined;
  #size: number | undefined;

  constructor(message: Pick<StoredMessage, "subject" | "seq" | "data" | "headers" | "from">, time: number) {
    this.subject = message.subject;
    this.seq = message.seq;
    this.data = message.data;
    this.headers = message.headers;
    this.from = message.from;
    this.isBarrier = isBarrier(message.subject);
    this.#time = time;
  }

  copy(): StoredMessage {
    return new StoredMessage(this, this.#time);
  }

  /** With what a server gives it back. */
  lines(stream: string): HeaderLines {
    return (this.#lines ??= [
      ...this.headers,
      ["Nats-Stream", stream],
      ["Nats-Subject", this.subject],
      ["Nats-Sequence", String(this.seq)],
      ["Nats-Time-Stamp", timeStamp(this.#time)],
    ]);
  }

  /** The bytes by which a server measures an answer. */
  get size(): number {
    return (this.#size ??= sizeOf(this));
  }
}

let second = NaN;
let upToSecond = "";

/** As `toISOString` has it, which takes several times as long: nearly all are of the second of the one before. */
function timeStamp(time: number): string {
  const ms = time % 1000;
  if (time - ms !== second) {
    second = time - ms;
    upToSecond = new Date(second).toISOString().slice(0, "2030-01-01T00:00:00.".length);
  }
  return `${upToSecond}${ms < 10 ? "00" : ms < 100 ? "0" : ""}${ms}Z`;
}

function sizeOf({ subject, headers, data }: StoredMessage): number {
  const lines = headers.reduce((bytes, [name, value]) => bytes + name.length + value.length + ": \r\n".length, 0);
  return subject.length + data.length + (headers.length === 0 ? 0 : "NATS/1.0\r\n".length + lines + "\r\n".length);
}

/**
 * What a replica has. Without `snapshot`: the log up to `place`. With it, the replica catches up from a snapshot of
 * that place: it has dropped what is not in the snapshot, and has of the rest what stands at or before `place`.
 */
export interface View {
  readonly place: Place;
  readonly snapshot?: Place;
}

export class Log {
  readonly #bySubject = new Map<string, StoredMessage[]>();
  readonly #messages: StoredMessage[] = [];
  /** The last sequence at each place. */
  readonly #sequences: number[] = [0];

  get end(): Place {
    return this.#sequences.length - 1;
  }

  sequenceAt(place: Place): number {
    return this.#sequences[place] ?? 0;
  }

  append(subject: string, data: Uint8Array, headers: HeaderLines, time: number): StoredMessage {
    const from = this.#sequences.length;
    const seq = this.sequenceAt(this.end) + 1;
    const message = new StoredMessage({ subject, seq, data, headers, from }, time);
    const versions = this.#bySubject.get(subject);
    if (versions === undefined) {
      this.#bySubject.set(subject, [message]);
    } else {
      const last = versions.at(-1);
      if (last !== undefined && last.until === Infinity) last.until = from;
      versions.push(message);
    }
    this.#messages.push(message);
    this.#sequences.push(seq);
    return message;
  }

  /** Removes what matches and has no later sequence than `upTo`. Answers how many. */
  purge(filter: string, upTo: number): number {
    const place = this.#sequences.length;
    const matches = matcher(filter);
    let purged = 0;
    for (const [subject, versions] of this.#bySubject) {
      const last = versions.at(-1);
      if (last === undefined || last.until !== Infinity || last.seq > upTo || !matches(subject)) continue;
      last.until = place;
      purged++;
    }
    this.#sequences.push(this.sequenceAt(this.end));
    return purged;
  }

  /** As a backup has it that was made there. */
  backup(place: Place): Log {
    const backup = new Log();
    for (const message of this.#messages) {
      if (message.from > place) break;
      const copy = message.copy();
      copy.until = message.until > place ? Infinity : message.until;
      const versions = backup.#bySubject.get(copy.subject);
      if (versions === undefined) backup.#bySubject.set(copy.subject, [copy]);
      else versions.push(copy);
      backup.#messages.push(copy);
    }
    backup.#sequences.push(...this.#sequences.slice(1, place + 1));
    return backup;
  }

  has(message: StoredMessage, { place, snapshot }: View): boolean {
    return message.from <= place && message.until > (snapshot ?? place);
  }

  /** The last message of a subject, as a view has it. */
  last(subject: string, view: View): StoredMessage | undefined {
    const versions = this.#bySubject.get(subject);
    if (versions === undefined) return undefined;
    for (let i = versions.length - 1; i >= 0; i--) {
      const message = versions[i];
      if (message !== undefined && this.has(message, view)) return message;
    }
    return undefined;
  }

  /** The last message that matches a filter. */
  lastMatching(filter: string, view: View): StoredMessage | undefined {
    return isLiteral(filter) ? this.last(filter, view) : this.lastOfEach([filter], view).at(-1);
  }

  /** The last message of each subject that any of the filters matches, in order. */
  lastOfEach(filters: readonly string[], view: View): StoredMessage[] {
    const found = new Set<StoredMessage>();
    for (const filter of filters) {
      if (isLiteral(filter)) {
        const message = this.last(filter, view);
        if (message !== undefined) found.add(message);
        continue;
      }
      const matches = matcher(filter);
      for (const subject of this.#bySubject.keys()) {
        if (!matches(subject)) continue;
        const message = this.last(subject, view);
        if (message !== undefined) found.add(message);
      }
    }
    return [...found].sort((a, b) => a.seq - b.seq);
  }

  /** What a view has from a sequence on, in order. */
  from(seq: number, filter: string, view: View): StoredMessage[] {
    const matches = matcher(filter);
    const found: StoredMessage[] = [];
    // The sequences have no gaps: each message is at its own.
    for (let i = Math.max(0, seq - 1); i < this.#messages.length; i++) {
      const message = this.#messages[i];
      if (message !== undefined && this.has(message, view) && matches(message.subject)) found.push(message);
    }
    return found;
  }

  /** Subjects that had a message and have none. */
  purged(): string[] {
    return [...this.#bySubject].flatMap(([subject, versions]) =>
      versions.at(-1)?.until === Infinity ? [] : [subject],
    );
  }

  /** Whether anything was ever committed that contains a text. */
  everHad(text: string): boolean {
    const bytes = Buffer.from(text);
    return this.#messages.some(({ data }) =>
      Buffer.from(data.buffer, data.byteOffset, data.byteLength).includes(bytes),
    );
  }

  count(view: View): number {
    let count = 0;
    for (const message of this.#messages) if (this.has(message, view)) count++;
    return count;
  }

  /**
   * What was superseded last, of what a replica at `least` can still miss: there a snapshot makes a hole that somebody
   * notices. Barriers do not count.
   */
  lastHoles(least: Place, most: number): StoredMessage[] {
    const found: StoredMessage[] = [];
    for (let i = this.#messages.length - 1; i >= 0 && found.length < most; i--) {
      const message = this.#messages[i];
      if (message !== undefined && message.until !== Infinity && message.until > least && !message.isBarrier)
        found.push(message);
    }
    return found;
  }
}

/** Whether a subject is a bucket's barrier, or that of one store: no record. */
export function isBarrier(subject: string): boolean {
  // Most are none, and show it by where the key begins.
  const key = subject.indexOf(".", "$KV.".length) + 1;
  if (!subject.startsWith("barrier", key) && !subject.startsWith("proof", key)) return false;
  return /^\$KV\.[^.]+\.(?:proof|barrier)\b/.test(subject);
}

export function isLiteral(filter: string): boolean {
  return !filter.includes("*") && !filter.endsWith(">");
}

const matchers = new Map<string, (subject: string) => boolean>();

/** Whether a subject matches a filter of NATS: `*` is one token, `>` at the end is all that follow. */
export function matcher(filter: string): (subject: string) => boolean {
  if (filter === ">") return () => true;
  const known = matchers.get(filter);
  if (known !== undefined) return known;
  const matches = matcherOf(filter);
  if (matchers.size > 2000) matchers.clear();
  matchers.set(filter, matches);
  return matches;
}

function matcherOf(filter: string): (subject: string) => boolean {
  if (isLiteral(filter)) return (subject) => subject === filter;
  const before = filter.slice(0, -1);
  if (filter.endsWith(".>") && isLiteral(before)) return (subject) => subject.startsWith(before);
  const wanted = filter.split(".");
  return (subject) => hasTokens(subject, wanted);
}

function hasTokens(subject: string, wanted: readonly string[]): boolean {
  let from = 0;
  for (const [i, token] of wanted.entries()) {
    if (from > subject.length) return false;
    if (token === ">" && i === wanted.length - 1) return true;
    const dot = subject.indexOf(".", from);
    const end = dot < 0 ? subject.length : dot;
    if (token !== "*" && (end - from !== token.length || !subject.startsWith(token, from))) return false;
    from = end + 1;
  }
  return from > subject.length;
}
