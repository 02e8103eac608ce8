import { openJetStream, type Store } from "unibus-membership";
import { startNatsServer } from "unibus-membership/testing";
import { natsClients, type Connection } from "../../support/nats-clients.js";

/** Two stores on the buckets of one server. */
interface TwoStores<Faults> {
  /** Over a connection as it is. */
  readonly a: Store;
  readonly clean: Connection;
  /** Over a connection in whose way something is put. */
  readonly b: Store;
  readonly faults: Faults;
}

/** Two stores for a suite, and the server that they share. All of it is gone afterwards. */
export function useTwoStores<Faults extends { readonly connection: Connection }>(
  faultsOf: (connection: Connection) => Faults,
  opTimeoutMs: number,
  take: (stores: TwoStores<Faults>) => void,
): void {
  let stop = (): Promise<void> => Promise.resolve();
  before(async () => {
    const server = await startNatsServer();
    stop = () => server.dispose();
    const [client] = natsClients;
    if (client === undefined) throw new Error("no client");
    const clean = await client.connect(server.url);
    const faults = faultsOf(await client.connect(server.url));
    const a = await openJetStream(clean, 1, { opTimeoutMs });
    const b = await openJetStream(faults.connection, 1, { opTimeoutMs });
    stop = async () => {
      await Promise.all([a.close(), b.close()]);
      await Promise.all([clean.close(), faults.connection.close()]);
      await server.dispose();
    };
    take({ a, clean, b, faults });
  });
  after(() => stop());
}
