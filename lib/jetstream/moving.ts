/**
 * A store in buckets as one side of a migration. Its state is the record of store-state.ts in both logs that commit,
 * `users` first: the steps are in importing.ts. The argument: docs/protocol.md, Q.
 */
import type { Call } from "../call.js";
import type { MoveFacts, MovingDriver, RecordReader, RecordNames } from "../driver.js";
import { StoreError } from "../errors.js";
import { checkFence, stepFrom } from "../moves.js";
import type { MoveReport, StepName } from "../moves.js";
import type { JetStreamClient } from "./client.js";
import { takenOver } from "./import-lanes.js";
import { endFence, floorOf, isRenewed, openBoth, readState, readStates, stateRecord, writeState } from "./importing.js";
import type { FoundStates } from "./importing.js";
import { streamState } from "./provisioning.js";
import type { Writable } from "./record-writer.js";
import { revisionOf, userVersions } from "./user-versions.js";
import type { UserVersions } from "./user-versions.js";

export class BucketsMoving implements MovingDriver {
  readonly #parts: Writable;
  readonly #client: JetStreamClient;
  readonly #name: string;
  readonly #read: (names: RecordNames | undefined, call: Call) => Promise<RecordReader>;
  /** As they were when a run began. */
  #versions: UserVersions | undefined;

  constructor(
    parts: Writable,
    client: JetStreamClient,
    prefix: string,
    read: (names: RecordNames | undefined, call: Call) => Promise<RecordReader>,
  ) {
    this.#parts = parts;
    this.#client = client;
    this.#name = `jetstream:${prefix}`;
    this.#read = read;
  }

  /** A stream that is removed and made anew is another one. */
  async identity(call: Call) {
    const { name } = this.#parts.users;
    const found = await streamState(this.#client, name, call);
    if (found === undefined) throw new StoreError("UNAVAILABLE", `The bucket ${name} is gone`);
    return { id: `${name} ${found.created}`, name: this.#name };
  }

  async state(call: Call) {
    return (await this.#states(call)).state;
  }

  #states(call: Call): Promise<FoundStates> {
    return readStates(this.#parts.users, this.#parts.log.buckets.rooms, call);
  }

  /** Before a fence is lifted: one that is on its way still has come, or does not come any more. */
  async #statesFor(name: StepName, call: Call): Promise<FoundStates> {
    const found = await this.#states(call);
    if (name !== "lift" || found.state.kind !== "open") return found;
    return (await isRenewed(this.#parts.users, found.users, call)) ? found : this.#states(call);
  }

  async fence(run: Parameters<MovingDriver["fence"]>[0], call: Call): Promise<void> {
    const { state, users, rooms } = await this.#states(call);
    checkFence(state);
    if (rooms.state.refusal !== undefined) throw takenOver();
    const record = stateRecord({ kind: "moving", run }, run.id, floorOf(users.value));
    await writeState(this.#parts.users, record, users.seq, call);
    await writeState(this.#parts.log.buckets.rooms, record, rooms.seq, call);
    // From here on nobody writes either who does not know of states.
    await this.#parts.settings.follow(call);
  }

  async step(name: StepName, id: string, report: MoveReport | undefined, call: Call): Promise<void> {
    const { users: bucket, settings } = this.#parts;
    // A late update of somebody else may have taken them back, and this step is the last one before the target opens.
    if (name === "leave") await settings.follow(call);
    const { rooms: other } = this.#parts.log.buckets;
    const { state, users, rooms } = await this.#statesFor(name, call);
    const next = stepFrom(state, name, id, report);
    const floor = floorOf(users.value);
    switch (name) {
      case "lift":
        await writeState(bucket, stateRecord(next, id, floor), users.seq, call);
        await endFence(other, rooms, id, call);
        await settings.follow(call);
        return;
      case "leave":
        // Both logs have to be fenced.
        if (rooms.name !== "moving" || rooms.value["id"] !== id) throw takenOver();
        await writeState(bucket, stateRecord(next, id, floor), users.seq, call);
        return;
      case "end": {
        const record = stateRecord(next, id, floor);
        await writeState(bucket, record, users.seq, call);
        await writeState(other, record, rooms.seq, call);
        await settings.follow(call);
        return;
      }
      case "arrive": {
        const value = { ...users.value, state: "opening" };
        const seq = await writeState(bucket, value, users.seq, call);
        await openBoth(bucket, other, { users: { ...users, value, seq }, rooms }, call);
        if ("was" in state && state.was !== undefined) await settings.follow(call);
        return;
      }
      case "giveUp":
        await writeState(bucket, stateRecord(next, String(users.value["id"]), floor), users.seq, call);
    }
  }

  async facts(call: Call): Promise<MoveFacts> {
    const { users, guard } = this.#parts;
    const adminEver = await guard.adminEver(call);
    // Behind the fence nobody waits for users to be counted once more.
    const { state } = await readState(users, call);
    this.#versions = await userVersions(this.#parts, state.isSource ? this.#versions : undefined, call);
    const { highest, meanwhile } = this.#versions;
    return { revisionCeiling: revisionOf(highest), revisionFloor: revisionOf(meanwhile), adminEver };
  }

  read(names: RecordNames | undefined, call: Call): Promise<RecordReader> {
    return this.#read(names, call);
  }
}
