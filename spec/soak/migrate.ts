// From a file to three servers, and back to another file, with many records, under load: how long nobody is allowed.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { importStore, migrate, openJetStream, openSqlite, type BulkProgress, type Store } from "unibus-membership";
import { openMemory, startNatsCluster } from "unibus-membership/testing";
import { linesOf } from "../support/export-cases.js";
import { Watching, Writers, bothOf, type Asked, type Stores } from "../support/migrate-load.js";
import { stoppable, type Stoppable } from "../jetstream/support/stoppable.js";
import { natsClients } from "../support/nats-clients.js";
import { pause } from "../support/wait.js";

export interface MigrateSoakOptions {
  /** Users; a tenth as many rooms, each of ten members, who have a key each, and the owner a second one. */
  readonly records: number;
  readonly log: (line: string) => void;
}

const opTimeoutMs = 60_000;
const LEASE_MS = 500;
const ASK_EVERY_MS = 2;
const MEMBERS = 9;
/** Three write, a user and a room with a member and a key each time: some seventy operations a second. */
const WRITE_EVERY_MS = 200;
/** Checks of what was acknowledged. */
const AT_ONCE = 64;

async function filled(records: number): Promise<string[]> {
  const store = await openMemory({ opTimeoutMs });
  await store.users.addFirstAdmin({ key: "root" });
  for (let i = 1; i < records; i++) await store.users.add({ key: `user-${String(i)}` });
  for (let i = 0; i < records / 10; i++) {
    const id = `room-${String(i)}`;
    const sealed = new Uint8Array(80);
    await store.rooms.create({ id, owner: "owner", encrypted: true, sealedKey: sealed });
    await store.roomKeys.rekey(id, new Map([["owner", sealed]]), { expectedEpoch: 1 });
    for (let j = 0; j < MEMBERS; j++)
      await store.members.add(id, {
        endpoint: `member-${String(j)}`,
        state: "joined",
        sealedKey: { epoch: 2, sealed },
      });
  }
  return linesOf(store);
}

/** A store of the source that is stopped at the fence, and wakes behind the end. */
interface Sleeper {
  readonly store: Store;
  readonly stopped: Stoppable;
}

interface Move {
  readonly what: string;
  readonly stores: Stores;
  readonly others: readonly Asked[];
  readonly sleeper?: Sleeper;
  readonly log: (line: string) => void;
}

async function move({ what, stores, others, sleeper, log }: Move): Promise<void> {
  const { from, to } = stores;
  const watching = new Watching([...bothOf(stores), ...others], "root", "room-0", "member-0");
  const writers = new Writers(from, { prefix: `${what}-`, everyMs: WRITE_EVERY_MS, most: Infinity });
  const began = performance.now();
  let now = "";
  let isOver = false;
  const asleep = sleeper?.stopped.stopAt(() => now === "cut over");
  const asked = sleeper === undefined ? undefined : asksUntil(sleeper.store, () => isOver);
  const onProgress = ({ phase, done }: BulkProgress): void => {
    now = phase;
    if (done === 0) log(`${what}: ${phase} after ${((performance.now() - began) / 1000).toFixed(1)} s`);
  };
  const { counts, digest, fencedMs } = await migrate(from, to, { cutOver: true, onProgress });
  const seconds = (performance.now() - began) / 1000;
  await asleep;
  isOver = true;
  sleeper?.stopped.goOn();
  await asked;
  await Promise.all([writers.end(), watching.end()]);
  for (let i = 0; i < writers.acknowledged.length; i += AT_ONCE)
    await Promise.all(writers.acknowledged.slice(i, i + AT_ONCE).map((check) => check(to)));
  const { users, rooms, members, roomKeys } = counts;
  log(
    `${what}: ${String(users)} users, ${String(rooms)} rooms, ${String(members)} members, ${String(roomKeys)} keys in ${seconds.toFixed(1)} s; ` +
      `nobody allowed for ${fencedMs.toFixed(0)} ms; ${String(writers.acknowledged.length)} acknowledged meanwhile are there; ` +
      `${String(watching.yes.from)} and ${String(watching.yes.to)} yes, never both; digest ${digest.slice(0, 16)}`,
  );
}

/** What it was asked before it was stopped, it denies when it wakes. */
async function asksUntil(store: Store, isAwake: () => boolean): Promise<void> {
  do {
    await pause(ASK_EVERY_MS);
    if ((await store.isAuthorized("root")) && isAwake()) throw new Error("a store that was stopped said yes");
  } while (!isAwake());
}

export async function run({ records, log }: MigrateSoakOptions): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "unibus-migrate-"));
  await using cluster = await startNatsCluster();
  const [client] = natsClients;
  if (client === undefined) throw new Error("no client");
  const connection = await client.connect(cluster.nodes.map(({ url }) => url));
  const file = await openSqlite(join(folder, "from.db"), { opTimeoutMs });
  await importStore(await filled(records), file);
  const servers = await openJetStream(connection, 3, { opTimeoutMs });
  const stopped = stoppable(connection);
  const sleeper = await openJetStream(stopped.connection, 3, { opTimeoutMs });
  const leased: Asked = {
    side: "to",
    store: await openJetStream(connection, 3, { opTimeoutMs, maxStalenessMs: LEASE_MS }),
    leaseMs: LEASE_MS,
  };
  const others: readonly Asked[] = [leased, { side: "to", store: sleeper }];
  await move({ what: "there", stores: { from: file, to: servers }, others, log });
  const back = await openSqlite(join(folder, "to.db"), { opTimeoutMs });
  await move({
    what: "back",
    stores: { from: servers, to: back },
    others: [{ ...leased, side: "from" }],
    sleeper: { store: sleeper, stopped },
    log,
  });
  await Promise.all([file, servers, sleeper, leased.store, back].map((store) => store.close()));
  await connection.close();
  await rm(folder, { recursive: true });
}
