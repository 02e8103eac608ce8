/**
 * More replicas, online: one bucket after the other, each really caught up before the next. A replica that has just been
 * added reports itself current long before it is, so that this is believed only when it was said several times over
 * seconds, and when a barrier was acknowledged after it.
 */
import type { Call } from "../call.js";
import type { Replicas } from "../store.js";
import type { Background } from "./background.js";
import type { Bucket } from "./bucket.js";
import { ask, streamState } from "./buckets.js";
import { asObject } from "./connection.js";
import type { Link } from "./connection.js";

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

export function rollOut(
  link: Link,
  buckets: readonly Bucket[],
  replicas: Replicas,
  background: Background,
  onRollout: ((progress: RolloutProgress) => void) | undefined,
): void {
  const tell = (progress: RolloutProgress): void => {
    try {
      onRollout?.(Object.freeze(progress));
    } catch {
      // A listener's fault is not the rollout's.
    }
  };
  background.run(ROLLOUT_MS, "end", async (call) => {
    for (const bucket of buckets) {
      while (!(await raised(link, bucket, replicas, call, tell))) await pause(POLL_MS, call);
    }
  });
}

/** Whether there is nothing left to do. What fails may pass, as a setting that an operator repairs: only the store's end is the end. */
async function raised(...args: Parameters<typeof raise>): Promise<boolean> {
  const [link, , , call] = args;
  try {
    await raise(...args);
    return true;
  } catch (error) {
    call.check();
    if (link.closed) throw error;
    return false;
  }
}

async function raise(link: Link, bucket: Bucket, replicas: Replicas, call: Call, tell: (progress: RolloutProgress) => void): Promise<void> {
  let steady = 0;
  let before = -1;
  while (steady < STEADY_POLLS) {
    call.check();
    const state = await streamState(link, bucket.name, call);
    if (state === undefined) return;
    // Two instances that raise at once ask for the same thing, or one for more: whatever is enough is left alone.
    if (state.replicas < replicas) {
      await ask(link, `STREAM.UPDATE.${bucket.stream}`, { ...state.config, num_replicas: replicas }, call);
    }
    const peers = Array.isArray(state.cluster["replicas"]) ? state.cluster["replicas"].map(asObject) : [];
    const current = peers.filter((peer) => peer["current"] === true && (peer["lag"] ?? 0) === 0 && peer["offline"] !== true).length;
    const holds = typeof state.cluster["leader"] === "string" ? current + 1 : 0;
    if (holds !== before) tell({ bucket: bucket.name, replicas, current: holds, done: false });
    before = holds;
    steady = state.replicas >= replicas && holds >= replicas ? steady + 1 : 0;
    if (steady < STEADY_POLLS) await pause(POLL_MS, call);
  }
  await bucket.fresh(call);
  tell({ bucket: bucket.name, replicas, current: replicas, done: true });
}

async function pause(ms: number, call: Call): Promise<void> {
  await new Promise<void>((resolve) => {
    setTimeout(resolve, Math.min(ms, call.remaining()));
  });
  call.check();
}
