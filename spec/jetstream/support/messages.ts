// What a store sends, told apart by subject, payload and headers, as a server tells it apart.

import type { Request } from "./tapped-requests.js";

type Options = Parameters<Request>[2];

/** Whether a write is a barrier, or a fence: it holds no record. Of one bucket, where its name is given. */
export function isBarrier(subject: string, bucket?: string): boolean {
  const [, name, key] = subject.startsWith("$KV.") ? subject.split(".") : [];
  return key === "proof" && (bucket === undefined || name === bucket);
}

/** The subject that a fence is about. `undefined`: it is no fence. */
export function fenced(subject: string, options: Options): string | undefined {
  const of = isBarrier(subject) ? options?.headers?.get("Nats-Expected-Last-Subject-Sequence-Subject") : undefined;
  return of === "" ? undefined : of;
}

/** The subject of which a direct get asks the newest message. `undefined`: it is another request. */
export function readOf(subject: string, payload: unknown): string | undefined {
  if (!subject.startsWith("$JS.API.DIRECT.GET.")) return undefined;
  return /"last_by_subj":"([^"]*)"/.exec(String(payload))?.[1];
}

/** Whether a direct get asks for all that came after a moment. */
export function isCatchUp(payload: unknown): boolean {
  return String(payload).includes('"next_by_subj":">"');
}
