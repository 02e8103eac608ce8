/** What the store does to files, besides appending to its log. Nothing here blocks the event loop. */
import { constants, fdatasync, fsync, promises as fs, write } from "node:fs";
import type { Stats } from "node:fs";
import type { FileHandle } from "node:fs/promises";
import { dirname } from "node:path";
import { promisify } from "node:util";

/** Enough for one write call, and little enough for a disk that is slow. */
const CHUNK = 4 * 1024 * 1024;

/**
 * Data that a write call left is on the disk when it returns; where there is no such flag, the writer syncs by itself.
 */
export const SYNCED_WRITES: number | undefined = (constants as { O_DSYNC?: number }).O_DSYNC;

export function codeOf(error: unknown): string | undefined {
  if (typeof error !== "object" || error === null || !("code" in error)) return undefined;
  return typeof error.code === "string" ? error.code : undefined;
}

export function isAbsent(error: unknown): boolean {
  return codeOf(error) === "ENOENT";
}

/** Whether there is no room for more: on the disk, in the quota, or in a file. */
export function isFull(error: unknown): boolean {
  const code = codeOf(error);
  return code === "ENOSPC" || code === "EDQUOT" || code === "EFBIG";
}

/**
 * Writes all of `bytes` at `position`. A call may write less than it was asked to; one that writes nothing has failed.
 * By the plain call: the method of a handle does the same, and costs a caller who waits alone a tenth more.
 */
export function writeAll(handle: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  return new Promise((resolve, reject) => {
    write(handle.fd, bytes, 0, Math.min(CHUNK, bytes.length), position, (error, taken) => {
      if (error !== null) reject(error);
      else if (taken === bytes.length) resolve();
      else if (taken === 0) reject(new Error("The disk took none of the bytes"));
      else resolve(writeAll(handle, bytes.subarray(taken), position + taken));
    });
  });
}

/** Returns when all of the file is on the disk. */
export async function sync(handle: FileHandle): Promise<void> {
  try {
    await handle.sync();
  } catch (error) {
    if (!isLacking(error)) throw error;
    await promisify(fsync)(handle.fd);
  }
}

/** The same without what only tells of the file. */
export async function syncData(handle: FileHandle): Promise<void> {
  try {
    await handle.datasync();
  } catch (error) {
    if (!isLacking(error)) throw error;
    await promisify(fdatasync)(handle.fd);
  }
}

/**
 * Yarn's Plug'n'Play has handles of its own in place of Node's. They cannot sync, and say so before they do anything:
 * only then the plain call is tried. A sync that failed is never tried again, because the second one would hide what is
 * lost.
 */
function isLacking(error: unknown): boolean {
  return error instanceof Error && codeOf(error) === undefined && error.message === "Method not implemented.";
}

/** Makes what was created, renamed or deleted in the folder durable. */
export async function syncFolderOf(path: string): Promise<void> {
  // Windows has no such thing for folders, and needs none.
  if (process.platform === "win32") return;
  const folder = await fs.open(dirname(path), constants.O_RDONLY);
  try {
    await sync(folder);
  } finally {
    await folder.close();
  }
}

export async function removeIfThere(path: string): Promise<void> {
  try {
    await fs.unlink(path);
  } catch (error) {
    if (!isAbsent(error)) throw error;
  }
}

export async function statIfThere(path: string): Promise<Stats | undefined> {
  try {
    return await fs.stat(path);
  } catch (error) {
    if (isAbsent(error)) return undefined;
    throw error;
  }
}

/** Gives a new file the mode of another, and its owner where that is allowed. */
async function makeLike(handle: FileHandle, { uid, gid, mode }: Stats): Promise<void> {
  const own = await handle.stat();
  // Only root gives files away, and others only to a group of theirs.
  const kept =
    (own.uid === uid && own.gid === gid) || (await canGive(handle, uid, gid)) || (await canGive(handle, own.uid, gid));
  // If the group is another one, it gets no rights.
  await handle.chmod(mode & (kept ? 0o777 : 0o707));
}

async function canGive(handle: FileHandle, uid: number, gid: number): Promise<boolean> {
  try {
    await handle.chown(uid, gid);
    return true;
  } catch (error) {
    if (codeOf(error) !== "EPERM") throw error;
    return false;
  }
}

/** Makes a file, or makes it empty, with owner and mode of `like` if that is given. */
export async function createFile(path: string, like: Stats | undefined): Promise<FileHandle> {
  const handle = await fs.open(path, "w", 0o600);
  try {
    if (like !== undefined) await makeLike(handle, like);
    return handle;
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/** Writes a file, with owner and mode of `like` if that is given, and returns when all of it is on the disk. */
export async function writeSynced(path: string, bytes: Uint8Array, like?: Stats): Promise<void> {
  const handle = await createFile(path, like);
  try {
    await writeAll(handle, bytes, 0);
    await sync(handle);
  } finally {
    await handle.close();
  }
}
