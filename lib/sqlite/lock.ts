/**
 * One owner of a file. Each opener listens on a socket of its own beside the file and then looks for others: a socket
 * whose process is gone refuses, which the kernel knows better than any pid does, across containers and for stopped
 * processes too. Whoever finds nobody else is the holder and says so in `<file>-lock`.
 */
import { Buffer } from "node:buffer";
import { createHash, randomBytes } from "node:crypto";
import { constants, promises as fs } from "node:fs";
import type { FileHandle } from "node:fs/promises";
import { connect, createServer } from "node:net";
import type { Server } from "node:net";
import { hostname, tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { StoreError } from "../errors.js";
import { codeOf, isAbsent, removeIfThere, statIfThere } from "./files.js";

/** What a socket's address may be long, less than any system's limit. */
const MAX_ADDRESS = 100;
/** A contender decides in a few milliseconds; one that is stopped meanwhile holds the file as far as we can tell. */
const CONTEND_MS = 1500;
/** So much longer waits the first in line. */
const PATIENCE_MS = 10_000;

/** What a holder adds to the name of its file, to say who it is. */
const LOCK = "-lock";

/** Who holds a file, for a person to find. Whether it still does is not said by this, but by its socket. */
export interface Holder {
  readonly pid: number;
  readonly host: string;
  /** ISO 8601. */
  readonly since: string;
  /** The name of its socket. */
  readonly socket: string;
}

export class Lock {
  readonly #release: () => Promise<void>;

  private constructor(release: () => Promise<void>) {
    this.#release = release;
  }

  /** `path`: the real one, without symbolic links. Rejects with `LOCKED`. */
  static async acquire(path: string, check: () => void): Promise<Lock> {
    return new Lock(process.platform === "win32" ? await holdPipe(path) : await holdSocket(path, check));
  }

  /** Last of all: from here on somebody else may write. */
  release(): Promise<void> {
    return this.#release();
  }
}

function locked(path: string, holder: Holder | undefined): StoreError {
  const who = holder === undefined ? "another store" : `process ${String(holder.pid)} on ${holder.host} since ${holder.since}`;
  return new StoreError("LOCKED", `${path} is held by ${who}`, {
    details: holder === undefined ? {} : { holder: { pid: holder.pid, host: holder.host, since: holder.since } },
  });
}

function self(socket: string): Holder {
  return { pid: process.pid, host: hostname(), since: new Date().toISOString(), socket };
}

async function readHolder(path: string): Promise<Holder | undefined> {
  try {
    const found: unknown = JSON.parse(await fs.readFile(path + LOCK, "utf8"));
    if (typeof found !== "object" || found === null) return undefined;
    const { pid, host, since, socket } = found as Partial<Record<keyof Holder, unknown>>;
    if (typeof pid !== "number" || typeof host !== "string" || typeof since !== "string" || typeof socket !== "string") {
      return undefined;
    }
    return { pid, host, since, socket };
  } catch {
    // Being written, or of somebody who died while writing it: the socket decides, this only names.
    return undefined;
  }
}

/** Whole under its name at once, so that nobody reads half of it. */
async function writeHolder(path: string, holder: Holder): Promise<void> {
  const temporary = `${path}-lock-holder`;
  await fs.writeFile(temporary, `${JSON.stringify(holder)}\n`, { mode: 0o644 });
  await fs.rename(temporary, path + LOCK);
}

/** Where the sockets of a file are, and how they are called. */
class Place {
  readonly folder: string;
  readonly #handle: FileHandle | undefined;
  readonly #prefix: string;

  constructor(path: string, handle: FileHandle | undefined) {
    const digest = createHash("sha256").update(path).digest("hex");
    const name = basename(path);
    this.#handle = handle;
    if (handle !== undefined) {
      this.folder = dirname(path);
      // The same for each opener, and short enough with the folder's handle in front.
      this.#prefix = Buffer.byteLength(name) <= 48 ? `${name}-lock-` : `${createHash("sha256").update(name).digest("hex").slice(0, 32)}-lock-`;
    } else if (Buffer.byteLength(path) + 24 <= MAX_ADDRESS) {
      this.folder = dirname(path);
      this.#prefix = `${name}-lock-`;
    } else {
      // Without a way around the length of addresses the sockets cannot be beside the file.
      this.folder = tmpdir();
      this.#prefix = `unibus-${digest.slice(0, 16)}-lock-`;
    }
  }

  /** Short, whatever the folder's path is. */
  address(socket: string): string {
    return this.#handle === undefined ? join(this.folder, socket) : `/proc/self/fd/${String(this.#handle.fd)}/${socket}`;
  }

  socket(id: string, attempt: number): string {
    return `${this.#prefix}${id}${String(attempt).padStart(4, "0")}`;
  }

  /** The sockets that are there, of us and of others. */
  async sockets(): Promise<string[]> {
    const names = await fs.readdir(this.folder);
    const found: string[] = [];
    for (const name of names.filter((each) => each.startsWith(this.#prefix) && /^[0-9a-f]{12}[0-9]{4}$/.test(each.slice(this.#prefix.length)))) {
      // Never anything but a socket: it would be somebody's file.
      const stat = await fs.lstat(join(this.folder, name)).catch(() => undefined);
      if (stat?.isSocket() === true) found.push(name);
    }
    return found.sort();
  }
}

async function holdSocket(path: string, check: () => void): Promise<() => Promise<void>> {
  const handle = process.platform === "linux" ? await fs.open(dirname(path), constants.O_RDONLY | constants.O_DIRECTORY) : undefined;
  try {
    const place = new Place(path, handle);
    const id = randomBytes(6).toString("hex");
    const until = performance.now() + CONTEND_MS;
    for (let attempt = 0; ; attempt++) {
      check();
      const name = place.socket(id, attempt);
      const server = await listen(place.address(name)).catch((error: unknown) => {
        if (!isTaken(error)) throw error;
        return undefined;
      });
      const free = async (): Promise<void> => {
        if (server !== undefined) await stop(server, join(place.folder, name));
      };
      try {
        if (server !== undefined && (await contend(path, place, name, until, check))) {
          await writeHolder(path, self(name));
          const forget = async (): Promise<void> => {
            if ((await readHolder(path))?.socket === name) await removeIfThere(path + LOCK);
          };
          const linked = await holderOfLink(path, place);
          if (linked !== undefined) {
            await forget();
            throw locked(path, linked);
          }
          return async () => {
            try {
              // It only names: what cannot be deleted is no reason to go on holding the file.
              await forget().catch(() => undefined);
              await free();
            } finally {
              await handle?.close();
            }
          };
        }
      } catch (error) {
        await free();
        throw error;
      }
      await free();
      await delay(2 + Math.random() * 20 * Math.min(attempt + 1, 5));
    }
  } catch (error) {
    await handle?.close();
    throw error;
  }
}

/**
 * Whether nobody else is there; `false`: begin again. Each listens before it looks, so that of two at least one sees the
 * other; and whoever is seen waits, the smallest name in place, the others out of the way.
 */
async function contend(path: string, place: Place, own: string, until: number, check: () => void): Promise<boolean> {
  for (;;) {
    check();
    const names = await place.sockets();
    // Somebody found our socket before it listened, and took it for a dead one.
    if (!names.includes(own)) return false;
    const others: string[] = [];
    for (const name of names) {
      if (name === own) continue;
      if (await isAlive(place.address(name))) others.push(name);
      else await removeIfThere(join(place.folder, name));
    }
    if (others.length === 0) return true;
    const holder = await readHolder(path);
    if (holder !== undefined && others.includes(holder.socket)) throw locked(path, holder);
    const first = others.every((name) => name > own);
    // The others give up before the first in line does, so that however slow the machine is, one gets in.
    if (performance.now() > (first ? until + PATIENCE_MS : until)) throw locked(path, undefined);
    if (!first) return false;
    await delay(2 + Math.random() * 10);
  }
}

/**
 * Who holds the same file under another name in the folder. Each looks after it has said that it holds its own name, so
 * that of two at least one sees the other.
 */
async function holderOfLink(path: string, place: Place): Promise<Holder | undefined> {
  const own = await statIfThere(path);
  if (own === undefined || own.nlink < 2) return undefined;
  for (const name of await fs.readdir(dirname(path))) {
    const other = join(dirname(path), name.slice(0, -LOCK.length));
    if (!name.endsWith(LOCK) || other === path) continue;
    const stat = await statIfThere(other);
    if (stat?.ino !== own.ino || stat.dev !== own.dev) continue;
    const holder = await readHolder(other);
    if (holder !== undefined && (await isAlive(place.address(basename(holder.socket))))) return holder;
  }
  return undefined;
}

/** Only a refusal says that nobody listens any more: names are never used twice, so it stays true. */
function isAlive(address: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(address);
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", (error) => {
      socket.destroy();
      const code = codeOf(error);
      resolve(code !== "ECONNREFUSED" && code !== "ENOENT");
    });
  });
}

