import { startNatsServer } from "unibus-membership/testing";
import { conformsOnJetStream } from "../support/conforms.js";

conformsOnJetStream({
  name: "jetstream R1",
  replicas: 1,
  async start() {
    const server = await startNatsServer();
    return { nodes: [server], dispose: () => server.dispose() };
  },
});
