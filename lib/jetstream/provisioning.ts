/** The five buckets: made where they are missing, and refused where their settings would break a promise. */
import type { Call } from "../call.js";
import { StoreError, isUnavailable } from "../errors.js";
import type { Replicas } from "../store.js";
import type { JetStreamClient } from "./client.js";
import { asObject, type Json } from "./json.js";
import { RetryLoop } from "./retry-loop.js";
import { raiseOf } from "./stream-settings.js";
import type { Raise } from "./stream-settings.js";
import type { BucketServers, ServerVersions } from "./versions.js";

/** Buckets whose records are never removed: a tombstone, and a revocation, is a record. Behind any prefix. */
const KEPT = ["rooms", "users"] as const;

/**
 * The version of what stands in the buckets. A bucket of a newer one is refused, and one of an older one is taken over.
 */
export const FORMAT = 2;
const OLDEST_FORMAT = 1;
/** In a stream's metadata: the format. */
export const FORMAT_METADATA = "unibus-membership";
/** In a stream's metadata: why it does not take every record. See settings-fence.ts. */
export const FENCE_METADATA = "unibus-membership.fence";

const formatOf = (config: Json): number => Number(asObject(config["metadata"])[FORMAT_METADATA]);

const STREAM_NOT_FOUND = 10059;
const STREAM_NAME_IN_USE = 10058;
const REPLICAS_NOT_SUPPORTED = 10074;
const NO_SUITABLE_PEERS = 10005;
const INSUFFICIENT_RESOURCES = 10023;
const JETSTREAM_NOT_ENABLED = 10076;
const JETSTREAM_NOT_ENABLED_FOR_ACCOUNT = 10039;

/** The settings of a stream that promises rest on. */
function settings(name: string): Json {
  return {
    name: `KV_${name}`,
    subjects: [`$KV.${name}.>`],
    retention: "limits",
    storage: "file",
    max_msgs_per_subject: 1,
    max_msgs: -1,
    max_bytes: -1,
    max_age: 0,
    max_msg_size: -1,
    max_consumers: -1,
    discard: "new",
    allow_direct: true,
    // Nobody deletes a single message. What is out of reach is purged, in the buckets that come to have such records.
    deny_delete: true,
    deny_purge: KEPT.some((kept) => name.endsWith(kept)),
    allow_rollup_hdrs: false,
  };
}

/** Settings that must be as they are made, each because a promise falls with it. */
const REQUIRED = [
  "subjects",
  "retention",
  "storage",
  "max_msgs_per_subject",
  "max_msgs",
  "max_bytes",
  "max_age",
  "max_msg_size",
  "allow_direct",
  "deny_delete",
  "deny_purge",
] as const;
/**
 * Settings that must not be there at all: messages would come from elsewhere, or go by, or be acknowledged before the
 * server has written them (`persist_mode`, which is left out unless it is `async`).
 */
const FORBIDDEN = ["mirror", "sources", "subject_transform", "republish", "sealed", "no_ack", "persist_mode"] as const;

function incompatible(bucket: string, setting: string, message: string): StoreError {
  return new StoreError("INCOMPATIBLE", message, { details: { bucket, setting } });
}

