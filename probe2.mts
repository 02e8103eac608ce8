import { connect } from "nats";
import { openJetStream } from "./dist/index.js";
import { startNatsCluster } from "./dist/testing.js";
import { fill, keyOf, roomOf, memberOf } from "./bench/jetstream-fill.js";
await using cluster = await startNatsCluster();
const nc = await connect({ servers: cluster.urls[0] });
const N = 20000;
const kv = await nc.jetstream().views.kv("plain", { replicas: 3 });
const s0 = await openJetStream(nc, 3, { opTimeoutMs: 60000 });
await s0.users.addFirstAdmin({ key: "root" });
await fill(nc, s0, N);
async function inFlight(w: number, n: number, f: (i: number) => Promise<unknown>) { let i = 0; await Promise.all(Array.from({ length: w }, async () => { while (i < n) await f(i++); })); }
const cold = await openJetStream(nc, 3, { opTimeoutMs: 60000 });
await inFlight(1024, N, (i) => s0.isAuthorized(keyOf(i)));
let at = 0;
for (const w of [1024, 64]) for (let round = 0; round < 3; round++) {
  for (const [name, f, n] of [["kv.get", (i: number) => kv.get(keyOf(i)), 10000], ["warm", (i: number) => s0.isAuthorized(keyOf(i)), 20000], ["cold", (i: number) => cold.isAuthorized(keyOf(at++)), 3000]] as const) {
    const c = process.cpuUsage(), t = performance.now();
    await inFlight(w, n, f);
    const d = process.cpuUsage(c), ms = performance.now() - t;
    console.log(w, name.padEnd(8), Math.round(n / ms * 1000) + "/s", ((d.user + d.system) / n).toFixed(0) + " µs CPU");
  }
}
await s0.close(); await cold.close(); await nc.close();
