/**
 * A cache of who has joined, for checks. A fence proved each row as of a sequence. A room's record says up to which
 * sequence the rows of its changes stand. A row that was proved at or after that sequence is the newest one, however
 * long ago that was. So the cache needs no barrier of its own. The argument: docs/protocol.md, J1 to J5.
 */
import type { Call } from "../call.js";
import type { Bucket } from "./bucket.js";
import type { Entry } from "./entry.js";
import type { Key } from "./keys.js";
import { readMember, type RoomRecord } from "./room-record.js";
import type { Seq } from "./seq.js";

interface Row {
  readonly seq: Seq<"members">;
  readonly v: number;
  readonly joined: boolean;
  /** The sequence at which the row surely stood so. */
  readonly asOf: Seq<"members">;
}

/** About what a row takes, beside its key. */
const ROW_BYTES = 200;

export class JoinedRows {
  readonly #maxBytes: number;
  readonly #rows = new Map<Key<"members">, Row>();
  #bytes = 0;
  #log = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /**
   * Whether the member has joined, by the row that the room's record demands. `none`: there is no row. `newer`: the
   * member was changed since the record was read. Whether the store was open at that change says only a newer record.
   */
  async prove(
    members: Bucket<"members">,
    key: Key<"members">,
    room: RoomRecord,
    call: Call,
  ): Promise<boolean | "none" | "newer"> {
    const row = await this.#row(members, key, room, call);
    if (row === undefined) return "none";
    return row.v > room.v ? "newer" : row.joined;
  }

  /** The same, where it can be told without asking. */
  known(key: Key<"members">, room: RoomRecord): boolean | undefined {
    const row = this.#rows.get(key);
    return row !== undefined && row.asOf >= room.membersSeq ? row.joined : undefined;
  }

  async #row(members: Bucket<"members">, key: Key<"members">, room: RoomRecord, call: Call): Promise<Row | undefined> {
    const needed = room.membersSeq;
    const known = this.#rows.get(key);
    if (known !== undefined && known.asOf >= needed) return known;
    if (known !== undefined) {
      const log = this.#log;
      const asOf = await members.stands(key, known.seq, call);
      if (asOf !== undefined && asOf >= needed && log === this.#log) return this.#keep(key, { ...known, asOf });
    }
    const log = this.#log;
    const { entry, asOf } = await members.readLinearizable(key, call);
    members.demand(needed, asOf);
    if (entry === undefined) return undefined;
    const row = rowOf(entry, asOf);
    // A newer row was committed since the record was read. Only a row that a record which was read speaks of is kept.
    return row.v > room.v || log !== this.#log ? row : this.#keep(key, row);
  }

  #keep(key: Key<"members">, row: Row): Row {
    const known = this.#rows.get(key);
    // Of two reads that were under way the later one is kept.
    if (known !== undefined && known.asOf >= row.asOf) return row;
    if (known === undefined) this.#bytes += ROW_BYTES + 2 * key.length;
    this.#rows.set(key, row);
    for (const oldest of this.#rows.keys()) {
      if (this.#bytes <= this.#maxBytes) break;
      this.#rows.delete(oldest);
      this.#bytes -= ROW_BYTES + 2 * oldest.length;
    }
    return row;
  }

  /** Another log may be there. */
  clear(): void {
    this.#log++;
    this.#rows.clear();
    this.#bytes = 0;
  }
}

function rowOf(entry: Entry<"members">, asOf: Seq<"members">): Row {
  const { row, seq } = readMember(entry);
  return { seq, v: row.v, joined: row.joined && !row.gone, asOf };
}
