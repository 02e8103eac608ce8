/**
 * What each bucket was raised to: one record in `rooms`, which only grows. JetStream has no conditional change of a
 * stream's settings, so that a raiser that was stopped can put a lower number in the place of one that was told as
 * done. The record outlives that, and says what to put right.
 */
import type { Call } from "../call.js";
import type { Bucket } from "./bucket.js";
import type { Entry } from "./entry.js";
import { asObject, type Json } from "./json.js";
import { keys } from "./keys.js";
import { RetryLoop } from "./retry-loop.js";

export class ReplicaFloors {
  readonly #rooms: Bucket<"rooms">;

  constructor(rooms: Bucket<"rooms">) {
    this.#rooms = rooms;
  }

  /** The least that the bucket should have, as of a moment after this call. 0: it was never raised. */
  async of(bucket: string, call: Call): Promise<number> {
    return floorOf(floorsOf(await this.#read(call)), bucket);
  }

  /** Once this is acknowledged, whoever lowers the bucket afterwards finds out. */
  async raise(bucket: string, replicas: number, call: Call): Promise<void> {
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      const entry = await this.#read(call);
      const floors = floorsOf(entry);
      if (floorOf(floors, bucket) >= replicas) return;
      const isThere = (found: Entry<"rooms">): "yes" | "no" =>
        floorOf(floorsOf(found), bucket) >= replicas ? "yes" : "no";
      const record = { floors: { ...floors, [bucket]: replicas } };
      const seq = await this.#rooms.write(keys.replicas, record, entry?.seq ?? 0, call, isThere, "step");
      if (seq !== undefined) return;
    }
  }

  async #read(call: Call): Promise<Entry<"rooms"> | undefined> {
    return (await this.#rooms.readLinearizable(keys.replicas, call)).entry;
  }
}

const floorsOf = (entry: Entry<"rooms"> | undefined): Json => asObject(entry?.value["floors"]);

function floorOf(floors: Json, bucket: string): number {
  const found = floors[bucket];
  return typeof found === "number" ? found : 0;
}
