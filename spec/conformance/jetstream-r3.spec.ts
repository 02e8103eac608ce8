import { startNatsCluster } from "unibus-membership/testing";
import { conformsOnJetStream } from "../support/conforms.js";
import { natsClients } from "../support/nats-clients.js";

conformsOnJetStream({ name: "jetstream R3", replicas: 3, clients: [natsClients], start: () => startNatsCluster() });
