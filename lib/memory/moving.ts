/** A store in memory as one side of a migration. */
import type { MovingDriver } from "../driver.js";
import { checkFence, revisionsFrom, stepFrom } from "../moves.js";
import { answer } from "./memory.js";
import type { Memory } from "./memory.js";
import { readerOf } from "./records.js";

export function moving(memory: Memory): MovingDriver {
  return {
    identity: () => answer(() => ({ id: memory.id, name: "memory" })),
    state: () => answer(() => memory.state),
    fence: (run) =>
      answer(() => {
        checkFence(memory.state);
        memory.state = { kind: "moving", run };
      }),
    step: (name, id, report) =>
      answer(() => {
        memory.endImport(false, stepFrom(memory.state, name, id, report));
      }),
    facts: () => answer(() => ({ ...revisionsFrom(memory.operations), adminEver: memory.adminEver })),
    read: (names) => answer(() => readerOf(memory, names)),
  };
}
