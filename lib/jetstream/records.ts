/** Whole records, out of the buckets and into them. */
import type { Call } from "../call.js";
import type { RecordReader, RecordsDriver } from "../driver.js";
import { MAX_REVISION_FLOOR } from "../rules.js";
import type { JetStreamClient } from "./client.js";
import { floorOf, readState } from "./importing.js";
import { joinAll, joinBoth } from "./join.js";
import type { ProvedBucket } from "./proved-bucket.js";
import type { CommittingBucket } from "./store-state.js";
import { streamState } from "./provisioning.js";
import { BucketsReader } from "./record-reader.js";
import type { ReaderFacts } from "./record-reader.js";
import { BucketsWriter, type Writable } from "./record-writer.js";

/**
 * How many versions of users an export leaves room for: as many as there were, and so many more. Others write
 * meanwhile.
 */
const VERSIONS_MEANWHILE = 1_000_000;

export function records(parts: Writable, client: JetStreamClient): RecordsDriver {
  const read = (call: Call): Promise<RecordReader> => begin(parts, client, call);
  return {
    read: async (call) => {
      const { users, log } = parts;
      const { rooms } = log.buckets;
      const isOpen = async <B extends CommittingBucket, V>(bucket: ProvedBucket<B, V>): Promise<void> =>
        bucket.checkOpen(await bucket.readIndex(call), call);
      await joinBoth(isOpen(users), isOpen(rooms));
      return read(call);
    },
    write: (revisionFloor, call) => BucketsWriter.begin(parts, read, versionAbove(revisionFloor), call),
  };
}

async function begin(parts: Writable, client: JetStreamClient, call: Call): Promise<BucketsReader> {
  return new BucketsReader(parts, await readerFacts(parts, client, () => parts.guard.adminEver(call), call));
}

/** `isAdminEver`: whether any user is, or was, an admin. */
export async function readerFacts(
  { users, log }: Writable,
  client: JetStreamClient,
  isAdminEver: () => Promise<boolean>,
  call: Call,
): Promise<ReaderFacts> {
  const { rooms, members, roomKeys } = log.buckets;
  await joinBoth(users.readIndex(call), rooms.readIndex(call));
  const { value } = await readState(users, call);
  const [userCount, roomCount, memberCount, keyCount] = await joinAll(
    [users, rooms, members, roomKeys].map(async ({ name }) => (await streamState(client, name, call))?.messages ?? 0),
  );
  // Each version of a user was a message, except the versions that an import began with.
  const version = floorOf(value) + 2 * users.highestSeen + VERSIONS_MEANWHILE;
  return {
    expected: { users: userCount ?? 0, rooms: roomCount ?? 0, members: memberCount ?? 0, roomKeys: keyCount ?? 0 },
    adminEver: await isAdminEver(),
    revisionFloor: Math.min(Number.parseInt(String(version), 36), MAX_REVISION_FLOOR),
  };
}

/**
 * A version of a user whose revision is above `floor`, as are all later ones. A revision is the version in decimal
 * digits, and is compared as a number to the base of 36. So the decimal digits with which `floor` begins are raised by
 * one, and zeros take the place of the others.
 */
export function versionAbove(floor: number): number {
  const digits = floor.toString(36);
  const letter = digits.search(/[a-z]/);
  const head = letter < 0 ? digits : digits.slice(0, letter);
  const next = String(Number(head === "" ? "0" : head) + 1);
  return Number(letter < 0 ? next : next + "0".repeat(digits.length - letter));
}
