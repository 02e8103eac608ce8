/**
 * What a backend implements. `MembershipStore` stands in front of it: a driver sees arguments that were checked and
 * copied, a `Call` that ends in time, and no call after its close has begun.
 */
import type { Call } from "./call.js";
import type {
  MemberInput,
  PageInput,
  RekeyArguments,
  RoomChangeInput,
  RoomInput,
  UserChangeInput,
  UserInput,
} from "./arguments.js";
import type { UserFacts } from "./rules.js";
import type { Member, Page, Room, RoomKey, User } from "./store.js";

export interface Driver {
  readonly backend: string;
  readonly rooms: RoomsDriver;
  readonly members: MembersDriver;
  readonly roomKeys: RoomKeysDriver;
  readonly users: UsersDriver;
  /** Reads that a check may answer `true` on. */
  readonly proofs: Proofs;
  close(): Promise<void>;
}

/** Each proof is as fresh as the moment of the call, so that what was taken away before it is not seen. */
export type Proofs = ProofsInMemory | ProofsByAsking;

/** Of a backend that has everything in memory: a check then costs no timer, and makes no record that nobody looks at. */
export interface ProofsInMemory {
  readonly synchronous: true;
  /** The user, in the state that a check may act on, or `undefined` for nobody. */
  user(key: string): User | undefined;
  /** What the rules need to know of the same user. */
  facts(key: string): UserFacts | undefined;
  /** Whether the endpoint has joined the room. Anything may be asked for: what is no id names nobody. */
  joined(roomId: string, endpoint: string): boolean;
  /** Whether an active admin exists whose time has not run out at `now` (milliseconds since 1970). */
  admin(now: number): boolean;
  /** Whether this memory is surely the newest state at `now`: nobody else may have changed it. */
  isCurrent(now: number): boolean;
  /** Resolves when it is again. Rejects if it is not, or if that cannot be told. */
  renew(): Promise<void>;
}

/** Of a backend that has to ask others. */
export interface ProofsByAsking {
  readonly synchronous: false;
  user(key: string, call: Call): Promise<User | undefined>;
  /** What the rules need to know of the same user, which can be had for less than the record. */
  facts(key: string, call: Call): Promise<UserFacts | undefined>;
  joined(roomId: string, endpoint: string, call: Call): Promise<boolean>;
  /** `now` is asked when the answer is there: waiting takes time. */
  admin(now: () => number, call: Call): Promise<boolean>;
}

export interface RoomsDriver {
  create(room: RoomInput, call: Call): Promise<Room>;
  get(id: string, call: Call): Promise<Room>;
  update(id: string, change: RoomChangeInput, ifRevision: string | undefined, call: Call): Promise<Room>;
  delete(id: string, call: Call): Promise<void>;
  list(page: PageInput, call: Call): Promise<Page<Room>>;
  listForEndpoint(endpoint: string, call: Call): Promise<Room[]>;
}

export interface MembersDriver {
  add(roomId: string, member: MemberInput, call: Call): Promise<Member>;
  get(roomId: string, endpoint: string, call: Call): Promise<Member>;
  join(roomId: string, endpoint: string, call: Call): Promise<Member>;
  remove(roomId: string, endpoint: string, call: Call): Promise<void>;
  list(roomId: string, call: Call): Promise<Member[]>;
  listForEndpoint(endpoint: string, call: Call): Promise<Member[]>;
}

export interface RoomKeysDriver {
  put(roomId: string, endpoint: string, epoch: number, sealed: Uint8Array, call: Call): Promise<RoomKey>;
  get(roomId: string, endpoint: string, epoch: number | undefined, call: Call): Promise<RoomKey>;
  list(roomId: string, endpoint: string, call: Call): Promise<RoomKey[]>;
  rekey(roomId: string, sealed: ReadonlyMap<string, Uint8Array>, options: RekeyArguments, call: Call): Promise<Room>;
}

export interface UsersDriver {
  add(user: UserInput, call: Call): Promise<User>;
  addFirstAdmin(user: UserInput, call: Call): Promise<User>;
  get(key: string, call: Call): Promise<User>;
  update(key: string, change: UserChangeInput, ifRevision: string | undefined, call: Call): Promise<User>;
  revoke(key: string, call: Call): Promise<User>;
  reinstate(key: string, call: Call): Promise<User>;
  list(page: PageInput, call: Call): Promise<Page<User>>;
}
