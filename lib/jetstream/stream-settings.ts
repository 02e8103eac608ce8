/**
 * Changing a setting of a stream. JetStream takes all settings at once, and on no condition: an update takes back what
 * somebody else changed after the settings were read. So each update leaves together with a look at what it takes the
 * place of, and what it took back is put back by the next one.
 */
import type { Call } from "../call.js";
import type { StreamState } from "./provisioning.js";
import type { JetStreamClient } from "./client.js";
import { asObject, type Json } from "./json.js";
import { newId } from "./keys.js";

/** In a stream's metadata: see {@link Raise}. */
export const RAISED = "unibus-membership.replicas";
/** The server's own, made anew for each answer. */
const OF_THE_SERVER = "_nats.";

/** The last update by a store. An operator who changes the number of replicas leaves it as it is. */
export interface Raise {
  /** The most replicas that a store asked for so far. */
  readonly to: number;
  /** Tells each update from every other. */
  readonly id: string;
}

/** The last raise of a stream with these settings, if a store ever made one. */
export function raiseOf(config: Json): Raise | undefined {
  const raised = asObject(config["metadata"])[RAISED];
  const [to, id] = typeof raised === "string" ? raised.split(" ") : [];
  return to === undefined || id === undefined ? undefined : { to: Number(to), id };
}

/** Settings by name, those in the metadata one by one. `undefined`: not there. */
export type Settings = ReadonlyMap<string, unknown>;

const NOTHING: Settings = new Map();

/** The name of a setting that stands in a stream's metadata. */
export const inMetadata = (name: string): string => `metadata.${name}`;

function settingsOf(config: Json): Settings {
  const found = new Map(Object.entries(config));
  found.delete("num_replicas");
  found.delete("metadata");
  for (const [name, value] of Object.entries(asObject(config["metadata"]))) {
    if (!name.startsWith(OF_THE_SERVER) && name !== RAISED) found.set(inMetadata(name), value);
  }
  return found;
}

function withSettings(config: Json, changes: Settings, replicas: number): Json {
  const before = Object.entries(asObject(config["metadata"])).filter(([name]) => !name.startsWith(OF_THE_SERVER));
  const settings = new Map<string, unknown>(Object.entries(config).filter(([name]) => name !== "metadata"));
  const metadata = new Map<string, unknown>(before.map(([name, value]) => [inMetadata(name), value]));
  for (const [name, value] of changes) {
    const into = name.startsWith(inMetadata("")) ? metadata : settings;
    if (value === undefined) into.delete(name);
    else into.set(name, value);
  }
  const raised = Math.max(replicas, raiseOf(config)?.to ?? 0);
  metadata.set(inMetadata(RAISED), `${String(raised)} ${newId()}`);
  return {
    ...Object.fromEntries(settings),
    num_replicas: replicas,
    metadata: Object.fromEntries(Array.from(metadata, ([name, value]) => [name.slice(inMetadata("").length), value])),
  };
}

const isSame = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b);

function differences(from: Settings, to: Settings): Map<string, unknown> {
  const names = new Set([...from.keys(), ...to.keys()]);
  return new Map(
    [...names].filter((name) => !isSame(from.get(name), to.get(name))).map((name) => [name, to.get(name)]),
  );
}

/** Changes the settings of one stream, again and again if need be, and remembers what its updates took back. */
export class StreamUpdates {
  readonly #client: JetStreamClient;
  readonly #stream: string;
  /** What an update sent, and what it took the place of. */
  readonly #takenBack = new Map<string, { readonly sent: unknown; readonly was: unknown }>();
  /** The replicas that an update took the place of. */
  #replicasBefore = 0;

  constructor(client: JetStreamClient, stream: string) {
    this.#client = client;
    this.#stream = stream;
  }

  /** What JetStream refuses to have back stays as it is. */
  forget(): void {
    this.#takenBack.clear();
  }

  /** The most replicas that were there when an update of this store came. */
  get replicasBefore(): number {
    return this.#replicasBefore;
  }

  /** Settings to put back. What has been changed once more since is left alone. */
  toPutBack(state: StreamState): Settings {
    const now = settingsOf(state.config);
    for (const [name, { sent }] of this.#takenBack) {
      if (!isSame(now.get(name), sent)) this.#takenBack.delete(name);
    }
    return new Map(Array.from(this.#takenBack, ([name, { was }]) => [name, was]));
  }

  /**
   * One update of a stream as it was just read. Answers JetStream's error, if there is one; throws where no answer came.
   * Settings are put back when the replicas are right: JetStream does not move and scale a stream at once.
   */
  async update(state: StreamState, replicas: number, call: Call, changes: Settings = NOTHING): Promise<Json> {
    const putBack = replicas === state.replicas ? this.toPutBack(state) : NOTHING;
    const config = withSettings(state.config, new Map([...putBack, ...changes]), replicas);
    const timeoutMs = this.#client.attemptMs(call);
    // In one go, and the look first: a process that is stopped before it sends them, or a connection that holds them
    // back, holds back both.
    const [looked, updated] = await Promise.allSettled([
      this.#client.api(`STREAM.INFO.${this.#stream}`, undefined, timeoutMs),
      this.#client.api(`STREAM.UPDATE.${this.#stream}`, config, timeoutMs),
    ]);
    if (looked.status === "fulfilled" && looked.value["error"] === undefined) {
      const before = asObject(looked.value["config"]);
      this.#replicasBefore = Math.max(this.#replicasBefore, Number(before["num_replicas"] ?? 0));
      const sent = settingsOf(config);
      for (const [name, was] of differences(settingsOf(state.config), settingsOf(before))) {
        // An answer from after the update shows what the update has put there.
        if (!isSame(was, sent.get(name))) this.#takenBack.set(name, { sent: sent.get(name), was });
      }
    }
    if (updated.status === "rejected") throw updated.reason;
    return asObject(updated.value["error"]);
  }
}
