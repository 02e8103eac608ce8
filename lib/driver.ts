/**
 * What a backend implements. `MembershipStore` stands in front of it: a driver sees arguments that were checked and
 * copied, a `Call` that ends in time, and no call after its close has begun. docs/adding-a-backend.md is the guide.
 *
 * What holds for every method:
 *
 * - It refuses with what `rules.ts` throws: `NOT_FOUND`, `ALREADY_EXISTS`, `CONFLICT`. A refusal rests on a read as
 *   fresh as a check's, because a stale read would say `NOT_FOUND` of what the caller was just told. Of what is refused
 *   nothing is written.
 * - A write is seen whole or not at all, by every reader and after every crash, and is durable before it is answered.
 * - It sets `call.outcome` to `"unknown"` before the first step that may commit. It calls `call.throwIfEnded()` before
 *   each step, so that work ends when nobody waits for it any more.
 * - A write may answer a promise, or an `Ending`, which tells its call how it ended. A promise is as good, and costs
 *   a fast backend more.
 * - Whatever else goes wrong rejects with `UNAVAILABLE`, or with any error: the store makes `UNAVAILABLE` of it.
 * - It answers records that are fresh copies in depth, dates and bytes too. They leave out what is not there. The bytes
 *   and dates that it is given are its own.
 *
 * A number in parentheses is that of a promise in docs/adding-a-backend.md.
 */
import type { Call, Eventually } from "./call.js";
import type {
  MemberInput,
  PageInput,
  RekeyArguments,
  RoomChangeInput,
  RoomInput,
  UserChangeInput,
  UserInput,
} from "./arguments.js";
import type { Found } from "./findings.js";
import type { Moment } from "./moment.js";
import type { MoveRun, MoveReport, MoveState, StepName, StoreIdentity } from "./moves.js";
import type { UserFacts } from "./rules.js";
import type { LogPlace, Member, Page, Proof, Room, RoomKey, User } from "./store.js";

export interface Driver {
  /** The name of the backend, which is `Store.backend`. */
  readonly backend: string;
  readonly rooms: RoomsDriver;
  readonly members: MembersDriver;
  readonly roomKeys: RoomKeysDriver;
  readonly users: UsersDriver;
  /** Reads that a check may answer `true` on. */
  readonly checks: CheckReads;
  /** Whole records, out of the store and into an empty one. */
  readonly records: RecordsDriver;
  /** Looks at what is stored as this backend stores it. */
  readonly inspection: InspectionDriver;
  /** What changes from now on, whoever changes it. */
  readonly changes: ChangesDriver;
  /** What sessions rest on. */
  readonly grants: GrantsDriver;
  /** What a migration needs beside whole records: who this store is, and whether it may be used. */
  readonly moving: MovingDriver;
  /**
   * Called once, when no call runs any more. Makes durable what was acknowledged, and lets go of every resource, also
   * where the backend is dead. It bounds its own time, because nobody else does. Rejects with `UNAVAILABLE` if
   * something was lost.
   */
  close(): Promise<void>;
}

/**
 * What was taken away before the call, and acknowledged to anyone on any node, is not seen (12). Whatever keeps a
 * driver from being sure of that is an error, never an answer (11).
 */
export type CheckReads = SyncCheckReads | AsyncCheckReads;

/** For a backend that has everything in memory. A check costs no timer, and makes no record that nobody looks at. */
export interface SyncCheckReads {
  readonly synchronous: true;
  /** The user, in the state that a check may act on, as a fresh record. `undefined`: there is no such user. */
  user(key: string): User | undefined;
  /** What the rules need to know of the same user. `key` is not checked: what is no key names nobody. */
  facts(key: string): UserFacts | undefined;
  /** Whether the endpoint has joined the room. The ids are not checked: what is no id names nobody. */
  joined(roomId: string, endpoint: string): boolean;
  /**
   * Whether an active admin exists whose time has not run out at `now` (milliseconds since 1970). It costs the same
   * however many users there are.
   */
  admin(now: number): boolean;
  /**
   * Whether this memory is surely the newest state at `now`, so that nobody else can have changed it. `true` is
   * believed. So it is never a guess.
   */
  isCurrent(now: number): boolean;
  /** What an answer of just now rests on. `wall`: the time, in milliseconds since 1970. */
  proof(wall: number): Proof;
  /**
   * Makes sure of the memory, and resolves when it is current again. Rejects if it is not, or if that cannot be told.
   */
  renew(): Promise<void>;
}

