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

/** An update by this store. Whether it came is known by its answer, or by its id in the metadata. */
interface Sent {
  readonly id: string | undefined;
  readonly settings: Settings;
  /** Settings as others had changed them when it left. It takes them back where it comes. */
  readonly takesBack: Map<string, unknown>;
  hasCome: boolean;
}

/** So much longer than for another answer is waited for a look, which cannot be asked for again. */
const LOOK_ATTEMPTS = 5;
/** Updates that may still come, and what they take back. More than a store sends while one is on its way. */
const MAX_SENT = 16;
const STREAM_OFFLINE = 10118;

/** Changes the settings of one stream, again and again if need be, and remembers what its updates took back. */
export class StreamUpdates {
  readonly #client: JetStreamClient;
  readonly #stream: string;
  /** Oldest first. One without an answer can come at any time, also after a later one. */
  readonly #sent: Sent[] = [];
  /** The replicas that an update took the place of. */
  #replicasBefore = 0;

  constructor(client: JetStreamClient, stream: string) {
    this.#client = client;
    this.#stream = stream;
  }

  /** What JetStream refuses to have back stays as it is. Where there is no leader, it refuses nothing. */
  forget(refusal: Json): void {
    if (refusal["code"] === 503 || refusal["err_code"] === STREAM_OFFLINE) return;
    for (const { takesBack } of this.#sent) takesBack.clear();
  }

  /** The most replicas that were there when an update of this store came. */
  get replicasBefore(): number {
    return this.#replicasBefore;
  }

  /** Settings to put back. What has been changed once more since is left alone. */
  toPutBack({ config }: StreamState): Settings {
    this.#standing(config);
    const now = settingsOf(config);
    const found = new Map<string, unknown>();
    for (const { settings, takesBack, hasCome } of this.#sent) {
      // One that has not come yet has taken nothing back.
      if (!hasCome) continue;
      for (const [name, was] of takesBack) {
        if (isSame(now.get(name), settings.get(name))) found.set(name, was);
        else takesBack.delete(name);
      }
    }
    return found;
  }

  /**
   * One update of a stream as it was just read. Answers JetStream's error, if there is one; throws where no answer
   * came. Settings are put back when the replicas are right: JetStream does not move and scale a stream at once.
   */
  async update(state: StreamState, replicas: number, call: Call, changes: Settings = NOTHING): Promise<Json> {
    const putBack = replicas === state.replicas ? this.toPutBack(state) : NOTHING;
    const config = withSettings(state.config, new Map([...putBack, ...changes]), replicas);
    const sent: Sent = {
      id: raiseOf(config)?.id,
      settings: settingsOf(config),
      takesBack: new Map(),
      hasCome: false,
    };
    this.#sent.push(sent);
    if (this.#sent.length > MAX_SENT) this.#sent.shift();
    const timeoutMs = this.#client.attemptMs(call);
    // In one go, and the look first: a process that is stopped before it sends them, or a connection that holds them
    // back, holds back both. Nothing else can tell later what the look shows.
    const [looked, updated] = await Promise.allSettled([
      this.#client.api(`STREAM.INFO.${this.#stream}`, undefined, this.#client.attemptMs(call, LOOK_ATTEMPTS)),
      this.#client.api(`STREAM.UPDATE.${this.#stream}`, config, timeoutMs),
    ]);
    if (looked.status === "fulfilled" && looked.value["error"] === undefined) {
      const before = asObject(looked.value["config"]);
      this.#replicasBefore = Math.max(this.#replicasBefore, Number(before["num_replicas"] ?? 0));
      const standing = this.#standing(before);
      // What an update of this store has changed since the settings were read is nobody else's change.
      const isLate = standing !== undefined && standing.id !== state.raise?.id;
      const from = isLate ? standing.settings : settingsOf(state.config);
      for (const [name, was] of differences(from, settingsOf(before))) {
        // What is changed on purpose is not put back, whatever it took the place of.
        if (!changes.has(name) && !isSame(was, sent.settings.get(name))) sent.takesBack.set(name, was);
      }
    }
    if (updated.status === "rejected") throw updated.reason;
    const error = asObject(updated.value["error"]);
    if (error["code"] === undefined) sent.hasCome = true;
    else this.#sent.splice(this.#sent.indexOf(sent), 1);
    return error;
  }

  /** The update of this store that was the last one of any store, if it was one of this store. It has come. */
  #standing(config: Json): Sent | undefined {
    const id = raiseOf(config)?.id;
    const standing = id === undefined ? undefined : this.#sent.find((each) => each.id === id);
    if (standing !== undefined) standing.hasCome = true;
    return standing;
  }
}
