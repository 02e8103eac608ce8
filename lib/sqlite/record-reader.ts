/**
 * Everything that the tables hold as of one moment, while writes go on. What is about to change is read before it does.
 * What nobody has taken yet waits in a {@link Spool}, so that the reading waits for nobody.
 */
import type { Call } from "../call.js";
import type { RecordCounts, RecordReader, StoredRecord } from "../driver.js";
import { isError } from "../errors.js";
import type { StoreError } from "../errors.js";
import type { MoveState } from "../moves.js";
import { sortedBy } from "../rules.js";
import { Spool } from "../spool.js";
import type { Change } from "./changes.js";
import type { Database } from "./database.js";
import type { MemberEntry, RoomEntry } from "./entries.js";
import type { UserRow } from "./rows.js";
import type { Tables } from "./tables.js";
import { TimeSlice } from "./time-slice.js";

/** How many records are put into the spool together, and how many bytes. */
const FRAME = 500;
const FRAME_BYTES = 256 * 1024;
/** What a record takes in memory beyond its bytes. */
const RECORD_BYTES = 400;
const PAGE = 256;
/** A room of more members is copied, and read from the copy in slices. */
const FEW_MEMBERS = 64;

export class SnapshotReader implements RecordReader {
  readonly expected: RecordCounts;
  readonly adminEver: boolean;
  readonly revisionFloor: number;
  readonly #tables: Tables;
  readonly #spool = new Spool<StoredRecord>();
  readonly #cleared: (state: MoveState) => StoreError | undefined;
  readonly #stopListening: () => void;
  /** The last user and the last room of the snapshot; {@link #user} and {@link #room} say how far they were read. */
  readonly #lastUser: number;
  readonly #lastRoom: number;
  #user = 0;
  #room = 0;
  /** By ordinal: users that have changed since and were not read yet, as they were. */
  readonly #users = new Map<number, UserRow>();
  readonly #rooms = new Map<number, RoomEntry>();
  #frame: StoredRecord[] = [];
  #frameBytes = 0;
  #isDone = false;
  #isClosed = false;
  #failure: Error | undefined;
  /** Wakes whoever waits for more. */
  #wake: () => void = () => undefined;
  readonly #running: Promise<void>;

  /** `cleared`: what ends the reading when an import clears the store. */
  constructor({ tables, durableSequence }: Database, cleared: (state: MoveState) => StoreError | undefined) {
    this.#tables = tables;
    this.#cleared = cleared;
    this.expected = tables.counts;
    this.adminEver = tables.adminEver;
    this.revisionFloor = durableSequence;
    this.#lastUser = tables.usersInOrder.last;
    this.#lastRoom = tables.rooms.last;
    this.#stopListening = tables.listen(this);
    this.#running = this.#read()
      .catch((error: unknown) => {
        this.#failure ??= isError(error) ? error : new Error(String(error));
      })
      .finally(() => {
        this.#stopListening();
        this.#isDone = true;
        this.#wake();
      });
  }

