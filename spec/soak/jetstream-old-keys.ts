// What three puts of an old key take on one server that was idle, by the plain client: docs/protocol.md, Y1 and Y2. It
// only prints: what it takes is the server's, and of its version.

import { connect } from "nats";
import { startNatsServer } from "unibus-membership/testing";
import { streamInfo } from "../jetstream/support/streams.js";
import { eventually, pause } from "../support/wait.js";

const BUCKET = "old-keys";
/** So that the default number of records fills some forty blocks of the file store. */
const VALUE = new Uint8Array(6000);
const AT_ONCE = 500;
/** The server forgets what is in a block after two minutes without use. */
const IDLE_MS = 140_000;
const KEYS = [1 / 5000, 1 / 4, 1 / 2, 3 / 4];

export async function run({ records, log }: { records: number; log: (line: string) => void }): Promise<void> {
  await using server = await startNatsServer();
  const connection = await connect({ servers: server.url });
  try {
    await connection.jetstream().views.kv(BUCKET, { history: 1 });
    const subjectOf = (n: number): string => `$KV.${BUCKET}.key-${n}`;
    const messages = async (): Promise<number> => (await streamInfo(connection, BUCKET)).state.messages;
    for (let n = 0; n < records; n++) {
      connection.publish(subjectOf(n), VALUE);
      if (n % AT_ONCE === 0) await messages();
    }
    await eventually("all keys are there", async () => (await messages()) === records);
    log(`${records} keys; nothing happens for ${IDLE_MS / 1000} s`);
    await pause(IDLE_MS);
    for (const part of KEYS) {
      const n = Math.floor(records * part);
      const took: string[] = [];
      for (const which of ["first", "second", "third"]) {
        const began = performance.now();
        await connection.request(subjectOf(n), VALUE, { timeout: 60_000 });
        took.push(`${which} ${(performance.now() - began).toFixed(1)} ms`);
      }
      log(`puts of key ${n}: ${took.join(", ")}`);
    }
  } finally {
    await connection.close();
  }
}
