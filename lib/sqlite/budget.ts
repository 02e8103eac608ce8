/**
 * How large image and log may become. Both can be read back at these sizes, and what would make them larger is refused
 * before it is acknowledged. What takes away is never refused.
 */
import { StoreError } from "../errors.js";
import type { Change } from "./changes.js";
import type { KeyRow, MemberRow, RoomRow, UserRow } from "./rows.js";

const MAX_IMAGE_BYTES = 8 * 1024 ** 3;
/** Of each of the two logs. */
export const MAX_LOG_BYTES = 4 * 1024 ** 3;

/** At most: a page may be half full, and a character takes up to three bytes. */
const ROW_BYTES = 128;
const CHARACTER_BYTES = 3;
/** What does not fit into a page of a table goes to pages of its own. */
const PAGE_BYTES = 4096;
const LOCAL_BYTES = 1024;

function textBytes(a: string, b: string, c = ""): number {
  return ROW_BYTES + CHARACTER_BYTES * (a.length + b.length + c.length);
}

function blobBytes({ length }: Uint8Array): number {
  return (
    2 * Math.min(length, LOCAL_BYTES) +
    (length < LOCAL_BYTES / 2 ? 0 : Math.ceil(length / (PAGE_BYTES - 4)) * PAGE_BYTES)
  );
}

// What rows take in the image, at most.

export function userBytes(row: UserRow): number {
  return textBytes(row.key, row.name);
}

export function roomBytes(row: RoomRow): number {
  return textBytes(row.id, row.name, row.owner);
}

export function memberBytes(row: MemberRow): number {
  return (
    textBytes(row.roomId, row.endpoint, row.invitedBy) + (row.publicKey === undefined ? 0 : blobBytes(row.publicKey))
  );
}

export function keyBytes(row: KeyRow): number {
  return textBytes(row.roomId, row.endpoint) + blobBytes(row.sealed);
}

/** The bytes of the rows that a transaction adds. What it removes or replaces is not subtracted. */
export function changesBytes(changes: readonly Change[]): number {
  let bytes = 0;
  for (const change of changes) {
    switch (change.kind) {
      case "user":
        bytes += userBytes(change.row);
        break;
      case "room":
        bytes += roomBytes(change.row);
        break;
      case "member":
        bytes += memberBytes(change.row);
        break;
      case "key":
        bytes += keyBytes(change.row);
        break;
      case "roomGone":
      case "memberGone":
        break;
    }
  }
  return bytes;
}

/** What a store that keeps a file may hold. */
export interface Budget {
  readonly imageBytes: number;
  readonly logBytes: number;
}

export const FILE_BUDGET: Budget = { imageBytes: MAX_IMAGE_BYTES, logBytes: MAX_LOG_BYTES };
export const NO_BUDGET: Budget = { imageBytes: Infinity, logBytes: Infinity };

export function imageFull(imageBytes: number, maxImageBytes: number): StoreError {
  return new StoreError(
    "UNAVAILABLE",
    `The store is full: the file would have ${String(imageBytes)} bytes of at most ${String(maxImageBytes)}`,
    {
      outcome: "none",
      details: { imageBytes, maxImageBytes },
    },
  );
}

export function logFull(logBytes: number, maxLogBytes: number): StoreError {
  return new StoreError(
    "UNAVAILABLE",
    `The log is full: it has ${String(logBytes)} bytes of at most ${String(maxLogBytes)}, until a checkpoint succeeds`,
    {
      outcome: "none",
      details: { logBytes, maxLogBytes },
    },
  );
}
