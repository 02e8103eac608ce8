// What a run has measured, as it stands in docs/benchmarks/figures.json. The page is made of it alone.

export interface Percentiles {
  /** In milliseconds. */
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly p999: number;
  /** Of how many calls. */
  readonly calls: number;
}

/** One contestant. */
export interface Series {
  readonly name: string;
  readonly kind: "check" | "write";
  /** It holds the event loop until it is done, so that it has one rate. */
  readonly isOneByOne: boolean;
  readonly rates: readonly { readonly callers: number; readonly perSecond: number }[];
  readonly alone?: Percentiles;
  readonly busy?: Percentiles;
  /** Microseconds of a call alone, beside so many records. */
  readonly cost: readonly { readonly records: number; readonly microseconds: number }[];
}

export interface Group {
  readonly name: "process" | "cluster";
  readonly series: readonly Series[];
}

export interface Standstill {
  readonly records: number;
  /** How long the event loop does nothing else, in milliseconds. */
  readonly of: readonly { readonly name: string; readonly ms: number }[];
}

export interface Figures {
  readonly isQuick: boolean;
  readonly date: string;
  readonly tookSeconds: number;
  readonly machine: readonly string[];
  readonly versions: readonly { readonly name: string; readonly version: string }[];
  readonly sizes: readonly number[];
  readonly rounds: number;
  readonly groups: readonly Group[];
  readonly standstill: readonly Standstill[];
  /** Who was not there, and why. */
  readonly missing: readonly { readonly name: string; readonly why: string }[];
}
