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

function textBytes(characters: number): number {
  return ROW_BYTES + CHARACTER_BYTES * characters;
}

function blobBytes(length: number): number {
  return (
    2 * Math.min(length, LOCAL_BYTES) +
    (length < LOCAL_BYTES / 2 ? 0 : Math.ceil(length / (PAGE_BYTES - 4)) * PAGE_BYTES)
  );
}

// What rows take in the image, at most.

export function userBytes({ key, name }: UserRow): number {
  return textBytes(key.length + name.length);
}

export function roomBytes({ id, name, owner }: RoomRow): number {
  return packedRoomBytes(id.length + name.length + owner.length);
}

export function memberBytes({ roomId, endpoint, invitedBy, publicKey }: MemberRow): number {
  return packedMemberBytes(roomId.length + endpoint.length + (invitedBy?.length ?? 0), publicKey?.length);
}

export function keyBytes({ roomId, endpoint, sealed }: KeyRow): number {
  return packedKeyBytes(roomId.length + endpoint.length, sealed.length);
}

// The same of rows of which only this is known: the characters of their texts, and how long their bytes are.

export function packedRoomBytes(characters: number): number {
  return textBytes(characters);
}

export function packedMemberBytes(characters: number, publicKey: number | undefined): number {
  return textBytes(characters) + (publicKey === undefined ? 0 : blobBytes(publicKey));
}

export function packedKeyBytes(characters: number, sealed: number): number {
  return textBytes(characters) + blobBytes(sealed);
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
      case "import":
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
