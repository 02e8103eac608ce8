/**
 * The `Store` in front of every backend. Data goes one way: argument check, then operation, then record. Here stands
 * once what would otherwise stand in each backend: closing, time, and checks that fail closed.
 */
import * as args from "./arguments.js";
import type { Bounds } from "./arguments.js";
import { OwnStore, decide, denialOf, denied } from "./authorization.js";
import { BooleanChecks } from "./boolean-checks.js";
import { Call, CallRegistry } from "./call.js";
import type { Answering, Eventually } from "./call.js";
import type {
  ChangeFeed,
  ChangesDriver,
  Driver,
  InspectionDriver,
  MembersDriver,
  MovingDriver,
  ProofNote,
  RecordReader,
  RecordsDriver,
  RoomKeysDriver,
  RoomsDriver,
  SyncCheckReads,
  UsersDriver,
} from "./driver.js";
import { StoreError, isStoreError } from "./errors.js";
import { decisions, traced, type DecisionMessage } from "./diagnostics.js";
import { checkCreate } from "./rules.js";
import { isAborted } from "./signal.js";
import type {
  CallOptions,
  CheckOptions,
  Decision,
  Denial,
  Members,
  RoomKeys,
  Rooms,
  Session,
  SessionOptions,
  Store,
  User,
  Users,
  Watch,
  WatchOptions,
} from "./store.js";
import { SessionHub, disposable } from "./sessions/hub.js";
import { WatchHub } from "./watch/hub.js";

/** Lists and rekey touch many records. */
const MANY = 10;

type Kind = "read" | "write";

/** How work of many steps gets at a store's whole records. */
export interface RecordsAccess {
  readonly opTimeoutMs: number;
  readonly records: RecordsDriver;
  readonly inspection: InspectionDriver;
  readonly changes: ChangesDriver;
  readonly moving: MovingDriver;
  /** One step, as a call of the store. It ends in time, and with `CLOSED` if the store is closed. */
  step<T>(bounds: Bounds, work: (call: Call) => Promise<T>): Promise<T>;
  /**
   * A reader that a step begins. If it was not closed before, the store's close ends it. One that comes after that ends
   * at once.
   */
  begin(reading: Promise<RecordReader>, call: Call): Promise<RecordReader>;
  close(reader: RecordReader): Promise<void>;
  /** A feed that a step begins, with the same end. */
  follow(following: Promise<ChangeFeed>, call: Call): Promise<ChangeFeed>;
  closeFeed(feed: ChangeFeed): void;
}

/** `undefined` if the store is not of this copy of the package. */
export let recordsOf: (store: unknown) => RecordsAccess | undefined;

/** What stands behind a store. */
export interface DriverAccess {
  readonly driver: Driver;
  readonly opTimeoutMs: number;
  isClosed(): boolean;
}

/** `undefined` if the store is not of this copy of the package. */
export let driverOf: (store: unknown) => DriverAccess | undefined;

export class MembershipStore extends OwnStore implements Store {
  readonly backend: string;
  readonly rooms: Rooms;
  readonly members: Members;
  readonly roomKeys: RoomKeys;
  readonly users: Users;
  readonly #driver: Driver;
  readonly #opTimeoutMs: number;
  /** Of calls on many records. */
  readonly #manyMs: number;
  readonly #calls = new CallRegistry();
  /** Of work that goes on between calls. */
  readonly #readers = new Set<RecordReader>();
  readonly #feeds = new Set<ChangeFeed>();
  readonly #watches: WatchHub;
  readonly #sessions: SessionHub;
  readonly #booleans: BooleanChecks;
  #closing: Promise<void> | undefined;

  static {
    recordsOf = (store) =>
      typeof store === "object" && store !== null && #readers in store ? store.#recordsAccess() : undefined;
    driverOf = (store) =>
      typeof store === "object" && store !== null && #readers in store
        ? {
            driver: store.#driver,
            opTimeoutMs: store.#opTimeoutMs,
            isClosed: () => store.#closing !== undefined,
          }
        : undefined;
  }

