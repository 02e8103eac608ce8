import type { MemberInput } from "../arguments.js";
import type { Call } from "../call.js";
import type { MembersDriver } from "../driver.js";
import { sortedBy } from "../rules.js";
import { CERTAIN, orCertain } from "./freshness.js";
import type { Member } from "../store.js";
import { writeKey } from "./key-record.js";
import { keys, newId } from "./keys.js";
import { base64 } from "./record-fields.js";
import { toMember } from "./room-record.js";
import { MemberChanges } from "./member-changes.js";
import type { Memberships } from "./memberships.js";
import { holderOf, need } from "./room-members.js";
import type { RoomMembers } from "./room-members.js";
import type { RosterCopies } from "./roster-copies.js";
import { joinAll } from "./join.js";
import type { RoomLog } from "./room-log.js";

export class JetStreamMembers implements MembersDriver {
  readonly #log: RoomLog;
  readonly #members: RoomMembers;
  readonly #copies: RosterCopies;
  readonly #memberships: Memberships;
  readonly #changes: MemberChanges;

  constructor(log: RoomLog, members: RoomMembers, copies: RosterCopies, memberships: Memberships) {
    this.#log = log;
    this.#members = members;
    this.#copies = copies;
    this.#memberships = memberships;
    this.#changes = new MemberChanges(log, members);
  }

  add(roomId: string, input: MemberInput, call: Call): Promise<Member> {
    const { membersByEndpoint, roomKeys } = this.#log.buckets;
    const { endpoint, sealedKey } = input;
    const publicKey = input.publicKey === undefined ? undefined : base64(input.publicKey);
    return this.#changes.change(roomId, endpoint, publicKey?.length ?? 0, call, (rules, room, member, v) => {
      if (member.row !== undefined) throw rules.memberExists(roomId, endpoint);
      rules.checkAdd(room.facts, sealedKey);
      const { record } = room;
      const row = {
        id: newId(),
        v,
        ...(member.expectedSeq === 0 ? {} : { again: v }),
        gone: false,
        owner: false,
        joined: input.state === "joined",
        since: Date.now(),
        invitedBy: input.invitedBy,
        publicKey,
      };
      const indexEntry = keys.indexEntry(endpoint, roomId, record.incarnation, row.id);
      const key = keys.roomKey(holderOf(room, endpoint, row), record.epoch, record.attempt);
      return {
        change: {
          row,
          next: {
            members: record.members + 1,
            // Whoever was a member before has a row.
            ...(record.rows !== undefined && member.expectedSeq === 0 ? { rows: record.rows + 1 } : {}),
          },
          stage: {
            indexEntry: (own) => membersByEndpoint.stage(indexEntry, {}, own),
            ...(sealedKey === undefined
              ? {}
              : { keys: (own) => roomKeys.stage(key, writeKey(sealedKey.sealed, row.since, row.id), own) }),
          },
          undo: (own) =>
            joinAll([
              membersByEndpoint.purge(indexEntry, own),
              ...(sealedKey === undefined ? [] : [roomKeys.purge(key, own)]),
            ]),
          result: toMember(roomId, endpoint, record.incarnation, row),
        },
      };
    });
  }

  async get(roomId: string, endpoint: string, call: Call): Promise<Member> {
    return orCertain(async (round) => {
      const { room, member } = await this.#members.member(roomId, endpoint, round, call);
      return toMember(roomId, endpoint, room.record.incarnation, need(round.rules(member), roomId, endpoint, member));
    });
  }

  join(roomId: string, endpoint: string, call: Call): Promise<Member> {
    return this.#changes.change(roomId, endpoint, 0, call, (rules, room, member, v) => {
      const { incarnation } = room.record;
      const before = need(rules, roomId, endpoint, member);
      if (before.joined) return { done: toMember(roomId, endpoint, incarnation, before) };
      const row = { ...before, joined: true, v };
      return { change: { row, next: {}, result: toMember(roomId, endpoint, incarnation, row) } };
    });
  }

  remove(roomId: string, endpoint: string, call: Call): Promise<void> {
    const { membersByEndpoint, roomKeys } = this.#log.buckets;
    return this.#changes.change(roomId, endpoint, 0, call, (rules, room, member, v) => {
      const { record } = room;
      const before = need(rules, roomId, endpoint, member);
      rules.checkRemove(room.facts, endpoint);
      return {
        change: {
          row: { ...before, gone: true, invitedBy: undefined, publicKey: undefined, v },
          next: { members: record.members - 1, ...(record.encrypted ? { rekeyRequired: true } : {}) },
          cleanUp: (own) => {
            this.#copies.removed(roomId, record, v);
            return joinAll([
              roomKeys.purge(keys.roomKeys(holderOf(room, endpoint, before)), own),
              membersByEndpoint.purge(keys.indexEntry(endpoint, roomId, record.incarnation, before.id), own),
            ]);
          },
          result: undefined,
        },
      };
    });
  }

  async list(roomId: string, call: Call): Promise<Member[]> {
    const { room, members } = await this.#members.roster(roomId, CERTAIN, call);
    const found = Array.from(members, ([endpoint, row]) => toMember(roomId, endpoint, room.record.incarnation, row));
    return sortedBy(found, (member) => member.endpoint);
  }

  async listForEndpoint(endpoint: string, call: Call): Promise<Member[]> {
    const found = await this.#memberships.of(endpoint, call);
    return found.map(({ roomId, record, row }) => toMember(roomId, endpoint, record.incarnation, row));
  }
}
