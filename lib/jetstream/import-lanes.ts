/**
 * The writes of an import. Each is conditioned on the record of a lane, which must still stand where this import put
 * it. Whoever takes the import over puts all lanes anew. From then on nothing that was sent before comes into the log:
 * not by a process that was stopped, and not by a copy of a message that was lost on its way.
 *
 * There are several lanes because a leader takes one write on the condition of a lane at a time.
 */
import type { Call } from "../call.js";
import type { StoreError } from "../errors.js";
import { refused, type Bucket } from "./bucket.js";
import { Entry } from "./entry.js";
import type { Json } from "./json.js";
import { CERTAIN, asRead } from "./freshness.js";
import { joinAll } from "./join.js";
import { keys, type Key } from "./keys.js";
import { RetryLoop } from "./retry-loop.js";
import type { Seq } from "./seq.js";
import type { CommittingBucket } from "./store-state.js";

const LANES = 64;

interface Lane<B extends CommittingBucket> {
  readonly key: Key<B>;
  /** Where this import put its record. */
  readonly seq: Seq<B>;
}

/** For who has read as certain that another import goes on. */
export const takenOver = (): StoreError => CERTAIN.rules(asRead("certain", {})).importTakenOver();

export class ImportLanes<B extends CommittingBucket> {
  readonly #bucket: Bucket<B>;
  /** The one that was used last is used first. */
  #free: Lane<B>[] = [];
  /** Of which something was sent on their condition since they were put. */
  readonly #used = new Set<Key<B>>();
  readonly #queue: ((lane: Lane<B>) => void)[] = [];

  constructor(bucket: Bucket<B>) {
    this.#bucket = bucket;
  }

  /** Puts all lanes: nothing that any import has sent before comes into the log. */
  async begin(call: Call): Promise<void> {
    this.#free = await joinAll(Array.from({ length: LANES }, (_, i) => this.#lane(keys.importLane(i), call)));
  }

  /**
   * Puts those anew that were used: nothing that was sent before comes into the log. No write of this import may be
   * under way.
   */
  async renew(call: Call): Promise<void> {
    this.#free = await joinAll(
      this.#free.map((lane) => (this.#used.has(lane.key) ? this.#lane(lane.key, call) : Promise.resolve(lane))),
    );
    this.#used.clear();
  }

  async #lane(key: Key<B>, call: Call): Promise<Lane<B>> {
    return { key, seq: await this.#bucket.touch(key, call) };
  }

  /** Writes a record, whatever stands there. Repeating it does no harm: it is repeated until it is acknowledged. */
  async put(key: Key<B>, value: Json, call: Call): Promise<Seq<B>> {
    const lane = this.#free.pop() ?? (await new Promise<Lane<B>>((resolve) => this.#queue.push(resolve)));
    try {
      return await this.#put(lane, key, value, call);
    } finally {
      const next = this.#queue.shift();
      if (next === undefined) this.#free.push(lane);
      else next(lane);
    }
  }

  async #put(lane: Lane<B>, key: Key<B>, value: Json, call: Call): Promise<Seq<B>> {
    const { client, stream, subjects } = this.#bucket;
    this.#used.add(lane.key);
    const payload = JSON.stringify({ k: key, ...value });
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      call.throwIfEnded();
      this.#bucket.use();
      const timeoutMs = client.attemptMs(call);
      const ack = await client.publish(stream, subjects + key, payload, timeoutMs, lane.seq, subjects + lane.key);
      switch (ack.kind) {
        case "stored":
          this.#bucket.observe(ack.seq);
          this.#bucket.note(new Entry(key, value, { seq: ack.seq, stamp: "" }));
          return ack.seq;
        case "conflict": {
          // A refusal is no evidence, and one for what is under way passes.
          if (ack.inFlight) break;
          const { entry } = await this.#bucket.readLinearizable(lane.key, call);
          if (entry?.seq !== lane.seq) throw takenOver();
          break;
        }
        case "rejected":
          refused(ack, retries);
          break;
        case "failed":
          retries.failed(ack.failure, ack.error);
      }
    }
  }
}
