/**
 * How what was read may be used. Any replica can lag, so that a refusal (no such room, no longer at that revision) is
 * said only by what was read as certain. Types see to it: the rules that refuse are to be had only for what was read
 * so.
 */
import type { Call } from "../call.js";
import * as all from "../rules.js";
import { RetryLoop } from "./retry-loop.js";

/**
 * `any`: as some replica has it, and never older than this store has seen it. `certain`: as it stands at a moment after
 * the call.
 */
export type Freshness = "any" | "certain";

declare const readAs: unique symbol;

/** What was read so, or rests on nothing else. At run time there is nothing of it. */
export interface ReadAs<F extends Freshness> {
  readonly [readAs]: F;
}

export type Read<T, F extends Freshness> = T & ReadAs<F>;

/** For readers: it was read so. */
export const asRead = <F extends Freshness, T extends object>(_freshness: F, read: T): Read<T, F> => read as Read<T, F>;

/** For what is made of what was read, and of nothing else. */
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

/** One try at a decision: how it reads, and the rules for what it has read so. */
export interface Round<F extends Freshness> {
  readonly freshness: F;
  rules(read: ReadAs<F | "certain">): Rules;
}

/** By what the quorum says. Whoever has only this reads as certain, and refuses for good. */
export const CERTAIN: Round<"certain"> = { freshness: "certain", rules: () => all };

/** Not for others: somebody has to catch what it refuses. */
const ANY: Round<"any"> = { freshness: "any", rules: () => all };

/** Whatever the freshness, so that what is decided on a stale read is decided again by the same words. */
export type Attempt<T> = <F extends Freshness>(round: Round<F>) => Promise<T>;

/** A refusal by what some replica has, which is none yet. */
export function mustLookAgain({ freshness }: Round<Freshness>, error: unknown): boolean {
  return freshness === "any" && all.isRefusal(error);
}

/** Tries it by what some replica has. `"refused"`: that is no reason to refuse, it has to be read as certain. */
export async function byAnyReplica<T>(attempt: Attempt<T>): Promise<T | "refused"> {
  try {
    return await attempt(ANY);
  } catch (error) {
    if (mustLookAgain(ANY, error)) return "refused";
    throw error;
  }
}

/** Answers by what some replica has, and where that refuses, by what is certain. */
export async function orCertain<T extends object>(attempt: Attempt<T>): Promise<T> {
  const found = await byAnyReplica(attempt);
  return found === "refused" ? attempt(CERTAIN) : found;
}

/**
 * What came of a try at a change. `unchanged`: by what was read there is nothing to change. `again`: what was read does
 * not belong together, or stands no longer.
 */
export type Outcome<T> = { readonly committed: T } | { readonly unchanged: T } | "again";

/**
 * Changes something: decides by what some replica has, as the commit has the condition that it is still so. That it
 * refuses, or that nothing is to change, is no commit, and is believed only of what is certain.
 */
export async function commitOrCertain<T>(call: Call, attempt: Attempt<Outcome<T>>): Promise<T> {
  const retries = new RetryLoop(call);
  await retries.next();
  const first = await byAnyReplica(attempt);
  if (first === "again") await retries.next();
  else if (first !== "refused" && "committed" in first) return first.committed;
  for (;;) {
    call.throwIfEnded();
    const outcome = await attempt(CERTAIN);
    if (outcome !== "again") return "committed" in outcome ? outcome.committed : outcome.unchanged;
    await retries.next();
  }
}
