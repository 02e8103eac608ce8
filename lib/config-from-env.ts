/** A config out of environment variables, so that a container swaps backends without a file. */
import { invalid } from "./arguments.js";
import { backends } from "./backends.js";
import type { Sections } from "./backends.js";
import type { StoreConfig } from "./config.js";
import { isStoreError } from "./errors.js";

const PREFIX = "UNIBUS_MEMBERSHIP_";

/** `list`: parts with commas between them. */
type Kind = "text" | "number" | "flag" | "list";

/** Of what kind a variable is, and which field of the config it sets. */
type Variable = readonly [kind: Kind, path: string];

const VARIABLES: Readonly<Record<string, Variable>> = {
  DECENTRALIZED: ["flag", "decentralized"],
  SQLITE_PATH: ["text", "sqlite.path"],
  SQLITE_OP_TIMEOUT_MS: ["number", "sqlite.opTimeoutMs"],
  JETSTREAM_OP_TIMEOUT_MS: ["number", "jetstream.opTimeoutMs"],
  JETSTREAM_PREFIX: ["text", "jetstream.prefix"],
  JETSTREAM_REPLICAS: ["number", "jetstream.replicas"],
  JETSTREAM_CACHE_BYTES: ["number", "jetstream.cacheBytes"],
  NATS_SERVERS: ["list", "jetstream.connect.servers"],
  NATS_NAME: ["text", "jetstream.connect.name"],
  NATS_USER: ["text", "jetstream.connect.user"],
  NATS_PASS: ["text", "jetstream.connect.pass"],
  NATS_TOKEN: ["text", "jetstream.connect.token"],
  NATS_CREDS_FILE: ["text", "jetstream.connect.credsFile"],
  NATS_CREDS: ["text", "jetstream.connect.creds"],
  NATS_NKEY_SEED: ["text", "jetstream.connect.nkeySeed"],
  NATS_INBOX_PREFIX: ["text", "jetstream.connect.inboxPrefix"],
  NATS_TIMEOUT_MS: ["number", "jetstream.connect.timeout"],
  NATS_TLS_CA_FILE: ["text", "jetstream.connect.tls.caFile"],
  NATS_TLS_CERT_FILE: ["text", "jetstream.connect.tls.certFile"],
  NATS_TLS_KEY_FILE: ["text", "jetstream.connect.tls.keyFile"],
  NATS_TLS_HANDSHAKE_FIRST: ["flag", "jetstream.connect.tls.handshakeFirst"],
};

const FLAGS: Readonly<Record<string, boolean>> = { true: true, "1": true, false: false, "0": false };

function parsed(text: string, kind: Kind, name: string): unknown {
  switch (kind) {
    case "text":
      return text;
    case "number":
      if (!/^-?\d{1,15}$/.test(text)) throw invalid(name, "a whole number");
      return Number(text);
    case "flag": {
      const flag = Object.hasOwn(FLAGS, text) ? FLAGS[text] : undefined;
      if (flag === undefined) throw invalid(name, "true, false, 1 or 0");
      return flag;
    }
    case "list":
      return text.split(",").map((part) => part.trim());
  }
}

interface Tree {
  [name: string]: unknown;
}

function put(tree: Tree, path: string, value: unknown): void {
  const names = path.split(".");
  const last = names.pop();
  let at = tree;
  for (const name of names) at = (at[name] ??= {}) as Tree;
  if (last !== undefined) at[last] = value;
}

/** The variable that set a field which a backend refuses. */
function nameOf(argument: string | undefined): string | undefined {
  const found = Object.entries(VARIABLES).find(([, [, path]]) => argument === `config.${path}`);
  return found === undefined ? undefined : `env.${PREFIX}${found[0]}`;
}

/** Opens nothing. What is wrong shows here, by the name under which it was given. */
function check(config: Tree): void {
  for (const name of Object.keys(backends) as (keyof Sections)[]) {
    if (config[name] === undefined) continue;
    try {
      backends[name](config[name], `config.${name}`);
    } catch (error) {
      const variable = isStoreError(error) ? nameOf(error.argument) : undefined;
      if (variable === undefined || !isStoreError(error)) throw error;
      throw invalid(variable, error.message.replace(/^.*?: expected /, ""));
    }
  }
}

/**
 * A {@link StoreConfig} out of environment variables, for {@link openStore}. Reads nothing but what it is given.
 *
 * | variable, after `UNIBUS_MEMBERSHIP_` | field of the config |
 * |---|---|
 * | `DECENTRALIZED` (`true`, `false`, `1`, `0`) | `decentralized` |
 * | `SQLITE_PATH`, `SQLITE_OP_TIMEOUT_MS` | `sqlite.path`, `.opTimeoutMs` |
 * | `JETSTREAM_OP_TIMEOUT_MS`, `JETSTREAM_PREFIX` | `jetstream.opTimeoutMs`, `.prefix` |
 * | `JETSTREAM_REPLICAS`, `JETSTREAM_CACHE_BYTES` | `jetstream.replicas`, `.cacheBytes` |
 * | `NATS_SERVERS` (with commas), `NATS_NAME` | `jetstream.connect.servers` and so on |
 * | `NATS_USER`, `NATS_PASS`, `NATS_TOKEN` | the same |
 * | `NATS_CREDS_FILE`, `NATS_CREDS`, `NATS_NKEY_SEED` | the same |
 * | `NATS_INBOX_PREFIX`, `NATS_TIMEOUT_MS` | the same |
 * | `NATS_TLS_CA_FILE`, `NATS_TLS_CERT_FILE`, `NATS_TLS_KEY_FILE` | `jetstream.connect.tls.caFile` and so on |
 * | `NATS_TLS_HANDSHAKE_FIRST` | the same |
 *
 * A section is there if one of its variables is. An empty variable counts as absent. Throws `INVALID_ARGUMENT`, with
 * the variable's name as `argument` (`env.UNIBUS_MEMBERSHIP_JETSTREAM_REPLICAS`) and without its value, for one that
 * begins with `UNIBUS_MEMBERSHIP_` and is none of these, and for a value that {@link openStore} would refuse.
 *
 * @example
 * const store = await openStore(storeConfigFromEnv(process.env));
 */
export function storeConfigFromEnv(env: Readonly<Record<string, string | undefined>>): StoreConfig {
  if (typeof env !== "object" || (env as unknown) === null) throw invalid("env", "an object");
  const config: Tree = {};
  for (const [name, value] of Object.entries(env)) {
    if (!name.startsWith(PREFIX) || value === undefined || value === "") continue;
    const short = name.slice(PREFIX.length);
    const variable = Object.hasOwn(VARIABLES, short) ? VARIABLES[short] : undefined;
    if (variable === undefined) throw invalid(`env.${name}`, "a variable of this library");
    if (typeof value !== "string") throw invalid(`env.${name}`, "a string");
    const [kind, path] = variable;
    put(config, path, parsed(value, kind, `env.${name}`));
  }
  // A server of its own is the client's default, so that the section needs no more than one variable.
  if (config["jetstream"] !== undefined) (config["jetstream"] as Tree)["connect"] ??= {};
  check(config);
  return config;
}
