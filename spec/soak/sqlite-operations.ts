// What the soak's callers do. Each has records of its own and does one operation after the other, so that after a kill
// its state is that of what was acknowledged, or of one operation more: anything else is lost or half there.

import { createHash } from "node:crypto";
import { isConflict, type Store } from "unibus-membership";

export interface ModelMember {
  state: "invited" | "joined";
  /** Epoch to fingerprint. */
  keys: Record<string, string>;
}

export interface ModelRoom {
  name: string;
  owner: string;
  epoch: number;
  rekeyRequired: boolean;
  members: Record<string, ModelMember>;
}

/** One caller's records. */
export interface Model {
  rooms: Record<string, ModelRoom>;
  users: Record<string, { role: "admin" | "member"; status: "active" | "revoked"; name: string }>;
}

export type Operation =
  | { kind: "user.add"; key: string; name: string; role: "admin" | "member" }
  | { kind: "user.rename"; key: string; name: string }
  | { kind: "user.revoke"; key: string }
  | { kind: "user.reinstate"; key: string }
  | { kind: "room.create"; room: string; owner: string; sealed: number; size: number }
  | { kind: "room.update"; room: string; name: string; owner: string }
  | { kind: "room.delete"; room: string }
  | {
      kind: "member.add";
      room: string;
      endpoint: string;
      state: "invited" | "joined";
      sealed: number | undefined;
      size: number;
    }
  | { kind: "member.join"; room: string; endpoint: string }
  | { kind: "member.remove"; room: string; endpoint: string }
  | { kind: "key.put"; room: string; endpoint: string; epoch: number; sealed: number; size: number }
  | { kind: "rekey"; room: string; sealed: number; size: number };

export const emptyModel = (): Model => ({ rooms: {}, users: {} });

export function bytesOf(sealed: number, endpoint: string, size: number): Uint8Array {
  const block = createHash("sha256").update(`${sealed} ${endpoint}`).digest();
  return Uint8Array.from({ length: size }, (_, i) => (block[i % block.length] ?? 0) ^ (i >>> 5));
}

const fingerprint = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex").slice(0, 16);

const MAX_USERS = 12;
const MAX_ROOMS = 3;
const MAX_MEMBERS = 5;

/** An admin whom no caller touches: there is always another. It is none of a caller's. */
const ROOT = "c999-root";

export async function ensureRoot(store: Store): Promise<void> {
  await store.users.addFirstAdmin({ key: ROOT }).catch((error: unknown) => {
    if (!isConflict(error)) throw error;
  });
}

export function hasRoot(models: ReadonlyMap<number, Model>): boolean {
  return models.get(999)?.users[ROOT]?.status === "active";
}

/** The caller's `n`th operation, always one that the rules allow. */
export function nextOperation(model: Model, caller: number, n: number, next: () => number): Operation {
  const pick = <T>(from: readonly T[]): T | undefined => from[Math.floor(next() * from.length)];
  const sealed = Math.floor(next() * 2 ** 31);
  // Now and then a big one, so that the log outgrows the image and checkpoints run.
  const size = next() < 0.08 ? 65_536 : 1 + Math.floor(next() * 300);
  const keys = Object.keys(model.users);
  const ids = Object.keys(model.rooms);
  const newUser: Operation = {
    kind: "user.add",
    key: `c${caller}-u${n}`,
    name: `n${n}`,
    role: next() < 0.3 ? "admin" : "member",
  };
  const newRoom: Operation = {
    kind: "room.create",
    room: `c${caller}-r${Math.floor(next() * MAX_ROOMS)}`,
    owner: `e${n}`,
    sealed,
    size,
  };

  if (keys.length === 0 || (keys.length < MAX_USERS && next() < 0.1)) return newUser;
  if (next() < 0.3) {
    const key = pick(keys) ?? "";
    if (model.users[key]?.status === "revoked") return { kind: "user.reinstate", key };
    return next() < 0.4 ? { kind: "user.revoke", key } : { kind: "user.rename", key, name: `n${n}` };
  }
  const id = pick(ids);
  const room = id === undefined ? undefined : model.rooms[id];
  if (id === undefined || room === undefined || (model.rooms[newRoom.room] === undefined && next() < 0.3)) {
    return model.rooms[newRoom.room] === undefined ? newRoom : newUser;
  }
  const members = Object.keys(room.members);
  const endpoint = pick(members) ?? room.owner;
  const member = room.members[endpoint];
  const dice = next();
  if (dice < 0.05) return { kind: "room.delete", room: id };
  if (dice < 0.15) {
    return { kind: "room.update", room: id, name: `n${n}`, owner: member?.state === "joined" ? endpoint : room.owner };
  }
  if (dice < 0.35) return { kind: "rekey", room: id, sealed, size: Math.min(size, 4096) };
  if (dice < 0.5 && endpoint !== room.owner) return { kind: "member.remove", room: id, endpoint };
  if (dice < 0.6 && member?.state === "invited") return { kind: "member.join", room: id, endpoint };
  if (dice < 0.75 && member !== undefined) {
    const epoch = Array.from({ length: room.epoch }, (_, i) => i + 1).find((each) => member.keys[each] === undefined);
    if (epoch !== undefined) return { kind: "key.put", room: id, endpoint, epoch, sealed, size };
  }
  if (members.length >= MAX_MEMBERS) return { kind: "room.update", room: id, name: `n${n}`, owner: room.owner };
  const withKey = next() < 0.6;
  return {
    kind: "member.add",
    room: id,
    endpoint: `e${n}`,
    state: next() < 0.5 ? "invited" : "joined",
    sealed: withKey ? sealed : undefined,
    size,
  };
}

