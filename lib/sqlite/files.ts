/** What the store does to files, besides appending to its log. Nothing here blocks the event loop. */
import { constants, promises as fs, write } from "node:fs";
import type { FileHandle } from "node:fs/promises";
import type { Buffer } from "node:buffer";
import { dirname } from "node:path";

/** Enough for one write call, and little enough for a disk that is slow. */
const CHUNK = 4 * 1024 * 1024;

/** Data that a write call left is on the disk when it returns; where there is no such flag, the writer syncs by itself. */
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

/** Makes what was created, renamed or deleted in the folder durable. */
export async function syncFolderOf(path: string): Promise<void> {
  // Windows has no such thing for folders, and needs none.
  if (process.platform === "win32") return;
  const folder = await fs.open(dirname(path), constants.O_RDONLY);
  try {
    await folder.sync();
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

/** Writes a file, and returns when all of it is on the disk. */
export async function writeSynced(path: string, bytes: Uint8Array): Promise<void> {
  const handle = await fs.open(path, "w", 0o600);
  try {
    await writeAll(handle, bytes, 0);
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** The whole file, or `undefined` if there is none. */
export async function readIfThere(path: string): Promise<Buffer | undefined> {
  try {
    return await fs.readFile(path);
  } catch (error) {
    if (isAbsent(error)) return undefined;
    throw error;
  }
}
