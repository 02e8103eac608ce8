/**
 * A driver in front of another one, whose calls meet the faults of a plan. The store before it is the one that stands
 * before every backend: time, arguments, closing, sessions and watches are the real ones.
 */
import { clearTimeout, setTimeout } from "node:timers";
import type { Call, Eventually } from "../call.js";
import type {
  AsyncCheckReads,
  ChangeFeed,
  ChangesDriver,
  CheckReads,
  Driver,
  GrantFeed,
  GrantsDriver,
  MembersDriver,
  ProofNote,
  RoomKeysDriver,
  RoomsDriver,
  SyncCheckReads,
  UserGrant,
  UsersDriver,
  WantedGrants,
} from "../driver.js";
import { StoreError } from "../errors.js";
import { moment, msSince } from "../moment.js";
import type { UserFacts } from "../rules.js";
import type { User } from "../store.js";
import type { Fault, FaultyCall } from "./plan.js";

/** What stands behind the faults. */
export interface Inside {
  readonly driver: Driver;
  isClosed(): boolean;
  close(): Promise<void>;
}

type Denial = Extract<Fault, { fault: "deny" }>;

/** Each call of a store goes through here, and none goes past it. */
export class Gate {
  readonly #inside: Inside;
  readonly #next: (call: FaultyCall) => Fault | undefined;

  constructor(inside: Inside, next: (call: FaultyCall) => Fault | undefined) {
    this.#inside = inside;
    this.#next = next;
  }

  pass<T>(name: FaultyCall, call: Call, work: () => Eventually<T>): Eventually<T> {
    return this.check(name, call, work, work);
  }

  /** `deny` answers for a call that is denied. */
  check<T>(
    name: FaultyCall,
    call: Call,
    work: () => Eventually<T>,
    deny: (by: Denial) => Eventually<T>,
  ): Eventually<T> {
    if (this.#inside.isClosed()) return Promise.reject(new StoreError("CLOSED", "The store inside is closed"));
    const fault = this.#next(name);
    if (fault === undefined) return work();
    return fault.fault === "deny" ? deny(fault) : spoiled(fault, call, work);
  }

  /** The same of what answers a promise. */
  async ask<T>(
    name: FaultyCall,
    call: Call,
    work: () => Promise<T>,
    deny: (by: Denial) => Promise<T> = work,
  ): Promise<T> {
    return await settled(this.check(name, call, work, deny));
  }
}

async function spoiled<T>(fault: Exclude<Fault, Denial>, call: Call, work: () => Eventually<T>): Promise<T> {
  if (fault.fault === "late") {
    const value = await settled(work());
    await pause(fault.ms);
    return value;
  }
  const isWrite = call.outcome !== undefined;
  if (isWrite && fault.done === true) {
    await settled(work()).catch(() => undefined);
    // Whether it was refused is not told either. A backend that refuses may not have said that it sends anything.
    call.outcome = "unknown";
  }
  if (fault.fault === "fail") {
    const code = fault.code ?? "UNAVAILABLE";
    throw new StoreError(code, `A fault of the plan: ${code}`);
  }
  if (isWrite) call.outcome = "unknown";
  // What asks again and again goes on when a call of it has ended: so no call is left that never does.
  for (;;) {
    await pause(Math.max(1, call.remaining()));
    call.throwIfEnded();
  }
}

function settled<T>(running: Eventually<T>): Promise<T> {
  if (!("tell" in running)) return running;
  return new Promise((done, failed) => {
    running.tell({ done, failed });
  });
}

/** The call's own timer keeps the process alive for as long as somebody waits. */
async function pause(ms: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  await new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms).unref();
  });
  clearTimeout(timer);
}

export function faultyDriver(inside: Inside, next: (call: FaultyCall) => Fault | undefined): Driver {
  const gate = new Gate(inside, next);
  const { driver } = inside;
  return {
    backend: driver.backend,
    rooms: roomsOf(driver.rooms, gate),
    members: membersOf(driver.members, gate),
    roomKeys: roomKeysOf(driver.roomKeys, gate),
    users: usersOf(driver.users, gate),
    checks: checksOf(driver.checks, gate),
    changes: changesOf(driver.changes, gate),
    grants: grantsOf(driver.grants, gate),
    // Nobody gets at these: what moves and looks at whole records takes no store with faults.
    records: driver.records,
    inspection: driver.inspection,
    moving: driver.moving,
    close: () => inside.close(),
  };
}

