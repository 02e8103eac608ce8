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

/** Checks a section, which stands at `path`, and answers how to open what it names. Nothing is opened before. */
export type SectionCheck = (value: unknown, path: string) => () => Promise<Store>;

export const backends: Readonly<Record<keyof Sections, SectionCheck>> = {
  sqlite: sqliteSection,
  jetstream: jetStreamSection,
};
