/** What the clients of a simulation do: every operation of a store, on few records, so that they meet. */
import { Buffer } from "node:buffer";
import type { Store } from "unibus-membership";
import { ENDPOINTS, READS, ROOMS, USERS, type RoomOperation } from "../soak/jetstream-history.js";
import type { Chance } from "./chance.js";

export type Role = "admin" | "member";

export type AllowlistOperation =
  | { f: "add" | "role"; u: number; role: Role }
  | { f: "first" | "revoke" | "reinstate" | "name" | "authorize" | "isAdmin" | "listed" | "getUser"; u: number }
  | { f: "hasAdmin" };

export type SimulatedOperation = AllowlistOperation | RoomOperation;

/** One call that a client is to make, `gapMs` after the one before it in its lane. */
export interface Step {
  readonly store: number;
  readonly lane: number;
  readonly gapMs: number;
  readonly room: number;
  readonly op: SimulatedOperation;
  /** A choice between 0 and 1 for whatever the call leaves open: a short time of its own, a signal. */
  readonly dice: number;
}

const CHECKS: ReadonlySet<string> = new Set(["authorize", "isAdmin", "hasAdmin", "listed", "getUser"]);

const CHANGES_OF_MEMBERS: ReadonlySet<string> = new Set(["create", "add", "join", "remove", "owner"]);

export const isChange = ({ f }: SimulatedOperation): boolean => !READS.has(f) && !CHECKS.has(f);

/** Of these a store remembers what it read. */
export const isCheck = ({ f }: SimulatedOperation): boolean => f === "authorize" || f === "isAdmin" || f === "isMember";

export const userKey = (u: number): string => `user-${u}`;
export const roomId = (r: number): string => `room-${r}`;
export const endpointName = (e: number): string => `e${e}`;

/** Which operations come often: each workload has a taste of its own. */
export interface Taste {
  /** The share of operations on the allowlist. */
  readonly users: number;
  readonly checks: number;
  /** How many of the records are used. */
  readonly userCount: number;
  readonly roomCount: number;
  readonly endpointCount: number;
  readonly lanes: number;
  /**
   * So many stores make the checks, the others the changes; 0: whoever comes. A store that checks much remembers much.
   */
  readonly checkers: number;
  /** How often another store asks about a change as soon as it was acknowledged. */
  readonly followUps: number;
  /** Whether clients change only what they believe can be changed. */
  readonly sensible: boolean;
  /** Whether records are there when it begins. */
  readonly prepared: boolean;
  /** Whether each store has asked about every user then. */
  readonly remembered: boolean;
  /** Milliseconds between two calls of a lane, mostly; now and then much more. */
  readonly gapMs: number;
}

export function tasteOf(chance: Chance): Taste {
  return {
    users: chance.of([0, 0, 0.5, 1, 1]),
    checks: chance.between(0.2, 0.7),
    followUps: chance.of([0, 0, 0.5, 1]),
    sensible: chance.happens(0.7),
    prepared: chance.happens(0.7),
    remembered: chance.happens(0.5),
    userCount: chance.of([1, 2, USERS, USERS]),
    roomCount: 1 + chance.below(ROOMS),
    endpointCount: 2 + chance.below(ENDPOINTS - 1),
    lanes: chance.of([1, 2, 2, 3]),
    checkers: chance.of([0, 0, 1, 1, 2]),
    gapMs: chance.of([1, 3, 10]),
  };
}

/** What is there when the rest begins: active users, of whom the stores may know, rooms with an owner and a member. */
export function preparation(chance: Chance, taste: Taste, stores: number): Step[] {
  const steps: Step[] = [];
  const step = (store: number, room: number, op: SimulatedOperation): number =>
    steps.push({ store, lane: 0, gapMs: 0, room, op, dice: 0.5 });
  if (!taste.prepared) return steps;
  const users = taste.users > 0 ? Array.from({ length: taste.userCount }, (_, u) => u) : [];
  for (const u of users) step(0, 0, { f: "add", u, role: chance.of(["admin", "admin", "admin", "member"]) });
  for (let room = 0; taste.users < 1 && room < taste.roomCount; room++) {
    step(0, room, { f: "create", e: 0 });
    for (let e = 1; e < Math.min(3, taste.endpointCount); e++) step(0, room, { f: "add", e, joined: true, epoch: 1 });
  }
  for (let store = 0; taste.remembered && store < stores; store++)
    for (const u of users) step(store, 0, { f: "authorize", u });
  return steps;
}

