/**
 * Changes of memberships, of which many can wait for one room's record: an invitation of a thousand members is a
 * thousand changes. Those that wait together in this process are committed together, as one head with a row for each.
 * They take effect at one moment, each as if it were alone; each is refused, staged and undone by itself.
 */
import type { Call } from "../call.js";
import { RetryLoop } from "./retry-loop.js";
import type { MemberRow, RoomRecord } from "./room-record.js";
import { inPlace } from "./room-log.js";
import { joinAll } from "./join.js";
import type { Commit, RoomLog, StagedWrites } from "./room-log.js";
import type { CurrentMember, RoomMembers } from "./room-members.js";
import type { CleanUp, LiveRoom } from "./room-records.js";
import {
  CERTAIN,
  byAnyReplica,
  mustLookAgain,
  type Freshness,
  type Read,
  type Round,
  type Rules,
} from "./freshness.js";
import { latest } from "./seq.js";
import { SharedCall } from "./shared-call.js";

/** Rows of one head, and roughly their bytes: every read of the room reads them too. */
export const MAX_ROWS = 16;
const MAX_BYTES = 8 * 1024;
const BYTES_OF_A_ROW = 200;

/** What one change wants. `row` is complete but for how many there are with it. */
export interface MemberChange<T> {
  readonly row: Omit<MemberRow, "of" | "members">;
  /** What changes of the room with it. */
  readonly next: Partial<Pick<RoomRecord, "members" | "rows" | "rekeyRequired">>;
  readonly stage?: StagedWrites;
  readonly undo?: CleanUp;
  readonly cleanUp?: CleanUp;
  readonly result: T;
}

/** `room` is as the changes before it leave it; `v` is the version that the change makes. */
export type Decide<T> = (
  rules: Rules,
  room: LiveRoom,
  member: CurrentMember,
  v: number,
) => { readonly done: T } | { readonly change: MemberChange<T> };

interface Item {
  readonly endpoint: string;
  readonly call: Call;
  readonly bytes: number;
  /** Lets the rules decide. `settle` answers the caller, at once where there is nothing to commit. */
  readonly decide: (rules: Rules, room: LiveRoom, member: CurrentMember, v: number) => DecidedItem;
  readonly reject: (error: unknown) => void;
  /** A refusal, or that there is nothing to do, was found by a read that another replica may contradict. */
  needsCertain: boolean;
}

type DecidedItem =
  | { readonly kind: "done"; readonly settle: () => void }
  | { readonly kind: "change"; readonly change: MemberChange<unknown>; readonly settle: () => void };

export class MemberChanges {
  readonly #log: RoomLog;
  readonly #members: RoomMembers;
  readonly #waiting = new Map<string, Item[]>();

  constructor(log: RoomLog, members: RoomMembers) {
    this.#log = log;
    this.#members = members;
  }

