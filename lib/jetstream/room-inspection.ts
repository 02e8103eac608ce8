/**
 * Looks at one room: its record against the rows of its members, their entries in the index, and the attempts of its
 * epochs. All of it is looked at as of one version of the record. What seems wrong is looked at again, because a
 * replica can miss rows.
 */
import type { Call } from "../call.js";
import { isCorrupt } from "../errors.js";
import { named, type Found } from "../findings.js";
import type { Entry } from "./entry.js";
import { inParallel, joinAll } from "./join.js";
import { readEpoch } from "./key-record.js";
import { endpointOf, isImported, keys, parseKey, type Key } from "./keys.js";
import { MAX_ROWS } from "./member-changes.js";
import { purgeUpTo } from "./raw-pages.js";
import { RetryLoop } from "./retry-loop.js";
import type { RoomIndex } from "./room-index.js";
import type { RoomLog } from "./room-log.js";
import type { RoomMembers } from "./room-members.js";
import { readMember, type MemberRow, type PlacedRow } from "./room-record.js";
import type { LiveRoom, RoomRecords } from "./room-records.js";
import type { Seq } from "./seq.js";

/** What seems wrong has to seem so in this many looks. Each begins after the one before it has ended. */
const LOOKS = 3;
/** A room that changes all the time is given up after so many looks. */
const MAX_LOOKS = 32;
/** A mend can show another fault, and removes at most {@link MAX_ROWS} rows. So a room is mended up to this often. */
const PASSES = 64;
const AT_ONCE = 64;

const NO_CHANGE =
  "The last change that the record names is none that can have been made: restore a backup, or delete the room";

/** Something that is wrong. Where it has one right answer, `mend` gives it. */
interface Problem {
  readonly code: Found["code"];
  readonly record: string;
  readonly message: string;
  readonly mend?: Mend;
  /** It keeps nobody from reading the room. Of some codes that is always so: {@link HARMLESS}. */
  readonly isHarmless?: true;
}

type Mend = (call: Call) => Promise<unknown>;

/** A room as it was looked at. */
type Looked = Pick<LiveRoom, "id" | "seq" | "record">;

/** What an inspection of a room answers. */
export interface RoomFindings {
  readonly findings: readonly Found[];
  /** Whether its members and keys can be read as a whole. */
  readonly isReadable: boolean;
  /** Whether something is wrong that was not mended. */
  readonly isDoubted: boolean;
}

const HARMLESS: ReadonlySet<Found["code"]> = new Set(["ROOM_NOT_INDEXED", "MEMBER_NOT_INDEXED", "EPOCH_INVALID"]);

const nameOf = ({ code, record }: Problem): string => `${code} ${record}`;

export class RoomInspection {
  readonly #log: RoomLog;
  readonly #records: RoomRecords;
  readonly #members: RoomMembers;
  readonly #index: RoomIndex;
  readonly #repair: boolean;

  constructor(log: RoomLog, members: RoomMembers, index: RoomIndex, repair: boolean) {
    this.#log = log;
    this.#records = log.records;
    this.#members = members;
    this.#index = index;
    this.#repair = repair;
  }