export function stepsOf(chance: Chance, count: number, stores: number, taste: Taste): Step[] {
  const { checkers } = taste;
  return Array.from({ length: count }, () => {
    const isCheck = chance.happens(taste.checks);
    const op = chance.happens(taste.users)
      ? userOperation(chance, taste, isCheck)
      : roomOperation(chance, taste, isCheck);
    const isSplit = checkers > 0 && checkers < stores;
    return {
      store: !isSplit
        ? chance.below(stores)
        : isCheck
          ? chance.below(checkers)
          : checkers + chance.below(stores - checkers),
      lane: chance.below(taste.lanes),
      gapMs: chance.happens(0.05) ? chance.between(0, 3000) : chance.between(0, taste.gapMs),
      room: chance.below(taste.roomCount),
      op,
      dice: chance.next(),
    };
  });
}

interface Standing {
  readonly admin: boolean;
  readonly active: boolean;
}

function changed(before: Standing, op: AllowlistOperation): Standing {
  switch (op.f) {
    case "add":
    case "role":
      return { ...before, admin: op.role === "admin" };
    case "first":
      return { admin: true, active: true };
    case "revoke":
    case "reinstate":
      return { ...before, active: op.f === "reinstate" };
    case "name":
    case "authorize":
    case "isAdmin":
    case "listed":
    case "getUser":
    case "hasAdmin":
      return before;
  }
}

/** What was changed last, which whoever reads now most likely reads, and how users seem to stand. */
export class Touched {
  u = 0;
  room = 0;
  e = 0;
  readonly #users = new Map<number, Standing>();
  readonly #lastOf = new Map<number, string>();
  /**
   * Rooms whose last change of members followed upon one that left as many of them as there were. A list in which the
   * rows of that one are missing is not found out by counting.
   */
  readonly uncounted = new Set<number>();
  readonly #removed = new Map<number, number>();
  /** By room: who was removed, where another member was changed since. The room's head does not tell of it any more. */
  readonly buried = new Map<number, number>();
  /**
   * Who was an admin until the last change of any admin: that stands in the guard, until a change of another takes its
   * place.
   */
  taken: number | undefined;

  begins(room: number, op: SimulatedOperation): void {
    if (!isChange(op)) return;
    if ("u" in op) {
      this.u = op.u;
      return;
    }
    this.room = room;
    if ("e" in op) this.e = op.e;
  }

  /** A change was acknowledged. */
  ended(room: number, op: SimulatedOperation): void {
    if (!("u" in op)) {
      this.#endedIn(room, op.f);
      this.#bury(room, op);
      return;
    }
    const before = this.#users.get(op.u) ?? { admin: false, active: true };
    const after = changed(before, op);
    this.#users.set(op.u, after);
    const [was, is] = [before.admin && before.active, after.admin && after.active];
    if (was !== is) this.taken = was ? op.u : undefined;
  }

  #endedIn(room: number, f: string): void {
    if (!CHANGES_OF_MEMBERS.has(f)) return;
    const before = this.#lastOf.get(room);
    this.#lastOf.set(room, f);
    if (f !== "create" && (before === "join" || before === "owner")) this.uncounted.add(room);
    else this.uncounted.delete(room);
  }

  #bury(room: number, op: SimulatedOperation): void {
    if (!CHANGES_OF_MEMBERS.has(op.f) || !("e" in op)) return;
    const removed = this.#removed.get(room);
    this.buried.delete(room);
    if (op.f === "remove") this.#removed.set(room, op.e);
    else if (removed === op.e || op.f === "create") this.#removed.delete(room);
    if (removed !== undefined && removed !== op.e && op.f !== "create") this.buried.set(room, removed);
  }

  isActive(u: number): boolean {
    return this.#users.get(u)?.active === true;
  }

  isAdmin(u: number): boolean {
    return this.#users.get(u)?.admin === true;
  }

  /** A change of a user that can be made, as far as it is known how the user stands. */
  sensible(u: number, dice: number): AllowlistOperation {
    const user = this.#users.get(u);
    if (user === undefined) return { f: "add", u, role: dice < 0.7 ? "admin" : "member" };
    if (!user.active) return { f: "reinstate", u };
    if (user.admin) return dice < 0.7 ? { f: "revoke", u } : { f: "role", u, role: "member" };
    return dice < 0.7 ? { f: "role", u, role: "admin" } : { f: "revoke", u };
  }
}

