/** What an inspection finds, whatever the backend. */

/**
 * `error`: a promise does not hold, or may not. `warning`: what holds rests on less than it should. `info`: nothing
 * that a caller can see.
 */
const SEVERITIES = {
  // What a record says, on every backend.
  FIELD_INVALID: "error",
  OWNER_MISSING: "error",
  OWNER_ROLE: "error",
  KEY_EPOCH: "error",
  RECORD_UNLISTED: "error",
  REVISION_AHEAD: "error",
  NO_ADMIN: "warning",
  ADMIN_GUARD: "error",
  // What stands in a file.
  FILE_DAMAGED: "error",
  // What stands in a bucket.
  RECORD_DAMAGED: "error",
  RECORD_MISPLACED: "error",
  RECORD_UNKNOWN: "warning",
  ROOM_MISSING: "error",
  ROOM_NOT_INDEXED: "error",
  MEMBER_NOT_INDEXED: "error",
  MEMBER_COUNT: "error",
  MEMBER_UNCOMMITTED: "error",
  HEAD_INVALID: "error",
  EPOCH_MISSING: "error",
  EPOCH_INVALID: "error",
  STAGE_INVALID: "error",
  STATE_INVALID: "error",
  LOG_BEHIND: "error",
  LEFTOVER: "info",
  // What the servers say of the buckets.
  SETTING_INVALID: "error",
  REPLICAS_MISSING: "warning",
  // Of the inspection itself.
  MORE_FINDINGS: "warning",
} as const;

/** What kind of fault it is: docs/operations.md has what each means, and what to do. */
export type FindingCode = keyof typeof SEVERITIES;

/** Something that is not as it should be. */
export interface Finding {
  /**
   * `error`: a promise does not hold, or may not. `warning`: it rests on less than it should. `info`: nothing that a
   * caller can see.
   */
  severity: "error" | "warning" | "info";
  code: FindingCode;
  /** What is wrong; and where it was not mended, why not. Never a sealed key. */
  message: string;
  /** Which record, bucket or file. */
  record?: string;
  repaired: boolean;
}

/** A finding as a backend tells it. */
export type Found = Omit<Finding, "severity">;

export const toFinding = (found: Found): Finding => ({ severity: SEVERITIES[found.code], ...found });

const quoted = (id: string): string => JSON.stringify(id);

/** How records are named, whatever the backend. An id is quoted, so that a hostile one cannot forge a line of a log. */
export const named = {
  user: (key: string): string => `user ${quoted(key)}`,
  room: (id: string): string => `room ${quoted(id)}`,
  member: (roomId: string, endpoint: string): string => `member ${quoted(endpoint)} of room ${quoted(roomId)}`,
  key: (roomId: string, endpoint: string, epoch: number): string =>
    `key of epoch ${String(epoch)} of member ${quoted(endpoint)} of room ${quoted(roomId)}`,
} as const;

/** As much of a whole record as names it. */
type NamedRecord =
  | { readonly kind: "user"; readonly row: { readonly key: string } }
  | { readonly kind: "room"; readonly row: { readonly id: string } }
  | { readonly kind: "member"; readonly row: { readonly roomId: string; readonly endpoint: string } }
  | {
      readonly kind: "key";
      readonly row: { readonly roomId: string; readonly endpoint: string; readonly epoch: number };
    };

export function nameOf(record: NamedRecord): string {
  switch (record.kind) {
    case "user":
      return named.user(record.row.key);
    case "room":
      return named.room(record.row.id);
    case "member":
      return named.member(record.row.roomId, record.row.endpoint);
    case "key":
      return named.key(record.row.roomId, record.row.endpoint, record.row.epoch);
  }
}