function roomsOf(rooms: RoomsDriver, gate: Gate): RoomsDriver {
  return {
    create: (room, call) => gate.pass("rooms.create", call, () => rooms.create(room, call)),
    get: (id, call) => gate.ask("rooms.get", call, () => rooms.get(id, call)),
    update: (id, change, ifRevision, call) =>
      gate.pass("rooms.update", call, () => rooms.update(id, change, ifRevision, call)),
    delete: (id, call) => gate.pass("rooms.delete", call, () => rooms.delete(id, call)),
    list: (page, call) => gate.ask("rooms.list", call, () => rooms.list(page, call)),
    listForEndpoint: (endpoint, call) =>
      gate.ask("rooms.listForEndpoint", call, () => rooms.listForEndpoint(endpoint, call)),
  };
}

function membersOf(members: MembersDriver, gate: Gate): MembersDriver {
  return {
    add: (roomId, member, call) => gate.pass("members.add", call, () => members.add(roomId, member, call)),
    get: (roomId, endpoint, call) => gate.ask("members.get", call, () => members.get(roomId, endpoint, call)),
    join: (roomId, endpoint, call) => gate.pass("members.join", call, () => members.join(roomId, endpoint, call)),
    remove: (roomId, endpoint, call) => gate.pass("members.remove", call, () => members.remove(roomId, endpoint, call)),
    list: (roomId, call) => gate.ask("members.list", call, () => members.list(roomId, call)),
    listForEndpoint: (endpoint, call) =>
      gate.ask("members.listForEndpoint", call, () => members.listForEndpoint(endpoint, call)),
  };
}

function roomKeysOf(roomKeys: RoomKeysDriver, gate: Gate): RoomKeysDriver {
  return {
    put: (roomId, endpoint, epoch, sealed, call) =>
      gate.pass("roomKeys.put", call, () => roomKeys.put(roomId, endpoint, epoch, sealed, call)),
    get: (roomId, endpoint, epoch, call) =>
      gate.ask("roomKeys.get", call, () => roomKeys.get(roomId, endpoint, epoch, call)),
    list: (roomId, endpoint, call) => gate.ask("roomKeys.list", call, () => roomKeys.list(roomId, endpoint, call)),
    rekey: (roomId, sealed, options, call) =>
      gate.pass("roomKeys.rekey", call, () => roomKeys.rekey(roomId, sealed, options, call)),
  };
}

function usersOf(users: UsersDriver, gate: Gate): UsersDriver {
  return {
    add: (user, call) => gate.pass("users.add", call, () => users.add(user, call)),
    addFirstAdmin: (user, call) => gate.pass("users.addFirstAdmin", call, () => users.addFirstAdmin(user, call)),
    get: (key, call) => gate.ask("users.get", call, () => users.get(key, call)),
    update: (key, change, ifRevision, call) =>
      gate.pass("users.update", call, () => users.update(key, change, ifRevision, call)),
    revoke: (key, call) => gate.pass("users.revoke", call, () => users.revoke(key, call)),
    reinstate: (key, call) => gate.pass("users.reinstate", call, () => users.reinstate(key, call)),
    list: (page, call) => gate.ask("users.list", call, () => users.list(page, call)),
  };
}