/** The same step, or one of the same user that can be made. */
export function sensibly(step: Step, touched: Touched): Step {
  const { op, dice } = step;
  if (op.f !== "add" && op.f !== "role" && op.f !== "revoke" && op.f !== "reinstate") return step;
  return "u" in op ? { ...step, op: touched.sensible(op.u, dice) } : step;
}

/**
 * A change of what a read of a stream may be about: rather one that leaves of a record what the reader wants to know.
 */
export function interference(
  chance: Chance,
  stream: string,
  taste: Taste,
  touched: Touched,
  lost: string | undefined,
): Step {
  const [kind, number] =
    lost === undefined
      ? []
      : Buffer.from(lost.split(".").at(-1) ?? "", "base64url")
          .toString()
          .split("-");
  const step = (room: number, op: SimulatedOperation): Step => ({ store: 0, lane: 0, gapMs: 0, room, op, dice: 0.5 });
  // It leaves nothing of the write that somebody asks about.
  if (kind === "user") return step(0, { f: "name", u: Number(number) });
  if (kind === "room") return step(Number(number), { f: "rename" });
  if (stream === "KV_users") return step(0, userInterference(chance, taste, touched));
  const op = chance.happens(0.4) ? { f: "rename" as const } : roomOperation(chance, taste, false);
  return step(chance.happens(0.8) ? touched.room : chance.below(taste.roomCount), op);
}

/** A change that takes something away of which a store has asked before. */
export function takingAway(
  chance: Chance,
  stream: string,
  taste: Taste,
  touched: Touched,
  hasAsked: (step: Step) => boolean,
): Step | undefined {
  // With these dice a user who is active is revoked, an admin or not, where clients do what is sensible.
  const step = (room: number, op: SimulatedOperation, dice: number): Step => ({
    store: 0,
    lane: 0,
    gapMs: 0,
    room,
    op,
    dice,
  });
  const from = chance.below(taste.userCount);
  if (stream === "KV_users") {
    for (let i = 0; i < taste.userCount; i++) {
      const u = (from + i) % taste.userCount;
      const found = step(0, { f: "revoke", u }, touched.isAdmin(u) ? 0.5 : 0.9);
      if (touched.isActive(u) && hasAsked(found)) return found;
    }
    return undefined;
  }
  const room = chance.happens(0.8) ? touched.room : chance.below(taste.roomCount);
  const found = step(room, { f: "remove", e: 1 + chance.below(taste.endpointCount - 1) }, 0.5);
  return hasAsked(found) ? found : undefined;
}

/** The check that a change which takes something away is about. */
export function whatWasTaken(room: number, op: SimulatedOperation): Step {
  const asked: SimulatedOperation =
    "u" in op ? { f: "authorize", u: op.u } : { f: "isMember", e: "e" in op ? op.e : 0 };
  return { store: 0, lane: 0, gapMs: 0, room, op: asked, dice: 0.5 };
}

/**
 * What others do after a change of members, so that only a row tells of it: another member comes or goes, and takes its
 * place in the room's head. Then whoever was removed is asked about. If as many are left, the members are listed. To
 * come there, whoever was added joins, owns the room, or is removed when others have asked about him.
 */
export function bury(chance: Chance, taste: Taste, touched: Touched, room: number, op: SimulatedOperation): Step[] {
  const step = (next: RoomOperation): Step => ({ store: 0, lane: 0, gapMs: 0, room, op: next, dice: 0.5 });
  const removed = touched.buried.get(room);
  const asked: RoomOperation[] = removed === undefined ? [] : [{ f: "isMember", e: removed }];
  if (touched.uncounted.has(room)) asked.push({ f: "list" }, { f: "list" });
  if (asked.length > 0) return asked.map(step);
  if (op.f === "add" && "e" in op) {
    const { e } = op;
    if (!op.joined) return [step({ f: "join", e })];
    if (chance.happens(0.5)) return [step({ f: "owner", e })];
    return [step({ f: "isMember", e }), step({ f: "isMember", e }), step({ f: "remove", e })];
  }
  if (op.f !== "join" && op.f !== "owner" && op.f !== "remove") return [];
  const other = (op.e + 1 + chance.below(taste.endpointCount - 1)) % taste.endpointCount;
  return [step({ f: "add", e: other, joined: true }), step({ f: "remove", e: other })];
}

