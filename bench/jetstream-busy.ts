// Three stores on the same buckets, in a process of their own: `fast` check all the time, 64 at once each, `slow` 20
// times a second each, one at a time. Runs until its standard input ends.

import { connect } from "nats";
import { openJetStream } from "../dist/index.js";
import { keyOf, memberOf, roomOf } from "./jetstream-fill.js";
import { opTimeoutMs } from "./support.js";

const [how, count, ...servers] = process.argv.slice(2);
const KEYS = Math.min(Number(count), 1000);
const STORES = 3;
let ended = false;
process.stdin
  .on("end", () => {
    ended = true;
  })
  .resume();

const clients = await Promise.all(
  Array.from({ length: STORES }, (_, i) => connect({ servers: servers[i % servers.length] ?? [] })),
);
const stores = await Promise.all(clients.map((client) => openJetStream(client, 3, { opTimeoutMs })));
process.stdout.write("ready\n");
await Promise.all(
  stores.flatMap((store, i) =>
    Array.from({ length: how === "fast" ? 64 : 1 }, async (_, lane) => {
      for (let n = lane * 7 + i; !ended; n++) {
        const key = n % KEYS;
        const allowed =
          n % 4 === 0 ? await store.isMember(roomOf(key), memberOf(key)) : await store.isAuthorized(keyOf(key));
        if (!allowed) throw new Error(`denied: ${String(key)}`);
        if (how !== "fast") await new Promise((resolve) => setTimeout(resolve, 50));
      }
    }),
  ),
);
await Promise.all(stores.map((store) => store.close()));
await Promise.all(clients.map((client) => client.close()));
