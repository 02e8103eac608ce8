/// <reference lib="esnext.disposable" />

/**
 * The contract: what every backend promises, in one file. It imports nothing.
 *
 * The promises hold for every implementation in this package. One conformance suite tries them all:
 *
 * - A miss is `NOT_FOUND`, a duplicate `ALREADY_EXISTS` with the first record untouched.
 * - An operation is visible whole or not at all, whatever dies in between.
 * - What was acknowledged survives the death of the process.
 * - Every call settles within its time; a late answer is discarded.
 * - The checks answer `true` only on proof, and what was taken away stays away from the instant it was acknowledged.
 */
/** Replicas of each JetStream bucket: 1 survives no loss, 3 the loss of one server, 5 the loss of two. */
export type Replicas = 1 | 2 | 3 | 4 | 5;

/** The last parameter of every method. */
export interface CallOptions {
  /**
   * Time for this call in milliseconds, 1 to 600000. Default: the store's `opTimeoutMs`, and ten times that for lists
   * and rekey.
   */
  timeoutMs?: number;
  /** Aborts the call: a method rejects with `TIMEOUT` (and the signal's reason as `cause`), a check answers `false`. */
  signal?: AbortSignal;
}

/** The last parameter of the checks. */
export interface CheckOptions extends CallOptions {
  /**
   * How old the proof may be that the check rests on, in milliseconds: 0 to 60000. Default: the store's own
   * `maxStalenessMs`, which is 0.
   *
   * With 0 a check is proved after it began: who was revoked before that, by anybody on any node, is denied. With `n` a
   * check may be answered from memory. Then who was revoked is denied from `n` milliseconds after the revocation was
   * acknowledged. The age counts from when the proof was asked for, by whichever clock says more, to when the check is
   * answered. An older proof is renewed, or the check is denied. A store sees at once what it did itself. Not covered:
   * a machine that is restored from an image of its memory.
   *
   * `authorize` answers the whole record, which memory does not hold. So it is proved each time. A SQLite file has one
   * owner, who knows the newest state. So the option changes nothing there.
   *
   * @example
   * if (await isAuthorized(store, key, { maxStalenessMs: 100 })) serve(request);
   */
  maxStalenessMs?: number;
}

/** How far an opening is: see {@link CommonOptions.onOpening}. */
export interface OpeningProgress {
  /**
   * SQLite: `"check"`, `"load"`, `"replay"`. JetStream: `"server"`, `"buckets"`, `"quorum"`, `"users"`. Others may
   * come.
   */
  readonly phase: string;
  /**
   * How much of `total` is done: bytes on SQLite, on JetStream buckets or records. Without `total` nobody knows how
   * much there is.
   */
  readonly done: number;
  readonly total?: number;
}

/** Options of every backend. */
export interface CommonOptions {
  /**
   * Time for one call in milliseconds, 1 to 60000. Default 2000. Opening, lists and rekey have ten times that. Opening
   * and closing a SQLite file have a second more for each 4 MB of it.
   */
  opTimeoutMs?: number;
  /**
   * Stops the opening, which rejects with `TIMEOUT` and the signal's reason as `cause`. Once the store is open, the
   * signal does nothing.
   */
  signal?: AbortSignal;
  /**
   * Told how far the opening is: when a phase begins and ends, and every tenth of a second between. What the function
   * throws is ignored.
   *
   * @example
   * await openSqlite("membership.db", { onOpening: ({ phase, done, total }) => log.info(phase, done, total) });
   */
  onOpening?: (progress: OpeningProgress) => void;
  /**
   * Opens also a store that was moved away from, so that `migrate` can bring its records back. Until then it denies
   * every check, and every write is `INCOMPATIBLE`. Default `false`.
   */
  reopenMoved?: boolean;
}

/**
 * A store of rooms, members, room keys and the user allowlist.
 *
 * @example
 * await using store = await openSqlite("membership.db");
 * await store.users.addFirstAdmin({ key: "a1b2" });
 * await store.isAuthorized("A1B2"); // true: keys are folded to lower case
 */