/** Another change of the members of a room, of which the one before it left as many as there were. */
export function nextChange(chance: Chance, taste: Taste, room: number): Step {
  const e = chance.below(taste.endpointCount);
  const f = chance.of(["add", "remove", "owner"]);
  const op: RoomOperation = f === "add" ? { f, e, joined: true } : { f, e };
  return { store: 0, lane: 0, gapMs: 0, room, op, dice: 0.5 };
}

/** The rooms that an endpoint is in. */
export const listing = (room: number, e: number): Step => ({
  store: 0,
  lane: 0,
  gapMs: 0,
  room,
  op: { f: "indexed", e },
  dice: 0.5,
});

/** What somebody asks who has just heard of a change. */
export function followUp(
  chance: Chance,
  taste: Taste,
  room: number,
  op: SimulatedOperation,
  isUncounted: boolean,
): Step {
  const step = (asked: SimulatedOperation): Step => ({ store: 0, lane: 0, gapMs: 0, room, op: asked, dice: 0.5 });
  if ("u" in op) {
    const f = chance.of(
      op.f === "role"
        ? ["isAdmin", "isAdmin", "authorize", "listed"]
        : ["authorize", "authorize", "authorize", "isAdmin", "listed", "hasAdmin"],
    );
    return step(f === "hasAdmin" ? { f } : { f, u: op.u });
  }
  const e = "e" in op ? op.e : chance.below(taste.endpointCount);
  const f = chance.of(
    op.f === "rekey" || op.f === "put"
      ? ["keys"]
      : op.f === "create" || op.f === "delete"
        ? ["inRooms", "inRooms", "isMember", "indexed", "keys", "list", "member"]
        : isUncounted
          ? ["list", "list", "list", "list", "list", "isMember", "member"]
          : ["isMember", "isMember", "isMember", "indexed", "keys", "list", "member"],
  );
  return step(
    f === "list" || f === "inRooms" ? { f } : f === "keys" ? { f, e, newest: chance.happens(0.4) } : { f, e },
  );
}

function userInterference(chance: Chance, taste: Taste, touched: Touched): AllowlistOperation {
  const { taken } = touched;
  const u =
    taken !== undefined && chance.happens(0.8)
      ? taken
      : chance.happens(0.8)
        ? touched.u
        : chance.below(taste.userCount);
  // Of another admin: it replaces the guard, and puts what the guard said of this one into its record.
  if (taste.userCount > 1 && chance.happens(u === taken ? 0.8 : 0.3))
    return touched.sensible((u + 1 + chance.below(taste.userCount - 1)) % taste.userCount, chance.next());
  const kind = chance.next();
  if (kind < 0.6) return { f: "name", u };
  return kind < 0.85 ? touched.sensible(u, chance.next()) : userOperation(chance, taste, false);
}

function userOperation(chance: Chance, taste: Taste, isCheck: boolean): AllowlistOperation {
  const u = chance.below(taste.userCount);
  if (isCheck) {
    const f = chance.of([
      "authorize",
      "authorize",
      "authorize",
      "authorize",
      "authorize",
      "authorize",
      "isAdmin",
      "isAdmin",
      "hasAdmin",
      "listed",
      "getUser",
    ]);
    return f === "hasAdmin" ? { f } : { f, u };
  }
  const role = chance.of(["admin", "member"] as const);
  const f = chance.of([
    "add",
    "add",
    "add",
    "role",
    "role",
    "revoke",
    "revoke",
    "revoke",
    "reinstate",
    "reinstate",
    "name",
    "name",
    "name",
    "name",
    "first",
  ]);
  return f === "add" || f === "role" ? { f, u, role } : { f, u };
}

