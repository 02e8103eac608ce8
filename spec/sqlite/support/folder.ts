import { mkdtemp, readFile, readdir, readlink, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** A folder for each test, gone afterwards. */
export function useFolder(): { readonly path: string; file(name?: string): string } {
  let path = "";
  beforeEach(async () => {
    path = await mkdtemp(join(tmpdir(), "unibus-sqlite-"));
  });
  afterEach(async () => {
    await rm(path, { recursive: true, force: true });
  });
  return {
    get path() {
      return path;
    },
    file: (name = "membership.db") => join(path, name),
  };
}

/** Every file of a folder, byte for byte. */
export async function contents(folder: string): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const name of (await readdir(folder)).sort()) {
    const path = join(folder, name);
    found[name] = (await stat(path)).isFile() ? (await readFile(path)).toString("base64") : "not a file";
  }
  return found;
}

/** Where the header of a log ends, and then each of its records. */
export function endsOf(log: Buffer): number[] {
  const ends = [128];
  for (let at = 128; log[at] === 0xff; ends.push(at)) at += 25 + log.readUInt32LE(at + 5);
  return ends;
}

/**
 * Says that nobody holds the file, as a store that was closed does. Without that an opener waits for a holder whom it
 * does not find to notice, and these files have none.
 */
export function release(file: string): Promise<void> {
  return writeFile(`${file}-lock`, '{"released":true}\n');
}

/** The name of the one log that is in use. */
export async function logOf(file: string): Promise<string> {
  const found: string[] = [];
  for (const parity of ["0", "1"]) {
    if ((await stat(`${file}-redo${parity}`).catch(() => undefined)) !== undefined) found.push(`${file}-redo${parity}`);
  }
  const [only] = found;
  if (only === undefined || found.length > 1) throw new Error(`logs: ${found.join(", ")}`);
  return only;
}

/** What of a folder this process has open, as far as the system tells. */
export async function openIn(folder: string): Promise<string[]> {
  if (process.platform !== "linux") return [];
  const open = (await readdir("/proc/self/fd")).map((fd) => readlink(`/proc/self/fd/${fd}`).catch(() => ""));
  return (await Promise.all(open)).filter((path) => path.startsWith(folder));
}

export async function failure(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    (value) => {
      throw new Error(`resolved with ${JSON.stringify(value)}, and should have been refused`);
    },
    (error: unknown) => error,
  );
}
