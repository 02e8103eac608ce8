/**
 * Numbers by hash: eight bytes each, and two to four for finding them. The index is built once, of all of them: nothing
 * is added or removed later. Several numbers may have one hash. Whoever asks has to tell which one is meant.
 */
import type { TimeSlice } from "./time-slice.js";

/** Pairs come in pieces of so many. No piece is ever moved. */
const PIECE = 1024;
/**
 * Pairs whose hashes begin with the same bits are a part. The index is built part by part: each fits into the
 * processor's cache, and no memory is asked for that is as large as all of it.
 */
const PART_BITS = 6;
/** By at most so many further bits a part is divided into buckets. */
const MAX_DEPTH = 24;

class Part {
  count = 0;
  /** Pairs of hash and number, as they come. */
  #pieces: Int32Array[] = [];
  /** The same pairs by bucket, and where each bucket begins. */
  #pairs = new Int32Array(0);
  #starts = new Int32Array(3);
  #shift = 31;

  add(hash: number, value: number): void {
    const at = (this.count % PIECE) * 2;
    if (at === 0) this.#pieces.push(new Int32Array(2 * PIECE));
    const piece = this.#pieces.at(-1);
    if (piece === undefined) return;
    piece[at] = hash;
    piece[at + 1] = value;
    this.count++;
  }

  async build(pace: TimeSlice): Promise<void> {
    const depth = Math.max(1, Math.min(MAX_DEPTH, Math.ceil(Math.log2(this.count / 2))));
    const shift = 32 - depth;
    const starts = new Int32Array(2 ** depth + 1);
    const pairs = new Int32Array(2 * this.count);
    await this.#each(pace, (hash) => {
      const bucket = (hash << PART_BITS) >>> shift;
      starts[bucket] = (starts[bucket] ?? 0) + 1;
    });
    let sum = 0;
    for (let bucket = 0; bucket < starts.length; bucket++) {
      // At first where each bucket ends: it is filled from there on downwards.
      sum += starts[bucket] ?? 0;
      starts[bucket] = sum;
      if (pace.due()) await pace.rest();
    }
    await this.#each(pace, (hash, value) => {
      const bucket = (hash << PART_BITS) >>> shift;
      const at = (starts[bucket] ?? 0) - 1;
      starts[bucket] = at;
      pairs[2 * at] = hash;
      pairs[2 * at + 1] = value;
    });
    [this.#pieces, this.#pairs, this.#starts, this.#shift] = [[], pairs, starts, shift];
  }

  async #each(pace: TimeSlice, visit: (hash: number, value: number) => void): Promise<void> {
    for (const [i, piece] of this.#pieces.entries()) {
      const end = Math.min(PIECE, this.count - i * PIECE);
      for (let n = 0; n < end; n++) visit(piece[2 * n] ?? 0, piece[2 * n + 1] ?? 0);
      if (pace.isOver()) await pace.rest();
    }
  }

  /** The pairs of a hash are among those from here on, */
  first(hash: number): number {
    return this.#starts[(hash << PART_BITS) >>> this.#shift] ?? 0;
  }

  /** and before this one. */
  end(hash: number): number {
    return this.#starts[((hash << PART_BITS) >>> this.#shift) + 1] ?? 0;
  }

  isOf(at: number, hash: number): boolean {
    return this.#pairs[2 * at] === hash;
  }

  value(at: number): number {
    return this.#pairs[2 * at + 1] ?? 0;
  }
}

export class HashIndex {
  readonly #parts = Array.from({ length: 2 ** PART_BITS }, () => new Part());

  add(hash: number, value: number): void {
    this.part(hash).add(hash, value);
  }

  /** From now on it can be asked. */
  async build(pace: TimeSlice): Promise<void> {
    for (const part of this.#parts) await part.build(pace);
  }

  /** The part in which the pairs of the hash are. */
  part(hash: number): Part {
    const part = this.#parts[hash >>> (32 - PART_BITS)];
    if (part === undefined) throw new RangeError("A hash without a part");
    return part;
  }
}
