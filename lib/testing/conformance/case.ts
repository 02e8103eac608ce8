/**
 * What a case of the conformance suite is, and what it is written with. Only `node:` builtins: a test runner is the
 * caller's choice.
 */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { randomBytes } from "node:crypto";
import { inspect } from "node:util";
import { isStoreError } from "../../errors.js";
import type { StoreError, StoreErrorCode } from "../../errors.js";
import type { Page, PageRequest, Store } from "../../store.js";

/** What a case may ask of the backend it runs on. */
export interface ConformanceContext {
  readonly store: Store;
  /** Another store over the same data, where the backend allows two at once; else the same one. */
  readonly other: () => Promise<Store>;
  /** The data after the store was closed and opened again, where the backend keeps any; else the same store. */
  readonly reopened: () => Promise<Store>;
}

/** One sentence of the contract, and how to see whether it holds. */
export interface ConformanceCase {
  /** Unique in the table. */
  readonly name: string;
  /** The part of the contract that it belongs to. */
  readonly group: string;
  /** `"empty"`: it looks at everything there is, or closes the store, and needs a backend of its own. */
  readonly needs?: "empty";
  /** Rejects if the contract is broken. */
  run(context: ConformanceContext): Promise<void>;
}

export type Steps = Readonly<Record<string, (context: ConformanceContext) => Promise<void>>>;

/** A record of named steps as cases, so that a name cannot be given twice and none can be left out. */
export function cases(group: string, steps: Steps): ConformanceCase[] {
  return Object.entries(steps).map(([name, run]) => ({ name: `${group}: ${name}`, group, run }));
}

/** As {@link cases}, each on a backend of its own. */
export function aloneCases(group: string, steps: Steps): ConformanceCase[] {
  return cases(group, steps).map((each) => ({ ...each, needs: "empty" as const }));
}

/** An id that no other case has: many cases may share one backend. */
export function unique(label: string): string {
  return `${label}-${randomBytes(8).toString("hex")}`;
}

/** Calls that do not wait for each other, with a bounded number under way: many round trips take the time of few. */
export async function atOnce<T>(items: readonly T[], call: (item: T, index: number) => Promise<void>): Promise<void> {
  const waiting = items.entries();
  const lane = async (): Promise<void> => {
    for (const [index, item] of waiting) await call(item, index);
  };
  await Promise.all(Array.from({ length: 16 }, lane));
}

/** Bytes that show where they came from. */
export function bytes(text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text, "utf8"));
}

export function sameBytes(actual: Uint8Array | undefined, expected: Uint8Array, what: string): void {
  assert.ok(actual instanceof Uint8Array, `${what}: not bytes`);
  assert.ok(Buffer.from(actual).equals(Buffer.from(expected)), `${what}: other bytes`);
}

/**
 * The error that `attempt` rejects with. Throwing instead of rejecting is a failure, and so is anything but a
 * `StoreError`.
 */
export async function failure(attempt: () => Promise<unknown>, what: string): Promise<StoreError> {
  let promise: Promise<unknown>;
  try {
    promise = attempt();
  } catch (error) {
    return assert.fail(`${what}: threw instead of rejecting: ${inspect(error)}`);
  }
  try {
    await promise;
  } catch (error) {
    if (!isStoreError(error))
      return assert.fail(`${what}: rejected with something else than a StoreError: ${inspect(error)}`);
    return error;
  }
  return assert.fail(`${what}: resolved, and should have been refused`);
}

export async function refused(
  code: StoreErrorCode,
  attempt: () => Promise<unknown>,
  what = code as string,
): Promise<StoreError> {
  const error = await failure(attempt, what);
  assert.equal(error.code, code, `${what}: ${error.message}`);
  return error;
}

/** How several calls at once ended, by code; `"ok"` for those that resolved. */
export interface Outcomes<T> {
  readonly values: T[];
  readonly errors: StoreError[];
  /** In the order of the calls: the value, or `undefined` for a rejected one. */
  readonly each: readonly (T | undefined)[];
  count(code: StoreErrorCode): number;
}

export async function together<T>(attempts: readonly (() => Promise<T>)[]): Promise<Outcomes<T>> {
  const settled = await Promise.allSettled(attempts.map((attempt) => attempt()));
  const values: T[] = [];
  const errors: StoreError[] = [];
  const each: (T | undefined)[] = [];
  for (const one of settled) {
    if (one.status === "fulfilled") {
      values.push(one.value);
      each.push(one.value);
    } else {
      const reason: unknown = one.reason;
      if (!isStoreError(reason))
        return assert.fail(`rejected with something else than a StoreError: ${inspect(reason)}`);
      errors.push(reason);
      each.push(undefined);
    }
  }
  return { values, errors, each, count: (code) => errors.filter((error) => error.code === code).length };
}