/** For a backend that has to ask others. */
export interface AsyncCheckReads {
  readonly synchronous: false;
  // `note`: what the answer rests on is put there, where there is a record.
  /**
   * The user as it stood at some instant after the call began, as a fresh record. `undefined`: there is no such user.
   */
  user(key: string, call: Call, note?: ProofNote): Promise<User | undefined>;
  /** What the rules need to know of the same user, as fresh. It can cost less than the record. */
  facts(key: string, call: Call, note?: ProofNote): Promise<UserFacts | undefined>;
  /**
   * Whether the endpoint had joined the room at some instant after the call began. No such room or member is `false`.
   */
  joined(roomId: string, endpoint: string, call: Call, note?: ProofNote): Promise<boolean>;
  /**
   * Whether an active admin exists, as fresh. `now` is asked once the answer is there, because waiting takes time. It
   * costs the same however many users there are.
   */
  admin(now: () => number, call: Call, note?: ProofNote): Promise<boolean>;
  /** The `maxStalenessMs` of a check that does not say (17). 0: every check is proved after it began. */
  readonly maxStalenessMs: number;
  /**
   * The same without asking anybody, if this memory misses nothing that was acknowledged more than `maxStalenessMs`
   * ago, by either clock, and nothing that this store was acknowledged itself (17). `undefined`: `facts` has to tell.
   * It throws where `facts` would reject. `key` is not checked: what is no key names nobody.
   */
  recentFacts(key: string, maxStalenessMs: number, note?: ProofNote): UserFacts | undefined;
  /** The same of whether an active admin exists at `now`. */
  recentAdmin(now: number, maxStalenessMs: number, note?: ProofNote): boolean | undefined;
  /** The same of whether the endpoint has joined the room. */
  recentlyJoined(roomId: string, endpoint: string, maxStalenessMs: number, note?: ProofNote): boolean | undefined;
  /** What an answer of just now rests on, by its note, and by what two clocks say. */
  proof(note: ProofNote, monotonic: number, wall: number): Proof | undefined;
}

/**
 * Of whoever wants to know what an answer rests on. The driver puts it in before it answers, where there is a record.
 */
export interface ProofNote {
  /** What was acknowledged before this moment is taken into account. */
  since?: Moment | undefined;
  /** Of what the record is, and where it stood. */
  of?: "users" | "rooms" | undefined;
  place?: LogPlace | undefined;
}

export interface RoomsDriver {
  /**
   * Makes the room, its owner's joined membership, the index entry and the first key in one step (4). Picks a random id
   * if none is given. `ALREADY_EXISTS` if the id is in use: that room stays as it was (3).
   */
  create(room: RoomInput, call: Call): Eventually<Room>;
  /**
   * `NOT_FOUND` if there is no room. The answer may lag behind other nodes for a moment, but never behind this store's
   * own acknowledged writes.
   */
  get(id: string, call: Call): Promise<Room>;
  /**
   * Changes the name and the owner. If neither differs, the revision stays. Checks, of one state, the room, then
   * `ifRevision`, then that a new owner is a joined member. The roles of both members change in the same step.
   * `NOT_FOUND` for the room or the new owner, `CONFLICT` for the revision or an owner who is only invited.
   */
  update(id: string, change: RoomChangeInput, ifRevision: string | undefined, call: Call): Eventually<Room>;
  /**
   * Removes the room with its members, keys and index entries. A later room of that id shows none of them (8), and no
   * later check does (12). `NOT_FOUND`.
   */
  delete(id: string, call: Call): Eventually<void>;
  /**
   * A page of rooms. A room that is there throughout a walk is on one of its pages, whatever others write. An `after`
   * that is no cursor is `INVALID_ARGUMENT` of `page.after`.
   */
  list(page: PageInput, call: Call): Promise<Page<Room>>;
  /**
   * Every room of which the endpoint is a member in any state, and no other (5), sorted by the code points of the id.
   * Empty if there is none.
   */
  listForEndpoint(endpoint: string, call: Call): Promise<Room[]>;
}

