/**
 * What went wrong, as a closed list. Codes are part of the contract and do not change between majors; messages may.
 *
 * | code | meaning | retry? |
 * |---|---|---|
 * | `NOT_FOUND` | The record does not exist. | no |
 * | `ALREADY_EXISTS` | A record of that id exists; it was not touched. | no |
 * | `CONFLICT` | A precondition of the caller, or a rule of the contract, does not hold. | after reading again |
 * | `INVALID_ARGUMENT` | The argument named by `argument` is malformed. Nothing was written. | no |
 * | `TIMEOUT` | The time for the call ran out, or its signal aborted it. | yes, see `outcome` |
 * | `UNAVAILABLE` | The backend cannot answer: no quorum, no connection, a disk error. | yes, see `outcome` |
 * | `CLOSED` | The store is closed or closing. | no |
 * | `LOCKED` | Another store holds the file; `details.holder` names it. | when the holder closed |
 * | `CORRUPT` | What is stored is damaged. It was left as it is. | no |
 * | `INCOMPATIBLE` | The data or the server is foreign, too new, too old, or set up so that a promise breaks. | no |
 */
export type StoreErrorCode =
  | "NOT_FOUND"
  | "ALREADY_EXISTS"
  | "CONFLICT"
  | "INVALID_ARGUMENT"
  | "TIMEOUT"
  | "UNAVAILABLE"
  | "CLOSED"
  | "LOCKED"
  | "CORRUPT"
  | "INCOMPATIBLE";

export interface StoreErrorOptions {
  /** The malformed argument, as a path such as `room.owner`; or the one that names what cannot be opened. */
  argument?: string;
  /** Of a write that ended in `TIMEOUT` or `UNAVAILABLE`: surely not done, or perhaps done. */
  outcome?: "none" | "unknown";
  /** Facts for a program: `holder` of a lock, `missing` and `extra` of a rekey, `offset` of a damage. */
  details?: Readonly<Record<string, unknown>>;
  cause?: unknown;
}

/**
 * The one error that the library throws.
 *
 * Test the code with {@link isNotFound} and its kin rather than with `instanceof`: one process can hold the ESM and the
 * CommonJS build, and so two classes of this name.
 *
 * @example
 * try {
 *   await store.users.get(key);
 * } catch (error) {
 *   if (!isNotFound(error)) throw error;
 * }
 */
export class StoreError extends Error {
  readonly code: StoreErrorCode;
  // Declared only, so that a field is there only where it says something.
  declare readonly argument?: string;
  declare readonly outcome?: "none" | "unknown";
  declare readonly details?: Readonly<Record<string, unknown>>;

  constructor(code: StoreErrorCode, message: string, options: StoreErrorOptions = {}) {
    super(message, "cause" in options ? { cause: options.cause } : undefined);
    this.name = "StoreError";
    this.code = code;
    if (options.argument !== undefined) this.argument = options.argument;
    if (options.outcome !== undefined) this.outcome = options.outcome;
    if (options.details !== undefined) this.details = options.details;
  }
}

const codes: ReadonlySet<unknown> = new Set<StoreErrorCode>([
  "NOT_FOUND",
  "ALREADY_EXISTS",
  "CONFLICT",
  "INVALID_ARGUMENT",
  "TIMEOUT",
  "UNAVAILABLE",
  "CLOSED",
  "LOCKED",
  "CORRUPT",
  "INCOMPATIBLE",
]);

/** Never throws. `error` may be anything, even a revoked proxy. */
export function isError(error: unknown): error is Error {
  try {
    return error instanceof Error;
  } catch {
    return false;
  }
}

/** Whether `error` is a {@link StoreError} of this or another copy of the library. Never throws. */
export function isStoreError(error: unknown): error is StoreError {
  try {
    return error instanceof Error && error.name === "StoreError" && "code" in error && codes.has(error.code);
  } catch {
    return false;
  }
}

function hasCode(error: unknown, code: StoreErrorCode): error is StoreError {
  return isStoreError(error) && error.code === code;
}

/** The record does not exist. */
export function isNotFound(error: unknown): error is StoreError {
  return hasCode(error, "NOT_FOUND");
}
/** A record of that id exists already. */
export function isAlreadyExists(error: unknown): error is StoreError {
  return hasCode(error, "ALREADY_EXISTS");
}
/** A precondition or a rule does not hold. */
export function isConflict(error: unknown): error is StoreError {
  return hasCode(error, "CONFLICT");
}
/** An argument is malformed; `error.argument` names it. */
export function isInvalidArgument(error: unknown): error is StoreError {
  return hasCode(error, "INVALID_ARGUMENT");
}
/** The time ran out or the signal aborted; of a write, `error.outcome` says whether it may have been done. */
export function isTimeout(error: unknown): error is StoreError {
  return hasCode(error, "TIMEOUT");
}
/** The backend cannot answer; of a write, `error.outcome` says whether it may have been done. */
export function isUnavailable(error: unknown): error is StoreError {
  return hasCode(error, "UNAVAILABLE");
}
/** The store is closed or closing. */
export function isClosed(error: unknown): error is StoreError {
  return hasCode(error, "CLOSED");
}
/** Another store holds the file. */
export function isLocked(error: unknown): error is StoreError {
  return hasCode(error, "LOCKED");
}
/** What is stored is damaged. */
export function isCorrupt(error: unknown): error is StoreError {
  return hasCode(error, "CORRUPT");
}
/** What is stored, or the server, does not fit this version of the library. */
export function isIncompatible(error: unknown): error is StoreError {
  return hasCode(error, "INCOMPATIBLE");
}