/** One of the calls won and every other was told `code`. */
export function oneWinner<T>(outcomes: Outcomes<T>, code: StoreErrorCode): T {
  const others = outcomes.errors.filter((error) => error.code !== code);
  assert.deepEqual(
    others.map((error) => `${error.code}: ${error.message}`),
    [],
    `every loser gets ${code}`,
  );
  const [winner, ...rest] = outcomes.values;
  assert.equal(rest.length, 0, `${String(outcomes.values.length)} calls won`);
  assert.ok(winner !== undefined, "nobody won");
  return winner;
}

/** Several calls at once, every other one on another store where the backend has one. */
export function alternating<T>(
  stores: readonly [Store, Store],
  count: number,
  attempt: (store: Store, i: number) => Promise<T>,
) {
  return together(Array.from({ length: count }, (_, i) => () => attempt(i % 2 === 0 ? stores[0] : stores[1], i)));
}

/** Every item of a list, page by page. */
export async function walk<T>(
  list: (page: PageRequest) => Promise<Page<T>>,
  limit?: number,
  between?: (pages: number) => Promise<void>,
): Promise<T[]> {
  const items: T[] = [];
  let after: string | undefined;
  for (let pages = 1; ; pages++) {
    const page = await list({ ...(limit === undefined ? {} : { limit }), ...(after === undefined ? {} : { after }) });
    assert.ok(Array.isArray(page.items), "a page has items");
    assert.ok(page.items.length <= (limit ?? 100), "a page is no longer than its limit");
    items.push(...page.items);
    if (page.next === undefined) {
      assert.ok(!("next" in page), "the last page has no `next`");
      return items;
    }
    assert.equal(typeof page.next, "string");
    assert.notEqual(page.next, after, "a walk goes on");
    assert.ok(pages < 10_000, "a walk ends");
    after = page.next;
    await between?.(pages);
  }
}

/** The order by code point, which is the order of UTF-8 bytes: not how the backends do it. */
export function byCodePoint(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a, "utf8"), Buffer.from(b, "utf8"));
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/**
 * What a plain read shows soon. Checks are as fresh as what was acknowledged to anyone; a plain read of one store may
 * be a moment behind what was acknowledged to another.
 */
export async function settled(look: () => Promise<void>): Promise<void> {
  const until = Date.now() + 5000;
  for (;;) {
    try {
      await look();
      return;
    } catch (error) {
      if (Date.now() > until) throw error;
      await sleep(10);
    }
  }
}

/** Close to now: clocks of a backend's nodes may differ a little. */
export function recent(date: Date, what: string): void {
  assert.ok(date instanceof Date, `${what}: not a Date`);
  assert.ok(Math.abs(date.getTime() - Date.now()) < 60_000, `${what}: ${date.toISOString()} is not now`);
}

export function text(value: unknown): asserts value is string {
  assert.equal(typeof value, "string");
  assert.notEqual(value, "");
}

/** A revision is a string that never repeats: keeps those of one record and says so if one comes back. */
export class Revisions {
  readonly #seen = new Set<string>();
  #last: string;

  constructor(first: string) {
    text(first);
    this.#last = first;
    this.#seen.add(first);
  }

  changed(revision: string, what: string): void {
    text(revision);
    assert.ok(!this.#seen.has(revision), `${what}: the revision is one that was there before`);
    this.#seen.add(revision);
    this.#last = revision;
  }

  kept(revision: string, what: string): void {
    assert.equal(revision, this.#last, `${what}: the revision changed`);
  }
}

/** An encrypted room of one owner at epoch 1. */
export async function encryptedRoom(store: Store, ...guests: readonly string[]) {
  const owner = unique("owner");
  const room = await store.rooms.create({
    id: unique("room"),
    name: "a room",
    encrypted: true,
    owner,
    ownerPublicKey: bytes("pk owner"),
    sealedKey: bytes("sealed 1 owner"),
  });
  for (const endpoint of guests) {
    await store.members.add(room.id, {
      endpoint,
      invitedBy: owner,
      publicKey: bytes(`pk ${endpoint}`),
      sealedKey: { epoch: 1, sealed: bytes(`sealed 1 ${endpoint}`) },
    });
  }
  return { id: room.id, owner };
}

export function sealedFor(epoch: number, endpoints: readonly string[], by = ""): Map<string, Uint8Array> {
  return new Map(endpoints.map((endpoint) => [endpoint, bytes(`sealed ${String(epoch)} ${endpoint} ${by}`)]));
}

/** Everything that can be seen of a room, to compare before and after. */
export async function seen(store: Store, roomId: string) {
  const room = await store.rooms.get(roomId);
  const members = await store.members.list(roomId);
  const keys = await Promise.all(members.map((member) => store.roomKeys.list(roomId, member.endpoint)));
  const indexed = await Promise.all(members.map((member) => store.rooms.listForEndpoint(member.endpoint)));
  const memberships = await Promise.all(members.map((member) => store.members.listForEndpoint(member.endpoint)));
  return { room, members, keys, indexed, memberships };
}
