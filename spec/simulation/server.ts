/**
 * JetStream, as far as the library uses it, with every freedom that the assumptions of docs/protocol.md leave to the servers: a
 * stream's leader orders and acknowledges, replicas answer reads from wherever they have come to, leaders change at any moment.
 */
import { Buffer } from "node:buffer";
import type { Chance } from "./chance.js";
import type { Engine } from "./engine.js";
import { Log, isLiteral, type StoredMessage, type View } from "./log.js";
import { SimulatedHeaders, json, status, type SimulatedMessage } from "./messages.js";
import type { Mix } from "./mix.js";
import { wallClockAt } from "./process.js";
import type { Trace } from "./trace.js";

export type Answer = (messages: readonly SimulatedMessage[]) => void;

export interface World {
  readonly engine: Engine;
  readonly chance: Chance;
  readonly trace: Trace;
  /** What may go wrong just now. */
  mix: Mix;
  /** Somebody is about to read from a stream. Another store may change just then what it reads. */
  aboutToRead: (stream: string, reader: string) => void;
}

type Json = Readonly<Record<string, unknown>>;

/** An entry that was proposed and is not committed yet. */
interface Proposal {
  readonly apply: () => readonly SimulatedMessage[];
  readonly subject: string;
  /** The subject that its condition is about. */
  readonly expectedOf: string | undefined;
  readonly answer: Answer;
  readonly what: string;
}

/** Someone who was the leader and does not know better: it refuses and answers by what it has, and stores nothing. */
interface OldLeader {
  readonly view: View;
  readonly inFlight: Set<string>;
  readonly until: number;
}

interface Publish {
  readonly subject: string;
  readonly data: Uint8Array;
  readonly expected: number | undefined;
  readonly expectedOf: string | undefined;
}

const WRONG_LAST_SEQUENCE = 10071;
const WRONG_LAST_SEQUENCE_IN_FLIGHT = 10164;
const MAX_MATCHES = 1024;

const refusal = (code: number, errCode: number, description: string): SimulatedMessage =>
  json({ type: "io.nats.jetstream.api.v1.error", error: { code, err_code: errCode, description } });

class Stream {
  readonly name: string;
  config: Json;
  readonly log = new Log();
  readonly #world: World;
  /** Where each replica is. The leader has applied everything that is committed. */
  readonly #replicas: View[];
  /** Until when a replica stays where it is. */
  readonly #lagsUntil: number[] = [];
  #leader = 0;
  #tail: Proposal[] = [];
  #oldLeaders: OldLeader[] = [];
  /** Nobody leads until then, or nobody has a quorum. */
  #electedAt = 0;
  #quorumAt = 0;
  #committing = false;

  constructor(name: string, config: Json, world: World) {
    this.name = name;
    this.config = config;
    this.#world = world;
    this.#replicas = Array.from({ length: Number(config["num_replicas"]) }, () => ({ place: 0 }));
  }

