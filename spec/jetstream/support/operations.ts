// Every operation that changes something, on records that a setup made: for a fault at each of its writes. What is
// right is not written down here: the same operations on SQLite say it.

import { isStoreError, type Room, type Store } from "unibus-membership";

/** Names of one run: records of many runs stand in the same buckets. */
export class Names {
  readonly #mark: string;

  constructor(run: string) {
    this.#mark = `~${run}~`;
  }

  of(name: string): string {
    return name + this.#mark;
  }

  /** Text in which the names of one run have become those of any. */
  plain(text: string): string {
    return text.replaceAll(this.#mark, "");
  }
}

export type Action = (store: Store, of: (name: string) => string) => Promise<unknown>;

export interface Operation {
  readonly name: string;
  /** The record that it changes: the room, or the user. */
  readonly on: string;
  readonly run: Action;
  /** What has to be there besides. */
  readonly setup?: Action;
}

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

const ENDPOINTS = ["own", "bob", "inv", "carol", "dave", "eve"] as const;
/** Each room with those who are in it after some operation: nobody else is asked for member by member. */
const ROOMS: Readonly<Record<string, readonly string[]>> = {
  room: ENDPOINTS,
  side: ["own", "bob"],
  new: ["own", "bob"],
  bare: ["own"],
  again: ["own", "bob", "carol"],
};
const USERS = ["root", "boss", "amy", "max", "lex", "nil"] as const;

/** A room with an epoch behind it, members of each state, one without a key and one removed; another room beside it. */
export const setupRooms: Action = async (store, of) => {
  await store.rooms.create({
    id: of("room"),
    name: "before",
    owner: of("own"),
    encrypted: true,
    sealedKey: bytes("own 1"),
  });
  await store.rooms.create({ id: of("side"), owner: of("bob") });
  const key = (text: string) => ({ epoch: 1, sealed: bytes(text) });
  await store.members.add(of("room"), {
    endpoint: of("bob"),
    state: "joined",
    publicKey: bytes("bob"),
    sealedKey: key("bob 1"),
  });
  await store.members.add(of("room"), { endpoint: of("inv"), invitedBy: of("own"), sealedKey: key("inv 1") });
  await store.members.add(of("room"), { endpoint: of("eve"), state: "joined", sealedKey: key("eve 1") });
  await store.members.remove(of("room"), of("eve"));
  await rekey(store, of, 1, ["own", "bob", "inv"]);
  await store.members.add(of("room"), { endpoint: of("carol"), state: "joined" });
};

async function rekey(
  store: Store,
  of: (name: string) => string,
  expectedEpoch: number,
  endpoints: readonly string[],
): Promise<Room> {
  const sealed = endpoints.map((endpoint) => [of(endpoint), bytes(`${endpoint} ${expectedEpoch + 1}`)] as const);
  return store.roomKeys.rekey(of("room"), new Map(sealed), { expectedEpoch });
}

export const roomOperations: readonly Operation[] = [
  {
    name: "rooms.create",
    on: "new",
    run: (store, of) => store.rooms.create({ id: of("new"), name: "n", owner: of("own") }),
  },
  {
    name: "rooms.create with a key",
    on: "new",
    run: (store, of) =>
      store.rooms.create({
        id: of("new"),
        owner: of("bob"),
        encrypted: true,
        ownerPublicKey: bytes("public"),
        sealedKey: bytes("new 1"),
      }),
  },
  {
    name: "rooms.create where one was deleted",
    on: "again",
    setup: async (store, of) => {
      await store.rooms.create({ id: of("again"), owner: of("own"), encrypted: true, sealedKey: bytes("old 1") });
      await store.members.add(of("again"), { endpoint: of("bob"), state: "joined" });
      await store.rooms.delete(of("again"));
    },
    run: (store, of) =>
      store.rooms.create({ id: of("again"), owner: of("carol"), encrypted: true, sealedKey: bytes("again 1") }),
  },
  { name: "rooms.update name", on: "room", run: (store, of) => store.rooms.update(of("room"), { name: "after" }) },
  { name: "rooms.update owner", on: "room", run: (store, of) => store.rooms.update(of("room"), { owner: of("bob") }) },
  { name: "rooms.delete", on: "room", run: (store, of) => store.rooms.delete(of("room")) },
  {
    name: "members.add",
    on: "room",
    run: (store, of) => store.members.add(of("room"), { endpoint: of("dave"), invitedBy: of("bob") }),
  },
  {
    name: "members.add with a key",
    on: "room",
    run: (store, of) =>
      store.members.add(of("room"), {
        endpoint: of("dave"),
        state: "joined",
        publicKey: bytes("dave"),
        sealedKey: { epoch: 2, sealed: bytes("dave 2") },
      }),
  },
  {
    name: "members.add of one who was removed",
    on: "room",
    run: (store, of) =>
      store.members.add(of("room"), { endpoint: of("eve"), sealedKey: { epoch: 2, sealed: bytes("eve 2") } }),
  },
  { name: "members.join", on: "room", run: (store, of) => store.members.join(of("room"), of("inv")) },
  { name: "members.remove", on: "room", run: (store, of) => store.members.remove(of("room"), of("bob")) },
  {
    name: "roomKeys.put",
    on: "room",
    run: (store, of) => store.roomKeys.put(of("room"), of("carol"), 2, bytes("carol 2")),
  },
  {
    name: "roomKeys.put of an old epoch",
    on: "room",
    run: (store, of) => store.roomKeys.put(of("room"), of("carol"), 1, bytes("carol 1")),
  },
  { name: "roomKeys.rekey", on: "room", run: (store, of) => rekey(store, of, 2, ["own", "bob", "inv", "carol"]) },
  {
    name: "roomKeys.rekey, the first",
    on: "bare",
    setup: (store, of) => store.rooms.create({ id: of("bare"), owner: of("own"), encrypted: true }),
    run: (store, of) => store.roomKeys.rekey(of("bare"), new Map([[of("own"), bytes("bare 1")]]), { expectedEpoch: 0 }),
  },
];

/** Two admins, one of them the newest change; users of each other kind. */
export const setupUsers: Action = async (store, of) => {
  await store.users.addFirstAdmin({ key: of("root") });
  await store.users.add({ key: of("amy"), name: "amy" });
  await store.users.add({ key: of("max") });
  await store.users.revoke(of("max"));
  await store.users.add({ key: of("lex"), role: "admin" });
  await store.users.revoke(of("lex"));
  await store.users.add({ key: of("boss"), role: "admin" });
};

export const firstAdmin: Operation = {
  name: "users.addFirstAdmin",
  on: "root",
  run: (store, of) => store.users.addFirstAdmin({ key: of("root"), name: "r" }),
};

const later = new Date("2100-01-01");

export const userOperations: readonly Operation[] = [
  {
    name: "users.add",
    on: "nil",
    run: (store, of) => store.users.add({ key: of("nil"), name: "n", expiresAt: later }),
  },
  { name: "users.add an admin", on: "nil", run: (store, of) => store.users.add({ key: of("nil"), role: "admin" }) },
  { name: "users.update to admin", on: "amy", run: (store, of) => store.users.update(of("amy"), { role: "admin" }) },
  { name: "users.update name", on: "amy", run: (store, of) => store.users.update(of("amy"), { name: "Amy" }) },
  {
    name: "users.update an admin's name",
    on: "root",
    run: (store, of) => store.users.update(of("root"), { name: "Root" }),
  },
  {
    name: "users.update an admin's time",
    on: "root",
    run: (store, of) => store.users.update(of("root"), { expiresAt: later }),
  },
  {
    name: "users.update to member",
    on: "root",
    run: (store, of) => store.users.update(of("root"), { role: "member" }),
  },
  {
    name: "users.update to member, the newest admin",
    on: "boss",
    run: (store, of) => store.users.update(of("boss"), { role: "member" }),
  },
  { name: "users.revoke", on: "amy", run: (store, of) => store.users.revoke(of("amy")) },
  { name: "users.revoke an admin", on: "root", run: (store, of) => store.users.revoke(of("root")) },
  { name: "users.revoke the newest admin", on: "boss", run: (store, of) => store.users.revoke(of("boss")) },
  { name: "users.reinstate", on: "max", run: (store, of) => store.users.reinstate(of("max")) },
  { name: "users.reinstate an admin", on: "lex", run: (store, of) => store.users.reinstate(of("lex")) },
];

/** How a call ended, as far as it is the same on every backend. */
export async function outcome(call: Promise<unknown>): Promise<string> {
  try {
    return `resolved ${canonical(await call)}`;
  } catch (error) {
    if (!isStoreError(error)) throw error;
    const { missing, extra } = error.details ?? {};
    return `rejected ${error.code} ${canonical({ missing, extra })}${error.outcome === undefined ? "" : ` ${error.outcome}`}`;
  }
}

/** Of each run its own, or of each backend. */
const VARYING: ReadonlySet<string> = new Set(["createdAt", "revokedAt", "since", "revision"]);

export function canonical(value: unknown): string {
  // In a list, because nothing at all is no JSON.
  return JSON.stringify([value], (name, field: unknown) => {
    if (VARYING.has(name)) return undefined;
    return field instanceof Uint8Array ? Buffer.from(field).toString() : field;
  });
}

/** All that the store shows of one run's rooms, with what it shows twice compared. */
export async function roomsIn(store: Store, names: Names): Promise<string> {
  const of = (name: string): string => names.of(name);
  const rooms = await Promise.all(
    Object.entries(ROOMS).map(async ([name, endpoints]) => {
      const room = await found(store.rooms.get(of(name)));
      const members = (await found(store.members.list(of(name)))) ?? [];
      const perMember = await Promise.all(
        endpoints.map(async (endpoint) => ({
          endpoint,
          member: await found(store.members.get(of(name), of(endpoint))),
          isMember: await store.isMember(of(name), of(endpoint)),
          keys: await found(store.roomKeys.list(of(name), of(endpoint))),
          newest: await found(store.roomKeys.get(of(name), of(endpoint))),
        })),
      );
      return { name, room, members, perMember };
    }),
  );
  const index = await Promise.all(
    ENDPOINTS.map(async (endpoint) => ({
      endpoint,
      rooms: (await store.rooms.listForEndpoint(of(endpoint))).map(({ id }) => id),
    })),
  );
  const listed = (await everything((after) => store.rooms.list(after))).map(({ id }) => id);

  for (const { name, room, members, perMember } of rooms) {
    const id = of(name);
    agree(listed.includes(id), room !== undefined, `rooms.list and rooms.get of ${name}`);
    if (room !== undefined)
      agree(
        members.filter(({ role }) => role === "owner").map(({ endpoint }) => endpoint),
        [room.owner],
        `owner of ${name}`,
      );
    for (const { endpoint, member, isMember, keys, newest } of perMember) {
      const row = members.find((each) => each.endpoint === of(endpoint));
      agree(row, member, `members.list and members.get of ${endpoint} in ${name}`);
      agree(isMember, member?.state === "joined", `isMember and members.get of ${endpoint} in ${name}`);
      agree(
        index.find((each) => each.endpoint === endpoint)?.rooms.includes(id),
        row !== undefined,
        `the index of ${endpoint} and ${name}`,
      );
      agree(keys?.at(-1), newest, `the newest key of ${endpoint} in ${name}`);
      agree(keys === undefined, row === undefined, `keys of ${endpoint}, a member of ${name}`);
    }
  }
  return names.plain(canonical({ rooms, index }));
}

export async function usersIn(store: Store, names: Names): Promise<string> {
  const of = (name: string): string => names.of(name);
  const listed = await everything((after) => store.users.list(after));
  const users = await Promise.all(
    USERS.map(async (name) => {
      const user = await found(store.users.get(of(name)));
      agree(
        listed.find(({ key }) => key === of(name)),
        user,
        `users.list and users.get of ${name}`,
      );
      const { allowed, reason } = await store.authorize(of(name));
      agree(allowed, user?.status === "active", `authorize and users.get of ${name}`);
      const isAdmin = await store.isAdmin(of(name));
      agree(isAdmin, user?.status === "active" && user.role === "admin", `isAdmin and users.get of ${name}`);
      return { name, user, reason };
    }),
  );
  return names.plain(canonical({ users, hasAdmin: await store.hasAdmin() }));
}

async function found<T>(call: Promise<T>): Promise<T | undefined> {
  try {
    return await call;
  } catch (error) {
    if (isStoreError(error) && error.code === "NOT_FOUND") return undefined;
    throw error;
  }
}

async function everything<T>(
  page: (after: { after?: string; limit: number }) => Promise<{ items: T[]; next?: string }>,
): Promise<T[]> {
  const items: T[] = [];
  let after: string | undefined;
  do {
    const { items: more, next } = await page(after === undefined ? { limit: 1000 } : { after, limit: 1000 });
    items.push(...more);
    after = next;
  } while (after !== undefined);
  return items;
}

function agree(a: unknown, b: unknown, what: string): void {
  if (canonical(a) !== canonical(b)) throw new Error(`${what} disagree: ${canonical(a)}, ${canonical(b)}`);
}
