/**
 * JetStream, as far as the library uses it, with every freedom that the assumptions of docs/protocol.md leave to the
 * servers: a stream's leader orders and acknowledges, replicas answer reads from wherever they have come to, leaders
 * change at any moment.
 */
import { Buffer } from "node:buffer";
import type { Chance } from "./chance.js";
import type { Engine } from "./engine.js";
import { parseOnce } from "./json.js";
import { Log, matcher, type Place, type StoredMessage, type View } from "./log.js";
import {
  SimulatedHeaders,
  acknowledgement,
  json,
  remembered,
  status,
  type HeaderLines,
  type SimulatedMessage,
} from "./messages.js";
import { isOld, versionOf, type Mix } from "./mix.js";
import { wallClockAt } from "./process.js";
import type { Trace } from "./trace.js";

export type Answer = (messages: readonly SimulatedMessage[]) => void;

export interface World {
  readonly engine: Engine;
  readonly chance: Chance;
  readonly trace: Trace | undefined;
  /** What may go wrong just now. */
  mix: Mix;
  /**
   * Somebody is about to read from a stream. Another store may change just then what it reads. `lost`: the subject of a
   * write of its own there, whose acknowledgement was lost.
   */
  aboutToRead: (stream: string, reader: string, lost?: string) => void;
  /**
   * A barrier of the store is acknowledged. Another one may take something away before the store hears of it, and the
   * store be asked about that: `true`, and then `deliver` is called once that is so, or after a while.
   */
  overtake: (stream: string, store: string, deliver: () => void) => boolean;
  /** A record is stored that says whether a store may be used. */
  stateStored: (stream: string, data: Uint8Array) => void;
}

type Json = Readonly<Record<string, unknown>>;
type Payload = Uint8Array | string;

export interface Asker {
  /** The server that the client has. */
  readonly home: number;
  /** Where the stream was when a read was sent that others came before. */
  readonly sent?: Place | undefined;
}

/** An entry that was proposed and is not committed yet. */
class Proposal {
  readonly subject: string;
  /** The subject that its condition is about. */
  readonly expectedOf: string | undefined;
  readonly apply: () => readonly SimulatedMessage[];
  readonly answer: Answer;
  /** When a majority has it, where nothing is in the way. */
  readonly at: number;

  constructor(
    subject: string,
    expectedOf: string | undefined,
    apply: () => readonly SimulatedMessage[],
    answer: Answer,
    at: number,
  ) {
    this.subject = subject;
    this.expectedOf = expectedOf;
    this.apply = apply;
    this.answer = answer;
    this.at = at;
  }
}

/** Someone who was the leader and does not know better: it refuses and answers by what it has, and stores nothing. */
interface OldLeader {
  readonly view: View;
  readonly config: Json;
  readonly inFlight: Set<string>;
  readonly until: number;
}

interface Publish {
  readonly subject: string;
  readonly data: Payload;
  readonly headers: HeaderLines;
  readonly expected: number | undefined;
  readonly expectedOf: string | undefined;
}

/** The subject whose last sequence a message is conditional on. */
const conditionOf = ({ subject, expected, expectedOf = subject }: Publish): string | undefined =>
  expected === undefined ? undefined : expectedOf;

const WRONG_LAST_SEQUENCE = 10071;
const WRONG_LAST_SEQUENCE_IN_FLIGHT = 10164;
const MAX_MATCHES = 1024;
/** Where a request names no bound: what a server may have under way to one client. */
const MAX_PENDING_BYTES = 64 * 1024 * 1024;

const refusal = (code: number, errCode: number, description: string, more: Json = {}): SimulatedMessage =>
  json({ ...more, error: { code, err_code: errCode, description } });

const NOT_FOUND = [404, 10059, "stream not found"] as const;

const wrongLastSequence = remembered((stream, last) =>
  refusal(400, WRONG_LAST_SEQUENCE, `wrong last sequence: ${last}`, { stream, seq: 0 }),
);

const inFlight = remembered((stream) =>
  refusal(400, WRONG_LAST_SEQUENCE_IN_FLIGHT, "wrong last sequence", { stream, seq: 0 }),
);

const noResponders = (subject: string): SimulatedMessage => status(503, "", [["Nats-Subject", subject]]);

/** What a server fills in where a stream's settings do not say it. */
const DEFAULTS: Json = {
  retention: "limits",
  max_consumers: -1,
  max_msgs: -1,
  max_bytes: -1,
  max_age: 0,
  max_msgs_per_subject: -1,
  max_msg_size: -1,
  discard: "old",
  storage: "file",
  num_replicas: 1,
  duplicate_window: 120_000_000_000,
  compression: "none",
  allow_direct: false,
  mirror_direct: false,
  sealed: false,
  deny_delete: false,
  deny_purge: false,
  allow_rollup_hdrs: false,
  consumer_limits: {},
  allow_msg_ttl: false,
  metadata: {},
};

