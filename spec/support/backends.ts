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

const backends: Readonly<Record<string, () => Promise<RunningBackend>>> = {
  sqlite: () => Promise.resolve(onlyThis((options) => openSqlite(":memory:", options))),
  memory: () => Promise.resolve(onlyThis((options) => openMemory(options))),
  jetstream: async () => {
    const server = await startNatsServer();
    const [client] = natsClients;
    if (client === undefined) throw new Error("no client");
    const connection = await client.connect(server.url);
    return {
      open: (options) => openJetStream(connection, 1, { prefix: `t${randomBytes(6).toString("hex")}_`, ...options }),
      stop: async () => {
        await connection.close();
        await server.dispose();
      },
    };
  },
};

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
