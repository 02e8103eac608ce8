/** What specs of exports fill stores with, and how they compare and damage what comes out. */
import { expect } from "chai";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { importStore, type Store } from "unibus-membership";
import { openMemory } from "unibus-membership/testing";
import { random } from "../soak/random.js";
import { digestOf, linesOf } from "./export-cases.js";

export { contentOf, digestOf, linesOf } from "./export-cases.js";

const opTimeoutMs = 20_000;
const root = fileURLToPath(new URL("../..", import.meta.url));
const child = fileURLToPath(new URL("import-child.ts", import.meta.url));

const bytes = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, "utf8"));

/** Something of everything: revoked, expired and former admins, debts, gaps between epochs, all states and roles. */
export async function fill(store: Store): Promise<void> {
  await store.users.addFirstAdmin({ key: "root", name: "the first" });
  await store.users.add({ key: "second", role: "admin", expiresAt: new Date("2999-12-31T23:59:59.999Z") });
  await store.users.add({ key: "was-admin", role: "admin" });
  await store.users.update("was-admin", { role: "member" });
  await store.users.add({ key: "revoked", role: "admin", name: "Ærø 🦄 \u2028" });
  await store.users.revoke("revoked");
  await store.users.add({ key: "expired", expiresAt: new Date(0) });
  for (const [id, encrypted] of [
    ["plain", false],
    ["sealed 🦄", true],
    ["> * .", true],
  ] as const) {
    const sealedKey = encrypted ? { sealedKey: bytes("1") } : {};
    await store.rooms.create({
      id,
      name: `${id}?`,
      encrypted,
      owner: "owner",
      ownerPublicKey: bytes("pk"),
      ...sealedKey,
    });
    await store.members.add(id, { endpoint: "invited", invitedBy: "owner" });
    await store.members.add(id, { endpoint: "joined", state: "joined", publicKey: new Uint8Array([0, 255]) });
    if (!encrypted) continue;
    const sealed = new Map(["owner", "invited", "joined"].map((endpoint) => [endpoint, bytes(`2 ${endpoint}`)]));
    await store.roomKeys.rekey(id, sealed, { expectedEpoch: 1 });
    await store.members.add(id, { endpoint: "late", state: "joined" });
    await store.rooms.update(id, { owner: "joined" });
    await store.members.remove(id, "invited");
  }
  await store.rooms.create({ id: "deleted", owner: "owner" });
  await store.rooms.delete("deleted");
}

type Damage = (lines: readonly string[], below: (n: number) => number) => string;

const withLine = (lines: readonly string[], i: number, line: string): string =>
  lines.map((each, j) => (i === j ? line : each)).join("");

const DAMAGES: Readonly<Record<string, Damage>> = {
  "cut anywhere": (lines, below) => {
    const text = lines.join("");
    return text.slice(0, below(text.length));
  },
  "a bit of a character": (lines, below) => {
    const i = below(lines.length);
    const line = lines[i] ?? "";
    const at = below(line.length);
    const code = line.charCodeAt(at) ^ (1 << below(7));
    return withLine(lines, i, line.slice(0, at) + String.fromCharCode(code) + line.slice(at + 1));
  },
  "a line is missing": (lines, below) => {
    const i = below(lines.length);
    return lines.filter((_, j) => j !== i).join("");
  },
  "a line comes twice": (lines, below) => {
    const i = below(lines.length);
    return withLine(lines, i, `${lines[i] ?? ""}${lines[i] ?? ""}`);
  },
  "two lines change places": (lines, below) => {
    const [i, j] = [below(lines.length), below(lines.length)];
    const swapped = [...lines];
    [swapped[i], swapped[j]] = [lines[j] ?? "", lines[i] ?? ""];
    return swapped.join("");
  },
  "a part is missing": (lines, below) => {
    const text = lines.join("");
    const [from, length] = [below(text.length), 1 + below(2000)];
    return text.slice(0, from) + text.slice(from + length);
  },
  "a part is of another place": (lines, below) => {
    const text = lines.join("");
    const [from, to, length] = [below(text.length), below(text.length), 1 + below(200)];
    return text.slice(0, to) + text.slice(from, from + length) + text.slice(to + length);
  },
  "who is revoked is active": (lines) => lines.join("").replace(/"status":"active"/, '"status":"revoked"'),
  "something follows": (lines, below) => `${lines.join("")}${lines[below(lines.length)] ?? ""}`,
  "ends of lines of another system": (lines) => lines.join("").replaceAll("\n", "\r\n"),
};