  get #clustered(): boolean {
    return this.#replicas.length > 1;
  }

  #say(what: string): void {
    this.#world.trace.say(() => `${this.name}: ${what}`);
  }

  /** What may happen to the stream whenever somebody turns to it. */
  #mayChange(isWrite: boolean): void {
    const { chance, mix, engine } = this.#world;
    if (!this.#clustered) return;
    if (chance.happens(mix.elections)) this.#elect();
    if (isWrite && chance.happens(mix.stalls)) {
      this.#quorumAt = Math.max(this.#quorumAt, engine.now + chance.between(0, mix.stallMs));
      this.#say(`no quorum until ${this.#quorumAt.toFixed(1)}`);
    }
  }

  /**
   * Another replica leads. Of what the old leader had proposed it has a part, from the first one on, which is committed; the rest
   * is taken back. The old leader may go on for a while.
   */
  #elect(): void {
    const { chance, mix, engine } = this.#world;
    const kept = chance.below(this.#tail.length + 1);
    const dropped = this.#tail.splice(kept);
    if (chance.happens(mix.oldLeaders)) {
      this.#oldLeaders.push({
        view: { place: this.log.end },
        inFlight: new Set([...this.#tail, ...dropped].map(({ subject }) => subject)),
        until: engine.now + chance.between(0, mix.oldLeaderMs),
      });
    }
    const before = this.#leader;
    this.#leader = (before + 1 + chance.below(this.#replicas.length - 1)) % this.#replicas.length;
    this.#replicas[before] = { place: this.log.end };
    this.#electedAt = engine.now + chance.between(0, mix.electionMs);
    this.#say(
      `replica ${this.#leader} is elected at ${this.#electedAt.toFixed(1)}` +
        (dropped.length === 0 ? "" : `, and takes back ${dropped.map(({ what }) => what).join(", ")}`),
    );
  }

  #oldLeadersNow(): readonly OldLeader[] {
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
      if (chance.happens(0.5)) continue;
      taken = true;
      const refused = this.#refusalOf(publish, old.view, old.inFlight, old.inFlight);
      if (refused !== undefined) {
        this.#say(`an old leader refuses ${publish.subject}`);
        answer([refused]);
      } else {
        old.inFlight.add(publish.subject);
      }
    }
    if (engine.now < this.#electedAt) {
      if (!taken) answer([status(503, "")]);
      return;
    }
    // A client on the old leader's side of a cut reaches nobody else.
    if (taken && chance.happens(0.3)) return;
    const inFlight = new Set(this.#tail.filter(({ expectedOf }) => this.#tracksAll || expectedOf !== undefined).map(({ subject }) => subject));
    const inProcess = new Set(this.#tail.flatMap(({ expectedOf }) => expectedOf ?? []));
    const refused = this.#refusalOf(publish, { place: this.log.end }, inFlight, inProcess);
    if (refused !== undefined) {
      this.#say(`refuses ${publish.subject} on the condition ${String(publish.expected)}${publish.expectedOf === undefined ? "" : ` of ${publish.expectedOf}`}`);
      answer([refused]);
      return;
    }
    this.#propose({
      subject: publish.subject,
      expectedOf: publish.expected === undefined ? undefined : (publish.expectedOf ?? publish.subject),
      answer,
      what: publish.subject,
      apply: () => {
        const stamp = new Date(wallClockAt(engine.now)).toISOString();
        const { seq } = this.log.append(publish.subject, publish.data, stamp);
        this.#say(`${seq} is ${publish.subject}`);
        return [json({ stream: this.name, seq })];
      },
    });
  }

  /** Before 2.12 a server knew only of conditional writes that were under way. */
  get #tracksAll(): boolean {
    return !this.#world.mix.version.startsWith("2.11.");
  }

  #refusalOf(publish: Publish, view: View, inFlight: ReadonlySet<string>, inProcess: ReadonlySet<string>): SimulatedMessage | undefined {
    const { expected } = publish;
    if (expected === undefined) return undefined;
    const subject = publish.expectedOf ?? publish.subject;
    if (this.#clustered && (inFlight.has(subject) || inProcess.has(subject))) {
      return refusal(400, WRONG_LAST_SEQUENCE_IN_FLIGHT, "wrong last sequence");
    }
    const last = this.log.last(subject, view)?.seq ?? 0;
    return last === expected ? undefined : refusal(400, WRONG_LAST_SEQUENCE, `wrong last sequence: ${last}`);
  }

  purge(filter: string, answer: Answer): void {
    this.#mayChange(true);
    const { engine } = this.#world;
    if (this.config["deny_purge"] === true) {
      answer([refusal(400, 10110, "purge is not permitted")]);
      return;
    }
    if (engine.now < this.#electedAt) {
      answer([refusal(503, 10008, "JetStream system temporarily unavailable")]);
      return;
    }
    this.#propose({
      subject: `purge ${filter}`,
      expectedOf: undefined,
      answer,
      what: `the purge of ${filter}`,
      apply: () => {
        const purged = this.log.purge(filter);
        this.#say(`purges ${purged} of ${filter}`);
        return [json({ success: true, purged })];
      },
    });
  }

  #propose(proposal: Proposal): void {
    if (!this.#clustered) {
      proposal.answer(proposal.apply());
      return;
    }
    this.#tail.push(proposal);
    this.#commitSoon();
  }

  /** Entries are committed one after the other, each when a majority has it. */
  #commitSoon(): void {
    if (this.#committing) return;
    this.#committing = true;
    const { engine, chance, mix } = this.#world;
    const wait = Math.max(this.#electedAt - engine.now, this.#quorumAt - engine.now, 0) + chance.between(0, mix.delayMs);
    engine.after(wait, () => {
      this.#committing = false;
      const isReady = engine.now >= this.#electedAt && engine.now >= this.#quorumAt;
      // Several may have reached the majority together.
      for (let more = isReady; more; more = chance.happens(0.5)) {
        const next = this.#tail.shift();
        if (next === undefined) break;
        next.answer(next.apply());
      }
      if (this.#tail.length > 0) this.#commitSoon();
    });
  }

  /** Where some replica has come to that answers a read. It never goes back. */
  #view(): View {
    const { chance, mix } = this.#world;
    const end = this.log.end;
    const index = chance.below(this.#replicas.length);
    const before = this.#replicas[index] ?? { place: end };
    const isCalm = mix.staleReads === 0 && mix.snapshots === 0;
    if (index === this.#leader || isCalm) return (this.#replicas[index] = { place: end });
    const { now } = this.#world.engine;
    let view: View = { place: end };
    if (before.place < end && chance.happens(mix.snapshots)) {
      view = this.#inSnapshot(before);
    } else if (now < (this.#lagsUntil[index] ?? 0)) {
      view = before;
    } else if (chance.happens(mix.staleReads)) {
      if (chance.happens(0.3)) this.#lagsUntil[index] = now + chance.between(0, mix.lagMs);
      view = chance.happens(0.5) ? before : this.#further(before);
    }
    this.#replicas[index] = view;
    return view;
  }

  /** Some of what is missing has come. */
  #further({ place, snapshot }: View): View {
    const { chance } = this.#world;
    const reached = place + chance.below(this.log.end - place + 1);
    return snapshot !== undefined && reached < snapshot ? { place: reached, snapshot } : { place: reached };
  }

  /**
   * In the middle of a snapshot, rather where it hurts: between what was superseded last, and what superseded it. What an earlier
   * snapshot dropped is not in a later one either.
   */
  #inSnapshot(before: View): View {
    const { chance } = this.#world;
    const end = this.log.end;
    const least = before.place;
    const [first, ...others] = this.log.lastHoles(Math.max(least, before.snapshot ?? 0), 3);
    if (first !== undefined && chance.happens(0.8)) {
      const { from, until } = chance.of([first, ...others]);
      const snapshot = chance.happens(0.6) ? until : until + chance.below(end - until + 1);
      const begin = Math.max(least, from);
      // As far as it can be without what superseded it: whoever asks wants to know of what came before.
      return { place: chance.happens(0.6) ? until - 1 : begin + chance.below(until - begin), snapshot };
    }
    const snapshot = Math.max(least + 1 + chance.below(end - least), before.snapshot ?? 0);
    return { place: least + chance.below(snapshot - least), snapshot };
  }

  direct(body: Json, answer: Answer): void {
    this.#mayChange(false);
    const multi = body["multi_last"];
    let view = this.#view();
    const { chance } = this.#world;
    if (Array.isArray(multi) && !this.#tracksAll && view.snapshot === undefined && view.place > 0 && chance.happens(0.1)) {
      // A server before 2.12 misses what is written at that very moment.
      view = { place: view.place - 1, snapshot: view.place };
    }
    const upTo = this.log.sequenceAt(view.place);
    if (Array.isArray(multi)) {
      const found = this.log.lastOfEach(multi.map(String), view);
      this.#told(`multi_last ${multi.join(" ")}`, view, found);
      if (found.length > MAX_MATCHES) answer([status(413, "Too Many Results")]);
      else if (found.length === 0) answer([status(404, "No Results")]);
      else answer(this.#batch(found, Number(body["max_bytes"] ?? Infinity), found.length, (pending, last) => ({
        "Nats-Num-Pending": pending, "Nats-Last-Sequence": last, "Nats-UpTo-Sequence": upTo,
      })));
      return;
    }
    const filter = body["next_by_subj"];
    if (typeof filter === "string") {
      const found = this.log.from(Number(body["seq"] ?? 0), filter, view);
      this.#told(`next_by_subj ${filter} from ${String(body["seq"])}`, view, found);
      if (found.length === 0) answer([status(404, "Message Not Found")]);
      else answer(this.#batch(found, Number(body["max_bytes"] ?? Infinity), Number(body["batch"] ?? 1), (pending, last) => ({
        "Nats-Num-Pending": pending, "Nats-Last-Sequence": last,
      })));
      return;
    }
    const subject = body["last_by_subj"];
    if (typeof subject === "string") {
      const found = isLiteral(subject) ? this.log.last(subject, view) : undefined;
      this.#told(`last ${subject}`, view, found === undefined ? [] : [found]);
      answer([found === undefined ? status(404, "Message Not Found") : this.#message(found)]);
      return;
    }
    answer([status(408, "Bad Request")]);
  }

  #told(what: string, { place, snapshot }: View, found: readonly StoredMessage[]): void {
    this.#say(
      `${what}: ${found.length === 0 ? "nothing" : found.map(({ seq, subject }) => `${seq} ${subject}`).join(", ")}, up to ${this.log.sequenceAt(place)}` +
        (snapshot === undefined ? "" : `, in the middle of a snapshot of ${this.log.sequenceAt(snapshot)}`) +
        `, of ${this.log.sequenceAt(this.log.end)}`,
    );
  }

  #message({ subject, seq, stamp, data }: StoredMessage, more: Readonly<Record<string, number>> = {}): SimulatedMessage {
    const headers = new SimulatedHeaders();
    headers.set("Nats-Stream", this.name).set("Nats-Subject", subject).set("Nats-Sequence", String(seq)).set("Nats-Time-Stamp", stamp);
    for (const [name, value] of Object.entries(more)) headers.set(name, String(value));
    return { data, headers };
  }

  #batch(
    found: readonly StoredMessage[],
    maxBytes: number,
    batch: number,
    end: (pending: number, last: number) => Readonly<Record<string, number>>,
  ): SimulatedMessage[] {
    const messages: SimulatedMessage[] = [];
    let last = 0;
    let bytes = 0;
    let pending = found.length;
    for (const message of found.slice(0, batch)) {
      pending--;
      messages.push(this.#message(message, { "Nats-Num-Pending": pending, "Nats-Last-Sequence": last }));
      last = message.seq;
      bytes += message.subject.length + message.data.length;
      if (bytes >= maxBytes) break;
    }
    messages.push(status(204, "EOB", end(pending, last)));
    return messages;
  }

  info(): Json {
    const replicas = this.#replicas.flatMap((_, i) => (i === this.#leader ? [] : [{ name: `n${i}`, current: true, lag: 0 }]));
    return {
      config: this.config,
      state: { messages: this.log.count({ place: this.log.end }), last_seq: this.log.sequenceAt(this.log.end) },
      cluster: { name: "simulated", leader: `n${this.#leader}`, replicas },
    };
  }
}

