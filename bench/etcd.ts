// Three etcd servers on this machine, where Debian's `etcd-server` is installed: what others use for linearizable
// reads.

import { spawn, type ChildProcess } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Etcd3 } from "etcd3";

const SERVERS = 3;
const STARTED_MS = 30_000;

export interface Etcd extends AsyncDisposable {
  put(key: string, value: string): Promise<unknown>;
  /** Linearizable, as etcd's reads are unless they are asked to be others. */
  get(key: string): Promise<string | null>;
}

/** `undefined`: it is not installed. */
export async function startEtcd(): Promise<Etcd | undefined> {
  const folder = await mkdtemp(join(tmpdir(), "unibus-etcd-"));
  const ports = await Promise.all(Array.from({ length: SERVERS * 2 }, freePort));
  const url = (port: number | undefined): string => `http://127.0.0.1:${String(port)}`;
  const cluster = Array.from({ length: SERVERS }, (_, i) => `e${String(i)}=${url(ports[SERVERS + i])}`).join(",");
  const children: ChildProcess[] = [];
  const end = async (): Promise<void> => {
    await Promise.all(
      children.map(async (child) => {
        if (child.pid === undefined || child.exitCode !== null) return;
        const ended = new Promise((resolve) => child.once("exit", resolve));
        child.kill("SIGKILL");
        await ended;
      }),
    );
    await rm(folder, { recursive: true, force: true });
  };
  for (let i = 0; i < SERVERS; i++) {
    const [client, peer] = [url(ports[i]), url(ports[SERVERS + i])];
    const args = {
      name: `e${String(i)}`,
      "data-dir": join(folder, String(i)),
      "listen-client-urls": client,
      "advertise-client-urls": client,
      "listen-peer-urls": peer,
      "initial-advertise-peer-urls": peer,
      "initial-cluster": cluster,
      "log-level": "error",
    };
    children.push(
      spawn(
        "etcd",
        Object.entries(args).map(([name, value]) => `--${name}=${value}`),
        { stdio: "ignore" },
      ),
    );
  }
  const isMissing = await Promise.race([
    ...children.map((child) => new Promise<boolean>((resolve) => child.once("error", () => resolve(true)))),
    new Promise<boolean>((resolve) => setTimeout(() => resolve(false), 1000)),
  ]);
  if (isMissing) {
    await end();
    return undefined;
  }
  process.once("exit", () => {
    for (const child of children) child.kill("SIGKILL");
  });
  const client = new Etcd3({ hosts: Array.from({ length: SERVERS }, (_, i) => url(ports[i])) });
  for (const until = performance.now() + STARTED_MS; ;) {
    try {
      await client.put("started").value("yes");
      break;
    } catch (error) {
      if (performance.now() > until) throw error;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  }
  return {
    put: (key, value) => client.put(key).value(value),
    get: (key) => client.get(key).string(),
    [Symbol.asyncDispose]: async () => {
      client.close();
      await end();
    },
  };
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer().once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => {
        if (address === null || typeof address === "string") reject(new Error("no port"));
        else resolve(address.port);
      });
    });
  });
}