/** Why a stream cannot be one of our buckets, or `undefined` if it can. */
export function incompatibility(bucket: string, config: Json): StoreError | undefined {
  const stated = asObject(config["metadata"])[FORMAT_METADATA];
  if (stated === undefined) {
    return incompatible(
      bucket,
      "metadata",
      `The bucket ${bucket} is somebody else's: it has no "${FORMAT_METADATA}" in its metadata. Choose another prefix`,
    );
  }
  const format = formatOf(config);
  if (stated !== String(format) || !Number.isInteger(format) || format < OLDEST_FORMAT || format > FORMAT) {
    return incompatible(
      bucket,
      "metadata",
      `The bucket ${bucket} is of format ${JSON.stringify(stated)}; this version of the library knows ${String(OLDEST_FORMAT)} to ${String(FORMAT)}`,
    );
  }
  // These first: a mirror has no subjects either, and a sealed stream denies everything, but that is not what is wrong
  // with them.
  for (const name of FORBIDDEN) {
    const value = config[name];
    if (value !== undefined && value !== false && value !== null && !(Array.isArray(value) && value.length === 0)) {
      return incompatible(bucket, name, `The bucket ${bucket} has ${name}, which it must not have`);
    }
  }
  const wanted = settings(bucket);
  const isFenced = fenceIn(config) !== undefined;
  for (const name of REQUIRED) {
    // A fence changes these two, so that the stream refuses records.
    if (isFenced && (name === "max_msg_size" || name === "subjects")) continue;
    if (JSON.stringify(config[name]) !== JSON.stringify(wanted[name])) {
      return incompatible(
        bucket,
        name,
        `The bucket ${bucket} has ${name} ${JSON.stringify(config[name])}; it must be ${JSON.stringify(wanted[name])}`,
      );
    }
  }
  return undefined;
}

/** What a stream's settings say of the store that is moved. Whether it may be used says the state record. */
export function fenceIn(config: Json): string | undefined {
  const fence = asObject(config["metadata"])[FENCE_METADATA];
  return typeof fence === "string" ? fence : undefined;
}

export interface StreamState {
  readonly config: Json;
  readonly cluster: Json;
  readonly replicas: number;
  readonly format: number;
  /** The last raise by a store. Fewer replicas than it asked for are an operator's doing. */
  readonly raise: Raise | undefined;
  readonly servers: BucketServers;
  readonly messages: number;
  /** When the stream was made, as the server says it: of two streams of one name, one is younger. */
  readonly created: string;
}

/** The stream as its leader tells it, or `undefined` where there is none. Asks again while there is no leader. */
export async function streamState(
  client: JetStreamClient,
  bucket: string,
  call: Call,
): Promise<StreamState | undefined> {
  const reply = await ask(client, `STREAM.INFO.KV_${bucket}`, undefined, call);
  const error = asObject(reply["error"]);
  if (error["err_code"] === STREAM_NOT_FOUND) return undefined;
  if (reply["error"] !== undefined) throw refused(bucket, error);
  return state(reply);
}

function state(reply: Json): StreamState {
  const config = asObject(reply["config"]);
  const cluster = asObject(reply["cluster"]);
  return {
    config,
    cluster,
    replicas: Number(config["num_replicas"] ?? 1),
    format: formatOf(config),
    raise: raiseOf(config),
    servers: serversOf(config, cluster),
    messages: Number(asObject(reply["state"])["messages"] ?? 0),
    created: typeof reply["created"] === "string" ? reply["created"] : "",
  };
}

function serversOf(config: Json, { leader, replicas }: Json): BucketServers {
  const names = (Array.isArray(replicas) ? replicas.map((peer) => asObject(peer)["name"]) : []).filter(
    (name) => typeof name === "string",
  );
  const version = asObject(config["metadata"])["_nats.ver"];
  if (typeof leader !== "string") return { holders: names, leader: undefined };
  return { holders: [leader, ...names], leader: typeof version === "string" ? { name: leader, version } : undefined };
}

/** Asks JetStream's API until it answers. A 503 of its own passes, as while a leader is elected. */
export async function ask(client: JetStreamClient, subject: string, body: unknown, call: Call): Promise<Json> {
  for (const retries = new RetryLoop(call); ;) {
    await retries.next();
    try {
      const reply = await client.api(subject, body, client.attemptMs(call));
      const error = asObject(reply["error"]);
      if (!isTransient(error)) return reply;
      retries.failed("no-responders", new StoreError("UNAVAILABLE", String(error["description"])));
    } catch (error) {
      if (!isUnavailable(error)) throw error;
      if (client.closed) throw error;
      retries.failed("no-responders", error.cause ?? error);
    }
  }
}

/** Whether waiting helps: for a leader to be elected, or for a server that has just started to be known as one. */
function isTransient(error: Json): boolean {
  switch (error["err_code"]) {
    case JETSTREAM_NOT_ENABLED:
    case JETSTREAM_NOT_ENABLED_FOR_ACCOUNT:
      return false;
    case NO_SUITABLE_PEERS:
      return String(error["description"]).includes("offline");
    default:
      return error["code"] === 503;
  }
}

