import type { RekeyArguments } from "../arguments.js";
import type { Call } from "../call.js";
import type { RoomKeysDriver } from "../driver.js";
import { CERTAIN, orCertain, type Freshness, type Round } from "./freshness.js";
import type { Room, RoomKey } from "../store.js";
import { RetryLoop } from "./retry-loop.js";
import { readEpoch, readKey, writeKey, type KeyRow } from "./key-record.js";
import { keys, newId, type Key, type MembershipRef } from "./keys.js";
import { toJson } from "./record-fields.js";
import { toRoom } from "./room-record.js";
import { holderOf, memberFacts, need } from "./room-members.js";
import type { RoomMembers } from "./room-members.js";
import type { LiveRoom } from "./room-records.js";
import { joinBoth, inParallel } from "./join.js";
import { later, type Seq } from "./seq.js";
import type { RoomLog } from "./room-log.js";

/** How many keys of a rekey are under way at once. Those of most rooms take one round trip. */
const PARALLEL = 1024;
/** And how many bytes of keys, so that no server has to refuse them. */
const PARALLEL_BYTES = 8 * 1024 * 1024;

export class JetStreamRoomKeys implements RoomKeysDriver {
  readonly #log: RoomLog;
  readonly #members: RoomMembers;

  constructor(log: RoomLog, members: RoomMembers) {
    this.#log = log;
    this.#members = members;
  }

