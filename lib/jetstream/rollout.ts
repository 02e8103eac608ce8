/**
 * More replicas, online: one bucket after the other, each really caught up before the next. A replica that has just
 * been added reports itself current long before it is, so that this is believed only when it was said several times
 * over seconds, and when a barrier was acknowledged after it.
 *
 * Several stores can raise at once, and one can be stopped for any time before its update, which then takes the place
 * of what came between. Nothing prevents that, but it is put right. Before a number is told as done it stands in a
 * record. Whoever sees fewer replicas than the record says raises them again, first of all the late store itself.
 */
import type { Call } from "../call.js";
import { isUnavailable } from "../errors.js";
import { tell } from "../diagnostics.js";
import { notify } from "../notify.js";
import type { Background } from "./background.js";
import type { AnyBucket } from "./bucket.js";
import { inNoCluster, refusalToRaise, bucketRemoved, streamState } from "./provisioning.js";
import type { StreamState } from "./provisioning.js";
import type { JetStreamClient } from "./client.js";
import { asObject } from "./json.js";
import type { ReplicaFloors } from "./floors.js";
import { StreamUpdates } from "./stream-settings.js";
import type { ServerVersions } from "./versions.js";

/** One step of a rollout. */
export interface RolloutProgress {
  /** The bucket's name, with the prefix. */
  readonly bucket: string;
  /** Replicas that were asked for. */
  readonly replicas: number;
  /** Replicas that hold the bucket's data now. */
  readonly current: number;
  /** This bucket has what was asked for. */
  readonly done: boolean;
}

const POLL_MS = 500;
const STEADY_POLLS = 4;
/** As long as the store is open: the longest that a timer takes. What is not done then goes on at the next opening. */
const ROLLOUT_MS = 2 ** 31 - 1;

/**
 * Whether the replicas may be fewer than they were raised to because an update came late. An update of a store always
 * says what it asks for, so that fewer than that are an operator's doing.
 */
const mayBeLate = ({ raise, replicas }: StreamState): boolean => raise !== undefined && replicas >= raise.to;

export class Rollout {
  readonly #client: JetStreamClient;
  readonly #floors: ReplicaFloors;
  readonly #versions: ServerVersions;
  readonly #background: Background;
  readonly #onRollout: ((progress: RolloutProgress) => void) | undefined;
  readonly #updates = new Map<AnyBucket, StreamUpdates>();
  /** The raise after which each bucket's floor was last looked up. */
  readonly #lookedUp = new Map<AnyBucket, string>();
  readonly #running = new Set<AnyBucket>();

  constructor(
    client: JetStreamClient,
    floors: ReplicaFloors,
    versions: ServerVersions,
    background: Background,
    onRollout: ((progress: RolloutProgress) => void) | undefined,
  ) {
    this.#client = client;
    this.#floors = floors;
    this.#versions = versions;
    this.#background = background;
    this.#onRollout = onRollout;
  }

