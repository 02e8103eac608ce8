/** JetStream's section of a config: a connection, or how to make one. */
import type * as nats from "nats";
import * as args from "../arguments.js";
import type { Call } from "../call.js";
import { StoreError, isTimeout, isUnavailable } from "../errors.js";
import type { Replicas, Store } from "../store.js";
import type { NatsConnection } from "./nats-connection.js";
import {
  JETSTREAM_OPTIONS,
  connectionInput,
  isThere,
  jetStreamInput,
  openOn,
  openingCall,
  replicasInput,
} from "./open.js";
import type { JetStreamOptions } from "./open.js";
import { RetryLoop } from "./retry-loop.js";

/** How to connect, as plain data: the names and meanings are those of the NATS client's own options. */
export interface NatsConnectOptions {
  /** `host:port`, or several. Default `127.0.0.1:4222`. */
  servers?: string | string[];
  name?: string;
  user?: string;
  pass?: string;
  token?: string;
  /**
   * The path of a file with a user JWT and an nkey seed. It is read again at each reconnect, so that it can be renewed.
   */
  credsFile?: string;
  /** The text of such a file, as a secret store gives it. */
  creds?: string;
  /** The seed of a user's nkey, `SU...`. */
  nkeySeed?: string;
  /** One of your own, as the NATS client takes it: asked at each connect and reconnect, with the server's nonce. */
  authenticator?: (nonce?: string) => unknown;
  /** `{}` asks for TLS with the system's authorities. */
  tls?: {
    ca?: string;
    caFile?: string;
    cert?: string;
    certFile?: string;
    key?: string;
    keyFile?: string;
    handshakeFirst?: boolean;
  };
  inboxPrefix?: string;
  /** Milliseconds. */
  timeout?: number;
  reconnect?: boolean;
  /** `-1`: without end, which is the default here. */
  maxReconnectAttempts?: number;
  /** Milliseconds. */
  reconnectTimeWait?: number;
  /** Milliseconds. */
  pingInterval?: number;
  maxPingOut?: number;
  noRandomize?: boolean;
  ignoreClusterUpdates?: boolean;
  waitOnFirstConnect?: boolean;
}

export type JetStreamSection = JetStreamOptions & { replicas?: Replicas } & (
    { connection: NatsConnection } | { connect: NatsConnectOptions }
  );

type Kind = "text" | "count" | "flag" | "servers" | "tls" | "creds" | "seed" | "function";

const CONNECT: Readonly<Record<keyof NatsConnectOptions, Kind>> = {
  servers: "servers",
  name: "text",
  user: "text",
  pass: "text",
  token: "text",
  credsFile: "text",
  creds: "creds",
  nkeySeed: "seed",
  authenticator: "function",
  tls: "tls",
  inboxPrefix: "text",
  timeout: "count",
  reconnect: "flag",
  maxReconnectAttempts: "count",
  reconnectTimeWait: "count",
  pingInterval: "count",
  maxPingOut: "count",
  noRandomize: "flag",
  ignoreClusterUpdates: "flag",
  waitOnFirstConnect: "flag",
};

/** Ways to log in, of which one is meant. */
const LOGINS = ["credsFile", "creds", "nkeySeed", "authenticator"] as const;

const USER_SEED = /^SU[A-Z2-7]{56}$/;
const CREDS_PARTS = ["BEGIN NATS USER JWT", "BEGIN USER NKEY SEED"];

const TLS: Readonly<Record<keyof NonNullable<NatsConnectOptions["tls"]>, Kind>> = {
  ca: "text",
  caFile: "text",
  cert: "text",
  certFile: "text",
  key: "text",
  keyFile: "text",
  handshakeFirst: "flag",
};

