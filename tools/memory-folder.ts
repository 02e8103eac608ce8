// Where the specs' nats-servers keep their files: in memory, where the system has a file system there with enough room.
// A server waits for its disk whenever it makes a stream, and what a spec does to a server, a kill, a pause, a cut,
// takes nothing from its files. Whether files survive a loss of power is asked of SQLite's alone, and those stay on the
// disk.

import { mkdtempSync, rmSync, statfsSync } from "node:fs";
import { join } from "node:path";

const PLACE = "/dev/shm";
/** Several clusters at a time, and what JetStream wants to see free before it takes a stream. */
const ENOUGH_BYTES = 4 * 2 ** 30;

/** Not that of the servers themselves: it runs programs out of its folder, which such a place can forbid. */
const NEED_SERVERS = /jetstream/;

/** Makes a folder in memory, which is gone when the process ends. `undefined`: there is no such place. */
function makeMemoryFolder(): string | undefined {
  try {
    const { bavail, bsize } = statfsSync(PLACE);
    if (bavail * bsize < ENOUGH_BYTES) return undefined;
    const folder = mkdtempSync(join(PLACE, "unibus-specs-"));
    process.once("exit", () => {
      rmSync(folder, { recursive: true, force: true });
    });
    return folder;
  } catch {
    return undefined;
  }
}

let made: { readonly folder: string | undefined } | undefined;

/** What `TMPDIR` is for the spec, if it is to be another than the system's. Whoever names one gets that. */
export function temporaryFolderOf(spec: string): string | undefined {
  if (process.env["TMPDIR"] !== undefined || !NEED_SERVERS.test(spec)) return undefined;
  made ??= { folder: makeMemoryFolder() };
  return made.folder;
}