  /**
   * What can be known at once is said at once: rejects with `INCOMPATIBLE` if the servers are too few, or of a version
   * that cannot raise replicas. A server that is down comes back. Whatever else fails is left to {@link start}.
   */
  async request(bucket: AnyBucket, replicas: number, call: Call): Promise<void> {
    const fault = await this.#versions.forRaising(call);
    // Read directly before the update: what somebody changes between the two has to be put back.
    const state = await streamState(this.#client, bucket.name, call);
    if (state === undefined) throw bucketRemoved(bucket.name);
    if (state.cluster["name"] === undefined) throw inNoCluster(bucket.name);
    if (state.replicas >= replicas) return;
    if (fault !== undefined) throw fault;
    try {
      const refusal = refusalToRaise(bucket.name, await this.#updatesOf(bucket).update(state, replicas, call));
      if (refusal !== undefined) throw refusal;
    } catch (error) {
      // Opening does not wait for a server that does not answer: {@link start} asks again.
      if (!isUnavailable(error)) throw error;
    }
  }

  /** Raises in the background. */
  start(buckets: readonly AnyBucket[], replicas: number): void {
    for (const bucket of buckets) this.#running.add(bucket);
    this.#background.run(ROLLOUT_MS, "end", async (call) => {
      try {
        for (const bucket of buckets) {
          while (!(await this.#raised(bucket, replicas, call))) await pause(POLL_MS, call);
          this.#running.delete(bucket);
        }
      } finally {
        for (const bucket of buckets) this.#running.delete(bucket);
      }
    });
  }

  /** Raises again what a late update has lowered. `state` is the bucket as it was just read. */
  async putRight(bucket: AnyBucket, state: StreamState, call: Call): Promise<void> {
    const id = state.raise?.id;
    if (id === undefined || !mayBeLate(state) || this.#running.has(bucket) || this.#lookedUp.get(bucket) === id) return;
    const floor = await this.#floors.of(bucket.name, call);
    if (state.replicas < floor) this.start([bucket], floor);
    this.#lookedUp.set(bucket, id);
  }

  /**
   * Whether there is nothing left to do. What fails may pass, as a setting that an operator repairs: only the store's
   * end is the end.
   */
  async #raised(bucket: AnyBucket, replicas: number, call: Call): Promise<boolean> {
    try {
      await this.#raise(bucket, replicas, call);
      return true;
    } catch (error) {
      call.throwIfEnded();
      if (this.#client.closed) throw error;
      return false;
    }
  }

  async #raise(bucket: AnyBucket, asked: number, call: Call): Promise<void> {
    const updates = this.#updatesOf(bucket);
    /** What was told as done, to this store or to others. `undefined`: to be looked up. */
    let floor: number | undefined;
    let most = Number.POSITIVE_INFINITY;
    // Asked before the loop, so that it does not come between a read and its update.
    await this.#versions.forRaising(call);
    let updated = false;
    let steady = 0;
    let before = -1;
    for (;;) {
      call.throwIfEnded();
      const state = await streamState(this.#client, bucket.name, call);
      if (state === undefined) return;
      // Looked up anew after each update. If an update was late, perhaps this one, that finds what was told as done
      // meanwhile.
      if (mayBeLate(state)) floor ??= await this.#floors.of(bucket.name, call).catch(unknown(call));
      const least = mayBeLate(state) ? Math.max(asked, floor ?? 0, updates.replicasBefore) : asked;
      const wanted = Math.min(least, most);
      if (state.replicas < wanted || updates.toPutBack(state).size > 0) {
        const fault = await this.#versions.forRaising(call);
        if (fault !== undefined) throw fault;
        // Two that raise at once ask for the same thing, or one for more: whatever is enough is left alone.
        const error = await updates.update(state, Math.max(wanted, state.replicas), call);
        const refusal = refusalToRaise(bucket.name, error);
        if (refusal !== undefined && wanted <= asked) throw refusal;
        // What others were told, perhaps long ago and with more servers, must not hold up what this store asks for.
        if (refusal !== undefined) most = asked;
        const isRefused = error["code"] !== undefined;
        if (isRefused && state.replicas >= wanted) updates.forget(error);
        // What the first update did is looked at immediately, what a further one did after a pause.
        if (isRefused || updated) await pause(POLL_MS, call);
        updated = true;
        floor = undefined;
        steady = 0;
        continue;
      }
      updated = false;
      const holds = holding(state);
      if (holds !== before) this.#tell({ bucket: bucket.name, replicas: asked, current: holds, done: false });
      before = holds;
      steady = holds >= asked ? steady + 1 : 0;
      if (steady < STEADY_POLLS) {
        await pause(POLL_MS, call);
        continue;
      }
      await bucket.readIndex(call);
      // First the record, then a last look: an update that comes after this look finds the record.
      await this.#floors.raise(bucket.name, asked, call);
      const last = await streamState(this.#client, bucket.name, call);
      if (last === undefined || last.replicas >= asked) break;
      floor = undefined;
      steady = 0;
    }
    this.#tell({ bucket: bucket.name, replicas: asked, current: asked, done: true });
  }

  #tell(progress: RolloutProgress): void {
    notify(this.#onRollout, progress);
    tell({ type: "rollout", backend: "jetstream", ...progress });
  }

  #updatesOf(bucket: AnyBucket): StreamUpdates {
    const known = this.#updates.get(bucket) ?? new StreamUpdates(this.#client, bucket.stream);
    this.#updates.set(bucket, known);
    return known;
  }
}

/** Replicas that say that they have everything. */
function holding({ cluster }: StreamState): number {
  const peers = Array.isArray(cluster["replicas"]) ? cluster["replicas"].map(asObject) : [];
  const current = peers.filter(
    (peer) => peer["current"] === true && (peer["lag"] ?? 0) === 0 && peer["offline"] !== true,
  ).length;
  return typeof cluster["leader"] === "string" ? current + 1 : 0;
}

/** A record that cannot be read now is no reason to wait with what this store asks for. */
const unknown = (call: Call) => (): undefined => {
  call.throwIfEnded();
  return undefined;
};

async function pause(ms: number, call: Call): Promise<void> {
  await new Promise<void>((resolve) => {
    setTimeout(resolve, Math.min(ms, call.remaining()));
  });
  call.throwIfEnded();
}
