/**
 * The format of the buckets is a number in each stream's metadata. A store that opens takes buckets of an older format
 * over. First it raises the numbers: stores of an older version open no more, and those that are open find out within
 * seconds of use. Then it makes what the newer format has more. Until an older store finds out it writes as before;
 * whoever meets such a record brings it up.
 */
import type { Call } from "../call.js";
import { StoreError, isUnavailable } from "../errors.js";
import { FORMAT, FORMAT_METADATA, bucketRemoved, streamState, incompatibility } from "./provisioning.js";
import type { JetStreamClient } from "./client.js";
import { RetryLoop } from "./retry-loop.js";
import { StreamUpdates, inMetadata } from "./stream-settings.js";

/**
 * Raises the format of one bucket. JetStream has no conditional change of settings: an update of somebody else that
 * comes late can take the format back. Whoever looks then raises it again.
 */
export async function raiseFormat(client: JetStreamClient, bucket: string, call: Call): Promise<void> {
  const updates = new StreamUpdates(client, `KV_${bucket}`);
  for (const retries = new RetryLoop(call); ;) {
    await retries.next();
    const state = await streamState(client, bucket, call);
    if (state === undefined) throw bucketRemoved(bucket);
    const fault = incompatibility(bucket, state.config);
    if (fault !== undefined) throw fault;
    const replicas = Math.max(state.replicas, updates.replicasBefore);
    if (state.format === FORMAT && replicas === state.replicas && updates.toPutBack(state).size === 0) return;
    try {
      const error = await updates.update(
        state,
        replicas,
        call,
        new Map([[inMetadata(FORMAT_METADATA), String(FORMAT)]]),
      );
      if (error["code"] === undefined) continue;
      if (state.format === FORMAT) updates.forget(error);
      retries.failed(
        "no-responders",
        new StoreError("UNAVAILABLE", `JetStream refuses to raise the format: ${String(error["description"])}`),
      );
    } catch (error) {
      if (!isUnavailable(error) || client.closed) throw error;
      retries.failed("no-responders", error.cause ?? error);
    }
  }
}
