/**
 * The callout as a process. Two or more of them share the logins.
 *
 * - `CALLOUT_SERVERS`: the nats-servers, `nats://n1:4222,nats://n2:4222,nats://n3:4222`
 * - `CALLOUT_KEYS`: the folder that setup.ts has made, with `issuer.seed`, `service.seed` and `system.seed`
 * - `CALLOUT_STALENESS_MS` (1000): how long after a revocation somebody may be in
 * - `CALLOUT_LOGIN_SECONDS` (300): the same where the kick is lost, or this process. Everybody logs in anew so often
 */
import { connect, nkeyAuthenticator, type NatsConnection } from "@nats-io/transport-node";
import { isTimeout, isUnavailable, openJetStream, type Store } from "unibus-membership";
import { AuthCallout } from "./callout.js";
import { Issuer } from "./nkey-jwt.js";
import { APP_ACCOUNT, inboxOf, readKey } from "./setup.js";

function need(name: string): string {
  const value = process.env[name];
  if (value === undefined || value === "") throw new Error(`${name} is not set`);
  return value;
}

/** With a number that sessions do not take everybody would be refused, one by one. */
function number(name: string, otherwise: number, least: number, most: number): number {
  const value = Number(process.env[name] ?? otherwise);
  if (!Number.isInteger(value) || value < least || value > most)
    throw new Error(`${name} is not a whole number from ${least} to ${most}`);
  return value;
}

const folder = need("CALLOUT_KEYS");
const log = (event: object): void => console.log(JSON.stringify(event));

async function connectAs(role: "service" | "system"): Promise<NatsConnection> {
  const { seed } = await readKey(folder, role);
  return await connect({
    name: `auth-callout ${role}`,
    servers: need("CALLOUT_SERVERS").split(","),
    authenticator: nkeyAuthenticator(Buffer.from(seed)),
    inboxPrefix: inboxOf(role),
    // It is what others come back by: it comes back first, and never gives up.
    waitOnFirstConnect: true,
    maxReconnectAttempts: -1,
    reconnectTimeWait: 100,
    ignoreAuthErrorAbort: true,
  });
}

/** The buckets have to be there: whoever administers the store makes them, and this user may not. So it waits. */
async function openStore(connection: NatsConnection): Promise<Store> {
  for (;;) {
    try {
      return await openJetStream(connection);
    } catch (error) {
      if (!isTimeout(error) && !isUnavailable(error)) throw error;
      log({ event: "failed", what: "the opening", error: error.message });
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }
}

const { seed, publicKey } = await readKey(folder, "issuer");
const [calls, system] = await Promise.all([connectAs("service"), connectAs("system")]);
const store = await openStore(calls);
const callout = new AuthCallout({
  store,
  calls,
  system,
  issuer: new Issuer(seed, publicKey),
  account: APP_ACCOUNT,
  maxStalenessMs: number("CALLOUT_STALENESS_MS", 1000, 100, 60_000),
  loginSeconds: number("CALLOUT_LOGIN_SECONDS", 300, 1, 86_400),
  log,
});
await Promise.all([calls.flush(), system.flush()]);
log({ event: "ready" });

async function stop(): Promise<void> {
  await callout.close();
  await store.close();
  await Promise.all([calls.close(), system.close()]);
}
for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => void stop());
