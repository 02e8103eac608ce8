/**
 * What a holder may rely on between two looks.
 *
 * The kernel says who listens on a socket. But anybody can delete the socket's file, or rename the image. Then the next
 * opener does not find the holder. So the holder looks whether both are still in place. It allows and acknowledges only
 * while a look that found them began less than {@link LEASE_MS} ago. An opener that cannot tell whether the last holder
 * is gone waits longer than that before it reads (see lock.ts). So:
 *
 * 1. A look that found the socket began before the opener missed it.
 * 2. What the holder allows or acknowledges on that look happens before the opener reads. An acknowledged write was
 *    on the disk before, so the opener reads it.
 *
 * A look costs two stats in the thread pool. A check costs none: it compares clocks. After a longer sleep it looks
 * first.
 */
import { promises as fs } from "node:fs";
import type { BigIntStats } from "node:fs";
// Not the global timers: a window, or a test that stops time, replaces them.
import { clearTimeout, setTimeout } from "node:timers";
import { StoreError } from "../errors.js";
import { codeOf, isAbsent } from "./files.js";

export const LEASE_MS = 500;
/** How often the holder looks while the store is in use. */
const LOOK_EVERY_MS = 100;

/** A moment by two clocks. The monotonic one stands still while the machine sleeps. The wall clock can be set. */
interface Moment {
  readonly monotonic: number;
  readonly wall: number;
}

/** Whether this process may still rely on the state in its memory. */
export type Holding = Pick<Lease, "isCurrent" | "ensure" | "renew">;

/** A socket that no other process can remove. */
export const ALONE: Holding = { isCurrent: () => true, ensure: () => undefined, renew: () => Promise.resolve() };

export interface Places {
  readonly image: string;
  /** The socket's path, where it is a file. */
  readonly socket: string | undefined;
}

export class Lease {
  readonly #places: Places;
  readonly #lost: (error: StoreError) => void;
  #socket: string | undefined;
  /** The image. While a checkpoint replaces it, the old one and the new one. */
  #images: readonly string[] = [];
  #looked: Moment = { monotonic: -Infinity, wall: -Infinity };
  /** The millisecond of the wall clock at which both clocks were last read. */
  #checkedFor = NaN;
  /** Counts the calls of `doubt`. A look that began before one proves nothing after it. */
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

  /** Starts once this process holds the file and all files are in place. `lost` is called at most once. */
  static async begin(places: Places, lost: (error: StoreError) => void): Promise<Lease> {
    const lease = new Lease(places, lost);
    const { image, socket } = places;
    lease.#images = [identity(await fs.stat(image, { bigint: true }))];
    if (socket !== undefined) lease.#socket = identity(await fs.lstat(socket, { bigint: true }));
    return lease;
  }

  /** Why the process lost the file. It never holds it again. */
  get failure(): StoreError | undefined {
    return this.#failure;
  }

  /**
   * Whether this process surely holds the file at `now`, as `Date.now()` tells it. The monotonic clock is read once per
   * millisecond of the wall clock, and again whenever the timer fires.
   */
  isCurrent(now: number): boolean {
    return now === this.#checkedFor || this.#check(now);
  }

  /**
   * Waits, if needed, until the process surely holds the file. That can take several looks: one that takes longer than
   * it counts for is repeated. The caller's time may run out meanwhile, but nothing has failed. Rejects if another
   * process may hold the file, or if a look fails.
   */
  ensure(): Promise<void> | undefined {
    return this.isCurrent(Date.now()) ? undefined : this.#untilCurrent();
  }

  async #untilCurrent(): Promise<void> {
    do await this.#lookAfresh();
    while (!this.#check(Date.now()));
  }

  /** Rejects unless a look that begins now finds the file held by this process. */
  async renew(): Promise<void> {
    await this.#lookAfresh();
    // The process may have been stopped since then.
    if (!this.#check(Date.now())) throw unproved(this.#places.image, this.#failure);
  }

  /** Has `rename` give the image's name to the file `from`. Looks first: it must not replace another holder's image. */
  async replaceImage(from: string, rename: () => Promise<void>): Promise<void> {
    const next = identity(await fs.stat(from, { bigint: true }));
    await this.renew();
    this.#images = [...this.#images, next];
    await rename();
    this.#images = [next];
  }

  /** Something failed. A deleted file would explain it, so the next check looks first. */
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
    // If the wall clock was set back, it does not tell how much time has passed.
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

  /** Set again only if the store was used meanwhile. An idle store does nothing. */
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

  /**
   * One look at a time. Callers that arrive during a look share the next one, because this one began before they came.
   */
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
    // The image may be replaced meanwhile. Both the old and the new one are our own.
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
      // Any other error says nothing about names. The last look still counts for its time.
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
