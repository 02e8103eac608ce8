import * as args from "./arguments.js";
import type { Call } from "./call.js";
import { StoreError } from "./errors.js";
import type { NatsConnection } from "./jetstream/nats-connection.js";
import { Retries } from "./jetstream/retries.js";
import {
  JETSTREAM_OPTIONS,
  connectionInput,
  jetStreamInput,
  openOn,
  openingCall,
  replicasInput,
} from "./jetstream/open.js";
import type { JetStreamOptions } from "./jetstream/open.js";
import { SQLITE_OPTIONS, checkedPath, openFile, sqliteInput } from "./sqlite/open.js";
import type { SqliteInput, SqliteOptions } from "./sqlite/open.js";
import type { Replicas, Store } from "./store.js";

/** How to connect, as plain data: the names and meanings are those of the NATS client's own options. */
export interface NatsConnectOptions {
  /** `host:port`, or several. Default `127.0.0.1:4222`. */
  servers?: string | string[];
  name?: string;
  user?: string;
  pass?: string;
  token?: string;
  /** The path of a file with a user JWT and an nkey seed. */
  credsFile?: string;
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

/** Where an app keeps its store: plain data, so that a config file swaps backends. */
export interface StoreConfig {
  /** On: JetStream. Off, the default: SQLite. Both sections may be there. */
  decentralized?: boolean;
  sqlite?: { path: string } & SqliteOptions;
  jetstream?: JetStreamOptions & { replicas?: Replicas } & (
      { connection: NatsConnection } | { connect: NatsConnectOptions }
    );
}

type Kind = "text" | "count" | "flag" | "servers" | "tls";

const CONNECT: Readonly<Record<keyof NatsConnectOptions, Kind>> = {
  servers: "servers",
  name: "text",
  user: "text",
  pass: "text",
  token: "text",
  credsFile: "text",
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
  }
}

/** A copy, or nothing of what is no array, or throws where it is read. */
function listOf(value: unknown): unknown[] | undefined {
  try {
    return Array.isArray(value) ? [...(value as unknown[])] : undefined;
  } catch {
    return undefined;
  }
}

/** Those fields that are there: to somebody else, `undefined` may mean more than nothing. */
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

async function openConfigured(section: Section): Promise<Store> {
  const path = "config.jetstream";
  const input = jetStreamInput(section, path);
  const replicas = replicasInput(section["replicas"], `${path}.replicas`);
  const { connection, connect } = section;
  if (connection !== undefined && connect !== undefined)
    throw args.invalid(`${path}.connect`, "either connection or connect, not both");
  if (connection !== undefined) return openOn(connectionInput(connection, `${path}.connection`), replicas, input);
  if (connect === undefined) throw args.invalid(`${path}.connect`, "connection or connect");
  const options = connect as Section;
  const call = openingCall(input);
  const connecting = connectTo(options, call);
  let nc: Awaited<typeof connecting>;
  try {
    nc = await call.run(() => connecting);
  } catch (error) {
    // A connection that comes too late belongs to nobody.
    connecting.then((late) => late.close()).catch(() => undefined);
    throw error;
  }
  try {
    return await openOn(nc, replicas, input, call, () => nc.close());
  } catch (error) {
    await nc.close();
    throw error;
  }
}

/** Connects within the call's time: what the client would go on trying for ever is tried here, attempt by attempt. */
async function connectTo(options: Readonly<Record<string, unknown>>, call: Call) {
  const nats = await import("nats").catch((error: unknown) => {
    const reason = error instanceof Error ? error.message : String(error);
    throw new StoreError("UNAVAILABLE", `The NATS client cannot be loaded (${reason})`, { cause: error });
  });
  const { credsFile, waitOnFirstConnect, timeout, ...plain } = options;
  for (const retries = new Retries(call); ;) {
    await retries.turn();
    const left = Math.ceil(call.remaining());
    try {
      return await nats.connect({
        maxReconnectAttempts: -1,
        ...plain,
        timeout: typeof timeout === "number" ? Math.min(timeout, left) : left,
        ...(typeof credsFile === "string" ? { authenticator: nats.credsAuthenticator(await readFile(credsFile)) } : {}),
      });
    } catch (error) {
      if (waitOnFirstConnect === true) continue;
      // The cause stays here: what a client says of a failed login can hold what it logged in with.
      throw new StoreError(
        "UNAVAILABLE",
        `Cannot connect to NATS: ${error instanceof Error ? error.message : String(error)}`,
      );
    }
  }
}

async function readFile(path: string): Promise<Uint8Array> {
  const fs = await import("node:fs/promises");
  return fs.readFile(path);
}

/**
 * Opens the backend that a plain config object names: SQLite while `decentralized` is off, which is the default.
 *
 * A connection that is given stays the caller's; one that is made from `connect` is closed with the store. Only the
 * section that is used is opened, but both are checked, so that a mistake shows before the flag is turned.
 *
 * Rejects with `INVALID_ARGUMENT` and the key's path, as `config.jetstream.replicas`, and with what the backend's own
 * opening rejects with.
 *
 * @example
 * const store = await openStore({
 *   decentralized: process.env.DECENTRALIZED === "1",
 *   sqlite: { path: "membership.db" },
 *   jetstream: { connect: { servers: ["n1:4222", "n2:4222", "n3:4222"] }, replicas: 3 },
 * });
 */
export async function openStore(config: StoreConfig): Promise<Store> {
  const found = args.fields(config, "config", ["decentralized", "sqlite", "jetstream"]);
  const { decentralized = false } = found;
  if (typeof decentralized !== "boolean") throw args.invalid("config.decentralized", "a boolean");
  // Each is read once: what was checked is what is used.
  const sqlite = found["sqlite"] === undefined ? undefined : sqliteSection(found["sqlite"]);
  const jetstream = found["jetstream"] === undefined ? undefined : jetStreamSection(found["jetstream"]);
  if (decentralized) {
    if (jetstream === undefined)
      throw args.invalid("config.jetstream", "a section, because config.decentralized is true");
    return openConfigured(jetstream);
  }
  if (sqlite === undefined) throw args.invalid("config.sqlite", "a section, because config.decentralized is off");
  return openFile(sqlite.path, sqlite.input);
}

function sqliteSection(value: unknown): { path: string; input: SqliteInput } {
  const found = args.fields(value, "config.sqlite", ["path", ...SQLITE_OPTIONS]);
  return { path: checkedPath(found["path"], "config.sqlite.path"), input: sqliteInput(found, "config.sqlite") };
}

function jetStreamSection(value: unknown): Section {
  const section = args.fields(value, "config.jetstream", JETSTREAM_NAMES);
  jetStreamInput(section, "config.jetstream");
  replicasInput(section["replicas"], "config.jetstream.replicas");
  if (section["connect"] === undefined) return section;
  return { ...section, connect: checkedTable(section["connect"], CONNECT, "config.jetstream.connect") };
}