function refused(bucket: string, error: Json): StoreError {
  const description = String(error["description"]);
  switch (error["err_code"]) {
    case REPLICAS_NOT_SUPPORTED:
    case NO_SUITABLE_PEERS:
    case INSUFFICIENT_RESOURCES:
      return tooFew(bucket, description);
    case JETSTREAM_NOT_ENABLED:
    case JETSTREAM_NOT_ENABLED_FOR_ACCOUNT:
      return noJetStream();
    default:
      return new StoreError("UNAVAILABLE", `The bucket ${bucket} cannot be opened: ${description}`, {
        details: { bucket },
      });
  }
}

function tooFew(bucket: string, why: string): StoreError {
  return incompatible(
    bucket,
    "num_replicas",
    `The bucket ${bucket} cannot have that many replicas (${why}): start more servers in one cluster, or ask for fewer replicas`,
  );
}

function noJetStream(): StoreError {
  return new StoreError(
    "INCOMPATIBLE",
    "The NATS server has no JetStream for this account: start it with -js, or with a jetstream block in its configuration",
  );
}

/** Whether the server that the connection has can be used at all. */
export async function checkServer(client: JetStreamClient, versions: ServerVersions, call: Call): Promise<void> {
  const fault = versions.connected();
  if (fault !== undefined) throw fault;
  if (!client.jetStream) {
    // A server without it can still stand in a cluster that has it: only if nobody answers is there none.
    const reply = await client.api("INFO", undefined, client.attemptMs(call)).catch((error: unknown) => {
      if (client.closed) throw error;
      return undefined;
    });
    if (reply === undefined || asObject(reply["error"])["err_code"] !== undefined) throw noJetStream();
  }
}

export function bucketRemoved(bucket: string): StoreError {
  return new StoreError("INCOMPATIBLE", `The bucket ${bucket} was removed. Open the store anew`, {
    details: { bucket },
  });
}

/** A bucket that is empty, and was not. */
export function bucketLost(bucket: string): StoreError {
  const message = `The bucket ${bucket} was lost, or made anew: the others are of a store that was used. Restore all five from a backup, or remove all five`;
  return new StoreError("INCOMPATIBLE", message, { details: { bucket } });
}

/** Opens a bucket, making it if it is missing. `beforeMaking` rejects if it must not be made. */
export async function ensureBucket(
  client: JetStreamClient,
  bucket: string,
  replicas: Replicas | undefined,
  beforeMaking: () => Promise<void>,
  call: Call,
): Promise<StreamState> {
  for (const retries = new RetryLoop(call); ;) {
    await retries.next();
    let found = await streamState(client, bucket, call);
    if (found === undefined) {
      await beforeMaking();
      const config = {
        ...settings(bucket),
        num_replicas: replicas ?? 1,
        metadata: { [FORMAT_METADATA]: String(FORMAT) },
      };
      const reply = await ask(client, `STREAM.CREATE.KV_${bucket}`, config, call);
      const error = asObject(reply["error"]);
      if (reply["error"] === undefined) found = state(reply);
      else if (error["err_code"] !== STREAM_NAME_IN_USE) throw refused(bucket, error);
      // Else another instance was first, with other replicas. A cluster knows the name before the stream is there.
    }
    if (found === undefined) continue;
    const reason = incompatibility(bucket, found.config);
    if (reason !== undefined) throw reason;
    return found;
  }
}

/** Why a bucket cannot have more replicas, as JetStream answers an update. `undefined`: it can, now or later. */
export function refusalToRaise(bucket: string, error: Json): StoreError | undefined {
  return error["err_code"] === NO_SUITABLE_PEERS && !isTransient(error) ? refused(bucket, error) : undefined;
}

/** A server that is in no cluster takes a new number of replicas for a fact, and still has the data once. */
export function inNoCluster(bucket: string): StoreError {
  return tooFew(bucket, "the server is in no cluster");
}
