import { isStoreError } from "unibus-membership";

/** What a call was refused with, in short. */
export function codeOf(error: unknown): string {
  return isStoreError(error) ? error.code : String(error);
}
