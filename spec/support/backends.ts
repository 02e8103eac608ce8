/** The backends, in the one place where specs list them: what each of them must do alike is tried on all of these. */
import { randomBytes } from "node:crypto";
import { openJetStream, openSqlite, type CommonOptions, type Store } from "unibus-membership";
import { openMemory, startNatsServer } from "unibus-membership/testing";
import { natsClients } from "./nats-clients.js";

/** What a backend's stores need beside themselves, until it stops. */
interface RunningBackend {
  /** Opens a store that holds nothing yet. */
  open(options?: CommonOptions): Promise<Store>;
  stop(): Promise<void>;
}

const onlyThis = (open: RunningBackend["open"]): RunningBackend => ({ open, stop: () => Promise.resolve() });

const backends = {
  sqlite: () => Promise.resolve(onlyThis((options) => openSqlite(":memory:", options))),
  memory: () => Promise.resolve(onlyThis((options) => openMemory(options))),
  jetstream: async () => {
    const server = await startNatsServer();
    const [client] = natsClients;
    if (client === undefined) throw new Error("no client");
    const connection = await client.connect(server.url);
    const openAs = (prefix: string, options?: CommonOptions): Promise<Store> =>
      openJetStream(connection, 1, { prefix, ...options });
    return {
      url: server.url,
      openAs,
      open: (options?: CommonOptions) => openAs(`t${randomBytes(6).toString("hex")}_`, options),
      stop: async () => {
        await connection.close();
        await server.dispose();
      },
    };
  },
} satisfies Readonly<Record<string, () => Promise<RunningBackend>>>;

export type BackendName = keyof typeof backends;

export const backendNames = Object.keys(backends) as BackendName[];

/** All of them, for what is tried between two. */
export interface RunningBackends {
  readonly open: Readonly<Record<BackendName, RunningBackend["open"]>>;
  /** A server of JetStream, and stores of one name on it. */
  readonly url: string;
  openJetStream(prefix: string, options?: CommonOptions): Promise<Store>;
  stop(): Promise<void>;
}

export async function startBackends(): Promise<RunningBackends> {
  const [sqlite, memory] = [await backends.sqlite(), await backends.memory()];
  const jetstream = await backends.jetstream();
  return {
    open: {
      sqlite: (options) => sqlite.open(options),
      memory: (options) => memory.open(options),
      jetstream: (options) => jetstream.open(options),
    },
    url: jetstream.url,
    openJetStream: jetstream.openAs,
    stop: () => jetstream.stop(),
  };
}

/** Registers the same tests for each backend. */
export function describeBackends(define: (open: RunningBackend["open"]) => void): void {
  for (const [name, start] of Object.entries(backends)) {
    describe(name, () => {
      let running: RunningBackend;
      before(async () => {
        running = await start();
      });
      after(() => running.stop());
      define((options) => running.open(options));
    });
  }
}
