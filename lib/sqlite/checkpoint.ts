/**
 * Checkpoints: the log goes on in a new segment, the image is brought up to date with the old one, written beside the
 * file and renamed over it. At every moment the files are an image and the segments that lead from it to now.
 */
// Node's own timers. A window, or a test that stops time, replaces the global ones.
import { clearTimeout, setTimeout } from "node:timers";
import { StoreError } from "../errors.js";
import { MAX_LOG_BYTES } from "./budget.js";
import { removeIfThere, syncFolderOf } from "./files.js";
import { renameImage, temporaryImagePath } from "./image-maker.js";
import type { ImageMaker } from "./image-maker.js";
import type { Journal } from "./journal.js";
import type { Lease } from "./lease.js";
import type { Recovered } from "./recovery.js";
import { Segment } from "./segment.js";
import type { Watermark } from "./watermark.js";

const MIN_LOG_BYTES = 32 * 1024 * 1024;
/** At this length a checkpoint begins, however large the image is: the log is far from full, and is read quickly. */
const LARGE_LOG_BYTES = MAX_LOG_BYTES / 4;
/** After a checkpoint that failed. Each further one waits twice as long, up to the second. */
const MIN_PAUSE_MS = 1000;
const MAX_PAUSE_MS = 300_000;

/** What became of a checkpoint: see `SqliteOptions.onCheckpoint`. */
export interface CheckpointResult {
  readonly ok: boolean;
  /** Bytes of the file that was written; of a checkpoint that failed, of the log that stays. */
  readonly bytes: number;
  readonly durationMs: number;
  /** Why it failed: `UNAVAILABLE`, with the system's error as its cause. */
  readonly error?: StoreError;
}

/** A log that no transaction is added to any more. */
export interface OldLog {
  readonly path: string;
  readonly generation: number;
  /** The last transaction in it. `undefined` if that is not known here. */
  readonly sequence: number | undefined;
  /** Bytes of records. */
  readonly length: number;
  close(): Promise<void>;
}

interface Unpublished {
  readonly old: OldLog;
  renamed: boolean;
}

export class Checkpoints {
  readonly #path: string;
  readonly #database: string;
  readonly #journal: Journal;
  readonly #watermark: Watermark;
  readonly #maker: ImageMaker;
  readonly #report: (result: CheckpointResult) => void;
  readonly #lease: Lease;
  #segment: Segment;
  #imageBytes: number;
  #unpublished: Unpublished | undefined;
  #running: Promise<void> | undefined;
  #stopped = false;
  /** After a failure, how long it waits before the next attempt, and what it waits for. */
  #pauseMs = 0;
  #retry: NodeJS.Timeout | undefined;
  #closing = false;

  constructor(
    path: string,
    recovered: Recovered,
    journal: Journal,
    maker: ImageMaker,
    lease: Lease,
    report: (result: CheckpointResult) => void,
  ) {
    this.#path = path;
    this.#database = recovered.database;
    this.#journal = journal;
    this.#segment = recovered.segment;
    this.#watermark = recovered.watermark;
    this.#lease = lease;
    this.#imageBytes = recovered.imageBytes;
    this.#maker = maker;
    this.#report = report;
    if (recovered.unfinished !== undefined) this.#unpublished = { old: recovered.unfinished, renamed: false };
  }

  /** Called after each batch: starts a checkpoint once the log has outgrown the image, or where one is unfinished. */
  consider(): void {
    if (this.#running !== undefined && this.#isLate) this.#maker.hurry();
    if (this.#running !== undefined || this.#stopped || this.#closing || this.#retry !== undefined) return;
    if (this.#unpublished === undefined && this.#segment.length < this.#threshold) return;
    void this.#start();
  }

  /** Of the image and its logs: what a checkpoint may have to read and write. */
  get bytes(): number {
    return this.#imageBytes + (this.#unpublished?.old.length ?? 0) + this.#segment.length;
  }

  /** Whether the log that goes on would need the next checkpoint by now: it must not be full before this one ends. */
  get #isLate(): boolean {
    return this.#closing || (this.#unpublished !== undefined && this.#segment.length >= this.#threshold);
  }

  get #threshold(): number {
    return Math.min(LARGE_LOG_BYTES, Math.max(MIN_LOG_BYTES, this.#imageBytes));
  }

  /** Never rejects: a checkpoint that fails leaves the image and the logs as they were, and is tried again. */
  #start(): Promise<void> {
    this.#running ??= this.#timed().finally(() => {
      this.#running = undefined;
      // The log that goes on may be full by now, and then nobody's batch asks.
      this.consider();
    });
    return this.#running;
  }

