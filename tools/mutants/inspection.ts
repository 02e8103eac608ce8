// Inspections: what is found, and that no repair grants anything.

import { bySpec, type Mutant } from "./mutant.js";

const buckets = (test: string) => bySpec("spec/jetstream/inspection.spec.ts", test);

export const inspectionMutants: readonly Mutant[] = [
  {
    name: "a repair of the guard that names more admins than it did",
    file: "lib/jetstream/user-inspection.ts",
    find: "const grants = horizonOf(right.witnesses) > horizonOf(guard.witnesses);",
    replace: "const grants = false as boolean;",
    breaks: "No repair makes a check true that was false: hasAdmin goes by the guard alone.",
    killedBy: buckets("a guard that names nobody"),
  },
  {
    name: "a repair that nobody asked for",
    file: "lib/jetstream/user-inspection.ts",
    find: "if (!this.#repair || (grants && right.ever === guard.ever)) return told;",
    replace: "if (grants && right.ever === guard.ever) return told;",
    breaks: "Without repair an inspection only looks.",
    killedBy: buckets("a guard that knows of no admin ever"),
  },
  {
    name: "a room that is taken for imported by the first two characters of its id",
    file: "lib/jetstream/keys.ts",
    find: " && incarnation.length > ID_LENGTH;",
    replace: ";",
    breaks: "Only imported rooms have rows before a record, and no last change.",
    killedBy: buckets("only begins like that of one"),
  },
];
