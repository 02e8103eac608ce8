/**
 * `<file>-lock`: who holds the file, for a person to find, and for the next opener to know whether the last holder is
 * gone. Whether a holder lives is not said by this, but by its socket.
 */
import { promises as fs } from "node:fs";
import { codeOf, isAbsent, isFull, removeIfThere, statIfThere } from "./files.js";

/** What is added to the name of a file. */
export const LOCK = "-lock";

/** The same text each time: an opening that is refused leaves the files as they were. */
const RELEASED = '{"released":true}\n';

export interface Holder {
  readonly pid: number;
  readonly host: string;
  /** ISO 8601. */
  readonly since: string;
  /** The name of its socket. */
  readonly socket: string;
}

/** `undefined`: nothing is known, because it is not there, or is being written. */
export async function readLockFile(path: string): Promise<Holder | "released" | undefined> {
  try {
    const text = await fs.readFile(path + LOCK, "utf8");
    if (text === RELEASED) return "released";
    const found: unknown = JSON.parse(text);
    if (typeof found !== "object" || found === null) return undefined;
    const { pid, host, since, socket } = found as Partial<Record<keyof Holder, unknown>>;
    if (
      typeof pid !== "number" ||
      typeof host !== "string" ||
      typeof since !== "string" ||
      typeof socket !== "string"
    ) {
      return undefined;
    }
    return { pid, host, since, socket };
  } catch {
    return undefined;
  }
}

export async function readHolder(path: string): Promise<Holder | undefined> {
  const found = await readLockFile(path);
  return found === "released" ? undefined : found;
}

export function writeHolder(path: string, holder: Holder): Promise<void> {
  return replace(path, `${JSON.stringify(holder)}\n`);
}

/** Says that nobody holds the file, if it still names this socket. */
export async function writeReleased(path: string, socket: string): Promise<void> {
  if ((await readHolder(path))?.socket === socket) await replace(path, RELEASED);
}

/** Names the holder of before again, who was not found and may be there. */
export async function restoreHolder(path: string, socket: string, before: Holder): Promise<void> {
  if ((await readHolder(path))?.socket === socket) await writeHolder(path, before);
}

/** Says nothing, as before: the file had none. */
export async function removeHolder(path: string, socket: string): Promise<void> {
  if ((await readHolder(path))?.socket === socket) await removeIfThere(path + LOCK);
}

/**
 * Whole under its name at once, so that nobody reads half of it. On a disk that is full it has to go without: what it
 * said before is no longer so, and whoever finds none makes sure by waiting.
 */
async function replace(path: string, text: string): Promise<void> {
  const temporary = `${path}-lock-holder`;
  try {
    await fs.writeFile(temporary, text, { mode: 0o644 });
    await giveToOwner(path, temporary);
    await fs.rename(temporary, path + LOCK);
  } catch (error) {
    await removeIfThere(temporary).catch(() => undefined);
    // Whoever opens the file by another link finds its holder by this alone.
    if (!isFull(error) || ((await statIfThere(path))?.nlink ?? 1) > 1) throw error;
    await removeIfThere(path + LOCK);
  }
}

/** Root gives what it makes beside the file to the file's owner: in a sticky folder nobody else could remove it. */
export async function giveToOwner(path: string, own: string): Promise<void> {
  if (process.getuid?.() !== 0) return;
  const image = await statIfThere(path);
  if (image === undefined || image.uid === 0) return;
  try {
    await fs.lchown(own, image.uid, image.gid);
  } catch (error) {
    if (!isAbsent(error) && codeOf(error) !== "EPERM") throw error;
  }
}