  constructor(driver: Driver, opTimeoutMs: number) {
    super(opTimeoutMs);
    this.#driver = driver;
    this.#opTimeoutMs = opTimeoutMs;
    this.#manyMs = opTimeoutMs * MANY;
    this.backend = driver.backend;

    this.rooms = this.#roomsOf(driver.rooms);
    this.members = this.#membersOf(driver.members);
    this.roomKeys = this.#roomKeysOf(driver.roomKeys);
    this.users = this.#usersOf(driver.users);

    this.#watches = new WatchHub({
      backend: driver.backend,
      driver,
      step: (work) => this.#call(undefined, "read", this.#manyMs, () => [args.callOptions(undefined), work]),
    });
    this.#sessions = new SessionHub({
      grants: driver.grants,
      opTimeoutMs,
      step: (timeoutMs, work) => this.#call(undefined, "read", timeoutMs, () => [args.callOptions(undefined), work]),
    });
    this.#booleans = new BooleanChecks({
      backend: driver.backend,
      checks: driver.checks,
      isClosed: () => this.#closing !== undefined,
      decided: (bounds, ask, answering) => this.#decided(bounds, ask, answering),
    });

    // The functions over any store rely on these methods. So nobody may replace them.
    Object.freeze(this);
  }

  #roomsOf(rooms: RoomsDriver): Rooms {
    const one = this.#opTimeoutMs;
    const many = this.#manyMs;
    return Object.freeze<Rooms>({
      create: (room, options) =>
        this.#call("rooms.create", "write", one, () => {
          const bounds = args.callOptions(options);
          const input = args.newRoom(room);
          checkCreate(input);
          return [bounds, (call) => rooms.create(input, call)];
        }),
      get: (id, options) =>
        this.#call("rooms.get", "read", one, () => {
          const roomId = args.id(id, "id");
          return [args.callOptions(options), (call) => rooms.get(roomId, call)];
        }),
      update: (id, change, options) =>
        this.#call("rooms.update", "write", one, () => {
          const roomId = args.id(id, "id");
          const input = args.roomChange(change);
          const bounds = args.conditional(options);
          return [bounds, (call) => rooms.update(roomId, input, bounds.ifRevision, call)];
        }),
      delete: (id, options) =>
        this.#call("rooms.delete", "write", one, () => {
          const roomId = args.id(id, "id");
          return [args.callOptions(options), (call) => rooms.delete(roomId, call)];
        }),
      list: (page, options) =>
        this.#call("rooms.list", "read", many, () => {
          const input = args.pageRequest(page);
          return [args.callOptions(options), (call) => rooms.list(input, call)];
        }),
      listForEndpoint: (endpoint, options) =>
        this.#call("rooms.listForEndpoint", "read", many, () => {
          const member = args.id(endpoint, "endpoint");
          return [args.callOptions(options), (call) => rooms.listForEndpoint(member, call)];
        }),
    });
  }

  #membersOf(members: MembersDriver): Members {
    const one = this.#opTimeoutMs;
    const many = this.#manyMs;
    return Object.freeze<Members>({
      add: (roomId, member, options) =>
        this.#call("members.add", "write", one, () => {
          const room = args.id(roomId, "roomId");
          const input = args.newMember(member);
          return [args.callOptions(options), (call) => members.add(room, input, call)];
        }),
      get: (roomId, endpoint, options) =>
        this.#ofMember("members.get", "read", roomId, endpoint, options, (...a) => members.get(...a)),
      join: (roomId, endpoint, options) =>
        this.#ofMember("members.join", "write", roomId, endpoint, options, (...a) => members.join(...a)),
      remove: (roomId, endpoint, options) =>
        this.#ofMember("members.remove", "write", roomId, endpoint, options, (...a) => members.remove(...a)),
      list: (roomId, options) =>
        this.#call("members.list", "read", many, () => {
          const room = args.id(roomId, "roomId");
          return [args.callOptions(options), (call) => members.list(room, call)];
        }),
      listForEndpoint: (endpoint, options) =>
        this.#call("members.listForEndpoint", "read", many, () => {
          const member = args.id(endpoint, "endpoint");
          return [args.callOptions(options), (call) => members.listForEndpoint(member, call)];
        }),
    });
  }

  #roomKeysOf(roomKeys: RoomKeysDriver): RoomKeys {
    const one = this.#opTimeoutMs;
    const many = this.#manyMs;
    return Object.freeze<RoomKeys>({
      put: (roomId, endpoint, epoch, sealed, options) =>
        this.#call("roomKeys.put", "write", one, () => {
          const room = args.id(roomId, "roomId");
          const member = args.id(endpoint, "endpoint");
          const number = args.epoch(epoch, "epoch");
          const key = args.sealedKey(sealed, "sealed");
          return [args.callOptions(options), (call) => roomKeys.put(room, member, number, key, call)];
        }),
      get: (roomId, endpoint, epoch, options) =>
        this.#call("roomKeys.get", "read", one, () => {
          const room = args.id(roomId, "roomId");
          const member = args.id(endpoint, "endpoint");
          const number = epoch === undefined ? undefined : args.epoch(epoch, "epoch");
          return [args.callOptions(options), (call) => roomKeys.get(room, member, number, call)];
        }),
      list: (roomId, endpoint, options) =>
        this.#call("roomKeys.list", "read", many, () => {
          const room = args.id(roomId, "roomId");
          const member = args.id(endpoint, "endpoint");
          return [args.callOptions(options), (call) => roomKeys.list(room, member, call)];
        }),
      rekey: (roomId, sealed, options) =>
        this.#call("roomKeys.rekey", "write", many, () => {
          const room = args.id(roomId, "roomId");
          const keys = args.sealedKeys(sealed);
          const bounds = args.rekeyOptions(options);
          return [bounds, (call) => roomKeys.rekey(room, keys, bounds, call)];
        }),
    });
  }

  #usersOf(users: UsersDriver): Users {
    const one = this.#opTimeoutMs;
    const many = this.#manyMs;
    return Object.freeze<Users>({
      add: (user, options) =>
        this.#call("users.add", "write", one, () => {
          const input = args.newUser(user);
          return [args.callOptions(options), (call) => users.add(input, call)];
        }),
      addFirstAdmin: (user, options) =>
        this.#call("users.addFirstAdmin", "write", one, () => {
          const input = args.firstAdmin(user);
          return [args.callOptions(options), (call) => users.addFirstAdmin(input, call)];
        }),
      get: (key, options) => this.#ofUser("users.get", "read", key, options, (...a) => users.get(...a)),
      update: (key, change, options) =>
        this.#call("users.update", "write", one, () => {
          const folded = args.signKey(key, "key");
          const input = args.userChange(change);
          const bounds = args.conditional(options);
          return [bounds, (call) => users.update(folded, input, bounds.ifRevision, call)];
        }),
      revoke: (key, options) => this.#ofUser("users.revoke", "write", key, options, (...a) => users.revoke(...a)),
      reinstate: (key, options) =>
        this.#ofUser("users.reinstate", "write", key, options, (...a) => users.reinstate(...a)),
      list: (page, options) =>
        this.#call("users.list", "read", many, () => {
          const input = args.pageRequest(page);
          return [args.callOptions(options), (call) => users.list(input, call)];
        }),
    });
  }

  authorize(key: string, options?: CheckOptions): Promise<Decision> {
    const { checks } = this.#driver;
    const telling = this.#telling("authorize");
    let bounds: Bounds;
    let folded: string;
    try {
      if (this.#closing !== undefined) return Promise.resolve(telling.last(denied("closed")));
      bounds = args.checkOptions(options);
      folded = telling.key = args.signKey(key, "key");
    } catch (error) {
      return Promise.resolve(telling.last(denied("malformed", error)));
    }
    if (isAborted(bounds.signal)) return Promise.resolve(telling.last(denied("aborted")));
    if (!checks.synchronous) {
      const note: ProofNote = {};
      return this.#decided(
        bounds,
        async (call) => {
          const user = await checks.user(folded, call, note);
          const now = Date.now();
          return decide(user, now, checks.proof(note, performance.now(), now));
        },
        telling,
      );
    }
    const decideBy = (now: number): Decision => decide(checks.user(folded), now, checks.proof(now));
    try {
      const now = Date.now();
      const decision = decideBy(now);
      if (checks.isCurrent(now)) return Promise.resolve(telling.last(decision));
    } catch (error) {
      return Promise.resolve(telling.last(denialOf(error, false)));
    }
    return this.#decided(bounds, () => renewed(checks, decideBy), telling);
  }

  isAuthorized(key: string, options?: CheckOptions): Promise<boolean> {
    return this.#booleans.user("isAuthorized", key, options);
  }

  isAdmin(key: string, options?: CheckOptions): Promise<boolean> {
    return this.#booleans.user("isAdmin", key, options);
  }

  isMember(roomId: string, endpoint: string, options?: CheckOptions): Promise<boolean> {
    return this.#booleans.member(roomId, endpoint, options);
  }

  hasAdmin(options?: CheckOptions): Promise<boolean> {
    return this.#booleans.admin(options);
  }

  session(key: string, options?: SessionOptions): Promise<Session | (Denial & Disposable)> {
    const telling = this.#telling("session");
    const refuse = (denial: Denial): Promise<Denial & Disposable> => {
      telling.last(denial);
      return Promise.resolve(disposable(denial));
    };
    let input: args.SessionInput;
    let folded: string;
    try {
      if (this.#closing !== undefined) return refuse(denied("closed"));
      input = args.sessionOptions(options);
      folded = telling.key = args.signKey(key, "key");
    } catch (error) {
      return refuse(denied("malformed", error));
    }
    if (isAborted(input.signal)) return refuse(denied("aborted"));
    return this.#sessions
      .open(folded, input, (work) => this.#decided(input, work, { failed: denialOf, last: asIs }))
      .then((found) => {
        telling.last(found.allowed ? { allowed: true, reason: "active", user: found.user } : found);
        return found;
      });
  }

  /** Tells of the decision at the end, if anybody listens at the beginning. */
  #telling(check: "authorize" | "session"): Telling {
    const { backend } = this;
    const began = decisions.hasSubscribers ? performance.now() : undefined;
    return {
      key: undefined,
      began,
      failed: denialOf,
      last(decision, now) {
        if (began !== undefined) told(check, backend, this.key, decision, (now ?? performance.now()) - began);
        return decision;
      },
    };
  }

  watch(options?: WatchOptions): Watch {
    return this.#watches.watch(args.watchOptions(options));
  }

  close(): Promise<void> {
    this.#watches.close();
    this.#sessions.close();
    this.#closing ??= this.#close();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Calls in flight have one call's time more. What hangs longer is ended, so that closing ends. */
  async #close(): Promise<void> {
    await this.#calls.close(
      this.#opTimeoutMs,
      ({ outcome }) => new StoreError("CLOSED", "The store was closed", outcome === undefined ? {} : { outcome }),
    );
    await Promise.allSettled([...this.#readers].map((reader) => reader.close()));
    for (const feed of this.#feeds) feed.close();
    await this.#driver.close();
  }

  #recordsAccess(): RecordsAccess {
    const { records, inspection, moving, changes } = this.#driver;
    return {
      opTimeoutMs: this.#opTimeoutMs,
      records,
      inspection,
      changes,
      moving,
      begin: async (reading, call) => {
        const reader = await reading;
        if (call.remaining() > 0) this.#readers.add(reader);
        else await reader.close();
        return reader;
      },
      step: (bounds, work) => this.#call(undefined, "read", this.#manyMs, () => [bounds, work]),
      close: async (reader) => {
        this.#readers.delete(reader);
        await reader.close();
      },
      follow: async (following, call) => {
        const feed = await following;
        if (call.remaining() > 0) this.#feeds.add(feed);
        else feed.close();
        return feed;
      },
      closeFeed: (feed) => {
        this.#feeds.delete(feed);
        feed.close();
      },
    };
  }

  #decided<T, R>(bounds: Bounds, ask: (call: Call) => Promise<T>, answering: Answering<T, R>): Promise<R> {
    return new Call(bounds, this.#opTimeoutMs, "read", this.#calls, answering.began).answer(ask, answering);
  }

  #ofMember<T>(
    name: string,
    kind: Kind,
    roomId: string,
    endpoint: string,
    options: CallOptions | undefined,
    operation: (roomId: string, endpoint: string, call: Call) => Eventually<T>,
  ): Promise<T> {
    return this.#call(name, kind, this.#opTimeoutMs, () => {
      const room = args.id(roomId, "roomId");
      const member = args.id(endpoint, "endpoint");
      return [args.callOptions(options), (call) => operation(room, member, call)];
    });
  }

  #ofUser(
    name: string,
    kind: Kind,
    key: string,
    options: CallOptions | undefined,
    operation: (key: string, call: Call) => Eventually<User>,
  ): Promise<User> {
    return this.#call(name, kind, this.#opTimeoutMs, () => {
      const folded = args.signKey(key, "key");
      return [args.callOptions(options), (call) => operation(folded, call)];
    });
  }

  /** `name`: as it is told to whoever listens. A step of something longer has none. */
  #call<T>(
    name: string | undefined,
    kind: Kind,
    timeoutMs: number,
    prepare: () => [Bounds, (call: Call) => Eventually<T>],
  ): Promise<T> {
    return traced(name, this.backend, () => this.#run(kind, timeoutMs, prepare));
  }

  #run<T>(kind: Kind, timeoutMs: number, prepare: () => [Bounds, (call: Call) => Eventually<T>]): Promise<T> {
    if (this.#closing !== undefined) return Promise.reject(new StoreError("CLOSED", "The store is closed"));
    let prepared: ReturnType<typeof prepare>;
    try {
      prepared = prepare();
    } catch (error) {
      return new Promise(() => {
        throw error;
      });
    }
    const [bounds, operation] = prepared;
    return new Call(bounds, timeoutMs, kind, this.#calls).run(operation, toStoreError);
  }
}

const asIs = <T>(answer: T): T => answer;

interface Telling extends Answering<Decision, Decision> {
  /** Not set before it was checked. */
  key: string | undefined;
  last(decision: Decision, now?: number): Decision;
}

function told(
  check: "authorize" | "session",
  backend: string,
  key: string | undefined,
  decision: Decision,
  durationMs: number,
): void {
  const { allowed, reason, proof } = decision;
  const message = { check, backend, key, allowed, reason, proof, durationMs } satisfies DecisionMessage;
  const error: unknown = decision.allowed ? undefined : decision.error;
  decisions.publish(error === undefined ? message : ({ ...message, error } satisfies DecisionMessage));
}

/** The answer from memory, after the backend made sure that the memory is current. */
async function renewed<T>(checks: SyncCheckReads, answer: (now: number) => T): Promise<T> {
  await checks.renew();
  const now = Date.now();
  const answered = answer(now);
  if (!checks.isCurrent(now))
    throw new StoreError("UNAVAILABLE", "What the store has in memory may not be the newest state");
  return answered;
}

/** Every error becomes a `StoreError`, and that of a write says its outcome. */
function toStoreError(error: unknown, call: Call): StoreError {
  if (!isStoreError(error)) {
    return new StoreError("UNAVAILABLE", "The backend failed", {
      cause: error,
      ...(call.outcome === undefined ? {} : { outcome: call.outcome }),
    });
  }
  if ((error.code === "INCOMPATIBLE" || error.code === "CORRUPT") && call.outcome === "unknown") {
    // The commit was sent before this was found out. With these codes it would seem that nothing was written.
    return new StoreError("UNAVAILABLE", `The outcome is unknown: ${error.message}`, {
      outcome: "unknown",
      cause: error,
      ...(error.details === undefined ? {} : { details: error.details }),
    });
  }
  if (error.code !== "TIMEOUT" && error.code !== "UNAVAILABLE") return error;
  if (call.outcome === undefined || error.outcome !== undefined) return error;
  return new StoreError(error.code, error.message, {
    outcome: call.outcome,
    ...(error.details === undefined ? {} : { details: error.details }),
    ...(error.cause === undefined ? {} : { cause: error.cause }),
  });
}