/** The servers. What is said to them, and what they answer, goes by subjects and bytes as it does in NATS. */
export class SimulatedServers {
  readonly #world: World;
  readonly #streams = new Map<string, Stream>();

  constructor(world: World) {
    this.#world = world;
  }

  stream(name: string): Stream | undefined {
    return this.#streams.get(name);
  }

  receive(subject: string, payload: Uint8Array, headers: SimulatedHeaders | undefined, answer: Answer): void {
    if (subject.startsWith("$KV.")) {
      const stream = this.#streams.get(`KV_${subject.split(".", 2)[1] ?? ""}`);
      const expected = headers?.get("Nats-Expected-Last-Subject-Sequence") ?? "";
      const expectedOf = headers?.get("Nats-Expected-Last-Subject-Sequence-Subject") ?? "";
      if (stream === undefined) {
        answer([status(503, "")]);
        return;
      }
      stream.write({
        subject,
        data: payload,
        expected: expected === "" ? undefined : Number(expected),
        expectedOf: expectedOf === "" ? undefined : expectedOf,
      }, answer);
      return;
    }
    const [, api, verb, what, name = ""] = /^\$JS\.API\.(?:(DIRECT|STREAM)\.([A-Z]+)\.([^.]+)(?:\.(.*))?|INFO)$/.exec(subject) ?? [];
    const body = parse(payload);
    const stream = this.#streams.get(what ?? "");
    if (api === "STREAM" && verb === "CREATE" && what !== undefined) {
      if (stream !== undefined) {
        answer([refusal(400, 10058, "stream name already in use with a different configuration")]);
        return;
      }
      const created = new Stream(what, body, this.#world);
      this.#streams.set(what, created);
      answer([json(created.info())]);
      return;
    }
    if (subject === "$JS.API.INFO") {
      answer([json({})]);
      return;
    }
    if (stream === undefined) {
      answer([api === "DIRECT" ? status(503, "") : refusal(404, 10059, "stream not found")]);
      return;
    }
    switch (`${api ?? ""} ${verb ?? ""}`) {
      case "DIRECT GET":
        stream.direct(name === "" ? body : { last_by_subj: name }, answer);
        return;
      case "STREAM INFO":
        answer([json(stream.info())]);
        return;
      case "STREAM UPDATE":
        stream.config = body;
        answer([json(stream.info())]);
        return;
      case "STREAM PURGE":
        stream.purge(typeof body["filter"] === "string" ? body["filter"] : ">", answer);
        return;
      default:
        throw new Error(`the simulated servers do not know ${subject}`);
    }
  }
}

function parse(payload: Uint8Array): Json {
  if (payload.length === 0) return {};
  return JSON.parse(Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength).toString("utf8")) as Json;
}