export interface Store extends AsyncDisposable {
  /** `"sqlite"`, `"jetstream"`, or another implementation's own name. */
  readonly backend: string;
  readonly rooms: Rooms;
  readonly members: Members;
  readonly roomKeys: RoomKeys;
  readonly users: Users;
  /** Whether the user may come in, and if not, why. Never rejects; see {@link Decision}. */
  authorize(key: string, options?: CheckOptions): Promise<Decision>;
  /** `true` only if the user was proved active in time. Never rejects. `false` proves nothing. */
  isAuthorized(key: string, options?: CheckOptions): Promise<boolean>;
  /** `true` only if the user was proved active, and an admin, in time. Never rejects. */
  isAdmin(key: string, options?: CheckOptions): Promise<boolean>;
  /** `true` only if the endpoint was proved to have joined the room. Users are not consulted. Never rejects. */
  isMember(roomId: string, endpoint: string, options?: CheckOptions): Promise<boolean>;
  /**
   * `true` only if at least one active admin was proved. It costs the same however many users there are. Never rejects.
   */
  hasAdmin(options?: CheckOptions): Promise<boolean>;
  /**
   * Tells every record as it stands, then `proved`, then every change, whoever made it on whatever node: see
   * {@link StoreEvent}. At a `proved` nothing is missing that was acknowledged to anyone before its `asOf`. A reader
   * may be slow: what waits is merged by record. Nothing is sent while nobody watches, and all watches of a store share
   * one feed.
   *
   * Throws `INVALID_ARGUMENT` at once.
   *
   * @example
   * for await (const event of store.watch({ kinds: ["users"] })) {
   *   if (event.type === "user" && (event.ended || event.user.status === "revoked")) kick(event.user.key);
   * }
   */
  watch(options?: WatchOptions): Watch;
  /**
   * A check whose answer stays watched: for a connection, a socket, a stream. The {@link Session} is of the grant that
   * the user has now. It ends when that ends, also where a new one begins at once, and never comes back. Never rejects:
   * who may not come in gets a {@link Denial}, which is disposable too, so that `using` takes either.
   *
   * `signal` aborts, and `active` is `false`, within `maxStalenessMs` of the moment at which it was acknowledged, to
   * anyone on any node, that the user was revoked, demoted (with `role`) or removed from a room (with `memberOf`); at
   * the first proof after `expiresAt`; and when nothing could be proved for so long. All sessions of a store share one
   * feed, and a proof about every quarter of the shortest `maxStalenessMs`.
   *
   * @example
   * using session = await store.session(key, { maxStalenessMs: 1000 });
   * if (!session.allowed) return socket.close();
   * session.signal.addEventListener("abort", () => socket.close());
   */
  session(key: string, options?: SessionOptions): Promise<Session | (Denial & Disposable)>;
  /** Settles calls in flight, makes everything acknowledged durable, and lets go of every resource. Idempotent. */
  close(): Promise<void>;
}

export interface SessionOptions {
  /** Bounds the opening, in milliseconds: 1 to 600000. */
  timeoutMs?: number;
  /** Ends the session, or its opening: the denial is `aborted`. */
  signal?: AbortSignal;
  /**
   * For how long what was taken away may go unnoticed, and for how long nothing may be proved, in milliseconds: 100 to
   * 60000. Default 5000.
   */
  maxStalenessMs?: number;
  /** The session is an admin's: a demotion ends it. Without it, one goes on. */
  role?: "admin";
  /** The session is also of these joined memberships, at most 1000: it ends when any of them does. */
  memberOf?: readonly { roomId: string; endpoint: string }[];
}

/** A check whose answer stays watched: see {@link Store.session}. */
export interface Session extends Disposable {
  readonly allowed: true;
  /** The user, as it was proved last. */
  readonly user: User;
  /**
   * Whether what the session rests on was proved recently enough. It is computed by the clocks at each read: after a
   * process was stopped it is `false` before the signal has had time to abort. Once it was `false` it stays so.
   */
  readonly active: boolean;
  /** Aborts once, with a `SessionEnded` as its reason, whose `denial` says why. */
  readonly signal: AbortSignal;
  /** Ends it, with the denial `closed`. Nothing is kept of it then. Idempotent. */
  close(): void;
}

export interface WatchOptions {
  /** Ends the watch: its next event is a rejection with `TIMEOUT`, and the signal's reason as the cause. */
  signal?: AbortSignal;
  /** Whether every record as it stands comes first. Default `true`. */
  snapshot?: boolean;
  /**
   * How often the watch asks what has changed, and proves that nothing is missing, in milliseconds: 10 to 60000.
   * Default 1000.
   */
  proveEveryMs?: number;
  /** Which records. Default: all. Where `key` or `roomId` is given: users, or rooms, members and keys. */
  kinds?: readonly ("users" | "rooms" | "members" | "roomKeys")[];
  /** Only this room, with its members and keys. */
  roomId?: string;
  /** Only this user. */
  key?: string;
}

