import * as args from "./arguments.js";
import { backends } from "./backends.js";
import type { Section, Sections } from "./backends.js";
import { checkNotEmptied } from "./not-emptied.js";
import type { Store } from "./store.js";

/** Where an app keeps its store: plain data, so that a config file swaps backends. */
export interface StoreConfig extends Sections {
  /** On: JetStream. Off, the default: SQLite. Both sections may be there. */
  decentralized?: boolean;
}

/**
 * Opens the backend that a plain config object names: SQLite while `decentralized` is off, which is the default.
 *
 * A connection that is given stays the caller's; one that is made from `connect` is closed with the store. Only the
 * section that is used is opened, but both are checked, so that a mistake shows before the flag is turned.
 *
 * A store that holds no user, and never had an admin, takes its first admin from anybody. So with both sections an
 * empty one is `INCOMPATIBLE`, with `details.notMoved`, if the other one holds users that were not moved to it: see
 * `migrate`. For this the other one is opened for a moment. Servers that do not answer tell nothing: then it is opened.
 *
 * Rejects with `INVALID_ARGUMENT` and the key's path, as `config.jetstream.replicas`, and with what the backend's own
 * opening rejects with.
 *
 * @example
 * const store = await openStore({
 *   decentralized: process.env.DECENTRALIZED === "1",
 *   sqlite: { path: "membership.db" },
 *   jetstream: { connect: { servers: ["n1:4222", "n2:4222", "n3:4222"] }, replicas: 3 },
 * });
 */
export async function openStore(config: StoreConfig): Promise<Store> {
  const found = args.fields(config, "config", ["decentralized", ...Object.keys(backends)]);
  const { decentralized = false } = found;
  if (typeof decentralized !== "boolean") throw args.invalid("config.decentralized", "a boolean");
  // Each is read once: what was checked is what is used.
  const sections = new Map<string, Section>();
  for (const [name, check] of Object.entries(backends))
    if (found[name] !== undefined) sections.set(name, check(found[name], `config.${name}`));
  const name: keyof Sections = decentralized ? "jetstream" : "sqlite";
  const section = sections.get(name);
  if (section === undefined)
    throw args.invalid(
      `config.${name}`,
      `a section, because config.decentralized is ${decentralized ? "true" : "off"}`,
    );
  const store = await section.open();
  sections.delete(name);
  try {
    for (const [other, { find }] of sections) await checkNotEmptied(store, other, find);
    return store;
  } catch (error) {
    await store.close();
    throw error;
  }
}