  async #timed(): Promise<void> {
    const began = performance.now();
    try {
      await this.#run();
      this.#pauseMs = 0;
      this.#report({ ok: true, bytes: this.#imageBytes, durationMs: performance.now() - began });
    } catch (cause) {
      this.#retryLater();
      const reason = cause instanceof Error ? cause.message : "unknown";
      const error = new StoreError("UNAVAILABLE", `The checkpoint failed (${reason}); the log has everything`, {
        cause,
      });
      this.#report({
        ok: false,
        bytes: (this.#unpublished?.old ?? this.#segment).length,
        durationMs: performance.now() - began,
        error,
      });
    }
  }

  #retryLater(): void {
    if (this.#stopped || this.#closing) return;
    this.#pauseMs = Math.min(MAX_PAUSE_MS, Math.max(MIN_PAUSE_MS, this.#pauseMs * 2));
    this.#retry = setTimeout(() => {
      this.#retry = undefined;
      this.consider();
    }, this.#pauseMs);
    this.#retry.unref();
  }

  async #run(): Promise<void> {
    if (this.#unpublished === undefined) {
      const old = this.#segment;
      await this.#lease.renew();
      const next = await Segment.create(this.#path, {
        database: this.#database,
        generation: old.generation + 1,
        seal: undefined,
      });
      if (this.#stopped) {
        await next.close();
        return;
      }
      await this.#journal.switchTo(this.#watermark.guard(next));
      this.#segment = next;
      this.#unpublished = { old, renamed: false };
    }
    await this.#publish(this.#unpublished);
    this.#unpublished = undefined;
  }

  /** Puts everything into the file, as far as the disk allows, and closes the log. */
  async close(): Promise<void> {
    this.#closing = true;
    // Only the caller of `close` still waits for the disk.
    this.#maker.hurry();
    clearTimeout(this.#retry);
    this.#retry = undefined;
    await this.#running;
    // What an earlier attempt left unfinished, then what came after it.
    if (!this.#stopped && this.#unpublished !== undefined) await this.#start();
    if (!this.#stopped && this.#unpublished === undefined && this.#segment.length > 0) await this.#start();
    try {
      if (!this.#stopped && this.#unpublished === undefined && this.#segment.length === 0)
        await this.#watermark.markClean();
    } finally {
      await this.#closeFiles();
    }
  }

  async #closeFiles(): Promise<void> {
    // All of them, even if one fails: nobody can close them afterwards.
    const closed = await Promise.allSettled([
      this.#watermark.close(),
      this.#unpublished?.old.close(),
      this.#segment.close(),
    ]);
    for (const each of closed) if (each.status === "rejected") throw each.reason;
  }

  /** No image is put in place any more. */
  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#retry);
    this.#maker.stop(new Error("The store can no longer write"));
  }

  /** Whether the files that hold what was acknowledged are where an opening will find them. */
  isThere(): Promise<boolean> {
    return this.#segment.isThere();
  }

  /** Every step can be repeated: after a failure the next attempt goes on from there. */
  async #publish(work: Unpublished): Promise<void> {
    if (!work.renamed) {
      // What has the temporary name may be another holder's.
      await this.#lease.renew();
      try {
        await this.#replaceImage(work);
      } catch (error) {
        // Until the next attempt others may need the room on the disk.
        await removeIfThere(temporaryImagePath(this.#path)).catch(() => undefined);
        throw error;
      }
    }
    await syncFolderOf(this.#path);
    await work.old.close();
    // The file of that name may be another holder's by now.
    await this.#lease.renew();
    await removeIfThere(work.old.path);
  }

  async #replaceImage(work: Unpublished): Promise<void> {
    const { old } = work;
    const making = this.#maker.make({
      database: this.#database,
      image: { path: this.#path, generation: old.generation, at: this.#watermark.at, content: this.#watermark.content },
      logs: [old.path],
      last: old.sequence,
      next: { generation: old.generation + 1, clean: false },
    });
    if (this.#isLate) this.#maker.hurry();
    const image = await making;
    await this.#segment.seal(image.superblock.content);
    this.#check();
    const from = temporaryImagePath(this.#path);
    await this.#watermark.replace(image, from, async () => {
      await this.#lease.replaceImage(from, () => renameImage(this.#path));
      work.renamed = true;
    });
    this.#imageBytes = image.superblock.content.length;
  }

  #check(): void {
    if (this.#stopped) throw new Error("The store can no longer write");
  }
}
