/** One simulation: stores in processes of their own, what their clients do, what goes wrong, and what came of it. */
import { Buffer } from "node:buffer";
import type { Store } from "unibus-membership";
import { Chance } from "./chance.js";
import { SimulatedConnection } from "./connection.js";
import { Engine } from "./engine.js";
import { forgetOlder } from "./json.js";
import { SimulatedMigration, TARGET_PREFIX, asOfSource, sideOf, sideOfStore, type Side } from "./migration.js";
import { FAULTS, OF_MIGRATIONS, isOld, mixOf, without, type Fault, type Mix } from "./mix.js";
import {
  Guesses,
  Touched,
  bury,
  followUp,
  listing,
  interference,
  isChange,
  isCheck,
  nextChange,
  planRekey,
  planRoom,
  planUser,
  preparation,
  roomId,
  userKey,
  sensibly,
  stepsOf,
  takingAway,
  tasteOf,
  whatWasTaken,
  type Planned,
  type SimulatedOperation,
  type Step,
  type Taste,
} from "./operations.js";
import { ROOMS, USERS } from "../soak/jetstream-history.js";
import { SimulatedHolder } from "./holder.js";
import { OLD_USER, SimulatedOldStore } from "./old-store.js";
import { Operator } from "./operator.js";
import { violations, type Disaster, type Entry, type Violation } from "./oracle.js";
import { SimulatedProcess, type Library, type LibraryLoader } from "./process.js";
import { SimulatedServers, type World } from "./server.js";
import { Trace } from "./trace.js";
import { SimulatedWatcher, type Surroundings } from "./watcher.js";

export interface Schedule {
  readonly seed: number;
  /** How many calls are planned. */
  readonly operations: number;
  /** The calls that are left out, and the faults that do not happen: what shrinking found to be of no matter. */
  readonly omit: ReadonlySet<number>;
  readonly calm: ReadonlySet<Fault>;
  /** Other choices of the servers and of the network, for the same calls. */
  readonly turn: number;
  /** Whether somebody watches each store. */
  readonly watches: boolean;
  /** Whether somebody holds sessions of each store. */
  readonly sessions: boolean;
  /** Whether the store is moved to other buckets meanwhile. */
  readonly migrates: boolean;
}

/** Who else is there. */
export type Others = Pick<Schedule, "watches" | "sessions" | "migrates">;

export interface Outcome {
  readonly violations: readonly Violation[];
  readonly entries: readonly Entry[];
  readonly trace: readonly string[];
  readonly events: number;
}

const OP_TIMEOUT_MS = 2000;
/** The longest that anything may take: lists have ten times the time of others, and a stopped process comes to that. */
const WHOLE_MS = 600_000;
/** What timers may be late by, each of which has at least a millisecond. */
const SLACK_MS = 10;
const MANY = 10;
/**
 * Longer than anything that went wrong goes on: an old leader, a time without a quorum. On real servers that is once
 * the network is whole: an old leader steps down at the other one's next heartbeat, which comes every second.
 */
const SETTLE_MS = 5000;
/** So long sessions are looked at then. */
const SESSIONS_MS = 4000;
/** Until whoever waits for the answer of a process that died notices. */
const AFTER_DEATH_MS = 25;
/** Changes between a reader's turn and its answer: each takes the place of one of the planned calls. */
const MAX_INTERFERENCES = 8;
/** A store that hears nothing of a barrier for longer sends another one beside it. */
const OVERTAKEN_MS = 140;
/** Calls beyond those that are planned, where it is worth it. */
const SPARE = 4;
/** Stores that are open on the side that a store is moved to. */
const MOST_TARGETS = 2;
/** A migration sends some hundred messages. */
const SHARE_OF_MIGRATOR = 0.1;
const INTERFERENCES_OF_MIGRATOR = 0.05;
const PROBES_AT_ONCE = 3;
const MAX_PROBES = 40;
const LISTS: ReadonlySet<string> = new Set(["list", "listed", "indexed", "keys", "rekey", "inRooms"]);
const CALM: ReadonlySet<Fault> = new Set(FAULTS);

/** A stream that is removed or restored meanwhile leaves little to ask of a migration. */
const NOT_OF_MIGRATIONS: ReadonlySet<Fault> = new Set(["removals", "restores"]);
/** What can take settings back, or forget them, leaves a store of format 1 a way: docs/protocol.md, Q7. */
const NOT_OF_OLD_STORES: ReadonlySet<Fault> = new Set(["unaware", "resizes", "settings"]);
const ONLY_OF_MIGRATIONS: ReadonlySet<Fault> = new Set(OF_MIGRATIONS);

export function mixOfSeed(seed: number, migrates = false): Mix {
  const mix = mixOf(new Chance(seed, 1), new Chance(seed, 7));
  if (!migrates) return without(mix, ONLY_OF_MIGRATIONS);
  return without(mix.oldStores > 0 ? without(mix, NOT_OF_OLD_STORES) : mix, NOT_OF_MIGRATIONS);
}

