// Starts a server and a cluster, tells of them, and never ends them. With "exit" it leaves; else it waits to be killed.

import { startNatsCluster, startNatsServer } from "unibus-membership/testing";

const [server, cluster] = await Promise.all([startNatsServer(), startNatsCluster({ routes: "proxied" })]);
console.log(JSON.stringify([server, ...cluster.nodes].map(({ pid, directory }) => ({ pid, directory }))));

// Otherwise nothing keeps it: a forgotten server must not.
if (process.argv[2] !== "exit") setInterval(() => undefined, 60_000);