/** None is answered from memory: what was proved before would pass by the fault. */
function checksOf(reads: CheckReads, gate: Gate): AsyncCheckReads {
  const no = (): Promise<boolean> => Promise.resolve(false);
  return {
    synchronous: false,
    user: (key, call, note) => {
      const ask = (): Promise<User | undefined> =>
        reads.synchronous ? current(reads, () => reads.user(key), note) : reads.user(key, call, note);
      return gate.ask("authorize", call, ask, async (by) => userDenied(await ask(), by));
    },
    facts: (key, call, note) => {
      const ask = (): Promise<UserFacts | undefined> =>
        reads.synchronous ? current(reads, () => reads.facts(key), note) : reads.facts(key, call, note);
      return gate.ask("authorize", call, ask, async (by) => factsDenied(await ask(), by));
    },
    joined: (roomId, endpoint, call, note) => {
      const ask = (): Promise<boolean> =>
        reads.synchronous
          ? current(reads, () => reads.joined(roomId, endpoint), note)
          : reads.joined(roomId, endpoint, call, note);
      return gate.ask("isMember", call, ask, no);
    },
    admin: (now, call, note) => {
      const ask = (): Promise<boolean> =>
        reads.synchronous ? current(reads, () => reads.admin(now()), note) : reads.admin(now, call, note);
      return gate.ask("hasAdmin", call, ask, no);
    },
    maxStalenessMs: 0,
    recentFacts: () => undefined,
    recentAdmin: () => undefined,
    recentlyJoined: () => undefined,
    proof: (note, monotonic, wall) => {
      if (!reads.synchronous) return reads.proof(note, monotonic, wall);
      const { since } = note;
      // The answer may have been held up since.
      return since && { ...reads.proof(since.wall), staleMs: msSince(since, monotonic, wall) };
    },
  };
}

async function current<T>(reads: SyncCheckReads, read: () => T, note: ProofNote | undefined): Promise<T> {
  if (!reads.isCurrent(Date.now())) await reads.renew();
  const since = moment();
  const found = read();
  if (!reads.isCurrent(Date.now()))
    throw new StoreError("UNAVAILABLE", "What the store has in memory may not be the newest state");
  if (note !== undefined) note.since = since;
  return found;
}

/** Nobody is revoked, or out of time, who is no user. */
function userDenied(user: User | undefined, { reason }: Denial): User | undefined {
  if (user === undefined || reason === "revoked")
    return user && { ...user, status: "revoked", revokedAt: user.revokedAt ?? new Date() };
  return reason === "expired" ? { ...user, expiresAt: new Date(0) } : undefined;
}

function factsDenied(user: UserFacts | undefined, { reason }: Denial): UserFacts | undefined {
  if (user === undefined || reason === "revoked") return user && { ...user, status: "revoked" };
  return reason === "expired" ? { ...user, expiresAt: 0 } : undefined;
}

function changesOf(changes: ChangesDriver, gate: Gate): ChangesDriver {
  const faultyFeed = (feed: ChangeFeed): ChangeFeed => ({
    take: (call) => gate.ask("watch", call, () => feed.take(call)),
    close: () => {
      feed.close();
    },
  });
  return {
    follow: (call, wanted) => gate.ask("watch", call, async () => faultyFeed(await changes.follow(call, wanted))),
    room: (roomId, call) => gate.ask("watch", call, () => changes.room(roomId, call)),
  };
}

function grantsOf(grants: GrantsDriver, gate: Gate): GrantsDriver {
  return {
    follow: (wanted, call) =>
      gate.ask("session", call, async () => faultyGrants(await grants.follow(wanted, call), wanted, gate)),
  };
}

function faultyGrants(feed: GrantFeed, wanted: WantedGrants, gate: Gate): GrantFeed {
  const denied = async (key: string, call: Call, by: Denial): Promise<UserGrant | undefined> => {
    const found = await feed.user(key, call);
    const user = userDenied(found?.user, by);
    return found && user && { ...found, user };
  };
  return {
    user: (key, call) =>
      gate.ask(
        "session",
        call,
        () => feed.user(key, call),
        (by) => denied(key, call, by),
      ),
    member: (roomId, endpoint, call) => gate.ask("session", call, () => feed.member(roomId, endpoint, call)),
    take: (call) =>
      gate.ask(
        "session",
        call,
        () => feed.take(call),
        async (by) => {
          const { isOver, members } = await feed.take(call);
          const users = new Map<string, UserGrant | undefined>();
          for (const key of [...wanted.users.keys()]) users.set(key, await denied(key, call, by));
          return { isOver, members, users };
        },
      ),
    close: () => {
      feed.close();
    },
  };
}
