/** Counts and times what stores do. No label says who was asked about: labels are few. */
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { Counter, Histogram, type Registry } from "prom-client";
// In an app: from "unibus-membership".
import type { DecisionMessage, EventMessage, OperationMessage } from "../../../dist/index.js";

const SECONDS = [0.0001, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5];

/** Answers a function that ends it. */
export function measureMembership(registry: Registry): () => void {
  const registers = [registry];
  const operations = new Histogram({
    name: "membership_operation_seconds",
    help: "Operations on rooms, members, room keys and users, by how they ended",
    labelNames: ["backend", "operation", "code"],
    buckets: SECONDS,
    registers,
  });
  const decisions = new Histogram({
    name: "membership_decision_seconds",
    help: "Checks, by their answers",
    labelNames: ["backend", "check", "reason"],
    buckets: SECONDS,
    registers,
  });
  const staleness = new Histogram({
    name: "membership_proof_age_seconds",
    help: "How old the proof was that a check was answered by",
    labelNames: ["backend"],
    buckets: SECONDS,
    registers,
  });
  const events = new Counter({
    name: "membership_events_total",
    help: "What no call is told",
    labelNames: ["backend", "type"],
    registers,
  });

  const ended = (message: unknown): void => {
    const { backend, operation, error, code = "UNKNOWN", durationMs = 0 } = message as OperationMessage;
    operations.observe({ backend, operation, code: error === undefined ? "OK" : code }, durationMs / 1000);
  };
  const decided = (message: unknown): void => {
    const { backend, check, reason, proof, durationMs } = message as DecisionMessage;
    decisions.observe({ backend, check, reason }, durationMs / 1000);
    if (proof !== undefined) staleness.observe({ backend }, proof.staleMs / 1000);
  };
  const happened = (message: unknown): void => {
    const { backend, type } = message as EventMessage;
    events.inc({ backend, type });
  };
  const listeners = [
    ["tracing:unibus-membership:operation:asyncEnd", ended],
    ["unibus-membership:decision", decided],
    ["unibus-membership:event", happened],
  ] as const;
  for (const [name, listener] of listeners) subscribe(name, listener);
  return () => {
    for (const [name, listener] of listeners) unsubscribe(name, listener);
  };
}
