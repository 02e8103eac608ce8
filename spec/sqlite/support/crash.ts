import { expect } from "chai";
import { cp, mkdir, readFile, readdir, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import initSqlJs from "sql.js";
import { openSqlite, type Store, type StoreError } from "unibus-membership";
import { AT_LENGTH } from "../../support/at-length.js";
import { Child } from "./child.js";
import { contents, endsOf, failure, logOf, release, type useFolder } from "./folder.js";
import { telling } from "./superblock.js";

export const opTimeoutMs = 20_000;

/**
 * Has the process kill itself at its `at`th change of a file, halfway through if that is a write. What fills a sector
 * is written whole or not at all: no kill ends a write in the middle of a page, and no disk in the middle of a sector.
 *
 * What opens, syncs or would delete what is not there changes nothing: a kill at it leaves the files that one at the
 * next change leaves. Those repeat, and are there at length.
 */
const DIE_AT = `
import files, { promises as fs } from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { setFlagsFromString } from "node:v8";
// Half of what such a process costs is to optimize code of SQLite that it runs once.
setFlagsFromString("--liftoff-only");
const handle = await fs.open(process.execPath);
const handles = Object.getPrototypeOf(handle);
await handle.close();
let left = Infinity;
const die = () => process.kill(process.pid, "SIGKILL");
const always = () => true;
const atLength = () => ${String(AT_LENGTH)};
const methods = {
  open: (path, flags) => flags === "w" || atLength(), rename: always, unlink: (path) => files.existsSync(path) || atLength(), chmod: always, writeFile: always,
};
for (const [owner, changes] of [[fs, methods], [handles, { sync: atLength, datasync: atLength, truncate: always, chmod: always }]]) {
  for (const [name, isChange] of Object.entries(changes)) {
    const original = owner[name];
    owner[name] = function (...args) {
      return isChange(...args) && --left === 0 ? die() : original.apply(this, args);
    };
  }
}
const { write } = files;
files.write = (fd, bytes, offset, length, position, done) => {
  if (--left !== 0) write(fd, bytes, offset, length, position, done);
  else if (length === 512 && position % 512 === 0) die();
  else write(fd, bytes, offset, Math.ceil(length / 2), position, die);
};
// ES modules, of which the library is some, import the function itself.
syncBuiltinESMExports();
const dieAt = (at) => { left = at; };
`;

export async function refused(path: string, folder: string): Promise<StoreError> {
  const before = await contents(folder);
  const error = await failure(openSqlite(path, { opTimeoutMs }));
  expect(await contents(folder), "touched").to.deep.equal(before);
  return error as StoreError;
}

export async function usersOf(path: string): Promise<string[]> {
  const store = await openSqlite(path, { opTimeoutMs });
  const keys = (await store.users.list({ limit: 1000 })).items.map(({ key }) => key);
  await store.close();
  return keys;
}

/** The keys of the users that `crashed` adds. */
export const first = (count: number): string[] => Array.from({ length: count }, (_, i) => `u${String(i)}`);

/**
 * A file and its log as a kill leaves them: `users` acknowledged, and where the record of each ends. The image was told
 * of the first transaction only, however slow the machine is.
 */
export async function crashed(
  folder: ReturnType<typeof useFolder>,
  name: string,
  users: number,
  work: (store: Store) => Promise<unknown> = () => Promise.resolve(),
): Promise<{ path: string; log: string; ends: number[] }> {
  const live = folder.file(`${name}-live`);
  const store = await openSqlite(live, { opTimeoutMs });
  const liveLog = await logOf(live);
  for (let i = 0; i < users; i++) await store.users.add({ key: `u${String(i)}`, name: "x".repeat(i) });
  await work(store);
  const own = join(folder.path, name);
  await mkdir(own);
  const path = join(own, "membership.db");
  await writeFile(path, telling(await readFile(live), { clean: false, acknowledged: 1 }));
  const log = path + liveLog.slice(live.length);
  await cp(liveLog, log);
  await release(path);
  await store.close();
  return { path, log, ends: endsOf(await readFile(log)) };
}

export async function integrityOf(path: string): Promise<unknown> {
  const sqlJs = await initSqlJs();
  const database = new sqlJs.Database(await readFile(path));
  try {
    return database.exec("PRAGMA integrity_check")[0]?.values[0]?.[0];
  } finally {
    database.close();
  }
}

/**
 * Has a child do `work` on a copy of `from` again and again, killed at its first change of a file, its second, and so
 * on. `verify` is told what the child could say before that.
 */
export async function killedAtEachStep(
  folder: ReturnType<typeof useFolder>,
  from: string,
  work: string,
  verify: (path: string, said: readonly string[]) => Promise<void>,
): Promise<number> {
  let survived = 0;
  let steps = 0;
  for (let at = 1; survived === 0; at += 4) {
    const runs = await Promise.all(
      Array.from({ length: 4 }, async (_, i) => {
        const step = String(at + i);
        const own = folder.file(`step-${step}`);
        await cp(from, own, { recursive: true });
        const path = join(own, "membership.db");
        const child = new Child(DIE_AT + work, [path, step]);
        const { signal, code } = await child.ended;
        if (signal !== "SIGKILL") expect(code, child.errors).to.equal(0);
        if (await stat(path).catch(() => undefined)) expect(await integrityOf(path)).to.equal("ok");
        await verify(path, child.said);
        const remains = (await readdir(own)).filter((name) => !/^membership\.db(-redo[01]|-lock)?$/.test(name));
        expect(remains, "left over").to.deep.equal([]);
        await rm(own, { recursive: true });
        return signal === "SIGKILL";
      }),
    );
    const killed = runs.filter((each) => each).length;
    steps += killed;
    survived += runs.length - killed;
  }
  return steps;
}
