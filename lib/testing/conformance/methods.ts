/** Every method of the contract, with arguments that are good and arguments that are not. */
import { Buffer } from "node:buffer";
import { bytes, encryptedRoom, sealedFor, unique } from "./case.js";
import type { Members, RoomKeys, Rooms, Store, Users } from "../../store.js";

/** What the good arguments speak of. */
export interface World {
  /** An encrypted room at epoch 1 with its owner and an invited guest. */
  readonly room: string;
  readonly owner: string;
  readonly guest: string;
  /** A member without keys. */
  readonly keyless: string;
  /** Two admins, so that either can be revoked, and a member. */
  readonly admin: string;
  readonly member: string;
  /** Ids that nobody has. */
  readonly newRoom: string;
  readonly newEndpoint: string;
  readonly newKey: string;
}

export async function world(store: Store): Promise<World> {
  const [guest, keyless] = [unique("guest"), unique("keyless")];
  const { id, owner } = await encryptedRoom(store, guest);
  await store.members.add(id, { endpoint: keyless });
  const [admin, member] = [unique("admin"), unique("member")];
  await store.users.add({ key: admin, role: "admin", name: "n" });
  await store.users.add({ key: unique("admin"), role: "admin" });
  await store.users.add({ key: member, name: "n" });
  return {
    room: id,
    owner,
    guest,
    keyless,
    admin,
    member,
    newRoom: unique("room"),
    newEndpoint: unique("new"),
    newKey: unique("key"),
  };
}

type Bad = readonly unknown[];

/** A proxy whose every trap throws: nothing can be found out about it, not even whether it is an array. */
function throwing(target: object): object {
  const trap = (): never => {
    throw new Error("a trap of the caller's");
  };
  return new Proxy(target, {
    get: trap,
    has: trap,
    ownKeys: trap,
    getOwnPropertyDescriptor: trap,
    getPrototypeOf: trap,
  });
}

function revoked(target: object): object {
  const { proxy, revoke } = Proxy.revocable(target, {});
  revoke();
  return proxy;
}

/** Something that says of itself what is not so. */
function lying<T extends object>(value: T, said: Readonly<Record<string, unknown>>): T {
  for (const [name, answer] of Object.entries(said)) Object.defineProperty(value, name, { value: answer });
  return value;
}

/** Stands for what it is made of, and for nothing that can be trusted to stay what it looks like. */
const standIns = (target: object): Bad => [new Proxy(target, {}), throwing(target), revoked(target)];

