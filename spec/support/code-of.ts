import { isStoreError, type StoreError } from "unibus-membership";

/** What a call was refused with, in short. */
export function codeOf(error: unknown): string {
  return isStoreError(error) ? error.code : String(error);
}

/** What a call was refused with. */
export async function errorOf(call: Promise<unknown>): Promise<StoreError> {
  try {
    await call;
  } catch (error) {
    if (isStoreError(error)) return error;
    throw error;
  }
  throw new Error("it was not refused");
}