function roomOperation(chance: Chance, taste: Taste, isCheck: boolean): RoomOperation {
  const e = chance.below(taste.endpointCount);
  if (isCheck) {
    const f = chance.of([
      "isMember",
      "isMember",
      "isMember",
      "isMember",
      "list",
      "indexed",
      "keys",
      "keys",
      "get",
      "member",
      "inRooms",
    ]);
    if (f === "keys") return { f, e, newest: chance.happens(0.4) };
    return f === "list" || f === "get" || f === "inRooms" ? { f } : { f, e };
  }
  const f = chance.of([
    "create",
    "create",
    "delete",
    "add",
    "add",
    "add",
    "add",
    "add",
    "join",
    "join",
    "remove",
    "remove",
    "remove",
    "remove",
    "owner",
    "put",
    "rekey",
    "rekey",
    "rekey",
    "rename",
    "rename",
  ]);
  switch (f) {
    case "delete":
    case "rename":
      return { f };
    case "add":
      return { f, e, joined: chance.happens(0.6), ...(chance.happens(0.5) ? { epoch: 0 } : {}) };
    case "put":
      return { f, e, epoch: 0 };
    case "rekey":
      return { f, epoch: 0, members: "" };
    case "create":
    case "join":
    case "remove":
    case "owner":
      return { f, e };
  }
}

type Bounds = Readonly<{ timeoutMs?: number; signal?: AbortSignal; maxStalenessMs?: number }>;

/** What is known of each room by what was answered before: a guess, as a client has it. */
export class Guesses {
  readonly #epochs = new Map<string, number>();

  epoch(room: string): number {
    return this.#epochs.get(room) ?? 1;
  }

  learn(room: string, epoch: number): void {
    this.#epochs.set(room, epoch);
  }
}

/** What the history says of a call: on which record it was, what it was in full, and how to make it. */
export interface Planned {
  readonly at: string;
  readonly op: SimulatedOperation;
  readonly run: (store: Store, bounds: Bounds, id: string) => Promise<string>;
}

export const ALLOWLIST = "allowlist";

const sealed = (id: string): Uint8Array => Buffer.from(id);

async function ok(done: Promise<unknown>): Promise<string> {
  await done;
  return "ok";
}

export function planUser(op: AllowlistOperation): Planned {
  const key = "u" in op ? userKey(op.u) : "";
  const run = (make: Planned["run"]): Planned => ({ at: ALLOWLIST, op, run: make });
  switch (op.f) {
    case "add":
      return run((store, bounds) => ok(store.users.add({ key, role: op.role }, bounds)));
    case "role":
      return run((store, bounds) => ok(store.users.update(key, { role: op.role }, bounds)));
    case "first":
      return run((store, bounds) => ok(store.users.addFirstAdmin({ key }, bounds)));
    case "revoke":
      return run((store, bounds) => ok(store.users.revoke(key, bounds)));
    case "reinstate":
      return run((store, bounds) => ok(store.users.reinstate(key, bounds)));
    case "name":
      return run((store, bounds, id) => ok(store.users.update(key, { name: id }, bounds)));
    case "authorize":
      return run(async (store, bounds) => {
        // Only without the record can it be answered from memory. A denial has no reason then.
        if (bounds.maxStalenessMs === undefined) return (await store.authorize(key, bounds)).reason;
        return (await store.isAuthorized(key, bounds)) ? "active" : "denied";
      });
    case "isAdmin":
      return run(async (store, bounds) => String(await store.isAdmin(key, bounds)));
    case "hasAdmin":
      return run(async (store, bounds) => String(await store.hasAdmin(bounds)));
    case "getUser":
      return run(async (store, bounds) => `found ${(await store.users.get(key, bounds)).revision}`);
    case "listed":
      return run(async (store, bounds) => {
        const user = (await store.users.list({ limit: 1000 }, bounds)).items.find((each) => each.key === key);
        return user === undefined ? "absent" : `${user.role} ${user.status}`;
      });
  }
}