/** Not read as what they look like: each is one of the many ways to be wrong. */
const NOT_TEXT: Bad = [
  null,
  7,
  7n,
  true,
  Symbol("id"),
  {},
  [],
  ["a"],
  Object("boxed"),
  () => "a",
  new Date(),
  Buffer.from("a"),
];
const NOT_CLEAN: Bad = [
  "\ud800",
  "\udc00",
  "a\udc00b",
  "\ud83d",
  "\0",
  "a\0b",
  "a\n",
  "\r",
  "\t",
  "\u001f",
  "\u007f",
  "\u0080",
  "a\u0085",
  "\u009f",
];
const NO_ID: Bad = [
  ...NOT_TEXT,
  ...NOT_CLEAN,
  "",
  "a".repeat(257),
  "\u00e9".repeat(129),
  "\u{1f984}".repeat(65),
  "a".repeat(100_000),
];
const NO_NAME: Bad = [...NOT_TEXT, ...NOT_CLEAN, "a".repeat(257), "\u00e9".repeat(129)];
const NO_KEY: Bad = [
  ...NOT_TEXT,
  "",
  " ",
  "\t\n",
  "a b",
  "a\tb",
  "a\nb",
  "a\0",
  "\0",
  "a\u007f",
  "\u00e9",
  "\u212a",
  "\u043a\u043b\u044e\u0447",
  "\uff41",
  "a\u200b",
  "a\u0301",
  "\u{1f984}",
  "\ud800",
  "k".repeat(257),
  ` ${"k".repeat(257)} `,
  "k".repeat(100_000),
];
const NO_EPOCH: Bad = [
  null,
  -1,
  0,
  0.5,
  1.5,
  NaN,
  Infinity,
  -Infinity,
  2 ** 31,
  2 ** 53,
  "1",
  1n,
  true,
  {},
  [1],
  new Date(1),
];
const NO_BYTES: Bad = [
  null,
  "sealed",
  7,
  {},
  [1, 2],
  { length: 1, 0: 1 },
  new ArrayBuffer(8),
  new Uint16Array(1),
  new Uint8ClampedArray(1),
  new DataView(new ArrayBuffer(1)),
  new Uint8Array(0),
  Buffer.alloc(0),
  ...standIns(new Uint8Array(8)),
  Object.create(Uint8Array.prototype),
  Object.create(new Uint8Array(8)),
  lying(new Uint8Array(0), { length: 8, byteLength: 8 }),
  lying(new Uint8Array(100_000), { length: 8, byteLength: 8 }),
  Object.setPrototypeOf(new Uint16Array(8), Uint8Array.prototype),
];
const NO_SEALED: Bad = [...NO_BYTES, new Uint8Array(64 * 1024 + 1)];
const NO_PUBLIC_KEY: Bad = [...NO_BYTES, new Uint8Array(1025), lying(new Uint8Array(1025), { length: 1024 })];
const NO_ROLE: Bad = [null, "", "Admin", "owner", "root", 0, {}, ["admin"], Object("admin")];
const NO_STATE: Bad = [null, "", "Joined", "owner", "removed", 1, {}, ["joined"]];
const NO_DATE: Bad = [
  "2999-01-01",
  0,
  Date.now(),
  {},
  new Date(NaN),
  true,
  { getTime: () => 0 },
  Object.create(Date.prototype),
  ...standIns(new Date(8.64e15)),
  lying(new Date(NaN), { getTime: () => 8.64e15, valueOf: () => 8.64e15 }),
  lying(new Date(Infinity), { getTime: () => Infinity }),
];
const NO_FLAG: Bad = [null, 0, 1, "", "true", "false", {}, []];
const NO_OBJECT: Bad = [
  null,
  7,
  "text",
  true,
  [],
  [{}],
  new Uint8Array(1),
  () => ({}),
  throwing({}),
  revoked({}),
  revoked([]),
];
const NO_TIMEOUT: Bad = [null, 0, -1, 0.5, 1.5, NaN, Infinity, 600_001, 2 ** 31, "5", 5n, {}, [5]];
const NO_SIGNAL: Bad = [
  null,
  0,
  true,
  {},
  "abort",
  { aborted: false },
  new AbortController(),
  Object.create(AbortSignal.prototype),
  ...standIns(new AbortController().signal),
  Object.create(throwing(new AbortController().signal)),
];
const NO_REVISION: Bad = [null, "", 0, 7, {}, [], true];
const NO_LIMIT: Bad = [null, 0, -1, 1.5, 1001, NaN, Infinity, "10", 10n, {}, [10]];
const NO_CURSOR: Bad = [null, "", 7, {}, [], true];
const NO_MAP: Bad = [
  null,
  undefined,
  {},
  [],
  new Set(["a"]),
  "map",
  7,
  [["a", new Uint8Array(1)]],
  new WeakMap(),
  { entries: () => [] },
  { [Symbol.toStringTag]: "Map" },
  ...standIns(new Map()),
  Object.create(new Map()),
];

const PLAIN = ["options"] as const;
const CALL_OPTIONS: Readonly<Record<string, Bad>> = {
  options: NO_OBJECT,
  "options.timeoutMs": NO_TIMEOUT,
  "options.signal": NO_SIGNAL,
};
const CONDITIONAL: Readonly<Record<string, Bad>> = { ...CALL_OPTIONS, "options.ifRevision": NO_REVISION };

export interface Method {
  /** The names of the parameters, as the contract has them. The last one is `options`. */
  readonly parameters: readonly string[];
  readonly writes: boolean;
  call(store: Store, args: readonly unknown[]): Promise<unknown>;
  /** Arguments that are accepted, without `options` unless they are needed. */
  good(world: World): unknown[];
  /** Arguments that miss: no such room, member, key or user. Absent where nothing can miss. */
  misses?(world: World): readonly unknown[][];
  /** What is malformed, by the path that the error must name. */
  readonly bad: Readonly<Record<string, Bad>>;
  /** Objects in which an unknown name is refused, by their path. */
  readonly closed: readonly string[];
}

type NameOf<G extends string, T> = `${G}.${keyof T & string}`;
export type MethodName =
  NameOf<"rooms", Rooms> | NameOf<"members", Members> | NameOf<"roomKeys", RoomKeys> | NameOf<"users", Users>;