  async put(roomId: string, endpoint: string, epoch: number, sealed: Uint8Array, call: Call): Promise<RoomKey> {
    const { roomKeys } = this.#log.buckets;
    const createdAt = Date.now();
    const id = newId();
    const { rooms } = this.#log.buckets;
    await rooms.checkNotClosed(call);
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      // This write has no condition on the room's record. So what it rests on must be certain.
      const key = await rooms.decided(
        call,
        () => this.#toPut(roomId, endpoint, epoch, call),
        () => false,
      );
      const seq = await roomKeys.write(key, writeKey(sealed, createdAt, id), 0, call, (entry) =>
        readKey(entry).write === id ? "yes" : "no",
      );
      if (seq !== undefined) {
        // The log of the keys does not say whether the store is open. But who closes the store reads the keys only
        // after the log of the rooms says that it is closed.
        await rooms.checkOpen(await rooms.readIndex(call), call);
        return { roomId, endpoint, epoch, sealed, createdAt: new Date(createdAt) };
      }
      // The refusal alone proves nothing: it may belong to a write that failed in the end.
      const read = await roomKeys.readLinearizable(key, call);
      if (read.entry === undefined) continue;
      await rooms.checkOpen(await rooms.readIndex(call), call);
      throw CERTAIN.rules(read).keyExists(roomId, endpoint, epoch);
    }
  }

  /** Where the key of a member stands, if it may be put. */
  async #toPut(roomId: string, endpoint: string, epoch: number, call: Call): Promise<Key<"room_keys">> {
    const { room, member } = await this.#members.member(roomId, endpoint, CERTAIN, call);
    const rules = CERTAIN.rules(member);
    rules.checkPut(roomId, room.facts, endpoint, memberFacts(member.row), epoch);
    const at = holderOf(room, endpoint, need(rules, roomId, endpoint, member));
    return keys.roomKey(at, epoch, await this.#attempt(room, epoch, call));
  }

  get(roomId: string, endpoint: string, epoch: number | undefined, call: Call): Promise<RoomKey> {
    return orCertain((round) => this.#get(roomId, endpoint, epoch, round, call));
  }

  async #get<F extends Freshness>(
    roomId: string,
    endpoint: string,
    epoch: number | undefined,
    round: Round<F>,
    call: Call,
  ): Promise<RoomKey> {
    const { roomKeys } = this.#log.buckets;
    // Most often the endpoint's newest key is the one asked for. So it is read beside the records that tell which one
    // it is.
    const [{ room, member }, newest] = await joinBoth(
      this.#members.member(roomId, endpoint, round, call),
      roomKeys.newest(keys.roomKeysOfEndpoint(roomId, endpoint, epoch), call),
    );
    const at = holderOf(room, endpoint, need(round.rules(member), roomId, endpoint, member));
    const { record } = room;
    const wanted = epoch ?? record.epoch;
    if (wanted >= 1 && wanted <= record.epoch) {
      const key = keys.roomKey(at, wanted, await this.#attempt(room, wanted, call));
      // A key never changes, so a key that is found is the right one. That there is none has to be certain, because
      // then another key is the answer.
      const entry =
        newest?.key === key
          ? newest
          : ((await roomKeys.get(key, call)) ?? (await roomKeys.readLinearizable(key, call)).entry);
      if (entry !== undefined) return toRoomKey(at, wanted, readKey(entry));
      if (epoch === undefined) {
        const latest = (await this.#list(roomId, endpoint, round, call)).at(-1);
        if (latest !== undefined) return latest;
      }
    }
    throw round.rules(room).keyNotFound(roomId, endpoint, epoch);
  }

  list(roomId: string, endpoint: string, call: Call): Promise<RoomKey[]> {
    return orCertain((round) => this.#list(roomId, endpoint, round, call));
  }

  /**
   * The keys of a membership are removed when it ends. So the list is complete only if the membership is the same
   * afterwards.
   */
  async #list<F extends Freshness>(roomId: string, endpoint: string, round: Round<F>, call: Call): Promise<RoomKey[]> {
    let before = await this.#membership(roomId, endpoint, round, call);
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      const found = await this.#all(before.room, before.at, round.freshness, call);
      const after = await this.#membership(roomId, endpoint, CERTAIN, call);
      const isSame = after.at.membership === before.at.membership && after.at.incarnation === before.at.incarnation;
      if (isSame && found !== undefined) return found;
      before = after;
    }
  }

  async #membership<F extends Freshness>(
    roomId: string,
    endpoint: string,
    round: Round<F>,
    call: Call,
  ): Promise<{ room: LiveRoom; at: MembershipRef }> {
    const { room, member } = await this.#members.member(roomId, endpoint, round, call);
    return { room, at: holderOf(room, endpoint, need(round.rules(member), roomId, endpoint, member)) };
  }

  /**
   * Stages one key for each member under an id of this attempt. The commit of the room's record makes the attempt the
   * one that counts: nobody looks at the keys of another. Each earlier epoch has its attempt in a record of its own,
   * written before the next epoch begins.
   */
  rekey(roomId: string, sealed: ReadonlyMap<string, Uint8Array>, options: RekeyArguments, call: Call): Promise<Room> {
    const { roomKeys } = this.#log.buckets;
    const { expectedEpoch, ifRevision } = options;
    return this.#log.changeUnqueued(call, async (round) => {
      // First by the record alone: if that refuses, no list of the members is needed.
      const before = await this.#log.records.room(roomId, round, call);
      round.rules(before).checkRekey(before.facts, expectedEpoch, ifRevision);
      const { room, v, members } = await this.#members.roster(roomId, round, call);
      const { record } = room;
      const rules = round.rules(room);
      rules.checkRekey(room.facts, expectedEpoch, ifRevision);
      // Some rows are newer than the record. The commit's condition would fail, so staging would be wasted.
      if (v !== record.v) return { room, step: "again" };
      rules.checkRekeyMembers(sealed, new Set(members.keys()));
      const attempt = newId();
      const epoch = record.epoch + 1;
      const staged = [...sealed].flatMap(([endpoint, key]) => {
        const row = members.get(endpoint);
        return row === undefined
          ? []
          : [{ key: keys.roomKey(holderOf(room, endpoint, row), epoch, attempt), sealed: key }];
      });
      return {
        room,
        step: {
          commit: {
            stage: { keys: (own) => this.#stageKeys(room, staged, attempt, own) },
            undo: (own) => roomKeys.purge(keys.roomKeysOfAttempt(roomId, record.incarnation, epoch, attempt), own),
            next: { v: record.v + 1, epoch, attempt, rekeyRequired: false },
            result: (next) => toRoom(roomId, next),
          },
        },
      };
    });
  }

  /** Writes the keys of a new epoch, and the attempt of the one that ends. Answers their highest sequence. */
  async #stageKeys(
    { id: roomId, record }: LiveRoom,
    staged: readonly { readonly key: Key<"room_keys">; readonly sealed: Uint8Array }[],
    attempt: string,
    call: Call,
  ): Promise<Seq<"room_keys">> {
    const { roomKeys } = this.#log.buckets;
    const now = Date.now();
    let last: Seq<"room_keys"> = 0;
    if (record.epoch > 0) {
      const before = keys.epoch(roomId, record.incarnation, record.epoch);
      last = await roomKeys.stage(before, toJson({ attempt: record.attempt }), call);
    }
    const longest = staged.reduce((most, row) => Math.max(most, row.sealed.length), 1);
    await inParallel(staged, Math.min(PARALLEL, Math.ceil(PARALLEL_BYTES / longest)), async (row) => {
      const seq = await roomKeys.stage(row.key, writeKey(row.sealed, now, attempt), call);
      last = later(last, seq);
    });
    return last;
  }

  /** The attempt whose keys count for the epoch. */
  async #attempt(room: LiveRoom, epoch: number, call: Call): Promise<string> {
    const { record } = room;
    if (epoch === record.epoch) return record.attempt;
    const key = keys.epoch(room.id, record.incarnation, epoch);
    const { roomKeys } = this.#log.buckets;
    const found = await roomKeys.get(key, call);
    if (found !== undefined) return readEpoch(found);
    const read = await roomKeys.readLinearizable(key, call);
    // Missing although the room has later epochs: the room was deleted meanwhile.
    if (read.entry === undefined) throw CERTAIN.rules(read).roomNotFound(room.id);
    return readEpoch(read.entry);
  }

  /**
   * Every key of a member by ascending epoch, each from the attempt that counts. `undefined`: an epoch is missing. That
   * happens on a replica that catches up from a snapshot, and while the room is cleared away.
   */
  async #all(room: LiveRoom, at: MembershipRef, freshness: Freshness, call: Call): Promise<RoomKey[] | undefined> {
    const { record } = room;
    if (record.epoch === 0) return [];
    const { roomKeys } = this.#log.buckets;
    const min = freshness === "any" ? record.keysSeq : await roomKeys.readIndex(call);
    const [rows, epochs] = await joinBoth(
      roomKeys.scans.all(keys.roomKeys(at), keys.roomKeysMark(at), min, call),
      roomKeys.scans.all(
        keys.epochs(room.id, record.incarnation),
        keys.epochsMark(room.id, record.incarnation),
        min,
        call,
      ),
    );
    const attempts = new Map<number, string>([[record.epoch, record.attempt]]);
    for (const entry of epochs.values()) attempts.set(Number(entry.key.split(".").at(-1)), readEpoch(entry));
    for (let epoch = 1; epoch < record.epoch; epoch++) if (!attempts.has(epoch)) return undefined;
    const found: RoomKey[] = [];
    for (const entry of rows.values()) {
      const [attempt, number] = entry.key.split(".").reverse();
      const epoch = Number(number);
      if (epoch <= record.epoch && attempts.get(epoch) === attempt) found.push(toRoomKey(at, epoch, readKey(entry)));
    }
    return found.sort((a, b) => a.epoch - b.epoch);
  }
}

function toRoomKey(at: MembershipRef, epoch: number, row: KeyRow): RoomKey {
  return { roomId: at.roomId, endpoint: at.endpoint, epoch, sealed: row.sealed, createdAt: new Date(row.createdAt) };
}