export function planRoom(room: string, given: RoomOperation, guesses: Guesses): Planned {
  const epoch = guesses.epoch(room);
  const op: RoomOperation =
    given.f === "put" || (given.f === "add" && given.epoch !== undefined) ? { ...given, epoch } : given;
  const run = (make: Planned["run"]): Planned => ({ at: room, op, run: make });
  const endpoint = "e" in op ? endpointName(op.e) : "";
  switch (op.f) {
    case "create":
      return run((store, bounds, id) =>
        ok(store.rooms.create({ id: room, owner: endpoint, encrypted: true, sealedKey: sealed(id) }, bounds)),
      );
    case "delete":
      return run((store, bounds) => ok(store.rooms.delete(room, bounds)));
    case "rename":
      return run((store, bounds, id) => ok(store.rooms.update(room, { name: id }, bounds)));
    case "get":
      return run(async (store, bounds) => {
        guesses.learn(room, (await store.rooms.get(room, bounds)).epoch);
        return "found";
      });
    case "member":
      return run(async (store, bounds) => {
        await store.members.get(room, endpoint, bounds);
        return "found";
      });
    case "list":
      return run(async (store, bounds) => {
        const members = await store.members.list(room, bounds);
        const as = Array.from(
          { length: ENDPOINTS },
          (_, e) => members.find((member) => member.endpoint === endpointName(e))?.state[0] ?? ".",
        );
        return `${members
          .filter(({ role }) => role === "owner")
          .map((member) => member.endpoint.slice(1))
          .join()} ${as.join("")}`;
      });
    case "add":
      return run((store, bounds, id) =>
        ok(
          store.members.add(
            room,
            {
              endpoint,
              state: op.joined ? "joined" : "invited",
              ...(op.epoch === undefined ? {} : { sealedKey: { epoch: op.epoch, sealed: sealed(id) } }),
            },
            bounds,
          ),
        ),
      );
    case "join":
      return run((store, bounds) => ok(store.members.join(room, endpoint, bounds)));
    case "remove":
      return run((store, bounds) => ok(store.members.remove(room, endpoint, bounds)));
    case "owner":
      return run((store, bounds) => ok(store.rooms.update(room, { owner: endpoint }, bounds)));
    case "isMember":
      return run(async (store, bounds) => String(await store.isMember(room, endpoint, bounds)));
    case "indexed":
      return run(async (store, bounds) => {
        const found = (await store.members.listForEndpoint(endpoint, bounds)).find(({ roomId }) => roomId === room);
        return found === undefined ? "out" : `${found.role} ${found.state[0] ?? ""}`;
      });
    case "inRooms":
      return run(async (store, bounds) => {
        // Page by page: changes come between.
        for (let after: string | undefined; ;) {
          const page = await store.rooms.list({ limit: 1, ...(after === undefined ? {} : { after }) }, bounds);
          if (page.items.some(({ id }) => id === room)) return "in";
          if (page.next === undefined) return "out";
          after = page.next;
        }
      });
    case "keys":
      return run(async (store, bounds) => {
        // As fresh as this call, because the list before it was.
        await store.members.list(room, bounds);
        const keys =
          op.newest === true
            ? [await store.roomKeys.get(room, endpoint, undefined, bounds)]
            : await store.roomKeys.list(room, endpoint, bounds);
        return JSON.stringify(keys.map((key) => [key.epoch, Buffer.from(key.sealed).toString()]));
      });
    case "put":
      return run((store, bounds, id) => ok(store.roomKeys.put(room, endpoint, epoch, sealed(id), bounds)));
    case "rekey":
      throw new Error("a rekey is planned when the members are known");
  }
}

/** A rekey names the members, which have to be read before. */
export async function planRekey(store: Store, room: string, bounds: Bounds, guesses: Guesses): Promise<Planned> {
  const { epoch } = await store.rooms.get(room, bounds);
  const named = (await store.members.list(room, bounds)).map(({ endpoint }) => endpoint);
  guesses.learn(room, epoch);
  const members = Array.from({ length: ENDPOINTS }, (_, e) => (named.includes(endpointName(e)) ? "x" : ".")).join("");
  return {
    at: room,
    op: { f: "rekey", epoch, members },
    run: async (own, limits, id) => {
      const { epoch: after } = await own.roomKeys.rekey(
        room,
        new Map(named.map((endpoint) => [endpoint, sealed(id)])),
        { expectedEpoch: epoch, ...limits },
      );
      guesses.learn(room, after);
      return "ok";
    },
  };
}