export interface MembersDriver {
  /**
   * Adds the member, its index entry and its key together, and gives the room a new revision. Allowed while
   * `rekeyRequired`. `NOT_FOUND` for the room. `ALREADY_EXISTS` for a member, who stays as it was (3). `CONFLICT` for a
   * key of another epoch than the room's: then nothing is added.
   */
  add(roomId: string, member: MemberInput, call: Call): Eventually<Member>;
  /** `NOT_FOUND` for the room or the member. As fresh as `rooms.get`. */
  get(roomId: string, endpoint: string, call: Call): Promise<Member>;
  /**
   * Makes an invited member a joined one, with new revisions of the member and the room. If the member has joined
   * already, nothing changes. `NOT_FOUND` for the room or the member.
   */
  join(roomId: string, endpoint: string, call: Call): Eventually<Member>;
  /**
   * Removes the membership, its index entry and all its keys, and sets `rekeyRequired` of an encrypted room, in one
   * step (7). No later check sees the member (12). `NOT_FOUND` for the room or the member. `CONFLICT` for the owner,
   * also while ownership moves.
   */
  remove(roomId: string, endpoint: string, call: Call): Eventually<void>;
  /**
   * All members in any state, whole or an error, sorted by the code points of the endpoint. `NOT_FOUND` for the room.
   */
  list(roomId: string, call: Call): Promise<Member[]>;
  /**
   * Every membership of the endpoint in any state, and no other (5), sorted by the code points of the room's id. Empty
   * if there is none.
   */
  listForEndpoint(endpoint: string, call: Call): Promise<Member[]>;
}

export interface RoomKeysDriver {
  /**
   * Adds a key that a member lacks, for any epoch up to the room's. If the member is removed at the same time, the key
   * goes too, or is refused (7). Refuses in the order of `checkPut`: `CONFLICT` for an unencrypted room, `NOT_FOUND`
   * for the member, `CONFLICT` for an epoch to come. Then `ALREADY_EXISTS`.
   */
  put(roomId: string, endpoint: string, epoch: number, sealed: Uint8Array, call: Call): Eventually<RoomKey>;
  /**
   * The member's key of that epoch. Without an epoch it is the highest that the member holds, which may be lower than
   * the room's. `NOT_FOUND` for the room, the member or the key. Never a key of a rekey that lost (6).
   */
  get(roomId: string, endpoint: string, epoch: number | undefined, call: Call): Promise<RoomKey>;
  /** All keys of the member, epochs ascending. None is an empty list. `NOT_FOUND` for the room or the member. */
  list(roomId: string, endpoint: string, call: Call): Promise<RoomKey[]>;
  /**
   * Begins the next epoch with one key for each member and clears `rekeyRequired`, all or nothing. Of several rekeys at
   * once one wins, and the others get `CONFLICT` (6). Checks the room, `expectedEpoch`, `ifRevision`, then that the map
   * names exactly the members. Who is removed before the commit has no key of the new epoch.
   */
  rekey(roomId: string, sealed: ReadonlyMap<string, Uint8Array>, options: RekeyArguments, call: Call): Eventually<Room>;
}