export const scheduleOf = (seed: number, operations = 30, others: Partial<Others> = {}): Schedule => ({
  seed,
  watches: others.watches ?? false,
  sessions: others.sessions ?? false,
  migrates: others.migrates ?? false,
  operations,
  omit: new Set(),
  calm: new Set(),
  turn: 0,
});

/** Runs at one go, from a callback of its own: within a microtask no other would run. */
export function simulate(schedule: Schedule, loader: LibraryLoader, wantsTrace = false): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    setImmediate(() => {
      try {
        resolve(new Simulation(schedule, loader, wantsTrace).run());
      } catch (error) {
        reject(error instanceof Error ? error : new Error(String(error)));
      }
    });
  });
}

interface Client {
  readonly name: string;
  readonly side: Side;
  readonly process: SimulatedProcess;
  readonly library: Library;
  readonly connection: SimulatedConnection;
  store: Store | undefined;
  opening: boolean;
  /** What begins as soon as the store is open, and its process runs. */
  readonly waiting: (() => void)[];
  /** Calls under way: of a process that dies none ever ends. */
  readonly calls: Set<() => void>;
  /** The records that it asked about: it may remember them. */
  readonly asked: Set<string>;
}

/** The record that a call is about. */
const recordOf = ({ op, room }: Step): string => ("u" in op ? `user ${op.u}` : `room ${room}`);

class Simulation {
  readonly #schedule: Schedule;
  readonly #loader: LibraryLoader;
  readonly #engine = new Engine();
  readonly #trace: Trace | undefined;
  readonly #world: World;
  readonly #mix: Mix;
  readonly #servers: SimulatedServers;
  /** The store that each place among the stores has now; those before it may go on. */
  readonly #clients: Client[] = [];
  readonly #processes: SimulatedProcess[] = [];
  readonly #guesses = new Guesses();
  readonly #entries = new Map<string, Entry>();
  readonly #found: Violation[] = [];
  #clock = 0;
  /** When each event was. */
  readonly #ticks: number[] = [];
  #calls = 0;
  /** What those who watch were told, in all. */
  #told = 0;
  /** The store is elsewhere for good. */
  #isMoved = false;
  /** Since when nothing goes wrong any more. */
  #calmSince = Infinity;
  #underWay = 0;
  #interfered = 0;
  /** The stores that do so just now. */
  readonly #interfering = new Set<string>();
  /** The stores that do not hear of a barrier until something was taken away. */
  readonly #overtaken = new Set<string>();
  /** The stores that ask about a change that was acknowledged. */
  readonly #following = new Set<string>();
  /** Calls that may still be made before the end: those between a reader's turn and its answer are some of them. */
  #left: number;
  #spare = 0;
  readonly #operator: Operator;
  #disaster: Disaster | undefined;
  readonly #sleepers: Chance;
  /** The last change that takes something away, and was acknowledged. */
  #lastTaken: { readonly client: Client; readonly room: number; readonly op: SimulatedOperation } | undefined;
  readonly #touched = new Touched();
  readonly #taste: Taste;
  readonly #migration: SimulatedMigration | undefined;
  readonly #probers: Chance;
  #old: SimulatedOldStore | undefined;
  /** Checks that may still be made when a side of the migration comes to another state. */
  #probes = MAX_PROBES;

  constructor(schedule: Schedule, loader: LibraryLoader, wantsTrace: boolean) {
    forgetOlder();
    this.#schedule = schedule;
    this.#loader = loader;
    this.#left = schedule.operations;
    this.#trace = wantsTrace ? new Trace(this.#engine) : undefined;
    this.#mix = without(mixOfSeed(schedule.seed, schedule.migrates), schedule.calm);
    this.#world = {
      engine: this.#engine,
      chance: new Chance(schedule.seed, 2, schedule.turn),
      trace: this.#trace,
      mix: without(this.#mix, CALM),
      aboutToRead: (stream, reader, lost) => {
        this.#interfere(stream, reader, lost);
      },
      overtake: (stream, store, deliver) => this.#overtake(stream, store, deliver),
      stateStored: (stream, data) => this.#migration?.stored(stream, data),
    };
    this.#probers = new Chance(schedule.seed, 14, schedule.turn);
    this.#taste = tasteOf(new Chance(schedule.seed, 6));
    this.#servers = new SimulatedServers(this.#world);
    this.#sleepers = new Chance(schedule.seed, 9, schedule.turn);
    this.#operator = new Operator(this.#world, this.#servers, new Chance(schedule.seed, 8, schedule.turn));
    this.#migration = schedule.migrates ? this.#migrationOf(new Chance(schedule.seed, 15, schedule.turn)) : undefined;
  }

  #migrationOf(chance: Chance): SimulatedMigration {
    return new SimulatedMigration({
      chance,
      mix: () => this.#world.mix,
      start: (name) => {
        const process = this.#process(name);
        const connection = new SimulatedConnection(
          process,
          this.#servers,
          this.#processes.length - 1,
          this.#world,
          SHARE_OF_MIGRATOR,
        );
        return { process, connection, library: this.#loader.library };
      },
      after: (ms, run) => {
        this.#engine.after(ms, run);
      },
      tick: () => this.#tick(),
      say: (line) => this.#trace?.say(line),
      found: (violation) => this.#found.push(violation),
      changed: () => {
        this.#atState();
      },
    });
  }

