/** Records of which several are told: each has its own copy, in depth. */
import type { Member, Room, User } from "./store.js";

export function copyOfUser(user: User): User {
  const { createdAt, revokedAt, expiresAt } = user;
  return {
    ...user,
    createdAt: new Date(createdAt),
    ...(revokedAt === undefined ? {} : { revokedAt: new Date(revokedAt) }),
    ...(expiresAt === undefined ? {} : { expiresAt: new Date(expiresAt) }),
  };
}

export const copyOfRoom = (room: Room): Room => ({ ...room, createdAt: new Date(room.createdAt) });

export function copyOfMember(member: Member): Member {
  const { since, publicKey } = member;
  return {
    ...member,
    since: new Date(since),
    ...(publicKey === undefined ? {} : { publicKey: new Uint8Array(publicKey) }),
  };
}
