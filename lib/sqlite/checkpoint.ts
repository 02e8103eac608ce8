/**
 * Checkpoints: the log goes on in a new segment, the image is brought up to date with the old one, written beside the
 * file and renamed over it. At every moment the files are an image and the segments that lead from it to now.
 */
import { promises as fs } from "node:fs";
import type { SqlJsStatic } from "sql.js";
import { removeIfThere, statIfThere, syncFolderOf, writeSynced } from "./files.js";
import { Image } from "./image.js";
import type { Journal } from "./journal.js";
import { readRecords } from "./log-format.js";
import type { Recovered } from "./recovery.js";
import type { LogRecord } from "./log-format.js";
import { Pace } from "./pace.js";
import { Segment } from "./segment.js";
import { contentOf, decodeSuperblock, isSame } from "./superblock.js";
import type { SealedImage } from "./superblock.js";
import type { Watermark } from "./watermark.js";

const MIN_LOG_BYTES = 32 * 1024 * 1024;

/** The image, until it has its name. */
export function temporaryImagePath(path: string): string {
  return `${path}-checkpoint`;
}

/** Puts an image on the disk under its temporary name. */
export async function writeImage(path: string, bytes: Uint8Array): Promise<void> {
  const temporary = temporaryImagePath(path);
  try {
    // Whoever may read and write the file may do so with the next one.
    await writeSynced(temporary, bytes, await statIfThere(path));
  } catch (error) {
    await removeIfThere(temporary).catch(() => undefined);
    throw error;
  }
}

/** Makes the image that was written the file. */
export async function renameImage(path: string): Promise<void> {
  await fs.rename(temporaryImagePath(path), path);
}

interface Unpublished {
  readonly old: Segment;
  image: SealedImage | undefined;
  renamed: boolean;
}

export class Checkpoints {
  readonly #sqlJs: SqlJsStatic;
  readonly #path: string;
  readonly #database: string;
  readonly #journal: Journal;
  readonly #watermark: Watermark;
  #segment: Segment;
  #imageBytes: number;
  #unpublished: Unpublished | undefined;
  #running: Promise<void> | undefined;
  #stopped = false;
  /** After a failure, not again before the log has grown to this. */
  #retryAt = 0;

  constructor(sqlJs: SqlJsStatic, path: string, recovered: Recovered, journal: Journal) {
    this.#sqlJs = sqlJs;
    this.#path = path;
    this.#database = recovered.database;
    this.#journal = journal;
    this.#segment = recovered.segment;
    this.#watermark = recovered.watermark;
    this.#imageBytes = recovered.imageBytes;
  }

  /** Called after each batch: starts a checkpoint once the log has outgrown the image. */
  consider(): void {
    if (this.#running !== undefined || this.#stopped || this.#segment.length < this.#retryAt) return;
    if (this.#unpublished === undefined && this.#segment.length < this.#threshold) return;
    void this.#start();
  }

  get #threshold(): number {
    return Math.max(MIN_LOG_BYTES, this.#imageBytes);
  }

  /** Never rejects: a checkpoint that fails leaves the image and the logs as they were, and is tried again. */
  #start(): Promise<void> {
    this.#running ??= this.#run()
      .then(
        () => {
          this.#retryAt = 0;
        },
        () => {
          this.#retryAt = this.#segment.length + this.#threshold / 4;
        },
      )
      .finally(() => {
        this.#running = undefined;
      });
    return this.#running;
  }

  async #run(): Promise<void> {
    if (this.#unpublished === undefined) {
      const old = this.#segment;
      const next = await Segment.create(this.#path, { database: this.#database, generation: old.generation + 1, seal: undefined });
      if (this.#stopped) {
        await next.close();
        return;
      }
      await this.#journal.switchTo(this.#watermark.guard(next));
      this.#segment = next;
      this.#unpublished = { old, image: undefined, renamed: false };
    }
    await this.#publish(this.#unpublished);
    this.#unpublished = undefined;
  }

  /** Puts everything into the file, as far as the disk allows, and closes the log. */
  async close(): Promise<void> {
    await this.#running;
    // What an earlier attempt left unfinished, then what came after it.
    if (!this.#stopped && this.#unpublished !== undefined) await this.#start();
    if (!this.#stopped && this.#unpublished === undefined && this.#segment.length > 0) await this.#start();
    try {
      if (!this.#stopped && this.#unpublished === undefined && this.#segment.length === 0) await this.#watermark.markClean();
    } finally {
      await this.#closeFiles();
    }
  }

  async #closeFiles(): Promise<void> {
    // Each, whatever becomes of the others: nobody has them afterwards.
    const closed = await Promise.allSettled([this.#watermark.close(), this.#unpublished?.old.close(), this.#segment.close()]);
    for (const each of closed) if (each.status === "rejected") throw each.reason;
  }

  /** Nothing is published any more. */
  stop(): void {
    this.#stopped = true;
  }

  /** Whether the files that hold what was acknowledged are where an opening will find them. */
  isThere(): Promise<boolean> {
    return this.#segment.isThere();
  }

  /** Each step can be done again, so that what failed goes on where it was. */
  async #publish(work: Unpublished): Promise<void> {
    if (!work.renamed) {
      const image = (work.image ??= await this.#make(work.old));
      await writeImage(this.#path, image.bytes);
      await this.#segment.seal(image.superblock.content);
      this.#check();
      await this.#watermark.replace(image, async () => {
        await renameImage(this.#path);
        work.renamed = true;
        work.image = undefined;
      });
      this.#imageBytes = image.bytes.length;
    }
    await syncFolderOf(this.#path);
    await work.old.close();
    await removeIfThere(work.old.path);
  }

  /** The image of the state at the end of a segment: the image before it, and the segment. */
  async #make(old: Segment): Promise<SealedImage> {
    const pace = new Pace(() => {
      this.#check();
    });
    const bytes = await fs.readFile(this.#path);
    const image = Image.of(this.#sqlJs, bytes);
    try {
      const meta = image.meta();
      const at = image.superblockAt();
      // What became of the file since it was read must not be sealed again as if it were right.
      const content = at === undefined ? undefined : decodeSuperblock(bytes, at).content;
      if (content === undefined || meta.database !== this.#database || meta.generation !== old.generation || !isSame(content, await contentOf(bytes, at, pace))) {
        throw new Error("The image is not the one that was opened");
      }
      let { sequence, adminEver } = meta;
      const log = function* (records: Iterable<LogRecord>): Generator<LogRecord, void, undefined> {
        for (const record of records) {
          ({ sequence } = record);
          adminEver ||= record.changes.some((change) => change.kind === "user" && change.row.role === "admin");
          yield record;
        }
      };
      await image.merge(log(readRecords(await fs.readFile(old.path), sequence + 1)), pace);
      if (old.sequence !== undefined && sequence !== old.sequence) throw new Error("The log has lost its end");
      return await image.export({ ...meta, generation: old.generation + 1, sequence, adminEver }, false, pace);
    } finally {
      image.close();
    }
  }

  #check(): void {
    if (this.#stopped) throw new Error("The store can no longer write");
  }
}
