// Faults that are planted, what an inspection has to say of them, and that no repair of one grants anything.

import { expect } from "chai";
import { inspect, type Finding, type Inspection, type Store } from "unibus-membership";

/** Whom a store has, or had: of these every check is asked. */
export const USERS = ["root", "second", "was-admin", "revoked", "expired", "again", "nobody"] as const;
export const ROOMS = ["plain", "sealed", "gone"] as const;
export const ENDPOINTS = ["owner", "joined 🦄", "late", "invited", "left", "stranger"] as const;

const bytes = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, "utf8"));
/** No finding may have it. */
export const SEALED = "0123456789 sealed bytes";

const sealedFor = (endpoints: readonly string[]): Map<string, Uint8Array> =>
  new Map(endpoints.map((endpoint) => [endpoint, bytes(SEALED)]));

/**
 * Little, and of each kind something: admins of both sorts, a former one, members of all states, past epochs and a
 * debt.
 */
export async function seed(store: Store): Promise<void> {
  await store.users.addFirstAdmin({ key: "root" });
  await store.users.add({ key: "second", role: "admin", expiresAt: new Date("2999-01-01T00:00:00.000Z") });
  await store.users.add({ key: "was-admin", role: "admin" });
  await store.users.update("was-admin", { role: "member" });
  await store.users.add({ key: "revoked", role: "admin" });
  await store.users.revoke("revoked");
  await store.users.add({ key: "expired", expiresAt: new Date(0) });
  await store.users.add({ key: "again" });
  await store.rooms.create({ id: "plain", owner: "owner" });
  await store.members.add("plain", { endpoint: "joined 🦄", state: "joined" });
  await store.rooms.create({ id: "sealed", owner: "owner", encrypted: true, sealedKey: bytes(SEALED) });
  await store.members.add("sealed", { endpoint: "joined 🦄", state: "joined" });
  await store.members.add("sealed", { endpoint: "invited", invitedBy: "owner" });
  await store.members.add("sealed", { endpoint: "left", state: "joined" });
  await store.roomKeys.rekey("sealed", sealedFor(["owner", "joined 🦄", "invited", "left"]), { expectedEpoch: 1 });
  await store.members.add("sealed", { endpoint: "late", state: "joined" });
  await store.roomKeys.rekey("sealed", sealedFor(["owner", "joined 🦄", "invited", "left", "late"]), {
    expectedEpoch: 2,
  });
  await store.members.remove("sealed", "left");
  await store.rooms.create({ id: "gone", owner: "owner" });
  await store.rooms.delete("gone");
}

/** Every check that is true. */
export async function allowed(store: Store): Promise<ReadonlySet<string>> {
  const options = { timeoutMs: 10_000 };
  const asked: [string, Promise<boolean>][] = [["hasAdmin", store.hasAdmin(options)]];
  for (const key of USERS) {
    asked.push([`isAuthorized ${key}`, store.isAuthorized(key, options)]);
    asked.push([`isAdmin ${key}`, store.isAdmin(key, options)]);
  }
  for (const room of ROOMS)
    for (const endpoint of ENDPOINTS)
      asked.push([`isMember ${room} ${endpoint}`, store.isMember(room, endpoint, options)]);
  const answers = await Promise.all(asked.map(async ([name, answer]) => ((await answer) ? [name] : [])));
  return new Set(answers.flat());
}

/** What was found, as a code and a record, each followed by whether it was repaired. */
export const told = ({ findings }: Inspection): string[] =>
  findings.map(({ code, record = "", repaired }) => `${code} ${record}${repaired ? " (repaired)" : ""}`).sort();

/** Nothing of it is secret, and each says whether it matters. */
export function isSafe(findings: readonly Finding[]): void {
  const text = JSON.stringify(findings);
  for (const secret of [SEALED, Buffer.from(SEALED).toString("base64")]) expect(text).not.to.contain(secret);
  for (const { severity, message } of findings) {
    expect(["error", "warning", "info"]).to.contain(severity);
    expect(message.length).to.be.greaterThan(20);
  }
}

const withoutRecords = (found: readonly string[]): string[] => [
  ...new Set(found.map((each) => each.split(" ")[0] ?? "")),
];

/** That nothing is true after it that was false. */
export function grantsNothing(before: ReadonlySet<string>, after: ReadonlySet<string>, what = "a repair"): void {
  expect(
    [...after].filter((check) => !before.has(check)),
    `${what} granted`,
  ).to.deep.equal([]);
}

/**
 * What is found of a fault, then while it is mended, and then of what was not. Answers the checks that were true
 * before.
 */
export async function finds(
  store: Store,
  expected: readonly string[],
  left: readonly string[],
): Promise<ReadonlySet<string>> {
  const options = { stallTimeoutMs: 60_000 };
  const first = await inspect(store, options);
  isSafe(first.findings);
  expect(withoutRecords(told(first)), JSON.stringify(first.findings)).to.have.members(expected);
  expect(first.findings.some(({ repaired }) => repaired)).to.equal(false);
  const before = await allowed(store);
  const repaired = await inspect(store, { ...options, repair: true });
  isSafe(repaired.findings);
  expect(withoutRecords(told(repaired)), "while it is repaired").to.have.members(expected);
  grantsNothing(before, await allowed(store));
  const again = await inspect(store, options);
  expect(withoutRecords(told(again)), JSON.stringify(again.findings)).to.have.members(left);
  return before;
}
