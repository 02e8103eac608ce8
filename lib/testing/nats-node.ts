import { spawn, type ChildProcess } from "node:child_process";
import { closeSync, openSync, readFileSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { get } from "node:http";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { stopOf } from "./stopped.js";
import { forget, watch } from "./watchdog.js";

/** A nats-server process on 127.0.0.1 with JetStream in a temporary folder of its own. */
export interface NatsServer extends AsyncDisposable {
  /** The server's own name, as in `/jsz` and in the stream info of a cluster. */
  readonly name: string;
  /** For a client's `servers` option. It stays the same over restarts. */
  readonly url: string;
  readonly monitorUrl: string;
  /** Undefined while the process is down. */
  readonly pid: number | undefined;
  /** Holds the configuration, the log and JetStream's files; removed by `dispose`. */
  readonly directory: string;
  /** All that the server has logged, over restarts too. */
  logs(): string;
  /** The answer of a monitoring endpoint, such as `/jsz` or `/connz`. */
  monitor(path: string): Promise<unknown>;
  /** SIGKILL. What was stored stays. */
  kill(): Promise<void>;
  /** SIGTERM. What was stored stays. */
  stop(): Promise<void>;
  /**
   * SIGSTOP: connections stay open, nothing answers. Resolves when every thread of the process has stopped, so that
   * nothing that is asked afterwards is answered; at once if the process is down, or as soon as somebody resumes it.
   *
   * @example
   * await server.pause();
   * assert.equal(await isAuthorized(store, key, { timeoutMs: 500 }), false);
   * await server.resume();
   */
  pause(): Promise<void>;
  /** SIGCONT. Resolves when every thread of the process runs again. */
  resume(): Promise<void>;
  /**
   * Stops the server if it runs and starts it on the same ports with what was stored; resolves when clients can use it.
   */
  restart(): Promise<void>;
  /** Resolves when the server has begun to send its clients away; it ends by itself once they are gone. */
  lameDuck(): Promise<void>;
  /** Resolves when the process is down. */
  exited(): Promise<void>;
  /** Kills the server and removes its folder. The same as leaving an `await using`. */
  dispose(): Promise<void>;
}

export type NatsServerConfig = Readonly<Record<string, unknown>>;

export interface NodeSettings {
  program: string;
  name: string;
  /** Laid over the launcher's own settings, section by section. */
  config: NatsServerConfig;
  ports: { client: number; monitor: number };
  /** Where JetStream's files are and stay. Default: in the node's own folder. */
  store?: string;
  /** Health that a start waits for: in a cluster a node's own is all it can answer for. */
  health: string;
  timeoutMs: number;
}

export class PortTaken extends Error {}

export class NatsNode implements NatsServer {
  readonly name: string;
  readonly url: string;
  readonly monitorUrl: string;
  readonly directory: string;
  readonly #settings: NodeSettings;
  #child: ChildProcess | undefined;
  #exit: Promise<void> = Promise.resolve();
  #lastLogs: string | undefined;
  /** Counts pauses and resumes: only the last one is waited for. */
  #lastTurn = 0;

  private constructor(settings: NodeSettings, directory: string) {
    this.name = settings.name;
    this.url = `nats://127.0.0.1:${settings.ports.client}`;
    this.monitorUrl = `http://127.0.0.1:${settings.ports.monitor}`;
    this.directory = directory;
    this.#settings = settings;
  }

  /** Makes the node's folder and configuration; `start` starts it. */
  static async prepare(settings: NodeSettings): Promise<NatsNode> {
    const node = new NatsNode(settings, await mkdtemp(join(tmpdir(), "unibus-nats-")));
    watch(node.directory);
    const { client, monitor } = settings.ports;
    const config = mergeSections(
      {
        server_name: settings.name,
        listen: `127.0.0.1:${client}`,
        // Clients are told of no other address than the one that they dialled.
        client_advertise: `127.0.0.1:${client}`,
        http: `127.0.0.1:${monitor}`,
        lame_duck_grace_period: "1s",
        jetstream: {
          store_dir: settings.store ?? join(node.directory, "jetstream"),
          max_memory_store: 2 ** 28,
          max_file_store: 2 ** 33,
        },
      },
      settings.config,
    );
    await writeFile(node.#file("nats.conf"), JSON.stringify(config, null, 2));
    await writeFile(node.#file("server.log"), "");
    return node;
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  logs(): string {
    return this.#lastLogs ?? readFileSync(this.#file("server.log"), "utf8");
  }

  async start(): Promise<void> {
    if (this.#lastLogs !== undefined) throw new Error(`${this.name} has been disposed of`);
    const loggedBefore = this.logs().length;
    const deadline = performance.now() + this.#settings.timeoutMs;
    await this.#spawn();
    const healthy = async (): Promise<boolean> => {
      if (this.#child === undefined) throw this.#failure("ended at once", loggedBefore);
      return (await this.#isHealthy()) && (await accepts(this.#settings.ports.client));
    };
    await until(healthy, deadline).catch(async (error: unknown) => {
      await this.kill();
      throw error instanceof NotInTime
        ? this.#failure(`was not ready within ${this.#settings.timeoutMs} ms`, loggedBefore)
        : error;
    });
  }

  async monitor(path: string): Promise<unknown> {
    const { status, body } = await ask(this.monitorUrl + path);
    if (status !== 200) throw new Error(`${this.name} answers ${path} with ${status}: ${body}`);
    return JSON.parse(body) as unknown;
  }

  async kill(): Promise<void> {
    this.#signal("SIGKILL");
    await this.exited();
  }

  async stop(): Promise<void> {
    await this.resume();
    this.#signal("SIGTERM");
    const child = this.#child;
    const overdue = setTimeout(() => child?.kill("SIGKILL"), 10_000);
    await this.exited();
    clearTimeout(overdue);
  }

  async pause(): Promise<void> {
    await this.#signalAndWait("SIGSTOP", "all");
  }

  async resume(): Promise<void> {
    await this.#signalAndWait("SIGCONT", "none");
  }

  async restart(): Promise<void> {
    await this.stop();
    const deadline = performance.now() + this.#settings.timeoutMs;
    // The ports cannot change, clients know them: a stranger who holds one meanwhile is waited for.
    for (;;) {
      try {
        await this.start();
        return;
      } catch (error) {
        if (!(error instanceof PortTaken) || performance.now() > deadline) throw error;
        await pauseMs(100);
      }
    }
  }

  async lameDuck(): Promise<void> {
    const loggedBefore = this.logs().length;
    this.#signal("SIGUSR2");
    const entered = (): boolean =>
      this.#child === undefined || this.logs().slice(loggedBefore).includes("Entering lame duck mode");
    await until(entered, performance.now() + this.#settings.timeoutMs);
  }

  async exited(): Promise<void> {
    this.#child?.ref();
    await this.#exit;
  }

  async dispose(): Promise<void> {
    if (this.#lastLogs !== undefined) return;
    await this.kill();
    this.#lastLogs = this.logs();
    await rm(this.directory, { recursive: true, force: true, maxRetries: 10, retryDelay: 50 });
    forget(this.directory);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  async #isHealthy(): Promise<boolean> {
    const answer = await ask(`${this.monitorUrl}/healthz${this.#settings.health}`).catch(() => undefined);
    return answer?.status === 200;
  }

  async #spawn(): Promise<void> {
    const log = openSync(this.#file("server.log"), "a");
    const env = { ...process.env };
    // A wrapper script named by it would otherwise look for itself.
    Reflect.deleteProperty(env, "UNIBUS_NATS_SERVER");
    const child = spawn(this.#settings.program, ["-c", this.#file("nats.conf")], { stdio: ["ignore", log, log], env });
    closeSync(log);
    // A server that somebody forgot must not keep the process alive; the watchdog ends it afterwards.
    child.unref();
    this.#child = child;
    this.#exit = new Promise((resolve) => {
      const gone = (): void => {
        this.#child = undefined;
        // The pid is free for others from here on.
        if (this.#lastLogs === undefined) watch(this.directory);
        resolve();
      };
      child.once("exit", gone);
      child.once("error", gone);
    });
    watch(this.directory, child.pid);
    const spawned = new Promise((resolve) => child.once("spawn", resolve)).then(() => true);
    if (!(await Promise.race([spawned, this.#exit.then(() => false)]))) {
      throw new Error(`${this.#settings.program} could not be started`);
    }
  }

  #signal(signal: NodeJS.Signals): void {
    this.#child?.kill(signal);
  }

  /** Until the process is in the state that the signal asks for, is gone, or was sent another signal of these. */
  async #signalAndWait(signal: "SIGSTOP" | "SIGCONT", wanted: "all" | "none"): Promise<void> {
    const child = this.#child;
    const pid = child?.pid;
    if (child === undefined || pid === undefined) return;
    const turn = ++this.#lastTurn;
    child.kill(signal);
    const isOver = async (): Promise<boolean> => {
      if (this.#child !== child || this.#lastTurn !== turn) return true;
      const found = await stopOf(pid);
      return found === wanted || found === "gone";
    };
    await until(isOver, performance.now() + this.#settings.timeoutMs).catch((error: unknown) => {
      throw error instanceof NotInTime
        ? new Error(`${this.name} has not followed ${signal} within ${this.#settings.timeoutMs} ms`, { cause: error })
        : error;
    });
  }

  #failure(what: string, loggedBefore: number): Error {
    const log = this.logs().slice(loggedBefore);
    const message = `nats-server ${this.name} ${what}; it logged:\n${log.split("\n").slice(-15).join("\n")}`;
    return log.includes("address already in use") ? new PortTaken(message) : new Error(message);
  }

  #file(name: string): string {
    return join(this.directory, name);
  }
}

function mergeSections(base: NatsServerConfig, over: NatsServerConfig): NatsServerConfig {
  const merged: Record<string, unknown> = { ...base };
  for (const [key, value] of Object.entries(over)) {
    const own = merged[key];
    merged[key] = isSection(own) && isSection(value) ? { ...own, ...value } : value;
  }
  return merged;
}

function isSection(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Ports that nobody listens on, below the range from which outgoing connections are given theirs. */
export async function freePorts(count: number): Promise<number[]> {
  const ports = new Set<number>();
  while (ports.size < count) {
    const port = 15_000 + Math.floor(Math.random() * 17_000);
    if (await canListen(port)) ports.add(port);
  }
  return [...ports];
}

async function canListen(port: number): Promise<boolean> {
  return await new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
  });
}

export class NotInTime extends Error {}

/** Asks again and again until the answer is true; rejects with NotInTime when the deadline has passed. */
export async function until(isSo: () => boolean | Promise<boolean>, deadline: number): Promise<void> {
  while (!(await isSo())) {
    if (performance.now() > deadline) throw new NotInTime("not in time");
    await pauseMs(25);
  }
}

async function pauseMs(ms: number): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, ms));
}

async function accepts(port: number): Promise<boolean> {
  return await new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    const settle = (accepted: boolean) => (): void => {
      socket.destroy();
      resolve(accepted);
    };
    socket.once("connect", settle(true)).once("error", settle(false));
  });
}

async function ask(url: string): Promise<{ status: number; body: string }> {
  return await new Promise((resolve, reject) => {
    // No agent: a kept-alive connection would outlive the question.
    const request = get(url, { agent: false, timeout: 2_000 }, (response) => {
      let body = "";
      response.setEncoding("utf8");
      response.on("data", (text: string) => (body += text));
      response.once("end", () => resolve({ status: response.statusCode ?? 0, body }));
      response.once("error", reject);
    });
    request.once("timeout", () => request.destroy(new Error(`${url} does not answer`)));
    request.once("error", reject);
  });
}
