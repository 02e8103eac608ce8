/**
 * What a holder may rest on between two looks. The kernel says who listens on a socket, but anybody can delete the
 * socket's file, or give the image another name: then the next opener does not find the holder. So the holder looks
 * whether both are still where they were, and allows and acknowledges only while a look that found them began less than
 * {@link LEASE_MS} ago. An opener that cannot tell that the last holder is gone waits for longer than that before it
 * reads (see lock.ts):
 *
 * 1. A look that found the socket began before the opener missed it.
 * 2. So what the holder allows or acknowledges by that look, it does before the opener reads. A write that is
 *    acknowledged was on the disk before, and is read.
 *
 * A look takes the thread pool two stats. A check takes none: it compares clocks, and what has slept for longer looks
 * first.
 */
import { promises as fs } from "node:fs";
import type { BigIntStats } from "node:fs";
// Not the global ones, which a window, or a test that has time stand still, replaces by others.
import { clearTimeout, setTimeout } from "node:timers";
import { StoreError } from "../errors.js";
import { codeOf, isAbsent } from "./files.js";

export const LEASE_MS = 500;
/** How often it is looked while the store is in use. */
const LOOK_EVERY_MS = 100;

/** A moment by two clocks: the monotonic one stands still while the machine sleeps, the wall clock can be set. */
interface Moment {
  readonly monotonic: number;
  readonly wall: number;
}

/** Whether this process holds the state that it has in memory. */
export type Holding = Pick<Lease, "isCurrent" | "ensure" | "renew">;

/** What no other process can reach. */
export const ALONE: Holding = { isCurrent: () => true, ensure: () => undefined, renew: () => Promise.resolve() };

export interface Places {
  readonly image: string;
  /** Where it is a file. */
  readonly socket: string | undefined;
}

export class Lease {
  readonly #places: Places;
  readonly #lost: (error: StoreError) => void;
  #socket: string | undefined;
  /** The image, and while it gets another, both. */
  #images: readonly string[] = [];
  #looked: Moment = { monotonic: -Infinity, wall: -Infinity };
  /** The millisecond of the wall clock for which both clocks were asked. */
  #checkedFor = NaN;
  /** Counts the calls of `doubt`: a look that began before one proves nothing after it. */
  #doubts = 0;
  #used = false;
  #timer: NodeJS.Timeout | undefined;
  #running: Promise<void> | undefined;
  #next: Promise<void> | undefined;
  #failure: StoreError | undefined;
  #closed = false;

  private constructor(places: Places, lost: (error: StoreError) => void) {
    this.#places = places;
    this.#lost = lost;
  }

  /** Begins when this process holds the file and all files are in place. `lost` is called at most once. */
  static async begin(places: Places, lost: (error: StoreError) => void): Promise<Lease> {
    const lease = new Lease(places, lost);
    const { image, socket } = places;
    lease.#images = [identity(await fs.stat(image, { bigint: true }))];
    if (socket !== undefined) lease.#socket = identity(await fs.lstat(socket, { bigint: true }));
    return lease;
  }

  /** Why it does not hold the file any more. It never does again. */
  get failure(): StoreError | undefined {
    return this.#failure;
  }

  /**
   * Whether this process surely holds the file at `now`, which is the time by `Date.now()`. The monotonic clock is
   * asked once for each millisecond of the wall clock, and anew whenever the timer fires.
   */
  isCurrent(now: number): boolean {
    return now === this.#checkedFor || this.#check(now);
  }

  /**
   * Waits, if that is needed, until the process surely holds the file, however many looks that takes: where one takes
   * longer than it counts, a caller's time may run out, but nothing has failed. Rejects if another may hold the file,
   * or a look fails.
   */
  ensure(): Promise<void> | undefined {
    return this.isCurrent(Date.now()) ? undefined : this.#untilCurrent();
  }

  async #untilCurrent(): Promise<void> {
    do await this.#lookAfresh();
    while (!this.#check(Date.now()));
  }