export interface UsersDriver {
  /** `ALREADY_EXISTS` for a user of any status, who stays as it was (3). The key is folded already. */
  add(user: UserInput, call: Call): Eventually<User>;
  /**
   * Adds an admin, once for all time, however many try at once. `CONFLICT` if any user is, or was, an admin. Then
   * `ALREADY_EXISTS`.
   */
  addFirstAdmin(user: UserInput, call: Call): Eventually<User>;
  /** `NOT_FOUND` if there is no user. As fresh as `rooms.get`. */
  get(key: string, call: Call): Promise<User>;
  /**
   * Changes what is given. If nothing differs, the revision stays. `NOT_FOUND`, then `CONFLICT` for the revision, then
   * `CONFLICT` for demoting the last active admin, also by two at once (14). No later check sees what it takes away
   * (12).
   */
  update(key: string, change: UserChangeInput, ifRevision: string | undefined, call: Call): Eventually<User>;
  /**
   * Revokes, and sets `revokedAt`. If the user is revoked already, nothing changes. `NOT_FOUND`, or `CONFLICT` for the
   * last active admin (14). No later check allows the user (12).
   */
  revoke(key: string, call: Call): Eventually<User>;
  /** Makes the user active again, without `revokedAt`. If the user is active already, nothing changes. `NOT_FOUND`. */
  reinstate(key: string, call: Call): Eventually<User>;
  /**
   * A page of users of any status. A user that is there throughout a walk is on one of its pages. An `after` that is no
   * cursor is `INVALID_ARGUMENT` of `page.after`.
   */
  list(page: PageInput, call: Call): Promise<Page<User>>;
}

/**
 * Whole records, with the fields that callers cannot write. Times are milliseconds since 1970. Whoever reads bytes must
 * not change them. Revisions are not among the fields: a record that is written elsewhere gets one of its own there.
 */
export type StoredRecord =
  | { readonly kind: "user"; readonly row: StoredUser }
  | { readonly kind: "room"; readonly row: StoredRoom }
  | { readonly kind: "member"; readonly row: StoredMember }
  | { readonly kind: "key"; readonly row: StoredKey };

export interface StoredUser {
  readonly key: string;
  readonly role: "admin" | "member";
  readonly status: "active" | "revoked";
  readonly name: string;
  readonly createdAt: number;
  /** When the user was revoked, if the user is. */
  readonly revokedAt?: number | undefined;
  readonly expiresAt?: number | undefined;
  /** How often something was taken away from the user, where the backend counts it. */
  readonly grant?: number | undefined;
}

export interface StoredRoom {
  readonly id: string;
  readonly name: string;
  readonly encrypted: boolean;
  readonly owner: string;
  readonly epoch: number;
  readonly rekeyRequired: boolean;
  readonly createdAt: number;
}

export interface StoredMember {
  readonly roomId: string;
  readonly endpoint: string;
  readonly role: "owner" | "member";
  readonly state: "invited" | "joined";
  readonly invitedBy: string | undefined;
  readonly publicKey: Uint8Array | undefined;
  readonly since: number;
}

export interface StoredKey {
  readonly roomId: string;
  readonly endpoint: string;
  readonly epoch: number;
  readonly sealed: Uint8Array;
  readonly createdAt: number;
}

/** How many records of each kind. */
export interface RecordCounts {
  readonly users: number;
  readonly rooms: number;
  readonly members: number;
  readonly roomKeys: number;
}

export interface RecordsDriver {
  /**
   * Begins to read everything there is, as of this call or later. What was taken away and acknowledged before the call
   * is not read. `UNAVAILABLE` if the store is closed while another writes whole records into it.
   */
  read(call: Call): Promise<RecordReader>;
  /**
   * Begins to write whole records into a store that holds no user and no room, and never had an admin. Otherwise it is
   * `CONFLICT`, and nothing has changed. From before this is answered until {@link RecordWriter.open}, whatever dies
   * meanwhile, the store denies every check, and every other write is `UNAVAILABLE` with outcome `none`. What a dead
   * writer left may be written over: {@link RecordWriter.clear} removes it first. There is one writer at a time: the
   * next step of an earlier one that has not ended is `CONFLICT`.
   *
   * `run`: the store is the target of that migration. A writer takes over only from one of its own kind: an import, or
   * a migration from the same source. Otherwise it is `CONFLICT`, and nothing has changed. The same holds if the store
   * is `complete`. A store that was moved away from may be the target of a migration from where it was moved to. What
   * it holds then counts as left by a dead writer.
   *
   * From here on no record gets a revision that another store gave to it before. Those are at or below `revisionFloor`.
   */
  write(revisionFloor: number, run: MoveRun | undefined, call: Call): Promise<RecordWriter>;
}

