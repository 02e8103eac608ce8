/**
 * How a read may be used. Any replica can lag. So a refusal (no such room, another revision) may rest only on a read
 * that is certain. The types enforce that: only such a read gives access to the rules that refuse.
 */
import type { Call } from "../call.js";
import * as all from "../rules.js";
import { RetryLoop } from "./retry-loop.js";

/**
 * `any`: as any replica has it, but never older than this store has seen it. `certain`: as it is at a moment after the
 * call.
 */
export type Freshness = "any" | "certain";

declare const readAs: unique symbol;

/** A value of this freshness, or derived from nothing else. It exists in types only, not at run time. */
export interface ReadAs<F extends Freshness> {
  readonly [readAs]: F;
}

export type Read<T, F extends Freshness> = T & ReadAs<F>;

/** For readers: marks a value as read with this freshness. */
export const asRead = <F extends Freshness, T extends object>(_freshness: F, read: T): Read<T, F> => read as Read<T, F>;

/** For values derived from such reads alone. */
export const madeOf = <T extends object, F extends Freshness>(_read: ReadAs<F>, made: T): Read<T, F> =>
  made as Read<T, F>;

/** The rules that refuse. */
export type Rules = Pick<
  typeof all,
  | "roomNotFound"
  | "memberNotFound"
  | "keyNotFound"
  | "userNotFound"
  | "roomExists"
  | "memberExists"
  | "keyExists"
  | "userExists"
  | "lastAdmin"
  | "notFirstAdmin"
  | "importIntoNonEmpty"
  | "importTakenOver"
  | "checkRevision"
  | "checkAdd"
  | "checkRemove"
  | "checkOwner"
  | "checkPut"
  | "checkRekey"
  | "checkRekeyMembers"
>;

/** One attempt at a decision: how it reads, and the rules for what it has read. */
export interface Round<F extends Freshness> {
  readonly freshness: F;
  rules(read: ReadAs<F | "certain">): Rules;
}

/** By what the quorum says. With this round alone, reads are certain and refusals are final. */
export const CERTAIN: Round<"certain"> = { freshness: "certain", rules: () => all };

/** Not exported: somebody has to catch what it refuses. */
const ANY: Round<"any"> = { freshness: "any", rules: () => all };

/** The same rules for every freshness: a decision on a stale read is then made again in the same words. */
export type Attempt<T> = <F extends Freshness>(round: Round<F>) => Promise<T>;

/** A refusal that rests on some replica's answer. It is not final yet. */
export function mustLookAgain({ freshness }: Round<Freshness>, error: unknown): boolean {
  return freshness === "any" && all.isRefusal(error);
}

/** Tries with what some replica has. `"refused"`: that is no reason to refuse yet, so read it as certain. */
export async function byAnyReplica<T>(attempt: Attempt<T>): Promise<T | "refused"> {
  try {
    return await attempt(ANY);
  } catch (error) {
    if (mustLookAgain(ANY, error)) return "refused";
    throw error;
  }
}

/** Answers with what some replica has. If that refuses, it decides again with what is certain. */
export async function orCertain<T extends object>(attempt: Attempt<T>): Promise<T> {
  const found = await byAnyReplica(attempt);
  return found === "refused" ? attempt(CERTAIN) : found;
}

/**
 * The outcome of an attempt at a change. `unchanged`: going by what was read, there is nothing to change. `again`: what
 * was read is inconsistent, or no longer current.
 */
export type Outcome<T> = { readonly committed: T } | { readonly unchanged: T } | "again";

const isUnchanged = (outcome: Outcome<unknown>): boolean => outcome !== "again" && "unchanged" in outcome;

/** See {@link ProvedBucket}. */
export interface Decides {
  decided<T>(call: Call, decide: () => Promise<T>, isFinal: (found: T) => boolean): Promise<T>;
}

/**
 * Changes something. It may decide on what some replica has, because the commit has the condition that this is still
 * so. A refusal, or that there is nothing to change, involves no commit. So those need a certain read, and that
 * `bucket` says that the store was open meanwhile.
 */
export async function commitOrCertain<T>(bucket: Decides, call: Call, attempt: Attempt<Outcome<T>>): Promise<T> {
  const retries = new RetryLoop(call);
  await retries.next();
  const first = await byAnyReplica(attempt);
  if (first === "again") await retries.next();
  else if (first !== "refused" && "committed" in first) return first.committed;
  for (;;) {
    call.throwIfEnded();
    const outcome = await bucket.decided(call, () => attempt(CERTAIN), isUnchanged);
    if (outcome !== "again") return "committed" in outcome ? outcome.committed : outcome.unchanged;
    await retries.next();
  }
}
