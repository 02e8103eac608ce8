/**
 * One owner of a file. Each opener listens on a socket of its own beside the file, and then looks for other sockets. A
 * socket whose process is gone refuses a connection. The kernel knows that better than any pid could tell, also across
 * containers and for stopped processes. Who finds nobody else is the holder, and says so in `<file>-lock`.
 *
 * A holder whose socket was deleted is not found. It notices that itself (see {@link Lease}), but not at once. So an
 * opener that cannot tell whether the last holder is gone waits until that one must have noticed. Then it begins with
 * new files, which the last holder cannot reach.
 */
import { createHash, randomBytes } from "node:crypto";
import type { Server } from "node:net";
import { hostname } from "node:os";
import { basename, dirname, join } from "node:path";
import { promises as fs } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { StoreError } from "../errors.js";
import { codeOf, removeIfThere, statIfThere } from "./files.js";
import { LEASE_MS } from "./lease.js";
import {
  LOCK,
  giveToOwner,
  readHolder,
  readLockFile,
  removeHolder,
  restoreHolder,
  writeHolder,
  writeReleased,
} from "./lock-file.js";
import type { Holder } from "./lock-file.js";
import { Sockets, ask, isTaken, isWithoutSockets, listen, stopListening } from "./sockets.js";

/** A contender decides in a few milliseconds. One that takes longer counts as a holder: it may be stopped. */
const CONTEND_MS = 1500;
/** The first in line waits this much longer. */
const PATIENCE_MS = 10_000;
/** How long a holder may go on after its socket is gone. Includes what two clocks may differ by. */
const UNSEEN_MS = LEASE_MS + 100;

/** What a holder of the file has. */
interface Claim {
  /** The socket's path, where it is a file that somebody could delete. */
  readonly socket: string | undefined;
  /** Whether another process may have held the file until a moment ago, and have a write on its way. */
  readonly tookOver: boolean;
  release(opened: boolean): Promise<void>;
}

export class Lock {
  readonly socket: string | undefined;
  readonly tookOver: boolean;
  readonly #claim: Claim;

  private constructor(claim: Claim) {
    this.#claim = claim;
    this.socket = claim.socket;
    this.tookOver = claim.tookOver;
  }

  /** `path`: the real one, without symbolic links. Rejects with `LOCKED`. */
  static async acquire(path: string, check: () => void): Promise<Lock> {
    return new Lock(process.platform === "win32" ? await claimPipe(path, check) : await claimSocket(path, check));
  }

  /** The last step of closing: from here on somebody else may write. */
  release(): Promise<void> {
    return this.#claim.release(true);
  }

  /** The same after an opening that was refused. Nothing of the attempt remains. */
  abandon(): Promise<void> {
    return this.#claim.release(false);
  }
}

function locked(path: string, holder: Holder | undefined): StoreError {
  const who =
    holder === undefined ? "another store" : `process ${String(holder.pid)} on ${holder.host} since ${holder.since}`;
  return new StoreError("LOCKED", `${path} is held by ${who}`, {
    details: holder === undefined ? {} : { holder: { pid: holder.pid, host: holder.host, since: holder.since } },
  });
}

function self(socket: string): Holder {
  return { pid: process.pid, host: hostname(), since: new Date().toISOString(), socket };
}

/** What an opener found when it looked for others. */
interface DeadHolders {
  /** Sockets whose process is gone. They prove that until the file names another holder. */
  readonly dead: readonly string[];
}

async function claimSocket(path: string, check: () => void): Promise<Claim> {
  const sockets = await Sockets.of(path);
  try {
    const id = randomBytes(6).toString("hex");
    const until = performance.now() + CONTEND_MS;
    for (let attempt = 0; ; attempt++) {
      check();
      const name = sockets.name(id, attempt);
      const server = await listen(sockets.address(name)).catch((error: unknown) => {
        if (isWithoutSockets(error)) throw withoutSockets(path, error);
        if (!isTaken(error)) throw error;
        return undefined;
      });
      if (server !== undefined) {
        const claim = await claimWith(path, sockets, name, server, until, check).catch(async (error: unknown) => {
          await stop(server, sockets.path(name));
          throw error;
        });
        if (claim !== undefined) {
          await sockets.removeLink();
          return claim;
        }
        await stop(server, sockets.path(name));
      }
      await delay(2 + Math.random() * 20 * Math.min(attempt + 1, 5));
    }
  } catch (error) {
    await sockets.close();
    throw error;
  }
}

/** The claim of a process that listens. `undefined`: begin again. */
async function claimWith(
  path: string,
  sockets: Sockets,
  name: string,
  server: Server,
  until: number,
  check: () => void,
): Promise<Claim | undefined> {
  await giveToOwner(path, sockets.path(name));
  const found = await contend(path, sockets, name, until, check);
  if (found === undefined) return undefined;
  const last = await readLockFile(path);
  const isGone = last === "released" || (last !== undefined && refusalIsProof() && found.dead.includes(last.socket));
  const tookOver = !isGone && (await isFilled(path));
  if (tookOver) {
    const linked = await holderOfLink(path, sockets);
    if (linked !== undefined) throw locked(path, linked);
    await waitUnseen(check);
    // Whoever deleted the other socket may have deleted this one too.
    if (!(await sockets.list()).includes(name)) return undefined;
  }
  await writeHolder(path, self(name));
  // An opener that did not find the last holder has replaced it only once there are new files.
  const abandon = (): Promise<void> =>
    tookOver && typeof last === "object" ? restoreHolder(path, name, last) : forget(path, name, last !== undefined);
  try {
    const linked = await holderOfLink(path, sockets);
    if (linked !== undefined) throw locked(path, linked);
    for (const each of found.dead) await removeDead(sockets.path(each));
  } catch (error) {
    await abandon();
    throw error;
  }
  return {
    socket: sockets.path(name),
    tookOver,
    release: async (opened) => {
      try {
        // The file only names the holder. Failing to write it is no reason to give the lock up.
        await (opened ? forget(path, name, true) : abandon()).catch(() => undefined);
        await stop(server, sockets.path(name));
      } finally {
        await sockets.close();
      }
    },
  };
}

