/** Whole records of a store in memory, out and in. */
import type { RecordNames, RecordReader, RecordWriter, RecordsDriver, StoredRecord, StoredUser } from "../driver.js";
import { StoreError } from "../errors.js";
import { OPEN, completed, givenBack } from "../moves.js";
import type { MoveRun } from "../moves.js";
import { sortedBy } from "../rules.js";
import { answer } from "./memory.js";
import type { Importer, Memory, RoomEntry, UserEntry } from "./memory.js";
import type { KeyRow, MemberRow, RoomRow, UserRow } from "./rows.js";

const PAGE = 500;

export function records(memory: Memory): RecordsDriver {
  return {
    read: () =>
      answer(() => {
        if (memory.refusal !== undefined) throw memory.refusal;
        return readerOf(memory, undefined);
      }),
    write: (revisionFloor, run) =>
      answer(() => {
        const importer = memory.beginImport(revisionFloor, run);
        return writer(memory, importer, run);
      }),
  };
}

/** Of what there is of these names, or of everything. */
export function readerOf(memory: Memory, names: RecordNames | undefined): RecordReader {
  if (names === undefined) return reader(memory, memory.users.values(), memory.rooms.values());
  const { users, rooms } = names;
  return reader(
    memory,
    users.flatMap((key) => memory.users.get(key) ?? []),
    rooms.flatMap((id) => memory.rooms.get(id) ?? []),
  );
}

/** Rows are replaced, never changed: what is taken here stays as it is. */
function reader(memory: Memory, users: Iterable<UserEntry>, rooms: Iterable<RoomEntry>): RecordReader {
  const found: StoredRecord[] = [];
  const counts = { users: 0, rooms: 0, members: 0, roomKeys: 0 };
  for (const { user } of users) {
    counts.users++;
    found.push({ kind: "user", row: { ...user, ...timesOf(user) } });
  }
  for (const { room, members } of rooms) {
    counts.rooms++;
    found.push({ kind: "room", row: { ...room, createdAt: room.createdAt.getTime() } });
    for (const { member, keys } of sortedBy([...members.values()], (entry) => entry.member.endpoint)) {
      counts.members++;
      found.push({ kind: "member", row: { ...member, since: member.since.getTime() } });
      for (const key of [...keys.values()].sort((a, b) => a.epoch - b.epoch)) {
        counts.roomKeys++;
        found.push({ kind: "key", row: { ...key, createdAt: key.createdAt.getTime() } });
      }
    }
  }
  let next = 0;
  return {
    expected: counts,
    adminEver: memory.adminEver,
    revisionFloor: memory.operations,
    next: () =>
      answer(() => {
        const page = found.slice(next, next + PAGE);
        next += page.length;
        return page.length === 0 ? undefined : page;
      }),
    close: () => answer(() => undefined),
  };
}

function timesOf(user: UserRow) {
  return {
    createdAt: user.createdAt.getTime(),
    revokedAt: user.revokedAt?.getTime(),
    expiresAt: user.expiresAt?.getTime(),
  };
}

/** Writes one record after the other. Users of `again` may come once more. */
function recordWriter(memory: Memory, again: Set<string>): (record: StoredRecord) => void {
  let room: RoomEntry | undefined;
  return (record: StoredRecord): void => {
    const { place, revision } = memory.next();
    switch (record.kind) {
      case "user": {
        const { key } = record.row;
        const before = memory.users.get(key);
        if (before !== undefined && !again.delete(key)) throw twice("user");
        memory.setUser(before?.place ?? place, userRow(record.row, revision));
        return;
      }
      case "room": {
        const { id, name, encrypted, owner, epoch, rekeyRequired, createdAt } = record.row;
        if (memory.rooms.has(id)) throw twice("room");
        const row: RoomRow = {
          id,
          name,
          encrypted,
          owner,
          epoch,
          rekeyRequired,
          createdAt: new Date(createdAt),
          revision,
        };
        room = { place, room: row, members: new Map() };
        memory.rooms.set(id, room);
        return;
      }
      case "member": {
        const { since, ...fields } = record.row;
        const member: MemberRow = { ...fields, since: new Date(since), revision };
        room?.members.set(member.endpoint, { member, keys: new Map() });
        return;
      }
      case "key": {
        const { createdAt, ...fields } = record.row;
        const key: KeyRow = { ...fields, createdAt: new Date(createdAt) };
        room?.members.get(key.endpoint)?.keys.set(key.epoch, key);
        return;
      }
    }
  };
}

function writer(memory: Memory, importer: Importer, run: MoveRun | undefined): RecordWriter {
  const again = new Set<string>();
  const write = recordWriter(memory, again);
  const turn = <T>(work: () => T): Promise<T> =>
    answer(() => {
      memory.checkImporter(importer);
      return work();
    });
  return {
    clear: () =>
      turn(() => {
        memory.clear();
        return false;
      }),
    write: (found) =>
      turn(() => {
        for (const record of found) write(record);
      }),
    renew: ({ users, rooms }) =>
      turn(() => {
        for (const key of users) again.add(key);
        for (const id of rooms) memory.rooms.delete(id);
      }),
    seal: () => turn(() => undefined),
    read: (names) => turn(() => readerOf(memory, names)),
    complete: (report, adminEver) =>
      turn(() => {
        memory.endImport(adminEver, completed(memory.state, run, report));
      }),
    open: (adminEver) =>
      turn(() => {
        memory.endImport(adminEver, OPEN);
      }),
    giveBack: () =>
      turn(() => {
        memory.endImport(false, givenBack(memory.state));
      }),
    // Nothing is kept: whoever begins next takes over.
    release: () => undefined,
  };
}

function userRow({ createdAt, revokedAt, expiresAt, key, role, status, name }: StoredUser, revision: string): UserRow {
  return {
    key,
    role,
    status,
    name,
    createdAt: new Date(createdAt),
    revokedAt: revokedAt === undefined ? undefined : new Date(revokedAt),
    expiresAt: expiresAt === undefined ? undefined : new Date(expiresAt),
    revision,
  };
}

function twice(what: string): StoreError {
  return new StoreError("CORRUPT", `A ${what} is in the export twice`);
}
