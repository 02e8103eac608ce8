/** The recipe that has no dependency. The others are packages of their own: `npm run recipes`. */
import { expect } from "chai";
import { execFile } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { connect, type NatsConnection } from "nats";
import { openJetStream, openSqlite, type JetStreamProof, type Store } from "unibus-membership";
import { startNatsServer, type NatsServer } from "unibus-membership/testing";
import { auditTo, type Entry } from "../example/recipes/audit-log/audit.js";
import { stateOfJetStream, stateOfSqlite, type StateLine } from "../example/recipes/audit-log/state.js";
import { State, type Verdict } from "../example/recipes/audit-log/verify.js";

const run = promisify(execFile);
const root = fileURLToPath(new URL("..", import.meta.url));
const opTimeoutMs = 20_000;

async function fill(store: Store): Promise<void> {
  await store.users.addFirstAdmin({ key: "root" });
  for (const key of ["stays", "goes", "out"]) await store.users.add({ key });
  await store.users.revoke("out");
  for (const id of ["kept", "changed"]) await store.rooms.create({ id, owner: "owner" });
}

/** What is logged while users are asked about, some of whom change then. */
async function audited(store: Store): Promise<Entry[]> {
  const lines: string[] = [];
  const stop = auditTo((line) => void lines.push(line));
  for (const key of ["stays", "goes", "out", "nobody"]) await store.isAuthorized(key);
  await store.isAdmin("root");
  await store.isMember("kept", "owner");
  await store.isMember("kept", "nobody");
  await store.isMember("changed", "owner");
  await store.isAuthorized("two words");
  stop();
  await store.users.revoke("goes");
  await store.members.add("changed", { endpoint: "new" });
  return lines.map((line) => JSON.parse(line) as Entry);
}

const said = (state: State, entries: readonly Entry[]): string[] =>
  entries.map((entry) => `${entry.key ?? [entry.roomId, entry.endpoint].join(" ").trim()}: ${state.verdictOf(entry)}`);

async function all(lines: AsyncIterable<StateLine>): Promise<StateLine[]> {
  const found: StateLine[] = [];
  for await (const line of lines) found.push(line);
  return found;
}

const expected = (unknown: Verdict): string[] => [
  "stays: confirmed",
  "goes: superseded since",
  "out: confirmed",
  `nobody: ${unknown}`,
  "root: confirmed",
  "kept owner: confirmed",
  "kept nobody: confirmed",
  "changed owner: superseded since",
  ": unproved",
];

describe("an audit log", function () {
  this.timeout(120_000);

  describe("of SQLite", () => {
    let entries: Entry[];
    let lines: StateLine[];
    before(async () => {
      const store = await openSqlite(":memory:", { opTimeoutMs });
      await fill(store);
      entries = await audited(store);
      lines = await all(stateOfSqlite(store));
      await store.close();
    });

    it("says what is confirmed, and what was superseded since", () => {
      expect(said(new State(lines), entries)).to.deep.equal(expected("confirmed"));
    });

    it("says what is impossible: a transaction that never was, or another answer", () => {
      const state = new State(lines);
      const [allowed] = entries;
      if (allowed?.proof?.backend !== "sqlite") throw new Error("there is no proof");
      const { proof } = allowed;
      const forged: Entry[] = [
        { ...allowed, proof: { ...proof, transaction: "zzz" } },
        { ...allowed, key: "out" },
        { ...allowed, key: "nobody" },
        { ...allowed, check: "isAdmin" },
        { ...allowed, allowed: false, reason: "unknown" },
      ];
      expect(forged.map((entry) => state.verdictOf(entry))).to.deep.equal(forged.map(() => "impossible"));
    });

    it("is verified by a script that needs two files", async () => {
      const folder = await mkdtemp(join(tmpdir(), "unibus-audit-"));
      const text = (values: readonly object[]): string => values.map((value) => `${JSON.stringify(value)}\n`).join("");
      const [state, log] = [join(folder, "state.jsonl"), join(folder, "audit.jsonl")];
      await writeFile(state, text(lines));
      await writeFile(log, text(entries));
      const script = join(root, "example/recipes/audit-log/verify.ts");
      const { stdout } = await run(process.execPath, ["--import", "tsx", script, state, log], { cwd: root });
      expect(JSON.parse(stdout.trim().split("\n").at(-1) ?? "")).to.deep.equal({
        confirmed: 6,
        "superseded since": 2,
        unproved: 1,
      });
      await rm(folder, { recursive: true });
    });
  });

  describe("of JetStream", () => {
    let server: NatsServer;
    let connection: NatsConnection;
    let entries: Entry[];
    let lines: StateLine[];
    let state: State;
    before(async () => {
      server = await startNatsServer();
      connection = await connect({ servers: server.url });
      const store = await openJetStream(connection, 1, { prefix: "a_", opTimeoutMs });
      await fill(store);
      entries = await audited(store);
      lines = await all(stateOfJetStream(connection, "a_"));
      state = new State(lines);
      await store.close();
    });
    after(async () => {
      await connection.close();
      await server.dispose();
    });

    it("says what is confirmed, and what was superseded since", () => {
      expect(said(state, entries)).to.deep.equal(expected("unproved"));
    });

    it("says what is impossible: a place that never was, or behind which something stood already", () => {
      const forged = (place: (of: { seq: number; asOf: number }) => object, about = "goes"): Entry => {
        const entry = entries.find(({ key }) => key === about);
        const proof = entry?.proof as JetStreamProof | undefined;
        if (entry === undefined || proof?.users === undefined) throw new Error("there is no proof");
        return { ...entry, proof: { ...proof, users: { ...proof.users, ...place(proof.users) } } };
      };
      const now = lines.find((line) => "of" in line && line.name === "goes");
      const revokedAt = now !== undefined && "of" in now ? now.seq : 0;
      const impossible = [
        forged(() => ({ asOf: 1_000_000 })),
        forged(({ asOf }) => ({ seq: asOf + 1 })),
        forged(({ seq }) => ({ seq: seq - 1 }), "stays"),
        forged(() => ({ asOf: revokedAt })),
        { ...forged(() => ({})), key: "nobody" },
      ];
      expect(impossible.map((entry) => state.verdictOf(entry))).to.deep.equal(impossible.map(() => "impossible"));
      expect(state.verdictOf(forged(() => ({})))).to.equal("superseded since");
    });
  });
});
