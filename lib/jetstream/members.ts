import type { MemberInput } from "../arguments.js";
import type { Call } from "../call.js";
import type { MembersDriver } from "../driver.js";
import { isNotFound } from "../errors.js";
import * as rules from "../rules.js";
import type { Member } from "../store.js";
import { base64, keys, newId, toMember, writeKey } from "./records.js";
import type { MemberRow } from "./records.js";
import { holderOf, need, orFresh } from "./room-log.js";
import type { RoomLog } from "./room-log.js";

export class JetStreamMembers implements MembersDriver {
  readonly #log: RoomLog;

  constructor(log: RoomLog) {
    this.#log = log;
  }

  /** Whether the endpoint has joined, as of a moment after this call. */
  async provedJoined(roomId: string, endpoint: string, call: Call): Promise<boolean> {
    const { rooms } = this.#log.buckets;
    try {
      // Every change of a membership is committed in `rooms`: if its record is fresh, so are the rows that it demands.
      const { member } = await this.#log.member(roomId, endpoint, await rooms.fresh(call), call);
      return member.row?.joined === true;
    } catch (error) {
      if (isNotFound(error)) return false;
      throw error;
    }
  }

  add(roomId: string, input: MemberInput, call: Call): Promise<Member> {
    const { membersByEndpoint, roomKeys } = this.#log.buckets;
    const { endpoint, sealedKey } = input;
    return this.#log.change(roomId, call, async (min) => {
      const { room, member } = await this.#log.member(roomId, endpoint, min, call);
      if (member.row !== undefined) throw rules.memberExists(roomId, endpoint);
      rules.checkAdd(room.facts, sealedKey);
      const { record } = room;
      const now = Date.now();
      const row: MemberRow = {
        id: newId(),
        v: record.v + 1,
        gone: false,
        owner: false,
        joined: input.state === "joined",
        since: now,
        invitedBy: input.invitedBy,
        publicKey: input.publicKey === undefined ? undefined : base64(input.publicKey),
      };
      const hint = keys.hint(endpoint, roomId, record.incarnation, row.id);
      const key = keys.roomKey(holderOf(room, endpoint, row), record.epoch, record.attempt);
      return {
        room,
        step: {
          commit: {
            stage: {
              hint: () => membersByEndpoint.stage(hint, {}, call),
              ...(sealedKey === undefined
                ? {}
                : { keys: () => roomKeys.stage(key, writeKey(sealedKey.sealed, now, row.id), call) }),
            },
            undo: (own) =>
              Promise.allSettled([membersByEndpoint.purge(hint, own), ...(sealedKey === undefined ? [] : [roomKeys.purge(key, own)])]),
            changes: [{ endpoint, after: member.after, row }],
            next: { v: row.v, members: record.members + 1 },
            result: () => toMember(roomId, endpoint, record.incarnation, row),
          },
        },
      };
    });
  }

  async get(roomId: string, endpoint: string, call: Call): Promise<Member> {
    const { rooms } = this.#log.buckets;
    return orFresh(
      (min) => this.#get(roomId, endpoint, min, call),
      () => rooms.fresh(call),
    );
  }

  async #get(roomId: string, endpoint: string, min: number, call: Call): Promise<Member> {
    const { room, member } = await this.#log.member(roomId, endpoint, min, call);
    return toMember(roomId, endpoint, room.record.incarnation, need(roomId, endpoint, member));
  }

  join(roomId: string, endpoint: string, call: Call): Promise<Member> {
    return this.#log.change(roomId, call, async (min) => {
      const { room, member } = await this.#log.member(roomId, endpoint, min, call);
      const { record } = room;
      const before = need(roomId, endpoint, member);
      if (before.joined) return { room, step: { done: toMember(roomId, endpoint, record.incarnation, before) } };
      const row: MemberRow = { ...before, joined: true, v: record.v + 1 };
      return {
        room,
        step: {
          commit: {
            changes: [{ endpoint, after: member.after, row }],
            next: { v: row.v },
            result: () => toMember(roomId, endpoint, record.incarnation, row),
          },
        },
      };
    });
  }

  remove(roomId: string, endpoint: string, call: Call): Promise<void> {
    const { membersByEndpoint, roomKeys } = this.#log.buckets;
    return this.#log.change<undefined>(roomId, call, async (min) => {
      const { room, member } = await this.#log.member(roomId, endpoint, min, call);
      const { record } = room;
      const before = need(roomId, endpoint, member);
      rules.checkRemove(room.facts, endpoint);
      const row: MemberRow = { ...before, gone: true, invitedBy: undefined, publicKey: undefined, v: record.v + 1 };
      return {
        room,
        step: {
          commit: {
            changes: [{ endpoint, after: member.after, row }],
            next: { v: row.v, members: record.members - 1, rekeyRequired: record.encrypted },
            result: () => undefined,
            after: (own) =>
              Promise.allSettled([
                roomKeys.purge(keys.roomKeys(holderOf(room, endpoint, before)), own),
                membersByEndpoint.purge(keys.hint(endpoint, roomId, record.incarnation, before.id), own),
              ]),
          },
        },
      };
    });
  }

  async list(roomId: string, call: Call): Promise<Member[]> {
    const { room, members } = await this.#log.roster(roomId, await this.#log.buckets.rooms.fresh(call), call);
    const found = Array.from(members, ([endpoint, row]) => toMember(roomId, endpoint, room.record.incarnation, row));
    return rules.sortedBy(found, (member) => member.endpoint);
  }
}