type Args<F extends (...args: never[]) => unknown> = Parameters<F>;

/** Whole by its type: a method that is added to the contract is missed here by the compiler. */
export const METHODS: Readonly<Record<MethodName, Method>> = {
  "rooms.create": {
    parameters: ["room", "options"],
    writes: true,
    call: (s, a) => s.rooms.create(...(a as Args<Rooms["create"]>)),
    good: (w) => [
      { id: w.newRoom, name: "n", encrypted: true, owner: w.owner, ownerPublicKey: bytes("p"), sealedKey: bytes("s") },
    ],
    bad: {
      room: [undefined, ...NO_OBJECT],
      "room.id": NO_ID,
      "room.name": NO_NAME,
      "room.encrypted": NO_FLAG,
      "room.owner": [undefined, ...NO_ID],
      "room.ownerPublicKey": NO_PUBLIC_KEY,
      "room.sealedKey": NO_SEALED,
      ...CALL_OPTIONS,
    },
    closed: ["room", "options"],
  },
  "rooms.get": {
    parameters: ["id", "options"],
    writes: false,
    call: (s, a) => s.rooms.get(...(a as Args<Rooms["get"]>)),
    good: (w) => [w.room],
    misses: (w) => [[w.newRoom]],
    bad: { id: [undefined, ...NO_ID], ...CALL_OPTIONS },
    closed: PLAIN,
  },
  "rooms.update": {
    parameters: ["id", "change", "options"],
    writes: true,
    call: (s, a) => s.rooms.update(...(a as Args<Rooms["update"]>)),
    good: (w) => [w.room, { name: "changed" }],
    misses: (w) => [
      [w.newRoom, { name: "x" }],
      [w.newRoom, {}],
      [w.newRoom, { owner: w.owner }],
      [w.room, { owner: w.newEndpoint }],
      [w.newRoom, { name: "x" }, { ifRevision: "r" }],
    ],
    bad: {
      id: [undefined, ...NO_ID],
      change: [undefined, ...NO_OBJECT],
      "change.name": NO_NAME,
      "change.owner": NO_ID,
      ...CONDITIONAL,
    },
    closed: ["change", "options"],
  },
  "rooms.delete": {
    parameters: ["id", "options"],
    writes: true,
    call: (s, a) => s.rooms.delete(...(a as Args<Rooms["delete"]>)),
    good: (w) => [w.room],
    misses: (w) => [[w.newRoom]],
    bad: { id: [undefined, ...NO_ID], ...CALL_OPTIONS },
    closed: PLAIN,
  },
  "rooms.list": {
    parameters: ["page", "options"],
    writes: false,
    call: (s, a) => s.rooms.list(...(a as Args<Rooms["list"]>)),
    good: () => [{ limit: 1 }],
    bad: { page: NO_OBJECT, "page.after": NO_CURSOR, "page.limit": NO_LIMIT, ...CALL_OPTIONS },
    closed: ["page", "options"],
  },
  "rooms.listForEndpoint": {
    parameters: ["endpoint", "options"],
    writes: false,
    call: (s, a) => s.rooms.listForEndpoint(...(a as Args<Rooms["listForEndpoint"]>)),
    good: (w) => [w.guest],
    bad: { endpoint: [undefined, ...NO_ID], ...CALL_OPTIONS },
    closed: PLAIN,
  },
  "members.add": {
    parameters: ["roomId", "member", "options"],
    writes: true,
    call: (s, a) => s.members.add(...(a as Args<Members["add"]>)),
    good: (w) => [
      w.room,
      {
        endpoint: w.newEndpoint,
        state: "joined",
        invitedBy: w.owner,
        publicKey: bytes("p"),
        sealedKey: { epoch: 1, sealed: bytes("s") },
      },
    ],
    misses: (w) => [
      [w.newRoom, { endpoint: w.guest }],
      [w.newRoom, { endpoint: w.guest, sealedKey: { epoch: 1, sealed: bytes("s") } }],
    ],
    bad: {
      roomId: [undefined, ...NO_ID],
      member: [undefined, ...NO_OBJECT],
      "member.endpoint": [undefined, ...NO_ID],
      "member.state": NO_STATE,
      "member.invitedBy": NO_ID,
      "member.publicKey": NO_PUBLIC_KEY,
      "member.sealedKey": NO_OBJECT,
      "member.sealedKey.epoch": [undefined, ...NO_EPOCH],
      "member.sealedKey.sealed": [undefined, ...NO_SEALED],
      ...CALL_OPTIONS,
    },
    closed: ["member", "member.sealedKey", "options"],
  },
  "members.get": {
    parameters: ["roomId", "endpoint", "options"],
    writes: false,
    call: (s, a) => s.members.get(...(a as Args<Members["get"]>)),
    good: (w) => [w.room, w.guest],
    misses: (w) => [
      [w.newRoom, w.guest],
      [w.room, w.newEndpoint],
    ],
    bad: { roomId: [undefined, ...NO_ID], endpoint: [undefined, ...NO_ID], ...CALL_OPTIONS },
    closed: PLAIN,
  },
  "members.join": {
    parameters: ["roomId", "endpoint", "options"],
    writes: true,
    call: (s, a) => s.members.join(...(a as Args<Members["join"]>)),
    good: (w) => [w.room, w.guest],
    misses: (w) => [
      [w.newRoom, w.guest],
      [w.room, w.newEndpoint],
    ],
    bad: { roomId: [undefined, ...NO_ID], endpoint: [undefined, ...NO_ID], ...CALL_OPTIONS },
    closed: PLAIN,
  },
  "members.remove": {
    parameters: ["roomId", "endpoint", "options"],
    writes: true,
    call: (s, a) => s.members.remove(...(a as Args<Members["remove"]>)),
    good: (w) => [w.room, w.guest],
    misses: (w) => [
      [w.newRoom, w.guest],
      [w.room, w.newEndpoint],
    ],
    bad: { roomId: [undefined, ...NO_ID], endpoint: [undefined, ...NO_ID], ...CALL_OPTIONS },
    closed: PLAIN,
  },
  "members.list": {
    parameters: ["roomId", "options"],
    writes: false,
    call: (s, a) => s.members.list(...(a as Args<Members["list"]>)),
    good: (w) => [w.room],
    misses: (w) => [[w.newRoom]],
    bad: { roomId: [undefined, ...NO_ID], ...CALL_OPTIONS },
    closed: PLAIN,
  },
  "members.listForEndpoint": {
    parameters: ["endpoint", "options"],
    writes: false,
    call: (s, a) => s.members.listForEndpoint(...(a as Args<Members["listForEndpoint"]>)),
    good: (w) => [w.guest],
    bad: { endpoint: [undefined, ...NO_ID], ...CALL_OPTIONS },
    closed: PLAIN,
  },
  "roomKeys.put": {
    parameters: ["roomId", "endpoint", "epoch", "sealed", "options"],
    writes: true,
    call: (s, a) => s.roomKeys.put(...(a as Args<RoomKeys["put"]>)),
    good: (w) => [w.room, w.keyless, 1, bytes("put")],
    misses: (w) => [
      [w.newRoom, w.guest, 1, bytes("s")],
      [w.room, w.newEndpoint, 1, bytes("s")],
    ],
    bad: {
      roomId: [undefined, ...NO_ID],
      endpoint: [undefined, ...NO_ID],
      epoch: [undefined, ...NO_EPOCH],
      sealed: [undefined, ...NO_SEALED],
      ...CALL_OPTIONS,
    },
    closed: PLAIN,
  },
  "roomKeys.get": {
    parameters: ["roomId", "endpoint", "epoch", "options"],
    writes: false,
    call: (s, a) => s.roomKeys.get(...(a as Args<RoomKeys["get"]>)),
    good: (w) => [w.room, w.guest, 1],
    misses: (w) => [
      [w.newRoom, w.guest],
      [w.newRoom, w.guest, 1],
      [w.room, w.newEndpoint],
      [w.room, w.newEndpoint, 1],
      [w.room, w.guest, 2],
      [w.room, w.keyless],
      [w.room, w.keyless, 1],
      [w.room, w.guest, 2 ** 31 - 1],
    ],
    bad: { roomId: [undefined, ...NO_ID], endpoint: [undefined, ...NO_ID], epoch: NO_EPOCH, ...CALL_OPTIONS },
    closed: PLAIN,
  },
  "roomKeys.list": {
    parameters: ["roomId", "endpoint", "options"],
    writes: false,
    call: (s, a) => s.roomKeys.list(...(a as Args<RoomKeys["list"]>)),
    good: (w) => [w.room, w.guest],
    misses: (w) => [
      [w.newRoom, w.guest],
      [w.room, w.newEndpoint],
    ],
    bad: { roomId: [undefined, ...NO_ID], endpoint: [undefined, ...NO_ID], ...CALL_OPTIONS },
    closed: PLAIN,
  },
  "roomKeys.rekey": {
    parameters: ["roomId", "sealed", "options"],
    writes: true,
    call: (s, a) => s.roomKeys.rekey(...(a as Args<RoomKeys["rekey"]>)),
    good: (w) => [w.room, sealedFor(2, [w.owner, w.guest, w.keyless]), { expectedEpoch: 1 }],
    misses: (w) => [[w.newRoom, sealedFor(1, [w.owner]), { expectedEpoch: 0 }]],
    bad: {
      roomId: [undefined, ...NO_ID],
      sealed: NO_MAP,
      options: [undefined, ...NO_OBJECT],
      // Epoch 0 is expected of a room that has no key yet.
      "options.expectedEpoch": [undefined, ...NO_EPOCH.filter((epoch) => epoch !== 0)],
      "options.ifRevision": NO_REVISION,
      "options.timeoutMs": NO_TIMEOUT,
      "options.signal": NO_SIGNAL,
    },
    closed: PLAIN,
  },
  "users.add": {
    parameters: ["user", "options"],
    writes: true,
    call: (s, a) => s.users.add(...(a as Args<Users["add"]>)),
    good: (w) => [{ key: w.newKey, role: "admin", name: "n", expiresAt: new Date("2999-01-01T00:00:00Z") }],
    bad: {
      user: [undefined, ...NO_OBJECT],
      "user.key": [undefined, ...NO_KEY],
      "user.role": NO_ROLE,
      "user.name": NO_NAME,
      "user.expiresAt": [null, ...NO_DATE],
      ...CALL_OPTIONS,
    },
    closed: ["user", "options"],
  },
  "users.addFirstAdmin": {
    parameters: ["user", "options"],
    writes: true,
    call: (s, a) => s.users.addFirstAdmin(...(a as Args<Users["addFirstAdmin"]>)),
    good: (w) => [{ key: w.newKey, name: "n" }],
    bad: { user: [undefined, ...NO_OBJECT], "user.key": [undefined, ...NO_KEY], "user.name": NO_NAME, ...CALL_OPTIONS },
    closed: ["user", "options"],
  },
  "users.get": {
    parameters: ["key", "options"],
    writes: false,
    call: (s, a) => s.users.get(...(a as Args<Users["get"]>)),
    good: (w) => [w.member],
    misses: (w) => [[w.newKey]],
    bad: { key: [undefined, ...NO_KEY], ...CALL_OPTIONS },
    closed: PLAIN,
  },
  "users.update": {
    parameters: ["key", "change", "options"],
    writes: true,
    call: (s, a) => s.users.update(...(a as Args<Users["update"]>)),
    good: (w) => [w.member, { role: "admin", name: "changed", expiresAt: new Date("2999-01-01T00:00:00Z") }],
    misses: (w) => [
      [w.newKey, { name: "x" }],
      [w.newKey, {}],
      [w.newKey, { role: "member" }],
      [w.newKey, { name: "x" }, { ifRevision: "r" }],
    ],
    bad: {
      key: [undefined, ...NO_KEY],
      change: [undefined, ...NO_OBJECT],
      "change.role": NO_ROLE,
      "change.name": NO_NAME,
      "change.expiresAt": NO_DATE,
      ...CONDITIONAL,
    },
    closed: ["change", "options"],
  },
  "users.revoke": {
    parameters: ["key", "options"],
    writes: true,
    call: (s, a) => s.users.revoke(...(a as Args<Users["revoke"]>)),
    good: (w) => [w.admin],
    misses: (w) => [[w.newKey]],
    bad: { key: [undefined, ...NO_KEY], ...CALL_OPTIONS },
    closed: PLAIN,
  },
  "users.reinstate": {
    parameters: ["key", "options"],
    writes: true,
    call: (s, a) => s.users.reinstate(...(a as Args<Users["reinstate"]>)),
    good: (w) => [w.member],
    misses: (w) => [[w.newKey]],
    bad: { key: [undefined, ...NO_KEY], ...CALL_OPTIONS },
    closed: PLAIN,
  },
  "users.list": {
    parameters: ["page", "options"],
    writes: false,
    call: (s, a) => s.users.list(...(a as Args<Users["list"]>)),
    good: () => [{ limit: 1 }],
    bad: { page: NO_OBJECT, "page.after": NO_CURSOR, "page.limit": NO_LIMIT, ...CALL_OPTIONS },
    closed: ["page", "options"],
  },
};