/** The same ones for the same seed. What is by chance the text itself is none. */
export function* mutants(
  lines: readonly string[],
  seed: number,
  count: number,
): Iterable<{ what: string; text: string }> {
  const next = random(seed);
  const below = (n: number): number => Math.floor(next() * n);
  const whole = lines.join("");
  const names = Object.keys(DAMAGES);
  for (let made = 0; made < count;) {
    const what = names[below(names.length)] ?? "";
    const text = DAMAGES[what]?.(lines, below) ?? "";
    if (text === whole) continue;
    made++;
    yield { what: `${what} (seed ${String(seed)}, ${String(made)})`, text };
  }
}

/** A store of many records, as lines. */
export async function manyLines(users: number): Promise<string[]> {
  const store = await openMemory({ opTimeoutMs });
  await store.users.addFirstAdmin({ key: "root" });
  for (let i = 0; i < users; i++) await store.users.add({ key: `user-${String(i)}` });
  for (let i = 0; i < users / 100; i++) {
    await store.rooms.create({
      id: `room-${String(i)}`,
      owner: "owner",
      encrypted: true,
      sealedKey: new Uint8Array([i]),
    });
    for (let j = 0; j < 10; j++)
      await store.members.add(`room-${String(i)}`, {
        endpoint: `member-${String(j)}`,
        state: "joined",
        sealedKey: { epoch: 1, sealed: new Uint8Array([j]) },
      });
  }
  return linesOf(store);
}

/** Whether anybody of the export would come in. */
export async function admits(store: Store): Promise<boolean> {
  const answers = [
    store.isAuthorized("root"),
    store.hasAdmin(),
    store.isMember("room-0", "member-1"),
    store.isAuthorized("user-1"),
  ];
  return (await Promise.all(answers)).includes(true);
}

/** Kills imports in their middle: the store is closed, also to who opens it anew, until another import ends. */
export async function tryKills(
  folder: string,
  where: string,
  prefix: string,
  open: () => Promise<Store>,
): Promise<void> {
  const lines = await manyLines(10_000);
  const file = join(folder, `${prefix}.jsonl`);
  await writeFile(file, lines.join(""));
  for (const after of [1, 2001, 5001]) {
    const run = spawn(process.execPath, ["--import", "tsx", child, where, file, prefix], {
      cwd: root,
      stdio: ["ignore", "pipe", "inherit"],
    });
    for await (const line of createInterface({ input: run.stdout })) if (Number(line) >= after) break;
    run.kill("SIGKILL");
    await once(run, "exit");
    const store = await open();
    const decision = await store.authorize("root");
    expect(decision.allowed).to.equal(false);
    // Of the first line, the header, nothing is known yet: it may not have begun.
    if (after > 1) expect(decision).to.have.property("reason", "unavailable");
    expect(await admits(store)).to.equal(false);
    await store.close();
  }
  const store = await open();
  const report = await importStore(lines, store);
  expect(await admits(store)).to.equal(true);
  expect(digestOf(await linesOf(store))).to.equal(report.digest);
  await store.close();
  const again = await open();
  expect(await admits(again)).to.equal(true);
  await again.close();
}

export async function sealedForAll(store: Store, roomId: string): Promise<Map<string, Uint8Array>> {
  const members = await store.members.list(roomId);
  return new Map(members.map(({ endpoint }) => [endpoint, new Uint8Array([7, 7])]));
}
