/** What the demo and the bench share: servers, the service as a process of its own, who administers, and users. */
import { fork, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { connect, nkeyAuthenticator, nkeys, type NatsConnection } from "@nats-io/transport-node";
import { openJetStream, type Store } from "unibus-membership";
import { startNatsCluster, startNatsServer, type NatsServer } from "unibus-membership/testing";
import type { CalloutEvent } from "./callout.js";
import { inboxOf, readKey, setUp } from "./setup.js";

/** A child that was forked ends with its parent, however that ends. */
const WITH_PARENT = "data:text/javascript,process.once('disconnect', () => process.exit(1)).channel.unref()";
export const FOREVER = { reconnect: true, maxReconnectAttempts: -1, reconnectTimeWait: 50, ignoreAuthErrorAbort: true };

const WITHIN_MS = 120_000;

export interface Person {
  readonly name: string;
  readonly nkey: string;
  readonly seed: Uint8Array;
}

export function newPerson(name: string): Person {
  const pair = nkeys.createUser();
  return { name, nkey: pair.getPublicKey(), seed: pair.getSeed() };
}

export class Stage implements AsyncDisposable {
  readonly #undo: (() => Promise<unknown>)[] = [];
  #nodes: readonly NatsServer[] = [];
  #keys = "";
  #admin: Store | undefined;
  #end: Promise<void> | undefined;
  #service: ChildProcess | undefined;
  /** What the service has said. */
  readonly events: CalloutEvent[] = [];

  get nodes(): readonly NatsServer[] {
    return this.#nodes;
  }

  get urls(): string[] {
    return this.#nodes.map(({ url }) => url);
  }

  /** Of whoever enrols users and rooms: another process, in a deployment. */
  get admin(): Store {
    if (this.#admin === undefined) throw new Error("the servers have not been started");
    return this.#admin;
  }

  async startServers(replicas: 1 | 3): Promise<void> {
    const folder = await mkdtemp(join(tmpdir(), "unibus-example-"));
    this.#undo.push(() => rm(folder, { recursive: true, force: true }));
    this.#keys = join(folder, "keys");
    const config = await setUp(this.#keys);
    const started = replicas === 1 ? await startNatsServer({ config }) : await startNatsCluster({ config });
    this.#undo.push(() => started.dispose());
    this.#nodes = "nodes" in started ? started.nodes : [started];
    const { seed } = await readKey(this.#keys, "admin");
    const patiently = { ...FOREVER, waitOnFirstConnect: true };
    const connection = await this.#connect(Buffer.from(seed), inboxOf("admin"), patiently);
    const store = await openJetStream(connection, replicas, { opTimeoutMs: 60_000 });
    this.#undo.push(() => store.close());
    this.#admin = store;
  }

  async startService(loginSeconds: number, stalenessMs = 1000): Promise<void> {
    const program = fileURLToPath(new URL("service.ts", import.meta.url));
    const child = fork(program, {
      execArgv: ["--import", "tsx", "--import", WITH_PARENT],
      env: {
        ...process.env,
        CALLOUT_SERVERS: this.urls.join(","),
        CALLOUT_KEYS: this.#keys,
        CALLOUT_LOGIN_SECONDS: String(loginSeconds),
        CALLOUT_STALENESS_MS: String(stalenessMs),
      },
      stdio: ["ignore", "pipe", "inherit", "ipc"],
    });
    this.#service = child;
    this.#undo.push(() => endOf(child, "SIGKILL"));
    if (child.stdout === null) throw new Error("no pipe");
    const lines = createInterface(child.stdout);
    const ended = once(child, "exit").then(() => Promise.reject(new Error("the service has ended")));
    const ready = new Promise<void>((resolve) => {
      lines.on("line", (line) => {
        const event = JSON.parse(line) as CalloutEvent | { event: "ready" };
        if (event.event === "ready") resolve();
        else this.events.push(event);
      });
    });
    await Promise.race([ready, ended]);
    // Later it may end.
    ended.catch(() => undefined);
  }

  async endService(signal: "SIGTERM" | "SIGKILL"): Promise<void> {
    if (this.#service !== undefined) await endOf(this.#service, signal);
  }

  /** As any client logs in that has an nkey. Rejects if it is not let in. */
  async login({ seed, nkey }: Person, options: object = {}, servers = this.urls): Promise<NatsConnection> {
    return await this.#connect(seed, inboxOf(nkey), { reconnect: false, ...options }, servers);
  }

  /** The same, as often as it takes: a machine that is busy answers late, and what is late is a no. */
  async loginAtLast(person: Person, options: object = {}, servers = this.urls): Promise<NatsConnection> {
    for (const until = performance.now() + WITHIN_MS; ;) {
      try {
        return await this.login(person, options, servers);
      } catch (error) {
        if (performance.now() > until) throw error;
        await pause(50);
      }
    }
  }

  /**
   * Lets somebody in, revokes them at some moment, and resolves to how long after the acknowledgement their connection
   * was closed.
   */
  async revokedToDisconnected(person: Person, stalenessMs = 1000): Promise<number> {
    await this.admin.users.add({ key: person.nkey });
    for (;;) {
      const connection = await this.loginAtLast(person);
      // The proofs come at even times: at once after the last one was put out would always be the worst.
      await pause((Math.random() * stalenessMs) / 2);
      if (connection.isClosed()) continue;
      const closed = connection.closed().then(() => performance.now());
      await this.admin.users.revoke(person.nkey);
      const acknowledged = performance.now();
      return (await closed) - acknowledged;
    }
  }

  /** Once, however often it is asked for: who interrupts a process does so more than once. */
  async [Symbol.asyncDispose](): Promise<void> {
    await (this.#end ??= this.#dispose());
  }

  async #dispose(): Promise<void> {
    for (let undo = this.#undo.pop(); undo !== undefined; undo = this.#undo.pop()) await undo().catch(console.error);
  }

  /** Leaves nothing behind when the process is interrupted. */
  endOnSignals(interrupted = (): void => undefined): void {
    for (const signal of ["SIGINT", "SIGTERM"] as const) {
      process.on(signal, () => {
        interrupted();
        void this[Symbol.asyncDispose]().finally(() => process.exit(1));
      });
    }
  }

  async #connect(seed: Uint8Array, inboxPrefix: string, options: object, servers = this.urls): Promise<NatsConnection> {
    const authenticator = nkeyAuthenticator(seed);
    const connection = await connect({ servers, authenticator, inboxPrefix, timeout: 10_000, ...options });
    this.#undo.push(() => connection.close());
    return connection;
  }
}

async function endOf(child: ChildProcess, signal: "SIGTERM" | "SIGKILL"): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, "exit");
  child.kill(signal);
  await ended;
}

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

export async function eventually(what: string, isSo: () => boolean | Promise<boolean>): Promise<void> {
  for (const until = performance.now() + WITHIN_MS; !(await isSo());) {
    if (performance.now() > until) throw new Error(`not within ${WITHIN_MS} ms: ${what}`);
    await pause(20);
  }
}

export function medianAndLongest(values: readonly number[]): { median: number; longest: number } {
  const sorted = [...values].sort((a, b) => a - b);
  return { median: sorted[Math.floor(sorted.length / 2)] ?? NaN, longest: sorted.at(-1) ?? NaN };
}
