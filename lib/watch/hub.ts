/**
 * All watches of a store, over one feed. One thing is done after the other: the feed is asked, then a page of what
 * stands is read for whoever still needs it, then the feed is asked again. So what comes later is never older, and a
 * page is told together with what changed while it was read. While nobody watches nothing is asked. The argument:
 * docs/protocol.md, M10.
 */
import { clearTimeout, setTimeout } from "node:timers";
import type { WatchInput } from "../arguments.js";
import { openedBy, type Call } from "../call.js";
import { tell } from "../diagnostics.js";
import type { ChangeFeed, Changes, Driver, Wanted, WholeRoom } from "../driver.js";
import { StoreError, isNotFound, isStoreError } from "../errors.js";
import type { User, Watch } from "../store.js";
import { Watcher, type SnapshotPlace } from "./watcher.js";

/** The way to the driver. */
export interface WatchSource {
  readonly backend: string;
  readonly driver: Pick<Driver, "users" | "rooms" | "changes">;
  /** One step, as a call of the store: it ends in time, and with `CLOSED` when the store is closed. */
  step<T>(work: (call: Call) => Promise<T>): Promise<T>;
}

const USERS = 1000;
const ROOMS = 16;
/** After a step that failed the next one comes so much later, at most. */
const MAX_PAUSE_MS = 1000;

/** What stands, as it was read. */
interface PageOfState {
  readonly users: readonly User[];
  readonly rooms: readonly WholeRoom[];
  readonly next: SnapshotPlace | undefined;
}

export class WatchHub {
  readonly #source: WatchSource;
  readonly #watchers = new Set<Watcher>();
  #feed: ChangeFeed | undefined;
  /** What the feed was asked, until somebody has the answer. */
  #taking: Promise<Changes> | undefined;
  #isRunning = false;
  #isClosed = false;
  #asked = 0;
  #failures = 0;
  #timer: NodeJS.Timeout | undefined;
  #wake: (() => void) | undefined;
  /** Looked at whenever the feed is asked. */
  readonly #wanted: Wanted;

  constructor(source: WatchSource) {
    this.#source = source;
    const someKind = (kind: "members" | "roomKeys"): boolean =>
      [...this.#watchers].some(({ input }) => input.kinds.has(kind));
    this.#wanted = {
      get members() {
        return someKind("members");
      },
      get keys() {
        return someKind("roomKeys");
      },
    };
  }

