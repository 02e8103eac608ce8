import { InconsistentState } from "./rows.js";

/** Rows by ordinal, for pages: a row keeps its place, and new ones come at the end. */
export class InOrder<Row> {
  #rows: (Row | undefined)[] = [];
  /** The ordinal of each place, also of those that are empty by now. */
  #ordinals: number[] = [];
  #empty = 0;

  /** The last ordinal that was ever used. */
  get last(): number {
    return this.#ordinals.at(-1) ?? 0;
  }

  set(ordinal: number, row: Row): void {
    if (ordinal > this.last) {
      this.#rows.push(row);
      this.#ordinals.push(ordinal);
      return;
    }
    const place = this.#place(ordinal);
    if (this.#ordinals[place] !== ordinal) throw new InconsistentState("a place that was never given");
    if (this.#rows[place] === undefined) this.#empty--;
    this.#rows[place] = row;
  }

  delete(ordinal: number): void {
    const place = this.#place(ordinal);
    if (this.#ordinals[place] !== ordinal || this.#rows[place] === undefined) return;
    this.#rows[place] = undefined;
    this.#empty++;
    if (this.#empty > 64 && this.#empty * 2 > this.#rows.length) this.#compact();
  }

  /** Up to `limit` rows after `ordinal`, and the ordinal to go on after if there are more. */
  page(after: number, limit: number): { rows: Row[]; next: number | undefined } {
    const rows: Row[] = [];
    let last: number | undefined;
    for (let place = this.#place(after + 1); place < this.#rows.length; place++) {
      const row = this.#rows[place];
      if (row === undefined) continue;
      if (rows.length === limit) return { rows, next: last };
      rows.push(row);
      last = this.#ordinals[place];
    }
    return { rows, next: undefined };
  }

  /** The first place whose ordinal is not below this one. */
  #place(ordinal: number): number {
    let low = 0;
    let high = this.#ordinals.length;
    // Without a hole the place is known: nearly always so for users, of whom none is ever deleted.
    if (ordinal >= 1 && this.#ordinals[ordinal - 1] === ordinal) return ordinal - 1;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#ordinals[middle] ?? Infinity) < ordinal) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #compact(): void {
    // The last place stays, empty or not: it says which ordinals were given.
    const end = this.#rows.length - 1;
    const rows: (Row | undefined)[] = [];
    const ordinals: number[] = [];
    for (let place = 0; place <= end; place++) {
      const row = this.#rows[place];
      if (row === undefined && place !== end) continue;
      rows.push(row);
      ordinals.push(this.#ordinals[place] ?? 0);
    }
    this.#rows = rows;
    this.#ordinals = ordinals;
    this.#empty = this.#rows.at(-1) === undefined ? 1 : 0;
  }
}
