/**
 * More replicas, online: one bucket after the other, each really caught up before the next. A replica that has just
 * been added reports itself current long before it is, so that this is believed only when it was said several times
 * over seconds, and when a barrier was acknowledged after it.
 *
 * That is not yet `done`: for a while a server that is killed comes back as one that holds the bucket alone. See
 * {@link STANDING_MS}.
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
import { asObject, type Json } from "./json.js";
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
  /**
   * This bucket has what was asked for, and it can be relied on: at least 90 seconds after all replicas hold its data.
   * Until then no server of it may be killed or lose power. One that is shut down (SIGTERM) does no harm.
   */
  readonly done: boolean;
}

const POLL_MS = 500;
const STEADY_POLLS = 4;
/**
 * How long the replicas have to stand before they are told as done: all servers know of them then, also after a kill.
 *
 * Which servers hold a bucket is in the log of the meta layer. A server that starts takes it from its last snapshot of
 * that layer. What it has in its log behind that it applies only when a meta leader says that it was committed. So one
 * that held the bucket alone, and was killed, takes itself for its leader, and acknowledges writes and barriers by
 * itself until then. Each server takes a snapshot every minute (`compactInterval` of `monitorCluster`,
 * jetstream_cluster.go in nats-server 2.12 to 2.14), 15 seconds later if that fails (`compactMinInterval`), and as it
 * is shut down.
 */
const STANDING_MS = 90_000;
/** A leader hears each of its replicas every second. */
const UNHEARD_NS = 5e9;
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
      const running: Promise<void>[] = [];
      try {
        for (const bucket of buckets) {
          await new Promise<void>((caughtUp, failed) => {
            running.push(this.#run(bucket, replicas, caughtUp, call).then(caughtUp, failed));
          });
        }
        await Promise.all(running);
      } finally {
        for (const bucket of buckets) this.#running.delete(bucket);
      }
    });
  }

  /** `caughtUp` is called when it is the next bucket's turn, perhaps several times. What is left is to wait. */
  async #run(bucket: AnyBucket, replicas: number, caughtUp: () => void, call: Call): Promise<void> {
    while (!(await this.#raised(bucket, replicas, caughtUp, call))) await pause(POLL_MS, call);
    this.#running.delete(bucket);
  }

  /**
   * Raises again what a late update has lowered. `state` is the bucket as it was just read. Answers what was told as
   * done, if that had to be looked up.
   */
  async putRight(bucket: AnyBucket, state: StreamState, call: Call): Promise<number | undefined> {
    const id = state.raise?.id;
    if (id === undefined || !mayBeLate(state)) return undefined;
    if (this.#running.has(bucket) || this.#lookedUp.get(bucket) === id) return undefined;
    const floor = await this.#floors.of(bucket.name, call);
    if (state.replicas < floor) this.start([bucket], floor);
    this.#lookedUp.set(bucket, id);
    return floor;
  }

  /**
   * Whether there is nothing left to do. What fails may pass, as a setting that an operator repairs: only the store's
   * end is the end.
   */
  async #raised(bucket: AnyBucket, replicas: number, caughtUp: () => void, call: Call): Promise<boolean> {
    try {
      await this.#raise(bucket, replicas, caughtUp, call);
      return true;
    } catch (error) {
      call.throwIfEnded();
      if (this.#client.closed) throw error;
      return false;
    }
  }

  async #raise(bucket: AnyBucket, asked: number, caughtUp: () => void, call: Call): Promise<void> {
    const updates = this.#updatesOf(bucket);
    /** What was told as done, to this store or to others. `undefined`: to be looked up. */
    let floor: number | undefined;
    let most = Number.POSITIVE_INFINITY;
    // Asked before the loop, so that it does not come between a read and its update.
    await this.#versions.forRaising(call);
    let updated = false;
    const standing = new Standing(asked);
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
        standing.beginAnew();
        continue;
      }
      updated = false;
      const isNews = standing.look(state) !== before;
      before = standing.holding;
      if (isNews) this.#tell({ bucket: bucket.name, replicas: asked, current: before, done: false }, call);
      if (standing.hasJustCaughtUp) {
        await bucket.readIndex(call);
        caughtUp();
      }
      if (!standing.isSettled) {
        await pause(POLL_MS, call);
        continue;
      }
      await bucket.readIndex(call);
      // First the record, then a last look: an update that comes after this look finds the record.
      await this.#floors.raise(bucket.name, asked, call);
      const last = await streamState(this.#client, bucket.name, call);
      if (last === undefined || last.replicas >= asked) break;
      floor = undefined;
      standing.beginAnew();
    }
    this.#tell({ bucket: bucket.name, replicas: asked, current: asked, done: true }, call);
  }

  /** A store that is closed tells nothing, also of what was on its way. */
  #tell(progress: RolloutProgress, call: Call): void {
    call.throwIfEnded();
    notify(this.#onRollout, progress);
    tell({ type: "rollout", backend: "jetstream", ...progress });
  }

  #updatesOf(bucket: AnyBucket): StreamUpdates {
    const known = this.#updates.get(bucket) ?? new StreamUpdates(this.#client, bucket.stream);
    this.#updates.set(bucket, known);
    return known;
  }
}

/** How long the replicas of a bucket have stood, by one look after the other. */
class Standing {
  readonly #asked: number;
  #looks = 0;
  #since = 0;
  #leader: unknown;
  #holding = 0;

  constructor(asked: number) {
    this.#asked = asked;
  }

  beginAnew(): void {
    this.#looks = 0;
  }

  /** Answers how many hold the bucket's data. */
  look(state: StreamState): number {
    const { leader } = state.cluster;
    const isCaughtUp = this.#looks >= STEADY_POLLS;
    // Of what is written just then a replica lags. Once they have caught up, that says nothing. But one that was away,
    // and a leader that was, may have been killed.
    this.#holding = isCaughtUp ? counted(state, isHeard) : counted(state, isCurrent);
    if (this.#holding < this.#asked || (isCaughtUp && leader !== this.#leader)) this.#looks = 0;
    else if (this.#looks++ === 0) this.#since = performance.now();
    this.#leader = leader;
    return this.#holding;
  }

  get holding(): number {
    return this.#holding;
  }

  get hasJustCaughtUp(): boolean {
    return this.#looks === STEADY_POLLS;
  }

  get isSettled(): boolean {
    return this.#looks >= STEADY_POLLS && performance.now() - this.#since >= STANDING_MS;
  }
}

/** The leader, and the replicas of which it is so. */
function counted({ cluster }: StreamState, isSo: (replica: Json) => boolean): number {
  const replicas = Array.isArray(cluster["replicas"]) ? cluster["replicas"].map(asObject) : [];
  return typeof cluster["leader"] === "string" ? replicas.filter(isSo).length + 1 : 0;
}

/** It says that it has everything. */
const isCurrent = (replica: Json): boolean =>
  replica["current"] === true && (replica["lag"] ?? 0) === 0 && replica["offline"] !== true;

const isHeard = ({ offline, active }: Json): boolean => offline !== true && Number(active ?? 0) < UNHEARD_NS;

/** A record that cannot be read now is no reason to wait with what this store asks for. */
const unknown = (call: Call) => (): undefined => {
  call.throwIfEnded();
  return undefined;
};

/** It keeps no process alive: a store that is closed ends the call, and does not wait for it. */
async function pause(ms: number, call: Call): Promise<void> {
  await new Promise<void>((resolve) => {
    setTimeout(resolve, Math.min(ms, call.remaining())).unref();
  });
  call.throwIfEnded();
}