/** Whether two streams' settings are the same, in whatever order. */
function isSame(a: unknown, b: unknown): boolean {
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return a === b;
  const [left, right] = [Object.entries(a), new Map<string, unknown>(Object.entries(b))];
  return left.length === right.size && left.every(([name, value]) => right.has(name) && isSame(value, right.get(name)));
}

/** Whether a stream with these settings stores what is sent there. */
function takes({ subjects }: Json, subject: string): boolean {
  if (!Array.isArray(subjects)) return true;
  for (const filter of subjects) if (matcher(String(filter))(subject)) return true;
  return false;
}

/** What a server has heard of the changes of a stream's settings: so many. */
interface Heard {
  changes: number;
}

/** Why a stream cannot have other settings, as a server says it. */
function unchangeable(before: Json, after: Json): string | undefined {
  if (after["storage"] !== before["storage"]) return "stream configuration update can not change storage type";
  if (before["deny_delete"] === true && after["deny_delete"] !== true)
    return "stream configuration update can not cancel deny message deletes";
  if (before["deny_purge"] === true && after["deny_purge"] !== true)
    return "stream configuration update can not cancel deny purge";
  return undefined;
}

class Stream {
  readonly name: string;
  #config: Json;
  /** All that it ever had. They go through another log than the stream's. */
  readonly #configs: Json[];
  #heard: Heard[];
  #configText: string | undefined;
  /** Somebody asked for these settings, which are the very same. */
  #asked: Json | undefined;
  readonly log: Log;
  readonly #world: World;
  /** Where each replica is. The leader has applied everything that is committed. */
  #replicas: View[];
  /** Until when a replica stays where it is. */
  #lagsUntil: number[] = [];
  #leader: number;
  #tail: Proposal[] = [];
  /** Subjects that the leader takes for ones under way although what was is acknowledged, until then. */
  readonly #lingering = new Map<string, number>();
  #oldLeaders: OldLeader[] = [];
  /** Nobody leads until then, or nobody has a quorum. */
  #electedAt = 0;
  #quorumAt = 0;
  #committing = false;

  /** `log` is that of a backup. */
  constructor(name: string, config: Json, world: World, log = new Log()) {
    this.name = name;
    this.#config = { ...DEFAULTS, ...config };
    this.#configs = [this.#config];
    this.#world = world;
    this.log = log;
    this.#replicas = Array.from({ length: Number(this.#config["num_replicas"]) }, () => ({ place: log.end }));
    this.#heard = this.#replicas.map(() => ({ changes: 0 }));
    // Rather one that is far from the first client, which reads more than others.
    this.#leader = world.chance.happens(0.8) ? this.#replicas.length - 1 : world.chance.below(this.#replicas.length);
  }