  async room(roomId: string, call: Call): Promise<RoomFindings> {
    const told = new Map<string, Problem>();
    let problems: readonly Problem[] = [];
    try {
      for (let pass = 0; pass < PASSES; pass++) {
        problems = await this.#persistent(roomId, call);
        for (const problem of problems) told.set(nameOf(problem), problem);
        const mends = [...new Set(problems.flatMap(({ mend }) => (mend === undefined ? [] : [mend])))];
        if (!this.#repair || mends.length === 0) break;
        await inParallel(mends, AT_ONCE, async (mend) => {
          await mend(call);
        });
      }
    } catch (error) {
      // The damaged record itself is told where its bucket is looked at.
      if (!isCorrupt(error)) throw error;
      return { findings: [], isReadable: false, isDoubted: true };
    }
    const left = new Set(problems.map(nameOf));
    const findings = Array.from(told.values(), ({ code, record, message, mend }): Found => {
      const isMended = mend !== undefined && this.#repair && !left.has(nameOf({ code, record, message }));
      return { code, record, message, repaired: isMended };
    });
    const isReadable = problems.every(({ code, isHarmless }) => isHarmless ?? HARMLESS.has(code));
    return { findings, isReadable, isDoubted: problems.length > 0 };
  }

  /** What is wrong in all of several looks at the same version. */
  async #persistent(roomId: string, call: Call): Promise<readonly Problem[]> {
    let before: { readonly seq: Seq<"rooms">; readonly names: ReadonlySet<string> } | undefined;
    let looks = 0;
    const retries = new RetryLoop(call);
    for (let i = 0; i < MAX_LOOKS; i++) {
      await retries.next();
      const began = performance.now();
      const { seq, record } = await this.#records.slot(roomId, "certain", call);
      if (record === undefined) return [];
      const problems = await this.#look({ id: roomId, seq, record }, call);
      if (problems.length === 0) return [];
      // A large room takes long. It is stuck only if nothing goes forward.
      call.extend(performance.now() - began);
      if ((await this.#records.buckets.rooms.stands(keys.room(roomId), seq, call)) === undefined) continue;
      const known = before;
      const both = known?.seq === seq ? problems.filter((problem) => known.names.has(nameOf(problem))) : problems;
      looks = known?.seq === seq ? looks + 1 : 1;
      if (both.length === 0) return [];
      if (looks >= LOOKS) return both;
      before = { seq, names: new Set(both.map(nameOf)) };
    }
    return [];
  }

  async #look(room: Looked, call: Call): Promise<Problem[]> {
    const behind = await this.#behind(room, call);
    if (behind.length > 0) return behind;
    const head = headFaults(room);
    if (head.length > 0) return head;
    const rows = await this.#rows(room, call);
    const problems = this.#memberFaults(room, rows);
    // Where a row should not be there, its missing index entry is no fault.
    if (problems.length === 0) problems.push(...(await this.#indexFaults(room, rows, call)));
    problems.push(...(await this.#epochFaults(room, rows, call)));
    return problems;
  }

  /** What the record rests on has to stand in the logs of `members` and `room_keys`. */
  async #behind({ id, record }: Looked, call: Call): Promise<Problem[]> {
    const { members, roomKeys } = this.#records.buckets;
    const found: Problem[] = [];
    for (const [name, needed, stands] of [
      [members.name, record.membersSeq, record.membersSeq > 0 ? await members.readIndex(call) : 0],
      [roomKeys.name, record.keysSeq, record.keysSeq > 0 ? await roomKeys.readIndex(call) : 0],
    ] as const) {
      if (stands >= needed) continue;
      const message = `The record rests on sequence ${String(needed)} of ${name}, which has come to ${String(stands)}: one was restored without the other. Restore all five buckets`;
      found.push({ code: "LOG_BEHIND", record: named.room(id), message });
    }
    return found;
  }

  /** All rows of the roster, as they stand in the bucket. */
  async #rows({ id, record }: Looked, call: Call): Promise<Map<string, PlacedRow>> {
    const { scans } = this.#records.buckets.members;
    const [filter, mark] = [keys.members(id, record.roster), keys.membersMark(id, record.roster)];
    const entries = await scans.all(filter, mark, record.membersSeq, call);
    return new Map(Array.from(entries.values(), (entry) => [endpointOf(entry.key), readMember(entry)]));
  }

  /**
   * Every row but the head's was there before the record was written. With the head they are as many members as it
   * says.
   */
  #memberFaults(room: Looked, rows: ReadonlyMap<string, PlacedRow>): Problem[] {
    const { id, record } = room;
    const heads = new Map(record.head.map((head) => [head.endpoint, head]));
    const uncommitted = [...rows].filter(([endpoint, stored]) => {
      const head = heads.get(endpoint);
      const { seq, row } = stored;
      if (head === undefined) return (seq > record.membersSeq || row.v > record.v) && !row.gone;
      return seq !== head.after && !isHead(stored, head.row);
    });
    const strangers = new Set(uncommitted.map(([endpoint]) => endpoint));
    const count = [...presentIn(room, rows).keys()].filter((endpoint) => !strangers.has(endpoint)).length;
    const isCounted = count === record.members;
    const everybody = new Set([...rows.keys(), ...heads.keys()]).size;
    // Only a row outside the head can be removed. One that took the place of the head's predecessor cannot be undone.
    const removable = isCounted ? uncommitted.filter(([endpoint]) => !heads.has(endpoint)) : [];
    const mend: Mend = (call) => this.#removeRows(room, removable.slice(0, MAX_ROWS), everybody, call);
    const problems = uncommitted.map(([endpoint]): Problem => {
      const what = { code: "MEMBER_UNCOMMITTED", record: named.member(id, endpoint) } as const;
      const message = "No change of the room has put this row there";
      if (removable.some(([each]) => each === endpoint)) return { ...what, message, mend };
      return {
        ...what,
        message: `${message}, and what stood there before is gone. Remove the member, and add it again`,
      };
    });
    if (uncommitted.length > 0) return problems;
    if (isCounted) {
      if (record.head.some(({ row }) => (row.members ?? count) !== count))
        return [{ code: "HEAD_INVALID", record: named.room(id), message: NO_CHANGE }];
      if (record.rows === undefined || record.rows === everybody) return [];
      const message = `The record counts ${String(record.rows)} rows, with those of who has left, and there are ${String(everybody)}. All members are there. But where a row is lost that says that somebody has left, a change that was held up can bring that member back: restore a backup, or delete the room`;
      return [{ code: "MEMBER_COUNT", record: named.room(id), message, isHarmless: true }];
    }
    const message = `The record counts ${String(record.members)} members, and there are ${String(count)}. Which is right nobody can tell: export the store, restore a backup, or delete the room`;
    return [{ code: "MEMBER_COUNT", record: named.room(id), message }];
  }

  /**
   * Who is no member by the room's own count is removed as members are: by a change of the room, which then requires a
   * rekey.
   */
  #removeRows(
    { id, seq }: Looked,
    rows: readonly (readonly [endpoint: string, stored: PlacedRow])[],
    everybody: number,
    call: Call,
  ): Promise<boolean> {
    return this.#log.change(id, call, async (round) => {
      const room = await this.#records.room(id, round, call);
      const endpoints = rows.map(([endpoint]) => endpoint);
      const members = await this.#members.currentMembers(room, endpoints, round.freshness, call);
      if (members === undefined) return { room, step: "again" };
      const { record } = room;
      const isAsLooked =
        room.seq === seq && rows.every(([, stored], i) => members[i]?.expectedSeq === stored.seq && members[i].row);
      if (!isAsLooked) return { room, step: { done: false } };
      const v = Math.max(record.v, ...rows.map(([, { row }]) => row.v)) + 1;
      const changes = rows.flatMap(([endpoint, { row }], i) => {
        const member = members[i];
        const gone: MemberRow = { ...row, gone: true, v, of: rows.length, members: record.members };
        return member === undefined ? [] : [{ endpoint, member, row: gone }];
      });
      const next = {
        v,
        rekeyRequired: record.rekeyRequired || record.encrypted,
        ...(record.rows === undefined ? {} : { rows: everybody }),
      };
      return { room, step: { commit: { changes, next, result: () => true } } };
    });
  }

  /** Gives a member the role that the record says. */
  mendRole(id: string, endpoint: string, call: Call): Promise<boolean> {
    return this.#log.change(id, call, async (round) => {
      const room = await this.#records.room(id, round, call);
      const members = await this.#members.currentMembers(room, [endpoint] as const, round.freshness, call);
      if (members === undefined) return { room, step: "again" };
      const { record } = room;
      const [member] = members;
      if (member.row === undefined || member.row.owner === (record.owner === endpoint))
        return { room, step: { done: false } };
      const v = record.v + 1;
      const row: MemberRow = { ...member.row, owner: record.owner === endpoint, v, of: 1, members: record.members };
      return { room, step: { commit: { changes: [{ endpoint, member, row }], next: { v }, result: () => true } } };
    });
  }

  /** The room has an entry at any time, and so has each member. */
  async #indexFaults(room: Looked, rows: ReadonlyMap<string, PlacedRow>, call: Call): Promise<Problem[]> {
    const { id, record } = room;
    const { incarnation, indexed } = record;
    const { membersByEndpoint } = this.#records.buckets;
    const found: Problem[] = [];
    const isMissing = async (key: Entry<"rooms_by_member">["key"]): Promise<boolean> =>
      (await membersByEndpoint.get(key, call)) === undefined &&
      (await membersByEndpoint.readLinearizable(key, call)).entry === undefined;
    if (indexed && (await isMissing(keys.roomIndexEntry(id, incarnation))))
      found.push({
        code: "ROOM_NOT_INDEXED",
        record: named.room(id),
        message: "It has no entry in the index of all rooms, so that rooms.list is without it",
        mend: (own) => this.#index.add(id, incarnation, own),
      });
    await inParallel([...presentIn(room, rows)], AT_ONCE, async ([endpoint, row]) => {
      const indexEntry = keys.indexEntry(endpoint, id, incarnation, row.id);
      if (!(await isMissing(indexEntry))) return;
      found.push({
        code: "MEMBER_NOT_INDEXED",
        record: named.member(id, endpoint),
        message: "It has no entry in the index, so that lists of the endpoint are without it",
        mend: (own) => membersByEndpoint.stage(indexEntry, {}, own),
      });
    });
    return found;
  }

  /** Each epoch that is over has a record of the attempt that made it. The current epoch may have one. */
  async #epochFaults(room: Looked, rows: ReadonlyMap<string, PlacedRow>, call: Call): Promise<Problem[]> {
    const { id, record } = room;
    const { incarnation, epoch, encrypted } = record;
    if (!encrypted && epoch === 0) return [];
    const { roomKeys } = this.#records.buckets;
    const [filter, mark] = [keys.epochs(id, incarnation), keys.epochsMark(id, incarnation)];
    const entries = await roomKeys.scans.all(filter, mark, record.keysSeq, call);
    const known = new Map(Array.from(entries.values(), (entry) => [Number(entry.key.split(".").at(-1)), entry]));
    const found = [...known].flatMap(([of, entry]) => this.#epochFault(room, of, entry));
    const missing = Array.from({ length: Math.max(0, epoch - 1) }, (_, i) => i + 1).filter((of) => !known.has(of));
    const gone = await joinAll(
      missing.map(async (of) => {
        const { entry } = await roomKeys.readLinearizable(keys.epoch(id, incarnation, of), call);
        return entry === undefined ? [of] : [];
      }),
    );
    for (const of of gone.flat()) {
      const message =
        "Which keys are of this epoch is not told any more, and so none of the room's can be listed: restore a backup, or delete the room";
      found.push({ code: "EPOCH_MISSING", record: epochOf(id, of), message });
    }
    if (found.length > 0) return found;
    const attempts = new Map(Array.from(known, ([of, entry]) => [of, readEpoch(entry)]));
    return this.#keyFaults(room, presentIn(room, rows), attempts.set(epoch, record.attempt), call);
  }

  /**
   * Two rekeys of one epoch both have a key for whoever is still a member: a member who came between them would have
   * made one fail. So a member with a key of another attempt alone shows that the named attempt did not make the epoch.
   */
  async #keyFaults(
    { id, record }: Looked,
    present: ReadonlyMap<string, MemberRow>,
    attempts: ReadonlyMap<number, string>,
    call: Call,
  ): Promise<Problem[]> {
    const { incarnation } = record;
    const { roomKeys } = this.#records.buckets;
    const doubted = new Map<number, Key<"room_keys">>();
    let last = performance.now();
    await roomKeys.scans.scan(keys.roomKeysOfRoom(id, incarnation), call, {}, ({ key }) => {
      const now = performance.now();
      call.extend(now - last);
      last = now;
      const { membership, made } = parseKey(key) ?? {};
      if (membership === undefined || made === undefined) return "go on";
      const { endpoint, id: of } = membership;
      const attempt = attempts.get(made.epoch);
      if (present.get(endpoint)?.id !== of || attempt === undefined || attempt === made.attempt) return "go on";
      const at = { roomId: id, endpoint, incarnation, membership: of };
      doubted.set(made.epoch, keys.roomKey(at, made.epoch, attempt));
      return "go on";
    });
    const faults = await joinAll(
      Array.from(doubted, async ([epoch, key]): Promise<Problem[]> => {
        if ((await roomKeys.get(key, call)) !== undefined) return [];
        if ((await roomKeys.readLinearizable(key, call)).entry !== undefined) return [];
        const message =
          "Its keys are of another attempt than the one that is named, and cannot be read. Which of both is right nobody can tell: restore a backup, or rekey the room";
        return [{ code: "EPOCH_INVALID", record: epochOf(id, epoch), message }];
      }),
    );
    return faults.flat();
  }

  /**
   * An epoch's record that should not be there, or says something else, would be taken for what the next rekey stages.
   * One of an epoch that is over was there before the room came to the next one.
   */
  #epochFault({ id, record }: Looked, of: number, entry: Entry<"room_keys">): Problem[] {
    const { epoch, attempt, keysSeq } = record;
    const { roomKeys } = this.#records.buckets;
    const what = { code: "EPOCH_INVALID", record: epochOf(id, of) } as const;
    if (of < epoch) {
      if (entry.seq <= keysSeq) return [];
      const message =
        "It was written when the room was at a later epoch already, and what stood there before is gone. Whether it names the right attempt nobody can tell: restore a backup, or rekey the room";
      return [{ ...what, message }];
    }
    if (of === epoch && readEpoch(entry) === attempt) return [];
    const isMine = (now: Entry<"room_keys">): "yes" | "no" => (readEpoch(now) === attempt ? "yes" : "no");
    if (of === epoch)
      return [
        {
          ...what,
          message: "It names another attempt than the room",
          // The attempt that made an epoch never changes. So this is right however far the room is by now.
          mend: (call) => roomKeys.write(entry.key, { attempt }, entry.seq, call, isMine, "step"),
        },
      ];
    return [
      {
        ...what,
        message: `The room has come to epoch ${String(epoch)} only`,
        mend: (call) => purgeUpTo(roomKeys, entry, call),
      },
    ];
  }
}

