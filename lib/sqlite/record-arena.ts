/**
 * Many small records in few large pieces of memory. A record costs what it holds, and the garbage collector has nothing
 * to do. A record never moves. A piece is let go when the last record in it is gone.
 */
import { Buffer } from "node:buffer";
import type { Bytes } from "./packed-format.js";

/** An address counts in units of 8 bytes. So its 32 bits reach further than an image is long. */
const UNIT_SHIFT = 3;
const UNIT = 1 << UNIT_SHIFT;
/** A piece has 2^15 units. */
const PIECE_SHIFT = 15;
const PIECE_BYTES = UNIT << PIECE_SHIFT;

interface Piece extends Bytes {
  records: number;
}

/** A number of 32 bits, never 0. */
export type Address = number;

export class RecordArena {
  readonly #pieces: (Piece | undefined)[] = [];
  /** How many bytes of the last piece are used. */
  #used = PIECE_BYTES;

  /** Copies a record of at most a piece's length, and answers where the copy is. */
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

  /** The piece that the record is in. `undefined`: all records of that piece are gone. */
  piece(address: Address): Bytes | undefined {
    return this.#pieces[address >>> PIECE_SHIFT];
  }

  /** Where the record is in its piece. */
  offset(address: Address): number {
    return (address & ((1 << PIECE_SHIFT) - 1)) << UNIT_SHIFT;
  }

  delete(address: Address): void {
    const piece = this.#pieces[address >>> PIECE_SHIFT];
    if (piece !== undefined && --piece.records === 0) this.#pieces[address >>> PIECE_SHIFT] = undefined;
  }
}
