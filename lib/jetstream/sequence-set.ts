/** Sequences of one log, kept as ranges: those that follow upon each other cost as much as one. */
export interface Range {
  readonly from: number;
  to: number;
}

/** Ranges beyond this are forgotten, the lowest first. A sequence that is not in the set proves nothing. */
const MAX_RANGES = 1024;

export class SequenceSet {
  /** Ascending, and none touches the next. */
  #ranges: Range[] = [];

  add(seq: number): void {
    let i = this.#ranges.length;
    while (i > 0 && (this.#ranges[i - 1]?.from ?? 0) > seq) i--;
    const before = this.#ranges[i - 1];
    const after = this.#ranges[i];
    if (before !== undefined && seq <= before.to) return;
    const touchesBefore = before?.to === seq - 1;
    const touchesAfter = after?.from === seq + 1;
    if (touchesBefore && touchesAfter) {
      before.to = after.to;
      this.#ranges.splice(i, 1);
    } else if (touchesBefore) {
      before.to = seq;
    } else if (touchesAfter) {
      this.#ranges[i] = { from: seq, to: after.to };
    } else {
      this.#ranges.splice(i, 0, { from: seq, to: seq });
      if (this.#ranges.length > MAX_RANGES) this.#ranges.shift();
    }
  }

  /** Whether every sequence of `from` to `to` is in the set. True where there is none. */
  hasAll(from: number, to: number): boolean {
    if (from > to) return true;
    for (let i = this.#ranges.length - 1; i >= 0; i--) {
      const range = this.#ranges[i];
      if (range !== undefined && range.from <= from) return to <= range.to;
    }
    return false;
  }

  /** The highest ranges, highest first. */
  newest(most: number): readonly Readonly<Range>[] {
    return this.#ranges.slice(-most).reverse();
  }

  clear(): void {
    this.#ranges = [];
  }
}