/** The value as it was checked: an object could have another one in its place later. */
function checkedKind(value: unknown, kind: Kind, path: string): unknown {
  switch (kind) {
    case "text":
      if (typeof value !== "string") throw args.invalid(path, "a string");
      return value;
    case "count":
      if (typeof value !== "number" || !Number.isInteger(value)) throw args.invalid(path, "an integer");
      return value;
    case "flag":
      if (typeof value !== "boolean") throw args.invalid(path, "a boolean");
      return value;
    case "servers": {
      if (typeof value === "string") return value;
      const servers = listOf(value);
      if (servers === undefined || servers.length === 0 || servers.some((one) => typeof one !== "string")) {
        throw args.invalid(path, "a string, or an array of strings");
      }
      return servers;
    }
    case "tls":
      return checkedTable(value, TLS, path);
    case "creds":
      if (typeof value !== "string" || !CREDS_PARTS.every((part) => value.includes(part)))
        throw args.invalid(path, "a user JWT and an nkey seed, as a creds file has them");
      return value;
    case "seed":
      if (typeof value !== "string" || !USER_SEED.test(value)) throw args.invalid(path, "the seed of a user's nkey");
      return value;
    case "function":
      if (typeof value !== "function") throw args.invalid(path, "a function");
      return value;
  }
}

/** A copy. `undefined`: it is no array, or throws when it is read. */
function listOf(value: unknown): unknown[] | undefined {
  try {
    return Array.isArray(value) ? [...(value as unknown[])] : undefined;
  } catch {
    return undefined;
  }
}

/** Only the fields that are there. To the NATS client `undefined` may mean something else than absence. */
function checkedTable(
  value: unknown,
  kinds: Readonly<Record<string, Kind>>,
  path: string,
): Readonly<Record<string, unknown>> {
  const found = args.fields(value, path, Object.keys(kinds));
  return Object.fromEntries(
    Object.entries(kinds).flatMap(([name, kind]) =>
      found[name] === undefined ? [] : [[name, checkedKind(found[name], kind, `${path}.${name}`)]],
    ),
  );
}

const JETSTREAM_NAMES = [...JETSTREAM_OPTIONS, "replicas", "connection", "connect"];

type Section = Readonly<Record<string, unknown>>;

type WhenClosed = () => Promise<void>;

/** Uses the section's connection. One that is made from `connect` is closed if `use` rejects, or by `whenClosed`. */
async function connected<T>(
  section: Section,
  path: string,
  call: Call,
  use: (nc: NatsConnection, whenClosed?: WhenClosed) => Promise<T>,
): Promise<T> {
  const { connection, connect } = section;
  if (connection !== undefined && connect !== undefined)
    throw args.invalid(`${path}.connect`, "either connection or connect, not both");
  if (connection !== undefined) return use(connectionInput(connection, `${path}.connection`));
  if (connect === undefined) throw args.invalid(`${path}.connect`, "connection or connect");
  const connecting = connectTo(connect as Section, call);
  let nc: Awaited<typeof connecting>;
  try {
    nc = await call.run(() => connecting);
  } catch (error) {
    // A connection that comes too late belongs to nobody.
    connecting.then((late) => late.close()).catch(() => undefined);
    throw error;
  }
  try {
    return await use(nc, () => nc.close());
  } catch (error) {
    await nc.close();
    throw error;
  }
}

async function openConfigured(section: Section, path: string): Promise<Store> {
  const input = jetStreamInput(section, path);
  const replicas = replicasInput(section["replicas"], `${path}.replicas`);
  const call = openingCall(input);
  return connected(section, path, call, (nc, whenClosed) => openOn(nc, replicas, input, call, whenClosed));
}

async function findConfigured(section: Section, path: string): Promise<Store | undefined> {
  const input = jetStreamInput(section, path);
  const call = openingCall(input);
  return connected(section, path, call, async (nc, whenClosed) => {
    if (await isThere(nc, input.prefix, call)) {
      const quiet = { ...input, reopenMoved: true, onOpening: undefined, onRollout: undefined };
      return openOn(nc, undefined, quiet, call, whenClosed);
    }
    await whenClosed?.();
    return undefined;
  });
}

type Nats = typeof nats;
type Authenticator = ReturnType<Nats["credsAuthenticator"]>;

