/**
 * Numbers by hash, eight bytes each and two to four for finding them. It is made once, of all there are: nothing is added
 * or taken out later. Those of one hash may be many; which of them is meant is for the asker to tell.
 */
import type { TimeSlice } from "./time-slice.js";

/** Of pairs, while they come: no piece is ever moved. */
const PIECE = 1024;
/** Those whose hashes begin with the same bits come together, so that the index is made part by part, each within the processor's cache. */
const PART_BITS = 6;
/** Of steps without a look at the clock. */
const STEPS = 4096;
const MAX_DEPTH = 28;

/** Pairs of hash and number, as they came. */
interface Part {
  readonly pieces: Int32Array[];
  count: number;
}

const noParts = (): Part[] => Array.from({ length: 2 ** PART_BITS }, () => ({ pieces: [], count: 0 }));

export class HashIndex {
  #parts = noParts();
  #count = 0;
  /** The pairs by the first bits of their hashes, and where those of each such bucket begin. */
  #pairs = new Int32Array(0);
  #starts = new Int32Array(3);
  #shift = 31;

  add(hash: number, value: number): void {
    const part = this.#parts[hash >>> (32 - PART_BITS)];
    if (part === undefined) return;
    const at = (part.count % PIECE) * 2;
    if (at === 0) part.pieces.push(new Int32Array(2 * PIECE));
    const piece = part.pieces.at(-1);
    if (piece === undefined) return;
    piece[at] = hash;
    piece[at + 1] = value;
    part.count++;
    this.#count++;
  }

  /** From now on it can be asked. */
  async build(pace: TimeSlice): Promise<void> {
    const depth = Math.max(1, Math.min(MAX_DEPTH, Math.ceil(Math.log2(this.#count / 2))));
    const shift = 32 - depth;
    const starts = new Int32Array(2 ** depth + 1);
    const pairs = new Int32Array(2 * this.#count);
    await this.#each(pace, (hash) => {
      const bucket = hash >>> shift;
      starts[bucket] = (starts[bucket] ?? 0) + 1;
    });
    let sum = 0;
    for (let bucket = 0; bucket < starts.length;) {
      const end = Math.min(starts.length, bucket + STEPS);
      // Where each ends: it is filled from there on downwards.
      for (; bucket < end; bucket++) {
        sum += starts[bucket] ?? 0;
        starts[bucket] = sum;
      }
      if (pace.isOver()) await pace.rest();
    }
    await this.#each(pace, (hash, value) => {
      const at = (starts[hash >>> shift] ?? 0) - 1;
      starts[hash >>> shift] = at;
      pairs[2 * at] = hash;
      pairs[2 * at + 1] = value;
    });
    this.#parts = noParts();
    [this.#pairs, this.#starts, this.#shift] = [pairs, starts, shift];
  }

  async #each(pace: TimeSlice, visit: (hash: number, value: number) => void): Promise<void> {
    for (const { pieces, count } of this.#parts) {
      for (const [i, piece] of pieces.entries()) {
        const end = Math.min(PIECE, count - i * PIECE);
        for (let n = 0; n < end; n++) visit(piece[2 * n] ?? 0, piece[2 * n + 1] ?? 0);
        if (pace.isOver()) await pace.rest();
      }
    }
  }

  /** Those of a hash are among the ones from here */
  first(hash: number): number {
    return this.#starts[hash >>> this.#shift] ?? 0;
  }

  /** to the one before this. */
  end(hash: number): number {
    return this.#starts[(hash >>> this.#shift) + 1] ?? 0;
  }

  isOf(at: number, hash: number): boolean {
    return this.#pairs[2 * at] === hash;
  }

  value(at: number): number {
    return this.#pairs[2 * at + 1] ?? 0;
  }
}