/** Names of users and of rooms. */
export interface RecordNames {
  readonly users: readonly string[];
  readonly rooms: readonly string[];
}

export interface MoveFacts {
  /** No revision that was given so far is above it. */
  readonly revisionCeiling: number;
  /** No revision that is given while a migration goes on will be above it. */
  readonly revisionFloor: number;
  /** Whether any user is, or was, an admin. */
  readonly adminEver: boolean;
}

/**
 * The states are those of moves.ts. A step is `CONFLICT`, and changes nothing, if the store is not in the state from
 * which the step leads, or if it is of another run.
 */
export interface MovingDriver {
  identity(call: Call): Promise<StoreIdentity>;
  /** As of a moment after the call. */
  state(call: Call): Promise<MoveState>;
  /**
   * From `open` to `moving`. Once this is answered, no store of these records proves a check any more, nor acknowledges
   * a write, not even one that was stopped meanwhile. Each is `UNAVAILABLE`, with `details.movingTo` and `since`.
   */
  fence(run: MoveRun, call: Call): Promise<void>;
  /** One of the steps of `moves.ts`, from the state that the run `id` has left. */
  step(name: StepName, id: string, report: MoveReport | undefined, call: Call): Promise<void>;
  /** As of a moment after the call. */
  facts(call: Call): Promise<MoveFacts>;
  /**
   * Reads what there is of these names, or everything, as {@link RecordsDriver.read} does. It reads a fenced store too.
   */
  read(names: RecordNames | undefined, call: Call): Promise<RecordReader>;
}

/**
 * Reads in pages, in bounded memory, however slowly it is asked. Users come first, then each room. A room is followed
 * by its members in the order of their code points, each member by its keys in the order of their epochs. Each user
 * comes once, and each room once, with all that belongs to it as of one version. A backend that has everything in
 * memory reads all of it as of one moment.
 */
export interface RecordReader {
  /** About as many as there are, for whoever waits. */
  readonly expected: RecordCounts;
  /** Whether any user is, or was, an admin. */
  readonly adminEver: boolean;
  /** No revision of a record that is read is above it. Both are compared as numbers to the base of 36. */
  readonly revisionFloor: number;
  /** Some more records, or `undefined` at the end. */
  next(call: Call): Promise<readonly StoredRecord[] | undefined>;
  /** Lets go of what it keeps. It may come at any time, and more than once. */
  close(): Promise<void>;
}

/**
 * Writes what a {@link RecordReader} reads, in that order. The fields, and how they belong together, were checked. It
 * was not checked that each user and each room comes once: a second one is `CORRUPT` where it is seen.
 */
export interface RecordWriter {
  /** Removes some of what is there. `false`: nothing is left. */
  clear(call: Call): Promise<boolean>;
  /** Resolves when the records are durable. No check sees them. */
  write(records: readonly StoredRecord[], call: Call): Promise<void>;
  /**
   * What is named may be written once more after this. The rooms among it are removed, with all that belongs to them.
   * It may be called only between whole rooms.
   */
  renew(names: RecordNames, call: Call): Promise<void>;
  /**
   * Everything was written so far. Nothing that was sent before comes after this, and what is read is what will be
   * there.
   */
  seal(call: Call): Promise<void>;
  /** Reads what is there, once the writer is sealed: of these names, or everything. */
  read(names: RecordNames | undefined, call: Call): Promise<RecordReader>;
  /**
   * To be called by a migration, once the writer is sealed: everything is there. Then the store is `complete`, and no
   * other writer takes over.
   */
  complete(report: MoveReport, adminEver: boolean, call: Call): Promise<void>;
  /**
   * Makes what is there the store: checks and writes work again. `adminEver`: there was an admin once, whoever is one
   * now. `CONFLICT` if another writer has taken over.
   */
  open(adminEver: boolean, call: Call): Promise<void>;
  /**
   * To be called once what was written is removed. The store is then as it was before: open and empty, or moved away
   * from.
   */
  giveBack(call: Call): Promise<void>;
  /** Nobody writes any more. The store stays as it is, closed if it was not opened. */
  release(): void;
}

