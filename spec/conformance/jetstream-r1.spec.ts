import { startNatsServer } from "unibus-membership/testing";
import { conformsOnJetStream } from "../support/conforms.js";
import { natsClients } from "../support/nats-clients.js";

conformsOnJetStream({
  name: "jetstream R1",
  replicas: 1,
  clients: natsClients.map((client) => [client]),
  async start() {
    const server = await startNatsServer();
    return { nodes: [server], dispose: () => server.dispose() };
  },
});