export const METHOD_NAMES = Object.keys(METHODS) as MethodName[];

/** `args` with `value` at a path such as `room.owner`; what lies on the way is copied. */
export function withArgument(method: Method, args: readonly unknown[], path: string, value: unknown): unknown[] {
  const [parameter = "", ...rest] = path.split(".");
  const changed = [...args];
  const at = method.parameters.indexOf(parameter);
  // Parameters between the given ones and this one are left out as a caller would, with `undefined`.
  while (changed.length <= at) changed.push(undefined);
  changed[at] = nested(changed[at], rest, value);
  return changed;
}

/** Own fields as getters that answer once: what is read again may have changed meanwhile. */
export function readableOnce(args: readonly unknown[]): unknown[] {
  return args.map((argument) => onceOf(argument, "argument"));
}

function onceOf(value: unknown, path: string): unknown {
  if (typeof value !== "object" || value === null || Object.getPrototypeOf(value) !== Object.prototype) return value;
  const once = {};
  for (const [name, field] of Object.entries(value)) {
    let reads = 0;
    Object.defineProperty(once, name, {
      enumerable: true,
      get: () => {
        if (++reads > 1) throw new Error(`${path}.${name} was read again`);
        return onceOf(field, `${path}.${name}`);
      },
    });
  }
  return once;
}

