// What the tests of apps see: that no call goes past the faults of a plan.

import { bySpec, type Mutant } from "./mutant.js";

export const faultyMutants: readonly Mutant[] = [
  {
    name: "a check passes by its fault, on what was proved before",
    file: "lib/faulty/driver.ts",
    find: "recentFacts: () => undefined,",
    replace: "recentFacts: (key, ms) => (reads.synchronous ? undefined : reads.recentFacts(key, ms)),",
    breaks: "A store with faults answers no check from memory.",
    killedBy: bySpec("spec/faulty.spec.ts", "from what was proved before"),
  },
  {
    name: "the functions pass by the faults",
    file: "lib/faulty/faulty.ts",
    find: "authorize: (key, options) => own.authorize(key, options),",
    replace: "authorize: (key, options) => store.authorize(key, options),",
    breaks: "The functions over a store with faults meet what its methods meet.",
    killedBy: bySpec("spec/faulty.spec.ts", "the function isAuthorized"),
  },
  {
    name: "a copy of a store with faults has no checks",
    file: "lib/faulty/faulty.ts",
    find: "return Object.freeze(made);",
    replace: "return Object.freeze(Object.create(made) as FaultyStore);",
    breaks: "A copy of a store with faults has every method, and each one meets the faults.",
    killedBy: bySpec("spec/faulty.spec.ts", "a copy"),
  },
  {
    name: "a boolean check passes by its fault",
    file: "lib/faulty/driver.ts",
    find: `gate.ask("authorize", call, ask, async (by) => factsDenied(await ask(), by));`,
    replace: "ask();",
    breaks: "What a plan says of authorize holds for isAuthorized and isAdmin.",
    killedBy: bySpec("spec/faulty.spec.ts", "isAdmin is denied"),
  },
  {
    name: "sessions pass by the faults",
    file: "lib/faulty/driver.ts",
    find: "grants: grantsOf(driver.grants, gate),",
    replace: "grants: driver.grants,",
    breaks: "A session over a store with faults ends when nothing could be proved for too long.",
    killedBy: bySpec("spec/faulty.spec.ts", "sessions"),
  },
  {
    name: "watches pass by the faults",
    file: "lib/faulty/driver.ts",
    find: "changes: changesOf(driver.changes, gate),",
    replace: "changes: driver.changes,",
    breaks: "A watch of a store with faults tells nothing while its calls fail.",
    killedBy: bySpec("spec/faulty.spec.ts", "watches"),
  },
  {
    name: "what hung is said not to be done",
    file: "lib/faulty/driver.ts",
    find: `if (isWrite) call.outcome = "unknown";`,
    replace: "",
    breaks: "Nobody can know whether a write that hung was done.",
    killedBy: bySpec("spec/faulty.spec.ts", "a call that hangs"),
  },
  {
    name: "a call that hangs never ends",
    file: "lib/faulty/driver.ts",
    find: "await pause(Math.max(1, call.remaining()));",
    replace: "await new Promise(() => undefined);",
    breaks: "A store with faults works again once its plan says so, also what it asks again and again.",
    killedBy: bySpec("spec/faulty.spec.ts", "end when the store inside proves nothing"),
  },
];
