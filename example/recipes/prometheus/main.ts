/** `npm ci && npm start`: serves the metrics of a few calls, and looks at them as Prometheus would. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { Registry } from "prom-client";
import { openSqlite } from "../../../dist/index.js";
import { measureMembership } from "./metrics.js";

const registry = new Registry();
const stop = measureMembership(registry);
const server = createServer((_, response) => {
  registry.metrics().then(
    (text) => response.setHeader("content-type", registry.contentType).end(text),
    (error: unknown) => response.writeHead(500).end(String(error)),
  );
});
server.listen(0, "127.0.0.1");
await once(server, "listening");

const store = await openSqlite(":memory:");
await store.users.addFirstAdmin({ key: "root" });
await store.users.get("nobody").catch(() => undefined);
await store.isAuthorized("root");
await store.isAdmin("nobody");
await store.close();

const { port } = server.address() as AddressInfo;
const text = await (await fetch(`http://127.0.0.1:${String(port)}/metrics`)).text();
server.close();
stop();

for (const line of [
  'membership_operation_seconds_count{backend="sqlite",operation="users.addFirstAdmin",code="OK"} 1',
  'membership_operation_seconds_count{backend="sqlite",operation="users.get",code="NOT_FOUND"} 1',
  'membership_decision_seconds_count{backend="sqlite",check="isAuthorized",reason="active"} 1',
  'membership_decision_seconds_count{backend="sqlite",check="isAdmin",reason="unknown"} 1',
  'membership_proof_age_seconds_count{backend="sqlite"} 2',
]) {
  assert.ok(text.split("\n").includes(line), `${line} in:\n${text}`);
  console.log(line);
}
assert.ok(!text.includes("root"), "nobody is named");
console.log("Everything was as it should be.");
