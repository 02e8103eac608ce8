import { randomBytes } from "node:crypto";
import { cursor, toCursor } from "../arguments.js";
import type { PageInput, RoomChangeInput, RoomInput } from "../arguments.js";
import type { Call } from "../call.js";
import type { RoomsDriver } from "../driver.js";
import { orCertain } from "./freshness.js";
import type { Page, Room } from "../store.js";
import type { Memberships } from "./memberships.js";
import { writeKey } from "./key-record.js";
import { keys } from "./keys.js";
import { base64 } from "./record-fields.js";
import { toRoom, type MemberRow } from "./room-record.js";
import type { RoomIndex } from "./room-index.js";
import type { RoomLifecycle } from "./room-lifecycle.js";
import { memberFacts, need } from "./room-members.js";
import type { RoomMembers } from "./room-members.js";
import { seqIn } from "./seq.js";
import type { RoomLog } from "./room-log.js";

/** A place in the index of rooms, and not in `rooms`, of which a version before it gave the places. */
const CURSOR = "i";

export class JetStreamRooms implements RoomsDriver {
  readonly #log: RoomLog;
  readonly #lifecycle: RoomLifecycle;
  readonly #members: RoomMembers;
  readonly #memberships: Memberships;
  readonly #index: RoomIndex;

  constructor(
    log: RoomLog,
    lifecycle: RoomLifecycle,
    members: RoomMembers,
    memberships: Memberships,
    index: RoomIndex,
  ) {
    this.#log = log;
    this.#lifecycle = lifecycle;
    this.#members = members;
    this.#memberships = memberships;
    this.#index = index;
  }

  create(input: RoomInput, call: Call): Promise<Room> {
    const roomId = input.id ?? randomBytes(16).toString("base64url");
    const { membersByEndpoint, roomKeys } = this.#log.buckets;
    return this.#lifecycle.create(roomId, call, ({ incarnation, membership, attempt }) => {
      const now = Date.now();
      const { sealedKey, owner } = input;
      const indexEntry = keys.indexEntry(owner, roomId, incarnation, membership);
      const at = { roomId, endpoint: owner, incarnation, membership };
      const key = keys.roomKey(at, 1, attempt);
      const row: MemberRow = {
        id: membership,
        v: 1,
        of: 1,
        members: 1,
        gone: false,
        owner: true,
        joined: true,
        since: now,
        invitedBy: undefined,
        publicKey: input.ownerPublicKey === undefined ? undefined : base64(input.ownerPublicKey),
      };
      return {
        stage: {
          indexEntry: (own) => membersByEndpoint.stage(indexEntry, {}, own),
          ...(sealedKey === undefined
            ? {}
            : { keys: (own) => roomKeys.stage(key, writeKey(sealedKey, now, attempt), own) }),
        },
        undo: (own) =>
          Promise.allSettled([
            membersByEndpoint.purge(indexEntry, own),
            membersByEndpoint.purge(keys.roomIndexEntry(roomId, incarnation), own),
            ...(sealedKey === undefined ? [] : [roomKeys.purge(key, own)]),
          ]),
        record: {
          incarnation,
          roster: incarnation,
          rows: 1,
          v: 1,
          name: input.name,
          encrypted: input.encrypted,
          owner,
          epoch: sealedKey === undefined ? 0 : 1,
          attempt,
          rekeyRequired: false,
          createdAt: now,
          members: 1,
          membersSeq: 0,
          head: [{ endpoint: owner, after: 0, row }],
        },
        result: (record) => toRoom(roomId, record),
      };
    });
  }

  get(id: string, call: Call): Promise<Room> {
    return orCertain(async (round) => toRoom(id, (await this.#log.records.room(id, round, call)).record));
  }

  update(id: string, change: RoomChangeInput, ifRevision: string | undefined, call: Call): Promise<Room> {
    return this.#log.change(id, call, async (round) => {
      const room = await this.#log.records.room(id, round, call);
      const { record, facts } = room;
      round.rules(room).checkRevision(facts.revision, ifRevision);
      const owner = change.owner ?? record.owner;
      const name = change.name ?? record.name;
      if (owner === record.owner) {
        if (name === record.name) return { room, step: { done: toRoom(id, record) } };
        return { room, step: { commit: { next: { v: record.v + 1, name }, result: (next) => toRoom(id, next) } } };
      }
      const pair = [record.owner, owner] as const;
      const members = await this.#members.currentMembers(room, pair, round.freshness, call);
      if (members === undefined) return { room, step: "again" };
      const [before, successor] = members;
      round.rules(successor).checkOwner(id, owner, memberFacts(successor.row));
      const from = need(round.rules(before), id, record.owner, before);
      const to = need(round.rules(successor), id, owner, successor);
      const v = record.v + 1;
      return {
        room,
        step: {
          commit: {
            changes: [
              {
                endpoint: record.owner,
                member: before,
                row: { ...from, owner: false, v, of: 2, members: record.members },
              },
              { endpoint: owner, member: successor, row: { ...to, owner: true, v, of: 2, members: record.members } },
            ],
            next: { v, name, owner },
            result: (next) => toRoom(id, next),
          },
        },
      };
    });
  }

  delete(id: string, call: Call): Promise<void> {
    return this.#lifecycle.delete(id, call);
  }

  async list(page: PageInput, call: Call): Promise<Page<Room>> {
    const { rooms, next } = await this.#index.page(
      seqIn("rooms_by_member", cursor(page.after, CURSOR)),
      page.limit,
      call,
    );
    const items = rooms.map(({ roomId, record }) => toRoom(roomId, record));
    return next === undefined ? { items } : { items, next: toCursor(next, CURSOR) };
  }

  async listForEndpoint(endpoint: string, call: Call): Promise<Room[]> {
    const found = await this.#memberships.of(endpoint, call);
    return found.map(({ roomId, record }) => toRoom(roomId, record));
  }
}