  /** Keeps what is about to change as it is, if it is part of the snapshot. */
  before(change: Change): void {
    switch (change.kind) {
      case "user": {
        const row = this.#tables.users.get(change.row.key);
        if (row !== undefined && isAhead(row.ordinal, this.#user, this.#lastUser) && !this.#users.has(row.ordinal))
          this.#users.set(row.ordinal, row);
        return;
      }
      case "room":
        this.#keepRoom(change.row.id);
        return;
      case "roomGone":
        this.#keepRoom(change.id);
        return;
      case "member":
      case "key":
        this.#keepRoom(change.row.roomId);
        return;
      case "memberGone":
        this.#keepRoom(change.roomId);
        return;
      case "import":
        // The snapshot was empty, or it was what a dead import left. Nobody misses it.
        if (change.clears) this.#failure = this.#cleared(change.state);
    }
  }

  #keepRoom(id: string): void {
    const entry = this.#tables.rooms.get(id);
    if (entry === undefined || !isAhead(entry.ordinal, this.#room, this.#lastRoom)) return;
    if (!this.#rooms.has(entry.ordinal)) this.#rooms.set(entry.ordinal, entry.snapshot());
  }

  async next(call: Call): Promise<readonly StoredRecord[] | undefined> {
    for (;;) {
      call.throwIfEnded();
      const frame = await this.#spool.take();
      if (frame !== undefined) return frame;
      if (this.#failure !== undefined) throw this.#failure;
      if (this.#isDone && this.#spool.isEmpty) return undefined;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#running;
    await this.#spool.close();
  }

  async #read(): Promise<void> {
    const pace = new TimeSlice();
    // Whoever began this gets the answer first.
    await pace.rest();
    await this.#readUsers(pace);
    await this.#readRooms(pace);
    await this.#flush();
  }

  async #readUsers(pace: TimeSlice): Promise<void> {
    while (this.#user < this.#lastUser && !this.#isClosed) {
      const { rows, next } = this.#tables.usersInOrder.page(this.#user, PAGE);
      for (const row of rows) {
        if (row.ordinal > this.#lastUser) break;
        this.#put({ kind: "user", row: this.#users.get(row.ordinal) ?? row }, 0);
        this.#users.delete(row.ordinal);
      }
      this.#user = next === undefined ? this.#lastUser : Math.min(next, this.#lastUser);
      await this.#pause(pace);
    }
    this.#user = this.#lastUser;
  }

  async #readRooms(pace: TimeSlice): Promise<void> {
    while (this.#room < this.#lastRoom && !this.#isClosed) {
      const [next] = this.#tables.rooms.page(this.#room, 1).rows;
      const entry = next === undefined ? undefined : this.#tables.rooms.get(next.id);
      if (entry === undefined || entry.ordinal > this.#lastRoom) break;
      const kept = this.#rooms.get(entry.ordinal);
      this.#rooms.delete(entry.ordinal);
      this.#room = entry.ordinal;
      await this.#readRoom(kept ?? entry, kept === undefined, pace);
    }
    this.#room = this.#lastRoom;
    // Rooms that were deleted meanwhile come last.
    for (const entry of this.#rooms.values()) await this.#readRoom(entry, false, pace);
    this.#rooms.clear();
  }

  /** `isLive`: it may change while it is read. So it is read without a pause, or from a copy. */
  async #readRoom(entry: RoomEntry, isLive: boolean, pace: TimeSlice): Promise<void> {
    const isLarge = entry.members.count > FEW_MEMBERS;
    const room = isLive && isLarge ? entry.snapshot() : entry;
    this.#put({ kind: "room", row: room.row }, 0);
    for (const member of sortedBy([...room.members.all()], ({ endpoint }) => endpoint)) {
      this.#putMember(member);
      if (!isLarge) continue;
      if (this.#isClosed) return;
      await this.#pause(pace);
    }
    await this.#pause(pace);
  }

  #putMember(member: MemberEntry): void {
    const { row, keys } = member;
    this.#put({ kind: "member", row }, row.publicKey?.length ?? 0);
    for (const key of keys) this.#put({ kind: "key", row: key }, key.sealed.length);
  }

  #put(record: StoredRecord, bytes: number): void {
    this.#frame.push(record);
    this.#frameBytes += RECORD_BYTES + bytes;
  }

  async #pause(pace: TimeSlice): Promise<void> {
    if (this.#frame.length >= FRAME || this.#frameBytes >= FRAME_BYTES) await this.#flush();
    if (pace.due()) await pace.rest();
  }

  async #flush(): Promise<void> {
    if (this.#isClosed || this.#frame.length === 0) return;
    const [frame, bytes] = [this.#frame, this.#frameBytes];
    this.#frame = [];
    this.#frameBytes = 0;
    await this.#spool.put(frame, bytes);
    this.#wake();
  }
}

function isAhead(ordinal: number, read: number, last: number): boolean {
  return ordinal > read && ordinal <= last;
}