function listen(address: string): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => {
      socket.on("error", () => socket.destroy());
      socket.destroy();
    });
    server.unref();
    server.once("error", reject);
    // Anybody may ask whether it is alive: to another user a socket that may not be asked looks as if it were, for ever.
    server.listen({ path: address, readableAll: true, writableAll: true }, () => {
      server.off("error", reject);
      // What goes wrong with a visitor is no concern of the store.
      server.on("error", () => undefined);
      resolve(server);
    });
  });
}

/**
 * Whether somebody found the socket before it listened, took it for a dead one and deleted it: its mode is changed by its
 * name. Node has closed it then.
 */
function isTaken(error: unknown): boolean {
  return isAbsent(error) && error instanceof Error && "syscall" in error && error.syscall === "uv_pipe_chmod";
}

async function stop(server: Server, path: string): Promise<void> {
  // By name first: closing unlinks synchronously, and finds nothing left to do.
  await removeIfThere(path).catch(() => undefined);
  await new Promise<void>((resolve) => {
    server.close(() => resolve());
  });
}

/** Windows: a named pipe of one name, which the system gives to one process and takes back with it. */
async function holdPipe(path: string): Promise<() => Promise<void>> {
  const digest = createHash("sha256").update(path.toLowerCase()).digest("hex");
  const address = `\\\\?\\pipe\\unibus-membership-${digest}`;
  let server: Server;
  try {
    server = await listen(address);
  } catch (error) {
    if (codeOf(error) === "EADDRINUSE" || codeOf(error) === "EACCES") throw locked(path, await readHolder(path));
    throw error;
  }
  await writeHolder(path, self(address));
  return async () => {
    await removeIfThere(path + LOCK).catch(() => undefined);
    await new Promise<void>((resolve) => {
      server.close(() => resolve());
    });
  };
}
