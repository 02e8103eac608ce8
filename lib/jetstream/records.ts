/** Whole records, out of the buckets and into them. */
import type { Call } from "../call.js";
import type { MovingDriver, RecordNames, RecordReader, RecordsDriver } from "../driver.js";
import type { JetStreamClient } from "./client.js";
import { joinAll, joinBoth } from "./join.js";
import type { ProvedBucket } from "./proved-bucket.js";
import type { CommittingBucket } from "./store-state.js";
import { streamState } from "./provisioning.js";
import { BucketsMoving } from "./moving.js";
import { BucketsReader, NamesReader } from "./record-reader.js";
import type { ReaderFacts } from "./record-reader.js";
import { BucketsWriter, type Writable } from "./record-writer.js";
import { revisionOf, userVersions, versionAbove } from "./user-versions.js";

/** Whole records of all users and rooms, and of some of them. */
export function records(
  parts: Writable,
  client: JetStreamClient,
  prefix: string,
): { readonly records: RecordsDriver; readonly moving: MovingDriver } {
  const read = (names: RecordNames | undefined, call: Call): Promise<RecordReader> =>
    names === undefined ? begin(parts, client, 0, call) : NamesReader.begin(parts, names, call);
  return { records: recordsOf(parts, client, read), moving: new BucketsMoving(parts, client, prefix, read) };
}

function recordsOf(
  parts: Writable,
  client: JetStreamClient,
  read: (names: RecordNames | undefined, call: Call) => Promise<RecordReader>,
): RecordsDriver {
  return {
    read: async (call) => {
      const { users, log } = parts;
      const { rooms } = log.buckets;
      const isOpen = async <B extends CommittingBucket, V>(bucket: ProvedBucket<B, V>): Promise<void> =>
        bucket.checkOpen(await bucket.readIndex(call), call);
      await joinBoth(isOpen(users), isOpen(rooms));
      const { meanwhile } = await userVersions(parts, undefined, call);
      return begin(parts, client, revisionOf(meanwhile), call);
    },
    write: (revisionFloor, run, call) => BucketsWriter.begin(parts, read, versionAbove(revisionFloor), run, call),
  };
}

/** `revisionFloor`: only an export says it. */
async function begin(
  parts: Writable,
  client: JetStreamClient,
  revisionFloor: number,
  call: Call,
): Promise<BucketsReader> {
  const facts = await readerFacts(parts, client, () => parts.guard.adminEver(call), call);
  return new BucketsReader(parts, { ...facts, revisionFloor });
}

/** `isAdminEver`: whether any user is, or was, an admin. */
export async function readerFacts(
  { users, log }: Writable,
  client: JetStreamClient,
  isAdminEver: () => Promise<boolean>,
  call: Call,
): Promise<Omit<ReaderFacts, "revisionFloor">> {
  const { rooms, members, roomKeys } = log.buckets;
  await joinBoth(users.readIndex(call), rooms.readIndex(call));
  const [userCount, roomCount, memberCount, keyCount] = await joinAll(
    [users, rooms, members, roomKeys].map(async ({ name }) => (await streamState(client, name, call))?.messages ?? 0),
  );
  return {
    expected: { users: userCount ?? 0, rooms: roomCount ?? 0, members: memberCount ?? 0, roomKeys: keyCount ?? 0 },
    adminEver: await isAdminEver(),
  };
}
