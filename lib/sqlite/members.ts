import type { MemberInput } from "../arguments.js";
import type { MembersDriver } from "../driver.js";
import { byCodePoint, checkAdd, checkRemove, memberExists } from "../rules.js";
import type { Member } from "../store.js";
import type { Change } from "./changes.js";
import { answer, needMember, needRoom } from "./database.js";
import type { Database, Step, Transaction } from "./database.js";
import { memberRecord, toRevision } from "./rows.js";
import type { MemberRow, RoomRow } from "./rows.js";

export function members(database: Database): MembersDriver {
  const { tables, view } = database;

  return {
    add: (roomId, input, call) => database.write(call, (transaction) => added(view, roomId, input, transaction)),

    get: (roomId, endpoint) =>
      answer(() => {
        const room = needRoom(tables.rooms.get(roomId), roomId);
        const member = needMember(room.members.get(endpoint), roomId, endpoint);
        return memberRecord(member.row);
      }),

    join: (roomId, endpoint, call) =>
      database.write(call, ({ sequence }) => {
        const room = needRoom(view.room(roomId), roomId);
        const member = needMember(view.member(roomId, endpoint), roomId, endpoint);
        if (member.state === "joined") return { changes: [], result: () => memberRecord(member) };
        const row: MemberRow = { ...member, state: "joined", revision: toRevision(sequence) };
        return { changes: [touched(room, sequence), { kind: "member", row }], result: () => memberRecord(row) };
      }),

    remove: (roomId, endpoint, call) =>
      database.write(call, ({ sequence }) => {
        const room = needRoom(view.room(roomId), roomId);
        needMember(view.member(roomId, endpoint), roomId, endpoint);
        checkRemove(room, endpoint);
        return {
          changes: [touched(room, sequence, room.encrypted), { kind: "memberGone", roomId, endpoint }],
          takesAway: true,
          result: () => undefined,
        };
      }),

    list: (roomId) =>
      answer(() => {
        const room = needRoom(tables.rooms.get(roomId), roomId);
        const found = room.members.all().map(({ row }) => memberRecord(row));
        return found.sort((a, b) => byCodePoint(a.endpoint, b.endpoint));
      }),

    listForEndpoint: (endpoint) =>
      answer(() => {
        const found = tables.rooms.membersOf(endpoint).map(memberRecord);
        return found.sort((a, b) => byCodePoint(a.roomId, b.roomId));
      }),
  };
}

/** What changes of a room when its membership does. */
const touched = (room: RoomRow, sequence: number, rekeyRequired = room.rekeyRequired): Change => ({
  kind: "room",
  row: { ...room, rekeyRequired, revision: toRevision(sequence) },
});

function added(
  view: Database["view"],
  roomId: string,
  { endpoint, state, invitedBy, publicKey, sealedKey }: MemberInput,
  { sequence, now }: Transaction,
): Step<Member> {
  const room = needRoom(view.room(roomId), roomId);
  if (view.member(roomId, endpoint) !== undefined) throw memberExists(roomId, endpoint);
  checkAdd(room, sealedKey);
  const row: MemberRow = {
    roomId,
    endpoint,
    role: "member",
    state,
    invitedBy,
    publicKey,
    since: now,
    revision: toRevision(sequence),
  };
  const changes: Change[] = [touched(room, sequence), { kind: "member", row }];
  if (sealedKey !== undefined) {
    const { epoch, sealed } = sealedKey;
    changes.push({ kind: "key", row: { roomId, endpoint, epoch, sealed, createdAt: now } });
  }
  return { changes, result: () => memberRecord(row) };
}
