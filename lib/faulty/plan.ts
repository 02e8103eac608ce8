/** Which calls meet which fault. */
import { createHash } from "node:crypto";
import * as args from "../arguments.js";
import type { StoreErrorCode } from "../errors.js";

const WRITES = [
  "rooms.create",
  "rooms.update",
  "rooms.delete",
  "members.add",
  "members.join",
  "members.remove",
  "roomKeys.put",
  "roomKeys.rekey",
  "users.add",
  "users.addFirstAdmin",
  "users.update",
  "users.revoke",
  "users.reinstate",
] as const;
const READS = [
  "rooms.get",
  "rooms.list",
  "rooms.listForEndpoint",
  "members.get",
  "members.list",
  "members.listForEndpoint",
  "roomKeys.get",
  "roomKeys.list",
  "users.get",
  "users.list",
] as const;
const CHECKS = ["authorize", "isMember", "hasAdmin", "session"] as const;
const GROUPS = ["checks", "reads", "writes"] as const;
const TARGETS = [...GROUPS, ...CHECKS, ...READS, ...WRITES, "watch"] as const;

/**
 * What can meet a fault. `"authorize"` is also `isAuthorized` and `isAdmin`, methods and functions: the functions ask a
 * store by it. `"session"` and `"watch"` stand for what their openings ask, and for what is asked again for as long as
 * one is open.
 */
export type FaultyCall = (typeof WRITES)[number] | (typeof READS)[number] | (typeof CHECKS)[number] | "watch";

/** A call, or all of a kind. `"checks"` has sessions among them. */
export type FaultTarget = FaultyCall | (typeof GROUPS)[number];

/** What a backend can end a call with, whatever was asked. */
const CODES = [
  "TIMEOUT",
  "UNAVAILABLE",
  "CLOSED",
  "LOCKED",
  "CORRUPT",
  "INCOMPATIBLE",
] as const satisfies readonly StoreErrorCode[];
const DENIALS = ["unknown", "revoked", "expired"] as const;
const FAULTS = ["fail", "hang", "late", "deny"] as const;

/**
 * What a call meets:
 *
 * - `fail`: it ends at once with `code`, by default `UNAVAILABLE`. A check is denied for the reason that fits.
 * - `hang`: no answer comes. The call ends when its time is over, as it would with a backend that is dead.
 * - `late`: the call is made at once, and its answer comes `ms` milliseconds later, if that is still within its time.
 * - `deny`: a check answers as if the user were `reason`, by default `unknown`, the endpoint no member, and nobody an
 *   admin. Other calls go on.
 *
 * `done`: a write that fails or hangs is done all the same, and only its acknowledgement is lost. Its `outcome` is
 * `"unknown"` then. Without it nothing is written. The `outcome` of what failed is `"none"`, and that of what hung
 * `"unknown"`, because nobody can know.
 */
export type Fault =
  | { readonly fault: "fail"; readonly code?: (typeof CODES)[number]; readonly done?: boolean }
  | { readonly fault: "hang"; readonly done?: boolean }
  | { readonly fault: "late"; readonly ms: number }
  | { readonly fault: "deny"; readonly reason?: (typeof DENIALS)[number] };

/** A fault, and who meets it. Where several rules hold, the first one does. */
export type FaultRule = Fault & {
  /** Which calls. Default: all. A rule counts only these. */
  readonly on?: FaultTarget | readonly FaultTarget[];
  /** The first of them that meets it, counted from 1, since the plan was given. Default 1. */
  readonly from?: number;
  /** How many meet it. Default: all that follow. */
  readonly times?: number;
};

/** Faults by chance, but the same ones each time: the n-th call of a method meets what the seed has for it. */
export interface SeededFaults {
  /** Any integer from 0. */
  readonly seed: number;
  /** How likely a call is to meet one, 0 to 1. Default 0.1. */
  readonly rate?: number;
  /** Which calls. Default: all. */
  readonly on?: FaultTarget | readonly FaultTarget[];
  /** What they may meet, each as likely. Default: one of each kind; what is late is so by 20 ms. */
  readonly faults?: readonly Fault[];
}

/** One rule, several, or a seed. `[]`: no faults. */
export type FaultPlan = FaultRule | readonly FaultRule[] | SeededFaults;

/** A fault that a call has met. */
export interface MetFault {
  readonly call: FaultyCall;
  /** The how many-th call of it was it, since the plan was given? */
  readonly nth: number;
  readonly fault: Fault["fault"];
}

const SOME_OF_EACH: readonly Fault[] = [
  { fault: "fail" },
  { fault: "hang" },
  { fault: "late", ms: 20 },
  { fault: "deny" },
];
const DEFAULT_RATE = 0.1;
const MAX = 2 ** 31 - 1;

/** The fault of the n-th call of a name, of all calls that the rule counts. */
type Chooser = (call: FaultyCall, nth: number) => Fault | undefined;

/** Counts the calls, and knows what each one meets. */
export class Faults {
  #choosers: readonly Chooser[];
  readonly #counts = new Map<FaultyCall, number>();
  readonly met: MetFault[] = [];

  constructor(plan: FaultPlan) {
    this.#choosers = choosersOf(plan);
  }

  set plan(plan: FaultPlan) {
    this.#choosers = choosersOf(plan);
    this.#counts.clear();
  }

