/** Whole records, out of the buckets and into them. */
import type { Call } from "../call.js";
import type { MovingDriver, RecordNames, RecordReader, RecordsDriver } from "../driver.js";
import { MAX_REVISION_FLOOR } from "../rules.js";
import type { JetStreamClient } from "./client.js";
import { floorOf, readState } from "./importing.js";
import { joinAll, joinBoth } from "./join.js";
import type { ProvedBucket } from "./proved-bucket.js";
import type { CommittingBucket } from "./store-state.js";
import { streamState } from "./provisioning.js";
import { BucketsMoving } from "./moving.js";
import { BucketsReader, NamesReader } from "./record-reader.js";
import type { ReaderFacts } from "./record-reader.js";
import { BucketsWriter, type Writable } from "./record-writer.js";

/**
 * How many versions of users an export leaves room for: as many as there were, and so many more. Others write
 * meanwhile.
 */
const VERSIONS_MEANWHILE = 1_000_000;

/** Whole records of all users and rooms, and of some of them. */
export function records(
  parts: Writable,
  client: JetStreamClient,
  prefix: string,
): { readonly records: RecordsDriver; readonly moving: MovingDriver } {
  const read = (names: RecordNames | undefined, call: Call): Promise<RecordReader> =>
    names === undefined ? begin(parts, client, call) : NamesReader.begin(parts, names, call);
  return { records: recordsOf(parts, read), moving: new BucketsMoving(parts, client, prefix, read) };
}

function recordsOf(
  parts: Writable,
  read: (names: RecordNames | undefined, call: Call) => Promise<RecordReader>,
): RecordsDriver {
  return {
    read: async (call) => {
      const { users, log } = parts;
      const { rooms } = log.buckets;
      const isOpen = async <B extends CommittingBucket, V>(bucket: ProvedBucket<B, V>): Promise<void> =>
        bucket.checkOpen(await bucket.readIndex(call), call);
      await joinBoth(isOpen(users), isOpen(rooms));
      return read(undefined, call);
    },
    write: (revisionFloor, run, call) => BucketsWriter.begin(parts, read, versionAbove(revisionFloor), run, call),
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
    revisionFloor: revisionOf(version),
  };
}

/** The revision of a version of a user, as a number. */
export const revisionOf = (version: number): number =>
  Math.min(Number.parseInt(String(version), 36), MAX_REVISION_FLOOR);

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