  watch(input: WatchInput): Watch {
    const watcher = new Watcher(
      input,
      () => this.#wake?.(),
      (over) => {
        this.#watchers.delete(over);
        this.#wake?.();
      },
    );
    if (watcher.isOver) return watcher;
    if (this.#isClosed) {
      watcher.fail(new StoreError("CLOSED", "The store is closed"));
      return watcher;
    }
    this.#watchers.add(watcher);
    this.#wake?.();
    if (!this.#isRunning) void this.#run();
    return watcher;
  }

  close(): void {
    this.#isClosed = true;
    for (const watcher of [...this.#watchers]) watcher.finish();
    this.#wake?.();
  }

  async #run(): Promise<void> {
    this.#isRunning = true;
    // Whoever began it gets his watch first.
    await Promise.resolve();
    while (this.#watchers.size > 0) {
      try {
        await this.#round();
        this.#failures = 0;
      } catch (error) {
        this.#failures++;
        if (isEnd(error)) for (const watcher of [...this.#watchers]) watcher.fail(error);
      }
      if (this.#watchers.size > 0) await this.#pause();
    }
    this.#feed?.close();
    this.#feed = undefined;
    this.#taking = undefined;
    this.#isRunning = false;
  }

  /** What changed, and for each who still needs it a page of what stands. */
  async #round(): Promise<void> {
    this.#asked = performance.now();
    if (this.#feed === undefined) {
      this.#feed = await openedBy<ChangeFeed>(
        (work) => this.#source.step(work),
        (call) => this.#source.driver.changes.follow(call, this.#wanted),
      );
      for (const watcher of this.#watchers) watcher.isFollowing = false;
    }
    this.#tell(await this.#take());
    for (const watcher of [...this.#watchers]) {
      const { snapshot } = watcher;
      if (watcher.isOver || snapshot === undefined || !watcher.isHungry) continue;
      const page = await this.#read(watcher.input, snapshot);
      const changes = await this.#take();
      // What changed meanwhile is told as it changed.
      if (!changes.lost && watcher.snapshot === snapshot) addPage(watcher, page, changes);
      this.#tell(changes);
    }
  }

  async #take(): Promise<Changes> {
    const feed = this.#feed;
    if (feed === undefined) throw new StoreError("UNAVAILABLE", "Nothing is followed");
    // Who comes while it is asked hears of what comes after.
    const ready = [...this.#watchers];
    const changes = await this.#source.step((call) => this.#answerOf(feed, call));
    this.#taking = undefined;
    for (const watcher of ready) watcher.isFollowing = true;
    return changes;
  }

  /** What a feed has given counts as taken: an answer that came too late for one step is that of the next. */
  async #answerOf(feed: ChangeFeed, call: Call): Promise<Changes> {
    const taking = (this.#taking ??= feed.take(call));
    try {
      return await taking;
    } catch (error) {
      if (this.#taking === taking) this.#taking = undefined;
      throw error;
    }
  }

  #tell(changes: Changes): void {
    let isResync = false;
    for (const watcher of [...this.#watchers]) {
      if (!watcher.isFollowing) continue;
      if (changes.lost || !watcher.queue.add(changes)) {
        watcher.resync();
        isResync = true;
        continue;
      }
      if (watcher.snapshot === undefined) watcher.queue.prove(changes.asOf);
      watcher.deliver();
    }
    if (isResync) tell({ type: "resync", backend: this.#source.backend });
  }

  async #read({ kinds, key, roomId }: WatchInput, { stage, after }: SnapshotPlace): Promise<PageOfState> {
    const { users } = this.#source.driver;
    if (stage === "users") {
      const rooms: SnapshotPlace = { stage: "rooms", after: undefined };
      if (!kinds.has("users")) return { users: [], rooms: [], next: rooms };
      if (key !== undefined) {
        const found = await this.#unlessMissing((call) => users.get(key, call));
        return { users: found === undefined ? [] : [found], rooms: [], next: rooms };
      }
      const { items, next } = await this.#source.step((call) => users.list({ after, limit: USERS }, call));
      return { users: items, rooms: [], next: next === undefined ? rooms : { stage: "users", after: next } };
    }
    if (!kinds.has("rooms") && !kinds.has("members") && !kinds.has("roomKeys"))
      return { users: [], rooms: [], next: undefined };
    if (roomId !== undefined) return { users: [], rooms: await this.#rooms([roomId]), next: undefined };
    const page = await this.#source.step((call) => this.#source.driver.rooms.list({ after, limit: ROOMS }, call));
    const rooms = await this.#rooms(page.items.map(({ id }) => id));
    return { users: [], rooms, next: page.next === undefined ? undefined : { stage: "rooms", after: page.next } };
  }

  async #rooms(ids: readonly string[]): Promise<WholeRoom[]> {
    const { changes } = this.#source.driver;
    const found = await Promise.all(ids.map((id) => this.#source.step((call) => changes.room(id, call))));
    return found.filter((room) => room !== undefined);
  }

  async #unlessMissing<T>(work: (call: Call) => Promise<T>): Promise<T | undefined> {
    try {
      return await this.#source.step(work);
    } catch (error) {
      if (isNotFound(error)) return undefined;
      throw error;
    }
  }

  /** Until a proof is due, or somebody wants more. */
  async #pause(): Promise<void> {
    const watchers = [...this.#watchers];
    const wantsMore = (): boolean =>
      [...this.#watchers].some(
        ({ isFollowing, snapshot, isHungry }) => !isFollowing || (snapshot !== undefined && isHungry),
      );
    const every = Math.min(...watchers.map(({ input }) => input.proveEveryMs));
    const failed = this.#failures > 0;
    const ms = failed
      ? Math.min(MAX_PAUSE_MS, 10 * 2 ** Math.min(this.#failures, 10))
      : every - (performance.now() - this.#asked);
    if (!failed && wantsMore()) {
      await new Promise<void>((resolve) => setImmediate(resolve));
      return;
    }
    await new Promise<void>((resolve) => {
      const wake = (): void => {
        if (!this.#isClosed && this.#watchers.size > 0 && (failed || !wantsMore())) return;
        resolve();
      };
      this.#wake = wake;
      this.#timer = setTimeout(resolve, Math.max(1, Math.ceil(ms)));
    });
    clearTimeout(this.#timer);
    this.#wake = undefined;
  }
}

function addPage(watcher: Watcher, { users, rooms, next }: PageOfState, changes: Changes): void {
  for (const user of users) if (!changes.users.has(user.key)) watcher.queue.addUser(user);
  for (const whole of rooms) {
    const changed = changes.rooms.get(whole.room.id);
    if (changed?.deleted === true) continue;
    // Of what has changed in it the feed tells. The rest stands as it was read.
    watcher.queue.addRoom({
      room: changed?.room ?? whole.room,
      members: whole.members.filter(({ endpoint }) => changed?.members.has(endpoint) !== true),
      keys: whole.keys,
    });
  }
  watcher.snapshot = next;
}

/** What does not pass by waiting. */
function isEnd(error: unknown): boolean {
  return isStoreError(error) && (error.code === "CLOSED" || error.code === "INCOMPATIBLE");
}