/** Connects within the call's time: what the client would go on trying for ever is tried here, attempt by attempt. */
async function connectTo(options: Section, call: Call) {
  const client: Nats = await import("nats").catch((error: unknown) => {
    const reason = error instanceof Error ? error.message : String(error);
    throw new StoreError("UNAVAILABLE", `The NATS client cannot be loaded (${reason})`, { cause: error });
  });
  const { credsFile, creds, nkeySeed, authenticator, waitOnFirstConnect, timeout, ...plain } = options;
  const login = await loginOf(client, { credsFile, creds, nkeySeed, authenticator });
  for (const retries = new RetryLoop(call); ;) {
    await retries.next();
    const left = Math.ceil(call.remaining());
    try {
      return await client.connect({
        maxReconnectAttempts: -1,
        ...plain,
        timeout: typeof timeout === "number" ? Math.min(timeout, left) : left,
        ...(login === undefined ? {} : { authenticator: login }),
      });
    } catch (error) {
      if (waitOnFirstConnect === true) continue;
      // The cause stays here: what a client says of a failed login can hold what it logged in with.
      throw new StoreError(
        "UNAVAILABLE",
        `Cannot connect to NATS: ${error instanceof Error ? error.message : String(error)}`,
        { details: { servers: serversOf(plain["servers"]) } },
      );
    }
  }
}

/** The servers that were tried, without the passwords that addresses can hold. */
function serversOf(servers: unknown): readonly string[] {
  const list = Array.isArray(servers) ? servers : [servers ?? "127.0.0.1:4222"];
  return list.map((server) => String(server).replace(/^(.*:\/\/)?.*@/s, "$1"));
}

async function loginOf(
  client: Nats,
  { credsFile, creds, nkeySeed, authenticator }: Readonly<Record<(typeof LOGINS)[number], unknown>>,
): Promise<Authenticator | undefined> {
  const encoder = new TextEncoder();
  if (typeof credsFile === "string") return credsOfFile(client, credsFile);
  if (typeof creds === "string") return client.credsAuthenticator(encoder.encode(creds));
  if (typeof nkeySeed === "string") return client.nkeyAuthenticator(encoder.encode(nkeySeed));
  return authenticator as Authenticator | undefined;
}

/**
 * Reads the file at each reconnect. What cannot be read, or is half written, does not take the place of what was read
 * before.
 */
async function credsOfFile(client: Nats, path: string): Promise<Authenticator> {
  const fs = await import("node:fs");
  let login: Authenticator;
  try {
    login = client.credsAuthenticator(await fs.promises.readFile(path));
    // A file without creds fails here, where somebody hears of it.
    login("");
  } catch (error) {
    const { code } = error as { code?: unknown };
    const why = typeof code === "string" && code.startsWith("E") ? code : "it has no creds";
    throw new StoreError("UNAVAILABLE", `The creds file cannot be used: ${why}`, { details: { credsFile: path } });
  }
  return (nonce) => {
    try {
      const renewed = client.credsAuthenticator(fs.readFileSync(path));
      const answer = renewed(nonce);
      login = renewed;
      return answer;
    } catch {
      return login(nonce);
    }
  };
}

/** Of several ways to log in nobody can tell which one is meant. */
function checkOneLogin(connect: Section, path: string): void {
  const [, second] = LOGINS.filter((name) => connect[name] !== undefined);
  if (second !== undefined) throw args.invalid(`${path}.${second}`, `one of ${LOGINS.join(", ")}`);
}

/** Checks the section, and answers how to open what it names. */
export function jetStreamSection(value: unknown, path: string) {
  let section: Section = args.fields(value, path, JETSTREAM_NAMES);
  jetStreamInput(section, path);
  replicasInput(section["replicas"], `${path}.replicas`);
  if (section["connect"] !== undefined) {
    const connect = checkedTable(section["connect"], CONNECT, `${path}.connect`);
    checkOneLogin(connect, `${path}.connect`);
    section = { ...section, connect };
  }
  const find = async (): Promise<Store | "out of reach" | undefined> => {
    try {
      return await findConfigured(section, path);
    } catch (error) {
      if (isUnavailable(error) || isTimeout(error)) return "out of reach";
      throw error;
    }
  };
  return { open: () => openConfigured(section, path), find };
}