  /** Rejects unless a look that begins now finds that the process holds the file. */
  async renew(): Promise<void> {
    await this.#lookAfresh();
    // Somebody may have stopped the process since then.
    if (!this.#check(Date.now())) throw unproved(this.#places.image, this.#failure);
  }

  /**
   * Has `rename` give the image's name to the file `from`. Looks first: another holder's image is not to be replaced.
   */
  async replaceImage(from: string, rename: () => Promise<void>): Promise<void> {
    const next = identity(await fs.stat(from, { bigint: true }));
    await this.renew();
    this.#images = [...this.#images, next];
    await rename();
    this.#images = [next];
  }

  /** Something failed, and a deleted file would explain it. The next check looks first. */
  doubt(): void {
    this.#doubts++;
    this.#looked = { monotonic: -Infinity, wall: -Infinity };
    this.#checkedFor = NaN;
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
  }

  #check(now: number): boolean {
    const { monotonic, wall } = this.#looked;
    // A wall clock that was set back says nothing of the time since.
    if (
      this.#failure !== undefined ||
      performance.now() - monotonic >= LEASE_MS ||
      now - wall >= LEASE_MS ||
      now < wall
    )
      return false;
    this.#checkedFor = now;
    this.#used = true;
    if (this.#timer === undefined) this.#setTimer();
    return true;
  }

  /** Without a use in between it is not set again: an idle store does nothing. */
  #setTimer(): void {
    if (this.#closed) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#checkedFor = NaN;
      if (!this.#used) return;
      this.#used = false;
      this.#setTimer();
      if (this.#running === undefined) void this.#lookAfresh().catch(() => undefined);
    }, LOOK_EVERY_MS);
    this.#timer.unref();
  }

  /** One at a time. Whoever comes while one is under way shares the next: that one began before they came. */
  #lookAfresh(): Promise<void> {
    if (this.#running === undefined) {
      const look = this.#look().finally(() => {
        if (this.#running === look) this.#running = undefined;
      });
      this.#running = look;
      return look;
    }
    this.#next ??= this.#running
      .catch(() => undefined)
      .then(() => {
        this.#next = undefined;
        return this.#lookAfresh();
      });
    return this.#next;
  }

  async #look(): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    const began: Moment = { monotonic: performance.now(), wall: Date.now() };
    const doubts = this.#doubts;
    // The image may be replaced meanwhile: either is the own one.
    const images = this.#images;
    const { image, socket } = this.#places;
    try {
      const [foundImage, foundSocket] = await Promise.all([
        fs.stat(image, { bigint: true }),
        socket === undefined ? undefined : fs.lstat(socket, { bigint: true }),
      ]);
      if (![...images, ...this.#images].includes(identity(foundImage)))
        throw this.#lose(`${image} is another file now`);
      if (foundSocket !== undefined && identity(foundSocket) !== this.#socket)
        throw this.#lose(`${String(socket)} is another file now`);
    } catch (error) {
      // Any other error says nothing about names. The last look still counts, for its time.
      if (isAbsent(error) || codeOf(error) === "ENOTDIR")
        throw this.#lose(error instanceof Error ? error.message : "a file is gone");
      throw error;
    }
    if (doubts !== this.#doubts) return this.#look();
    this.#looked = began;
    this.#checkedFor = NaN;
  }

  #lose(what: string): StoreError {
    if (this.#failure === undefined) {
      this.#failure = new StoreError("UNAVAILABLE", `The store no longer holds its file, and another may: ${what}`);
      this.#checkedFor = NaN;
      this.#lost(this.#failure);
    }
    return this.#failure;
  }
}

function identity({ dev, ino }: BigIntStats): string {
  return `${String(dev)}:${String(ino)}`;
}

function unproved(image: string, failure: StoreError | undefined): StoreError {
  return failure ?? new StoreError("UNAVAILABLE", `It was not told in time that the store holds ${image}`);
}
