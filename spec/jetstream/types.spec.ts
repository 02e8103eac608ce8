/**
 * What the types of the JetStream backend forbid. The functions here are never called: where one of the lines below an
 * expected error compiles, the types are no longer checked, and `npm run typecheck` says so.
 */
import { expect } from "chai";
import type { Call } from "../../lib/call.js";
import type { Bucket } from "../../lib/jetstream/bucket.js";
import type { Entry } from "../../lib/jetstream/entry.js";
import { CERTAIN, commitOrCertain } from "../../lib/jetstream/freshness.js";
import { keys, type Key } from "../../lib/jetstream/keys.js";
import { readMember, readRoom } from "../../lib/jetstream/room-record.js";
import type { RoomMembers } from "../../lib/jetstream/room-members.js";
import type { RoomRecords } from "../../lib/jetstream/room-records.js";
import { later, latest, type Seq } from "../../lib/jetstream/seq.js";

interface Buckets {
  readonly rooms: Bucket<"rooms">;
  readonly members: Bucket<"members">;
  readonly users: Bucket<"users">;
}

export async function sequences({ rooms, members }: Buckets, call: Call): Promise<void> {
  const room = await rooms.readLinearizable(keys.room("r"), call);
  const key = keys.member("r", "e", "x");
  const member = await members.readLinearizable(key, call);
  // @ts-expect-error how far the members are says nothing of the rooms
  rooms.demand(member.asOf, room.asOf);
  // @ts-expect-error nor where a room stands of a member
  await members.stands(key, room.asOf, call);
  // @ts-expect-error nor is there a later one of the two
  later(room.asOf, member.asOf);
  // @ts-expect-error a number is none, until it is said of which log
  await members.stands(key, 17, call);
  // 0 is before every log.
  await members.stands(key, 0, call);
  members.demand(member.asOf, member.asOf);
}

export async function recordKeys({ rooms, members, users }: Buckets, call: Call): Promise<void> {
  // @ts-expect-error an id is no key
  await rooms.get("r", call);
  // @ts-expect-error a string that looks like one is none
  await rooms.get("room.cg", call);
  // @ts-expect-error the key of a member is in another bucket
  await rooms.get(keys.member("r", "e", "x"), call);
  // @ts-expect-error what matches several keys is not the key of a record
  await members.get(keys.members("r", "x"), call);
  // @ts-expect-error a room's rows are in another bucket than its record
  await rooms.purge(keys.members("r", "x"), call);
  await members.purge(keys.members("r", "x"), call);
  await members.purge(keys.member("r", "e", "x"), call);
  // Both have it.
  await rooms.get(keys.state, call);
  await users.get(keys.state, call);
  // @ts-expect-error this one has not
  await members.get(keys.state, call);
}

export function records(entry: Entry<"rooms">): void {
  readRoom(entry);
  // @ts-expect-error what stands in `rooms` is no row of a member
  readMember(entry);
}

export async function refusals(records: RoomRecords, members: RoomMembers, call: Call): Promise<void> {
  const stale = await records.slot("r", "any", call);
  // @ts-expect-error that some replica has no such room is no reason to refuse
  CERTAIN.rules(stale).roomNotFound("r");
  const certain = await records.slot("r", "certain", call);
  CERTAIN.rules(certain).roomNotFound("r");

  const entry = await records.buckets.rooms.get(keys.room("r"), call);
  // @ts-expect-error nor is that it has one, which may be of before
  CERTAIN.rules({ entry }).roomExists("r");
  const read = await records.buckets.rooms.readLinearizable(keys.room("r"), call);
  CERTAIN.rules(read).roomExists("r");

  await commitOrCertain(records.buckets.rooms, call, async (round) => {
    const { room, member } = await members.member("r", "e", round, call);
    round.rules(room).checkRevision(room.facts.revision, "1");
    round.rules(member).memberExists("r", "e");
    const other = await records.room("other", CERTAIN, call);
    round.rules(other).checkRevision(other.facts.revision, "1");
    // @ts-expect-error what is stale also when the round asks for what is certain
    round.rules(await records.slot("r", "any", call)).roomNotFound("r");
    // @ts-expect-error the rules of one round do not take what another one has read
    CERTAIN.rules(room).checkRevision(room.facts.revision, "1");
    return "again";
  });
}

describe("the types of the JetStream backend", () => {
  it("are not there at run time: keys are strings, sequences numbers", () => {
    const key: Key<"rooms"> = keys.room("r");
    expect(key).to.equal("room.cg");
    const seqs: Seq<"rooms">[] = [0, later<"rooms">(0, 0)];
    expect(latest<"rooms">(0, seqs)).to.equal(0);
  });
});