  /** A side of the migration has come to another state: stores stop here, and others are asked who is allowed. */
  #atState(): void {
    const chance = this.#probers;
    const { mix } = this.#world;
    for (const { process, side } of this.#clients) {
      if (side !== "source" || process.state !== "running" || !chance.happens(mix.stopsAtStates / 2)) continue;
      const ms = chance.between(0, chance.of([20, 500, 10_000]));
      this.#engine.after(chance.between(0, 4) * mix.delayMs, () => {
        process.stop();
        this.#engine.after(ms, () => {
          process.wake();
        });
      });
    }
    for (let i = 0; i < PROBES_AT_ONCE && this.#probes > 0; i++) {
      this.#probes--;
      this.#underWay++;
      const op = probe(chance, this.#taste, this.#touched);
      const room = chance.happens(0.7) ? this.#touched.room : chance.below(this.#taste.roomCount);
      const dice = chance.next();
      this.#engine.after(chance.between(0, 20) * mix.delayMs, () => {
        const client = this.#clients[chance.below(this.#clients.length)];
        const done = (): void => {
          this.#underWay--;
        };
        if (client === undefined) done();
        else this.#step(client, { store: 0, lane: 0, gapMs: 0, room, op, dice }, done);
      });
    }
  }

  #process(name: string): SimulatedProcess {
    const process = new SimulatedProcess(
      name,
      this.#engine,
      new Chance(this.#schedule.seed, 4, this.#processes.length, this.#world.chance.below(2 ** 30)),
      this.#loader.host,
    );
    this.#processes.push(process);
    return process;
  }

  run(): Outcome {
    const { seed, operations, omit } = this.#schedule;
    const chance = new Chance(seed, 3);
    const taste = this.#taste;
    const steps = stepsOf(chance, operations, this.#mix.stores, taste).filter((_, i) => !omit.has(i));
    // The stores open while nothing goes wrong: what opening does under faults, stores that open later show.
    for (let i = 0; i < this.#mix.stores; i++) this.#clients.push(this.#start(`s${i}`));
    const targets = this.#schedule.migrates ? 1 + (seed % MOST_TARGETS) : 0;
    for (let i = 0; i < targets; i++) this.#clients.push(this.#start(`t${i}`, "target"));
    this.#wait(() => this.#clients.every(({ opening }) => !opening), "opening");
    const prepared = preparation(new Chance(seed, 5), taste, this.#mix.stores);
    this.#lane(
      0,
      prepared.filter(({ op }) => isChange(op)),
    );
    this.#wait(() => this.#underWay === 0, "the preparation");
    for (const [lane, own] of lanesOf(prepared.filter(({ op }) => !isChange(op))))
      this.#lane(Number(lane.split(".")[0]), own);
    this.#wait(() => this.#underWay === 0, "the first questions");
    if (this.#mix.oldStores > 0) this.#old = this.#oldStore();
    this.#world.mix = this.#mix;
    this.#migration?.begin();
    this.#old?.begin();
    for (const [lane, own] of lanesOf(steps)) this.#lane(Number(lane.split(".")[0]), own, true);
    this.#wait(() => this.#underWay === 0, "the calls");
    this.#end(steps);
    return this.#outcome();
  }

  #outcome(): Outcome {
    const entries = [...this.#entries.values()];
    if (this.#disaster === undefined) this.#found.push(...this.#purgedAlive());
    for (const { id, store, op, out } of entries) {
      // A name is written with the change itself, and with nothing that is only staged.
      const bucket = op.f === "name" ? "users" : op.f === "rename" ? "rooms" : "";
      const stream = `KV_${this.#schedule.migrates && sideOfStore(store) === "target" ? TARGET_PREFIX : ""}${bucket}`;
      if (out === "none" && this.#servers.stream(stream)?.log.everHad(`"name":"${id}"`) === true) {
        this.#found.push({
          kind: "a write that says none and was stored",
          why: `${JSON.stringify(op)} said that it was surely not done`,
          id,
        });
      }
    }
    const found = [
      ...this.#found,
      ...(this.#migration?.judge(entries, this.#isMoved) ?? []),
      ...violations(this.#migration?.history(entries) ?? entries, {
        listsMiss: this.#mix.snapshots > 0 || this.#mix.versions.some(isOld),
        disaster: this.#disaster,
      }),
    ];
    return { violations: found, entries, trace: this.#trace?.lines ?? [], events: this.#engine.events };
  }

  /**
   * Nothing goes wrong any more: every operation works again, and a store that opens now sees what all the others did.
   */
  #end(planned: readonly Step[]): void {
    const { engine } = this.#world;
    this.#trace?.say("from here on nothing goes wrong");
    this.#world.mix = without(this.#mix, CALM);
    this.#operator.end();
    for (const process of this.#processes) process.wake();
    this.#calmSince = engine.now;
    const migration = this.#migration;
    // Two of three schedules end here: what it costs to look at everything is worth other schedules.
    if (migration === undefined && this.#schedule.seed % 3 !== 0) return;
    if (migration !== undefined) this.#wait(() => migration.isIdle, "the runs of the migration");
    engine.pass(SETTLE_MS);
    if (migration !== undefined && !this.#finish(migration)) return;
    const last = this.#start(migration === undefined ? "last" : "tlast", migration === undefined ? "source" : "target");
    this.#clients.push(last);
    this.#wait(() => !last.opening, "opening at the end");
    // A part that is missing, or older than the rest, may well be refused.
    if (last.store === undefined || this.#disaster !== undefined) return;
    if (migration !== undefined) {
      this.#checkNames(last.store, last.process);
      this.#wait(() => this.#underWay === 0, "the names at the end");
    }
    const ops = this.#lastCalls(planned);
    const steps = ops.map(({ room, op }): Step => ({
      store: this.#clients.length - 1,
      lane: 0,
      gapMs: 0,
      room,
      op,
      dice: 1,
    }));
    const before = this.#calls;
    this.#lane(this.#clients.length - 1, steps);
    this.#wait(() => this.#underWay === 0, "the calls at the end");
    if (this.#schedule.sessions) engine.pass(SESSIONS_MS);
    for (const { id, out, op } of this.#entries.values()) {
      if (!id.startsWith("c") || Number(id.slice(1)) <= before) continue;
      const isUnknownUser = op.f === "authorize" && out === "unknown";
      if (
        !isUnknownUser &&
        (out === undefined || ["TIMEOUT", "UNAVAILABLE", "unknown", "none", "timeout", "unavailable"].includes(out))
      ) {
        this.#found.push({
          kind: "wedged",
          why: `${JSON.stringify(op)} ended as ${out ?? "nothing"} although nothing went wrong any more`,
          id,
        });
      }
    }
  }

  /** A store of format 1, of which nobody else touches the user. */
  #oldStore(): SimulatedOldStore {
    const [first] = this.#clients;
    let isThere = false;
    first?.process.enter(() => {
      void first.store?.users.add({ key: OLD_USER }).then(() => (isThere = true));
    });
    this.#wait(() => isThere, "the user of a store of format 1");
    const process = this.#process("old");
    const connection = new SimulatedConnection(process, this.#servers, this.#processes.length - 1, this.#world);
    return new SimulatedOldStore(process, connection, new Chance(this.#schedule.seed, 16), () => this.#tick());
  }

  #judgeOld({ written, proofs }: SimulatedOldStore, endedAt: number, name: string | undefined): void {
    if (Number(name ?? 0) < written)
      this.#found.push({
        kind: "a write of a store of format 1 that is lost",
        why: `${written} was acknowledged, and ${String(name)} is there`,
        id: "",
      });
    const late = proofs.find(({ invoked }) => invoked > endedAt);
    if (late !== undefined)
      this.#found.push({
        kind: "a proof of a store of format 1 by a source that has ended",
        why: `a barrier of ${late.invoked}, ended at ${endedAt}`,
        id: "",
      });
  }

  /** Names are in no history: the last one is there, of the user or room. */
  #checkNames(store: Store, process: SimulatedProcess): void {
    const ask = (
      what: string,
      named: Entry[],
      mayBeNone: boolean,
      read: () => Promise<{ name?: string | undefined }>,
    ): void => {
      const written = named.filter(({ out }) => out === "ok");
      this.#underWay++;
      const note = (name: string | undefined): void => {
        this.#underWay--;
        const last = named.find(({ id }) => id === name);
        const { returned = Infinity } = last?.out === "ok" ? last : {};
        const isLost =
          last === undefined ? !mayBeNone && written.length > 0 : written.some(({ invoked }) => invoked > returned);
        if (isLost)
          this.#found.push({
            kind: "a name that is lost",
            why: `${what} is called ${String(name)}`,
            id: written.at(-1)?.id ?? "",
          });
      };
      process.enter(() => {
        read().then(
          ({ name }) => {
            note(name);
          },
          () => {
            this.#underWay--;
          },
        );
      });
    };
    const entries = [...this.#entries.values()];
    for (let u = 0; u < USERS; u++)
      ask(
        userKey(u),
        entries.filter(({ op }) => op.f === "name" && op.u === u),
        false,
        () => store.users.get(userKey(u)),
      );
    for (let r = 0; r < ROOMS; r++) {
      const id = roomId(r);
      const named = entries.filter(({ op, at }) => op.f === "rename" && at === id);
      const isDeleted = entries.some(({ op, at }) => op.f === "delete" && at === id);
      ask(id, named, isDeleted, () => store.rooms.get(id));
    }
    const old = this.#old;
    if (old === undefined) return;
    this.#underWay++;
    process.enter(() => {
      store.users.get(OLD_USER).then(
        ({ name }) => {
          this.#underWay--;
          const endedAt = this.#migration?.endedAtOnce;
          if (endedAt !== undefined) this.#judgeOld(old, endedAt, name);
        },
        () => {
          this.#underWay--;
        },
      );
    });
  }

  /** The migration is run once more, and comes to its end. */
  #finish(migration: SimulatedMigration): boolean {
    migration.finish();
    this.#wait(() => migration.isIdle, "the last run of the migration");
    if (!migration.isOver) return false;
    this.#isMoved = true;
    // Whoever is open on the source still lets in nobody.
    for (const client of this.#clients) {
      if (client.side !== "source" || client.store === undefined || client.process.state === "dead") continue;
      for (const op of [
        { f: "authorize", u: this.#touched.u } as const,
        { f: "isMember", e: this.#touched.e } as const,
      ]) {
        this.#underWay++;
        this.#step(client, { store: 0, lane: 0, gapMs: 0, room: this.#touched.room, op, dice: 0.5 }, () => {
          this.#underWay--;
        });
      }
    }
    const late = this.#start("slast");
    this.#wait(() => this.#underWay === 0 && !late.opening, "the calls on the source");
    if (late.store !== undefined)
      this.#found.push({ kind: "a source that opens although it was moved", why: late.name, id: "" });
    return true;
  }

  /** Rows of a room that is there are never removed, whoever sweeps. */
  #purgedAlive(): Violation[] {
    const rooms = this.#servers.stream("KV_rooms")?.log;
    const members = this.#servers.stream("KV_members")?.log;
    if (rooms === undefined || members === undefined) return [];
    const alive = new Set(
      rooms.lastOfEach(["$KV.rooms.room.*"], { place: rooms.end }).flatMap(({ data }) => {
        const {
          gone,
          incarnation,
          roster = incarnation,
        } = JSON.parse(Buffer.from(data).toString("utf8")) as {
          gone: boolean;
          incarnation: string;
          roster?: string;
        };
        return gone ? [] : [roster];
      }),
    );
    return members
      .purged()
      .filter((subject) => alive.has(subject.split(".").at(-1) ?? ""))
      .map((subject) => ({ kind: "a live row that was purged", why: subject, id: "" }));
  }

  /** What is asked and changed at the end: whatever the calls before touched. */
  #lastCalls(planned: readonly Step[]): { room: number; op: SimulatedOperation }[] {
    const ops: { room: number; op: SimulatedOperation }[] = [];
    const isOfUser = ({ op }: Step): boolean => "u" in op || op.f === "hasAdmin";
    const users = new Set(planned.flatMap(({ op }) => ("u" in op ? op.u : [])));
    for (const u of users)
      for (const f of ["authorize", "listed", "name"] as const) ops.push({ room: 0, op: { f, u } });
    const rooms = planned.filter((step) => !isOfUser(step));
    for (const room of new Set(rooms.map((step) => step.room))) {
      ops.push({ room, op: { f: "list" } }, { room, op: { f: "inRooms" } });
      const endpoints = new Set(rooms.flatMap(({ op }) => ("e" in op ? op.e : [])));
      for (const e of endpoints)
        for (const f of ["isMember", "indexed", "keys"] as const) ops.push({ room, op: { f, e } });
      ops.push({ room, op: { f: "rename" } }, { room, op: { f: "rekey", epoch: 0, members: "" } });
    }
    return ops;
  }

  #wait(done: () => boolean, what: string): void {
    // More calls, one after the other, take longer.
    // So do those that rest on a stream which is gone, each for as long as it has.
    const limit = WHOLE_MS * Math.max(1, this.#schedule.operations / 30) * (this.#disaster === undefined ? 1 : 10);
    if (!this.#engine.runUntil(done, this.#engine.now + limit)) {
      this.#found.push({ kind: "a call without an end", why: `${what} did not end`, id: "" });
    }
  }

  #start(name: string, side: Side = "source"): Client {
    const process = this.#process(name);
    const { library } = this.#loader;
    const connection = new SimulatedConnection(process, this.#servers, this.#processes.length - 1, this.#world);
    const client: Client = {
      name,
      side,
      process,
      library,
      connection,
      store: undefined,
      opening: true,
      waiting: [],
      calls: new Set(),
      asked: new Set(),
    };
    const changed = (): void => {
      this.#changed(client);
    };
    // Not made where it is assigned: V8 takes such a function for a method, and keeps it, and the whole simulation with
    // it, for long.
    process.whenChanged = changed;
    process.enter(() => {
      const options = { opTimeoutMs: OP_TIMEOUT_MS, ...(side === "target" ? { prefix: TARGET_PREFIX } : {}) };
      library.openJetStream(connection, this.#mix.replicas, options).then(
        (store) => {
          client.store = store;
          client.opening = false;
          this.#changed(client);
          this.#trace?.say(`${name} is open`);
          if (this.#schedule.watches) this.#watch(name, store);
          if (this.#schedule.sessions) this.#hold(name, store, process);
        },
        (error: unknown) => {
          client.opening = false;
          this.#changed(client);
          this.#trace?.say(`${name} cannot open: ${String(error)}`);
          const isMoved = side === "source" && isMovedTo(library, error);
          if (this.#world.mix !== this.#mix && !isMoved && !this.#isPartLost)
            this.#found.push({ kind: "wedged", why: `${name} cannot open: ${String(error)}`, id: "" });
        },
      );
    });
    return client;
  }

  /** Whether no store opens because of it, until all parts are put back: docs/protocol.md, L5. */
  get #isPartLost(): boolean {
    return this.#disaster !== undefined && ["KV_users", "KV_rooms"].includes(this.#disaster.stream);
  }

  #watch(name: string, store: Store): void {
    new SimulatedWatcher(name, store, this.#around(new Chance(this.#schedule.seed, 12, this.#processes.length)));
  }

  #hold(name: string, store: Store, process: SimulatedProcess): void {
    new SimulatedHolder(name, store, {
      ...this.#around(new Chance(this.#schedule.seed, 13, this.#processes.length)),
      process,
      now: () => this.#engine.now,
      timeOf: (tick) => this.#ticks[tick - 1] ?? 0,
      say: (line) => this.#trace?.say(line),
      isCalm: () => this.#engine.now > this.#calmSince + SETTLE_MS + OP_TIMEOUT_MS,
    });
  }

  #around(chance: Chance): Surroundings {
    return {
      chance,
      taste: this.#taste,
      touched: this.#touched,
      tickAt: (time) => this.#tickAt(time),
      tick: () => this.#tick(),
      calls: () => this.#calls,
      entries: () => this.#entries.values(),
      note: (entry) => {
        const id = `w${++this.#told}`;
        // What comes out when an operator puts another log in place, and while that is so, is for other oracles.
        if (this.#disaster === undefined) this.#entries.set(id, { ...entry, id });
      },
      found: (violation) => {
        if (this.#disaster === undefined) this.#found.push(violation);
      },
    };
  }

  /** A store is open, or its process goes on, or has died: so does whoever waits for that. */
  #changed(client: Client): void {
    for (const begin of client.waiting.splice(0)) this.#engine.after(0, begin);
    if (client.process.state !== "dead") return;
    for (const end of client.calls) this.#engine.after(AFTER_DEATH_MS, end);
    client.calls.clear();
  }

  /** Calls one after the other, as one client of a store makes them. */
  #lane(index: number, steps: readonly Step[], isCounted = false): void {
    const [step, ...rest] = steps;
    if (step === undefined || (isCounted && this.#left-- <= 0)) return;
    this.#underWay++;
    const { chance } = this.#world;
    this.#engine.after(step.gapMs, () => {
      let client = this.#clients[index];
      if (client?.process.state === "dead" || chance.happens(this.#world.mix.reopens)) {
        // Whoever died is started again; another instance may open at any time, and sweep.
        client = this.#start(`${client?.name ?? ""}'`, client?.side);
        this.#clients[index] = client;
      }
      if (client === undefined) return;
      this.#step(this.#movedTo(client), step, () => {
        this.#underWay--;
        this.#lane(index, rest, isCounted);
      });
    });
  }

  /**
   * Another store changes what somebody is about to read: rather where a change is asked about that has just been
   * acknowledged.
   */
  #interfere(stream: string, reader: string, lost: string | undefined): void {
    const { chance } = this.#world;
    // Whoever moves the store reads for long.
    if (reader.startsWith("m") && !chance.happens(INTERFERENCES_OF_MIGRATOR)) return;
    // Nobody can change what is moved there.
    if (this.#migration !== undefined && sideOf(stream) !== this.#migration.current) return;
    // Whoever interferes reads too: that is left alone.
    if (lost === undefined && this.#interfering.has(reader)) return;
    if (
      lost === undefined &&
      !this.#following.has(reader) &&
      (this.#interfered >= MAX_INTERFERENCES || chance.happens(0.5))
    )
      return;
    // An acknowledgement is missed for a second: the others have done all that was planned by then.
    this.#spare = lost === undefined ? 0 : SPARE;
    const client = this.#atOnce(
      reader,
      () => interference(chance, asOfSource(stream), this.#taste, this.#touched, lost),
      ({ name }) => this.#interfering.delete(name),
    );
    this.#spare = 0;
    if (client === undefined) return;
    this.#interfering.add(client.name);
    this.#interfered++;
  }

  /** Another store takes something away, and this one is asked about that before it hears of its barrier. */
  #overtake(stream: string, store: string, deliver: () => void): boolean {
    const { chance, mix } = this.#world;
    const asker = this.#clients.find(({ name }) => name === store);
    if (asker === undefined || this.#overtaken.has(store) || this.#interfering.has(store)) return false;
    const plan = takingAway(chance, asOfSource(stream), this.#taste, this.#touched, (step) =>
      asker.asked.has(recordOf(step)),
    );
    if (plan === undefined) return false;
    let isDelivered = false;
    const once = (): void => {
      if (isDelivered) return;
      isDelivered = true;
      this.#overtaken.delete(store);
      deliver();
    };
    const client = this.#atOnce(
      store,
      () => plan,
      () => {
        if (isDelivered) return;
        this.#left--;
        this.#underWay++;
        // From an event of its own: this one is of the store that took it away.
        this.#engine.after(0, () => {
          this.#step(asker, whatWasTaken(plan.room, plan.op), () => {
            this.#underWay--;
          });
        });
        this.#engine.after(mix.delayMs, once);
      },
    );
    if (client === undefined) return false;
    this.#overtaken.add(store);
    this.#engine.after(OVERTAKEN_MS, once);
    return true;
  }

  /** Another store asks about a change that was acknowledged. */
  #followUp(changer: Client, room: number, op: SimulatedOperation): void {
    const { chance, mix } = this.#world;
    const isTaken = "u" in op && this.#touched.taken === op.u;
    const isUncounted = !("u" in op) && this.#touched.uncounted.has(room);
    if (chance.happens(mix.buried)) {
      const steps = bury(chance, this.#taste, this.#touched, room, op);
      for (const step of steps) this.#atOnce(changer.name, () => step);
      if (steps.length > 0) return;
    }
    if ("e" in op && op.f !== "put" && chance.happens(mix.listings)) {
      for (let asked = 0; asked < 2; asked++) this.#atOnce(changer.name, () => listing(room, op.e));
      return;
    }
    if (!isUncounted && (op.f === "join" || op.f === "owner") && chance.happens(0.8)) {
      this.#atOnce(changer.name, () => nextChange(chance, this.#taste, room));
      return;
    }
    if (!chance.happens(isTaken || isUncounted ? 0.8 : this.#taste.followUps)) return;
    // Of several stores rather one has a replica that is behind.
    for (let asked = 0; asked < (isUncounted ? 2 : 1); asked++) {
      const client = this.#atOnce(
        changer.name,
        () => followUp(chance, this.#taste, room, op, isUncounted),
        ({ name }) => this.#following.delete(name),
      );
      if (client !== undefined) this.#following.add(client.name);
    }
  }

  /**
   * A call of another store, in the place of one that is planned: rather of one that has asked about the record before.
   */
  #atOnce(not: string, plan: () => Step, then?: (client: Client) => void): Client | undefined {
    if (this.#left + this.#spare <= 0 || this.#world.mix !== this.#mix) return undefined;
    const { chance } = this.#world;
    const step = plan();
    const side = this.#migration?.current ?? "source";
    const others = this.#clients.filter(
      (client) =>
        client.name !== not &&
        client.process.state === "running" &&
        client.store !== undefined &&
        (client.side === side || (!isChange(step.op) && chance.happens(0.1))),
    );
    const knowing = others.filter(({ asked }) => asked.has(recordOf(step)));
    const from = knowing.length > 0 && chance.happens(0.8) ? knowing : others;
    const client = from[chance.below(from.length)];
    if (client === undefined) return undefined;
    this.#left--;
    this.#underWay++;
    // From an event of its own: whoever it is about goes first.
    this.#engine.after(0, () => {
      this.#step(client, step, () => {
        this.#underWay--;
        then?.(client);
      });
    });
    return client;
  }

  /** Clients go to where the store is, sooner or later. */
  #movedTo(client: Client): Client {
    if (this.#migration?.current !== "target" || client.side === "target" || !this.#probers.happens(0.7)) return client;
    const targets = this.#clients.filter(({ side, process }) => side === "target" && process.state !== "dead");
    return targets[this.#probers.below(targets.length)] ?? client;
  }

  #step(client: Client, step: Step, then: () => void): void {
    // A process that is stopped begins nothing until it wakes; of one that died another takes over.
    const begin = (): void => {
      const { process, store, opening } = client;
      if (process.state === "dead") {
        then();
      } else if (process.state === "stopped" || opening) {
        client.waiting.push(begin);
      } else if (store === undefined) {
        then();
      } else {
        process.enter(() => {
          this.#plan(client, store, step, then);
        });
      }
    };
    begin();
  }

  #plan(client: Client, store: Store, planned: Step, then: () => void): void {
    let step = this.#taste.sensible ? sensibly(planned, this.#touched) : planned;
    // A store that is there already would not be moved to.
    if (client.side === "target" && isChange(step.op) && this.#migration?.isTargetClosed !== true)
      step = whatWasTaken(step.room, step.op);
    const { op } = step;
    let over = false;
    const once = (): void => {
      if (over) return;
      over = true;
      client.calls.delete(once);
      then();
    };
    client.calls.add(once);
    this.#touched.begins(step.room, op);
    if (isCheck(op)) client.asked.add(recordOf(step));
    if (op.f === "rekey") {
      planRekey(store, roomId(step.room), {}, this.#guesses).then((rekey) => {
        this.#call(client, store, rekey, step, once);
      }, once);
    } else if ("u" in op || op.f === "hasAdmin") {
      this.#call(client, store, planUser(op), step, once);
    } else {
      this.#call(client, store, planRoom(roomId(step.room), op, this.#guesses), step, once);
    }
  }

  #tick(): number {
    this.#ticks.push(this.#world.engine.now);
    return ++this.#clock;
  }

  /** A place in the order of events: behind all that had happened by then. */
  #tickAt(time: number): number {
    let count = this.#ticks.length;
    while (count > 0 && (this.#ticks[count - 1] ?? 0) > time) count--;
    return count + 0.5;
  }

  #operate(): void {
    const done = this.#operator.act(this.#disaster === undefined);
    if (done === undefined) return;
    const open = this.#clients.filter(({ store }) => store !== undefined).map(({ name }) => name);
    this.#disaster = { kind: done.kind, stream: done.stream, at: this.#tick(), open: new Set(open) };
    if (done.kind === "restored") this.#sleepThrough(done.outageMs);
  }

  /**
   * Whoever made the last change that takes something away hears nothing until the others have brought the restored log
   * beyond what it has seen, and is then asked about that.
   */
  #sleepThrough(outageMs: number): void {
    const last = this.#lastTaken;
    if (last === undefined || last.client.process.state !== "running") return;
    const { client, room, op } = last;
    const chance = this.#sleepers;
    client.process.stop();
    this.#underWay++;
    this.#engine.after(outageMs + chance.between(20, 1000), () => {
      client.process.wake();
      this.#step(client, whatWasTaken(room, op), () => {
        this.#underWay--;
      });
    });
  }

  #call(client: Client, store: Store, { at, op, run }: Planned, { dice, room }: Step, then: () => void): void {
    const { chance, mix } = this.#world;
    const id = `c${++this.#calls}`;
    if (this.#world.mix === this.#mix) this.#operate();
    const maxStalenessMs = LEASABLE.has(op.f) ? stalenessOf(dice, mix.leases) : 0;
    // What may be as old as that may have been decided then.
    const invoked = maxStalenessMs === 0 ? this.#tick() : this.#tickAt(this.#world.engine.now - maxStalenessMs);
    const began = client.process.ranMs;
    const isShort = dice < mix.shortCalls;
    const timeoutMs = isShort ? 1 + chance.below(60) : LISTS.has(op.f) ? OP_TIMEOUT_MS * MANY : OP_TIMEOUT_MS;
    const controller = dice > 1 - mix.aborts ? new AbortController() : undefined;
    if (controller !== undefined) client.process.after(chance.between(0, 20), () => controller.abort());
    this.#trace?.say(
      `${client.name} ${id}: ${JSON.stringify(op)} on ${at}${maxStalenessMs > 0 ? `, ${maxStalenessMs} ms old at most` : ""}${isShort ? ` within ${timeoutMs} ms` : ""}${controller === undefined ? "" : ", with a signal that aborts"}`,
    );
    this.#entries.set(id, { id, store: client.name, at, op, invoked, returned: undefined, out: undefined });
    const end = (out: string): void => {
      this.#trace?.say(`${client.name} ${id}: ${out}`);
      this.#entries.set(id, { id, store: client.name, at, op, invoked, returned: this.#tick(), out });
      const late = client.process.ranMs - began - timeoutMs * callsOf(op);
      if (out === "ok" && isChange(op)) {
        this.#touched.ended(room, op);
        if (op.f === "revoke" || op.f === "remove") this.#lastTaken = { client, room, op };
        this.#followUp(client, room, op);
      }
      if (late > SLACK_MS)
        this.#found.push({
          kind: "a call past its time",
          why: `${JSON.stringify(op)} took ${late.toFixed(1)} ms more`,
          id,
        });
      then();
    };
    run(
      store,
      {
        ...(isShort ? { timeoutMs } : {}),
        ...(controller === undefined ? {} : { signal: controller.signal }),
        ...(maxStalenessMs === 0 ? {} : { maxStalenessMs }),
      },
      id,
    ).then(end, (error: unknown) => {
      const { library } = client;
      end(library.isStoreError(error) ? (error.outcome ?? error.code) : `not a StoreError: ${String(error)}`);
    });
  }
}

