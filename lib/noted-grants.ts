/**
 * The grants that are wanted, for a backend that sees each change and counts none: which have changed, and how often
 * each has ended since it is wanted.
 */
import type { ChangeNotes } from "./changed-names.js";
import type { ChangedGrants, GrantFeed, MemberGrant, UserGrant, WantedGrants } from "./driver.js";

/** What the backend knows of a record just now. */
export interface GrantReads {
  user(key: string): UserGrant["user"] | undefined;
  /** Whether a member has joined. `undefined`: no member. */
  joined(roomId: string, endpoint: string): boolean | undefined;
}

export class NotedGrants implements ChangeNotes {
  readonly #wanted: WantedGrants;
  readonly #reads: GrantReads;
  #users = new Set<string>();
  #members = new Map<string, Set<string>>();
  #isOver = false;
  readonly #endedUsers = new Map<string, number>();
  readonly #endedMembers = new Map<string, Map<string, number>>();

  constructor(wanted: WantedGrants, reads: GrantReads) {
    this.#wanted = wanted;
    this.#reads = reads;
  }

  readUser(key: string): UserGrant | undefined {
    const user = this.#reads.user(key);
    return user === undefined ? undefined : { user, grant: this.#endedUsers.get(key) ?? 0 };
  }

  readMember(roomId: string, endpoint: string): MemberGrant | undefined {
    const joined = this.#reads.joined(roomId, endpoint);
    if (joined === undefined) return undefined;
    return { joined, membership: String(this.#endedMembers.get(roomId)?.get(endpoint) ?? 0) };
  }

  take(): ChangedGrants {
    const changed: ChangedGrants = {
      isOver: this.#isOver,
      users: new Map(Array.from(this.#users, (key) => [key, this.readUser(key)])),
      members: new Map(
        Array.from(this.#members, ([roomId, endpoints]) => [
          roomId,
          new Map(Array.from(endpoints, (endpoint) => [endpoint, this.readMember(roomId, endpoint)])),
        ]),
      ),
    };
    this.#users = new Set();
    this.#members = new Map();
    this.#forget();
    return changed;
  }

  /** Nobody compares what is not wanted. Where it is wanted again, it is counted anew. */
  #forget(): void {
    const { users, members } = this.#wanted;
    for (const key of this.#endedUsers.keys()) if (!users.has(key)) this.#endedUsers.delete(key);
    for (const [roomId, endpoints] of this.#endedMembers) {
      const wanted = members.get(roomId);
      for (const endpoint of endpoints.keys()) if (wanted?.has(endpoint) !== true) endpoints.delete(endpoint);
      if (endpoints.size === 0) this.#endedMembers.delete(roomId);
    }
  }

  user(key: string, ended: boolean): void {
    if (!this.#wanted.users.has(key)) return;
    this.#users.add(key);
    if (ended) this.#endedUsers.set(key, (this.#endedUsers.get(key) ?? 0) + 1);
  }

  member(roomId: string, endpoint: string, ended: boolean): void {
    if (this.#wanted.members.get(roomId)?.has(endpoint) !== true) return;
    mapOf(this.#members, roomId, () => new Set<string>()).add(endpoint);
    if (!ended) return;
    const endings = mapOf(this.#endedMembers, roomId, () => new Map<string, number>());
    endings.set(endpoint, (endings.get(endpoint) ?? 0) + 1);
  }

  roomDeleted(id: string): void {
    for (const endpoint of this.#wanted.members.get(id)?.keys() ?? []) this.member(id, endpoint, true);
  }

  lose(): void {
    this.#isOver = true;
  }

  room(): void {
    // A room's name and owner are nobody's grant.
  }

  key(): void {
    // Nor are keys.
  }
}

/** The feed of these notes. `open` rejects where the store may not be used any more, and reads otherwise. */
export function feedOf(noted: NotedGrants, open: <T>(read: () => T) => Promise<T>, close: () => void): GrantFeed {
  return {
    user: (key) => open(() => noted.readUser(key)),
    member: (roomId, endpoint) => open(() => noted.readMember(roomId, endpoint)),
    take: () => open(() => noted.take()),
    close,
  };
}

function mapOf<V>(maps: Map<string, V>, key: string, make: () => V): V {
  let found = maps.get(key);
  if (found === undefined) maps.set(key, (found = make()));
  return found;
}