export interface InspectionDriver {
  /**
   * Begins to look at everything. `repair`: what is wrong and has one right answer is mended. No mend makes a check
   * `true` that was `false`. `UNAVAILABLE` if the store is closed while another writes whole records into it.
   */
  begin(repair: boolean, call: Call): Promise<Inspector>;
}

/**
 * First comes all that only the backend can tell, step by step. Then come the records: what holds of them on every
 * backend is checked in lib/inspect.
 */
export interface Inspector {
  /** Whether a reader tells exactly how many records there are, and whether there ever was an admin. */
  readonly isExact: boolean;
  /** Looks at some more. `undefined`: it is at the end. What others do meanwhile is no fault. */
  next(call: Call): Promise<InspectionStep | undefined>;
  /** The records, but for those that are too damaged to be read. */
  read(call: Call): Promise<RecordReader>;
  /** What only the backend can tell of a record that was read. */
  examine?(record: StoredRecord): Found | undefined;
  /**
   * Gives a member the role that the room's record says. Nothing else of the member changes. `false`: there was no
   * longer anything to mend.
   */
  mendRole(roomId: string, endpoint: string, call: Call): Promise<boolean>;
}

export interface InspectionStep {
  readonly phase: string;
  /** How many more were looked at. */
  readonly done: number;
  /** About how many there are in the phase, where that is known. */
  readonly total?: number;
  readonly findings: readonly Found[];
}

export interface ChangesDriver {
  /**
   * Begins to follow what changes, by whatever store on whatever node. While nobody follows, nothing is kept and
   * nothing is sent. Without `wanted` it may tell of a room only that it has changed, and nothing of its members and
   * keys. `UNAVAILABLE` if the store is closed while another writes whole records into it.
   */
  follow(call: Call, wanted?: Wanted): Promise<ChangeFeed>;
  /**
   * A room with its members and their keys, as of a moment after this call, or of several such moments. `undefined`:
   * there is no such room.
   */
  room(roomId: string, call: Call): Promise<WholeRoom | undefined>;
}

export interface WholeRoom {
  readonly room: Room;
  readonly members: readonly Member[];
  /** By member, the epochs of the keys. */
  readonly keys: ReadonlyMap<string, ReadonlySet<number>>;
}

/** What is wanted of rooms that have changed. Each {@link ChangeFeed.take} looks at it anew. */
export interface Wanted {
  readonly members: boolean;
  readonly keys: boolean;
}

/** One at a time takes from it. */
export interface ChangeFeed {
  /**
   * What has changed since the last time, or since the feed began. What was acknowledged to anyone before this call is
   * in it, or was in an earlier one. What is not acknowledged yet may be in it. Nothing is in it that was not
   * committed. A call that fails has taken nothing: the next one has all of it.
   */
  take(call: Call): Promise<Changes>;
  /** Lets go of what it keeps. It may come at any time, and more than once. */
  close(): void;
}

/** So many records that have changed are kept until they are taken. Users, rooms, members and keys each count once. */
export const MAX_CHANGES = 65_536;

/**
 * What has changed, merged by record. Each record is as it stands at one moment at or after `asOf`, and never older
 * than what was taken of it before. A state in between may be missing, but not that a grant ended.
 */
