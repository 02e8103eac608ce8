/**
 * Writes of an import, each on the condition that a record beside it, the mark of a lane, still stands where this import put
 * it. So whoever takes over puts the marks anew, and from then on nothing that an importer sent before comes into the log, however
 * late it comes: not if its process was stopped, and not a copy of a message that was lost on its way.
 *
 * There are several lanes because a leader takes one such write of a mark at a time.
 */
import type { Call } from "../call.js";
import { StoreError } from "../errors.js";
import type { Bucket } from "./bucket.js";
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
  /** Where this import's mark stands. */
  readonly seq: Seq<B>;
}

/** For who has read as certain that another import goes on. */
export const takenOver = (): StoreError => CERTAIN.rules(asRead("certain", {})).importTakenOver();

export class ImportLanes<B extends CommittingBucket> {
  readonly #bucket: Bucket<B>;
  #free: Lane<B>[] = [];
  readonly #queue: ((lane: Lane<B>) => void)[] = [];

  constructor(bucket: Bucket<B>) {
    this.#bucket = bucket;
  }

  /** Puts the marks anew. Nothing that was sent before comes into the log after that. Nothing may be under way. */
  async renew(call: Call): Promise<void> {
    this.#free = await joinAll(
      Array.from({ length: LANES }, async (_, i) => {
        const key = keys.importLane(i);
        return { key, seq: await this.#bucket.mark(key, call) };
      }),
    );
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
    const { link, stream, subjects } = this.#bucket;
    const payload = JSON.stringify({ k: key, ...value });
    for (const retries = new RetryLoop(call); ;) {
      await retries.next();
      call.throwIfEnded();
      this.#bucket.use();
      const timeoutMs = link.attemptMs(call);
      const ack = await link.publish(stream, subjects + key, payload, timeoutMs, lane.seq, subjects + lane.key);
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
        case "rejected": {
          const error = new StoreError("UNAVAILABLE", `JetStream refuses the write: ${ack.description}`);
          if (ack.code !== 503) throw error;
          retries.failed("no-responders", error);
          break;
        }
        case "failed":
          retries.failed(ack.failure, ack.error);
      }
    }
  }
}