/** Whether a refusal proves that nobody listens. Other systems also refuse when a socket's queue is full. */
function refusalIsProof(): boolean {
  return process.platform === "linux";
}

/** A missing or empty image has no state that anybody could take for the newest. */
async function isFilled(path: string): Promise<boolean> {
  return ((await statIfThere(path))?.size ?? 0) > 0;
}

async function waitUnseen(check: () => void): Promise<void> {
  const until = performance.now() + UNSEEN_MS;
  for (let left = UNSEEN_MS; left > 0; left = until - performance.now()) {
    check();
    await delay(Math.min(50, Math.ceil(left)));
  }
}

function forget(path: string, socket: string, leave: boolean): Promise<void> {
  return leave ? writeReleased(path, socket) : removeHolder(path, socket);
}

function withoutSockets(path: string, cause: unknown): StoreError {
  const what = `a socket in ${dirname(path)} is what tells who holds the file, and that folder takes none (${String(codeOf(cause))})`;
  return new StoreError("UNAVAILABLE", `${path} cannot be opened: ${what}. Use a folder on another file system`, {
    argument: "path",
    cause,
  });
}

/**
 * Whether nobody else is there. `undefined`: begin again. Each contender listens before it looks, so of any two at
 * least one sees the other. The one with the smallest name then waits in place, and the others withdraw.
 */
async function contend(
  path: string,
  sockets: Sockets,
  own: string,
  until: number,
  check: () => void,
): Promise<DeadHolders | undefined> {
  for (;;) {
    check();
    const names = await sockets.list();
    // Another opener found our socket before we listened on it, and removed it as a dead one.
    if (!names.includes(own)) return undefined;
    const others: string[] = [];
    const dead: string[] = [];
    const forbidden: string[] = [];
    for (const name of names) {
      if (name === own) continue;
      const answer = await ask(sockets.address(name));
      if (answer === "alive") others.push(name);
      else if (answer === "forbidden") forbidden.push(name);
      else if (answer === "dead") dead.push(name);
    }
    const holder = await readHolder(path);
    if (holder !== undefined && [...others, ...forbidden].includes(holder.socket)) throw locked(path, holder);
    const over = performance.now() - until;
    // A socket that we may not ask can be a holder's, which then names itself in time. One that never does was killed
    // on the way.
    if (others.length === 0 && (forbidden.length === 0 || over > 0)) return { dead };
    const first = [...others, ...forbidden].every((name) => name > own);
    // The others give up before the first in line does. So one of them gets in, however slow the machine is.
    if (others.length > 0 && over > (first ? PATIENCE_MS : 0)) throw locked(path, undefined);
    if (!first && others.length > 0) return undefined;
    await delay(2 + Math.random() * 10);
  }
}

/**
 * Who holds the same file under another name in the folder. That is a hard link, or a name that the file system treats
 * as the same. Each looks after it has claimed its own name, so of any two at least one sees the other.
 */
async function holderOfLink(path: string, sockets: Sockets): Promise<Holder | undefined> {
  const own = await statIfThere(path);
  if (own === undefined) return undefined;
  for (const name of await fs.readdir(dirname(path))) {
    const other = join(dirname(path), name.slice(0, -LOCK.length));
    if (!name.endsWith(LOCK) || other === path) continue;
    const stat = await statIfThere(other);
    if (stat?.ino !== own.ino || stat.dev !== own.dev) continue;
    const holder = await readHolder(other);
    if (holder === undefined) continue;
    const answer = await ask(sockets.address(basename(holder.socket)));
    if (answer === "alive" || answer === "forbidden") return holder;
  }
  return undefined;
}

/** In a sticky folder only its owner may remove the file. There it stays, and does no harm. */
async function removeDead(path: string): Promise<void> {
  await removeIfThere(path).catch((error: unknown) => {
    if (codeOf(error) !== "EPERM" && codeOf(error) !== "EACCES") throw error;
  });
}

async function stop(server: Server, path: string): Promise<void> {
  // Unlinked here, without blocking. Closing the server would do it synchronously, and now finds nothing to do.
  await removeIfThere(path).catch(() => undefined);
  await stopListening(server);
}

/** Windows: a named pipe. The system gives its name to one process, and takes it back when that process ends. */
async function claimPipe(path: string, check: () => void): Promise<Claim> {
  const digest = createHash("sha256").update(path.toLowerCase()).digest("hex");
  const address = `\\\\?\\pipe\\unibus-membership-${digest}`;
  let server: Server;
  try {
    server = await listen(address);
  } catch (error) {
    if (codeOf(error) === "EADDRINUSE" || codeOf(error) === "EACCES") throw locked(path, await readHolder(path));
    throw error;
  }
  try {
    const last = await readLockFile(path);
    // Nobody holds this pipe any more. But a file that has this name now may be held under its old name.
    const tookOver = last !== "released" && last?.socket !== address && (await isFilled(path));
    if (tookOver) await waitUnseen(check);
    await writeHolder(path, self(address));
    return {
      socket: undefined,
      tookOver,
      release: async (opened) => {
        await forget(path, address, opened || last !== undefined).catch(() => undefined);
        await stopListening(server);
      },
    };
  } catch (error) {
    await stopListening(server);
    throw error;
  }
}
