/**
 * The backends that a config can name, in the one place that lists them: the type of each one's section, and the
 * function that checks it. Each backend has both in its `section.ts`.
 */
import { jetStreamSection } from "./jetstream/section.js";
import type { JetStreamSection } from "./jetstream/section.js";
import { sqliteSection } from "./sqlite/section.js";
import type { SqliteSection } from "./sqlite/section.js";
import type { Store } from "./store.js";

export interface Sections {
  /** The file of a single node. */
  sqlite?: SqliteSection;
  /** The servers that many nodes share. */
  jetstream?: JetStreamSection;
}

/** A section that was checked. Nothing is opened before it is asked for. */
export interface Section {
  readonly open: () => Promise<Store>;
  /**
   * Opens what is there, to look at it, also where it was moved away from. Makes nothing, and says nothing to the
   * section's listeners. `undefined`: nothing is there. `out of reach`: it does not answer.
   */
  readonly find: () => Promise<Store | "out of reach" | undefined>;
}

/** Checks a section, which stands at `path`. */
export type SectionCheck = (value: unknown, path: string) => Section;

export const backends: Readonly<Record<keyof Sections, SectionCheck>> = {
  sqlite: sqliteSection,
  jetstream: jetStreamSection,
};
