/** Which sessions rest on which user, and on which memberships. */
import type { WantedGrants } from "../driver.js";
import type { LiveSession } from "./session.js";

/** Those who rest on a membership, each with its place among all of the session's. */
type Resting = Map<LiveSession, number[]>;

export class SessionsByGrant implements WantedGrants {
  readonly users = new Map<string, Set<LiveSession>>();
  readonly members = new Map<string, Map<string, Resting>>();

  add(session: LiveSession): void {
    const ofUser = this.users.get(session.key);
    if (ofUser === undefined) this.users.set(session.key, new Set([session]));
    else ofUser.add(session);
    for (const [place, { roomId, endpoint }] of session.input.memberOf.entries()) {
      let ofRoom = this.members.get(roomId);
      if (ofRoom === undefined) this.members.set(roomId, (ofRoom = new Map<string, Resting>()));
      let ofMember = ofRoom.get(endpoint);
      if (ofMember === undefined) ofRoom.set(endpoint, (ofMember = new Map<LiveSession, number[]>()));
      ofMember.set(session, [...(ofMember.get(session) ?? []), place]);
    }
  }

  delete(session: LiveSession): void {
    const ofUser = this.users.get(session.key);
    ofUser?.delete(session);
    if (ofUser?.size === 0) this.users.delete(session.key);
    for (const { roomId, endpoint } of session.input.memberOf) {
      const ofRoom = this.members.get(roomId);
      const ofMember = ofRoom?.get(endpoint);
      ofMember?.delete(session);
      if (ofMember?.size === 0) ofRoom?.delete(endpoint);
      if (ofRoom?.size === 0) this.members.delete(roomId);
    }
  }
}
