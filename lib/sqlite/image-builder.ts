/**
 * Makes an image of the one before it and of what its logs say since. The same on the event loop, in memory and in
 * slices, and in a thread of its own, in the file itself.
 */
import type { SqlJs } from "sql.js/dist/sql-wasm-browser.js";
import type { MoveState } from "../moves.js";
import type { ImageFile } from "./image-file.js";
import type { Change } from "./changes.js";
import { Image } from "./image.js";
import type { Meta } from "./image.js";
import { LogReader } from "./log-reader.js";
import type { LogRecord } from "./log-reader.js";
import type { ImageDigest } from "./log-format.js";
import { OpenFile } from "./open-file.js";
import type { TimeSlice } from "./time-slice.js";
import { contentOf, encodeSuperblock, isSame } from "./superblock.js";
import type { SealedImage, Superblock } from "./superblock.js";

/** Plain data: it goes to another thread. */
export interface BuildRequest {
  readonly database: string;
  /** The image before. An image of format 1 has no superblock: `at` is undefined. */
  readonly image: {
    readonly path: string;
    readonly generation: number;
    readonly at: number | undefined;
    readonly content: ImageDigest;
  };
  /** The logs that lead on from it, in their order. */
  readonly logs: readonly string[];
  /** The transaction that they end with, if that is known. */
  readonly last: number | undefined;
  readonly next: { readonly generation: number; readonly clean: boolean };
}

/**
 * Copies the image into a file, piece by piece. Throws unless it is the one that is known: what became of it meanwhile
 * must not be sealed as if it were right.
 */
export async function copyImage(
  { image }: BuildRequest,
  pace: TimeSlice,
  write: (piece: Uint8Array, position: number) => void,
): Promise<void> {
  const source = await OpenFile.open(image.path);
  try {
    const found = await contentOf(source, image.at, pace, write);
    if (!isSame(found, image.content)) throw new Error("The image is not the one that was opened");
  } finally {
    await source.close();
  }
}

/** Brings a copy of the image up to date, and seals it. */
export async function buildImage(
  sqlJs: SqlJs,
  file: ImageFile,
  request: BuildRequest,
  pace: TimeSlice,
): Promise<SealedImage> {
  try {
    return await build(sqlJs, file, request, pace);
  } catch (error) {
    throw file.failure ?? error;
  }
}

async function build(
  sqlJs: SqlJs,
  file: ImageFile,
  { database, image: before, logs, last, next }: BuildRequest,
  pace: TimeSlice,
): Promise<SealedImage> {
  const image = Image.of(sqlJs, file);
  let at: number | undefined;
  let end: number;
  try {
    const meta = image.meta();
    if (meta.database !== database || meta.generation !== before.generation)
      throw new Error("The image is not the one that was opened");
    if (before.at === undefined) image.upgrade();
    const reading = new Reading(meta);
    await image.merge(reading.records(logs, database), pace);
    end = reading.sequence;
    if (last !== undefined && end !== last) throw new Error("The log has lost its end");
    const { adminEver, state } = reading;
    image.putMeta({ database, generation: next.generation, sequence: end, adminEver, state });
    at = image.superblockAt();
  } finally {
    image.close();
  }
  return seal(file, at, { clean: next.clean, acknowledged: end }, pace);
}

/** Writes the superblock of an image that is complete otherwise. */
export async function seal(
  file: ImageFile,
  at: number | undefined,
  state: Omit<Superblock, "content">,
  pace: TimeSlice,
): Promise<SealedImage> {
  if (at === undefined) throw new Error("the image has no place for its superblock");
  const readInto = (bytes: Uint8Array, position: number): void => {
    file.read(bytes, 0, bytes.length, position);
  };
  const superblock = { ...state, content: await contentOf({ length: file.length, readInto }, at, pace) };
  const sector = encodeSuperblock(superblock);
  file.write(sector, 0, sector.length, at);
  return { at, superblock };
}

/** What has been read of the logs. */
class Reading {
  sequence: number;
  adminEver: boolean;
  state: MoveState;

  constructor({ sequence, adminEver, state }: Meta) {
    this.sequence = sequence;
    this.adminEver = adminEver;
    this.state = state;
  }

  async *records(paths: readonly string[], database: string): AsyncGenerator<readonly LogRecord[], void, undefined> {
    for (const path of paths) {
      const file = await OpenFile.open(path);
      try {
        const reader = new LogReader(file, database, this.sequence + 1);
        for (let records = await reader.next(); records !== undefined; records = await reader.next()) {
          for (const { sequence, changes } of records) {
            this.sequence = sequence;
            for (const change of changes) this.#note(change);
          }
          yield records;
        }
      } finally {
        await file.close();
      }
    }
  }
  #note(change: Change): void {
    if (change.kind === "user") this.adminEver ||= change.row.role === "admin";
    if (change.kind !== "import") return;
    this.adminEver = change.adminEver || (this.adminEver && !change.clears);
    this.state = change.state;
  }
}
