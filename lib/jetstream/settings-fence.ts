/**
 * The fence that stores of format 1 meet, which know no state record: the streams take nothing that they send. Of a
 * store that is moved away from, `users`, `rooms` and `room_keys` take the state, and the barriers of those who know of
 * it. The state record decides, and the settings follow it: whoever changes it, opens the store, or looks at the
 * settings, puts them right. The argument: docs/protocol.md, E6 and Q7.
 */
import type { Call } from "../call.js";
import { StoreError } from "../errors.js";
import { isSource } from "../moves.js";
import type { Bucket } from "./bucket.js";
import type { JetStreamClient } from "./client.js";
import { moveStateOf, readState } from "./importing.js";
import { joinAll } from "./join.js";
import type { Json } from "./json.js";
import { MARKS, keys } from "./keys.js";
import { BARRIERS } from "./own-barriers.js";
import { FENCE_METADATA, bucketRemoved, fenceIn, streamState } from "./provisioning.js";
import { RetryLoop } from "./retry-loop.js";
import type { BucketName } from "./seq.js";
import { StreamUpdates, inMetadata } from "./stream-settings.js";

type Fenced = Extract<BucketName, "users" | "rooms" | "room_keys">;

/** What a stream takes whose records are moved elsewhere, beside barriers. */
const OF_SOURCE: Readonly<Record<Fenced, readonly string[]>> = {
  users: [keys.state],
  rooms: [keys.state],
  room_keys: MARKS,
};
/** What it takes that comes to be the target of a migration back: everything but barriers of format 1. */
const OF_TARGET: Readonly<Record<Fenced, readonly string[]>> = {
  users: [keys.state, keys.admins, "user.>", "import.>"],
  rooms: [keys.state, keys.replicas, keys.indexProgress, "room.>", "import.>"],
  room_keys: ["key.>", "epoch.>"],
};

/** `undefined`: none. */
type Fence = { readonly takes: typeof OF_SOURCE; readonly text: string } | undefined;

/** What the state asks of the settings. `"unknown"`: it is of a later version. */
function fenceOf(value: Json): Fence | "unknown" {
  const state = moveStateOf(value);
  if (state === undefined) return "unknown";
  const { run } = state;
  if (run === undefined) return undefined;
  const text = `${run.id} ${String(run.since)} ${run.peer.name}`;
  if (isSource(state)) return { takes: OF_SOURCE, text: `source ${text}` };
  return "was" in state && state.was !== undefined ? { takes: OF_TARGET, text: `target ${text}` } : undefined;
}

interface Stream {
  readonly bucket: Fenced;
  readonly name: string;
  readonly subjects: string;
  readonly updates: StreamUpdates;
}

export class SettingsFence {
  readonly #client: JetStreamClient;
  readonly #users: Bucket<"users">;
  readonly #streams: readonly Stream[];

  constructor(
    client: JetStreamClient,
    users: Bucket<"users">,
    others: readonly [Bucket<"rooms">, Bucket<"room_keys">],
  ) {
    this.#client = client;
    this.#users = users;
    const [rooms, roomKeys] = others;
    const streamOf = <B extends Fenced>(bucket: B, { name, stream, subjects }: Bucket<B>): Stream => ({
      bucket,
      name,
      subjects,
      updates: new StreamUpdates(client, stream),
    });
    this.#streams = [streamOf("users", users), streamOf("rooms", rooms), streamOf("room_keys", roomKeys)];
  }

  /**
   * Puts the settings as the state record asks for. When it resolves the leaders of the streams have taken them. A
   * server that comes to lead may not know them yet: what stands in the log decides.
   */
  async follow(call: Call): Promise<void> {
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      const { value } = await readState(this.#users, call);
      const fence = fenceOf(value);
      if (fence === "unknown") return;
      const stood = await joinAll(this.#streams.map((stream) => this.#put(stream, fence, retries, call)));
      if (stood.every((each) => each)) return;
    }
  }

  /** Answers whether nothing had to be done. */
  async #put({ bucket, name, subjects, updates }: Stream, fence: Fence, retries: RetryLoop, call: Call) {
    const state = await streamState(this.#client, name, call);
    if (state === undefined) throw bucketRemoved(name);
    const takes = fence === undefined ? [">"] : [...fence.takes[bucket], `${BARRIERS}>`];
    const wanted = takes.map((key) => subjects + key).sort();
    const { subjects: found, max_msg_size: size } = state.config;
    const isThere =
      Array.isArray(found) &&
      JSON.stringify(found.map(String).sort()) === JSON.stringify(wanted) &&
      size === -1 &&
      fenceIn(state.config) === fence?.text;
    if (isThere && updates.toPutBack(state).size === 0) return true;
    const changes = new Map<string, unknown>([
      ["subjects", wanted],
      ["max_msg_size", -1],
      [inMetadata(FENCE_METADATA), fence?.text],
    ]);
    const error = await updates.update(state, state.replicas, call, changes);
    if (error["code"] === undefined) return false;
    if (isThere) updates.forget(error);
    retries.failed(
      "no-responders",
      new StoreError("UNAVAILABLE", `JetStream refuses to change what ${name} takes: ${String(error["description"])}`),
    );
    return false;
  }
}