export interface Changes {
  /**
   * Something may be missing: there was more than {@link MAX_CHANGES}, or nobody can tell. Then the rest of this is of
   * no use, and everything has to be read anew, after this call. The feed goes on from here.
   */
  readonly lost: boolean;
  /** When it was asked, by `performance.now()`. All that was acknowledged before is in it. */
  readonly asOf: number;
  readonly users: ReadonlyMap<string, ChangedUser>;
  /** Rooms that have changed, or whose members or keys have. */
  readonly rooms: ReadonlyMap<string, ChangedRoom>;
}

export interface ChangedUser {
  readonly user: User;
  /**
   * Something was taken away from the user in between, whatever was given back since. The user was revoked or demoted,
   * or its time had run out.
   */
  readonly ended: boolean;
}

export interface ChangedRoom {
  /** A room of this id is gone, with all that belonged to it, whatever is there now. */
  readonly deleted: boolean;
  /** The room as it stands. `undefined`: it is gone, or only keys have changed. */
  readonly room: Room | undefined;
  /** At least the members who changed. All of them, if the room was made in between. None, if it is gone. */
  readonly members: ReadonlyMap<string, ChangedMember>;
  /** By member, the epochs of keys: at least of those that were added. */
  readonly keys: ReadonlyMap<string, ReadonlySet<number>>;
}

export interface ChangedMember {
  /** A membership of the endpoint has ended in between, whatever is there now. */
  readonly ended: boolean;
  /** `undefined`: the endpoint is no member. */
  readonly member: Member | undefined;
}

export interface GrantsDriver {
  /**
   * Begins to follow the grants that are wanted, whoever changes them on whatever node. While nobody follows, nothing
   * is kept and nothing is sent. `wanted` is looked at whenever something is asked or has changed. `UNAVAILABLE` of a
   * store that is closed while another writes whole records into it.
   */
  follow(wanted: WantedGrants, call: Call): Promise<GrantFeed>;
}

/** Whose grants somebody rests on. */
export interface WantedGrants {
  readonly users: Pick<ReadonlyMap<string, unknown>, "has" | "keys">;
  /** By room, the endpoints. */
  readonly members: ReadonlyMap<string, Pick<ReadonlyMap<string, unknown>, "has" | "keys">>;
}

/**
 * What a user or a membership is, and which grant of it: what a check may rest on. Two answers of one feed are of the
 * same grant if and only if nothing was taken away between them, whatever was given back.
 */
export interface UserGrant {
  readonly user: User;
  /**
   * How often something was taken away from the user: revoked, demoted, or its time had run out. Of two answers the
   * difference counts.
   */
  readonly grant: number;
}

export interface MemberGrant {
  readonly joined: boolean;
  /** No other membership of the endpoint in a room of that id has it. */
  readonly membership: string;
}

/** One at a time takes from it. What is read may be read beside that, and is wanted from before it is asked. */
export interface GrantFeed {
  /** The user as a check may take it, at some moment after this call (11, 12). `undefined`: nobody. */
  user(key: string, call: Call): Promise<UserGrant | undefined>;
  /** The same of a membership. `undefined`: no such room or member. */
  member(roomId: string, endpoint: string, call: Call): Promise<MemberGrant | undefined>;
  /**
   * What has changed of what is wanted since the last time, each as it stands at one moment: what was acknowledged to
   * anyone before this call is in it, or was in an earlier one. It never goes back behind what was taken before. A call
   * that fails has taken nothing: the next one has all of it.
   */
  take(call: Call): Promise<ChangedGrants>;
  /** Lets go of what it keeps. It may come at any time, and more than once. */
  close(): void;
}

export interface ChangedGrants {
  /**
   * The records may be others of the same names: the store was closed while whole ones were written, or another log is
   * there. Nobody's grant of before counts any more, and the feed is of no more use.
   */
  readonly isOver: boolean;
  /** `undefined`: nobody, or a record that cannot be read. */
  readonly users: ReadonlyMap<string, UserGrant | undefined>;
  /** By room and endpoint. `undefined`: no member, or a record that cannot be read. */
  readonly members: ReadonlyMap<string, ReadonlyMap<string, MemberGrant | undefined>>;
}