  get #clustered(): boolean {
    return this.#replicas.length > 1;
  }

  /** What may happen to the stream whenever somebody turns to it. */
  #mayChange(isWrite: boolean): void {
    const { chance, mix, engine } = this.#world;
    if (!this.#clustered) return;
    if (chance.happens(mix.elections)) this.#elect();
    if (isWrite && chance.happens(mix.stalls)) {
      this.#quorumAt = Math.max(this.#quorumAt, engine.now + chance.between(0, mix.stallMs));
      this.#world.trace?.say(`${this.name}: no quorum until ${this.#quorumAt.toFixed(1)}`);
    }
  }

  /**
   * Another replica leads. Of what the old leader had proposed it has a part, from the first one on, which is
   * committed; the rest is taken back. The old leader may go on for a while.
   */
  #elect(): void {
    const { chance, mix, engine } = this.#world;
    const kept = chance.below(this.#tail.length + 1);
    const dropped = this.#tail.splice(kept);
    if (chance.happens(mix.oldLeaders)) {
      this.#oldLeaders.push({
        view: { place: this.log.end },
        config: this.#ledBy(this.#leader),
        inFlight: new Set(this.#inFlight([...this.#tail, ...dropped])),
        until: engine.now + chance.between(0, mix.oldLeaderMs),
      });
    }
    this.#lingering.clear();
    const before = this.#leader;
    this.#leader = (before + 1 + chance.below(this.#replicas.length - 1)) % this.#replicas.length;
    this.#replicas[before] = { place: this.log.end };
    this.#electedAt = engine.now + chance.between(0, mix.electionMs);
    this.#world.trace?.say(
      `${this.name}: replica ${this.#leader} is elected at ${this.#electedAt.toFixed(1)}` +
        (dropped.length === 0 ? "" : `, and takes back ${dropped.map(({ subject }) => subject).join(", ")}`) +
        (this.#ledBy(this.#leader) === this.#config ? "" : ", and has not heard of all settings"),
    );
  }

  #oldLeadersNow(): readonly OldLeader[] {
    if (this.#oldLeaders.length === 0) return this.#oldLeaders;
    const { now } = this.#world.engine;
    this.#oldLeaders = this.#oldLeaders.filter(({ until }) => until > now);
    return this.#oldLeaders;
  }

  /** A message for the stream's leader reaches whoever takes itself for it. */
  write(publish: Publish, answer: Answer): void {
    this.#mayChange(true);
    const { chance, engine } = this.#world;
    let taken = false;
    for (const old of this.#oldLeadersNow()) {
      if (chance.happens(0.5) || !takes(old.config, publish.subject)) continue;
      taken = true;
      const refused = this.#refusalOf(publish, old.view, (subject) => old.inFlight.has(subject));
      if (refused !== undefined) {
        this.#world.trace?.say(`${this.name}: an old leader refuses ${publish.subject}`);
        answer([refused]);
      } else {
        for (const subject of this.#inFlight([{ subject: publish.subject, expectedOf: conditionOf(publish) }]))
          old.inFlight.add(subject);
      }
    }
    if (engine.now < this.#electedAt) {
      if (!taken) answer([noResponders(publish.subject)]);
      return;
    }
    // A client on the old leader's side of a cut reaches nobody else.
    if (taken && chance.happens(0.3)) return;
    if (!takes(this.#ledBy(this.#leader), publish.subject)) {
      this.#world.trace?.say(`${this.name}: does not take ${publish.subject}`);
      // A server that has not heard yet that nobody takes it any more drops it.
      if (!taken && !chance.happens(0.2)) answer([noResponders(publish.subject)]);
      return;
    }
    const refused = this.#refusalOf(publish, { place: this.log.end }, (subject) => this.#isInFlight(subject));
    if (refused !== undefined) {
      this.#world.trace?.say(
        `${this.name}: refuses ${publish.subject} on the condition ${String(publish.expected)}${publish.expectedOf === undefined ? "" : ` of ${publish.expectedOf}`}`,
      );
      answer([refused]);
      return;
    }
    const apply = (): readonly SimulatedMessage[] => {
      const late = this.#lateMismatchOf(publish);
      if (late !== undefined) return [late];
      const { subject, data, headers } = publish;
      const { seq } = this.log.append(
        subject,
        typeof data === "string" ? Buffer.from(data) : data,
        headers,
        wallClockAt(engine.now),
      );
      this.#world.trace?.say(`${this.name}: ${seq} is ${subject}`);
      if (subject.endsWith(".store"))
        this.#world.stateStored(this.name, typeof data === "string" ? Buffer.from(data) : data);
      return [acknowledgement(this.name, seq)];
    };
    this.#propose(publish.subject, conditionOf(publish), apply, answer);
  }

  /** Before 2.12 a server knew only of conditional writes that were under way. */
  get #tracksAll(): boolean {
    return !this.#isOld(this.#leader);
  }

  #isOld(replica: number): boolean {
    return isOld(versionOf(this.#world.mix, replica));
  }

  /**
   * What nobody may be conditional on while it is under way: what is written, and what that is conditional on itself.
   */
  #inFlight(proposals: readonly Pick<Proposal, "subject" | "expectedOf">[]): string[] {
    return proposals.flatMap(({ subject, expectedOf }) => [
      ...(this.#tracksAll ? [subject] : []),
      ...(expectedOf === undefined ? [] : [expectedOf]),
    ]);
  }

  #isInFlight(wanted: string): boolean {
    if (this.#lingering.size > 0 && (this.#lingering.get(wanted) ?? 0) > this.#world.engine.now) return true;
    return this.#tail.some(
      ({ subject, expectedOf }) => expectedOf === wanted || (subject === wanted && this.#tracksAll),
    );
  }

  #refusalOf(publish: Publish, view: View, isInFlight: (subject: string) => boolean): SimulatedMessage | undefined {
    const subject = conditionOf(publish);
    if (subject !== undefined && this.#clustered && isInFlight(subject)) return inFlight(this.name, 0);
    return this.#mismatchOf(publish, view);
  }

  #mismatchOf(publish: Publish, view: View): SimulatedMessage | undefined {
    const subject = conditionOf(publish);
    if (subject === undefined) return undefined;
    const last = this.log.lastMatching(subject, view)?.seq ?? 0;
    return last === publish.expected ? undefined : wrongLastSequence(this.name, last);
  }

  /**
   * Before 2.12 a server looks again: what is unconditional may have come in between. What was purged meanwhile is let
   * pass.
   */
  #lateMismatchOf(publish: Publish): SimulatedMessage | undefined {
    const subject = conditionOf(publish);
    if (subject === undefined || !this.#clustered || this.#tracksAll) return undefined;
    const isGone = this.log.lastMatching(subject, { place: this.log.end }) === undefined;
    if (isGone && (publish.expected ?? 0) <= this.log.sequenceAt(this.log.end)) return undefined;
    return this.#mismatchOf(publish, { place: this.log.end });
  }

  purge(filter: string, answer: Answer): void {
    this.#mayChange(true);
    const { engine } = this.#world;
    if (this.#config["deny_purge"] === true) {
      answer([refusal(500, 10110, "stream purge not permitted", { purged: 0 })]);
      return;
    }
    if (engine.now < this.#electedAt) {
      answer([refusal(503, 10008, "JetStream system temporarily unavailable", { purged: 0 })]);
      return;
    }
    // What is under way, and comes before it, stays: the leader notes what it has just now.
    const upTo = this.log.sequenceAt(this.log.end);
    const apply = (): readonly SimulatedMessage[] => {
      const purged = this.log.purge(filter, upTo);
      this.#world.trace?.say(`${this.name}: purges ${purged} of ${filter}`);
      return [json({ success: true, purged })];
    };
    this.#propose(`the purge of ${filter}`, undefined, apply, answer);
  }

  #propose(
    subject: string,
    expectedOf: string | undefined,
    apply: () => readonly SimulatedMessage[],
    answer: Answer,
  ): void {
    if (!this.#clustered && this.#tail.length === 0) {
      answer(apply());
      return;
    }
    const { engine, chance, mix } = this.#world;
    const at =
      mix.pipelined > 0 ? Math.max(this.#tail.at(-1)?.at ?? 0, engine.now + chance.between(0, 2 * mix.delayMs)) : 0;
    this.#tail.push(new Proposal(subject, expectedOf, apply, answer, at));
    this.#commitSoon();
  }

  #commitFirst(): boolean {
    const next = this.#tail.shift();
    if (next === undefined) return false;
    next.answer(next.apply());
    const { engine, chance, mix } = this.#world;
    if (chance.happens(mix.lingers)) {
      for (const subject of this.#inFlight([next]))
        this.#lingering.set(subject, engine.now + chance.between(0, 10 * mix.delayMs));
    }
    return true;
  }

  /** Entries are committed one after the other, each when a majority has it. */
  #commitSoon(): void {
    if (this.#committing) return;
    this.#committing = true;
    const { engine, chance, mix } = this.#world;
    const isPipelined = mix.pipelined > 0;
    const at = isPipelined ? (this.#tail[0]?.at ?? 0) : 0;
    const wait =
      Math.max(at - engine.now, this.#electedAt - engine.now, this.#quorumAt - engine.now, 0) +
      (isPipelined ? 0 : chance.between(0, mix.delayMs));
    engine.after(wait, () => {
      this.#committing = false;
      const isReady = engine.now >= this.#electedAt && engine.now >= this.#quorumAt;
      // Several may have reached the majority together.
      const more = (): boolean => (isPipelined ? (this.#tail[0]?.at ?? Infinity) <= engine.now : chance.happens(0.5));
      for (let goesOn = isReady; goesOn; goesOn = more()) if (!this.#commitFirst()) break;
      if (this.#tail.length > 0) this.#commitSoon();
    });
  }

  /**
   * Where the replica has come to that answers a read, mostly that of the server that the client has. It never goes
   * back.
   */
  #view({ home, sent }: Asker, isList: boolean): { readonly view: View; readonly replica: number } {
    const { chance, mix } = this.#world;
    const end = this.log.end;
    const isCalm = mix.staleReads === 0 && mix.snapshots === 0 && mix.buried === 0;
    const index = chance.happens(0.8) ? home % this.#replicas.length : chance.below(this.#replicas.length);
    const before = this.#replicas[index] ?? { place: end };
    if (index === this.#leader || isCalm) return { view: (this.#replicas[index] = { place: end }), replica: index };
    const { now } = this.#world.engine;
    let view: View = { place: end };
    if (isList && before.place < end && chance.happens(mix.buried)) {
      const place = Math.max(before.place, end - 1 - chance.below(4));
      return { view: (this.#replicas[index] = { ...before, place }), replica: index };
    }
    if (sent !== undefined && before.place <= sent && sent < end && mix.snapshots > 0 && chance.happens(0.7)) {
      // As it was when somebody asked, but without what was superseded since.
      view = { place: sent, snapshot: Math.max(end, before.snapshot ?? 0) };
    } else if (before.place < end && chance.happens(mix.snapshots)) {
      view = this.#inSnapshot(before);
    } else if (now < (this.#lagsUntil[index] ?? 0)) {
      view = before;
    } else if (chance.happens(mix.staleReads)) {
      if (chance.happens(0.3)) this.#lagsUntil[index] = now + chance.between(0, mix.lagMs);
      view = chance.happens(0.5) ? before : this.#further(before);
    }
    this.#replicas[index] = view;
    return { view, replica: index };
  }

  /** Some of what is missing has come. */
  #further({ place, snapshot }: View): View {
    const { chance } = this.#world;
    const reached = place + chance.below(this.log.end - place + 1);
    return snapshot !== undefined && reached < snapshot ? { place: reached, snapshot } : { place: reached };
  }

  /**
   * In the middle of a snapshot, rather where it hurts: between what was superseded last, and what superseded it. What
   * an earlier snapshot dropped is not in a later one either.
   */
  #inSnapshot(before: View): View {
    const { chance } = this.#world;
    const end = this.log.end;
    const least = before.place;
    const holes = this.log.lastHoles(Math.max(least, before.snapshot ?? 0), 3).filter(() => chance.happens(0.6));
    if (holes.length > 0 && chance.happens(0.9)) {
      const untils = holes.map(({ until }) => until);
      const [first, last] = [Math.min(...untils), Math.max(...untils)];
      const dice = chance.next();
      // A leader sends what it has just then: all that there is, most often.
      const snapshot = dice < 0.4 ? end : dice < 0.8 ? last : last + chance.below(end - last + 1);
      const begin = Math.max(least, Math.min(first - 1, ...holes.map(({ from }) => from)));
      // As far as it can be without what superseded them: whoever asks wants to know of what came before.
      return { place: chance.happens(0.7) ? first - 1 : begin + chance.below(first - begin), snapshot };
    }
    const snapshot = Math.max(least + 1 + chance.below(end - least), before.snapshot ?? 0);
    return { place: least + chance.below(snapshot - least), snapshot };
  }

  direct(body: Json, asker: Asker, answer: Answer): void {
    this.#mayChange(false);
    const multi = body["multi_last"];
    const found = this.#view(asker, Array.isArray(multi) && this.name === "KV_members");
    let { view } = found;
    const { chance } = this.#world;
    const old = this.#isOld(found.replica);
    if (Array.isArray(multi) && old && view.snapshot === undefined && view.place > 0 && chance.happens(0.1)) {
      // A server before 2.12 misses what is written at that very moment.
      view = { place: view.place - 1, snapshot: view.place };
    }
    answer(this.answerAt(body, view, old));
  }

  /** What a replica answers that has come so far. */
  answerAt(body: Json, view: View, old = this.#isOld(this.#leader)): readonly SimulatedMessage[] {
    const { multi_last: multi = [], next_by_subj: next, last_by_subj: last, seq = 0, batch = 0 } = body;
    if (!Array.isArray(multi) || typeof seq !== "number" || typeof batch !== "number")
      throw new Error(`the simulated servers do not know ${JSON.stringify(body)}`);
    if (multi.length === 0 && next === undefined && last === undefined && seq === 0)
      return [status(408, "Empty Request")];
    const isTwo =
      multi.length > 0 ? next !== undefined || last !== undefined : next !== undefined && last !== undefined;
    if (isTwo || (last !== undefined && (seq > 0 || batch > 0))) return [status(408, "Bad Request")];
    const upTo = this.log.sequenceAt(view.place);
    const { trace } = this.#world;
    if (multi.length > 0) {
      const found = this.log.lastOfEach(multi.map(String), view);
      if (trace !== undefined) this.#told(trace, `multi_last ${multi.join(" ")}`, view, found);
      if (found.length > MAX_MATCHES) return [status(413, "Too Many Results")];
      if (found.length === 0) return [status(404, "No Results")];
      // Before 2.12 the end counted one too few.
      const over = old ? 1 : 0;
      return this.#batch(found, body, found.length, 0, (pending, before) => [
        ["Nats-Num-Pending", String(Math.max(0, pending - over))],
        ["Nats-Last-Sequence", String(before)],
        ["Nats-UpTo-Sequence", String(upTo)],
      ]);
    }
    if (typeof next === "string") {
      const found = this.log.from(seq, next, view);
      if (trace !== undefined) this.#told(trace, `next_by_subj ${next} from ${seq}`, view, found);
      const [first] = found;
      if (first === undefined) return [status(404, "Message Not Found")];
      if (batch === 0) return [this.#message(first)];
      // Before 2.12 each message counted itself among those that follow.
      return this.#batch(found, body, batch, old ? 1 : 0, (pending, before) => [
        ["Nats-Num-Pending", String(pending)],
        ["Nats-Last-Sequence", String(before)],
      ]);
    }
    if (typeof last === "string") {
      const found = this.log.lastMatching(last, view);
      if (trace !== undefined) this.#told(trace, `last ${last}`, view, found === undefined ? [] : [found]);
      return [found === undefined ? status(404, "Message Not Found") : this.#message(found)];
    }
    throw new Error(`the simulated servers do not know ${JSON.stringify(body)}`);
  }

  /** What a stream's leader alone answers: whoever takes itself for it. */
  ofLeader({ seq, next_by_subj: filter }: Json, answer: Answer): void {
    this.#mayChange(false);
    const { chance, engine, trace } = this.#world;
    const old = this.#oldLeadersNow().find(() => chance.happens(0.5));
    // Nobody leads: nobody answers.
    if (old === undefined && engine.now < this.#electedAt) return;
    const view = old?.view ?? { place: this.log.end };
    const [found] = this.log.from(Number(seq), String(filter), view);
    if (trace !== undefined)
      this.#told(trace, `the leader is asked from ${String(seq)}`, view, found === undefined ? [] : [found]);
    answer([
      found === undefined
        ? refusal(404, 10037, "no message found")
        : json({
            message: {
              subject: found.subject,
              seq: found.seq,
              data: Buffer.from(found.data).toString("base64"),
              time: "",
            },
          }),
    ]);
  }

  #told(trace: Trace, what: string, { place, snapshot }: View, found: readonly StoredMessage[]): void {
    trace.say(
      `${this.name}: ${what}: ${found.length === 0 ? "nothing" : found.map(({ seq, subject }) => `${seq} ${subject}`).join(", ")}, up to ${this.log.sequenceAt(place)}` +
        (snapshot === undefined ? "" : `, in the middle of a snapshot of ${this.log.sequenceAt(snapshot)}`) +
        `, of ${this.log.sequenceAt(this.log.end)}`,
    );
  }

  #message(message: StoredMessage, more: HeaderLines = []): SimulatedMessage {
    return { data: message.data, headers: new SimulatedHeaders(0, "", message.lines(this.name), more) };
  }

  #batch(
    found: readonly StoredMessage[],
    body: Json,
    batch: number,
    itself: number,
    end: (pending: number, last: number) => HeaderLines,
  ): SimulatedMessage[] {
    const messages: SimulatedMessage[] = [];
    const maxBytes = Number(body["max_bytes"] ?? 0) || MAX_PENDING_BYTES;
    let last = 0;
    let bytes = 0;
    let pending = found.length;
    for (const message of found) {
      if (messages.length === batch) break;
      pending--;
      messages.push(
        this.#message(message, [
          ["Nats-Num-Pending", String(pending + itself)],
          ["Nats-Last-Sequence", String(last)],
        ]),
      );
      last = message.seq;
      bytes += message.size;
      if (bytes >= maxBytes) break;
    }
    messages.push(status(204, "EOB", end(pending, last)));
    return messages;
  }

  /** A server that is alone tells of a cluster only when it is asked about the stream, and then not of its name. */
  info(why: "asked" | "changed", view: View = { place: this.log.end }): SimulatedMessage {
    const isAlone = this.#world.mix.replicas === 1;
    const leader = `n${this.#leader}`;
    const replicas = this.#replicas.flatMap((_, i) =>
      i === this.#leader ? [] : [{ name: `n${i}`, current: true, lag: 0 }],
    );
    const cluster = isAlone
      ? why === "asked"
        ? { leader }
        : undefined
      : { name: "simulated", leader, ...(replicas.length > 0 ? { replicas } : {}) };
    // Each store that opens asks it of each stream, and nearly all of it is always the same.
    const config = this.#ledBy(this.#leader);
    if (config === this.#config) this.#configText ??= JSON.stringify(config);
    const configText = config === this.#config ? this.#configText : JSON.stringify(config);
    const state = `{"messages":${this.log.count(view)},"last_seq":${this.log.sequenceAt(view.place)}}`;
    return {
      data: Buffer.from(
        `{"config":${configText},"state":${state}${cluster === undefined ? "" : `,"cluster":${JSON.stringify(cluster)}`}}`,
      ),
    };
  }

  /**
   * Somebody makes the stream although it is there: nothing happens, if it is the very same, and any replica says so.
   */
  make(config: Json, asker: Asker): SimulatedMessage {
    const isThis = config === this.#asked || isSame({ ...DEFAULTS, ...config }, this.#config);
    if (isThis) this.#asked = config;
    return isThis
      ? this.info("changed", this.#view(asker, false).view)
      : refusal(400, 10058, "stream name already in use with a different configuration");
  }

  get config(): Json {
    return this.#config;
  }

  /** The settings as the server knows them. */
  #ledBy(replica: number): Json {
    return this.#configs[this.#heard[replica]?.changes ?? 0] ?? this.#config;
  }

  /** The leader answers an update: it knows of it. Others may hear later. */
  #tell(): void {
    const { chance, engine, mix } = this.#world;
    const changes = this.#configs.length - 1;
    for (const [i, heard] of this.#heard.entries()) {
      const hear = (): void => {
        heard.changes = Math.max(heard.changes, changes);
      };
      if (i === this.#leader || !chance.happens(mix.unaware)) hear();
      else engine.after(chance.between(0, mix.unawareMs), hear);
    }
  }

  /** More replicas, which have nothing yet, or fewer. The leader stays. */
  #resize(count: number): void {
    if (count === this.#replicas.length) return;
    const { engine, chance, mix } = this.#world;
    const leader = this.#replicas[this.#leader] ?? { place: this.log.end };
    const others = this.#replicas.filter((_, i) => i !== this.#leader).slice(0, count - 1);
    const ofLeader = this.#heard[this.#leader] ?? { changes: 0 };
    const heard = this.#heard.filter((_, i) => i !== this.#leader).slice(0, count - 1);
    const known = others.length;
    while (heard.length < count - 1) heard.push({ changes: ofLeader.changes });
    this.#heard = [...heard, ofLeader];
    while (others.length < count - 1) others.push({ place: 0 });
    this.#replicas = [...others, leader];
    this.#leader = count - 1;
    this.#lagsUntil = others.map((_, i) => (i < known ? 0 : engine.now + chance.between(0, mix.lagMs)));
    // A leader that is alone needs nobody.
    while (count === 1 && this.#commitFirst());
  }

  /** The stream is gone: nobody ever hears of what was under way. */
  remove(): void {
    this.#tail = [];
  }

  update(config: Json): SimulatedMessage {
    const changed = { ...DEFAULTS, ...config };
    const reason = unchangeable(this.#config, changed);
    if (reason !== undefined) return refusal(500, 10052, reason);
    this.#config = changed;
    this.#configs.push(changed);
    this.#resize(Number(changed["num_replicas"]));
    this.#tell();
    this.#configText = undefined;
    this.#asked = undefined;
    return this.info("changed");
  }
}

/** The servers. What is said to them, and what they answer, goes by subjects and bytes as it does in NATS. */
export class SimulatedServers {
  readonly #world: World;
  readonly #streams = new Map<string, Stream>();
  readonly #byBucket = new Map<string, Stream>();

  constructor(world: World) {
    this.#world = world;
  }

  /** Somebody changes a stream's settings. */
  change(name: string, settings: Json): void {
    const stream = this.#streams.get(name);
    if (stream === undefined) return;
    this.#world.trace?.say(`${name}: somebody sets ${JSON.stringify(settings)}`);
    stream.update({ ...stream.config, ...settings });
  }

  /**
   * Somebody removes a stream. Answers how it is put back: as it was at a place of its log, 0 being empty, unless it is
   * there by then.
   */
  remove(name: string, place: (end: Place) => Place): (() => void) | undefined {
    const removed = this.#streams.get(name);
    if (removed === undefined) return undefined;
    this.#world.trace?.say(`${name}: somebody removes it`);
    removed.remove();
    this.#streams.delete(name);
    this.#byBucket.delete(name.slice("KV_".length));
    const { log } = removed;
    // Whoever took something from it for a while does not find it meanwhile.
    const config = { ...removed.config, allow_direct: true };
    const at = place(log.end);
    return () => {
      if (this.#streams.has(name)) return;
      this.#world.trace?.say(
        `${name}: somebody puts it back as it was up to ${log.sequenceAt(at)} of ${log.sequenceAt(log.end)}`,
      );
      this.#add(new Stream(name, config, this.#world, log.backup(at)));
    };
  }

  stream(name: string): Stream | undefined {
    return this.#streams.get(name);
  }

  receive(
    subject: string,
    payload: Payload,
    headers: SimulatedHeaders | undefined,
    asker: Asker,
    answer: Answer,
  ): void {
    if (subject.startsWith("$KV.")) {
      const end = subject.indexOf(".", "$KV.".length);
      const stream = end < 0 ? undefined : this.#byBucket.get(subject.slice("$KV.".length, end));
      const expected = headers?.get("Nats-Expected-Last-Subject-Sequence") ?? "";
      const expectedOf = headers?.get("Nats-Expected-Last-Subject-Sequence-Subject") ?? "";
      if (stream === undefined) {
        answer([noResponders(subject)]);
        return;
      }
      stream.write(
        {
          subject,
          data: payload,
          headers: headers?.entries() ?? [],
          expected: expected === "" ? undefined : Number(expected),
          expectedOf: expectedOf === "" ? undefined : expectedOf,
        },
        answer,
      );
      return;
    }
    const body = parse(payload);
    if (subject === "$JS.API.INFO") {
      answer([json({})]);
      return;
    }
    if (subject.startsWith(LEADER_GET)) {
      const asked = this.#streams.get(subject.slice(LEADER_GET.length));
      if (asked === undefined) answer([refusal(404, 10059, "stream not found")]);
      else asked.ofLeader(body, answer);
      return;
    }
    const [api, verb, what, name] = requested(subject);
    const stream = this.#streams.get(what);
    if ((verb === "CREATE" || verb === "UPDATE") && body["name"] !== what) {
      answer([refusal(400, 10056, "stream name in subject does not match request")]);
      return;
    }
    if (api === "STREAM" && verb === "CREATE") {
      answer([this.#create(what, body, asker)]);
      return;
    }
    if (stream === undefined) {
      answer([api === "DIRECT" ? noResponders(subject) : refusal(...NOT_FOUND, verb === "PURGE" ? { purged: 0 } : {})]);
      return;
    }
    switch (`${api} ${verb}`) {
      case "DIRECT GET":
        if (stream.config["allow_direct"] !== true) {
          answer([noResponders(subject)]);
          return;
        }
        // Of a key that is part of the subject nothing else can be asked but how much.
        if (name !== "" && Object.keys(body).some((field) => field !== "max_bytes"))
          answer([status(408, "Bad Request")]);
        else stream.direct(name === "" ? body : { last_by_subj: name }, asker, answer);
        return;
      case "STREAM INFO":
        answer([stream.info("asked")]);
        return;
      case "STREAM UPDATE":
        answer([stream.update(body)]);
        return;
      case "STREAM PURGE":
        stream.purge(typeof body["filter"] === "string" ? body["filter"] : ">", answer);
        return;
      default:
        throw new Error(`the simulated servers do not know ${subject}`);
    }
  }

  #create(name: string, config: Json, asker: Asker): SimulatedMessage {
    if (this.#world.mix.replicas === 1 && Number(config["num_replicas"] ?? 1) > 1)
      return refusal(500, 10074, "replicas > 1 not supported in non-clustered mode");
    const known = this.#streams.get(name);
    if (known !== undefined) return known.make(config, asker);
    const created = new Stream(name, config, this.#world);
    this.#add(created);
    return created.info("changed");
  }

  #add(stream: Stream): void {
    const { name } = stream;
    this.#streams.set(name, stream);
    if (name.startsWith("KV_")) this.#byBucket.set(name.slice("KV_".length), stream);
  }
}

const LEADER_GET = "$JS.API.STREAM.MSG.GET.";

const requests = new Map<string, readonly [api: string, verb: string, stream: string, key: string]>();

/** What a request to JetStream's API is about: the same few subjects come again and again. */
function requested(subject: string): readonly [api: string, verb: string, stream: string, key: string] {
  const known = requests.get(subject);
  if (known !== undefined) return known;
  const [, api, verb, what, key = ""] =
    /^\$JS\.API\.(DIRECT|STREAM)\.([A-Z]+)\.([^.]+)(?:\.(.*))?$/.exec(subject) ?? [];
  if (api === undefined || verb === undefined || what === undefined)
    throw new Error(`the simulated servers do not know ${subject}`);
  if (requests.size > 2000) requests.clear();
  const found = [api, verb, what, key] as const;
  requests.set(subject, found);
  return found;
}

const NOTHING: Json = {};

function parse(payload: Payload): Json {
  if (payload.length === 0) return NOTHING;
  const text =
    typeof payload === "string"
      ? payload
      : Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength).toString("utf8");
  return parseOnce(text) as Json;
}
