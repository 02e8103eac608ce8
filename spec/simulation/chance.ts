import { Buffer } from "node:buffer";
import { random } from "../soak/random.js";

/** Choices that are the same for the same seeds. */
export class Chance {
  readonly #next: () => number;

  constructor(...seeds: number[]) {
    this.#next = random(...seeds);
  }

  /** From 0 up to, but not including, 1. */
  next(): number {
    return this.#next();
  }

  /** A whole number from 0 up to, but not including, `n`. */
  below(n: number): number {
    return Math.floor(this.#next() * n);
  }

  between(least: number, most: number): number {
    return least + this.#next() * (most - least);
  }

  /** True so often. No choice is used up where there is none: what is switched off leaves the rest as it is. */
  happens(probability: number): boolean {
    return probability > 0 && this.#next() < probability;
  }

  of<const T>(items: readonly [T, ...T[]]): T {
    return items[this.below(items.length)] ?? items[0];
  }

  bytes(length: number): Buffer {
    const bytes = Buffer.alloc(length);
    for (let i = 0; i < length; i++) bytes[i] = this.below(256);
    return bytes;
  }
}
