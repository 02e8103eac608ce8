/** All records of a store into another one, while both are used. Why it is right: docs/migration.md. */
import { randomBytes } from "node:crypto";
import * as args from "../arguments.js";
import type { ChangeFeed, RecordReader, RecordWriter, StoredRecord } from "../driver.js";
import type { MoveRun, MoveReport } from "../moves.js";
import { isConflict, isUnavailable } from "../errors.js";
import { revisionFloorFrom } from "../rules.js";
import type { Store } from "../store.js";
import { Ledger, Parts } from "./ledger.js";
import { Names, chunksOf } from "./names.js";
import { BulkWork, totalOf } from "./options.js";
import type { BulkOptions, Counts } from "./options.js";
import { conflict, finish, goOn, pairOf } from "./pair.js";
import type { Pair, Side } from "./pair.js";

export interface MigrateOptions extends BulkOptions {
  /**
   * Fences the source for the last changes, and ends it. From then on the target is the store, and the source allows
   * nobody and opens no more. Default `false`: the copy is made and compared, the source goes on, and the target stays
   * closed.
   */
  cutOver?: boolean;
}

/** What was moved. */
export interface MigrationReport {
  counts: Counts;
  /** The digest of the content of both, which was compared. Every store that holds the same has it. */
  digest: string;
  /** How long nobody was allowed, on either side. 0 without `cutOver`. */
  fencedMs: number;
}

/** Rounds go on until one is as small, and as short. Then the next one may be in the pause. */
const SMALL = 64;
const SHORT_MS = 250;
/**
 * If others write as fast as this copies, rounds get no smaller. After so many of that kind the pause takes what is
 * left.
 */
const MAX_VAIN = 3;
const SMALLER = 0.75;

/**
 * Moves everything that `from` holds to `to`, between any two backends. `to` has to be empty: it holds no user and no
 * room, and never had an admin. Otherwise it is `CONFLICT`, and `to` is left as it was. The source goes on meanwhile,
 * and what changes is followed.
 *
 * With `cutOver` the source is fenced for a moment: every store of it denies every check, and each write is
 * `UNAVAILABLE` with outcome `none`, `details.movingTo` and `details.since`. What was acknowledged before is moved, and
 * both sides are compared record by record. Then the source's end is made final: opening it is `INCOMPATIBLE` from then
 * on, with `details.movedTo`. Only then does the target open. At no instant do both allow.
 *
 * Without `cutOver` it is `CONFLICT` if the source was written to meanwhile. The target stays closed either way: go on
 * with `cutOver`, which copies anew, or give it up with `endMigration`.
 *
 * If it is killed at any instant, run it again: it ends the same. A run that fails opens the source that it has fenced,
 * if it can. Of two that run one wins, and the other is `CONFLICT`. The same store on both sides, or one of another
 * library, is `INVALID_ARGUMENT`.
 *
 * @example
 * const { digest, fencedMs } = await migrate(sqlite, cluster, { cutOver: true });
 */
export async function migrate(from: Store, to: Store, options?: MigrateOptions): Promise<MigrationReport> {
  const source = new BulkWork(from, "from", options, ["cutOver"]);
  const target = new BulkWork(to, "to", options, ["cutOver"]);
  const { cutOver = false } = options ?? {};
  if (typeof cutOver !== "boolean") throw args.invalid("options.cutOver", "a boolean");
  const pair = await pairOf(source, target);
  for (;;) {
    const before = await goOn(pair, cutOver);
    if (before !== undefined) return reportOf(await finish(pair, before), Date.now() - before.since);
    const report = await new Migration(pair).run(cutOver);
    if (report !== undefined) return report;
  }
}

const reportOf = ({ counts, digest }: MoveReport, fencedMs: number): MigrationReport => ({
  counts: { ...counts },
  digest,
  fencedMs: Math.max(0, fencedMs),
});

class Migration {
  readonly #pair: Pair;
  readonly #id = randomBytes(16).toString("hex");
  /** What the target is to hold. */
  readonly #ledger = new Ledger();

  constructor(pair: Pair) {
    this.#pair = pair;
  }