/**
 * To be iterated once. `break`, `close()`, the signal and the close of the store end it. If a bucket was made anew or
 * restored, it ends with `INCOMPATIBLE`. While the backend does not answer, it is asked again, for as long as it takes.
 * Until then no `proved` comes.
 */
export interface Watch extends AsyncIterable<StoreEvent>, AsyncDisposable {
  close(): Promise<void>;
}

/**
 * What a watch tells. Each event has a record as it stood at some moment. Events of one record never go back in time,
 * but a state may be left out, or come twice. Between two grants an event always says that the first one ended: `ended`
 * of a user, `memberRemoved` of a member, `roomDeleted` of a room, which stands for all that belonged to it. Time that
 * runs out is no change.
 *
 * `proved`: all that was acknowledged before `asOf` has been told, as it stood then or later. `asOf` is a value of
 * `performance.now()`, to be compared within this process alone.
 *
 * `resync`: something may have been missed, or more than 65,536 records wait. All records follow anew. What has not
 * come by the next `proved` is gone.
 */
export type StoreEvent =
  | {
      readonly type: "user";
      readonly user: User;
      /**
       * A grant of the user has ended since the user was told last, whatever was given since. The user was revoked or
       * demoted, or its time had run out.
       */
      readonly ended: boolean;
    }
  | { readonly type: "room"; readonly room: Room }
  | { readonly type: "roomDeleted"; readonly roomId: string }
  | { readonly type: "member"; readonly member: Member }
  | { readonly type: "memberRemoved"; readonly roomId: string; readonly endpoint: string }
  | { readonly type: "roomKey"; readonly roomId: string; readonly endpoint: string; readonly epoch: number }
  | { readonly type: "proved"; readonly asOf: number; readonly at: Date }
  | { readonly type: "resync" };

/** What {@link Rooms.create} takes. */
export interface NewRoom {
  /** 1 to 256 bytes of UTF-8 without control characters, case-sensitive. Omitted: a random one. */
  id?: string;
  /** 0 to 256 bytes of UTF-8 without control characters. Default `""`. */
  name?: string;
  /** Whether the room has keys. Default `false`. */
  encrypted?: boolean;
  /** The endpoint that owns the room: its first member, joined. */
  owner: string;
  /** The owner's public key, 1 to 1024 bytes. */
  ownerPublicKey?: Uint8Array;
  /** The room key of epoch 1 sealed to the owner, 1 byte to 64 KiB of ciphertext. Without it the room is at epoch 0. */
  sealedKey?: Uint8Array;
}

export interface RoomChange {
  name?: string;
  /** A joined member. The previous owner stays, as a member. */
  owner?: string;
}

/** The change is refused with `CONFLICT` if the record is no longer at this revision. */
export interface Precondition {
  ifRevision?: string;
}

/** Rooms. Deleting one takes its members, keys and index entries with it. */
export interface Rooms {
  /**
   * Makes a room, its owner's membership and the owner's first key, together.
   *
   * Rejects with `ALREADY_EXISTS` for an id in use and with `CONFLICT` for a `sealedKey` of an unencrypted room.
   *
   * @example
   * const room = await store.rooms.create({ name: "ops", encrypted: true, owner: "alice", sealedKey });
   */
  create(room: NewRoom, options?: CallOptions): Promise<Room>;
  /** Rejects with `NOT_FOUND`. */
  get(id: string, options?: CallOptions): Promise<Room>;
  /**
   * Rejects with `NOT_FOUND` (the room, or a new owner who is no member) or `CONFLICT` (revision, or an owner only
   * invited).
   */
  update(id: string, change: RoomChange, options?: Precondition & CallOptions): Promise<Room>;
  /** Rejects with `NOT_FOUND`. */
  delete(id: string, options?: CallOptions): Promise<void>;
  /** A page, in no promised order. A room that is there throughout a walk appears at least once. */
  list(page?: PageRequest, options?: CallOptions): Promise<Page<Room>>;
  /** The rooms that the endpoint is a member of, invited or joined, sorted by id. Exact, room by room. */
  listForEndpoint(endpoint: string, options?: CallOptions): Promise<Room[]>;
}

/** What {@link Members.add} takes. */
export interface NewMember {
  /** 1 to 256 bytes of UTF-8 without control characters, case-sensitive. */
  endpoint: string;
  /** Default `"invited"`. */
  state?: "invited" | "joined";
  invitedBy?: string;
  /** 1 to 1024 bytes. */
  publicKey?: Uint8Array;
  /**
   * The key of the room's current epoch, sealed to this member. Any other epoch is `CONFLICT`, and nothing is added.
   */
  sealedKey?: { epoch: number; sealed: Uint8Array };
}