function nested(inside: unknown, path: readonly string[], value: unknown): unknown {
  const [name, ...rest] = path;
  if (name === undefined) return value;
  const copy: Record<string, unknown> = { ...(inside as Record<string, unknown> | undefined) };
  copy[name] = nested(copy[name], rest, value);
  return copy;
}

/** The checks, with arguments that are allowed in the world. */
export const CHECKS = {
  authorize: {
    parameters: ["key", "options"],
    good: (w: World): unknown[] => [w.admin],
    bad: { key: [undefined, ...NO_KEY], ...CALL_OPTIONS } as Readonly<Record<string, Bad>>,
    call: async (s: Store, a: readonly unknown[]): Promise<boolean> => {
      const decision = await s.authorize(...(a as Args<Store["authorize"]>));
      return decision.allowed;
    },
  },
  isAuthorized: {
    parameters: ["key", "options"],
    good: (w: World): unknown[] => [w.admin],
    bad: { key: [undefined, ...NO_KEY], ...CALL_OPTIONS } as Readonly<Record<string, Bad>>,
    call: (s: Store, a: readonly unknown[]): Promise<boolean> => s.isAuthorized(...(a as Args<Store["isAuthorized"]>)),
  },
  isAdmin: {
    parameters: ["key", "options"],
    good: (w: World): unknown[] => [w.admin],
    bad: { key: [undefined, ...NO_KEY], ...CALL_OPTIONS } as Readonly<Record<string, Bad>>,
    call: (s: Store, a: readonly unknown[]): Promise<boolean> => s.isAdmin(...(a as Args<Store["isAdmin"]>)),
  },
  isMember: {
    parameters: ["roomId", "endpoint", "options"],
    good: (w: World): unknown[] => [w.room, w.owner],
    bad: { roomId: [undefined, ...NO_ID], endpoint: [undefined, ...NO_ID], ...CALL_OPTIONS } as Readonly<
      Record<string, Bad>
    >,
    call: (s: Store, a: readonly unknown[]): Promise<boolean> => s.isMember(...(a as Args<Store["isMember"]>)),
  },
  hasAdmin: {
    parameters: ["options"],
    good: (): unknown[] => [],
    bad: CALL_OPTIONS,
    call: (s: Store, a: readonly unknown[]): Promise<boolean> => s.hasAdmin(...(a as Args<Store["hasAdmin"]>)),
  },
} as const;

export const CHECK_NAMES = Object.keys(CHECKS) as (keyof typeof CHECKS)[];
