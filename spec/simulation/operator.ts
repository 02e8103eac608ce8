/** What somebody with the server's credentials does to the streams while stores are open. */
import type { Chance } from "./chance.js";
import { isOld } from "./mix.js";
import type { SimulatedServers, World } from "./server.js";

const STREAMS = [
  "KV_users",
  "KV_users",
  "KV_rooms",
  "KV_members",
  "KV_members",
  "KV_rooms_by_member",
  "KV_room_keys",
] as const;
/** What a store takes to have missed nothing is less than a second: docs/protocol.md, L2. */
const LEAST_OUTAGE_MS = 1100;
const MOST_OUTAGE_MS = 4000;
/** Entries that a backup can be behind by, so that a stream can come to where it was. */
const MOST_LOST = 12;

/** What a stream was made to be that it was not, and for how long there is none. */
export interface Harm {
  readonly kind: "removed" | "restored";
  readonly stream: string;
  readonly outageMs: number;
}

export class Operator {
  readonly #world: World;
  readonly #servers: SimulatedServers;
  readonly #chance: Chance;

  constructor(world: World, servers: SimulatedServers, chance: Chance) {
    this.#world = world;
    this.#servers = servers;
    this.#chance = chance;
  }

  /** Does something, or nothing. */
  act(mayHarm: boolean): Harm | undefined {
    const { mix } = this.#world;
    const chance = this.#chance;
    // Servers of 2.11 refuse to raise what an operator has lowered: a store could not open.
    if (mix.replicas > 1 && !mix.versions.some(isOld) && chance.happens(mix.resizes)) {
      this.#servers.change(chance.of(STREAMS), { num_replicas: chance.of([1, 2, 3, 3, 5]) });
    }
    if (chance.happens(mix.settings)) this.#set();
    if (!mayHarm) return undefined;
    if (chance.happens(mix.removals)) return this.#remove("removed", () => 0);
    if (chance.happens(mix.restores))
      return this.#remove("restored", (end) => Math.max(0, end - 1 - chance.below(MOST_LOST)));
    return undefined;
  }

  /** Everything that stores cannot do without is as it was. */
  end(): void {
    for (const stream of new Set(STREAMS)) {
      if (this.#servers.stream(stream)?.config["allow_direct"] === false)
        this.#servers.change(stream, { allow_direct: true });
    }
  }

  #set(): void {
    const stream = this.#chance.of(STREAMS);
    if (this.#chance.happens(0.5)) {
      this.#servers.change(stream, { description: `set at ${this.#world.engine.now}` });
      return;
    }
    this.#servers.change(stream, { allow_direct: false });
    this.#world.engine.after(this.#chance.between(0, MOST_OUTAGE_MS), () => {
      this.#servers.change(stream, { allow_direct: true });
    });
  }

  #remove(kind: Harm["kind"], place: (end: number) => number): Harm | undefined {
    const stream = this.#chance.of(STREAMS);
    const putBack = this.#servers.remove(stream, place);
    if (putBack === undefined) return undefined;
    const outageMs = this.#chance.between(LEAST_OUTAGE_MS, MOST_OUTAGE_MS);
    this.#world.engine.after(outageMs, putBack);
    return { kind, stream, outageMs };
  }
}