function roomOf(model: Model, id: string): ModelRoom {
  const room = model.rooms[id];
  if (room === undefined) throw new Error(`the model has no room ${id}`);
  return room;
}

function memberOf(model: Model, id: string, endpoint: string): ModelMember {
  const member = roomOf(model, id).members[endpoint];
  if (member === undefined) throw new Error(`the model has no member ${endpoint} of ${id}`);
  return member;
}

function userOf(model: Model, key: string): Model["users"][string] {
  const user = model.users[key];
  if (user === undefined) throw new Error(`the model has no user ${key}`);
  return user;
}

export function applyTo(model: Model, operation: Operation): void {
  const held = (endpoint: string, { sealed, size }: { sealed: number; size: number }): string =>
    fingerprint(bytesOf(sealed, endpoint, size));
  switch (operation.kind) {
    case "user.add":
      model.users[operation.key] = { role: operation.role, status: "active", name: operation.name };
      break;
    case "user.rename":
      userOf(model, operation.key).name = operation.name;
      break;
    case "user.revoke":
      userOf(model, operation.key).status = "revoked";
      break;
    case "user.reinstate":
      userOf(model, operation.key).status = "active";
      break;
    case "room.create":
      model.rooms[operation.room] = {
        name: "",
        owner: operation.owner,
        epoch: 1,
        rekeyRequired: false,
        members: { [operation.owner]: { state: "joined", keys: { 1: held(operation.owner, operation) } } },
      };
      break;
    case "room.update":
      Object.assign(roomOf(model, operation.room), { name: operation.name, owner: operation.owner });
      break;
    case "room.delete":
      model.rooms = Object.fromEntries(Object.entries(model.rooms).filter(([id]) => id !== operation.room));
      break;
    case "member.add": {
      const room = roomOf(model, operation.room);
      const { endpoint, state, sealed, size } = operation;
      room.members[endpoint] = {
        state,
        keys: sealed === undefined ? {} : { [room.epoch]: held(endpoint, { sealed, size }) },
      };
      break;
    }
    case "member.join":
      memberOf(model, operation.room, operation.endpoint).state = "joined";
      break;
    case "member.remove": {
      const room = roomOf(model, operation.room);
      room.members = Object.fromEntries(
        Object.entries(room.members).filter(([endpoint]) => endpoint !== operation.endpoint),
      );
      room.rekeyRequired = true;
      break;
    }
    case "key.put":
      memberOf(model, operation.room, operation.endpoint).keys[operation.epoch] = held(operation.endpoint, operation);
      break;
    case "rekey": {
      const room = roomOf(model, operation.room);
      room.epoch++;
      room.rekeyRequired = false;
      for (const [endpoint, member] of Object.entries(room.members))
        member.keys[room.epoch] = held(endpoint, operation);
      break;
    }
  }
}

