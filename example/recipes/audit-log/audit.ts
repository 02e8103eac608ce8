/**
 * A log of all decisions, one line of JSON each. It names who was asked about: treat it as you treat the allowlist.
 */
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { isStoreError, type DecisionMessage, type Proof } from "unibus-membership";

/** As it stands in the log: times are text there. */
export interface Entry {
  readonly at: string;
  readonly check: DecisionMessage["check"];
  readonly key?: string | undefined;
  readonly roomId?: string | undefined;
  readonly endpoint?: string | undefined;
  readonly allowed: boolean;
  readonly reason: DecisionMessage["reason"];
  readonly proof?: Proof | undefined;
  readonly code?: string | undefined;
}

/** Hands each decision on as a line. Answers a function that ends it. */
export function auditTo(write: (line: string) => void): () => void {
  const listener = (message: unknown): void => {
    const { check, key, roomId, endpoint, allowed, reason, proof, error } = message as DecisionMessage;
    const at = new Date().toISOString();
    const code = isStoreError(error) ? error.code : undefined;
    // JSON leaves out what is undefined.
    const entry: Entry = { at, check, key, roomId, endpoint, allowed, reason, proof, code };
    write(`${JSON.stringify(entry)}\n`);
  };
  subscribe("unibus-membership:decision", listener);
  return () => unsubscribe("unibus-membership:decision", listener);
}