/** Members of rooms. */
export interface Members {
  /** Rejects with `NOT_FOUND` (the room), `ALREADY_EXISTS`, or `CONFLICT` (the key's epoch, or an unencrypted room). */
  add(roomId: string, member: NewMember, options?: CallOptions): Promise<Member>;
  /** Rejects with `NOT_FOUND`. */
  get(roomId: string, endpoint: string, options?: CallOptions): Promise<Member>;
  /** Invited becomes joined. Idempotent. Rejects with `NOT_FOUND`. */
  join(roomId: string, endpoint: string, options?: CallOptions): Promise<Member>;
  /**
   * Ends the membership and its keys; an encrypted room then requires a rekey.
   * Rejects with `NOT_FOUND`, or with `CONFLICT` for the owner.
   */
  remove(roomId: string, endpoint: string, options?: CallOptions): Promise<void>;
  /** Every member in any state, sorted by endpoint. Whole or an error. Rejects with `NOT_FOUND` for the room. */
  list(roomId: string, options?: CallOptions): Promise<Member[]>;
  /**
   * The endpoint's memberships in any state, one for each of its rooms, sorted by room id. Exact, room by room: it is
   * not one snapshot across rooms. Costs what {@link Rooms.listForEndpoint} costs. None is an empty list.
   *
   * @example
   * const memberships = await store.members.listForEndpoint("alice");
   * const invitations = memberships.filter(({ state }) => state === "invited");
   */
  listForEndpoint(endpoint: string, options?: CallOptions): Promise<Member[]>;
}

export interface RekeyOptions extends Precondition {
  /** The epoch that the caller wants to end. If the room is at another one, that is `CONFLICT`. */
  expectedEpoch: number;
}

/** Room keys: opaque ciphertext, one for each member and epoch. They appear in no log, error, event or metric. */
export interface RoomKeys {
  /**
   * Stores a key that a member lacks, for an epoch up to the room's current one.
   * Rejects with `NOT_FOUND` (room or member), `CONFLICT` (epoch, or an unencrypted room) or `ALREADY_EXISTS`.
   */
  put(roomId: string, endpoint: string, epoch: number, sealed: Uint8Array, options?: CallOptions): Promise<RoomKey>;
  /**
   * Without an epoch: the highest that the endpoint holds, which can be lower than the room's. Rejects with
   * `NOT_FOUND`.
   */
  get(roomId: string, endpoint: string, epoch?: number, options?: CallOptions): Promise<RoomKey>;
  /** Every key that the member holds, epochs ascending. Rejects with `NOT_FOUND` for the room or the member. */
  list(roomId: string, endpoint: string, options?: CallOptions): Promise<RoomKey[]>;
  /**
   * Starts the next epoch with one key for each current member, all or nothing, and clears `rekeyRequired`. Of
   * concurrent rekeys of one epoch exactly one succeeds. Rejects with `NOT_FOUND` or `CONFLICT`. If the map does not
   * name exactly the current members, `details.missing` and `details.extra` say whom.
   */
  rekey(roomId: string, sealed: ReadonlyMap<string, Uint8Array>, options: RekeyOptions & CallOptions): Promise<Room>;
}

/** What {@link Users.add} takes. */
export interface NewUser {
  /**
   * A public sign key: 1 to 256 printable ASCII characters after trimming, without inner white space, folded to lower
   * case. For hex and base32; base64 keys that differ only in case would be taken for one.
   */
  key: string;
  /** Default `"member"`. */
  role?: "admin" | "member";
  /** 0 to 256 bytes of UTF-8 without control characters. Default `""`. */
  name?: string;
  /** From this instant on the user is denied, by the clock of the process that checks. */
  expiresAt?: Date;
}

export interface UserChange {
  role?: "admin" | "member";
  name?: string;
  /** `null`: never. */
  expiresAt?: Date | null;
}

/** The user allowlist. Users are revoked, never deleted. */
export interface Users {
  /** Rejects with `ALREADY_EXISTS`, also for a revoked user. */
  add(user: NewUser, options?: CallOptions): Promise<User>;
  /**
   * Adds the first admin, once for all time. Rejects with `CONFLICT` if any user is or was an admin, or with
   * `ALREADY_EXISTS`.
   */
  addFirstAdmin(user: { key: string; name?: string }, options?: CallOptions): Promise<User>;
  /** Rejects with `NOT_FOUND`. */
  get(key: string, options?: CallOptions): Promise<User>;
  /** Rejects with `NOT_FOUND` or `CONFLICT` (revision, or demoting the last active admin). */
  update(key: string, change: UserChange, options?: Precondition & CallOptions): Promise<User>;
  /** Idempotent. Rejects with `NOT_FOUND`, or with `CONFLICT` for the last active admin. */
  revoke(key: string, options?: CallOptions): Promise<User>;
  /** Idempotent. Rejects with `NOT_FOUND`. */
  reinstate(key: string, options?: CallOptions): Promise<User>;
  /** A page, in no promised order. A user that is there throughout a walk appears at least once. */
  list(page?: PageRequest, options?: CallOptions): Promise<Page<User>>;
}