  /** `undefined`: another run has come to a later state meanwhile, and this one begins from that. */
  async run(cutOver: boolean): Promise<MigrationReport | undefined> {
    const { source, target } = this.#pair;
    const facts = await source.work.step((call) => source.work.store.moving.facts(call));
    const floor = revisionFloorFrom(facts.revisionFloor);
    const writer = await this.#takeOver(floor);
    if (writer === undefined) return undefined;
    try {
      target.work.progress.begin("clear");
      while (await target.work.step((call) => writer.clear(call))) target.work.progress.advance(1);
      if (await this.#isFenced(writer)) return undefined;
      const { store } = source.work;
      const feed = await this.#follow();
      if (feed === undefined) return undefined;
      try {
        return await this.#followed(feed, writer, floor, cutOver);
      } finally {
        store.closeFeed(feed);
      }
    } finally {
      writer.release();
    }
  }

  async #takeOver(floor: number): Promise<RecordWriter | undefined> {
    const { source, target } = this.#pair;
    const { records } = target.work.store;
    try {
      return await target.work.step((call) => records.write(floor, this.#run(source), call));
    } catch (error) {
      if (!isConflict(error)) throw error;
      const { kind, run } = await target.state();
      if (kind === "complete" && run.peer.id === source.identity.id) return undefined;
      throw error;
    }
  }

  /** `undefined`: the source is fenced just now. */
  async #follow(): Promise<ChangeFeed | undefined> {
    const { source, target } = this.#pair;
    const { store } = source.work;
    try {
      return await source.work.step((call) => store.follow(store.changes.follow(call), call));
    } catch (error) {
      if (isUnavailable(error) && error.details?.["movingTo"] === target.identity.name) return undefined;
      throw error;
    }
  }

  /**
   * Whether the source was fenced since it was asked, by a run that can no longer say that everything is there.
   *
   * It may have ended since. Then another run has opened the target, which holds nothing: else it would not have been
   * taken for an empty one.
   */
  async #isFenced(writer: RecordWriter): Promise<boolean> {
    const { source, target } = this.#pair;
    const { kind } = await source.state();
    if (kind !== "leaving" && kind !== "moved") return kind === "moving";
    await target.work.step((call) => writer.seal(call));
    await target.work.step((call) => writer.giveBack(call));
    throw conflict("Another run of the migration has ended it");
  }

  #run({ identity }: Side): MoveRun {
    return { id: this.#id, peer: identity, since: Date.now() };
  }

