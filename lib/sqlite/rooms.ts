import { randomBytes } from "node:crypto";
import { cursor, toCursor, type RoomChangeInput, type RoomInput } from "../arguments.js";
import type { RoomsDriver } from "../driver.js";
import { byCodePoint, checkOwner, checkRevision, roomExists } from "../rules.js";
import type { Room } from "../store.js";
import type { Change } from "./changes.js";
import { answer, needRoom } from "./database.js";
import type { Database, Step, Transaction } from "./database.js";
import { roomRecord, toRevision } from "./rows.js";
import type { MemberRow, RoomRow } from "./rows.js";

export function rooms(database: Database): RoomsDriver {
  const { tables, view } = database;
  return {
    create: (input, call) => database.write(call, (transaction) => created(database, input, transaction)),

    get: (id) =>
      answer(() => {
        return roomRecord(needRoom(tables.rooms.row(id), id));
      }),

    update: (id, change, ifRevision, call) =>
      database.write(call, ({ sequence }) => updated(view, id, change, ifRevision, toRevision(sequence))),

    delete: (id, call) =>
      database.write(call, () => {
        const room = needRoom(view.room(id), id);
        return { changes: [{ kind: "roomGone", id, ordinal: room.ordinal }], takesAway: true, result: () => undefined };
      }),

    list: (page) =>
      answer(() => {
        const { rows, next } = tables.rooms.page(cursor(page.after), page.limit);
        return {
          items: rows.map(roomRecord),
          ...(next === undefined ? {} : { next: toCursor(next) }),
        };
      }),

    listForEndpoint: (endpoint) =>
      answer(() => {
        const found = tables.rooms.roomsOf(endpoint).map(roomRecord);
        return found.sort((a, b) => byCodePoint(a.id, b.id));
      }),
  };
}

function created(database: Database, input: RoomInput, { sequence, now }: Transaction): Step<Room> {
  const id = input.id ?? randomBytes(16).toString("base64url");
  if (database.view.room(id) !== undefined) throw roomExists(id);
  const revision = toRevision(sequence);
  const { name, encrypted, owner, ownerPublicKey: publicKey, sealedKey } = input;
  const epoch = sealedKey === undefined ? 0 : 1;
  const row: RoomRow = {
    ordinal: database.nextRoom(),
    id,
    name,
    encrypted,
    owner,
    epoch,
    rekeyRequired: false,
    createdAt: now,
    revision,
  };
  const member: MemberRow = {
    roomId: id,
    endpoint: owner,
    role: "owner",
    state: "joined",
    invitedBy: undefined,
    publicKey,
    since: now,
    revision,
  };
  const changes: Change[] = [
    { kind: "room", row },
    { kind: "member", row: member },
  ];
  if (sealedKey !== undefined)
    changes.push({ kind: "key", row: { roomId: id, endpoint: owner, epoch, sealed: sealedKey, createdAt: now } });
  return { changes, result: () => roomRecord(row) };
}

function updated(
  view: Database["view"],
  id: string,
  change: RoomChangeInput,
  ifRevision: string | undefined,
  revision: string,
): Step<Room> {
  const room = needRoom(view.room(id), id);
  checkRevision(room.revision, ifRevision);
  const owner = change.owner ?? room.owner;
  const name = change.name ?? room.name;
  if (owner === room.owner && name === room.name) return { changes: [], result: () => roomRecord(room) };
  const row: RoomRow = { ...room, name, owner, revision };
  const changes: Change[] = [{ kind: "room", row }];
  if (owner !== room.owner) {
    const heir = view.member(id, owner);
    checkOwner(id, owner, heir);
    const before = view.member(id, room.owner);
    if (before !== undefined) changes.push({ kind: "member", row: { ...before, role: "member", revision } });
    if (heir !== undefined) changes.push({ kind: "member", row: { ...heir, role: "owner", revision } });
  }
  return { changes, result: () => roomRecord(row) };
}
