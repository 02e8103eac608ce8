// What the benches share.

import { randomBytes } from "node:crypto";

/** A bench is not a service: nothing in it is late. */
export const opTimeoutMs = 60_000;

export const median = (values: readonly number[]): number =>
  [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN;

/** Like public keys in hex: 64 digits each, in no order. */
export const newKeys = (count: number): string[] =>
  Array.from({ length: count }, () => randomBytes(32).toString("hex"));

export async function seconds(work: () => unknown): Promise<number> {
  const began = performance.now();
  await work();
  return (performance.now() - began) / 1000;
}

/** Works through the items with so many under way at a time. */
export async function inFlight<T>(
  width: number,
  items: Iterable<T>,
  work: (item: T) => Promise<unknown>,
): Promise<void> {
  const iterator = items[Symbol.iterator]();
  const lane = async (): Promise<void> => {
    for (let next = iterator.next(); next.done !== true; next = iterator.next()) await work(next.value);
  };
  await Promise.all(Array.from({ length: width }, lane));
}

export function* range(from: number, to: number): Iterable<number> {
  for (let n = from; n < to; n++) yield n;
}

/** A file of figures that all have to be right: what is wrong is told at the end, and is the exit code. */
export class Report {
  readonly #missed: string[] = [];

  say(line: string): void {
    console.log(line);
  }

  /** Prints a figure beside what is required of it. */
  require(what: string, figure: number, holds: (figure: number) => boolean, required: string): void {
    const ok = holds(figure);
    if (!ok) this.#missed.push(`${what}: ${shown(figure)}, required ${required}`);
    console.log(`${what.padEnd(64)} ${shown(figure).padStart(8)}   required ${required}${ok ? "" : "   MISSED"}`);
  }

  end(): void {
    for (const line of this.#missed) console.error(`missed: ${line}`);
    process.exitCode = this.#missed.length === 0 ? 0 : 1;
  }
}

export const shown = (figure: number): string => (Number.isInteger(figure) ? String(figure) : figure.toFixed(2));

export const perSecond = (rate: number): string => `${Math.round(rate).toLocaleString("en-US")}/s`;
