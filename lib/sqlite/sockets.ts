/**
 * The sockets in a file's folder that say who lives. Their addresses are short, however long the path of the folder is.
 */
import { Buffer } from "node:buffer";
import { createHash, randomBytes } from "node:crypto";
import { constants, promises as fs } from "node:fs";
import type { FileHandle } from "node:fs/promises";
import { connect, createServer } from "node:net";
import type { Server } from "node:net";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { StoreError } from "../errors.js";
import { codeOf, isAbsent, removeIfThere } from "./files.js";

/**
 * The longest address of a socket, below any system's limit. Some versions of Node cut a longer one, and say nothing.
 */
const MAX_ADDRESS = 100;
/** A longer name of a file is hashed: it has to leave room for what is around it. */
const MAX_NAME = 20;

/** Where the sockets of a file are, and how they are called: the same for every opener, whatever its environment is. */
export class Sockets {
  readonly folder: string;
  readonly #prefix: string;
  /** What stands for the folder in an address. */
  #short: string;
  readonly #handle: FileHandle | undefined;
  #link: string | undefined;

  private constructor(path: string, handle: FileHandle | undefined) {
    const name = basename(path);
    this.folder = dirname(path);
    this.#prefix = `${Buffer.byteLength(name) <= MAX_NAME ? name : createHash("sha256").update(name).digest("hex").slice(0, 16)}-lock-`;
    this.#short = handle === undefined ? this.folder : `/proc/self/fd/${String(handle.fd)}`;
    this.#handle = handle;
  }

  static async of(path: string): Promise<Sockets> {
    const handle =
      process.platform === "linux"
        ? await fs.open(dirname(path), constants.O_RDONLY | constants.O_DIRECTORY)
        : undefined;
    const sockets = new Sockets(path, handle);
    try {
      if (handle === undefined && Buffer.byteLength(sockets.address(sockets.name("0".repeat(12), 0))) > MAX_ADDRESS)
        await sockets.#shorten();
      return sockets;
    } catch (error) {
      await sockets.close();
      throw error;
    }
  }

  /**
   * A symbolic link to the folder: a socket that is made through it is in the folder, whatever the folder of the link
   * is.
   */
  async #shorten(): Promise<void> {
    let failure: unknown;
    for (const folder of [tmpdir(), "/tmp"]) {
      const link = join(folder, `u-${randomBytes(6).toString("hex")}`);
      if (Buffer.byteLength(join(link, this.name("0".repeat(12), 0))) > MAX_ADDRESS) continue;
      try {
        await fs.symlink(this.folder, link);
        this.#link = link;
        this.#short = link;
        return;
      } catch (error) {
        failure = error;
      }
    }
    throw new StoreError(
      "UNAVAILABLE",
      `${this.folder} is too long for a socket, and no folder for temporary files takes a link to it`,
      {
        argument: "path",
        cause: failure,
      },
    );
  }

  address(name: string): string {
    return join(this.#short, name);
  }

  /** Where it is, for as long as the folder has its name. */
  path(name: string): string {
    return join(this.folder, name);
  }

  name(id: string, attempt: number): string {
    return `${this.#prefix}${id}${String(attempt).padStart(4, "0")}`;
  }

  /** The names of the sockets that are there. */
  async list(): Promise<string[]> {
    const names = await fs.readdir(this.folder);
    const found: string[] = [];
    for (const name of names.filter(
      (each) => each.startsWith(this.#prefix) && /^[0-9a-f]{12}[0-9]{4}$/.test(each.slice(this.#prefix.length)),
    )) {
      // Never anything but a socket: it would be somebody's file.
      const stat = await fs.lstat(this.path(name)).catch(() => undefined);
      if (stat?.isSocket() === true) found.push(name);
    }
    return found.sort();
  }

  /**
   * Removes the link, which a process that is killed would leave behind. Addresses by way of it are of no use any more.
   */
  async removeLink(): Promise<void> {
    if (this.#link !== undefined) await removeIfThere(this.#link).catch(() => undefined);
    this.#link = undefined;
  }

  async close(): Promise<void> {
    await this.removeLink();
    await this.#handle?.close();
  }
}

/**
 * - `alive`: somebody listens, or is too busy to answer.
 * - `dead`: nobody listens any more. Names are never used twice, so it stays true.
 * - `forbidden`: this user may not ask.
 */
export type Answer = "alive" | "dead" | "absent" | "forbidden";

export function ask(address: string): Promise<Answer> {
  return new Promise((resolve) => {
    const socket = connect(address);
    socket.once("connect", () => {
      socket.destroy();
      resolve("alive");
    });
    socket.once("error", (error) => {
      socket.destroy();
      resolve(answerOf(codeOf(error)));
    });
  });
}

function answerOf(code: string | undefined): Answer {
  switch (code) {
    case "ECONNREFUSED":
      return "dead";
    case "ENOENT":
      return "absent";
    case "EACCES":
    case "EPERM":
      return "forbidden";
    case undefined:
    default:
      return "alive";
  }
}

export function listen(address: string): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => {
      socket.on("error", () => socket.destroy());
      socket.destroy();
    });
    server.unref();
    server.once("error", reject);
    // Anybody may ask whether it is alive. To a user who may not ask, a dead socket would look alive for ever.
    server.listen({ path: address, readableAll: true, writableAll: true }, () => {
      server.off("error", reject);
      // What goes wrong with a visitor is no concern of the store.
      server.on("error", () => undefined);
      resolve(server);
    });
  });
}

export function stopListening(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
  });
}

/**
 * Whether somebody found the socket before it listened, took it for a dead one, and deleted it. Node then fails to
 * change its mode, which goes by the name, and closes it.
 */
export function isTaken(error: unknown): boolean {
  return isAbsent(error) && error instanceof Error && "syscall" in error && error.syscall === "uv_pipe_chmod";
}

/** Whether the folder takes no socket at all. */
export function isWithoutSockets(error: unknown): boolean {
  return ["EPERM", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EINVAL", "EAFNOSUPPORT", "EPROTONOSUPPORT", "ENODEV"].includes(
    codeOf(error) ?? "",
  );
}