  next(call: FaultyCall): Fault | undefined {
    const nth = (this.#counts.get(call) ?? 0) + 1;
    this.#counts.set(call, nth);
    // Each rule counts, also where another one comes first.
    const [fault] = this.#choosers.map((choose) => choose(call, nth)).filter((chosen) => chosen !== undefined);
    if (fault !== undefined) this.met.push(Object.freeze({ call, nth, fault: fault.fault }));
    return fault;
  }
}

function choosersOf(plan: unknown): readonly Chooser[] {
  if (Array.isArray(plan)) return plan.map((rule: unknown, i) => byRule(rule, `plan[${String(i)}]`));
  const isSeeded = typeof plan === "object" && plan !== null && "seed" in plan;
  return [isSeeded ? bySeed(plan, "plan") : byRule(plan, "plan")];
}

const RULE = ["on", "from", "times", "fault", "code", "done", "ms", "reason"];

function byRule(value: unknown, path: string): Chooser {
  const found = args.fields(value, path, RULE);
  const fault = faultOf(found, path);
  const calls = callsOf(found["on"], fault, `${path}.on`);
  const from = found["from"] === undefined ? 1 : args.integer(found["from"], `${path}.from`, 1, MAX);
  const times = found["times"] === undefined ? MAX : args.integer(found["times"], `${path}.times`, 1, MAX);
  let count = 0;
  return (call) => {
    if (!calls.has(call)) return undefined;
    count++;
    return count >= from && count - from < times ? fault : undefined;
  };
}

function bySeed(value: unknown, path: string): Chooser {
  const found = args.fields(value, path, ["seed", "rate", "on", "faults"]);
  const seed = args.integer(found["seed"], `${path}.seed`, 0, Number.MAX_SAFE_INTEGER);
  const rate = found["rate"] ?? DEFAULT_RATE;
  if (typeof rate !== "number" || !(rate >= 0 && rate <= 1)) throw args.invalid(`${path}.rate`, "a number from 0 to 1");
  const given: unknown = found["faults"] ?? SOME_OF_EACH;
  if (!Array.isArray(given) || given.length === 0) throw args.invalid(`${path}.faults`, "an array that is not empty");
  const faults = given.map((each: unknown, i) => {
    const at = `${path}.faults[${String(i)}]`;
    return faultOf(args.fields(each, at, ["fault", "code", "done", "ms", "reason"]), at);
  });
  const on = callsOf(found["on"], undefined, `${path}.on`);
  return (call, nth) => {
    if (!on.has(call)) return undefined;
    const fits = faults.filter(({ fault }) => fault !== "deny" || isCheck(call));
    const [whether, which] = chances(seed, call, nth);
    return whether < rate ? fits[Math.floor(which * fits.length)] : undefined;
  };
}

/** Two numbers from 0 to below 1. */
function chances(seed: number, call: string, nth: number): [number, number] {
  const digest = createHash("sha256")
    .update(`${String(seed)} ${call} ${String(nth)}`)
    .digest();
  return [digest.readUInt32BE(0) / 2 ** 32, digest.readUInt32BE(4) / 2 ** 32];
}

/** What each kind of fault can say more. */
const FIELDS: Readonly<Record<Fault["fault"], readonly string[]>> = {
  fail: ["code", "done"],
  hang: ["done"],
  late: ["ms"],
  deny: ["reason"],
};

function faultOf(found: Readonly<Record<string, unknown>>, path: string): Fault {
  const fault = args.oneOf(found["fault"], `${path}.fault`, FAULTS);
  for (const name of Object.values(FIELDS).flat())
    if (found[name] !== undefined && !FIELDS[fault].includes(name))
      throw args.invalid(`${path}.${name}`, `nothing, because the fault is "${fault}"`);
  switch (fault) {
    case "fail": {
      const code = args.oneOf(found["code"] ?? "UNAVAILABLE", `${path}.code`, CODES);
      return { fault, code, done: args.flag(found["done"] ?? false, `${path}.done`) };
    }
    case "hang":
      return { fault, done: args.flag(found["done"] ?? false, `${path}.done`) };
    case "late":
      return { fault, ms: args.integer(found["ms"], `${path}.ms`, 0, MAX) };
    case "deny":
      return { fault, reason: args.oneOf(found["reason"] ?? "unknown", `${path}.reason`, DENIALS) };
  }
}

const MEMBERS: Readonly<Record<(typeof GROUPS)[number], readonly FaultyCall[]>> = {
  checks: CHECKS,
  reads: READS,
  writes: WRITES,
};

export const isCheck = (call: FaultyCall): boolean => (CHECKS as readonly FaultyCall[]).includes(call);

function callsOf(value: unknown, fault: Fault | undefined, path: string): ReadonlySet<FaultyCall> {
  const isOfChecks = fault?.fault === "deny";
  if (value === undefined) return new Set(isOfChecks ? CHECKS : [...CHECKS, ...READS, ...WRITES, "watch"]);
  const targets = (Array.isArray(value) ? value : [value]).map((each: unknown) => {
    if (each === "isAuthorized" || each === "isAdmin")
      throw args.invalid(path, `"authorize", which ${each} is a part of: the functions ask a store by it`);
    return args.oneOf(each, path, TARGETS);
  });
  const calls = new Set(targets.flatMap((target) => callsOfTarget(target)));
  const other = isOfChecks ? [...calls].find((call) => !isCheck(call)) : undefined;
  if (other !== undefined) throw args.invalid(path, `only checks, because the fault is "deny", not "${other}"`);
  return calls;
}

function callsOfTarget(target: FaultTarget): readonly FaultyCall[] {
  return target === "checks" || target === "reads" || target === "writes" ? MEMBERS[target] : [target];
}
