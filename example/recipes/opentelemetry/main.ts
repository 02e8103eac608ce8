/** `npm ci && npm start`: traces a few calls, and says what a collector would get. */
import assert from "node:assert/strict";
import { SpanStatusCode, context, trace } from "@opentelemetry/api";
import { AsyncLocalStorageContextManager } from "@opentelemetry/context-async-hooks";
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from "@opentelemetry/sdk-trace-base";
import { openSqlite } from "../../../dist/index.js";
import { traceMembership } from "./tracing.js";

const exporter = new InMemorySpanExporter();
const provider = new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] });
trace.setGlobalTracerProvider(provider);
context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());

const stop = traceMembership();
const store = await openSqlite(":memory:");
const tracer = trace.getTracer("recipe");
await tracer.startActiveSpan("request", async (request) => {
  await store.users.addFirstAdmin({ key: "root" });
  await store.users.get("nobody").catch(() => undefined);
  await store.isAuthorized("root");
  await store.isAdmin("nobody");
  request.end();
});
await store.close();
stop();
await provider.forceFlush();

const spans = exporter.getFinishedSpans();
const request = spans.find(({ name }) => name === "request");
const others = spans.filter((span) => span !== request);
for (const { name, status, attributes } of others)
  console.log(name, status.code === SpanStatusCode.ERROR ? (status.message ?? "failed") : "", attributes);
assert.deepEqual(
  others.map(({ name, status }) => `${name} ${status.message ?? ""}`.trim()),
  ["membership users.addFirstAdmin", "membership users.get NOT_FOUND", "membership isAuthorized", "membership isAdmin"],
);
for (const { name, parentSpanContext } of others)
  assert.equal(parentSpanContext?.spanId, request?.spanContext().spanId, `${name} is of the request`);
assert.ok(!JSON.stringify(others.map(({ attributes }) => attributes)).includes("root"), "nobody is named");
console.log("Everything was as it should be.");