  async #followed(feed: ChangeFeed, writer: RecordWriter, floor: number, cutOver: boolean): Promise<MigrationReport> {
    const { source, target } = this.#pair;
    await this.#copy(writer);
    await this.#verify(writer, undefined);
    let names = await this.#differing();
    names = await this.#changed(feed, names);
    if (!cutOver) {
      if (names.size > 0) throw conflict("The source was written to meanwhile. The target stays closed");
      const { adminEver } = await source.work.step((call) => source.work.store.moving.facts(call));
      return reportOf({ counts: this.#ledger.counts, digest: this.#ledger.digest(adminEver) }, 0);
    }
    target.work.progress.begin("follow");
    let least = Infinity;
    for (let vain = 0, isOver = false; !isOver && vain < MAX_VAIN;) {
      const began = performance.now();
      const { size } = names;
      await this.#bring(writer, names);
      target.work.progress.advance(size);
      isOver = size <= SMALL && performance.now() - began <= SHORT_MS;
      if (size >= least * SMALLER) vain++;
      least = Math.min(least, size);
      names = await this.#changed(feed, new Names());
    }
    return this.#cutOver(feed, writer, floor, names);
  }

  /** The pause: from the fence until the target is open. */
  async #cutOver(feed: ChangeFeed, writer: RecordWriter, floor: number, before: Names): Promise<MigrationReport> {
    const { source, target } = this.#pair;
    const { moving } = source.work.store;
    target.work.progress.begin("cut over");
    const began = performance.now();
    let report: MoveReport;
    try {
      await source.work.step((call) => moving.fence(this.#run(target), call));
      await this.#bring(writer, await this.#changed(feed, before));
      const { adminEver, revisionCeiling } = await source.work.step((call) => moving.facts(call));
      if (revisionCeiling > floor) throw conflict("The source gave more revisions than were left to it. Migrate again");
      const { counts } = this.#ledger;
      const compared = { counts, digest: this.#ledger.digest(adminEver) };
      report = compared;
      await target.work.step((call) => writer.complete(compared, adminEver, call));
      await source.step("leave", this.#id, report);
    } catch (error) {
      // If the source has left already, it says so, and stays as it is.
      await source.work.undo((call) => moving.step("lift", this.#id, undefined, call)).catch(() => undefined);
      throw error;
    }
    await target.step("arrive", this.#id);
    const fencedMs = performance.now() - began;
    await source.step("end", this.#id);
    target.work.progress.end();
    return reportOf(report, fencedMs);
  }

  async #copy(writer: RecordWriter): Promise<void> {
    const { source, target } = this.#pair;
    const { store } = source.work;
    const reader = await source.work.step((call) => store.begin(store.moving.read(undefined, call), call));
    target.work.progress.begin("copy", totalOf(reader.expected));
    await this.#transfer(reader, writer, new Names());
    target.work.progress.end(totalOf(this.#ledger.counts));
    await target.work.step((call) => writer.seal(call));
  }

  /** Writes what is read, and notes it. Takes out of `names` what is met. */
  async #transfer(reader: RecordReader, writer: RecordWriter, names: Names): Promise<void> {
    const { target } = this.#pair;
    const parts = new Parts();
    const note = (found: Iterable<Parameters<Ledger["set"]>[0]>): void => {
      for (const part of found) {
        this.#ledger.set(part);
        names.delete(part);
      }
    };
    let writing: Promise<void> = Promise.resolve();
    try {
      for await (const page of pagesOf(this.#pair.source, reader)) {
        await writing;
        note(parts.add(page));
        writing = target.work.step((call) => writer.write(page, call));
        // The error is heard at the next page, or at the end.
        writing.catch(() => undefined);
        target.work.progress.advance(page.length);
      }
    } finally {
      await writing;
    }
    note(parts.end());
  }

  /** Brings what is named to the target as it stands on the source now, and reads it back. */
  async #bring(writer: RecordWriter, names: Names): Promise<void> {
    const { source, target } = this.#pair;
    const { store } = source.work;
    for (const chunk of chunksOf(names)) {
      await target.work.step((call) => writer.renew(chunk, call));
      const gone = new Names(chunk);
      const reader = await source.work.step((call) => store.begin(store.moving.read(chunk, call), call));
      await this.#transfer(reader, writer, gone);
      for (const named of gone) {
        if (named.kind === "user" && this.#ledger.has(named))
          throw conflict("A user has gone from the source, whose records stay for ever");
        this.#ledger.delete(named);
      }
    }
    await target.work.step((call) => writer.seal(call));
    if (names.size > 0) await this.#verify(writer, names);
  }

  /** Compares what stands in the target with what is to be there: some names, or all. */
  async #verify(writer: RecordWriter, names: Names | undefined): Promise<void> {
    const { target } = this.#pair;
    const { store } = target.work;
    if (names === undefined) target.work.progress.begin("verify", this.#ledger.size);
    const missing = new Names(names ?? { users: [], rooms: [] });
    let met = 0;
    for (const chunk of names === undefined ? [undefined] : chunksOf(names)) {
      const reader = await target.work.step((call) => store.begin(writer.read(chunk, call), call));
      for await (const part of partsOf(target, reader)) {
        if (!this.#ledger.holds(part)) throw differs();
        missing.delete(part);
        met++;
        if (names === undefined) target.work.progress.advance(1);
      }
    }
    for (const named of missing) if (this.#ledger.has(named)) throw differs();
    if (names === undefined && met !== this.#ledger.size) throw differs();
  }

  /** Compares all of the source with what was read of it before. Answers what differs by now. */
  async #differing(): Promise<Names> {
    const { source, target } = this.#pair;
    const { store } = source.work;
    const reader = await source.work.step((call) => store.begin(store.moving.read(undefined, call), call));
    target.work.progress.begin("compare", this.#ledger.size);
    const others = new Names();
    const met = new Set<string>();
    for await (const part of partsOf(source, reader)) {
      if (!this.#ledger.holds(part)) others.add(part);
      met.add(`${part.kind} ${part.name}`);
      target.work.progress.advance(1);
    }
    for (const named of this.#ledger.names()) if (!met.has(`${named.kind} ${named.name}`)) others.add(named);
    return others;
  }

  /** What has changed since it was asked last, beside `names`. */
  async #changed(feed: ChangeFeed, names: Names): Promise<Names> {
    const { source } = this.#pair;
    const { lost, users, rooms } = await source.work.step((call) => feed.take(call));
    if (lost) return this.#differing();
    for (const name of users.keys()) names.add({ kind: "user", name });
    for (const name of rooms.keys()) names.add({ kind: "room", name });
    return names;
  }
}

const differs = () =>
  conflict("What stands in the target is not what was read: another writer came between. Migrate again");

/** Reads to the end. The next page is asked for while one is used. */
async function* pagesOf({ work }: Side, reader: RecordReader): AsyncIterable<readonly StoredRecord[]> {
  const next = (): Promise<readonly StoredRecord[] | undefined> => {
    const page = work.step((call) => reader.next(call));
    page.catch(() => undefined);
    return page;
  };
  let waiting = next();
  try {
    for (;;) {
      const page = await waiting;
      if (page === undefined) return;
      waiting = next();
      yield page;
    }
  } finally {
    await waiting.catch(() => undefined);
    await work.store.close(reader);
  }
}

async function* partsOf(side: Side, reader: RecordReader) {
  const parts = new Parts();
  for await (const page of pagesOf(side, reader)) yield* parts.add(page);
  yield* parts.end();
}
