/**
 * A span for each operation of a store, and one for each check, as children of what was active when it was called. No
 * attribute says who was asked about: a span is seen by more people than the allowlist.
 */
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { SpanKind, SpanStatusCode, trace, type Span, type Tracer } from "@opentelemetry/api";
// In an app: from "unibus-membership".
import type { DecisionMessage, OperationMessage } from "../../../dist/index.js";

/** Answers a function that ends it. */
export function traceMembership(tracer: Tracer = trace.getTracer("unibus-membership")): () => void {
  // One message goes through all channels of an operation.
  const spans = new WeakMap<object, Span>();
  const started = (message: unknown): void => {
    const { operation, backend } = message as OperationMessage;
    const attributes = { "membership.backend": backend, "membership.operation": operation };
    spans.set(message as object, tracer.startSpan(`membership ${operation}`, { kind: SpanKind.CLIENT, attributes }));
  };
  const failed = (message: unknown): void => {
    const { code = "unknown", outcome } = message as OperationMessage;
    const span = spans.get(message as object);
    span?.setStatus({ code: SpanStatusCode.ERROR, message: code });
    span?.setAttribute("error.type", code);
    if (outcome !== undefined) span?.setAttribute("membership.outcome", outcome);
  };
  const ended = (message: unknown): void => {
    spans.get(message as object)?.end();
  };
  const decided = (message: unknown): void => {
    const { check, backend, allowed, reason, proof, durationMs } = message as DecisionMessage;
    const startTime = Date.now() - durationMs;
    const attributes = {
      "membership.backend": backend,
      "membership.allowed": allowed,
      "membership.reason": reason,
      ...(proof === undefined ? {} : { "membership.proof.stale_ms": proof.staleMs }),
    };
    tracer.startSpan(`membership ${check}`, { kind: SpanKind.CLIENT, startTime, attributes }).end();
  };
  const listeners = [
    ["tracing:unibus-membership:operation:start", started],
    ["tracing:unibus-membership:operation:error", failed],
    ["tracing:unibus-membership:operation:asyncEnd", ended],
    ["unibus-membership:decision", decided],
  ] as const;
  for (const [name, listener] of listeners) subscribe(name, listener);
  return () => {
    for (const [name, listener] of listeners) unsubscribe(name, listener);
  };
}
