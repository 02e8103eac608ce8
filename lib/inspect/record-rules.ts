/** What holds of records on every backend: each by itself, and how they belong together. */
import type { StoredKey, StoredMember, StoredRecord, StoredRoom, StoredUser } from "../driver.js";
import { isError } from "../errors.js";
import { nameOf, named, type Found } from "../findings.js";
import { readLine, recordLine } from "../transfer/lines.js";

/** A finding, and where it is the role of a member, whose. */
export interface Judged extends Found {
  readonly role?: { readonly roomId: string; readonly endpoint: string };
}

const found = (code: Found["code"], record: string, message: string): Judged => ({
  code,
  message,
  record,
  repaired: false,
});

/** Told of records in the order in which a reader has them. */
export class RecordRules {
  #room: StoredRoom | undefined;
  #hasOwner = false;
  #hasUsers = false;
  /** Whether any user is an admin, revoked or not, and any who is not revoked. */
  hasAdmins = false;
  #hasActiveAdmin = false;

  next(record: StoredRecord): Judged[] {
    const judged = fieldsOf(record);
    switch (record.kind) {
      case "user":
        this.#user(record.row);
        return judged;
      case "room": {
        const before = this.#endRoom();
        this.#room = record.row;
        this.#hasOwner = false;
        return [...before, ...judged];
      }
      case "member":
        return [...judged, ...this.#member(record.row)];
      case "key":
        return [...judged, ...this.#key(record.row)];
    }
  }

  /** The last record was told. `adminEver`: whether any user is, or was, an admin. */
  end(adminEver: boolean): Judged[] {
    const judged = this.#endRoom();
    if (adminEver && this.#hasUsers && !this.#hasActiveAdmin) {
      const message =
        "There was an admin, and every one is revoked or demoted, which no operation leaves. Whoever may be one is yours to decide: import a backup, or open a new store";
      judged.push({ code: "NO_ADMIN", message, repaired: false });
    }
    return judged;
  }

  #user({ role, status }: StoredUser): void {
    this.#hasUsers = true;
    if (role !== "admin") return;
    this.hasAdmins = true;
    if (status === "active") this.#hasActiveAdmin = true;
  }

  #endRoom(): Judged[] {
    const room = this.#room;
    this.#room = undefined;
    if (room === undefined || this.#hasOwner) return [];
    const message = `The owner ${JSON.stringify(room.owner)} is not a joined member. Nobody else is made one: move ownership to a joined member, or delete the room`;
    return [found("OWNER_MISSING", named.room(room.id), message)];
  }

  #member({ roomId, endpoint, role, state }: StoredMember): Judged[] {
    const isOwner = endpoint === this.#room?.owner;
    if (isOwner && state === "joined") this.#hasOwner = true;
    if (isOwner === (role === "owner")) return [];
    const message = isOwner
      ? "The owner's role is not that of an owner"
      : "The role is that of an owner, who is another";
    return [{ ...found("OWNER_ROLE", named.member(roomId, endpoint), message), role: { roomId, endpoint } }];
  }

  #key({ roomId, endpoint, epoch }: StoredKey): Judged[] {
    if (this.#room === undefined || epoch <= this.#room.epoch) return [];
    const message = `The room is at epoch ${String(this.#room.epoch)}. Whether the room went back, or the key should not be there, cannot be told: rekey the room`;
    return [found("KEY_EPOCH", named.key(roomId, endpoint, epoch), message)];
  }
}

/** The same checks as of an import. What they say names fields, and never what stands there. */
function fieldsOf(record: StoredRecord): Judged[] {
  try {
    readLine(recordLine(record), 1);
    if (timesOf(record).every((time) => time === undefined || Number.isSafeInteger(time))) return [];
    return [
      found(
        "FIELD_INVALID",
        nameOf(record),
        "A time is no whole number of milliseconds. What it should be nobody can tell",
      ),
    ];
  } catch (error) {
    const cause: unknown = isError(error) && error.cause !== undefined ? error.cause : error;
    const what = isError(cause) ? cause.message : "it cannot be written down";
    const message = `No caller can have written this: ${what}. What it should be nobody can tell`;
    return [found("FIELD_INVALID", nameOf(record), message)];
  }
}

function timesOf(record: StoredRecord): readonly (number | undefined)[] {
  switch (record.kind) {
    case "user":
      return [record.row.createdAt, record.row.revokedAt, record.row.expiresAt];
    case "member":
      return [record.row.since];
    case "room":
    case "key":
      return [record.row.createdAt];
  }
}
