// A program that migrates, and is killed in the middle: from a file to a server, or back. It says each phase as it
// begins.

import { migrate, openJetStream, openSqlite } from "unibus-membership";
import { natsClients } from "./nats-clients.js";

const [direction = "", path = "", url = "", prefix = ""] = process.argv.slice(2);
const [client] = natsClients;
if (client === undefined) throw new Error("no client");
const file = await openSqlite(path);
const cluster = await openJetStream(await client.connect(url), 1, { prefix });
const [from, to] = direction === "there" ? [file, cluster] : [cluster, file];
let said = "";
await migrate(from, to, {
  cutOver: true,
  onProgress: ({ phase }) => {
    if (phase !== said) process.stdout.write(`${phase}\n`);
    said = phase;
  },
});
process.stdout.write("done\n");
process.exit(0);