  /** `bytes`: of what the row has besides what every row has. */
  change<T>(roomId: string, endpoint: string, bytes: number, call: Call, decide: Decide<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const item: Item = {
        endpoint,
        call,
        bytes: BYTES_OF_A_ROW + bytes,
        needsCertain: false,
        reject,
        decide: (rules, room, member, v) => {
          const decided = decide(rules, room, member, v);
          if ("done" in decided) {
            const { done } = decided;
            return {
              kind: "done",
              settle: () => {
                resolve(done);
              },
            };
          }
          const { change } = decided;
          return {
            kind: "change",
            change,
            settle: () => {
              resolve(change.result);
            },
          };
        },
      };
      const waiting = this.#waiting.get(roomId);
      if (waiting !== undefined) {
        waiting.push(item);
        return;
      }
      this.#waiting.set(roomId, [item]);
      void this.#work(roomId);
    });
  }

  async #work(roomId: string): Promise<void> {
    for (;;) {
      const waiting = this.#waiting.get(roomId) ?? [];
      if (waiting.length === 0) {
        this.#waiting.delete(roomId);
        return;
      }
      const items = take(waiting);
      const call = new SharedCall(items.map((item) => item.call));
      try {
        await this.#log.turn(roomId, call, () => this.#round(roomId, items, call));
      } catch (error) {
        for (const item of items) item.reject(error);
      }
    }
  }

  /** One head for those that wait, or as many attempts at one as it takes. */
  async #round(roomId: string, items: Item[], call: SharedCall): Promise<void> {
    for (const retries = new RetryLoop(call); items.length > 0;) {
      call.for(items.map((item) => item.call));
      await retries.next();
      const needsCertain = items.some((item) => item.needsCertain);
      if (needsCertain)
        await this.#log.buckets.rooms.decided(
          call,
          () => this.#attempt(CERTAIN, roomId, items, call),
          () => false,
        );
      else if ((await byAnyReplica((round) => this.#attempt(round, roomId, items, call))) === "refused")
        for (const item of items) item.needsCertain = true;
    }
  }

  /** Settles items and takes them off the list. What is left needs another attempt. */
  async #attempt<F extends Freshness>(round: Round<F>, roomId: string, items: Item[], call: SharedCall): Promise<void> {
    const { rooms } = this.#log.buckets;
    const since = rooms.highestSeen;
    const room = await this.#log.records.room(roomId, round, call);
    const members = await this.#members.currentMembers(
      room,
      items.map((item) => item.endpoint),
      round.freshness,
      call,
    );
    if (members === undefined) return;
    // What is refused, or changes nothing, rests on this read alone.
    if (round.freshness === "certain" && !(await rooms.wasOpen(since, call))) return;
    const { going, working } = decide(round, items, room, members);
    if (going.length > 0) await this.#commit(room, working, items, going, call);
  }

  /** Writes what goes together as one head. */
  async #commit(
    room: LiveRoom,
    working: LiveRoom,
    items: Item[],
    going: readonly Going[],
    call: SharedCall,
  ): Promise<void> {
    const { v } = working.record;
    const { members, rows, rekeyRequired } = working.record;
    const of = going.length;
    const commit: Commit<true> = {
      changes: going.map(({ item, member, change }) => ({
        endpoint: item.endpoint,
        member,
        row: { ...change.row, of, members },
      })),
      next: { v, members, rows, rekeyRequired },
      result: () => true,
      stage: {
        // Of each change its keys and its index entry.
        keys: async (own) => latest(0, await joinAll(going.map(({ change }) => inPlace(change.stage, own)))),
      },
      undo: (own) => joinAll(going.map(({ change }) => Promise.resolve(change.undo?.(own)))),
      cleanUp: (own) => joinAll(going.map(({ change }) => Promise.resolve(change.cleanUp?.(own)))),
    };
    const calls = going.map(({ item }) => item.call);
    let committed: { value: true } | undefined;
    try {
      committed = await call.committing(calls, () => this.#log.commit(room, commit, call));
    } catch (error) {
      // What ended this head does not end those that wait for another.
      for (const { item } of going) {
        item.reject(error);
        drop(items, (other) => other === item);
      }
      return;
    }
    for (const { item, settle } of going) {
      if (committed === undefined) {
        item.needsCertain = true;
      } else {
        settle();
        drop(items, (other) => other === item);
      }
    }
  }
}

/** A change that goes into the head. */
interface Going {
  readonly item: Item;
  readonly member: CurrentMember;
  readonly change: MemberChange<unknown>;
  readonly settle: () => void;
}

/**
 * What each wants, one after the other, of the room as those before leave it. Settles those that change nothing and
 * those that are refused, where the read was certain; where it was not, they are asked again.
 */
function decide<F extends Freshness>(
  round: Round<F>,
  items: Item[],
  room: LiveRoom,
  members: readonly (Read<CurrentMember, F> | undefined)[],
): { readonly going: readonly Going[]; readonly working: LiveRoom } {
  const v = room.record.v + 1;
  const going: Going[] = [];
  let working = room;
  for (const [i, item] of [...items].entries()) {
    const member = members[i];
    const { ended } = item.call;
    if (member === undefined || ended !== undefined) {
      // Nobody waits for it any more: its caller was told that it was not made.
      item.reject(ended);
      drop(items, (other) => other === item);
      continue;
    }
    try {
      const decided = item.decide(round.rules(member), working, member, v);
      if (decided.kind === "change") {
        going.push({ item, member, change: decided.change, settle: decided.settle });
        working = { ...working, record: { ...working.record, ...decided.change.next } };
      } else if (round.freshness === "certain") {
        decided.settle();
        drop(items, (other) => other === item);
      } else {
        item.needsCertain = true;
      }
    } catch (error) {
      if (mustLookAgain(round, error)) {
        item.needsCertain = true;
      } else {
        item.reject(error);
        drop(items, (other) => other === item);
      }
    }
  }
  return { going, working: { ...working, record: { ...working.record, v } } };
}

function drop(items: Item[], which: (item: Item) => boolean): void {
  for (let i = items.length - 1; i >= 0; i--) {
    const item = items[i];
    if (item !== undefined && which(item)) items.splice(i, 1);
  }
}

/** The first that can go together: one change of each endpoint, in the order of the calls. */
function take(waiting: Item[]): Item[] {
  const taken: Item[] = [];
  const endpoints = new Set<string>();
  let bytes = 0;
  while (waiting.length > 0 && taken.length < MAX_ROWS) {
    const [item] = waiting;
    if (item === undefined || endpoints.has(item.endpoint)) break;
    bytes += item.bytes;
    if (taken.length > 0 && bytes > MAX_BYTES) break;
    endpoints.add(item.endpoint);
    taken.push(item);
    waiting.shift();
  }
  return taken;
}