/** What somebody asks who wants to know which side allows. */
function probe(chance: Chance, { users, userCount, endpointCount }: Taste, touched: Touched): SimulatedOperation {
  if (chance.happens(users)) {
    const u = chance.happens(0.6) ? touched.u : chance.below(userCount);
    return { f: chance.of(["authorize", "authorize", "isAdmin"]), u };
  }
  return { f: "isMember", e: chance.happens(0.6) ? touched.e : chance.below(endpointCount) };
}

function isMovedTo(library: Library, error: unknown): boolean {
  return library.isStoreError(error) && error.code === "INCOMPATIBLE" && error.details?.["movedTo"] !== undefined;
}

/** Checks of which what is remembered can be the answer. */
const LEASABLE: ReadonlySet<string> = new Set(["authorize", "isAdmin", "hasAdmin", "isMember"]);
const STALENESS_MS = [3, 30, 300, 3000] as const;

/** By the dice of the step alone, so that nothing else takes another course. */
function stalenessOf(dice: number, share: number): number {
  const other = (dice * 1009) % 1;
  return other < share ? (STALENESS_MS[Math.floor(dice * 4093) % STALENESS_MS.length] ?? 0) : 0;
}

/** How many calls of the store it takes at most: one for each page of one room, and one that finds no more. */
function callsOf({ f }: SimulatedOperation): number {
  if (f === "inRooms") return ROOMS + 1;
  return f === "keys" ? 2 : 1;
}

function lanesOf(steps: readonly Step[]): Map<string, Step[]> {
  const lanes = new Map<string, Step[]>();
  for (const step of steps) {
    const name = `${step.store}.${step.lane}`;
    const lane = lanes.get(name);
    if (lane === undefined) lanes.set(name, [step]);
    else lane.push(step);
  }
  return lanes;
}
