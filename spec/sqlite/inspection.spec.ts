// Faults that are planted into a SQLite file: into its image by SQL, with the checksums that belong to it, and into its
// bytes.

import { expect } from "chai";
import { readFile, rm, truncate, writeFile } from "node:fs/promises";
import initSqlJs, { type SqlValue } from "sql.js";
import { inspect, isCorrupt, openSqlite, type Store } from "unibus-membership";
import { SEALED, allowed, finds, grantsNothing, isSafe, seed, told } from "../support/faults.js";
import { eventually } from "../support/wait.js";
import { random } from "../soak/random.js";
import { endsOf, failure, logOf, release, useFolder } from "./support/folder.js";
import { SUPERBLOCK_AT, resealed, told as superblockOf } from "./support/superblock.js";

const opTimeoutMs = 20_000;

type Sql = readonly [sql: string, values?: readonly SqlValue[]];

/** A statement, and what is found then. What is left after a repair is the same, where nothing else is said. */
interface Plant {
  readonly sql: Sql;
  readonly finds: readonly string[];
  readonly left?: readonly string[];
}

const at = (sql: string, ...values: SqlValue[]): Sql => [sql, values];

const PLANTS: Readonly<Record<string, Plant>> = {
  "a user who is revoked, and nobody knows when": {
    sql: at("UPDATE users SET status = 'revoked' WHERE key = 'again'"),
    finds: ["FIELD_INVALID"],
  },
  "a user who is active, with a time of revocation": {
    sql: at("UPDATE users SET revoked_at = 7 WHERE key = 'again'"),
    finds: ["FIELD_INVALID"],
  },
  "a user whom nobody can ask for": {
    sql: at("UPDATE users SET key = 'AGAIN' WHERE key = 'again'"),
    finds: ["FIELD_INVALID"],
  },
  "a user's name with a control character": {
    sql: at("UPDATE users SET name = ? WHERE key = 'again'", "a\u0007b"),
    finds: ["FIELD_INVALID"],
  },
  "a time that is none": {
    sql: at("UPDATE users SET created_at = 9e15 WHERE key = 'again'"),
    finds: ["FIELD_INVALID"],
  },
  "a time between two milliseconds": {
    sql: at("UPDATE members SET since = 7.5 WHERE endpoint = 'invited'"),
    finds: ["FIELD_INVALID"],
  },
  "a revision that is none": {
    sql: at("UPDATE rooms SET revision = -3 WHERE id = 'plain'"),
    finds: ["FIELD_INVALID"],
  },
  "no admin is left": {
    sql: at("UPDATE users SET status = 'revoked', revoked_at = 7 WHERE role = 'admin'"),
    finds: ["NO_ADMIN"],
  },
  "a revision that is yet to come": {
    sql: at("UPDATE users SET revision = 1000000 WHERE key = 'again'"),
    finds: ["REVISION_AHEAD"],
  },
  "an epoch of a room that is not encrypted": {
    sql: at("UPDATE rooms SET epoch = 2 WHERE id = 'plain'"),
    finds: ["FIELD_INVALID"],
  },
  "a debt of a room that is not encrypted": {
    sql: at("UPDATE rooms SET rekey_required = 1 WHERE id = 'plain'"),
    finds: ["FIELD_INVALID"],
  },
  "a room's name that is too long": {
    sql: at("UPDATE rooms SET name = ? WHERE id = 'plain'", "n".repeat(257)),
    finds: ["FIELD_INVALID"],
  },
  "a room that went back an epoch": { sql: at("UPDATE rooms SET epoch = 1 WHERE id = 'sealed'"), finds: ["KEY_EPOCH"] },
  "a second owner": {
    sql: at("UPDATE members SET role = 'owner' WHERE room_id = 'plain'"),
    finds: ["OWNER_ROLE"],
    left: [],
  },
  "an owner who has not joined": {
    sql: at("UPDATE members SET state = 'invited' WHERE room_id = 'plain' AND role = 'owner'"),
    finds: ["OWNER_MISSING"],
  },
  "an endpoint with a control character": {
    sql: at("UPDATE members SET endpoint = ? WHERE room_id = 'plain' AND role = 'member'", "a\u0007b"),
    finds: ["FIELD_INVALID"],
  },
  "somebody without a name invited": {
    sql: at("UPDATE members SET invited_by = '' WHERE endpoint = 'invited'"),
    finds: ["FIELD_INVALID"],
  },
  "a public key that is too long": {
    sql: at("UPDATE members SET public_key = zeroblob(1025) WHERE endpoint = 'invited'"),
    finds: ["FIELD_INVALID"],
  },
  "a key of an epoch to come": {
    sql: at("UPDATE room_keys SET epoch = 9 WHERE endpoint = 'late'"),
    finds: ["KEY_EPOCH"],
  },
  "a key of no epoch": { sql: at("UPDATE room_keys SET epoch = 0 WHERE endpoint = 'late'"), finds: ["FIELD_INVALID"] },
  "a key of a room that is not encrypted": {
    sql: at("INSERT INTO room_keys VALUES ('plain', 'owner', 1, ?, 7)", new Uint8Array(Buffer.from(SEALED))),
    finds: ["KEY_EPOCH"],
  },
  "a sealed key that is too long": {
    sql: at("UPDATE room_keys SET sealed = zeroblob(65537) WHERE endpoint = 'late'"),
    finds: ["FIELD_INVALID"],
  },
};

