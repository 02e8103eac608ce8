import { startNatsServer } from "unibus-membership/testing";
import { natsClients, type Connection } from "./nats-clients.js";

/** A server for a suite, and a connection of each version of the client to it. All are gone afterwards. */
export function useServer(take: (connection: Connection, other: Connection) => void): void {
  let stop = (): Promise<void> => Promise.resolve();
  before(async () => {
    const server = await startNatsServer();
    stop = () => server.dispose();
    const [connection, other] = await Promise.all(natsClients.map((client) => client.connect(server.url)));
    if (connection === undefined || other === undefined) throw new Error("two clients are needed");
    stop = async () => {
      await Promise.all([connection.close(), other.close()]);
      await server.dispose();
    };
    take(connection, other);
  });
  after(() => stop());
}
