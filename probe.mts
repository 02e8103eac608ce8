import { connect, createInbox, headers as H } from "nats";
import { startNatsCluster } from "./dist/testing.js";
await using cluster = await startNatsCluster();
const nc = await connect({ servers: cluster.urls[0] });
const kv = await nc.jetstream().views.kv("plain", { replicas: 3 });
const N = 2000;
for (let i = 0; i < N; i++) await kv.put("k" + i, "x".repeat(150));
const nb = await connect({ servers: cluster.urls[0], noAsyncTraces: true } as any);
const E = new TextEncoder();
async function inFlight(w: number, n: number, f: (i: number) => Promise<unknown>) { let i = 0; await Promise.all(Array.from({ length: w }, async () => { while (i < n) await f(i++); })); }
const inbox = createInbox();
const waiting = new Map<string, (m: any) => void>();
let next = 0;
nc.subscribe(inbox + ".*", { callback: (e, m) => { const id = m.subject.slice(inbox.length + 1); const w = waiting.get(id); waiting.delete(id); w?.(m); } });
const mux = (s: string, p: Uint8Array | string, hd?: any) => new Promise<any>((r) => { const id = String(next++); waiting.set(id, r); nc.publish(s, p, { reply: inbox + "." + id, headers: hd }); });
const subj = (i: number) => `$KV.plain.k${i % N}`;
const kinds: [string, (i: number) => Promise<any>][] = [
  ["kv.get", (i) => kv.get("k" + (i % N))],
  ["request DIRECT.GET last_by_subj", (i) => nc.request("$JS.API.DIRECT.GET.KV_plain", JSON.stringify({ last_by_subj: subj(i) }))],
  ["request DIRECT.GET.subject", (i) => nc.request("$JS.API.DIRECT.GET.KV_plain." + subj(i), "")],
  ["request last_by_subj, limit 0", (i) => { const l = Error.stackTraceLimit; Error.stackTraceLimit = 0; try { return nc.request("$JS.API.DIRECT.GET.KV_plain", JSON.stringify({ last_by_subj: subj(i) })); } finally { Error.stackTraceLimit = l; } }],
  ["request last_by_subj, no traces", (i) => (nb.request("$JS.API.DIRECT.GET.KV_plain", JSON.stringify({ last_by_subj: subj(i) })))],
  ["mux DIRECT.GET last_by_subj", (i) => mux("$JS.API.DIRECT.GET.KV_plain", JSON.stringify({ last_by_subj: subj(i) }))],
  ["mux DIRECT.GET.subject", (i) => mux("$JS.API.DIRECT.GET.KV_plain." + subj(i), "")],
  ["request publish with headers", (i) => { const h = H(); h.set("Nats-Expected-Last-Subject-Sequence", "5"); h.set("Nats-Expected-Last-Subject-Sequence-Subject", "$KV.plain.zz"); return nc.request("$KV.plain.b" + (i % 1024), "", { headers: h, timeout: 5000 }); }],
  ["mux publish with headers", (i) => { const h = H(); h.set("Nats-Expected-Last-Subject-Sequence", "0"); h.set("Nats-Expected-Last-Subject-Sequence-Subject", "$KV.plain.zz"); return mux("$KV.plain.b" + (i % 1024), "", h); }],
];
for (const w of [1024, 64]) for (let round = 0; round < 3; round++) for (const [name, f] of kinds) {
  const c = process.cpuUsage(), t = performance.now(); const n = 10000;
  await inFlight(w, n, f);
  const d = process.cpuUsage(c), ms = performance.now() - t;
  if (round > 0) console.log(w, name.padEnd(34), Math.round(n / ms * 1000) + "/s", ((d.user + d.system) / n).toFixed(0) + " µs CPU");
}
await nb.close(); await nc.close();
