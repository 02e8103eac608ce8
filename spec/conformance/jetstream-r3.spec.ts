import { startNatsCluster } from "unibus-membership/testing";
import { conformsOnJetStream } from "../support/conforms.js";

conformsOnJetStream({ name: "jetstream R3", replicas: 3, start: () => startNatsCluster() });