/** What contradicts itself is found by the opening, which lets nobody in. */
const REFUSED: Readonly<Record<string, Sql>> = {
  "a key of nobody": at("INSERT INTO room_keys VALUES ('plain', 'stranger', 1, x'00', 7)"),
  "a member of no room": at("UPDATE members SET room_id = 'nowhere' WHERE endpoint = 'invited'"),
  "a room without an owner": at("UPDATE members SET role = 'member' WHERE room_id = 'plain'"),
  "a room that is there twice": at("UPDATE rooms SET id = 'sealed' WHERE id = 'plain'"),
  "a user who is there twice": at("UPDATE users SET key = 'root' WHERE key = 'again'"),
};

/** A file that was closed, changed by SQL, with the checksum of what it holds then. */
async function planted(path: string, statements: readonly Sql[]): Promise<void> {
  const sqlJs = await initSqlJs();
  const database = new sqlJs.Database(await readFile(path));
  for (const [sql, values = []] of statements) database.run(sql, [...values]);
  const image = resealed(Buffer.from(database.export()));
  database.close();
  for (const name of ["-redo0", "-redo1"]) await rm(path + name, { force: true });
  await writeFile(path, image);
  await release(path);
}

describe("an inspection of a SQLite file", function () {
  this.timeout(120_000);
  const folder = useFolder();
  const open = (): Promise<Store> => openSqlite(folder.file(), { opTimeoutMs });

  const seeded = async (): Promise<void> => {
    const store = await open();
    await seed(store);
    await store.close();
  };

  it("finds nothing in what the faults are planted into", async () => {
    await seeded();
    const store = await open();
    await finds(store, [], []);
    await store.close();
  });

  for (const [name, plant] of Object.entries(PLANTS))
    it(`finds ${name}`, async () => {
      await seeded();
      await planted(folder.file(), [plant.sql]);
      const { finds: expected, left = expected } = plant;
      const store = await open();
      const before = await finds(store, expected, left);
      await store.close();
      const again = await open();
      await finds(again, left, left);
      grantsNothing(before, await allowed(again));
      await again.close();
    });

  for (const [name, sql] of Object.entries(REFUSED))
    it(`is not needed for ${name}: no store opens`, async () => {
      await seeded();
      await planted(folder.file(), [sql]);
      expect(isCorrupt(await failure(open()))).to.equal(true);
    });

  /** While a store is open, whose memory is whole. */
  const whileOpen = async (damage: (path: string, log: string) => Promise<void>): Promise<string[]> => {
    await seeded();
    const store = await open();
    for (let i = 0; i < 5; i++) await store.users.add({ key: `more-${String(i)}` });
    const log = await logOf(folder.file());
    expect(told(await inspect(store))).to.deep.equal([]);
    await damage(folder.file(), log);
    const before = await allowed(store);
    const { ok, findings, counts } = await inspect(store, { repair: true });
    isSafe(findings);
    expect([ok, counts.users]).to.deep.equal([false, 11]);
    expect(await allowed(store)).to.deep.equal(before);
    await store.close().catch(() => undefined);
    return findings.map(({ code, record = "" }) => `${code} ${record.slice(folder.path.length + 1)}`);
  };

  const flipped = async (path: string, place: number): Promise<void> => {
    const bytes = await readFile(path);
    bytes[place] = (bytes[place] ?? 0) ^ 0x10;
    await writeFile(path, bytes);
  };

  it("finds a flipped bit in the image, although a store is open", async () => {
    expect(await whileOpen((path) => flipped(path, 9000))).to.deep.equal(["FILE_DAMAGED membership.db"]);
  });

  it("finds a superblock that is damaged", async () => {
    const found = await whileOpen(async (path, log) => {
      const bytes = await readFile(log);
      const last = Number(bytes.readBigUInt64LE((endsOf(bytes).at(-2) ?? 0) + 9));
      // Written anew, it would be whole again.
      await eventually("told", async () => superblockOf(await readFile(path)).acknowledged === last);
      await flipped(path, SUPERBLOCK_AT + 40);
    });
    expect(found).to.deep.equal(["FILE_DAMAGED membership.db"]);
  });

  it("finds a flipped bit in the log", async () => {
    const found = await whileOpen(async (_, log) => {
      await flipped(log, (endsOf(await readFile(log))[2] ?? 0) + 40);
    });
    expect(found).to.have.length(1);
    expect(found[0]).to.match(/^FILE_DAMAGED membership\.db-redo[01]$/);
  });

  it("finds that the log was cut", async () => {
    const found = await whileOpen(async (_, log) => {
      await truncate(log, endsOf(await readFile(log))[3]);
    });
    expect(found).to.have.length(1);
    expect(found[0]).to.match(/^FILE_DAMAGED membership\.db-redo[01]$/);
  });

  it("mends nothing that makes a check true which was false, whatever is wrong", async () => {
    for (let round = 0; round < 25; round++) {
      const next = random(0x5e1f, round);
      await seeded();
      const all = Object.values(PLANTS);
      const some = Array.from({ length: 1 + Math.floor(next() * 4) }, () => all[Math.floor(next() * all.length)]);
      await planted(
        folder.file(),
        some.flatMap((plant) => (plant === undefined ? [] : [plant.sql])),
      );
      const before = await open();
      const could = await allowed(before);
      const { findings } = await inspect(before, { repair: true });
      expect(findings.length, `round ${String(round)}`).to.be.greaterThan(0);
      const can = await allowed(before);
      await before.close();
      const after = await open();
      const later = await allowed(after);
      await after.close();
      for (const each of [can, later]) grantsNothing(could, each, `round ${String(round)}`);
      await rm(folder.file());
      for (const name of ["-redo0", "-redo1", "-lock"]) await rm(folder.file() + name, { force: true });
    }
  });
});