const epochOf = (roomId: string, epoch: number): string => `epoch ${String(epoch)} of ${named.room(roomId)}`;

/** All members, with the head laid over the rows. */
function presentIn({ record }: Looked, rows: ReadonlyMap<string, PlacedRow>): Map<string, MemberRow> {
  const found = new Map(Array.from(rows, ([endpoint, { row }]) => [endpoint, row]));
  for (const { endpoint, row } of record.head) {
    const stored = found.get(endpoint);
    if (stored === undefined || stored.v < row.v) found.set(endpoint, row);
  }
  return new Map([...found].filter(([, row]) => !row.gone));
}

const isHead = ({ row }: PlacedRow, head: MemberRow): boolean => row.v === head.v && row.id === head.id;

/**
 * The head is one change. Its rows are of one version, which is not later than the record's, and say how many they are.
 */
function headFaults({ id, record }: Looked): Problem[] {
  const { head, v, roster, incarnation } = record;
  if (!Number.isSafeInteger(v) || v < 1) {
    const message = "Its version is no number of changes. What it should be nobody can tell";
    return [{ code: "FIELD_INVALID", record: named.room(id), message }];
  }
  const [first] = head;
  // A room begins with a head, and each change leaves one. Imports and copies of rows leave none.
  if (first === undefined && (roster !== incarnation || isImported(incarnation))) return [];
  const endpoints = new Set(head.map(({ endpoint }) => endpoint));
  const isOne = head.every(({ row }) => row.v === first?.row.v && row.of === head.length);
  if (first !== undefined && isOne && endpoints.size === head.length && first.row.v <= v) return [];
  return [{ code: "HEAD_INVALID", record: named.room(id), message: NO_CHANGE }];
}
