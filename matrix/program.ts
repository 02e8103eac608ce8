/** What every cell runs: a SQLite file written, closed and read again, `:memory:`, and a check on JetStream. */

export type Form = "esm" | "cjs" | "ts";

export const PARTS = ["file", "thread", "memory", "jetstream"] as const;
/** Of each part `true`, or what went wrong. */
export type Report = Readonly<Record<(typeof PARTS)[number], string | true>>;

const IMPORTS =
  'import { hasAdmin, isAuthorized, isMember, isUnavailable, openSqlite, openStore } from "unibus-membership";\n';
const REQUIRES =
  'const { hasAdmin, isAuthorized, isMember, isUnavailable, openSqlite, openStore } = require("unibus-membership");\n';
/** The package's types have to hold alone: Node's own are not there. */
const TYPES = `${IMPORTS}import type { Store } from "unibus-membership";
import type { NatsServer, NatsServerOptions } from "unibus-membership/testing";
declare const process: { readonly argv: string[]; on(event: string, listener: () => void): void };
declare function typed(store: Store, server: NatsServer, options: NatsServerOptions): void;
export type Typed = typeof typed;
`;

const BODY = `
const [folder = "", servers = "", prefix = ""] = process.argv.slice(2);

function expect(what = "", found: unknown, wanted: unknown) {
  if (JSON.stringify(found) !== JSON.stringify(wanted)) throw new Error(what + ": " + JSON.stringify(found));
}

async function file() {
  const path = folder + "/membership.db";
  const first = await openSqlite(path);
  await first.users.addFirstAdmin({ key: "A1B2" });
  await first.rooms.create({ id: "room", encrypted: true, owner: "alice", sealedKey: new Uint8Array([1, 2, 3]) });
  await first.close();
  expect("closed", await hasAdmin(first), false);
  const again = await openSqlite(path);
  const key = await again.roomKeys.get("room", "alice");
  expect("key", Array.from(key.sealed), [1, 2, 3]);
  expect("checks", [await isAuthorized(again, "a1b2"), await isAuthorized(again, "ffff"), await isMember(again, "room", "alice")], [true, false, true]);
  await again.close();
}

// As much as a checkpoint does not do on the event loop.
async function thread() {
  const path = folder + "/large.db";
  let started = 0;
  let done = 0;
  process.on("worker", () => { started++; });
  const first = await openSqlite(path, { onCheckpoint: ({ ok }) => { if (ok) done++; } });
  const sealedKey = new Uint8Array(65536).fill(7);
  for (let i = 0; i < 80; i++) await first.rooms.create({ id: "room" + i, encrypted: true, owner: "alice", sealedKey });
  await first.close();
  expect("checkpoints", done, 1);
  // Other runtimes do not say, and may do without.
  if (!("Bun" in globalThis) && !("Deno" in globalThis)) expect("threads", started, 1);
  const again = await openSqlite(path);
  expect("rooms", (await again.rooms.listForEndpoint("alice")).length, 80);
  await again.close();
}

async function memory() {
  const store = await openSqlite(":memory:");
  await store.users.addFirstAdmin({ key: "A1B2" });
  expect("checks", [await isAuthorized(store, "a1b2"), await hasAdmin(store), await isAuthorized(store, "ffff")], [true, true, false]);
  await store.close();
}

async function jetstream() {
  const store = await openStore({ decentralized: true, jetstream: { connect: { servers }, prefix, opTimeoutMs: 20000 } });
  try {
    await store.users.addFirstAdmin({ key: "A1B2" });
    expect("checks", [await isAuthorized(store, "a1b2"), await hasAdmin(store), await isAuthorized(store, "ffff")], [true, true, false]);
    await store.users.add({ key: "c3d4" });
    await store.users.revoke("c3d4");
    expect("revoked", await isAuthorized(store, "c3d4"), false);
  } finally {
    await store.close(); // a connection that is left open keeps the process
  }
}

async function told(part = file) {
  try {
    await part();
    return true;
  } catch (error) {
    return String(error) + (isUnavailable(error) ? " " + String(Object(error).cause) : "");
  }
}

async function main() {
  console.log(JSON.stringify({ file: await told(file), thread: await told(thread), memory: await told(memory), jetstream: await told(jetstream) }));
}

main();
`;

/** The body is written in the little of TypeScript that can be taken off again by hand. */
const untyped = BODY.replaceAll(/: unknown(?=[,)])/g, "");

export function program(form: Form): string {
  switch (form) {
    case "esm":
      return IMPORTS + untyped;
    case "cjs":
      return REQUIRES + untyped;
    case "ts":
      return TYPES + BODY;
  }
}
