// A program that imports, and is killed in the middle: `path` or the URL of a server, and the file of an export. It
// takes the lines as slowly as it has to, so that there is a middle, and says after how many it is.

import { createReadStream } from "node:fs";
import { createInterface } from "node:readline";
import { importStore, openJetStream, openSqlite } from "unibus-membership";
import { natsClients } from "./nats-clients.js";

const [where = "", file = "", prefix = ""] = process.argv.slice(2);
const PORTION = 1000;

async function* slowly(): AsyncIterable<string> {
  let lines = 0;
  for await (const line of createInterface({ input: createReadStream(file) })) {
    yield line;
    if (++lines % PORTION !== 1) continue;
    process.stdout.write(`${String(lines)}\n`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

async function main(): Promise<void> {
  if (!where.startsWith("nats://")) {
    await importStore(slowly(), await openSqlite(where));
    return;
  }
  const [client] = natsClients;
  if (client === undefined) throw new Error("no client");
  await importStore(slowly(), await openJetStream(await client.connect(where), 1, { prefix }));
}

await main();
process.stdout.write("done\n");
process.exit(0);
