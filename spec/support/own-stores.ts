import type { Store } from "unibus-membership";
import type { ConformanceContext, Steps } from "../../lib/testing/conformance/case.js";

const isOwn = (store: Store): boolean => store.constructor.name === "MembershipStore";

/**
 * Cases of what only a store of this package can do: `run` sees such a store. A wrapper around one, or a store of
 * somebody else, has no way to whole records, and `isRefused` looks that it says so.
 */
export function ofOwnStores(steps: Steps, isRefused: (store: Store) => Promise<void>): Steps {
  return Object.fromEntries(
    Object.entries(steps).map(([name, run]) => [
      name,
      (context: ConformanceContext) => (isOwn(context.store) ? run(context) : isRefused(context.store)),
    ]),
  );
}
