/**
 * Many small records in few large pieces of memory. A record costs what it holds, and collecting garbage costs nothing.
 * A record never moves; a piece goes when the last record in it is gone.
 */
import { Buffer } from "node:buffer";
import type { Bytes } from "./packed-format.js";

/** An address counts in units of this, so that 32 bits of it lead further than an image is long. */
const UNIT_SHIFT = 3;
const UNIT = 1 << UNIT_SHIFT;
/** A piece has so many units. */
const PIECE_SHIFT = 15;
const PIECE_BYTES = UNIT << PIECE_SHIFT;

interface Piece extends Bytes {
  records: number;
}

/** A number of 32 bits, never 0. */
export type Address = number;

export class RecordArena {
  readonly #pieces: (Piece | undefined)[] = [];
  /** Of the last piece. */
  #used = PIECE_BYTES;

  /** The copy of a record of at most a piece's length. */
  add(record: Bytes, length: number): Address {
    let piece = this.#pieces.at(-1);
    if (piece === undefined || this.#used + length > PIECE_BYTES) {
      const bytes = Buffer.allocUnsafeSlow(PIECE_BYTES);
      piece = { bytes, view: new DataView(bytes.buffer), records: 0 };
      // No record has the address 0.
      this.#used = this.#pieces.length === 0 ? UNIT : 0;
      this.#pieces.push(piece);
    }
    record.bytes.copy(piece.bytes, this.#used, 0, length);
    piece.records++;
    const address = ((this.#pieces.length - 1) << PIECE_SHIFT) | (this.#used >>> UNIT_SHIFT);
    this.#used = (this.#used + length + UNIT - 1) & -UNIT;
    return address;
  }

  /** The piece that the record is in. `undefined`: all records of it are gone. */
  piece(address: Address): Bytes | undefined {
    return this.#pieces[address >>> PIECE_SHIFT];
  }

  /** Where in it. */
  offset(address: Address): number {
    return (address & ((1 << PIECE_SHIFT) - 1)) << UNIT_SHIFT;
  }

  delete(address: Address): void {
    const piece = this.#pieces[address >>> PIECE_SHIFT];
    if (piece !== undefined && --piece.records === 0) this.#pieces[address >>> PIECE_SHIFT] = undefined;
  }
}