/** Records are fresh copies: changing one changes nothing else. */
export interface Room {
  readonly id: string;
  readonly name: string;
  readonly encrypted: boolean;
  readonly owner: string;
  /** 0 while there is no key yet, and always 0 if the room is not encrypted. */
  readonly epoch: number;
  /** A member was removed since the last rekey. */
  readonly rekeyRequired: boolean;
  readonly createdAt: Date;
  /** Opaque. Changes exactly when a field of the room or its membership changes, and never repeats. */
  readonly revision: string;
}

export interface Member {
  readonly roomId: string;
  readonly endpoint: string;
  readonly role: "owner" | "member";
  readonly state: "invited" | "joined";
  readonly invitedBy?: string;
  readonly publicKey?: Uint8Array;
  /** When this membership began, as invited or joined. */
  readonly since: Date;
  /** Opaque. Changes exactly when a field of the member changes, and never repeats. */
  readonly revision: string;
}

export interface RoomKey {
  readonly roomId: string;
  readonly endpoint: string;
  readonly epoch: number;
  readonly sealed: Uint8Array;
  readonly createdAt: Date;
}

export interface User {
  /** Folded to lower case. */
  readonly key: string;
  readonly role: "admin" | "member";
  readonly status: "active" | "revoked";
  readonly name: string;
  readonly createdAt: Date;
  readonly revokedAt?: Date;
  readonly expiresAt?: Date;
  /** Opaque. Changes exactly when a field of the user changes, and never repeats. */
  readonly revision: string;
}

export interface PageRequest {
  /** The `next` of the page before. */
  after?: string;
  /** At most so many records: 1 to 1000, default 100. A page with fewer can have a `next`. */
  limit?: number;
}

export interface Page<T> {
  readonly items: T[];
  /** Opaque: pass it as `after`. Absent on the last page. */
  readonly next?: string;
}

/**
 * The answer of {@link Store.authorize}. `"active"` is said only on proof. `"unknown"`, `"revoked"` and `"expired"` are
 * said only after a read as fresh as an allow needs. So are those that only a {@link Session} has: `"notAdmin"`,
 * `"notMember"`, and `"ended"`, of a grant that has ended although there is another one. Every other reason says that
 * nothing is known: deny, and conclude nothing.
 */
export type Decision =
  { readonly allowed: true; readonly reason: "active"; readonly user: User; readonly proof?: Proof } | Denial;

export interface Denial {
  readonly allowed: false;
  readonly reason:
    | "unknown"
    | "revoked"
    | "expired"
    | "notAdmin"
    | "notMember"
    | "ended"
    | "malformed"
    | "aborted"
    | "timeout"
    | "unavailable"
    | "closed";
  /** What a denial rests on that was proved. */
  readonly proof?: Proof;
  /** What the backend said, where it said something. Usually a `StoreError`. */
  readonly error?: unknown;
}

/**
 * What an answer rests on, for an audit: plain data. All that was acknowledged before `provedAt` was taken into
 * account; `staleMs` is how long ago that was when the answer was given, by whichever clock says more.
 */
export type Proof = SqliteProof | JetStreamProof | MemoryProof;

export interface SqliteProof {
  readonly backend: "sqlite";
  readonly provedAt: Date;
  readonly staleMs: number;
  /**
   * The last transaction that was durable then. A revision that it had given is not above it, as numbers to the base of
   * 36.
   */
  readonly transaction: string;
}

export interface JetStreamProof {
  readonly backend: "jetstream";
  readonly provedAt: Date;
  readonly staleMs: number;
  /** Of an answer about users, or about a room. Absent where there is no record. */
  readonly users?: LogPlace;
  readonly rooms?: LogPlace;
}

/** Where a record stood in a bucket's log, and up to which place that is known. */
export interface LogPlace {
  readonly seq: number;
  readonly asOf: number;
}

export interface MemoryProof {
  readonly backend: "memory";
  readonly provedAt: Date;
  readonly staleMs: number;
}