export async function perform(store: Store, model: Model, operation: Operation): Promise<void> {
  switch (operation.kind) {
    case "user.add":
      await store.users.add({ key: operation.key, name: operation.name, role: operation.role });
      break;
    case "user.rename":
      await store.users.update(operation.key, { name: operation.name });
      break;
    case "user.revoke":
      await store.users.revoke(operation.key);
      break;
    case "user.reinstate":
      await store.users.reinstate(operation.key);
      break;
    case "room.create":
      await store.rooms.create({
        id: operation.room,
        owner: operation.owner,
        encrypted: true,
        sealedKey: bytesOf(operation.sealed, operation.owner, operation.size),
      });
      break;
    case "room.update":
      await store.rooms.update(operation.room, { name: operation.name, owner: operation.owner });
      break;
    case "room.delete":
      await store.rooms.delete(operation.room);
      break;
    case "member.add": {
      const { room, endpoint, state, sealed, size } = operation;
      const key =
        sealed === undefined
          ? {}
          : { sealedKey: { epoch: roomOf(model, room).epoch, sealed: bytesOf(sealed, endpoint, size) } };
      await store.members.add(room, { endpoint, state, ...key });
      break;
    }
    case "member.join":
      await store.members.join(operation.room, operation.endpoint);
      break;
    case "member.remove":
      await store.members.remove(operation.room, operation.endpoint);
      break;
    case "key.put":
      await store.roomKeys.put(
        operation.room,
        operation.endpoint,
        operation.epoch,
        bytesOf(operation.sealed, operation.endpoint, operation.size),
      );
      break;
    case "rekey": {
      const room = roomOf(model, operation.room);
      const keys = Object.keys(room.members).map(
        (endpoint) => [endpoint, bytesOf(operation.sealed, endpoint, operation.size)] as const,
      );
      await store.roomKeys.rekey(operation.room, new Map(keys), { expectedEpoch: room.epoch });
      break;
    }
  }
}

/**
 * Everything in the store, by caller, in the model's terms. Throws where the reverse index disagrees with the members.
 */
export async function modelsIn(store: Store): Promise<Map<number, Model>> {
  const models = new Map<number, Model>();
  const of = (id: string): Model => {
    const caller = Number(/^c(\d+)-/.exec(id)?.[1]);
    let model = models.get(caller);
    if (model === undefined) models.set(caller, (model = emptyModel()));
    return model;
  };
  let after: string | undefined;
  do {
    const page = await store.users.list(after === undefined ? {} : { after });
    for (const { key, role, status, name } of page.items) of(key).users[key] = { role, status, name };
    after = page.next;
  } while (after !== undefined);
  const roomsOf = new Map<string, string[]>();
  do {
    const page = await store.rooms.list(after === undefined ? {} : { after });
    for (const room of page.items) {
      const members: ModelRoom["members"] = {};
      for (const { endpoint, state, role } of await store.members.list(room.id)) {
        if ((role === "owner") !== (endpoint === room.owner))
          throw new Error(`room ${room.id} and its members disagree on the owner`);
        const keys = await store.roomKeys.list(room.id, endpoint);
        members[endpoint] = {
          state,
          keys: Object.fromEntries(keys.map(({ epoch, sealed }) => [epoch, fingerprint(sealed)])),
        };
        roomsOf.set(endpoint, [...(roomsOf.get(endpoint) ?? []), room.id]);
      }
      const { name, owner, epoch, rekeyRequired } = room;
      of(room.id).rooms[room.id] = { name, owner, epoch, rekeyRequired, members };
    }
    after = page.next;
  } while (after !== undefined);
  for (const [endpoint, ids] of roomsOf) {
    const indexed = (await store.rooms.listForEndpoint(endpoint)).map(({ id }) => id);
    if (indexed.join() !== ids.sort().join())
      throw new Error(`the index says that ${endpoint} is in ${indexed.join()}, not in ${ids.join()}`);
  }
  return models;
}

/** Equal for equal models, whatever the order of their fields. */
export function canonical(model: Model): string {
  const sorted = (value: unknown): unknown => {
    if (typeof value !== "object" || value === null) return value;
    return Object.fromEntries(
      Object.entries(value)
        .sort(([a], [b]) => (a < b ? -1 : 1))
        .map(([name, field]) => [name, sorted(field)]),
    );
  };
  return JSON.stringify(sorted(model));
}
