import { connect } from "nats";
import { openJetStream } from "./dist/index.js";
import { startNatsServer } from "./dist/testing.js";
import { fill, keyOf, roomOf, memberOf } from "./bench/jetstream-fill.js";
await using cluster = await startNatsServer();
const nc = await connect({ servers: cluster.url });
const N = 12000;
const kv = await nc.jetstream().views.kv("plain", { replicas: 1 });
const s0 = await openJetStream(nc, 1, { opTimeoutMs: 60000 });
await s0.users.addFirstAdmin({ key: "root" });
await fill(nc, s0, N);
async function inFlight(w: number, n: number, f: (i: number) => Promise<unknown>) { let i = 0; await Promise.all(Array.from({ length: w }, async () => { while (i < n) await f(i++); })); }
const cold = await openJetStream(nc, 1, { opTimeoutMs: 60000 });

let at = 0;
import { Session } from "node:inspector/promises";
import { writeFileSync } from "node:fs";
const session = new Session(); session.connect();
await session.post("HeapProfiler.enable"); await session.post("HeapProfiler.startSampling", { samplingInterval: 8192, includeObjectsCollectedByMajorGC: true, includeObjectsCollectedByMinorGC: true } as any);
const c = process.cpuUsage();
await inFlight(1024, 10000, (i) => cold.isAuthorized(keyOf(i)));
const d = process.cpuUsage(c);
console.log(((d.user + d.system) / 10000).toFixed(0) + " µs CPU");
const { profile } = await session.post("HeapProfiler.stopSampling");
writeFileSync("/tmp/cold.heap", JSON.stringify(profile));
await s0.close(); await cold.close(); await nc.close();
