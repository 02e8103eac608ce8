export { findNatsServer, type FindNatsServerOptions, type FoundNatsServer } from "./find-nats-server.js";
export {
  startNatsCluster,
  startNatsServer,
  type NatsCluster,
  type NatsClusterOptions,
  type NatsServerOptions,
} from "./nats-server.js";
export type { NatsServer, NatsServerConfig } from "./nats-node.js";
export type { CutMode } from "./route-proxy.js";
export { conformanceCases, ConformanceRun } from "./conformance.js";
export type { ConformanceBackend, ConformanceCase, ConformanceContext, ConformanceHarness } from "./conformance.js";
export { openMemory } from "../memory/open.js";
export { faulty, type FaultyStore } from "../faulty/faulty.js";
export type { Fault, FaultPlan, FaultRule, FaultTarget, FaultyCall, MetFault, SeededFaults } from "../faulty/plan.js";
